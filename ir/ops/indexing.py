"""gather, scatter and check_index: data-dependent addressing of the first axes of a tensor. extent: sizes that depend on data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import BatchContext, leading
from ..dim import Dim, DimLike
from ..dtypes import bool_, int32, int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError, broadcast_shapes
from .movement import check_nonnegative, example, full, iota, permute, reshape, zeros


def _indexed_shape(x: TensorType, indices: tuple[TensorType, ...]) -> Shape:
    """I + x.shape[k:], the shape of x[indices]."""
    if not indices:
        raise TypeRuleError("needs at least one index tensor")
    if len(indices) > x.ndim:
        raise TypeRuleError(f"{len(indices)} index tensors for a tensor with {x.ndim} dimensions")
    for t in indices:
        if t.dtype not in (int32, int64):
            raise DTypeRuleError(f"index tensors must be int32 or int64, not {t.dtype.name}")
    return (*broadcast_shapes(*(t.shape for t in indices)), *x.shape[len(indices) :])


def _gather(x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
    if len(indices) == 1:
        return np.take(x, indices[0], axis=0)
    out = x[indices]
    return out.copy() if all(i.ndim == 0 for i in indices) else out  # 0-d indices alone would give a view


def _gather_vjp(c: VjpContext, g):
    gx = scatter(zeros(c.types[0]), g, *c.inputs[1:], mode="add") if c.needs[0] else None
    return (gx, *(None for _ in c.inputs[1:]))


def _index(*values: int, shape: tuple[int, ...] | None = None, dtype: Any = np.int64) -> np.ndarray:
    return np.array(values, dtype).reshape((len(values),) if shape is None else shape)


def _aligned_indices(c: BatchContext, first: int) -> tuple[list, int]:
    """The index operands from `first` on, so that they broadcast with and without lanes; their rank in one lane."""
    rank = max(t.ndim for t in c.types[first:])
    return [c.aligned(i, rank) for i in range(first, len(c.args))], rank


def _lane_numbers(c: BatchContext, rank: int):
    """The number of each lane, as an index that broadcasts with index tensors of `rank` axes in one lane."""
    return reshape(iota(shape=(c.size,), axis=0, dtype=int64), shape=(c.size, *(1,) * rank))


def _behind(x, k: int, ndim: int):
    """`x` of `ndim` axes with its first one behind the k that follow."""
    return permute(x, perm=(*range(1, k + 1), 0, *range(k + 1, ndim)))


def _in_front(x, k: int, ndim: int):
    """The inverse of `_behind`."""
    return permute(x, perm=(k, *range(k), *range(k + 1, ndim)))


def _gather_batch(c: BatchContext):
    indices, rank = _aligned_indices(c, 1)
    if not c.batched[0]:
        return gather(c.args[0], *indices)
    if any(c.batched[1:]):
        return gather(c.args[0], _lane_numbers(c, rank), *indices)
    ndim, k = c.types[0].ndim, len(indices)
    return _in_front(gather(_behind(c.args[0], k, ndim + 1), *indices), rank, ndim - k + rank + 1)


gather = register(
    OpDef(
        "gather",
        "structural",
        ("x", "*indices"),
        lambda x, *indices: x.with_shape(_indexed_shape(x, indices)),
        _gather,
        _gather_vjp,
        saves=("*indices",),
        linear=("x",),
        batch=_gather_batch,
        samples=lambda: [
            Sample((example(5, 17), _index(4, 0, -1, 0))),
            Sample((example(5, 4, 3), _index(1, -5, shape=(2, 1)), _index(0, 3, -1, dtype=np.int64))),
            Sample((example(6), _index(2, shape=(), dtype=np.int32))),
            Sample((example(3, 2), _index(2, shape=()), _index(-1, shape=()))),
            Sample((example(4, 3), _index(shape=(0,)))),
        ],
        errors=lambda: [
            ErrorSample((example(3), _index(0, 3)), {}, IndexError, "index 3 is out of bounds.*size 3"),
            ErrorSample((example(3), example(2)), {}, DTypeRuleError, "int32 or int64"),
            ErrorSample((example(3), _index(0), _index(0)), {}, TypeRuleError, "2 index tensors"),
            ErrorSample((example(3, 3), _index(0, 1), _index(0, 1, 2)), {}, TypeRuleError, "broadcast"),
        ],
        doc="x[indices]: integer tensors (negative ones count from the end) that broadcast, one for each leading axis.",
    )
)


def _scatter_type(x: TensorType, updates: TensorType, *indices: TensorType, mode: str) -> TensorType:
    if mode not in ("set", "add"):
        raise TypeRuleError(f'mode must be "set" or "add", not {mode!r}')
    if updates.dtype is not x.dtype:
        raise DTypeRuleError(f"operand dtypes differ: {x.dtype} and {updates.dtype}")
    if mode == "add" and x.dtype is bool_:
        raise DTypeRuleError("bool tensors cannot be added to")
    expected = _indexed_shape(x, indices)
    if updates.shape != expected:
        raise TypeRuleError(f"updates must have shape {expected}, not {updates.shape}")
    return x


def _scatter(x: np.ndarray, updates: np.ndarray, *indices: np.ndarray, mode: str) -> np.ndarray:
    out = x.copy()
    if mode == "set":
        out[indices] = updates
    else:
        np.add.at(out, indices, updates)
    return out


def _scatter_vjp(c: VjpContext, g):
    """For "set", an element written several times passes its gradient to each of its writers."""
    indices = c.inputs[2:]
    gx = None
    if c.needs[0]:
        gx = g if c.attrs["mode"] == "add" else scatter(g, zeros(c.types[1]), *indices, mode="set")
    return (gx, gather(g, *indices) if c.needs[1] else None, *(None for _ in indices))


def scatter_batch(c: BatchContext):
    """For scatter and its kin: lanes are one more index, or, where all lanes have the same indices, one more axis
    behind the indexed ones."""
    indices, rank = _aligned_indices(c, 2)
    x, updates, attrs = c.spread(0), c.spread(1), c.attrs
    if any(c.batched[2:]):
        return c.op(x, updates, _lane_numbers(c, rank), *indices, **attrs)
    k, ndim, at = len(indices), c.types[0].ndim + 1, c.types[1].ndim - (c.types[0].ndim - len(indices))
    out = c.op(_behind(x, k, ndim), _behind(updates, at, c.types[1].ndim + 1), *indices, **attrs)
    return _in_front(out, k, ndim)


scatter = register(
    OpDef(
        "scatter",
        "structural",
        ("x", "updates", "*indices"),
        _scatter_type,
        _scatter,
        _scatter_vjp,
        attrs={"mode": "set"},
        saves=("*indices",),
        linear=("x", "updates"),
        batch=scatter_batch,
        samples=lambda: [
            Sample((example(5, 17), example(4, 17), _index(4, 0, -1, 0)), {"mode": "add"}),
            Sample((example(5, 3), example(3, 3), _index(4, 0, -3, dtype=np.int32)), {"mode": "set"}),
            Sample((example(5), example(3), _index(1, 1, -4)), {"mode": "set"}, gradcheck=False),
            Sample((example(4, 3), example(2, 2), _index(1, -4, shape=(2, 1)), _index(0, 2)), {"mode": "add"}),
            Sample((example(4, dtype=np.int64), example(dtype=np.int64), _index(2, shape=())), {"mode": "add"}),
            Sample((example(4), example(0), _index(shape=(0,))), {"mode": "set"}),
        ],
        errors=lambda: [
            ErrorSample(
                (example(3), example(1), _index(3)), {"mode": "set"}, IndexError, "index 3 is out of bounds.*size 3"
            ),
            ErrorSample((example(3), example(2), _index(0)), {"mode": "add"}, TypeRuleError, "updates must have shape"),
            ErrorSample((example(3), example(1), _index(0)), {"mode": "mul"}, TypeRuleError, "mode must be"),
        ],
        doc='x with updates at [indices]. "set": the last of duplicates wins; "add": they add up in row-major order.',
    )
)


def _check_index_type(index: TensorType, size: DimLike) -> TensorType:
    if index.dtype not in (int32, int64):
        raise DTypeRuleError(f"index tensors must be int32 or int64, not {index.dtype.name}")
    return index


def _check_index(index: np.ndarray, size: int) -> np.ndarray:
    bad = (index < -size) | (index >= size)
    if bad.any():
        raise IndexError(f"index {index[bad][0]} is out of bounds for axis with size {size}")
    return index


check_index = register(
    OpDef(
        "check_index",
        "structural",
        ("index",),
        _check_index_type,
        _check_index,
        NO_GRADIENT,
        attrs={"size": REQUIRED},
        saves=(),
        pure=False,
        batch=leading,
        samples=lambda: [
            Sample((_index(0, -3, 2),), {"size": 3}, gradcheck=False),
            Sample((_index(1, shape=(), dtype=np.int32),), {"size": 2}, gradcheck=False),
            Sample((_index(shape=(0, 4)),), {"size": 0}, gradcheck=False),
        ],
        errors=lambda: [
            ErrorSample((_index(0, 3),), {"size": 3}, IndexError, "index 3 is out of bounds.*size 3"),
            ErrorSample((_index(-4),), {"size": 3}, IndexError, "index -4 is out of bounds"),
            ErrorSample((example(2),), {"size": 3}, DTypeRuleError, "int32 or int64"),
        ],
        doc="index, after checking that -size <= index < size everywhere. IndexError otherwise.",
    )
)


def _positions_type(mask: TensorType) -> TensorType:
    if mask.dtype is not bool_ or not mask.ndim:
        raise DTypeRuleError(f"a mask must be bool[..., n], not {mask}")
    return TensorType(int64, (*mask.shape[:-1], mask.shape[-1] + 1))


def _positions(mask: np.ndarray) -> np.ndarray:
    out = np.zeros((*mask.shape[:-1], mask.shape[-1] + 1), np.int64)
    for at in np.ndindex(mask.shape[:-1]):
        found = np.flatnonzero(mask[at])
        out[at][: len(found)] = found
    return out


positions = register(
    OpDef(
        "positions",
        "structural",
        ("mask",),
        _positions_type,
        _positions,
        NO_GRADIENT,
        saves=(),
        batch=leading,
        samples=lambda: [
            Sample((example(9, dtype=np.bool_),), {}, gradcheck=False),
            Sample((example(3, 40, dtype=np.bool_),), {}, gradcheck=False),
            Sample((np.ones((2, 1), np.bool_),), {}, gradcheck=False),
            Sample((np.zeros((2, 0), np.bool_),), {}, gradcheck=False),
        ],
        errors=lambda: [
            ErrorSample((_index(0, 1),), {}, DTypeRuleError, "bool"),
            ErrorSample((np.array(True),), {}, DTypeRuleError, "bool"),
        ],
        doc="Where a mask is true along its last axis, in order, and 0 behind that: int64 [..., n + 1].",
    )
)


def _extent_type(count: TensorType, size: DimLike) -> TensorType:
    if count.dtype is not int64 or count.ndim:
        raise DTypeRuleError(f"the value of a size must be int64[], not {count}")
    if isinstance(size, Dim) and size.symbols() != {size}:
        raise TypeRuleError(f"size is a number, or a symbol: not {size}")
    check_nonnegative(size, "a size")
    return TensorType(bool_, (0, size))


extent = register(
    OpDef(
        "extent",
        "composite",
        ("count",),
        _extent_type,
        lambda count, size: np.empty((0, size), np.bool_),
        NO_GRADIENT,
        attrs={"size": REQUIRED},
        saves=(),
        decompose=lambda count, size: full(value=False, shape=(0, size), dtype=bool_),
        samples=lambda: [
            Sample((_index(3, shape=()),), {"size": 3}, gradcheck=False),
            Sample((_index(0, shape=()),), {"size": 0}, gradcheck=False),
        ],
        errors=lambda: [
            ErrorSample((_index(3),), {"size": 3}, DTypeRuleError, r"int64\[\]"),
            ErrorSample((_index(3, shape=()),), {"size": -1}, TypeRuleError, "negative"),
        ],
        doc="Gives the symbolic `size` the value of `count`: an empty tensor with it as its second axis.",
    )
)
