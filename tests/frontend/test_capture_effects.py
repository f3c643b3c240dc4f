"""What ends a capture, and what a captured call leaves behind: writes, views, aliases, and nothing when it stops."""

import functools
import time
import warnings

import numpy as np
import pytest
from tracefuse.frontend.capture import pytree
from tracefuse.frontend.compile import CaptureError, CaptureWarning, compile

import tracefuse as tr

reference = functools.partial(compile, backend="reference")
strict = functools.partial(compile, backend="reference", fullgraph=True)

WEIGHTS = tr.tensor([1.0, 2.0, 3.0])
ARRAY = np.array([1.0, 2.0, 3.0])
FLAG = True


class Box:
    n = 4


BOX = Box()


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


# ------------------------------------------------------------------ what ends a capture

COUNTER = {"n": 0}
LIST = []


def prints(x):
    print("hello")
    return x + 1


def reads_a_value(x):
    return x * 2 if x.sum() > 0 else x


def takes_item(x):
    return x * x[0].item()


def takes_float(x):
    return x + float(x[0])


def goes_to_numpy(x):
    return x + np.asarray(x).sum()


def reads_the_clock(x):
    return x + (time.time() > 0)


def counts(x):
    COUNTER["n"] += 1
    return x + 1


def appends(x):
    LIST.append(1)
    return x + 1


def sets_an_attribute(x):
    BOX.n = 4
    return x + 1


def assigns_a_global(x):
    global FLAG
    FLAG = True
    return x + 1


def makes_text(x):
    return x + len(f"{x}") * 0


def swallows(x):
    try:
        if x.sum() > 0:
            return x * 3
    except BaseException:
        return x * 0
    return x


def draws_from_numpy(x):
    return x + np.random.default_rng(0).random() * 0


@pytest.mark.parametrize(
    "f",
    [
        goes_to_numpy,
        reads_the_clock,
        makes_text,
        draws_from_numpy,
    ],
    ids=lambda f: f.__name__,
)
def test_what_cannot_be_captured_runs_as_plain_python(f):
    fn, x = reference(f), vector(1.0, 2.0)
    before = dict(COUNTER), len(LIST)
    with pytest.warns(CaptureWarning) as caught:
        results = [fn(x) for _ in range(3)]
    assert len(caught) == 1 and "test_capture_effects.py:" in str(caught[0].message)
    after = dict(COUNTER), len(LIST)
    want = f(x)
    for r in results:
        assert same(r, want)
    if f is counts:
        assert after[0]["n"] == before[0]["n"] + 3
    if f is appends:
        assert after[1] == before[1] + 3


@pytest.mark.parametrize("f", [reads_a_value, takes_item, takes_float, swallows], ids=lambda f: f.__name__)
def test_values_of_tensors_that_python_asks_for_do_not_end_the_capture(f):
    fn = strict(f)
    for x in (vector(1.0, 2.0), vector(-1.0, -2.0), vector(3.0, -4.0)):
        assert same(fn(x), f(x))


def test_fullgraph_raises_and_names_the_line():
    with pytest.raises(CaptureError, match=r"test_capture_effects.py:\d+.*NumPy array"):
        strict(goes_to_numpy)(vector(1.0))


def test_hidden_counters_do_not_leak_into_a_loop():
    class Count:
        n = 0

    count = Count()

    def f(x):
        while x.sum() > 1e-9:
            x = x * 0.5
            count.n += 1
            if count.n == 10:
                break
        return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        got = reference(f)(vector(1.0, 1.0))
    count.n = 0
    assert same(got, f(vector(1.0, 1.0)))


def test_iterators_from_outside_are_not_advanced():
    it = iter([1.0, 2.0, 3.0])
    fn = reference(lambda x: x * next(it))
    with pytest.warns(CaptureWarning):
        assert same([fn(vector(1.0)) for _ in range(2)], [vector(1.0), vector(2.0)])


def test_errors_are_those_of_plain_python():
    def f(x, y):
        if x.shape[0] == 3:
            raise KeyError("mine")
        return x @ y

    fn = reference(f)
    with pytest.raises(KeyError, match="mine"):
        fn(vector(1.0, 2.0, 3.0), vector(1.0))
    with pytest.raises(Exception) as eager:
        f(vector(1.0, 2.0), tr.ones(4))
    with pytest.raises(type(eager.value)) as compiled:
        fn(vector(1.0, 2.0), tr.ones(4))
    assert str(eager.value) == str(compiled.value)
    assert compiled.value.__context__ is None
    assert same(fn(vector(1.0, 2.0), vector(3.0, 4.0)), tr.tensor(11.0))


# ------------------------------------------------------------------ state, writes, views, aliasing


def test_tensors_and_arrays_from_outside_are_read_anew():
    fn = strict(lambda x: x * WEIGHTS + ARRAY[0])
    x = vector(1.0, 1.0, 1.0)
    assert same(fn(x), x * WEIGHTS + ARRAY[0])
    with tr.no_grad():
        WEIGHTS[0] = 10.0
    ARRAY[0] = 7.0
    try:
        got = fn(x)
        np.testing.assert_allclose(got.numpy(), [17.0, 9.0, 10.0])
    finally:
        WEIGHTS[0], ARRAY[0] = 1.0, 1.0
    assert fn.cache_info()["misses"] == 1


def test_writes_into_arguments_and_state():
    def f(x, y):
        x += y
        x[0] = 5.0
        state.mul_(2.0)
        return x * state

    state = vector(1.0, 2.0)
    a, b = vector(1.0, 2.0), vector(3.0, 4.0)
    want = f(a, b)
    want_a, want_state = a.numpy().copy(), state.numpy().copy()
    state.copy_(vector(1.0, 2.0))
    a = vector(1.0, 2.0)
    fn = strict(f)
    assert same(fn(a, b), want)
    np.testing.assert_allclose(a.numpy(), want_a)
    np.testing.assert_allclose(state.numpy(), want_state)
    assert same(fn(a, b), (lambda s: s)(a * state))


def test_views_follow_their_base_and_write_through():
    def f(x):
        y = x * 1.0
        top, flat = y[:2], y.reshape(-1)
        column = y.T[1]
        top.mul_(10.0)
        flat[0] = -1.0
        column += 100.0
        y[2, 2] = 7.0
        return y, top, flat, column

    x = tr.tensor(np.arange(9.0, dtype=np.float32).reshape(3, 3))
    got, want = strict(f)(x), f(x)
    assert same(got, want)
    got[0][0, 0] = 42.0  # the results share storage, as in plain Python
    want[0][0, 0] = 42.0
    assert same(got, want)


def test_writing_through_a_view_of_an_argument():
    def f(x):
        x[1:][0] += 1.0
        return x.T

    a = tr.tensor(np.zeros((3, 2), np.float32))
    b = tr.tensor(np.zeros((3, 2), np.float32))
    got, want = strict(f)(a), f(b)
    assert same(got, want) and same(a, b)
    got[0, 0] = 9.0
    assert a.numpy()[0, 0] == 9.0


def test_results_alias_as_in_plain_python():
    def f(x, y):
        z = x + y
        return x, z, z, {"y": y, "again": x}

    x, y = vector(1.0), vector(2.0)
    out = strict(f)(x, y)
    assert out[0] is x and out[3]["y"] is y and out[3]["again"] is x and out[1] is out[2]


def test_arguments_that_share_memory_are_not_mistaken():
    def f(x, y):
        x += 1.0
        return x * y

    fn = reference(f)
    base = tr.tensor(np.arange(4.0, dtype=np.float32))
    assert same(fn(vector(1.0, 2.0), vector(3.0, 4.0)), vector(6.0, 12.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        got = fn(base[:2], base[1:3])
        np.testing.assert_allclose(base.numpy(), [1.0, 2.0, 2.0, 3.0])
        np.testing.assert_allclose(got.numpy(), [2.0, 4.0])
        v = vector(1.0, 2.0)
        assert same(fn(v, v), vector(4.0, 9.0))


def test_constants_made_in_the_function_are_fresh_every_time():
    def f(x):
        t = tr.tensor([1.0, 2.0])
        t += x
        u = np.zeros(2, np.float32)
        u[0] = 3.0
        return t, x + u, tr.tensor([5.0])

    fn, x = strict(f), vector(1.0, 1.0)
    first, second = fn(x), fn(x)
    assert same(first, f(x)) and same(second, f(x))
    assert first[2] is not second[2]


def test_the_trace_touches_nothing_when_it_stops():
    w = tr.tensor([1.0, 2.0], requires_grad=True)
    buffer = vector(0.0, 0.0)

    def f(x):
        loss = (w * x).sum()
        loss.backward()
        with tr.no_grad():
            buffer.add_(w.grad)
            w.mul_(2.0)
        time.time()
        return loss

    with pytest.warns(CaptureWarning):
        reference(f)(vector(3.0, 4.0))
    np.testing.assert_allclose(w.grad.numpy(), [3.0, 4.0])
    np.testing.assert_allclose(buffer.numpy(), [3.0, 4.0])
    np.testing.assert_allclose(w.detach().numpy(), [2.0, 4.0])


# ------------------------------------------------------------------ what must not be baked in


def outcomes(f, change, *args):
    """f's results before and after `change`, compiled and plain, from equal starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        fn = reference(f)
        got = [fn(*args), fn(*args)]
        change()
        return [*got, fn(*args)], f(*args)


def test_objects_of_other_libraries_are_not_baked_in():
    import array
    import collections
    import os
    import random

    queue, numbers, raw = collections.deque([1.0]), collections.Counter(a=1), array.array("d", [1.0])

    class Own(dict):
        pass

    class Longer(list):
        def __contains__(self, x):
            return True

    own, longer = Own(k=1.0), Longer([1.0])
    generator, mersenne = np.random.default_rng(0), random.Random(0)

    def change():
        queue[0] = numbers["a"] = raw[0] = own["k"] = 5.0
        longer.append(2.0)
        os.environ["TF_TEST_ENVIRONMENT"] = "7"

    os.environ["TF_TEST_ENVIRONMENT"] = "1"
    x = vector(1.0)
    for f in (
        lambda v: v * queue[0],
        lambda v: v * sum(queue),
        lambda v: v * numbers["a"],
        lambda v: v * raw[0],
        lambda v: v * own["k"],
        lambda v: v * sum(longer),
        lambda v: v * len(own) if 2.0 in longer else v,
        lambda v: v * float(os.environ["TF_TEST_ENVIRONMENT"]),
        lambda v: v * float(os.getenv("TF_TEST_ENVIRONMENT", "3")),
    ):
        got, want = outcomes(f, change, x)
        assert same(got[2], want)
        queue[0] = numbers["a"] = raw[0] = own["k"] = 1.0
        longer[:] = [1.0]
        os.environ["TF_TEST_ENVIRONMENT"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        for f in (lambda v: v * generator.random(), lambda v: v * mersenne.random()):
            fn = reference(f)
            assert fn(x).item() != fn(x).item()


def test_arrays_nested_in_containers_are_read_anew():
    parts = {"a": [np.array([1.0, 2.0])], "b": (np.array([3.0, 4.0]),)}

    def change():
        parts["a"][0][0] = 9.0
        parts["b"][0][1] = 9.0

    got, want = outcomes(lambda v: v + np.stack([parts["a"][0], parts["b"][0]]), change, np.zeros(2))
    assert same(got[2], want)
    parts["a"][0][0], parts["b"][0][1] = 1.0, 4.0
    got, want = outcomes(lambda v: v * sum(row[0] for row in parts["a"]), change, np.ones(2))
    assert same(got[2], want)


def test_a_history_from_outside_is_not_walked_inside():
    w = tr.tensor([1.0, 2.0], requires_grad=True)
    loss = (w * w).sum()

    def f(x):
        loss.backward(retain_graph=True)
        return x + 1

    with pytest.warns(CaptureWarning, match="outside"):
        reference(f)(vector(1.0))
    np.testing.assert_allclose(w.grad.numpy(), [2.0, 4.0])
    assert loss.requires_grad and loss.grad_fn is not None


def test_requires_grad_changes_are_not_lost():
    t = vector(1.0)

    def f(x):
        t.requires_grad_()
        return x * t

    with pytest.warns(CaptureWarning):
        reference(f)(vector(2.0))
    assert t.requires_grad


def test_gradient_hooks_added_later_count():
    w = tr.tensor([1.0, 2.0], requires_grad=True)

    def f(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad

    fn, x = strict(f), vector(3.0, 4.0)
    np.testing.assert_allclose(fn(x).numpy(), [3.0, 4.0])
    handle = w.register_hook(lambda g: g * 2.0)
    np.testing.assert_allclose(fn(x).numpy(), [6.0, 8.0])
    handle.remove()
    np.testing.assert_allclose(fn(x).numpy(), [3.0, 4.0])


def test_methods_replaced_on_a_class_are_noticed():
    class Model(tr.nn.Module):
        def forward(self, x):
            return x * 2

    fn, x = strict(Model()), vector(1.0)
    assert fn(x).item() == 2.0
    Model.forward = lambda self, x: x * 3
    assert fn(x).item() == 3.0


def test_functions_and_containers_are_returned():
    fn = strict(lambda x: (x, lambda: x * 2))
    for v in (1.0, 2.0):
        assert fn(vector(v))[1]().item() == 2 * v
    assert strict(lambda x: LIST)(vector(1.0)) is LIST
