"""Random programs whose sizes depend on values, against plain Python."""

from __future__ import annotations

import importlib.util
import linecache
import random
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

MASKS = ["{v} > 0", "{v} > {c}", "tr.abs({v}) < 1", "({v} > -1) & ({v} < {c})", "{v} == {v}.max()"]
VECTORS = [
    "{v}[{m}]", "{v}[{m}] * {c}", "{v}[1:]", "{v}[: len({v}) // 2]", "{v}[::2]", "tr.sort({v})", "tr.flip({v}, axis=0)",
    "tr.concat([{v}, {w}])", "tr.unique(tr.round({v}))", "tr.repeat({v}, 2)", "{v} - {v}.sum() / (len({v}) + 1)",
    "tr.cumulative_sum({v}) * 0.1", "tr.tanh({v})", "tr.where({m}, {v}, -{v})", "tr.repeat({v}, tr.astype({v} > 0, tr.int64))",
    "{v}[tr.argsort({v})[: {k}]]", "tr.arange(len({v}), dtype=tr.float32) * 0.5 - 1", "{v}[: int(tr.abs({v}).sum()) % (len({v}) + 1)]",
]  # fmt: skip
NUMBERS = ["{v}.sum()", "len({v})", "len({v}) * len({w})", "(len({v}) + 3) // 2", "{v}.shape[0] - {w}.shape[0]", "({v} ** 2).sum()"]  # fmt: skip
TESTS = ["len({v}) > {k}", "len({v}) == len({w})", "len({v}) % 2 == 0", "{v}.sum() > 0", "len({v}) >= len({w}) + 1"]


class Writer:
    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.names = ["x", "y"]
        self.lines: list[str] = []
        self.depth = 1

    def fill(self, text: str) -> str:
        v, w = self.random.choice(self.names), self.random.choice(self.names)
        mask = self.random.choice(MASKS) if "{m}" in text else ""
        text = text.replace("{m}", mask)
        return text.format(v=v, w=w, c=self.random.choice(["0.5", "1.0", "-0.5"]), k=self.random.randint(1, 5))

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def statement(self) -> None:
        kind = self.random.random()
        if kind < 0.15 and self.depth < 3:
            self.line(f"if {self.fill(self.random.choice(TESTS))}:")
            name = self.random.choice(self.names)
            self.depth += 1
            self.line(f"{name} = {self.fill(self.random.choice(VECTORS))}")
            self.depth -= 1
        elif kind < 0.25:
            self.line(f"n += {self.fill(self.random.choice(NUMBERS))}")
        elif kind < 0.32:
            name = self.random.choice(self.names)
            self.line(f"{name} = {name} + 0")
            self.line(self.fill(f"{name}[{{m}}] = 0.25").replace("{v}", name))
        else:
            name = f"v{len(self.names)}"
            self.line(f"{name} = {self.fill(self.random.choice(VECTORS))}")
            self.names.append(name)

    def program(self) -> str:
        for _ in range(self.random.randint(2, 7)):
            self.statement()
        body = "\n".join(self.lines)
        return f"def program(x, y):\n    n = 0\n{body}\n    return n, {', '.join(self.names)}\n"


def run(seed: int) -> None:
    source = Writer(seed).program()
    name = f"<random sizes {seed}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    space = {"tr": tr, "__name__": "random_sizes"}
    exec(compile(source, name, "exec"), space)
    rng = np.random.default_rng(seed)

    def vector(n):
        return tr.asarray(np.round(rng.standard_normal(n) * 2, 2).astype(np.float32))

    calls = [(vector(6), vector(4)) for _ in range(3)] + [(vector(9), vector(9)), (vector(3), vector(1))]
    try:
        harness.compare(space["program"], calls, raises=True, rounds=2)
    except BaseException:
        print(source)
        raise


@pytest.mark.parametrize("block", range(4))
def test_random_programs(block):
    for seed in range(10 * block, 10 * block + 10):
        run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_many_random_programs(block):
    for seed in range(1000 + 10 * block, 1010 + 10 * block):
        run(seed)
