"""Multi-head attention."""

from __future__ import annotations

from typing import Any

from ...ir.dtypes import bool_
from .. import creation
from .. import functions as fn
from ..tensor import Tensor
from . import functional as F
from . import init
from .functional_attention import attention_weights
from .linear import Linear
from .module import Module
from .parameter import Parameter


class MultiheadAttention(Module):
    """Attention of `num_heads` heads, each embed_dim / num_heads wide.

    in_proj_weight [3 embed_dim, embed_dim] holds the query, key and value projections one under the other, unless
    kdim or vdim differ from embed_dim: then there are q_proj_weight, k_proj_weight, v_proj_weight.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        if num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads")
        self.embed_dim, self.num_heads, self.dropout, self.batch_first = embed_dim, num_heads, dropout, batch_first
        self.kdim, self.vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        self.head_dim, self.add_zero_attn = embed_dim // num_heads, add_zero_attn
        one = self.kdim == self.vdim == embed_dim

        def weight(rows: int, cols: int, wanted: bool) -> Parameter | None:
            return Parameter(creation.empty((rows, cols), dtype=dtype, device=device)) if wanted else None

        self.register_parameter("q_proj_weight", weight(embed_dim, embed_dim, not one))
        self.register_parameter("k_proj_weight", weight(embed_dim, self.kdim, not one))
        self.register_parameter("v_proj_weight", weight(embed_dim, self.vdim, not one))
        self.register_parameter("in_proj_weight", weight(3 * embed_dim, embed_dim, one))
        self.register_parameter(
            "in_proj_bias", Parameter(creation.zeros((3 * embed_dim,), dtype=dtype, device=device)) if bias else None
        )
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype, device=device)
        for name in ("bias_k", "bias_v"):
            extra = Parameter(creation.empty((1, 1, embed_dim), dtype=dtype, device=device)) if add_bias_kv else None
            self.register_parameter(name, extra)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for w in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if w is not None:
                init.xavier_uniform_(w)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for b in (self.bias_k, self.bias_v):
            if b is not None:
                init.xavier_normal_(b)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, attention weights or None). query [L, N, E], key and value [S, N, ..]; N first if batch_first, no N
        for single sequences. Output like query; weights [N, L, S], per head [N, H, L, S] unless averaged.

        key_padding_mask [N, S] and attn_mask [L, S] or [N H, L, S]: bool (True: left out) or added to the scores.
        is_causal: a hint that attn_mask is the causal mask; attn_mask must be given with it.
        """
        single = query.ndim == 2
        if is_causal and attn_mask is None:
            raise ValueError("MultiheadAttention: is_causal needs attn_mask as well")
        if single:
            query, key, value = (fn.expand_dims(t, axis=0) for t in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else fn.expand_dims(key_padding_mask, axis=0)
        elif not self.batch_first:
            query, key, value = (fn.permute_dims(t, (1, 0, 2)) for t in (query, key, value))
        causal = (
            is_causal
            and not need_weights
            and key_padding_mask is None
            and self.bias_k is None
            and not self.add_zero_attn
        )
        q, k, v = self._project(query, key, value)
        mask = None if causal else self._mask(attn_mask, key_padding_mask, q)
        k, v, mask = self._extend(k, v, mask)
        q, k, v = self._heads(q), self._heads(k), self._heads(v)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = attention_weights(q, k, mask, False, None)
            weights = F.dropout(weights, p) if p > 0 else weights
            out = fn.matmul(weights, v)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, p, is_causal=causal)
        n, _, length, _ = out.shape
        out = self.out_proj(fn.reshape(fn.permute_dims(out, (0, 2, 1, 3)), (n, length, self.embed_dim)))
        if weights is not None and average_attn_weights:
            weights = fn.mean(weights, axis=1)
        if single:
            return fn.squeeze(out, axis=0), None if weights is None else fn.squeeze(weights, axis=0)
        return (out if self.batch_first else fn.permute_dims(out, (1, 0, 2))), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e, bias = self.embed_dim, self.in_proj_bias
        if self.in_proj_weight is not None and query is key and key is value:  # self-attention: one product
            qkv = F.linear(query, self.in_proj_weight, bias)
            return qkv[..., :e], qkv[..., e : 2 * e], qkv[..., 2 * e :]
        if self.in_proj_weight is not None:
            weights = [self.in_proj_weight[i * e : (i + 1) * e] for i in range(3)]
        else:
            weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        biases = [None if bias is None else bias[i * e : (i + 1) * e] for i in range(3)]
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))
        return q, k, v

    def _heads(self, x: Tensor) -> Tensor:
        """[N, L, E] -> [N, H, L, D]."""
        n, length, _ = x.shape
        return fn.permute_dims(fn.reshape(x, (n, length, self.num_heads, self.head_dim)), (0, 2, 1, 3))

    def _mask(self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor) -> Tensor | None:
        """The masks as one for `scaled_dot_product_attention`: bool (True: takes part), or added to scores."""
        parts: list[Tensor] = []
        if attn_mask is not None:
            if attn_mask.ndim == 3:
                h = self.num_heads
                attn_mask = fn.reshape(attn_mask, (attn_mask.shape[0] // h, h, *attn_mask.shape[1:]))
            parts.append(attn_mask)
        if key_padding_mask is not None:
            n, s = key_padding_mask.shape
            parts.append(fn.reshape(key_padding_mask, (n, 1, 1, s)))
        if not parts:
            return None
        if all(m.dtype is bool_ for m in parts):
            return fn.logical_not(parts[0] if len(parts) == 1 else fn.logical_or(parts[0], parts[1]))
        floats = [fn.where(m, _minus_inf(q), 0.0) if m.dtype is bool_ else m for m in parts]
        return floats[0] if len(floats) == 1 else floats[0] + floats[1]

    def _extend(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Adds the learned and the zero key/value position, which no mask covers."""
        extra = []
        if self.bias_k is not None:
            extra.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            zero = creation.zeros((1, 1, self.embed_dim), dtype=k.dtype, device=k.device)
            extra.append((zero, zero))
        for more_k, more_v in extra:
            shape = (k.shape[0], 1, self.embed_dim)
            k = fn.concat([k, fn.broadcast_to(more_k, shape)], axis=1)
            v = fn.concat([v, fn.broadcast_to(more_v, shape)], axis=1)
            if mask is not None:
                free = creation.full((*mask.shape[:-1], 1), mask.dtype is bool_, dtype=mask.dtype)
                mask = fn.concat([mask, free if mask.dtype is bool_ else free * 0.0], axis=-1)
        return k, v, mask


def _minus_inf(like: Tensor) -> Tensor:
    return creation.full((), float("-inf"), dtype=like.dtype)
