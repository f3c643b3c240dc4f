"""Indexing: x[key] and x[key] = value.

Outside of traces, and where no gradient is needed, NumPy does it on the ndarrays. Otherwise a key becomes ops:
`slice` and `reshape` for ints, slices, None and Ellipsis (a view), then `permute` and `gather` (a copy) if it holds
index tensors; writes go through the same view, by `scatter` where there are index tensors. Boolean masks become
index tensors first, which needs their values.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ..ir import dim
from ..ir.decider import decider
from ..ir.dim import Dim, DimLike
from ..ir.dtypes import bool_, int64
from ..ir.op import get_op
from ..ir.types import broadcast_shapes
from .convert import as_size, as_tensor, cast_to, is_scalar, scalar_dtype, scalar_tensor
from .counting import true_positions, unraveled
from .creation import zeros
from .devices import is_on_gpu
from .dispatch import apply, assign, check_writable, run
from .elementwise import where
from .manipulation import broadcast_to, flip, index_tensor, permute_dims, reshape
from .state import SymbolicScalar, state
from .tape import needs_grad, root_of
from .tensor import Tensor, new_tensor


def getitem(x: Any, key: Any) -> Tensor:
    """x[key]. A view for ints, slices, None and Ellipsis; a copy if there are index tensors, masks or negative steps.

    IndexError for positions out of range and for keys that no tensor has.
    """
    if state.tracer is None and type(x._data) is np.ndarray and not (state.grad_enabled and needs_grad(x)):
        plain = _numpy_key(key)
        if plain is not None:
            return new_tensor(x._data[plain])  # index arrays: NumPy copies
    mask = _single_mask(x, key)
    if mask is not None:
        rows = reshape(x, (dim.numel(mask.shape), *x.shape[mask.ndim :]))
        return run(get_op("gather"), (rows, true_positions(mask)), {})
    items = _expand(x, key)
    view, flips, advanced, at = _basic_part(x, items)
    if flips:
        view = flip(view, flips)
    if not advanced:
        return view
    front, back = _to_front(view.ndim, advanced)
    out = run(get_op("gather"), (permute_dims(view, front) if front else view, *_index_tensors(view, advanced)), {})
    return _place(out, view.ndim, advanced, at, back)


def _numpy_key(key: Any) -> Any:
    """The key for NumPy if it makes a copy (index arrays or masks alone or among others), else None."""
    items = key if type(key) is tuple else (key,)
    if not any(isinstance(k, (Tensor, np.ndarray, list, bool, np.bool_)) for k in items):
        return None
    plain = tuple(_numpy_item(k) for k in items)
    for k in plain:
        if isinstance(k, np.ndarray) and (k.ndim > 0 or k.dtype == np.bool_):
            return plain
    return None


def _numpy_item(k: Any) -> Any:
    if isinstance(k, Tensor):
        return k.numpy()
    if isinstance(k, (list, bool, np.bool_)):
        array = as_tensor(k).numpy() if not isinstance(k, list) or k else np.zeros(0, np.int64)
        return array
    return k


# ------------------------------------------------------------------ reading a key


def _expand(x: Tensor, key: Any) -> list[Any]:
    """One entry per axis of x, plus None and 0-d masks: int, slice, None, or an index Tensor. Masks are made into
    indices."""
    items = list(key) if type(key) is tuple else [key]
    items = [_normal_item(k) for k in items]
    used = sum(_axes_of(k) for k in items)
    if used > x.ndim:
        raise IndexError(f"too many indices: {used} for a tensor of shape {x.shape}")
    ellipses = [i for i, k in enumerate(items) if k is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    at = ellipses[0] if ellipses else len(items)
    items[at : at + 1] = [slice(None)] * (x.ndim - used) or ([_NO_AXES] if ellipses else [])
    out: list[Any] = []
    axis = 0
    for k in items:
        if isinstance(k, Tensor) and k.dtype is bool_:
            sizes = x.shape[axis : axis + k.ndim]
            if k.ndim and 0 not in k.shape and k.shape != sizes:  # NumPy takes empty masks for any size
                raise IndexError(
                    f"a mask of shape {k.shape} does not fit the axes {sizes} of a tensor of shape {x.shape}"
                )
            out.extend(_mask_indices(k))
        else:
            out.append(k)
        axis += _axes_of(k)
    return out


class _NoAxes:
    """An ellipsis that stands for no axis: it still keeps index tensors on its two sides apart, as in NumPy."""


_NO_AXES = _NoAxes()


def _normal_item(k: Any) -> Any:
    if isinstance(k, SymbolicScalar):
        k = k.as_index()
    if isinstance(k, slice):
        return slice(*(None if v is None else as_size(v) for v in (k.start, k.stop, k.step)))
    if k is None or k is Ellipsis or isinstance(k, Dim):
        return k
    if isinstance(k, (bool, np.bool_)):
        return new_tensor(np.asarray(k))
    if isinstance(k, (list, np.ndarray, Tensor)):
        t = as_tensor(k) if not isinstance(k, list) or k else new_tensor(np.zeros(0, np.int64))
        if not (t.dtype.is_integer or t.dtype is bool_):
            raise IndexError(f"index tensors must be integers or bools, not {t.dtype.name}")
        return t
    if hasattr(k, "__index__"):
        return k.__index__()
    raise IndexError(f"a {type(k).__name__} is no index; use ints, slices, None, ..., and integer or bool tensors")


def _axes_of(k: Any) -> int:
    """How many axes of the tensor an entry stands for."""
    if k is None or k is Ellipsis or k is _NO_AXES:
        return 0
    return k.ndim if isinstance(k, Tensor) and k.dtype is bool_ else 1


class _MaskScalar:
    """A 0-d mask: a new axis of size 1 that is indexed by one 0, or by nothing."""

    def __init__(self, index: Tensor):
        self.index = index


def _mask_indices(mask: Tensor) -> list[Any]:
    if mask.ndim == 0:
        return [_MaskScalar(zeros(int(bool(mask)), dtype=int64))]
    return list(unraveled(true_positions(mask), mask.shape))


# ------------------------------------------------------------------ the parts of a key

Advanced = list[tuple[int, Any]]  # (axis of the view, index tensor or int)


def _basic_part(x: Tensor, items: list[Any]) -> tuple[Tensor, tuple[int, ...], Advanced, int]:
    """The view that ints, slices and None give; axes of it to flip; what is left to gather; where its axes belong.

    Next to index tensors, ints are index tensors too, as in NumPy.
    """
    has_tensors = any(isinstance(k, (Tensor, _MaskScalar)) for k in items)
    starts: list[DimLike] = []
    stops: list[DimLike] = []
    steps: list[int] = []
    shape: list[DimLike] = []
    flips: list[int] = []
    advanced: Advanced = []
    positions: list[int] = []
    axis = 0
    for place, k in enumerate(items):
        if k is _NO_AXES:
            continue
        if k is None:
            shape.append(1)
            continue
        if isinstance(k, _MaskScalar):
            advanced.append((len(shape), k.index))
            positions.append(place)
            shape.append(1)
            continue
        size = x.shape[axis]
        if isinstance(k, slice):
            start, stop, step, count = slice_bounds(k, size)
            if step < 0:
                flips.append(len(shape))
            shape.append(count)
        elif isinstance(k, Tensor):
            start, stop, step = 0, size, 1
            advanced.append((len(shape), k))
            positions.append(place)
            shape.append(size)
        else:
            start = _position(k, size, axis, x.shape)
            stop, step = start + 1, 1
            if has_tensors:
                advanced.append((len(shape), 0))
                positions.append(place)
                shape.append(1)
        starts.append(start)
        stops.append(stop)
        steps.append(abs(step))
        axis += 1
    view = x
    whole = all(dim.same(s, 0) for s in starts) and all(map(dim.same, stops, x.shape)) and all(s == 1 for s in steps)
    if not whole:
        view = apply(get_op("slice"), x, start=tuple(starts), stop=tuple(stops), step=tuple(steps))
    if view is x or len(shape) != view.ndim or not all(map(dim.same, shape, view.shape)):
        view = apply(get_op("reshape"), view, shape=tuple(shape))
    together = all(b - a == 1 for a, b in pairwise(positions))
    return view, tuple(flips), advanced, advanced[0][0] if advanced and together else 0


def _position(k: Any, size: DimLike, axis: int, shape: tuple) -> Any:
    if isinstance(k, int) and isinstance(size, int) or decider() is not None:
        if not (k < size and -k <= size):
            raise IndexError(f"index {k} is out of bounds for axis {axis} of shape {shape}")
        return k + size if k < 0 else k
    return k + size if isinstance(k, int) and k < 0 else k


def slice_bounds(s: slice, size: DimLike) -> tuple[Any, Any, int, Any]:
    """(start, stop, step, count) of a slice of an axis. For a negative step, start:stop:-step holds the same
    elements in rising order."""
    step = 1 if s.step is None else s.step.__index__()
    if step == 0:
        raise ValueError("slice step cannot be zero")
    if isinstance(size, int) and not isinstance(s.start, Dim) and not isinstance(s.stop, Dim):
        start, stop, step = s.indices(size)
        count = len(range(start, stop, step))
        if count == 0:
            return 0, 0, 1 if step > 0 else -1, 0
        if step < 0:
            first = start + (count - 1) * step
            return first, start + 1, step, count
        return start, min(size, max(stop, start)), step, count
    if step < 0:
        if s.start is not None or s.stop is not None:
            raise IndexError(f"a slice with a negative step of an axis of symbolic size {size} can have no bounds")
        first = dim.mod(size - 1, -step)
        return first, size, step, dim.ceildiv(size, -step)
    start = _bound(s.start, size, 0)
    stop = _larger(_bound(s.stop, size, size), start)
    return start, stop, step, dim.ceildiv(stop - start, step)


def _bound(k: Any, size: DimLike, missing: DimLike) -> DimLike:
    if k is None:
        return missing
    if isinstance(k, Dim):
        if decider() is None:
            return dim.minimum(k, size)
        return _larger(size + k, 0) if k < 0 else k if k <= size else size
    k = k.__index__()
    return dim.maximum(size + k, 0) if k < 0 else dim.minimum(k, size)


def _larger(a: DimLike, b: DimLike) -> DimLike:
    """The maximum; where somebody decides on sizes, the one that it is now."""
    return dim.maximum(a, b) if decider() is None else a if a >= b else b


def _index_tensors(view: Tensor, advanced: Advanced) -> list[Tensor]:
    return [index_tensor(as_tensor(k), view.shape[a]) for a, k in advanced]


def _to_front(rank: int, advanced: Advanced) -> tuple[tuple[int, ...] | None, tuple[int, ...]]:
    """The permutation that brings the indexed axes to the front (None if they are there), and the other axes."""
    axes = [a for a, _ in advanced]
    rest = tuple(a for a in range(rank) if a not in axes)
    perm = (*axes, *rest)
    return (None if perm == tuple(range(rank)) else perm), rest


def _place(out: Tensor, rank: int, advanced: Advanced, at: int, rest: tuple[int, ...]) -> Tensor:
    """The axes of the index moved from the front to where the indexed axes were."""
    k = out.ndim - len(rest)
    if at == 0 or k == 0:
        return out
    out = permute_dims(out, (*range(k, k + at), *range(k), *range(k + at, out.ndim)))
    return apply(get_op("cast"), out, dtype=out.dtype)  # a copy, as all gathered results are


# ------------------------------------------------------------------ writing


def setitem(x: Any, key: Any, value: Any) -> None:
    """x[key] = value, in place. The value is cast to the dtype of x and broadcasts; of indices that occur twice the
    last wins."""
    if not isinstance(value, Tensor):
        value = _number_for(x, value) if is_scalar(value) else as_tensor(value)
    if value.dtype is not x.dtype:
        value = cast_to(value, x.dtype)
    plain = state.tracer is None and not is_on_gpu(x, value)
    if plain and not (state.grad_enabled and (needs_grad(x) or needs_grad(value))):
        check_writable(x, "x[key] = value")
        x._data[_whole_numpy_key(key)] = value._data
        root = root_of(x)
        root._version = (root._version or 0) + 1
        return
    mask = _single_mask(x, key)
    if mask is not None and value.ndim == 0:
        mask = reshape(mask, mask.shape + (1,) * (x.ndim - mask.ndim))
        assign(x, where(mask, value, x), "x[mask] = value")
        return
    items = _expand(x, key)
    view, flips, advanced, at = _basic_part(x, items)
    if not advanced:
        new = _fitted(value, view.shape)
        new = flip(new, flips) if flips else new
        assign(view, apply(get_op("cast"), new, dtype=new.dtype) if new is value else new, "x[key] = value")
        return
    target = flip(view, flips) if flips else view
    front, rest = _to_front(view.ndim, advanced)
    moved = permute_dims(target, front) if front else target
    indices = _index_tensors(view, advanced)
    index_shape = broadcast_shapes(*(i.shape for i in indices))
    sizes = tuple(view.shape[a] for a in rest)
    updates = _fitted(value, (*sizes[:at], *index_shape, *sizes[at:]))
    if at:
        k = len(index_shape)
        updates = permute_dims(updates, (*range(at, at + k), *range(at), *range(at + k, updates.ndim)))
    new = run(get_op("scatter"), (moved, updates, *indices), {"mode": "set"})
    new = permute_dims(new, tuple(sorted(range(view.ndim), key=front.__getitem__))) if front else new
    assign(view, flip(new, flips) if flips else new, "x[key] = value")


def _number_for(x: Tensor, value: Any) -> Tensor:
    """A number that is written into x: of the dtype of x where promotion says so, so that no digit is lost."""
    dtype = scalar_dtype(x.dtype, value)
    return scalar_tensor(value, dtype if dtype is x.dtype else None)


def _whole_numpy_key(key: Any) -> Any:
    return tuple(_numpy_item(k) for k in key) if type(key) is tuple else _numpy_item(key)


def _single_mask(x: Tensor, key: Any) -> Tensor | None:
    if isinstance(key, (Tensor, np.ndarray)):
        mask = as_tensor(key)
        if mask.dtype is bool_ and 0 < mask.ndim <= x.ndim and mask.shape == x.shape[: mask.ndim]:
            return mask
    return None


def _fitted(value: Tensor, shape: tuple) -> Tensor:
    """The value broadcast to the region it is written to; leading axes of size 1 may be left over, as in NumPy."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = reshape(value, value.shape[1:])
    return broadcast_to(value, shape)
