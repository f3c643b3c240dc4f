"""Long runs of functions that branch, loop and see many shapes: `pytest -m slow`."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import tracefuse as tr


def steered(x):
    y = x * 2
    if y.sum() > 0:
        return y + 1
    n = 0
    while y.sum() < -1:
        y = y * 0.5
        n += 1
    return y - n


def resident() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


@pytest.mark.slow
def test_a_million_calls_leave_nothing_behind():
    f = tr.compile(steered, fullgraph=True)
    xs = [tr.full((8,), v) for v in (1.0, -0.05, -3.0, 2.0)]
    for _ in range(5_000):
        for x in xs:
            f(x)
    before = resident()
    for _ in range(250_000):
        for x in xs:
            f(x)
    assert resident() - before < 1 << 20
    assert f.cache_info()["traces"] <= 4


@pytest.mark.slow
def test_sixteen_threads_with_mixed_shapes():
    f = tr.compile(steered, fullgraph=True)
    wrong: list[str] = []
    end = time.monotonic() + 60

    def run(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while time.monotonic() < end and not wrong:
                x = tr.full((int(rng.integers(2, 40)),), float(rng.choice([1.0, -0.01, -2.0])))
                got, want = f(x).numpy(), steered(x).numpy()
                if not np.allclose(got, want, rtol=1e-5, atol=1e-6):
                    wrong.append(f"{x.shape}: {got} instead of {want}")
        except BaseException as e:
            wrong.append(repr(e))

    threads = [threading.Thread(target=run, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert not f.cache_info()["fallbacks"]
