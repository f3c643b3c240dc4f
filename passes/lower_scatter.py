"""Kernels that store where values say. Scatter: every task owns one point of the axes that are not indexed, copies the
tensor there, and applies the updates in row-major order. So sums of duplicates have one fixed order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.dtypes import int64
from ..ir.graph import Node
from ..ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store, size_symbols
from ..ir.scalar import Expr, apply, cast, const, index, load, result, select
from .access import Index, broadcast_index

if TYPE_CHECKING:
    from .lower import GroupLowering


def lower_scatter(low: "GroupLowering") -> Kernel:
    node = low.group.anchor
    assert node is not None
    x, count = node.inputs[0], len(node.inputs) - 2
    rest = [(f"i{k}", n) for k, n in enumerate(x.shape) if k >= count]
    outer = tuple(Axis(dim.symbol(name, 0, n - 1), n) for name, n in rest if n != 1)
    tail = tuple(0 if n == 1 else dim.symbol(name, 0, n - 1) for name, n in rest)
    copied = tuple(_axis(f"i{k}", n) for k, n in enumerate(x.shape[:count]))
    buffer = Buffer("y0", x.dtype, x.shape, dim.contiguous_strides(x.shape), "out")
    low.writes[node.out] = buffer
    head = tuple(i for _, i in copied)
    first = Store("y0", (*head, *tail), cast(low.element(x, (*head, *tail)), x.dtype))
    listed, second = _update(low, node, tail)
    stages = (
        Stage(tuple(a for a, i in copied if isinstance(i, Dim)), stores=(first,)),
        Stage(tuple(a for a, i in listed if isinstance(i, Dim)), stores=(second,)),
    )
    return _kernel(low, node, outer, stages)


def _update(low: "GroupLowering", node: Node, tail: Index) -> tuple[list[tuple[Axis, DimLike]], Store]:
    """The axes and indices of a scatter's updates, and the store of one of them at a point of the axes behind."""
    x, updates, *indices = node.inputs
    listed = [_axis(f"u{k}", n) for k, n in enumerate(updates.shape[: updates.ndim - len(tail)])]
    point = tuple(i for _, i in listed)
    places = tuple(cast(low.element(v, broadcast_index(point, v.shape)), int64) for v in indices)
    value = cast(low.element(updates, (*point, *tail)), x.dtype)
    accumulate = "" if node.attrs["mode"] == "set" else node.attrs["mode"]
    return listed, Store("y0", (*places, *tail), value, accumulate=accumulate)


def lower_unordered(low: "GroupLowering") -> Kernel:
    """Every update is a point of its own. What is not updated is in memory already."""
    node = low.group.anchor
    assert node is not None
    x, count = node.inputs[0], len(node.inputs) - 2
    rest = [_axis(f"i{k}", n) for k, n in enumerate(x.shape) if k >= count]
    buffer = Buffer("y0", x.dtype, x.shape, dim.contiguous_strides(x.shape), "inout")
    low.writes[node.out], low.overwrites[node.out] = buffer, x
    listed, store = _update(low, node, tuple(i for _, i in rest))
    outer = tuple(a for a, i in (*listed, *rest) if isinstance(i, Dim))
    return _kernel(low, node, outer, (Stage((), (), (store,)),))


FOLDS = {"add": ("sum", "add"), "mul": ("prod", "mul"), "max": ("max", "max"), "min": ("min", "min")}


def lower_segments(low: "GroupLowering") -> Kernel:
    """Each row of the result folds its own span of the sorted updates."""
    from .lower import compute_dtype, linear

    node = low.group.anchor
    assert node is not None
    x, updates, order, starts = node.inputs
    axes = [_axis(f"i{k}", n) for k, n in enumerate(x.shape)]
    point = tuple(i for _, i in axes)
    p, n = dim.symbol("p", 0, order.shape[0] - 1), order.shape[0]
    at = cast(low.element(order, (p,)), int64)
    taken = low.widen(load(x.dtype, low.indirect_buffer(updates).name, (at, *point[1:])))
    kind, join = FOLDS[node.attrs["mode"]]
    dtype = compute_dtype(x.dtype)
    bounds: tuple[Expr, Expr] = (low.element(starts, (point[0],)), low.element(starts, (point[0] + 1,)))
    folded = apply(join, low.element(x, point), result("r0", dtype))
    low.writes[node.out] = Buffer("y0", x.dtype, (x.type.size,), (1,), "out")
    stages = (
        Stage((Axis(p, n),), (Reduction(("r0",), kind, (taken,), dtype),), span=bounds),
        Stage((), (), (Store("y0", (linear(point, x.shape),), cast(folded, x.dtype)),)),
    )
    return _kernel(low, node, tuple(a for a, i in axes if isinstance(i, Dim)), stages)


def _kernel(low: "GroupLowering", node: Node, axes: tuple[Axis, ...], stages: tuple[Stage, ...]) -> Kernel:
    params = tuple(dict.fromkeys((*low.reads.values(), *low.writes.values())))
    sources = (str(node.loc),) if node.loc else ()
    kernel = Kernel(low.name, params, axes, stages, None, (), sources, (node.op.name,))
    return replace(kernel, dims=size_symbols(kernel))


def lower_positions(low: "GroupLowering") -> Kernel:
    """Zeros, and then each position where as many were true before; those of false elements go to the last place, as 0."""
    node = low.group.anchor
    assert node is not None
    (mask,) = node.inputs
    *rows, n = mask.shape
    found = [_axis(f"i{k}", extent) for k, extent in enumerate(rows)]
    point = tuple(i for _, i in found)
    room, places = _axis("p", n + 1), _axis("u", n)
    low.writes[node.out] = Buffer("y0", int64, node.out.shape, dim.contiguous_strides(node.out.shape), "out")
    is_true = low.element(mask, (*point, places[1]))
    count = Reduction(("r0",), "sum", (cast(is_true, int64),), int64, running=True)
    here, zero = index(places[1]), const(0, int64)
    at = select(is_true, apply("sub", result("r0", int64), const(1, int64)), index(n))
    stages = (
        Stage((room[0],), (), (Store("y0", (*point, room[1]), zero),)),
        Stage((places[0],), (count,), (Store("y0", (*point, at), select(is_true, here, zero)),)),
    )
    return _kernel(low, node, tuple(a for a, i in found if isinstance(i, Dim)), stages)


def _axis(name: str, extent: DimLike) -> tuple[Axis, DimLike]:
    sym = dim.symbol(name, 0, extent - 1)
    return Axis(sym, extent), 0 if extent == 1 else sym


LOWERINGS = {
    "scatter": lower_scatter,
    "scatter_unordered": lower_unordered,
    "segment_reduce": lower_segments,
    "positions": lower_positions,
}
