"""Running sums and products, and sorted rows, as kernels: one pass over each row, which carries the fold of what came
before."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..ir.dim import Dim
from ..ir.dtypes import accumulator, float32, float64
from ..ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store, size_symbols
from ..ir.scalar import Expr, apply, cast, result
from .host import SCANS

if TYPE_CHECKING:
    from .lower import GroupLowering


def lower_scan(low: "GroupLowering") -> Kernel:
    """float32 accumulates in float64: errors would grow with the length."""
    from .lower import linear

    node = low.group.anchor
    assert node is not None
    x, axis = node.inputs[0], node.attrs["axis"]
    point = low.group.symbols
    axes = {k: Axis(s, n) for k, (s, n) in enumerate(zip(point, x.shape)) if isinstance(s, Dim)}
    outer = tuple(a for k, a in axes.items() if k != axis)
    dtype = float64 if x.dtype is float32 else accumulator(x.dtype)
    value = cast(low.element(x, point), dtype)
    buffer = low.writes[node.out] = Buffer("y0", x.dtype, (x.type.size,), (1,), "out")
    at = linear(point, x.shape)

    def stored(found: Expr) -> Store:
        for before in node.inputs[1:]:
            kept = tuple(i for k, i in enumerate(point) if k != axis)
            found = apply("add" if SCANS[node.op.name] == "sum" else "mul", low.element(before, kept), found)
        return Store("y0", (at,), cast(found, x.dtype))

    if axis in axes:
        reduction = Reduction(("r0",), SCANS[node.op.name], (value,), dtype, running=True)
        stage = Stage((axes[axis],), (reduction,), (stored(result("r0", dtype)),))
    else:  # of one element
        stage = Stage((), (), (stored(value),))
    params = tuple(dict.fromkeys((*low.reads.values(), buffer)))
    sources = (str(node.loc),) if node.loc else ()
    kernel = Kernel(low.name, params, outer, (stage,), None, (), sources, (node.op.name,))
    return replace(kernel, dims=size_symbols(kernel))
