"""PyTorch's own list of optimizers and options (OptimizerInfo): 50 steps of each, and the layout of their state dicts."""

import copy

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn, optim

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")
common = pytest.importorskip("torch.testing._internal.common_optimizers")

NOT_OURS = {"SparseAdam": "gradients are dense"}
STEPS = 50
# bfloat16 rounds to the other side now and then, and the iteration goes on from there
LOOSE = {("Muon", "passing alternative ns_coefficients"): 1e-4}
SHAPES = {"Muon": [(6, 4), (3, 5)]}


def cases():
    for info in common.optim_db:
        name = info.optim_cls.__name__
        if name in NOT_OURS:
            continue
        for case in info.optim_inputs_func(device="cpu"):
            yield pytest.param(name, case.kwargs, case.desc, id=f"{name}-{case.desc}".replace(" ", "_"))


def ours(value):
    if isinstance(value, torch.Tensor):
        return tr.tensor(value.numpy())
    return tuple(map(ours, value)) if isinstance(value, tuple) else value


def test_the_list_is_covered():
    names = {info.optim_cls.__name__ for info in common.optim_db}
    covered = [n for n in sorted(names) if hasattr(optim, n)]
    print(f"\n{len(covered)} of {len(names)} optimizers, {len(list(cases()))} settings")
    assert names - set(covered) == set(NOT_OURS)


def run(lib, make, tensor, name, options):
    """Parameters after STEPS steps, and the optimizer."""
    rng = np.random.default_rng(0)
    shapes = SHAPES.get(name, [(2, 3), (4,), ()])
    params = [make(rng.standard_normal(s).astype(np.float64 if name == "LBFGS" else np.float32)) for s in shapes]
    opt = getattr(lib, name)(params, **options)
    if name == "LBFGS":

        def closure():
            opt.zero_grad()
            loss = sum(((p * p - 1) ** 2 + 0.3 * p).sum() for p in params)
            loss.backward()
            return loss

        for _ in range(4):  # of up to 20 iterations
            opt.step(closure)
        return params, opt
    phases = [rng.standard_normal(s) for s in shapes]
    for i in range(STEPS):
        for p, phase in zip(params, phases):
            p.grad = tensor(np.asarray(np.sin(0.3 * i + 3 * phase), np.float32))
        opt.step()
    return params, opt


@pytest.mark.parametrize("name,options,what", cases())
def test_fifty_steps(name, options, what):
    theirs, b = run(
        torch.optim, lambda x: torch.nn.Parameter(torch.tensor(x)), torch.tensor, name, copy.deepcopy(options)
    )
    mine, a = run(optim, nn.Parameter, tr.tensor, name, {k: ours(v) for k, v in options.items()})
    for p, q in zip(mine, theirs):
        expected = q.detach().numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(np.asarray(p.detach()), expected, atol=LOOSE.get((name, what), 1e-6) * scale)
    left, right = a.state_dict(), b.state_dict()
    assert left["param_groups"][0].keys() == right["param_groups"][0].keys()
    for n, state in right["state"].items():
        assert state.keys() - left["state"][n].keys() <= {"al"}  # what LBFGS keeps of its last loop
        for k, value in state.items():
            mine_ = left["state"][n].get(k)
            if isinstance(value, torch.Tensor) and isinstance(mine_, tr.Tensor):
                assert tuple(value.shape) == tuple(mine_.shape), k


@pytest.mark.parametrize("name", [n for n in torch.optim.__all__ if hasattr(optim, n) and n.lower() != n])
def test_defaults_and_the_order_of_arguments(name):
    import inspect

    if name == "Optimizer":
        return
    theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
    mine = inspect.signature(getattr(optim, name).__init__).parameters
    assert list(mine) == list(theirs)
    for key, p in theirs.items():
        assert mine[key].default == p.default and mine[key].kind == p.kind, key


def test_the_order_of_arguments_of_schedulers():
    import inspect

    theirs, mine = torch.optim.lr_scheduler, optim.lr_scheduler
    for name in theirs.__all__:
        a = inspect.signature(getattr(mine, name).__init__).parameters
        b = inspect.signature(getattr(theirs, name).__init__).parameters
        assert list(a) == list(b) and all(a[k].default == p.default for k, p in b.items()), name
    names = ["AveragedModel", "SWALR", "update_bn", "get_ema_avg_fn", "get_swa_avg_fn", "get_ema_multi_avg_fn"]
    for name in names:
        a = inspect.signature(getattr(optim.swa_utils, name)).parameters
        assert list(a) == list(inspect.signature(getattr(torch.optim.swa_utils, name)).parameters)
