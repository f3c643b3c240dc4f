"""jvp, Jacobians and Hessians: values, structures, nesting, modules, compiled; and the checks of gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tracefuse.func import functional_call, grad_and_value

import tracefuse as tr
from tracefuse import nn


def arr(*shape, seed=0):
    return tr.tensor(np.random.default_rng(seed).standard_normal(shape))


def same(got, want, rtol=1e-9):
    np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), rtol=rtol, atol=1e-11)


A, X = arr(4, 4), arr(4, seed=1)


def field(x):
    return tr.tanh(A @ x) * x.sum()


def energy(x):
    return (tr.sin(x) * (A @ x) ** 2).sum()


# ------------------------------------------------------------------ jvp, linearize


def test_jvp_is_the_slope():
    v, h = arr(4, seed=2), 1e-6
    out, tangent = tr.jvp(field, (X,), (v,))
    same(out, field(X))
    same(tangent, (field(X + h * v) - field(X - h * v)) / (2 * h), 1e-6)
    assert not out.requires_grad and not tangent.requires_grad


def test_jvp_of_structures():
    p = {"a": X, "b": (A, [X * 2])}
    v = {"a": tr.ones_like(X), "b": (tr.zeros_like(A), [tr.ones_like(X)])}
    out, tangent, aux = tr.jvp(
        lambda p: (({"s": p["a"] * p["b"][1][0]}, p["b"][0].sum()), "x"), (p,), (v,), has_aux=True
    )
    same(tangent[0]["s"], 3 * X)
    assert tangent[1].item() == 0 and aux == "x" and out[1].shape == ()


def test_jvp_errors():
    with pytest.raises(TypeError, match="tuples"):
        tr.jvp(field, X, X)
    with pytest.raises(ValueError, match=r"shape \(3,\) for a primal of shape \(4,\)"):
        tr.jvp(field, (X,), (tr.ones(3),))
    with pytest.raises(ValueError, match="2 tangents for 1 primals"):
        tr.jvp(field, (X,), (X, X))
    with pytest.raises(TypeError, match="floating"):
        tr.jvp(lambda x: x, (tr.arange(3),), (tr.arange(3),))
    with pytest.raises(RuntimeError, match="result 1 does not depend"):
        tr.jvp(lambda x: (x, A), (X,), (X,), strict=True)


def test_jvp_where_results_are_arguments_or_constants():
    out, tangent = tr.jvp(lambda x: (x, x, A, x > 0), (X,), (A[0],))
    same(tangent[0], A[0])
    same(tangent[1], A[0])
    assert float(tangent[2].abs().sum()) == 0 and tangent[3].dtype is tr.bool


def test_linearize_runs_the_function_once():
    calls = []

    def f(x):
        calls.append(1)
        return field(x)

    out, push = tr.linearize(f, X)
    same(out, field(X))
    for seed in range(3):
        v = arr(4, seed=seed)
        same(push(v), tr.jvp(field, (X,), (v,))[1])
    assert len(calls) == 1


def test_tangents_are_differentiable():
    v = arr(4, seed=2)
    found = tr.grad(lambda v: (tr.jvp(field, (X,), (v,))[1] ** 2).sum())(v)
    J = tr.jacrev(field)(X)
    same(found, 2 * J.T @ (J @ v))
    same(tr.grad(lambda x: tr.jvp(energy, (x,), (v,))[1])(X), tr.hessian(energy)(X) @ v)
    same(tr.jvp(lambda x: tr.jvp(energy, (x,), (v,))[1], (X,), (v,))[1], v @ tr.hessian(energy)(X) @ v)


# ------------------------------------------------------------------ Jacobians and Hessians


def test_jacobians_agree():
    J = tr.jacrev(field)(X)
    same(J, tr.jacfwd(field)(X))
    same(J, tr.jacrev(field, chunk_size=3)(X))
    same(J, tr.jacfwd(field, chunk_size=3)(X))
    same(J, tr.jacobian(field)(X))
    same(J @ X, tr.jvp(field, (X,), (X,))[1])


@pytest.mark.parametrize("transform", [tr.jacrev, tr.jacfwd])
def test_structure_of_jacobians(transform):
    def f(p, q):
        return {"u": tr.outer(p["a"], q), "v": (p["b"].sum(), q[:1])}, "aux"

    p, q = {"a": arr(2), "b": arr(3, 1)}, arr(4)
    J, aux = transform(f, argnums=(0, 1), has_aux=True)(p, q)
    assert aux == "aux" and J["u"][0]["a"].shape == (2, 4, 2) and J["u"][0]["b"].shape == (2, 4, 3, 1)
    assert J["v"][0][0]["b"].shape == (3, 1) and J["v"][1][1].shape == (1, 4)
    same(J["u"][1], tr.einsum("i,jk->ijk", p["a"], tr.eye(4, dtype=tr.float64)))
    assert transform(f, argnums=1, has_aux=True)(p, q)[0]["u"].shape == (2, 4, 4)
    with pytest.raises(IndexError, match="argnums has 2"):
        transform(f, argnums=2)(p, q)


def test_hessians_by_every_way():
    H = tr.hessian(energy)(X)
    same(H, H.T)
    for outer, inner in itertools.product((tr.jacrev, tr.jacfwd), repeat=2):
        same(outer(inner(energy))(X), H)
    X2 = arr(3, 4, seed=3)
    same(tr.vmap(tr.hessian(energy))(X2), tr.stack([tr.hessian(energy)(r) for r in X2]))


def test_gradients_of_hessians():
    def trace(a):
        return tr.hessian(lambda x: (tr.sin(x) * (a @ x) ** 2).sum())(X).diagonal().sum()

    assert tr.autograd.gradcheck(trace, (A.clone().requires_grad_(),), rtol=1e-4)
    a = A.clone().requires_grad_()
    trace(a).backward()
    same(a.grad, tr.grad(trace)(A))


def test_results_have_a_history_only_where_somebody_wants_it():
    w = A.clone().requires_grad_()
    assert tr.jacrev(lambda x: w @ x)(X).requires_grad and tr.jacfwd(lambda x: w @ x)(X).requires_grad
    with tr.no_grad():
        assert not tr.grad(lambda x: (w @ x).sum())(X).requires_grad
        assert not tr.jacrev(lambda x: w @ x)(X).requires_grad
    assert not tr.hessian(energy)(X).requires_grad


def test_jacobian_of_module_parameters():
    net = nn.Linear(4, 2).double()
    params = {k: p.detach() for k, p in net.named_parameters()}
    J = tr.jacrev(lambda p: functional_call(net, p, (X,)))(params)
    same(J["weight"][0, 0], X)
    same(J["bias"], tr.eye(2, dtype=tr.float64))
    g, value = grad_and_value(lambda p: functional_call(net, p, X).sum())(params)
    assert g["bias"].shape == (2,) and value.shape == ()


def test_functional_call_names():
    shared = nn.Linear(2, 2)
    net = nn.Sequential(shared, nn.BatchNorm1d(2), shared)
    x = tr.ones(3, 2)
    with pytest.raises(KeyError, match="no parameter or buffer '0.wight'"):
        functional_call(net, {"0.wight": tr.ones(2, 2)}, (x,))
    with pytest.raises(KeyError, match="is missing"):
        functional_call(net, {"0.weight": tr.ones(2, 2)}, (x,), strict=True)
    with pytest.raises(ValueError, match="tied"):
        functional_call(net, {"0.weight": tr.ones(2, 2), "2.weight": tr.zeros(2, 2)}, (x,))
    net.eval()
    zero = {
        "0.weight": tr.zeros(2, 2),
        "0.bias": tr.zeros(2),
        "1.running_mean": tr.ones(2),
        "1.running_var": tr.ones(2),
    }
    np.testing.assert_allclose(functional_call(net, zero, (x,)).detach().numpy(), np.zeros((3, 2)))
    untied = functional_call(net, {**zero, "2.bias": tr.ones(2)}, (x,), tie_weights=False)
    np.testing.assert_allclose(
        untied[0].detach().numpy(), (net[2].weight @ (-tr.ones(2)) * 0.99999 + 1).detach(), atol=1e-4
    )
    assert float(net[1].running_mean.sum()) == 0


def test_compiled_transforms():
    v = arr(4, seed=2)
    for f in (
        lambda x: tr.jvp(energy, (x,), (v,))[1],
        lambda x: tr.jacrev(field)(x),
        lambda x: tr.jacfwd(field)(x),
        lambda x: tr.hessian(energy)(x),
        lambda x: tr.vmap(lambda s: tr.jvp(energy, (x,), (s,))[1])(A),
        lambda x: tr.grad(lambda y: (tr.jacrev(field)(y) ** 2).sum())(x),
    ):
        c = tr.compile(f, fullgraph=True)
        same(c(X), f(X), 1e-8)
        same(c(v), f(v), 1e-8)
        assert c.cache_info()["traces"] == 1
    c = tr.compile(energy)
    same(tr.jvp(c, (X,), (v,))[1], tr.jvp(energy, (X,), (v,))[1])
    same(tr.hessian(c)(X), tr.hessian(energy)(X))
    same(tr.jacrev(tr.compile(field))(X), tr.jacrev(field)(X))
    same(tr.vmap(tr.grad(c))(A), tr.vmap(tr.grad(energy))(A))
    same(tr.grad(lambda x: (tr.grad(c)(x) ** 2).sum())(X), tr.grad(lambda x: (tr.grad(energy)(x) ** 2).sum())(X))


def test_gradients_of_gradients_of_compiled_functions():
    x, w = X.clone().requires_grad_(), A.clone().requires_grad_()
    c = tr.compile(lambda x: (tr.tanh(w @ x) ** 2).sum())
    assert tr.autograd.gradcheck(c, x) and tr.autograd.gradgradcheck(c, x)
    (g,) = tr.autograd.grad(c(x), x, create_graph=True)
    (g**2).sum().backward()
    got = w.grad.clone()
    w.grad = None
    (g,) = tr.autograd.grad((tr.tanh(w @ x) ** 2).sum(), x, create_graph=True)
    (g**2).sum().backward()
    same(got, w.grad)


def test_gradients_of_gradients_need_inputs_as_they_were():
    count = tr.zeros(4, dtype=tr.float64)

    def f(x):
        count.add_(1)
        return (tr.sin(x) * count).sum()

    x = X.clone().requires_grad_()
    y = tr.compile(f, fullgraph=True)(x)
    with pytest.raises(RuntimeError, match="gradients of gradients through .*count.*written in place"):
        tr.autograd.grad(y, x, create_graph=True)


def test_compiled_jvp_is_no_dearer_than_the_function_and_its_tangent():
    """The first of the two backward passes is dead code."""
    from tracefuse.frontend.capture.capture import capture
    from tracefuse.passes.fuel import Fuel
    from tracefuse.passes.simplify import simplify

    captured = capture(lambda x, v: tr.jvp(lambda y: tr.sin(y), (x,), (v,))[1], (X, X), {}, frozenset())
    left = [n.op.name for n in simplify(captured.graph, Fuel()).nodes]
    assert sorted(n for n in left if n not in ("cast", "reshape")) == ["cos", "mul"]


def test_torch_agrees():
    torch = pytest.importorskip("torch")
    tf = torch.func
    ta, tx = torch.tensor(A.numpy()), torch.tensor(X.numpy())
    te = lambda x: (torch.sin(x) * (ta @ x) ** 2).sum()  # noqa: E731
    tfield = lambda x: torch.tanh(ta @ x) * x.sum()  # noqa: E731
    for got, want in (
        (tr.hessian(energy)(X), tf.hessian(te)(tx)),
        (tr.jacrev(field)(X), tf.jacrev(tfield)(tx)),
        (tr.jvp(field, (X,), (X,))[1], tf.jvp(tfield, (tx,), (tx,))[1]),
        (tr.autograd.functional.hvp(energy, X, X)[1], torch.autograd.functional.hvp(te, tx, tx)[1]),
    ):
        np.testing.assert_allclose(got.detach().numpy(), want.numpy(), rtol=1e-9)


# ------------------------------------------------------------------ autograd.functional, gradcheck


def test_functional_names():
    F = tr.autograd.functional
    H = tr.hessian(energy)(X)
    for mode in ("reverse-mode", "forward-mode"):
        same(F.jacobian(field, X, strategy=mode), tr.jacrev(field)(X))
        same(F.hessian(energy, X, outer_jacobian_strategy=mode), H)
    same(F.jacobian(field, X, vectorize=False), tr.jacrev(field)(X))
    J = F.jacobian(lambda a, b: (a * b, a.sum()), (X, A[0]))
    assert J[0][1].shape == (4, 4) and J[1][0].shape == (4,)
    same(F.hvp(energy, X, A[0])[1], H @ A[0])
    same(F.vhp(energy, X, A[0])[1], H @ A[0])
    same(F.vjp(field, X, A[0])[1], tr.jacrev(field)(X).T @ A[0])
    same(F.jvp(field, X, A[0])[1], tr.jacrev(field)(X) @ A[0])
    assert F.hvp(energy, X.clone().requires_grad_(), X, create_graph=True)[1].requires_grad
    assert F.hessian(lambda a, b: (a * b).sum(), (X, X))[0][1].shape == (4, 4)
    with pytest.raises(RuntimeError, match="v may be left out"):
        F.vjp(field, X)
    with pytest.raises(ValueError, match="strategy"):
        F.jacobian(field, X, strategy="both")


class Wrong(tr.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2.1


def test_gradcheck_finds_wrong_rules():
    x = X.clone().requires_grad_()
    assert tr.autograd.gradcheck(field, (x,), check_forward_ad=True, check_batched_grad=True)
    assert tr.autograd.gradgradcheck(field, x)
    for fast in (False, True):
        assert not tr.autograd.gradcheck(Wrong.apply, (x,), raise_exception=False, fast_mode=fast)
    with pytest.raises(RuntimeError, match="output 0 with respect to input 0.* is 2.1, the slope of the values 2"):
        tr.autograd.gradcheck(Wrong.apply, x)
    with pytest.raises(ValueError, match="require grad"):
        tr.autograd.gradcheck(field, X)


def test_gradcheck_of_complex_functions():
    z = tr.tensor(np.array([1 + 2j, -0.5 + 0.3j])).requires_grad_()
    assert tr.autograd.gradcheck(lambda z: z * z * z.abs(), (z,), check_forward_ad=True)
    assert tr.autograd.gradgradcheck(lambda z: z * z, (z,))
