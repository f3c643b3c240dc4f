"""The verifier names the pass, the problem and the lines around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tracefuse.ir import dtypes, ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.graph import Graph, GraphBuilder, Node, OutputSpec, Signature, Value
from tracefuse.ir.op import REGISTRY, OpDef
from tracefuse.ir.types import TensorType
from tracefuse.ir.verify import VerifyError, verify

F32 = dtypes.float32


def chain(length: int = 12) -> Graph:
    b = GraphBuilder("chain")
    x = b.input(TensorType(F32, (3,)), "x")
    for _ in range(length):
        x = ops.exp(x)
    return b.finish([x])


def with_node(graph: Graph, k: int, node: Node) -> Graph:
    """Node `k` replaced, its users re-wired."""
    old, nodes = graph.nodes[k], list(graph.nodes)
    swap = dict(zip(old.outputs, node.outputs))
    nodes[k] = node
    for later in nodes[k + 1 :]:
        later.inputs = tuple(swap.get(v, v) for v in later.inputs)
    return replace(graph, nodes=tuple(nodes), outputs=tuple(swap.get(v, v) for v in graph.outputs))


def test_good_graphs_pass():
    verify(chain())


def test_the_message_shows_the_place():
    graph = chain()
    bad = Node(REGISTRY["exp"], graph.nodes[5].inputs, {}, [TensorType(F32, (4,))], None)
    graph = with_node(graph, 6, bad)
    with pytest.raises(VerifyError) as error:
        verify(graph, "simplify")
    text = str(error.value)
    assert text.startswith("graph chain is wrong after simplify: exp gives f32[3] here\n")
    head, *lines = text.split("\n")[1:]
    assert head == "  graph @chain(%x: f32[3]) -> (%11)"
    assert [line[0] for line in lines] == list("    >    ") and "f32[4] = exp(%4)" in lines[4]
    assert "%2: " in lines[0] and "%10: " in lines[-1]


def test_order_and_ownership():
    graph = chain(3)
    a, b, c = graph.nodes
    with pytest.raises(VerifyError, match="operand 0 of exp is not computed before it"):
        verify(replace(graph, nodes=(b, a, c)))
    with pytest.raises(VerifyError, match="output 0 is not computed"):
        verify(replace(graph, nodes=(a, b)))
    with pytest.raises(VerifyError, match="belongs to another node"):
        verify(replace(graph, nodes=(a, b, b, c)))
    with pytest.raises(VerifyError, match="listed twice"):
        verify(replace(graph, inputs=graph.inputs * 2))


def test_ops_and_attributes():
    x = chain(1).inputs[0]
    stray = OpDef("exp", "pointwise", ("x",), lambda t: t, np.exp, "no gradient")
    cases = [
        (Node(stray, (x,), {}, [x.type], None), "not a registered op"),
        (Node(REGISTRY["add"], (x,), {}, [x.type], None), "takes x, y; 1 were given"),
        (Node(REGISTRY["reduce_sum"], (x,), {}, [x.type], None), "has the attributes"),
        (Node(REGISTRY["reduce_sum"], (x,), {"axes": [0]}, [x.type], None), "must be a tuple of integers"),
        (Node(REGISTRY["reduce_sum"], (x,), {"axes": (np.int64(0),)}, [x.type], None), "must be a tuple of integers"),
        (Node(REGISTRY["reduce_sum"], (x,), {"axes": (1,)}, [x.type], None), "sorted, unique"),
    ]
    for node, message in cases:
        graph = Graph("g", (x,), (node,), (x,), Signature.plain(1, 1))
        with pytest.raises(VerifyError, match=message):
            verify(graph)
    full = {"value": float("nan"), "shape": (), "dtype": dtypes.int32}
    node = Node(REGISTRY["full"], (), full, [TensorType(dtypes.int32, ())], None)
    with pytest.raises(VerifyError, match="nan is no int32"):
        verify(Graph("g", (x,), (node,), (x,), Signature.plain(1, 1)))


def test_signature():
    graph = chain(1)
    with pytest.raises(VerifyError, match="signature has 0 inputs and 0 outputs, the graph 1 and 1"):
        verify(replace(graph, signature=Signature()))
    for spec, message in (
        (OutputSpec("write", 1), "input 1, which does not exist"),
        (OutputSpec("write"), "input -1, which does not exist"),
        (OutputSpec("check"), "must be one bool"),
        (OutputSpec("odd"), "unknown kind 'odd'"),
    ):
        with pytest.raises(VerifyError, match=message):
            verify(replace(graph, signature=replace(graph.signature, outputs=(spec,))))
    twice = Signature(graph.signature.inputs, (OutputSpec("write", 0),) * 2)
    with pytest.raises(VerifyError, match="input 0 is written twice"):
        verify(replace(graph, outputs=graph.outputs * 2, signature=twice))


def test_constants_and_sizes():
    v = Value(TensorType(F32, (3,)), name="c")
    graph = Graph("g", (), (), (v,), Signature.plain(0, 1), {v: np.zeros(3)})
    with pytest.raises(VerifyError, match="holds float64"):
        verify(graph)
    n, other = symbol("n", 1), symbol("n", 2)
    b = GraphBuilder("g")
    x = b.input(TensorType(F32, (n * 2,)), "x")
    with pytest.raises(VerifyError, match="the size n is not given by any input"):
        verify(b.finish([x]))
    b = GraphBuilder("g")
    x, y = b.input(TensorType(F32, (n,)), "x"), b.input(TensorType(F32, (other,)), "y")
    with pytest.raises(VerifyError, match="different ranges are named n"):
        verify(b.finish([x, y]))
    b = GraphBuilder("g")
    x = b.input(TensorType(F32, (symbol("batch size", 1),)), "x")
    with pytest.raises(VerifyError, match="the size batch size is not given"):
        verify(b.finish([x]))
