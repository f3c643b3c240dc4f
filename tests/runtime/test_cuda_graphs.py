"""Plans as CUDA graphs, on a device that Triton's interpreter emulates: what is recorded, and what a replay may not change."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import float32, int64
from tracefuse.ir.graph import GraphBuilder, InputSpec, OutputSpec, Signature, Value
from tracefuse.ir.types import TensorType
from tracefuse.runtime.cuda import graphs
from tracefuse.runtime.cuda.array import DeviceArray, to_device
from tracefuse.runtime.cuda.device import Gpu, Stream, gpu
from tracefuse.runtime.cuda.driver import DeviceError
from tracefuse.runtime.cuda.executable import CudaExecutable, build
from tracefuse.runtime.executable import CheckFailed


def made(function: Callable[..., Value], *shapes: tuple, cuda_graphs: bool | None = None, g: Gpu | None = None):
    builder = GraphBuilder("f")
    inputs = [builder.input(TensorType(float32, s), f"x{k}") for k, s in enumerate(shapes)]
    with builder:
        out = function(*inputs)
    graph = builder.finish([out] if isinstance(out, Value) else list(out))
    return build(graph, g or gpu(0), cuda_graphs=cuda_graphs)


def two_kernels(x: Value, w: Value) -> Value:
    return ops.softmax(ops.matmul(x, w), axis=1)


def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    e = np.exp(x @ w)
    return e / e.sum(1, keepdims=True)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def on(g: Gpu, *arrays: np.ndarray) -> list[DeviceArray]:
    return [to_device(g, a) for a in arrays]


def replays(e: CudaExecutable) -> int:
    assert e.graphs is not None
    return e.graphs.replays


def test_small_plans_are_recorded_at_their_third_call():
    e = made(two_kernels, (5, 7), (7, 9))
    w = to_device(gpu(0), normal(7, 9))
    for k in range(5):
        x = normal(5, 7, seed=k)
        (y,) = e.run([to_device(gpu(0), x), w])
        np.testing.assert_allclose(y.numpy(), reference(x, normal(7, 9)), rtol=1e-5)
        assert replays(e) == max(0, k - 1)
    assert e.graphs.recorded == 1


def test_recording_can_be_asked_for_and_forbidden():
    wanted, forbidden = (made(two_kernels, (5, 7), (7, 9), cuda_graphs=c) for c in (True, False))
    given = on(gpu(0), normal(5, 7), normal(7, 9))
    for _ in range(4):
        wanted.run(given)
        forbidden.run(given)
    assert replays(wanted) == 3 and forbidden.graphs is None


@pytest.mark.parametrize(
    "function, shapes, reason",
    [
        (lambda x: ops.exp(x), ((5,),), "it is one kernel"),
        (two_kernels, ((dim.symbol("n", 1), 7), (7, 9)), "symbolic"),
        (lambda x: ops.matmul(ops.inv(x), x), ((4, 4),), "host steps"),
        (two_kernels, ((4096, 4096), (4096, 4096)), "longer than their launches"),
    ],
)
def test_what_is_not_recorded_says_why(function, shapes, reason):
    e = made(function, *shapes)
    assert reason in e.graphs.reason


def test_results_of_earlier_calls_keep_their_values():
    e = made(
        lambda x: (ops.softmax(x, axis=1), ops.reduce_sum(x, axes=(0, 1)), ops.cumsum(x, axis=0)),
        (5, 7),
        cuda_graphs=True,
    )
    results = []
    for k in range(6):
        x = normal(5, 7, seed=k)
        results.append((x, e.run(on(gpu(0), x))))
    assert replays(e) == 5
    for x, (_, total, running) in results:
        np.testing.assert_allclose(total.numpy(), x.sum(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(running.numpy(), x.cumsum(0), rtol=1e-4, atol=1e-5)


def test_numbers_and_small_arrays_of_the_host_may_differ_from_call_to_call():
    e = made(
        lambda x, a, b: ops.softmax(ops.add(ops.mul(x, a), ops.cumsum(b, axis=0)), axis=1),
        (5, 7),
        (),
        (7,),
        cuda_graphs=True,
    )
    (x,) = on(gpu(0), normal(5, 7))
    for k in range(5):
        a, b = np.float32(k), normal(7, seed=k)
        (y,) = e.run([x, np.asarray(a), b])
        z = np.exp(normal(5, 7) * a + b.cumsum())
        np.testing.assert_allclose(y.numpy(), z / z.sum(1, keepdims=True), rtol=1e-4)
    assert replays(e) == 4 and e.graphs.recorded == 1


def test_a_large_input_at_another_place_is_another_graph(monkeypatch):
    monkeypatch.setattr(graphs, "COPIED", 100)
    e = made(lambda x: ops.reduce_sum(ops.softmax(x, axis=1), axes=(0,)), (9, 9), cuda_graphs=True)
    places = on(gpu(0), normal(9, 9, seed=1), normal(9, 9, seed=2))
    want = [reference(normal(9, 9, seed=s), np.eye(9, dtype=np.float32)).sum(0) for s in (1, 2)]
    for k in range(6):
        (y,) = e.run([places[k % 2]])
        np.testing.assert_allclose(y.numpy(), want[k % 2], rtol=1e-4)
    assert e.graphs.recorded == 2 and replays(e) == 5


def test_inputs_that_are_never_where_they_were_end_it(monkeypatch):
    monkeypatch.setattr(graphs, "COPIED", 100)
    e = made(lambda x: ops.reduce_sum(ops.softmax(x, axis=1), axes=(0,)), (9, 9), cuda_graphs=True)
    x = normal(9, 9)
    held = [to_device(gpu(0), x) for _ in range(12)]
    before = held[0].gpu.pool.stats().in_use
    for a in held:
        (y,) = e.run([a])
    np.testing.assert_allclose(y.numpy(), reference(x, np.eye(9, dtype=np.float32)).sum(0), rtol=1e-4)
    del y
    assert "somewhere else each time" in e.graphs.reason and held[0].gpu.pool.stats().in_use == before


def step(wanted: bool | None, n: int = 7) -> CudaExecutable:
    """w = w - softmax(x @ w), in place; the sum of the old w."""
    builder = GraphBuilder("step")
    x = builder.input(TensorType(float32, (n, n)), "x")
    w = builder.input(TensorType(float32, (n, n)), "w")
    with builder:
        new = ops.sub(w, ops.softmax(ops.matmul(x, w), axis=1))
        total = ops.reduce_sum(w, axes=(0, 1))
    graph = builder.finish(
        [total, new], Signature((InputSpec("x"), InputSpec("w")), (OutputSpec(), OutputSpec("write", 1)))
    )
    return build(graph, gpu(0), cuda_graphs=wanted)


def test_checks_are_read_before_anything_is_written():
    """So a plan that has both is two graphs."""
    builder = GraphBuilder("lookup")
    w = builder.input(TensorType(float32, (6, 5)), "w")
    i = builder.input(TensorType(int64, (3,)), "i")
    with builder:
        rows = ops.gather(w, ops.check_index(i, size=6))
        out = ops.softmax(ops.matmul(rows, ops.permute(w, perm=(1, 0))), axis=1)
        new = ops.add(w, ops.softmax(w, axis=1))
    signature = Signature((InputSpec("w"), InputSpec("i")), (OutputSpec(), OutputSpec("write", 0)))
    e = build(builder.finish([out, new], signature), gpu(0), cuda_graphs=True)
    w = normal(6, 5)
    dw = to_device(gpu(0), w)
    for indices in ([0, 5, -1], [2, 2, 3], [1, 6, 0], [4, -6, 0], [0, 0, -7]):
        given = to_device(gpu(0), np.array(indices))
        if min(indices) < -6 or max(indices) > 5:
            with pytest.raises(CheckFailed):
                e.run([dw, given])
        else:
            (y, _) = e.run([dw, given])
            np.testing.assert_allclose(y.numpy(), reference(w[indices], w.T), rtol=1e-4)
            w = w + reference(w, np.eye(5, dtype=np.float32))
        np.testing.assert_allclose(dw.numpy(), w, rtol=1e-4)
    assert replays(e) == 2 and not e.graphs.reason


def test_what_is_written_is_written_in_place():
    e = step(True)
    x, w = normal(7, 7), normal(7, 7, seed=1)
    dx, dw = on(gpu(0), x, w)
    for _ in range(5):
        total, none = e.run([dx, dw])
        assert none is None
        np.testing.assert_allclose(total.numpy(), w.sum(), rtol=1e-4)
        w = w - reference(x, w)
        np.testing.assert_allclose(dw.numpy(), w, rtol=1e-4)
    assert replays(e) == 4


def test_written_arrays_of_the_host_are_not_recorded():
    n = 65  # few elements would be computed by the host
    e = step(True, n)
    x, w = normal(n, n), normal(n, n, seed=1)
    for _ in range(3):
        want = w - reference(x, w)
        e.run([x, w])
        np.testing.assert_allclose(w, want, rtol=1e-5, atol=1e-5)
    assert replays(e) == 0


def test_streams_and_threads_share_a_graph():
    e = made(two_kernels, (5, 7), (7, 9), cuda_graphs=True)
    g = gpu(0)
    w = to_device(g, normal(7, 9))
    e.run([to_device(g, normal(5, 7)), w])
    g.synchronize()
    wrong: list[int] = []

    def work(number: int) -> None:
        g.stream = Stream(g, g.driver.new_stream())
        for k in range(5):
            x = normal(5, 7, seed=10 * number + k)
            (y,) = e.run([to_device(g, x), w])
            if not np.allclose(y.numpy(), reference(x, normal(7, 9)), rtol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and replays(e) == 15


def test_a_replay_on_another_stream_waits_for_the_one_before(monkeypatch):
    """They work in the same memory. Streams here do nothing until somebody waits for them."""
    g = gpu(1)
    monkeypatch.setattr(g.driver, "deferred", True)
    e = made(two_kernels, (5, 7), (7, 9), cuda_graphs=True, g=g)
    w = to_device(g, normal(7, 9))
    xs = [normal(5, 7, seed=k) for k in range(3)]
    given = [to_device(g, x) for x in xs]
    e.run([given[0], w])
    g.synchronize()
    (first,) = e.run([given[1], w])
    assert g.main_stream.handle.queue
    g.stream = Stream(g, g.driver.new_stream())
    try:
        (second,) = e.run([given[2], w])
        np.testing.assert_allclose(second.numpy(), reference(xs[2], normal(7, 9)), rtol=1e-4)
    finally:
        g.stream = g.main_stream
    assert not g.main_stream.handle.queue
    np.testing.assert_allclose(first.numpy(), reference(xs[1], normal(7, 9)), rtol=1e-4)


def test_memory_of_graphs_is_counted_and_given_back():
    g = gpu(0)
    before = g.pool.stats().in_use
    e = made(two_kernels, (5, 7), (7, 9), cuda_graphs=True)
    given = on(g, normal(5, 7), normal(7, 9))
    for _ in range(3):
        e.run(given)
    assert dict(g.pool.by_tag())["CUDA graphs"] > 0
    del e, given
    assert g.pool.stats().in_use == before


def test_where_recording_fails_calls_run_launch_by_launch(monkeypatch):
    e = made(two_kernels, (5, 7), (7, 9), cuda_graphs=True)
    given = on(gpu(0), normal(5, 7), normal(7, 9))

    def refuse(stream) -> None:
        raise DeviceError("cuStreamBeginCapture: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    monkeypatch.setattr(gpu(0).driver, "begin_capture", refuse)
    for _ in range(3):
        (y,) = e.run(given)
        np.testing.assert_allclose(y.numpy(), reference(normal(5, 7), normal(7, 9)), rtol=1e-5)
    assert "recording failed: cuStreamBeginCapture" in e.graphs.reason
