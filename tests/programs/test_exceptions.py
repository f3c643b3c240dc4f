"""Exceptions and contexts, caught and not."""

import contextlib
import sys
from pathlib import Path

import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


@program()
def catches_its_own_exceptions():
    class Mine(Exception):
        def __init__(self, value):
            super().__init__("mine")
            self.value = value

    def risky(x, n):
        if n == 1:
            raise Mine(x * 2)
        if n == 2:
            raise KeyError("k")
        return x

    log = []

    def f(x):
        total = x
        for n in range(3):
            try:
                y = risky(x, n)
            except Mine as e:
                total = total + e.value
            except (KeyError, ValueError) as e:
                log.append(str(e))
            else:
                total = total + y
            finally:
                log.append(n)
        return total

    return f, log


@program(fails=True, traces=2, n=4)
def exceptions_that_escape():
    box = Box(n=0)

    def f(x):
        box.n += 1
        if box.n > 2:
            raise ValueError(f"too many: {box.n}")
        return x

    return f, box


@program()
def user_contexts():
    events = []

    class Scope:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            events.append(f"enter {self.name}")
            return self

        def __exit__(self, kind, error, tb):
            events.append(f"exit {kind.__name__ if kind else None}")
            return kind is ZeroDivisionError

    @contextlib.contextmanager
    def scaled(k):
        events.append(k)
        try:
            yield k * 2
        finally:
            events.append(-k)

    outside = Scope("outside")

    def f(x):
        with Scope("a") as s, scaled(3) as k, outside:
            y = x * k + len(s.name)
        with Scope("b"):
            1 / 0
        with contextlib.suppress(KeyError), tr.no_grad():
            raise KeyError
        return y

    return f, events


def test_nothing_happens_if_the_call_fails():
    box = Box(n=0, log=[])

    def f(x, i):
        box.n += 1
        box.log.append(x.sum())
        print("printed")
        return x[i]

    compiled = tr.compile(f, fullgraph=True)
    compiled(vector(0), tr.tensor(1))
    with pytest.raises(IndexError):
        compiled(vector(0), tr.tensor(9))
    assert box.n == 2 and len(box.log) == 2  # once each: by the plain Python that raised


def test_leaving_the_program_leaves_what_plain_python_would_have_left():
    box = Box(n=0)

    def f(x):
        box.n += 1
        sys.exit(3)

    for n in (1, 2):
        with pytest.raises(SystemExit) as left:
            tr.compile(f, fullgraph=True)(vector(0))
        assert left.value.code == 3 and box.n == n
