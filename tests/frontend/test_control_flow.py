"""cond, while_loop, fori_loop, scan and map: eager, compiled, exported, and refused."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tracefuse.frontend.introspect import native_of

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from control_helpers import both, numbers, same  # noqa: E402

# ------------------------------------------------------------------ values


@pytest.mark.parametrize("positive", [True, False])
def test_cond(positive):
    def f(p, x):
        return tr.cond(
            p.sum() > 0, lambda x, k: {"a": x * 2, "b": (k, None)}, lambda x, k: {"a": -x, "b": (k + 1, None)}, x, 3
        )

    p = tr.ones(2) if positive else -tr.ones(2)
    out = both(f, p, numbers(4))
    assert int(out["b"][0]) == (3 if positive else 4) and out["b"][1] is None


def test_a_branch_that_is_not_taken_does_not_run():
    def f(x):
        return tr.cond(x.sum() > 0, lambda: tr.log(x), lambda: x)

    same(both(f, tr.tensor([-1.0, -2.0])), tr.tensor([-1.0, -2.0]))
    seen = []
    tr.cond(tr.tensor(True), lambda: seen.append("yes") or 0, lambda: seen.append("no") or 0)
    assert seen == ["yes"]


def test_predicates_may_be_numbers():
    f = lambda k, x: tr.cond(k, lambda: x + 1, lambda: x - 1)  # noqa: E731
    x = numbers(3)
    for k in (tr.tensor(2), tr.tensor(0.0), tr.tensor(True)):
        both(f, k, x)
    same(tr.compile(f, fullgraph=True)(0, x), x - 1)  # a number of Python's: one branch is all there is


def test_while_loop_against_numpy():
    def f(x, c):
        return tr.while_loop(lambda x: (x * x).sum() > c, lambda x: x * 0.5, x)

    x, c = numbers(16), tr.tensor(0.01)
    out = both(f, x, c)
    want = x.numpy()
    while (want * want).sum() > 0.01:
        want = want * np.float32(0.5)
    np.testing.assert_array_equal(out.numpy(), want)


def test_while_loop_with_several_values_and_with_one_nested_one():
    def several(x, n):
        return tr.while_loop(lambda k, x: k < n, lambda k, x: (k + 1, x * x + k), 0, x)

    def nested(x, n):
        def step(c):
            return {"k": c["k"] + 1, "x": [c["x"][0] + c["k"]]}

        return tr.while_loop(lambda c: c["k"] < n, step, {"k": 0, "x": [x]})

    x, n = numbers(3), tr.tensor(5)
    k, _ = both(several, x, n)
    assert int(k) == 5
    out = both(nested, x, n)
    same(out["x"][0], x + 10)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_against_torch(reverse):
    def f(h, xs, w):
        def step(h, x):
            h = tr.tanh(h @ w + x["a"])
            return h, (h.sum(), x["b"] * 2)

        return tr.scan(step, h, xs, reverse=reverse)

    h, w = numbers(2, 4), numbers(4, 4, seed=1)
    xs = {"a": numbers(6, 2, 4, seed=2), "b": tr.arange(6)}
    last, (sums, doubled) = both(f, h, xs, w)
    state, found = torch.tensor(h.numpy()), []
    order = range(5, -1, -1) if reverse else range(6)
    for i in order:
        state = torch.tanh(state @ torch.tensor(w.numpy()) + torch.tensor(xs["a"].numpy()[i]))
        found.append(state.sum())
    found = found[::-1] if reverse else found
    np.testing.assert_allclose(last.numpy(), state.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums.numpy(), torch.stack(found).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(doubled.numpy(), np.arange(6) * 2)


def test_scan_without_rows_and_without_steps():
    def f(x):
        carry, ys = tr.scan(lambda c, _: (c * 2, (c, None)), x, None, length=3)
        nothing = tr.scan(lambda c, r: (c + r, c * 2), x, tr.zeros(0, 3))
        return carry, ys, nothing

    x = numbers(3)
    carry, ys, (unchanged, none) = both(f, x)
    same(carry, x * 8)
    same(unchanged, x)
    assert ys[1] is None and none.shape == (0, 3)


def test_fori_loop_and_map():
    x = numbers(5)
    out = both(lambda x: tr.fori_loop(2, 6, lambda i, c: c * x + i, tr.zeros(5)), x)
    want = np.zeros(5, np.float32)
    for i in range(2, 6):
        want = want * x.numpy() + i
    np.testing.assert_allclose(out.numpy(), want, rtol=1e-5)
    same(both(lambda x: tr.fori_loop(3, 3, lambda i, c: c + i, x), x), x)
    bounded = lambda x, n: tr.fori_loop(0, n, lambda i, c: c + x[i], tr.tensor(0.0))  # noqa: E731
    same(both(bounded, x, tr.tensor(3)), x[:3].sum())
    squares = both(lambda x: tr.map(lambda r: {"s": (r * r).sum()}, x), numbers(4, 3))
    same(squares["s"], (numbers(4, 3) ** 2).sum(axis=1))


class Point(NamedTuple):
    x: tr.Tensor
    y: tr.Tensor


@dataclass
class State:
    position: Point
    count: tr.Tensor


def test_records_are_carried():
    def f(x, y):
        def step(s, _):
            p = s.position
            return State(Point(p.y, p.x + p.y), s.count + 1), p

        return tr.scan(step, State(Point(x, y), tr.tensor(0)), None, length=10)

    s, ys = f(tr.tensor(0), tr.tensor(1))
    c, cs = tr.compile(f, fullgraph=True)(tr.tensor(0), tr.tensor(1))
    assert int(s.position.x) == int(c.position.x) == 55 and int(c.count) == 10
    assert type(cs) is Point and cs.x.tolist() == ys.x.tolist() == [0, 1, 1, 2, 3, 5, 8, 13, 21, 34]


def test_control_flow_nests():
    def f(x, n):
        def outer(i, a):
            def inner(j, b):
                return tr.cond(b.sum() > 10, lambda b: b * 0.5, lambda b: b + j.astype(tr.float32), b)

            return tr.fori_loop(0, i + 1, inner, a)

        return tr.fori_loop(0, n, outer, x)

    both(f, numbers(4), tr.tensor(7))

    def loop_in_cond(p, x):
        def go(x):
            return tr.while_loop(lambda x: x.sum() < 100, lambda x: x * 2 + 1, x)

        return tr.cond(p, go, lambda x: -x, x)

    for p in (True, False):
        both(loop_in_cond, tr.tensor(p), tr.arange(4.0))


def test_writes_and_views_inside_of_bodies():
    def f(x, xs):
        def step(c, r):
            c = c.clone()
            c[0] = r.sum()
            row = c[1:]
            row += 1
            made = tr.zeros(3)
            made[1] = c[2]
            return c, made

        return tr.scan(step, x, xs)

    both(f, numbers(4), numbers(3, 2))


def with_writes(f, tensors, *args):
    """f(*args), and what it leaves in `tensors`, eagerly and compiled, twice each."""
    found = []
    for g in (f, tr.compile(f, fullgraph=True)):
        for t in tensors:
            t.mul_(0)
        tr.manual_seed(0)
        found.append([(g(*args), [t.clone() for t in tensors]) for _ in range(2)])
    for (got, left), (want, kept) in zip(found[1], found[0]):
        same(got, want)
        same(left, kept)


def test_writes_into_tensors_from_outside():
    total, count = tr.zeros(3), tr.tensor(0)

    def scanned(xs):
        def step(c, r):
            total.add_(r)
            total[0] = c
            return c + total.sum(), total * 2

        return tr.scan(step, tr.tensor(0.0), xs)

    def counted(n):
        def step(k):
            count.add_(k)
            return k + 1

        return tr.while_loop(lambda k: k < n, step, 0)

    def branched(p):
        def yes():
            total.add_(1)
            return total * 2

        def no():
            count.add_(1)
            return total - 1

        return tr.cond(p, yes, no)

    def nested(xs):
        def outer(c, r):
            def inner(i, k):
                total.add_(r)
                return k + total[0]

            return tr.fori_loop(0, 2, inner, c), None

        return tr.scan(outer, tr.tensor(0.0), xs)[0]

    with_writes(scanned, [total], numbers(4, 3))
    with_writes(counted, [count], tr.tensor(5))
    with_writes(branched, [total, count], tr.tensor(True))
    with_writes(branched, [total, count], tr.tensor(False))
    with_writes(nested, [total], numbers(4, 3))


def test_random_numbers_and_running_statistics_in_bodies():
    with_writes(lambda x: tr.scan(lambda c, _: (c + tr.rand(3), tr.randn(2)), x, None, length=3), [], tr.zeros(3))
    yes = tr.tensor(True)
    with_writes(lambda x: (tr.cond(yes, lambda: x + tr.rand(3), lambda: x), tr.rand(2)), [], tr.zeros(3))
    bn = nn.BatchNorm1d(3)
    with_writes(
        lambda xs: tr.scan(lambda c, r: (c + (bn(r) ** 2).sum(axis=0), None), tr.zeros(3), xs)[0],
        [bn.running_mean, bn.running_var],
        numbers(4, 5, 3),
    )
    with pytest.raises(RuntimeError, match="draws random numbers under vmap"):
        tr.vmap(lambda x: tr.cond(x.sum() > 0, lambda: x + tr.rand(3), lambda: x))(tr.ones(2, 3))


def test_writes_that_a_graph_does_not_hold_end_the_capture():
    total = tr.zeros(3)
    part = total[:2]

    def f(xs):
        def step(c, r):
            c = c + part.sum()
            total.add_(r)
            return c, None

        return tr.scan(step, tr.tensor(0.0), xs)[0]

    with pytest.raises(tr.CaptureError, match=r"test_control_flow.py:\d+: .*shares memory with another one"):
        tr.compile(f, fullgraph=True)(tr.ones(2, 3))
    with pytest.warns(tr.CaptureWarning):
        assert float(tr.compile(f)(tr.ones(2, 3))) == 2

    def test(k):
        total.add_(1)
        return k < 3

    with pytest.raises(tr.CaptureError, match="cond_fn of a while_loop writes"):
        tr.compile(lambda: tr.while_loop(test, lambda k: k + 1, 0), fullgraph=True)()


def test_asking_for_a_value_ends_the_capture():
    f = lambda x: tr.scan(lambda c, r: (c + 1 if r.sum() > 0 else c, None), tr.tensor(0), x)[0]  # noqa: E731
    with pytest.raises(tr.CaptureError, match="asks for the value of a tensor"):
        tr.compile(f, fullgraph=True)(tr.ones(2, 3))
    with pytest.warns(tr.CaptureWarning):
        assert int(tr.compile(f)(tr.ones(2, 3))) == 2


def test_a_bad_index_in_a_body_fails_the_call_and_changes_nothing():
    def f(x, ks, total):
        total += tr.fori_loop(0, 3, lambda i, c: c + x[ks[i]], tr.tensor(0.0))
        return total

    compiled, total, x = tr.compile(f, fullgraph=True), tr.zeros(1), tr.arange(4.0)
    for _ in range(3):
        compiled(x, tr.tensor([1, 2, -1]), total)
    assert total.tolist() == [18]
    with pytest.raises(IndexError, match="index 4 is out of bounds"):
        compiled(x, tr.tensor([1, 4, 0]), total)
    assert total.tolist() == [18]


# ------------------------------------------------------------------ programs


def test_programs_hold_loops(tmp_path):
    w = numbers(3, seed=4)

    def f(x, xs):
        c, ys = tr.scan(lambda c, r: (tr.cond(c.sum() > 0, lambda: c * w, lambda: c + r), c), x, xs)
        return tr.while_loop(lambda x: x.sum() < 5, lambda x: x + 1, c), ys

    x, xs = numbers(3), numbers(4, 3, seed=1)
    tr.export(f, (x, xs)).save(tmp_path / "f.tfx")
    loaded = tr.load(tmp_path / "f.tfx")
    same(loaded(x, xs), f(x, xs))


def test_programs_with_loops_of_dynamic_length(tmp_path):
    f = lambda x, xs: tr.scan(lambda c, r: (c + r.sum(), r * 2), x, xs)  # noqa: E731
    program = tr.export(f, (numbers(2), numbers(4, 3)), dynamic={"xs": {0: "steps", 1: "width"}})
    program.save(tmp_path / "f.tfx")
    loaded = tr.load(tmp_path / "f.tfx")
    for steps, width in ((4, 3), (9, 2)):
        args = numbers(2), numbers(steps, width)
        same(loaded(*args), f(*args))


# ------------------------------------------------------------------ errors

ERRORS = {
    "cond: the predicate must be one truth value, not bool[3]": lambda x: tr.cond(x > 0, lambda: 1, lambda: 2),
    "true_fn returns f32[3], false_fn f32[]": lambda x: tr.cond(x.sum() > 0, lambda: x, lambda: x.sum()),
    "true_fn returns (f32[3], f32[3]), false_fn [f32[3]]": lambda x: tr.cond(
        x.sum() > 0, lambda: (x, x), lambda: [x]
    ),
    "the carried value init is i64[], but the function makes it f32[]": lambda x: tr.while_loop(
        lambda c: c < 3, lambda c: c + 0.5, 0
    ),
    "the carried value init[0] is f32[3], but the function makes it f32[1, 3]": lambda x: tr.while_loop(
        lambda c, k: k < 3, lambda c, k: (c[None], k + 1), x, 0
    ),
    "cond_fn must return one truth value, not bool[3]": lambda x: tr.while_loop(lambda c: c < 3, lambda c: c + 1, x),
    "the carried value init['a'] is f32[3], but the function makes it f64[3]": lambda x: tr.scan(
        lambda c, r: ({"a": c["a"].astype("float64")}, None), {"a": x}, x
    ),
    "the carried values are (f32[3], f32[3]), but the function returns f32[3]": lambda x: tr.scan(
        lambda c, r: (c[0], None), (x, x), x
    ),
    "scan: the function must return (carry, y), not a Tensor": lambda x: tr.scan(lambda c, r: c, x, x),
    "the numbers of rows differ: xs[0]: f32[3], xs[1]: f32[2]": lambda x: tr.scan(lambda c, r: (c, r), 0, (x, x[1:])),
    "the numbers of rows differ: xs: f32[3]; length=2": lambda x: tr.scan(lambda c, r: (c, r), 0, x, length=2),
    "scan: without xs it needs length=": lambda x: tr.scan(lambda c, r: (c, r), x),
    "xs is f32[], which has no first axis to go along": lambda x: tr.scan(lambda c, r: (c, r), x, x.sum()),
    "length=-1 is no number of steps": lambda x: tr.scan(lambda c, r: (c, r), x, length=-1),
    "cond: the result of true_fn": lambda x: tr.cond(x.sum() > 0, lambda: "a", lambda: "b"),
}  # fmt: skip


@pytest.mark.parametrize("message", ERRORS)
def test_errors_say_where_and_what(message):
    f, x = ERRORS[message], tr.ones(3)
    if "true_fn returns" not in message:  # which only shows where both are traced
        with pytest.raises((TypeError, ValueError)) as caught:
            f(x)
        assert message in str(caught.value) and "test_control_flow.py:" in str(caught.value)
    with pytest.raises((TypeError, ValueError, tr.CaptureError)) as captured:
        tr.compile(f, fullgraph=True)(x)
    assert message in str(captured.value) and "test_control_flow.py:" in str(captured.value)


def test_rows_of_one_type():
    kinds = iter(("float32", "float64"))
    with pytest.raises(TypeError, match="y is f32.2. in one step and f64.2. in another"):
        tr.scan(lambda c, r: (c, r.astype(next(kinds))), 0, tr.ones(2, 2))


def test_no_values():
    with pytest.raises(TypeError, match="at least one value"):
        tr.while_loop(lambda: True, lambda: None)


# ------------------------------------------------------------------ what compiled code looks like


def test_explain_shows_loops_and_branches():
    f = lambda x: tr.scan(lambda c, r: (tr.cond(r.sum() > 0, lambda: c * 2, lambda: -c), c), x[0], x)  # noqa: E731
    text = tr.explain(f, numbers(4, 3)).summary()
    assert "1 loops and branches" in text
    assert "natively: scan(f32[3], f32[4, 3])  test_control_flow.py:" in text
    assert "natively: cond(" in text and "body:   true: mul" in text


def test_calls_of_loops_are_native():
    f = tr.compile(lambda x: tr.while_loop(lambda x: x.sum() < 10, lambda x: x * 2, x), fullgraph=True)
    for _ in range(3):
        f(tr.ones(3))
    assert tr.explain(f).traces[0].entry == "native"
    assert native_of(f.traces[0].executable).plan.control_steps
