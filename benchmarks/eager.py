"""What eager calls cost over the NumPy calls that they wrap: every public pointwise function, on few and on many elements.

python benchmarks/eager.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from common import in_turns, median, quick, setting, table

import tracefuse as tr

UNARY = (
    "abs acos acosh asin asinh atan atanh cbrt ceil cos cosh exp exp2 expm1 floor isfinite isinf isnan log log10 log1p log2 "
    "negative positive reciprocal round sign signbit sin sinh sqrt square tan tanh trunc"
).split()
BINARY = (
    "add atan2 copysign divide equal floor_divide fmod greater greater_equal heaviside hypot less less_equal logaddexp maximum "
    "minimum multiply nextafter not_equal pow remainder subtract"
).split()
INTEGERS = "bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor".split()
LOGICAL = "logical_and logical_or logical_xor".split()


def cases(n: int) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]]:
    """name -> (tracefuse's function, NumPy's, operands)."""
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(0.1, 0.9, n).astype(np.float32) for _ in range(2))
    i, j = (rng.integers(1, 9, n) for _ in range(2))
    operands = {name: (x,) for name in UNARY} | {name: (x, y) for name in BINARY}
    operands |= {name: (i, j) for name in INTEGERS} | {name: (x > 0.5, y > 0.5) for name in LOGICAL}
    operands["acosh"] = (x + 1,)
    return {name: (getattr(tr, name), getattr(np, name), args) for name, args in operands.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=9)
    a = p.parse_args()
    rows = []
    for name, (ours, theirs, small) in cases(100).items():
        large = cases(1 << 20)[name][2]
        timings = []
        for args, seconds in ((small, 2e-3), (large, 4e-3)):
            tensors = [tr.asarray(v) for v in args]
            sides = {"tr": lambda f=ours, t=tensors: f(*t), "np": lambda f=theirs, t=args: f(*t)}
            times = in_turns(sides, a.rounds, seconds)
            timings += [median(times["tr"]), median(times["np"])]
        over = (timings[0] - timings[1]) * 1e6
        rows.append((over, [name, f"{over:.2f} us", quick(timings[1]), f"{timings[3] / timings[2]:.2f}x"]))
    rows.sort(key=lambda r: r[0], reverse=True)
    print(setting())
    print(
        table(
            "Eager over NumPy",
            ["function", "100 elements: over NumPy", "NumPy", "1M elements: speed"],
            [r for _, r in rows],
        )
    )


if __name__ == "__main__":
    main()
