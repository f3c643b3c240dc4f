"""`tr.compile` on modules and whole training steps: what it computes, and when it makes a new trace."""

import functools
import gc
import threading
import traceback
import warnings
import weakref

import numpy as np
import pytest
from tracefuse.frontend import autograd
from tracefuse.frontend.compile import CaptureError, CaptureWarning, CheckError, compile, compiled_function, is_compiled
from tracefuse.frontend.nn import functional as F

import tracefuse as tr
from tracefuse import nn, optim

strict = functools.partial(compile, backend="reference", fullgraph=True)
reference = functools.partial(compile, backend="reference")


class Scaled(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.inner = nn.Linear(n, n)
        self.factor = 2.0

    def forward(self, x):
        return self.inner(x) * self.factor


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), Scaled(8), nn.Dropout(dropout))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))


def batches(n, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield tr.tensor(rng.standard_normal((5, 6)).astype(np.float32)), tr.tensor(rng.integers(0, 3, 5))


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a.detach()), np.asarray(b.detach()), rtol=tolerance, atol=tolerance)


def same_state(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert left.keys() == right.keys()
    for k in left:
        close(left[k], right[k])


def twins(make, *args, **kwargs):
    """Two equal modules."""
    out = []
    for _ in range(2):
        tr.manual_seed(0)
        out.append(make(*args, **kwargs))
    return out


OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True),
}


def trainer(net, opt):
    def step(x, y):
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_steps_equal_plain_python(name):
    a, b = twins(Net)
    make = OPTIMIZERS[name]
    plain, compiled = trainer(a, make(a.parameters())), strict(trainer(b, make(b.parameters())))
    for x, y in batches(6):
        close(plain(x, y), compiled(x, y))
    same_state(a, b)
    assert compiled.cache_info()["misses"] == 1
    assert all(p.grad is None for p in b.parameters())
    specs = compiled.traces[0].graph.signature.outputs
    assert not any(s.kind == "attr" for s in specs)  # gradients cleared at both ends cost nothing


def test_inputs_are_named_as_the_user_writes_them():
    net = Net()
    opt = optim.Adam(net.parameters(), lr=0.01)
    compiled = strict(trainer(net, opt))
    compiled(*next(batches(1)))
    paths = {s.path: s.kind for s in compiled.traces[0].graph.signature.inputs}
    assert paths["x"] == "arg" and paths["net.head.weight"] == "state"
    assert paths["net.body.3.inner.bias"] == "state"
    assert any("exp_avg" in p for p in paths)


def test_a_changing_learning_rate_makes_no_new_trace():
    a, b = twins(nn.Linear, 6, 3)
    oa, ob = optim.SGD(a.parameters(), lr=0.1), optim.SGD(b.parameters(), lr=0.1)
    plain, compiled = trainer(a, oa), strict(trainer(b, ob))
    for i, (x, y) in enumerate(batches(4)):
        oa.param_groups[0]["lr"] = ob.param_groups[0]["lr"] = 0.1 / (i + 1)
        close(plain(x, y), compiled(x, y))
    same_state(a, b)
    assert compiled.cache_info()["misses"] == 1


def test_options_that_switch_structure_make_a_new_trace():
    a, b = twins(nn.Linear, 6, 3)
    oa, ob = optim.SGD(a.parameters(), lr=0.1), optim.SGD(b.parameters(), lr=0.1)
    plain, compiled = trainer(a, oa), strict(trainer(b, ob))
    for i, (x, y) in enumerate(batches(4)):
        oa.param_groups[0]["weight_decay"] = ob.param_groups[0]["weight_decay"] = 0.0 if i < 2 else 0.5
        close(plain(x, y), compiled(x, y))
    same_state(a, b)
    assert compiled.cache_info()["misses"] == 2


def test_gradients_accumulate_over_calls():
    a, b = twins(nn.Linear, 6, 3)

    def backward_of(net):
        def f(x, y):
            F.cross_entropy(net(x), y).backward()

        return f

    plain, compiled = backward_of(a), strict(backward_of(b))
    for x, y in batches(3):
        plain(x, y)
        compiled(x, y)
        for p, q in zip(a.parameters(), b.parameters()):
            close(p.grad, q.grad)
    assert compiled.cache_info()["misses"] == 2  # with and without a .grad to add to


def test_zero_grad_at_the_start_forgets_old_gradients():
    net = nn.Linear(6, 3)

    def f(x):
        net.zero_grad()
        net(x).sum().backward()
        return net.weight.grad

    compiled = strict(f)
    for x, _ in batches(3):
        want = f(x).numpy().copy()
        got = compiled(x)
        assert got is net.weight.grad
        close(got, tr.tensor(want))


def test_train_and_eval_have_traces_of_their_own():
    a, b = twins(Net, 0.5)
    compiled = strict(lambda x: b(x))
    for mode in (True, False, True, False):
        a.train(mode), b.train(mode)
        for x, _ in batches(2):
            tr.manual_seed(3)
            want = a(x)
            tr.manual_seed(3)
            close(compiled(x), want)
    same_state(a, b)  # running statistics
    assert compiled.cache_info()["misses"] == 2


def test_dropout_draws_the_same_numbers_and_moves_the_generator():
    net = nn.Dropout(0.5)
    compiled = strict(lambda x: (net(x), net(x)))
    x = tr.ones(64)
    tr.manual_seed(1)
    want = [net(x) for _ in range(6)]
    tr.manual_seed(1)
    got = [y for _ in range(3) for y in compiled(x)]
    for g, w in zip(got, want):
        np.testing.assert_array_equal(g.numpy(), w.numpy())
    rng = [s for s in compiled.traces[0].sources if s.kind == "rng"]
    assert len(rng) == 1


def test_attributes_of_modules_are_guarded():
    net = Scaled(4)
    compiled, x = strict(net), tr.ones((2, 4))
    close(compiled(x), net(x))
    net.factor = 5.0
    close(compiled(x), net(x))
    net.inner = nn.Linear(4, 4)
    close(compiled(x), net(x))
    assert compiled_function(compiled).cache_info()["misses"] == 3


def test_parameters_written_outside_are_read_anew():
    net = nn.Linear(3, 2)
    compiled, x = strict(net), tr.ones((1, 3))
    compiled(x)
    with tr.no_grad():
        net.weight.fill_(0.5)
        net.bias.zero_()
    close(compiled(x), tr.full((1, 2), 1.5))


def test_compiled_modules_are_transparent():
    net = Net()
    compiled = strict(net)
    assert isinstance(compiled, Net) and type(compiled).__name__ == "Net" and is_compiled(compiled)
    assert compiled.state_dict().keys() == net.state_dict().keys()
    assert compiled.head is net.head
    compiled.eval()
    assert not net.training
    compiled.extra = 3
    assert net.extra == 3
    close(compiled(tr.ones((2, 6))), net(tr.ones((2, 6))))
    wrapped = nn.Sequential(compiled, nn.ReLU())
    assert wrapped(tr.ones((2, 6))).shape == (2, 3)


def test_methods_compile_per_object():
    class Model:
        def __init__(self, k):
            self.k = k

        @compile(backend="reference", fullgraph=True)
        def run(self, x):
            return x * self.k

    one, two = Model(2.0), Model(3.0)
    x = tr.tensor([1.0])
    assert one.run(x).item() == 2.0 and two.run(x).item() == 3.0
    one.k = 4.0
    assert one.run(x).item() == 4.0


def test_compiled_functions_call_each_other():
    inner = reference(lambda x: x * 2)
    outer = strict(lambda x: inner(x) + 1)
    assert outer(tr.tensor([1.0])).item() == 3.0
    assert inner.cache_info()["misses"] == 0


def test_forward_and_backward_hooks_are_part_of_the_trace():
    net, seen = nn.Linear(3, 2), 4.0
    net.register_forward_hook(lambda m, args, out: out * seen)
    net.weight.register_hook(lambda g: g * 10.0)

    def f(x):
        net.zero_grad()
        out = net(x)
        out.sum().backward()
        return out, net.weight.grad

    x = tr.ones((1, 3))
    want = [t.numpy().copy() for t in map(lambda t: t.detach(), f(x))]
    for got in (strict(f)(x), strict(f)(x)):
        for g, w in zip(got, want):
            np.testing.assert_allclose(g.detach().numpy(), w)


# ------------------------------------------------------------------ gradients through a compiled forward


def test_an_eager_loss_differentiates_through_a_compiled_forward():
    a, b = twins(Net)
    compiled = strict(b)
    oa, ob = optim.Adam(a.parameters(), lr=0.01), optim.Adam(b.parameters(), lr=0.01)
    for x, y in batches(4):
        for net, opt in ((a, oa), (compiled, ob)):
            loss = F.cross_entropy(net(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
        for p, q in zip(a.parameters(), b.parameters()):
            close(p.grad, q.grad, 1e-4)
    same_state(a, b)
    assert compiled_function(compiled).cache_info()["misses"] == 1


def test_gradients_reach_arguments_and_several_results():
    def f(x, y):
        z = tr.exp(x) * y
        return z, (z * z).sum(), z.T

    def gradients(fn):
        x = tr.tensor([[1.0, 2.0]], requires_grad=True)
        w = tr.tensor([[3.0, 4.0]], requires_grad=True)
        y = w * 2.0
        z, s, t = fn(x, y)
        (z.sum() * 2 + s + t[0, 0]).backward()
        return x.grad, w.grad

    for g, w in zip(gradients(strict(f)), gradients(f)):
        close(g, w)


def test_a_second_backward_needs_retain_graph():
    fn = strict(lambda x: (x * x).sum())
    x = tr.tensor([1.0, 2.0], requires_grad=True)
    out = fn(x)
    out.backward(retain_graph=True)
    out.backward()
    close(x.grad, tr.tensor([4.0, 8.0]))
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_no_grad_results_have_no_history():
    fn = strict(lambda x: x * 2)
    x = tr.tensor([1.0], requires_grad=True)
    with tr.no_grad():
        assert not fn(x).requires_grad
    assert fn(x).requires_grad


def test_gradients_taken_inside():
    fn = strict(lambda x: autograd.grad((x**3).sum(), x, create_graph=True)[0].sum())
    x = tr.tensor([1.0, 2.0], requires_grad=True)
    fn(x).backward()
    close(x.grad, tr.tensor([6.0, 12.0]))


def test_custom_functions_are_instrumented():
    class Cube(autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * 3 * x**2 * factor

    factor = 1.0

    def f(x):
        return Cube.apply(x).sum()

    fn = strict(f)
    for factor in (1.0, 2.0):
        x = tr.tensor([2.0], requires_grad=True)
        fn(x).backward()
        assert x.grad.item() == 12.0 * factor


# ------------------------------------------------------------------ the compiled function itself


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="function"):
        compile(3)
    with pytest.raises(ValueError, match="backend"):
        compile(lambda x: x, backend="other")
    with pytest.raises(ValueError, match="mode"):
        compile(lambda x: x, mode="other")


def test_it_looks_like_the_function_it_wraps():
    @compile(backend="reference")
    def named(x, y=2):
        """A doc."""
        return x + y

    assert named.__name__ == "named" and named.__doc__ == "A doc." and "compiled" in repr(named)
    assert named(tr.tensor([1.0])).item() == 3.0 and named(tr.tensor([1.0]), y=5).item() == 6.0


def test_unload_forgets_everything():
    fn = reference(lambda x: x + 1)
    fn(tr.tensor([1.0]))
    fn.unload()
    assert fn.cache_info()["traces"] == 0
    assert fn(tr.tensor([1.0])).item() == 2.0


def test_results_do_not_keep_arguments_alive():
    fn = reference(lambda x: x * 2)
    x = tr.ones(3)
    alive = weakref.ref(x)
    fn(x)
    del x
    gc.collect()
    assert alive() is None


def test_check_compares_with_plain_python():
    def f(x, w):
        w += 1.0
        return x * w

    fn = reference(f, check=2)
    w = tr.tensor([1.0])
    assert fn(tr.tensor([2.0]), w).item() == 4.0 and w.item() == 2.0
    fn.traces[0].executable.run = lambda inputs: [inputs[0] * 0, None]
    with pytest.raises(CheckError, match="result"):
        fn(tr.tensor([2.0]), w)


def test_a_failing_program_runs_as_plain_python_instead():
    fn = reference(lambda x, i: x[i])
    x = tr.tensor([1.0, 2.0, 3.0])
    assert fn(x, tr.tensor([1])).item() == 2.0
    with pytest.raises(IndexError):
        fn(x, tr.tensor([7]))
    assert fn(x, tr.tensor([2])).item() == 3.0


def test_the_epoch_moves_during_a_call():
    net = nn.Linear(2, 2)

    def f(x):
        net.eval()
        return net(x)

    with pytest.warns(CaptureWarning, match="eval"):
        reference(f)(tr.ones((1, 2)))
    with pytest.raises(CaptureError, match="eval"):
        strict(f)(tr.ones((1, 2)))


def test_threads_share_a_compiled_function():
    fn = reference(lambda x, n: (x * n).sum())
    errors = []

    def work():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", CaptureWarning)
                for n in (1, 2, 3, 4):
                    assert fn(tr.ones(8), n).item() == 8 * n
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and fn.cache_info()["traces"] == 4


def test_the_native_backend_gives_the_same():
    a, b = twins(nn.Linear, 6, 3)
    plain = trainer(a, optim.Adam(a.parameters(), lr=0.01))
    compiled = compile(trainer(b, optim.Adam(b.parameters(), lr=0.01)), fullgraph=True)
    for x, y in batches(3):
        close(plain(x, y), compiled(x, y), 1e-4)
    for p, q in zip(a.parameters(), b.parameters()):
        close(p, q, 1e-4)


def test_an_error_of_the_users_comes_out_as_it_is():
    def product(x, y):
        return x @ y

    with pytest.raises(ValueError, match="matmul") as caught:
        tr.compile(product, fullgraph=True)(tr.ones((2, 3)), tr.ones((4, 5)))
    assert "return x @ y" in "".join(traceback.format_exception(caught.value))
