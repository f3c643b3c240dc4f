"""The tuner for GPUs, on a device that Triton's interpreter emulates, with schedules and seconds made up."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.kernel import Kernel, Schedule
from tracefuse.ir.subgraph import graph_of
from tracefuse.ir.target import Target
from tracefuse.ir.types import TensorType
from tracefuse.passes import pipeline
from tracefuse.passes.schedule_gpu import schedule as default_schedule
from tracefuse.runtime.cuda import tuning
from tracefuse.runtime.cuda.array import to_device
from tracefuse.runtime.cuda.device import Gpu, gpu
from tracefuse.runtime.cuda.executable import CudaExecutable, build
from tracefuse.runtime.cuda.tuning import _close


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(pipeline, "schedule_on_gpu", four_warps)


def four_warps(kernel: Kernel, target: Target, precision: str = "") -> Schedule:
    """What is not tuned has four warps here."""
    return replace(default_schedule(kernel, target), warps=4)


def candidates(kernel: Kernel, target: Target) -> Sequence[Schedule]:
    """More warps: of the default, eight, sixteen."""
    default = four_warps(kernel, target)
    return [default, replace(default, warps=8), replace(default, warps=16)]


class Clock:
    """Seconds by warps. `runs`: the schedules that were timed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float):
        self.seconds = {int(k.removeprefix("w")): s for k, s in seconds.items()}
        self.runs: list[tuple[str, int]] = []
        monkeypatch.setattr(tuning._Kernel, "seconds", lambda kernel, schedule: self.read(kernel, schedule))

    def read(self, kernel: tuning._Kernel, schedule: Schedule) -> float:
        self.runs.append((kernel.kernel.name, schedule.warps))
        return self.seconds[schedule.warps]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def made(budget: float = 60.0, g: Gpu | None = None, choose=candidates, n=40) -> CudaExecutable:
    graph = graph_of(lambda x: ops.softmax(ops.exp(x), axis=1), [TensorType(float32, (n, 30))])
    return build(graph, g or gpu(0), budget=budget, candidates=choose)


def warps(e: CudaExecutable) -> list[int]:
    return [s.schedule.warps for s in e.plan.kernel_steps]


def test_the_fastest_schedule_is_kept(monkeypatch):
    Clock(monkeypatch, w4=1.0, w8=0.5, w16=0.7)
    e = made()
    assert warps(e) == [8]
    assert e.tuning.kept and e.tuning.tried == 2 and e.tuning.seconds == (1.0, 0.5)
    (y,) = e.run([to_device(gpu(0), normal(40, 30))])
    z = np.exp(np.exp(normal(40, 30)))
    np.testing.assert_allclose(y.numpy(), z / z.sum(1, keepdims=True), rtol=1e-4)


def test_a_little_faster_is_noise(monkeypatch):
    Clock(monkeypatch, w4=1.0, w8=0.97, w16=0.99)
    e = made()
    assert warps(e) == [4] and not e.tuning.kept and "nothing faster" in str(e.tuning)


def test_the_next_process_tunes_nothing(monkeypatch):
    clock = Clock(monkeypatch, w4=1.0, w8=0.5, w16=0.7)
    made()
    clock.runs.clear()
    again = made()
    assert warps(again) == [8] and not clock.runs and "from the cache" in str(again.tuning)


def test_without_a_cache_on_disk_the_process_remembers(monkeypatch):
    monkeypatch.setenv("TRACEFUSE_CACHE_DIR", "off")
    monkeypatch.setattr(tuning, "_found", {})
    clock = Clock(monkeypatch, w4=1.0, w8=0.5, w16=0.7)
    made()
    clock.runs.clear()
    assert warps(made()) == [8] and not clock.runs


def test_wrong_results_are_not_taken(monkeypatch):
    Clock(monkeypatch, w4=1.0, w8=0.2, w16=0.7)
    results = tuning._Kernel.results

    def spoiled(kernel, schedule):
        return [a + (schedule.warps == 8) for a in results(kernel, schedule)]

    monkeypatch.setattr(tuning._Kernel, "results", spoiled)
    assert warps(made()) == [16]


def test_schedules_that_fail_are_left_out(monkeypatch):
    Clock(monkeypatch, w4=1.0, w16=0.7)  # 8 raises
    e = made()
    assert warps(e) == [16] and e.tuning.tried == 2


def test_no_more_than_the_budget(monkeypatch):
    clock = Clock(monkeypatch, w4=1.0, w8=0.5, w16=0.4)
    read = clock.read

    def slow(kernel, schedule):
        time.sleep(0.2 if schedule.warps == 8 else 0.0)
        return read(kernel, schedule)

    clock.read = slow  # type: ignore[method-assign]
    e = made(budget=0.3)
    assert all(w != 16 for _, w in clock.runs) and e.tuning.tried == 1


def test_what_takes_no_time_is_not_tuned(monkeypatch):
    def seconds(kernel, schedule):
        return 1e-3 if any(p.shape == (7,) for p in kernel.kernel.params) else 1.0 / schedule.warps

    monkeypatch.setattr(tuning._Kernel, "seconds", seconds)
    graph = graph_of(
        lambda x, y: (ops.reduce_sum(x, axes=(1,)), ops.exp(y)),
        [TensorType(float32, (9, 30)), TensorType(float32, (7,))],
    )
    e = build(graph, gpu(0), budget=60, candidates=candidates)
    assert sorted(warps(e)) == [4, 16]


def test_symbolic_sizes_are_left_alone():
    e = made(n=dim.symbol("n", 1))
    assert e.tuning.why_not == "it has no kernels of fixed sizes"


def test_real_runs_leave_memory_and_results_alone():
    g = gpu(0)
    before = g.pool.stats().in_use
    e = made()
    assert e.tuning.tried == 2
    e.program._constants.clear()
    assert g.pool.stats().in_use == before


@pytest.mark.parametrize(
    "got, want, agree",
    [
        (np.float32([1.0, 2.0]), np.float32([1.0, 2.0005]), True),
        (np.float32([1.0, 2.0]), np.float32([1.0, 2.01]), False),
        (np.float32([1.0, np.nan]), np.float32([1.0, np.nan]), True),
        (np.float32([1.0, np.nan]), np.float32([1.0, 2.0]), False),
        (np.float32([np.inf, 1.0]), np.float32([np.inf, 1.0]), True),
        (np.float16([1.0, 100.0]), np.float16([1.5, 101.0]), True),
        (np.int64([1, 2]), np.int64([1, 2]), True),
        (np.int64([1, 2]), np.int64([1, 3]), False),
    ],
)
def test_tolerance(got, want, agree):
    assert _close(got, want) is agree
