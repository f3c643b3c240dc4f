"""The code of control steps: branches and loops that call the functions of their plans with pointers into the arena.

Every so many steps, which is every few milliseconds, a loop polls for signals: it may run forever.
What a loop carries has two places, the result's own and a copy in the workspace. Each step reads one and writes the
other, so that nothing is moved but pointers; the first one reads the operand itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..backends.llvm.builder import Block, Function, Val, i32, i64, literal
from ..ir.dim import DimLike, ceildiv
from ..ir.plan import ControlStep, Plan, Step
from ..ir.types import TensorType

ALIGN = 64
POLL_BYTES, POLL_STEPS = 1 << 22, 1 << 14  # bytes, or steps, after which a loop polls
UNKNOWN_BYTES = 1 << 20  # of a tensor of symbolic size
Sizes = Callable[[DimLike], Val]


def _work(plan: Plan) -> int:
    """Bytes that a plan moves, roughly. Contractions read them several times."""
    total = 1
    for s in plan.steps:
        if isinstance(s, ControlStep):
            steps = s.node.attrs.get("length", 1)
            total += sum(map(_work, s.plans)) * (steps if isinstance(steps, int) else 16)
            continue
        touched = (_bytes(plan.buffers[b].type) for b in s.buffers)
        moved = sum(n if isinstance(n, int) else UNKNOWN_BYTES for n in touched)
        total += moved * 64 if isinstance(s, Step) and s.kernel.anchor is not None else moved
    return total


def _poll_every(s: ControlStep) -> int:
    """The steps of a loop between two polls, a power of two."""
    most = max(1, min(POLL_STEPS, POLL_BYTES // sum(map(_work, s.plans))))
    return 1 << most.bit_length() - 1


def _bytes(t: TensorType) -> DimLike:
    return t.size * t.dtype.itemsize


def _carried(s: ControlStep) -> int:
    return 0 if s.node.op.name == "cond" else s.node.attrs["carried"]


def _copies(s: ControlStep) -> list[DimLike]:
    """Where in the workspace the copies of carried values begin; last, where they end."""
    out: list[DimLike] = [0]
    for v in s.node.outputs[: _carried(s)]:
        out.append(out[-1] + ceildiv(_bytes(v.type), ALIGN) * ALIGN)
    return out


def own_bytes(s: ControlStep) -> DimLike:
    """Workspace of a control step, without that of its plans: copies of what is carried, and a condition."""
    return _copies(s)[-1] + ALIGN


def write(
    f: Function,
    s: ControlStep,
    functions: Sequence[str],
    pointer: Callable[[int], Val],
    dims: Val,
    workspace: Val,
    emit: Sizes,
) -> None:
    """Writes the step into `f`. functions: those of its plans; pointer: of a buffer; dims, workspace: pointers."""
    writer = _Writer(f, s, functions, pointer, dims, workspace, emit)
    {"cond": writer.cond, "while": writer.while_, "scan": writer.scan}[s.node.op.name]()


class _Plan:
    """A plan to be called: its values, in an array on the stack."""

    def __init__(self, f: Function, plan: Plan, function: str, first_check: int):
        self.f, self.plan, self.function, self.first_check = f, plan, function, first_check
        self.inputs = sum(b.kind == "input" for b in plan.buffers)
        assert not plan.constants
        self.values = f.alloca("ptr", max(1, self.inputs + len(plan.outputs)))

    def give(self, k: int, pointer: Val) -> None:
        """Input `k`."""
        self.f.store(pointer, self.f.gep("ptr", self.values, i64(k)), 8)

    def take(self, k: int, pointer: Val) -> None:
        """Where output `k` goes."""
        self.give(self.inputs + k, pointer)


class _Writer:
    def __init__(
        self,
        f: Function,
        s: ControlStep,
        functions: Sequence[str],
        pointer: Callable[[int], Val],
        dims: Val,
        workspace: Val,
        emit: Sizes,
    ):
        self.f, self.s, self.dims, self.emit = f, s, dims, emit
        self.plans: list[_Plan] = []
        first = s.first_check
        for plan, function in zip(s.plans, functions, strict=True):
            self.plans.append(_Plan(f, plan, function, first))
            first += len(plan.checks)
        self.args = [pointer(b) for b in s.args]
        self.results = [pointer(b) for b in s.results]
        starts = _copies(s)
        self.copies = [f.gep("i8", workspace, emit(at)) for at in starts[:-1]]
        self.flag = f.gep("i8", workspace, emit(starts[-1]))
        self.arena = f.gep("i8", workspace, emit(own_bytes(s)))
        self.carried = _carried(s)

    def call(self, p: _Plan) -> None:
        """Calls a plan. If one of its checks fails, or it is interrupted, the whole function returns."""
        f = self.f
        arguments = ", ".join(map(str, (p.values, self.dims, self.arena)))
        status = f.emit("i32", f"call i32 @{p.function}({arguments})")
        if not p.plan.checks and not p.plan.loops:
            return
        failed, passed = f.block("failed"), f.block("passed")
        f.cbr(f.cmp("ne", status, i32(0)), failed, passed)
        f.current = failed
        f.ret(f.select(f.cmp("slt", status, i32(0)), status, f.add(status, i32(p.first_check))))
        f.current = passed

    def poll(self, count: Val) -> None:
        """Lets signals in, after some steps; what comes of them ends the whole function."""
        f = self.f
        due, interrupted, done = f.block("due"), f.block("interrupted"), f.block("polled")
        every = _poll_every(self.s)
        f.cbr(f.cmp("eq", f.binary("and", count, i64(every - 1)), i64(every - 1)), due, done)
        f.current = due
        status = f.call("tf_poll", "i32")
        f.cbr(f.cmp("ne", status, i32(0)), interrupted, done)
        f.current = interrupted
        f.ret(status)
        f.current = done

    def next_step(self, count: Val, head: Block, before: Block, carry: _Carry) -> None:
        """Ends a round of a loop."""
        f = self.f
        self.poll(count)
        following = f.add(count, i64(1))
        carry.close(head, before, f.current)
        ends = f"[ 0, %{before.label} ], [ {following.ref}, %{f.current.label} ]"
        head.lines.insert(0, f"  {count.ref} = phi i64 {ends}")
        f.br(head)

    def cond(self) -> None:
        f = self.f
        holds = f.cmp("ne", f.load("i8", self.args[0], 1), literal(0, "i8"))
        yes, no, after = f.block("true"), f.block("false"), f.block("after")
        f.cbr(holds, yes, no)
        for block, p in zip((yes, no), self.plans):
            f.current = block
            for k, x in enumerate(self.args[1:]):
                p.give(k, x)
            for k, x in enumerate(self.results):
                p.take(k, x)
            self.call(p)
            f.br(after)
        f.current = after

    def while_(self) -> None:
        f = self.f
        test, step = self.plans
        for p in (test, step):
            for k, x in enumerate(self.args[self.carried :], self.carried):
                p.give(k, x)
        test.take(0, self.flag)
        before, head, body, after = f.current, f.block("head"), f.block("body"), f.block("after")
        f.br(head)
        f.current = head
        count = Val(f"%{head.label}_i", "i64")
        carry = _Carry(self)
        for k, x in enumerate(carry.now):
            test.give(k, x)
        self.call(test)
        f.cbr(f.cmp("ne", f.load("i8", self.flag, 1), literal(0, "i8")), body, after)
        f.current = body
        carry.hand_over(step)
        self.call(step)
        self.next_step(count, head, before, carry)
        f.current = after
        carry.settle(carry.now)

    def scan(self) -> None:
        f, attrs = self.f, self.s.node.attrs
        (step,) = self.plans
        n, m = self.carried, attrs["scanned"]
        for k, x in enumerate(self.args[n + m :], n + m):
            step.give(k, x)
        length = self.emit(attrs["length"])
        rows = [self.emit(_bytes(v.type.with_shape(v.shape[1:]))) for v in self.s.node.inputs[n : n + m]]
        ys = [self.emit(_bytes(v.type.with_shape(v.shape[1:]))) for v in self.s.node.outputs[n:]]
        before, head, body, after = f.current, f.block("head"), f.block("body"), f.block("after")
        f.br(head)
        f.current = head
        count = Val(f"%{head.label}_i", "i64")
        carry = _Carry(self)
        f.cbr(f.cmp("slt", count, length), body, after)
        f.current = body
        at = f.sub(f.sub(length, i64(1)), count) if attrs["reverse"] else count
        carry.hand_over(step)
        for k, (x, size) in enumerate(zip(self.args[n:], rows), n):
            step.give(k, f.gep("i8", x, f.mul(at, size)))
        for k, (y, size) in enumerate(zip(self.results[n:], ys), n):
            step.take(k, f.gep("i8", y, f.mul(at, size)))
        self.call(step)
        self.next_step(count, head, before, carry)
        f.current = after
        carry.settle(carry.now)


class _Carry:
    """What a loop carries, as phis at its head (the current block): where values are now, where the next ones go, and the
    place that is free then."""

    def __init__(self, w: _Writer):
        self.w, n, label = w, w.carried, w.f.current.label
        self.now, self.next, self.free = (
            [Val(f"%{label}_{what}{k}", "ptr") for k in range(n)] for what in ("now", "next", "free")
        )

    def hand_over(self, step: _Plan) -> None:
        for k, (now, following) in enumerate(zip(self.now, self.next)):
            step.give(k, now)
            step.take(k, following)

    def close(self, head: Block, before: Block, latch: Block) -> None:
        """Writes the phis: after a step the places have changed their roles."""
        lines = []
        w = self.w
        for k in range(w.carried):
            now, following, free = self.now[k], self.next[k], self.free[k]
            for phi, first, then in (
                (now, w.args[k], following),
                (following, w.results[k], free),
                (free, w.copies[k], following),
            ):
                ends = f"[ {first.ref}, %{before.label} ], [ {then.ref}, %{latch.label} ]"
                lines.append(f"  {phi.ref} = phi ptr {ends}")
        head.lines[:0] = lines

    def settle(self, found: Sequence[Val]) -> None:
        """Copies what is not yet in the place of the result."""
        f = self.w.f
        for now, result, v in zip(found, self.w.results, self.w.s.node.outputs):
            with f.when(f.cmp("ne", now, result)):
                size = self.w.emit(_bytes(v.type))
                f.call("llvm.memcpy.p0.p0.i64", "void", result, now, size, Val("false", "i1"))
