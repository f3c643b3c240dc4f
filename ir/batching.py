"""Batching: what an op computes for many lanes at once. This is what `vmap` asks of every op.

A lane is one call of the mapped function. An operand that differs between lanes has one more axis in front, of the
number of lanes; the others are as the function sees them. A rule returns its results with that axis in front. Rules
are written on bound ops, so they trace, compile and differentiate.

Most ops need none: pointwise ops follow from broadcasting, composites from their decomposition. `OpDef.batch` holds the
rule of structural ops, and of composites that have a shorter way than their parts. A structural op without a rule runs
lane by lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .dim import DimLike, numel
from .op import Attrs, OpDef, get_op, value_type
from .types import Shape, TensorType

NO_DIRECT_WAY = None  # what a rule of a composite returns to have it decomposed


class BatchContext:
    """What a rule sees. `args`: the operands; `batched`: which of them have the axis of lanes in front; `types`: the
    operand types in one lane; `size`: the number of lanes."""

    __slots__ = ("args", "attrs", "batched", "op", "size", "types")

    def __init__(
        self,
        op: OpDef,
        args: tuple,
        batched: tuple[bool, ...],
        types: tuple[TensorType, ...],
        attrs: Attrs,
        size: DimLike,
    ):
        self.op, self.args, self.batched, self.types, self.attrs, self.size = op, args, batched, types, attrs, size

    def spread(self, i: int) -> Any:
        """Operand i with an axis of lanes, also if it is the same in all."""
        x = self.args[i]
        return x if self.batched[i] else get_op("broadcast_to")(x, shape=(self.size, *self.types[i].shape))

    def aligned(self, i: int, rank: int) -> Any:
        """Operand i so that it broadcasts with operands of `rank` axes in one lane."""
        x, shape = self.args[i], self.types[i].shape
        if not self.batched[i] or len(shape) >= rank:
            return x
        return get_op("reshape")(x, shape=(self.size, *(1,) * (rank - len(shape)), *shape))


BatchRule = Callable[[BatchContext], Any]


def batch(c: BatchContext) -> tuple | None:
    """The results, each with the axis of lanes in front. None if the op is a composite that is to be decomposed."""
    rule = c.op.batch
    if rule is None:
        if c.op.kind == "composite":
            return None
        rule = pointwise if c.op.kind == "pointwise" else lane_by_lane
    out = rule(c)
    return out if out is None or isinstance(out, tuple) else (out,)


# ------------------------------------------------------------------ rules that many ops share


def pointwise(c: BatchContext) -> Any:
    """Operands broadcast: those with lanes get their missing axes behind the axis of lanes."""
    rank = max(t.ndim for t in c.types)
    return c.op(*(c.aligned(i, rank) for i in range(len(c.args))), **c.attrs)


def leading(c: BatchContext) -> Any:
    """For one operand whose leading axes the op leaves alone."""
    return c.op(*c.args, **c.attrs)


def shifted(*names: str) -> BatchRule:
    """For operands of one rank: the attributes of these names are axes, which lie one further back."""

    def rule(c: BatchContext) -> Any:
        moved = {n: tuple(a + 1 for a in v) if isinstance(v := c.attrs[n], tuple) else v + 1 for n in names}
        return c.op(*map(c.spread, range(len(c.args))), **{**c.attrs, **moved})

    return rule


def extended(**front: Any) -> BatchRule:
    """For operands of one rank: attributes with an entry per axis get one for the lanes. A callable is asked with the
    number of lanes."""

    def rule(c: BatchContext) -> Any:
        more = {n: ((v(c.size) if callable(v) else v), *c.attrs[n]) for n, v in front.items()}
        return c.op(*map(c.spread, range(len(c.args))), **{**c.attrs, **more})

    return rule


def lane_by_lane(c: BatchContext) -> tuple:
    """Each lane by itself, for ops without a rule. TypeError where their number is symbolic."""
    if not isinstance(c.size, int):
        raise TypeError(f"vmap: {c.op.name} has no batching rule, and cannot run a symbolic number of lanes ({c.size})")
    if c.size == 0:
        return tuple(_empty(t) for t in c.op.result_types(c.types, c.attrs))
    lanes = [c.op(*(_lane(c, i, k) for i in range(len(c.args))), **c.attrs) for k in range(c.size)]
    rows = [out if isinstance(out, tuple) else (out,) for out in lanes]
    return tuple(stacked(list(column)) for column in zip(*rows))


def _lane(c: BatchContext, i: int, k: int) -> Any:
    x, shape = c.args[i], c.types[i].shape
    if not c.batched[i]:
        return x
    zeros = (0,) * len(shape)
    row = get_op("slice")(x, start=(k, *zeros), stop=(k + 1, *shape), step=(1,) * (len(shape) + 1))
    return get_op("reshape")(row, shape=shape)


def _empty(t: TensorType) -> Any:
    return get_op("full")(value=0, shape=(0, *t.shape), dtype=t.dtype)


def stacked(rows: list) -> Any:
    """Values of one type along a new first axis."""
    return get_op("concat")(*(get_op("reshape")(r, shape=(1, *value_type(r).shape)) for r in rows), axis=0)


# ------------------------------------------------------------------ moving the lanes


def move_axis(x: Any, source: int, target: int) -> Any:
    """`x` with one axis at another place."""
    perm = [a for a in range(len(value_type(x).shape)) if a != source]
    perm.insert(target, source)
    return x if perm == sorted(perm) else get_op("permute")(x, perm=tuple(perm))


def fold(x: Any, axis: int) -> Any:
    """The lanes of `x` joined with its axis `axis` (counted in one lane), which they precede."""
    shape = value_type(x).shape[1:]
    size = value_type(x).shape[0]
    merged = (*shape[:axis], numel((size, shape[axis])), *shape[axis + 1 :])
    return get_op("reshape")(move_axis(x, 0, axis), shape=merged)


def unfold(x: Any, axis: int, size: DimLike, length: DimLike) -> Any:
    """The inverse of `fold`: axis `axis` is `size` lanes of `length` elements each; the lanes come to the front."""
    shape: Shape = value_type(x).shape
    split = get_op("reshape")(x, shape=(*shape[:axis], size, length, *shape[axis + 1 :]))
    return move_axis(split, axis, 0)


__all__ = [
    "NO_DIRECT_WAY",
    "BatchContext",
    "BatchRule",
    "batch",
    "extended",
    "fold",
    "lane_by_lane",
    "leading",
    "move_axis",
    "pointwise",
    "shifted",
    "stacked",
    "unfold",
]
