"""Sorting, searching and sets. Sorted elements are taken by index, so that gradients pass. What has a shape that
depends on values (nonzero, unique, bincount) is found by NumPy, and ends a capture."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ir.dtypes import int32
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .convert import as_tensor, cast_to, promote_operands
from .creation import full
from .dispatch import run
from .elementwise import equal, isnan, logical_not, minimum, where
from .manipulation import narrow, ravel, reshape, take, take_along_axis
from .state import state
from .tensor import Tensor, new_tensor


def _values(x: Tensor, what: str) -> np.ndarray:
    return x._data if state.tracer is None else np.asarray(state.tracer.concretize(x, what))


def argsort(
    x: Any, /, axis: int = -1, descending: bool = False, stable: bool = True, *, dim: int | None = None
) -> Tensor:
    """The indices that sort x along `axis`; int64. NaN comes last. Always stable."""
    x = as_tensor(x)
    if x.ndim == 0:
        return new_tensor(np.zeros((), np.int64))
    attrs = {"axis": normalize_axis(axis if dim is None else dim, x.ndim), "descending": bool(descending)}
    return run(get_op("argsort"), (x,), attrs)


def sort(x: Any, /, axis: int = -1, descending: bool = False, stable: bool = True, *, dim: int | None = None) -> Tensor:
    """x in order along `axis`. NaN comes last."""
    x = as_tensor(x)
    if x.ndim == 0:
        return x.clone()
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    return take_along_axis(x, argsort(x, axis, descending), axis=axis)


def topk(
    x: Any, k: int, axis: int = -1, largest: bool = True, sorted: bool = True, *, dim: int | None = None
) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) elements along `axis` in order, and their indices. ValueError if there are fewer."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    if x.ndim == 0:
        values, at = topk(reshape(x, (1,)), k, axis, largest)
        return reshape(values, ()) if k else values, reshape(at, ()) if k else at
    axis = normalize_axis(axis, x.ndim)
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"topk: k={k} is not within the size of axis {axis} of shape {x.shape}")
    at = narrow(argsort(x, axis=axis, descending=largest), axis, 0, k)
    return take_along_axis(x, at, axis=axis), at


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Tensor:
    """Where elements of x2 would go into the sorted 1-D tensor x1; int64."""
    if side not in ("left", "right"):
        raise ValueError(f'side must be "left" or "right", not {side!r}')
    x1, x2 = promote_operands(as_tensor(x1), x2)  # a number is weak
    if sorter is not None:
        x1 = take(x1, as_tensor(sorter), axis=0)
    return run(get_op("searchsorted"), (x1, x2), {"right": side == "right"})


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """The indices of the elements that are not 0: one 1-D int64 tensor for each axis."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("nonzero needs at least one dimension")
    return tuple(new_tensor(i) for i in np.nonzero(_values(x, "nonzero")))


class UniqueAll(NamedTuple):
    """Different elements in rising order, where each occurs first, for each element its position among them, and how
    often each occurs."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


def unique_all(x: Any, /) -> UniqueAll:
    """The different elements of x in rising order, where each occurs first (in the flat tensor), for each element of x
    its position among them, and how often each occurs. NaNs differ from each other."""
    x = as_tensor(x)
    values = _values(x, "unique")
    found, first, inverse, counts = np.unique(
        values, return_index=True, return_inverse=True, return_counts=True, equal_nan=False
    )
    inverse = inverse.reshape(values.shape)
    return UniqueAll(new_tensor(found), new_tensor(first), new_tensor(inverse), new_tensor(counts))


def argwhere(x: Any, /) -> Tensor:
    """The positions of the elements that are not 0, one in a row: int64 [n, x.ndim]."""
    return new_tensor(np.argwhere(_values(as_tensor(x), "argwhere")))


def unique(
    x: Any, /, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, axis: int | None = None,
    *, dim: int | None = None,
) -> Any:  # fmt: skip
    """The different elements of x in rising order, or the different slices along `axis`; on request with, for each
    element of x, its position among them, and how often each occurs."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    values, inverse, counts = np.unique(
        _values(x, "unique"), return_inverse=True, return_counts=True, axis=axis, equal_nan=False
    )
    shape = x.shape if axis is None else (x.shape[axis],)
    return _chosen(values, inverse.reshape(shape), counts, return_inverse, return_counts)


def unique_consecutive(
    x: Any, /, return_inverse: bool = False, return_counts: bool = False, axis: int | None = None, *,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """x without the elements (or slices along `axis`) that equal the one before them; the rest as in `unique`."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    values = _values(x, "unique_consecutive")
    rows = values.reshape(-1) if axis is None else np.moveaxis(values, axis, 0)
    n = rows.shape[0]
    new = np.ones(n, np.bool_)
    if n:
        new[1:] = (rows[1:] != rows[:-1]).any(axis=tuple(range(1, rows.ndim)))
    at = np.flatnonzero(new)
    kept = rows[at] if axis is None else np.moveaxis(rows[at], 0, axis)
    inverse = (np.cumsum(new) - 1).reshape(values.shape if axis is None else (n,))
    return _chosen(kept, inverse, np.diff(np.append(at, n)), return_inverse, return_counts)


def _chosen(values: np.ndarray, inverse: np.ndarray, counts: np.ndarray, with_inverse: bool, with_counts: bool) -> Any:
    out = [new_tensor(np.ascontiguousarray(values))]
    out += [new_tensor(inverse)] if with_inverse else []
    out += [new_tensor(counts)] if with_counts else []
    return tuple(out) if len(out) > 1 else out[0]


def bucketize(x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The bucket of each element between rising 1-D boundaries: boundaries[i - 1] < x <= boundaries[i]; `right`:
    boundaries[i - 1] <= x < boundaries[i]."""
    edges = as_tensor(boundaries)
    if edges.ndim != 1:
        raise ValueError(f"bucketize: boundaries must have 1 dimension, not shape {edges.shape}")
    at = searchsorted(edges, x, side="right" if right else "left")
    return cast_to(at, int32) if out_int32 else at


def isin(x1: Any, x2: Any, /, *, invert: bool = False, assume_unique: bool = False) -> Tensor:
    """Whether each element of x1 occurs in x2 (`invert`: does not)."""
    x1, x2 = promote_operands(x1, x2)
    known = sort(ravel(x2))
    n = known.shape[0]
    if n == 0:
        found = full(x1.shape, False)
    else:
        at = minimum(searchsorted(known, x1), n - 1)
        found = equal(take(known, at, axis=0), x1)
    return logical_not(found) if invert else found


def unique_values(x: Any, /) -> Tensor:
    """The different elements of x in rising order."""
    return new_tensor(np.unique(_values(as_tensor(x), "unique"), equal_nan=False))


def unique_counts(x: Any, /) -> UniqueCounts:
    """The different elements of x in rising order, and how often each occurs."""
    values, counts = np.unique(_values(as_tensor(x), "unique"), return_counts=True, equal_nan=False)
    return UniqueCounts(new_tensor(values), new_tensor(counts))


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The different elements of x in rising order, and for each element of x its position among them."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


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
    "argsort", "argwhere", "bincount", "bucketize", "isin", "median", "nonzero", "searchsorted", "sort", "topk",
    "unique", "unique_all", "unique_consecutive", "unique_counts", "unique_inverse", "unique_values",
]  # fmt: skip
