"""From kernels and host steps to a `Plan`: their order, which outputs go where, what is written in place, and the arena."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.dtypes import DType
from ..ir.graph import Graph, Node, Value
from ..ir.kernel import Axis, Buffer, Kernel, Stage, Store
from ..ir.plan import ControlStep, HostStep, Plan, PlanBuffer, Step
from ..ir.scalar import load, walk
from ..ir.types import TensorType
from .fuse import Group, Partition
from .group import memory_root
from .host import host_reason
from .lower import GroupLowering

ALIGN = 64
AnyStep = Step | ControlStep | HostStep


@dataclass(eq=False)
class Draft:
    """One kernel and the graph values behind its parameters."""

    group: Group
    kernel: Kernel
    reads: dict[Value, list[str]]
    writes: dict[Value, str]
    place: dict[str, Value] = field(default_factory=dict)  # parameter -> value
    shifts: dict[str, int] = field(default_factory=dict)  # parameter -> its first element within the value
    overwrites: dict[Value, Value] = field(default_factory=dict)  # what it writes -> what was in that memory before


@dataclass(eq=False)
class HostDraft:
    """One host step and the graph values that it reads and writes: those that are in memory. With `plans`, for the graphs
    that the node holds, it becomes a control step."""

    node: Node
    reads: dict[Value, None]
    writes: dict[Value, None]
    reason: str
    plans: tuple[Plan, ...] = ()

    @property
    def may_fail(self) -> bool:
        """Host steps raise, checks fail, and loops can be interrupted."""
        return not self.plans or self.node.op.name != "cond" or any(p.checks or p.loops for p in self.plans)


def lower_groups(partition: Partition) -> list[Draft | HostDraft]:
    """A kernel, or a step on the host, for every group that has something to store."""
    drafts: list[Draft | HostDraft] = []
    for group in partition.groups:
        if group.on_host:
            (node,) = group.nodes
            writes = {v: None for v in node.outputs if v in partition.stored}
            if writes:
                read = dict.fromkeys(map(memory_root, node.inputs))
                drafts.append(HostDraft(node, read, writes, host_reason(node)))
            continue
        low = GroupLowering(group, partition, "kernel")
        kernel = low.run()
        if kernel is None:
            continue
        reads: dict[Value, list[str]] = {}
        for key, buffer in low.reads.items():
            value = key[1] if isinstance(key, tuple) else key
            reads.setdefault(value, []).append(buffer.name)
        writes = {v: b.name for v, b in low.writes.items()}
        place = {name: v for v, names in reads.items() for name in names} | {name: v for v, name in writes.items()}
        for before in low.overwrites.values():
            reads.setdefault(before, [])
        drafts.append(Draft(group, kernel, reads, writes, place, overwrites=low.overwrites))
    return drafts


def order_drafts(drafts: list[Draft | HostDraft], graph: Graph) -> list[Draft | HostDraft]:
    """What may fail first: kernels that decide checks, and host steps. Then the order they came in. What writes inputs
    should come late."""
    maker = {v: d for d in drafts for v in d.writes}
    wanted = [maker[v] for v, s in zip(graph.outputs, graph.signature.outputs) if s.kind == "check" and v in maker]
    wanted += [d for d in drafts if isinstance(d, HostDraft) and d.may_fail]
    out: list[Draft | HostDraft] = []
    done: set[int] = set()
    stack = [*reversed(drafts), *reversed(wanted)]
    while stack:
        d = stack[-1]
        waiting = [maker[v] for v in d.reads if v in maker and maker[v] is not d and id(maker[v]) not in done]
        if id(d) in done or not waiting:
            stack.pop()
            if id(d) not in done:
                done.add(id(d))
                out.append(d)
        else:
            stack.extend(waiting)
    return out


class Planner:
    def __init__(self, graph: Graph, drafts: list[Draft | HostDraft]):
        self.graph, self.drafts = graph, drafts
        self.buffers: list[PlanBuffer] = []
        self.place: dict[Value, int] = {}
        self.inputs = {v: k for k, v in enumerate(graph.inputs)}
        self.constants = list(graph.constants)
        self.copies: list[tuple[int, int, TensorType]] = []
        self.checks: list[tuple[int, str]] = []

    def _buffer(self, b: PlanBuffer) -> int:
        self.buffers.append(b)
        return len(self.buffers) - 1

    def run(self, schedule, name: str) -> Plan:
        graph = self.graph
        for v, k in self.inputs.items():
            self.place[v] = self._buffer(PlanBuffer(v.type, "input", k))
        for k, v in enumerate(self.constants):
            self.place[v] = self._buffer(PlanBuffer(v.type, "constant", k))
        outputs: list[int] = []
        checks = self.checks
        in_place: set[int] = set()
        last_failure = self._last_failure()
        for j, (v, spec) in enumerate(zip(graph.outputs, graph.signature.outputs, strict=True)):
            if spec.kind == "result" and spec.target >= 0:
                outputs.append(spec.target)
                continue
            if spec.kind == "write":
                outputs.append(spec.target)
                if 0 in v.shape:
                    continue
                step, first = self._first_writer(v)
                if v not in self.place and self._writable_in_place(first, spec.target, step, last_failure):
                    self.place[v] = spec.target
                    in_place.add(step)
                else:
                    self.copies.append((self._temporary(v), spec.target, v.type))
                continue
            if spec.kind == "check":
                outputs.append(self._temporary(v))
                checks.append((outputs[-1], spec.path))
                continue
            self.place[v] = self._buffer(PlanBuffer(v.type, "output", j))
            outputs.append(self.place[v])
        for d in reversed(self.drafts):
            for v, before in d.overwrites.items() if isinstance(d, Draft) else ():
                self.place[before] = self._temporary(v)
        steps = [self._step(d, schedule) for d in self.drafts]
        commit = min(in_place, default=len(steps))
        for source, target, type in self.copies:
            parts = type.dtype.itemsize // type.dtype.real.itemsize  # complex numbers are copied as pairs
            kernel = copy_kernel(type.dtype.real, type.size * parts)
            steps.append(Step(kernel, schedule(kernel), (source, target)))
        steps = self._unstreamed(steps)
        arena = self._lay_out(steps, {b for b, _ in checks if b >= 0} | {s for s, _, _ in self.copies})
        return Plan(
            name, tuple(self.buffers), tuple(steps), tuple(outputs), tuple(graph.constants.values()), arena,
            graph.dims(), tuple(checks), commit,
        )  # fmt: skip

    def _temporary(self, v: Value) -> int:
        if v not in self.place:
            self.place[v] = self._buffer(PlanBuffer(v.type, "temp"))
        return self.place[v]

    def _first_writer(self, v: Value) -> tuple[int, Value]:
        """The step that first writes to the memory of `v`, and what it puts there."""
        step = next(k for k, d in enumerate(self.drafts) if v in d.writes)
        d = self.drafts[step]
        before = d.overwrites.get(v) if isinstance(d, Draft) else None
        return (step, v) if before is None else self._first_writer(before)

    def _last_failure(self) -> int:
        """The last step that decides whether the call succeeds: a check, or anything on the host. -1: there is none."""
        checked = {v for v, s in zip(self.graph.outputs, self.graph.signature.outputs) if s.kind == "check"}
        failing = (
            k for k, d in enumerate(self.drafts) if isinstance(d, HostDraft) and d.may_fail or checked & d.writes.keys()
        )
        return max(failing, default=-1)

    def _writable_in_place(self, v: Value, target: int, step: int, last_failure: int) -> bool:
        """Nobody reads the old contents afterwards, and the kernel itself reads an element only before writing it."""
        old = self.graph.inputs[target]
        if old.type != v.type or step <= last_failure:
            return False
        for k, d in enumerate(self.drafts):
            if old in d.reads and (k > step or k == step and not self._reads_own_element(d, old, v)):
                return False
        passed_on = any(
            o is old and not (s.kind == "result" and s.target >= 0)
            for o, s in zip(self.graph.outputs, self.graph.signature.outputs)
        )
        return not passed_on

    def _reads_own_element(self, d: Draft | HostDraft, old: Value, new: Value) -> bool:
        if isinstance(d, HostDraft):
            return False
        name = d.writes[new]
        if d.kernel.scatters:
            return False
        stages = [(k, s) for k, stage in enumerate(d.kernel.stages) for s in stage.stores if s.buffer == name]
        ((at, store),) = stages
        roots = [x for stage in d.kernel.stages for r in stage.reductions for x in r.inputs]
        roots += [s.value for stage in d.kernel.stages for s in stage.stores]
        if d.kernel.anchor:
            roots += d.kernel.anchor.operands
        later = [s.value for stage in d.kernel.stages[at + 1 :] for s in stage.stores]
        later += [x for stage in d.kernel.stages[at + 1 :] for r in stage.reductions for x in r.inputs]
        names = set(d.reads[old])
        if any(e.op == "load" and e.attr.buffer in names for e in walk(*later)):
            return False
        return all(e.attr.index == store.index for e in walk(*roots) if e.op == "load" and e.attr.buffer in names)

    def _step(self, d: Draft | HostDraft, schedule) -> AnyStep:
        if isinstance(d, HostDraft):
            args = tuple(self._temporary(memory_root(v)) for v in d.node.inputs)
            if d.plans:
                first = len(self.checks)
                self.checks += [(-1, message) for p in d.plans for _, message in p.checks]
                results = tuple(self._temporary(v) for v in d.node.outputs)
                return ControlStep(d.node, args, results, d.plans, first)
            results = tuple(self._temporary(v) if v in d.writes else -1 for v in d.node.outputs)
            return HostStep(d.node, args, results, d.reason)
        params = [b.name for b in d.kernel.params if b.role != "scratch"]
        args = tuple(self._temporary(d.place[name]) for name in params)
        offsets = tuple(d.shifts.get(name, 0) for name in params) if d.shifts else ()
        return Step(d.kernel, schedule(d.kernel), args, offsets)

    def _unstreamed(self, steps: list[AnyStep]) -> list[AnyStep]:
        """The steps, without streaming of what goes into inputs: only our own memory is aligned for that. Equal kernels
        share their code, so what one of them must not stream none does."""
        foreign: set[tuple[str, str]] = set()
        for s in steps:
            if not isinstance(s, Step):
                continue
            params = [b.name for b in s.kernel.params if b.role != "scratch"]
            foreign |= {(s.kernel.name, p) for p, k in zip(params, s.args) if self.buffers[k].kind == "input"}
        return [
            replace(s, schedule=replace(s.schedule, stream=kept))
            if isinstance(s, Step)
            and (kept := tuple(p for p in s.schedule.stream if (s.kernel.name, p) not in foreign)) != s.schedule.stream
            else s
            for s in steps
        ]

    # ---- the arena
    def _lay_out(self, steps: list[AnyStep], kept: set[int]) -> DimLike:
        """Gives every temporary an offset: first fit over the steps in which it is alive. Symbolic sizes don't share."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        for k, s in enumerate(steps):
            for b in s.buffers:
                if self.buffers[b].kind == "temp":
                    first.setdefault(b, k)
                    last[b] = k
        for b in kept:
            last[b] = len(steps)
        end: DimLike = 0
        placed: list[tuple[int, int, int, int]] = []  # offset, size, first, last
        floating: list[int] = []
        for b in sorted(first, key=lambda b: (first[b], b)):
            size = padded(self.buffers[b].type)
            if not isinstance(size, int):
                floating.append(b)
                continue
            busy = sorted((o, n) for o, n, f, t in placed if f <= last[b] and first[b] <= t)
            offset = 0
            for o, n in busy:
                if o - offset >= size:
                    break
                offset = max(offset, o + n)
            placed.append((offset, size, first[b], last[b]))
            self.buffers[b] = PlanBuffer(self.buffers[b].type, "temp", 0, offset)
            end = max(end, offset + size)  # type: ignore[type-var]
        for b in floating:
            self.buffers[b] = PlanBuffer(self.buffers[b].type, "temp", 0, end)
            end = end + padded(self.buffers[b].type)
        return end


def padded(t: TensorType) -> DimLike:
    """Bytes of a tensor, rounded up to a cache line."""
    return dim.ceildiv(t.size * t.dtype.itemsize, ALIGN) * ALIGN


def copy_kernel(dtype: DType, size: DimLike) -> Kernel:
    """y[i] = x[i]."""
    axis = Axis(dim.symbol("i0", 0, size - 1), size)
    at: DimLike = axis.sym if size != 1 else 0
    source, target = Buffer("x0", dtype, (size,), (1,), "in"), Buffer("y0", dtype, (size,), (1,), "out")
    dims = tuple(sorted(dim.symbols(size), key=str))
    stage = Stage((), (), (Store("y0", (at,), load(dtype, "x0", (at,))),))
    return Kernel("kernel", (source, target), (axis,) if size != 1 else (), (stage,), None, dims, (), ("copy",))
