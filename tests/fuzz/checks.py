"""What must hold for every program. Each check raises AssertionError, or whatever the compiler raises."""

from __future__ import annotations

import numpy as np
from generator import EPSILON, Known, Program, evaluate_graph
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import Graph
from tracefuse.ir.text import equal_graphs, format_graph, parse_graph
from tracefuse.ir.verify import verify
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import GRAPH_PASSES, optimize
from tracefuse.runtime import threads
from tracefuse.runtime.executable import Executable, build

SLACK = 8.0  # estimated errors are typical ones: this is what an unlucky element may add


class NotWellDetermined(Exception):
    """The program's results depend on rounding: nothing can be said of it."""


def expected(p: Program) -> list[Known]:
    """The outputs, by the reference, with their errors. NotWellDetermined if two different perturbations disagree."""
    found = evaluate_graph(p.graph, p.inputs, 0)
    if found is None:
        raise NotWellDetermined
    return found


def assert_outputs(got: list[np.ndarray | None], want: list[Known], what: str) -> None:
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        assert g is not None, f"{what}: output {k} is missing"
        assert (g.dtype, g.shape) == (w.array.dtype, w.array.shape), f"{what}: output {k} is {g.dtype}{g.shape}"
        if from_numpy(w.array.dtype) not in EPSILON:
            wrong = int((g != w.array).sum())
            assert not wrong, f"{what}: output {k} differs in {wrong} of {g.size} places"
            continue
        a, b = g.astype(np.float64), w.array.astype(np.float64)
        worst = float(np.abs(a - b).max(initial=0.0))
        allowed = SLACK * w.error
        assert worst <= allowed, f"{what}: output {k} is off by {worst:.3g}, allowed {allowed:.3g}"  # false for NaN too


def executed(p: Program, executable: Executable) -> list[np.ndarray | None]:
    """The program's outputs; of those written to inputs, what the inputs then hold."""
    arrays = [a.copy() for a in p.inputs]
    got = executable.run(arrays)
    return [
        arrays[s.target] if s.kind == "write" else g for g, s in zip(got, p.graph.signature.outputs, strict=True)
    ]  # fmt: skip


def check_text(p: Program) -> None:
    """The graph is well formed, and comes back from its text."""
    verify(p.graph)
    data = {v.name: a for v, a in p.graph.constants.items()}
    again = parse_graph(format_graph(p.graph), data)
    assert equal_graphs(again, p.graph), "the text gives another graph"
    assert equal_graphs(parse_graph(format_graph(p.graph, data=True), data), p.graph), "the inline text does"


def check_compiled(p: Program) -> None:
    """Machine code gives what the reference gives, the same bits with one thread and with two."""
    want = expected(p)
    executable = build(p.graph, verify=True)
    before = threads.get_num_threads()
    try:
        threads.set_num_threads(2)
        got = executed(p, executable)
        threads.set_num_threads(1)
        alone = executed(p, executable)
    finally:
        threads.set_num_threads(before)
    assert_outputs(got, want, "compiled")
    for k, (a, b) in enumerate(zip(got, alone)):
        assert a is not None and b is not None
        assert a.tobytes() == b.tobytes(), f"output {k} differs between 1 and 2 threads"


def check_passes(p: Program) -> None:
    """The graph passes together keep the meaning, and each of them, run again, changes nothing."""
    want = expected(p)
    count = len(p.graph.outputs)
    graph = p.graph
    for name, run in GRAPH_PASSES:
        graph = run(graph, Fuel())
        verify(graph, name)
        values = run_reference(graph, p.inputs)
        assert_outputs([*values[:count]], want, f"after {name}")
        assert not any(bool(v) for v in values[count:]), f"after {name}: a check fails"
        if name != "check_indices":  # the checks that it adds are there once
            again = run(graph, Fuel())
            assert equal_graphs(again, graph), f"a second {name} changes the graph:\n{graph}\n{again}"
    assert equal_graphs(optimize(p.graph, Fuel()), graph)


def run_reference(graph: Graph, inputs: list[np.ndarray]) -> list[np.ndarray]:
    from tracefuse.ir.interpreter import run

    with np.errstate(all="ignore"):
        return run(graph, inputs)


CHECKS = {"text": check_text, "compiled": check_compiled, "passes": check_passes}
