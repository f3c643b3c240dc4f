"""What autograd has besides backward(): hooks, custom functions, checkpoints, anomaly mode, modes, batched gradients."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from tracefuse.autograd import Function, detect_anomaly, once_differentiable, set_detect_anomaly
from tracefuse.frontend.checkpoint import CheckpointError, checkpoint, checkpoint_sequential

import tracefuse as tr
from tracefuse import nn


def arr(*shape, seed=0):
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape))


def leaf(*shape, seed=0):
    return arr(*shape, seed=seed).requires_grad_()


def same(got, want, rtol=1e-10):
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=rtol, atol=1e-12)


# ------------------------------------------------------------------ backward, grad


def test_a_second_backward_needs_retain_graph():
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    same(x.grad, 4 * x)
    with pytest.raises(RuntimeError, match="second time.*retain_graph=True"):
        y.backward()


def test_batched_grad_outputs():
    x = leaf(3)
    y = tr.sin(x) * x.sum()
    (rows,) = tr.autograd.grad(y, x, tr.eye(3, dtype=tr.float64), is_grads_batched=True, retain_graph=True)
    same(rows, tr.jacrev(lambda v: tr.sin(v) * v.sum())(x.detach()))
    a, b = leaf(2), leaf(2, seed=1)
    gs = tr.autograd.grad([a * b, a], [a, b], [arr(5, 2), arr(5, 2, seed=2)], is_grads_batched=True)
    same(gs[0], arr(5, 2) * b + arr(5, 2, seed=2))
    with pytest.raises(RuntimeError, match="second time"):
        tr.autograd.grad(y, x, tr.eye(3, dtype=tr.float64), is_grads_batched=True)
        tr.autograd.grad(y, x, tr.ones(3, dtype=tr.float64))


def test_unused_inputs():
    x, z = leaf(3), leaf(2)
    assert tr.autograd.grad((x * x).sum(), [x, z], allow_unused=True)[1] is None
    same(tr.autograd.grad((x * x).sum(), [x, z], materialize_grads=True)[1], tr.zeros(2))
    with pytest.raises(RuntimeError, match="input 1 was not used"):
        tr.autograd.grad((x * x).sum(), [x, z])


def test_inference_mode():
    x = leaf(3)
    with tr.inference_mode():
        assert tr.is_inference_mode_enabled() and not (x * 2).requires_grad
        with tr.inference_mode(False):
            assert (x * 2).requires_grad and not tr.is_inference_mode_enabled()

    @tr.inference_mode()
    def f(x):
        return x * 2, tr.is_inference_mode_enabled()

    assert not f(x)[0].requires_grad and f(x)[1]
    assert (x * 2).requires_grad and not tr.is_inference_mode_enabled()


# ------------------------------------------------------------------ hooks


def test_hooks_after_accumulation():
    x, seen = leaf(3), []
    handle = x.register_post_accumulate_grad_hook(lambda t: seen.append(t.grad.numpy().copy()))
    x.register_hook(lambda g: g * 10)
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    np.testing.assert_array_equal(seen, [[20] * 3, [40] * 3])
    handle.remove()
    (x * 2).sum().backward()
    assert len(seen) == 2
    with pytest.raises(RuntimeError, match="only leaves"):
        (x * 2).register_post_accumulate_grad_hook(print)


def test_optimizer_step_in_a_hook():
    x = leaf(3)

    def step(t):
        with tr.no_grad():
            t -= 0.5 * t.grad
        t.grad = None

    x.register_post_accumulate_grad_hook(step)
    before = x.detach().clone()
    (x * 2).sum().backward()
    same(x, before - 1)
    assert x.grad is None


def test_retain_grad():
    x = leaf(3)
    y = x * 2
    assert not y.retains_grad
    y.retain_grad()
    y.retain_grad()
    (y * 3).sum().backward()
    assert y.retains_grad and not x.retains_grad
    same(y.grad, 3 * tr.ones(3))
    with pytest.raises(RuntimeError, match="does not require grad"):
        tr.ones(2).retain_grad()


# ------------------------------------------------------------------ Function


def test_contexts():
    seen = {}

    class Both(Function):
        @staticmethod
        def forward(x, n):
            return x * n, x > 0, x + 1

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.n = inputs[1]
            ctx.save_for_backward(inputs[0], output[0])
            ctx.mark_non_differentiable(output[1], output[2])
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx, g, *others):
            seen["others"], seen["needs"] = others, ctx.needs_input_grad
            x, y = ctx.saved_tensors
            assert y.grad_fn is not None
            return g * ctx.n, None

    x = leaf(3)
    a, b, c = Both.apply(x, 3)
    assert a.requires_grad and not b.requires_grad and not c.requires_grad
    a.sum().backward()
    same(x.grad, 3 * tr.ones(3))
    assert seen == {"others": (None, None), "needs": (True, False)}


def test_saved_results_make_no_cycle():
    class Exp(Function):
        @staticmethod
        def forward(ctx, x):
            y = tr.exp(x)
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    x = leaf(3)
    assert tr.autograd.gradcheck(Exp.apply, x) and tr.autograd.gradgradcheck(Exp.apply, x)
    gc.disable()
    try:
        y = Exp.apply(x)
        held = weakref.ref(y)
        del y
        assert held() is None
    finally:
        gc.enable()


def test_saved_tensors_must_stay():
    class Square(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            return g * 2 * ctx.saved_tensors[0]

    x = leaf(3)
    h = x * 1
    y = Square.apply(h)
    h += 1
    with pytest.raises(RuntimeError, match="written in place: it had version 0, now it is at 1"):
        y.sum().backward()
    y = Square.apply(x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    with pytest.raises(TypeError, match="takes tensors, not a float"):
        tr.autograd.FunctionContext().save_for_backward(1.0)


def test_gradients_of_functions_must_fit():
    def function(gradients):
        class F(Function):
            @staticmethod
            def forward(ctx, x, y):
                return x * y

            @staticmethod
            def backward(ctx, g):
                return gradients(g)

        return F

    x, y = leaf(3), leaf(1)
    function(lambda g: (g, g, None, None)).apply(x, y).sum().backward()
    assert y.grad.shape == (1,) and y.grad.item() == 3  # summed over what was broadcast
    with pytest.raises(RuntimeError, match=r"shape \(2,\) for an argument of shape \(3,\)"):
        function(lambda g: (g[:2], None)).apply(x, y).sum().backward()
    with pytest.raises(RuntimeError, match="1 gradients for 2 arguments"):
        function(lambda g: g).apply(x, y).sum().backward()


def test_once_differentiable():
    class Cube(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x * x

        @staticmethod
        @once_differentiable
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    x = leaf(3)
    (g,) = tr.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    same(g, 3 * x * x)
    with pytest.raises(RuntimeError, match="backward is marked with @once_differentiable"):
        g.sum().backward()


def test_dirty_arguments():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            x.mul_(2)
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = leaf(3)
    h = x * 1
    out = Double.apply(h)
    assert out is h
    h.sum().backward()
    same(x.grad, 2 * tr.ones(3))
    with pytest.raises(RuntimeError, match="a leaf that requires grad"):
        Double.apply(x)


# ------------------------------------------------------------------ checkpoint


def test_checkpoints_change_nothing():
    tr.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    x = leaf(5, 4)

    def gradients(f):
        tr.manual_seed(1)
        out = tr.autograd.grad((f(x) ** 2).sum(), [x, *net.parameters()])
        return out, tr.rand(2)

    (want, after) = gradients(net)
    for f in (
        lambda x: checkpoint(net, x, use_reentrant=False),
        lambda x: checkpoint(lambda x: checkpoint(net[1:], checkpoint(net[0], x)), x),
        lambda x: checkpoint_sequential(net, 3, x),
    ):
        got, then = gradients(f)
        for g, w in zip(got, want):
            same(g, w)
        same(then, after)


def test_checkpoints_of_closed_over_tensors_and_higher_derivatives():
    w = leaf(4)
    f = lambda x: checkpoint(lambda v: tr.sin(v * w) * v, x).sum()  # noqa: E731
    x = leaf(4, seed=1)
    assert tr.autograd.gradcheck(f, x) and tr.autograd.gradgradcheck(f, x)
    f(x).backward()
    same(w.grad, tr.cos(x * w) * x * x)
    same(tr.hessian(f)(x.detach()), tr.hessian(lambda x: (tr.sin(x * w) * x).sum())(x.detach()))


def test_checkpoints_hold_their_arguments_only():
    inside = []

    def part(x):
        h = tr.exp(x)
        inside.append(weakref.ref(h))
        return tr.exp(h).sum()

    x = leaf(3)
    y = checkpoint(part, x)
    assert inside[0]() is None
    plain = part(x)
    y.backward()
    assert len(inside) == 3
    same(x.grad, tr.autograd.grad(plain, x)[0])
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_checkpoints_notice_changes():
    n = [0]

    def other(x):
        n[0] += 1
        return tr.exp(x) * 2 if n[0] == 1 else tr.exp(tr.exp(x)) * 2

    with pytest.raises(CheckpointError, match="2 steps at first and 3"):
        checkpoint(other, leaf(3)).sum().backward()
    h = leaf(3) * 1
    y = checkpoint(lambda x: tr.exp(x), h)
    h += 1
    with pytest.raises(CheckpointError, match="written in place"):
        y.sum().backward()


def test_compiled_checkpoints():
    drop = nn.Dropout(0.5)

    def f(x):
        return tr.value_and_grad(lambda v: checkpoint(lambda u: drop(tr.sin(u)) * u, v).sum())(x)

    c = tr.compile(f, fullgraph=True)
    tr.manual_seed(3)
    want = [f(arr(4)), f(arr(4))]
    tr.manual_seed(3)
    for value, gradient in want:
        got = c(arr(4))
        same(got[0], value)
        same(got[1], gradient)
    assert c.cache_info()["eager"] == 0
    same(
        tr.vmap(tr.grad(lambda v: checkpoint(lambda u: tr.sin(u) * u, v).sum()))(arr(2, 3)),
        tr.cos(arr(2, 3)) * arr(2, 3) + tr.sin(arr(2, 3)),
    )


# ------------------------------------------------------------------ anomaly mode


def test_anomalies_of_the_forward_pass():
    x = tr.tensor([1.0, -1.0])
    with pytest.raises(
        RuntimeError, match=r"test_transforms_autograd\.py:\d+: log made the first NaN: result 0 .* has 1"
    ):
        with detect_anomaly():
            tr.log(x)
    assert np.isnan(tr.log(x).numpy()[1])
    with detect_anomaly():
        assert np.isnan((tr.tensor([np.nan]) * 2).numpy()[0])  # it was there before
        assert float(tr.exp(x)[0]) > 2
    with detect_anomaly(check_nan=False):
        tr.log(x)


def test_anomalies_of_the_backward_pass():
    x = tr.tensor([0.0, 4.0], requires_grad=True)
    with detect_anomaly():
        root = tr.sqrt(x * 1)  # this line
        y = (root * 0).sum()
        with pytest.raises(RuntimeError, match=r"py:\d+: sqrt made the first NaN of the backward pass: .* operand 0"):
            y.backward()
    with detect_anomaly():
        h = x * 1
        y = (h * h).sum()
        h += 1
        with pytest.raises(RuntimeError, match=r"py:\d+: mul: its backward pass failed: .*written in place"):
            y.backward()


def test_anomaly_mode_looks_into_compiled_functions_and_maps():
    f = tr.compile(lambda x: tr.log(x))
    f(tr.tensor([-1.0]))
    with detect_anomaly():
        with pytest.raises(RuntimeError, match="log made the first NaN"):
            f(tr.tensor([-1.0]))
        with pytest.raises(RuntimeError, match="log made the first NaN"):
            tr.vmap(lambda r: tr.log(r))(tr.tensor([[-1.0]]))
    assert np.isnan(f(tr.tensor([-1.0])).numpy()[0])


def test_anomaly_mode_trains_as_usual():
    def trained():
        tr.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 1))
        opt = tr.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            opt.zero_grad()
            (net(arr(8, 3).float()) ** 2).mean().backward()
            opt.step()
        return [p.detach().numpy() for p in net.parameters()]

    want = trained()
    with detect_anomaly():
        got = trained()
    for g, w in zip(got, want):
        np.testing.assert_array_equal(g, w)


def test_anomaly_mode_on_and_off():
    assert not tr.autograd.is_anomaly_enabled()
    with set_detect_anomaly(True):
        assert tr.autograd.is_anomaly_enabled()
        with set_detect_anomaly(False):
            assert not tr.autograd.is_anomaly_enabled()
        assert tr.autograd.is_anomaly_enabled()
    set_detect_anomaly(True)
    assert tr.autograd.is_anomaly_enabled()
    set_detect_anomaly(False)
    assert not tr.autograd.is_anomaly_enabled()
    assert np.isnan(tr.log(tr.tensor(-1.0)).item())
