"""Contractions (matrix products, convolutions) on the CPU: normal form, choice of path, tile sizes.

Four paths, chosen by shapes, dtype and target alone, so that results never depend on the number of threads:

- packed (gemm_packed.py): both operands packed into panels, blocked for the caches. Everything fits it.
- direct (gemm_direct.py): small problems and few rows; the microkernel reads the operands where they are.
- streamed, dotted (gemm_skinny.py): at most a few rows; the other operand passes through the registers once.
"""

from __future__ import annotations

from dataclasses import replace

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.dtypes import DType
from ...ir.kernel import Contraction, Kernel, Schedule
from ...ir.scalar import Expr, free_symbols
from ...ir.target import Target
from .elements import ElementEmitter
from .gemm_direct import lower_direct, suits_direct
from .gemm_frame import EmitterFactory
from .gemm_micro import Output, Tile
from .gemm_packed import TASK_WORK, TASKS, Blocking, lower_packed
from .gemm_sides import linearize, merged_stages, operand, side, swapped
from .gemm_skinny import lower_skinny, skinny_form
from .lowered import LoweredKernel

KC = 384  # steps of k per pass: a panel of the resident operand stays in L1
BLOCK_COLUMNS = 256  # points of the blocked operand per task, kc of them stay in L2
GROUP_ROWS = 1024  # points of the resident operand per task


def lower_contraction(
    kernel: Kernel, schedule: Schedule, target: Target, emit: EmitterFactory = ElementEmitter
) -> LoweredKernel:
    """The code of a kernel whose anchor is a Contraction.

    schedule.tile: what `choose_tile` returns; () means its choice. Raises ValueError where a stage has axes of its own or
    a store accumulates.
    """
    if kernel.anchor is None or any(s.axes for s in kernel.stages):
        raise ValueError(f"kernel {kernel.name}: a contraction with stages that have no axes of their own is needed")
    if any(store.accumulate for stage in kernel.stages for store in stage.stores):
        raise ValueError(f"kernel {kernel.name}: the epilogue of a contraction cannot accumulate into memory")
    kernel = normal_form(kernel)
    anchor = kernel.contraction
    rows, width, kc, mc, nc = schedule.tile or _tile(kernel, target)
    lanes = vector_lanes(target, anchor.dtype)
    fused = anchor.dtype.is_floating and target.isa in ("avx512", "avx2", "neon")
    tile = Tile(rows, max(1, width // lanes), lanes, anchor.dtype, fused)
    batch, m, n, k = side(anchor.batch, "batch.1"), side(anchor.m, "m.1"), side(anchor.n, "n.1"), side(anchor.k, "k.1")
    lhs, rhs = operand(anchor.lhs, m, k), operand(anchor.rhs, n, k)
    out_m, stages = merged_stages(m, kernel.stages)
    out_n, stages = merged_stages(n, stages)
    out = Output(anchor.name, stages, out_m, out_n, anchor.dtype, lanes)
    form = skinny_form(lhs, rhs, lanes)
    if form:
        return lower_skinny(form, kernel, batch, lhs, rhs, out, tile, target, emit)
    if suits_direct(lhs, rhs, tile):
        return lower_direct(kernel, batch, lhs, rhs, out, tile, target, emit)
    resident_lhs = _resident_lhs(lhs.panel.extent, rhs.panel.extent)
    group, block = (mc // rows, nc // tile.width) if resident_lhs else (nc // tile.width, mc // rows)
    blocking = Blocking(kc, max(1, group), max(1, block), resident_lhs)
    return lower_packed(kernel, batch, lhs, rhs, out, tile, blocking, target, emit)


def choose_tile(kernel: Kernel, target: Target) -> tuple[int, ...]:
    """(MR, NR, KC, MC, NC) for a contraction: the register tile, k per pass, rows and columns per task.

    They hold for the kernel's normal form, in which the m and n sides may have changed places.
    """
    return _tile(normal_form(kernel), target)


def _tile(kernel: Kernel, target: Target) -> tuple[int, int, int, int, int]:
    anchor = kernel.contraction
    m, n, k = (dim.numel(tuple(a.extent for a in axes)) for axes in (anchor.m, anchor.n, anchor.k))
    batches = dim.bounds(dim.numel(tuple(a.extent for a in anchor.batch)))[0] or 1
    lanes = vector_lanes(target, anchor.dtype)
    rows, vectors = register_tile(m, n, lanes, target)
    width = vectors * lanes
    kc = KC * 4 // max(4, anchor.dtype.itemsize)
    if isinstance(k, int):
        passes = max(1, -(-k // (kc + kc // 3)))
        kc = max(lanes, _round(-(-k // passes), lanes))
    kc = _round(kc, lanes)
    columns, group = BLOCK_COLUMNS, GROUP_ROWS
    resident, blocked = (m, n) if _resident_lhs(m, n) else (n, m)
    resident_width, blocked_width = (rows, width) if _resident_lhs(m, n) else (width, rows)
    depth = k if isinstance(k, int) else kc
    tall = resident if isinstance(resident, int) else GROUP_ROWS
    wide = blocked if isinstance(blocked, int) else 1 << 30

    def tasks() -> int:
        return batches * -(-tall // group) * -(-wide // columns)

    def work() -> int:
        return min(tall, group) * min(wide, columns) * depth

    while tasks() < TASKS and work() > TASK_WORK:
        if columns >= 4 * blocked_width and columns > group // 4:
            columns //= 2
        elif group >= 4 * resident_width:
            group //= 2
        else:
            break
    group = _even(tall, group, resident_width)
    columns = _even(wide, columns, blocked_width)
    return (rows, width, kc, group, columns) if _resident_lhs(m, n) else (rows, width, kc, columns, group)


def _even(extent: int, block: int, width: int) -> int:
    """The block size, in whole panels, that gives as many blocks as `block` but equal ones."""
    panels = max(1, -(-extent // width))
    most = max(1, block // width)
    return -(-panels // -(-panels // most)) * width


def register_tile(m: DimLike, n: DimLike, lanes: int, target: Target) -> tuple[int, int]:
    """(rows, vectors): as many accumulators as registers allow, rows dividing `m` with little waste."""
    most = {"avx512": 14, "avx2": 6, "neon": 8}.get(target.isa, 4)
    vectors = 3 if target.isa == "neon" else 2
    rows = most
    if isinstance(m, int):
        rows = max(1, -(-m // max(1, -(-m // most))))
    vectors = max(vectors, min(4, (target.registers - 2) // (rows + 1)))
    if isinstance(n, int):
        vectors = max(1, min(vectors, -(-n // lanes)))
    return rows, vectors


def vector_lanes(target: Target, dtype: DType) -> int:
    """Lanes of the accumulators' vectors. Narrow integers do not fill a register: they are rare."""
    return max(1, min(target.lanes(dtype), target.vector_bytes // 4))


def _resident_lhs(m: DimLike, n: DimLike) -> bool:
    """Which operand is packed once, whole: the smaller one, the known one where the other is symbolic."""
    if isinstance(m, int) and isinstance(n, int):
        return m <= n
    return isinstance(m, int)


def _round(n: int, to: int) -> int:
    return -(-n // to) * to


# ---- normal form


def normal_form(kernel: Kernel) -> Kernel:
    """Flat buffers; batch axes that only one operand knows join its side; outputs run along n; a lone column is a row."""
    kernel = _unbatched(linearize(kernel))
    return swapped(kernel) if _wants_swap(kernel) else kernel


def _unbatched(kernel: Kernel) -> Kernel:
    c = kernel.contraction
    left, right = free_symbols(c.lhs), free_symbols(c.rhs)
    to_m = tuple(a for a in c.batch if a.sym not in right)
    to_n = tuple(a for a in c.batch if a.sym in right and a.sym not in left)
    if not to_m and not to_n:
        return kernel
    rest = tuple(a for a in c.batch if a not in to_m and a not in to_n)
    fresh: Contraction = replace(c, batch=rest, m=to_m + c.m, n=to_n + c.n)
    return replace(kernel, axes=(*rest, *fresh.m, *fresh.n), anchor=fresh)


def _wants_swap(kernel: Kernel) -> bool:
    c = kernel.contraction
    m, n = (dim.numel(tuple(a.extent for a in axes)) for axes in (c.m, c.n))
    if isinstance(n, int) and n <= 4 or isinstance(m, int) and m <= 4:
        return isinstance(n, int) and n <= 4 and not (isinstance(m, int) and m <= n)
    stores = [s for stage in kernel.stages for s in stage.stores]
    m_inner, n_inner = side(c.m, "m.1").inner.sym, side(c.n, "n.1").inner.sym
    along_n = sum(_stride(s.index, n_inner) == 1 for s in stores)
    along_m = sum(_stride(s.index, m_inner) == 1 for s in stores)
    return along_m > along_n


def _stride(index: tuple, sym) -> DimLike | None:
    if len(index) != 1 or isinstance(index[0], (int, Expr)):
        return None
    return index[0].coefficient(sym) if index[0].is_linear_in(sym) else None
