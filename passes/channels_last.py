"""Convolutions on GPUs read channels in runs of memory: what a block of contracted points holds, or a block of columns."""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.target import Target
from .fuel import Fuel
from .host import on_host

CHANNELS = 16  # fewer are no run
WINDOW = 32  # points: larger windows are whole images, in gradients for filters
ALIGNED = 8  # pixels of an image: with a multiple of that, windows of one point read runs of pixels as well


class _ChannelsLast(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel
        self.copies: dict[tuple[Value, tuple[int, ...]], Value] = {}

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op.name != "conv" or on_host(node) or not _gains(node) or not self.fuel.spend("channels_last"):
            return None
        spatial = tuple(range(2, node.out.ndim))
        # In a gradient for filters, channels and images have changed places.
        order = (0, *spatial, 1) if _points(node.inputs[1]) < WINDOW else (1, *spatial, 0)
        return self.builder.emit(node.op, tuple(self._arranged(v, order) for v in inputs), node.attrs)

    def _arranged(self, v: Value, order: tuple[int, ...]) -> Value:
        """`v` as a view of a copy that has its axes in that order. Views of one tensor share their copies."""
        root, axes = v, order
        while root.node is not None and root.node.op.name == "permute":
            perm = root.node.attrs["perm"]
            root, axes = root.node.inputs[0], tuple(perm[k] for k in axes)
        if axes == tuple(range(v.ndim)):
            return v
        if (root, axes) not in self.copies:
            self.copies[root, axes] = ops.cast(ops.permute(root, perm=axes), dtype=v.dtype)
        back = tuple(order.index(k) for k in range(v.ndim))
        return ops.permute(self.copies[root, axes], perm=back)


def _gains(node: Node) -> bool:
    x, w = node.inputs
    if (
        x.dtype.kind != "f"
        or node.attrs["groups"] != 1
        or not all(isinstance(n, int) for n in (*x.shape[1:], *w.shape))
    ):
        return False
    points, pixels = _points(w), _points(x)
    if points >= WINDOW:
        return isinstance(x.shape[0], int) and min(x.shape[0], w.shape[0]) >= CHANNELS
    rows = points == 1 and pixels % ALIGNED == 0 and all(s == 1 for s in node.attrs["stride"])
    return min(w.shape[:2]) >= CHANNELS and not rows


def _points(v: Value) -> int:
    """Of a window or an image of known size."""
    points = dim.numel(tuple(v.shape[2:]))
    assert isinstance(points, int)
    return points


def channels_last(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs simplified graphs. Leaves images and filters of convolutions with enough channels as copies with the channels
    last; whatever computes an image can store it like that, and a copy serves every convolution that reads the image."""
    return _ChannelsLast(graph, fuel).run()
