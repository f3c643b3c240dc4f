"""`mode="max"`: schedules are timed once, computed bits stay, what was found is kept and explained."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tracefuse.nn.functional as F
from tracefuse.backends.llvm.contraction import choose_tile
from tracefuse.frontend.introspect import native_of
from tracefuse.ir.kernel import Schedule
from tracefuse.ir.scalar import Expr
from tracefuse.runtime import tuning
from tracefuse.runtime.candidates import alternatives, is_tunable

import tracefuse as tr


def mixed(x, w, b):
    return F.gelu(x @ w + b) * 2, (x @ w).sum(axis=0), F.softmax(x, -1)


@pytest.fixture
def inputs():
    tr.manual_seed(1)
    return tr.randn(200, 333), tr.randn(333, 150), tr.randn(150)


def tuning_of(f):
    return native_of(f.traces[0].executable).tuning


def kernel_steps(f, *args):
    tr.explain(f, *args)
    return native_of(f.traces[0].executable).plan.kernel_steps


def at_once(monkeypatch, beside):
    """Tunes without a clock: `beside` says how long two calls take in turns."""
    monkeypatch.setattr(tuning, "_sample", lambda call, repeat: 1e-3)
    monkeypatch.setattr(tuning, "_beside", lambda a, b, rounds: beside(rounds))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", str(tmp_path))


def faster(rounds):
    return 2e-3, 1e-3


def test_every_candidate_computes_the_same_bits(inputs, monkeypatch):
    """Even if all of them are kept."""
    at_once(monkeypatch, faster)
    plain = tr.compile(mixed, fullgraph=True)
    tuned = tr.compile(mixed, fullgraph=True, mode="max", options={"budget_ms": 20000})
    for got, want in zip(tuned(*inputs), plain(*inputs)):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    t = tuning_of(tuned)
    assert t.kept and t.kernels and t.tried > len(t.kernels)


def test_no_candidate_changes_the_order_of_a_reduction(inputs):
    f = tr.compile(mixed, fullgraph=True)
    steps = kernel_steps(f, *inputs)
    target = native_of(f.traces[0].executable).target
    assert len(steps) > 2
    for s in steps:
        kc = choose_tile(s.kernel, target)[2] if s.kernel.anchor is not None else 0
        for group in alternatives(s.kernel, s.schedule, target):
            for new in group:
                assert new != s.schedule
                if s.kernel.anchor is not None:
                    assert new.tile[2] == kc
                elif any(stage.reductions for stage in s.kernel.stages):
                    assert (new.vector, new.lanes, new.unroll) == (
                        s.schedule.vector,
                        s.schedule.lanes,
                        s.schedule.unroll,
                    )


def test_a_candidate_with_other_bits_is_not_taken(inputs, monkeypatch):
    at_once(monkeypatch, faster)
    monkeypatch.setattr(tuning._Tuner, "_same_bits", lambda *args: False)
    f = tr.compile(mixed, mode="max")
    f(*inputs)
    assert tuning_of(f).tried > 0 and not tuning_of(f).kernels


def test_the_bits_are_compared():
    """Reductions with other lanes round differently."""
    f = tr.compile(lambda x: x.sum(axis=1), fullgraph=True)
    x = tr.randn(64, 1000)
    (step,) = kernel_steps(f, x)
    e = native_of(f.traces[0].executable)
    tuner = tuning._Tuner(e, 1.0, tuning._Store(e, 1.0), lambda: None)
    other = Schedule(step.schedule.vector, step.schedule.lanes, 1 if step.schedule.unroll > 1 else 2)
    plain = tuner._alone(step, step.schedule)
    assert tuner._same_bits(step, plain, tuner._alone(step, step.schedule))
    assert not tuner._same_bits(step, plain, tuner._alone(step, other))


def test_what_is_no_faster_as_a_whole_does_not_stay(inputs, monkeypatch):
    at_once(monkeypatch, lambda call: 1e-3)
    monkeypatch.setattr(tuning, "_beside", lambda a, b, rounds: (1.0, 0.1) if rounds <= tuning.ROUNDS else (1.0, 0.99))
    f = tr.compile(mixed, mode="max")
    f(*inputs)
    t = tuning_of(f)
    assert t.kernels and not t.kept and "no faster" in str(t)
    assert native_of(f.traces[0].executable).plan == native_of(tr.compile(mixed)._build(f.traces[0].graph)).plan


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: tr.sort(x) + 1, "host steps"),
        (lambda x: tr.scan(lambda c, r: (c + r, c), x[0], x)[0], "loops"),
        (lambda x: x + 1, "microseconds"),
    ],
)
def test_what_is_left_alone(function, reason):
    f = tr.compile(function, mode="max", fullgraph=True)
    f(tr.rand(4, 4))
    assert reason in tuning_of(f).why_not


def test_what_fails_on_made_up_inputs_is_left_alone(monkeypatch):
    at_once(monkeypatch, faster)
    monkeypatch.setattr(tuning, "_filled", lambda t, rng: np.full(t.shape, 99, t.dtype.np))
    f = tr.compile(lambda x, i: x[i] * 2, mode="max", fullgraph=True)
    np.testing.assert_array_equal(f(tr.ones(3), tr.arange(2)).numpy(), [2, 2])
    assert "made up" in tuning_of(f).why_not


def test_symbolic_sizes_are_left_alone():
    f = tr.compile(lambda x: x @ x.T, mode="max", dynamic=True)
    x = tr.rand(100, 100)
    np.testing.assert_allclose(f(x).numpy(), (x @ x.T).numpy(), rtol=1e-4)
    assert "symbolic" in tuning_of(f).why_not


def test_kernels_with_computed_indices_are_not_run_alone():
    f = tr.compile(lambda x, i: x[i] * 2, fullgraph=True)
    steps = kernel_steps(f, tr.rand(9, 5), tr.arange(4))
    gathers = [s for s in steps if any(isinstance(k, Expr) for k in indices(s.kernel))]
    assert gathers and not any(is_tunable(s.kernel) for s in gathers)


def indices(kernel):
    from tracefuse.runtime.candidates import _expressions

    return [i for e in _expressions(kernel) if e.op == "load" for i in e.attr.index]


def test_without_a_budget_nothing_is_timed(inputs):
    f = tr.compile(mixed, mode="max", options={"budget_ms": 0})
    f(*inputs)
    assert tuning_of(f) is None


def test_training_steps(monkeypatch):
    """Tuning runs on memory of its own: parameters are written by the call alone."""
    at_once(monkeypatch, faster)

    def losses(mode):
        tr.manual_seed(0)
        net = tr.nn.Sequential(tr.nn.Linear(64, 100), tr.nn.ReLU(), tr.nn.Linear(100, 7))
        opt = tr.optim.SGD(net.parameters(), lr=0.1)

        def step(x, y):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        run, x, y = tr.compile(step, mode=mode, fullgraph=True), tr.randn(50, 64), tr.arange(50) % 7
        return [float(run(x, y)) for _ in range(4)]

    assert losses("max") == losses("default")


PROGRAM = """
import json, time
import tracefuse as tr
from tracefuse.frontend.introspect import native_of
from tracefuse.runtime import tuning
tuning.LEAST = 0.0
tuning._beside = lambda a, b, rounds: (a(), b(), (1.0, 0.1))[2]
def product(x, y):
    return x @ y
f = tr.compile(product, mode="max", fullgraph=True)
f(tr.ones(64, 300), tr.ones(300, 200))
e = native_of(f.traces[0].executable)
schedules = [str(s.schedule) for s in e.plan.kernel_steps]
print(json.dumps([e.tuning.tried, e.tuning.spent, e.tuning.kept, schedules, str(e.tuning)]))
"""


def test_the_next_process_does_not_tune(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run():
        return json.loads(subprocess.run([sys.executable, program], capture_output=True, check=True).stdout)

    first, second = run(), run()
    assert first[0] > 1 and first[1] > 0 and first[2]
    assert second[1] == 0 and second[2] and second[3] == first[3] and "from the cache" in second[4]
    for path in (tmp_path / "objects").rglob("*"):  # whatever is in there
        if path.is_file() and path.stat().st_size < 3000:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert run()[2]


def test_explain_shows_schedules_and_times(inputs, monkeypatch):
    at_once(monkeypatch, faster)
    f = tr.compile(mixed, mode="max")
    f(*inputs)
    report = tr.explain(f)
    tuned = [k.tuned for k in report.traces[0].kernels if k.tuned]
    assert tuned and "schedule" in tuned[0] and "(2 ms) -> schedule" in tuned[0] and tuned[0].endswith("(1 ms)")
    assert f"tuned: {tuned[0]}" in report.summary() and "tuned: 2 ms -> 1 ms" in report.summary()
    json.dumps(report.to_dict())


def test_modes_and_backends_together(inputs):
    want = [y.numpy() for y in tr.compile(mixed)(*inputs)]
    for mode in ("default", "lazy", "max"):
        for backend in ("llvm", "reference"):
            for dynamic in (None, True, False):
                f = tr.compile(mixed, mode=mode, backend=backend, dynamic=dynamic, check=2, options={"budget_ms": 50})
                for _ in range(4):
                    for got, y in zip(f(*inputs), want):
                        np.testing.assert_allclose(got.numpy(), y, rtol=1e-3, atol=1e-4)
                    assert f.ready(60)
                assert f.traces[0].calls >= 2 and not f.fallbacks, (mode, backend, dynamic)
