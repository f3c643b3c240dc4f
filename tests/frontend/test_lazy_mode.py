"""`mode="lazy"`: plain Python until the background has compiled; nothing waits for LLVM, nothing else changes."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from tracefuse.backends.llvm import engine
from tracefuse.frontend.compile import CheckError, compiled_function
from tracefuse.runtime import background
from tracefuse.runtime.background import WORKER

import tracefuse as tr
from tracefuse import nn, optim


class Gate:
    """Holds up or breaks what the background makes for a function."""

    def __init__(self, compiled):
        self.open, self.begun, self.error = threading.Event(), threading.Event(), None
        self.work = compiled_function(compiled)._background
        self.make, self.work.make = self.work.make, self

    def __call__(self, graph, breathe, **how):
        self.begun.set()
        while not self.open.wait(0.005):
            breathe()
        if self.error is not None:
            raise self.error
        return self.make(graph, breathe=breathe, **how)


def lazy(function, **settings):
    return tr.compile(function, mode="lazy", **settings)


def poly(x):
    return x * x + 2 * x


def test_the_second_call_is_traced_and_later_ones_run_the_trace():
    f, x = lazy(poly), tr.rand(5)
    for traces in (0, 1):
        np.testing.assert_array_equal(f(x).numpy(), poly(x).numpy())
        assert f.cache_info()["traces"] == traces and f.cache_info()["hits"] == 0
    assert f.ready(60)
    np.testing.assert_allclose(f(x).numpy(), poly(x).numpy(), rtol=1e-6)
    assert f.cache_info()["hits"] == 1 and f.cache_info()["eager"] == 2


def test_no_call_waits_for_the_background():
    f, x = lazy(poly), tr.rand(5)
    gate = Gate(f)
    for _ in range(20):
        f(x)
    assert gate.begun.wait(60) and not f.ready(0.01)
    assert f.cache_info()["eager"] == 20 and len(f.traces) == 1
    gate.open.set()
    assert f.ready(60)
    f(x)
    assert f.cache_info()["hits"] == 1


def test_the_first_call_is_a_plain_one():
    f = lazy(lambda x: tr.tanh(x) * 2)
    f(tr.randn(64, 256))
    info = f.cache_info()
    assert info["eager"] == 1 and not (info["traces"] or info["pending"] or info["compiles"])


def test_other_modes_are_always_ready():
    assert tr.compile(poly).ready() and tr.compile(poly, mode="max").ready(0)


def training(mode):
    tr.manual_seed(3)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
    opt = optim.AdamW(net.parameters(), lr=1e-2)
    calls = []

    def step(x, y):
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        calls.append(len(calls))
        return loss

    x, y = tr.randn(32, 4), tr.randn(32, 1)
    run = step if mode is None else tr.compile(step, mode=mode, fullgraph=True)
    losses = []
    for k in range(8):
        losses.append(float(run(x, y)))
        if mode == "lazy" and k == 3:
            assert run.ready(60)
    if mode == "lazy":
        assert run.cache_info()["hits"] == 4
    return losses, calls, tr.rand(3).tolist(), [p.numpy() for p in net.parameters()]


def test_a_training_step_has_the_effects_and_random_numbers_of_plain_python():
    want, calls, drawn, parameters = training(None)
    got = training("lazy")
    np.testing.assert_allclose(got[0], want, rtol=1e-4)
    assert got[1] == calls and got[2] == drawn
    for a, b in zip(got[3], parameters):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def halve(x):
    n = 0
    while x.sum() > 1:
        x = x / 2
        n += 1
        if n > 3:
            break
    return x if x[0] > 0 else -x


def test_trees_answer_before_their_segments_are_compiled():
    f = lazy(halve)
    gate = Gate(f)
    inputs = [tr.full((4,), v) for v in (0.1, 1.0, 8.0, -1.0)]
    for _ in range(3):
        for x in inputs:
            np.testing.assert_array_equal(f(x).numpy(), halve(x).numpy())
    assert f.cache_info()["hits"] == 0
    gate.open.set()
    for _ in range(12):  # each round may see answers that are new
        assert f.ready(60)
        for x in inputs:
            np.testing.assert_allclose(f(x).numpy(), halve(x).numpy(), rtol=1e-6)
    before = f.cache_info()["eager"]
    for x in inputs:
        f(x)
    assert f.cache_info()["eager"] == before and not f.fallbacks


def test_sizes_that_change_become_symbols():
    f = lazy(poly)
    for n in range(2, 30):
        x = tr.rand(n, 3)
        np.testing.assert_allclose(f(x).numpy(), poly(x).numpy(), rtol=1e-6)
        assert f.ready(60)
    assert f.cache_info()["traces"] == 2 and f.cache_info()["hits"] >= 25


def test_no_call_compiles_anything_itself(monkeypatch):
    """Not even what the native entry needs to check sizes and to walk trees."""
    compilers = set()
    for name in ("_compile", "link"):
        plain = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *a, f=plain, **k: (compilers.add(threading.current_thread().name), f(*a, **k))[1]
        )
    f, g = lazy(halve), lazy(lambda x: x * 7 + tr.arange(x.shape[0] // 2).sum())
    for k in range(12):
        f(tr.full((4,), 8.0)), f(-tr.ones(4)), g(tr.rand(2 + 2 * (k % 3)))
        assert f.ready(60) and g.ready(60)
    assert compilers == {"tracefuse-compile"}
    assert all(t.native for t in [*f.traces, *g.traces] if t.sizes or t.above)


def test_a_backward_that_comes_later():
    net = nn.Linear(3, 3)
    f, x = lazy(net), tr.rand(2, 3)
    for _ in range(4):
        net.zero_grad()
        (f(x) ** 2).sum().backward()
        got = net.weight.grad.numpy().copy()
        net.zero_grad()
        (net(x) ** 2).sum().backward()
        np.testing.assert_allclose(got, net.weight.grad.numpy(), rtol=1e-5)
        assert compiled_function(f).ready(60)
    assert compiled_function(f).cache_info()["hits"] == 2


def test_check_compares_when_the_code_is_there():
    f, x = lazy(poly, check=1), tr.rand(3)
    f(x), f(x)
    assert f.ready(60)
    f.traces[0].executable.executable = SimpleNamespace(run=lambda inputs: [inputs[0] * 0])
    with pytest.raises(CheckError):
        f(x)


# ---- what goes wrong


def test_what_the_backend_can_not_compile_is_told_by_a_later_call():
    f, x = lazy(poly), tr.rand(3)
    gate = Gate(f)
    gate.error = ValueError("no such luck")
    gate.open.set()
    f(x), f(x)
    assert f.ready(60)
    with pytest.warns(tr.CaptureWarning, match="the llvm backend failed: ValueError: no such luck"):
        np.testing.assert_array_equal(f(x).numpy(), poly(x).numpy())
    f(x)
    assert f.cache_info()["traces"] == 0 and f.cache_info()["eager"] == 4


def test_under_fullgraph_that_is_an_error():
    f, x = lazy(poly, fullgraph=True), tr.rand(3)
    gate = Gate(f)
    gate.error = ValueError("no such luck")
    gate.open.set()
    f(x), f(x)
    assert f.ready(60)
    for _ in range(2):
        with pytest.raises(tr.CaptureError, match="no such luck"):
            f(x)


def test_where_symbols_can_not_be_compiled_each_size_has_its_own_trace():
    f = lazy(poly, dynamic=True)
    gate = Gate(f)
    gate.error = ValueError("no symbols")
    gate.open.set()
    x = tr.rand(3)
    f(x), f(x)
    assert f.ready(60)
    gate.error = None
    f(x)
    assert f.ready(60)
    f(x)
    assert f.cache_info()["hits"] == 1 and f.traces[0].sizes is None


def test_what_can_not_be_traced_is_told_by_the_second_call():
    def f(x):
        return x * len(os.listdir("/"))

    g, x = lazy(f), tr.rand(3)
    g(x)
    with pytest.warns(tr.CaptureWarning):
        g(x)
    h = lazy(f, fullgraph=True)
    h(x)
    with pytest.raises(tr.CaptureError):
        h(x)


def test_unloading_gives_up_what_is_being_compiled():
    f, x = lazy(poly), tr.rand(3)
    gate = Gate(f)
    f(x), f(x)
    assert gate.begun.wait(60)
    f.unload()
    assert f.ready(60) and f.cache_info()["traces"] == 0
    gate.open.set()
    f(x), f(x)
    assert f.ready(60)
    f(x)
    assert f.cache_info()["hits"] == 1


def test_nothing_is_traced_while_the_queue_is_full(monkeypatch):
    monkeypatch.setattr(background, "MOST_WAITING", 0)
    f, x = lazy(poly), tr.rand(3)
    for _ in range(5):
        f(x)
    assert f.cache_info() == {**f.cache_info(), "traces": 0, "eager": 5}
    monkeypatch.undo()
    f(x)
    assert f.cache_info()["traces"] == 1


def test_explain_waits():
    f, x = lazy(poly), tr.rand(3)
    f(x), f(x)
    assert len(tr.explain(f, x).traces[0].kernels) == 1
    assert len(tr.explain(lazy(poly), x).traces[0].kernels) == 1


# ---- threads, forks, the end


def test_nothing_is_traced_beside_a_plain_call():
    """Tracing takes tensors with a history for leaves, until it is done."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(x):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(60)
        return x * 2

    f, x = lazy(slow), tr.rand(3)
    f(x)
    other = threading.Thread(target=lambda: f(tr.rand(1)))  # a signature of its own
    other.start()
    assert inside.wait(60)
    f(x), f(x)
    assert not f.traces and not f.fallbacks
    go_on.set()
    other.join()
    with pytest.warns(tr.CaptureWarning, match="threading"):
        f(x)


def test_many_threads():
    w = tr.rand(6, requires_grad=True)
    h, errors = w * 2, []
    f = lazy(lambda x: (h * x).sum())
    inputs = [tr.rand(*shape) for shape in ((6,), (2, 6), (3, 6), (1, 6))]

    def call():
        try:
            for _ in range(30):
                for x in inputs:
                    got = f(x)
                    assert got._node is not None
                    np.testing.assert_allclose(got.numpy(), (h.numpy() * x.numpy()).sum(), rtol=1e-5)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and f.ready(60) and h._node is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_goes_on_with_what_was_being_compiled():
    f, x = lazy(poly), tr.rand(7)
    gate = Gate(f)
    f(x), f(x)
    assert gate.begun.wait(60)
    pid = os.fork()
    if pid == 0:
        gate.open.set()
        ok = f.ready(60) and np.allclose(f(x).numpy(), poly(x).numpy()) and f.cache_info()["hits"] == 1
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    gate.open.set()
    assert f.ready(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_children_of_a_busy_compiler_compile_too():
    for k in range(6):
        f, x = lazy(lambda x: tr.sin(x * k) / (k + 2) + x**k), tr.rand(5)  # noqa: B023
        f(x), f(x)
        pid = os.fork()
        if pid == 0:
            g = tr.compile(lambda x: tr.cos(x) - k, fullgraph=True)  # noqa: B023
            g(x)
            os._exit(0 if f.ready(60) and f(x).shape == (5,) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        f.ready(60)


def test_the_interpreter_ends_while_compiling():
    code = """
import tracefuse as tr
from tracefuse import nn
net = nn.Sequential(*[m for n in range(8) for m in (nn.Linear(16 + n, 17 + n), nn.GELU(), nn.LayerNorm(17 + n))])
f = tr.compile(net, mode="lazy")
x = tr.rand(4, 16)
f(x), f(x)
import time; time.sleep({wait})
print("done")
"""
    env = {**os.environ, "TRACEFUSE_CACHE_DIR": "off"}
    for wait in (0, 0.05, 0.15):
        text = code.replace("{wait}", str(wait))
        ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, env=env)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_the_worker_rests_when_nothing_is_left():
    f, x = lazy(poly), tr.rand(9)
    f(x), f(x)
    assert f.ready(60)
    thread = WORKER._thread
    if thread is not None:
        thread.join(60)
    assert WORKER._thread is None and not WORKER._queue
