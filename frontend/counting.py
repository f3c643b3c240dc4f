"""Results that are as long as values say: what a mask picks, what differs, what is repeated.

Outside of traces NumPy finds them. In a trace the length is a size that the tracer gives (`state.Tracer.size_of`), usually a
symbol, and positions are counted: where an element goes is how many before it go somewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.dim import DimLike
from ..ir.dtypes import bool_, int64
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .convert import as_tensor, cast_to
from .creation import full, zeros
from .devices import is_on_gpu
from .dispatch import run
from .elementwise import add, floor_divide, maximum, minimum, not_equal, remainder, subtract
from .manipulation import (
    broadcast_to,
    concat,
    cumulative_sum,
    expand_dims,
    narrow,
    owned,
    ravel,
    reshape,
    stack,
    take,
)
from .reductions import any, max, min, sum
from .state import state
from .tensor import Tensor, new_tensor


def true_positions(mask: Tensor) -> Tensor:
    """Where a bool tensor is true, counted through all its axes: int64 [how many], rising."""
    flat = ravel(mask)
    if state.tracer is None:
        return _counted_positions(flat) if is_on_gpu(flat) else new_tensor(np.flatnonzero(flat._data))
    known, value = state.tracer.positions, state.tracer.read(mask)
    if value not in known:
        known[value] = _counted_positions(flat)
    return known[value]


def _counted_positions(flat: Tensor) -> Tensor:
    n = flat.shape[0]
    if n == 0:
        return zeros(0, dtype=int64)
    room = run(get_op("positions"), (flat,), {})
    found = narrow(room, 0, 0, size_of(sum(cast_to(flat, int64)), n))
    return minimum(maximum(found, 0), n - 1)  # so that whoever gathers by it need not check


def size_of(count: Tensor, most: DimLike | None = None) -> DimLike:
    """A 0-d int64 tensor as a size; `most` says what it is at most."""
    return int(count._data) if state.tracer is None else state.tracer.size_of(count, most)


def unraveled(at: Tensor, shape: tuple) -> tuple[Tensor, ...]:
    """Positions counted through all axes, as one index for each axis."""
    out: list[Tensor] = []
    for k in range(len(shape) - 1, -1, -1):
        out.append(remainder(at, shape[k]) if k else at)
        at = floor_divide(at, shape[k]) if k else at
    return tuple(out[::-1])


class Runs:
    """A flat tensor, or the rows of one, as stretches of equal elements. first: where each begins. lengths. of: the
    number of the stretch that each element belongs to."""

    def __init__(self, rows: Tensor):
        n = rows.shape[0]
        if n == 0:
            self.first = self.lengths = self.of = zeros(0, dtype=int64)
            return
        differ = not_equal(narrow(rows, 0, 1, n), narrow(rows, 0, 0, n - 1))
        if rows.ndim > 1:
            differ = any(differ, axis=tuple(range(1, rows.ndim)))
        new = concat([full((1,), True), differ])
        self.first = true_positions(new)
        m = self.first.shape[0]
        ends = concat([narrow(self.first, 0, 1, m), full((1,), n, dtype=int64)])
        self.lengths = subtract(ends, self.first)
        self.of = subtract(cumulative_sum(cast_to(new, int64)), 1)


def repeated(counts: Tensor, n: DimLike) -> Tensor:
    """0 .. n - 1, each as often in a row as `counts` (of one or n elements) says: int64 [sum of counts]. ValueError for
    negative ones."""
    if state.tracer is None and not is_on_gpu(counts):
        return new_tensor(np.repeat(np.arange(int(n)), counts._data))
    if not counts.dtype.is_integer:
        raise TypeError(f"repeats must be integers, not {counts.dtype.name}")
    counts = cast_to(counts, int64)
    if counts.ndim > 1 or counts.ndim == 1 and counts.shape[0] != 1 and counts.shape[0] != n:
        raise ValueError(f"repeats of shape {counts.shape} do not fit {n} elements")
    if n == 0:
        return zeros(0, dtype=int64)
    if bool(min(counts) < 0):
        raise ValueError("repeats may not contain negative values")
    ends = cumulative_sum(add(counts, zeros(n, dtype=int64)))
    total = size_of(_last(ends))
    ended = run(get_op("scatter"), (zeros(total + 1, dtype=int64), full((n,), 1, dtype=int64), ends), {"mode": "add"})
    return narrow(cumulative_sum(ended), 0, 0, total)


def _last(x: Tensor) -> Tensor:
    """The last element of a 1-D tensor, 0-d."""
    n = x.shape[0]
    return reshape(narrow(x, 0, n - 1, n), ())


# ------------------------------------------------------------------ public functions


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """The indices of the elements that are not 0: one 1-D int64 tensor for each axis."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("nonzero needs at least one dimension")
    return unraveled(true_positions(_as_mask(x)), x.shape)


def argwhere(x: Any, /) -> Tensor:
    """The positions of the elements that are not 0, one in a row: int64 [n, x.ndim]."""
    x = as_tensor(x)
    at = true_positions(_as_mask(x))
    return stack(unraveled(at, x.shape), axis=1) if x.ndim else reshape(at, (at.shape[0], 0))


def bincount(x: Any, /, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... occurs in a 1-D tensor of non-negative integers."""
    x = as_tensor(x)
    if state.tracer is None and not is_on_gpu(x):
        return new_tensor(np.bincount(x._data, minlength=minlength))
    if not x.dtype.is_integer or x.ndim != 1:
        raise TypeError(f"bincount takes a 1-D tensor of integers, not {x.type}")
    if x.shape[0] == 0:
        return zeros(minlength, dtype=int64)
    if bool(min(x) < 0):
        raise ValueError("bincount: elements must not be negative")
    x = cast_to(x, int64)
    size = size_of(maximum(max(x) + 1, minlength))
    return run(get_op("scatter"), (zeros(size, dtype=int64), full(x.shape, 1, dtype=int64), x), {"mode": "add"})


def repeat(x: Any, repeats: Any, /, axis: int | None = None) -> Tensor:
    """Each element (or slice along `axis`) `repeats` times in a row. `repeats` may be a list or 1-D tensor of
    counts."""
    x = as_tensor(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalize_axis(axis, x.ndim)
    if not isinstance(repeats, int):
        return take(x, repeated(as_tensor(repeats), x.shape[axis]), axis=axis)
    wide = expand_dims(x, axis + 1)
    wide = broadcast_to(wide, tuple(repeats if i == axis + 1 else d for i, d in enumerate(wide.shape)))
    return owned(reshape(wide, tuple(d * repeats if i == axis else d for i, d in enumerate(x.shape))))


def _as_mask(x: Tensor) -> Tensor:
    return x if x.dtype is bool_ else not_equal(x, 0)


__all__ = ["argwhere", "bincount", "nonzero", "repeat"]
