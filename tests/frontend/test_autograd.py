"""Differentiation: gradients, views and in-place writes, hooks, graphs of gradients, custom functions, transforms,
tracing."""

import gc
import threading
import weakref

import numpy as np
import pytest
from tracefuse.frontend.state import state
from tracefuse.frontend.tape import root_of
from tracefuse.frontend.tensor import new_tensor
from tracefuse.ir import interpreter
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.types import TensorType

import tracefuse as tr


def leaf(*shape, seed=0, low=0.5, high=2.0):
    return tr.tensor(np.random.default_rng(seed).uniform(low, high, shape), requires_grad=True)


def numeric(f, xs, i, eps=1e-6):
    """The gradient of the float64 function f with respect to xs[i], by central differences."""
    arrays = [x.numpy().copy() for x in xs]
    out = np.zeros_like(arrays[i])
    for at in np.ndindex(out.shape):
        values = []
        for step in (eps, -eps):
            moved = [a.copy() for a in arrays]
            moved[i][at] += step
            values.append(f(*map(tr.asarray, moved)).item())
        out[at] = (values[0] - values[1]) / (2 * eps)
    return out


def check(f, *xs):
    for x in xs:
        x.grad = None
    f(*xs).backward()
    for i, x in enumerate(xs):
        np.testing.assert_allclose(x.grad.numpy(), numeric(f, xs, i), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------ gradients

FUNCTIONS = {
    "arithmetic": lambda x, y: ((x * y - x / y) + x**2 + x**y + 2**x).sum(),
    "reflected": lambda x, y: (1 - x + 2 / y).sum(),
    "broadcasting": lambda x, y: (x[0] * y + x[:, :1] - y.sum(axis=0, keepdims=True)).sum(),
    "functions": lambda x, y: (tr.exp(x) + tr.log(y) + tr.tanh(x * y) + tr.sqrt(x) + tr.erf(y) + tr.sigmoid(x)).sum(),
    "extremes": lambda x, y: (
        (tr.maximum(x, y) * 2 + tr.minimum(x, 1.1) + x.clip(0.8, 1.5)).sum() + x.max() + y.amin(axis=0).sum()
    ),
    "where": lambda x, y: tr.where(x > y, x * 3, y * y).sum(),
    "matmul": lambda x, y: (x @ y.T).square().sum() + (x[0] @ y[1]) + (x @ y[0]).sum(),
    "reductions": lambda x, y: (
        x.mean() * y.var(correction=1) + x.std(axis=1).sum() + y.prod() + x.logsumexp(axis=0).sum()
    ),
    "shapes": lambda x, y: (
        (x.reshape(4, 3).T[None].squeeze(0) * y.permute(1, 0).reshape(3, 4)).sum() + x.ravel()[2] * 3
    ),
    "joining": lambda x, y: (tr.concat([x, y, x], axis=1) ** 2).sum() + (tr.stack([x, y]) * x).sum(),
    "moving": lambda x, y: (
        x.flip(1) * y + x.roll(1, 0) * y.roll(-2) + x.tile((2, 1))[3:] + y.repeat(2, axis=0)[2:5]
    ).sum(),
    "indexing": lambda x, y: (
        x[[0, 2, 0]] * y[1:, ::2].sum() + x[:, [1, 1]].sum() + y[y > 1].sum() + x[..., -1, None]
    ).sum(),
    "gather": lambda x, y: (
        (x.take_along_axis(tr.asarray([[1], [0], [3]]), axis=1) * y).sum() + x.take([3, 3], axis=1).sum()
    ),
    "triangle": lambda x, y: (x[:, :3].tril() @ y[:3, :3].triu(k=1)).sum() + x.diagonal().sum() + x[:, :3].trace(),
    "cumulative": lambda x, y: (x.cumsum(axis=1) * y.cumprod(axis=0)).sum(),
    "sorting": lambda x, y: (tr.sort(x, axis=1) * y).sum() + (x.topk(2)[0] ** 2).sum() + tr.median(x),
    "einsum": lambda x, y: tr.einsum("ij,kj->ik", x, y).square().sum() + tr.tensordot(x, y, axes=((0, 1), (0, 1))),
    "norms": lambda x, y: tr.linalg.vector_norm(x) + tr.norm(y, 3) + tr.linalg.matrix_norm(x, ord=1),
    "in place": lambda x, y: ((x * 1).mul_(y).add_(x, alpha=2).clamp_(max=3) ** 2).sum(),
    "casts": lambda x, y: (x.astype(tr.float64) * y.to(tr.float64)).sum(),
    "same twice": lambda x, y: (x * x + x).sum() * (x + y).sum(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_equal_finite_differences(name):
    check(FUNCTIONS[name], leaf(3, 4), leaf(3, 4, seed=1))


def test_gradients_have_the_dtype_of_their_leaf():
    x, h = tr.ones(3, requires_grad=True), tr.ones(3, dtype=tr.float16, requires_grad=True)
    (x * h).sum().backward()
    assert x.grad.dtype is tr.float32 and h.grad.dtype is tr.float16


def test_gradients_accumulate_in_tensors_of_their_own():
    x, y = tr.ones(3, requires_grad=True), tr.ones(3, requires_grad=True)
    seed = tr.ones(3)
    (x + y).backward(seed)
    assert not np.shares_memory(x.grad.numpy(), y.grad.numpy()) and not np.shares_memory(x.grad.numpy(), seed.numpy())
    x.grad.mul_(2)  # as gradient clipping does
    assert y.grad.tolist() == seed.tolist() == [1, 1, 1]
    (x * 3).sum().backward()
    assert x.grad.tolist() == [5, 5, 5]
    x.grad = None
    x.sum().backward()
    x.grad += 1
    assert x.grad.tolist() == [2, 2, 2]


def test_only_floats_that_ask_are_differentiated():
    x = tr.ones(2, requires_grad=True)
    assert not (x > 0).requires_grad and not x.argmax().requires_grad and not x.detach().requires_grad
    assert not x.astype(tr.int32).requires_grad and (x + 1).requires_grad
    assert x.is_leaf and not (x + 1).is_leaf and (x + 1).grad_fn.name == "add"
    with pytest.raises(TypeError, match="int64"):
        tr.arange(3).requires_grad_()
    with pytest.raises(RuntimeError, match="leaves"):
        (x * 2).requires_grad_(False)


def test_backward_errors():
    x = tr.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"one element.*\(3,\)"):
        (x * 2).backward()
    with pytest.raises(RuntimeError, match="does not depend"):
        tr.ones(()).backward()
    with pytest.raises(ValueError, match=r"\(2,\)"):
        (x * 2).backward(tr.ones(2))
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    with pytest.raises(ValueError, match="gradient must have"):
        x.grad = tr.ones(2)


def test_deep_graphs_need_no_recursion():
    x = tr.ones((), requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    del y


def test_graphs_are_freed_without_the_collector():
    x = tr.ones(3, requires_grad=True)
    gc.disable()
    try:
        y = x.exp().sqrt()
        kept = weakref.ref(y)
        z = y.sum()
        del y
        z.backward()
        del z
        assert kept() is None
    finally:
        gc.enable()


def test_order_of_sums_is_always_the_same():
    def run():
        x = leaf(50, seed=3).float().detach().requires_grad_()
        parts = [x * (k + 0.1) for k in range(20)]
        sum((p.exp() for p in parts[1:]), parts[0]).sum().backward()
        return x.grad.numpy()

    assert all(np.array_equal(run(), run()) for _ in range(3))


# ------------------------------------------------------------------ grad modes


def test_grad_modes_nest_and_are_per_thread():
    x = tr.ones(2, requires_grad=True)
    with tr.no_grad():
        assert not (x * 2).requires_grad and not tr.is_grad_enabled()
        with tr.enable_grad():
            assert (x * 2).requires_grad
        seen = []
        t = threading.Thread(target=lambda: seen.append(tr.is_grad_enabled()))
        t.start()
        t.join()
        assert seen == [True]
    assert (x * 2).requires_grad

    @tr.no_grad()
    def f(v):
        return v * 2

    @tr.no_grad
    def g(v):
        return v * 2

    assert not f(x).requires_grad and not g(x).requires_grad
    with tr.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    tr.set_grad_enabled(False)
    assert not tr.is_grad_enabled()
    tr.set_grad_enabled(True)
    with pytest.raises(KeyError), tr.no_grad():
        raise KeyError
    assert tr.is_grad_enabled()


# ------------------------------------------------------------------ views and in-place writes


def test_writes_through_views_reach_the_gradient_of_the_base():
    w = leaf(3, seed=1)

    def f(x, w):
        y = x * 1
        row = y[1]
        row.mul_(w)
        y[0, 1:] = w[:2] * 2
        y.T[2].add_(w[2])
        return (y**2).sum() + row.sum()

    check(f, leaf(3, 3), w)


def test_views_see_the_history_of_later_writes_to_their_base():
    def f(x, w):
        y = x.clone()
        late = y[0]
        y.mul_(w)
        return (late * late).sum()

    check(f, leaf(2, 3), leaf(3, seed=1))


def test_written_constants_get_a_history():
    def f(x):
        y = tr.zeros(2, 3, dtype=tr.float64)
        y[0] = x
        y[1].copy_(x * 2)
        y[:, [0, 2]] = x[:2] * 3
        y[y > 100] = 0.0
        return (y**2).sum()

    check(f, leaf(3))


def test_overwritten_elements_get_no_gradient():
    x = tr.ones(3, requires_grad=True)
    y = x * 2
    y[1] = 5
    y.sum().backward()
    assert x.grad.tolist() == [2, 0, 2]
    x.grad = None
    (x * 2).zero_().requires_grad_().sum().backward()
    assert x.grad is None


def test_leaves_cannot_be_written_unless_gradients_are_off():
    x = tr.ones(3, requires_grad=True)
    for write in (lambda: x.add_(1), lambda: x.__setitem__(0, 1), lambda: x.mul_(x), lambda: x.copy_(tr.ones(3))):
        with pytest.raises(RuntimeError, match="a leaf that requires grad"):
            write()
    with pytest.raises(RuntimeError, match="view of a leaf"):
        x[0].add_(1)
    with tr.no_grad():
        x.add_(1)
        x[0] = 7
    x.detach().mul_(2)
    x.data[0].sub_(1)
    x.detach()[1:][0] = 9
    assert x.tolist() == [13, 9, 4] and x.is_leaf


def test_values_that_the_backward_pass_needs_must_stay():
    x = tr.ones(3, requires_grad=True)
    y = x * 2
    z = (y * y).sum()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"mul.*written in place.*clone"):
        z.backward()
    e = x.exp()
    s = e.sum()
    e.detach()[0] = 0
    with pytest.raises(RuntimeError, match="the result of exp"):
        s.backward()


def test_values_that_it_does_not_need_may_change():
    x, c = tr.ones(3, requires_grad=True), tr.ones(3)
    y = x * 2
    z = y + 1
    y.add_(1)
    w = (z * c).sum()
    z.zero_()
    w.backward()
    assert x.grad.tolist() == [2, 2, 2]


def test_detached_tensors_share_memory_and_no_history():
    x = tr.ones(3, requires_grad=True)
    y = x * 2
    d = y.detach()
    y.add_(x)
    assert not d.requires_grad and d.tolist() == [3, 3, 3]
    y.sum().backward()
    assert x.grad.tolist() == [3, 3, 3]
    assert root_of(d) is y


# ------------------------------------------------------------------ hooks


def test_hooks_see_and_replace_gradients():
    x = tr.ones(2, requires_grad=True)
    seen = []
    first = x.register_hook(lambda g: seen.append(g.tolist()))
    x.register_hook(lambda g: g * 10)
    y = x * 3
    y.retain_grad()
    y.register_hook(lambda g: g + 1)
    (y * y).sum().backward()
    assert seen == [[21, 21]] and x.grad.tolist() == [210, 210] and y.grad.tolist() == [6, 6]
    first.remove()
    (x * 1).sum().backward()
    assert len(seen) == 1
    with pytest.raises(RuntimeError, match="does not require grad"):
        tr.ones(1).register_hook(print)


# ------------------------------------------------------------------ grad, gradients of gradients


def test_grad_of_inputs_leaves_dot_grad_alone():
    x, y = leaf(2), leaf(2, seed=1)
    mid = x * y
    out = (mid**2).sum()
    gx, gm = tr.autograd.grad(out, [x, mid])
    np.testing.assert_allclose(gm.numpy(), 2 * mid.numpy())
    np.testing.assert_allclose(gx.numpy(), (2 * mid * y).numpy())
    assert x.grad is None and y.grad is None
    with pytest.raises(RuntimeError, match="not used"):
        tr.autograd.grad((x * 2).sum(), y)
    assert tr.autograd.grad((x * 2).sum(), [y], allow_unused=True) == (None,)
    with pytest.raises(RuntimeError, match="does not require grad"):
        tr.autograd.grad((x * 2).sum(), tr.ones(1))


@pytest.mark.parametrize(
    "f",
    [lambda x: (x**3).sum(), lambda x: (x.exp() * x).sum(), lambda x: ((x @ x.T).tanh()).sum(), lambda x: (x / (1 + x
    * x)).mean(), lambda x: x.logsumexp(axis=1).sum(), lambda x: (x[[0, 1, 1]] ** 2 * x[:, :1].sum()).sum(),
          lambda x: x.prod(axis=0).sum()],
)  # fmt: skip
def test_second_derivatives(f):
    x = leaf(3, 3)
    v = tr.asarray(np.random.default_rng(2).standard_normal((3, 3)))
    (g,) = tr.autograd.grad(f(x), x, create_graph=True)
    (h,) = tr.autograd.grad((g * v).sum(), x)

    def slope(moved):
        moved = moved.detach().requires_grad_()
        return (tr.autograd.grad(f(moved), moved)[0] * v).sum()

    np.testing.assert_allclose(h.numpy(), numeric(slope, [x], 0), rtol=1e-4, atol=1e-6)


def test_backward_of_a_gradient_penalty():
    w, x = leaf(3, seed=1), leaf(4, 3)
    (g,) = tr.autograd.grad((x * w).tanh().sum(), x, create_graph=True)
    (g**2).sum().backward()
    assert w.grad is not None and w.grad.shape == (3,)
    y = (w * 2).sum()
    w.grad = None
    y.backward(create_graph=True)
    assert w.grad.tolist() == [2, 2, 2]


# ------------------------------------------------------------------ custom functions


class Cube(tr.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return scale * x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * ctx.scale * x**2, None


def test_custom_functions():
    x = leaf(3)
    y = Cube.apply(x, 2.0)
    assert y.grad_fn.name == "Cube"
    (g,) = tr.autograd.grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(g.numpy(), 6 * x.numpy() ** 2)
    (h,) = tr.autograd.grad(g.sum(), x)
    np.testing.assert_allclose(h.numpy(), 12 * x.numpy())
    assert not Cube.apply(x.detach(), 1.0).requires_grad
    y = Cube.apply(x, 1.0).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_custom_functions_with_several_results_and_wrong_counts():
    class Split(tr.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2, x

        @staticmethod
        def backward(ctx, a, b):
            return a * 2 + b

    class Wrong(tr.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * y

        @staticmethod
        def backward(ctx, g):
            return g

    x = leaf(2)
    a, b = Split.apply(x)
    a.sum().backward(retain_graph=True)
    b.sum().backward()
    assert b is not x and x.grad.tolist() == [3, 3]
    with pytest.raises(RuntimeError, match="1 gradients for 2"):
        Wrong.apply(x, x).sum().backward()


# ------------------------------------------------------------------ transforms


def test_grad_and_value_and_grad():
    x = tr.asarray([1.0, 2.0])
    value, g = tr.value_and_grad(lambda v: (v**2).sum())(x)
    assert (
        value.item() == 5
        and g.tolist() == [2, 4]
        and not g.requires_grad
        and not value.requires_grad
        and x.grad is None
    )
    gx, gy = tr.grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(x, x * 3)
    assert gx.tolist() == [3, 6] and gy.tolist() == [1, 2]
    params = {"w": x, "b": [tr.asarray(1.0), (tr.asarray(2.0),)]}
    g = tr.grad(lambda p: (p["w"] * p["b"][0]).sum() * p["b"][1][0])(params)
    assert g["w"].tolist() == [2, 2] and g["b"][0].item() == 6 and g["b"][1][0].item() == 3
    (value, aux), g = tr.value_and_grad(lambda v: ((v**2).sum(), "aux"), has_aux=True)(x)
    assert aux == "aux" and tr.grad(lambda v: (v.sum(), 1), has_aux=True)(x)[1] == 1
    assert tr.grad(lambda v: tr.asarray(1.0))(x).tolist() == [0, 0]
    with pytest.raises(TypeError, match="scalar"):
        tr.grad(lambda v: v)(x)
    with pytest.raises(TypeError, match="int64"):
        tr.grad(lambda v: v.sum())(tr.arange(3))


def test_transforms_nest():
    def f(v):
        return v**4

    x = tr.asarray(2.0)
    assert tr.grad(f)(x).item() == 32 and tr.grad(tr.grad(f))(x).item() == 48
    assert tr.grad(tr.grad(tr.grad(f)))(x).item() == 48
    assert tr.grad(lambda a: a * tr.grad(lambda b: a * b * b)(a))(x).item() == 24
    w = tr.tensor(3.0, requires_grad=True)
    g = tr.grad(lambda v: w * v * v)(x)
    g.backward()
    assert w.grad.item() == 4


def test_vjp():
    x = tr.asarray([1.0, 2.0])
    out, pull = tr.vjp(lambda v: (v * 2, {"s": v.sum()}), x)
    assert out[0].tolist() == [2, 4]
    (g,) = pull((tr.asarray([1.0, 0.0]), {"s": tr.asarray(10.0)}))
    assert g.tolist() == [12, 10] and pull((tr.zeros(2), {"s": tr.asarray(1.0)}))[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="cotangents"):
        pull(tr.ones(2))


# ------------------------------------------------------------------ while tracing


class RecordingTracer:
    """The smallest tracer: real tensors become inputs, writes and gradients stay in the trace."""

    def __init__(self):
        self.builder, self.inputs, self.values, self.grads = GraphBuilder(), [], {}, {}

    def __enter__(self):
        state.tracer = self
        self.builder.__enter__()
        return self

    def __exit__(self, *exc):
        state.tracer = None
        self.builder.__exit__(*exc)

    def read(self, t):
        if isinstance(t._data, np.ndarray) and id(t) not in self.values:
            self.values[id(t)] = self.builder.input(TensorType(from_numpy(t._data.dtype), t._data.shape))
            self.inputs.append(t)
        if t._base is not None and t._view is not None and t._view[0].name != "detach":
            op, attrs = t._view
            return op(self.read(t._base), **attrs)
        return self.values.get(id(t), t._data)

    def write(self, t, v):
        assert t._base is None
        if isinstance(t._data, np.ndarray):
            self.values[id(t)] = v
        else:
            t._data = v

    def make_view(self, base, op, attrs, value):
        return new_tensor(value)

    def wrap(self, v):
        return new_tensor(v)

    def elements(self, base, indices, value):
        return new_tensor(value)

    def made(self, t):
        pass

    def get_grad(self, t):
        return self.grads.get(id(t), t._grad)

    def set_grad(self, t, g):
        self.grads[id(t)] = g

    def callable(self, f):
        return f

    def concretize(self, t, what):
        raise AssertionError(what)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"sorting", "indexing", "in place"}))
def test_traces_record_the_backward_pass(name):
    x, y = leaf(3, 4), leaf(3, 4, seed=1)
    check(FUNCTIONS[name], x, y)
    expected = [x.grad.numpy(), y.grad.numpy()]
    x.grad = y.grad = None
    with RecordingTracer() as tracer:
        loss = FUNCTIONS[name](x, y)
        loss.backward()
        outputs = [tracer.read(loss), tracer.read(x.grad), tracer.read(y.grad)]
    assert x.grad is None and x._node is None
    graph = tracer.builder.finish(outputs)
    value, *grads = interpreter.run(graph, [t.numpy() for t in tracer.inputs])
    np.testing.assert_allclose(value, FUNCTIONS[name](x, y).item(), rtol=1e-12)
    for ours, theirs in zip(grads, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_tensors_of_a_trace_have_no_value_outside():
    x = tr.ones(3)
    with RecordingTracer():
        y = x * 2
    with pytest.raises(RuntimeError, match="made while tracing"):
        y + 1
