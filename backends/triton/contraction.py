"""Contractions to Triton: tiles of rows and columns, each a loop over blocks of the contracted points.

Matrices, batches and convolutions are one kernel: each side's axes are numbered row by row. Tiles are taken `group` rows
of tiles at a time, so that programs that run together share what they read. Persistent programs take one tile after
another, and have the hardware copy what lies in memory as matrices.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.dtypes import DType, float32, int8, int32
from ...ir.kernel import Axis, Kernel, Schedule
from ...ir.target import Target
from .descriptors import descriptor
from .elements import ZERO, Text, Tile
from .emit import Frame
from .exprs import type_name
from .lowered import TritonKernel
from .operands import Operand, Points, blocked, flattened, multiplied

ROWS, COLUMNS = 0, 1  # dimensions of a tile


def lower_contraction(
    kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None = None
) -> TritonKernel:
    """The source of a (prepared) kernel with an anchor whose stages have no inner axes."""
    return _Contraction(kernel, schedule, target, index_bits).lower()


class _Contraction(Frame):
    def __init__(self, kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None):
        if any(s.axes for s in kernel.stages):
            raise ValueError(f"{kernel.name}: the stages behind a contraction have no axes of their own")
        if schedule.split != 1:
            raise ValueError(
                f"{kernel.name}: one program sums a whole tile; long sums are split in the graph, by `products`"
            )
        kernel = flattened(kernel)
        mblock, nblock, self.kblock = schedule.blocks
        lhs, rhs = multiplied(kernel.contraction, target)
        plain = replace(kernel.contraction, lhs=lhs, rhs=rhs)
        anchor, self.k_blocks, self.k_inside = blocked(plain, self.kblock)
        super().__init__(replace(kernel, anchor=anchor), schedule, target, index_bits)
        self.anchor = anchor
        ((m,), (n,)), self.k = (anchor.m, anchor.n), dim.numel(tuple(a.extent for a in kernel.contraction.k))
        self.rows, self.columns = dim.ceildiv(m.extent, mblock), dim.ceildiv(n.extent, nblock)
        self.batch = dim.numel(tuple(a.extent for a in anchor.batch))
        sizes = [self.constant(f"{x}BLOCK", size) for x, size in zip("MNK", schedule.blocks)]
        shapes = ((sizes[0], sizes[2]), (sizes[2], sizes[1]), (sizes[0], sizes[1]))
        tiles = [Tile(shape, [None, None]) for shape in shapes]
        self.lhs, self.rhs = (self.elements(tile, Operand) for tile in tiles[:2])
        self.out = self.elements(tiles[2], Points)
        self.wide = ".to(tl.int64)" if self.index_type == "tl.int64" else ""
        if schedule.persistent and not self.wide:
            self.lhs.descriptor = descriptor(kernel, lhs, plain.m, plain.k)
            self.rhs.descriptor = descriptor(kernel, rhs, plain.k, plain.n)

    def lower(self) -> TritonKernel:
        w, count = self.writer, self.rows * self.columns * self.batch
        program = w.name("program")
        w.line(f"{program} = tl.program_id(0){self.wide}")
        if not self.schedule.persistent:
            self._tile(program)
            return self.finish((count,))
        assert self.target.gpu is not None
        programs, number = self.constant("PROGRAMS", self.target.gpu.multiprocessors), w.name("number")
        self.lhs.describe()
        self.rhs.describe()
        end = self.size_text(self.out, count, "tiles")
        # In a flat loop the next tile's first blocks come while this one is stored; only the hardware's copies are that early.
        flat = ", flatten=True" if self.lhs.descriptor and self.rhs.descriptor else ""
        with w.indented(f"for {number} in tl.range({program}, {end}, {programs}{flat}):"):
            self._tile(number)
        return self.finish((dim.minimum(count, self.target.gpu.multiprocessors),))

    # ---- tiles
    def _tile(self, number: str) -> None:
        """Writes what computes one tile of the result."""
        out = self.out
        row, column, batch = self._place(number)
        for part in (self.lhs, self.rhs, out):
            part.bind_axes(self.anchor.batch, batch)
        self._side((self.lhs, out), self.anchor.m[0], ROWS, row)
        self._side((self.rhs, out), self.anchor.n[0], COLUMNS, column)
        acc = self._products((f"{row} * MBLOCK", f"{column} * NBLOCK"))
        out.results[self.anchor.name] = Text(acc, out.tile.all, self.writer.level)
        out.stores([s for stage in self.kernel.stages for s in stage.stores])

    def _place(self, tile: str) -> tuple[str, str, Text]:
        """Takes the number of a tile apart: its row and column among the tiles, and its batch. Only the first dimension of
        a grid may be large."""
        w, group = self.writer, self.schedule.group
        rows, columns = self.size_text(self.out, self.rows, "rows"), self.size_text(self.out, self.columns, "columns")
        batch = ZERO
        if self.batch != 1:
            batch, inside = Text(w.name("batch"), level=w.level), w.name("tile")
            w.line(f"{batch.text} = {tile} // ({rows} * {columns})")
            w.line(f"{inside} = {tile} % ({rows} * {columns})")
            tile = inside
        row, column = w.name("row"), w.name("column")
        if group == 1:
            w.line(f"{row} = {tile} // {columns}")
            w.line(f"{column} = {tile} % {columns}")
            return row, column, batch
        size, first, height = self.constant("GROUP", group), w.name("first"), w.name("height")
        w.line(f"{first} = {tile} // ({size} * {columns}) * {size}")
        w.line(f"{height} = tl.minimum({rows} - {first}, {size})")
        w.line(f"{row} = {first} + {tile} % ({size} * {columns}) % {height}")
        w.line(f"{column} = {tile} % ({size} * {columns}) // {height}")
        return row, column, batch

    def _side(self, parts: tuple[Operand, Points], axis: Axis, along: int, number: str) -> None:
        """Binds the rows (or columns) in an operand's tile and in the result's: they lie along the same dimension of both."""
        tile = parts[0].tile
        at = self.writer.name("mi" if along == ROWS else "ni")
        size = tile.sizes[along]
        self.writer.line(f"{at} = ({number} * {size} + tl.arange(0, {size})){tile.along(along)}")
        index = Text(at, 1 << along, self.writer.level)
        live = self._live(index, axis.extent, self.constexprs[size])
        for part in parts:
            part.bind_axes((axis,), index)
            part.tile.live[along] = live

    def _live(self, index: Text, n: DimLike, size: int, start: str = "0") -> Text | None:
        """The mask of the points of a block that exist, `start` of the n points being before it; None if all do."""
        if isinstance(n, int) and n % size == 0:
            return None
        mask, end = self.writer.name(f"{index.text}_live"), self.size_text(self.out, n, f"{index.text}_end")
        self.writer.line(f"{mask} = {index.text} < {end}" + (f" - {start}" if start != "0" else ""))
        return Text(mask, index.dims, self.writer.level)

    # ---- the contracted points
    def _products(self, corner: tuple[str, str]) -> str:
        """Writes the loop over blocks of contracted points for the tile with that first row and column; returns the name of
        the sum."""
        w, dtype = self.writer, self._sum_dtype()
        acc = w.name("acc")
        w.line(f"{acc} = tl.full([MBLOCK, NBLOCK], 0, {type_name(dtype)})")
        inside = []
        for part, name, along in ((self.lhs, "k_column", COLUMNS), (self.rhs, "k_row", ROWS)):
            inside.append(Text(w.name(name), 1 << along, w.level))
            if part.descriptor is None:
                w.line(f"{inside[-1].text} = tl.arange(0, KBLOCK){part.tile.along(along)}{self.wide}")
        count = dim.ceildiv(self.k, self.kblock)
        end, number = self.size_text(self.out, count, "k_blocks"), w.name("k_block")
        with nullcontext() if count == 1 else w.indented(f"for {number} in range(0, {end}):"):
            start = "0" if count == 1 else f"{number} * KBLOCK"
            self._bind(ZERO if count == 1 else Text(number, level=w.level), start, inside)
            a = self.lhs.block(self.anchor.lhs, COLUMNS, (corner[0], start))
            b = self.rhs.block(self.anchor.rhs, ROWS, (start, corner[1]))
            w.line(f"{acc} = {self._product(a, b, acc, dtype)}")
        if dtype is not self.anchor.dtype:
            w.line(f"{acc} = {acc}.to({type_name(self.anchor.dtype)})")
        return acc

    def _bind(self, number: Text, start: str, inside: list[Text]) -> None:
        """Binds the contracted axes to the block of that number, which begins with the point `start`. `inside`: the place in
        the block, in either operand."""
        if self.k_inside is not None:
            self.lhs.bind_axes(self.k_blocks, number)
            self.rhs.tile.share(self.lhs.tile, self.k_blocks)
        for part, along, index in zip((self.lhs, self.rhs), (COLUMNS, ROWS), inside, strict=True):
            if part.descriptor is not None:
                continue
            part.tile.live[along] = self._live(index, self.k, self.kblock, start)
            if self.k_inside is not None:
                part.tile.bound[self.k_inside.sym] = index
                continue
            at = self.writer.name("ki")
            self.writer.line(f"{at} = {start} + {index.text}")
            part.bind_axes(self.k_blocks, Text(at, index.dims, self.writer.level))

    def _sum_dtype(self) -> DType:
        """Bytes are summed as 32-bit integers, which wrap around to the same bytes."""
        return int32 if self.anchor.lhs.dtype is int8 else self.anchor.dtype

    def _product(self, a: str, b: str, acc: str, dtype: DType) -> str:
        operand = self.anchor.lhs.dtype
        if operand.kind != "f" and operand is not int8:
            return f"{acc} + tl.sum({a}[:, :, None] * {b}[None, :, :], 1).to({type_name(dtype)})"
        precision = self.schedule.precision if operand is float32 else "ieee"
        return f'tl.dot({a}, {b}, {acc}, input_precision="{precision}", out_dtype={type_name(dtype)})'
