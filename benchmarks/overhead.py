"""What a call costs: a chain of five pointwise ops on 16 floats, where computing takes next to nothing.

python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from common import in_turns, median, peer, quick, setting, table

import tracefuse as tr

N = 16


def chain(x: Any, y: Any) -> Any:
    return ((x + y) * x - y) * 0.5 + x


def sides() -> dict[str, Callable[[], Any]]:
    """Calls of the chain with everybody who is installed."""
    rng = np.random.default_rng(0)
    a, b = rng.random(N, np.float32), rng.random(N, np.float32)
    half = np.float32(0.5)

    def numpy_chain(x: Any, y: Any) -> Any:
        return ((x + y) * x - y) * half + x

    x, y = tr.asarray(a), tr.asarray(b)
    compiled, arrays = tr.compile(chain, fullgraph=True), tr.compile(numpy_chain, fullgraph=True)
    out: dict[str, Callable[[], Any]] = {
        "numpy": lambda: numpy_chain(a, b),
        "tracefuse eager": lambda: chain(x, y),
        "tracefuse compiled, Tensor": lambda: compiled(x, y),
        "tracefuse compiled, ndarray": lambda: arrays(a, b),
    }
    if (numba := peer("numba")) is not None:
        plain = numba.njit(numpy_chain)
        out["numba njit"] = lambda: plain(a, b)
    if (jax := peer("jax")) is not None:
        jitted, ja, jb = jax.jit(chain), jax.numpy.asarray(a), jax.numpy.asarray(b)
        out["jax.jit"] = lambda: jitted(ja, jb)
    if (torch := peer("torch")) is not None:
        ta, tb = torch.tensor(a), torch.tensor(b)
        out["torch eager"] = lambda: chain(ta, tb)
        fused = torch.compile(chain, fullgraph=True)
        try:
            fused(ta, tb)
            out["torch.compile"] = lambda: fused(ta, tb)
        except Exception as e:  # it needs a C++ compiler
            print(f"torch.compile does not run here: {type(e).__name__}")
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=20)
    a = p.parse_args()
    calls = sides()
    want = np.asarray(calls["numpy"]())
    for name, call in calls.items():
        np.testing.assert_allclose(np.asarray(call()), want, rtol=1e-6, err_msg=name)
    times = in_turns(calls, a.rounds, 0.02)
    base = median(times["numpy"])
    rows = [[n, quick(median(t)), quick(min(t)), f"{base / median(t):.2f}x"] for n, t in times.items()]
    print(setting("numba", "jax", "torch"))
    print(table(f"Five pointwise ops on {N} floats, time a call", ["", "median", "best", "against numpy"], rows))


if __name__ == "__main__":
    main()
