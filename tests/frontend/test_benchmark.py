"""`tr.benchmark`: what it measures, and that it leaves no trace."""

import json

import numpy as np
import pytest
from tracefuse.frontend.benchmark import BenchmarkResult, _errors, benchmark, milliseconds
from tracefuse.frontend.nn import functional as F

import tracefuse as tr
from tracefuse import nn, optim

SECONDS = 0.05


def scaled(x, factor=2.0):
    return F.gelu(x) * factor


def needs_a_value(x):
    return float(np.asarray(x).sum()) * 2


def test_a_function():
    r = benchmark(scaled, tr.rand(64, 64), factor=3.0, seconds=SECONDS)
    assert isinstance(r, BenchmarkResult) and r.compiled and r.name == "scaled"
    assert r.eager_ms > 0 and r.compiled_ms > 0 and r.compile_ms > 0 and r.rounds >= 5 and r.kernels == 1
    assert r.speedup == pytest.approx(r.eager_ms / r.compiled_ms)
    assert r.max_abs_error < 1e-5 and r.max_rel_error < 1e-5
    assert r.eager_range[0] <= r.eager_ms <= r.eager_range[1]
    text = str(r)
    assert "speedup" in text and "compile time" in text and "max error" in text
    assert "<table>" in r._repr_html_() and "scaled" in r._repr_html_()
    assert json.loads(json.dumps(r.to_dict()))["speedup"] == r.speedup


@pytest.mark.parametrize("which", ["function", "module", "method"])
def test_what_is_compiled_already_is_compared_with_its_original(which):
    net = nn.Linear(8, 8)

    class Holder:
        @tr.compile
        def apply(self, x):
            return x * 2 + 1

    subject = {"function": tr.compile(scaled), "module": tr.compile(net), "method": Holder().apply}[which]
    r = benchmark(subject, tr.rand(4, 8), seconds=SECONDS)
    assert r.compiled and r.max_rel_error < 1e-5


def test_a_training_step_leaves_everything_as_it_was():
    tr.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    opt = optim.Adam(net.parameters(), lr=0.01)

    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    x, y = tr.rand(5, 6), tr.tensor([0, 1, 2, 0, 1])
    weights = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    random = tr.get_rng_state()
    r = benchmark(step, x, y, seconds=SECONDS)
    assert r.compiled and r.max_rel_error < 1e-5
    assert any("weight" in w for w in r.writes) and any("running_mean" in w for w in r.writes)
    assert "put back" in str(r)
    for k, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), weights[k])
    assert all(p.grad is None for p in net.parameters())
    np.testing.assert_array_equal(np.asarray(tr.get_rng_state()), np.asarray(random))


def test_arguments_changed_in_place_are_put_back():
    def double(x):
        x *= 2
        return x + 1

    x = tr.ones(4)
    r = benchmark(double, x, seconds=SECONDS)
    assert r.compiled and r.max_abs_error == 0 and r.writes == ("x",)
    np.testing.assert_array_equal(x.numpy(), np.ones(4))


@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_captured_says_why():
    r = benchmark(needs_a_value, tr.ones(3), seconds=SECONDS)
    assert not r.compiled and "NumPy array" in r.reason and "test_benchmark.py" in r.reason
    assert r.speedup == 1 and "not compiled" in str(r) and "advanced" in str(r)


def test_things_that_cannot_be_called_are_refused():
    with pytest.raises(TypeError, match="not a int"):
        benchmark(3, seconds=SECONDS)


def test_errors_are_relative_to_each_tensor():
    a, b = np.array([1.0, 100.0]), np.array([1.0, 101.0])
    assert _errors([a], [b]) == (1.0, pytest.approx(1 / 101))
    assert _errors([np.array([np.nan, np.inf])], [np.array([np.nan, np.inf])]) == (0, 0)
    assert _errors([np.array([np.nan])], [np.array([1.0])])[0] == np.inf
    assert _errors([a], [a, b]) == (np.inf, np.inf)
    assert _errors([a], [np.zeros(3)]) == (np.inf, np.inf)


def test_times_are_shown_in_the_unit_that_suits():
    assert [milliseconds(t) for t in (2000, 12.34, 0.5, 1e-4)] == ["2 s", "12.3 ms", "500 µs", "100 ns"]
