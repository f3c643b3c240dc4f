"""Optimizers and schedulers: numbers as PyTorch's."""

import math

import numpy as np
import pytest
from tracefuse.frontend import nn, optim
from tracefuse.frontend.epoch import epoch

import tracefuse as tr

W = np.linspace(-1, 1, 6).reshape(2, 3).astype(np.float32)
B = np.array([0.5, -0.25], np.float32)

OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "maximize": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True}),
]
IDS = [f"{n}-{i}" for i, (n, _) in enumerate(OPTIONS)]


def grads(i):
    """Gradients of step i: smooth in i, of both signs."""
    k = np.arange(6, dtype=np.float64).reshape(2, 3)
    return np.sin(0.3 * i + k).astype(np.float32), np.cos(0.2 * i + np.arange(2)).astype(np.float32)


def train(name, options, steps, half=False):
    """Parameters after `steps`; with `half`, the second one only has a gradient in every other step."""
    w, b = nn.Parameter(W.copy()), nn.Parameter(B.copy())
    opt = getattr(optim, name)([w, b], **options)
    for i in range(steps):
        gw, gb = grads(i)
        w.grad, b.grad = tr.tensor(gw), None if half and i % 2 else tr.tensor(gb)
        opt.step()
    return w, b, opt


def train_torch(name, options, steps, half=False):
    torch = pytest.importorskip("torch")
    w, b = torch.nn.Parameter(torch.tensor(W)), torch.nn.Parameter(torch.tensor(B))
    opt = getattr(torch.optim, name)([w, b], **options)
    for i in range(steps):
        gw, gb = grads(i)
        w.grad, b.grad = torch.tensor(gw), None if half and i % 2 else torch.tensor(gb)
        opt.step()
    return w, b, opt


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name,options", OPTIONS, ids=IDS)
def test_fifty_steps_match_torch(name, options, half):
    ew, eb, _ = train_torch(name, options, 50, half)
    w, b, _ = train(name, options, 50, half)
    scale = max(1.0, float(ew.abs().max()))
    np.testing.assert_allclose(np.asarray(w.detach()), ew.detach().numpy(), atol=1e-6 * scale)
    np.testing.assert_allclose(np.asarray(b.detach()), eb.detach().numpy(), atol=1e-6 * scale)


@pytest.mark.parametrize("name,options", OPTIONS, ids=IDS)
def test_matches_a_float64_reference(name, options):
    """The same recipe in plain NumPy, float64."""
    w, b, _ = train(name, options, 20)
    for j, (p, start) in enumerate(((w, W), (b, B))):
        np.testing.assert_allclose(np.asarray(p.detach()), reference(name, options, start, j, 20), atol=3e-6)


def reference(name, options, start, j, steps):
    x = start.astype(np.float64)
    o = {
        "momentum": 0,
        "dampening": 0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "amsgrad": False,
        "nesterov": False,
        "maximize": False,
    }
    o |= {"weight_decay": 0.01 if name == "AdamW" else 0.0} | options
    buf, m, v, vmax = None, np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for i in range(steps):
        g = grads(i)[j].astype(np.float64) * (-1 if o["maximize"] else 1)
        if name == "SGD":
            g = g + o["weight_decay"] * x
            if o["momentum"]:
                buf = g if buf is None else o["momentum"] * buf + (1 - o["dampening"]) * g
                g = g + o["momentum"] * buf if o["nesterov"] else buf
            x = x - o["lr"] * g
            continue
        if name == "AdamW":
            x = x * (1 - o["lr"] * o["weight_decay"])
        else:
            g = g + o["weight_decay"] * x
        (b1, b2), t = o["betas"], i + 1
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        vmax = np.maximum(vmax, v)
        second = vmax if o["amsgrad"] else v
        x = x - o["lr"] / (1 - b1**t) * m / (np.sqrt(second) / math.sqrt(1 - b2**t) + o["eps"])
    return x


def test_a_changed_rate_counts_from_the_next_step_without_moving_the_epoch():
    p = nn.Parameter(np.ones(2, np.float32))
    opt = optim.SGD([p], lr=1.0)
    held = opt.param_groups[0].tensors["lr"]
    before = epoch.value
    opt.param_groups[0]["lr"] = 0.25
    assert epoch.value == before and opt.param_groups[0].tensors["lr"] is held and float(held) == 0.25
    p.grad = tr.ones(2)
    opt.step()
    np.testing.assert_array_equal(np.asarray(p.detach()), [0.75, 0.75])


def test_options_that_change_structure_move_the_epoch():
    p = nn.Parameter(np.ones(2, np.float32))
    opt = optim.SGD([p], lr=1.0, momentum=0.5)
    group, before = opt.param_groups[0], epoch.value
    group["momentum"] = 0.6
    assert epoch.value == before
    group["momentum"] = 0.0
    group["nesterov"] = True
    assert epoch.value == before + 2
    group["nesterov"] = True
    assert epoch.value == before + 2


def test_groups_have_options_of_their_own():
    a, b = nn.Parameter(np.zeros(1, np.float32)), nn.Parameter(np.zeros(1, np.float32))
    opt = optim.SGD([{"params": [a], "lr": 1.0}, {"params": b}], lr=0.5)
    a.grad = b.grad = tr.ones(1)
    opt.step()
    assert float(a.detach()) == -1.0 and float(b.detach()) == -0.5
    opt.add_param_group({"params": [nn.Parameter(np.zeros(1, np.float32))]})
    assert [g["lr"] for g in opt.param_groups] == [1.0, 0.5, 0.5]
    with pytest.raises(ValueError, match="more than once"):
        opt.add_param_group({"params": [a]})


def test_bad_arguments():
    p = nn.Parameter(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="empty"):
        optim.Adam([])
    with pytest.raises(ValueError, match="lr"):
        optim.Adam([p], lr=-1.0)
    with pytest.raises(ValueError, match="betas"):
        optim.Adam([p], betas=(1.0, 0.9))
    with pytest.raises(TypeError, match="one tensor"):
        optim.Adam(p)
    with pytest.raises(ValueError, match="leaf"):
        optim.Adam([p * 2])
    with pytest.raises(ValueError, match="nesterov"):
        optim.SGD([p], nesterov=True)


def test_zero_grad_and_closure():
    p = nn.Parameter(np.array([3.0], np.float32))
    opt = optim.SGD([p], lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert float(opt.step(closure).detach()) == 9.0
    np.testing.assert_allclose(float(p.detach()), 2.4, rtol=1e-6)
    opt.zero_grad(set_to_none=False)
    assert float(p.grad) == 0.0
    opt.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("name,options", OPTIONS, ids=IDS)
def test_a_loaded_state_goes_on_as_before(name, options):
    w, b, opt = train(name, options, 5)
    w2, b2 = nn.Parameter(np.array(w.detach())), nn.Parameter(np.array(b.detach()))
    other = getattr(optim, name)([w2, b2], lr=7.0)
    other.load_state_dict(opt.state_dict())
    for o, pair in ((opt, (w, b)), (other, (w2, b2))):
        for p, g in zip(pair, grads(9)):
            p.grad = tr.tensor(g)
        o.step()
    np.testing.assert_array_equal(np.asarray(w.detach()), np.asarray(w2.detach()))
    np.testing.assert_array_equal(np.asarray(b.detach()), np.asarray(b2.detach()))


@pytest.mark.parametrize("name,options", OPTIONS, ids=IDS)
def test_states_of_torch_load(name, options):
    ew, eb, theirs = train_torch(name, options, 5)
    w, b = nn.Parameter(ew.detach().numpy().copy()), nn.Parameter(eb.detach().numpy().copy())
    ours = getattr(optim, name)([w, b], lr=7.0)
    ours.load_state_dict(theirs.state_dict())
    torch = pytest.importorskip("torch")
    for i in range(5, 10):
        for p, e, g in zip((w, b), (ew, eb), grads(i)):
            p.grad, e.grad = tr.tensor(g), torch.tensor(g)
        ours.step()
        theirs.step()
    np.testing.assert_allclose(np.asarray(w.detach()), ew.detach().numpy(), atol=2e-6)
    mine, its = ours.state_dict(), theirs.state_dict()
    assert {n: set(s) for n, s in mine["state"].items()} == {n: set(s) for n, s in its["state"].items()}
    assert mine["param_groups"][0]["params"] == its["param_groups"][0]["params"]


def test_state_exists_from_the_start_and_keeps_its_tensors():
    p = nn.Parameter(np.ones(2, np.float32))
    opt = optim.Adam([p])
    state = dict(opt.state[p])
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    p.grad = tr.ones(2)
    opt.step()
    assert all(opt.state[p][k] is t for k, t in state.items())
    assert float(state["step"]) == 1.0


def test_half_precision_parameters_train():
    p = nn.Parameter(np.ones(3, np.float16))
    opt = optim.AdamW([p], lr=0.1)
    p.grad = tr.tensor(np.ones(3, np.float16))
    opt.step()
    assert p.dtype is tr.float16
    np.testing.assert_allclose(np.asarray(p.detach()).astype(np.float32), 0.899, atol=1e-3)


SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [2, 5]}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("LinearLR", {"total_iters": 4}),
    ("CosineAnnealingLR", {"T_max": 6, "eta_min": 0.01}),
    ("LambdaLR", {"lr_lambda": lambda t: 1 / (1 + t)}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 12}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 12, "anneal_strategy": "linear", "three_phase": True}),
]


@pytest.mark.parametrize("name,options", SCHEDULES, ids=[n for n, _ in SCHEDULES])
def test_schedules_match_torch(name, options):
    torch = pytest.importorskip("torch")
    ours = optim.SGD([nn.Parameter(np.ones(1, np.float32))], lr=0.3, momentum=0.9)
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3, momentum=0.9)
    a = getattr(optim.lr_scheduler, name)(ours, **options)
    b = getattr(torch.optim.lr_scheduler, name)(theirs, **options)
    for _ in range(10):
        np.testing.assert_allclose(a.get_last_lr(), b.get_last_lr(), rtol=1e-9)
        assert math.isclose(ours.param_groups[0]["momentum"], theirs.param_groups[0]["momentum"], rel_tol=1e-9)
        theirs.step()
        a.step()
        b.step()


def test_cosine_schedule_reaches_its_end():
    opt = optim.SGD([nn.Parameter(np.ones(1, np.float32))], lr=1.0)
    schedule = optim.lr_scheduler.CosineAnnealingLR(opt, T_max=4)
    seen = []
    for _ in range(5):
        seen.append(opt.param_groups[0]["lr"])
        schedule.step()
    np.testing.assert_allclose(seen, [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0], atol=1e-12)


def test_clipping():
    a, b = nn.Parameter(np.zeros(2, np.float32)), nn.Parameter(np.zeros(1, np.float32))
    a.grad, b.grad = tr.tensor([3.0, 0.0]), tr.tensor([4.0])
    assert float(nn.utils.clip_grad_norm_([a, b], 1.0)) == 5.0
    np.testing.assert_allclose([*np.asarray(a.grad), *np.asarray(b.grad)], [0.6, 0, 0.8], atol=1e-6)
    nn.utils.clip_grad_value_([a, b], 0.7)
    np.testing.assert_allclose([*np.asarray(a.grad), *np.asarray(b.grad)], [0.6, 0, 0.7], atol=1e-6)
    assert float(nn.utils.clip_grad_norm_([a, b], 100.0, norm_type=math.inf)) == pytest.approx(0.7)
