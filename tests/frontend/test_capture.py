"""What a capture sees, guards and refuses. Everything runs on the reference backend, next to plain Python."""

import functools
import math
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from tracefuse.frontend.capture import guards, pytree
from tracefuse.frontend.capture.instrument import instrument
from tracefuse.frontend.compile import CaptureError, CaptureWarning, compile

import tracefuse as tr

reference = functools.partial(compile, backend="reference")
strict = functools.partial(compile, backend="reference", fullgraph=True)

SCALE = 2.0
TABLE = {"a": 1.0, "b": [2.0, 3.0]}
WEIGHTS = tr.tensor([1.0, 2.0, 3.0])
ARRAY = np.array([1.0, 2.0, 3.0])
FLAG = True


class Box:
    limit = 3

    def __init__(self, n):
        self.n = n
        self.__hidden = n + 1
        self.items = [1.0, 2.0]

    def scaled(self, x):
        return x * self.n + self.__hidden

    @property
    def double(self):
        return 2 * self.n


BOX = Box(4)
Pair = namedtuple("Pair", "first second")


@dataclass
class Point:
    x: object
    y: object


def vector(*values):
    return tr.tensor(list(values))


def same(a, b):
    """Equal results: structure, types, dtypes, shapes, values."""
    left, ls = pytree.flatten(a)
    right, rs = pytree.flatten(b)
    assert ls == rs
    for x, y in zip(left, right):
        assert type(x) is type(y)
        if isinstance(x, tr.Tensor):
            x, y = x.numpy(), y.numpy()
        if isinstance(x, (np.ndarray, np.generic)):
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
        else:
            assert x == y
    return True


# ------------------------------------------------------------------ pytrees


def test_pytrees_come_back_as_they_were():
    tree = {"a": [1, (2, 3)], "b": Pair(4, {"c": 5}), "d": Point(6, [7])}
    leaves, spec = pytree.flatten(tree)
    assert leaves == [1, 2, 3, 4, 5, 6, 7]
    assert pytree.unflatten(spec, leaves) == tree
    assert pytree.flatten(tree)[1] == spec and hash(spec) == hash(pytree.flatten(tree)[1])
    assert pytree.paths(spec, "t")[3:6] == ["t['b'].first", "t['b'].second['c']", "t['d'].x"]


def test_values_are_compared_exactly():
    for a, b in ((1, True), (0.0, -0.0), (1, 1.0), ("1", 1)):
        assert not guards.expect(a).match(b)
    assert guards.expect(float("nan")).match(float("nan"))
    assert guards.expect([1, {"k": (2.0,)}]).match([1, {"k": (2.0,)}])
    assert not guards.expect([1, 2]).match([1, 2, 3])


# ------------------------------------------------------------------ instrumentation


def test_python_features_survive_instrumentation():
    def everything(x, n=3, *, k=2):
        total = x * 0
        for i, c in enumerate(range(n)):
            if i == 1:
                continue
            total = total + x * (c + k)
        squares = [j * j for j in range(n) if j != 1]
        table = {name: len(name) for name in ("a", "bb")}
        try:
            table["missing"]
        except KeyError:
            total = total + sum(squares)
        finally:
            total += table["bb"]

        def inner(v, w=n):
            nonlocal total
            total = total + v * w
            return lambda u: u + total

        def count():
            yield from (1, 2)

        first, *rest = [inner(x)(x), *count()]
        assert n == 3, "never"
        label = f"{n:>3}|{k!r}"
        while n > 1:
            n -= 1
        return first + rest[0] - rest[1] if len(label) == 5 and not n > 1 else None

    x = vector(1.0, 2.0)
    assert same(strict(everything)(x), everything(x))


def test_methods_super_and_private_names():
    class Child(Box):
        def scaled(self, x):
            return super().scaled(x) * 2 + self.double + self.limit

    obj, x = Child(5), vector(1.0, 2.0)
    fn = strict(lambda v: obj.scaled(v))
    assert same(fn(x), obj.scaled(x))
    obj.n = 7
    assert same(fn(x), obj.scaled(x))
    assert fn.cache_info()["misses"] == 2


def test_two_lambdas_on_a_line_are_told_apart():
    f, g = (lambda x: x + 1, lambda x: x * 5)
    x = vector(2.0)
    assert same((strict(f)(x), strict(g)(x)), (f(x), g(x)))


def test_the_instrumented_copy_shares_cells_and_defaults():
    n = 1

    def f(a, b=[3]):  # noqa: B006
        return n, b

    class Hooks:
        def operand(self, v):
            return v

    copy = instrument(f, Hooks())
    assert copy(0)[1] is f(0)[1]
    n = 2
    assert copy(0)[0] == 2


def test_source_that_is_missing_is_said():
    space = {}
    exec("def f(x):\n    return x + 1", space)
    with pytest.raises(CaptureError, match="source"):
        strict(space["f"])(vector(1.0))


def test_decorators_closures_and_partials():
    def twice(f):
        @functools.wraps(f)
        def inside(*args):
            return f(*args) * 2

        return inside

    @twice
    def g(x):
        return x + SCALE

    h = functools.partial(lambda x, y: x * y, y=3.0)
    x = vector(1.0, 4.0)
    assert same(strict(lambda v: h(g(v)))(x), h(g(x)))


# ------------------------------------------------------------------ guards


def test_globals_are_guarded(monkeypatch):
    fn = strict(lambda x: x * SCALE + TABLE["b"][1])
    x = vector(1.0, 2.0)
    assert same(fn(x), x * 2.0 + 3.0)
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    assert same(fn(x), x * 5.0 + 3.0)
    monkeypatch.setitem(globals(), "TABLE", {"a": 1.0, "b": [2.0, 8.0]})
    assert same(fn(x), x * 5.0 + 8.0)
    monkeypatch.undo()
    assert same(fn(x), x * 2.0 + 3.0)
    assert fn.cache_info()["misses"] == 3


def test_containers_changed_in_place_are_noticed():
    config = {"k": [1.0]}
    fn = strict(lambda x: x * config["k"][0])
    x = vector(1.0)
    assert same(fn(x), x)
    config["k"][0] = 4.0
    assert same(fn(x), x * 4.0)


def test_closures_are_guarded():
    n = 2

    def f(x):
        return x * n

    fn, x = strict(f), vector(1.0, 2.0)
    assert same(fn(x), x * 2)
    n = 3
    assert same(fn(x), x * 3)


def test_attributes_of_user_objects_are_guarded():
    box = Box(2)
    fn, x = strict(lambda v: box.scaled(v) * box.double + box.limit), vector(1.0, 2.0)
    for n in (2, 5):
        box.n = n
        assert same(fn(x), box.scaled(x) * box.double + box.limit)
    Box.limit = 9
    try:
        assert same(fn(x), box.scaled(x) * box.double + box.limit)
    finally:
        Box.limit = 3
    box.limit = 11  # shadows the class attribute
    assert same(fn(x), box.scaled(x) * box.double + box.limit)


def test_static_arguments_retrace():
    def f(x, n, mode):
        return x * n if mode == "mul" else x + n

    fn, x = strict(f), vector(1.0, 2.0)
    for n, mode in ((2, "mul"), (3, "mul"), (True, "mul"), (2, "add")):
        assert same(fn(x, n, mode), f(x, n, mode))
    assert fn.cache_info()["misses"] == 4


def test_float_arguments_stay_in_the_graph():
    def f(x, lr, decay):
        return x - lr * (x * decay) / 2.0 + 3 * lr

    fn, x = strict(f), vector(1.0, 2.0)
    for lr in (0.1, 0.2, 0.7):
        assert same(fn(x, lr, -0.5), f(x, lr, -0.5))
    assert fn.cache_info()["misses"] == 1


def test_floats_that_steer_python_become_constants():
    def f(x, p):
        return x * math.sqrt(p) if p > 0.5 else x

    fn, x = strict(f), vector(1.0, 2.0)
    for p in (0.25, 0.25, 4.0):
        assert same(fn(x, p), f(x, p))
    assert fn.cache_info()["misses"] == 2


def test_grad_mode_and_default_dtype_pick_the_trace():
    def f(x):
        return x * 2, tr.zeros(2)

    fn, x = strict(f), vector(1.0, 2.0)
    fn(x)
    with tr.no_grad():
        fn(x)
    assert fn.cache_info()["misses"] == 2
    tr.set_default_dtype(tr.float64)
    try:
        assert fn(x)[1].dtype is tr.float64
    finally:
        tr.set_default_dtype(tr.float32)


def test_too_many_traces_warn_once_and_name_the_cause():
    box = Box(0)
    fn = reference(lambda x: x * box.n)
    with pytest.warns(CaptureWarning, match="Box.n") as caught:
        for n in range(20):
            box.n = n
            assert same(fn(vector(1.0)), vector(1.0) * n)
    assert len(caught) == 1


def test_generator_expressions_are_part_of_the_trace():
    def split(x):
        q, k, v = (x[:, 4 * i : 4 * i + 4] for i in range(3))
        return q + sum(y * 2.0 for y in (k, v))

    x = tr.asarray(np.arange(24.0, dtype=np.float32).reshape(2, 12))
    np.testing.assert_array_equal(np.asarray(strict(split)(x)), np.asarray(split(x)))
