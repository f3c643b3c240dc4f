"""Attention."""

from __future__ import annotations

import math
from typing import Any

from ...ir import ops
from ...ir.dim import same
from ...ir.dtypes import bool_, int64
from ...ir.types import broadcast_shapes
from .. import functions as fn
from ..dispatch import apply
from ..lanes import Inside
from ..random import default_generator
from ..state import state
from ..tensor import Tensor
from .functional_activation import softmax
from .functional_random import dropout


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query key^T * scale + mask) value: [.., H, L, D], [.., H, S, D], [.., H, S, E] -> [.., H, L, E].

    attn_mask broadcasts to [.., H, L, S]: bool (True: takes part; rows without any give 0) or added to the scores.
    is_causal: position i sees positions <= i. scale is 1 / sqrt(D) if None. enable_gqa: key and value may have fewer
    heads, each serving a group of query heads. Dropout applies whenever dropout_p > 0.
    """
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    if enable_gqa:
        return _grouped(query, key, value, attn_mask, dropout_p, is_causal, scale)
    if _is_one_op(query, key, value, attn_mask, dropout_p, scale):
        return _recorded(query, key, value, attn_mask, dropout_p, is_causal, scale)
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return fn.matmul(weights, value)


def _is_one_op(query, key, value, mask: Tensor | None, dropout_p: float, scale: float | None) -> bool:
    """Whether this becomes the op `attention`, for which targets may have a kernel. Only traces have it: eager calls on
    the CPU, and modes that ask for more than the op says, compute it in parts."""
    plain = (int, float)  # other numbers are values of the trace
    if not _is_traced() or type(dropout_p) not in plain or scale is not None and type(scale) not in plain:
        return False
    if not 0.0 <= dropout_p < 1.0 or dropout_p > 0.0 and not (type(state.draws) is int and state.draws == 1):
        return False
    if min(query.ndim, key.ndim, value.ndim) < 2 or not query.dtype.is_floating:
        return False
    if key.dtype is not query.dtype or value.dtype is not query.dtype:
        return False
    batch = key.shape[:-2], value.shape[:-2]
    if len(batch[0]) != len(batch[1]) or not all(map(same, *batch)):
        return False
    return mask is None or mask.dtype is bool_ or mask.dtype is query.dtype


def _is_traced() -> bool:
    """Whether a graph is being recorded, perhaps around a vmap or the like."""
    tracer: Any = state.tracer
    while isinstance(tracer, Inside):
        tracer = tracer.outer
    return tracer is not None


def _recorded(query, key, value, mask: Tensor | None, dropout_p: float, is_causal: bool, scale: float | None) -> Tensor:
    more = [] if mask is None else [mask]
    if dropout_p > 0.0:
        shape = broadcast_shapes(query.shape[:-2], key.shape[:-2]) + (query.shape[-2], key.shape[-2])
        shape = shape if mask is None else broadcast_shapes(shape, mask.shape)
        more.append(default_generator.reserve(shape))
    attrs = {"scale": _factor(query, scale), "causal": bool(is_causal), "dropout": float(dropout_p)}
    return apply(ops.attention, query, key, value, *more, **attrs)[0]


def _factor(query: Tensor, scale: float | None) -> float:
    return 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale


def attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """softmax(query key^T * scale + mask): [.., L, S]."""
    if query.ndim < 2 or key.ndim < 2 or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention: query {tuple(query.shape)} and key {tuple(key.shape)} do not fit; last axes must be equal"
        )
    swap = (*range(key.ndim - 2), key.ndim - 1, key.ndim - 2)
    scores = fn.matmul(query, fn.permute_dims(key, swap)) * _factor(query, scale)
    if is_causal:
        return softmax(fn.where(causal_mask(query.shape[-2], key.shape[-2]), scores, -math.inf), -1)
    if attn_mask is None:
        return softmax(scores, -1)
    if attn_mask.dtype is not bool_:
        return softmax(scores + attn_mask, -1)
    weights = softmax(fn.where(attn_mask, scores, -math.inf), -1)
    return fn.where(attn_mask, weights, 0.0)  # a row without any True is NaN up to here


def causal_mask(n: int, m: int) -> Tensor:
    """bool [n, m]: True where column <= row."""
    rows = apply(ops.iota, shape=(n, m), axis=0, dtype=int64)
    return apply(ops.iota, shape=(n, m), axis=1, dtype=int64) <= rows


def _grouped(query, key, value, attn_mask, dropout_p: float, is_causal: bool, scale) -> Tensor:
    """Query heads in groups, one per key head: the group axis broadcasts, so keys and values are not copied."""
    heads, kv_heads = query.shape[-3], key.shape[-3]
    if heads % kv_heads != 0:
        raise ValueError(f"attention: {heads} query heads do not divide into groups for {kv_heads} key heads")
    group = heads // kv_heads
    lead = tuple(query.shape[:-3])
    q = fn.reshape(query, (*lead, kv_heads, group, *query.shape[-2:]))
    k, v = fn.expand_dims(key, axis=-3), fn.expand_dims(value, axis=-3)
    mask = attn_mask
    if mask is not None and mask.ndim >= 3:
        split = (kv_heads, group) if mask.shape[-3] != 1 else (1, 1)
        mask = fn.reshape(mask, (*mask.shape[:-3], *split, *mask.shape[-2:]))
    out = scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal, scale)
    return fn.reshape(out, (*lead, heads, *out.shape[-2:]))
