"""Random small programs with loops, compiled and in plain Python: the same results, side effects and random numbers.

The arithmetic is such that every result is rounded once, whatever is fused with what, so that branches can't differ.
"""

from __future__ import annotations

import importlib.util
import itertools
import linecache
import random
import warnings
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import tracefuse as tr

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

HEAD = """
import tracefuse as tr


class Box:
    pass


def helper(a, k):
    for j in range(k):
        if a[0] > 3:
            return a * 0.5
        a = a + j
    return a


def program(x, z):
    y, n, f, b, found = x * 0.5, 0, 1.0, False, None
    xs, state, box = [x + 1, y, 0], {"t": x - 1, "k": 3}, Box()
    box.v, box.m = y * 2, 1
"""
TAIL = "    return x, y, z, n, f, b, found, xs, state, box.v, box.m\n"
COUNTERS = ("i", "j", "k")


class Generator:
    """Writes one program."""

    def __init__(self, seed: int):
        self.r = random.Random(seed)
        self.names = itertools.count()
        self.lines: list[str] = []
        self.budget = 11

    def tensor(self, depth: int = 0) -> str:
        r = self.r
        leaves = ["x", "y", "z", "xs[0]", "xs[1]", 'state["t"]', "box.v", "tr.rand(3)", "tr.ones(3)"]
        if depth > 2 or r.random() < 0.4:
            return r.choice(leaves[:7] if r.random() < 0.9 else leaves)
        a, b = self.tensor(depth + 1), self.tensor(depth + 1)
        return r.choice([
            f"({a} * 0.5)", f"({a} * -1)", f"({a} + {r.randint(-3, 3)})", f"tr.maximum({a}, {b})", f"({a} - {b})",
            f"{a}.clip(-8, 8)", f"tr.abs({a})", f"helper({a}, {r.randint(0, 4)})", f"tr.floor({a})", f"({a} + {self.number()})",
        ])  # fmt: skip

    def number(self) -> str:
        r = self.r
        return r.choice(
            ["n", "xs[2]", "box.m", 'state["k"]', f"({r.choice('nn')} % 3)", str(r.randint(-2, 4)), "n // 2"]
        )

    def test(self) -> str:
        r = self.r
        simple = [
            f"{self.tensor(2)}.max() > {r.randint(-3, 5)}", f"{self.tensor(2)}[{r.randint(0, 2)}] < {r.randint(-3, 5)}",
            f"{self.number()} < {r.randint(0, 6)}", f"{self.number()} % 2 == 0", "b", "f > 2", f"x[n % 3] > {r.randint(-2, 3)}",
        ]  # fmt: skip
        one = r.choice(simple)
        kind = r.random()
        return f"{one} and {r.choice(simple)}" if kind < 0.15 else f"not ({one})" if kind < 0.25 else one

    def block(self, indent: str, loops: int, counters: tuple[str, ...]) -> None:
        for _ in range(self.r.randint(1, 2)):
            self.statement(indent, loops, counters)

    def statement(self, indent: str, loops: int, counters: tuple[str, ...]) -> None:
        r, add = self.r, lambda s: self.lines.append(indent + s)
        self.budget -= 1
        t, n = self.tensor, self.number
        kind = r.random()
        if self.budget > 0 and kind < 0.22:
            add(f"if {self.test()}:")
            self.block(indent + "    ", loops, counters)
            if r.random() < 0.5:
                add("else:")
                self.block(indent + "    ", loops, counters)
        elif self.budget > 0 and kind < 0.34 and loops < 3:
            self.loop(indent, loops, counters)
        elif kind < 0.40 and loops:
            add(r.choice(["break", "continue", "break"]))
        elif kind < 0.44 and loops:
            add(r.choice([f"return x, n, {t(2)}", "return found, xs, box.m", f"assert {self.test()}, n"]))
        elif kind < 0.48:
            add("try:")
            add(f"    x = helper({t(1)}, n % 4)")
            add(f"    f = {r.choice(['1 / n', '2.0', 'f * 0.5'])}")
            add("except ZeroDivisionError:")
            add("    f = -1.0")
        elif kind < 0.51:
            add("with tr.no_grad():")
            add(f"    y = {t()}")
        else:
            i = r.choice(counters) if counters else "n % 3"
            add(r.choice([
                f"x = {t()}", f"y = {t()}", f"x, y = y, {t()}", "n += 1", f"n = {n()}", f"b = {self.test()}", "f = f * 0.5 + 1",
                f"f = {t(2)}[1].item()", f"xs[{r.randint(0, 1)}] = {t()}", f"xs[2] += {n()}", f'state["t"] = {t()}',
                f'state["k"] = {n()}', f"box.v = {t()}", "box.m += 1", f"z += {t(1)}", f"z[{r.randint(0, 2)}] = {t(2)}.max()",
                f"z[({i}) % 3] = {t(1)}[{i} % 3]", "x *= 0.5", "y -= 1", f"found = {t(1)}", f"n = int({t(2)}[0])",
                f"found = ({n()}, {t(1)})", f"x = x + {i}",
            ]))  # fmt: skip

    def loop(self, indent: str, loops: int, counters: tuple[str, ...]) -> None:
        r, add = self.r, lambda s: self.lines.append(indent + s)
        kind = r.random()
        if kind < 0.5:
            c = f"c{next(self.names)}"
            add(f"{c} = 0")
            add(f"while {c} < {r.choice([3, 9, 70])}{r.choice(['', f' and {self.test()}', f' and {self.test()}'])}:")
            add(f"    {c} += 1")
        elif kind < 0.85:
            free = [k for k in COUNTERS if k not in counters]
            c = r.choice(free)
            ends = [str(r.choice([3, 70, 100])), "3, 80, 2", "int(x[0].clip(0, 9))", "n % 5"]
            add(f"for {c} in range({r.choice(ends)}):")
        else:
            free = [k for k in COUNTERS if k not in counters]
            c = r.choice(free)
            add(f"for {c}, row in enumerate(tr.stack([x] * {r.choice([3, 70])})):")
            add("    y = y * 0.5 + row")
        inside = (*counters, c) if c in COUNTERS else counters
        self.block(indent + "    ", loops + 1, inside)
        if r.random() < 0.2:
            add("else:")
            self.block(indent + "    ", 0, counters)

    def text(self) -> str:
        while self.budget > 0:
            self.statement("    ", 0, ())
            if self.r.random() < 0.4:
                self.loop("    ", 0, ())
        return HEAD + "\n".join(self.lines) + "\n" + TAIL


def load(text: str, name: str):
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    space = {"__name__": f"programs_{name}", "__file__": file}
    exec(compile(text, file, "exec"), space)
    return space["program"]


def inputs():
    for a in ((1.0, 2.0, 3.0), (-1.0, 0.5, 4.0), (6.0, -7.0, 0.25), (0.0, 0.0, 0.0)):
        yield tr.tensor(list(a)), tr.tensor([a[2], 1.0, a[0]])


def run(program, args, seed):
    tr.manual_seed(seed)
    out, error = harness.outcome(program, args)
    return out, error, args, tr.get_rng_state()


def check(seed: int, fullgraph: bool = False):
    """Compares one program. Gives the compiled function."""
    text = Generator(seed).text()
    program = load(text, f"fuzz{seed}")
    compiled = tr.compile(program, fullgraph=fullgraph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, (a, b) in enumerate([*inputs(), *inputs()]):
            want, problem, theirs, state = run(program, (a.clone(), b.clone()), k)
            got, raised, ours, after = run(compiled, (a.clone(), b.clone()), k)
            assert type(raised) is type(problem) and str(raised) == str(problem), f"{raised!r}, not {problem!r}\n{text}"
            try:
                harness.equal(got, want)
                harness.equal(ours, theirs, "arguments")
                harness.equal(after, state, "random numbers")
            except AssertionError as e:
                raise AssertionError(f"seed {seed}, input {k}: {e}\n{text}") from None
    return compiled


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_random_programs(seed):
    check(seed)
