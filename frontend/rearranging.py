"""PyTorch's names for moving elements around: splitting, stacking, flipping, diagonals, windows, strided views."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ir.dim import numel
from ..ir.dtypes import bool_, dtype_of, int64
from ..ir.op import get_op
from ..ir.types import broadcast_shapes, normalize_axis
from . import elementwise as e
from .convert import as_tensor
from .counting import repeat
from .creation import as_shape, full, iota
from .dispatch import run
from .manipulation import (
    broadcast_arrays,
    broadcast_to,
    chunk,
    concat,
    diagonal,
    expand_dims,
    flip,
    moveaxis,
    narrow,
    permute_dims,
    ravel,
    reshape,
    split,
    squeeze,
    swapaxes,
    take_along_axis,
    unstack,
)  # fmt: skip
from .reductions import sum
from .tensor import Tensor

# ------------------------------------------------------------------ splitting


def tensor_split(x: Any, indices_or_sections: Any, axis: int = 0, *, dim: int | None = None) -> tuple[Tensor, ...]:
    """Views of consecutive parts along `axis`: of so many parts of nearly equal size, or cut at these indices."""
    x = as_tensor(x)
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = indices_or_sections.tolist()
    a = normalize_axis(axis if dim is None else dim, x.ndim)
    n = x.shape[a]
    if isinstance(indices_or_sections, int):
        parts = indices_or_sections
        if parts <= 0:
            raise ValueError(f"tensor_split: the number of parts must be positive, not {parts}")
        cuts = [i * (n // parts) + min(i, n % parts) for i in range(1, parts)]
    else:
        cuts = [min(max(c + n if c < 0 else c, 0), n) for c in indices_or_sections]
    edges = [0, *cuts, n]
    return tuple(narrow(x, a, low, max(low, high)) for low, high in zip(edges, edges[1:]))


def _splitter(name: str, least: int, axis: int) -> Any:
    def function(x: Any, indices_or_sections: Any) -> tuple[Tensor, ...]:
        x = as_tensor(x)
        if x.ndim < least:
            raise ValueError(f"{name} needs at least {least} dimensions, not shape {x.shape}")
        at = 0 if name == "hsplit" and x.ndim == 1 else axis
        if isinstance(indices_or_sections, int) and (indices_or_sections <= 0 or x.shape[at] % indices_or_sections):
            raise ValueError(f"{name}: axis {at} of shape {x.shape} has no {indices_or_sections} equal parts")
        return tensor_split(x, indices_or_sections, at)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Views of consecutive parts along axis {axis}: equal ones, or cut at these indices."
    return function


hsplit, vsplit, dsplit = _splitter("hsplit", 1, 1), _splitter("vsplit", 2, 0), _splitter("dsplit", 3, 2)


def split_with_sizes(x: Any, split_sizes: Sequence[int], axis: int = 0, *, dim: int | None = None):
    """Views of consecutive parts of these sizes along `axis`."""
    return split(x, list(split_sizes), axis, dim=dim)


def unsafe_split(x: Any, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """`split`."""
    return split(x, split_size, dim)


def unsafe_chunk(x: Any, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`chunk`."""
    return chunk(x, chunks, dim)


def unbind(x: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """The views x[0], x[1], ... along an axis."""
    return unstack(x, axis=dim)


# ------------------------------------------------------------------ at least so many axes, stacking


def _each(function: Any, tensors: tuple) -> Any:
    if len(tensors) == 1:
        given = tensors[0]
        return tuple(map(function, given)) if isinstance(given, (list, tuple)) else function(given)
    return tuple(map(function, tensors))


def _one(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.ndim else reshape(x, (1,))


def _two(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.ndim > 1 else expand_dims(_one(x), 0)


def _three(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.ndim > 2 else expand_dims(_two(x), 2)


def atleast_1d(*tensors: Any) -> Any:
    """Each tensor with at least one axis."""
    return _each(_one, tensors)


def atleast_2d(*tensors: Any) -> Any:
    """Each tensor with at least two axes: vectors are rows."""
    return _each(_two, tensors)


def atleast_3d(*tensors: Any) -> Any:
    """Each tensor with at least three axes: a new one behind matrices, and on both sides of vectors."""
    return _each(_three, tensors)


def hstack(tensors: Sequence[Any]) -> Tensor:
    """Joined along axis 1 (vectors: along axis 0)."""
    parts = list(map(_one, tensors))
    return concat(parts, axis=0 if parts[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Tensor:
    """Joined along axis 0; vectors are rows."""
    return concat(list(map(_two, tensors)), axis=0)


def dstack(tensors: Sequence[Any]) -> Tensor:
    """Joined along axis 2."""
    return concat(list(map(_three, tensors)), axis=2)


def column_stack(tensors: Sequence[Any]) -> Tensor:
    """Joined along axis 1; vectors are columns."""
    return hstack(
        [reshape(t, (t.size if t.ndim == 0 else t.shape[0], 1)) if t.ndim < 2 else t for t in map(as_tensor, tensors)]
    )


row_stack = vstack


def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Each element (or slice along an axis) repeated in place: `repeats` times, or by a list of counts."""
    return repeat(x, repeats, axis=dim)


def cat(tensors: Sequence[Any], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """`concat`, except that 1-D tensors without elements are left out, as PyTorch does."""
    listed = [as_tensor(t) for t in tensors]
    full_ones = [t for t in listed if not (t.ndim == 1 and isinstance(t.shape[0], int) and t.shape[0] == 0)]
    return concat(full_ones or listed, axis=dim if axis is None else axis)


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """All tensors broadcast to their common shape."""
    return broadcast_arrays(*tensors)


# ------------------------------------------------------------------ axes


def movedim(x: Any, source: Any, destination: Any) -> Tensor:
    """The axes `source` moved to `destination`. A view."""
    x = as_tensor(x)
    return moveaxis(x, source, destination) if x.ndim else x


def swapdims(x: Any, dim0: int, dim1: int) -> Tensor:
    """With two axes exchanged. A view."""
    return swapaxes(x, dim0, dim1)


def transpose(x: Any, dim0: int, dim1: int) -> Tensor:
    """With two axes exchanged. A view."""
    return swapaxes(x, dim0, dim1)


def permute(x: Any, dims: Sequence[int]) -> Tensor:
    """Axis i of the result is axis dims[i] of x. A view."""
    return permute_dims(x, dims)


def t(x: Any) -> Tensor:
    """The transpose of a matrix; vectors and numbers as they are."""
    x = as_tensor(x)
    if x.ndim > 2:
        raise ValueError(f"t takes up to 2 dimensions, not shape {x.shape}; use permute or transpose")
    return permute_dims(x, range(x.ndim)[::-1])


def unsqueeze(x: Any, dim: int) -> Tensor:
    """With a new axis of size 1 at position `dim` of the result. A view."""
    return expand_dims(x, dim)


def unflatten(x: Any, dim: int, sizes: Any) -> Tensor:
    """One axis as several of these sizes (one may be -1). A view."""
    x = as_tensor(x)
    a = normalize_axis(dim, x.ndim)
    sizes = tuple(sizes) if hasattr(sizes, "__iter__") else (sizes,)
    known = [d for d in sizes if not (isinstance(d, int) and d == -1)]
    n = x.shape[a]
    if len(known) < len(sizes) - 1 or len(known) == len(sizes) and numel(tuple(known)) != n:
        raise ValueError(f"unflatten: sizes {sizes} do not make up axis {a} of shape {x.shape}")
    if len(known) < len(sizes):
        rest = numel(tuple(known))
        if isinstance(n, int) and (rest == 0 or n % rest):
            raise ValueError(f"unflatten: sizes {sizes} do not make up axis {a} of shape {x.shape}")
        sizes = tuple(n // rest if isinstance(d, int) and d == -1 else d for d in sizes)
    return reshape(x, (*x.shape[:a], *sizes, *x.shape[a + 1 :]))


def sum_to_size(x: Any, *size: Any) -> Tensor:
    """Summed over the axes that broadcasting from `size` would add or repeat."""
    x = as_tensor(x)
    wanted = as_shape(size[0] if len(size) == 1 and hasattr(size[0], "__iter__") else size)
    if broadcast_shapes(x.shape, wanted) != x.shape:
        raise ValueError(f"sum_to_size: shape {wanted} does not broadcast to {x.shape}")
    lead = x.ndim - len(wanted)
    axes = (*range(lead), *(i + lead for i, d in enumerate(wanted) if d == 1 and x.shape[i + lead] != 1))
    return reshape(sum(x, axis=axes, dtype=x.dtype), wanted) if axes else x


# ------------------------------------------------------------------ turning and flipping


def fliplr(x: Any) -> Tensor:
    """In reverse order along axis 1."""
    return flip(x, axis=1)


def flipud(x: Any) -> Tensor:
    """In reverse order along axis 0."""
    return flip(x, axis=0)


def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned k times by 90 degrees in the plane of two axes, from the first towards the second."""
    x = as_tensor(x)
    a, b = (normalize_axis(d, x.ndim) for d in dims)
    if a == b:
        raise ValueError(f"rot90: the axes {tuple(dims)} must be different")
    turns = k % 4
    if turns == 0:
        return e.positive(x)
    if turns == 2:
        return flip(x, axis=(a, b))
    return flip(swapaxes(x, a, b), axis=a if turns == 1 else b)


# ------------------------------------------------------------------ diagonals


def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The last axis on the diagonal `offset` of two new axes, zeros elsewhere."""
    x = as_tensor(x)
    rank = x.ndim + 1
    a, b = normalize_axis(dim1, rank), normalize_axis(dim2, rank)
    if a == b:
        raise ValueError(f"diag_embed: dim1 and dim2 are the same axis {a}")
    if a > b:
        a, b, offset = b, a, -offset
    n = x.shape[-1] + builtins.abs(offset)
    steps = iota(x.shape[-1], int64)
    zero = full((n, n, *x.shape[:-1]), False if x.dtype is bool_ else 0, dtype=x.dtype)
    rows, columns = e.add(steps, max(-offset, 0)), e.add(steps, max(offset, 0))
    out = run(get_op("scatter"), (zero, moveaxis(x, -1, 0), rows, columns), {"mode": "set"})
    return moveaxis(out, (0, 1), (a, b))


def diagflat(x: Any, offset: int = 0) -> Tensor:
    """All elements on diagonal `offset` of a matrix."""
    return diag_embed(ravel(x), offset)


def diagonal_scatter(x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """x with `src` on a diagonal of two axes."""
    x, src = as_tensor(x), as_tensor(src)
    a, b = normalize_axis(dim1, x.ndim), normalize_axis(dim2, x.ndim)
    moved = moveaxis(x, (a, b), (0, 1))
    rows, columns = moved.shape[:2]
    n = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    steps = iota(n, int64)
    at = (e.add(steps, max(-offset, 0)), e.add(steps, max(offset, 0)))
    out = run(get_op("scatter"), (moved, moveaxis(src, -1, 0), *at), {"mode": "set"})
    return moveaxis(out, (0, 1), (a, b))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The (row, column) indices of a matrix' lower triangle: shape [2, n]."""
    return as_tensor(np.stack(np.tril_indices(row, offset, col)).astype(dtype_of(int64 if dtype is None else dtype).np))


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The (row, column) indices of a matrix' upper triangle: shape [2, n]."""
    return as_tensor(np.stack(np.triu_indices(row, offset, col)).astype(dtype_of(int64 if dtype is None else dtype).np))


# ------------------------------------------------------------------ windows, strides and slices


def unfold(x: Any, dimension: int, size: int, step: int) -> Tensor:
    """All windows of `size` along an axis, `step` apart, as a new last axis. A copy."""
    x = as_tensor(x)
    if x.ndim == 0:
        x = reshape(x, (1,))
        return broadcast_to(x, (size,)) if size == 1 else x[:size]
    a = normalize_axis(dimension, x.ndim)
    if not 0 <= size <= x.shape[a] or step <= 0:
        raise ValueError(f"unfold: windows of {size}, {step} apart, do not fit axis {a} of shape {x.shape}")
    count = (x.shape[a] - size) // step + 1
    at = e.add(reshape(e.multiply(iota(count, int64), step), (count, 1)), reshape(iota(size, int64), (1, size)))
    return moveaxis(run(get_op("gather"), (moveaxis(x, a, 0), at), {}), (0, 1), (a, -1))


def as_strided(x: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """Elements of the storage order of x: out[i, j] = x.ravel()[offset + i * stride[0] + j * stride[1]]. A copy."""
    x = as_tensor(x)
    at = _strided_index(as_shape(size), as_shape(stride), int(storage_offset or 0))
    return run(get_op("gather"), (ravel(x), at), {})


def _strided_index(size: tuple, stride: tuple, offset: int) -> Tensor:
    if len(size) != len(stride):
        raise ValueError(f"as_strided: {len(size)} sizes for {len(stride)} strides")
    at: Any = full((1,) * len(size), offset, dtype=int64)
    for i, (n, s) in enumerate(zip(size, stride)):
        steps = reshape(e.multiply(iota(n, int64), s), tuple(n if k == i else 1 for k in range(len(size))))
        at = e.add(at, steps)
    return broadcast_to(at, size)


def as_strided_scatter(x: Any, src: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Tensor:
    """x with `src` put where `as_strided` reads."""
    x = as_tensor(x)
    at = _strided_index(as_shape(size), as_shape(stride), int(storage_offset or 0))
    return reshape(run(get_op("scatter"), (ravel(x), as_tensor(src), at), {"mode": "set"}), x.shape)


def select(x: Any, dim: int, index: Any) -> Tensor:
    """x[index] along an axis. A view."""
    x = as_tensor(x)
    return x[(*(slice(None),) * normalize_axis(dim, x.ndim), index)]


def select_scatter(x: Any, src: Any, dim: int, index: int) -> Tensor:
    """x with `src` as its part x[index] along an axis."""
    x = as_tensor(x)
    a = normalize_axis(dim, x.ndim)
    return slice_scatter(x, expand_dims(src, a), a, index, index + 1 if index != -1 else None)


def slice_scatter(
    x: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """x with `src` as its part x[start:end:step] along an axis."""
    from .indexing import slice_bounds

    x = as_tensor(x)
    a = normalize_axis(dim, x.ndim)
    first, last, step, count = slice_bounds(slice(start, end, step), x.shape[a])
    values = broadcast_to(src, tuple(count if i == a else d for i, d in enumerate(x.shape)))
    attrs = {
        "start": tuple(first if i == a else 0 for i in range(x.ndim)),
        "stop": tuple(last if i == a else d for i, d in enumerate(x.shape)),
        "step": tuple(step if i == a else 1 for i in range(x.ndim)),
    }
    return run(get_op("slice_scatter"), (x, values), attrs)


def slice_copy(x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """x[start:end:step] along an axis. A copy."""
    x = as_tensor(x)
    return e.positive(x[(*(slice(None),) * normalize_axis(dim, x.ndim), slice(start, end, step))])


def take_along_dim(x: Any, indices: Any, dim: int | None = None) -> Tensor:
    """`take_along_axis` with indices that broadcast; of the flat tensor if no axis is given."""
    x, at = as_tensor(x), as_tensor(indices)
    if dim is None:
        return take_along_axis(ravel(x), ravel(at), axis=0)
    a = normalize_axis(dim, x.ndim)
    shape = broadcast_shapes(*(tuple(1 if i == a else d for i, d in enumerate(t.shape)) for t in (x, at)))
    wide = [broadcast_to(t, tuple(t.shape[a] if i == a else d for i, d in enumerate(shape))) for t in (x, at)]
    return take_along_axis(*wide, axis=a)


def unravel_index(indices: Any, shape: Any) -> tuple[Tensor, ...]:
    """Flat indices as one index tensor for each axis of `shape`."""
    at, out = as_tensor(indices), []
    for d in reversed(as_shape(shape)):
        out.append(e.remainder(at, d))
        at = e.floor_divide(at, d)
    return tuple(reversed(out))


def constant_pad_nd(x: Any, pad: Sequence[int], value: float = 0) -> Tensor:
    """`nn.functional.pad` with one value."""
    from .nn.functional import pad as function

    return function(as_tensor(x), pad, value=value)


# ------------------------------------------------------------------ copies


def _copying(function: Any, name: str) -> Any:
    def copy(x: Any, *args: Any, **kwargs: Any) -> Any:
        out = function(as_tensor(x), *args, **kwargs)
        return tuple(map(e.positive, out)) if isinstance(out, (list, tuple)) else e.positive(out)

    copy.__name__ = copy.__qualname__ = name
    copy.__doc__ = f"`{name.removesuffix('_copy')}` as a copy that shares no memory."
    return copy


def narrow_along(x: Any, dim: int, start: Any, length: int) -> Tensor:
    """x[start : start + length] along an axis. A view."""
    return as_tensor(x).narrow(dim, start, length)


alias_copy = _copying(lambda x: x, "alias_copy")
as_strided_copy = _copying(as_strided, "as_strided_copy")
diagonal_copy = _copying(
    lambda x, offset=0, dim1=0, dim2=1: diagonal(x, offset=offset, axis1=dim1, axis2=dim2), "diagonal_copy"
)
expand_copy = _copying(lambda x, size: broadcast_to(x, size), "expand_copy")
narrow_copy = _copying(narrow_along, "narrow_copy")
permute_copy = _copying(permute_dims, "permute_copy")
split_with_sizes_copy = _copying(split_with_sizes, "split_with_sizes_copy")
squeeze_copy = _copying(lambda x, dim=None: squeeze(x, dim=dim), "squeeze_copy")
t_copy = _copying(t, "t_copy")
transpose_copy = _copying(transpose, "transpose_copy")
unbind_copy = _copying(unbind, "unbind_copy")
unfold_copy = _copying(unfold, "unfold_copy")
unsqueeze_copy = _copying(unsqueeze, "unsqueeze_copy")
view_copy = _copying(lambda x, size: as_tensor(x).view(size), "view_copy")

__all__ = [
    "alias_copy", "as_strided", "as_strided_copy", "as_strided_scatter", "atleast_1d", "atleast_2d", "atleast_3d",
    "broadcast_tensors", "cat", "column_stack", "constant_pad_nd", "diag_embed", "diagflat", "diagonal_copy",
    "diagonal_scatter", "dsplit", "dstack", "expand_copy", "fliplr", "flipud", "hsplit", "hstack", "movedim",
    "narrow_copy", "permute", "permute_copy", "repeat_interleave", "rot90", "row_stack", "select", "select_scatter",
    "slice_copy", "slice_scatter", "split_with_sizes", "split_with_sizes_copy", "squeeze_copy", "sum_to_size",
    "swapdims", "t", "t_copy", "take_along_dim", "tensor_split", "transpose", "transpose_copy", "tril_indices",
    "triu_indices", "unbind", "unbind_copy", "unflatten", "unfold", "unfold_copy", "unravel_index", "unsafe_chunk",
    "unsafe_split", "unsqueeze", "unsqueeze_copy", "view_copy", "vsplit", "vstack",
]  # fmt: skip
