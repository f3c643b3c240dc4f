"""Which tensors and objects are one, or share memory: in arguments, results and what is kept."""

import sys
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, Programs, vector  # noqa: E402

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
