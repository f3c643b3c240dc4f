"""The modes of `tr.compile`: what calls cost with mode="lazy" until the code is there, and what mode="max" gains.

python benchmarks/modes.py [--cold]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tracefuse.nn.functional as F
from common import in_turns, median, quick, setting, table
from tracefuse.frontend.introspect import native_of
from tracefuse.runtime import executable

import tracefuse as tr
from tracefuse import nn, optim


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def perceptron() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(512, 512), nn.GELU()))), (tr.randn(64, 512),)


def transformer() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 12).eval(), (tr.randn(4, 64, 256),)


def training() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    net, _ = perceptron()
    opt = optim.AdamW(net.parameters(), lr=1e-3)  # type: ignore[attr-defined]

    def step(x: Any, y: Any) -> Any:
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step, (tr.randn(64, 512), tr.randn(64, 512))


LAZY = {
    "12-layer perceptron, batch 64": (perceptron, False),
    "12-layer transformer, 4 x 64 x 256": (transformer, False),
    "training step of the perceptron": (training, True),
}


def lazy_row(name: str, make: Callable[[], Any], grad: bool, repeat: int, cold: bool) -> list[str]:
    """Calls of new functions, as multiples of the same call of another new one in plain Python; medians. `meanwhile`:
    from the third call on, until the code is there."""
    eager, first, second, meanwhile, until, after = ([] for _ in range(6))
    with tr.enable_grad() if grad else tr.no_grad():
        for _ in range(repeat):
            if cold:
                executable._compiled.clear()
            function, args = make()
            for _ in range(3):
                eager.append(timed(lambda f=function: f(*args)))
            compiled = tr.compile(make()[0], mode="lazy")
            call: Callable[[], Any] = lambda c=compiled, a=args: c(*a)  # noqa: E731
            start = time.perf_counter()
            first.append(timed(call))
            second.append(timed(call))
            waiting = tr.compiled_function(compiled)
            while not waiting.ready(0):
                meanwhile.append(timed(call))
            until.append(time.perf_counter() - start)
            call(), call()
            after += [timed(call) for _ in range(5)]
    base = median(eager)
    ratios = [f"{median(t) / median(eager[k::3]):.2f}x" for k, t in enumerate((first, second))]
    rest = f"{median(meanwhile) / base:.2f}x" if meanwhile else ""
    return [name, quick(base), *ratios, rest, quick(median(until)), quick(median(after))]


def products(m: int, k: int, n: int, dtype: str = "float32") -> tuple[Callable[..., Any], tuple[Any, ...]]:
    rng = np.random.default_rng(0)
    return (lambda x, y: x @ y), tuple(tr.asarray(rng.random(s).astype(dtype)) for s in ((m, k), (k, n)))


def ln_res_gelu() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    args = (tr.randn(4096, 1024), tr.randn(4096, 1024), tr.randn(1024), tr.randn(1024))
    return lambda x, r, w, b: F.gelu(F.layer_norm(x + r, (1024,), w, b)), args


MAX: dict[str, Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]] = {
    "matmul 33 x 2048 x 100": lambda: products(33, 2048, 100),
    "matmul 1000 x 300 x 700": lambda: products(1000, 300, 700),
    "matmul 200 x 200 x 200, f64": lambda: products(200, 200, 200, "float64"),
    "matmul 512 x 512 x 512": lambda: products(512, 512, 512),
    "conv 3 to 32, 7x7, stride 2": lambda: (nn.Conv2d(3, 32, 7, stride=2, padding=3), (tr.randn(2, 3, 112, 112),)),
    "conv 64 to 64, 3x3": lambda: (nn.Conv2d(64, 64, 3, padding=1), (tr.randn(4, 64, 28, 28),)),
    "erf on 500 x 700, f64": lambda: (lambda x: x * 0.5 * (1 + tr.erf(x)), (tr.asarray(np.random.rand(500, 700)),)),
    "layer norm + residual + gelu": ln_res_gelu,
    "12-layer transformer": transformer,
}


def max_row(name: str, make: Callable[[], Any], budget: float, rounds: int) -> list[str]:
    function, args = make()
    with tr.no_grad():
        plain = tr.compile(function, fullgraph=True)
        tuned = tr.compile(function, fullgraph=True, mode="max", options={"budget_ms": budget})
        start = time.perf_counter()
        got = tuned(*args)
        first = time.perf_counter() - start
        assert np.array_equal(np.asarray(got), np.asarray(plain(*args))), f"{name}: other bits"
        times = in_turns({"plain": lambda: plain(*args), "tuned": lambda: tuned(*args)}, rounds, 0.005)
    trace = tr.compiled_function(tuned).traces[0]
    kept = native_of(trace.executable).tuning
    base, now = median(times["plain"]), median(times["tuned"])
    best = f"{min(times['plain']) / min(times['tuned']):.2f}x"
    found = len(kept.kernels) if kept.kept else 0
    return [name, quick(base), quick(now), f"{base / now:.2f}x", best, str(found), quick(first)]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=21)
    p.add_argument("--repeat", type=int, default=5, help="functions for each row of the lazy table")
    p.add_argument("--budget", type=float, default=4000, help="milliseconds for tuning a graph")
    p.add_argument("--cold", action="store_true", help="without the caches of kernels, in memory and on disk")
    p.add_argument("--only-lazy", action="store_true")
    a = p.parse_args()
    print(setting())
    if a.cold:
        os.environ["TRACEFUSE_CACHE_DIR"] = "off"
    head = ["lazy", "eager", "first call", "second", "meanwhile", "code after", "compiled"]
    print(table("mode=lazy", head, [lazy_row(n, *case, a.repeat, a.cold) for n, case in LAZY.items()]))
    if a.only_lazy:
        return
    head = ["max", "default", "max", "faster", "best rounds", "kernels changed", "first call"]
    print(table("mode=max", head, [max_row(n, case, a.budget, a.rounds) for n, case in MAX.items()]))


if __name__ == "__main__":
    main()
