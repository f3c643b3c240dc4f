"""autocast and GradScaler: which functions run in which type, eagerly and compiled; scales and skipped steps."""

import functools

import numpy as np
import pytest
from tracefuse.frontend.compile import CaptureError, compile
from tracefuse.frontend.nn import functional as F

import tracefuse as tr
from tracefuse import nn, optim

strict = functools.partial(compile, backend="reference", fullgraph=True)


def ones(*shape, dtype=tr.float32):
    return tr.ones(shape, dtype=dtype)


# name of the function in tracefuse -> (its arguments' shapes or values, the name in torch)
LOWERED = {
    "matmul": ((3, 4), (4, 2)),
    "mm": ((3, 4), (4, 2)),
    "inner": ((3, 4), (2, 4)),
    "vecdot": ((3, 4), (3, 4)),
    "bmm": ((2, 3, 4), (2, 4, 2)),
    "addmm": ((3, 2), (3, 4), (4, 2)),
    "baddbmm": ((2, 3, 2), (2, 3, 4), (2, 4, 2)),
}
FUNCTIONAL_LOWERED = {
    "linear": ((3, 4), (2, 4), (2,)),
    "conv1d": ((1, 2, 5), (3, 2, 2), (3,)),
    "conv2d": ((1, 2, 5, 5), (3, 2, 2, 2), (3,)),
    "conv_transpose2d": ((1, 2, 5, 5), (2, 3, 2, 2), (3,)),
    "prelu": ((3, 4), (1,)),
    "scaled_dot_product_attention": ((2, 3, 4), (2, 3, 4), (2, 3, 4)),
}
RAISED = {
    "mse_loss": ((3, 4), (3, 4)),
    "l1_loss": ((3, 4), (3, 4)),
    "smooth_l1_loss": ((3, 4), (3, 4)),
    "huber_loss": ((3, 4), (3, 4)),
    "kl_div": ((3, 4), (3, 4)),
    "binary_cross_entropy_with_logits": ((3, 4), (3, 4)),
}


@pytest.mark.parametrize("dtype", [tr.bfloat16, tr.float16], ids=str)
@pytest.mark.parametrize("name", [n for n in LOWERED if hasattr(tr, n)])
def test_products_are_lowered(name, dtype):
    args = [ones(*s) for s in LOWERED[name]]
    with tr.autocast("cpu", dtype=dtype):
        assert getattr(tr, name)(*args).dtype is dtype
        assert getattr(tr, name)(*[a.to(tr.float64) for a in args]).dtype is tr.float64
    assert getattr(tr, name)(*args).dtype is tr.float32


@pytest.mark.parametrize("name", FUNCTIONAL_LOWERED)
def test_layers_are_lowered_with_their_biases(name):
    args = [ones(*s) for s in FUNCTIONAL_LOWERED[name]]
    with tr.autocast("cpu"):
        out = getattr(F, name)(*args)
    assert out.dtype is tr.bfloat16
    np.testing.assert_allclose(np.asarray(out.to(tr.float32)), np.asarray(getattr(F, name)(*args)), rtol=2e-2)


@pytest.mark.parametrize("name", RAISED)
def test_losses_are_raised(name):
    args = [ones(*s, dtype=tr.bfloat16) for s in RAISED[name]]
    with tr.autocast("cpu"):
        assert getattr(F, name)(*args).dtype is tr.float32
    assert getattr(F, name)(*args).dtype is tr.bfloat16


def test_cross_entropy_of_lowered_logits_is_float32():
    logits, classes = ones(3, 4, dtype=tr.bfloat16), tr.tensor([0, 1, 2])
    with tr.autocast("cpu"):
        assert F.cross_entropy(logits, classes).dtype is tr.float32


def test_everything_else_promotes_as_always():
    a, b = ones(3), ones(3, dtype=tr.bfloat16)
    with tr.autocast("cpu"):
        assert (a + b).dtype is tr.float32 and tr.concat([a, b]).dtype is tr.float32
        assert F.softmax(b, dim=0).dtype is tr.bfloat16 and tr.exp(a).dtype is tr.float32


def test_operators_methods_and_einsum_follow():
    a = ones(3, 3)
    with tr.autocast("cpu"):
        for out in (a @ a, a.matmul(a), tr.einsum("ij,jk->ik", a, a), tr.linalg.matmul(a, a)):
            assert out.dtype is tr.bfloat16


def test_blocks_nest_and_end():
    a = ones(2, 2)
    assert not tr.is_autocast_enabled("cpu") and tr.get_autocast_dtype("cpu") is tr.bfloat16
    with tr.autocast("cpu", dtype=tr.float16) as outer:
        assert tr.is_autocast_enabled() and tr.get_autocast_dtype() is tr.float16
        with tr.autocast("cpu", enabled=False):
            assert (a @ a).dtype is tr.float32
        assert (a @ a).dtype is tr.float16
        with pytest.raises(KeyError), outer:
            raise KeyError
        assert tr.is_autocast_enabled()
    assert not tr.is_autocast_enabled()


def test_it_is_a_decorator():
    @tr.autocast("cpu")
    def f(x):
        """Doc."""
        return x @ x

    assert f(ones(2, 2)).dtype is tr.bfloat16 and f.__doc__ == "Doc." and not tr.is_autocast_enabled()


def test_bad_settings():
    with pytest.raises(ValueError, match="float32"):
        tr.autocast("cpu", dtype=tr.float32)
    with pytest.raises(TypeError, match="string"):
        tr.autocast(tr.bfloat16)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="xpu"), tr.autocast("xpu"):
        assert not tr.is_autocast_enabled()


def test_gradients_come_back_in_the_types_of_the_parameters():
    net, x = nn.Linear(3, 2), ones(4, 3)
    with tr.autocast("cpu"):
        loss = F.mse_loss(net(x), ones(4, 2))
    loss.backward()
    assert net.weight.grad.dtype is tr.float32 and net.bias.grad.dtype is tr.float32


def test_a_block_inside_a_compiled_function():
    a = tr.tensor(np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32))

    def f(x):
        with tr.autocast("cpu", dtype=tr.float16):
            y = x @ x.T
        return y, x @ x.T

    low, high = strict(f)(a)
    assert low.dtype is tr.float16 and high.dtype is tr.float32 and not tr.is_autocast_enabled()
    np.testing.assert_array_equal(np.asarray(low), np.asarray(f(a)[0]))

    decorated = strict(tr.autocast("cpu")(lambda x: x @ x.T))
    assert decorated(a).dtype is tr.bfloat16


@pytest.mark.parametrize("backend", ["reference", "llvm"])
def test_a_compiled_function_follows_the_block_around_it(backend):
    f, a = compile(lambda x: x @ x, fullgraph=True, backend=backend), ones(3, 3)
    for _ in range(3):
        assert f(a).dtype is tr.float32
        with tr.autocast("cpu"):
            assert f(a).dtype is tr.bfloat16
        with tr.autocast("cpu", dtype=tr.float16):
            assert f(a).dtype is tr.float16
    assert len(f.traces) == 3


def test_a_compiled_step_in_mixed_precision_is_the_eager_one():
    def trainer(wrap):
        tr.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        opt = optim.AdamW(net.parameters(), lr=0.01)

        @wrap
        def step(x, y):
            with tr.autocast("cpu"):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss

        return net, step

    rng = np.random.default_rng(0)
    (a, eager), (b, compiled) = trainer(lambda f: f), trainer(strict)
    for _ in range(4):
        x, y = tr.tensor(rng.standard_normal((5, 4)).astype(np.float32)), tr.tensor(rng.integers(0, 3, 5))
        np.testing.assert_allclose(float(eager(x, y).detach()), float(compiled(x, y).detach()), rtol=1e-5)
    for p, q in zip(a.parameters(), b.parameters()):
        np.testing.assert_allclose(np.asarray(p.detach()), np.asarray(q.detach()), atol=2e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_types_are_those_of_torch(dtype):
    torch = pytest.importorskip("torch")
    cases = [(tr, torch, LOWERED, "float32"), (F, torch.nn.functional, FUNCTIONAL_LOWERED, "float32")]
    cases += [(F, torch.nn.functional, RAISED, dtype)]
    seen = 0
    for ours, theirs, table, given in cases:
        for name, shapes in table.items():
            if not hasattr(ours, name):
                continue
            with torch.autocast("cpu", dtype=getattr(torch, dtype)):
                function = getattr(theirs, name, None) or getattr(torch.linalg, name)
                expected = function(*[torch.ones(s, dtype=getattr(torch, given)) for s in shapes])
            with tr.autocast("cpu", dtype=dtype):
                out = getattr(ours, name)(*[ones(*s, dtype=given) for s in shapes])
            assert str(expected.dtype) == f"torch.{np.dtype(out.dtype.np).name}", name
            seen += 1
    assert seen >= 16


def test_what_a_checkpoint_runs_again_is_lowered_as_at_first():
    from tracefuse.frontend.checkpoint import checkpoint

    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ones(5, 3)
    seen = []
    for call in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        net.zero_grad()
        with tr.autocast("cpu"):
            out = call(x)
        out.sum().backward()
        seen.append(np.asarray(net[0].weight.grad))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not tr.is_autocast_enabled()


def test_a_compiled_forward_remembers_nothing_of_the_block_around_it():
    net, x = nn.Linear(3, 2), ones(4, 3)
    compiled = strict(net)
    for _ in range(2):
        with tr.autocast("cpu"):
            out = compiled(x)
        assert out.dtype is tr.bfloat16
        net.zero_grad()
        out.sum().backward()
        np.testing.assert_array_equal(np.asarray(net.weight.grad), np.full((2, 3), 4.0))
        assert compiled(x).dtype is tr.float32


# ------------------------------------------------------------------ GradScaler


def scaled_step(scaler, opt, p, gradient):
    p.grad = tr.tensor(np.full(p.shape, gradient, np.float32)) * scaler.get_scale()
    scaler.step(opt)
    scaler.update()


def test_scales_grow_and_shrink_as_written():
    p = nn.Parameter(np.zeros(2, np.float32))
    opt, scaler = optim.SGD([p], lr=1.0), tr.amp.GradScaler(init_scale=8.0, growth_interval=2)
    scaled_step(scaler, opt, p, 1.0)
    assert scaler.get_scale() == 8.0 and float(p.detach()[0]) == -1.0
    scaled_step(scaler, opt, p, 1.0)
    assert scaler.get_scale() == 16.0 and float(p.detach()[0]) == -2.0
    scaled_step(scaler, opt, p, np.inf)
    assert scaler.get_scale() == 8.0 and float(p.detach()[0]) == -2.0
    assert scaler.state_dict() == {
        "scale": 8.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2,
        "_growth_tracker": 0,
    }
    other = tr.amp.GradScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()


def test_the_order_of_calls_is_checked():
    p = nn.Parameter(np.zeros(2, np.float32))
    opt, scaler = optim.SGD([p], lr=1.0), tr.amp.GradScaler()
    with pytest.raises(RuntimeError, match="gradients"):
        scaler.update()
    p.grad = tr.ones(2)
    scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match="unscale_"):
        scaler.unscale_(opt)
    scaler.step(opt)
    with pytest.raises(RuntimeError, match="step"):
        scaler.step(opt)
    scaler.update()
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(opt, lambda: None)
    half = nn.Parameter(np.zeros(2, np.float16))
    half.grad = tr.ones(2, dtype=tr.float16)
    with pytest.raises(ValueError, match="float16"):
        scaler.unscale_(optim.SGD([half], lr=1.0))


def test_a_disabled_scaler_does_nothing():
    p = nn.Parameter(np.zeros(2, np.float32))
    opt, scaler = optim.SGD([p], lr=1.0), tr.amp.GradScaler(enabled=False)
    p.grad = tr.ones(2)
    assert scaler.scale(p) is p and scaler.get_scale() == 1.0 and scaler.state_dict() == {}
    scaler.step(opt)
    scaler.update()
    assert float(p.detach()[0]) == -1.0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, about infinities
@pytest.mark.parametrize("backend", ["reference", "llvm"])
def test_a_compiled_step_skips_what_is_not_finite(backend):
    def trainer(wrap):
        tr.manual_seed(0)
        net = nn.Linear(3, 2)
        opt = optim.Adam(net.parameters(), lr=0.1)
        scaler = tr.amp.GradScaler(init_scale=4.0, growth_interval=2)

        @wrap
        def step(x):
            opt.zero_grad()
            with tr.autocast("cpu", dtype=tr.float16):
                loss = F.mse_loss(net(x), tr.zeros((4, 2)))
            scaler.scale(loss).backward()
            scaler.unscale_(opt)
            norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(opt)
            scaler.update()
            return norm

        return net, opt, scaler, step

    rng = np.random.default_rng(0)
    net, opt, scaler, step = trainer(lambda f: f)
    twin, twin_opt, twin_scaler, compiled = trainer(lambda f: compile(f, fullgraph=True, backend=backend))
    for i in range(7):
        x = rng.standard_normal((4, 3)).astype(np.float32)
        if i in (3, 4):
            x[0, 0] = np.inf
        step(tr.tensor(x))
        compiled(tr.tensor(x))
        assert scaler.state_dict() == twin_scaler.state_dict(), i
    assert scaler.get_scale() == 4.0  # doubled after two steps, halved twice, doubled
    assert float(opt.state[net.weight]["step"]) == float(twin_opt.state[twin.weight]["step"]) == 5.0
    for p, q in zip(net.parameters(), twin.parameters()):
        np.testing.assert_allclose(np.asarray(p.detach()), np.asarray(q.detach()), atol=1e-3)
    assert len(compiled.traces) <= 2  # the first call has no gradients to clear


def test_what_a_trace_leaves_open_ends_the_capture():
    p = nn.Parameter(np.zeros(2, np.float32))
    opt, scaler = optim.SGD([p], lr=1.0), tr.amp.GradScaler(init_scale=2.0)

    def half():
        scaler.scale((p * 3).sum()).backward()
        scaler.unscale_(opt)

    with pytest.raises(CaptureError):
        strict(half)()
    half()  # what the trace has seen is forgotten
    scaler.step(opt)
    scaler.update()
    np.testing.assert_array_equal(np.asarray(p.detach()), [-3, -3])


def test_scales_are_those_of_torch():
    torch = pytest.importorskip("torch")
    p, q = nn.Parameter(np.zeros(2, np.float32)), torch.nn.Parameter(torch.zeros(2))
    opt, topt = optim.SGD([p], lr=0.5), torch.optim.SGD([q], lr=0.5)
    scaler, tscaler = (a.GradScaler("cpu", init_scale=16.0, growth_interval=3) for a in (tr.amp, torch.amp))
    for i in range(20):
        g = np.full(2, np.nan if i in (4, 5, 13) else 0.25 * i, np.float32)
        for given, s, o, t in ((tr.tensor(g), scaler, opt, p), (torch.tensor(g), tscaler, topt, q)):
            t.grad = s.scale(given)
            s.step(o)
            s.update()
        assert scaler.state_dict() == tscaler.state_dict()
        np.testing.assert_array_equal(np.asarray(p.detach()), q.detach().numpy())
