"""Splits reductions that leave too few results to keep a machine busy into two: pieces, then the pieces' results.

The pieces depend on the extents only, so the order of combination is the same on any number of threads.
"""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.graph import Graph, Node, Rewriter, Value
from .fuel import Fuel
from .host import on_host

FEW = 64  # results; with at least as many, each can be a task of its own
LARGE = 1 << 16  # elements that make splitting worth a second kernel
TALL = 512  # rows of a reduction over leading axes: longer runs are cut, so that pages and streams stay few
PIECES = 64


class _Split(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not node.op.name.startswith("reduce_") or on_host(node):
            return None
        x, axes = inputs[0], node.attrs["axes"]
        if not axes or not all(isinstance(n, int) for n in x.shape):
            return None
        kept = dim.numel(tuple(n for k, n in enumerate(x.shape) if k not in axes))
        folded = dim.numel(tuple(x.shape[k] for k in axes))
        assert isinstance(kept, int) and isinstance(folded, int)
        columns = axes[-1] != x.ndim - 1
        if kept * folded < LARGE or not (kept < FEW or columns and folded >= TALL):
            return None
        axis = max(axes, key=lambda k: (x.shape[k] >= PIECES, -k))
        n = x.shape[axis]
        assert isinstance(n, int)
        pieces = next((p for p in range(PIECES, 7, -1) if n % p == 0), None)
        if pieces is None or n // pieces < 2 or not self.fuel.spend("split"):
            return None
        parts = ops.reshape(x, shape=(*x.shape[:axis], pieces, n // pieces, *x.shape[axis + 1 :]))
        inner = tuple(sorted(a + (a >= axis) if a != axis else axis + 1 for a in axes))
        partial = node.op(parts, axes=inner)
        position = axis - sum(a < axis for a in axes)
        return (node.op(partial, axes=(position,)),)


def split(graph: Graph, fuel: Fuel) -> Graph:
    """Needs simplified graphs of primitive ops. Leaves reductions alone whose extents no number of pieces divides."""
    return _Split(graph, fuel).run()
