"""Results whose sizes depend on values: a mask, and statistics of what it picks.

python benchmarks/value_sizes.py [--rounds 15]
"""

from __future__ import annotations

import argparse

import numpy as np
from common import in_turns, median, peer, quick, setting, table
from tracefuse.runtime.threads import get_num_threads

import tracefuse as tr


def chosen(x):
    return x[x > 0] * 2


def variance(x):
    y = x[x > 0]
    return ((y - y.mean()) ** 2).sum() / len(y)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=15)
    a = p.parse_args()
    torch = peer("torch")
    rows = []
    for f in (chosen, variance):
        for n in (100, 10_000, 1_000_000, 10_000_000):
            compiled = tr.compile(f, fullgraph=True)
            array = np.random.default_rng(0).standard_normal(n).astype(np.float32)
            x = tr.asarray(array)
            sides = {
                "compiled": lambda c=compiled, x=x: c(x),
                "eager": lambda f=f, x=x: f(x),
                "numpy": lambda f=f, x=array: f(x),
            }
            if torch is not None:
                torch.set_num_threads(get_num_threads())
                sides["torch eager"] = lambda f=f, x=torch.from_numpy(array): f(x)
            times = in_turns(sides, a.rounds, 5e-3)
            rows.append([f"{f.__name__}, {n} floats", *(quick(median(t)) for t in times.values())])
    print(setting("torch"))
    print(table("Half of the elements are positive", ["", *sides], rows))


if __name__ == "__main__":
    main()
