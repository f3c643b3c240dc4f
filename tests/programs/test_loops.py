"""Loops over values of tensors: those that close into native loops, and those that must come out right in any case."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)


def v(*xs):
    return tr.tensor([float(x) for x in xs])


STARTS = [(v(1, 2, 3),), (v(-1, -2, -3),), (v(50, 60, 70),), (v(1e-4, 0, 0),), (v(3e4, -1, 9),)]


# ------------------------------------------------------------------ loops that close


def halve(x):
    while (x * x).sum() > 1e-2:
        x = x * 0.5
    return x


def halve_and_count(x):
    n = 0
    while (x * x).sum() > 1e-2:
        x = x * 0.5
        n += 1
    return x, n


def either_way(x):
    while (x * x).sum() > 1e-2:
        x = x * 0.5 if x[0] > 0 else x * 0.25
    return x


def with_inner_if(x):
    ups = downs = 0
    while x.abs().max() > 0.1:
        if x[1] < x[2]:
            x = x * 0.5
            ups += 1
        elif x[0] > 0:
            x = x * 0.3
            downs += 1
        else:
            x = x * 0.7
    return x, ups - downs


def with_break(x):
    i = 0
    while x.abs().sum() > 1e-9:
        x = x * 0.5
        i += 1
        if i == 10:
            break
    return x, i


def with_continue(x):
    i = 0
    total = x * 0
    while i < 40:
        i += 1
        if x[0] + i < 5:
            continue
        total = total + x / i
    return total, i


def endless_but_for_a_break(x):
    steps = 0
    while True:
        x = x / 2
        steps += 1
        if x.abs().max() < 1e-3:
            break
    return x, steps


def newton(x):
    y = tr.abs(x) + 1
    while (tr.abs(y * y - tr.abs(x)) > 1e-5 * (1 + tr.abs(x))).any():
        y = 0.5 * (y + tr.abs(x) / y)
    return y


def two_variables(x):
    a, b = x[0], tr.abs(x[1]) + 2
    n = 0
    while a.abs() < 1e4 and n < 60:
        a, b = b, a + b
        n += 1
    return a, b, n


def tuple_is_carried(x):
    state = (x, x.sum() * 0)
    while state[0].abs().sum() > 0.1:
        y, t = state
        state = (y * 0.5, t + y.sum())
    return state


def float_is_carried(x):
    error = 1.0
    while error > 1e-3:
        x = x * 0.5
        error = x.abs().max().item()
    return x, error


def flag_is_carried(x):
    done = False
    n = 0
    while not done:
        x = x * 0.5
        n += 1
        done = bool(x.abs().max() < 0.25) or n > 30
    return x, n, done


def value_made_in_the_loop(x):
    while x.abs().max() > 1:
        scale = x.abs().max()
        x = x / (scale + 1)
    return x


def two_loops(x):
    while x.abs().max() > 1:
        x = x * 0.9
    n = 0
    while x.abs().max() > 0.01:
        x = x * 0.5
        n += 1
    return x, n


def nested_loops(x):
    rounds = 0
    while x.abs().max() > 0.5:
        y = x
        while y.abs().sum() > 1:
            y = y * 0.5
        x = x * 0.5 + y * 0.01
        rounds += 1
    return x, rounds


def range_of_a_value(x):
    n = (x.abs().max() % 97).item()
    y = x * 0
    for i in range(int(n)):
        y = y + x * i
    return y


def long_range(x):
    y = x
    for i in range(1000):
        y = y * 0.999 + i
    return y


def long_range_with_break(x):
    y = tr.abs(x)
    for i in range(500):
        y = y + y
        if y.sum() > 1e6:
            break
    return y, i


def sum_by_position(x):
    total = 0.0
    for i in range(100):
        total = total + x[i % 3] * i
    return total


def position_by_counter(x):
    wide = tr.concat([x] * 50)
    i = 0
    while wide[i] < 60 and i < 149:
        i += 1
    return i, wide[i]


def written_in_place(x):
    y = x.clone()
    n = 0
    while y.abs().max() > 0.1:
        y *= 0.5
        n += 1
    return y, n


def argument_written_in_place(x):
    while x.abs().max() > 0.1:
        x *= 0.5
    return x.sum()


def in_a_function(x):
    def shrink(y):
        while y.abs().max() > 1:
            y = y / 3
        return y

    return shrink(x) + shrink(x * 10)


CLOSED = [
    halve, halve_and_count, either_way, with_inner_if, with_break, endless_but_for_a_break, newton, two_variables,
    tuple_is_carried, float_is_carried, flag_is_carried, value_made_in_the_loop, two_loops, nested_loops, long_range,
    long_range_with_break, written_in_place, argument_written_in_place, in_a_function,
]  # fmt: skip


@pytest.mark.parametrize("program", CLOSED, ids=lambda f: f.__name__)
def test_loops_over_values_close(program):
    compiled = harness.compare(program, STARTS, most=4)
    assert any("while(" in str(t.graph) for t in compiled.traces)


@pytest.mark.parametrize(
    "program", [range_of_a_value, with_continue, sum_by_position, position_by_counter], ids=lambda f: f.__name__
)
def test_loops_that_mix_numbers_and_tensors(program):
    harness.compare(program, STARTS[:4], most=8)


@pytest.mark.parametrize("program", [halve_and_count, with_inner_if, nested_loops], ids=lambda f: f.__name__)
def test_loops_close_on_other_backends(program):
    harness.compare(program, STARTS, backend="reference")


def test_one_trace_serves_every_number_of_steps():
    compiled = tr.compile(halve_and_count, fullgraph=True)
    for k in range(1, 60):
        x = v(k, 2 * k, 1.5**k)
        harness.equal(compiled(x), halve_and_count(x))
    assert compiled.cache_info()["traces"] == 1


# ------------------------------------------------------------------ loops that need not close


class Box:
    n = 0


BOX = Box()


def hidden_iterator(x):
    for _ in [None] * 5:
        if x.sum() > 0:
            x = x * 0.5
    return x


def iterator_from_before(x):
    it = iter([1.0, 2.0, 3.0])
    while x.sum() > 1:
        x = x * 0.3 - next(it, 9.0)
    return x, list(it)


def appends(x):
    seen = []
    while x.abs().sum() > 1:
        x = x * 0.5
        seen.append(x[0])
    return seen


def counts_in_a_list(x):
    count = [0]
    while x.abs().sum() > 1:
        x = x * 0.5
        count[0] += 1
        if count[0] == 3:
            break
    return x, count


def counts_in_a_dict(x):
    count = {"n": 0}
    while x.abs().sum() > 1:
        x = x * 0.5
        count["n"] += 1
    return x, count


def changes_dtype(x):
    n = 0
    while x.abs().sum() > 1 and n < 5:
        x = x.astype("float64") * 0.5
        n += 1
    return x


def changes_shape(x):
    while x.shape[0] < 12 and x.abs().sum() > 1:
        x = tr.concat([x, x * 0.5])
    return x


def changes_kind(x):
    best = None
    while x.abs().sum() > 1:
        x = x * 0.5
        best = x.sum() if best is None else tr.maximum(best, x.sum())
    return best


def returns_inside(x):
    n = 0
    while n < 8:
        x = x * 0.5
        if x.abs().sum() < 1:
            return x, n
        n += 1
    return x, -1


def has_an_else(x):
    n = 0
    while x.abs().sum() > 1:
        x = x * 0.5
        n += 1
        if n == 6:
            break
    else:
        x = x + 100
    return x


def draws(x):
    n = 0
    while x.abs().sum() > 1 and n < 4:
        x = x * tr.rand(3)
        n += 1
    return x * 0 + n


def aliases(x):
    y = x.clone()
    z = y
    n = 0
    while y.abs().sum() > 1 and n < 6:
        y *= 0.5
        z = z + 0
        n += 1
    return y, z


def alias_from_outside(x):
    y = x.clone()
    first = y[0:1]
    total = y.sum() * 0
    n = 0
    while n < 5 and y.abs().sum() > 1:
        y *= 0.5
        total = total + first.sum()
        n += 1
    return total


def layers_by_number(x):
    weights = [x * 0.1, x * 0.2, x * 0.3]
    i = 0
    while i < 3:
        x = x * 0.5 + weights[i]
        i += 1
    return x


def writes_through_a_row(x):
    wide = tr.stack([x, x * 2, x * 3])
    i = 0
    while i < 3 and wide.abs().sum() > 0.5:
        row = wide[i]
        row *= 0.5
        i += 1
    return wide


def closure_of_the_variable(x):
    fs = []
    n = 0
    while x.abs().sum() > 1 and n < 3:
        x = x * 0.5
        fs.append(lambda: x)
        n += 1
    return [f() for f in fs]


def generator(x):
    def steps(y):
        while y.abs().sum() > 1:
            yield y
            y = y * 0.25

    return [y.sum() for y in steps(x)]


OPEN = [
    hidden_iterator, iterator_from_before, appends, counts_in_a_list, counts_in_a_dict, changes_dtype, changes_shape,
    changes_kind, returns_inside, has_an_else, aliases, alias_from_outside, writes_through_a_row, layers_by_number, generator,
]  # fmt: skip


@pytest.mark.parametrize("program", OPEN, ids=lambda f: f.__name__)
def test_other_loops_come_out_right(program):
    harness.compare(program, STARTS[:4])


def test_random_numbers_in_a_loop():
    compiled = tr.compile(draws, fullgraph=True)
    for (x,) in STARTS:
        tr.manual_seed(3)
        want = draws(x)
        tr.manual_seed(3)
        harness.equal(compiled(x), want)


def test_attributes_changed_in_a_loop():
    def f(x):
        box = Box()
        while x.abs().sum() > 1:
            x = x * 0.5
            box.n += 1
            if box.n == 10:
                break
        return x, box.n

    harness.compare(f, STARTS[:4])


def test_gradients_through_a_loop_are_those_of_its_steps():
    def f(w):
        n = 0
        while (w * w).sum() > 1:
            w = w * 0.5
            n += 1
        return w.sum()

    compiled = tr.compile(f, fullgraph=True)
    for start in (2.0, 3.0, 2.0, 9.0):
        grads = []
        for g in (f, compiled):
            w = v(start, 1.0).requires_grad_()
            g(w).backward()
            grads.append(w.grad)
        harness.equal(grads[1], grads[0])


def test_loops_inside_no_grad_close():
    net = tr.nn.Linear(3, 3)

    def f(x):
        with tr.no_grad():
            y, n = x, 0
            while y.abs().max() > 0.5 and n < 50:
                y = net(y) * 0.5
                n += 1
        return y, n

    harness.compare(f, STARTS, most=2)


def test_an_error_in_a_step_is_that_of_plain_python():
    def f(x):
        n = 0
        while x.abs().sum() > 1:
            x = x * 0.5
            n += 1
            if n == 4:
                raise RuntimeError(f"no end after {n} steps")
        return x

    harness.compare(f, STARTS[:4], raises=True)


def test_solvers():
    def bisect(low, high):
        while high - low > 1e-4:
            middle = (low + high) / 2
            if middle * middle * middle - middle - 2 > 0:
                high = middle
            else:
                low = middle
        return low

    harness.compare(bisect, [(tr.tensor(0.0), tr.tensor(3.0)), (tr.tensor(1.0), tr.tensor(2.0))], most=1)

    def conjugate_gradient(A, b):
        x = tr.zeros_like(b)
        r = b - A @ x
        p, rs = r, r @ r
        steps = 0
        while rs > 1e-6 and steps < 100:
            q = A @ p
            alpha = rs / (p @ q)
            x = x + alpha * p
            r = r - alpha * q
            new = r @ r
            p = r + (new / rs) * p
            rs = new
            steps += 1
        return x

    rng = np.random.default_rng(0)
    M = rng.standard_normal((12, 12)).astype(np.float32)
    A = tr.tensor(M @ M.T + 12 * np.eye(12, dtype=np.float32))
    calls = [(A, tr.tensor(rng.standard_normal(12).astype(np.float32))) for _ in range(3)]
    compiled = tr.compile(conjugate_gradient, fullgraph=True)
    for A, b in calls:
        np.testing.assert_allclose(compiled(A, b).numpy(), conjugate_gradient(A, b).numpy(), rtol=1e-3, atol=1e-4)
    assert compiled.cache_info()["traces"] == 1
