"""Sorting, searching and sets. Positions are found by NumPy on the values, so these end a capture; the elements are
then taken by index, so that gradients pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.types import normalize_axis
from .convert import as_tensor, cast_to, promote_operands
from .elementwise import isnan, where
from .manipulation import narrow, ravel, take, take_along_axis
from .state import state
from .tensor import Tensor, new_tensor


def _values(x: Tensor, what: str) -> np.ndarray:
    return x._data if state.tracer is None else np.asarray(state.tracer.concretize(x, what))


def _order(x: Tensor, axis: int, descending: bool, what: str) -> np.ndarray:
    values = _values(x, what)
    if not descending:
        return np.argsort(values, axis=axis, kind="stable")
    reversed_order = np.argsort(np.flip(values, axis), axis=axis, kind="stable")  # keeps ties in order, both ways
    return values.shape[axis] - 1 - np.flip(reversed_order, axis) if values.ndim else reversed_order


def argsort(
    x: Any, /, axis: int = -1, descending: bool = False, stable: bool = True, *, dim: int | None = None
) -> Tensor:
    """The indices that sort x along `axis`; int64. NaN comes last. Always stable."""
    x = as_tensor(x)
    if x.ndim == 0:
        return new_tensor(np.zeros((), np.int64))
    return new_tensor(_order(x, normalize_axis(axis if dim is None else dim, x.ndim), descending, "argsort"))


def sort(x: Any, /, axis: int = -1, descending: bool = False, stable: bool = True, *, dim: int | None = None) -> Tensor:
    """x in order along `axis`. NaN comes last."""
    x = as_tensor(x)
    if x.ndim == 0:
        return x.clone()
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    return take_along_axis(x, new_tensor(_order(x, axis, descending, "sort")), axis=axis)


def topk(
    x: Any, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, *, dim: int | None = None
) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis` in order, and their indices. ValueError if there are fewer."""
    x = as_tensor(x)
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"topk: k={k} is not within the size of axis {axis} of shape {x.shape}")
    at = narrow(argsort(x, axis=axis, descending=largest), axis, 0, k)
    return take_along_axis(x, at, axis=axis), at


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Tensor:
    """Where elements of x2 would go into the sorted 1-D tensor x1; int64."""
    if side not in ("left", "right"):
        raise ValueError(f'side must be "left" or "right", not {side!r}')
    x1, x2 = promote_operands(as_tensor(x1), as_tensor(x2))
    order = None if sorter is None else _values(as_tensor(sorter), "searchsorted")
    return new_tensor(np.searchsorted(_values(x1, "searchsorted"), _values(x2, "searchsorted"), side, order))  # type: ignore[arg-type]


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """The indices of the elements that are not 0: one 1-D int64 tensor for each axis."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("nonzero needs at least one dimension")
    return tuple(new_tensor(i) for i in np.nonzero(_values(x, "nonzero")))


def unique_values(x: Any, /) -> Tensor:
    """The different elements of x in rising order."""
    return new_tensor(np.unique(_values(as_tensor(x), "unique"), equal_nan=False))


def unique_counts(x: Any, /) -> tuple[Tensor, Tensor]:
    """The different elements of x in rising order, and how often each occurs."""
    values, counts = np.unique(_values(as_tensor(x), "unique"), return_counts=True, equal_nan=False)
    return new_tensor(values), new_tensor(counts)


def unique_inverse(x: Any, /) -> tuple[Tensor, Tensor]:
    """The different elements of x in rising order, and for each element of x its position among them."""
    x = as_tensor(x)
    values, inverse = np.unique(_values(x, "unique"), return_inverse=True, equal_nan=False)
    return new_tensor(values), new_tensor(inverse.reshape(x.shape))


def bincount(x: Any, /, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... occurs in a 1-D tensor of non-negative integers."""
    return new_tensor(np.bincount(_values(as_tensor(x), "bincount"), minlength=minlength))


def median(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The middle element over `axis` (the mean of the two middle ones); NaN where there is one."""
    x = as_tensor(x)
    shape = x.shape
    if axis is None:
        x, where_to = ravel(x), 0
    else:
        where_to = normalize_axis(axis, x.ndim)
    n = x.shape[where_to]
    if n == 0:
        raise ValueError(f"median: nothing to take along axis {where_to} of shape {x.shape}")
    x = x if x.dtype.is_floating else cast_to(x, state.default_dtype)
    ordered = sort(x, axis=where_to)
    out = (take(ordered, (n - 1) // 2, axis=where_to) + take(ordered, n // 2, axis=where_to)) * 0.5
    last = take(ordered, n - 1, axis=where_to)
    out = where(isnan(last), last, out)
    if not keepdims:
        return out
    return out.reshape(tuple(1 if axis is None or i == where_to else d for i, d in enumerate(shape)))


__all__ = [
    "argsort", "bincount", "median", "nonzero", "searchsorted", "sort", "topk", "unique_counts", "unique_inverse",
    "unique_values",
]  # fmt: skip
