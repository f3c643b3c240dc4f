"""Decides how a kernel runs on a GPU: how many points each program has, and how many warps work on it."""

from __future__ import annotations

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.kernel import Attention, Axis, Kernel, Schedule, offset, roots
from ..ir.scalar import Expr, walk
from ..ir.target import Target
from .schedule_attention import schedule_attention

POINTWISE_BLOCK = 1024
TILE = 2048  # points of a tile whose stages loop
LARGEST_ROW = 4096  # points that one block holds


def schedule(kernel: Kernel, target: Target) -> Schedule:
    """The default schedule, `blocks` and what goes with them: (XBLOCK,) for kernels without inner axes, (XBLOCK, RBLOCK)
    for those with, (MBLOCK, NBLOCK, KBLOCK) for contractions."""
    if isinstance(kernel.anchor, Attention):
        return schedule_attention(kernel, target)
    if kernel.anchor is not None:
        return _contraction(kernel)
    outer = dim.numel(tuple(a.extent for a in kernel.axes))
    inner = [dim.numel(tuple(a.extent for a in s.axes)) for s in kernel.stages if s.axes]
    blocks = _rows(kernel, outer, inner) if inner else (power_of_two(outer, POINTWISE_BLOCK), 1)
    points = blocks[0] * blocks[1]
    return Schedule(blocks=blocks if inner else blocks[:1], warps=8 if points > 2048 else 4)


def _contraction(kernel: Kernel) -> Schedule:
    c = kernel.contraction
    floating = c.lhs.dtype.kind == "f"
    m, n, k = (dim.numel(tuple(a.extent for a in x)) for x in (c.m, c.n, c.k))
    limit = 64 if floating else 16  # integers go through a three-dimensional product
    blocks = (power_of_two(m, limit), power_of_two(n, limit), power_of_two(k, 32 if floating else 16))
    return Schedule(blocks=tuple(max(16, b) for b in blocks), warps=4, stages=3)


def _rows(kernel: Kernel, outer: DimLike, inner: list[DimLike]) -> tuple[int, int]:
    """Powers of two. Long along the dimension that more of memory is contiguous in."""
    longest = power_of_two(inner[0], LARGEST_ROW)
    for n in inner[1:]:
        longest = max(longest, power_of_two(n, LARGEST_ROW))
    if _columns(kernel):
        x = power_of_two(outer, 64)
        return x, min(longest, TILE // x)
    fits = all(isinstance(n, int) and n <= LARGEST_ROW for n in inner)
    r = longest if fits else min(longest, TILE)
    return power_of_two(outer, max(1, min(64, TILE // 2 // r))), r


def _columns(kernel: Kernel) -> bool:
    """Whether more loads run along the last outer axis than along the last inner one."""
    if not kernel.axes:
        return False
    inner = next(s.axes[-1] for s in kernel.stages if s.axes)
    score = 0
    for e in walk(*(e for s in kernel.stages for e in roots(s))):
        if e.op == "load":
            score += _unit_stride(kernel, e, kernel.axes[-1]) - _unit_stride(kernel, e, inner)
    return score > 0


def _unit_stride(kernel: Kernel, e: Expr, axis: Axis) -> int:
    at = offset(kernel.buffer(e.attr.buffer), e.attr.index)
    return int(isinstance(at, dim.Dim) and at.is_linear_in(axis.sym) and at.coefficient(axis.sym) == 1)


def power_of_two(n: DimLike, most: int) -> int:
    """The smallest power of two that holds n, at most `most` (a power of two)."""
    return min(most, 1 << max(0, n - 1).bit_length()) if isinstance(n, int) else most
