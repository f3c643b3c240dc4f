"""`tr.explain`: what was captured, what fused into what, what is guarded, and where the time and the memory go."""

from __future__ import annotations

import linecache
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.dim import DimLike
from ..ir.graph import Graph, Node
from ..ir.kernel_text import format_kernel, format_schedule
from ..ir.plan import ControlStep, HostStep, Plan, Step
from ..ir.types import TensorType
from .benchmark import milliseconds
from .capture.replay import Captured
from .capture.tree import Segment, leaves_of
from .costs import kernel_cost
from .introspect import NotCaptured, compiled_of, name_of, native_of, trace_of

SHOWN_GUARDS = 12  # in a summary


@dataclass(frozen=True, slots=True)
class KernelReport:
    """One step of a plan. read, written: bytes; flops: operations (estimates). phases: (symbol, parallel tasks). tuned: what
    `mode="max"` has found for it: the schedule before and after, with the time that the kernel took with each. source: Triton's, for a GPU."""

    name: str
    ops: tuple[str, ...]
    sources: tuple[str, ...]
    text: str
    schedule: str
    read: int | str
    written: int | str
    flops: int | str
    phases: tuple[tuple[str, int | str], ...]
    tuned: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class HostReport:
    """One host step of a plan: a call of an op's NumPy reference. after: kernels that run before it. reason: why no
    kernel does it. source: the user's line."""

    op: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    reason: str
    source: str
    after: int


@dataclass(frozen=True, slots=True)
class ControlReport:
    """One cond, while or scan of a plan that runs natively. graphs: its branches, or what each step computes. after:
    kernels that run before it. source: the user's line."""

    op: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    graphs: tuple[GraphReport, ...]
    source: str
    after: int


@dataclass(frozen=True, slots=True)
class GraphReport:
    """A graph that a control step runs. name: "true", "false", "cond" or "body"."""

    name: str
    kernels: tuple[KernelReport, ...]
    control_steps: tuple[ControlReport, ...]


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes by what they are for. arena: all temporaries together, which share memory where their lives allow.
    in_place: inputs that kernels overwrite directly; copied: inputs overwritten by a copy at the end."""

    inputs: int | str
    constants: int
    outputs: int | str
    temporaries: int
    arena: int | str
    in_place: tuple[str, ...]
    copied: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TraceReport:
    """One captured graph and its code. `graph`: its text as captured; `optimized`: as fusion got it. host_steps: what
    NumPy computes between the kernels. control_steps: loops and branches among them. seconds: by stage of compiling.
    from_cache: kernels that did not have to be generated. entry: how calls get there, "native" or "python"; "not called"
    before the first one. lines: source text by "file:line". answers: what Python asked on the way to it, with what it was
    told: (line, answer). notes: what it could do better, and why it does not. tuning: what `mode="max"` came to."""

    name: str
    graph: str
    optimized: str
    nodes: int
    optimized_nodes: int
    kernels: tuple[KernelReport, ...]
    guards: tuple[str, ...]
    memory: MemoryReport | None
    seconds: dict[str, float]
    from_cache: int
    calls: int
    entry: str
    lines: dict[str, str] = field(default_factory=dict)
    host_steps: tuple[HostReport, ...] = ()
    answers: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    control_steps: tuple[ControlReport, ...] = ()
    tuning: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found. Print it, or take `to_dict()`. `summary()` leaves out graphs and kernel texts.

    traces: forward graphs, each followed by its backward graph where there is one. cache: calls that found a trace
    (hits), made one (misses) or ran as plain Python (eager), and how often each guard failed. reason: why the call
    that was asked about can't be captured; empty if it can. tree: the questions that Python asked of tensors, with the
    answers so far and how often each was given, as lines of text; empty without questions.
    """

    name: str
    traces: tuple[TraceReport, ...]
    cache: dict[str, Any]
    fallbacks: tuple[str, ...]
    reason: str = ""
    tree: tuple[str, ...] = ()

    def to_html(self) -> str:
        """A page that needs nothing else: the tree, then each trace with kernels, memory, guards and graphs to unfold."""
        from .explain_html import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return asdict(self)

    def summary(self) -> str:
        """Kernels, memory, times and guards."""
        return "\n".join(self._head() + [line for t in self.traces for line in ("", *_summary(t, SHOWN_GUARDS))])

    def __str__(self) -> str:
        lines = self._head()
        for t in self.traces:
            lines += ["", *_summary(t), "", "captured graph", _indent(t.graph)]
            for k, kernel in enumerate(t.kernels):
                lines += ["", f"kernel {k}", _indent(kernel.text), f"  {kernel.schedule}"]
                lines += [_indent(kernel.source)] if kernel.source else []
                lines += [f"  {s}  {t.lines[s]}" if t.lines.get(s) else f"  {s}" for s in kernel.sources]
        return "\n".join(lines)

    def _head(self) -> list[str]:
        c = self.cache
        lines = [f"{self.name}: {c['traces']} traces; {c['hits']} hits, {c['misses']} misses, {c['eager']} plain calls"]
        if self.reason:
            lines.append(f"not captured: {self.reason}")
        lines += [f"fallback: {f}" for f in self.fallbacks if f != self.reason]
        lines += [f"guard failed {n}x: {g}" for g, n in c["failing"].items()]
        return lines + [*self.tree]


def explain(fn: Any, /, *args: Any, **kwargs: Any) -> Explanation:
    """What compiling `fn` makes of a call `fn(*args, **kwargs)`; without arguments, of all calls so far.

    fn: a function, a method or a Module, compiled or not. The call is captured and compiled if it has not been, but
    not run: nothing changes. A function without arguments that has no trace yet is captured too.
    """
    compiled, _, first = compiled_of(fn)
    reason = ""
    traces = compiled.traces
    if args or kwargs or not traces:
        try:
            traces = [trace_of(compiled, (*first, *args), kwargs)]
        except NotCaptured as e:
            traces, reason = [], str(e)
    reports: list[TraceReport] = []
    for t in traces:
        reports.append(_report(t, t.graph, t.executable, tuple(g.text for g in t.all_guards)))
        if t.backward is not None:
            reports.append(_report(t, t.backward.graph, t.backward.executable, ()))
    info, tree = compiled.cache_info(), tuple(tree_lines(compiled))
    return Explanation(name_of(fn), tuple(reports), info, tuple(compiled.fallbacks), reason, tree)


def tree_lines(compiled: Any) -> list[str]:
    """The questions of a compiled function, each with its answers, how often they were given and where they lead."""
    numbers = {id(t): k for k, t in enumerate(compiled.traces)}
    lines: list[str] = []

    def show(nodes: list, indent: str) -> None:
        for node in nodes:
            if isinstance(node, Captured):
                lines.append(f"{indent}trace {numbers[id(node)]}: {node.calls} calls, entry: {_entry(node)}")
                continue
            where = node.location
            text = linecache.getline(where.file, where.line).strip() if where is not None else ""
            lines.append(f"{indent}{where} asks for a{'n int' if node.kind == 'int' else ' ' + node.kind}: {text}")
            for answer, below in node.branches.items():
                calls = sum(t.calls for t in leaves_of(below))
                lines.append(f"{indent}  {node.told(answer)}: {calls} calls")
                show(below, indent + "    ")

    for tree in list(compiled._traces.values()):
        if any(isinstance(n, Segment) for n in tree):
            show(tree, "")
    return lines


# ------------------------------------------------------------------ making reports


def _report(captured: Captured, graph: Graph, executable: Any, guards: tuple[str, ...]) -> TraceReport:
    native = native_of(executable)
    lines = _lines(graph)
    if native is None:  # a backend that runs the graph as it is
        n = len(graph.nodes)
        return TraceReport(
            graph.name, str(graph), str(graph), n, n, (), guards, None, {}, 0, captured.calls, _entry(captured), lines,
            answers=_answers(captured), notes=captured.notes,
        )  # fmt: skip
    optimized = native.report.graph or graph
    seconds = {**native.report.seconds, **{k: v for k, v in native.seconds.items() if k != "passes"}}
    return TraceReport(
        name=graph.name,
        graph=str(graph),
        optimized=str(optimized),
        nodes=len(graph.nodes),
        optimized_nodes=len(optimized.nodes),
        kernels=_kernels(native.plan, native.kernels, _tuned(native)),
        guards=guards,
        memory=_memory(graph, native.plan),
        seconds=seconds,
        from_cache=native.hits,
        calls=captured.calls,
        entry=_entry(captured),
        lines=lines,
        host_steps=_host_steps(native.plan),
        control_steps=_control_steps(native.plan, native.kernels),
        answers=_answers(captured),
        notes=captured.notes,
        tuning="" if native.tuning is None else str(native.tuning),
    )


def _answers(captured: Captured) -> tuple[tuple[str, str], ...]:
    return tuple((str(segment.location), segment.told(answer)) for segment, answer in captured.above)


def _tuned(native: Any) -> dict[str, str]:
    """By kernel: from which schedule to which it was tuned."""
    out: dict[str, str] = {}
    if native.tuning is None:
        return out
    for t in native.tuning.kernels:
        before, after = (milliseconds(1e3 * s) for s in t.seconds)
        what = "" if native.tuning.kept else ", not kept: the whole was no faster"
        out[t.kernel] = f"{t.before} ({before}) -> {t.after} ({after}){what}"
    return out


def _kernels(plan: Plan, lowered: dict[str, Any], tuned: Mapping[str, str] = {}) -> tuple[KernelReport, ...]:
    return tuple(_kernel(s, lowered[s.kernel.name], tuned.get(s.kernel.name, "")) for s in plan.kernel_steps)


def _entry(captured: Captured) -> str:
    if captured.native is None:
        return "python" if captured.calls else "not called"
    return "native" if captured.native else "python"


def _kernel(step: Any, lowered: Any, tuned: str) -> KernelReport:
    kernel, cost = step.kernel, kernel_cost(step.kernel)
    return KernelReport(
        name=kernel.name,
        ops=kernel.ops,
        sources=kernel.sources,
        text=format_kernel(kernel),
        schedule=format_schedule(step.schedule),
        read=_plain(cost.read),
        written=_plain(cost.written),
        flops=_plain(cost.flops),
        phases=tuple((symbol, _plain(tasks)) for symbol, tasks in lowered.parallel),
        tuned=tuned,
        source=getattr(lowered, "source", ""),
    )


def _host_steps(plan: Plan) -> tuple[HostReport, ...]:
    out: list[HostReport] = []
    kernels = 0
    for s in plan.steps:
        kernels += isinstance(s, Step)
        if isinstance(s, HostStep):
            out.append(HostReport(s.node.op.name, *_types(s.node), s.reason, _source(s.node), kernels))
    return tuple(out)


def _control_steps(plan: Plan, lowered: dict[str, Any]) -> tuple[ControlReport, ...]:
    out: list[ControlReport] = []
    kernels = 0
    for s in plan.steps:
        kernels += isinstance(s, Step)
        if isinstance(s, ControlStep):
            names = [k for k, v in s.node.attrs.items() if isinstance(v, Graph)]
            graphs = tuple(
                GraphReport(name, _kernels(p, lowered), _control_steps(p, lowered)) for name, p in zip(names, s.plans)
            )
            out.append(ControlReport(s.node.op.name, *_types(s.node), graphs, _source(s.node), kernels))
    return tuple(out)


def _types(node: Node) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of operands, and of results."""
    return tuple(str(v.type) for v in node.inputs), tuple(str(v.type) for v in node.outputs)


def _source(node: Node) -> str:
    return "" if node.loc is None else str(node.loc)


def _memory(graph: Graph, plan: Plan) -> MemoryReport:
    def total(kind: str) -> DimLike:
        out: DimLike = 0
        for b in plan.buffers:
            out = out + _bytes(b.type) if b.kind == kind else out
        return out

    copies = {s.args[-1] for s in plan.kernel_steps if s.kernel.ops == ("copy",)}
    targets = [s.target for s in graph.signature.outputs if s.kind == "write"]
    paths = {k: graph.signature.inputs[k].path for k in targets}
    return MemoryReport(
        inputs=_plain(total("input")),
        constants=sum(a.nbytes for a in plan.constants),
        outputs=_plain(total("output")),
        temporaries=sum(b.kind == "temp" for b in plan.buffers),
        arena=_plain(plan.arena),
        in_place=tuple(p for k, p in paths.items() if k not in copies),
        copied=tuple(p for k, p in paths.items() if k in copies),
    )


def _bytes(t: TensorType) -> DimLike:
    return t.size * t.dtype.itemsize


def _plain(d: DimLike) -> int | str:
    return d if isinstance(d, int) else str(d)


def _lines(graph: Graph) -> dict[str, str]:
    """The text of every source line in the graph."""
    found = {n.loc for n in graph.nodes if n.loc is not None}
    return {str(loc): linecache.getline(loc.file, loc.line).strip() for loc in sorted(found)}


# ------------------------------------------------------------------ printing


def _summary(t: TraceReport, most_guards: int = 1_000_000) -> list[str]:
    counts = f"{t.nodes} nodes, {t.optimized_nodes} after passes, {len(t.kernels)} kernels"
    counts += f", {len(t.host_steps)} host steps" if t.host_steps else ""
    counts += f", {len(t.control_steps)} loops and branches" if t.control_steps else ""
    lines = [f"trace {t.name}: {counts}; {t.calls} calls, entry: {t.entry}"]
    if t.answers:
        lines.append("where " + ", ".join(f"{line} is {answer}" for line, answer in t.answers))
    lines += t.notes
    width = max((len(k.name) for k in t.kernels), default=0)
    for i, k in enumerate(t.kernels):
        lines += _host_lines(t, i)
        tasks = "+".join(str(n) for _, n in k.phases)
        size = f"{quantity(k.read, 'B')} in, {quantity(k.written, 'B')} out, {quantity(k.flops, 'flop')}, {tasks} tasks"
        lines.append(f"  {i:>3} {k.name:<{width}}  {_ops(k.ops)}")
        lines.append(f"      {', '.join(k.sources)}  [{size}]" if k.sources else f"      [{size}]")
        lines += [f"      tuned: {k.tuned}"] if k.tuned else []
    lines += _host_lines(t, len(t.kernels))
    if t.memory is not None:
        m = t.memory
        lines.append(
            f"memory: inputs {quantity(m.inputs, 'B')}, constants {quantity(m.constants, 'B')}, outputs "
            f"{quantity(m.outputs, 'B')}, {m.temporaries} temporaries in an arena of {quantity(m.arena, 'B')}"
        )
        if m.in_place or m.copied:
            lines.append(f"writes: {len(m.in_place)} in place, {len(m.copied)} by a copy at the end")
    if t.tuning:
        lines.append(t.tuning)
    if t.seconds:
        parts = [f"{k} {milliseconds(1e3 * v)}" for k, v in t.seconds.items() if v >= 5e-4]
        total = milliseconds(1e3 * sum(t.seconds.values()))
        lines.append(f"compiled in {total}: {', '.join(parts)}; {t.from_cache} kernels from the cache on disk")
    if t.guards:
        lines += [f"guards ({len(t.guards)})", *(f"  {g}" for g in t.guards[:most_guards])]
        if len(t.guards) > most_guards:
            lines.append(f"  and {len(t.guards) - most_guards} more")
    return lines


def _host_lines(t: TraceReport, after: int) -> list[str]:
    steps = [s for s in t.host_steps if s.after == after]
    lines = [f"   on the host: {s.op}({', '.join(s.operands)}): {s.reason}  {s.source}".rstrip() for s in steps]
    return lines + [line for c in t.control_steps if c.after == after for line in _control_lines(c)]


def _control_lines(c: ControlReport, indent: str = "   ") -> list[str]:
    lines = [f"{indent}natively: {c.op}({', '.join(c.operands)})  {c.source}".rstrip()]
    for g in c.graphs:
        lines += [f"{indent}  {g.name}: {_ops(k.ops)}" for k in g.kernels]
        lines += [line for inner in g.control_steps for line in _control_lines(inner, f"{indent}  {g.name}: ")]
    return lines


def _ops(ops: tuple[str, ...]) -> str:
    counts = Counter(ops)
    return ", ".join(op if n == 1 else f"{op} x{n}" for op, n in counts.items())


def quantity(n: int | str, unit: str) -> str:
    """A number with a unit: 1.5 kB, 268 Mflop. Symbolic sizes stand as they are."""
    if isinstance(n, str):
        return f"({n}) {unit}"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= factor:
            return f"{n / factor:.3g} {prefix}{unit}"
    return f"{n} {unit}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
