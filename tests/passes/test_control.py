"""Control flow keeps only what somebody reads."""

import numpy as np
import pytest
from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.graph import Graph
from tracefuse.ir.interpreter import run
from tracefuse.ir.subgraph import graph_of
from tracefuse.ir.types import TensorType
from tracefuse.ir.verify import verify
from tracefuse.passes.control import trim
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import compile_graph
from tracefuse.passes.simplify import eliminate_dead, share
from tracefuse.runtime.executable import CheckFailed, build, default_target

ROW = TensorType(float32, (3,))
ONE = TensorType(float32, ())
ROWS = TensorType(float32, (4, 3))


def trimmed(graph: Graph, *arrays: np.ndarray) -> Graph:
    out = eliminate_dead(trim(graph, Fuel()))
    verify(out)
    for got, want in zip(run(out, arrays), run(graph, arrays), strict=True):
        np.testing.assert_array_equal(got, want)
    assert trim(out, Fuel()) is out, "a second run finds nothing"
    return out


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def attrs_of(graph: Graph, name: str) -> dict:
    (node,) = (n for n in graph.nodes if n.op.name == name)
    return node.attrs | {"operands": len(node.inputs), "results": len(node.outputs)}


def test_scan():
    """Unread ys, a carried value that only feeds itself, one that never changes, and operands of these."""

    def step(a, b, k, x, y, w):
        return ops.mul(ops.add(a, x), k), ops.add(b, ops.mul(y, w)), k, a, b

    body = graph_of(step, (ROW,) * 6)
    attrs = {"body": body, "carried": 3, "scanned": 2, "length": 4, "reverse": False}

    def f(a, b, k, xs, ys, w):
        last, _, same, _, _ = ops.scan_(a, b, k, xs, ys, w, **attrs)
        return last, ops.neg(same)

    graph = graph_of(f, (ROW, ROW, ROW, ROWS, ROWS, ROW))
    a = attrs_of(trimmed(graph, *numbers(3, 3), *numbers(2, 4, 3), numbers(3)), "scan")
    assert (a["carried"], a["scanned"], a["operands"], a["results"]) == (1, 1, 3, 1)
    assert [n.op.name for n in a["body"].nodes] == ["add", "mul"]


def test_while():
    """What the condition reads stays, read or not."""
    types = (ONE, ROW, ROW, ONE)
    graphs = {
        "cond": graph_of(lambda k, x, y, w: ops.lt(k, w), types, "test"),
        "body": graph_of(lambda k, x, y, w: (ops.add(k, w), ops.add(x, y), ops.mul(y, y)), types),
    }
    graph = graph_of(lambda *xs: ops.while_(*xs, **graphs, carried=3)[2], types)
    a = attrs_of(trimmed(graph, np.float32(-2.5), *numbers(2, 3), np.asarray(0.5, np.float32)), "while")
    assert (a["carried"], a["operands"], a["results"]) == (2, 3, 2)


def test_cond():
    types = (ROW, ROW, ROW)
    graphs = {
        "true": graph_of(lambda x, y, z: (x, ops.sin(z)), types, "yes"),
        "false": graph_of(lambda x, y, z: (y, z), types, "no"),
    }
    pred = lambda x: ops.lt(ops.reduce_sum(x, axes=(0,)), ops.reduce_max(x, axes=(0,)))  # noqa: E731
    graph = graph_of(lambda x, y, z: ops.cond(pred(x), x, y, z, **graphs)[0], types)
    a = attrs_of(trimmed(graph, *numbers(3, 3)), "cond")
    assert (a["operands"], a["results"]) == (3, 1) and not a["true"].nodes


def test_nothing_is_left_of_what_nobody_reads():
    body = graph_of(lambda c, x: (ops.add(c, x), c), (ROW, ROW))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 4}
    graph = graph_of(lambda x, xs: (ops.scan_(x, xs, **attrs), ops.sin(x))[1], (ROW, ROWS))
    assert [n.op.name for n in trimmed(graph, numbers(3), numbers(4, 3)).nodes] == ["sin"]


def test_checks_stay():
    """A bad index fails the call although nobody reads what it picks."""
    body = graph_of(lambda c, k, x: (ops.add(c, c), ops.gather(x, k)), (ROW, TensorType(int64, ()), ROW))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 2}
    graph = graph_of(lambda x, ks: ops.scan_(x, ks, x, **attrs)[0], (ROW, TensorType(int64, (2,))))
    e = build(graph)
    np.testing.assert_array_equal(e.run([np.ones(3, np.float32), np.array([0, 2])])[0], [4, 4, 4])
    with pytest.raises(CheckFailed, match="out of range for size 3"):
        e.run([np.ones(3, np.float32), np.array([0, 3])])


def test_equal_control_flow_is_computed_once():
    """Graphs are compared by what they compute."""

    def f(x, xs):
        total = x
        for _ in range(2):
            body = graph_of(lambda c, r: ops.add(ops.mul(c, r), r), (ROW, ROW))
            (out,) = ops.scan_(x, xs, body=body, carried=1, scanned=1, length=4)
            total = ops.mul(total, out)
        return total

    graph = share(graph_of(f, (ROW, ROWS)), Fuel())
    assert [n.op.name for n in graph.nodes] == ["scan", "mul", "mul"]


def test_it_can_be_switched_off():
    body = graph_of(lambda c, x: (ops.add(c, x), c), (ROW, ROW))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 4}
    graph = graph_of(lambda x, xs: ops.scan_(x, xs, **attrs)[0], (ROW, ROWS))
    for disabled, results in (("trim", 2), ("cse", 1)):
        (step,) = compile_graph(graph, default_target(), Fuel(disabled=frozenset((disabled,)))).control_steps
        assert len(step.results) == results
