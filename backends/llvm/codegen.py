"""Pointwise and reduction kernels to LLVM: one parallel phase, explicit vectors along the scheduled axis.

Two shapes of loop nest. If the vector axis is an inner axis ("rows"), a task is one outer point, and each stage loops
over its inner axes, vectors innermost. If it is the last outer axis ("columns", and everything without reductions), a
task is a block of that axis at one point of the others, and stages loop inside each group of vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.kernel import Axis, Kernel, Schedule, Stage, transposed_loads
from ...ir.target import Target
from .builder import Function, Module, Val, i64, vector_of
from .elements import ElementEmitter
from .lowered import LoweredKernel, Phase
from .reductions import Accumulator
from .transposed import load_square

PHASE_PARAMS = [("ptr noalias", "bufs"), ("ptr noalias", "dims"), ("i64", "begin"), ("i64", "end"), ("i64", "thread")]
DEFAULT_BLOCK = 4096  # elements of a vectorised outer axis that one task covers


def lower_loops(kernel: Kernel, schedule: Schedule, target: Target) -> LoweredKernel:
    """The code of a kernel without an anchor."""
    module = Module(target.triple)
    if schedule.stream:
        module.add_global("!0 = !{i32 1}")
    f = module.function(kernel.name, "void", PHASE_PARAMS, "nounwind")
    tasks = _LoopGenerator(f, kernel, schedule, target).emit()
    return LoweredKernel(str(module), (Phase(kernel.name, tasks, schedule.grain),), 0, scratch_layout(kernel)[1])


def scratch_layout(kernel: Kernel) -> tuple[dict[str, int], int]:
    """Byte offsets of the kernel's scratch buffers within a thread's scratch, and its size."""
    offsets: dict[str, int] = {}
    end = 0
    for b in kernel.params:
        if b.role == "scratch":
            (size,) = b.shape
            assert isinstance(size, int)
            offsets[b.name] = end
            end += -(-size * b.dtype.itemsize // 64) * 64 + 64
    return offsets, end


def open_kernel(f: Function, kernel: Kernel, target: Target) -> ElementEmitter:
    """Loads the buffer pointers and sizes at the top of a phase function, and makes the emitter for it."""
    if "!1 = !{}" not in f.module.globals:
        f.module.add_global("!1 = !{}")
    invariant = ", !invariant.load !1"
    outside = [b for b in kernel.params if b.role != "scratch"]
    buffers = {b.name: f.load("ptr", f.gep("ptr", f.args[0], i64(k)), 8, invariant) for k, b in enumerate(outside)}
    offsets, size = scratch_layout(kernel)
    if offsets:
        base = f.load("ptr", f.gep("ptr", f.args[0], i64(len(outside) + 1)), 8, invariant)
        own = f.gep("i8", base, f.mul(f.args[4], i64(size)))
        buffers |= {name: f.gep("i8", own, i64(offset)) for name, offset in offsets.items()}
    dims = {d: f.load("i64", f.gep("i64", f.args[1], i64(k)), 8, invariant) for k, d in enumerate(kernel.dims)}
    return ElementEmitter(f, kernel, target, buffers, dims)


@dataclass(frozen=True, slots=True)
class _Copy:
    """One of the vectors handled together: its offset in elements from the group's base, and its live lanes."""

    offset: int
    mask: Val | None


State = list[Val]


class _LoopGenerator:
    def __init__(self, f: Function, kernel: Kernel, schedule: Schedule, target: Target):
        self.f, self.kernel, self.schedule, self.target = f, kernel, schedule, target
        self.lanes = schedule.lanes
        self.emitter = open_kernel(f, kernel, target)
        self.columns = bool(kernel.axes) and schedule.vector == kernel.axes[-1].name
        self.column_results: dict[str, dict[int, Val]] = {}  # result name -> copy's offset -> vector

    def emit(self) -> DimLike:
        """Writes the function; returns the number of its tasks."""
        f, e = self.f, self.emitter
        outer = self.kernel.axes[:-1] if self.columns else self.kernel.axes
        across = next((a for a in outer if a.name == self.schedule.across), None)
        if across is not None:  # its points are handled `lanes` at a time
            outer = tuple(replace(a, extent=dim.ceildiv(a.extent, self.lanes)) if a is across else a for a in outer)
        block = self._block()
        blocks: DimLike = 1 if block is None else dim.ceildiv(self.kernel.axes[-1].extent, block)
        with f.loop(f.args[2], f.args[3]) as loop:
            e.enter(loop)
            rest, position = loop.index, i64(0)
            if blocks != 1:
                rest, position = self._divide(rest, blocks)
            for k in reversed(range(len(outer))):
                if k == 0:
                    e.bind(outer[0].sym, rest)
                elif outer[k].extent == 1:
                    e.bind(outer[k].sym, i64(0))
                else:
                    rest, index = self._divide(rest, outer[k].extent)
                    e.bind(outer[k].sym, index)
            if across is not None:
                self._squares(across, position, block)
            elif self.columns:
                self._columns(position, block)
            else:
                for stage in self.kernel.stages:
                    self._row_stage(stage)
            e.leave()
        f.ret()
        return dim.numel(tuple(a.extent for a in outer)) * blocks

    def _divide(self, x: Val, n: DimLike) -> tuple[Val, Val]:
        d = self.emitter.index(n)
        return self.f.binary("udiv", x, d), self.f.binary("urem", x, d)

    def _block(self) -> int | None:
        """Elements of the vector axis per task, None: all of them."""
        if not self.columns:
            return None
        extent = self.kernel.axes[-1].extent
        size = self.schedule.block or DEFAULT_BLOCK
        return None if isinstance(extent, int) and extent <= size else size

    # ---- loops
    def _nest(self, axes: tuple[Axis, ...], state: State, body: Callable[[State], State]) -> State:
        """Scalar loops over `axes`, outermost first, carrying `state`."""
        if not axes:
            return body(state)
        with self.f.loop(i64(0), self.emitter.index(axes[0].extent), carried=state) as loop:
            self.emitter.enter(loop, axes[0].sym)
            loop.next = self._nest(axes[1:], list(loop.carried), body)
            self.emitter.leave()
        return loop.results

    def _vectors(
        self, start: Val, stop: Val, size: int | None, state: State, body: Callable[[Val, list[_Copy], State], State]
    ) -> State:
        """Runs body(base, copies, state) over [start, stop): groups of `unroll` vectors, single ones, a masked rest.

        `size` is stop - start where known (then start is a constant); loops that cannot run are left out.
        """
        f, e, lanes = self.f, self.emitter, self.lanes
        for group in dict.fromkeys((self.schedule.unroll, 1)):
            step = group * lanes
            if size is not None and size < step:
                continue
            if size is None:
                length = f.sub(stop, start)
                limit = f.add(start, f.sub(length, f.binary("urem", length, i64(step))))
            else:
                limit = i64(int(start.ref) + size - size % step)
                size %= step
            with f.loop(start, limit, i64(step), carried=state) as loop:
                e.enter(loop)
                loop.next = body(loop.index, [_Copy(k * lanes, None) for k in range(group)], list(loop.carried))
                e.leave()
            state, start = loop.results, limit
            if size == 0:
                return state
        if lanes == 1:
            return state
        mask = f.cmp("slt", vector_of(list(range(lanes)), "i64"), f.splat(f.sub(stop, start), lanes))
        if size is not None:
            mask = vector_of([int(k < size) for k in range(lanes)], "i1")
        with f.loop(start, stop, i64(lanes), carried=state, at_least_once=size is not None) as loop:
            e.enter(loop)
            loop.next = body(loop.index, [_Copy(0, mask)], list(loop.carried))
            e.leave()
        return loop.results

    def _begin(self, stage: Stage) -> None:
        number = next(k for k, s in enumerate(self.kernel.stages) if s is stage)
        self.emitter.prefetch = {b: distance for b, k, distance in self.schedule.prefetch if k == number}

    # ---- columns: the vector axis is the last outer one
    def _columns(self, position: Val, block: int | None) -> None:
        extent = self.kernel.axes[-1].extent
        size = extent if block is None and isinstance(extent, int) else None
        self._vectors(*self._span(position, block), size, [], self._column_body)

    def _span(self, position: Val, block: int | None) -> tuple[Val, Val]:
        """Start and stop of a task on the last outer axis."""
        f, stop = self.f, self.emitter.index(self.kernel.axes[-1].extent)
        if block is None:
            return i64(0), stop
        start = f.mul(position, i64(block))
        end = f.add(start, i64(block))
        return start, f.select(f.cmp("slt", end, stop), end, stop)

    def _squares(self, across: Axis, position: Val, block: int | None) -> None:
        """Columns, `lanes` points of the axis `across` at a time, whose transposed loads are turned in registers; what is
        left over at the ends of both axes goes point by point."""
        f, e, lanes, along = self.f, self.emitter, self.lanes, self.kernel.axes[-1]
        start, stop = self._span(position, block)
        first = f.mul(e.bound[across.sym][1], i64(lanes))
        last = e.index(across.extent)
        whole = f.cmp("sle", f.add(first, i64(lanes)), last)
        length = f.sub(stop, start)
        limit = f.select(whole, f.add(start, f.sub(length, f.binary("urem", length, i64(lanes)))), start)
        loads = transposed_loads(self.kernel, across, along)
        with f.loop(start, limit, i64(lanes)) as loop:
            e.enter(loop)
            self._begin(self.kernel.stages[0])
            e.bind(across.sym, first)
            e.vector(along.sym, loop.index, lanes, aligned=True)
            squares = [(load, load_square(e, load, step)) for load, step in loads]
            for k in range(lanes):
                e.bind(across.sym, f.add(first, i64(k)))
                e.vector(along.sym, loop.index, lanes, aligned=True)
                for load, values in squares:
                    e.preset(load, values[k])
                for stage in self.kernel.stages:
                    self._stores(stage, None)
            e.scalar()
            e.leave()
        end = f.add(first, i64(lanes))
        with f.loop(first, f.select(f.cmp("slt", end, last), end, last)) as loop:
            e.enter(loop, across.sym)
            self._vectors(limit, stop, None, [], self._column_body)
            e.leave()

    def _column_body(self, base: Val, copies: list[_Copy], state: State) -> State:
        for stage in self.kernel.stages:
            self._begin(stage)
            if stage.axes:
                self._column_stage(stage, base, copies)
            else:
                for copy in copies:
                    self._at(base, copy)
                    self._stores(stage, copy.mask)
        self.emitter.scalar()
        return state

    def _at(self, base: Val, copy: _Copy) -> None:
        """Makes the emitter stand at one vector of the last outer axis."""
        self.emitter.vector(self.kernel.axes[-1].sym, self.f.add(base, i64(copy.offset)), self.lanes, aligned=True)
        for name, values in self.column_results.items():
            self.emitter.define(name, values[copy.offset])

    def _column_stage(self, stage: Stage, base: Val, copies: list[_Copy]) -> None:
        slots = [(c, Accumulator(self.f, r, self.lanes, self.target)) for r in stage.reductions for c in copies]

        def body(state: State) -> State:
            following: State = []
            running: dict[str, dict[int, Val]] = {}
            for copy, acc in slots:
                self._at(base, copy)
                inputs = [self.emitter.value(x, self.lanes, copy.mask) for x in acc.reduction.inputs]
                at = len(following)
                following += acc.combine(state[at : at + acc.width], inputs, None)
                if acc.reduction.running:
                    running.setdefault(acc.reduction.names[0], {})[copy.offset] = following[at]
            self.column_results |= running
            for copy in copies if stage.stores else ():
                self._at(base, copy)
                self._stores(stage, copy.mask)
            return following

        state = self._nest(stage.axes, [v for _, acc in slots for v in acc.start()], body)
        at = 0
        for copy, acc in slots:
            for name, v in zip(acc.reduction.names, acc.results(state[at : at + acc.width])):
                self.column_results.setdefault(name, {})[copy.offset] = v
            at += acc.width

    # ---- rows: the vector axis is an inner one
    def _row_stage(self, stage: Stage) -> None:
        self._begin(stage)
        if not stage.axes:
            self._stores(stage, None)
            return
        if any(r.running for r in stage.reductions):
            self._scan_stage(stage)
            return
        groups = [
            [Accumulator(self.f, r, self.lanes, self.target) for _ in range(self.schedule.unroll)]
            for r in stage.reductions
        ]
        axis = stage.axes[-1]
        size = axis.extent if isinstance(axis.extent, int) else None

        def vectors(base: Val, copies: list[_Copy], state: State) -> State:
            following = list(state)
            for k, copy in enumerate(copies):
                self.emitter.vector(axis.sym, self.f.add(base, i64(copy.offset)), self.lanes, aligned=True)
                at = 0
                for group in groups:
                    inputs = [self.emitter.value(x, self.lanes, copy.mask) for x in group[k].reduction.inputs]
                    width = group[k].width
                    here = at + k * width
                    following[here : here + width] = group[k].combine(following[here : here + width], inputs, copy.mask)
                    at += width * len(group)
                self._stores(stage, copy.mask)
            self.emitter.scalar()
            return following

        state = self._nest(
            stage.axes[:-1],
            [v for group in groups for acc in group for v in acc.start()],
            lambda s: self._vectors(i64(0), self.emitter.index(axis.extent), size, s, vectors),
        )
        at = 0
        for group in groups:
            width = group[0].width
            parts = [state[at + k * width : at + (k + 1) * width] for k in range(len(group))]
            at += width * len(group)
            for name, v in zip(group[0].reduction.names, group[0].finish(parts)):
                self.emitter.define(name, v)

    def _scan_stage(self, stage: Stage) -> None:
        """Running folds: those of each vector by shifting it onto itself, and then the total of all before."""
        f, (axis,) = self.f, stage.axes
        size = axis.extent if isinstance(axis.extent, int) else None
        accumulators = [Accumulator(f, r, self.lanes, self.target) for r in stage.reductions]

        def vectors(base: Val, copies: list[_Copy], totals: State) -> State:
            for copy in copies:
                self.emitter.vector(axis.sym, f.add(base, i64(copy.offset)), self.lanes, aligned=True)
                inputs = [self.emitter.value(a.reduction.inputs[0], self.lanes, copy.mask) for a in accumulators]
                running = [a.scan(t, x, copy.mask) for a, t, x in zip(accumulators, totals, inputs, strict=True)]
                for a, values in zip(accumulators, running):
                    self.emitter.define(a.reduction.names[0], values)
                totals = [f.shuffle(v, None, [self.lanes - 1] * self.lanes) if self.lanes > 1 else v for v in running]
                self._stores(stage, copy.mask)
            self.emitter.scalar()
            return totals

        start = [v for a in accumulators for v in a.start()]
        self._vectors(i64(0), self.emitter.index(axis.extent), size, start, vectors)

    def _stores(self, stage: Stage, mask: Val | None) -> None:
        self.emitter.stores(stage.stores, None, mask, self.schedule.stream)
