"""Putting values at positions, under PyTorch's names: scatter_reduce, index_add, index_put, masked_scatter, ..."""

from __future__ import annotations

from typing import Any

from ..ir.dtypes import int64
from ..ir.op import get_op
from ..ir.ops import accumulate as _declared  # noqa: F401  (declares scatter_reduce)
from ..ir.types import broadcast_shapes, normalize_axis
from . import elementwise as e
from .convert import as_tensor, cast_to, is_scalar, scalar_tensor
from .creation import full
from .dispatch import run
from .manipulation import (
    _along,
    broadcast_to,
    cumulative_sum,
    index_tensor,
    moveaxis,
    narrow,
    ravel,
    reshape,
    scatter_along_axis,
    take,
)
from .tensor import Tensor

_MODES = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _accumulated(x: Tensor, updates: Tensor, at: tuple[Tensor, ...], reduce: str, include_self: bool) -> Tensor:
    """x with the updates at `at` reduced into it. `include_self=False`: where something is put, x does not count."""
    if reduce not in (*_MODES, "mean"):
        raise ValueError(f'reduce must be one of "sum", "prod", "mean", "amax", "amin", not {reduce!r}')
    if not include_self:
        neutral = _neutral(reduce, x)
        start = run(get_op("scatter"), (x, broadcast_to(neutral, updates.shape), *at), {"mode": "set"})
    else:
        start = x
    if reduce == "mean":
        total = run(get_op("scatter"), (start, updates, *at), {"mode": "add"})
        ones = full(x.shape, 1, dtype=x.dtype)
        counts = run(get_op("scatter"), (ones, full(updates.shape, 1, dtype=x.dtype), *at), {"mode": "add"})
        if not include_self:
            counts = e.maximum(e.subtract(counts, 1), 1)
        return e.divide(total, counts) if x.dtype.is_floating else e.floor_divide(total, counts)
    if reduce == "sum":
        return run(get_op("scatter"), (start, updates, *at), {"mode": "add"})
    return run(get_op("scatter_reduce"), (start, updates, *at), {"mode": _MODES[reduce]})


def _neutral(reduce: str, x: Tensor) -> Tensor:
    if reduce in ("sum", "mean", "prod"):
        return full((), int(reduce == "prod"), dtype=x.dtype)
    if x.dtype.is_floating:
        return full((), float("-inf") if reduce == "amax" else float("inf"), dtype=x.dtype)
    from ml_dtypes import iinfo

    limits = iinfo(x.dtype.np)
    return full((), int(limits.min if reduce == "amax" else limits.max), dtype=x.dtype)


def scatter_reduce(x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Tensor:
    """x with `src` reduced into it at `index` along an axis: reduce is "sum", "prod", "mean", "amax" or "amin"."""
    x, src = as_tensor(x), as_tensor(src)
    if x.ndim == 0:
        out = scatter_reduce(
            reshape(x, (1,)), 0, reshape(index, (-1,)), reshape(src, (-1,)), reduce, include_self=include_self
        )
        return reshape(out, ())
    at, shape = _along(x, index, normalize_axis(dim, x.ndim))
    if src.shape != shape:
        for i, n in enumerate(shape):
            src = narrow(src, i, 0, n)
    return _accumulated(x, src, at, reduce, include_self)


def scatter(x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Tensor:
    """x with `src` (or one `value`) put at `index` along an axis; `reduce`: "add" or "multiply" it instead."""
    src = value if src is None else src
    if reduce is None:
        return scatter_along_axis(x, dim, index, src)
    x = as_tensor(x)
    src = src if isinstance(src, Tensor) else full(as_tensor(index).shape, src, dtype=x.dtype)
    return scatter_reduce(x, dim, index, src, {"add": "sum", "multiply": "prod"}.get(reduce, reduce))


def scatter_add(x: Any, dim: int, index: Any, src: Any) -> Tensor:
    """x with `src` added at `index` along an axis."""
    return scatter_along_axis(x, dim, index, src, "add")


# ------------------------------------------------------------------ whole slices at a list of indices


def _slices(x: Any, dim: int, index: Any, source: Any, what: str) -> tuple[Tensor, Tensor, Tensor, int, tuple]:
    """x and source with the axis in front, the index, the axis, and the shape of x. 0-d tensors count as vectors."""
    x = as_tensor(x)
    shape = x.shape
    wide = x if x.ndim else reshape(x, (1,))
    a = normalize_axis(dim, wide.ndim)
    at = index_tensor(reshape(index, (-1,)) if as_tensor(index).ndim == 0 else index, wide.shape[a])
    if at.ndim != 1:
        raise IndexError(f"{what}: the index must have 0 or 1 dimensions, not shape {at.shape}")
    if isinstance(source, Tensor) or not is_scalar(source):
        source = as_tensor(source)
        source = source if source.ndim else reshape(source, (1,) * wide.ndim)
    else:
        source = scalar_tensor(source, wide.dtype)
    if source.ndim == 0 or source.size == 1 and at.shape[0] != 1:
        source = broadcast_to(source, tuple(at.shape[0] if i == a else d for i, d in enumerate(wide.shape)))
    expected = tuple(at.shape[0] if i == a else d for i, d in enumerate(wide.shape))
    if source.shape != expected:
        raise ValueError(f"{what}: source has shape {source.shape}, {expected} is needed")
    return moveaxis(wide, a, 0), moveaxis(source, a, 0), at, a, shape


def index_add(x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Tensor:
    """x with alpha * source added to its slices at `index` along an axis."""
    rows, values, at, a, shape = _slices(x, dim, index, source, "index_add")
    values = values if alpha == 1 else e.multiply(values, alpha)
    return reshape(moveaxis(run(get_op("scatter"), (rows, values, at), {"mode": "add"}), 0, a), shape)


def index_copy(x: Any, dim: int, index: Any, source: Any) -> Tensor:
    """x with `source` as its slices at `index` along an axis."""
    rows, values, at, a, shape = _slices(x, dim, index, source, "index_copy")
    return reshape(moveaxis(run(get_op("scatter"), (rows, values, at), {"mode": "set"}), 0, a), shape)


def index_fill(x: Any, dim: int, index: Any, value: Any) -> Tensor:
    """x with `value` in its slices at `index` along an axis."""
    x = as_tensor(x)
    n = x.shape[normalize_axis(dim, x.ndim)] if x.ndim else 1
    at = index_tensor(reshape(index, (-1,)) if as_tensor(index).ndim == 0 else index, n)
    chosen = run(get_op("scatter"), (full((n,), False), full(at.shape, True), at), {"mode": "set"})
    a = normalize_axis(dim, x.ndim) if x.ndim else 0
    mask = reshape(chosen, tuple(n if i == a else 1 for i in range(x.ndim)))
    return e.where(mask, cast_to(as_tensor(value), x.dtype), x)


def index_reduce(x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Tensor:
    """x with `source` reduced into its slices at `index`: reduce is "prod", "mean", "amax" or "amin"."""
    rows, values, at, a, shape = _slices(x, dim, index, source, "index_reduce")
    return reshape(moveaxis(_accumulated(rows, values, (at,), reduce, include_self), 0, a), shape)


def index_select(x: Any, dim: int, index: Any) -> Tensor:
    """The slices of x at `index` along an axis."""
    x, at = as_tensor(x), as_tensor(index)
    if at.ndim > 1:
        raise IndexError(f"index_select: the index must have 0 or 1 dimensions, not shape {at.shape}")
    if x.ndim == 0:
        return reshape(take(reshape(x, (1,)), reshape(at, (-1,)), axis=0), ())
    return take(x, at if at.ndim else reshape(at, (1,)), axis=dim)


def index_put(x: Any, indices: Any, values: Any, accumulate: bool = False) -> Tensor:
    """A copy of x with x[indices] = values; `accumulate`: values are added, also to positions that occur twice."""
    from .indexing import setitem

    x = as_tensor(x)
    key = tuple(slice(None) if i is None else i for i in indices)
    if not accumulate:
        out = e.positive(x)
        setitem(out, key, values)
        return out
    flat = reshape(_positions(x), x.shape)[key]
    updates = ravel(broadcast_to(as_tensor(values), flat.shape))
    out = run(get_op("scatter"), (ravel(x), cast_to(updates, x.dtype), ravel(flat)), {"mode": "add"})
    return reshape(out, x.shape)


def _positions(x: Tensor) -> Tensor:
    """0, 1, 2, ... for every element of x."""
    from .creation import iota

    return iota(x.size, int64)


def put(x: Any, index: Any, source: Any, accumulate: bool = False) -> Tensor:
    """x with `source` at flat indices (added there if `accumulate`)."""
    x, at, values = as_tensor(x), as_tensor(index), as_tensor(source)
    at = index_tensor(at, x.size)
    mode = {"mode": "add" if accumulate else "set"}
    return reshape(run(get_op("scatter"), (ravel(x), ravel(values), ravel(at)), mode), x.shape)


# ------------------------------------------------------------------ masks


def masked_scatter(x: Any, mask: Any, source: Any) -> Tensor:
    """x with the elements of `source`, in order, where `mask` holds."""
    x, mask, source = as_tensor(x), as_tensor(mask), ravel(source)
    shape = broadcast_shapes(x.shape, mask.shape)
    x, mask = broadcast_to(x, shape), broadcast_to(mask, shape)
    if source.size == 0:
        return e.positive(x)
    place = e.subtract(cumulative_sum(ravel(cast_to(mask, int64)), axis=0), 1)
    place = e.where(ravel(mask), place, 0)
    return e.where(mask, reshape(run(get_op("gather"), (source, index_tensor(place, source.size)), {}), shape), x)


def masked_select(x: Any, mask: Any) -> Tensor:
    """The elements where `mask` holds, as a vector; the two broadcast. Its length depends on values, so this ends a
    capture."""
    x, mask = as_tensor(x), as_tensor(mask)
    shape = broadcast_shapes(x.shape, mask.shape)
    out = broadcast_to(x, shape)[broadcast_to(mask, shape)]
    return reshape(out, (-1,)) if out.ndim != 1 else out


__all__ = [
    "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "index_select", "masked_scatter",
    "masked_select", "put", "scatter", "scatter_add", "scatter_reduce",
]  # fmt: skip
