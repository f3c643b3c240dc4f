"""NumPy's functions that accumulate, rearrange, round, and whose results are as long as values say, in a trace: the
library's own functions on what stands for arrays, where both give the same type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir.dtypes import float64
from ...ir.op import get_op
from .. import counting, manipulation, products, sorting
from ..creation import tril, triu
from ..dispatch import apply
from ..state import state
from .array_functions import GIVE_NUMBERS, METHODS, _concatenate, _implements, _ravel, _reshape
from .array_mode import Arrays, stop, tensor_of
from .scalars import number_of

_COUNTS_IN_PYTHON = type(np.count_nonzero(np.zeros(1))) is int  # until NumPy 2.4


def _as_ours(ours: Callable) -> Callable:
    """`ours`, with arrays for tensors; its arguments must be NumPy's, and their defaults."""

    def function(a: Any, *args: Any, **options: Any) -> Any:
        with Arrays():
            return ours(tensor_of(a), *args, **options)

    return function


def _running(ours: Callable) -> Callable:
    def function(a: Any, axis: Any = None, dtype: Any = None) -> Any:
        t = tensor_of(a)
        if t.dtype.name == "float16":
            stop("a running sum or product of float16")
        with Arrays():
            return ours(_ravel(t) if axis is None else t, axis=0 if axis is None else axis, dtype=dtype)

    return function


_implements(np.cumsum)(_running(manipulation.cumulative_sum))
_implements(np.cumprod)(_running(manipulation.cumulative_prod))
_implements(np.flip)(_as_ours(manipulation.flip))
_implements(np.tile)(_as_ours(manipulation.tile))
_implements(np.tril)(lambda m, k=0: _as_ours(tril)(m, k=k))
_implements(np.triu)(lambda m, k=0: _as_ours(triu)(m, k=k))
_implements(np.flipud)(lambda m: _as_ours(manipulation.flip)(m, axis=0))
_implements(np.fliplr)(lambda m: _as_ours(manipulation.flip)(m, axis=1))


@_implements(np.roll)
def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    return _as_ours(manipulation.roll)(a, shift, axis=axis)


@_implements(np.diff)
def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = np._NoValue, append: Any = np._NoValue) -> Any:  # type: ignore[attr-defined]
    if prepend is not np._NoValue or append is not np._NoValue:  # type: ignore[attr-defined]
        stop("numpy.diff with something in front or behind")
    return _as_ours(manipulation.diff)(a, n=n, axis=axis)


@_implements(np.repeat)
def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    return _as_ours(counting.repeat)(a, repeats, axis=axis)


@_implements(np.take)
def _take(a: Any, indices: Any, axis: Any = None, *, mode: str = "raise") -> Any:
    if mode != "raise":
        stop(f"numpy.take with mode={mode!r}")
    return _as_ours(manipulation.take)(a, indices, axis=axis)


@_implements(np.round, np.around)
def _round(a: Any, decimals: int = 0) -> Any:
    t = tensor_of(a)
    if not (t.dtype.is_floating or t.dtype.is_integer and decimals >= 0):
        stop("numpy.round of bools, or of integers to tens")
    if t.dtype.is_integer:
        return np.positive(a)
    if decimals == 0:
        return np.rint(a)
    factor = 10.0 ** abs(decimals)
    if decimals > 0:
        return np.divide(np.rint(np.multiply(a, factor)), factor)
    return np.multiply(np.rint(np.divide(a, factor)), factor)


# ------------------------------------------------------------------ joining


def _at_least(a: Any, ndim: int) -> Any:
    t = tensor_of(a)
    if t.ndim >= ndim:
        return t
    return _reshape(t, (1,) * (ndim - t.ndim) + t.shape)


_implements(np.atleast_1d)(lambda a: _at_least(a, 1))
_implements(np.atleast_2d)(lambda a: _at_least(a, 2))


@_implements(np.vstack)
def _vstack(tup: Any) -> Any:
    return _concatenate([_at_least(x, 2) for x in tup], 0)


@_implements(np.hstack)
def _hstack(tup: Any) -> Any:
    arrays = [_at_least(x, 1) for x in tup]
    return _concatenate(arrays, 0 if arrays[0].ndim == 1 else 1)


@_implements(np.column_stack)
def _column_stack(tup: Any) -> Any:
    return _concatenate([_reshape(x, (-1, 1)) if tensor_of(x).ndim < 2 else x for x in tup], 1)


@_implements(np.append)
def _append(arr: Any, values: Any, axis: Any = None) -> Any:
    return _concatenate([_ravel(arr), _ravel(values)], 0) if axis is None else _concatenate([arr, values], axis)


# ------------------------------------------------------------------ lengths that depend on values


_implements(np.nonzero)(_as_ours(counting.nonzero))
_implements(np.argwhere)(_as_ours(counting.argwhere))


@_implements(np.flatnonzero)
def _flatnonzero(a: Any) -> Any:
    (found,) = _as_ours(counting.nonzero)(_ravel(a))
    return found


@_implements(np.count_nonzero)
def _count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    found = np.not_equal(a, 0) if tensor_of(a).dtype.kind != "b" else a
    total = np.sum(found, axis=axis, keepdims=keepdims)
    if axis is None and not keepdims and _COUNTS_IN_PYTHON:
        return number_of(state.tracer, total, "item")  # type: ignore[arg-type]
    return total


@_implements(np.unique)
def _unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False, axis: Any = None,
    *, equal_nan: bool = True, sorted: bool = True,
) -> Any:  # fmt: skip
    t = tensor_of(ar)
    if equal_nan and t.dtype.is_inexact and axis is None and bool(np.any(np.isnan(ar))):
        stop("numpy.unique of an array with NaN")
    with Arrays():
        parts = sorting.unique_parts(t, axis)
    wanted = (True, return_index, return_inverse, return_counts)
    out = [p for p, w in zip(parts, wanted) if w]
    return tuple(out) if len(out) > 1 else out[0]


@_implements(np.bincount)
def _bincount(x: Any, weights: Any = None, minlength: int = 0) -> Any:
    if weights is not None:
        stop("numpy.bincount with weights")
    return _as_ours(counting.bincount)(x, minlength)


# ------------------------------------------------------------------ products and statistics


@_implements(np.trace)
def _trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Any:
    if (axis1, axis2) != (0, 1) or tensor_of(a).ndim != 2:
        stop("numpy.trace over other axes")
    return _as_ours(products.trace)(a, offset=offset, dtype=dtype)


@_implements(np.median)
def _median(a: Any, axis: Any = None, *, overwrite_input: bool = False, keepdims: Any = False) -> Any:
    t = tensor_of(a)
    if isinstance(axis, tuple) or not (t.dtype.is_integer or t.dtype.bits >= 32):
        stop("numpy.median over several axes, or of float16")
    if t.dtype.is_integer:
        with Arrays():
            t = apply(get_op("cast"), t, dtype=float64)
    return _as_ours(sorting.median)(t, axis=axis, keepdims=keepdims is True)


GIVE_NUMBERS |= {np.median, np.trace}
METHODS |= {n: n for n in "cumsum cumprod nonzero repeat take trace".split()}
