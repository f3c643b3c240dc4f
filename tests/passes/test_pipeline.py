"""The list of passes as a whole: what fuses into what, switching passes off, fuel, and cost that grows with size."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import Graph, GraphBuilder
from tracefuse.ir.interpreter import run
from tracefuse.ir.text import graph_key, parse_graph
from tracefuse.ir.types import TensorType
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import GRAPH_PASSES, NAMES, REQUIRED, compile_graph, optimize
from tracefuse.runtime.executable import build, default_target

SOFTMAX = """
graph @softmax(%x: f32[64, 100]) -> (%0) {
  %0: f32[64, 100] = softmax(%x, axis=1)
  in %x "x" arg
  out %0 result
}"""
LAYER_NORM = """
graph @block(%x: f32[64, 96], %r: f32[64, 96], %w: f32[96], %b: f32[96]) -> (%2) {
  %0: f32[64, 96] = layer_norm(%x, %w, %b, ndim_normalized=1, eps=1e-05)
  %1: f32[64, 96] = gelu(%0, approximate="none")
  %2: f32[64, 96] = add(%1, %r)
  in %x "x" arg
  in %r "r" arg
  in %w "w" state
  in %b "b" state
  out %2 result
}"""
LINEAR = """
graph @linear(%x: f32[32, 48], %w: f32[48, 80], %b: f32[80]) -> (%2) {
  %0: f32[32, 80] = matmul(%x, %w)
  %1: f32[32, 80] = add(%0, %b)
  %2: f32[32, 80] = gelu(%1, approximate="tanh")
  in %x "x" arg
  in %w "w" state
  in %b "b" state
  out %2 result
}"""
CONCAT = """
graph @concat(%x: f32[16, 30], %y: f32[16, 50]) -> (%2) {
  %0: f32[16, 30] = exp(%x)
  %1: f32[16, 50] = exp(%y)
  %2: f32[16, 80] = concat(%0, %1, axis=1)
  in %x "x" arg
  in %y "y" arg
  out %2 result
}"""
# Something for every pass to do.
MIXED = """
graph @mixed(%x: f32[24, 40], %w: f32[40, 16], %i: i64[9], %s: f32[16]) -> (%12, %14, %9) {
  %0: f32[] = full(value=1.0, shape=(), dtype=f32)
  %1: f32[24, 40] = mul(%x, %0)
  %2: f32[24, 40] = tanh(%1)
  %3: f32[24, 40] = tanh(%1)
  %4: f32[24, 40] = add(%2, %3)
  %5: f32[24, 16] = matmul(%4, %w)
  %6: f32[24, 16] = softmax(%5, axis=1)
  %7: f32[9, 16] = gather(%6, %i)
  %8: f32[9, 16] = mul(%7, %s)
  %9: f32[9, 16] = layer_norm(%8, %s, %s, ndim_normalized=1, eps=1e-05)
  %10: f32[16, 9] = permute(%9, perm=(1, 0))
  %11: f32[16, 9] = reshape(%10, shape=(16, 9))
  %12: f32[16] = reduce_sum(%11, axes=(1,))
  %13: f32[24, 40] = exp(%4)
  %14: f32[] = reduce_sum(%13, axes=(0, 1))
  in %x "x" arg
  in %w "w" state
  in %i "i" arg
  in %s "s" state
  out %12 write 3
  out %14 result
  out %9 result
}"""
EMPTY = """
graph @empty(%x: f32[0, 4], %i: i64[0], %y: f32[3, 0]) -> (%0, %1, %2) {
  %0: f32[0, 4] = gather(%x, %i)
  %1: f32[4] = reduce_sum(%x, axes=(0,))
  %2: f32[3, 4] = matmul(%y, %x)
  in %x "x" arg
  in %i "i" arg
  in %y "y" arg
  out %0 result
  out %1 result
  out %2 result
}"""
GRAPHS = {
    "softmax": SOFTMAX,
    "layer_norm": LAYER_NORM,
    "linear": LINEAR,
    "concat": CONCAT,
    "mixed": MIXED,
    "empty": EMPTY,
}


def inputs_of(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.integers(-24, 24, v.shape) if v.dtype.kind == "i" else rng.standard_normal(v.shape).astype(v.dtype.np)
        for v in graph.inputs
    ]


def assert_right(graph: Graph) -> None:
    inputs = inputs_of(graph)
    want = run(graph, inputs)
    given = [a.copy() for a in inputs]
    got = build(graph, verify=True).run(given)
    for g, w, spec in zip(got, want, graph.signature.outputs, strict=True):
        g = given[spec.target] if spec.kind == "write" else g
        assert g is not None
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["softmax", "layer_norm", "linear", "concat"])
def test_becomes_one_kernel(name):
    """Softmax; layer_norm with gelu and residual; matmul with bias and gelu; a concat of computed parts."""
    graph = parse_graph(GRAPHS[name])
    assert len(compile_graph(graph, default_target()).steps) == 1
    assert_right(graph)


def test_without_fusion_every_node_is_a_kernel_of_its_own():
    graph = parse_graph(LAYER_NORM)
    fused = compile_graph(graph, default_target())
    apart = compile_graph(graph, default_target(), Fuel(disabled=frozenset(("fuse", "recompute"))))
    assert len(apart.steps) > 5 * len(fused.steps)


@pytest.mark.parametrize("name", sorted(NAMES - REQUIRED))
def test_every_pass_can_be_switched_off(name, monkeypatch):
    monkeypatch.setenv("TRACEFUSE_DISABLE", name)
    for text in GRAPHS.values():
        assert_right(parse_graph(text))


def test_all_passes_can_be_switched_off_at_once(monkeypatch):
    monkeypatch.setenv("TRACEFUSE_DISABLE", ",".join(NAMES))
    for text in GRAPHS.values():
        assert_right(parse_graph(text))


def test_fuel_limits_what_passes_do(monkeypatch):
    graph = parse_graph(MIXED)
    endless = Fuel()
    compile_graph(graph, default_target(), endless)
    total = sum(endless.spent.values())
    assert total > 10
    for limit in (0, 1, 2, 3, 5, 8, total // 2, total - 1, total + 10):
        fuel = Fuel(limit)
        compile_graph(graph, default_target(), fuel)
        assert sum(fuel.spent.values()) <= limit
        monkeypatch.setenv("TRACEFUSE_FUEL", str(limit))
        assert_right(graph)


def test_passes_return_the_same_graph_when_there_is_nothing_to_do():
    for text in GRAPHS.values():
        graph = parse_graph(text)
        for name, run_pass in GRAPH_PASSES:
            graph = run_pass(graph, Fuel())
            if name != "check_indices":  # adds its checks to whatever graph it sees
                assert run_pass(graph, Fuel()) is graph, name


def test_compiling_is_deterministic():
    graph = parse_graph(MIXED)
    one, other = (optimize(parse_graph(MIXED), Fuel()) for _ in range(2))
    assert graph_key(one) == graph_key(other)
    plans = [compile_graph(graph, default_target()) for _ in range(2)]
    assert [s.kernel.name for s in plans[0].steps] == [s.kernel.name for s in plans[1].steps]


# ------------------------------------------------------------------ cost


def pointwise_chain(n: int) -> Graph:
    b = GraphBuilder("chain")
    v = x = b.input(TensorType(float32, (64, 32)), "x")
    y = b.input(TensorType(float32, (64, 32)), "y")
    while len(b.nodes) < n:
        v = ops.tanh(ops.add(ops.mul(v, y), x))
    return b.finish([v])


def mlp(n: int) -> Graph:
    b = GraphBuilder("mlp")
    v = b.input(TensorType(float32, (16, 32)), "x")
    while len(b.nodes) < n:
        w, c = b.input(TensorType(float32, (32, 32)), "w"), b.input(TensorType(float32, (32,)), "b")
        v = ops.gelu(ops.add(ops.matmul(v, w), c), approximate="none")
    return b.finish([v])


def branches(n: int) -> Graph:
    """Values that many nodes read, and that come together again."""
    b = GraphBuilder("branches")
    values = [b.input(TensorType(float32, (16, 32)), "x") for _ in range(6)]
    while len(b.nodes) < n:
        k = len(b.nodes)
        values[k % 6] = ops.maximum(ops.add(values[k % 6], values[(k + 1) % 6]), ops.neg(values[(k + 3) % 6]))
    return b.finish(values)


def movements(n: int) -> Graph:
    b = GraphBuilder("movements")
    v = b.input(TensorType(float32, (16, 32)), "x")
    while len(b.nodes) < n:
        v = ops.reshape(ops.flip(ops.permute(v, perm=(1, 0)), axes=(0,)), shape=(16, 32))
    return b.finish([v])


def lines_run(graph: Graph) -> int:
    """How many lines of Python compile_graph runs: its cost, the same on every machine and under any load."""
    count = 0

    def local(frame, event, argument):
        nonlocal count
        count += 1
        return local

    before = sys.gettrace()
    sys.settrace(local)
    try:
        compile_graph(graph, default_target())
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("make", "size"), [(pointwise_chain, 250), (mlp, 250), (branches, 250), (movements, 60)])
def test_cost_is_linear_in_the_graph(make, size):
    small, large = lines_run(make(size)), lines_run(make(4 * size))
    assert large < 5 * small, f"{size} nodes take {small} lines of Python, {4 * size} take {large}"


def test_ten_thousand_nodes_pass():
    """Deep graphs meet no recursion limit."""
    assert len(compile_graph(pointwise_chain(10_000), default_target()).steps) >= 1
