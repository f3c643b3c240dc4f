"""Sorting, searching and sets. Sorted elements are taken by index, so that gradients pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ir.dim import numel
from ..ir.dtypes import int32, int64
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .convert import as_tensor, cast_to, promote_operands
from .counting import Runs
from .creation import arange, full, zeros_like
from .devices import is_on_gpu
from .dispatch import run
from .elementwise import equal, isnan, logical_not, minimum, where
from .manipulation import moveaxis, narrow, owned, ravel, reshape, take, take_along_axis
from .state import state
from .tensor import Tensor, new_tensor


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
    return UniqueAll(*unique_parts(as_tensor(x), None))


def unique_parts(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `unique_all`, or of the slices along an axis."""
    if state.tracer is None and not is_on_gpu(x):
        found, first, inverse, counts = np.unique(x._data, True, True, True, axis, equal_nan=False)
        inverse = inverse.reshape(x.shape if axis is None else (x.shape[axis],))
        return new_tensor(np.ascontiguousarray(found)), new_tensor(first), new_tensor(inverse), new_tensor(counts)
    rows = ravel(x) if axis is None else moveaxis(x, axis, 0)
    order = _order(rows)
    ordered = take(rows, order, axis=0)
    runs = Runs(ordered)
    found = take(ordered, runs.first, axis=0)
    inverse = run(get_op("scatter"), (zeros_like(order), runs.of, order), {"mode": "set"})
    if axis is None:
        inverse = reshape(inverse, x.shape)
    else:
        found = moveaxis(found, 0, axis)
    return found, take(order, runs.first, axis=0), inverse, runs.lengths


def _order(rows: Tensor) -> Tensor:
    """The permutation that sorts a flat tensor, or rows by their first elements, then their second ones, and so on."""
    if rows.ndim == 1:
        return argsort(rows, axis=0)
    flat = reshape(rows, (rows.shape[0], numel(rows.shape[1:])))
    order = arange(rows.shape[0], dtype=int64)
    for k in reversed(range(flat.shape[1])):
        keys = take(reshape(narrow(flat, 1, k, k + 1), (rows.shape[0],)), order, axis=0)
        order = take(order, argsort(keys, axis=0), axis=0)
    return order


def unique(
    x: Any, /, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, axis: int | None = None,
    *, dim: int | None = None,
) -> Any:  # fmt: skip
    """The different elements of x in rising order, or the different slices along `axis`; on request with, for each
    element of x, its position among them, and how often each occurs."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    values, _, inverse, counts = unique_parts(x, None if axis is None else normalize_axis(axis, x.ndim))
    return _chosen(values, inverse, counts, return_inverse, return_counts)


def unique_consecutive(
    x: Any, /, return_inverse: bool = False, return_counts: bool = False, axis: int | None = None, *,
    dim: int | None = None,
) -> Any:  # fmt: skip
    """x without the elements (or slices along `axis`) that equal the one before them; the rest as in `unique`."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    rows = ravel(x) if axis is None else moveaxis(x, axis, 0)
    runs = Runs(rows)
    kept = take(rows, runs.first, axis=0)
    kept, of = (kept, reshape(runs.of, x.shape)) if axis is None else (owned(moveaxis(kept, 0, axis)), runs.of)
    return _chosen(kept, of, runs.lengths, return_inverse, return_counts)


def _chosen(values: Tensor, inverse: Tensor, counts: Tensor, with_inverse: bool, with_counts: bool) -> Any:
    out = [values, *([inverse] if with_inverse else []), *([counts] if with_counts else [])]
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
    return unique_parts(as_tensor(x), None)[0]


def unique_counts(x: Any, /) -> UniqueCounts:
    """The different elements of x in rising order, and how often each occurs."""
    values, _, _, counts = unique_parts(as_tensor(x), None)
    return UniqueCounts(values, counts)


def unique_inverse(x: Any, /) -> UniqueInverse:
    """The different elements of x in rising order, and for each element of x its position among them."""
    found = unique_all(x)
    return UniqueInverse(found.values, found.inverse_indices)


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
    "argsort", "bucketize", "isin", "median", "searchsorted", "sort", "topk",
    "unique", "unique_all", "unique_consecutive", "unique_counts", "unique_inverse", "unique_values",
]  # fmt: skip
