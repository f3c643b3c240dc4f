"""Plans on a GPU, emulated: control flow, checks, steps on the host, sizes of any kind, and inputs that lie anywhere."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.graph import Graph, InputSpec, OutputSpec, Signature
from tracefuse.ir.interpreter import run as interpret
from tracefuse.ir.op import REGISTRY, value_type
from tracefuse.ir.subgraph import graph_of
from tracefuse.ir.types import TensorType
from tracefuse.runtime.cuda import program
from tracefuse.runtime.cuda.array import DeviceArray, to_device
from tracefuse.runtime.cuda.device import Gpu, gpu
from tracefuse.runtime.cuda.emulated import EmulatedDevice
from tracefuse.runtime.cuda.executable import build
from tracefuse.runtime.executable import CheckFailed

ROW = TensorType(float32, (5,))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def check(graph: Graph, *arrays: np.ndarray, times: int = 2) -> None:
    """A device against the interpreter, whose arrays are left alone."""
    e = build(graph, gpu(0))
    want = interpret(graph, arrays)
    for _ in range(times):
        got = e.run([to_device(gpu(0), a) for a in arrays])
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g.numpy(), w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cond", "while", "scan"])
def test_control_flow(name):
    op = REGISTRY[name]
    for sample in op.samples():
        attrs = op.attrs | sample.attrs
        graph = graph_of(lambda *xs: op(*xs, **attrs), map(value_type, sample.args))  # noqa: B023
        check(graph, *map(np.asarray, sample.args))


def test_steps_on_the_host():
    check(graph_of(lambda x: ops.matmul(ops.inv(ops.add(x, x)), x), [TensorType(float32, (4, 4))]), normal(4, 4))


def test_a_check_that_fails_writes_nothing():
    table, index = TensorType(float32, (6, 5)), TensorType(int64, (3,))
    specs = (OutputSpec(), OutputSpec("write", 0))
    graph = graph_of(lambda x, i: (ops.gather(x, ops.check_index(i, size=6)), ops.add(x, x)), [table, index])
    graph = Graph(
        graph.name, graph.inputs, graph.nodes, graph.outputs, Signature((InputSpec("x"), InputSpec("i")), specs),
        graph.constants,
    )  # fmt: skip
    e = build(graph, gpu(0))
    x = to_device(gpu(0), normal(6, 5))
    with pytest.raises(CheckFailed):
        e.run([x, to_device(gpu(0), np.array([1, 9, 0]))])
    np.testing.assert_array_equal(x.numpy(), normal(6, 5))
    rows, _ = e.run([x, to_device(gpu(0), np.array([1, -1, 0]))])
    np.testing.assert_array_equal(rows.numpy(), normal(6, 5)[[1, -1, 0]])
    np.testing.assert_array_equal(x.numpy(), 2 * normal(6, 5))


def test_launches_of_the_last_sizes_are_kept(monkeypatch):
    monkeypatch.setattr(program, "SETS_OF_SIZES", 3)
    n = dim.symbol("n", 1)
    e = build(graph_of(lambda x: ops.reduce_sum(ops.mul(x, x), axes=(0,)), [TensorType(float32, (n, 5))]), gpu(0))
    for rows in (4, 9, 4, 300, 2, 1, 4):
        (y,) = e.run([to_device(gpu(0), normal(rows, 5))])
        np.testing.assert_allclose(y.numpy(), (normal(rows, 5) ** 2).sum(0), rtol=1e-5)
        assert len(e.program._sized) <= 3


def test_an_array_without_elements_launches_nothing():
    n = dim.symbol("n", 0)
    e = build(graph_of(lambda x: ops.exp(x), [TensorType(float32, (n, 5))]), gpu(0))
    (y,) = e.run([to_device(gpu(0), normal(0, 5))])
    assert y.numpy().shape == (0, 5)


def test_inputs_may_begin_anywhere():
    """Kernels rely on 16 bytes: what begins elsewhere is copied, and copied back if it is written."""
    specs = (OutputSpec(), OutputSpec("write", 0))
    graph = graph_of(lambda x: (ops.exp(x), ops.add(x, x)), [ROW])
    graph = Graph(
        graph.name, graph.inputs, graph.nodes, graph.outputs, Signature((InputSpec("x"),), specs), graph.constants
    )
    e = build(graph, gpu(0))
    seen: list[int] = []
    run = e.program.run
    e.program.run = lambda inputs, *rest: (seen.extend(inputs), run(inputs, *rest))[1]  # type: ignore[method-assign]
    whole = to_device(gpu(0), normal(7))
    part = whole.view((5,), (4,), 4)
    (y, _) = e.run([part])
    np.testing.assert_allclose(y.numpy(), np.exp(normal(7)[1:6]), rtol=1e-6)
    np.testing.assert_allclose(whole.numpy(), normal(7) * [1, 2, 2, 2, 2, 2, 1])
    assert seen[0] % 16 == 0 and part.address % 16 and not part.plain


def test_threads_share_an_executable():
    e = build(graph_of(lambda x: ops.mul(ops.softmax(x, axis=0), x), [ROW]), gpu(0), cuda_graphs=False)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = normal(5, seed=seed)
        z = np.exp(x)
        for _ in range(20):
            (y,) = e.run([to_device(gpu(0), x)])
            if not np.allclose(y.numpy(), z / z.sum() * x, rtol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_long_compile_holds_up_nobody_else(monkeypatch):
    """Kernels are compiled by whoever needs them first; others go on."""
    g = Gpu(EmulatedDevice(0))
    started, go_on = threading.Event(), threading.Event()

    def breathe() -> None:
        started.set()
        assert go_on.wait(20)

    slow = threading.Thread(target=lambda: build(graph_of(lambda x: ops.sin(x), [ROW]), g, breathe))
    slow.start()
    assert started.wait(20)
    (y,) = build(graph_of(lambda x: ops.exp(x), [ROW]), g).run([normal(5)])
    assert slow.is_alive()
    go_on.set()
    slow.join()
    np.testing.assert_allclose(y.numpy(), np.exp(normal(5)), rtol=1e-6)


def test_the_source_of_kernels():
    e = build(graph_of(lambda x: ops.exp(x), [ROW]), gpu(0))
    (source,) = (k.source for k in e.kernels.values())
    assert "@triton.jit" in source and type(e.run([normal(5)])[0]) is DeviceArray
