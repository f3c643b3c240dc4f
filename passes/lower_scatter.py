"""Kernels that store where values say. Scatter: every task owns one point of the axes that are not indexed, copies the
tensor there, and applies the updates in row-major order. So sums of duplicates have one fixed order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir import dim
from ..ir.dim import Dim
from ..ir.dtypes import int64
from ..ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store, size_symbols
from ..ir.scalar import apply, cast, const, index, result, select
from .access import broadcast_index

if TYPE_CHECKING:
    from .lower import GroupLowering


def lower_scatter(low: "GroupLowering") -> Kernel:
    node = low.group.anchor
    assert node is not None
    x, updates, *indices = node.inputs
    count = len(indices)
    rest = [(f"i{k}", n) for k, n in enumerate(x.shape) if k >= count]
    outer = tuple(Axis(dim.symbol(name, 0, n - 1), n) for name, n in rest if n != 1)
    tail = tuple(0 if n == 1 else dim.symbol(name, 0, n - 1) for name, n in rest)
    copied = tuple(_axis(f"i{k}", n) for k, n in enumerate(x.shape[:count]))
    rank = updates.ndim - len(rest)
    listed = tuple(_axis(f"u{k}", n) for k, n in enumerate(updates.shape[:rank]))
    buffer = Buffer("y0", x.dtype, x.shape, dim.contiguous_strides(x.shape), "out")
    low.writes[node.out] = buffer
    head = tuple(i for _, i in copied)
    first = Store("y0", (*head, *tail), cast(low.element(x, (*head, *tail)), x.dtype))
    point = tuple(i for _, i in listed)
    places = tuple(cast(low.element(v, broadcast_index(point, v.shape)), int64) for v in indices)
    value = cast(low.element(updates, (*point, *tail)), x.dtype)
    second = Store("y0", (*places, *tail), value, accumulate="add" if node.attrs["mode"] == "add" else "")
    stages = (
        Stage(tuple(a for a, i in copied if isinstance(i, Dim)), stores=(first,)),
        Stage(tuple(a for a, i in listed if isinstance(i, Dim)), stores=(second,)),
    )
    params = tuple(dict.fromkeys((*low.reads.values(), buffer)))
    kernel = Kernel(low.name, params, outer, stages, None, (), (str(node.loc),) if node.loc else (), ("scatter",))
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
    low.writes[node.out] = buffer = Buffer("y0", int64, node.out.shape, dim.contiguous_strides(node.out.shape), "out")
    is_true = low.element(mask, (*point, places[1]))
    count = Reduction(("r0",), "sum", (cast(is_true, int64),), int64, running=True)
    here, zero = index(places[1]), const(0, int64)
    at = select(is_true, apply("sub", result("r0", int64), const(1, int64)), index(n))
    stages = (
        Stage((room[0],), (), (Store("y0", (*point, room[1]), zero),)),
        Stage((places[0],), (count,), (Store("y0", (*point, at), select(is_true, here, zero)),)),
    )
    params = tuple(dict.fromkeys((*low.reads.values(), buffer)))
    outer = tuple(a for a, i in found if isinstance(i, Dim))
    kernel = Kernel(low.name, params, outer, stages, None, (), (str(node.loc),) if node.loc else (), ("positions",))
    return replace(kernel, dims=size_symbols(kernel))


def _axis(name: str, extent):
    sym = dim.symbol(name, 0, extent - 1)
    return Axis(sym, extent), 0 if extent == 1 else sym
