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


@program()
def chained_and_raised_again():
    log = []

    def f(x):
        try:
            try:
                raise ValueError("a", 3)
            except ValueError as e:
                raise KeyError("b") from e
            finally:
                log.append("finally")
        except KeyError as e:
            log.append((str(e), type(e.__cause__).__name__))
        try:
            try:
                raise ValueError("c", 2)
            except ValueError:
                raise
        except (ValueError, TypeError) as e:
            return x * e.args[1]

    return f, log


@program(traces=2, n=8)
def raises_for_some_values_and_catches():
    class Large(Exception):
        def __init__(self, value):
            super().__init__("large")
            self.value = value

    def checked(x):
        if x[0] > 3:
            raise Large(x * 2)
        return x

    def f(x):
        try:
            y = checked(x)
        except Large as e:
            y = e.value + 1
        else:
            y = y - 1
        finally:
            y = y * 1
        return y

    return f, None


@program(fails=True, n=4)
def raises_for_some_values():
    box = Box(n=0, log=[], total=tr.zeros(3))

    def f(x):
        box.n += 1
        box.log.append(box.n)
        box.total += x
        print("before", box.n)
        if x[0] > 2:
            raise ValueError(f"too large: {x.shape}")
        box.n += 1
        return x

    return f, box


@program(fails=True, n=2)
def an_index_of_a_list_that_is_not_there():
    box = Box(n=0)

    def f(x):
        box.n += 1
        return [1][3] * x

    return f, box


@program(fails=True, n=2)
def shapes_that_do_not_fit():
    return lambda x: x @ tr.zeros(4, 4), None


@program()
def early_ways_out_of_finally_and_loops():
    log = []

    def inner(x, n):
        for i in range(3):
            try:
                if i == n:
                    return x * i
                if i == 2:
                    break
                continue
            finally:
                log.append(i)
        return x

    return lambda x: inner(x, 0) + inner(x, 1) + inner(x, 5), log


@program()
def generators_that_are_closed_and_thrown_into():
    log = []

    def values(x):
        try:
            yield x
            yield x * 2
        except ValueError:
            yield x * 3
        finally:
            log.append("closed")

    def f(x):
        it = values(x)
        first, second = next(it), it.throw(ValueError("stop"))
        it.close()
        try:
            next(it)
        except StopIteration:
            log.append("ended")
        return first + second

    return f, log


@program()
def errors_of_builtins_that_are_caught():
    def f(x):
        found = []
        for broken in (lambda: int("a"), lambda: {}["k"], lambda: [][0], lambda: None.a, lambda: 1 / 0, lambda: len(3)):
            try:
                broken()
            except Exception as e:
                found.append(f"{type(e).__name__}: {e}")
        return x, found

    return f, None


@program()
def contexts_of_the_standard_library():
    log = []

    @contextlib.contextmanager
    def noted(name):
        log.append(name)
        yield name
        log.append("out")

    def f(x):
        with contextlib.suppress(KeyError), noted("a") as a:
            log.append(a)
            raise KeyError
        with contextlib.nullcontext(4) as k:
            return x * k

    return f, log


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
