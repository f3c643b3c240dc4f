"""cond, while_loop, fori_loop and scan: reverse mode, forward mode, and many lanes at once."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tracefuse.ir.ops.control import NoReverseMode

import tracefuse as tr
from tracefuse import nn, optim

sys.path.insert(0, str(Path(__file__).parent))
from control_helpers import both, numbers, same  # noqa: E402

# ------------------------------------------------------------------ gradients


def gradients(f, *args):
    """Gradients with respect to all floating arguments, the same eagerly and compiled."""
    places = tuple(i for i, a in enumerate(args) if a.dtype.is_floating)
    g = tr.grad(lambda *xs: f(*xs).sum(), argnums=places)
    want = g(*args)
    same(tr.compile(g, fullgraph=True)(*args), want)
    return want


def test_gradients_of_scan_against_torch():
    def f(h, xs, w):
        def step(h, x):
            h = tr.tanh(h @ w + x)
            return h, h * h

        h, ys = tr.scan(step, h, xs)
        return ys.sum() + 3 * h.sum()

    args = numbers(2, 4), numbers(5, 2, 4, seed=1), numbers(4, 4, seed=2)
    found = gradients(f, *args)
    h, xs, w = (torch.tensor(a.numpy(), requires_grad=True) for a in args)
    total, state = 0, h
    for x in xs:
        state = torch.tanh(state @ w + x)
        total = total + (state * state).sum()
    (total + 3 * state.sum()).backward()
    for got, want in zip(found, (h, xs, w)):
        np.testing.assert_allclose(got.numpy(), want.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_scans_with_integers_and_unused_values(reverse):
    def f(x, xs, k):
        def step(c, r):
            a, n, b = c
            return (a * r["x"], n + 1, b), {"y": a * n, "n": n, "u": b}

        (a, _, b), ys = tr.scan(step, (x, k, x * 2), {"x": xs, "i": tr.arange(3)}, reverse=reverse)
        return a.sum() + ys["y"].sum() + b.sum()

    gradients(f, numbers(2), numbers(3, 2, seed=1), tr.tensor(1))


@pytest.mark.parametrize("positive", [1.0, -1.0])
def test_gradients_of_cond(positive):
    w = numbers(3, seed=5).requires_grad_()

    def f(p, x, y):
        a, b = tr.cond(p.sum() > 0, lambda x: (x * y * w, x), lambda x: (tr.sin(x), x * x), x)
        return a.sum() + (2 * b).sum()

    gradients(f, tr.tensor([positive]), numbers(3), numbers(3, seed=1))


def test_gradients_of_fori_loop_and_of_a_loop_with_a_limit():
    gradients(lambda x: tr.fori_loop(0, 4, lambda i, c: c * x + i, x), numbers(3))

    def limited(x, w):
        return tr.while_loop(lambda x: (x * x).sum() > 0.2, lambda x: x * w, x, max_steps=20)

    args = numbers(3), tr.tensor([0.5, 0.7, 0.6])
    gradients(limited, *args)
    same(both(limited, *args), limited(*args))
    unlimited = tr.while_loop(lambda x: (x * x).sum() > 0.2, lambda x: x * args[1], args[0])
    same(limited(*args), unlimited)
    stopped = lambda x: tr.while_loop(lambda x: x.sum() > 0, lambda x: x * 2, x, max_steps=3)  # noqa: E731
    same(both(stopped, tr.ones(2)), tr.ones(2) * 8)


def test_the_gradient_of_a_loop_of_unknown_length_is_computed_on_the_host():
    def f(x, w):
        return tr.while_loop(lambda x: (x * x).sum() > 0.2, lambda x: x * w, x)

    g = tr.grad(lambda x, w: f(x, w).sum(), argnums=(0, 1))
    args = numbers(3), tr.tensor([0.5, 0.7, 0.6])
    compiled = tr.compile(g, fullgraph=True)
    same(compiled(*args), g(*args))
    (trace,) = tr.explain(compiled).traces
    assert [s.op for s in trace.host_steps] == ["while_vjp"] and "max_steps=" in trace.host_steps[0].reason
    twice = tr.hessian(lambda x: f(x, args[1]).sum())
    with pytest.raises(tr.CaptureError, match="while_loop.*max_steps=n"):
        tr.compile(twice, fullgraph=True)(args[0])
    with pytest.raises(NoReverseMode, match="Use scan or fori_loop"):
        tr.vmap(twice)(tr.stack([args[0]]))


def test_second_derivatives():
    def f(x, xs):
        def step(c, r):
            return tr.cond(c.sum() > 0, lambda c: tr.sin(c) * r * x, lambda c: c * c + r, c), c * r

        c, ys = tr.scan(step, x, xs)
        return c.sum() + (ys * ys).sum()

    x, xs = numbers(2), numbers(4, 2, seed=1)
    hessian = lambda x: tr.hessian(lambda x: f(x, xs))(x)  # noqa: E731
    got = both(hessian, x)
    step = 1e-3
    g = tr.grad(lambda x: f(x, xs))
    for i in range(2):
        e = tr.tensor(np.eye(2, dtype=np.float32)[i] * step)
        np.testing.assert_allclose(got[i].numpy(), ((g(x + e) - g(x - e)) / (2 * step)).numpy(), rtol=2e-2, atol=2e-2)


def test_histories_that_are_cut_inside_of_bodies():
    def f(w, xs):
        def step(c, x):
            with tr.no_grad():
                k = (c * c).sum()
            return c * w + k + (x * w).detach(), c.detach() * w

        c, ys = tr.scan(step, tr.ones(3), xs)
        return c.sum() + ys.sum()

    gradients(f, tr.tensor([0.5, 0.6, 0.7]), numbers(4, 3))


def test_gradients_inside_of_bodies():
    """Newton's method, with the derivatives taken in the body."""

    def root(a):
        f = lambda x: x * x - a  # noqa: E731
        step = lambda x, _: (x - f(x) / tr.grad(f)(x), None)  # noqa: E731
        return tr.scan(step, tr.tensor(1.0), None, length=6)[0]

    same(both(root, tr.tensor(2.0)), tr.sqrt(tr.tensor(2.0)))
    (g,) = gradients(root, tr.tensor(2.0))
    np.testing.assert_allclose(float(g), 0.5 / np.sqrt(2), rtol=1e-4)


def test_a_custom_function_inside_of_a_body_keeps_its_gradient():
    class Doubled(tr.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g * 2

    f = lambda x: tr.scan(lambda c, _: (Doubled.apply(c), None), x, None, length=3)[0].sum()  # noqa: E731
    x = tr.ones(2)
    assert tr.grad(f)(x).tolist() == [8, 8]
    with pytest.warns(tr.CaptureWarning, match="custom autograd.Function"):
        assert tr.compile(tr.grad(f))(x).tolist() == [8, 8]


class RNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(8, 4), nn.Linear(4, 1)

    def forward(self, xs):
        def step(h, x):
            h = tr.tanh(self.cell(tr.concat([h, x], axis=-1)))
            return h, self.out(h)

        return tr.scan(step, tr.zeros(xs.shape[1], 4), xs)[1]


def test_training_through_scan():
    """A whole training step of a recurrent network: losses and parameters as in plain Python."""
    xs, ys = numbers(7, 3, 4), numbers(7, 3, 1, seed=1)

    def trained(wrap):
        tr.manual_seed(0)
        net = RNN()
        opt = optim.Adam(net.parameters(), lr=1e-2)

        def step(xs, ys):
            loss = ((net(xs) - ys) ** 2).mean()
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        step = wrap(step)
        return [float(step(xs, ys)) for _ in range(10)], [p.numpy() for p in net.parameters()]

    losses, parameters = trained(lambda f: f)
    compiled, native = trained(lambda f: tr.compile(f, fullgraph=True))
    np.testing.assert_allclose(compiled, losses, rtol=1e-4)
    for p, q in zip(parameters, native):
        np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-5)
    assert losses[-1] < losses[0]


def test_a_compiled_forward_with_an_eager_loss():
    net = RNN()
    xs = numbers(7, 3, 4)
    net(xs).sum().backward()
    want = [p.grad.numpy() for p in net.parameters()]
    net.zero_grad()
    tr.compile(net, fullgraph=True)(xs).sum().backward()
    for p, w in zip(net.parameters(), want):
        np.testing.assert_allclose(p.grad.numpy(), w, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------ forward mode, many lanes


def test_forward_mode():
    w, xs = numbers(3, seed=3), numbers(4, 3, seed=1)
    functions = [
        lambda x: tr.scan(lambda c, r: (tr.tanh(c * x + r), c * x), x, xs),
        lambda x: tr.cond(x.sum() > 0, lambda: x * w, lambda: tr.sin(x)),
        lambda x: tr.while_loop(lambda x: (x * x).sum() < 50, lambda x: x * 2 + tr.sin(x * w), x),
        lambda x: tr.fori_loop(0, 3, lambda i, c: c * c * x, x),
    ]
    x, v = numbers(3) + 1, numbers(3, seed=9)
    for f in functions:
        _, got = both(lambda x, v: tr.jvp(f, (x,), (v,)), x, v)  # noqa: B023
        step = 1e-3
        for g, a, b in zip(*(flat(t) for t in (got, f(x + step * v), f(x - step * v)))):
            np.testing.assert_allclose(g.numpy(), (a - b).numpy() / (2 * step), rtol=2e-2, atol=2e-2)


def flat(x) -> list:
    return [t for part in x for t in flat(part)] if isinstance(x, (tuple, list)) else [x]


def mapped(f, *stacks):
    """vmap(f), the same as a loop and compiled."""
    got = both(tr.vmap(f), *stacks)
    rows = [flat(f(*(s[k] for s in stacks))) for k in range(stacks[0].shape[0])]
    same(flat(got), [tr.stack(list(column)) for column in zip(*rows)])
    return got


def test_vmap_of_cond():
    w = numbers(3, seed=2)
    x = numbers(4, 3)
    mapped(
        lambda p, x: tr.cond(p > 0, lambda x: (x * w, p), lambda x: (x - 1, p * 2), x), tr.tensor([1.0, -1, 2, -3]), x
    )
    yes = tr.tensor(True)
    mapped(lambda x: tr.cond(yes, lambda x: (x * 2, w), lambda x: (x, x), x), x)


def test_vmap_of_loops():
    x, w, rows = numbers(4, 3), numbers(3, seed=2), numbers(5, 3, seed=1)
    mapped(lambda x: tr.while_loop(lambda c: (c * c).sum() < 20, lambda c: c * 2 + w, x), x * 3)
    mapped(lambda x: tr.while_loop(lambda k, c: k < 3, lambda k, c: (k + 1, c * x), 0, x), x)
    mapped(lambda x: tr.scan(lambda c, r: (c * r + w, (c, r)), x, rows), x)
    mapped(lambda xs: tr.scan(lambda c, r: (c * r, c), w, xs), numbers(4, 5, 3))
    mapped(lambda x: tr.grad(lambda x: tr.scan(lambda c, r: (tr.sin(c * r), None), x, x)[0].sum())(x), numbers(4, 3))
    mapped(lambda x: tr.fori_loop(0, 3, lambda i, c: tr.cond(c.sum() > 0, lambda: -c, lambda: c + x), x), x)


def test_gradients_of_vmap():
    def f(w, x):
        step = lambda c, r: (tr.tanh(c * w + r), c)  # noqa: E731
        return tr.vmap(lambda x: tr.scan(step, w, x)[0])(x).sum()

    gradients(f, numbers(3), numbers(4, 5, 3, seed=1))


@pytest.mark.parametrize("kind", ["scan", "cond"])
def test_random_numbers_and_gradients_in_one_body(kind):
    def loss(w):
        def step(c, _):
            return c * w + tr.rand(3), None

        if kind == "scan":
            return tr.scan(step, w * 0, None, length=4)[0].sum()
        return tr.cond(w.sum() > 0, lambda: (w * tr.rand(3)).sum(), lambda: w.sum())

    w = tr.tensor([1.0, 2.0, 3.0])
    compiled = tr.compile(tr.grad(loss), fullgraph=True)
    for seed in range(3):
        tr.manual_seed(seed)
        want = tr.grad(loss)(w)
        tr.manual_seed(seed)
        np.testing.assert_allclose(compiled(w).numpy(), want.numpy(), rtol=1e-5)
