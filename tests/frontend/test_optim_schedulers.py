"""Learning rate schedulers: rates as PyTorch's, combined, resumed, and outside of compiled steps."""

import functools
import math
import warnings

import numpy as np
import pytest
from tracefuse.frontend.compile import compile
from tracefuse.optim import lr_scheduler as schedules
from tracefuse.optim import swa_utils

import tracefuse as tr
from tracefuse import nn, optim


class Warm:
    """A callable object, whose attributes a state dict holds."""

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, t):
        return min(1.0, (t + 1) / self.steps)


def two_groups(module, array, lr=0.3, cls="SGD", **options):
    """An optimizer of `module` with rates `lr` and half of that."""
    p, q = array(np.ones(1, np.float32)), array(np.ones(1, np.float32))
    options = {"momentum": 0.9} | options if cls == "SGD" else options
    return getattr(module, cls)([{"params": [p]}, {"params": [q], "lr": lr / 2}], lr=lr, **options)


def ours(**options):
    return two_groups(optim, nn.Parameter, **options)


SCHEDULES = {
    "lambda": lambda L, o: L.LambdaLR(o, lambda t: 1 / (1 + t)),
    "lambdas": lambda L, o: L.LambdaLR(o, [lambda t: 1 / (1 + t), lambda t: 0.5**t]),
    "multiplicative": lambda L, o: L.MultiplicativeLR(o, lambda t: 0.9 if t % 2 else 1.05),
    "step": lambda L, o: L.StepLR(o, step_size=3, gamma=0.5),
    "multistep": lambda L, o: L.MultiStepLR(o, milestones=[5, 2, 5]),
    "constant": lambda L, o: L.ConstantLR(o, factor=0.25, total_iters=4),
    "linear": lambda L, o: L.LinearLR(o, start_factor=0.2, end_factor=0.8, total_iters=6),
    "exponential": lambda L, o: L.ExponentialLR(o, gamma=0.9),
    "polynomial": lambda L, o: L.PolynomialLR(o, total_iters=9, power=2.0),
    "cosine": lambda L, o: L.CosineAnnealingLR(o, T_max=6, eta_min=0.01),
    "restarts": lambda L, o: L.CosineAnnealingWarmRestarts(o, T_0=4),
    "longer restarts": lambda L, o: L.CosineAnnealingWarmRestarts(o, T_0=2, T_mult=2, eta_min=0.01),
    "one cycle": lambda L, o: L.OneCycleLR(o, max_lr=0.5, total_steps=22),
    "one cycle of each": lambda L, o: L.OneCycleLR(
        o, max_lr=[0.5, 0.1], epochs=11, steps_per_epoch=2, pct_start=0.5, anneal_strategy="linear"
    ),
    "three phases": lambda L, o: L.OneCycleLR(o, max_lr=0.5, total_steps=22, three_phase=True, div_factor=10.0),
    "triangular": lambda L, o: L.CyclicLR(o, base_lr=0.1, max_lr=[0.5, 0.6], step_size_up=3),
    "triangular2": lambda L, o: L.CyclicLR(o, 0.1, 0.5, step_size_up=2, step_size_down=5, mode="triangular2"),
    "exp_range": lambda L, o: L.CyclicLR(o, 0.1, 0.5, 4, mode="exp_range", gamma=0.95, cycle_momentum=False),
    "own cycles": lambda L, o: L.CyclicLR(o, 0.1, 0.5, 4, scale_fn=lambda x: 1 / x, base_momentum=0.5),
    "chained": lambda L, o: L.ChainedScheduler([L.ConstantLR(o, 0.1, 4), L.ExponentialLR(o, 0.9), L.CosineAnnealingLR(o, 7)]),
    "sequential": lambda L, o: L.SequentialLR(
        o, [L.ConstantLR(o, 0.1, 20), L.ExponentialLR(o, 0.9), L.StepLR(o, 3)], milestones=[4, 12]
    ),
    "warmup, then restarts": lambda L, o: L.SequentialLR(
        o, [L.LinearLR(o, 0.1, total_iters=5), L.CosineAnnealingWarmRestarts(o, 4)], milestones=[5]
    ),
    "nested": lambda L, o: L.SequentialLR(
        o,
        [L.SequentialLR(o, [L.LinearLR(o), L.ConstantLR(o)], milestones=[2]), L.MultiplicativeLR(o, lambda t: 0.9)],
        milestones=[5],
    ),
}  # fmt: skip


def rates(scheduler, steps):
    """(rates, momenta) of each step."""
    groups, seen = scheduler.optimizer.param_groups, []
    for _ in range(steps):
        scheduler.optimizer.step()
        assert [float(x) for x in scheduler.get_last_lr()] == [float(g["lr"]) for g in groups]
        seen.append([(float(g["lr"]), g["momentum"] if "momentum" in g else g["betas"][0]) for g in groups])
        scheduler.step()
    return np.array(seen)


@pytest.mark.parametrize("cls", ["SGD", "Adam"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_those_of_torch(name, cls):
    torch = pytest.importorskip("torch")
    a = SCHEDULES[name](schedules, ours(cls=cls))
    theirs = two_groups(torch.optim, lambda x: torch.nn.Parameter(torch.tensor(x)), cls=cls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
        expected = rates(b, 21)
    np.testing.assert_allclose(rates(a, 21), expected, rtol=1e-9, atol=1e-12)


CLOSED = ["step", "multistep", "constant", "linear", "exponential", "polynomial", "cosine", "lambda"]


@pytest.mark.parametrize("name", CLOSED)
def test_steps_multiply_up_to_the_closed_form(name):
    a, b = SCHEDULES[name](schedules, ours()), SCHEDULES[name](schedules, ours())
    for t in range(1, 15):
        a.step()
        b.step(t)
        np.testing.assert_allclose(a.get_last_lr(), b.get_last_lr(), rtol=1e-9, atol=1e-12)
        assert b.last_epoch == t


def test_values_written_down():
    """Some rates by hand, for where there is no torch."""

    def first(name, n):
        return rates(SCHEDULES[name](schedules, ours(lr=1.0)), n)[:, 0, 0]

    np.testing.assert_allclose(first("step", 7), [1, 1, 1, 0.5, 0.5, 0.5, 0.25])
    np.testing.assert_allclose(first("multistep", 7), [1, 1, 0.1, 0.1, 0.1, 0.001, 0.001])
    np.testing.assert_allclose(first("constant", 6), [0.25, 0.25, 0.25, 0.25, 1, 1])
    np.testing.assert_allclose(first("linear", 8), [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8])
    np.testing.assert_allclose(first("polynomial", 4), np.array([81, 64, 49, 36]) / 81)
    np.testing.assert_allclose(first("restarts", 6), [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 1, first("restarts", 2)[1]])  # fmt: skip
    np.testing.assert_allclose(first("triangular", 7), [0.1, 0.1 + 0.4 / 3, 0.1 + 0.8 / 3, 0.5, 0.1 + 0.8 / 3, 0.1 + 0.4 / 3, 0.1])  # fmt: skip
    np.testing.assert_allclose(first("sequential", 6), [0.1, 0.1, 0.1, 0.1, 1, 0.9])


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateaus_are_those_of_torch(mode, threshold_mode):
    torch = pytest.importorskip("torch")
    options = dict(mode=mode, factor=0.5, patience=2, threshold=0.05, threshold_mode=threshold_mode, cooldown=1)
    options["min_lr"] = [0.0, 0.03]
    a = schedules.ReduceLROnPlateau(ours(), **options)
    theirs = two_groups(torch.optim, lambda x: torch.nn.Parameter(torch.tensor(x)))
    b = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    rng = np.random.default_rng(0)
    for i in range(60):
        metric = float(np.exp(-0.1 * i) + 0.1 * rng.standard_normal())
        a.step(tr.tensor(metric))
        b.step(metric)
        assert a.get_last_lr() == b.get_last_lr() and a.num_bad_epochs == b.num_bad_epochs
    mine, its = a.state_dict(), b.state_dict()
    assert its.keys() - mine.keys() <= {"mode_worse"}


def test_a_plateau_is_waited_for():
    a = schedules.ReduceLROnPlateau(ours(lr=1.0), patience=1, factor=0.1)
    for metric, rate in ((1.0, 1.0), (0.5, 1.0), (0.5, 1.0), (0.5, 0.1), (0.4, 0.1)):
        a.step(metric)
        assert a.get_last_lr()[0] == pytest.approx(rate)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_loaded_state_goes_on_as_before(name):
    a = SCHEDULES[name](schedules, ours())
    rates(a, 8)
    b = SCHEDULES[name](schedules, ours())
    b.optimizer.load_state_dict(a.optimizer.state_dict())
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(rates(a, 8), rates(b, 8))


@pytest.mark.parametrize("name", [n for n in SCHEDULES if "own" not in n])
def test_states_of_torch_load(name):
    torch = pytest.importorskip("torch")
    theirs = two_groups(torch.optim, lambda x: torch.nn.Parameter(torch.tensor(x)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
        rates(b, 7)
        a = SCHEDULES[name](schedules, ours())
        a.optimizer.load_state_dict(theirs.state_dict())
        a.load_state_dict(b.state_dict())
        np.testing.assert_allclose(rates(a, 8), rates(b, 8), rtol=1e-9, atol=1e-12)


def test_functions_are_no_part_of_the_state_but_the_attributes_of_objects_are():
    a = schedules.LambdaLR(ours(), [Warm(4), lambda t: 1.0])
    saved = a.state_dict()
    assert saved["lr_lambdas"] == [{"steps": 4}, None]
    b = schedules.LambdaLR(ours(), [Warm(100), lambda t: 1.0])
    b.load_state_dict(saved)
    assert b.lr_lambdas[0].steps == 4


def test_resuming_needs_the_initial_rates():
    with pytest.raises(KeyError, match="initial_lr"):
        schedules.StepLR(ours(), 3, last_epoch=4)
    opt = ours(lr=1.0)
    for group in opt.param_groups:
        group["initial_lr"] = group["lr"]
    assert schedules.StepLR(opt, 5, last_epoch=4).get_last_lr() == [0.1, 0.05]


def test_a_rate_that_is_a_tensor_is_written_in_place():
    p, lr = nn.Parameter(np.zeros(1, np.float32)), tr.tensor(1.0)
    opt = optim.SGD([p], lr=lr)
    s = schedules.ExponentialLR(opt, 0.5)
    p.grad = tr.ones(1)
    for expected in (-1.0, -1.5, -1.75):
        opt.step()
        s.step()
        assert float(p.detach()[0]) == expected
    assert opt.param_groups[0]["lr"] is lr and float(lr) == 0.125


def test_bad_arguments():
    sgd, rprop = ours(), optim.Rprop([nn.Parameter(np.zeros(1, np.float32))])
    for error, match, make in (
        (TypeError, "optimizer", lambda: schedules.StepLR("sgd", 1)),
        (ValueError, "2 values", lambda: schedules.LambdaLR(sgd, [lambda t: 1.0])),
        (TypeError, "function", lambda: schedules.LambdaLR(sgd, [1.0, 2.0])),
        (ValueError, "factor", lambda: schedules.ConstantLR(sgd, factor=2.0)),
        (ValueError, "start_factor", lambda: schedules.LinearLR(sgd, start_factor=0.0)),
        (ValueError, "T_0", lambda: schedules.CosineAnnealingWarmRestarts(sgd, 0)),
        (ValueError, "total_steps", lambda: schedules.OneCycleLR(sgd, 1.0)),
        (ValueError, "anneal_strategy", lambda: schedules.OneCycleLR(sgd, 1.0, 5, anneal_strategy="up")),
        (ValueError, "no momentum", lambda: schedules.OneCycleLR(rprop, 1.0, 5)),
        (ValueError, "mode", lambda: schedules.CyclicLR(sgd, 0.1, 1.0, mode="square")),
        (ValueError, "factor", lambda: schedules.ReduceLROnPlateau(sgd, factor=1.0)),
        (ValueError, "ReduceLROnPlateau", lambda: schedules.ChainedScheduler([schedules.ReduceLROnPlateau(sgd)])),
        (ValueError, "milestone", lambda: schedules.SequentialLR(sgd, [schedules.StepLR(sgd, 1)], [3])),
        (ValueError, "one optimizer", lambda: schedules.ChainedScheduler([schedules.StepLR(rprop, 1)], sgd)),
        (TypeError, "get_lr", lambda: schedules.LRScheduler(sgd)),
    ):
        with pytest.raises(error, match=match):
            make()
    over = schedules.OneCycleLR(ours(), 1.0, total_steps=2)
    over.step()
    over.step()
    with pytest.raises(ValueError, match="past the end"):
        over.step()


def test_a_scheduler_of_ones_own_needs_get_lr_only():
    class Halving(schedules.LRScheduler):
        def get_lr(self):
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    s = Halving(ours(lr=1.0))
    s.step()
    assert s.get_last_lr() == [0.5, 0.25]


@pytest.mark.parametrize("name", ["step", "one cycle", "warmup, then restarts", "triangular"])
def test_a_compiled_step_follows_without_a_new_trace(name):
    def run(wrap):
        p, q = nn.Parameter(np.ones(3, np.float32)), nn.Parameter(np.ones(2, np.float32))
        opt = optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.01}], lr=0.02, momentum=0.5)
        s = SCHEDULES[name](schedules, opt)

        @wrap
        def step():
            ((p * p).sum() + (q * q * q).sum()).backward()
            opt.step()
            opt.zero_grad()

        for _ in range(12):
            step()
            s.step()
        return np.concatenate([np.asarray(p.detach()), np.asarray(q.detach())]), step

    expected, _ = run(lambda f: f)
    got, step = run(functools.partial(compile, fullgraph=True, backend="reference"))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(step.traces) == 1


# ------------------------------------------------------------------ averages of weights


def test_averages_of_weights():
    model = nn.Linear(2, 1, bias=False)
    swa, ema = swa_utils.AveragedModel(model), swa_utils.AveragedModel(
        model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.75)
    )  # fmt: skip
    seen = []
    for i in range(4):
        with tr.no_grad():
            model.weight.fill_(2.0**i)
        seen.append(2.0**i)
        swa.update_parameters(model)
        ema.update_parameters(model)
    assert float(swa.module.weight.detach()[0, 0]) == np.mean(seen) and int(swa.n_averaged) == 4
    average = seen[0]
    for x in seen[1:]:
        average = 0.75 * average + 0.25 * x
    assert float(ema.module.weight.detach()[0, 0]) == average
    assert set(swa.state_dict()) == {"n_averaged", "module.weight"}
    with pytest.raises(ValueError, match="decay"):
        swa_utils.get_ema_avg_fn(1.5)


def test_averages_are_those_of_torch():
    torch = pytest.importorskip("torch")
    mine, its = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    utils = torch.optim.swa_utils
    pairs = [
        (swa_utils.AveragedModel(mine), utils.AveragedModel(its)),
        (swa_utils.AveragedModel(mine, use_buffers=True), utils.AveragedModel(its, use_buffers=True)),
        *[
            (
                swa_utils.AveragedModel(mine, avg_fn=swa_utils.get_ema_avg_fn(0.9)),
                utils.AveragedModel(its, avg_fn=utils.get_ema_avg_fn(0.9)),
            )
        ],
    ]
    rng = np.random.default_rng(0)
    for _ in range(6):
        x = rng.standard_normal((5, 3)).astype(np.float32)
        w = rng.standard_normal(3).astype(np.float32)
        with tr.no_grad(), torch.no_grad():
            mine.weight.copy_(tr.tensor(w))
            its.weight.copy_(torch.tensor(w))
        mine(tr.tensor(x))
        its(torch.tensor(x))
        for a, b in pairs:
            a.update_parameters(mine)
            b.update_parameters(its)
    for a, b in pairs:
        ours_, theirs_ = a.state_dict(), b.state_dict()
        assert list(ours_) == list(theirs_)
        for k, t in ours_.items():
            np.testing.assert_allclose(np.asarray(t), theirs_[k].numpy(), rtol=1e-5, atol=1e-6, err_msg=k)


def test_averaging_is_part_of_a_compiled_step():
    def run(wrap):
        tr.manual_seed(0)
        model = nn.Linear(3, 1)
        opt = optim.SGD(model.parameters(), lr=0.1)
        ema = swa_utils.AveragedModel(model, avg_fn=swa_utils.get_ema_avg_fn(0.9))

        @wrap
        def step(x):
            (model(x) ** 2).mean().backward()
            opt.step()
            opt.zero_grad()
            ema.update_parameters(model)

        for i in range(5):
            step(tr.tensor(np.full((2, 3), 0.1 * i + 1, np.float32)))
        return ema, step

    a, _ = run(lambda f: f)
    b, step = run(functools.partial(compile, fullgraph=True, backend="reference"))
    for k, t in a.state_dict().items():
        np.testing.assert_allclose(np.asarray(b.state_dict()[k]), np.asarray(t), rtol=1e-6)
    assert len(step.traces) == 1


def test_batch_norm_statistics_are_computed_anew():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    net.eval()
    rng = np.random.default_rng(0)
    batches = [tr.tensor(rng.standard_normal((8, 2)).astype(np.float32) + 3) for _ in range(4)]
    swa_utils.update_bn([(x, None) for x in batches], net)
    mean = np.mean([np.asarray(x).mean(0) for x in batches], 0)
    np.testing.assert_allclose(np.asarray(net[0].running_mean), mean, rtol=1e-5)
    assert net[0].momentum == 0.1 and not net.training


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 5])
def test_swa_rates_are_those_of_torch(strategy, epochs):
    torch = pytest.importorskip("torch")
    theirs = two_groups(torch.optim, lambda x: torch.nn.Parameter(torch.tensor(x)))
    a = swa_utils.SWALR(ours(), [0.05, 0.01], epochs, strategy)
    b = torch.optim.swa_utils.SWALR(theirs, [0.05, 0.01], epochs, strategy)
    np.testing.assert_allclose(rates(a, 9), rates(b, 9), rtol=1e-9)
