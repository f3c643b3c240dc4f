"""Scattering on GPUs: stores in any order where none is needed, else one that does not depend on timing.

Sums of integers are atomic additions. Of updates that go to one place the last one is found first (by an atomic maximum
of their positions), and read by the place. Floats are sorted by place, stably, and each place adds up its own.
"""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.dim import DimLike
from ..ir.dtypes import float32, int32, int64, uint32, uint64
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.target import Target
from .fuel import Fuel
from .host import has_native_types
from .sorting import positions_of, sort_order, sorted_words


def scattering(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs primitive ops with checked indices. Leaves no scatter on types that kernels have, but of updates that there
    may be none of."""
    return _Scattering(graph, fuel, target).run()


class _Scattering(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel, target: Target):
        super().__init__(graph)
        self.fuel, self.target = fuel, target

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op.name != "scatter" or not has_native_types(node) or not self.fuel.spend("scattering"):
            return None
        x, updates, *indices = inputs
        mode = node.attrs["mode"]
        listed = dim.numel(updates.shape[: updates.ndim - x.ndim + len(indices)])
        if listed == 0:
            return (x,)
        if (dim.bounds(listed)[0] or 0) < 1:
            return None
        if listed == 1 or mode == "set" and _distinct(node.inputs[2:]):
            return (ops.scatter_unordered(x, updates, *indices, mode=mode),)
        if mode == "add" and (x.dtype.is_integer or self.target.unordered_sums):
            return (_atomic_sums(x, updates, indices),)
        rows = _Rows(x, updates, indices)
        out = rows.last_ones() if mode == "set" else rows.sums()
        return (ops.reshape(out, shape=x.shape),)


def _distinct(indices: tuple[Value, ...]) -> bool:
    """Whether no two are certainly equal: a permutation."""
    (first, *others) = indices
    return not others and first.ndim == 1 and first.node is not None and first.node.op.name in ("argsort", "iota")


def _atomic_sums(x: Value, updates: Value, indices: list[Value]) -> Value:
    """In types that have atomic additions."""
    wide = float32 if x.dtype.kind == "f" else int32
    if x.dtype.bits >= 32:
        return ops.scatter_unordered(x, updates, *indices, mode="add")
    total = ops.scatter_unordered(ops.cast(x, dtype=wide), ops.cast(updates, dtype=wide), *indices, mode="add")
    return ops.cast(total, dtype=x.dtype)


class _Rows:
    """A scatter by one index into rows of one length: x[D, T], updates[N, T], places[N]."""

    def __init__(self, x: Value, updates: Value, indices: list[Value]):
        k = len(indices)
        listed = updates.shape[: updates.ndim - x.ndim + k]
        self.count, self.rows, length = dim.numel(listed), dim.numel(x.shape[:k]), dim.numel(x.shape[k:])
        self.x = ops.reshape(x, shape=(self.rows, length))
        self.updates = ops.reshape(updates, shape=(self.count, length))
        self.places = ops.reshape(_linear(indices, x.shape[:k], listed), shape=(self.count,))

    def last_ones(self) -> Value:
        """x with the last update of each place."""
        none = ops.full(value=-1, shape=(self.rows,), dtype=int64)
        numbers = ops.iota(shape=(self.count,), axis=0, dtype=int64)
        last = ops.reshape(ops.scatter_unordered(none, numbers, self.places, mode="max"), shape=(self.rows, 1))
        zero = ops.full(value=0, shape=(), dtype=int64)
        taken = ops.gather(self.updates, ops.reshape(ops.maximum(last, zero), shape=(self.rows,)))
        return ops.where(ops.ge(last, zero), taken, self.x)

    def sums(self) -> Value:
        """x plus the updates of each place, in their order."""
        most = dim.bounds(self.rows)[1]
        numbers = ops.iota(shape=(self.rows + 1,), axis=0, dtype=int64)
        if most is not None and most < 2**32 - 1:
            found = sorted_words(ops.cast(self.places, dtype=uint32), 0)
            order = positions_of(found, 0, self.count)
            limits = ops.shl(ops.cast(numbers, dtype=uint64), ops.full(value=32, shape=(), dtype=uint64))
        else:
            order = sort_order(self.places, 0, False)
            found, limits = ops.gather(self.places, order), numbers
        return ops.segment_reduce(self.x, self.updates, order, ops.search_rows(found, limits, right=False), mode="add")


def _linear(indices: list[Value], shape: tuple[DimLike, ...], listed: tuple[DimLike, ...]) -> Value:
    """Row-major positions in `shape`, int64, of all that is listed."""
    total: Value | None = None
    for v, stride in zip(indices, dim.contiguous_strides(shape), strict=True):
        part = ops.mul(ops.cast(v, dtype=int64), ops.full(value=stride, shape=(), dtype=int64))
        total = part if total is None else ops.add(total, part)
    assert total is not None
    return total if total.shape == listed else ops.broadcast_to(total, shape=listed)
