"""What the Attention anchor means, with NumPy: all scores at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from ...ir.kernel import SCORE, Attention, Axis
from ...ir.scalar import Expr

Values = Callable[[Expr, tuple[Axis, ...], Mapping[str, np.ndarray]], np.ndarray]


def run_attention(a: Attention, values: Values) -> tuple[np.ndarray, ...]:
    """The results of the anchor, each over its axes. `values` evaluates an expression over axes, given results."""
    number = a.dtype.np.type

    def at(e: Expr | None, *axes: Axis, **results: np.ndarray) -> np.ndarray:
        return number(1) if e is None else values(e, (*a.batch, *axes), results).astype(number)

    q, k, v = at(a.q, a.m, a.d), at(a.k, a.n, a.d), at(a.v, a.n, a.e)
    factor = at(a.factor, a.m, a.n)
    with np.errstate(all="ignore"):
        scores = at(a.score, a.m, a.n, **{SCORE: q @ _swapped(k)})
        if a.causal:
            scores = np.where(np.tri(*scores.shape[-2:], dtype=np.bool_), scores, number(-np.inf))
        if a.part == "rows":
            top = np.max(scores, axis=-1, keepdims=True, initial=-np.inf)
            shares = np.exp2(scores - np.where(np.isneginf(top), number(0), top))
            total = shares.sum(axis=-1, keepdims=True)
            weights = _shown(a, shares / total, np.isneginf(top))
            return (weights * factor) @ v, (np.log2(total) + top)[..., 0] * number(math.log(2))
        g, lse, delta = at(a.g, a.m, a.e), at(a.lse, a.m)[..., None], at(a.delta, a.m)[..., None]
        weights = _shown(a, np.exp2(scores - lse), np.isneginf(lse))
        change = number(a.slope) * weights * (factor * (g @ _swapped(v)) - delta)
        if a.part == "queries":
            return (change @ k,)
        return _swapped(change) @ q, _swapped(weights * factor) @ g


def _shown(a: Attention, weights: np.ndarray, empty: np.ndarray) -> np.ndarray:
    return np.where(empty, weights.dtype.type(0), weights) if a.hides else weights


def _swapped(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)
