"""nn.utils: parametrizations, weight and spectral normalisation, packed sequences; against PyTorch where installed."""

import copy
import pickle

import numpy as np
import pytest
from tracefuse.frontend import nn
from tracefuse.frontend.nn.utils import parametrizations, parametrize, rnn

import tracefuse as tr

rng = np.random.default_rng(5)


def arr(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def num(t):
    return np.asarray(t.detach())


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2.0

    def right_inverse(self, x):
        return x / 2.0


class Symmetric(nn.Module):
    def forward(self, x):
        return tr.triu(x) + tr.triu(x, k=1).T


# ------------------------------------------------------------------ parametrizations


def test_a_parametrized_tensor_is_computed_from_its_original():
    lin = nn.Linear(3, 3)
    before = num(lin.weight).copy()
    assert parametrize.register_parametrization(lin, "weight", Symmetric()) is lin
    assert parametrize.is_parametrized(lin) and parametrize.is_parametrized(lin, "weight")
    assert not parametrize.is_parametrized(lin, "bias")
    np.testing.assert_array_equal(num(lin.weight), np.triu(before) + np.triu(before, 1).T)
    assert sorted(lin.state_dict()) == ["bias", "parametrizations.weight.original"]
    assert type(lin).__name__ == "ParametrizedLinear" and isinstance(lin, nn.Linear)
    assert parametrize.type_before_parametrizations(lin) is nn.Linear
    lin(tr.tensor(arr(2, 3))).sum().backward()
    assert np.any(num(lin.parametrizations.weight.original.grad))
    with pytest.raises(RuntimeError, match="right_inverse"):
        lin.weight = tr.zeros(3, 3)


def test_parametrizations_add_up_and_can_be_assigned():
    lin = nn.Linear(2, 2)
    before = num(lin.weight).copy()
    parametrize.register_parametrization(lin, "weight", Doubled())
    parametrize.register_parametrization(lin, "weight", Doubled())
    np.testing.assert_allclose(num(lin.weight), before, rtol=1e-6)
    np.testing.assert_allclose(num(lin.parametrizations.weight.original), before / 4, rtol=1e-6)
    lin.weight = tr.ones(2, 2)
    np.testing.assert_array_equal(num(lin.parametrizations.weight.original), np.full((2, 2), 0.25))
    lin.weight = nn.Parameter(np.full((2, 2), 2.0, np.float32))
    np.testing.assert_array_equal(num(lin.weight), np.full((2, 2), 2.0))
    assert "weight" not in dict(lin.named_parameters())


@pytest.mark.parametrize("leave", [True, False])
def test_parametrizations_can_be_removed(leave):
    lin = nn.Linear(3, 3)
    before = num(lin.weight).copy()
    original = lin.weight
    parametrize.register_parametrization(lin, "weight", Symmetric())
    symmetric = num(lin.weight).copy()
    parametrize.remove_parametrizations(lin, "weight", leave_parametrized=leave)
    assert type(lin) is nn.Linear and isinstance(lin.weight, nn.Parameter) and lin.weight.requires_grad
    assert sorted(lin.state_dict()) == ["bias", "weight"]
    np.testing.assert_array_equal(num(lin.weight), symmetric if leave else before)
    assert leave or lin.weight is original
    with pytest.raises(ValueError, match="no parametrization"):
        parametrize.remove_parametrizations(lin, "weight")


def test_parametrizations_keep_shapes_unless_that_is_meant():
    class Rows(nn.Module):
        def forward(self, x):
            return x[:1]

    lin = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(3, 2\).*unsafe"):
        parametrize.register_parametrization(lin, "weight", Rows())
    with pytest.raises(ValueError, match="no parameter or buffer 'nope'"):
        parametrize.register_parametrization(lin, "nope", Rows())
    assert type(lin) is nn.Linear and "weight" in lin.state_dict()
    parametrize.register_parametrization(lin, "weight", Rows(), unsafe=True)
    assert lin.weight.shape == (1, 2)


def test_cached_parametrizations_are_computed_once():
    calls = []

    class Counted(nn.Module):
        def forward(self, x):
            calls.append(1)
            return x * 1.0

    lin = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Counted())
    calls.clear()
    with parametrize.cached():
        assert lin.weight is lin.weight
    assert len(calls) == 1
    assert lin.weight is not lin.weight


def test_copies_of_parametrized_modules_are_independent():
    lin = parametrize.register_parametrization(nn.Linear(2, 2), "weight", Doubled())
    other = copy.deepcopy(lin)
    parametrize.remove_parametrizations(other, "weight")
    assert type(other) is nn.Linear and parametrize.is_parametrized(lin)
    np.testing.assert_array_equal(num(other.weight), num(lin.weight))
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(lin)


def test_parametrized_modules_compile():
    lin = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(4, 3)), "bias")
    net = nn.Sequential(lin, parametrizations.spectral_norm(nn.Linear(3, 3)))
    other, x = copy.deepcopy(net), tr.tensor(arr(2, 4))
    step = tr.compile(lambda m, x: m(x), fullgraph=True)
    for _ in range(3):  # in training every call moves the singular vectors
        np.testing.assert_allclose(num(step(net, x)), num(other(x)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        num(net[1].parametrizations.weight[0]._u), num(other[1].parametrizations.weight[0]._u), atol=1e-6
    )


# ------------------------------------------------------------------ weight and spectral normalisation

NORMALIZED = [
    ("Linear", (4, 3), (2, 4)),
    ("Conv2d", (2, 4, 3), (1, 2, 5, 5)),
    ("ConvTranspose2d", (2, 4, 3), (1, 2, 5, 5)),
]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("what", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("name,args,shape", NORMALIZED, ids=[n for n, *_ in NORMALIZED])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_normalized_layers_match_torch(name, args, shape, what, old):
    torch = pytest.importorskip("torch")
    space, other = (nn.utils, torch.nn.utils) if old else (parametrizations, torch.nn.utils.parametrizations)
    mine = getattr(space, what)(getattr(nn, name)(*args))
    theirs = getattr(other, what)(getattr(torch.nn, name)(*args))
    state = theirs.state_dict()
    assert {k: tuple(v.shape) for k, v in mine.state_dict().items()} == {k: tuple(v.shape) for k, v in state.items()}
    mine.load_state_dict({k: v.numpy().copy() for k, v in state.items()})
    x = arr(*shape)
    for _ in range(2):
        out, expected = mine(tr.tensor(x)), theirs(torch.tensor(x))
        np.testing.assert_allclose(num(out), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    out.sum().backward()
    expected.sum().backward()
    gradients = dict(mine.named_parameters())
    for key, p in theirs.named_parameters():
        np.testing.assert_allclose(num(gradients[key].grad), p.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=key)
    for key, b in theirs.named_buffers():
        np.testing.assert_allclose(num(dict(mine.named_buffers())[key]), b.numpy(), atol=1e-5, err_msg=key)


def test_old_normalisations_are_removed_again():
    for add, remove in (
        (nn.utils.weight_norm, nn.utils.remove_weight_norm),
        (nn.utils.spectral_norm, nn.utils.remove_spectral_norm),
    ):
        lin = add(nn.Linear(3, 2)).eval()
        value = num(lin.weight).copy()
        remove(lin)
        assert type(lin) is nn.Linear and list(lin.state_dict()) == ["bias", "weight"]
        np.testing.assert_allclose(num(lin.weight), value, rtol=1e-6)
        with pytest.raises(ValueError, match="not found"):
            remove(lin)
        with pytest.raises(ValueError, match="no parameter 'nope'"):
            add(lin, "nope")


def test_new_weight_norm_loads_old_checkpoints():
    old, new = nn.utils.weight_norm(nn.Linear(3, 2)), parametrizations.weight_norm(nn.Linear(3, 2))
    new.load_state_dict(old.state_dict())
    np.testing.assert_array_equal(num(new.weight), num(old.weight))


# ------------------------------------------------------------------ packed sequences


def test_padding_and_packing_are_inverses():
    listed = [tr.tensor(arr(n, 2)) for n in (2, 4, 1)]
    padded = rnn.pad_sequence(listed, batch_first=True, padding_value=7.0)
    assert padded.shape == (3, 4, 2) and num(padded)[2, 1:].tolist() == [[7.0, 7.0]] * 3
    left = rnn.pad_sequence(listed, padding_side="left")
    assert left.shape == (4, 3, 2) and not num(left)[0, 0].any()
    packed = rnn.pack_padded_sequence(padded, [2, 4, 1], batch_first=True, enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [3, 2, 1, 1] and packed.data.shape == (7, 2)
    again, lengths = rnn.pad_packed_sequence(packed, batch_first=True, padding_value=7.0, total_length=5)
    assert lengths.tolist() == [2, 4, 1] and again.shape == (3, 5, 2)
    np.testing.assert_array_equal(num(again)[:, :4], num(padded))
    for a, b in zip(rnn.unpack_sequence(rnn.pack_sequence(listed, enforce_sorted=False)), listed):
        np.testing.assert_array_equal(num(a), num(b))
    assert packed.double().data.dtype is tr.float64


def test_packing_says_what_is_wrong():
    x = tr.zeros(4, 3, 2)
    with pytest.raises(ValueError, match="must not increase.*enforce_sorted=False"):
        rnn.pack_padded_sequence(x, [1, 2, 3])
    with pytest.raises(ValueError, match=r"must be in \[1, 4\]"):
        rnn.pack_padded_sequence(x, [5, 2, 1])
    with pytest.raises(ValueError, match="2 lengths for 3"):
        rnn.pack_padded_sequence(x, [2, 1])
    with pytest.raises(ValueError, match="total_length 3"):
        rnn.pad_packed_sequence(rnn.pack_padded_sequence(x, [4, 4, 1]), total_length=3)


def test_packed_sequences_match_torch():
    torch = pytest.importorskip("torch")
    x, lengths = arr(5, 3, 2), [3, 5, 2]
    mine = rnn.pack_padded_sequence(tr.tensor(x), lengths, enforce_sorted=False)
    theirs = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), lengths, enforce_sorted=False)
    for a, b in zip(mine, theirs):
        np.testing.assert_array_equal(num(a), b.numpy())


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("kind,options", [
    ("RNN", {"nonlinearity": "relu"}),
    ("GRU", {"bidirectional": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
])  # fmt: skip
def test_recurrent_layers_take_packed_sequences(kind, options, sort):
    torch = pytest.importorskip("torch")
    mine, theirs = getattr(nn, kind)(2, 3, **options), getattr(torch.nn, kind)(2, 3, **options)
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x, lengths = arr(5, 4, 2), [5, 3, 3, 1] if sort else [3, 5, 1, 3]
    ours, other = tr.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    out, state = mine(rnn.pack_padded_sequence(ours, lengths, enforce_sorted=sort))
    expected, last = theirs(torch.nn.utils.rnn.pack_padded_sequence(other, lengths, enforce_sorted=sort))
    padded, sizes = rnn.pad_packed_sequence(out)
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(expected)
    assert sizes.tolist() == lengths
    np.testing.assert_allclose(num(padded), wanted.detach().numpy(), atol=1e-5)
    for a, b in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, last))):
        np.testing.assert_allclose(num(a), b.detach().numpy(), atol=1e-5)
    (padded * padded).sum().backward()
    (wanted * wanted).sum().backward()
    np.testing.assert_allclose(num(ours.grad), other.grad.numpy(), atol=1e-5)


# ------------------------------------------------------------------ fusing, and modules as functions


@pytest.mark.parametrize("layer,norm,shape,transposed", [
    (lambda: nn.Conv2d(2, 4, 3, bias=False), lambda: nn.BatchNorm2d(4), (2, 2, 5, 5), False),
    (lambda: nn.ConvTranspose1d(2, 4, 3), lambda: nn.BatchNorm1d(4, affine=False), (2, 2, 5), True),
    (lambda: nn.Linear(3, 4), lambda: nn.BatchNorm1d(4), (2, 3), None),
])  # fmt: skip
def test_batch_norm_folds_into_the_layer_before_it(layer, norm, shape, transposed):
    net, x = nn.Sequential(layer(), norm()), tr.tensor(arr(*shape))
    for _ in range(3):
        net(tr.tensor(arr(*shape)))
    with pytest.raises(ValueError, match="evaluation mode"):
        nn.utils.fuse_conv_bn_eval(*net)
    net.eval()
    if transposed is None:
        fused = nn.utils.fuse_linear_bn_eval(*net)
    else:
        fused = nn.utils.fuse_conv_bn_eval(*net, transpose=transposed)
    np.testing.assert_allclose(num(fused(x)), num(net(x)), atol=1e-5)


def test_functional_call_uses_other_tensors():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    net[2].weight = net[0].weight
    mine, x = net[0].weight, tr.tensor(arr(3, 2))
    given = {"0.weight": tr.eye(2).requires_grad_(), "1.running_mean": tr.zeros(2)}
    out = nn.utils.stateless.functional_call(net, given, x)
    twin = copy.deepcopy(net)
    twin[0].weight = twin[2].weight = nn.Parameter(np.eye(2, dtype=np.float32))
    twin[1].num_batches_tracked.zero_(), twin[1].running_var.fill_(1)
    np.testing.assert_allclose(num(out), num(twin(x)), atol=1e-6)
    assert net[0].weight is mine and net[2].weight is mine and not num(net[1].running_mean).any()
    assert num(given["1.running_mean"]).any()
    out.sum().backward()
    assert given["0.weight"].grad is not None and mine.grad is None
    with pytest.raises(RuntimeError, match="unexpected.*nope"):
        nn.utils.stateless.functional_call(net, {"nope": x}, x)
    with pytest.raises(RuntimeError, match="missing.*0.bias"):
        nn.utils.stateless.functional_call(net, given, x, strict=True)
