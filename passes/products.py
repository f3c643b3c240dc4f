"""Matrix products as a GPU runs them well: with vectors as sums, and those with few results and long sums in pieces."""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.dtypes import DType, accumulator
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.target import Target
from ..ir.types import broadcast_shapes
from .fuel import Fuel
from .host import on_host

TILE = 64  # rows and columns that a program computes when there are few of them
PIECE = 256  # contracted points: shorter sums are not worth a second kernel
MOST_PIECES = 32
MULTIPLE = 16  # of the contracted points of a piece: whole blocks, in aligned memory


class _Products(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel, target: Target):
        super().__init__(graph)
        assert target.gpu is not None
        self.fuel, self.gpu = fuel, target.gpu

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if on_host(node) or node.op.name not in ("matmul", "conv"):
            return None
        x, y = inputs
        if node.op.name == "conv":
            pieces = self._image_pieces(node)
            return (_conv_in_pieces(node, x, y, pieces),) if pieces > 1 and self.fuel.spend("products") else None
        folded = x.ndim > 2 and all(n == 1 for n in y.shape[:-2])
        if folded:
            x, y = _reshaped(x, (dim.numel(x.shape[:-1]), x.shape[-1])), _reshaped(y, y.shape[-2:])
        vector, pieces = 1 in (x.shape[-2], y.shape[-1]), self._pieces(x, y)
        if not (folded or vector or pieces > 1) or not self.fuel.spend("products"):
            return None
        out = _sums(x, y) if vector else _in_pieces(x, y, pieces) if pieces > 1 else ops.matmul(x, y)
        return (_reshaped(out, node.out.shape) if folded else out,)

    # ---- how many pieces
    def _pieces(self, x: Value, y: Value) -> int:
        batch = dim.numel(broadcast_shapes(x.shape[:-2], y.shape[:-2]))
        return self._divisor(x.shape[-1], self._wanted(batch, x.shape[-2], y.shape[-1], x.shape[-1]), MULTIPLE)

    def _image_pieces(self, node: Node) -> int:
        """Of the channels that a convolution sums over, if its sums are long: in gradients for filters, they are images."""
        x, w = node.inputs
        if node.attrs["groups"] != 1:
            return 1
        points = dim.numel((x.shape[0], *node.out.shape[2:]))
        return self._divisor(w.shape[1], self._wanted(1, w.shape[0], points, dim.numel(tuple(w.shape[1:]))), 1)

    def _wanted(self, batch: dim.DimLike, m: dim.DimLike, n: dim.DimLike, k: dim.DimLike) -> int:
        """As many as give every multiprocessor a tile, if they are long enough."""
        if not all(isinstance(d, int) and d > 0 for d in (batch, m, n, k)):
            return 1
        tiles = batch * dim.ceildiv(m, TILE) * dim.ceildiv(n, TILE)
        assert isinstance(tiles, int) and isinstance(k, int)
        return min(self.gpu.multiprocessors // tiles, k // PIECE, MOST_PIECES)

    @staticmethod
    def _divisor(k: dim.DimLike, most: int, multiple: int) -> int:
        """The greatest number of equal pieces, up to `most`, whose length is a multiple of `multiple`."""
        fits = (p for p in range(most, 1, -1) if isinstance(k, int) and k % (p * multiple) == 0)
        return next(fits, 1)


def _wide(v: Value) -> Value:
    """As products are summed: the sums of pieces are not rounded before the last."""
    return _as(v, accumulator(v.dtype))


def _as(v: Value, dtype: DType) -> Value:
    return v if v.dtype is dtype else ops.cast(v, dtype=dtype)


def _sums(x: Value, y: Value) -> Value:
    """x[..., m, k] @ y[..., k, n] as sums, for n = 1 or m = 1."""
    rank = max(x.ndim, y.ndim)
    a, b = (_wide(v) for v in (x, y))
    if y.shape[-1] == 1:
        total = ops.reduce_sum(ops.mul(a, _transposed(b)), axes=(rank - 1,))
        return _as(_reshaped(total, (*total.shape, 1)), x.dtype)
    total = ops.reduce_sum(ops.mul(_transposed(a), b), axes=(rank - 2,))
    return _as(_reshaped(total, (*total.shape[:-1], 1, total.shape[-1])), x.dtype)


def _in_pieces(x: Value, y: Value, pieces: int) -> Value:
    """The product as a sum of those of `pieces` runs of contracted points, which are one more batch axis, the first."""
    rank = max(x.ndim, y.ndim)
    k = x.shape[-1]
    assert isinstance(k, int)
    a, b = _wide(x), _wide(y)
    a = _reshaped(a, (*(1,) * (rank - a.ndim), *a.shape[:-1], pieces, k // pieces))
    b = _reshaped(b, (*(1,) * (rank - b.ndim), *b.shape[:-2], pieces, k // pieces, b.shape[-1]))
    a = ops.permute(a, perm=(rank - 1, *range(rank - 1), rank))
    b = ops.permute(b, perm=(rank - 2, *range(rank - 2), rank - 1, rank))
    return _as(ops.reduce_sum(ops.matmul(a, b), axes=(0,)), x.dtype)


def _conv_in_pieces(node: Node, x: Value, w: Value, pieces: int) -> Value:
    """The convolution as a sum of those of `pieces` runs of channels, which are groups of one convolution."""
    filters, channels, *window = w.shape
    assert isinstance(channels, int)
    parts = _reshaped(_wide(w), (filters, pieces, channels // pieces, *window))
    parts = ops.permute(parts, perm=(1, 0, *range(2, parts.ndim)))
    parts = _reshaped(parts, (pieces * filters, channels // pieces, *window))
    out = ops.conv(_wide(x), parts, **{**node.attrs, "groups": pieces})
    out = _reshaped(out, (out.shape[0], pieces, filters, *out.shape[2:]))
    return _as(ops.reduce_sum(out, axes=(1,)), x.dtype)


def _transposed(v: Value) -> Value:
    return ops.permute(v, perm=(*range(v.ndim - 2), v.ndim - 1, v.ndim - 2))


def _reshaped(v: Value, shape: tuple[dim.DimLike, ...]) -> Value:
    return ops.reshape(v, shape=shape)


def products(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs simplified graphs of primitive ops. Leaves batches that share their matrix as rows of one product, and no product
    with a vector: reductions stream the matrix once, and are split like any other. Products that would leave multiprocessors idle are cut along the contracted points, by extents
    alone, and the pieces are added up in order."""
    return _Products(graph, fuel, target).run()
