"""Products with a handful of rows, bound by memory: the other operand is read once, in long sequential streams."""

from __future__ import annotations

from ...ir import dim
from ...ir.kernel import Kernel
from ...ir.scalar import cast
from ...ir.target import Target
from .builder import Module, Val, i64
from .gemm_frame import EmitterFactory, Frame
from .gemm_micro import Output, Tile, from_memory
from .gemm_sides import Operand, Side, map_dims, substitution
from .lowered import LoweredKernel, Phase

ROWS = 4  # at most this many
STREAM_COLUMNS = (
    2048  # columns per task whose partial sums stay near while rows of B stream past: long runs, some tasks
)
STREAM_DEPTH = 8  # rows of B read side by side
DOT_COLUMNS = 64  # columns per task: one row of B each
DOT_STREAMS = {
    1: 8,
    2: 8,
    3: 6,
    4: 6,
}  # rows of B read side by side, by the rows of A: the accumulators fit the registers
WORTHWHILE = 1 << 17  # multiply-adds that pay for waking a thread


def skinny_form(lhs: Operand, rhs: Operand, lanes: int) -> str:
    """ "stream" (B lies along n), "dot" (B lies along k) or "" (not a skinny product)."""
    m, k = lhs.panel.extent, lhs.k.extent
    if not isinstance(m, int) or m > ROWS or not (lhs.plain and rhs.plain) or len(rhs.panel.axes) > 1:
        return ""
    if rhs.along_panel:
        return "stream"
    one_axis = len(rhs.k.axes) == 1 and len(lhs.k.axes) == 1 and lhs.along_k(lanes)
    return "dot" if one_axis and rhs.along_k(lanes) and not (isinstance(k, int) and k < lanes) else ""


def lower_skinny(
    form: str, kernel: Kernel, batch: Side, lhs: Operand, rhs: Operand, out: Output, tile: Tile, target: Target, emit: EmitterFactory
) -> LoweredKernel:  # fmt: skip
    """One phase; a task is a stretch of columns of one batch."""
    m = lhs.panel.extent
    assert isinstance(m, int)
    block = STREAM_COLUMNS if form == "stream" else DOT_COLUMNS
    if isinstance(rhs.panel.extent, int):
        block = max(tile.lanes, min(block, block))
    blocks = dim.ceildiv(rhs.panel.extent, block)
    module = Module(target.triple)
    scratch = -(-max(1, m) * (block + max(tile.lanes, 8)) * tile.dtype.itemsize // 64) * 64
    frame = Frame(module, kernel.name, kernel, target, emit, scratch)
    f = frame.f
    frame.prepare(batch, lhs.panel, lhs.k, rhs.panel, rhs.k, out.m, out.n)
    frame.size(blocks)
    pitch = block + (max(tile.lanes, 8) if form == "dot" else 0)
    with frame.loop(frame.begin, frame.end) as loop:
        batch_index, j = frame.divide(loop.index, blocks)
        frame.bind(batch, batch_index)
        column = frame.times(j, block)
        count = frame.min(i64(block), f.sub(frame.size(rhs.panel.extent), column))
        (_stream if form == "stream" else _dot)(frame, lhs, rhs, tile, m, pitch, column, count)
        from_memory(frame, out, frame.scratch, i64(pitch), i64(0), column, (i64(0), i64(m)), (i64(0), count))
    f.ret()
    depth = dim.bounds(lhs.k.extent)[1] or 1024
    grain = max(1, WORTHWHILE // max(1, m * block * depth))
    return LoweredKernel(str(module), (Phase(kernel.name, batch.extent * blocks, grain),), thread_scratch=scratch)


def _stream(frame: Frame, lhs: Operand, rhs: Operand, tile: Tile, m: int, pitch: int, column: Val, count: Val) -> None:
    """sums[:, column...] += a[:, k] * b[k, column...], some rows of B at a time."""
    f, em, lanes, depth = frame.f, frame.em, tile.lanes, frame.size(lhs.k.extent)
    align = tile.dtype.itemsize
    zero = frame.zero(tile.dtype, lanes)
    padded = f.mul(f.binary("udiv", f.add(count, i64(lanes - 1)), i64(lanes)), i64(lanes))
    with frame.loop(i64(0), padded, lanes) as loop:
        for i in range(m):
            f.store(zero, frame.cell(frame.scratch, f.add(loop.index, i64(i * pitch)), tile.dtype), align)
    a_rows = _rows(lhs, tile, m)
    whole = f.mul(f.binary("udiv", count, i64(lanes)), i64(lanes))

    def rows(k: Val, number: int) -> None:
        deeper = [{a.sym: _renamed(a.sym, u) for a in rhs.k.axes} for u in range(number)]
        b = [map_dims(cast(rhs.expr, tile.dtype), substitution(own)) for own in deeper]
        a = []
        for u in range(number):
            at = f.add(k, i64(u))
            frame.bind(lhs.k, at)
            a.append([f.splat(em.value(e, 1), lanes) for e in a_rows])
            frame.bind(Side(tuple(type(x)(deeper[u][x.sym], x.extent) for x in rhs.k.axes)), at)

        def columns(at: Val, mask: Val | None) -> None:
            frame.vector(rhs.panel, f.add(column, at), lanes)
            cells = [frame.cell(frame.scratch, f.add(at, i64(i * pitch)), tile.dtype) for i in range(m)]
            sums = [f.load(tile.type, c, align) for c in cells]
            for u in range(number):
                x = em.value(b[u], lanes, mask)
                sums = [frame.multiply_add(a[u][i], x, s, tile.fused) for i, s in enumerate(sums)]
            for c, s in zip(cells, sums):
                f.store(s, c, align)

        with frame.loop(i64(0), whole, lanes) as loop:
            columns(loop.index, None)
        with frame.when(f.cmp("slt", whole, count)):
            columns(whole, frame.below(f.sub(count, whole), lanes))
        em.scalar()

    together = f.mul(f.binary("udiv", depth, i64(STREAM_DEPTH)), i64(STREAM_DEPTH))
    with frame.loop(i64(0), together, STREAM_DEPTH) as loop:
        rows(loop.index, STREAM_DEPTH)
    with frame.loop(together, depth) as loop:
        rows(loop.index, 1)


def _rows(lhs: Operand, tile: Tile, m: int) -> list:
    """The lhs at each of its rows."""
    out = []
    for i in range(m):
        env, rest = {}, i
        for axis in reversed(lhs.panel.axes):
            assert isinstance(axis.extent, int)
            env[axis.sym] = rest % axis.extent
            rest //= axis.extent
        out.append(map_dims(cast(lhs.expr, tile.dtype), substitution(env)))
    return out


def _renamed(sym: dim.Dim, number: int) -> dim.Dim:
    atom = sym.terms[0][0][0]
    return dim.symbol(f"{sym}.{number}", atom.lo, atom.hi)


def _dot(frame: Frame, lhs: Operand, rhs: Operand, tile: Tile, m: int, pitch: int, column: Val, count: Val) -> None:
    """sums[:, column] = dot products of the rows of A with rows of B, along k with several accumulators."""
    f, em, lanes, depth = frame.f, frame.em, tile.lanes, frame.size(lhs.k.extent)
    streams = DOT_STREAMS[max(1, m)] if frame.target.registers >= 32 else 2 + 4 // max(2, m)
    unroll = 2 if m == 1 else 1
    a_rows = _rows(lhs, tile, m)
    names = [_renamed(rhs.panel.inner.sym, s) for s in range(streams)]
    b_rows = [map_dims(cast(rhs.expr, tile.dtype), substitution({rhs.panel.inner.sym: s})) for s in names]
    step = unroll * lanes
    whole = f.mul(f.binary("udiv", depth, i64(step)), i64(step))
    last = f.sub(f.add(column, count), i64(1))
    zero = frame.zero(tile.dtype, lanes)

    def add(acc: list[Val], k: Val, mask: Val | None) -> list[Val]:
        frame.vector(lhs.k, k, lanes)
        a = [em.value(e, lanes, mask) for e in a_rows]
        frame.vector(rhs.k, k, lanes)
        b = [em.value(e, lanes, mask) for e in b_rows]
        return [
            frame.multiply_add(a[i], b[s], acc[i * streams + s], tile.fused) for i in range(m) for s in range(streams)
        ]

    with frame.loop(i64(0), count, streams) as loop:
        for s, name in enumerate(names):
            em.bind(name, frame.min(f.add(f.add(column, loop.index), i64(s)), last))
        size = m * streams
        with frame.loop(i64(0), whole, step, carried=[zero] * (size * unroll)) as k_loop:
            following = []
            for u in range(unroll):
                following += add(k_loop.next[u * size : (u + 1) * size], f.add(k_loop.index, i64(u * lanes)), None)
            k_loop.next = following
        acc = k_loop.results[:size]
        for u in range(1, unroll):
            acc = [f.add(x, y) for x, y in zip(acc, k_loop.results[u * size : (u + 1) * size])]
        if not (isinstance(lhs.k.extent, int) and lhs.k.extent % step == 0):
            with frame.loop(whole, depth, lanes, carried=acc) as tail:
                tail.next = add(tail.next, tail.index, frame.below(f.sub(depth, tail.index), lanes))
            acc = tail.results
        em.scalar()
        for i in range(m):
            for s in range(streams):
                total = _sum_lanes(frame, acc[i * streams + s], tile)
                cell = frame.cell(frame.scratch, f.add(loop.index, i64(i * pitch + s)), tile.dtype)
                f.store(total, cell, tile.dtype.itemsize)


def _sum_lanes(frame: Frame, v: Val, tile: Tile) -> Val:
    """The sum of all lanes, halves first: a fixed order."""
    f, lanes = frame.f, tile.lanes
    while lanes > 2:
        lanes //= 2
        v = f.add(f.shuffle(v, None, range(lanes)), f.shuffle(v, None, range(lanes, 2 * lanes)))
    return f.add(f.extract(v, 0), f.extract(v, 1)) if lanes == 2 else v
