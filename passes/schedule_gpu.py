"""Decides how a kernel runs on a GPU: how many points each program has, and how many warps work on it."""

from __future__ import annotations

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.dtypes import float64
from ..ir.kernel import Attention, Axis, Kernel, Schedule, offset, roots
from ..ir.scalar import MATH, Expr, free_symbols, walk
from ..ir.target import Target
from .schedule_attention import schedule_attention
from .tiles_gpu import tiles

POINTWISE_BLOCK = 1024
TILE = 2048  # points of a tile whose stages loop
LARGEST_ROW = 4096  # points that one block holds
# Three products of parts of 11 bits (TF32), summed in float32: as accurate as float32 sums, and several times as fast as
# without tensor cores. Infinities and NaNs go where they should; only from 0.9998 of the largest float on, operands count
# as infinite. "ieee" multiplies float32 itself, "tf32" keeps 11 bits of each operand.
PRECISION = "tf32x3"
FEWER = 4  # times fewer of all these where a point takes many registers
IN_FLOAT64 = frozenset(("lgamma", "digamma"))  # whatever their type


def schedule(kernel: Kernel, target: Target, precision: str = PRECISION) -> Schedule:
    """The default schedule, `blocks` and what goes with them: (XBLOCK,) for kernels without inner axes, (XBLOCK, RBLOCK)
    for those with, (MBLOCK, NBLOCK, KBLOCK) for contractions. `precision`: of products of float32."""
    if isinstance(kernel.anchor, Attention):
        return schedule_attention(kernel, target, precision)
    if kernel.anchor is not None:
        return tiles(kernel, target, precision)[0]
    outer = dim.numel(tuple(a.extent for a in kernel.axes))
    inner = [dim.numel(tuple(a.extent for a in s.axes)) for s in kernel.stages if s.axes]
    fewer = FEWER if _crowded(kernel) else 1
    blocks = _rows(kernel, outer, inner, fewer) if inner else (power_of_two(outer, POINTWISE_BLOCK // fewer), 1)
    points = blocks[0] * blocks[1]
    return Schedule(blocks=blocks if inner else blocks[:1], warps=8 if points * fewer > 2048 else 4)


def _crowded(kernel: Kernel) -> bool:
    """Whether a point takes so many registers that the usual number of points for a thread would spill: functions that
    are computed in float64, by long polynomials."""
    found = walk(*(e for s in kernel.stages for e in roots(s)))
    return any(e.op in MATH and (e.dtype is float64 or e.op in IN_FLOAT64) for e in found)


def _rows(kernel: Kernel, outer: DimLike, inner: list[DimLike], fewer: int) -> tuple[int, int]:
    """Powers of two. Long along the dimension that more of memory is contiguous in."""
    row, tile = LARGEST_ROW // fewer, TILE // fewer
    longest = power_of_two(inner[0], row)
    for n in inner[1:]:
        longest = max(longest, power_of_two(n, row))
    if _columns(kernel):
        x = power_of_two(outer, 64)
        return x, min(longest, tile // x)
    fits = all(isinstance(n, int) and n <= row for n in inner)
    r = longest if fits else min(longest, tile)
    return power_of_two(outer, max(1, min(64, tile // 2 // r))), r


def _columns(kernel: Kernel) -> bool:
    """Whether more loads run along the last outer axis than along the last inner one. What a row has one element of is
    loaded once, and says nothing."""
    if not kernel.axes:
        return False
    inner = next(s.axes[-1] for s in kernel.stages if s.axes)
    along_rows = {a.sym for s in kernel.stages for a in s.axes}
    score = 0
    for e in walk(*(e for s in kernel.stages for e in roots(s))):
        if e.op == "load" and free_symbols(e) & along_rows:
            score += _unit_stride(kernel, e, kernel.axes[-1]) - _unit_stride(kernel, e, inner)
    return score > 0


def _unit_stride(kernel: Kernel, e: Expr, axis: Axis) -> int:
    at = offset(kernel.buffer(e.attr.buffer), e.attr.index)
    return int(isinstance(at, dim.Dim) and at.is_linear_in(axis.sym) and at.coefficient(axis.sym) == 1)


def power_of_two(n: DimLike, most: int) -> int:
    """The smallest power of two that holds n, at most `most` (a power of two)."""
    return min(most, 1 << max(0, n - 1).bit_length()) if isinstance(n, int) else most
