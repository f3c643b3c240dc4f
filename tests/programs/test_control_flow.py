"""Programs whose way depends on the values of tensors: compiled whole, and equal to plain Python."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

_spec = importlib.util.spec_from_file_location("programs_harness", Path(__file__).with_name("harness.py"))
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)


def v(*xs):
    return tr.tensor([float(x) for x in xs])


SIGNS = [(v(1, 2, 3),), (v(-1, -2, -3),), (v(0, 0, 0),), (v(5, -1, 2),), (v(math.nan, 1, 1),)]


# ------------------------------------------------------------------ truth


def if_else(x):
    if x.sum() > 0:
        return x * 2
    else:
        return x - 1


def if_without_else(x):
    y = x + 1
    if y.max() > 3:
        y = y * 10
    return y


def nested(x):
    if x.sum() > 0:
        if x[0] > x[1]:
            return x * 2
        return x * 3
    elif x[2] < -2:
        return x - 5
    return x


def ternary(x):
    return x * 2 if x[0] > 0 else -x if x[1] > 0 else x + 7


def conjunction(x):
    if x[0] > 0 and x[1] > 0 and x[2] > 0:
        return x.sum()
    return x.prod()


def disjunction(x):
    return x[0] if x[0] > 4 or x[1] < 0 or not x[2] else x[1]


def negation(x):
    return x + 1 if not x.sum() else x - 1


def value_of_and(x):
    return (x[0] and x[1]) or x[2] + 3


def chained_comparison(x):
    return x * 2 if 0 < x[0] <= 5 else x * 3


def asserts(x):
    assert x.sum() > -5, "too small"
    return tr.sqrt(tr.abs(x))


def raises(x):
    if x[0] < 0:
        raise ValueError(f"negative start, shape {x.shape}")
    return x.log1p()


def caught(x):
    try:
        if x[0] < 0:
            raise KeyError("low")
        y = x * 2
    except KeyError:
        y = x * 3
    finally:
        z = y + 1
    return z


def early_return_in_loop(x):
    for i in range(4):
        if x.sum() > 10:
            return x, i
        x = x * 2
    return x, -1


def break_and_continue(x):
    out = x * 0
    for i in range(5):
        if x[0] + i < 0:
            continue
        out = out + x * i
        if out.sum() > 8:
            break
    else:
        out = out - 1
    return out


def short_while(x):
    n = 0
    while x.sum() < 20 and n < 6:
        x = x * 2 + 1
        n += 1
    return x, n


def matched(x):
    match int(x[0]):
        case 0:
            return x
        case 1 | 2:
            return x * 2
        case n if n < 0:
            return x - n
        case _:
            return x + 100


def bool_call(x):
    return x + bool(x[1] > 0) * 3


def flag_is_kept(x):
    positive = bool((x > 0).all())
    y = x.exp() if positive else x
    return y * 2 if positive else y / 2


def same_question_twice(x):
    a = x.sum() > 0
    y = x * 2 if a else x
    return y + 1 if a else y - 1


def all_and_any(x):
    if (x > 0).all():
        return x.log()
    if (x > 0).any():
        return tr.where(x > 0, x, 0)
    return -x


def picks_a_function(x):
    f = tr.exp if x[0] > 0 else tr.sin
    return f(x)


def inner_function(x):
    def shrink(y):
        return y / 2 if y.abs().max() > 2 else y

    return shrink(shrink(x))


def recursion(x):
    def halve(y, depth):
        if depth == 4 or not y.abs().sum() > 1:
            return y, depth
        return halve(y / 2, depth + 1)

    return halve(x, 0)


def writes_in_a_branch(x):
    if x[0] > 0:
        x[1] = 9
    else:
        x += 1
    return x.sum()


def comprehension_with_test(x):
    return [t * 2 for t in x if t > 0]


def count_true(x):
    return sum(1 for t in x if t > 0)


def sorted_by_value(x):
    a, b = x[0], x[1]
    if a > b:
        a, b = b, a
    return tr.stack([a, b])


def maximum_of_tensors(x):
    return max(x[0], x[1], x[2])


BRANCHES = [
    if_else, if_without_else, nested, ternary, conjunction, disjunction, negation, value_of_and, chained_comparison,
    asserts, raises, caught, early_return_in_loop, break_and_continue, short_while, matched, bool_call, flag_is_kept,
    same_question_twice, all_and_any, picks_a_function, inner_function, recursion, writes_in_a_branch,
    comprehension_with_test, count_true, sorted_by_value, maximum_of_tensors,
]  # fmt: skip


# ------------------------------------------------------------------ numbers


def item_is_returned(x):
    return x.sum().item(), x.mean()


def item_in_math(x):
    s = x.sum().item()
    return x * s + s / 2 - 1.5


def item_as_weight(x):
    w = float(x[0]) * 0.5
    return tr.exp(x * w), w


def counts(x):
    n = (x > 0).sum().item()
    return n * 2 + 1, x * n


def mean_of_positive(x):
    n = (x > 0).sum().item()
    if n == 0:
        return x.sum()
    return tr.where(x > 0, x, 0).sum() / n


def division_of_items(x):
    try:
        return x * (x[0].item() / x[1].item())
    except ZeroDivisionError:
        return x


def compares_items(x):
    a, b = x[0].item(), x[1].item()
    return x if a < b else x * 2 if a == b else x * 3


def item_or_default(x):
    return x / (x.sum().item() or 1.0)


def int_of_a_float(x):
    n = int(x[0].item())
    return x * n, n


def rounds_items(x):
    return round(x[0].item()), math.floor(x[1].item()), math.ceil(x[2].item()), abs(x[0].item())


def uses_math(x):
    a = abs(x[0].item()) + 1.0
    return x * math.sqrt(a), math.exp(-a), math.isnan(a)


def index_by_value(x):
    i = int(x.argmax())
    return x[i], i


def index_by_tensor(x):
    return x[x.argmin()] * 2


def slice_by_value(x):
    n = int((x > 0).sum())
    return x[:n], x[n:]


def range_by_value(x):
    y = x
    for i in range(int((x > 0).sum())):
        y = y * 2 + i
    return y


def shape_by_value(x):
    return tr.zeros(int((x > 0).sum()), 2) + x[0]


def items_in_a_list(x):
    values = [t.item() for t in x]
    return values, sum(values)


def bool_item(x):
    return (x[0] > 0).item(), (x > 0).all().item()


def int_tensor_items(n):
    k = n[0].item()
    return k + 1, k * 2 - n[1].item(), n * k, k / 4


def int_tensor_steers(n):
    k = n[0].item()
    return n + 1 if k % 2 == 0 else n * k


def float_argument_steers(x, p):
    return x * p if p > 0.5 else x + p


def dictionary_by_value(x):
    table = {0: "none", 1: "one", 2: "two"}
    return table.get(int((x > 0).sum()), "many")


def clipped_norm(x):
    norm = x.norm().item() if hasattr(x, "norm") else float(tr.sqrt((x * x).sum()))
    return x / norm * 2.0 if norm > 2.0 else x


NUMBERS = [
    item_is_returned, item_in_math, item_as_weight, counts, mean_of_positive, division_of_items, compares_items,
    item_or_default, rounds_items, uses_math, index_by_value, index_by_tensor, slice_by_value, range_by_value,
    shape_by_value, items_in_a_list, bool_item, dictionary_by_value, clipped_norm,
]  # fmt: skip


@pytest.mark.parametrize("program", BRANCHES, ids=lambda f: f.__name__)
def test_programs_that_branch_on_values(program):
    calls = SIGNS
    if program in (matched, sorted_by_value):  # an int of NaN, an order of NaN
        calls = SIGNS[:-1]
    harness.compare(program, calls, most=12, raises=program in (asserts, raises))


@pytest.mark.parametrize("program", NUMBERS, ids=lambda f: f.__name__)
def test_programs_that_take_numbers_out_of_tensors(program):
    calls = SIGNS[:-1] if program not in (item_is_returned, item_in_math, counts, bool_item) else SIGNS
    harness.compare(program, calls, most=12)


@pytest.mark.parametrize("program", [int_tensor_items, int_tensor_steers], ids=lambda f: f.__name__)
def test_programs_that_take_integers_out_of_tensors(program):
    harness.compare(program, [(tr.tensor([k, 7 - k]),) for k in (1, 2, 3, 2**40)], most=8)


def test_float_arguments_may_steer():
    calls = [(v(1, 2), p) for p in (0.1, 0.2, 0.6, 0.9, 0.5)]
    compiled = harness.compare(float_argument_steers, calls, most=2)
    assert compiled.cache_info()["misses"] == 2


def test_integers_that_do_not_fit_are_left_to_python():
    def doubled(n):
        k = n[0].item()
        return k * 4 + k

    compiled = tr.compile(doubled, fullgraph=True)
    for k in (5, 2**40, 2**62):
        assert compiled(tr.tensor([k])) == 5 * k


@pytest.mark.parametrize(
    "program", [if_else, nested, item_in_math, range_by_value, short_while], ids=lambda f: f.__name__
)
def test_other_backends_ask_too(program):
    harness.compare(program, SIGNS[:-1], backend="reference")


def test_only_the_new_part_of_another_branch_is_compiled():
    def f(x):
        y = tr.exp(x) @ x
        return y * 2 if y > 1 else y - 1

    compiled = tr.compile(f, fullgraph=True)
    compiled(v(1, 2))
    (first,) = compiled.traces
    compiled(v(-1, -2))
    second = compiled.traces[1]
    assert first.above[0][0] is second.above[0][0]
    for t in compiled.traces:
        assert "exp" not in str(t.rest) and "matmul" not in str(t.rest)


def test_a_branch_that_was_seen_is_taken_in_native_code():
    compiled = tr.compile(nested, fullgraph=True)
    for (x,) in SIGNS[:-1] * 3:
        compiled(x)
    python = []
    compiled._miss = lambda *args: python.append(args)
    for (x,) in SIGNS[:-1]:
        harness.equal(compiled(x), nested(x))
    assert not python


def test_guards_of_one_branch_do_not_concern_the_other():
    class Scale:
        a = 1.0

    scale = Scale()
    scale.a = 2.0

    def f(x):
        if x.sum() > 0:
            return x * scale.a
        return x - 1

    compiled = tr.compile(f, fullgraph=True)
    compiled(v(1, 1))
    compiled(v(-1, -1))
    scale.a = 5.0
    misses = compiled.cache_info()["misses"]
    harness.equal(compiled(v(-1, -1)), v(-2, -2))
    assert compiled.cache_info()["misses"] == misses
    harness.equal(compiled(v(1, 1)), v(5, 5))
    harness.equal(compiled(v(1, 1)), v(5, 5))
    assert compiled.cache_info()["misses"] == misses + 1


def test_gradients_through_branches():
    def loss(w, x):
        y = w * x
        if y.sum() > 0:
            return (y * y).sum()
        return y.abs().sum()

    compiled = tr.compile(loss, fullgraph=True)
    for x in (v(1, 2), v(-1, -2), v(3, 4)):
        grads = []
        for f in (loss, compiled):
            w = v(0.5, 0.25).requires_grad_()
            f(w, x).backward()
            grads.append(w.grad)
        harness.equal(grads[1], grads[0])


def test_a_whole_training_step_with_a_branch():
    def make():
        tr.manual_seed(0)
        net = tr.nn.Linear(3, 2)
        opt = tr.optim.SGD(net.parameters(), lr=0.1)

        def step(x):
            loss = (net(x) ** 2).mean()
            if loss > 0.2:  # clipped differently
                (loss * 0.5).backward()
            else:
                loss.backward()
            opt.step()
            opt.zero_grad()
            return loss.item()

        return net, step

    (plain_net, plain), (net, step) = make(), make()
    compiled = tr.compile(step, fullgraph=True)
    for k in range(12):
        x = tr.tensor(np.random.default_rng(k).standard_normal((4, 3)).astype(np.float32))
        harness.equal(compiled(x), plain(x))
    harness.equal(net.weight, plain_net.weight)
    assert len(compiled.traces) == 2


def test_too_many_answers_end_in_plain_python_with_a_reason():
    def f(x):
        return x * len([x] * int(x[0]))

    compiled = tr.compile(f)
    with pytest.warns(tr.CaptureWarning, match="values already"):
        for k in range(40):
            harness.equal(compiled(v(k, 1)), v(k * k, k))


def test_sizes_may_change_in_functions_that_branch_and_loop():
    def f(x):
        y = x * 2
        if y.sum() > 0:
            return y + y.shape[0]
        n = 0
        while y.sum() < -1:
            y = y * 0.5
            n += 1
        return y - n

    calls = [(tr.full((n,), value),) for n in (34, 21, 13, 4, 8, 26) for value in (1.0, -0.01, -2.0)]
    harness.compare(f, calls, most=4)
