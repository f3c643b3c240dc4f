"""Modules: registration, state dicts, hooks, printing, the epoch; and layers against PyTorch where it is installed."""

import copy
import math
import pickle

import numpy as np
import pytest
from tracefuse.frontend import nn
from tracefuse.frontend.epoch import epoch
from tracefuse.frontend.nn import functional as F

import tracefuse as tr

rng = np.random.default_rng(3)


def arr(*shape):
    return rng.standard_normal(shape).astype(np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.register_buffer("seen", tr.zeros(1))
        self.register_buffer("scratch", tr.zeros(1), persistent=False)

    def forward(self, x):
        return self.b(self.a(x)) * self.scale


# ------------------------------------------------------------------ registration


def test_names_follow_the_tree():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["scale", "a.weight", "a.bias", "b.1.weight", "b.1.bias"]
    assert [n for n, _ in net.named_buffers()] == [
        "seen", "scratch", "b.1.running_mean", "b.1.running_var", "b.1.num_batches_tracked",
    ]  # fmt: skip
    assert [n for n, _ in net.named_modules()] == ["", "a", "b", "b.0", "b.1"]
    assert [n for n, _ in net.named_children()] == ["a", "b"]
    assert "scratch" not in net.state_dict() and "seen" in net.state_dict()
    assert net.get_submodule("b.1") is net.b[1] and net.get_parameter("a.weight") is net.a.weight
    assert net.get_buffer("b.1.running_var") is net.b[1].running_var


def test_shared_parameters_count_once():
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert len(net.state_dict()) == 4


def test_assignments_are_checked():
    net = Net()
    with pytest.raises(TypeError, match="parameter 'scale'"):
        net.scale = tr.zeros(3)
    with pytest.raises(TypeError, match="child module 'a'"):
        net.a = 3
    with pytest.raises(TypeError, match="buffer 'seen'"):
        net.seen = 1.0
    with pytest.raises(KeyError, match="dots"):
        net.register_buffer("a.b", None)
    with pytest.raises(KeyError, match="already exists"):
        net.register_buffer("training", None)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        net.nope
    with pytest.raises(AttributeError, match="forward"):
        nn.Module()(1)

    class Early(nn.Module):
        def __init__(self):
            self.p = nn.Parameter(np.ones(1, np.float32))

    with pytest.raises(AttributeError, match="super"):
        Early()


def test_a_parameter_replaces_an_attribute_and_goes_again():
    net = nn.Module()
    net.x = 1
    net.x = nn.Parameter(np.ones(2, np.float32))
    assert "x" not in net.__dict__ and list(dict(net.named_parameters())) == ["x"]
    net.x = None
    assert net.x is None and not list(net.parameters())
    del net.x
    assert not hasattr(net, "x")


# ------------------------------------------------------------------ the epoch


def moved(change):
    before = epoch.value
    change()
    return epoch.value - before


def test_only_changes_move_the_epoch():
    net = Net()
    weight, lin = net.a.weight, net.a
    assert moved(lambda: setattr(net, "mode", "x")) == 1
    assert moved(lambda: setattr(net, "mode", net.mode)) == 0
    assert moved(lambda: setattr(net.a, "weight", weight)) == 0
    assert moved(lambda: setattr(net, "a", lin)) == 0
    assert moved(lambda: setattr(net, "a", nn.Linear(4, 3))) > 0
    assert moved(net.train) == 0
    assert moved(net.eval) == 5
    assert moved(lambda: net.load_state_dict(net.state_dict())) > 0
    assert moved(lambda: net(tr.tensor(arr(2, 4)))) == 0
    handle = net.register_forward_hook(lambda *a: None)
    assert moved(handle.remove) == 1
    assert moved(handle.remove) == 0
    assert moved(lambda: delattr(net, "mode")) == 1
    assert moved(lambda: net.requires_grad_(True)) == 0
    assert moved(lambda: net.requires_grad_(False)) == 5


def test_the_epoch_lives_at_an_address():
    import ctypes

    assert ctypes.c_int64.from_address(epoch.address).value == epoch.value
    epoch.bump()
    assert ctypes.c_int64.from_address(epoch.address).value == epoch.value


# ------------------------------------------------------------------ modes, hooks, copies


def test_modes_and_apply():
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert all(m.training for m in net.train().modules())
    order = []
    net.apply(lambda m: order.append(type(m).__name__))
    assert order == ["Linear", "ReLU", "BatchNorm1d", "Sequential", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())


def test_hooks_see_and_replace():
    net, x = nn.Linear(2, 2), tr.tensor(arr(1, 2))
    plain = np.asarray(net(x).detach())
    calls = []
    with net.register_forward_pre_hook(lambda m, args: (args[0] * 2,)):
        with net.register_forward_hook(lambda m, args, out: calls.append(m) or out + 1.0):
            changed = np.asarray(net(x).detach())
    assert calls == [net]
    np.testing.assert_allclose(changed, np.asarray(F.linear(x * 2, net.weight, net.bias).detach()) + 1, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(net(x).detach()), plain)
    seen = []
    net.register_forward_hook(lambda m, a, o: seen.append(1))
    net.register_forward_hook(lambda m, a, o: seen.append(0), prepend=True)
    net.register_forward_pre_hook(lambda m, args, kwargs: (args, {"input": x}), with_kwargs=True)
    net(input=x * 0)
    assert seen == [0, 1]


def test_casts_convert_floats_only():
    net = Net()
    weight = net.a.weight
    assert net.to(tr.float64) is net
    assert net.a.weight is weight and weight.dtype is tr.float64 and net.seen.dtype is tr.float64
    assert net.b[1].num_batches_tracked.dtype is tr.int64
    assert net.half().a.weight.dtype is tr.float16 and net.bfloat16().a.weight.dtype is tr.bfloat16
    assert net.to("cpu", tr.float32).a.weight.dtype is tr.float32
    with pytest.raises(ValueError, match="no device 'mps'"):
        net.to("mps")
    with pytest.raises(TypeError, match="floating"):
        net.to(tr.int32)


def test_copies_and_pickles_are_independent():
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(other.a.weight, nn.Parameter) and other.a.weight.requires_grad
        np.testing.assert_array_equal(np.asarray(other.a.weight.detach()), np.asarray(net.a.weight.detach()))
        with tr.no_grad():
            other.a.weight.zero_()
        assert np.asarray(net.a.weight.detach()).any()


def test_gradients_reach_every_parameter_and_go():
    net = Net()
    net(tr.tensor(arr(5, 4))).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert not any(np.asarray(p.grad).any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


# ------------------------------------------------------------------ state dicts


def test_state_dicts_share_memory_and_load():
    net, other = Net(), Net()
    state = net.state_dict()
    assert np.shares_memory(np.asarray(state["a.weight"]), np.asarray(net.a.weight.detach()))
    assert not state["a.weight"].requires_grad
    result = other.load_state_dict({k: np.asarray(v) for k, v in state.items()})
    assert result.missing_keys == [] and result.unexpected_keys == []
    np.testing.assert_array_equal(np.asarray(other.a.weight.detach()), np.asarray(net.a.weight.detach()))


def test_loading_names_every_problem_and_changes_nothing():
    net = Net()
    before = np.array(net.a.weight.detach())
    state = {**net.state_dict(), "extra": tr.zeros(1), "a.weight": tr.zeros(3, 5)}
    del state["scale"]
    with pytest.raises(RuntimeError, match=r"(?s)unexpected.*extra.*missing.*scale.*a\.weight.*\(3, 5\).*\(3, 4\)"):
        net.load_state_dict(state)
    np.testing.assert_array_equal(np.asarray(net.a.weight.detach()), before)
    state["a.weight"] = tr.ones(3, 4)
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["scale"] and result.unexpected_keys == ["extra"]
    assert np.asarray(net.a.weight.detach()).all()


def test_assign_takes_the_tensors_themselves():
    net, w = nn.Linear(2, 2), tr.ones(2, 2, dtype=tr.float64)
    net.load_state_dict({"weight": w, "bias": tr.zeros(2)}, assign=True)
    assert isinstance(net.weight, nn.Parameter) and net.weight.dtype is tr.float64
    assert np.shares_memory(np.asarray(net.weight.detach()), np.asarray(w))


# ------------------------------------------------------------------ printing, containers


def test_repr():
    assert repr(nn.Linear(2, 3, bias=False)) == "Linear(in_features=2, out_features=3, bias=False)"
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Sequential(nn.ReLU()))
    assert repr(net) == (
        "Sequential(\n  (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (1): Sequential(\n    (0): ReLU()\n  )\n)"
    )


def test_sequential_is_a_list_of_modules():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(net) == 3 and isinstance(net[-1], nn.Linear) and len(net[1:]) == 2
    assert list(net[1:].state_dict()) == ["2.weight", "2.bias"]
    net.insert(1, nn.Tanh())
    del net[2]
    assert [type(m).__name__ for m in net] == ["Linear", "Tanh", "Linear"]
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    named = nn.Sequential({"first": nn.Linear(2, 2), "second": nn.ReLU()})
    assert isinstance(named.first, nn.Linear) and named(tr.ones(1, 2)).shape == (1, 2)
    with pytest.raises(IndexError, match="out of range"):
        net[7]


def test_module_and_parameter_containers():
    listed = nn.ModuleList([nn.ReLU()])
    listed += [nn.Linear(1, 1)]
    listed[0] = nn.Tanh()
    assert [type(m).__name__ for m in listed + [nn.ReLU()]] == ["Tanh", "Linear", "ReLU"]
    d = nn.ModuleDict({"a": nn.Linear(1, 2)})
    d["b"] = nn.ReLU()
    assert list(d) == ["a", "b"] and "b" in d and isinstance(d.pop("b"), nn.ReLU) and len(d) == 1
    ps = nn.ParameterList([tr.zeros(2), nn.Parameter(np.ones(1, np.float32))])
    assert [n for n, _ in ps.named_parameters()] == ["0", "1"] and isinstance(ps[0], nn.Parameter)
    pd = nn.ParameterDict({"x": tr.zeros(2)})
    assert list(pd.keys()) == ["x"] and list(pd.state_dict()) == ["x"]


# ------------------------------------------------------------------ starting values


def test_starting_values_follow_the_documented_distributions():
    tr.manual_seed(0)
    w = np.asarray(nn.Linear(400, 300).weight.detach())
    assert abs(w).max() <= 1 / 20 and abs(w.std() - 1 / 20 / math.sqrt(3)) < 5e-4
    t = tr.zeros(300, 400)
    for fill, std in (
        (lambda: nn.init.xavier_uniform_(t), math.sqrt(2 / 700)),
        (lambda: nn.init.xavier_normal_(t, gain=2.0), 2 * math.sqrt(2 / 700)),
        (lambda: nn.init.kaiming_normal_(t, nonlinearity="relu"), math.sqrt(2 / 400)),
        (lambda: nn.init.kaiming_uniform_(t, mode="fan_out", nonlinearity="relu"), math.sqrt(2 / 300)),
        (lambda: nn.init.normal_(t, 1.0, 0.5), 0.5),
    ):
        assert fill() is t
        assert abs(np.asarray(t).std() / std - 1) < 0.02
    nn.init.trunc_normal_(t, std=1.0, a=-1.0, b=1.0)
    assert abs(np.asarray(t)).max() <= 1.0 and abs(np.asarray(t).std() - 0.5396) < 0.01
    q = np.asarray(nn.init.orthogonal_(tr.zeros(5, 8)))
    np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(nn.init.eye_(tr.zeros(2, 3))), np.eye(2, 3))
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.init.calculate_gain("nope")


def test_the_same_seed_gives_the_same_net():
    nets = [(tr.manual_seed(5), nn.Linear(3, 3))[1] for _ in range(2)]
    np.testing.assert_array_equal(*(np.asarray(n.weight.detach()) for n in nets))


# ------------------------------------------------------------------ layers against PyTorch

LAYERS = [
    ("Linear", (5, 3), {}, [(2, 5)]),
    ("Bilinear", (4, 3, 5), {}, [(2, 4), (2, 3)]),
    ("Conv1d", (4, 6, 3), {"padding": "same", "padding_mode": "circular"}, [(2, 4, 9)]),
    ("Conv2d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, [(2, 4, 9, 8)]),
    ("Conv2d", (4, 6, (3, 2)), {"padding": (1, 2), "padding_mode": "reflect", "bias": False}, [(2, 4, 9, 8)]),
    ("Conv3d", (2, 3, 2), {"dilation": 2}, [(1, 2, 5, 6, 4)]),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}, [(2, 4, 5, 4)]),
    ("BatchNorm1d", (4,), {}, [(6, 4)]),
    ("BatchNorm2d", (4,), {"momentum": None}, [(3, 4, 2, 5)]),
    ("BatchNorm2d", (4,), {"affine": False, "track_running_stats": False}, [(3, 4, 2, 5)]),
    ("InstanceNorm2d", (4,), {"affine": True, "track_running_stats": True}, [(3, 4, 2, 5)]),
    ("LayerNorm", ((4, 5),), {}, [(3, 4, 5)]),
    ("LayerNorm", (5,), {"bias": False}, [(3, 5)]),
    ("RMSNorm", (5,), {}, [(3, 5)]),
    ("GroupNorm", (2, 4), {}, [(3, 4, 5)]),
    ("PReLU", (4,), {}, [(3, 4, 5)]),
    ("MaxPool2d", (2,), {}, [(3, 4, 6, 5)]),
    ("AvgPool2d", (2, 1), {}, [(3, 4, 6, 5)]),
    ("AdaptiveAvgPool2d", ((2, 3),), {}, [(3, 4, 6, 7)]),
    ("Upsample", (), {"scale_factor": 2}, [(3, 4, 2, 3)]),
    ("Flatten", (), {}, [(3, 4, 2)]),
    ("Unflatten", (1, (2, -1)), {}, [(3, 4, 2)]),
    ("Softmax", (1,), {}, [(3, 4)]),
    ("GLU", (), {}, [(3, 4)]),
    ("TransformerEncoderLayer", (8, 2, 16, 0.0), {"batch_first": True}, [(2, 5, 8)]),
    ("TransformerEncoderLayer", (8, 2, 16, 0.0, "gelu"), {"norm_first": True}, [(5, 2, 8)]),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name,args,kwargs,shapes", LAYERS, ids=[n for n, *_ in LAYERS])
def test_layers_match_torch(name, args, kwargs, shapes, training):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(*args, **kwargs).train(training)
    ours = getattr(nn, name)(*args, **kwargs).train(training)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    state = {k: torch.rand_like(v) + 0.1 if v.is_floating_point() else v for k, v in state.items()}
    theirs.load_state_dict(state)
    ours.load_state_dict({k: v.numpy() for k, v in state.items()})
    assert repr(ours).split("(")[0] == repr(theirs).split("(")[0]
    arrays = [arr(*s) for s in shapes]
    xs, ys = [tr.tensor(a, requires_grad=True) for a in arrays], [torch.tensor(a, requires_grad=True) for a in arrays]
    out, expected = ours(*xs), theirs(*ys)
    np.testing.assert_allclose(np.asarray(out.detach()), expected.detach().numpy(), rtol=1e-4, atol=1e-4)
    g = arr(*expected.shape)
    out.backward(tr.tensor(g))
    expected.backward(torch.tensor(g))
    for x, y in zip((*xs, *ours.parameters()), (*ys, *theirs.parameters())):
        np.testing.assert_allclose(np.asarray(x.grad), y.grad.numpy(), rtol=1e-3, atol=5e-4)
    for k, v in theirs.state_dict().items():
        np.testing.assert_allclose(np.asarray(ours.state_dict()[k]), v.numpy(), rtol=1e-4, atol=1e-5, err_msg=k)


def test_printing_matches_torch():
    torch = pytest.importorskip("torch")
    for name, args, kwargs, _ in LAYERS:
        if name != "TransformerEncoderLayer":  # its out_proj has a class of its own there
            assert repr(getattr(nn, name)(*args, **kwargs)) == repr(getattr(torch.nn, name)(*args, **kwargs)).replace(
                ", scale_factor", "scale_factor"
            ), name


ATTENTION = [
    ({}, {}),
    ({"batch_first": True}, {"average_attn_weights": False}),
    ({"kdim": 6, "vdim": 5, "bias": False}, {}),
    ({"add_bias_kv": True, "add_zero_attn": True}, {}),
    ({}, {"attn_mask": np.triu(np.ones((4, 7), bool), 3)}),
    ({}, {"attn_mask": rng.standard_normal((6, 4, 7)).astype(np.float32)}),
    ({}, {"key_padding_mask": np.arange(7)[None, :] > np.array([4, 5, 6])[:, None]}),
    ({"add_zero_attn": True}, {"key_padding_mask": np.arange(7)[None, :] > np.array([4, 5, 6])[:, None]}),
    ({}, {"attn_mask": np.triu(np.ones((4, 7), bool), 3), "key_padding_mask": np.arange(7)[None] > np.full((3, 1), 5)}),
]


@pytest.mark.parametrize("options,call", ATTENTION)
def test_multihead_attention_matches_torch(options, call):
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.MultiheadAttention(8, 2, **options), nn.MultiheadAttention(8, 2, **options)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    n, first = 3, options.get("batch_first", False)

    def shaped(length, width):
        return arr(n, length, width) if first else arr(length, n, width)

    q, k, v = shaped(4, 8), shaped(7, options.get("kdim", 8)), shaped(7, options.get("vdim", 8))
    for need in (True, False):
        out, w = ours(*map(tr.tensor, (q, k, v)), need_weights=need, **{a: _tr(b) for a, b in call.items()})
        e, ew = theirs(*map(torch.tensor, (q, k, v)), need_weights=need, **{a: _torch(b) for a, b in call.items()})
        np.testing.assert_allclose(np.asarray(out.detach()), e.detach().numpy(), atol=1e-5)
        if need:
            np.testing.assert_allclose(np.asarray(w.detach()), ew.detach().numpy(), atol=1e-5)
        else:
            assert w is None


def _tr(x):
    return tr.tensor(x) if isinstance(x, np.ndarray) else x


def _torch(x):
    import torch

    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def test_transformer_encoder_copies_its_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(8))
    assert net.layers[0].linear1.weight is not net.layers[1].linear1.weight
    x = tr.tensor(arr(2, 5, 8))
    mask = tr.tensor(np.triu(np.ones((5, 5), bool), 1))
    out = net(x, mask=mask, is_causal=True)
    np.testing.assert_allclose(np.asarray(out.detach()), np.asarray(net(x, mask=mask).detach()), atol=1e-5)
    assert out.shape == (2, 5, 8)


def test_dropout_layers_rest_in_eval():
    x = tr.ones(50)
    layer = nn.Dropout(0.5)
    assert (np.asarray(layer(x)) == 0).any()
    assert layer.eval()(x) is x
    assert repr(layer) == "Dropout(p=0.5, inplace=False)"


def test_embedding_layer():
    layer = nn.Embedding(10, 4, padding_idx=-1)
    assert layer.padding_idx == 9 and not np.asarray(layer.weight.detach())[9].any()
    frozen = nn.Embedding.from_pretrained(tr.ones(3, 2))
    assert not frozen.weight.requires_grad and frozen(tr.tensor(np.array([2]))).shape == (1, 2)
    assert repr(frozen) == "Embedding(3, 2)"


def test_loss_layers():
    x, t = tr.tensor(arr(4, 3)), tr.tensor(np.array([0, 1, 2, 1]))
    weight = tr.tensor(np.array([1.0, 2.0, 0.5], np.float32))
    layer = nn.CrossEntropyLoss(weight, label_smoothing=0.1)
    assert list(layer.state_dict()) == ["weight"]
    assert float(layer(x, t)) == float(F.cross_entropy(x, t, weight, label_smoothing=0.1))
    assert float(nn.MSELoss()(x, x)) == 0.0
    assert nn.L1Loss(reduction="none")(x, x * 2).shape == (4, 3)
