"""Contractions to Triton: a tile of rows and columns per program, looped over blocks of the contracted points.

Simple and correct: one configuration, masked blocks. Each side's axes are numbered row by row, so matrices, batches and
convolutions are the same kernel.
"""

from __future__ import annotations

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.dtypes import bfloat16, float16
from ...ir.kernel import Axis, Contraction, Kernel, Schedule
from ...ir.scalar import Expr
from ...ir.target import Target
from .elements import ZERO, Elements, Text, Tile
from .emit import Frame
from .exprs import INTERPRETER, type_name
from .lowered import TritonKernel


def lower_contraction(kernel: Kernel, schedule: Schedule, target: Target) -> TritonKernel:
    """The source of a (prepared) kernel with an anchor whose stages have no inner axes."""
    return _Contraction(kernel, schedule, target).lower()


class _Contraction(Frame):
    def __init__(self, kernel: Kernel, schedule: Schedule, target: Target):
        super().__init__(kernel, schedule, target)
        if any(s.axes for s in kernel.stages):
            raise ValueError(f"{kernel.name}: the stages behind a contraction have no axes of their own")
        self.anchor: Contraction = kernel.contraction
        self.lhs, self.rhs = _operands(self.anchor, target)
        self.floating = self.lhs.dtype.kind == "f"
        c = self.anchor
        self.batch, self.m, self.n, self.k = (dim.numel(tuple(a.extent for a in x)) for x in (c.batch, c.m, c.n, c.k))
        self.blocks: dict[str, int] = dict(zip(("MBLOCK", "NBLOCK", "KBLOCK"), schedule.blocks, strict=True))
        for name, value in self.blocks.items():
            self.constant(name, value)

    def lower(self) -> TritonKernel:
        w = self.writer
        tiles = {
            "lhs": Tile(("MBLOCK", "KBLOCK"), [None, None]),
            "rhs": Tile(("KBLOCK", "NBLOCK"), [None, None]),
            "out": Tile(("MBLOCK", "NBLOCK"), [None, None]),
        }
        parts = {name: Elements(w, self.kernel, self.target, tile, self.sizes) for name, tile in tiles.items()}
        out = parts["out"]
        index_type = type_name(out.index_dtype)
        wide = ".to(tl.int64)" if index_type == "tl.int64" else ""
        m, n, k = (
            self.size_text(out, d, name) for d, name in ((self.m, "mnumel"), (self.n, "nnumel"), (self.k, "knumel"))
        )
        row, column, batch = self._program(m, n, wide)
        self._batch(list(parts.values()), batch)
        self._side(parts["lhs"], parts["out"], self.anchor.m, "m", f"{row} * MBLOCK", m, self.m)
        self._side(parts["rhs"], parts["out"], self.anchor.n, "n", f"{column} * NBLOCK", n, self.n)
        acc = w.name("acc")
        w.line(f"{acc} = tl.full([MBLOCK, NBLOCK], 0, {type_name(self.anchor.dtype)})")
        start = w.name("k0")
        with w.indented(f"for {start} in range(0, {k}, KBLOCK):"):
            at = w.name("ki")
            w.line(f"{at} = {start} + tl.arange(0, KBLOCK){wide}")
            self._bind(parts["lhs"], self.anchor.k, at, 1, k, self.k)
            self._bind(parts["rhs"], self.anchor.k, at, 0, k, self.k)
            a, b = (self._operand(parts[name], e) for name, e in (("lhs", self.lhs), ("rhs", self.rhs)))
            w.line(f"{acc} = {self._product(a, b, acc)}")
        out.results[self.anchor.name] = Text(acc, out.tile.all)
        for store in (s for stage in self.kernel.stages for s in stage.stores):
            out.store(store)
        grid = dim.ceildiv(self.m, self.blocks["MBLOCK"]) * dim.ceildiv(self.n, self.blocks["NBLOCK"]) * self.batch
        return self.finish((grid,))

    # ---- indices
    def _program(self, m: str, n: str, wide: str) -> tuple[str, str, str]:
        """Takes the number of the program apart: block of rows, block of columns, batch. Only the first dimension of a
        grid may be large."""
        w = self.writer
        program, rows, columns = w.name("program"), w.name("row_blocks"), w.name("column_blocks")
        row, column, batch = w.name("row_block"), w.name("column_block"), w.name("batch")
        w.line(f"{program} = tl.program_id(0){wide}")
        w.line(f"{rows} = ({m} + MBLOCK - 1) // MBLOCK")
        w.line(f"{columns} = ({n} + NBLOCK - 1) // NBLOCK")
        w.line(f"{column} = {program} % {columns}")
        w.line(f"{row} = {program} // {columns} % {rows}")
        if self.batch != 1:
            w.line(f"{batch} = {program} // ({rows} * {columns})")
        return row, column, batch

    def _batch(self, parts: list[Elements], name: str) -> None:
        index = ZERO if self.batch == 1 else Text(name)
        parts[0].bind_axes(self.anchor.batch, index)
        for other in parts[1:]:
            other.tile.share(parts[0].tile, self.anchor.batch)

    def _side(
        self, operand: Elements, out: Elements, axes: tuple[Axis, ...], name: str, start: str, total: str, n: DimLike
    ) -> None:
        """Numbers the rows (or columns) and binds their axes, in an operand's tile and in the result's: they lie along the
        same dimension of both."""
        at = self.writer.name(f"{name}i")
        self.writer.line(f"{at} = {start} + tl.arange(0, {name.upper()}BLOCK)")
        along = 0 if name == "m" else 1
        self._bind(operand, axes, at, along, total, n)
        out.tile.live[along] = operand.tile.live[along]
        out.tile.share(operand.tile, axes)

    def _bind(self, e: Elements, axes: tuple[Axis, ...], at: str, along: int, total: str, n: DimLike) -> None:
        w, level = self.writer, self.writer.level
        index = w.name(f"{at}_{'row' if along == 0 else 'column'}")
        w.line(f"{index} = {at}{e.tile.along(along)}")
        if not isinstance(n, int) or n % self.blocks[e.tile.sizes[along]]:
            mask = w.name(f"{index}_live")
            w.line(f"{mask} = {index} < {total}")
            e.tile.live[along] = Text(mask, 1 << along, level)
        e.bind_axes(axes, Text(index, 1 << along, level))

    # ---- values
    def _operand(self, elements: Elements, e: Expr) -> str:
        """One block of an operand, zero outside: what is not there adds nothing."""
        value = elements.typed(e)
        masks = [t for t in elements.tile.live if t is not None]
        text = elements.full(value)
        if masks:
            zero = "0.0" if self.floating else "0"
            text = f"tl.where({' & '.join(t.text for t in masks)}, {text}, {zero})"
        name = self.writer.numbered("block")
        self.writer.line(f"{name} = {text}")
        return name

    def _product(self, a: str, b: str, acc: str) -> str:
        if self.floating:
            return f'tl.dot({a}, {b}, {acc}, input_precision="ieee", out_dtype={type_name(self.anchor.dtype)})'
        return f"{acc} + tl.sum({a}[:, :, None] * {b}[None, :, :], 1).to({type_name(self.anchor.dtype)})"


def _operands(c: Contraction, target: Target) -> tuple[Expr, Expr]:
    """lhs and rhs as the product takes them: narrow floats stay narrow, since their products are exact in float32. (Triton's
    interpreter cannot multiply bfloat16.)"""
    sides = (c.lhs, c.rhs)
    if all(e.op == "cast" and e.args[0].dtype in (float16, bfloat16) for e in sides):
        (x,), (y,) = c.lhs.args, c.rhs.args
        if x.dtype is y.dtype and target.cpu != INTERPRETER:
            return x, y
    return sides
