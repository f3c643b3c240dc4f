"""The code of a plan: a function that calls its kernels in order. Host steps cut it into several, to be called in turn.

    i32 plan(ptr values, ptr dims, ptr arena)

`values`: pointers to inputs, constants, then outputs. `dims`: the symbolic sizes. Returns 0, or 1 + the number of the
check that failed, in which case no input has been written.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..backends.llvm.builder import Function, Module, Val, i32, i64, literal, memory_type
from ..backends.llvm.lowered import LoweredKernel
from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.plan import HostStep, Plan, Step
from ..ir.target import Target


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
    extra: DimLike = 0
    scratch = 0
    for s in plan.kernel_steps:
        k = lowered[s.kernel.name]
        extra = dim.maximum(extra, k.workspace)
        scratch = max(scratch, k.thread_scratch)
    scratch_at = plan.arena + dim.ceildiv(extra, 64) * 64
    writer = _Writer(Module(target.triple), plan, lowered, scratch_at)
    parts: list[str | HostStep] = []
    pending: list[tuple[int, Step]] = []
    for number, s in enumerate(plan.steps):
        if isinstance(s, Step):
            pending.append((number, s))
            continue
        if pending:
            parts.append(writer.function(f"{symbol}_{len(parts)}", pending))
            pending = []
        parts.append(s)
    parts.append(writer.function(f"{symbol}_{len(parts)}" if parts else symbol, pending, last=True))
    return PlanCode(str(writer.module), tuple(parts), scratch_at + scratch * threads)


def first_slots(plan: Plan) -> dict[str, int]:
    """Where the inputs, constants and outputs of a plan begin among its `values`."""
    inputs = sum(b.kind == "input" for b in plan.buffers)
    return {"input": 0, "constant": inputs, "output": inputs + len(plan.constants)}


class _Writer:
    """Writes the functions of one plan. scratch_at: where the scratch of all threads begins in the arena."""

    def __init__(self, module: Module, plan: Plan, lowered: dict[str, LoweredKernel], scratch_at: DimLike):
        self.module, self.plan, self.lowered, self.scratch_at = module, plan, lowered, scratch_at
        self.first = first_slots(plan)

    def function(self, name: str, steps: list[tuple[int, Step]], last: bool = False) -> str:
        """One function, `name`, for steps in a row, given with their numbers. The last one makes the checks: host steps
        come before anything is written."""
        plan = self.plan
        f = self.module.function(
            name, "i32", [("ptr noalias", "values"), ("ptr noalias", "dims"), ("ptr noalias", "arena")], "nounwind"
        )
        dims = {d: f.load("i64", f.gep("i64", f.args[1], i64(k)), 8) for k, d in enumerate(plan.dims)}
        emit = Sizes(f, dims)
        params = max((len(s.args) for _, s in steps), default=0)
        slots = f.alloca("ptr", params + 2)
        sizes = f.alloca("i64", max(1, max((len(s.kernel.dims) for _, s in steps), default=0)))
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
            for k, b in enumerate(s.args):
                shift = s.offsets[k] * plan.buffers[b].type.dtype.itemsize if s.offsets else 0
                f.store(f.gep("i8", pointer(b), i64(shift)), f.gep("ptr", slots, i64(k)), 8)
            f.store(f.gep("i8", base, emit(plan.arena)), f.gep("ptr", slots, i64(len(s.args))), 8)
            f.store(f.gep("i8", base, emit(self.scratch_at)), f.gep("ptr", slots, i64(len(s.args) + 1)), 8)
            for k, d in enumerate(s.kernel.dims):
                f.store(dims[_same(d, plan.dims)], f.gep("i64", sizes, i64(k)), 8)
            self._call(f, self.lowered[s.kernel.name], slots, sizes, emit)
        if last and plan.commit_from >= len(plan.steps):
            _check(f, plan, pointer)
        f.ret(i32(0))
        return name

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
