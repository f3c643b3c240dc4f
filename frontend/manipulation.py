"""Functions that move elements around: shapes, axes, joining, repeating, taking along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir.dim import DimLike, floordiv, numel
from ..ir.dtypes import bool_, int32, int64
from ..ir.op import get_op
from ..ir.types import broadcast_shapes, normalize_axes, normalize_axis
from .convert import as_size, as_tensor, cast_to, promote_operands
from .creation import as_shape, full, iota
from .dispatch import run
from .elementwise import add, not_equal, where
from .state import state
from .tensor import Tensor

# ------------------------------------------------------------------ shapes


def reshape(x: Any, /, shape: Any, *, copy: bool | None = None) -> Tensor:
    """The same elements in row-major order under another shape; one size may be -1. A view where strides allow it.

    ValueError if the numbers of elements differ.
    """
    x = as_tensor(x)
    sizes = _with_inferred(tuple(shape) if hasattr(shape, "__iter__") else (shape,), x.shape)
    if copy:
        x = run(get_op("cast"), (x,), {"dtype": x.dtype})
    return run(get_op("reshape"), (x,), {"shape": sizes})


def _with_inferred(sizes: tuple, shape: tuple) -> tuple:
    sizes = tuple(map(as_size, sizes))
    unknown = [i for i, d in enumerate(sizes) if isinstance(d, int) and d == -1]
    total = numel(shape)
    if len(unknown) > 1 or any(isinstance(d, int) and d < -1 for d in sizes):
        raise ValueError(f"cannot reshape {shape} to {sizes}: at most one size may be -1, and no other negative")
    if unknown:
        known = numel(tuple(d for d in sizes if not (isinstance(d, int) and d == -1)))
        if isinstance(known, int) and (known == 0 or isinstance(total, int) and total % known):
            raise ValueError(f"cannot reshape {shape} to {sizes}: {total} elements do not divide by {known}")
        sizes = tuple(floordiv(total, known) if i == unknown[0] else d for i, d in enumerate(sizes))
    elif numel(sizes) != total:
        raise ValueError(f"cannot reshape {shape} to {sizes}: {total} elements become {numel(sizes)}")
    return sizes


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from start_dim to end_dim (both included) as one."""
    x = as_tensor(x)
    if x.ndim == 0:
        return reshape(x, (1,))
    first, last = normalize_axis(start_dim, x.ndim), normalize_axis(end_dim, x.ndim)
    if first > last:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(x, (*x.shape[:first], numel(x.shape[first : last + 1]), *x.shape[last + 1 :]))


def ravel(x: Any) -> Tensor:
    """All elements in one axis."""
    return reshape(x, (-1,)) if as_tensor(x).size != 0 else reshape(x, (0,))


def squeeze(x: Any, /, axis: Any = None, *, dim: Any = None) -> Tensor:
    """Without the axes of size 1 in `axis` (all of them if None). ValueError if one is longer (`dim`: it stays)."""
    x = as_tensor(x)
    if axis is None and dim is None:
        drop = tuple(i for i, d in enumerate(x.shape) if d == 1)
    else:
        drop = normalize_axes(axis if dim is None else dim, x.ndim) if x.ndim else ()
        if dim is not None:
            drop = tuple(a for a in drop if x.shape[a] == 1)
    for a in drop:
        if x.shape[a] != 1:
            raise ValueError(f"cannot squeeze axis {a} of shape {x.shape}: its size is not 1")
    return run(get_op("reshape"), (x,), {"shape": tuple(d for i, d in enumerate(x.shape) if i not in drop)})


def expand_dims(x: Any, /, axis: Any = 0, *, dim: Any = None) -> Tensor:
    """With new axes of size 1 at the positions `axis` of the result."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    count = x.ndim + (1 if isinstance(axis, int) else len(axis))
    new = normalize_axes(axis, count)
    old = iter(x.shape)
    return run(get_op("reshape"), (x,), {"shape": tuple(1 if i in new else next(old) for i in range(count))})


def permute_dims(x: Any, /, axes: Sequence[int]) -> Tensor:
    """Axis i of the result is axis axes[i] of x. A view."""
    x = as_tensor(x)
    perm = tuple(normalize_axis(a, x.ndim) for a in axes)
    if sorted(perm) != list(range(x.ndim)):
        raise ValueError(f"axes {tuple(axes)} are not a permutation of the {x.ndim} axes of shape {x.shape}")
    return run(get_op("permute"), (x,), {"perm": perm})


def moveaxis(x: Any, source: Any, destination: Any, /) -> Tensor:
    """The axes `source` moved to `destination`; the others keep their order."""
    x = as_tensor(x)
    sources = [normalize_axis(a, x.ndim) for a in ((source,) if isinstance(source, int) else source)]
    targets = [normalize_axis(a, x.ndim) for a in ((destination,) if isinstance(destination, int) else destination)]
    if len(sources) != len(targets) or len(set(sources)) != len(sources) or len(set(targets)) != len(targets):
        raise ValueError(f"moveaxis: {source} and {destination} must name as many different axes")
    perm = [a for a in range(x.ndim) if a not in sources]
    for target, a in sorted(zip(targets, sources)):
        perm.insert(target, a)
    return permute_dims(x, perm)


def swapaxes(x: Any, axis0: int, axis1: int, /) -> Tensor:
    """With two axes exchanged. A view."""
    x = as_tensor(x)
    perm = list(range(x.ndim))
    i, k = normalize_axis(axis0, x.ndim), normalize_axis(axis1, x.ndim)
    if x.ndim:
        perm[i], perm[k] = perm[k], perm[i]
    return run(get_op("permute"), (x,), {"perm": tuple(perm)})


def matrix_transpose(x: Any, /) -> Tensor:
    """The last two axes exchanged. ValueError with fewer than two."""
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"a matrix transpose needs at least 2 dimensions, not shape {x.shape}")
    return swapaxes(x, -1, -2)


def broadcast_to(x: Any, /, shape: Any) -> Tensor:
    """x repeated along new leading axes and axes of size 1; -1 keeps a size. A view that must not be written."""
    x = as_tensor(x)
    wanted = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    lead = len(wanted) - x.ndim
    sizes = tuple(
        x.shape[i - lead] if isinstance(d, int) and d == -1 and i >= lead else d for i, d in enumerate(wanted)
    )
    if sizes == x.shape:
        return x
    if lead < 0 or broadcast_shapes(x.shape, as_shape(sizes)) != sizes:
        raise ValueError(f"shape {x.shape} does not broadcast to {sizes}")
    return run(get_op("broadcast_to"), (x,), {"shape": sizes})


def broadcast_arrays(*arrays: Any) -> tuple[Tensor, ...]:
    """All tensors broadcast to their common shape."""
    tensors = [as_tensor(a) for a in arrays]
    shape = broadcast_shapes(*(t.shape for t in tensors)) if tensors else ()
    return tuple(broadcast_to(t, shape) for t in tensors)


def flip(x: Any, /, axis: Any = None, *, dims: Any = None) -> Tensor:
    """In reverse order along `axis` (all axes if None). A copy."""
    x = as_tensor(x)
    axes = normalize_axes(axis if dims is None else tuple(dims) if hasattr(dims, "__iter__") else dims, x.ndim)
    return run(get_op("flip"), (x,), {"axes": axes})


def roll(x: Any, /, shift: Any, axis: Any = None) -> Tensor:
    """Elements moved by `shift` places along `axis`, those that fall off coming in again; None: of the flat tensor."""
    x = as_tensor(x)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shifts = (shift,) * len(axes) if isinstance(shift, int) else tuple(shift)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for s, a in zip(shifts, axes):
        a = normalize_axis(a, x.ndim)
        n = x.shape[a]
        if isinstance(n, int) and n == 0:
            continue
        at = (n - s % n) % n if isinstance(n, int) else n - s
        x = concat([narrow(x, a, at, n), narrow(x, a, 0, at)], axis=a)
    return x


def narrow(x: Tensor, axis: int, start: DimLike, stop: DimLike) -> Tensor:
    """x[start:stop] along a non-negative axis, 0 <= start <= stop <= size. A view."""
    starts = tuple(start if i == axis else 0 for i in range(x.ndim))
    stops = tuple(stop if i == axis else d for i, d in enumerate(x.shape))
    return run(get_op("slice"), (x,), {"start": starts, "stop": stops, "step": (1,) * x.ndim})


# ------------------------------------------------------------------ joining and splitting


def concat(arrays: Sequence[Any], /, axis: int | None = 0, *, dim: int | None = None) -> Tensor:
    """Tensors one after the other along `axis` (flattened first if None). The other sizes must be equal."""
    tensors = promote_operands(*arrays) if len(arrays) else ()
    if not tensors:
        raise ValueError("concat needs at least one tensor")
    axis = axis if dim is None else dim
    if axis is None:
        tensors, axis = tuple(ravel(t) for t in tensors), 0
    first = tensors[0]
    if first.ndim == 0:
        raise ValueError("concat: 0-d tensors have no axis; use stack")
    axis = normalize_axis(axis, first.ndim)
    for t in tensors[1:]:
        if t.ndim != first.ndim or any(a != b for i, (a, b) in enumerate(zip(t.shape, first.shape)) if i != axis):
            raise ValueError(f"concat along axis {axis}: shapes {first.shape} and {t.shape} differ in another size")
    return run(get_op("concat"), tensors, {"axis": axis})


def stack(arrays: Sequence[Any], /, axis: int = 0, *, dim: int | None = None) -> Tensor:
    """Tensors of one shape along a new axis."""
    tensors = [as_tensor(a) for a in arrays]
    if not tensors:
        raise ValueError("stack needs at least one tensor")
    for t in tensors:
        if t.shape != tensors[0].shape:
            raise ValueError(f"stack: shapes {tensors[0].shape} and {t.shape} differ")
    at = normalize_axis(axis if dim is None else dim, tensors[0].ndim + 1)
    return concat([expand_dims(t, at) for t in tensors], axis=at)


def split(x: Any, sections: Any, axis: int = 0, *, dim: int | None = None) -> tuple[Tensor, ...]:
    """Views of consecutive parts along `axis`: of `sections` elements each (the last may be shorter), or of these
    sizes.

    ValueError if the sizes do not add up.
    """
    x = as_tensor(x)
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    n = x.shape[axis]
    if isinstance(sections, int):
        if sections <= 0:
            raise ValueError(f"split: the size of a part must be positive, not {sections}")
        sizes = [min(sections, n - at) for at in range(0, n, sections)] or [0]
    else:
        sizes = list(sections)
        if sum(sizes) != n:
            raise ValueError(f"split: the sizes {sizes} add up to {sum(sizes)}, axis {axis} of shape {x.shape} has {n}")
    parts, at = [], 0
    for size in sizes:
        parts.append(narrow(x, axis, at, at + size))
        at += size
    return tuple(parts)


def chunk(x: Any, chunks: int, axis: int = 0, *, dim: int | None = None) -> tuple[Tensor, ...]:
    """Views of at most `chunks` consecutive parts of equal size (the last may be shorter) along `axis`."""
    x = as_tensor(x)
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    return split(x, max(1, -(-x.shape[axis] // chunks)), axis)


def unstack(x: Any, /, axis: int = 0) -> tuple[Tensor, ...]:
    """The views x[0], x[1], ... along `axis`."""
    x = as_tensor(x)
    axis = normalize_axis(axis, x.ndim)
    return tuple(squeeze(narrow(x, axis, i, i + 1), axis) for i in range(x.shape[axis]))


# ------------------------------------------------------------------ repeating


def tile(x: Any, repetitions: Any, /) -> Tensor:
    """The whole tensor repeated `repetitions[i]` times along axis i (counted from the last)."""
    x = as_tensor(x)
    counts = (repetitions,) if isinstance(repetitions, int) else tuple(repetitions)
    rank = max(x.ndim, len(counts))
    counts, sizes = (1,) * (rank - len(counts)) + counts, (1,) * (rank - x.ndim) + x.shape
    pairs = tuple(n for pair in zip((1,) * rank, sizes) for n in pair)
    repeated = broadcast_to(reshape(x, pairs), tuple(n for pair in zip(counts, sizes) for n in pair))
    return owned(reshape(repeated, tuple(c * d for c, d in zip(counts, sizes))))


def owned(x: Tensor) -> Tensor:
    """A copy if x is a view (of memory that repeats)."""
    return run(get_op("cast"), (x,), {"dtype": x.dtype}) if x._base is not None else x


# ------------------------------------------------------------------ taking and putting by index


def index_tensor(indices: Any, size: DimLike) -> Tensor:
    """Indices as int32 or int64, checked to be in [-size, size) when the graph is run. TypeError for other types."""
    indices = as_tensor(indices)
    if not indices.dtype.is_integer:
        raise TypeError(f"indices must be integers, not {indices.dtype.name}")
    if indices.dtype not in (int32, int64):
        indices = cast_to(indices, int64)
    return indices if state.tracer is None else run(get_op("check_index"), (indices,), {"size": size})


def take(x: Any, indices: Any, /, axis: int | None = None) -> Tensor:
    """The slices of x at integer `indices` along `axis` (of the flat tensor if None). IndexError if one is out of
    range."""
    x = as_tensor(x)
    if axis is None:
        x, axis = ravel(x), 0
    axis = normalize_axis(axis, x.ndim)
    at = index_tensor(indices, x.shape[axis])
    if axis == 0:
        return run(get_op("gather"), (x, at), {})
    out = run(get_op("gather"), (moveaxis(x, axis, 0), at), {})
    k = at.ndim
    return owned(permute_dims(out, (*range(k, k + axis), *range(k), *range(k + axis, out.ndim))))


def _along(x: Tensor, indices: Any, axis: int) -> tuple[tuple[Tensor, ...], tuple]:
    """Index tensors for every axis of x: `indices` along `axis`, positions along the others; and their common shape."""
    at = index_tensor(indices, x.shape[axis])
    if at.ndim != x.ndim:
        raise ValueError(f"indices of shape {at.shape} and a tensor of shape {x.shape} have different ranks")
    all_of = [d if i == axis else x.shape[i] if isinstance(d, int) and d == 1 else d for i, d in enumerate(at.shape)]
    for i, (n, d) in enumerate(zip(all_of, x.shape)):
        if i != axis and isinstance(n, int) and isinstance(d, int) and n > d:
            raise ValueError(f"indices of shape {at.shape} are longer than shape {x.shape} along axis {i}")
    shape = tuple(all_of)
    at = broadcast_to(at, shape)
    others = [reshape(iota(n, int64), tuple(n if k == i else 1 for k in range(x.ndim))) for i, n in enumerate(shape)]
    return tuple(at if i == axis else o for i, o in enumerate(others)), shape


def take_along_axis(x: Any, indices: Any, /, axis: int = -1) -> Tensor:
    """out[i, j] = x[i, indices[i, j]] for axis 1, and so on; `indices` has the rank of x."""
    x = as_tensor(x)
    at, _ = _along(x, indices, normalize_axis(axis, x.ndim))
    return run(get_op("gather"), (x, *at), {})


def gather(x: Any, axis: int, index: Any) -> Tensor:
    """PyTorch's gather: take_along_axis with the index's shape, which may be smaller than x along the other axes.
    Numbers count as vectors of one element."""
    x, index = as_tensor(x), as_tensor(index)
    if x.ndim and index.ndim:
        return take_along_axis(x, index, axis=axis) if index.size != 0 or index.ndim == x.ndim else _nothing(x, index)
    out = take_along_axis(x if x.ndim else reshape(x, (1,)), index if index.ndim else reshape(index, (1,)), axis=axis)
    return reshape(out, index.shape)


def _nothing(x: Tensor, index: Tensor) -> Tensor:
    """What an index without elements gives, of any rank."""
    return full(index.shape, 0, dtype=x.dtype)


def scatter_along_axis(x: Any, axis: int, index: Any, src: Any, mode: str = "set") -> Tensor:
    """x with `src` put (or added) at `index` along `axis`: out[i, index[i, j]] = src[i, j] for axis 1."""
    x, index = as_tensor(x), as_tensor(index)
    if index.size == 0:
        return run(get_op("cast"), (x,), {"dtype": x.dtype})
    if x.ndim == 0 or index.ndim == 0:
        wide = reshape(src, (-1,)) if isinstance(src, Tensor) else src
        out = scatter_along_axis(x if x.ndim else reshape(x, (1,)), axis, reshape(index, (-1,)), wide, mode)
        return reshape(out, x.shape)
    at, shape = _along(x, index, normalize_axis(axis, x.ndim))
    values = as_tensor(src) if isinstance(src, Tensor) else full((), src, dtype=x.dtype)
    values = cast_to(values, x.dtype)
    if values.ndim == len(shape) and values.shape != shape:  # PyTorch lets src be larger
        for i, n in enumerate(shape):
            values = narrow(values, i, 0, n)
    return run(get_op("scatter"), (x, broadcast_to(values, shape), *at), {"mode": mode})


def diagonal(x: Any, /, offset: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """The diagonal of two axes, as the last axis. A copy."""
    x = as_tensor(x)
    a, b = normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim)
    moved = moveaxis(x, (a, b), (0, 1))
    rows, columns = moved.shape[:2]
    n = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    steps = iota(n, int64)
    out = run(get_op("gather"), (moved, add(steps, max(-offset, 0)), add(steps, max(offset, 0))), {})
    return moveaxis(out, 0, -1)


def diag(x: Any, /, k: int = 0) -> Tensor:
    """The diagonal of a matrix; of a vector, the matrix with it on diagonal `k`."""
    x = as_tensor(x)
    if x.ndim == 2:
        return diagonal(x, offset=k)
    if x.ndim != 1:
        raise ValueError(f"diag takes 1 or 2 dimensions, not shape {x.shape}")
    n = x.shape[0] + abs(k)
    at = iota(x.shape[0], int64)
    zero = full((n, n), 0, dtype=x.dtype)
    return run(get_op("scatter"), (zero, x, add(at, max(-k, 0)), add(at, max(k, 0))), {"mode": "set"})


def masked_fill(x: Any, mask: Any, value: Any) -> Tensor:
    """x with `value` where `mask` holds."""
    x = as_tensor(x)
    return where(mask, value if not isinstance(value, Tensor) else cast_to(value, x.dtype), x)


def cumulative_sum(
    x: Any, /, axis: int | None = None, dtype: Any = None, include_initial: bool = False, *, dim: int | None = None
) -> Tensor:
    """Running sums along `axis`; include_initial puts a 0 in front."""
    from .reductions import _accumulation_dtype

    x = as_tensor(x)
    x = cast_to(x, _accumulation_dtype(x, dtype))
    return _running("cumsum", x, axis if dim is None else dim, include_initial, 0)


def cumulative_prod(
    x: Any, /, axis: int | None = None, dtype: Any = None, include_initial: bool = False, *, dim: int | None = None
) -> Tensor:
    """Running products along `axis`; include_initial puts a 1 in front."""
    from .reductions import _accumulation_dtype

    x = as_tensor(x)
    x = cast_to(x, _accumulation_dtype(x, dtype))
    return _running("cumprod", x, axis if dim is None else dim, include_initial, 1)


def _running(op: str, x: Tensor, axis: int | None, include_initial: bool, neutral: int) -> Tensor:
    if axis is None:
        if x.ndim > 1:
            raise ValueError(f"running sums and products of shape {x.shape} need an axis")
        x, axis = ravel(x), 0
    axis = normalize_axis(axis, x.ndim)
    x = run(get_op(op), (x,), {"axis": axis}) if x.ndim else x
    return _padded(x, tuple(int(i == axis) for i in range(x.ndim)), neutral) if include_initial else x


def _padded(x: Tensor, low: tuple, value: int) -> Tensor:
    return run(get_op("pad"), (x,), {"low": low, "high": (0,) * x.ndim, "value": value})


def diff(
    x: Any, /, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None, *, dim: int | None = None
) -> Tensor:
    """Differences of neighbours along `axis`, taken n times, after x was joined with `prepend` and `append`. ValueError
    for a negative n or a 0-d x."""
    x = as_tensor(x)
    if x.ndim == 0:
        raise ValueError("diff needs at least 1 dimension")
    axis = normalize_axis(axis if dim is None else dim, x.ndim)
    if n < 0:
        raise ValueError(f"diff: n must not be negative, it is {n}")
    if n == 0:
        return x
    parts = [p for p in (prepend, x, append) if p is not None]
    x = concat(parts, axis=axis) if len(parts) > 1 else x
    for _ in range(n):
        size = x.shape[axis]
        if isinstance(size, int) and size == 0:
            break
        later, sooner = narrow(x, axis, 1, size), narrow(x, axis, 0, size - 1)
        x = not_equal(later, sooner) if x.dtype is bool_ else later - sooner
    return x


__all__ = [
    "broadcast_arrays", "broadcast_shapes", "broadcast_to", "chunk", "concat", "cumulative_prod", "cumulative_sum",
    "diag", "diagonal", "diff", "expand_dims", "flatten", "flip", "gather", "masked_fill", "matrix_transpose",
    "moveaxis", "narrow", "permute_dims", "ravel", "reshape", "roll", "scatter_along_axis", "split",
    "squeeze", "stack", "swapaxes", "take", "take_along_axis", "tile", "unstack",
]  # fmt: skip
