"""Programs that were once compiled wrongly, each with what was wrong. Found by tests/fuzz, which shrank them."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import Graph, GraphBuilder
from tracefuse.ir.interpreter import run
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.text import parse_graph
from tracefuse.ir.types import TensorType
from tracefuse.runtime.executable import build

CASES = {
    "a gather from a gather needs the inner one in memory": """
graph @g(%x: f32[5, 4, 3], %i: i64[2, 1], %j: i64[3], %k: i64[1, 100]) -> (%1) {
  %0: f32[2, 3, 3] = gather(%x, %i, %j)
  %1: f32[1, 100, 3, 3] = gather(%0, %k)
""",
    "element-wise nodes do not join a scatter": """
graph @g(%x: i64[8, 8], %i: i32[1, 8], %u: i64[8, 8], %j: i64[8, 8]) -> (%1, %2) {
  %0: i64[8, 8] = scatter(%x, %u, %j, %i, mode="add")
  %1: i64[8, 8] = add(%x, %0)
  %2: i64[8, 8] = neg(%0)
""",
    "kernels without a vector axis read single elements": """
graph @g(%i: i64[3, 7], %j: i64[], %x: f32[3, 7]) -> (%1) {
  %0: f32[3, 7] = gather(%x, %j, %i)
  %1: f32[3, 7] = scatter(%x, %0, %j, %i, mode="add")
""",
    "and test their bounds one by one": """
graph @g(%i: i64[33], %u: f32[33], %x: f32[1]) -> (%1) {
  %0: f32[4] = pad(%x, low=(1,), high=(2,), value=0.25)
  %1: f32[4] = scatter(%0, %u, %i, mode="set")
""",
    "scratch rows are not computed side by side": """
graph @g(%x: f32[16, 2]) -> (%1, %2) {
  %0: f32[16, 2] = softmax(%x, axis=1)
  %1: f32[16, 16, 2] = broadcast_to(%0, shape=(16, 16, 2))
  %2: f32[1, 32] = reshape(%0, shape=(1, 32))
""",
    "a tensor is gathered from in two shapes at once": """
graph @g(%x: f32[12], %i: i64[4], %j: i64[4], %k: i64[4]) -> (%3) {
  %0: f32[4] = gather(%x, %i)
  %1: f32[3, 4] = reshape(%x, shape=(3, 4))
  %2: f32[4] = gather(%1, %j, %k)
  %3: f32[4] = add(%0, %2)
""",
    "an element that all lanes share is read without a mask": """
graph @g(%x: i64[1, 8], %y: i64[8, 1]) -> (%0) {
  %0: i64[8, 8] = add(%y, %x)
""",
}


def graph_of(text: str) -> Graph:
    """The graph of a case: signature lines are left out there."""
    header = text.strip().split("\n")[0]
    inputs = [part.split(":")[0] for part in header.split("(%", 1)[1].split(") ->")[0].split(", %")]
    outs = header.split("-> (")[1].split(")")[0].split(", ")
    lines = [f'  in %{name} "{name}" arg' for name in inputs] + [f"  out {v} result" for v in outs]
    return parse_graph("\n".join([text.strip(), *lines, "}"]))


def inputs_of(graph: Graph) -> list[np.ndarray]:
    """Small numbers; integers that serve as indices are in range."""
    rng = np.random.default_rng(1)
    limits = {}
    for node in graph.nodes:
        if node.op.name in ("gather", "scatter"):
            indices = node.inputs[1 if node.op.name == "gather" else 2 :]
            limits.update({v: n for v, n in zip(indices, node.inputs[0].shape)})
    out = []
    for v in graph.inputs:
        if v.dtype.kind in "iu":
            out.append(rng.integers(0, limits.get(v, 9), v.shape).astype(v.dtype.np))
        else:
            out.append(np.asarray(rng.standard_normal(v.shape)).astype(v.dtype.np))
    return out


@pytest.mark.parametrize("case", CASES)
def test_stays_right(case):
    graph = graph_of(CASES[case])
    inputs = inputs_of(graph)
    want = run(graph, inputs)
    got = build(graph, verify=True).run(inputs)
    for g, w in zip(got, want, strict=True):
        assert g is not None
        np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=1e-5, atol=1e-5)


def test_outputs_larger_than_the_cache_may_go_into_unaligned_inputs():
    """Streaming stores need memory aligned to vectors, which the caller's arrays are not: this crashed."""
    n = (8 << 20) // 4 + 16
    graph = parse_graph(f'graph @g(%x: f32[{n}]) -> (%0) {{\n%0: f32[{n}] = neg(%x)\nin %x "x" arg\nout %0 write 0\n}}')
    memory = np.zeros(n + 17, np.float32)
    x = memory[1:-16]
    x[:] = 1
    build(graph).run([x])
    assert (x == -1).all() and memory[0] == 0 and not memory[-16:].any()


def test_the_last_narrow_element_of_a_row_is_written_alone():
    """LLVM makes a masked store of one truncated element a store of the element as it was before: it is wider."""
    text = """
graph @g(%x: bf16[17, 4, 9], %y: bf16[9, 4, 17]) -> (%1) {
  %0: bf16[9, 4, 17] = permute(%x, perm=(2, 1, 0))
  %1: bf16[9, 4, 17] = leaky_relu(%0, slope=0.2)
  in %x "x" arg
  in %y "y" arg
  out %1 write 1
}"""
    graph = parse_graph(text)
    dtype = graph.inputs[1].dtype.np
    x = np.random.default_rng(0).standard_normal((17, 4, 9)).astype(dtype)
    memory = np.full(9 * 4 * 17 + 8, 7, dtype)
    y = memory[:-8].reshape(9, 4, 17)
    build(graph).run([x, y])
    np.testing.assert_array_equal(y, run(graph, [x, y])[0])
    assert (memory[-8:] == 7).all()


@pytest.mark.parametrize("name", ["sin", "neg", "flip", "add"])
def test_long_chains_need_no_deep_recursion(name):
    """400 nodes in a row, of every way in which lowering follows one another."""
    b = GraphBuilder("chain")
    x = b.input(TensorType(float32, (3, 8) if name != "add" else ()), "x")
    v = x
    for k in range(400):
        if name == "flip":
            v = ops.flip(ops.permute(v, perm=(1, 0)), axes=(k % 2,))
        elif name == "add":
            v = ops.add(ops.mul(v, x), x)
        else:
            v = b.emit(REGISTRY[name], (v,), {})[0]
            if name == "neg":
                v = ops.add(v, x)
    graph = b.finish([v])
    inputs = [np.full(x.shape, 0.5, np.float32)]
    (got,) = build(graph).run(inputs)
    np.testing.assert_allclose(got, run(graph, inputs)[0], rtol=1e-4)
