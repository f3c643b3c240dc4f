"""Ops that hold graphs: their text, what the verifier says to them, and the graphs that are derived for them."""

import io

import numpy as np
import pytest
from tracefuse.ir import ops, serial
from tracefuse.ir.derive import batched_graph, vjp_graph
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.graph import Graph, GraphBuilder, Node, Signature, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.op import REGISTRY, value_type
from tracefuse.ir.ops.control import NoReverseMode
from tracefuse.ir.subgraph import apply_graph, closed, concrete, graph_of, retyped
from tracefuse.ir.text import InvalidGraph, equal_graphs, format_graph, parse_graph
from tracefuse.ir.types import TensorType
from tracefuse.ir.verify import VerifyError, verify

ROW = TensorType(float32, (3,))
ONE = TensorType(float32, ())
NAMES = ("cond", "while", "while_vjp", "scan")

TEXT = """
graph @f(%x: f32[3], %top: f32[]) -> (%0) {
  graph @test(%x: f32[3], %top: f32[]) -> (%1) {
    %0: f32[] = reduce_sum(%x, axes=(0,))
    %1: bool[] = lt(%0, %top)
  }
  graph @step(%x: f32[3], %top: f32[]) -> (%1) {
    %0: bool[] = lt(%top, %top)
    graph @less(%y: f32[3]) -> (%1) {
      %0: f32[] = full(value=1, shape=(), dtype=f32)
      %1: f32[3] = sub(%y, %0)
    }
    graph @more(%y: f32[3]) -> (%0) {
      %0: f32[3] = add(%y, %y)
    }
    %1: f32[3] = cond(%0, %x, true=@less, false=@more)
  }
  %0: f32[3] = while(%x, %top, cond=@test, body=@step, carried=1)
  in %x "x" arg
  in %top "top" arg
  out %0 result
}
""".strip()


def alone(op, sample) -> Graph:
    attrs = op.attrs | sample.attrs
    return graph_of(lambda *xs: op(*xs, **attrs), map(value_type, sample.args), "alone")


@pytest.mark.parametrize("name", NAMES)
def test_graphs_inside_of_nodes_go_through_text_and_files(name):
    for sample in REGISTRY[name].samples():
        graph = alone(REGISTRY[name], sample)
        verify(graph)
        text = format_graph(graph)
        again = parse_graph(text)
        assert equal_graphs(again, graph) and format_graph(again) == text
        file = io.BytesIO()
        serial.write(file, serial.Contents(graph))
        file.seek(0)
        loaded = serial.read(file).graph
        assert equal_graphs(loaded, graph)
        for got, want in zip(run(loaded, sample.args), run(graph, sample.args), strict=True):
            np.testing.assert_array_equal(got, want)


def test_the_text_is_read_as_it_is_written():
    graph = parse_graph(TEXT)
    verify(graph)
    assert format_graph(graph) == TEXT
    (out,) = run(graph, [np.array([1, 2, 3], np.float32), np.float32(50)])
    np.testing.assert_array_equal(out, [16, 32, 48])


def test_graphs_of_one_name_are_told_apart():
    one, two = (graph_of(f, (ROW, ROW), "step") for f in (ops.add, ops.mul))
    pred = TensorType(REGISTRY["lt"].result_types((ONE, ONE), {})[0].dtype, ())
    graph = graph_of(lambda p, x, y: ops.cond(p, x, y, true=one, false=two), (pred, ROW, ROW))
    text = format_graph(graph)
    assert "true=@step, false=@step_1" in text and equal_graphs(parse_graph(text), graph)
    same = graph_of(lambda p, x, y: ops.cond(p, x, y, true=one, false=one), (pred, ROW, ROW))
    assert format_graph(same).count("graph @") == 2, "one graph is written once"
    assert equal_graphs(parse_graph(format_graph(same)), same) and not equal_graphs(graph, same)


@pytest.mark.parametrize(
    "old, new, problem",
    [
        ("true=@less", "true=@nothing", "line 15: the graph @nothing is not defined before the node"),
        ("true=@less", "true=1", "line 15: cond: true must be a graph"),
        ("graph @more", "graph @less", "line 12: the graph @less is defined twice"),
        ("graph @test(%x: f32[3], %top: f32[])", "graph @test(%x: f32[4], %top: f32[])", "line 17: while.*takes"),
        ("carried=1", "carried=2", "line 17: while.*gives 1 values for 2"),
        ("%0: f32[3] = add(%y, %y)", "const %c: f32[3] = [1, 2, 3]\n%0: f32[3] = add(%y, %c)", "holds constants"),
        ("%0: f32[3] = add(%y, %y)", "%0: f32[3] = add(%y, %x)", "line 13: %x is not defined here"),
        ("    %1: f32[3] = cond", "    }\n    %1: f32[3] = cond", "line"),
    ],
)
def test_wrong_text_is_refused(old, new, problem):
    assert old in TEXT
    with pytest.raises(InvalidGraph, match=problem):
        parse_graph(TEXT.replace(old, new, 1))


def test_graphs_can_not_be_nested_without_end():
    lines = [f"{'graph @g(%x: f32[3]) -> (%x) {'}"] * 100 + ["}"] * 100
    with pytest.raises(InvalidGraph, match="nested too deeply"):
        parse_graph("\n".join(lines))


def with_body(graph: Graph, body: Graph) -> Graph:
    """The scan of the first sample with another body."""
    (node,) = graph.nodes
    new = Node(node.op, node.inputs, node.attrs | {"body": body}, [v.type for v in node.outputs], None)
    return Graph(graph.name, graph.inputs, (new,), new.outputs, graph.signature)


def test_the_verifier_looks_into_graphs():
    graph = alone(REGISTRY["scan"], next(iter(REGISTRY["scan"].samples())))
    body: Graph = graph.nodes[0].attrs["body"]
    verify(with_body(graph, body))
    constant = Value(ROW, name="c")
    held = Graph(body.name, body.inputs, body.nodes, body.outputs, body.signature, {constant: np.zeros(3, np.float32)})
    with pytest.raises(VerifyError, match="holds constants; they must be operands"):
        verify(with_body(graph, held))
    backwards = Graph(body.name, body.inputs, body.nodes[::-1], body.outputs, body.signature)
    with pytest.raises(VerifyError, match="graph decay is wrong after this: operand . of .* is not computed before it"):
        verify(with_body(graph, backwards), "this")
    named = Signature(tuple(s.__class__("y", "state") for s in body.signature.inputs), body.signature.outputs)
    with pytest.raises(VerifyError, match="has a signature of its own"):
        verify(with_body(graph, Graph(body.name, body.inputs, body.nodes, body.outputs, named)))


def test_symbolic_sizes_reach_into_graphs():
    n = symbol("n", 1)
    rows = TensorType(float32, (n, 2))
    body = graph_of(lambda s, x: (ops.add(s, ops.broadcast_to(x, shape=(n, 2))), x), (rows, TensorType(float32, (2,))))
    graph = graph_of(lambda s, xs: ops.scan_(s, xs, body=body, carried=1, scanned=1, length=n), (rows, rows), "g")
    verify(graph)
    assert equal_graphs(parse_graph(format_graph(graph)), graph)
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    total, ys = run(graph, [x, x])
    np.testing.assert_array_equal(total, x + x.sum(0))
    np.testing.assert_array_equal(ys, x)
    assert concrete(body, {"n": 3}).inputs[0].shape == (3, 2)


def test_constants_become_operands():
    c = np.array([1, 2, 3], np.float32)
    one = graph_of(lambda x: ops.add(x, c), (ROW,))
    two = graph_of(lambda x: ops.mul(x, x), (ROW,))
    (a, b), arrays = closed([one, two])
    assert len(arrays) == 1 and arrays[0] is c and len(a.inputs) == len(b.inputs) == 2
    np.testing.assert_array_equal(run(a, [c, c])[0], 2 * c)
    np.testing.assert_array_equal(run(b, [c, c])[0], c * c)


def test_graphs_run_on_values_of_any_kind():
    body = graph_of(lambda x, y: (ops.mul(x, y), ops.neg(x)), (ROW, ROW))
    x = np.array([1, -2, 3], np.float32)
    np.testing.assert_array_equal(apply_graph(body, (x, x))[0], x * x)
    with GraphBuilder() as b:
        v = b.input(ROW)
        inlined = b.finish(apply_graph(body, (v, v)))
    np.testing.assert_array_equal(run(inlined, [x])[1], -x)
    assert retyped(body, (ROW.with_shape((2, 3)), ROW)).outputs[0].shape == (2, 3)


def test_reverse_mode_through_a_graph():
    body = graph_of(lambda x, k, y: (ops.mul(ops.sin(x), y), k), (ROW, TensorType(int64, ()), ROW))
    pull = vjp_graph(body, (True, False, True), (True, False))
    verify(pull)
    x, y, g = np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)
    dx, dy = run(pull, [x, np.asarray(1), y, g])
    np.testing.assert_allclose(dx, g * y * np.cos(x), rtol=1e-5)
    np.testing.assert_allclose(dy, g * np.sin(x), rtol=1e-5)


def test_a_graph_for_many_lanes():
    body = graph_of(lambda x, y: (ops.reduce_sum(ops.mul(x, y), axes=(0,)), ops.neg(y)), (ROW, ROW))
    lanes, spread = batched_graph(body, (True, False), 2)
    assert spread == (True, False)
    x, y = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    np.testing.assert_array_equal(run(lanes, [x, y])[0], x.sum(1))
    lanes, spread = batched_graph(body, (True, False), 2, (True, True))
    assert spread == (True, True) and lanes.outputs[1].shape == (2, 3)


def test_the_gradient_of_while_has_none_itself():
    sample = next(iter(REGISTRY["while"].samples()))
    graph = alone(REGISTRY["while"], sample)
    first = vjp_graph(graph, (True, True, True), (True, True))
    assert [n.op.name for n in first.nodes].count("while_vjp") == 1
    with pytest.raises(NoReverseMode, match="max_steps="):
        vjp_graph(first, (True,) + (False,) * 4, (True,) * 3)


def test_forward_mode_of_while_is_a_while():
    """Across from the gradient, in its cotangents, stands the loop with tangents."""
    sample = next(iter(REGISTRY["while"].samples()))
    graph = alone(REGISTRY["while"], sample)
    pull = vjp_graph(graph, (True, True, False), (True, True))
    push = vjp_graph(pull, (False, False, False, True, True), (True, True))
    rng = np.random.default_rng(0)
    y = sample.args[1]
    dx, dy = rng.standard_normal((2, 3)).astype(np.float32)
    zero = np.zeros(3, np.float32)
    found = run(push, [*sample.args, zero, zero, dx, dy])
    steps = round((run(graph, sample.args)[0] - sample.args[0])[0] / y[0] ** 2)
    np.testing.assert_allclose(found[0], dx + 2 * steps * y * dy, rtol=1e-5)
    np.testing.assert_allclose(found[1], dy, rtol=1e-6)
