"""Which tensors and objects are one, or share memory: in arguments, results and what is kept."""

import sys
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, described, vector  # noqa: E402

program = Programs()


@pytest.mark.parametrize("case", program, ids=str)
def test_compiled_programs_equal_plain_python(case):
    case.check()


@program(arguments=lambda i: (vector(i, 5)[1:4],))
def writes_into_a_view_that_is_an_argument():
    def f(x):
        x.add_(1)
        return x * 2

    return f, None


def test_results_with_a_history_are_kept():
    w, box = tr.tensor([1.0, 2.0, 3.0], requires_grad=True), Box(loss=None)

    def f(x):
        box.loss = (w * x).sum()
        return x

    compiled, want = tr.compile(f, fullgraph=True), np.zeros(3)
    for i in range(3):
        compiled(vector(i))
        box.loss.backward()
        want += np.asarray(vector(i))
        np.testing.assert_allclose(w.grad.numpy(), want)


def test_what_is_kept_shares_storage_as_in_plain_python():
    box = Box()

    def f(x):
        y = x * 2
        box.v, box.x, box.w, box.y = x[1:], x, y[:2], y
        return y

    compiled = tr.compile(f, fullgraph=True)
    for _ in range(3):
        x = vector(0)
        y = compiled(x)
        assert box.x is x and box.y is y
        x[1] = 50.0
        y[0] = 9.0
        assert box.v[0].item() == 50.0 and box.w[0].item() == 9.0


def test_objects_in_several_places_stay_one():
    box = Box(made=None, items=[])

    def f(x):
        made = Box(x=x * 2)
        shared = [made, x]
        box.made, box.items = made, shared
        return made, shared, {"s": shared}

    compiled = tr.compile(f, fullgraph=True)
    for i in range(3):
        made, shared, d = compiled(vector(i))
        assert made is shared[0] and made is box.made and shared is box.items and d["s"] is shared
        assert box.made.x.tolist() == (vector(i) * 2).tolist()


def test_existing_containers_are_returned_themselves():
    log = []

    def f(x, d):
        log.append(x)
        return log, d

    compiled, d = tr.compile(f, fullgraph=True), {"a": 1}
    for i in range(3):
        out = compiled(vector(i), d)
        assert out[0] is log and out[1] is d
    assert len(log) == 3


# ------------------------------------------------------------------ written arguments that overlap


def halves(i, n=5):
    base = vector(i, n)
    return base[:3], base[2:]


@program(arguments=halves)
def one_of_two_overlapping_arguments_is_written():
    def f(x, y):
        x += 1
        return x * y

    return f, None


@program(arguments=halves)
def both_overlapping_arguments_are_written():
    def f(x, y):
        x += 1
        y *= 2
        x[2] = 7
        return x + y, x, y[1:], x is y

    return f, None


@program(arguments=lambda i: (lambda b: (b, b[1:]))(vector(i, 5)))
def a_tensor_and_a_view_of_it():
    def f(x, y):
        y += 1
        x[0] = 0
        return x.sum() + y.sum(), y

    return f, None


@program(traces=2, n=6, arguments=lambda i: halves(i) if i % 2 else (vector(i), vector(i + 1)))
def arguments_that_overlap_sometimes():
    def f(x, y):
        x += 1
        return x * y

    return f, None


@program(traces=2, n=6, arguments=lambda i: (lambda b: (b[i % 2 : 3 + i % 2], b[2:]))(vector(i, 5)))
def arguments_that_overlap_elsewhere():
    def f(x, y):
        x += 1
        return x * y

    return f, None


@program(arguments=lambda i: (lambda b: (b[0], b[:, 1], b.T))(vector(i, 9).reshape(3, 3)))
def a_row_a_column_and_a_transpose():
    def f(x, y, z):
        x += 1
        y *= 2
        return z * 1, x, y, z

    return f, None


@program(arguments=lambda i: (lambda b: ({"a": b[:3]}, [b[2:]]))(vector(i, 5)))
def overlapping_tensors_in_containers():
    def f(table, items):
        table["a"] += 1
        items[0] -= 3
        return table, items

    return f, None


@program(traces=2, arguments=lambda i: (lambda b: (b[:3], b[1:4], b))(vector(i, 6)))
def three_that_overlap_and_a_branch():
    def f(x, y, base):
        x += y
        y += x
        base *= 2
        return (x, y, base, x.sum()) if x.sum() > 30 else (base, y)

    return f, None


@pytest.mark.parametrize("first", [0, 1])
def test_views_of_a_tensor_that_the_function_also_reaches_by_itself(first):
    inside = vector(0, 6)

    def f(x, y):
        x += y
        return x + inside[:3]

    compiled = tr.compile(f, fullgraph=True)
    for i in range(4):
        base = inside if i % 2 == first else vector(i, 6)
        found = []
        for g in (f, compiled):
            inside.copy_(vector(0, 6))
            base.copy_(vector(1, 6))
            found.append((described(g(base[:3], base[1:4])), described(inside), described(base)))
        assert found[0] == found[1]


def test_memory_that_is_shared_otherwise_is_named():
    base = tr.zeros(6)
    view = base[2:5]

    def f(x):
        view.add_(x)
        return base.sum()

    with pytest.raises(tr.CaptureError, match="writes into view, which shares memory with base"):
        tr.compile(f, fullgraph=True)(vector(0))


@program()
def data_of_tensors():
    net = nn.Linear(3, 2)

    def f(x):
        net.weight.data.mul_(0.9)
        values = x.data
        values += 1
        return net(x).detach(), net.weight.data.sum(), x, values

    return f, net


@program()
def arrays_that_are_filled_inside():
    def f(x):
        a = np.zeros(3)
        np.add(a, 1, out=a)
        a += 2
        a[1] = 7
        return x + tr.tensor(a.astype(np.float32))

    return f, None


@program(fails=True)
def attributes_that_tensors_do_not_have():
    def f(x):
        x.tag = 3
        return x

    return f, None
