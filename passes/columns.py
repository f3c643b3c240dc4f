"""The order of the columns of a contraction on GPUs: neighbours in memory are neighbours in a tile."""

from __future__ import annotations

from dataclasses import replace

from ..ir.dim import Dim
from ..ir.kernel import Axis, Contraction, Kernel, offset
from ..ir.scalar import Expr, walk
from ..ir.target import Target


def columns(kernel: Kernel, target: Target) -> Kernel:
    """Leaves the axis last along which the right operand is contiguous, if it is long enough for a block."""
    c = kernel.anchor
    if target.isa != "cuda" or not isinstance(c, Contraction) or len(c.n) < 2:
        return kernel
    runs = [a for a in c.n[:-1] if isinstance(a.extent, int) and a.extent >= 16 and _contiguous(kernel, c.rhs, a)]
    if not runs or _contiguous(kernel, c.rhs, c.n[-1]):
        return kernel
    n = (*(a for a in c.n if a is not runs[0]), runs[0])
    return replace(kernel, axes=(*c.batch, *c.m, *n), anchor=replace(c, n=n))


def _contiguous(kernel: Kernel, e: Expr, axis: Axis) -> bool:
    """Whether all loads step by one element along the axis."""
    loads = [x.attr for x in walk(e) if x.op == "load"]
    places = [offset(kernel.buffer(x.buffer), x.index) for x in loads]
    return bool(places) and all(
        isinstance(at, Dim) and at.is_linear_in(axis.sym) and at.coefficient(axis.sym) == 1 for at in places
    )
