"""The one list of passes, in order, from a captured graph to a plan of kernels."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Callable

from ..ir.graph import Graph
from ..ir.kernel import Kernel, Schedule
from ..ir.kernel_text import format_kernel
from ..ir.ops.control import CONTROL
from ..ir.plan import Plan, Step
from ..ir.subgraph import subgraphs
from ..ir.target import Target
from .channels_last import channels_last
from .collapse import collapse
from .columns import columns
from .contract import contract
from .control import trim
from .decompose import check_indices, decompose
from .direct import direct
from .fuel import Fuel
from .fuse import fuse
from .kept import has_kernel
from .memory import AnyStep, HostDraft, Planner, lower_groups, order_drafts
from .prepare import prepare
from .products import products
from .rebase import rebase
from .rows import cache_rows
from .scanning import scanning
from .scattering import scattering
from .schedule import schedule
from .schedule_gpu import schedule as schedule_on_gpu
from .simplify import eliminate_dead, fill_empty, share, simplify
from .sorting import sorting
from .split import split, split_on_gpu

GraphPass = Callable[[Graph, Fuel], Graph]

# name, pass. What each needs and leaves is in its docstring.
GRAPH_PASSES: tuple[tuple[str, GraphPass], ...] = (
    ("trim", trim),
    ("decompose", lambda g, fuel: decompose(g)),
    ("check_indices", lambda g, fuel: check_indices(g)),
    ("fill_empty", lambda g, fuel: fill_empty(g)),
    ("simplify", simplify),
    ("cse", share),
    ("simplify_again", simplify),
    ("split", split),
    ("dce", lambda g, fuel: eliminate_dead(g)),
    ("prepare", lambda g, fuel: prepare(g)),
)
# For GPUs: name, pass, and the pass behind which it stands.
GPU_PASSES: tuple[tuple[str, Callable[[Graph, Fuel, Target], Graph], str], ...] = (
    ("scattering", scattering, "fill_empty"),  # what has one order on the host becomes work for many processors
    ("sorting", sorting, "fill_empty"),
    ("scanning", scanning, "fill_empty"),
    ("channels_last", channels_last, "simplify_again"),
    ("products", products, "simplify_again"),
)
REQUIRED = frozenset(("decompose", "check_indices", "fill_empty", "prepare"))  # the backends cannot do without these
KERNEL_PASSES: tuple[tuple[str, Callable[[Kernel, Target], Kernel]], ...] = (
    ("direct", direct),
    ("columns", columns),
    ("collapse", collapse),
    ("cache_rows", cache_rows),
    ("contract", contract),
)
NAMES = frozenset(
    [n for n, _ in GRAPH_PASSES]
    + [n for n, _, _ in GPU_PASSES]
    + [n for n, _ in KERNEL_PASSES]
    + ["fuse", "recompute", "fold", "rebase", "control", "attention"]
)


@dataclass
class Report:
    """What happened while compiling, for `explain`: seconds per pass, fuel spent, the graph given to fusion."""

    seconds: dict[str, float] = field(default_factory=dict)
    fuel: Fuel = field(default_factory=Fuel)
    graph: Graph | None = None


def graph_passes(target: Target | None) -> Iterator[tuple[str, GraphPass]]:
    """The graph passes for a target, in order."""
    for name, run in GRAPH_PASSES:
        if target is None or target.isa != "cuda":
            yield name, run
            continue
        if name == "decompose":
            run = _decompose_for(target)
        yield name, split_on_gpu if name == "split" else run
        for own, p, behind in GPU_PASSES:
            if behind == name:
                yield own, lambda g, fuel, p=p: p(g, fuel, target)


def _decompose_for(target: Target) -> GraphPass:
    """Without the composite ops that the target has kernels for."""
    return lambda graph, fuel: decompose(graph, lambda node: has_kernel(node, target, fuel))


def optimize(
    graph: Graph,
    fuel: Fuel,
    report: Report | None = None,
    verify: bool = False,
    inside: bool = False,
    target: Target | None = None,
) -> Graph:
    """Runs the graph passes. With `verify`, the graph is checked after each of them. `inside`: a node holds it. `target`:
    for passes that only some have."""
    report = report or Report()
    for name, run in graph_passes(target):
        if name in fuel.disabled and name not in REQUIRED:
            continue
        start = time.perf_counter()
        graph = run(graph, fuel)
        report.seconds[name] = report.seconds.get(name, 0.0) + time.perf_counter() - start
        if verify:
            from ..ir.verify import verify as check

            check(graph, name, inside)
    return graph


def compile_graph(
    graph: Graph,
    target: Target,
    fuel: Fuel | None = None,
    verify: bool = False,
    report: Report | None = None,
    inside: bool = False,
) -> Plan:
    """All the passes: the plan that computes `graph` on `target`. `inside`: for a node that holds the graph; the plan is
    then given memory that is aligned for single elements only."""
    report = report or Report()
    fuel = report.fuel = fuel or Fuel()
    graph = optimize(graph, fuel, report, verify, inside, target)
    report.graph = graph
    start = time.perf_counter()
    partition = fuse(graph, fuel)
    report.seconds["fuse"] = time.perf_counter() - start
    start = time.perf_counter()
    drafts = lower_groups(partition)
    for d in drafts:
        if isinstance(d, HostDraft):
            _plan_graphs(d, target, fuel, verify, report)
            continue
        for name, run in KERNEL_PASSES:
            if name not in fuel.disabled:
                d.kernel = run(d.kernel, target)
        if "rebase" not in fuel.disabled:
            d.kernel, d.shifts = rebase(d.kernel)
        d.kernel = named(d.kernel)
    report.seconds["lower"] = time.perf_counter() - start
    start = time.perf_counter()
    plan = Planner(graph, order_drafts(drafts, graph)).run(lambda k: _scheduled(k, target), graph.name)
    report.seconds["plan"] = time.perf_counter() - start
    steps = (replace(s, kernel=named(s.kernel)) if isinstance(s, Step) else s for s in plan.steps)
    if inside:
        steps = map(_unstreamed, steps)
    plan = replace(plan, steps=tuple(steps))
    return plan if inside else plan.with_dims(plan.dims)


def _scheduled(kernel: Kernel, target: Target) -> Schedule:
    return schedule_on_gpu(kernel, target, target.precision) if target.isa == "cuda" else schedule(kernel, target)


def _plan_graphs(d: HostDraft, target: Target, fuel: Fuel, verify: bool, report: Report) -> None:
    """Compiles the graphs that a node holds, if all that they do is native."""
    if d.node.op.name not in CONTROL or "control" in fuel.disabled:
        return
    plans = []
    for graph in subgraphs(d.node):
        inner = Report()
        plan = compile_graph(graph, target, fuel, verify, inner, True)
        for name, seconds in inner.seconds.items():
            report.seconds[name] = report.seconds.get(name, 0.0) + seconds
        for s in plan.host_steps if target.isa != "cuda" else ():  # there the host calls the plans anyway
            where = f" ({s.node.loc})" if s.node.loc else ""
            d.reason = f"{s.node.op.name} inside of it runs on the host{where}: {s.reason}"
            return
        plans.append(plan)
    d.plans = tuple(plans)


def _unstreamed(s: AnyStep) -> AnyStep:
    """The step without streaming. Its kernel gets another name then: the same one may stream elsewhere."""
    if not isinstance(s, Step) or not s.schedule.stream:
        return s
    kernel = replace(s.kernel, name=f"{s.kernel.name}_unstreamed")
    return replace(s, kernel=kernel, schedule=replace(s.schedule, stream=()))


def named(kernel: Kernel) -> Kernel:
    """Kernels are named after their content, so that equal ones are compiled once."""
    plain = replace(kernel, name="kernel")
    digest = hashlib.sha256(format_kernel(plain).encode()).hexdigest()[:16]
    return replace(kernel, name=f"k_{digest}")
