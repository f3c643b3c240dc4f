"""Splits reductions that leave too few results to keep a machine busy into two: pieces, then the pieces' results.

The pieces depend on the extents only, so the order of combination is the same on any number of threads.
"""

from __future__ import annotations

import math

from ..ir import dim, ops
from ..ir.dim import DimLike
from ..ir.dtypes import DType
from ..ir.graph import Graph, Node, Rewriter, Value
from .fuel import Fuel
from .host import on_host

FEW = 64  # results; with at least as many, each can be a task of its own
LARGE = 1 << 16  # elements that make splitting worth a second kernel
TALL = 512  # rows of a reduction over leading axes: longer runs are cut, so that pages and streams stay few
PIECES = 64

# On GPUs: of a machine with some 130 multiprocessors, each of which wants several programs
BUSY = 132  # programs that keep a machine busy
PROGRAMS = 1024  # that a split reduction has
WORTH = 1 << 15  # elements
ROW, COLUMN = 2048, 64  # least elements of a piece, along its row or down its columns
COLUMNS = 64  # neighbouring columns that one program reduces


class _Split(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel, on_gpu: bool):
        super().__init__(graph)
        self.fuel, self.on_gpu = fuel, on_gpu

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not node.op.name.startswith("reduce_") or on_host(node) or not node.attrs["axes"]:
            return None
        x, axes = inputs[0], node.attrs["axes"]
        pieces_of = _pieces_on_gpu if self.on_gpu else _pieces
        axis = _longest(x, axes)
        pieces = pieces_of(x, axes, axis)
        if pieces is None or not self.fuel.spend("split"):
            return None
        n = x.shape[axis]
        length = dim.ceildiv(n, pieces)
        if not dim.same(length * pieces, n):
            high = tuple(length * pieces - n if k == axis else 0 for k in range(x.ndim))
            x = ops.pad(x, low=(0,) * x.ndim, high=high, value=neutral(node.op.name, x.dtype))
        parts = ops.reshape(x, shape=(*x.shape[:axis], pieces, length, *x.shape[axis + 1 :]))
        inner = tuple(sorted(a + (a >= axis) if a != axis else axis + 1 for a in axes))
        partial = node.op(parts, axes=inner)
        position = axis - sum(a < axis for a in axes)
        return (node.op(partial, axes=(position,)),)


def _longest(x: Value, axes: tuple[int, ...]) -> int:
    """The axis to cut: the first one that gives enough pieces."""
    return max(axes, key=lambda k: (not isinstance(n := x.shape[k], int) or n >= PIECES, -k))


def _sizes(x: Value, axes: tuple[int, ...]) -> tuple[DimLike, DimLike]:
    """Results, and elements of each."""
    kept = dim.numel(tuple(n for k, n in enumerate(x.shape) if k not in axes))
    return kept, dim.numel(tuple(x.shape[k] for k in axes))


def _pieces(x: Value, axes: tuple[int, ...], axis: int) -> int | None:
    kept, folded = _sizes(x, axes)
    n = x.shape[axis]
    if not isinstance(kept, int) or not isinstance(folded, int) or not isinstance(n, int):
        return None
    columns = axes[-1] != x.ndim - 1
    if kept * folded < LARGE or not (kept < FEW or columns and folded >= TALL):
        return None
    pieces = next((p for p in range(PIECES, 7, -1) if n % p == 0), None)
    return pieces if pieces is not None and n // pieces >= 2 else None


def _pieces_on_gpu(x: Value, axes: tuple[int, ...], axis: int) -> int | None:
    """As many as give enough programs. A number that divides the axis, if there is one: else the last piece is filled up.
    Axes of unknown length are long."""
    kept, folded = _sizes(x, axes)
    n = x.shape[axis]
    columns = axes[-1] != x.ndim - 1
    if not isinstance(kept, int):
        return None
    programs = dim.ceildiv(kept, COLUMNS) if columns else kept
    assert isinstance(programs, int)
    if not programs or programs >= BUSY:
        return None
    wanted = PROGRAMS // programs
    if not isinstance(n, int) or not isinstance(folded, int):
        return min(wanted, PIECES)
    if kept * folded < WORTH:
        return None
    wanted = min(wanted, folded // (COLUMN if columns else ROW), n // 2)
    if wanted < 2:
        return None
    return next((p for p in range(wanted, wanted // 2, -1) if n % p == 0), wanted)


def neutral(op: str, dtype: DType) -> bool | int | float:
    """The element that changes no result of a reduction."""
    if op in ("reduce_sum", "reduce_prod"):
        return int(op == "reduce_prod") if dtype.kind != "f" else float(op == "reduce_prod")
    upward = op in ("reduce_max", "reduce_any")
    if dtype.kind == "b":
        return not upward
    if dtype.kind == "f":
        return -math.inf if upward else math.inf
    low = 0 if dtype.kind == "u" else -(1 << (dtype.bits - 1))
    return low if upward else low + (1 << dtype.bits) - 1


def split(graph: Graph, fuel: Fuel) -> Graph:
    """Needs simplified graphs of primitive ops. Leaves reductions alone whose extents no number of pieces divides."""
    return _Split(graph, fuel, False).run()


def split_on_gpu(graph: Graph, fuel: Fuel) -> Graph:
    """The same for GPUs, of any extents, unknown ones too."""
    return _Split(graph, fuel, True).run()
