"""Small products: the microkernel reads both operands where they are, without packing."""

from __future__ import annotations

from ...ir import dim
from ...ir.kernel import Kernel
from ...ir.scalar import cast
from ...ir.target import Target
from .builder import Module, i64
from .gemm_frame import EmitterFactory, Frame
from .gemm_micro import Output, Tile, finish, update, zeros
from .gemm_sides import Operand, Side, map_dims, strides_along, substitution
from .lowered import LoweredKernel, Phase

LARGEST = 200  # up to this size of all sides, packing costs more than it gains
WORTHWHILE = 1 << 20  # multiply-adds that pay for waking a thread


def suits_direct(lhs: Operand, rhs: Operand, tile: Tile) -> bool:
    """Whether the operands can be read in place, and are small enough, or read so few times, that this is faster."""
    m, n, k = lhs.panel.extent, rhs.panel.extent, lhs.k.extent
    if not (isinstance(m, int) and isinstance(n, int) and isinstance(k, int)) or m < tile.rows or not k:
        return False
    if not (lhs.plain and rhs.plain and rhs.along_panel) or len(lhs.panel.axes) > 1 or len(rhs.panel.axes) > 1:
        return False
    if not all(isinstance(s, int) for s in strides_along(lhs.expr, lhs.panel.inner)):
        return False
    return m <= 2 * tile.rows or max(m, n, k) <= LARGEST


def lower_direct(
    kernel: Kernel, batch: Side, lhs: Operand, rhs: Operand, out: Output, tile: Tile, target: Target, emit: EmitterFactory
) -> LoweredKernel:  # fmt: skip
    """One phase; a task is one register tile of one batch. Tiles at the edges start earlier and repeat some of the work
    of their neighbours, so that the loop along k needs no masks; what they repeat they do not store."""
    m, n, k = lhs.panel.extent, rhs.panel.extent, lhs.k.extent
    assert isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
    down, across = -(-m // tile.rows), -(-n // tile.width)
    module = Module(target.triple)
    scratch = -(-tile.rows * tile.width * tile.dtype.itemsize // 64) * 64
    frame = Frame(module, kernel.name, kernel, target, emit, scratch)
    f, em = frame.f, frame.em
    frame.prepare(batch, lhs.panel, lhs.k, rhs.panel, rhs.k, out.m, out.n)
    narrow = n < tile.width
    row_sym = lhs.panel.inner.sym
    a_expr, b_expr = cast(lhs.expr, tile.dtype), cast(rhs.expr, tile.dtype)
    a_exprs = [map_dims(a_expr, substitution({row_sym: row_sym + i})) for i in range(tile.rows)]
    columns = [dim.symbol(f"{rhs.panel.inner.sym}.{j}", 0, n) for j in range(tile.vectors)]
    b_exprs = [map_dims(b_expr, substitution({rhs.panel.inner.sym: s})) for s in columns]
    with frame.loop(frame.begin, frame.end) as loop:
        rest, i = frame.divide(loop.index, down)
        batch_index, j = frame.divide(rest, across)
        frame.bind(batch, batch_index)
        row, column = frame.times(i, tile.rows), frame.times(j, tile.width)
        a_row = frame.min(row, i64(m - tile.rows))
        b_column = i64(0) if narrow else frame.min(column, i64(n - tile.width))
        em.bind(row_sym, a_row)
        for v, s in enumerate(columns):
            em.bind(s, f.add(b_column, i64(v * tile.lanes)))
        masks = [frame.below(i64(n - v * tile.lanes), tile.lanes) if narrow else None for v in range(tile.vectors)]
        with frame.loop(i64(0), i64(k), carried=zeros(frame, tile), once=True) as k_loop:
            frame.bind(lhs.k, k_loop.index)
            frame.bind(rhs.k, k_loop.index)
            b = []
            for v, s in enumerate(columns):
                em.vector(s, f.add(b_column, i64(v * tile.lanes)), tile.lanes)
                b.append(em.value(b_exprs[v], tile.lanes, masks[v]))
            em.scalar()
            k_loop.next = update(frame, tile, k_loop.next, b, lambda r: em.value(a_exprs[r], 1))
        skip = f.sub(row, a_row), f.sub(column, b_column)
        rows = i64(tile.rows)
        finish(
            frame, tile, out, k_loop.results, frame.scratch, None, a_row, rows, b_column, i64(min(n, tile.width)), skip
        )
    f.ret()
    grain = max(1, WORTHWHILE // (tile.rows * tile.width * k))
    return LoweredKernel(
        str(module), (Phase(kernel.name, batch.extent * down * across, grain),), thread_scratch=scratch
    )
