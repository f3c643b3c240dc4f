"""Optimizers: numbers, state dicts and errors as PyTorch's."""

import copy
import math
import pickle

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
MORE = [
    ("Adamax", {"lr": 0.02, "weight_decay": 0.1}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "momentum_decay": 0.01}),
    ("RAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adadelta", {"weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.003, "momentum": 0.5, "centered": True, "weight_decay": 0.1}),
    ("Rprop", {"lr": 0.1, "etas": (0.4, 1.3), "step_sizes": (1e-3, 0.5)}),
    ("ASGD", {"lr": 0.1, "t0": 5, "lambd": 0.01}),
]
REFERENCED, OPTIONS = OPTIONS, OPTIONS + MORE
IDS = [f"{n}-{i}" for i, (n, _) in enumerate(OPTIONS)]
# the 2x3 parameter after 6 steps, as PyTorch 2.13 has it
FIXED = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
     [-1.288264, -1.512774, -0.837191, 0.44452, 1.481123, 1.646732]),
    ("Adam", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1},
     [-1.267587, -1.195433, -0.685537, 0.404505, 1.198872, 1.502149]),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3}, [-1.241376, -1.053527, -0.625665, 0.388932, 1.056268, 1.321314]),
    ("Adamax", {"lr": 0.1}, [-1.29008, -1.158183, -0.606375, 0.306979, 1.154586, 1.440936]),
    ("NAdam", {"lr": 0.1}, [-1.512369, -1.065986, -0.44822, 0.585178, 1.085816, 1.297031]),
    ("RAdam", {"lr": 0.1}, [-1.149567, -1.056413, -0.544564, 0.285162, 1.035461, 1.386527]),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}, [-1.312018, -0.905468, -0.38473, 0.398662, 0.917569, 1.210678]),
    ("Adadelta", {"lr": 0.1}, [-1.002258, -0.601921, -0.200751, 0.202582, 0.602063, 1.000971]),
    ("RMSprop", {"lr": 0.1, "momentum": 0.5, "centered": True},
     [-7.648338, -7.045726, -4.185592, 4.549243, 7.293923, 5.514344]),
    ("Rprop", {"lr": 0.1}, [-1.74416, -1.592992, -0.6504, 0.3684, 1.592992, 1.74416]),
    ("ASGD", {"lr": 0.1, "t0": 2}, [-1.357227, -1.115728, -0.400038, 0.499578, 1.123752, 1.266358]),
    ("Muon", {"lr": 0.1}, [-1.372753, -0.837664, -0.054564, -0.069975, 0.724601, 1.368534]),
]  # fmt: skip


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


@pytest.mark.parametrize("name,options,expected", FIXED, ids=[n for n, _, _ in FIXED])
def test_values_written_down(name, options, expected):
    w = nn.Parameter(W.copy())
    opt = getattr(optim, name)([w], **options)
    for i in range(6):
        w.grad = tr.tensor(grads(i)[0])
        opt.step()
    np.testing.assert_allclose(np.asarray(w.detach()).ravel(), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name,options", REFERENCED, ids=IDS[: len(REFERENCED)])
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


def test_a_weight_decay_that_is_a_tensor():
    p, decay = nn.Parameter(np.ones(1, np.float32)), tr.tensor(0.0)
    opt = optim.SGD([p], lr=1.0, weight_decay=decay)
    p.grad = tr.zeros(1)
    for value, expected in ((0.0, 1.0), (0.5, 0.5), (0.25, 0.375)):
        decay.fill_(value)
        opt.step()
        assert float(p.detach()[0]) == expected


def test_a_loaded_rate_that_is_a_tensor_is_a_copy():
    torch = pytest.importorskip("torch")
    lr, p = tr.tensor(1.0), nn.Parameter(np.zeros(1, np.float32))
    opt = optim.SGD([p], lr=lr)
    other = optim.SGD([nn.Parameter(np.zeros(1, np.float32))])
    other.load_state_dict(opt.state_dict())
    lr.fill_(7.0)
    assert float(other.param_groups[0]["lr"]) == 1.0
    other.load_state_dict(torch.optim.SGD([torch.zeros(1)], lr=torch.tensor(0.25)).state_dict())
    q = other.param_groups[0]["params"][0]
    q.grad = tr.ones(1)
    other.step()
    assert float(q.detach()[0]) == -0.25


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


def test_clipping():
    a, b = nn.Parameter(np.zeros(2, np.float32)), nn.Parameter(np.zeros(1, np.float32))
    a.grad, b.grad = tr.tensor([3.0, 0.0]), tr.tensor([4.0])
    assert float(nn.utils.clip_grad_norm_([a, b], 1.0)) == 5.0
    np.testing.assert_allclose([*np.asarray(a.grad), *np.asarray(b.grad)], [0.6, 0, 0.8], atol=1e-6)
    nn.utils.clip_grad_value_([a, b], 0.7)
    np.testing.assert_allclose([*np.asarray(a.grad), *np.asarray(b.grad)], [0.6, 0, 0.7], atol=1e-6)
    assert float(nn.utils.clip_grad_norm_([a, b], 100.0, norm_type=math.inf)) == pytest.approx(0.7)


def test_clipping_takes_any_norm():
    torch = pytest.importorskip("torch")
    from torch.nn.utils import clip_grad_norm_, get_total_norm

    gw, gb = grads(3)
    for p in (1, 2.0, 3, 0.5, math.inf, -math.inf, 0):
        w, b = nn.Parameter(W.copy()), nn.Parameter(B.copy())
        ew, eb = torch.nn.Parameter(torch.tensor(W)), torch.nn.Parameter(torch.tensor(B))
        w.grad, b.grad, ew.grad, eb.grad = tr.tensor(gw), tr.tensor(gb), torch.tensor(gw), torch.tensor(gb)
        assert float(nn.utils.get_total_norm([w.grad, b.grad], p)) == pytest.approx(
            float(get_total_norm([ew.grad, eb.grad], p))
        )
        assert float(nn.utils.clip_grad_norm_(iter([w, b]), 0.1, p)) == pytest.approx(
            float(clip_grad_norm_([ew, eb], 0.1, p))
        )
        np.testing.assert_allclose(np.asarray(w.grad), ew.grad.numpy(), rtol=1e-6)
    b.grad = tr.tensor([np.inf, 0.0])
    with pytest.raises(RuntimeError, match="inf"):
        nn.utils.clip_grad_norm_([w, b], 1.0, error_if_nonfinite=True)
    assert float(nn.utils.clip_grad_norm_([], 1.0)) == 0.0


def test_lion_moves_by_the_sign():
    p = nn.Parameter(np.array([1.0, -1.0, 0.0], np.float32))
    opt = optim.Lion([p], lr=0.1, weight_decay=0.5)
    x, m = np.array([1.0, -1.0, 0.0]), np.zeros(3)
    for i in range(8):
        g = grads(i)[0][0].astype(np.float64)
        x = x * (1 - 0.1 * 0.5) - 0.1 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        p.grad = tr.tensor(g.astype(np.float32))
        opt.step()
    np.testing.assert_allclose(np.asarray(p.detach()), x, atol=1e-6)


def test_muon_takes_matrices_and_makes_steps_orthogonal():
    rng = np.random.default_rng(0)
    p = nn.Parameter(np.zeros((12, 6), np.float32))
    opt = optim.Muon([p], lr=1.0, weight_decay=0.0)
    p.grad = tr.tensor(rng.standard_normal((12, 6)).astype(np.float32))
    opt.step()
    sizes = np.linalg.svd(np.asarray(p.detach()))[1] / np.sqrt(2)
    assert sizes.min() > 0.5 and sizes.max() < 1.5
    with pytest.raises(ValueError, match="AdamW"):
        optim.Muon([nn.Parameter(np.zeros(3, np.float32))])


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


LBFGS_OPTIONS = [{"lr": 0.01}, {"line_search_fn": "strong_wolfe"}]
LBFGS_OPTIONS += [{"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 4}]


def minimize(lib, x, options, steps):
    """Losses of `steps` steps of L-BFGS from `x`, a float64 parameter."""
    opt = lib.LBFGS([x], **options)

    def closure():
        opt.zero_grad()
        loss = rosenbrock(x)
        loss.backward()
        return loss

    return [float(opt.step(closure).detach()) for _ in range(steps)], opt


@pytest.mark.parametrize("options", LBFGS_OPTIONS, ids=["fixed", "wolfe", "short"])
def test_lbfgs_finds_what_torch_finds(options):
    torch = pytest.importorskip("torch")
    start = np.linspace(-1, 1, 5)
    p, q = nn.Parameter(start.copy()), torch.nn.Parameter(torch.tensor(start))
    (mine, a), (its, b) = minimize(optim, p, options, 6), minimize(torch.optim, q, options, 6)
    np.testing.assert_allclose(mine, its, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(np.asarray(p.detach()), q.detach().numpy(), atol=1e-7)
    assert a.state[p]["n_iter"] == b.state[q]["n_iter"] and a.state[p]["func_evals"] == b.state[q]["func_evals"]
    assert set(b.state[q]) - set(a.state[p]) <= {"al"}


def test_lbfgs_goes_on_from_its_state():
    p = nn.Parameter(np.linspace(-1, 1, 5))
    options = LBFGS_OPTIONS[2]
    _, opt = minimize(optim, p, options, 4)
    assert minimize(optim, nn.Parameter(np.linspace(-1, 1, 5)), LBFGS_OPTIONS[1], 6)[0][-1] < 1e-6
    q = nn.Parameter(np.asarray(p.detach()).copy())
    other = optim.LBFGS([q], **options)
    other.load_state_dict(opt.state_dict())
    for o, x in ((opt, p), (other, q)):

        def closure():
            o.zero_grad()
            loss = rosenbrock(x)
            loss.backward()
            return loss

        o.step(closure)
    np.testing.assert_array_equal(np.asarray(p.detach()), np.asarray(q.detach()))
    with pytest.raises(TypeError, match="closure"):
        opt.step()
    with pytest.raises(ValueError, match="one parameter group"):
        optim.LBFGS([{"params": [p]}, {"params": [q]}])


def test_hooks_see_every_step():
    p = nn.Parameter(np.zeros(1, np.float32))
    opt, seen = optim.SGD([p], lr=1.0), []
    first = opt.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o is opt, args, kwargs)))
    last = opt.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", float(p.detach()))))
    p.grad = tr.ones(1)
    opt.step()
    assert seen == [("pre", True, (opt,), {}), ("post", -1.0)]
    first.remove()
    last.remove()
    opt.step()
    assert len(seen) == 2
    with opt.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7.0), {})):
        assert opt.step() == 7.0


def test_hooks_see_state_dicts():
    p = nn.Parameter(np.zeros(1, np.float32))
    opt, seen = optim.Adam([p]), []
    opt.register_state_dict_pre_hook(lambda o: seen.append("save"))
    opt.register_state_dict_post_hook(lambda o, d: {**d, "note": 1})
    opt.register_load_state_dict_pre_hook(lambda o, d: seen.append(d.pop("note")))
    opt.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    opt.register_load_state_dict_post_hook(lambda o: seen.append("first"), prepend=True)
    opt.load_state_dict(opt.state_dict())
    assert seen == ["save", 1, "first", "loaded"]


def test_parameters_may_have_names():
    net = nn.Linear(2, 1)
    opt = optim.Adam(net.named_parameters())
    assert opt.param_groups[0]["param_names"] == ["weight", "bias"]
    assert opt.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="named"):
        opt.add_param_group({"params": [nn.Parameter(np.zeros(1, np.float32))]})


def test_a_rate_that_is_a_tensor_counts_as_it_is_now():
    p, lr = nn.Parameter(np.zeros(1, np.float32)), tr.tensor(1.0)
    opt = optim.SGD([p], lr=lr)
    p.grad = tr.ones(1)
    opt.step()
    lr.fill_(0.5)
    opt.step()
    opt.param_groups[0]["lr"] = 0.25
    opt.step()
    assert float(p.detach()) == -1.75 and float(lr) == 0.5
    with pytest.raises(ValueError, match="one element"):
        optim.Adam([p], lr=tr.ones(2))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_copies_train_by_themselves(copier):
    w, _, opt = train("NAdam", {"lr": 0.1}, 3)
    (w2, opt2) = copier((w, opt))
    for p, o in ((w, opt), (w2, opt2)):
        p.grad = tr.tensor(grads(7)[0])
        o.step()
    np.testing.assert_array_equal(np.asarray(w.detach()), np.asarray(w2.detach()))
    assert float(opt2.state[w2]["step"]) == 4.0
    opt2.step()
    assert float(opt2.state[w2]["step"]) == 5.0 and float(opt.state[w]["step"]) == 4.0


def test_state_dicts_are_files(tmp_path):
    w, b, opt = train("RMSprop", {"lr": 0.1, "momentum": 0.5}, 3)
    tr.save(opt.state_dict(), tmp_path / "opt.tr")
    w2, b2 = nn.Parameter(np.array(w.detach())), nn.Parameter(np.array(b.detach()))
    other = optim.RMSprop([w2, b2])
    other.load_state_dict(tr.load(tmp_path / "opt.tr"))
    for p, o in ((w, opt), (w2, other)):
        p.grad = tr.tensor(grads(4)[0])
        o.step()
    np.testing.assert_array_equal(np.asarray(w.detach()), np.asarray(w2.detach()))


def test_an_optimizer_of_ones_own_writes_its_step():
    class Signs(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        @tr.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p].setdefault("count", 0)
                    self.state[p]["count"] += 1
                    p.sub_(group["lr"] * tr.sign(p.grad))

    p = nn.Parameter(np.zeros(2, np.float32))
    opt = Signs([p], lr=0.5)
    p.grad = tr.tensor([3.0, -2.0])
    opt.step()
    np.testing.assert_array_equal(np.asarray(p.detach()), [-0.5, 0.5])
    saved = opt.state_dict()
    assert saved["state"] == {0: {"count": 1}}
    other = Signs([p], lr=1.0)
    other.load_state_dict(saved)
    assert other.state[p]["count"] == 1 and other.param_groups[0]["lr"] == 0.5

    class Nothing(optim.Optimizer):
        pass

    with pytest.raises(TypeError, match="Nothing"):
        Nothing([p], {}).step()


@pytest.mark.parametrize("name,options", OPTIONS, ids=IDS)
def test_gradients_flow_through_differentiable_steps(name, options):
    """d loss after three steps / d size of the gradients, against the difference quotient."""

    def loss(size):
        start, size = nn.Parameter(W.astype(np.float64)), nn.Parameter(np.array(size))
        w = start.clone()
        opt = getattr(optim, name)([w], differentiable=True, **options)
        for i in range(3):
            w.grad = tr.tensor(grads(i)[0].astype(np.float64) + 0.05) * size  # 0 has no square root to differentiate
            opt.step()
        return (w * w).sum(), start, size

    end, start, size = loss(1.5)
    end.backward()
    quotient = (float(loss(1.5 + 1e-5)[0].detach()) - float(loss(1.5 - 1e-5)[0].detach())) / 2e-5
    np.testing.assert_allclose(float(size.grad), quotient, rtol=1e-4, atol=1e-7)
    assert start.grad is not None
