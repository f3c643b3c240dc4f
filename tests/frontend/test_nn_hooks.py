"""Hooks around forward and backward, hooks of state dicts, extra state, and the summary table."""

import numpy as np
import pytest
from tracefuse.frontend import nn

import tracefuse as tr

rng = np.random.default_rng(11)


def arr(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def num(t):
    return np.asarray(t.detach())


# ------------------------------------------------------------------ gradients


def test_backward_hooks_see_the_gradients_of_inputs_and_outputs():
    lin, x = nn.Linear(3, 2), tr.tensor(arr(4, 3), requires_grad=True)
    seen = []
    handle = lin.register_full_backward_hook(lambda m, gi, go: seen.append((m, gi, go)))
    g = arr(4, 2)
    lin(x).backward(tr.tensor(g))
    ((module, (of_input,), (of_output,)),) = seen
    assert module is lin
    np.testing.assert_array_equal(num(of_output), g)
    np.testing.assert_allclose(num(of_input), g @ num(lin.weight), rtol=1e-5)
    np.testing.assert_array_equal(num(x.grad), num(of_input))
    handle.remove()
    lin(x).sum().backward()
    assert len(seen) == 1


def test_backward_hooks_replace_gradients():
    lin, x = nn.Linear(3, 2, bias=False), tr.tensor(arr(4, 3), requires_grad=True)
    lin.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    lin.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10,))
    lin(x).sum().backward()
    np.testing.assert_allclose(num(x.grad), 20 * np.ones((4, 2)) @ num(lin.weight), rtol=1e-5)
    np.testing.assert_allclose(num(lin.weight.grad), 2 * np.ones((2, 4)) @ num(x), rtol=1e-5)


def test_backward_hooks_run_without_gradients_of_inputs_and_with_several_results():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(np.ones(2, np.float32))

        def forward(self, x, k):
            return x * self.w, k, self.w * 3

    net, seen = Two(), []
    net.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    a, k, b = net(tr.tensor(arr(2)), 5)
    assert k == 5
    (a.sum() + 2 * b.sum()).backward()
    ((of_inputs, of_outputs),) = seen
    assert of_inputs == () and of_outputs[1] is None
    assert num(of_outputs[0]).tolist() == [1, 1] and num(of_outputs[2]).tolist() == [2, 2]


def test_backward_hooks_match_torch():
    torch = pytest.importorskip("torch")
    mine, theirs = (n.Sequential(n.Linear(3, 4), n.Tanh(), n.Linear(4, 2)) for n in (nn, torch.nn))
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x, records = arr(5, 3), ([], [])
    for net, record in ((mine, records[0]), (theirs, records[1])):
        net[0].register_full_backward_hook(lambda m, gi, go, r=record: r.extend([*gi, *go]))
        net[1].register_full_backward_hook(lambda m, gi, go, r=record: r.extend([*gi, *go]))
        net[2].register_full_backward_pre_hook(lambda m, go, r=record: r.append(go[0]))
    mine(tr.tensor(x, requires_grad=True)).sum().backward()
    theirs(torch.tensor(x, requires_grad=True)).sum().backward()
    assert len(records[0]) == len(records[1]) == 5
    for a, b in zip(*records):
        np.testing.assert_allclose(num(a), b.numpy(), atol=1e-6)


def test_backward_hooks_are_part_of_a_trace():
    lin = nn.Linear(3, 2, bias=False)
    lin.register_full_backward_hook(lambda m, gi, go: (gi[0] * 10,))

    @tr.compile(fullgraph=True)
    def step(x):
        x = x.detach().requires_grad_()
        lin(x).sum().backward()
        return x.grad

    np.testing.assert_allclose(num(step(tr.ones(4, 3))), 10 * np.ones((4, 2)) @ num(lin.weight), rtol=1e-5)


def test_forward_hooks_can_be_called_when_forward_fails():
    seen = []
    lin = nn.Linear(3, 2)
    lin.register_forward_hook(lambda m, a, o: seen.append(("always", o)), always_call=True)
    lin.register_forward_hook(lambda m, a, o: seen.append(("normal", o)))
    with pytest.raises(ValueError, match="linear"):
        lin(tr.zeros(1, 4))
    assert seen == [("always", None)]


# ------------------------------------------------------------------ state dicts


def test_state_dict_hooks():
    net = nn.Sequential(nn.Linear(2, 2))
    order = []
    net[0].register_state_dict_pre_hook(lambda m, prefix, keep: order.append(prefix))
    net.register_state_dict_post_hook(lambda m, state, prefix, meta: state.update(version=tr.ones(1)))
    state = net.state_dict(prefix="model.")
    assert order == ["model.0."] and list(state) == ["model.0.weight", "model.0.bias", "version"]
    assert net.state_dict(destination={"first": 1}, keep_vars=True)["0.weight"] is net[0].weight


def test_load_state_dict_hooks():
    net, calls = nn.Sequential(nn.Linear(2, 2)), []

    def rename(m, state, prefix, meta, strict, missing, unexpected, errors):
        calls.append((m, prefix, strict))
        state[prefix + "weight"] = state.pop(prefix + "kernel")

    def forgive(m, keys):
        calls.append(keys.missing_keys.copy())
        keys.missing_keys.clear()

    net[0].register_load_state_dict_pre_hook(rename)
    handle = net.register_load_state_dict_post_hook(forgive)
    given = {"0.kernel": tr.ones(2, 2)}
    assert net.load_state_dict(given, strict=False).missing_keys == []
    assert calls == [(net[0], "0.", False), ["0.bias"]] and list(given) == ["0.kernel"]
    assert num(net[0].weight).all()
    handle.remove()
    with pytest.raises(RuntimeError, match=r"missing key\(s\) in state_dict: 0.bias"):
        net.load_state_dict(given)


def test_extra_state_is_saved_and_loaded():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = 0

        def get_extra_state(self):
            return {"count": self.count}

        def set_extra_state(self, state):
            self.count = state["count"]

    net, other = nn.ModuleList([Counter()]), nn.ModuleList([Counter()])
    net[0].count = 3
    assert net.state_dict() == {"0._extra_state": {"count": 3}}
    other.load_state_dict(net.state_dict())
    assert other[0].count == 3
    with pytest.raises(RuntimeError, match="missing.*_extra_state"):
        other.load_state_dict({})


def test_old_checkpoints_of_batch_norm_and_scalars_load():
    net = nn.BatchNorm1d(3)
    state = net.state_dict()
    del state["num_batches_tracked"]
    net.load_state_dict(state)
    scale = nn.ParameterList([tr.zeros(())])
    scale.load_state_dict({"0": np.ones(1, np.float32)})
    assert scale[0].shape == () and float(scale[0].detach()) == 1.0


def test_set_submodule_and_to_empty():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    net.set_submodule("0.0", nn.Identity())
    assert isinstance(net[0][0], nn.Identity)
    with pytest.raises(AttributeError, match="nope"):
        net.set_submodule("nope.0", nn.Identity())
    lin = nn.Linear(2, 2).to_empty(device="cpu")
    assert not num(lin.weight).any() and lin.type(tr.float64).weight.dtype is tr.float64


# ------------------------------------------------------------------ summary


def test_the_summary_says_where_the_parameters_are():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1, bias=False)))
    net[0].requires_grad_(False)
    found = net.summary(tr.zeros(2, 4))
    assert [(r.name, r.output_shape, r.parameters) for r in found.rows] == [
        ("", (2, 1), 24), ("0", (2, 3), 15), ("1", (2, 3), 6), ("2", (2, 1), 3), ("2.0", (2, 3), 0), ("2.1", (2, 1), 3),
    ]  # fmt: skip
    assert (found.total_parameters, found.trainable_parameters, found.parameter_bytes) == (24, 9, 96)
    assert net.training and num(net[1].num_batches_tracked) == 0 and not net[0]._forward_hooks
    lines = str(found).splitlines()
    assert lines[0].split() == ["module", "output", "shape", "parameters", "share"]
    assert lines[3].split() == ["0", "(Linear)", "(2,", "3)", "15", "62.5", "%"]
    assert lines[-2] == "24 parameters, 9 trainable, 15 frozen"
    assert all(r.output_shape is None for r in nn.summary(net).rows)
    assert len(nn.summary(net, depth=1).rows) == 4


def test_the_summary_counts_shared_parameters_once_and_lists_several_results():
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net[1].weight = net[0].weight
    assert nn.summary(net).total_parameters == 8
    lstm = nn.summary(nn.LSTM(3, 4), tr.zeros(5, 2, 3))
    assert lstm.rows[0].output_shape == [(5, 2, 4), [(1, 2, 4), (1, 2, 4)]]
