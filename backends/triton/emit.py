"""Kernel IR to Triton source.

Outer points are numbered row by row and spread over programs, XBLOCK to each. A kernel without inner axes is one block
of points. Otherwise a tile is XBLOCK outer by RBLOCK inner points: a stage whose inner points fit one block keeps them
in registers, from one stage to the next too; longer ones loop. Stores of outer points to computed addresses are in no
order, and atomic where they accumulate; a stage that has such stores goes through its points one by one, so that the
last of equal addresses wins and sums have one fixed order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.kernel import Attention, Axis, Kernel, Schedule, Stage, roots
from ...ir.scalar import Expr, walk
from ...ir.target import Target
from .elements import Elements, Text, Tile
from .exprs import needs_libdevice, type_name
from .indices import index_dtype, reach
from .lowered import TritonKernel
from .prepare import prepare
from .reductions import COMBINE, Accumulator
from .text import Writer

INT32_MAX = 2**31 - 1


def lower_kernel(
    kernel: Kernel,
    schedule: Schedule,
    target: Target,
    *,
    index_bits: int | None = None,
    unaligned: Collection[str] = (),
    multiples: Collection[Dim] = (),
) -> TritonKernel:
    """The Triton source of a kernel, and how to launch it.

    What is known of its launches makes it faster. index_bits: 32 if all of them pass `TritonKernel.fits_32_bits`; by
    default symbolic sizes mean 64. unaligned: parameters whose memory may begin at any element, not at a multiple of 16
    bytes. multiples: the symbolic sizes that are multiples of 16 in all of them.
    """
    kernel = prepare(kernel)
    if isinstance(kernel.anchor, Attention):
        from .attention import lower_attention

        lowered = lower_attention(kernel, schedule, target, index_bits)
    elif kernel.anchor is not None:
        from .contraction import lower_contraction

        lowered = lower_contraction(kernel, schedule, target, index_bits)
    else:
        lowered = _LoopKernel(kernel, schedule, target, index_bits).lower()
    aligned = tuple(name not in unaligned for name, _ in lowered.buffers)
    return replace(lowered, aligned=aligned, multiples=frozenset(multiples))


E = TypeVar("E", bound=Elements)


class Frame:
    """What every kind of kernel has: the writer, parameters, sizes, and the text around the body."""

    def __init__(self, kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None = None):
        self.kernel, self.schedule, self.target, self.index_bits = kernel, schedule, target, index_bits
        self.index_type = type_name(index_dtype(kernel, index_bits))
        self.writer = Writer()
        self.helpers: set[str] = set()
        self.constexprs: dict[str, int] = {}
        for taken in ("tl", "triton", "libdevice", kernel.name, *COMBINE, *(b.name for b in kernel.params)):
            self.writer.name(taken)
        self.sizes = {d: Text(self.writer.name(str(d))) for d in kernel.dims}

    def elements(self, tile: Tile, kind: type[E] = Elements) -> E:
        """What writes values at the points of a tile."""
        return kind(self.writer, self.kernel, self.target, tile, self.sizes, self.index_bits)

    def constant(self, name: str, value: int) -> str:
        """A compile-time parameter."""
        self.constexprs[name] = value
        return self.writer.name(name)

    def size_text(self, elements: Elements, n: DimLike, name: str) -> str:
        """The text of a number of points, named if it is not a constant."""
        if isinstance(n, int):
            return str(n)
        name = self.writer.name(name)
        self.writer.line(f"{name} = {elements.dim(n).text}")
        return name

    def finish(self, grid: tuple[DimLike, ...]) -> TritonKernel:
        k = self.kernel
        names = [b.name for b in k.params] + [t.text for t in self.sizes.values()]
        names += [f"{name}: tl.constexpr" for name in self.constexprs]
        source = ["import triton", "import triton.language as tl"]
        if self._uses_libdevice():
            source.append("from triton.language.extra import libdevice")
        for name in sorted(self.helpers):
            source += ["", "", "@triton.jit", f"def {name}(a, b):", f"    return {COMBINE[name]}"]
        source += ["", "", "@triton.jit", f"def {k.name}({', '.join(names)}):"]
        source += [f"    # {', '.join(k.ops)}"] * bool(k.ops)
        source += [f"    {t.text} = {t.text}.to({self.index_type})" for t in self.sizes.values()]
        source += [f"    {line}" for line in self.writer.lines]
        return TritonKernel(
            k.name, "\n".join(source) + "\n", tuple((b.name, b.dtype) for b in k.params), k.dims,
            tuple(t.text for t in self.sizes.values()), tuple(self.constexprs.items()), grid, self.schedule.warps,
            self.schedule.stages, int(self.index_type[-2:]), reach(k),
        )  # fmt: skip

    def _uses_libdevice(self) -> bool:
        anchor = self.kernel.anchor
        everything = [e for s in self.kernel.stages for e in roots(s)] + list(anchor.operands if anchor else ())
        return any(e.op == "rem" and needs_libdevice(e, self.target) for e in walk(*everything))


class _LoopKernel(Frame):
    def __init__(self, kernel: Kernel, schedule: Schedule, target: Target, index_bits: int | None):
        super().__init__(kernel, schedule, target, index_bits)
        self.outer = dim.numel(tuple(a.extent for a in kernel.axes))
        self.tiled = any(s.axes for s in kernel.stages)
        self.written: set[str] = set()
        self.read: set[tuple] = set()  # the indices of loads
        self.bound: tuple[Axis, ...] = ()  # inner axes that are bound to a whole row
        self.xblock, self.rblock = schedule.blocks if self.tiled else (*schedule.blocks, 1)
        sizes = [self.constant("XBLOCK", self.xblock)]
        if self.tiled:
            sizes.append(self.constant("RBLOCK", self.rblock))
        self.tile = Tile(tuple(sizes), [None] * len(sizes))
        self.at = self.elements(self.tile)
        self.wide = ".to(tl.int64)" if self.index_type == "tl.int64" else ""

    def lower(self) -> TritonKernel:
        w, e = self.writer, self.at
        total = self.size_text(e, self.outer, "xnumel")
        if self.outer != 1:
            x = w.name("xi")
            first = f"tl.program_id(0){self.wide} * XBLOCK"
            w.line(f"{x} = {first} + tl.arange(0, XBLOCK){self.tile.along(0)}")
            if not isinstance(self.outer, int) or self.outer % self.xblock:
                mask = w.name("xmask")
                w.line(f"{mask} = {x} < {total}")
                self.tile.live[0] = Text(mask, 1)
            e.bind_axes(self.kernel.axes, Text(x, 1))
        else:
            self.tile.units |= {a.sym: 0 for a in self.kernel.axes}
        for stage in self.kernel.stages:
            self._stage(stage)
        return self.finish((dim.ceildiv(self.outer, self.xblock),))

    # ---- stages
    def _stage(self, stage: Stage) -> None:
        self._barrier(stage)
        if not stage.axes:
            self._stores(stage)
            return
        if stage.span is not None:
            self._spanned(stage, *stage.span)
            return
        n = dim.numel(tuple(a.extent for a in stage.axes))
        scatters = any(s.accumulate or any(isinstance(i, Expr) for i in s.index) for s in stage.stores)
        if scatters and not stage.reductions:  # else each address depends on what is before: there are no collisions
            self._in_order(stage, n)
        elif isinstance(n, int) and n <= self.rblock:
            self._whole_row(stage, n)
        else:
            self._looped(stage, n)

    def _stores(self, stage: Stage, in_order: bool = False) -> None:
        self.at.stores(stage.stores, in_order)
        self.written |= {s.buffer for s in stage.stores}

    def _barrier(self, stage: Stage) -> None:
        """What another thread of the program wrote has to be there before it is read or written again. And what a row
        has one element of is read by many threads and written by one: the others have to be done with it, since the output
        may lie where the input does."""
        used = {e.attr.buffer for e in walk(*roots(stage)) if e.op == "load"} | {s.buffer for s in stage.stores}
        if used & self.written:
            self.writer.line("tl.debug_barrier()")
            self.written.clear()
            self.at.forget()
        elif not stage.axes and self.read.intersection(s.index for s in stage.stores):
            self.writer.line("tl.debug_barrier()")
        self.read |= {e.attr.index for e in walk(*roots(stage)) if e.op == "load"}

    def _whole_row(self, stage: Stage, n: int) -> None:
        """All inner points in one block. Values stay known to the next stage over the same axes."""
        if stage.axes != self.bound:
            r = self.writer.name("ri")
            self.writer.line(f"{r} = tl.arange(0, RBLOCK){self.tile.along(1)}{self.wide}")
            self.tile.live[1] = self._mask(r, str(n)) if n != self.rblock else None
            self.at.bind_axes(stage.axes, Text(r, 2))
            self.bound = stage.axes
        accumulators = [Accumulator(self.at, r, self.helpers) for r in stage.reductions]
        for a in accumulators:
            a.whole(self.tile.live[1])
            if a.reduction.running:
                a.scan(None)
        self._stores(stage)
        for a in accumulators:
            if not a.reduction.running:
                a.finish()

    def _mask(self, index: str, end: str) -> Text:
        name = self.writer.name("rmask")
        self.writer.line(f"{name} = {index} < {end}")
        return Text(name, 2, self.writer.level)

    def _looped(self, stage: Stage, n: DimLike) -> None:
        e, w = self.at, self.writer
        total = self.size_text(e, n, "rnumel")
        accumulators = [Accumulator(e, r, self.helpers) for r in stage.reductions]
        folds = [a for a in accumulators if not a.reduction.running]
        scans = [(a, a.start_scan()) for a in accumulators if a.reduction.running]
        for a in folds:
            a.start()
        start = w.name("r0")
        with w.indented(f"for {start} in range(0, {total}, RBLOCK):"):
            r = w.name("ri")
            w.line(f"{r} = {start} + tl.arange(0, RBLOCK){self.tile.along(1)}{self.wide}")
            self.tile.live[1] = self._mask(r, total) if not isinstance(n, int) or n % self.rblock else None
            e.bind_axes(stage.axes, Text(r, 2, w.level))
            for a in folds:
                a.step(self.tile.live[1])
            for a, before in scans:
                a.whole(self.tile.live[1])
                a.scan(before)
            self._stores(stage)
        self._unbind(stage)
        for a in folds:
            a.finish()

    def _spanned(self, stage: Stage, first: Expr, end: Expr) -> None:
        """A loop over what the spans of the program's outer points have together."""
        e, w = self.at, self.writer
        accumulators = [Accumulator(e, r, self.helpers) for r in stage.reductions]
        for a in accumulators:
            a.start()
        low, high = self._column(first, "span_start", INT32_MAX), self._column(end, "span_end", 0)
        begin, start, past = w.name("first"), w.name("r0"), w.name("end")
        w.line(f"{begin} = tl.min({low})")
        w.line(f"{past} = tl.max({high})")
        with w.indented(f"for {start} in range({begin}, {past}, RBLOCK):"):
            r = w.name("ri")
            w.line(f"{r} = {start} + tl.arange(0, RBLOCK){self.tile.along(1)}{self.wide}")
            self.tile.live[1] = self._mask(r, past)
            inside = w.name("inside")
            w.line(f"{inside} = ({r} >= {low}) & ({r} < {high})")
            self.tile.inside = Text(inside, 3, w.level)
            e.bind_axes(stage.axes, Text(r, 2, w.level))
            for a in accumulators:
                a.step(self.tile.inside)
        self.tile.inside = None
        self._unbind(stage)
        for a in accumulators:
            a.finish()

    def _column(self, x: Expr, name: str, other: int) -> str:
        """The name of an expression's values at the outer points, as indices; `other` where there is no point."""
        found, live = self.at.typed(x), self.tile.live[0]
        text = f"{found.operand}.to({self.index_type})"
        name = self.writer.name(name)
        self.writer.line(f"{name} = {text}" if live is None else f"{name} = tl.where({live.text}, {text}, {other})")
        return name

    def _in_order(self, stage: Stage, n: DimLike) -> None:
        e, w = self.at, self.writer
        total = self.size_text(e, n, "rnumel")
        start = w.name("r0")
        with w.indented(f"for {start} in range(0, {total}):"):
            r = w.name("ri")
            w.line(f"{r} = {start} + tl.full([], 0, {self.index_type})")
            self.tile.live[1] = None
            e.bind_axes(stage.axes, Text(r, 0, w.level))
            self._stores(stage, in_order=True)
            w.line("tl.debug_barrier()")
        self._unbind(stage)

    def _unbind(self, stage: Stage) -> None:
        for a in stage.axes:
            self.tile.bound.pop(a.sym, None)
        self.tile.live[1] = None
        self.bound = ()
