"""Decides how a kernel runs on a target: vector axis, unrolling, parallelism, streaming stores, tiles."""

from __future__ import annotations

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.kernel import Axis, Kernel, Schedule, offset, roots, transposed_loads
from ..ir.scalar import MATH, walk
from ..ir.target import Target
from .access import expr_cost

STREAM_BYTES = 8 << 20  # outputs larger than this go past the cache
PREFETCH_BYTES = 2 << 20  # inputs larger than this are fetched ahead of time
SQUARE_COST = 12  # instructions per element, up to which squares of vectors are turned in registers
SQUARE_POINTS = 1 << 14  # elements, from which on that is worth its compile time
HEAVY = 20  # instructions per element, from which on that pays
MIN_TASK_WORK = 16384  # elementary operations worth waking a thread for


def vectorizes_rows(kernel: Kernel, target: Target) -> bool:
    """Whether the vector axis will be one that stages loop over."""
    inner = next((s.axes for s in kernel.stages if s.axes), ())
    axis = _vector_axis(kernel, inner, _lanes(kernel, target), False)
    return axis is not None and any(axis is a for a in inner)


def schedule(kernel: Kernel, target: Target) -> Schedule:
    """The default schedule. Reduction order follows from lanes and unroll, so both depend on the target's ISA only."""
    if kernel.anchor is not None:
        return Schedule()
    lanes = _lanes(kernel, target)
    inner = next((s.axes for s in kernel.stages if s.axes), ())
    scatter = kernel.ordered
    axis = _vector_axis(kernel, inner, lanes, scatter)
    if axis is None:
        return Schedule(lanes=1, grain=_grain(kernel, None, 1))
    rows = any(axis is a for a in inner)
    across = "" if rows or scatter else _across(kernel, axis, lanes)
    unroll = 1 if across else _unroll(kernel, axis, lanes, rows)
    block = _block(kernel, lanes * unroll) if not rows and kernel.axes else 0
    return Schedule(
        axis.name,
        lanes,
        unroll,
        _grain(kernel, axis, block),
        block,
        across,
        stream=_streamed(kernel),
        prefetch=_prefetched(kernel, rows),
    )


def _lanes(kernel: Kernel, target: Target) -> int:
    """By the widest float that moves; integers ride along in as many registers as they need."""
    sizes = [b.dtype.itemsize for b in kernel.params if b.dtype.kind == "f"] or [
        b.dtype.itemsize for b in kernel.params
    ]
    return max(1, target.vector_bytes // max(4, *sizes, 4))


def _accesses(kernel: Kernel) -> list[tuple[DimLike, float]]:
    """The element offset of every plain load and store, and how often it happens per outer point."""
    out: list[tuple[DimLike, float]] = []
    for stage in kernel.stages:
        n = dim.numel(tuple(a.extent for a in stage.axes))
        often = float(n) if isinstance(n, int) else 1000.0
        for e in walk(*roots(stage)):
            if e.op == "load":
                out.append((offset(kernel.buffer(e.attr.buffer), e.attr.index), often))
        for s in stage.stores:
            out.append((offset(kernel.buffer(s.buffer), s.index), often))
    return out


def _stride(offset: DimLike, axis: Axis) -> int | None:
    """Elements per step of the axis; None if that is not constant."""
    if isinstance(offset, int) or axis.sym not in offset.symbols():
        return 0
    if not offset.is_linear_in(axis.sym):
        return None
    c = offset.coefficient(axis.sym)
    return c if isinstance(c, int) else None


def _vector_axis(kernel: Kernel, inner: tuple[Axis, ...], lanes: int, scatter: bool) -> Axis | None:
    """The last inner or the last outer axis, whichever more accesses are contiguous along; None if both are short."""
    candidates = [axes[-1] for axes in (inner, kernel.axes) if axes]
    if scatter:
        candidates = [kernel.axes[-1]] if kernel.axes else []
    elif any(b.role == "scratch" for b in kernel.params):
        candidates = [inner[-1]]  # scratch holds one row: rows cannot be computed side by side
    offsets = _accesses(kernel)
    best: tuple[float, Axis] | None = None
    for axis in candidates:
        strides = [(_stride(o, axis), often) for o, often in offsets]
        contiguous = sum(often * (1.0 if s == 1 else 0.2 if s == 0 else 0.0) for s, often in strides)
        extent = axis.extent if isinstance(axis.extent, int) else 1 << 20
        used = extent / (-(-extent // lanes) * lanes)
        score = (0.1 + contiguous) * used
        if best is None or score > best[0]:
            best = (score, axis)
    return best[1] if best else None


def _across(kernel: Kernel, along: Axis, lanes: int) -> str:
    """The outer axis along which the loads are contiguous that the vector axis strides over; "" if there is none, or
    where handling `lanes` points of it at once would write too much code."""
    points = dim.numel(tuple(a.extent for a in kernel.axes))
    if any(s.axes for s in kernel.stages) or isinstance(points, int) and points < SQUARE_POINTS:
        return ""
    if sum(expr_cost(*roots(s)) for s in kernel.stages) > SQUARE_COST:
        return ""
    for axis in kernel.axes[:-1]:
        long = all(not isinstance(a.extent, int) or a.extent >= lanes for a in (axis, along))
        if long and transposed_loads(kernel, axis, along):
            return axis.name
    return ""


def _unroll(kernel: Kernel, axis: Axis, lanes: int, rows: bool) -> int:
    """Enough independent vectors to cover latency, not so many that short axes are left to the masked rest."""
    math = sum(e.op in MATH for s in kernel.stages for e in walk(*roots(s)))
    wanted = 4 if math == 0 else 2 if math <= 2 else 1
    if isinstance(axis.extent, int):
        while wanted > 1 and axis.extent < wanted * lanes:
            wanted //= 2
    return wanted


def _block(kernel: Kernel, group: int) -> int:
    """Elements of an outer vector axis per task. Whole rows if there are many; else pieces that leave work for threads."""
    extent = kernel.axes[-1].extent
    inner = [dim.numel(tuple(a.extent for a in s.axes)) for s in kernel.stages if s.axes]
    depth = max((n for n in inner if isinstance(n, int)), default=1)
    size = max(group, 4096 // max(1, depth) // group * group)
    rows = dim.numel(tuple(a.extent for a in kernel.axes[:-1]))
    if isinstance(extent, int) and extent <= size:
        return extent + (-extent) % group
    if isinstance(rows, int) and rows >= 64 and isinstance(extent, int) and extent <= 1 << 16 and depth == 1:
        return extent + (-extent) % group
    return size


def _work(kernel: Kernel) -> float:
    """Operations per outer point."""
    total = 0.0
    for s in kernel.stages:
        n = dim.numel(tuple(a.extent for a in s.axes))
        count = n if isinstance(n, int) else 1024
        for e in walk(*roots(s)):
            total += count * (12 if e.op in MATH else 1)
    return max(total, 1.0)


def _grain(kernel: Kernel, axis: Axis | None, block: int) -> int:
    points = block if block else 1
    if block and kernel.axes and isinstance(kernel.axes[-1].extent, int):
        points = min(block, kernel.axes[-1].extent)
    return max(1, int(MIN_TASK_WORK / (_work(kernel) * points)))


def _streamed(kernel: Kernel) -> tuple[str, ...]:
    """Big outputs that this kernel does not read."""
    read = {e.attr.buffer for s in kernel.stages for e in walk(*roots(s)) if e.op == "load"}
    out = []
    for b in kernel.params:
        size = dim.numel(b.shape)
        if b.role == "out" and b.name not in read and isinstance(size, int) and size * b.dtype.itemsize > STREAM_BYTES:
            out.append(b.name)
    return tuple(out)


def _prefetched(kernel: Kernel, rows: bool) -> tuple[tuple[str, int, int], ...]:
    """Inputs that come from main memory, where arithmetic would keep the hardware from fetching them in time.

    A row with several stages asks for the next row while it computes most; a single pass asks a page ahead.
    """
    costs = [expr_cost(*roots(s)) if s.axes or not rows else 0 for s in kernel.stages]
    at = max(range(len(costs)), key=costs.__getitem__)
    if costs[at] < HEAVY:
        return ()
    out = []
    for b in kernel.params:
        n = dim.numel(b.shape)
        loaded = any(e.op == "load" and e.attr.buffer == b.name for e in walk(*roots(kernel.stages[at])))
        if b.role == "scratch" or not loaded or not isinstance(n, int) or n * b.dtype.itemsize <= PREFETCH_BYTES:
            continue
        ahead = 4096
        if rows and len([s for s in kernel.stages if s.axes]) > 1:
            row = dim.numel(tuple(a.extent for a in kernel.stages[at].axes))
            if not isinstance(row, int):
                continue
            ahead = row * b.dtype.itemsize
        out.append((b.name, at, ahead))
    return tuple(out)
