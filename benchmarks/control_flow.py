"""Control flow over values: what a branch costs in a compiled call, and a loop of 10,000 steps on 16 floats.

python benchmarks/control_flow.py
"""

from __future__ import annotations

import argparse

import numpy as np
from common import in_turns, median, peer, quick, setting, table

import tracefuse as tr

STEPS = 10_000


def branch(x):
    if x[0] > 1:
        return x * 3
    return x - 1


def chosen(x):
    return tr.where(x[0] > 1, x * 3, x - 1)


def plain(x):
    return x * 3


def loop(x):
    n = 0
    while (x * x).sum() > 1e-9 and n < STEPS:
        x = x * 0.9999 + 0.0001
        n += 1
    return x, n


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=15)
    a = p.parse_args()
    low, high = tr.zeros(4), tr.full((4,), 3.0)
    f, g, h = (tr.compile(c, fullgraph=True) for c in (branch, chosen, plain))
    for x in (low, high, low, high):
        f(x)
    sides = {
        "branch, not taken": lambda: f(low),
        "branch, taken": lambda: f(high),
        "both and tr.where": lambda: g(low),
        "no branch: x * 3": lambda: h(low),
    }
    times = in_turns(sides, a.rounds, 5e-3)
    print(setting())
    rows = [[name, quick(median(t)), quick(min(t))] for name, t in times.items()]
    print(table("A call on 4 floats", ["", "median", "best"], rows))
    start = np.linspace(0.5, 1.5, 16).astype(np.float32)
    compiled, x = tr.compile(loop, fullgraph=True), tr.tensor(start)
    assert compiled(x)[1] == STEPS
    sides = {"tracefuse compiled": lambda: compiled(x), "NumPy": lambda: loop(start)}
    torch = peer("torch")
    if torch is not None:
        torch.set_num_threads(1)
        y = torch.tensor(start)
        sides["PyTorch eager"] = lambda: loop(y)
    sides["tracefuse eager"] = lambda: loop(x)
    times = in_turns(sides, max(3, a.rounds // 5))
    rows = [[name, quick(median(t)), quick(min(t))] for name, t in times.items()]
    print(table(f"A loop of {STEPS} steps on 16 floats", ["", "median", "best"], rows))


if __name__ == "__main__":
    main()
