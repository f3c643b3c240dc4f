"""What a kernel moves and computes, estimated from its IR: for `explain` and for roofline figures."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.dim import DimLike, numel
from ..ir.kernel import Kernel, roots
from ..ir.scalar import BASIC, LEAVES, MATH, walk

# Floating operations that a function is counted as: about the length of its polynomial.
_MATH_COST = {"exp": 12, "exp2": 10, "log": 14, "tanh": 18, "erf": 18, "sin": 16, "cos": 16, "rsqrt": 2, "cbrt": 10}
_FREE = frozenset(("cast", "bitcast", "select", "neg", "abs", "copysign"))


@dataclass(frozen=True, slots=True)
class Cost:
    """read, written: bytes of the buffers a kernel touches, each counted once. flops: floating and integer operations.
    Plain ints for static shapes, expressions of the sizes for symbolic ones."""

    read: DimLike
    written: DimLike
    flops: DimLike


def operation_cost(op: str) -> int:
    """Operations one element of a scalar op counts as."""
    if op in LEAVES or op in _FREE:
        return 0
    if op == "fma":
        return 2
    return 1 if op in BASIC else _MATH_COST.get(op, 24) if op in MATH else 0


def kernel_cost(kernel: Kernel) -> Cost:
    """A kernel's traffic and work. Contractions and attention count two operations for each product."""
    read: DimLike = 0
    written: DimLike = 0
    for b in kernel.params:
        size = numel(b.shape) * b.dtype.itemsize
        if b.role in ("in", "inout"):
            read = read + size
        if b.role in ("out", "inout"):
            written = written + size
    outer = numel(tuple(a.extent for a in kernel.axes))
    flops: DimLike = 0
    if kernel.anchor is not None:
        for axes in kernel.anchor.products:
            flops = flops + numel(tuple(a.extent for a in axes)) * 2
    for stage in kernel.stages:
        each = sum(operation_cost(e.op) for e in walk(*roots(stage))) + len(stage.reductions)
        flops = flops + outer * numel(tuple(a.extent for a in stage.axes)) * each
    return Cost(read, written, flops)
