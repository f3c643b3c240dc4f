"""Convolutions on GPUs read their channels in rows: a run of channels is what a block of contracted points holds."""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.target import Target
from .fuel import Fuel
from .host import on_host

CHANNELS = 16  # fewer are no run
WINDOW = 32  # points: larger windows, of gradients for filters, are runs themselves
ALIGNED = 8  # pixels of an image: with a multiple of that, windows of one point read runs of pixels as well


class _ChannelsLast(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel
        self.copies: dict[Value, Value] = {}

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op.name != "conv" or on_host(node) or not _gains(node) or not self.fuel.spend("channels_last"):
            return None
        return self.builder.emit(node.op, tuple(map(self._last, inputs)), node.attrs)

    def _last(self, v: Value) -> Value:
        """`v` as a view of a copy whose last axis are the channels."""
        if v not in self.copies:
            back = (0, v.ndim - 1, *range(1, v.ndim - 1))
            copy = ops.cast(ops.permute(v, perm=(0, *range(2, v.ndim), 1)), dtype=v.dtype)
            self.copies[v] = ops.permute(copy, perm=back)
        return self.copies[v]


def _gains(node: Node) -> bool:
    x, w = node.inputs
    sizes = (*x.shape[1:], *w.shape)
    if x.dtype.kind != "f" or node.attrs["groups"] != 1 or not all(isinstance(n, int) for n in sizes):
        return False
    points, pixels = dim.numel(tuple(w.shape[2:])), dim.numel(tuple(x.shape[2:]))
    assert isinstance(points, int) and isinstance(pixels, int)
    rows = points == 1 and pixels % ALIGNED == 0 and all(s == 1 for s in node.attrs["stride"])
    return w.shape[1] >= CHANNELS and w.shape[0] >= CHANNELS and points < WINDOW and not rows


def channels_last(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs simplified graphs. Leaves images and filters of convolutions with enough channels as copies with the channels
    last; whatever computes an image can store it like that, and a copy serves every convolution that reads the image."""
    return _ChannelsLast(graph, fuel).run()
