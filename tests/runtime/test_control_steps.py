"""Loops and branches in the code of a plan: no call of Python until they are done."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.ir import ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import bool_, float32, int64
from tracefuse.ir.graph import Graph, GraphBuilder, InputSpec, OutputSpec, Signature
from tracefuse.ir.interpreter import run as interpret
from tracefuse.ir.op import REGISTRY, value_type
from tracefuse.ir.plan_text import format_plan
from tracefuse.ir.subgraph import graph_of
from tracefuse.ir.target import AVX512, CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import compile_graph
from tracefuse.runtime.executable import CheckFailed, build
from tracefuse.runtime.threads import get_num_threads, set_num_threads

import tracefuse as tr

ROW = TensorType(float32, (5,))
ONE = TensorType(float32, ())
COUNT = TensorType(int64, ())


def rows(n) -> TensorType:
    return TensorType(float32, (n, 5))


def scan(f, *types, carried=1, scanned=1, length=4, reverse=False) -> Graph:
    """A scan alone. `types`: of its operands."""
    listed = list(types)
    for k in range(carried, carried + scanned):
        listed[k] = listed[k].with_shape(listed[k].shape[1:])
    body = graph_of(f, listed)
    attrs = {"carried": carried, "scanned": scanned, "length": length, "reverse": reverse}
    return graph_of(lambda *xs: ops.scan_(*xs, body=body, **attrs), types, "scan")


def loop(test, step, *types, carried=1) -> Graph:
    graphs = {"cond": graph_of(test, types, "test"), "body": graph_of(step, types, "step")}
    return graph_of(lambda *xs: ops.while_(*xs, **graphs, carried=carried), types, "loop")


def check(graph: Graph, *arrays) -> list[np.ndarray]:
    """Native code and the plan's reference against the interpreter. Nothing runs on the host."""
    e = build(graph, verify=True)
    assert e.plan.control_steps and not e.plan.host_steps
    want = interpret(graph, arrays)
    got = e.run(arrays)
    for g, r, w in zip(got, run_plan(e.plan, arrays), want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(r, w, rtol=1e-5, atol=1e-5)
    return want


def numbers(*shape) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("name", ["cond", "while", "scan"])
def test_samples(name):
    op = REGISTRY[name]
    for sample in op.samples():
        attrs = op.attrs | sample.attrs
        check(graph_of(lambda *xs: op(*xs, **attrs), map(value_type, sample.args)), *sample.args)  # noqa: B023


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_carried_values_end_in_their_place(steps):
    """After an even and an odd number of steps, and after none."""
    counted = loop(
        lambda k, x, n: ops.lt(k, n),
        lambda k, x, n: (ops.add(k, np.asarray(1)), ops.add(x, x)),
        COUNT, ROW, COUNT, carried=2,
    )  # fmt: skip
    k, _ = check(counted, np.asarray(0), numbers(5), np.asarray(steps))
    assert k == steps
    check(scan(lambda s, x: ops.add(ops.mul(s, s), x), ROW, rows(steps), length=steps), numbers(5), numbers(steps, 5))


@pytest.mark.parametrize("steps", [3, 4])
def test_values_that_change_places(steps):
    check(scan(lambda a, b, x: (b, a, ops.sub(a, x)), ROW, ROW, rows(steps), carried=2, length=steps),
          numbers(5), np.ones(5, np.float32), numbers(steps, 5))  # fmt: skip


def test_one_operand_twice_and_results_handed_on():
    body = graph_of(lambda s, x, w: (ops.mul(s, w), s, x, w), (ROW, ROW, ROW))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 3, "reverse": True}
    check(graph_of(lambda x, xs: ops.scan_(x, xs, x, **attrs), (ROW, rows(3))), numbers(5), numbers(3, 5))


def test_control_flow_between_kernels():
    body = graph_of(lambda s, x: ops.add(s, ops.exp(x)), (ROW, ROW))

    def f(x, xs):
        (total,) = ops.scan_(ops.sin(x), ops.neg(xs), body=body, carried=1, scanned=1, length=3)
        return ops.mul(total, x), ops.reduce_sum(total, axes=(0,))

    check(graph_of(f, (ROW, rows(3))), numbers(5), numbers(3, 5))


def test_nested_loops_and_branches():
    inner = loop(lambda x, t: ops.lt(ops.reduce_max(x, axes=(0,)), t), lambda x, t: ops.add(x, ops.exp(t)), ROW, ONE)
    same = graph_of(lambda x, t: ops.neg(x), (ROW, ONE))

    def step(s, x, t):
        positive = ops.gt(ops.reduce_sum(x, axes=(0,)), np.asarray(0, np.float32))
        (out,) = ops.cond(positive, ops.add(s, x), t, true=inner, false=same)
        return out, ops.mul(out, t)

    graph = scan(step, ROW, rows(9), ONE, length=9)
    e = build(graph)
    (outer,) = e.plan.control_steps
    (branch,) = outer.plans[0].control_steps
    assert branch.plans[0].control_steps[0].node.op.name == "while"
    check(graph, numbers(5), numbers(9, 5), np.asarray(3, np.float32))
    text = format_plan(e.plan)
    assert "scan(" in text and "cond(" in text and "while(" in text and "natively" in text


def test_rows_need_no_alignment():
    """Rows of a stacked result begin anywhere, also those that are large enough to be streamed."""
    n = 3_000_001
    body = graph_of(lambda s, x: (ops.add(s, x), ops.mul(s, x)), (TensorType(float32, (n,)),) * 2)
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 2, "reverse": False}
    graph = graph_of(lambda s, xs: ops.scan_(s, xs, **attrs), (TensorType(float32, (n,)), TensorType(float32, (2, n))))
    x, xs = np.full(n, 2, np.float32), np.arange(2 * n, dtype=np.float32).reshape(2, n)
    total, ys = build(graph).run([x, xs])
    np.testing.assert_array_equal(total, x + xs[0] + xs[1])
    np.testing.assert_array_equal(ys, np.stack([x * xs[0], (x + xs[0]) * xs[1]]))


@pytest.mark.parametrize("threads", [1, 3])
def test_bodies_may_be_parallel(threads):
    before = get_num_threads()
    set_num_threads(threads)
    try:
        square = TensorType(float32, (300, 300))
        graph = scan(lambda s, x: ops.add(ops.matmul(s, x), s), square, square.with_shape((3, 300, 300)), length=3)
        check(graph, numbers(300, 300) / 17, numbers(3, 300, 300) / 17)
    finally:
        set_num_threads(before)


def test_contractions_of_rows_of_odd_size():
    w = TensorType(float32, (33, 31))
    graph = scan(
        lambda s, x, v: (ops.tanh(ops.matmul(ops.matmul(s, x), v)), ops.matmul(s, x)),
        TensorType(float32, (7, 33)), w.with_shape((5, 33, 31)), w.with_shape((31, 33)), length=5,
    )  # fmt: skip
    check(graph, numbers(7, 33), numbers(5, 33, 31), numbers(31, 33) / 5)


def test_loops_between_host_steps():
    body = graph_of(lambda s, x: (ops.add(s, x), s), (ROW, ROW))

    def f(x, xs):
        first = ops.cast(ops.argsort(x, axis=0), dtype=float32)
        last, ys = ops.scan_(first, xs, body=body, carried=1, scanned=1, length=4)
        return ops.argsort(last, axis=0), ops.exp(ys)

    graph = graph_of(f, (ROW, rows(4)))
    e = build(graph, verify=True)
    assert len(e.plan.host_steps) == 2 and len(e.plan.control_steps) == 1
    arrays = [numbers(5), numbers(4, 5)]
    for got, r, want in zip(e.run(arrays), run_plan(e.plan, arrays), interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(r, want, rtol=1e-5)


def test_symbolic_sizes():
    n, m = symbol("n", 0), symbol("m", 1)
    types = (TensorType(float32, (m,)), TensorType(float32, (n, m)), TensorType(float32, (m,)))
    graph = scan(lambda s, x, w: (ops.add(ops.mul(s, w), x), ops.reduce_sum(s, axes=(0,))), *types, length=n)
    e = build(graph, verify=True)
    assert e.plan.control_steps and not e.plan.host_steps
    for rows_, columns in ((4, 3), (0, 2), (7, 40)):
        arrays = [numbers(columns), numbers(rows_, columns), numbers(columns)]
        for got, want in zip(e.run(arrays), interpret(graph, arrays), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------ failing


def picking() -> Graph:
    """A scan that adds up x[k], and writes the sum into its first input."""
    body = graph_of(lambda s, k, x: ops.add(s, ops.gather(x, k)), (ONE, COUNT, ROW))
    b = GraphBuilder("picking")
    total, ks, x = b.input(ONE), b.input(TensorType(int64, (3,))), b.input(ROW)
    with b:
        (out,) = ops.scan_(total, ks, x, body=body, carried=1, scanned=1, length=3)
    specs = tuple(InputSpec(f"x{k}") for k in range(3))
    return b.finish([out, ops.mul(out, out)], Signature(specs, (OutputSpec("write", 0), OutputSpec())))


def test_a_check_in_a_body_fails_the_call():
    e = build(picking())
    assert e.plan.checks and not e.plan.host_steps
    total, x = np.asarray(1, np.float32), np.arange(5, dtype=np.float32)
    with pytest.raises(CheckFailed, match="index out of range for size 5"):
        e.run([total, np.array([0, 5, 1]), x])
    assert total == 1, "nothing was written"
    with pytest.raises(IndexError, match="index out of range"):
        run_plan(e.plan, [total, np.array([0, -6, 1]), x])
    e.run([total, np.array([1, -1, 3]), x])
    assert total == 1 + 1 + 4 + 3


def test_each_check_says_which_it_is():
    """Of several, in branches and loops, before and after."""
    small, large = TensorType(float32, (3,)), TensorType(float32, (7,))
    one = graph_of(lambda k, x, y: ops.gather(x, k), (COUNT, small, large))
    two = graph_of(lambda k, x, y: ops.gather(y, k), (COUNT, small, large))

    def f(p, k, x, y):
        first = ops.gather(ops.sin(x), ops.add(k, np.asarray(-2)))
        (found,) = ops.cond(p, k, x, y, true=one, false=two)
        return ops.add(first, found)

    e = build(graph_of(f, (TensorType(bool_, ()), COUNT, small, large)))
    x, y = numbers(3), numbers(7)
    for p, k, size in ((True, 3, 3), (True, 5, 3), (False, 7, 7), (True, -2, 3)):
        with pytest.raises(CheckFailed, match=f"size {size}"):
            e.run([np.asarray(p), np.asarray(k), x, y])
    assert e.run([np.asarray(False), np.asarray(4), x, y])[0] == np.sin(x)[2] + y[4]


def test_what_needs_the_host_takes_the_whole_loop_there():
    body = graph_of(lambda s, x: ops.add(s, ops.cast(ops.argsort(x, axis=0), dtype=float32)), (ROW, ROW))
    graph = graph_of(lambda s, xs: ops.scan_(s, xs, body=body, carried=1, scanned=1, length=4), (ROW, rows(4)))
    e = build(graph)
    (step,) = e.plan.host_steps
    assert step.reason == "argsort inside of it runs on the host: no kernel computes argsort"
    arrays = [numbers(5), numbers(4, 5)]
    np.testing.assert_allclose(e.run(arrays)[0], interpret(graph, arrays)[0], rtol=1e-6)


def test_other_targets_and_switched_off():
    graph = scan(lambda s, x: ops.add(s, x), ROW, rows(4))
    assert compile_graph(graph, CUDA_SM90).control_steps
    assert compile_graph(graph, AVX512, Fuel(disabled=frozenset(("control",)))).host_steps
    assert not compile_graph(graph, AVX512).host_steps


# ------------------------------------------------------------------ signals


def endless():
    return tr.compile(lambda x: tr.while_loop(lambda x: x.sum() > 0, lambda x: x * 1.0 + 0.0, x), fullgraph=True)


def interrupted_soon() -> threading.Timer:
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("calls", [0, 2])
def test_ctrl_c_ends_a_loop(calls):
    """On the first call, which comes from Python, and on later ones, which native code serves."""
    f, x = endless(), tr.ones(16)
    for _ in range(calls):
        f(-x)
    timer = interrupted_soon()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        f(x)
    assert time.perf_counter() - start < 20
    timer.join()
    np.testing.assert_array_equal(f(-x).numpy(), -x.numpy())


def test_what_a_signal_handler_raises_is_the_error_of_the_call():
    class Late(Exception):
        pass

    def late(*_):
        raise Late("too late")

    f, x = endless(), tr.ones(16)
    f(-x)
    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Late, match="too late"):
            f(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_run_while_a_loop_does():
    f, x = endless(), tr.ones(16)
    f(-x)
    counted = []
    counter = threading.Thread(target=lambda: [counted.append(time.sleep(0.01)) for _ in range(10)])
    counter.start()
    timer = interrupted_soon()
    with pytest.raises(KeyboardInterrupt):
        f(x)
    timer.join()
    counter.join()
    assert len(counted) == 10
