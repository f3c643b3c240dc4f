"""The microkernel, a register tile of accumulators over one pass along k, and the epilogue behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.dtypes import DType
from ...ir.kernel import Stage
from ...ir.scalar import walk
from .builder import Val, i64, scalar_type, vec
from .gemm_frame import Frame
from .gemm_sides import Side, expressions

INLINE_EPILOGUE = 12  # expression nodes up to which the epilogue is written out for every register of the tile


@dataclass(frozen=True, slots=True)
class Output:
    """What happens to the finished accumulators: the kernel's stages over their m, n and batch sides."""

    name: str
    stages: tuple[Stage, ...]
    m: Side
    n: Side
    dtype: DType
    lanes: int

    @property
    def inline(self) -> bool:
        """Whether to run the stages on the accumulators in registers rather than from memory."""
        nodes = list(walk(*expressions(self.stages)))
        return (
            self.n.whole_vectors(self.lanes) and sum(n.op not in ("const", "result") for n in nodes) <= INLINE_EPILOGUE
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile of `rows` by `vectors` accumulators."""

    rows: int
    vectors: int
    lanes: int
    dtype: DType
    fused: bool

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def type(self) -> str:
        return vec(scalar_type(self.dtype), self.lanes)


Accumulators = list[Val]  # row by row


def zeros(frame: Frame, tile: Tile) -> Accumulators:
    return [frame.zero(tile.dtype, tile.lanes)] * (tile.rows * tile.vectors)


def update(frame: Frame, tile: Tile, acc: Accumulators, b: list[Val], a: Callable[[int], Val]) -> Accumulators:
    """One step along k: acc[i][j] += a(i) * b[j]."""
    out = []
    for i in range(tile.rows):
        x = frame.f.splat(a(i), tile.lanes)
        for j in range(tile.vectors):
            out.append(frame.multiply_add(x, b[j], acc[i * tile.vectors + j], tile.fused))
    return out


def panel_product(frame: Frame, tile: Tile, a: Val, b: Val, depth: Val, acc: Accumulators) -> Accumulators:
    """acc + (panel a) * (panel b) over `depth` steps of k."""
    f, element, align = frame.f, scalar_type(tile.dtype), tile.dtype.itemsize
    with f.loop(i64(0), depth, carried=[a, b, *acc]) as loop:
        pa, pb, *now = loop.next
        columns = [f.load(tile.type, f.gep(element, pb, i64(j * tile.lanes)), align) for j in range(tile.vectors)]
        following = update(frame, tile, now, columns, lambda i: f.load(element, f.gep(element, pa, i64(i)), align))
        loop.next = [f.gep(element, pa, i64(tile.rows)), f.gep(element, pb, i64(tile.width)), *following]
    return loop.results[2:]


def load_tile(frame: Frame, tile: Tile, at: Val, first: Val) -> Accumulators:
    """The partial sums in memory, or zeros in the first pass along k."""
    f, zero = frame.f, frame.zero(tile.dtype, tile.lanes)
    pointers = [f.gep(tile.type, at, i64(j)) for j in range(tile.rows * tile.vectors)]
    return [f.select(first, zero, f.load(tile.type, p, tile.dtype.itemsize)) for p in pointers]


def store_tile(frame: Frame, tile: Tile, at: Val, acc: Accumulators) -> None:
    for j, v in enumerate(acc):
        frame.f.store(v, frame.f.gep(tile.type, at, i64(j)), tile.dtype.itemsize)


def finish(
    frame: Frame,
    tile: Tile,
    out: Output,
    acc: Accumulators,
    at: Val,
    last: Val | None,
    row: Val,
    rows: Val,
    column: Val,
    columns: Val,
    skip: tuple[Val, Val] = (i64(0), i64(0)),
) -> None:
    """Runs the epilogue on a tile, from the registers where it is whole and that is cheap, else through memory at `at`.

    The tile is at (row, column) of the m and n sides; its live part is rows [skip[0], rows) and columns
    [skip[1], columns). `last`: whether this is the last pass along k (None: it is).
    """
    f = frame.f
    if out.inline:
        whole = f.binary("and", f.cmp("eq", rows, i64(tile.rows)), f.cmp("eq", columns, i64(tile.width)))
        for edge in skip:
            if edge.ref != "0":
                whole = f.binary("and", whole, f.cmp("eq", edge, i64(0)))
        if last is not None:
            whole = f.binary("and", whole, last)
        with frame.when(whole):
            _from_registers(frame, tile, out, acc, row, column)
        rest = f.binary("xor", whole, Val("true", "i1"))
        with frame.when(rest):
            store_tile(frame, tile, at, acc)
        rest = rest if last is None else f.binary("and", rest, last)
        with frame.when(rest):
            from_memory(frame, out, at, i64(tile.width), row, column, (skip[0], rows), (skip[1], columns))
        return
    store_tile(frame, tile, at, acc)
    if last is None:
        from_memory(frame, out, at, i64(tile.width), row, column, (skip[0], rows), (skip[1], columns))
        return
    with frame.when(last):
        from_memory(frame, out, at, i64(tile.width), row, column, (skip[0], rows), (skip[1], columns))


def _from_registers(frame: Frame, tile: Tile, out: Output, acc: Accumulators, row: Val, column: Val) -> None:
    for i in range(tile.rows):
        frame.bind(out.m, frame.f.add(row, i64(i)))
        for j in range(tile.vectors):
            frame.vector(out.n, frame.f.add(column, i64(j * tile.lanes)), tile.lanes)
            _run(frame, out, acc[i * tile.vectors + j], None)
    frame.em.scalar()


def from_memory(
    frame: Frame,
    out: Output,
    at: Val,
    pitch: Val,
    row: Val,
    column: Val,
    rows: tuple[Val, Val],
    columns: tuple[Val, Val],
) -> None:
    """Runs the epilogue on accumulators in memory, `pitch` elements from row to row."""
    f = frame.f
    cell = vec(scalar_type(out.dtype), out.lanes)
    with frame.loop(*rows) as loop:
        frame.bind(out.m, f.add(row, loop.index))
        line = frame.cell(at, f.mul(loop.index, pitch), out.dtype)

        def one(offset: Val, mask: Val | None) -> None:
            value = frame.masked_load(cell, frame.cell(line, offset, out.dtype), mask, out.dtype.itemsize)
            _run(frame, out, value, mask)

        if out.n.whole_vectors(out.lanes) and (len(out.n.axes) == 1 or columns[0].ref == "0"):
            _along_vectors(frame, out, column, columns, one)
        else:
            _along_rows(frame, out, column, columns, one)
    frame.em.scalar()


def _along_vectors(
    frame: Frame, out: Output, column: Val, columns: tuple[Val, Val], one: Callable[[Val, Val | None], None]
) -> None:
    f, lanes = frame.f, out.lanes
    with frame.loop(columns[0], columns[1], lanes) as loop:
        frame.vector(out.n, f.add(column, loop.index), lanes)
        one(loop.index, frame.below(f.sub(columns[1], loop.index), lanes))


def _along_rows(
    frame: Frame, out: Output, column: Val, columns: tuple[Val, Val], one: Callable[[Val, Val | None], None]
) -> None:
    """Vectors stay within rows of the innermost axis: the columns are cut at its ends."""
    f, lanes = frame.f, out.lanes
    size = frame.size(out.n.axes[-1].extent)
    start, stop = f.add(column, columns[0]), f.add(column, columns[1])
    first = f.binary("udiv", start, size)
    last = f.binary("udiv", f.add(stop, f.sub(size, i64(1))), size)
    with frame.loop(first, last) as row_loop:
        frame.bind(Side(out.n.axes[:-1]), row_loop.index)
        row_start = f.mul(row_loop.index, size)
        low = frame.max(f.sub(start, row_start), i64(0))
        high = frame.min(f.sub(stop, row_start), size)
        with frame.loop(low, high, lanes) as loop:
            frame.em.vector(out.n.axes[-1].sym, loop.index, lanes)
            one(f.sub(f.add(row_start, loop.index), column), frame.below(f.sub(high, loop.index), lanes))


def _run(frame: Frame, out: Output, value: Val, mask: Val | None) -> None:
    em = frame.em
    em.define(out.name, value)
    for stage in out.stages:
        for r in stage.reductions:  # without inner axes a fold has one element: itself
            for name, e in zip(r.names, r.inputs):
                em.define(name, em.value(e, out.lanes, mask))
        em.stores(stage.stores, out.lanes, mask)
