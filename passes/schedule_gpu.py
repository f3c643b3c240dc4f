"""Decides how a kernel runs on a GPU: how many points each program has, and how many warps work on it."""

from __future__ import annotations

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.dtypes import DType, float64
from ..ir.kernel import Attention, Axis, Kernel, Schedule, offset, roots
from ..ir.scalar import MATH, Expr, free_symbols, walk
from ..ir.target import Target
from .schedule_attention import schedule_attention
from .tiles_gpu import tiles

POINTWISE_BLOCK = 1024
TILE = 2048  # points of a tile whose stages loop
LARGEST_ROW = 4096  # points that one block holds
PROGRAMS = 264  # that a kernel has where its size allows: two on each of 132 multiprocessors
VECTOR = 16  # bytes that a thread reads at once
REGISTERS = 128  # of a thread, for the elements that it holds at once
MOST_WARPS = 8
# Three products of parts of 11 bits (TF32), summed in float32: as accurate as float32 sums, and several times as fast as
# without tensor cores. Infinities and NaNs go where they should; only from 0.9998 of the largest float on, operands count
# as infinite. "ieee" multiplies float32 itself, "tf32" keeps 11 bits of each operand.
PRECISION = "tf32x3"
FEWER = 4  # times fewer of these where a point takes many registers
IN_FLOAT64 = frozenset(("lgamma", "digamma"))  # whatever their type


def schedule(kernel: Kernel, target: Target, precision: str = PRECISION) -> Schedule:
    """The default schedule, `blocks` and what goes with them: (XBLOCK,) for kernels without inner axes, (XBLOCK, RBLOCK)
    for those with, (MBLOCK, NBLOCK, KBLOCK) for contractions. `precision`: of products of float32."""
    if isinstance(kernel.anchor, Attention):
        return schedule_attention(kernel, target, precision)
    if kernel.anchor is not None:
        return tiles(kernel, target, precision)[0]
    outer = dim.numel(tuple(a.extent for a in kernel.axes))
    if not any(s.axes for s in kernel.stages):
        return _points(kernel, outer)
    return _rows(kernel, outer)


def _points(kernel: Kernel, outer: DimLike) -> Schedule:
    """Each thread has the elements of one vector, or of two of them if registers hold those of every buffer."""
    held = _held(kernel)
    each = VECTOR // min((_itemsize(b.dtype) for b in kernel.params), default=4)
    each = max(1, min(2 * each, power_below(REGISTERS * 4 // max(1, held))) // _fewer(kernel))
    block = power_of_two(outer, POINTWISE_BLOCK // _fewer(kernel))
    if isinstance(outer, int):  # small ones have few points a program, so that there are enough programs
        block = min(block, max(32 * min(each, 4), power_below(outer // PROGRAMS)))
    return Schedule(blocks=(block,), warps=_warps(block, each))


def _rows(kernel: Kernel, outer: DimLike) -> Schedule:
    """Long along the dimension that more of memory is contiguous in."""
    inner = [dim.numel(tuple(a.extent for a in s.axes)) for s in kernel.stages if s.axes]
    if any(s.span for s in kernel.stages):
        x, r = _spans(kernel, inner[0])
        return Schedule(blocks=(x, r), warps=4)
    largest, tile = LARGEST_ROW // _fewer(kernel), TILE // _fewer(kernel)
    longest = max(power_of_two(n, largest) for n in inner)
    held = _held(kernel)
    if _columns(kernel):
        x = power_of_two(outer, 64)
        r = min(longest, tile // x)
        return Schedule(blocks=(x, r), warps=_warps(x * r, 8 // _fewer(kernel)))
    most = power_below(MOST_WARPS * 2 * 32 * REGISTERS * 4 // held)  # points whose elements all threads together hold
    fits = all(isinstance(n, int) and n <= largest for n in inner) and (longest <= most or _sorts(kernel))
    r = longest if fits else min(longest, tile)
    x = power_of_two(outer, max(1, min(64, tile // 2 // r)))
    if isinstance(outer, int):
        x = min(x, power_below(max(1, outer // PROGRAMS)))
    warps = _warps(x * r, (4 if _sorts(kernel) else 8) // _fewer(kernel))
    while fits and warps < 2 * MOST_WARPS and x * r * held > warps * 32 * REGISTERS * 2:
        warps *= 2
    return Schedule(blocks=(x, r), warps=warps)


def _spans(kernel: Kernel, n: DimLike) -> tuple[int, int]:
    """Neighbouring outer points read the same rows, but for their place in these; a span has the average length, if all
    are alike."""
    *rows, last = (a.extent for a in kernel.axes) if kernel.axes else (1,)
    count = dim.numel(tuple(rows)) if rows else last
    average = n // count if isinstance(n, int) and isinstance(count, int) else 16
    r = power_of_two(max(1, average), 1024) if not rows else power_of_two(max(4, average), 32)
    x = power_of_two(last, 256) if rows else 64
    return max(1, min(x, TILE // r)), max(r, 4)


def _sorts(kernel: Kernel) -> bool:
    return any(r.kind == "sort" for s in kernel.stages for r in s.reductions)


def _held(kernel: Kernel) -> int:
    """Bytes of registers of one point: an element from each load, and what is stored."""
    loads = [e for e in walk(*(x for s in kernel.stages for x in roots(s))) if e.op == "load" and free_symbols(e)]
    stored = {s.buffer: s.value.dtype for stage in kernel.stages for s in stage.stores}
    held = sum(max(4, e.dtype.itemsize) for e in loads) + sum(max(4, d.itemsize) for d in stored.values()) or 4
    return held * _fewer(kernel)


def _itemsize(dtype: DType) -> int:
    return max(1, dtype.itemsize)


def _warps(points: int, each: int) -> int:
    """Warps of a block whose threads have about `each` points."""
    return max(1, min(MOST_WARPS, power_below(points // (32 * each))))


def _fewer(kernel: Kernel) -> int:
    """How many times fewer points a thread has registers for than usual: for functions that are computed in float64, by long
    polynomials."""
    found = walk(*(e for s in kernel.stages for e in roots(s)))
    return FEWER if any(e.op in MATH and (e.dtype is float64 or e.op in IN_FLOAT64) for e in found) else 1


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


def power_below(n: int) -> int:
    """The largest power of two up to n, at least 1."""
    return 1 << max(0, n.bit_length() - 1)
