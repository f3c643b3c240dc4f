"""vmap: axes, nesting, randomness, writes, what it refuses, and how it goes with the other transforms."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from tracefuse.func import functional_call, stack_module_state

import tracefuse as tr
from tracefuse import nn


def arr(*shape, seed=0):
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape))


def same(got, want, rtol=1e-10):
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=rtol, atol=1e-12)


X, W = arr(4, 3), arr(3, 2, seed=1)


# ------------------------------------------------------------------ axes


def test_axes_in_and_out():
    same(tr.vmap(lambda r: r @ W)(X), X @ W)
    same(tr.vmap(lambda c: c * 2, in_axes=1)(X), X.T * 2)
    same(tr.vmap(lambda c: c * 2, in_axes=-1, out_axes=-1)(X), X * 2)
    same(tr.vmap(lambda r, w: r @ w, in_axes=(0, None), out_axes=1)(X, W), (X @ W).T)
    same(tr.vmap(lambda r: r, in_dims=1, out_dims=1)(X), X)


def test_axes_of_nested_arguments_and_results():
    point = {"a": X, "b": [arr(3, 4), W]}
    axes = ({"a": 0, "b": [1, None]},)
    out = tr.vmap(lambda p: {"s": p["a"] + p["b"][0], "t": (p["b"][1], None)}, axes, {"s": 1, "t": (None, None)})(point)
    same(out["s"], (X + point["b"][0].T).T)
    same(out["t"][0], W)
    assert out["t"][1] is None


def test_keyword_arguments_are_passed_whole():
    same(tr.vmap(lambda r, w: r @ w)(X, w=W), X @ W)


def test_results_that_do_not_differ_are_repeated():
    assert tr.vmap(lambda r: W)(X).shape == (4, 3, 2)
    assert tr.vmap(lambda r: 1.0)(X).shape == (4,)


def test_chunks():
    seen = []

    def f(r):
        seen.append(1)
        return r @ W, W

    a, b = tr.vmap(f, chunk_size=3, out_axes=(0, None))(X)
    same(a, X @ W)
    same(b, W)
    assert len(seen) == 2


def test_no_lanes_at_all():
    out = tr.vmap(lambda r: tr.sort(r * 2)[0].sum())(tr.zeros((0, 3)))
    assert out.shape == (0,) and out.dtype is tr.float32


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: tr.vmap(lambda a, b: a + b)(X, W), "differ in size.*4.*3"),
        (lambda: tr.vmap(lambda a: a, in_axes=None)(X), "no argument is mapped"),
        (lambda: tr.vmap(lambda a: a)(tr.tensor(1.0)), "without axes"),
        (lambda: tr.vmap(lambda a, k: a * k)(X, 2.0), "float, which has no axes"),
        (lambda: tr.vmap(lambda a: a, in_axes=(0, 0))(X), "the same nesting"),
        (lambda: tr.vmap(lambda a: a, out_axes=None)(X), "out_axes has None"),
        (lambda: tr.vmap(lambda a: a, out_axes=(0, 0))(X), "out_axes has .* where there is a leaf"),
        (lambda: tr.vmap(lambda a: a, randomness="all"), "none of error"),
        (lambda: tr.vmap(lambda a: a, chunk_size=0), "positive"),
        (lambda: tr.vmap(lambda r: r @ r[:2])(X), r"do not fit|differ|3.*2"),
    ],
)
def test_what_does_not_fit(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_axis_out_of_range():
    with pytest.raises(IndexError, match="vmap: in_axes 2 is out of bounds"):
        tr.vmap(lambda a: a, in_axes=2)(X)


def test_functions_return_tensors():
    with pytest.raises(TypeError, match="must return tensors, not a str"):
        tr.vmap(lambda a: "a")(X)


# ------------------------------------------------------------------ inside of the function


def test_shapes_are_those_of_one_call():
    def f(r):
        assert r.shape == (3,) and r.ndim == 1 and r.numel() == 3
        return r.reshape(3, 1).T

    assert tr.vmap(f)(X).shape == (4, 1, 3)


def test_writes_in_place():
    def f(r, w):
        y = tr.zeros(3, dtype=r.dtype)
        y[1] = r[0]
        y[2:] += r[:1] * w
        view = y[:2]
        view *= 2
        return y

    want = np.stack([np.zeros(4), 2 * X.numpy()[:, 0], 3 * X.numpy()[:, 0]], 1)
    before = X.numpy().copy()
    np.testing.assert_allclose(tr.vmap(f, in_axes=(0, None))(X, 3.0).numpy(), want)
    np.testing.assert_array_equal(X.numpy(), before)


def test_writes_of_what_differs_into_tensors_outside_are_refused():
    total = tr.zeros(3, dtype=tr.float64)

    def f(r):
        total.add_(r)
        return r

    with pytest.raises(RuntimeError, match="from outside of the function is written in place"):
        tr.vmap(f)(X)
    with pytest.raises(RuntimeError, match="from outside"):
        tr.vmap(nn.BatchNorm1d(3))(arr(4, 5, 3).float())


def test_values_are_not_there():
    for f in (lambda r: r if r.sum() > 0 else -r, lambda r: r * r[0].item(), lambda r: tr.tensor(np.asarray(r))):
        with pytest.raises(RuntimeError, match="vmap: .* needs the value of a tensor that differs"):
            tr.vmap(f)(X)


def test_values_that_do_not_differ_are_there():
    same(tr.vmap(lambda r: r * 2 if W[0, 0] == W[0, 0] else r)(X), X * 2)


def test_indexing_with_lanes():
    i = tr.tensor([2, 0, 1, -1])
    np.testing.assert_array_equal(tr.vmap(lambda r, k: r[k])(X, i).numpy(), X.numpy()[np.arange(4), i.numpy()])
    with pytest.raises(IndexError, match="out of bounds"):
        tr.vmap(lambda r, k: r[k])(X, i + 5)


def test_backward_inside_stays_inside():
    def f(r):
        x = r.detach().requires_grad_()
        (x * x).sum().backward()
        return x.grad

    same(tr.vmap(f)(X), 2 * X)
    w = tr.ones(3, dtype=tr.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"would write \.grad of a tensor from outside"):
        tr.vmap(lambda r: (r * w).sum().backward())(X)


def test_the_way_out_is_clean_after_an_error():
    with pytest.raises(ZeroDivisionError):
        tr.vmap(lambda r: r / (1 // 0))(X)
    same(X + 1, tr.tensor(X.numpy() + 1))


# ------------------------------------------------------------------ random numbers


def test_random_numbers():
    noisy = lambda r: r * 0 + tr.rand(3, dtype=tr.float64)  # noqa: E731
    with pytest.raises(RuntimeError, match='randomness="different"'):
        tr.vmap(noisy)(X)
    tr.manual_seed(1)
    same_draws = tr.vmap(noisy, randomness="same")(X)
    tr.manual_seed(1)
    np.testing.assert_array_equal(same_draws.numpy(), np.tile(tr.rand(3, dtype=tr.float64).numpy(), (4, 1)))
    tr.manual_seed(1)
    both = np.stack(
        [tr.vmap(noisy, randomness="different")(X).numpy(), tr.vmap(noisy, randomness="different")(X).numpy()]
    )
    assert len(np.unique(both)) == both.size  # two calls do not overlap either


def test_random_numbers_of_nested_maps():
    def f(inner, outer):
        g = tr.vmap(lambda x: x * 0 + tr.rand(()), randomness=inner)
        return tr.vmap(g, randomness=outer)(tr.zeros((3, 4))).numpy()

    assert len(np.unique(f("different", "different"))) == 12
    assert len(np.unique(f("same", "different"))) == 3
    assert len(np.unique(f("different", "same"))) == 4
    assert len(np.unique(f("same", "same"))) == 1


def test_dropout_with_masks_of_its_own():
    out = tr.vmap(lambda r: nn.functional.dropout(r, 0.5), randomness="different")(tr.ones((50, 20))).numpy()
    assert set(np.unique(out)) == {0.0, 2.0} and len(np.unique(out, axis=0)) > 40


# ------------------------------------------------------------------ with other transforms


def energy(x, w):
    return (tr.sin(x) @ w * x.sum()).sum()


def test_nesting_of_maps():
    same(tr.vmap(lambda a: tr.vmap(lambda b: a @ b)(X))(X), X @ X.T)
    same(tr.vmap(tr.vmap(lambda a, b: a * b, in_axes=(0, None)), in_axes=(None, 0))(X[0], X[1]), tr.outer(X[1], X[0]))


def test_gradients_of_and_in_maps():
    per_row = tr.vmap(tr.grad(energy), in_axes=(0, None))
    same(per_row(X, W), tr.stack([tr.grad(energy)(r, W) for r in X]))

    def penalty(w):
        return (per_row(X, w) ** 2).sum()

    def by_loop(w):
        return sum((tr.grad(energy)(X[i], w) ** 2).sum() for i in range(4))

    same(tr.grad(penalty)(W), tr.grad(by_loop)(W))
    same(tr.vmap(tr.grad(tr.grad(lambda s: tr.sin(s) * s)))(X[:, 0]), 2 * tr.cos(X[:, 0]) - X[:, 0] * tr.sin(X[:, 0]))


def test_closed_over_leaves_get_gradients():
    w = W.clone().requires_grad_()
    tr.vmap(lambda r: energy(r, w))(X).sum().backward()
    same(w.grad, tr.grad(lambda v: sum(energy(r, v) for r in X))(W))


def test_detach_and_no_grad_cut_every_history():
    w = W.clone().requires_grad_()

    def quiet(r):
        with tr.no_grad():
            return (r @ w).sum()

    assert not tr.vmap(quiet)(X).requires_grad
    assert not tr.vmap(lambda r: (r @ w.detach()).sum())(X).requires_grad
    same(tr.grad(lambda x: tr.vmap(lambda r: (r.detach() * r).sum())(x).sum())(X), X)


def test_custom_functions():
    class Steep(tr.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return tr.sign(x) * w

        @staticmethod
        def backward(ctx, g):  # as if it were x * w
            x, w = ctx.saved_tensors
            return g * w, (g * x)

    w = arr(3, seed=5).requires_grad_()
    x = X.clone().requires_grad_()
    out = tr.vmap(Steep.apply, in_axes=(0, None))(x, w)
    same(out, tr.sign(X) * w)
    out.sum().backward()
    same(x.grad, w.detach() * tr.ones_like(X))
    same(w.grad, X.sum(0))
    same(tr.vmap(tr.grad(lambda r: (Steep.apply(r, w.detach()) ** 2).sum()))(X), 2 * tr.sign(X) * w.detach() ** 2)


def test_results_of_custom_functions_that_are_constant():
    class Sign(tr.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y, s = tr.exp(x), tr.sign(x)
            ctx.save_for_backward(y)
            ctx.mark_non_differentiable(s)
            return y, s

        @staticmethod
        def backward(ctx, g, _):
            return g * ctx.saved_tensors[0]

    x = X.clone().requires_grad_()
    y, s = tr.vmap(Sign.apply)(x)
    assert y.requires_grad and not s.requires_grad
    same(tr.autograd.grad(y.sum(), x)[0], tr.exp(X))
    same(tr.vmap(tr.grad(lambda r: (Sign.apply(r)[0] * Sign.apply(r)[1]).sum()))(X), tr.exp(X) * tr.sign(X))
    gc.disable()
    try:
        held = weakref.ref(tr.vmap(Sign.apply)(x)[0])
        assert held() is None
    finally:
        gc.enable()


def test_per_sample_gradients_and_ensembles_of_modules():
    tr.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double() for _ in range(3)]
    params = {k: v.detach() for k, v in nets[0].named_parameters()}
    y = arr(4, 1, seed=3)

    def loss(p, x, t):
        return ((functional_call(nets[0], p, x) - t) ** 2).mean()

    each = tr.vmap(tr.grad(loss), in_axes=(None, 0, 0))(params, X, y)
    whole = tr.grad(loss)(params, X, y)
    for k in params:
        same(each[k].mean(0), whole[k])
    stacked, buffers = stack_module_state(nets)
    out = tr.vmap(lambda p, b, x: functional_call(nets[0], (p, b), (x,)), in_axes=(0, 0, None))(stacked, buffers, X)
    same(out, tr.stack([net(X) for net in nets]))


# ------------------------------------------------------------------ compiled


def compiled_equals_eager(f, *args):
    c = tr.compile(f, fullgraph=True)
    for _ in range(2):
        got, want = c(*args), f(*args)
        for g, w in zip(*((x,) if isinstance(x, tr.Tensor) else x for x in (got, want))):
            same(g, w, 1e-8)
    assert c.cache_info()["traces"] == 1 and c.cache_info()["eager"] == 0


def test_compiled_maps():
    compiled_equals_eager(lambda x, w: tr.vmap(tr.grad(energy), in_axes=(0, None))(x, w), X, W)
    compiled_equals_eager(lambda x: tr.vmap(tr.vmap(lambda s: tr.exp(s) * 2), out_axes=1)(x), X)
    compiled_equals_eager(lambda x: tr.vmap(lambda r: tr.sort(r)[0] if r.ndim == 1 else r)(x), X)


def test_maps_of_compiled_functions():
    f = tr.compile(energy)
    same(tr.vmap(f, in_axes=(0, None))(X, W), tr.vmap(energy, in_axes=(0, None))(X, W))
    compiled_equals_eager(lambda x, w: tr.vmap(tr.grad(f), in_axes=(0, None))(x, w), X, W)
    compiled_equals_eager(lambda x, w: tr.vmap(f, in_axes=(0, None))(x, w), X, W)


def test_exported_maps_with_any_number_of_lanes():
    def f(x, i):
        return tr.vmap(tr.grad(lambda r, k: (tr.sin(r)[k] * r.sum() * (r @ W).sum()).sum()))(x, i)

    i = tr.tensor([0, 2, 1, 1])
    program = tr.export(f, (X, i), dynamic={"x": {0: "lanes"}, "i": {0: "lanes"}})
    for n in (2, 3):
        same(program(X[:n], i[:n]), f(X[:n], i[:n]))


def test_compiled_random_numbers_are_the_eager_ones():
    def f(x):
        return tr.vmap(lambda r: r + tr.rand(3, dtype=tr.float64), randomness="different")(x)

    tr.manual_seed(7)
    want = [f(X), f(X)]
    tr.manual_seed(7)
    c = tr.compile(f, fullgraph=True)
    for w in want:
        same(c(X), w)


def test_torch_agrees():
    torch = pytest.importorskip("torch")
    a, b = arr(4, 2, 5), arr(3, 5, seed=1)
    ta, tb = torch.tensor(a.numpy()), torch.tensor(b.numpy())
    for f in (
        lambda lib, x, y: lib.nn.functional.softmax(x @ y.T, -1).sum(0),
        lambda lib, x, y: lib.logsumexp(x, -1),
        lambda lib, x, y: lib.where(x > 0, x, x * 2).flatten(),
        lambda lib, x, y: lib.concat([x, y]).T @ x[0].sum().reshape(1, 1).expand(5, 2),
        lambda lib, x, y: x.T.reshape(-1)[:7],
    ):
        got = tr.vmap(lambda x: f(tr, x, b), out_axes=-1)(a)  # noqa: B023
        want = torch.vmap(lambda x: f(torch, x, tb), out_dims=-1)(ta)  # noqa: B023
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-10)
