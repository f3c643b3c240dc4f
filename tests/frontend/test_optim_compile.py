"""Optimizers inside compiled training steps: one trace for all learning rates, and the numbers of eager steps."""

import functools

import numpy as np
import pytest
from tracefuse.frontend.compile import compile

import tracefuse as tr
from tracefuse import nn, optim

reference = functools.partial(compile, fullgraph=True, backend="reference")
native = functools.partial(compile, fullgraph=True)

SETTINGS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("Adamax", {}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("Adadelta", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Rprop", {}),
    ("ASGD", {"t0": 2}),
    ("Lion", {"weight_decay": 0.1}),
    ("Muon", {}),
    ("Adafactor", {}),
]
IDS = [f"{n}-{i}" for i, (n, _) in enumerate(SETTINGS)]


def trainer(name, options, wrap):
    tr.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5, bias=name != "Muon"), nn.Tanh(), nn.Linear(5, 2, bias=name != "Muon"))
    opt = getattr(optim, name)(net.parameters(), **options)

    @wrap
    def step(x):
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return net, opt, step


def batches(n):
    rng = np.random.default_rng(0)
    return [tr.tensor(rng.standard_normal((6, 4)).astype(np.float32)) for _ in range(n)]


def check(name, options, wrap, steps=8, tolerance=2e-6):
    (a, o1, eager), (b, o2, compiled) = trainer(name, options, lambda f: f), trainer(name, options, wrap)
    schedules = [optim.lr_scheduler.ExponentialLR(o, 0.7) for o in (o1, o2)]
    for x in batches(steps):
        for step, s in zip((eager, compiled), schedules):
            step(x)
            s.step()
    for p, q in zip(a.parameters(), b.parameters()):
        np.testing.assert_allclose(np.asarray(q.detach()), np.asarray(p.detach()), atol=tolerance)
        assert o1.state[p].keys() == o2.state[q].keys()
        for k, t in o1.state[p].items():
            scale = max(1.0, float(abs(t).max()))
            np.testing.assert_allclose(np.asarray(o2.state[q][k]), np.asarray(t), atol=1e-5 * scale, err_msg=k)
    assert len(compiled.traces) == 1


@pytest.mark.parametrize("name,options", SETTINGS, ids=IDS)
def test_a_compiled_step_is_the_eager_one(name, options):
    check(name, options, reference)


@pytest.mark.slow
@pytest.mark.parametrize("name,options", SETTINGS, ids=IDS)
def test_a_native_step_is_the_eager_one(name, options):
    check(name, options, native, tolerance=1e-5)


def test_native_steps_of_the_usual_ones():
    check("AdamW", {}, native, tolerance=1e-5)


def test_all_that_is_listed_is_compiled():
    others = {"Optimizer", "ParamGroup", "LBFGS", "lr_scheduler", "swa_utils"}
    assert {n for n, _ in SETTINGS} == set(optim.__all__) - others


def test_options_may_change_between_calls():
    _, opt, step = trainer("NAdam", {"weight_decay": 0.1}, reference)
    group, (x,) = opt.param_groups[0], batches(1)
    step(x)
    group["lr"], group["betas"], group["weight_decay"], group["eps"] = 0.0, (0.5, 0.5), 0.2, 1e-3
    before = [np.asarray(p.detach()).copy() for p in group["params"]]
    opt.param_groups[0]["note"] = "moves the epoch"
    del opt.param_groups[0]["note"]
    step(x)
    for p, old in zip(group["params"], before):
        np.testing.assert_array_equal(np.asarray(p.detach()), old)  # the rate is 0
    assert len(step.traces) == 1
    group["weight_decay"] = 0.0  # another step
    step(x)
    group["maximize"] = True
    step(x)
    assert len(step.traces) == 3


def test_a_constant_of_the_step_is_guarded():
    _, opt, step = trainer("Muon", {}, reference)
    (x,) = batches(1)
    step(x)
    opt.param_groups[0]["ns_coefficients"] = (3.0, -4.0, 2.0)
    step(x)
    assert len(step.traces) == 2


def test_rates_that_are_tensors_are_inputs():
    lr = tr.tensor(0.5)
    p = nn.Parameter(np.zeros(2, np.float32))
    opt = optim.SGD([p], lr=lr)

    @reference
    def step():
        p.grad = tr.ones(2)
        opt.step()
        p.grad = None

    for rate, expected in ((0.5, -0.5), (0.25, -0.75), (2.0, -2.75)):
        lr.fill_(rate)
        step()
        assert float(p.detach()[0]) == expected
    assert len(step.traces) == 1


def test_an_option_that_python_reads_is_guarded():
    """Steps of the library read tensors; what the user's code reads is a constant of the trace."""

    class Plain(optim.Optimizer):
        @tr.no_grad()
        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(group["lr"] * p.grad)

    p = nn.Parameter(np.zeros(2, np.float32))
    opt = Plain([p], {"lr": 1.0, "eps": 0.5})

    @reference
    def step():
        p.grad = tr.ones(2)
        opt.step()
        p.grad = None
        return opt.param_groups[0].get("eps")

    for rate, expected in ((1.0, -1.0), (0.5, -1.5), (1.0, -2.5)):
        opt.param_groups[0]["lr"] = rate
        assert step() == 0.5 and float(p.detach()[0]) == expected
    assert len(step.traces) == 2
    opt.param_groups[0]["eps"] = 0.25
    assert step() == 0.25


def test_hooks_are_part_of_the_step():
    net, opt, step = trainer("SGD", {"lr": 0.1}, reference)
    (x,) = batches(1)
    step(x)

    def double(o, args, kwargs):
        for p in o.param_groups[0]["params"]:
            p.grad.mul_(0.0)

    handle = opt.register_step_pre_hook(double)
    before = np.asarray(net[0].weight.detach()).copy()
    step(x)
    np.testing.assert_array_equal(np.asarray(net[0].weight.detach()), before)
    handle.remove()
    step(x)
    assert not np.array_equal(np.asarray(net[0].weight.detach()), before)


def test_lbfgs_calls_a_compiled_closure():
    p = nn.Parameter(np.array([3.0, -2.0]))
    opt = optim.LBFGS([p], line_search_fn="strong_wolfe")

    @reference
    def closure():
        p.grad = None
        loss = ((p - 1.0) ** 2 * tr.tensor([1.0, 10.0])).sum()
        loss.backward()
        return loss

    opt.step(closure)
    np.testing.assert_allclose(np.asarray(p.detach()), [1, 1], atol=1e-5)
    assert len(closure.traces) <= 2
