"""Programs that print, log, warn and make text."""

import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Point, Programs, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


@program()
def prints_around_a_write():
    total = tr.zeros(3)

    def f(x):
        print(total)
        total.add_(x)
        print(total, total.sum())
        x.mul_(2)
        print(x)
        return total

    return f, total


@program(arguments=lambda i: (vector(i), 0.1 * i))
def numbers_among_the_arguments_are_kept_and_printed():
    box = Box(rates=[])

    def f(x, lr):
        box.rates.append(lr)
        print(f"lr={lr:.3f} {lr * 2:.2f}")
        box.last = lr
        return x * lr

    return f, box


@program(arguments=lambda i: (np.arange(3.0) + i,))
def numpy_arrays_are_kept_and_printed():
    box = Box(a=None)

    def f(x):
        y, s = x * 2, x.sum()
        print(y, s, f"{s:.2f}")
        box.a, box.s = y, s
        return s

    return f, box


@program()
def prints_values():
    def f(x):
        print("hello", x, x.sum(), 3, sep="|", end=".\n")
        y = x * 2
        print(f"{y.sum():.3f} {x!r} {'static':>8} {[x[0], 1]} {{}}")
        y += 1
        print("{:.2f} {k}".format(y.sum(), k=x), "%.1f%%" % y.sum())
        return y

    return f, None


@program()
def text_in_attributes_and_results():
    box = Box(text="", n=0)

    def f(x):
        box.n += 1
        box.text = f"step {box.n}: " + str(x.sum())
        return {"message": box.text + "!", "joined": ", ".join([str(x), f"{box.n:03d}"])}

    return f, box


@program()
def debug_prints():
    def f(x):
        tr.debug_print("x={} {k:.2f}", x, k=x.sum())
        return x

    return f, None


@program()
def logs_and_warns():
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append((record.getMessage(), record.levelname, record.funcName, record.lineno))

    logger = logging.Logger("test")
    logger.addHandler(Keep())

    def f(x):
        logger.info("sum %s of %d", x.sum(), 3)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(f"{x}")
        return x

    return f, records


@program()
def objects_that_print_themselves():
    class Named:
        def __init__(self, x):
            self.x = x

        def __repr__(self):
            return f"Named({self.x.sum():.2f})"

    def f(x):
        print(Named(x), [Named(x)], Point(x[0], 3), f"{Named(x)!r:>20}")
        return x

    return f, None


@program()
def prints_in_order_with_effects():
    box = Box(n=0)

    def f(x):
        for i in range(2):
            box.n += i
            print("n is", box.n, x[i])
        return x

    return f, box


def test_warnings_name_the_users_line():
    def f(x):
        warnings.warn("careful")
        return x

    compiled = tr.compile(f, fullgraph=True)
    for _ in range(2):
        with pytest.warns(UserWarning, match="careful") as caught:
            compiled(vector(0))
        assert caught[0].filename == __file__ and caught[0].lineno == f.__code__.co_firstlineno + 1
