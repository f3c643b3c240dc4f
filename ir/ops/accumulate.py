"""Accumulation that keeps extremes or products: scatter_reduce, and running extremes. Their references run; there is no
kernel for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..dtypes import bool_, int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import NUMBERS, common_dtype, const_like, draw, rng_of, zeros_like
from .indexing import gather, scatter, scatter_batch
from .pointwise import and_, cast, div, eq, mul, where

_UFUNCS: dict[str, np.ufunc] = {"max": np.maximum, "min": np.minimum, "mul": np.multiply}


def _type(x: TensorType, updates: TensorType, *indices: TensorType, mode: str) -> TensorType:
    if mode not in _UFUNCS:
        raise TypeRuleError(f'mode must be "max", "min" or "mul", not {mode!r}')
    if x.dtype is bool_:
        raise DTypeRuleError("bool tensors have no extremes or products")
    return scatter.result_types((x, updates, *indices), {"mode": "add"})[0]


def _reference(x: np.ndarray, updates: np.ndarray, *indices: np.ndarray, mode: str) -> np.ndarray:
    out = x.copy()
    with np.errstate(all="ignore"):
        _UFUNCS[mode].at(out, indices, updates)
    return out


def _vjp(c: VjpContext, g: Any) -> tuple:
    rule = _product_vjp if c.attrs["mode"] == "mul" else _extreme_vjp
    gx, gu = rule(c, g)
    return (gx, gu, *(None for _ in c.inputs[2:]))


def _extreme_vjp(c: VjpContext, g: Any) -> tuple:
    """Ties share the gradient evenly."""
    x, updates, *indices = c.inputs
    kept = cast(eq(x, c.out), dtype=c.types[0].dtype)
    taken = cast(eq(updates, gather(c.out, *indices)), dtype=c.types[0].dtype)
    share = div(g, scatter(kept, taken, *indices, mode="add"))
    return mul(share, kept), mul(gather(share, *indices), taken)


def _product_vjp(c: VjpContext, g: Any) -> tuple:
    """Products of the others: by division, with the only zero of an element left out of its product."""
    x, updates, *indices = c.inputs
    zero, one = const_like(x, 0), const_like(x, 1)
    x_is_zero, u_is_zero = eq(x, zero), eq(updates, zero)
    safe = where(x_is_zero, one, x)
    gx = div(mul(g, scatter_reduce(safe, updates, *indices, mode="mul")), safe)
    numbers = cast(u_is_zero, dtype=c.types[0].dtype)
    zeros = gather(scatter(zeros_like(x), numbers, *indices, mode="add"), *indices)
    single = and_(u_is_zero, eq(zeros, one))
    without = scatter_reduce(x, where(single, one, updates), *indices, mode="mul")
    divided = div(gather(mul(g, c.out), *indices), where(u_is_zero, one, updates))
    return gx, where(single, gather(mul(g, without), *indices), divided)


def _samples() -> Iterator[Sample]:
    rng = rng_of("scatter_reduce")
    at = np.array([4, 0, -1, 0], np.int64)
    for mode in _UFUNCS:
        for dtype in (np.float32, np.float64):
            x, updates = draw(rng, (5, 17), dtype=dtype), draw(rng, (4, 17), dtype=dtype)
            yield Sample((x, updates, at), {"mode": mode}, gradcheck=dtype is np.float64)
        yield Sample((np.arange(5), np.arange(4) - 1, at), {"mode": mode}, gradcheck=False)
        yield Sample((draw(rng, (4,)), draw(rng, (0,)), at[:0]), {"mode": mode})
        pair = (np.array([[1], [-4]], np.int64), np.array([0, 2], np.int64))
        yield Sample((draw(rng, (4, 3)), draw(rng, (2, 2)), *pair), {"mode": mode})


def _errors() -> Iterator[ErrorSample]:
    x, at = np.zeros(3, np.float32), np.zeros(1, np.int64)
    yield ErrorSample((x, x[:1], at), {"mode": "add"}, TypeRuleError, "mode must be")
    yield ErrorSample((x, x[:2], at), {"mode": "max"}, TypeRuleError, "updates must have shape")
    yield ErrorSample((x, x[:1], at + 3), {"mode": "max"}, IndexError, "index 3 is out of bounds.*size 3")
    yield ErrorSample((x > 0, x[:1] > 0, at), {"mode": "max"}, DTypeRuleError, "bool")


scatter_reduce = register(
    OpDef(
        "scatter_reduce", "structural", ("x", "updates", "*indices"), _type, _reference, _vjp,
        attrs={"mode": REQUIRED}, samples=_samples, errors=_errors, batch=scatter_batch,
        doc='x with the larger ("max") or smaller ("min") of its elements and the updates at [indices], or the product '
        '("mul").',
    )
)  # fmt: skip


# ------------------------------------------------------------------ running extremes


def _running_type(x: TensorType, axis: int) -> TensorType:
    common_dtype((x,), NUMBERS)
    if not 0 <= axis < x.ndim:
        raise TypeRuleError(f"axis={axis} is not within the {x.ndim} dimensions of {x}")
    return TensorType(int64, x.shape)


def _running(not_worse: Callable[..., Any]) -> Callable[..., np.ndarray]:
    def reference(x: np.ndarray, axis: int) -> np.ndarray:
        rows = np.moveaxis(x, axis, 0)
        out = np.zeros(rows.shape, np.int64)
        if not rows.shape[0]:
            return np.moveaxis(out, 0, axis)
        best, at = rows[0].copy(), np.zeros(rows.shape[1:], np.int64)
        for i in range(1, rows.shape[0]):
            row = rows[i]
            better = not_worse(row, best) | (row != row)
            better &= (best == best) | (row != row)
            best, at = np.where(better, row, best), np.where(better, i, at)
            out[i] = at
        return np.moveaxis(out, 0, axis)

    return reference


def _running_samples(name: str) -> Iterator[Sample]:
    rng = rng_of(name)
    for shape, axis in (((7,), 0), ((5, 17), 0), ((5, 17), 1), ((2, 3, 4), 1), ((0, 3), 0), ((3, 0), 0)):
        yield Sample((draw(rng, shape),), {"axis": axis}, gradcheck=False)
    yield Sample((np.array([[1, 3, 3, 2, 5, 5]], np.int32),), {"axis": 1}, gradcheck=False)
    yield Sample((np.array([1, np.inf, np.nan, 3, np.nan], np.float32),), {"axis": 0}, gradcheck=False)


def _running_extreme(name: str, not_worse: Callable[..., Any], word: str) -> OpDef:
    return register(
        OpDef(
            name, "structural", ("x",), _running_type, _running(not_worse), NO_GRADIENT, attrs={"axis": REQUIRED},
            saves=(), batch=shifted("axis"), samples=lambda: _running_samples(name),
            errors=lambda: [
                ErrorSample((np.zeros((2, 3), np.float32),), {"axis": 2}, TypeRuleError, "axis=2 is not within"),
                ErrorSample((np.zeros(3, np.bool_),), {"axis": 0}, DTypeRuleError, "takes"),
            ],
            doc=f"The index of the last {word} element up to each place along the axis; NaN wins, and stays.",
        )
    )  # fmt: skip


cumargmax = _running_extreme("cumargmax", np.greater_equal, "largest")
cumargmin = _running_extreme("cumargmin", np.less_equal, "smallest")

__all__ = ["cumargmax", "cumargmin", "scatter_reduce"]
