"""Attention."""

from __future__ import annotations

import math

from ...ir import ops
from ...ir.dtypes import bool_, int64
from .. import functions as fn
from ..dispatch import apply
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
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    if dropout_p > 0.0:
        weights = dropout(weights, dropout_p)
    return fn.matmul(weights, value)


def attention_weights(
    query: Tensor, key: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    """softmax(query key^T * scale + mask): [.., L, S]."""
    if query.ndim < 2 or key.ndim < 2 or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"attention: query {tuple(query.shape)} and key {tuple(key.shape)} do not fit; last axes must be equal"
        )
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    swap = (*range(key.ndim - 2), key.ndim - 1, key.ndim - 2)
    scores = fn.matmul(query, fn.permute_dims(key, swap)) * factor
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
