"""Sizes that change from call to call: which become symbols, what Python may ask of them, and that nothing else changes."""

import copy
import math

import numpy as np
import pytest
from tracefuse.frontend.compile import compile, compiled_function
from tracefuse.frontend.nn import functional as F
from tracefuse.runtime import entry

import tracefuse as tr
from tracefuse import nn, optim

SIZES = (3, 5, 8, 2, 7, 12)


def strict(f, **options):
    return compile(f, fullgraph=True, **options)


def equal(got, want):
    if isinstance(want, (tuple, list)):
        assert type(got) is type(want) and len(got) == len(want)
        for g, w in zip(got, want):
            equal(g, w)
    elif isinstance(want, (int, float)) and not isinstance(want, np.generic):
        assert type(got) is type(want) and got == want
    else:
        assert type(got) is type(want)
        g, w = np.asarray(got), np.asarray(want)
        assert g.dtype == w.dtype and g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=1e-5)


def agrees(f, make, sizes=SIZES, traces=2, **options):
    """Calls `f` compiled and plain with `make(n)` for each size; returns the compiled one, which has `traces` traces."""
    compiled = strict(f, **options)
    for n in sizes:
        args = make(n)
        equal(compiled(*args), f(*args))
    assert len(compiled.traces) == traces, tr.explain(compiled).summary()
    return compiled


def rows(n):
    return (tr.rand(n, 4),)


def native_hits(fn):
    return sum(t.hits for t in entry.traces(compiled_function(fn)._target[0]))


def guards(fn):
    return [g.text for t in fn.traces if t.sizes is not None for g in t.guards]


# ------------------------------------------------------------------ which sizes become symbols


def test_a_second_size_makes_a_trace_that_serves_all():
    f = strict(lambda x: tr.exp(x).sum(axis=0) * 2)
    for k, n in enumerate((3, 5, 8, 9, 100, 2)):
        x = tr.rand(n, 4)
        equal(f(x), f.__wrapped__(x))
        assert len(f.traces) == min(k + 1, 2)
    assert f.cache_info()["misses"] == 2


def test_fifty_sizes_cost_two_traces_and_are_served_natively():
    f = strict(lambda x, w: tr.tanh(x @ w))
    w = tr.rand(4, 3)
    for n in range(2, 52):
        x = tr.rand(n, 4)
        equal(f(x, w), f.__wrapped__(x, w))
    assert len(f.traces) == 2
    assert native_hits(f) == 48


def test_zero_and_one_have_traces_of_their_own():
    f = agrees(lambda x: x * 2 + 1, rows, (3, 5, 1, 0, 7, 1, 0), traces=4)
    assert "size0 >= 2" in guards(f)[0]


def test_sizes_that_never_change_stay_constants():
    f = agrees(lambda x: x.sum(axis=1), rows)
    assert "x is [size0, 4]" in guards(f)[0]


def test_sizes_that_were_always_equal_are_one_symbol():
    f = agrees(lambda x, y: x + y, lambda n: (tr.rand(n, 4), tr.rand(n, 4)))
    assert "x is [size0, 4], y is [size0, 4]" in guards(f)[0]


def test_a_broken_assumption_separates_them():
    f = strict(lambda x, y: x.sum() + y.sum())
    for n, m in ((3, 3), (5, 5), (6, 6), (4, 9), (9, 4), (8, 7), (7, 7)):
        x, y = tr.rand(n), tr.rand(m)
        equal(f(x, y), f.__wrapped__(x, y))
    assert len(f.traces) == 3
    assert any("x is [size0], y is [size1]" in g for g in guards(f))


def test_both_axes():
    agrees(lambda x: tr.relu(x) @ x.T, lambda n: (tr.rand(n, 2 * n + 1),))


def test_other_differences_are_not_sizes():
    f = strict(lambda x: x * 2)
    for x in (tr.rand(3), tr.rand(3, 4), tr.rand(4, dtype=tr.float64), tr.zeros(5, dtype=tr.int64)):
        equal(f(x), x * 2)
    assert [t.sizes for t in f.traces] == [None] * 4


def test_dynamic_false_specialises_every_shape():
    agrees(lambda x: x * 2, rows, (3, 5, 7), traces=3, dynamic=False)


def test_dynamic_true_has_symbols_at_once():
    f = agrees(lambda x, w: x @ w, lambda n: (tr.rand(n, 6), tr.rand(6, n + 8)), (3, 5, 9), traces=1, dynamic=True)
    assert "x is [size0, size1], w is [size1, size2]" in guards(f)[0]


def test_dynamic_true_meets_parameters():
    net = nn.Linear(6, 3)
    f = agrees(lambda x: net(x), lambda n: (tr.rand(n, 6),), (3, 5, 9), traces=1, dynamic=True)
    assert "x is [size0, 6]" in guards(f)[0]


def test_what_is_no_setting():
    with pytest.raises(TypeError, match="dynamic="):
        compile(lambda x: x, dynamic="yes")


# ------------------------------------------------------------------ marks


def test_marked_sizes():
    f = agrees(lambda x: x * 2, rows, (3, 5, 9, 2), traces=1, dynamic={"x": {0: "batch"}})
    assert "x is [batch, 4]" in guards(f)[0]


def test_ranges():
    f = strict(lambda x: x.sum(axis=0), dynamic={"x": {0: tr.Dim("batch", 2, 8)}})
    for n in (2, 5, 8):
        equal(f(tr.ones(n, 3)), tr.ones(n, 3).sum(axis=0))
    assert len(f.traces) == 1
    for n in (1, 9):
        with pytest.raises(ValueError, match=f"x has size {n} at axis 0, but batch is from 2 to 8"):
            f(tr.ones(n, 3))


def test_a_range_from_one_serves_one_too():
    agrees(lambda x: x * 2 + x.shape[0], rows, (3, 1, 5), traces=1, dynamic={"x": {0: tr.Dim("batch", 1, 512)}})
    agrees(lambda x: x * 2 + x.shape[0], rows, (1, 3, 5, 1), traces=1, dynamic={"x": {-2: "batch"}})


def test_equal_names_are_equal_sizes():
    f = strict(lambda x, y: x + y, dynamic={"x": {0: "n"}, "y": {0: "n"}})
    equal(f(tr.ones(3), tr.ones(3)), tr.ones(3) * 2)
    equal(f(tr.ones(5), tr.ones(5)), tr.ones(5) * 2)
    assert len(f.traces) == 1
    with pytest.raises(ValueError, match="n is 5 at axis 0 of x, but 4 at axis 0 of y"):
        f(tr.ones(5), tr.ones(4))


@pytest.mark.parametrize(
    "dynamic, message",
    [({"z": {0: "n"}}, "no argument 'z'"), ({"x": {3: "n"}}, "no axis 3"), ({"k": {0: "n"}}, "not a tensor")],
)
def test_marks_that_do_not_fit(dynamic, message):
    f = strict(lambda x, k: x * k, dynamic=dynamic)
    with pytest.raises(ValueError, match=message):
        f(tr.ones(3), 2)


# ------------------------------------------------------------------ what Python asks


def test_branches_on_sizes_are_guards_both_ways():
    f = agrees(lambda x: x * 2 if x.shape[0] > 6 else x * 3, rows, (3, 5, 8, 2, 9, 6, 7), traces=3)
    assert "size0 <= 6" in guards(f) and "size0 >= 7" in guards(f)


def test_divisibility():
    f = agrees(lambda x: x * 2 if x.shape[0] % 2 == 0 else x * 3, rows, (3, 5, 8, 2, 9, 6), traces=3)
    assert "(size0 % 2) != 0" in guards(f) and any("size0_2*2" in g for g in guards(f))


def test_reshape_by_a_factor():
    def f(x):
        return x.reshape(x.shape[0] // 2, 2, 4).sum(axis=1)

    agrees(f, rows, (4, 6, 8, 2, 20))


def test_equations_between_sizes():
    def f(x, y):
        return x @ y if x.shape[1] == y.shape[0] else x.sum() + y.sum()

    agrees(f, lambda n: (tr.rand(3, n), tr.rand(n, 2)))
    f = strict(f)
    for n, m in ((3, 4), (5, 6), (7, 7), (6, 5), (9, 9)):
        x, y = tr.rand(3, n), tr.rand(m, 2)
        equal(f(x, y), f.__wrapped__(x, y))
    assert len(f.traces) == 3


def test_a_size_that_is_a_constant_of_the_code():
    f = agrees(lambda x: x * 2 if x.shape[0] == 8 else x, rows, (3, 5, 8, 7, 8, 2), traces=3)
    assert "size0 != 8" in guards(f)


def test_floats_from_sizes_stay_in_the_graph():
    def f(x):
        n = x.shape[0]
        return x / n + math.sqrt(n) + 1 / n + n**0.5 + float(n) + n / 3 - 2.5 * n + x * n**-0.5

    agrees(f, rows)


def test_integers_from_sizes_stay_symbolic():
    def f(x):
        n = int(x.shape[0])
        return x * n + n // 2 - n % 3 + max(n, 1) + len([n]) + x.size * 2 + abs(-n) + n**2 + divmod(n, 2)[1]

    agrees(f, rows)


def test_rounding_up_with_negative_divisors():
    agrees(lambda x: x * (-(-x.shape[0] // 2)) + x.shape[0] // -2 + x.shape[0] % -3 + len(x), rows)


def test_hooks_belong_to_the_real_tensor():
    seen = []

    def f(x):
        x.register_hook(seen.append)
        return (x * 2).sum()

    fn = compile(f)
    with pytest.warns(UserWarning, match="register_hook"):
        for n in SIZES:
            x = tr.rand(n).requires_grad_()
            fn(x).backward()
            equal(seen.pop(), tr.ones(n) * 2)


def test_what_can_not_be_captured_is_not_tried_for_ever(monkeypatch):
    f = compile(lambda x: x * float(x.sum().numpy()))
    tried = []
    once = type(f)._capture_once
    monkeypatch.setattr(type(f), "_capture_once", lambda *a: tried.append(1) or once(*a))
    with pytest.warns(UserWarning, match="NumPy array"):
        for n in range(2, 30):
            equal(f(tr.ones(n)), tr.ones(n) * n)
    assert len(tried) < 50


def test_kinds_of_sizes():
    agrees(lambda x: x * 2 if isinstance(x.shape[0], int) and type(x.shape[0]) is int else x, rows)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: sum((x[i] for i in range(x.shape[0])), tr.zeros(4)),
        lambda x: x * [1, 2, 3, 4, 5, 6, 7, 8, 9][x.shape[0]],
        lambda x: x * len(f"{x.shape[0]}"),
        lambda x: x * len("%d" % x.shape[0]),
        lambda x: x * len(str(x.shape[0])),
        lambda x: x * {3: 1.5, 5: 2.5}.get(x.shape[0], 7),
        lambda x: x * {3: 1.5, 5: 2.5, 8: 1.0}[x.shape[0]],
        lambda x: x * (x.shape[0] in {3, 5}),
        lambda x: x * len({x.shape[0], 5}),
        lambda x: x * (x.shape[0] & 6),
    ],
)
def test_where_the_number_is_needed_each_value_has_a_trace(f):
    compiled = agrees(f, rows, (3, 5, 8, 3, 8), traces=3)
    assert compiled.cache_info()["eager"] == 0


def test_sizes_are_results_too():
    f = agrees(lambda x: (x * 2, x.shape, {"rows": x.shape[0] * 2}["rows"], x[1:]), rows)
    assert native_hits(f) == len(SIZES) - 2


def test_a_pin_leaves_the_other_sizes_symbolic():
    def f(x, y):
        for _ in range(y.shape[0]):
            x = x * 1.5
        return x

    f = strict(f)
    for n, m in ((3, 2), (5, 3), (7, 3), (9, 3), (4, 2), (8, 2)):
        x, y = tr.rand(n), tr.rand(m)
        equal(f(x, y), f.__wrapped__(x, y))
    assert len(f.traces) == 3  # the first, one for 3, one for 2


def test_pins_that_keep_changing_end_in_plain_python():
    f = compile(lambda x: x * len(f"{x.shape[0]}"))
    with pytest.warns(UserWarning, match="16 traces already"):
        for n in range(2, 25):
            equal(f(tr.ones(n)), tr.ones(n) * len(str(n)))


def test_bounds_of_constant_indices_are_guards():
    f = agrees(lambda x: x[3] * 2 + x[-4], rows, (5, 6, 8, 4))
    with pytest.raises(IndexError, match="index 3 is out of bounds for axis 0 of shape"):
        f(tr.ones(3, 4))


def test_errors_are_those_of_plain_python():
    f = compile(lambda x, y: x + y)
    for n in (3, 5, 7):
        f(tr.ones(n), tr.ones(n))
    with pytest.raises(ValueError, match="broadcast"):
        f(tr.ones(4), tr.ones(6))
    equal(f(tr.ones(9), tr.ones(9)), tr.ones(9) * 2)


# ------------------------------------------------------------------ programs


def convolution():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()).eval()
    return net


PROGRAMS = {
    "half": (lambda x: x[: x.shape[0] // 2] * 2, rows),
    "tail": (lambda x: x[-2:] + x[x.shape[0] - 2 :], rows),
    "differences": (lambda x: x[1:] - x[:-1], rows),
    "last": (lambda x: x[x.shape[0] - 1] * x[-1], rows),
    "flat": (lambda x: x.reshape(-1) * 2, rows),
    "pairs": (lambda x: x.reshape(-1, 2) * 2, rows),
    "arange": (lambda x: x + tr.arange(x.shape[0])[:, None], rows),
    "reversed": (lambda x: x[tr.arange(x.shape[0] - 1, -1, -1)], rows),
    "zeros": (lambda x: tr.cat([x, tr.zeros(x.shape[0], 4)], 0), rows),
    "statistics": (lambda x: (x.mean(axis=0), x.var(axis=0), x.std(), x.size * x), rows),
    "softmax": (lambda x: F.softmax(x, 0) + F.log_softmax(x, 1), rows),
    "stack": (lambda x: tr.stack([x, x * 2], 1), rows),
    "gram": (lambda x: x @ x.T, rows),
    "mask": (lambda x: tr.tril(x @ x.T), rows),
    "cumsum": (lambda x: tr.cumsum(x, 0), rows),
    "sort": (lambda x: tr.sort(x, axis=0), rows),
    "argmax": (lambda x: tr.argmax(x, axis=0), rows),
    "flip": (lambda x: tr.flip(x, (0,)), rows),
    "pad": (lambda x: F.pad(x, (1, 1, 1, 1)), rows),
    "roll": (lambda x: tr.roll(x, 1, 0), rows),
    "size()": (lambda x: x.view(x.size(0), -1) * 2, rows),
    "expand": (lambda x: x[:, None].expand(x.shape[0], 3, 4) * 2, rows),
    "cross entropy": (lambda x: F.cross_entropy(x, tr.zeros(x.shape[0], dtype=tr.int64)), rows),
    "einsum": (lambda x: tr.einsum("ij,kj->ik", x, x), rows),
    "squeeze": (lambda x: tr.squeeze(x[:, None]), rows),
    "product": (lambda x: x.reshape(math.prod(x.shape)) * np.prod(x.shape), rows),
    "interpolate": (lambda x: F.interpolate(x[None, None], scale_factor=2), rows),
    "pool": (lambda x: F.max_pool2d(x, 2), lambda n: (tr.rand(2, 3, n + 3, n + 6),)),
    "average pool": (lambda x: F.avg_pool2d(x, 3, 2, 1), lambda n: (tr.rand(2, 3, n + 3, n + 6),)),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda n: (tr.rand(2, 2, n, 8),),
    ),
    "group norm": (lambda x: F.group_norm(x, 2), lambda n: (tr.rand(2, 4, n, n + 2),)),
    "eye": (lambda x: tr.eye(x.shape[0]) @ x, rows),
    "linspace": (lambda x: tr.linspace(0, 1, x.shape[0])[:, None] * x, rows),
    "scatter": (
        lambda x: tr.zeros(x.shape[0], 4).scatter_add(0, tr.zeros(x.shape[0], 4, dtype=tr.int64), x),
        rows,
    ),
    "median": (lambda x: tr.median(x, axis=0), rows),
    "vmap": (lambda x: tr.vmap(lambda r: (r * r).sum())(x), rows),
    "grad": (lambda x: tr.grad(lambda y: (y**2).sum() / y.shape[0])(x), rows),
    "unfold": (lambda x: F.unfold(x, 2), lambda n: (tr.rand(2, 3, n + 2, n + 3),)),
    "transposed convolution": (
        lambda x: F.conv_transpose2d(x, tr.ones(3, 2, 2, 2), stride=2),
        lambda n: (tr.rand(2, 3, n, n + 1),),
    ),
    "numpy": (lambda x: np.exp(x).mean(axis=0) / x.shape[0], lambda n: (np.random.rand(n, 4),)),
    "numpy slices": (lambda x: x[1:] - x[:-1], lambda n: (np.random.rand(n, 4),)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name):
    f, make = PROGRAMS[name]
    agrees(f, make)


MODULES = {
    "convolution": (convolution, lambda n: (tr.rand(n, 3, 8, 8),)),
    "images": (convolution, lambda n: (tr.rand(2, 3, n + 2, 2 * n + 1),)),
    "attention": (lambda: nn.MultiheadAttention(16, 4, batch_first=True), lambda n: (tr.rand(n, 5, 16),) * 3),
    "lstm": (lambda: nn.LSTM(4, 8, batch_first=True), lambda n: (tr.rand(n, 5, 4),)),
    "norm": (lambda: nn.LayerNorm(4), rows),
    "embedding": (lambda: nn.Embedding(10, 4), lambda n: (tr.arange(n * 3).reshape(n, 3) % 10,)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    net, make = MODULES[name][0](), MODULES[name][1]
    compiled = compile(net, fullgraph=True)
    with tr.no_grad():
        for n in SIZES:
            args = make(n)
            got, want = compiled(*args), net(*args)
            equal(*(r[0] if isinstance(r, tuple) else r for r in (got, want)))
    assert len(compiled_function(compiled).traces) == 2


# ------------------------------------------------------------------ arguments, views, writes


def test_nested_and_keyword_arguments():
    def f(batch, *, scale):
        return {"sum": batch["x"].sum(axis=0) * scale["s"], "y": batch["y"][0] + 1}

    fn = strict(f)
    for n in SIZES:
        batch, scale = {"x": tr.rand(n, 3), "y": (tr.rand(n),)}, {"s": 2.0}
        got, want = fn(batch, scale=scale), f(batch, scale=scale)
        for k in want:
            equal(got[k], want[k])
    assert len(fn.traces) == 2


def test_results_that_are_views_and_arguments():
    def f(x):
        return x[1:], x.reshape(-1), x, (x * 2).reshape(-1)[2:]

    fn = strict(f)
    for n in SIZES:
        x = tr.rand(n, 4)
        got = fn(x)
        equal(got, f(x))
        assert got[2] is x
        got[0].fill_(7.0)
        assert x.numpy()[1:].min() == 7.0 and got[1].numpy()[4:].min() == 7.0
    assert len(fn.traces) == 2 and native_hits(fn) == len(SIZES) - 2


def test_writes_in_place():
    def f(x, y):
        x[1:] += y
        x.mul_(2)
        return x.sum()

    fn = strict(f)
    for n in SIZES:
        x, y = tr.rand(n, 4), tr.rand(n - 1, 4)
        other = tr.tensor(x.numpy().copy())
        equal(fn(x, y), f(other, y))
        equal(x, other)
    assert len(fn.traces) == 3  # n - 1 is 1 once


def test_writes_into_arrays():
    def f(x):
        x *= 2
        return x.sum()

    fn = strict(f)
    for n in SIZES:
        x = np.random.rand(n, 3)
        other = x.copy()
        equal(fn(x), f(other))
        equal(x, other)


def test_one_tensor_twice():
    f = strict(lambda x, y: x @ y.T)
    for n in SIZES:
        x = tr.rand(n, 4)
        equal(f(x, x), x @ x.T)
    assert len(f.traces) == 2


def test_an_argument_that_is_a_global_too():
    held = tr.rand(5, 4)

    def f(x):
        return x.sum() + held.sum()

    fn = strict(f)
    for x in (tr.rand(3, 4), tr.rand(7, 4), held, tr.rand(8, 4), held):
        equal(fn(x), f(x))


def test_strided_arguments():
    f = strict(lambda x: x * 2 + 1)
    for n in SIZES:
        x = tr.rand(2 * n, 4)[::2]
        equal(f(x), x * 2 + 1)
    assert len(f.traces) == 2


def test_arguments_may_not_have_another_class_or_layout():
    f = strict(lambda x: x * 2 + 1)
    for n in (3, 5, 7):
        for x in (tr.rand(n), np.random.rand(n), tr.rand(n, dtype=tr.float64)):
            equal(f(x), x * 2 + 1)
        parameter = nn.Parameter(tr.rand(n))
        equal(f(parameter).detach(), (parameter * 2 + 1).detach())


# ------------------------------------------------------------------ gradients and training


def gradients(f, *args):
    for a in args:
        a.grad = None
    loss = f(*args)
    loss.backward()
    return [a.grad for a in args]


def test_a_compiled_forward_with_an_eager_loss():
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 3))
    compiled = compile(net, fullgraph=True)
    for n in SIZES:
        x = tr.rand(n, 4)
        found = []
        for f in (compiled, net):
            net.zero_grad()
            F.mse_loss(f(x), tr.ones(n, 3)).backward()
            found.append([p.grad.numpy().copy() for p in net.parameters()])
        for got, want in zip(*found):
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)
    assert len(compiled_function(compiled).traces) == 2


def test_gradients_of_arguments():
    def f(x, y):
        return (tr.exp(x).reshape(-1) * y.reshape(-1)).mean()

    fn = strict(f)
    for n in SIZES:
        x, y = (tr.rand(n, 4).requires_grad_() for _ in range(2))
        equal(gradients(fn, x, y), gradients(f, x, y))
    assert len(fn.traces) == 2


def test_gradients_where_only_products_of_sizes_cross_over():
    def f(x, w):
        return (x.reshape(-1) * w).sum().reshape(1) + tr.tanh(x).sum()

    fn = strict(f)
    for n in SIZES:
        x, w = tr.rand(n, 3 * n).requires_grad_(), tr.rand(3 * n * n).requires_grad_()
        equal(gradients(lambda a, b: fn(a, b).sum(), x, w), gradients(lambda a, b: f(a, b).sum(), x, w))


def test_arguments_with_a_history():
    f = strict(lambda x: tr.sin(x).sum(axis=0))
    for n in SIZES:
        w = tr.rand(n, 4).requires_grad_()
        equal(gradients(lambda w: f(w * 2).sum(), w), gradients(lambda w: f.__wrapped__(w * 2).sum(), w))


def test_second_derivatives():
    f = strict(lambda x: (x**3).sum() * x.shape[0])
    for n in SIZES:
        x = tr.rand(n).requires_grad_()
        (g,) = tr.autograd.grad(f(x), [x], create_graph=True)
        (h,) = tr.autograd.grad(g.sum(), [x])
        equal(h.detach(), (6 * x * n).detach())


def test_backward_inside_sets_gradients_of_arguments():
    def f(x):
        (x**2).sum().backward()
        return x.grad * 2

    fn = strict(f)
    for n in SIZES:
        x, y = tr.ones(n).requires_grad_(), tr.ones(n).requires_grad_()
        equal(fn(x), f(y))
        equal(x.grad, y.grad)


@pytest.mark.parametrize("optimizer", [lambda p: optim.SGD(p, lr=0.1, momentum=0.9), lambda p: optim.AdamW(p, lr=1e-2)])
def test_training_steps_with_a_smaller_last_batch(optimizer):
    def training(net, opt):
        def step(x, y):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return step

    net = nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    twin = copy.deepcopy(net)
    compiled = strict(training(net, optimizer(net.parameters())))
    plain = training(twin, optimizer(twin.parameters()))
    for _ in range(3):
        for n in (16, 16, 16, 9):
            x, y = tr.rand(n, 6), tr.arange(n) % 4
            equal(compiled(x, y).detach(), plain(x, y).detach())
    for a, b in zip(net.parameters(), twin.parameters()):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-3, atol=1e-5)
    assert compiled.cache_info()["eager"] == 0
    sizes = [t for t in compiled.traces if t.sizes is not None]
    assert len(sizes) >= 1


def test_training_on_many_batch_sizes_costs_few_traces():
    net = nn.Linear(6, 4)
    opt = optim.SGD(net.parameters(), lr=0.1)

    @tr.compile(fullgraph=True)
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    for n in range(20, 2, -1):
        step(tr.rand(n, 6), tr.arange(n) % 4)
    assert len(step.traces) <= 3  # the first step has no gradients yet


# ------------------------------------------------------------------ tools


def test_explain_shows_symbols_and_guards():
    f = agrees(lambda x: x * 2 if x.shape[0] > 4 else x, rows, (5, 6, 7))
    text = tr.explain(f).summary()
    assert "x is [size0, 4], size0 >= 2" in text and "size0 >= 5" in text
    report = tr.explain(f, tr.rand(9, 4))
    assert len(report.traces) == 1 and "size0" in report.traces[0].graph
    assert len(f.traces) == 2


def test_check_compares_traces_with_symbolic_sizes():
    f = strict(lambda x: x.reshape(-1)[1:] * 2, check=2)
    for n in SIZES:
        x = tr.rand(n, 4)
        equal(f(x), f.__wrapped__(x))
    assert len(f.traces) == 2


def test_benchmark_takes_a_dynamic_function():
    f = agrees(lambda x: x * 2, rows)
    result = tr.benchmark(f, tr.rand(11, 4))
    assert str(result)
    assert len(f.traces) == 2


def test_unloading_forgets_what_was_seen():
    f = agrees(lambda x: x * 2, rows)
    f.unload()
    f(tr.rand(9, 4))
    assert [t.sizes for t in f.traces] == [None]


def test_the_reference_backend():
    agrees(lambda x: F.softmax(x, 0)[1:], rows, backend="reference")
