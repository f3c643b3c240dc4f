"""Attention, and its gradients: composite ops that GPUs have kernels for.

Elsewhere they are decomposed into the ops they are made of. The gradients compute the weights again, from the same nodes
as the forward pass: where both are in one graph, common subexpressions make one of them. The kernels never hold the
weights; they make them block by block from `lse`, the logarithm of each row's sum, as in FlashAttention (Dao et al. 2022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..batching import NO_DIRECT_WAY, BatchContext, lane_by_lane
from ..derive import vjp_of_decomposition
from ..dtypes import accumulator, bool_, from_numpy, int64, uint64
from ..op import REQUIRED, OpDef, VjpContext, register, value_type
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError, broadcast_shapes
from ._attention_samples import attention_errors, attention_samples, gradient_errors, gradient_samples
from ._declare import FLOATING, common_dtype, const_like, create_like, expand, quietly, shape_text
from .composite import logsumexp, shape_of, softmax
from .contract import matmul
from .elementary import exp, log
from .movement import permute, reshape, sum_to_shape
from .pointwise import add, cast, eq, ge, le, masked, mul, scale, sub, where
from .random import random_bits
from .reduce import reduce_max, reduce_sum

# ------------------------------------------------------------------ operands and types


class Extras(NamedTuple):
    """The operands behind v: `mask`, and the `state` that dropout draws from."""

    mask: Any
    state: Any


def extras(more: tuple, dropout: float) -> Extras:
    drops = dropout > 0
    return Extras(more[0] if len(more) > drops else None, more[-1] if drops else None)


def _check_extras(more: tuple[TensorType, ...], dropout: float, dtype: Any) -> Extras:
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise TypeRuleError(f"dropout={dropout} must be at least 0 and less than 1")
    if len(more) > 1 + (dropout > 0) or dropout > 0 and not more:
        raise TypeRuleError("behind v comes a mask, if there is one, and the random state, if dropout is more than 0")
    mask, state = extras(more, dropout)
    if state is not None and (state.dtype is not uint64 or state.shape != (2,)):
        raise TypeRuleError(f"the random state must be a uint64 tensor (seed, offset) of shape (2,), not {state}")
    if mask is not None and mask.dtype not in (bool_, dtype):
        raise DTypeRuleError(f"the mask must be bool or {dtype.code}, not {mask.dtype.code}")
    return Extras(mask, state)


def _weights_shape(q: TensorType, k: TensorType, v: TensorType, mask: TensorType | None) -> Shape:
    """[.., L, S]; TypeRuleError if the operands don't fit."""
    if min(q.ndim, k.ndim, v.ndim) < 2:
        raise TypeRuleError("attention needs operands with at least 2 dimensions")
    if q.shape[-1] != k.shape[-1]:
        raise TypeRuleError(f"queries of {q.shape[-1]} elements do not fit keys of {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        raise TypeRuleError(f"there are {k.shape[-2]} keys, but {v.shape[-2]} values")
    ends = (q.shape[-2], k.shape[-2])
    shape = (*broadcast_shapes(q.shape[:-2], k.shape[:-2]), *ends)
    if mask is not None:
        shape = broadcast_shapes(shape, mask.shape)
        if shape[-2:] != ends:
            raise TypeRuleError(f"a mask of shape {shape_text(mask.shape)} does not fit weights {shape_text(ends)}")
    if broadcast_shapes(shape[:-2], v.shape[:-2]) != shape[:-2]:
        raise TypeRuleError(f"values {v} have more batch dimensions than the weights {shape_text(shape)}")
    return shape


def _attention_type(
    q: TensorType, k: TensorType, v: TensorType, *more: TensorType, scale: float, causal: bool, dropout: float
) -> tuple[TensorType, TensorType]:
    dtype = common_dtype((q, k, v), FLOATING)
    if not isinstance(scale, (int, float)) or not isinstance(causal, bool):
        raise TypeRuleError(f"scale={scale!r} must be a number, and causal={causal!r} a bool")
    shape = _weights_shape(q, k, v, _check_extras(more, dropout, dtype).mask)
    return q.with_shape((*shape[:-1], v.shape[-1])), TensorType(accumulator(dtype), shape[:-1])


def _queries_type(
    g: TensorType, q: TensorType, k: TensorType, v: TensorType, lse: TensorType, delta: TensorType, *more: TensorType,
    **attrs: Any,
) -> TensorType:  # fmt: skip
    out, rows = _attention_type(q, k, v, *more, **attrs)
    for name, t, wanted in (("g", g, out), ("lse", lse, rows), ("delta", delta, rows)):
        if t != wanted:
            raise TypeRuleError(f"{name} is {t}, but it belongs to the {wanted} of the forward pass")
    return q.with_shape((*out.shape[:-1], q.shape[-1]))


def _keys_type(g: TensorType, q: TensorType, k: TensorType, v: TensorType, *more: TensorType, **attrs: Any):
    batch = _queries_type(g, q, k, v, *more, **attrs).shape[:-2]
    return tuple(x.with_shape((*batch, *x.shape[-2:])) for x in (k, v))


# ------------------------------------------------------------------ decompositions


class _Pass:
    """The nodes that the forward pass and the gradients share. `factor` scales the scores."""

    def __init__(self, q: Any, k: Any, v: Any, more: tuple, factor: float, causal: bool, dropout: float):
        self.q, self.k, self.v, self.factor, self.dropout = q, k, v, factor, dropout
        self.mask, self.state = extras(more, dropout)
        self.boolean = self.mask is not None and value_type(self.mask).dtype is bool_
        self.below = _below_diagonal(q, shape_of(q)[-2], shape_of(k)[-2]) if causal else None

    def scaled(self, x: Any) -> Any:
        return scale(x, self.factor)

    def scores(self) -> Any:
        """Scaled and masked: -inf where a key takes no part."""
        s = self.scaled(matmul(self.q, swapped(self.k)))
        if self.below is not None:
            s = where(self.below, s, const_like(s, -np.inf))
        if self.boolean:
            return where(self.mask, s, const_like(s, -np.inf))
        return s if self.mask is None else add(s, self.mask)

    def weights(self) -> Any:
        """Before dropout. A row that a boolean mask hides as a whole is NaN up to here, then 0."""
        scores = self.scores()
        w = softmax(scores, axis=len(shape_of(scores)) - 1)
        return masked(self.mask, w) if self.boolean else w

    def dropped(self, w: Any) -> Any:
        """The weights, or their cotangents, with those that dropout chose at 0."""
        if self.state is None:
            return w
        words = random_bits(self.state, shape=shape_of(w))
        kept = ge(words, const_like(words, int(self.dropout * 2**32)))
        return masked(kept, scale(w, 1.0 / (1.0 - self.dropout)))

    def to_scores(self, g: Any, delta: Any) -> Any:
        """The cotangent of the masked scores, from that of the result."""
        weights = self.weights()
        dtype = value_type(weights).dtype
        w, into = (cast(x, dtype=accumulator(dtype)) for x in (weights, self.dropped(matmul(g, swapped(self.v)))))
        return cast(mul(w, sub(into, reshape(delta, shape=(*shape_of(delta), 1)))), dtype=dtype)


def _below_diagonal(like: Any, n: Any, m: Any) -> Any:
    """bool [n, m]: column <= row."""
    rows, columns = (create_like(like, "iota", {"shape": (n, m), "axis": axis, "dtype": int64}) for axis in (0, 1))
    return le(columns, rows)


def swapped(x: Any) -> Any:
    """The last two axes exchanged."""
    rank = len(shape_of(x))
    return permute(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _attention_decompose(q: Any, k: Any, v: Any, *more: Any, scale: float, causal: bool, dropout: float) -> tuple:
    p = _Pass(q, k, v, more, scale, causal, dropout)
    return matmul(p.dropped(p.weights()), v), _logarithms(p)


def _logarithms(p: _Pass) -> Any:
    """Of the sum of each row's exponentials, which are those of softmax; -inf where no key takes part."""
    scores = p.scores()
    wide = accumulator(value_type(scores).dtype)
    *rows, n = shape_of(scores)
    if isinstance(n, int) and n == 0:
        return create_like(scores, "full", {"value": -np.inf, "shape": tuple(rows), "dtype": wide})
    scores, axes = cast(scores, dtype=wide), (len(rows),)
    top = reduce_max(scores, axes=axes)
    total = reduce_sum(exp(sub(scores, expand(top, axes, shape_of(scores)))), axes=axes)
    return where(eq(top, const_like(top, -np.inf)), top, add(log(total), top))


def _queries_decompose(
    g: Any, q: Any, k: Any, v: Any, lse: Any, delta: Any, *more: Any, scale: float, causal: bool, dropout: float
) -> Any:
    p = _Pass(q, k, v, more, scale, causal, dropout)
    return matmul(p.scaled(p.to_scores(g, delta)), k)


def _keys_decompose(
    g: Any, q: Any, k: Any, v: Any, lse: Any, delta: Any, *more: Any, scale: float, causal: bool, dropout: float
) -> tuple:
    p = _Pass(q, k, v, more, scale, causal, dropout)
    to_keys = matmul(swapped(p.scaled(p.to_scores(g, delta))), q)
    return to_keys, matmul(swapped(p.dropped(p.weights())), g)


# ------------------------------------------------------------------ references


class _Numbers(NamedTuple):
    """scores: masked; weights: before dropout; kept: what dropout multiplies them by."""

    scores: np.ndarray
    weights: np.ndarray
    kept: np.ndarray


def _numbers(q: np.ndarray, k: np.ndarray, more: tuple, factor: float, causal: bool, dropout: float) -> _Numbers:
    mask, state = extras(more, dropout)
    s = np.matmul(q, np.swapaxes(k, -1, -2)) * q.dtype.type(factor)
    if causal:
        s = np.where(np.tri(*s.shape[-2:], dtype=np.bool_), s, -np.inf).astype(q.dtype)
    if mask is not None:
        s = np.where(mask, s, -np.inf).astype(q.dtype) if mask.dtype == np.bool_ else s + mask.astype(q.dtype)
    weights = softmax.reference(s, axis=-1)
    if mask is not None and mask.dtype == np.bool_:
        weights = np.where(mask, weights, 0).astype(q.dtype)
    if state is None:
        return _Numbers(s, weights, np.ones((), q.dtype))
    kept = random_bits.reference(state, s.shape) >= int(dropout * 2**32)
    return _Numbers(s, weights, kept * q.dtype.type(1.0 / (1.0 - dropout)))


def _wide(fn: Any) -> Any:
    """A reference that computes narrow floats in float32. `fn` is told the type that results have."""

    def reference(x: np.ndarray, *rest: np.ndarray, **attrs: Any) -> Any:
        dtype = x.dtype
        wide = accumulator(from_numpy(dtype)).np
        given = (a.astype(wide) if a.dtype == dtype else a for a in (x, *rest))
        return fn(*given, **attrs, narrow=dtype)

    return quietly(reference)


def _attention(q, k, v, *more, scale: float, causal: bool, dropout: float, narrow: Any) -> tuple:
    x = _numbers(q, k, more, scale, causal, dropout)
    empty = x.scores.shape[-1] == 0
    lse = np.full(x.scores.shape[:-1], -np.inf) if empty else logsumexp.reference(x.scores, axes=(x.scores.ndim - 1,))
    return np.matmul(x.weights * x.kept, v).astype(narrow), lse.astype(q.dtype)


def _score_gradients(x: _Numbers, g: np.ndarray, v: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return x.weights * (x.kept * np.matmul(g, np.swapaxes(v, -1, -2)) - delta[..., None])


def _attention_queries(g, q, k, v, lse, delta, *more, scale: float, causal: bool, dropout: float, narrow: Any) -> Any:
    x = _numbers(q, k, more, scale, causal, dropout)
    return (np.matmul(_score_gradients(x, g, v, delta), k) * g.dtype.type(scale)).astype(narrow)


def _attention_keys(g, q, k, v, lse, delta, *more, scale: float, causal: bool, dropout: float, narrow: Any) -> tuple:
    x = _numbers(q, k, more, scale, causal, dropout)
    to_keys = np.matmul(np.swapaxes(_score_gradients(x, g, v, delta), -1, -2), q) * g.dtype.type(scale)
    to_values = np.matmul(np.swapaxes(x.weights * x.kept, -1, -2), g)
    return to_keys.astype(narrow), to_values.astype(narrow)


# ------------------------------------------------------------------ gradients


def _attention_vjp(c: VjpContext, g: Any, g_lse: Any) -> tuple:
    """With delta = rowsum(g * out) - g_lse, the scores' cotangent is weights * (g v^T - delta)."""
    q, k, v, *more = c.inputs
    wide = accumulator(c.types[0].dtype)
    products = mul(cast(g, dtype=wide), cast(c.outputs[0], dtype=wide))
    delta = sub(reduce_sum(products, axes=(len(shape_of(g)) - 1,)), g_lse)
    given = (g, q, k, v, c.outputs[1], delta, *more)
    found: list[Any] = [None] * len(c.inputs)
    if c.needs[0]:
        found[0] = attention_queries(*given, **c.attrs)
    if c.needs[1] or c.needs[2]:
        found[1], found[2] = attention_keys(*given, **c.attrs)
    if len(c.needs) > 3 and c.needs[3]:
        p = _Pass(q, k, v, tuple(more), c.attrs["scale"], c.attrs["causal"], c.attrs["dropout"])
        found[3] = p.to_scores(g, delta)
    return tuple(
        sum_to_shape(x, shape_of(x), t.shape) if n else None for x, t, n in zip(found, c.types, c.needs, strict=True)
    )


def _attention_batch(c: BatchContext) -> Any:
    """More batch dimensions, which the queries have in any case."""
    if c.attrs["dropout"]:
        return lane_by_lane(c)
    rank = max(t.ndim for t in c.types)
    q = reshape(c.spread(0), shape=(c.size, *(1,) * (rank - c.types[0].ndim), *c.types[0].shape))
    return attention(q, *(c.aligned(i, rank) for i in range(1, len(c.args))), **c.attrs)


def _gradient_batch(c: BatchContext) -> Any:
    """Lanes draw the same numbers: the state says which."""
    return lane_by_lane(c) if c.attrs["dropout"] else NO_DIRECT_WAY


# ------------------------------------------------------------------ declarations

ATTRS: dict[str, Any] = {"scale": REQUIRED, "causal": False, "dropout": 0.0}

attention = register(
    OpDef(
        name="attention", kind="composite", operands=("q", "k", "v", "*more"), attrs=ATTRS, infer=_attention_type,
        reference=_wide(_attention), decompose=_attention_decompose, vjp=_attention_vjp,
        saves=("q", "k", "v", "more", "out"), batch=_attention_batch, samples=attention_samples,
        errors=attention_errors, n_outputs=2, tolerance=1e-3,
        doc="softmax(q k^T * scale + mask) v for q[.., L, D], k[.., S, D], v[.., S, E] gives out[.., L, E], and lse[.., L], "
        "the logarithm of each row's sum of exponentials. Batch dims broadcast; v has no others than the weights "
        "[.., L, S]. Behind v: a mask that broadcasts to the weights (bool: True takes part, rows without any are 0; else "
        "it is added), and with dropout > 0 the state of random_bits, which draws for the weights. causal: row i sees "
        "columns <= i.",
    )
)  # fmt: skip

GRADIENT_DOC = (
    "the cotangents of {} where g is that of attention's out: with all batch dims of g, to be summed over those that "
    "broadcast. lse: as attention gives it (kernels read it, nothing else does). delta: rowsum(g * out), less the "
    "cotangent of lse."
)
GRADIENT_OPERANDS = ("g", "q", "k", "v", "lse", "delta", "*more")

attention_queries = register(
    OpDef(
        name="attention_queries", kind="composite", operands=GRADIENT_OPERANDS, attrs=ATTRS, infer=_queries_type,
        reference=_wide(_attention_queries), decompose=_queries_decompose,
        vjp=vjp_of_decomposition(_queries_decompose), batch=_gradient_batch, samples=gradient_samples, errors=gradient_errors, tolerance=1e-3,
        doc="Of attention: " + GRADIENT_DOC.format("q"),
    )
)  # fmt: skip

attention_keys = register(
    OpDef(
        name="attention_keys", kind="composite", operands=GRADIENT_OPERANDS, attrs=ATTRS, infer=_keys_type,
        reference=_wide(_attention_keys), decompose=_keys_decompose, vjp=vjp_of_decomposition(_keys_decompose),
        batch=_gradient_batch,        samples=gradient_samples, errors=gradient_errors, n_outputs=2, tolerance=1e-3,
        doc="Of attention: " + GRADIENT_DOC.format("k and of v"),
    )
)  # fmt: skip

__all__ = ["Extras", "attention", "attention_keys", "attention_queries", "extras"]
