"""Long running sums and products on GPUs: each piece of a row is folded, the folds are scanned, and each piece is scanned
from what comes before it. So one long row is work for many programs, in an order that its length alone decides."""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.dtypes import float32, float64, int64
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.target import Target
from ..ir.types import TensorType
from .fuel import Fuel
from .host import has_native_types

PIECE = 2048  # elements
LONG = 4 * PIECE  # elements of a row that make three kernels worth it
BUSY = 132  # rows that keep a machine busy

SCANS = {"cumsum": (ops.reduce_sum, ops.cumsum_from, 0), "cumprod": (ops.reduce_prod, ops.cumprod_from, 1)}


def scanning(graph: Graph, fuel: Fuel, target: Target) -> Graph:
    """Needs primitive ops. Leaves no scan of few long rows."""
    return _Scanning(graph, fuel).run()


class _Scanning(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        name, (x, *_) = node.op.name, inputs or (None,)
        if x is None or name not in (*SCANS, "positions") or not has_native_types(node):
            return None
        axis = x.ndim - 1 if name == "positions" else node.attrs["axis"]
        if not _is_long(x.type, axis) or not self.fuel.spend("scanning"):
            return None
        return (_positions(x) if name == "positions" else _scan(name, x, axis),)


def _is_long(x: TensorType, axis: int) -> bool:
    """Whether rows are long (as those of unknown length are), and few."""
    rows = dim.numel(tuple(n for k, n in enumerate(x.shape) if k != axis))
    n = x.shape[axis]
    return isinstance(rows, int) and 0 < rows < BUSY and (not isinstance(n, int) or n >= LONG)


def _scan(name: str, x: Value, axis: int) -> Value:
    fold, scan_from, first = SCANS[name]
    shape, n = x.shape, x.shape[axis]
    pieces = dim.ceildiv(n, PIECE)
    filled = ops.pad(
        x, low=(0,) * x.ndim, high=tuple(pieces * PIECE - n if k == axis else 0 for k in range(x.ndim)), value=first
    )
    rows = ops.reshape(filled, shape=(*shape[:axis], pieces, PIECE, *shape[axis + 1 :]))
    wide = rows if x.dtype.kind != "f" else ops.cast(rows, dtype=float32 if x.dtype.bits == 16 else float64)
    totals = getattr(ops, name)(fold(wide, axes=(axis + 1,)), axis=axis)
    done = scan_from(rows, _shifted(totals, axis, first), axis=axis + 1)
    done = ops.reshape(done, shape=filled.shape)
    return ops.slice_(done, start=(0,) * x.ndim, stop=shape, step=(1,) * x.ndim)


def _shifted(totals: Value, axis: int, first: int) -> Value:
    """What comes before each piece: nothing, and then the totals but for the last."""
    start = (0,) * totals.ndim
    stop = tuple(n - 1 if k == axis else n for k, n in enumerate(totals.shape))
    kept = ops.slice_(totals, start=start, stop=stop, step=(1,) * totals.ndim)
    return ops.pad(kept, low=tuple(int(k == axis) for k in range(totals.ndim)), high=start, value=first)


def _positions(mask: Value) -> Value:
    """Each position where as many were true before; those of false elements go to the last place, as 0."""
    *rows, n = mask.shape
    count = _scan("cumsum", ops.cast(mask, dtype=int64), mask.ndim - 1)
    one, zero, end = (ops.full(value=v, shape=(), dtype=int64) for v in (1, 0, n))
    at = ops.where(mask, ops.sub(count, one), end)
    here = ops.where(mask, ops.iota(shape=mask.shape, axis=mask.ndim - 1, dtype=int64), zero)
    own = (ops.iota(shape=tuple(m if j == k else 1 for j, m in enumerate((*rows, 1))), axis=k, dtype=int64)
           for k in range(len(rows)))  # fmt: skip
    nothing = ops.full(value=0, shape=(*rows, n + 1), dtype=int64)
    return ops.scatter_unordered(nothing, here, *own, at, mode="set")
