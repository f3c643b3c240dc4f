"""The code of a plan: a function that calls its kernels in order. Host steps cut it into several, to be called in turn.
Plans of control steps are functions of the same kind, which it calls (`control_code.py`).

    i32 plan(ptr values, ptr dims, ptr arena)

`values`: pointers to inputs, constants, then outputs. `dims`: the symbolic sizes. Returns 0, or 1 + the number of the
check that failed, or INTERRUPTED, in which cases no input has been written.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..backends.llvm.builder import Function, Module, Val, i32, i64, literal, memory_type
from ..backends.llvm.lowered import LoweredKernel
from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.plan import ControlStep, HostStep, Plan, Step
from ..ir.target import Target
from . import control_code


@dataclass(frozen=True, slots=True)
class PlanCode:
    """LLVM text of the plan, and how it wants its memory. parts: the names of functions, and the host steps, in the
    order in which they run; a plan without host steps is one function."""

    text: str
    parts: tuple[str | HostStep, ...]
    arena: DimLike  # bytes: temporaries, then workspace, then the scratch of all threads


def plan_code(plan: Plan, lowered: dict[str, LoweredKernel], target: Target, symbol: str, threads: int) -> PlanCode:
    """Functions named after `symbol` for `plan`, whose kernels (by name) have been lowered. `threads`: the most there
    can be."""
    layout = Layout(lowered, threads)
    writer = _Writer(Module(target.triple), plan, layout)
    parts: list[str | HostStep] = []
    pending: list[tuple[int, Step | ControlStep]] = []
    for number, s in enumerate(plan.steps):
        if not isinstance(s, HostStep):
            pending.append((number, s))
            continue
        if pending:
            parts.append(writer.function(f"{symbol}_{len(parts)}", pending))
            pending = []
        parts.append(s)
    parts.append(writer.function(f"{symbol}_{len(parts)}" if parts else symbol, pending, last=True))
    return PlanCode(str(writer.module), tuple(parts), layout.total(plan))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in the memory of a plan: its arena, the workspace of one step at a time (for a control step what it
    carries, then the memory of its plans), and the scratch of all threads."""

    lowered: dict[str, LoweredKernel]
    threads: int

    def scratch_at(self, plan: Plan) -> DimLike:
        extra: DimLike = 0
        for s in plan.steps:
            if isinstance(s, Step):
                extra = dim.maximum(extra, self.lowered[s.kernel.name].workspace)
            elif isinstance(s, ControlStep):
                inner: DimLike = 0
                for p in s.plans:
                    inner = dim.maximum(inner, self.total(p))
                extra = dim.maximum(extra, control_code.own_bytes(s) + inner)
        return plan.arena + dim.ceildiv(extra, 64) * 64

    def total(self, plan: Plan) -> DimLike:
        scratch = max((self.lowered[s.kernel.name].thread_scratch for s in plan.kernel_steps), default=0)
        return self.scratch_at(plan) + dim.ceildiv(scratch * self.threads, 64) * 64


def first_slots(plan: Plan) -> dict[str, int]:
    """Where the inputs, constants and outputs of a plan begin among its `values`."""
    inputs = sum(b.kind == "input" for b in plan.buffers)
    return {"input": 0, "constant": inputs, "output": inputs + len(plan.constants)}


class _Writer:
    """Writes the functions of one plan."""

    def __init__(self, module: Module, plan: Plan, layout: Layout):
        self.module, self.plan, self.layout = module, plan, layout
        self.first = first_slots(plan)

    def function(
        self, name: str, steps: list[tuple[int, Step | ControlStep]], last: bool = False, linkage: str = ""
    ) -> str:
        """One function, `name`, for steps in a row, given with their numbers. The last one makes the checks: host steps
        come before anything is written."""
        plan = self.plan
        inner = {}
        for number, s in steps:
            if isinstance(s, ControlStep):
                inner[number] = [self._inner(f"{name}_{number}_{k}", p) for k, p in enumerate(s.plans)]
        pointers = [("ptr noalias", "values"), ("ptr noalias", "dims"), ("ptr noalias", "arena")]
        f = self.module.function(name, "i32", pointers, "nounwind", linkage)
        dims = {d: f.load("i64", f.gep("i64", f.args[1], i64(k)), 8) for k, d in enumerate(plan.dims)}
        emit = Sizes(f, dims)
        kernels = [s for _, s in steps if isinstance(s, Step)]
        params = max((len(s.args) for s in kernels), default=0)
        slots = f.alloca("ptr", params + 2)
        sizes = f.alloca("i64", max(1, max((len(s.kernel.dims) for s in kernels), default=0)))
        base = f.args[2]

        def pointer(b: int) -> Val:
            buffer = plan.buffers[b]
            if buffer.kind == "temp":
                return f.gep("i8", base, emit(buffer.offset))
            slot = self.first[buffer.kind] + buffer.slot
            return f.load("ptr", f.gep("ptr", f.args[0], i64(slot)), 8)

        for number, s in steps:
            if number == plan.commit_from:
                _check(f, plan, pointer)
            if isinstance(s, ControlStep):
                workspace = f.gep("i8", base, emit(plan.arena))
                control_code.write(f, s, inner[number], pointer, f.args[1], workspace, emit)
                continue
            for k, b in enumerate(s.args):
                shift = s.offsets[k] * plan.buffers[b].type.dtype.itemsize if s.offsets else 0
                f.store(f.gep("i8", pointer(b), i64(shift)), f.gep("ptr", slots, i64(k)), 8)
            f.store(f.gep("i8", base, emit(plan.arena)), f.gep("ptr", slots, i64(len(s.args))), 8)
            f.store(f.gep("i8", base, emit(self.layout.scratch_at(plan))), f.gep("ptr", slots, i64(len(s.args) + 1)), 8)
            for k, d in enumerate(s.kernel.dims):
                f.store(dims[_same(d, plan.dims)], f.gep("i64", sizes, i64(k)), 8)
            self._call(f, self.layout.lowered[s.kernel.name], slots, sizes, emit)
        if last and plan.commit_from >= len(plan.steps):
            _check(f, plan, pointer)
        f.ret(i32(0))
        return name

    def _inner(self, name: str, plan: Plan) -> str:
        """The function of a plan that a control step calls."""
        steps = [(k, s) for k, s in enumerate(plan.steps) if not isinstance(s, HostStep)]
        return _Writer(self.module, plan, self.layout).function(name, steps, last=True, linkage="internal")

    def _call(self, f: Function, code: LoweredKernel, slots: Val, sizes: Val, emit: Sizes) -> None:
        for phase in code.phases:
            self.module.declare(phase.symbol, "void", ["ptr", "ptr", "i64", "i64", "i64"])
            tasks = phase.tasks
            if not isinstance(tasks, int) or tasks > phase.grain:
                target = Val(f"@{phase.symbol}", "ptr")
                f.call("tf_parallel", "void", target, slots, sizes, emit(tasks), i64(phase.grain))
            elif tasks > 0:
                f.call(phase.symbol, "void", slots, sizes, i64(0), i64(tasks), i64(0))


def _same(d: Dim, listed: tuple[Dim, ...]) -> Dim:
    return next(x for x in listed if x == d or str(x) == str(d))


def _check(f: Function, plan: Plan, pointer) -> None:
    """Returns early with the number of the first check that has failed."""
    from ..ir.dtypes import bool_

    cell = memory_type(bool_)
    for number, (buffer, _) in enumerate(plan.checks):
        if buffer < 0:  # the control step has seen to it
            continue
        failed, going_on = f.block("failed"), f.block("passed")
        bad = f.cmp("ne", f.load(cell, pointer(buffer), 1), literal(0, cell))
        f.cbr(bad, failed, going_on)
        f.current = failed
        f.ret(i32(number + 1))
        f.current = going_on


class Sizes:
    """Evaluates sizes as i64 from the symbols' values."""

    def __init__(self, f: Function, dims: dict[Dim, Val]):
        self.f, self.dims = f, dims

    def __call__(self, d: DimLike) -> Val:
        if isinstance(d, int):
            return i64(d)
        total: Val = i64(0)
        for monomial, c in d.terms:
            out: Val = i64(c)
            for a in monomial:
                out = self.f.mul(out, self._atom(a))
            total = self.f.add(total, out)
        return total

    def _atom(self, a) -> Val:
        if a.kind == "sym":
            return self.dims[_same(dim._of_atom(a), tuple(self.dims))]
        x, y = self(a.a), self(a.b)
        if a.kind in ("floordiv", "mod"):
            f, quotient = self.f, a.kind == "floordiv"
            if dim.nonnegative(a.a):
                return f.binary("udiv" if quotient else "urem", x, y)
            rest = f.binary("srem", x, y)  # towards 0: one less for a negative rest
            down = f.cmp("slt", rest, i64(0))
            if quotient:
                return f.add(f.binary("sdiv", x, y), f.select(down, i64(-1), i64(0)))
            return f.add(rest, f.select(down, y, i64(0)))
        return self.f.select(self.f.cmp("sgt" if a.kind == "max" else "slt", x, y), x, y)
