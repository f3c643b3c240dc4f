"""Layers that PyTorch's ModuleInfo has no samples of, against PyTorch where it is installed; formulas, errors, traces."""

import copy

import numpy as np
import pytest
from tracefuse.frontend import nn
from tracefuse.frontend.nn import functional as F

import tracefuse as tr

rng = np.random.default_rng(21)


def arr(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def num(t):
    return np.asarray(t.detach())


def agree(mine, theirs, arrays, tolerance=1e-5):
    """Equal results and gradients; `mine` and `theirs` take the arrays as tensors."""
    import torch

    xs = [tr.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    ys = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    out, expected = mine(*xs), theirs(*ys)
    assert tuple(out.shape) == tuple(expected.shape)
    np.testing.assert_allclose(num(out), expected.detach().numpy(), rtol=tolerance, atol=tolerance)
    g = arr(*expected.shape)
    out.backward(tr.tensor(g))
    expected.backward(torch.tensor(g))
    for x, y in zip(xs, ys):
        if y.requires_grad:
            np.testing.assert_allclose(num(x.grad), y.grad.numpy(), rtol=10 * tolerance, atol=10 * tolerance)


LAYERS = [
    ("PixelShuffle", (2,), {}, [(2, 8, 3, 4)]),
    ("PixelUnshuffle", (3,), {}, [(2, 6, 3)]),
    ("ChannelShuffle", (3,), {}, [(2, 6, 4, 5)]),
    ("Unfold", ((2, 3),), {"padding": 1, "stride": (2, 1), "dilation": (1, 2)}, [(2, 3, 6, 7)]),
    ("Unfold", (2,), {}, [(3, 5, 4)]),
    ("Fold", ((6, 7), (2, 3)), {"padding": 1, "stride": (2, 1), "dilation": (1, 2)}, [(2, 18, 20)]),
    ("Fold", ((4, 5), 2), {}, [(12, 12)]),
    ("Upsample", (), {"size": 7, "mode": "linear"}, [(2, 3, 5)]),
    ("Upsample", (), {"scale_factor": (1.5, 0.6), "mode": "bilinear"}, [(2, 3, 5, 9)]),
    ("Upsample", (), {"scale_factor": 2.5, "mode": "bilinear", "recompute_scale_factor": True}, [(2, 3, 5, 9)]),
    ("Upsample", ((7, 4),), {"mode": "bicubic", "align_corners": True}, [(2, 3, 5, 6)]),
    ("Upsample", (), {"scale_factor": 1.7, "mode": "bicubic"}, [(2, 3, 5, 6)]),
    ("Upsample", ((3, 7, 2),), {"mode": "trilinear"}, [(1, 2, 4, 5, 3)]),
    ("Upsample", ((3, 4),), {"mode": "area"}, [(1, 2, 4, 5)]),
    ("Upsample", ((7, 4),), {"mode": "nearest-exact"}, [(2, 3, 5, 6)]),
    ("UpsamplingBilinear2d", (), {"scale_factor": 2}, [(2, 3, 3, 4)]),
    ("UpsamplingNearest2d", ((5, 7),), {}, [(2, 3, 3, 4)]),
    ("LPPool1d", (2, 3), {"ceil_mode": True}, [(2, 3, 8)]),
    ("LPPool2d", (3.0, (2, 3)), {"stride": 1}, [(2, 3, 5, 6)]),
    ("AdaptiveAvgPool3d", ((2, None, 3),), {}, [(2, 3, 5, 4, 7)]),
    ("AdaptiveMaxPool3d", ((2, 3, 3),), {}, [(2, 3, 5, 4, 7)]),
    ("LocalResponseNorm", (3,), {"alpha": 0.5}, [(2, 5, 4)]),
    ("Softmax2d", (), {}, [(2, 5, 4, 3)]),
    ("Softmax", (), {}, [(2, 5, 4)]),
    ("PairwiseDistance", (), {"p": 3.0, "keepdim": True}, [(4, 5), (4, 5)]),
    ("CosineSimilarity", (), {"dim": 0}, [(4, 5), (4, 5)]),
    ("TripletMarginLoss", (0.7,), {"swap": True, "reduction": "none"}, [(4, 5), (4, 5), (4, 5)]),
    ("TripletMarginWithDistanceLoss", (), {}, [(4, 5), (4, 5), (4, 5)]),
    ("ReflectionPad2d", ((1, 2, 0, 1),), {}, [(2, 3, 4, 5)]),
    ("ConstantPad1d", ((2, -1), 3.5), {}, [(2, 3, 4)]),
]


@pytest.mark.parametrize("name,args,kwargs,shapes", LAYERS, ids=[n for n, *_ in LAYERS])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_layers_match_torch(name, args, kwargs, shapes):
    torch = pytest.importorskip("torch")
    # LPPool of odd powers is NaN for negative sums: positive inputs
    arrays = [abs(a) + 0.1 if name.startswith("LP") else a for a in map(lambda s: arr(*s), shapes)]
    mine, theirs = getattr(nn, name)(*args, **kwargs), getattr(torch.nn, name)(*args, **kwargs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    agree(mine, theirs, arrays)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(3, 4), (11, 5)])
def test_antialiased_resizing_matches_torch(mode, size):
    torch = pytest.importorskip("torch")
    options = {"size": size, "mode": mode, "antialias": True}
    agree(
        lambda x: F.interpolate(x, **options),
        lambda y: torch.nn.functional.interpolate(y, **options),
        [arr(2, 3, 9, 8)],
    )


@pytest.mark.parametrize("k,shape,options", [
    (1, (2, 3, 9), {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}),
    (2, (2, 3, 7, 8), {"kernel_size": (2, 3), "ceil_mode": True, "stride": 2, "padding": (1, 0)}),
    (3, (3, 4, 5, 6), {"kernel_size": 2}),
])  # fmt: skip
def test_positions_of_maxima_match_torch_and_undo_pooling(k, shape, options):
    torch = pytest.importorskip("torch")
    x = arr(*shape)
    pool, other = getattr(F, f"max_pool{k}d"), getattr(torch.nn.functional, f"max_pool{k}d")
    values, at = pool(tr.tensor(x), **options, return_indices=True)
    expected, places = other(torch.tensor(x), **options, return_indices=True)
    np.testing.assert_array_equal(num(values), expected.numpy())
    np.testing.assert_array_equal(num(at), places.numpy())
    agree(
        lambda t: pool(t, **options, return_indices=True)[0],
        lambda t: other(t, **options, return_indices=True)[0],
        [x],
    )
    if "dilation" in options or "ceil_mode" in options:
        return
    back = getattr(F, f"max_unpool{k}d")(values, at, options["kernel_size"], output_size=shape[-k:])
    again = getattr(torch.nn.functional, f"max_unpool{k}d")(
        expected, places, options["kernel_size"], output_size=shape[-k:]
    )
    np.testing.assert_array_equal(num(back), again.numpy())


def test_adaptive_positions_match_torch():
    torch = pytest.importorskip("torch")
    x = arr(2, 3, 7, 5)
    values, at = nn.AdaptiveMaxPool2d((3, None), return_indices=True)(tr.tensor(x))
    expected, places = torch.nn.AdaptiveMaxPool2d((3, None), return_indices=True)(torch.tensor(x))
    np.testing.assert_array_equal(num(values), expected.numpy())
    np.testing.assert_array_equal(num(at), places.numpy())


def test_unpooling_layer():
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    x = tr.tensor(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4))
    out = num(unpool(*pool(x)))
    np.testing.assert_array_equal(out[0, 0], [[0, 0, 0, 0], [0, 5, 0, 7], [0, 0, 0, 0], [0, 13, 0, 15]])
    with pytest.raises(ValueError, match="output_size"):
        unpool(*pool(x), output_size=(8, 8))


# ------------------------------------------------------------------ lookups

BAGS = [
    ({"mode": "mean"}, "2d"),
    ({"mode": "sum", "padding_idx": 2}, "2d"),
    ({"mode": "max"}, "2d"),
    ({"mode": "mean", "padding_idx": 2}, "offsets"),
    ({"mode": "sum"}, "weighted"),
    ({"mode": "max"}, "offsets"),
    ({"mode": "sum", "include_last_offset": True}, "offsets"),
]


@pytest.mark.parametrize("options,call", BAGS)
def test_embedding_bags_match_torch(options, call):
    torch = pytest.importorskip("torch")
    mine, theirs = nn.EmbeddingBag(10, 3, **options), torch.nn.EmbeddingBag(10, 3, **options)
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    ids = rng.integers(0, 10, (4, 3))
    extra: list = [None, None]
    if call != "2d":
        ids = ids.reshape(-1)
        extra = [np.array([0, 4, 4, 9]), arr(12) if call == "weighted" else None]
        if options.get("include_last_offset"):
            extra[0] = np.append(extra[0], 12)
    out = mine(tr.tensor(ids), *(None if e is None else tr.tensor(e) for e in extra))
    expected = theirs(torch.tensor(ids), *(None if e is None else torch.tensor(e) for e in extra))
    np.testing.assert_allclose(num(out), expected.detach().numpy(), atol=1e-5)
    g = arr(*expected.shape)
    out.backward(tr.tensor(g))
    expected.backward(torch.tensor(g))
    np.testing.assert_allclose(num(mine.weight.grad), theirs.weight.grad.numpy(), atol=1e-5)


def test_gradients_scaled_by_frequency():
    ids = tr.tensor(np.array([1, 1, 2, 1]))
    for layer in (nn.Embedding(4, 2, scale_grad_by_freq=True), nn.EmbeddingBag(4, 2, None, 2.0, True, "sum")):
        out = layer(ids) if isinstance(layer, nn.Embedding) else layer(ids, tr.tensor(np.array([0])))
        out.sum().backward()
        np.testing.assert_allclose(num(layer.weight.grad), [[0, 0], [1, 1], [1, 1], [0, 0]], rtol=1e-6)


def test_tables_take_their_weights():
    w = tr.tensor(arr(4, 2))
    bag = nn.EmbeddingBag.from_pretrained(w, mode="sum")
    assert not bag.weight.requires_grad and np.shares_memory(num(bag.weight), num(w))
    np.testing.assert_allclose(num(bag(tr.tensor(np.array([[0, 1]]))))[0], num(w)[0] + num(w)[1], rtol=1e-6)
    assert nn.Embedding.from_pretrained(w, False, 1).padding_idx == 1
    with pytest.raises(ValueError, match="offsets"):
        bag(tr.tensor(np.array([0, 1])))
    with pytest.raises(ValueError, match="_weight"):
        nn.Embedding(3, 2, _weight=w)


# ------------------------------------------------------------------ noise


def test_alpha_dropout_keeps_mean_and_variance():
    tr.manual_seed(0)
    x = tr.randn(400, 250)
    out = num(nn.AlphaDropout(0.3)(x))
    assert abs(out.mean()) < 0.02 and abs(out.std() - 1) < 0.02
    values, counts = np.unique(out, return_counts=True)
    assert abs(counts.max() / out.size - 0.3) < 0.01 and values[counts.argmax()] < -1
    layer = nn.FeatureAlphaDropout(0.5)
    channels = num(layer(tr.randn(20, 10, 7)))
    dropped = (channels == channels[..., :1]).all(-1)
    assert 0.3 < dropped.mean() < 0.7
    assert layer.eval()(x) is x


def test_rrelu_draws_slopes_in_training():
    x = -tr.ones(5000)
    layer = nn.RReLU(0.1, 0.3)
    out = num(layer(x))
    assert out.min() >= -0.3 and out.max() <= -0.1 and abs(out.mean() + 0.2) < 0.01
    np.testing.assert_allclose(num(layer.eval()(x)), -0.2, rtol=1e-6)


def test_gumbel_softmax_draws_from_the_distribution():
    tr.manual_seed(1)
    logits = tr.tensor(np.log(np.array([[0.2, 0.3, 0.5]], np.float32)).repeat(4000, 0), requires_grad=True)
    hard = F.gumbel_softmax(logits, hard=True)
    np.testing.assert_allclose(num(hard).mean(0), [0.2, 0.3, 0.5], atol=0.04)
    assert set(np.unique(num(hard).round(5))) == {0.0, 1.0}
    (hard * tr.arange(3)).sum().backward()
    assert num(logits.grad).any()


def test_fractional_pooling_covers_its_input():
    x = tr.tensor(arr(2, 3, 9, 8))
    out = nn.FractionalMaxPool2d(2, output_ratio=0.5)(x)
    assert out.shape == (2, 3, 4, 4) and np.isin(num(out), num(x)).all()


# ------------------------------------------------------------------ recurrent layers and transformers


def test_recurrent_layers_compile_and_train():
    net = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    other, x = copy.deepcopy(net), arr(2, 3, 3)

    def step(net, x):
        out, (h, c) = net(x)
        (out.sum() + (h * c).sum()).backward()
        return out, c

    for a, b in zip(tr.compile(step, fullgraph=True)(net, tr.tensor(x)), step(other, tr.tensor(x))):
        np.testing.assert_allclose(num(a), num(b), atol=1e-5)
    for a, b in zip(net.parameters(), other.parameters()):
        np.testing.assert_allclose(num(a.grad), num(b.grad), atol=1e-5)


def test_dropout_between_recurrent_layers():
    net, x = nn.GRU(3, 16, num_layers=2, dropout=0.9), tr.tensor(arr(6, 2, 3))
    tr.manual_seed(3)
    a, b = num(net(x)[0]), num(net(x)[0])
    assert not np.allclose(a, b)
    net.eval()
    np.testing.assert_array_equal(num(net(x)[0]), num(net(x)[0]))


def test_cells_are_the_steps_of_layers():
    for kind in ("RNN", "GRU", "LSTM"):
        layer, cell = getattr(nn, kind)(3, 4), getattr(nn, f"{kind}Cell")(3, 4)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        x, state = tr.tensor(arr(5, 2, 3)), None
        out, _ = layer(x)
        for t in range(5):
            state = cell(x[t], state)
            h = state[0] if kind == "LSTM" else state
            np.testing.assert_allclose(num(out)[t], num(h), atol=1e-6)


def test_cells_follow_their_formulas():
    x, h, c = arr(2, 3), arr(2, 4), arr(2, 4)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def gates(cell):
        i = x @ num(cell.weight_ih).T + num(cell.bias_ih)
        r = h @ num(cell.weight_hh).T + num(cell.bias_hh)
        n = i.shape[1] // 4
        return np.split(i, n, axis=1), np.split(r, n, axis=1)

    cell = nn.RNNCell(3, 4, nonlinearity="relu")
    (i,), (r,) = gates(cell)
    np.testing.assert_allclose(num(cell(tr.tensor(x), tr.tensor(h))), np.maximum(i + r, 0), atol=1e-6)
    cell = nn.GRUCell(3, 4)
    (ri, zi, ni), (rr, zr, nr) = gates(cell)
    z, new = sigmoid(zi + zr), np.tanh(ni + sigmoid(ri + rr) * nr)
    np.testing.assert_allclose(num(cell(tr.tensor(x), tr.tensor(h))), (1 - z) * new + z * h, atol=1e-6)
    cell = nn.LSTMCell(3, 4)
    i, f, g, o = (a + b for a, b in zip(*gates(cell)))
    kept = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    for a, b in zip(cell(tr.tensor(x), (tr.tensor(h), tr.tensor(c))), (sigmoid(o) * np.tanh(kept), kept)):
        np.testing.assert_allclose(num(a), b, atol=1e-6)


def test_packed_sequences_compile_when_their_lengths_are_known():
    net, x = nn.GRU(2, 3, bidirectional=True), tr.tensor(arr(4, 3, 2))

    def run(x):
        packed = nn.utils.rnn.pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)
        out, last = net(packed)
        return nn.utils.rnn.pad_packed_sequence(out)[0], last

    for a, b in zip(tr.compile(run, fullgraph=True)(x), run(x)):
        np.testing.assert_allclose(num(a), num(b), atol=1e-6)


def test_recurrent_layers_say_what_is_wrong():
    with pytest.raises(ValueError, match="proj_size 2 is for LSTM"):
        nn.RNNBase("GRU", 3, 4, proj_size=2)
    with pytest.raises(ValueError, match=r"state of shape \(1, 3, 4\) was given; \(1, 2, 4\)"):
        nn.GRU(3, 4)(tr.zeros(5, 2, 3), tr.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="last axis must be 3"):
        nn.LSTM(3, 4)(tr.zeros(5, 2, 4))
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(3, 4, nonlinearity="gelu")
    assert repr(nn.LSTM(3, 4, 2, proj_size=2)) == "LSTM(3, 4, proj_size=2, num_layers=2)"
    assert repr(nn.RNNCell(3, 4, nonlinearity="relu")) == "RNNCell(3, 4, nonlinearity=relu)"


def test_transformer_decoders_match_torch():
    torch = pytest.importorskip("torch")
    nets = [
        n.TransformerDecoder(n.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True), 2, n.LayerNorm(8))
        for n in (nn, torch.nn)
    ]
    nets[0].load_state_dict({k: v.numpy() for k, v in nets[1].state_dict().items()})
    mask = np.triu(np.ones((5, 5), bool), 1)
    agree(
        lambda a, b: nets[0](a, b, tgt_mask=tr.tensor(mask), tgt_is_causal=True),
        lambda a, b: nets[1](a, b, tgt_mask=torch.tensor(mask), tgt_is_causal=True),
        [arr(2, 5, 8), arr(2, 7, 8)],
    )


def test_the_causal_mask_of_transformers():
    mask = num(nn.Transformer.generate_square_subsequent_mask(3))
    np.testing.assert_array_equal(mask, np.where(np.triu(np.ones((3, 3)), 1), -np.inf, 0))
    with pytest.raises(ValueError, match="of size 8"):
        nn.Transformer(8, 2, 1, 1, 16)(tr.zeros(2, 1, 7), tr.zeros(2, 1, 8))


# ------------------------------------------------------------------ losses


def test_losses_follow_their_formulas():
    x, y, z = arr(5, 4), arr(5, 4), arr(5, 4)
    sign, labels = np.array([1, -1, 1, -1, 1]), np.array([0, 3, 1, 1, 2])
    many = np.array([[1, 3, -1, 0]] * 5)
    picked = np.take_along_axis(x, labels[:, None], 1)
    hinge = np.maximum(0, 1 - picked + x)
    np.put_along_axis(hinge, labels[:, None], 0, 1)
    cosine = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    norms = np.linalg.norm(x - y + 1e-6, axis=1) - np.linalg.norm(x - z + 1e-6, axis=1)
    label_terms = sum(np.maximum(0, 1 - x[:, j] + x[:, i]) for j in (1, 3) for i in (0, 2)) / 4
    count = np.array([0.0, 1.0, 2.0, 3.0], np.float32)
    large = np.maximum(count, 1)
    stirling = np.where(count > 1, large * np.log(large) - large + 0.5 * np.log(2 * np.pi * large), 0)
    t = tr.tensor
    for found, expected in (
        (F.margin_ranking_loss(t(x), t(y), t(sign[:, None]), 0.3), np.maximum(0, -sign[:, None] * (x - y) + 0.3)),
        (F.hinge_embedding_loss(t(x[:, 0]), t(sign)), np.where(sign == 1, x[:, 0], np.maximum(0, 1 - x[:, 0]))),
        (
            F.cosine_embedding_loss(t(x), t(y), t(sign), 0.1),
            np.where(sign == 1, 1 - cosine, np.maximum(0, cosine - 0.1)),
        ),
        (F.soft_margin_loss(t(x), t(np.sign(y))), np.log1p(np.exp(-np.sign(y) * x))),
        (F.triplet_margin_loss(t(x), t(y), t(z)), np.maximum(0, norms + 1)),
        (F.multi_margin_loss(t(x), t(labels)), hinge.sum(1) / 4),
        (F.multilabel_margin_loss(t(x), t(many)), label_terms),
        (F.poisson_nll_loss(t(x), t(count), full=True), np.exp(x) - count * x + stirling),
        (F.gaussian_nll_loss(t(x), t(y), t(z * z + 1)), 0.5 * (np.log(z * z + 1) + (x - y) ** 2 / (z * z + 1))),
    ):
        np.testing.assert_allclose(float(found), expected.mean(), rtol=1e-5)


def test_ctc_is_the_sum_over_alignments():
    import itertools

    steps, classes = 4, 3
    x = arr(steps, 1, classes)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))

    def read(path):
        return [k for k, _ in itertools.groupby(path) if k != 0]

    for target in ([1], [1, 2], [2, 2], [1, 2, 1]):
        paths = [p for p in itertools.product(range(classes), repeat=steps) if read(p) == target]
        total = sum(np.exp(sum(logp[t, 0, k] for t, k in enumerate(p))) for p in paths)
        found = F.ctc_loss(tr.tensor(logp), tr.tensor(np.array([target])), [steps], [len(target)], reduction="sum")
        np.testing.assert_allclose(float(found), -np.log(total), rtol=1e-5)


def test_ctc_of_what_cannot_be_aligned():
    logp = F.log_softmax(tr.tensor(arr(2, 1, 4), requires_grad=True), -1)
    target = tr.tensor(np.array([[1, 1, 2]]))
    assert float(F.ctc_loss(logp, target, [2], [3], reduction="sum")) == float("inf")
    zero = F.ctc_loss(logp, target, [2], [3], reduction="sum", zero_infinity=True)
    zero.backward()
    assert float(zero) == 0.0
    with pytest.raises(ValueError, match="blank 7"):
        nn.CTCLoss(blank=7)(logp, target, [2], [3])
    with pytest.raises(IndexError, match="outside"):
        F.ctc_loss(logp, tr.tensor(np.array([[1, 9, 2]])), [2], [3])


def test_losses_say_what_is_wrong():
    x = tr.tensor(arr(3, 4))
    with pytest.raises(ValueError, match="p is 1 or 2"):
        nn.MultiMarginLoss(p=3)
    with pytest.raises(IndexError, match="outside"):
        F.multi_margin_loss(x, tr.tensor(np.array([0, 1, 9])))
    with pytest.raises(ValueError, match="negative"):
        F.gaussian_nll_loss(x, x, -x * x)
    with pytest.raises(ValueError, match="broadcast"):
        F.gaussian_nll_loss(x, x, tr.ones(2, 4))
    with pytest.raises(ValueError, match="reduction is 'mean'"):
        F.soft_margin_loss(x, x, reduction="avg")
    with pytest.raises(ValueError, match="margin must be positive"):
        nn.TripletMarginLoss(margin=0)
    with pytest.raises(ValueError, match="equally many dimensions"):
        F.margin_ranking_loss(x, x, tr.ones(3))


def test_user_distances_are_traced():
    def distance(a, b):
        return (a - b).abs().sum(-1)

    loss = nn.TripletMarginWithDistanceLoss(distance_function=distance)
    a, b, c = (tr.tensor(arr(4, 3)) for _ in range(3))
    np.testing.assert_allclose(num(tr.compile(loss, fullgraph=True)(a, b, c)), num(loss(a, b, c)), rtol=1e-5)


# ------------------------------------------------------------------ starting values


def test_sparse_and_dirac_starting_values():
    w = num(nn.init.sparse_(tr.zeros(20, 30), 0.33, std=2.0))
    assert ((w == 0).sum(0) == 7).all() and 1.5 < w[w != 0].std() < 2.5
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=2)
    nn.init.dirac_(conv.weight, groups=2)
    x = arr(1, 4, 5, 5)
    np.testing.assert_array_equal(num(conv(tr.tensor(x))), x)
    with pytest.raises(ValueError, match="2-D"):
        nn.init.sparse_(tr.zeros(3), 0.1)
    with pytest.raises(ValueError, match="3 groups"):
        nn.init.dirac_(conv.weight, groups=3)


# ------------------------------------------------------------------ errors and checkpoints


def test_layers_say_what_is_wrong():
    for make, match in (
        (lambda: F.pixel_shuffle(tr.zeros(3, 2, 2), 2), "channels of"),
        (lambda: F.fold(tr.zeros(2, 9, 5), (4, 4), 2), r"\[N, C \* 4, 9\]"),
        (lambda: F.channel_shuffle(tr.zeros(1, 5, 2), 2), "2 groups"),
        (lambda: F.interpolate(tr.zeros(1, 1, 4), 3, mode="bilinear"), "2 spatial axes"),
        (lambda: F.interpolate(tr.zeros(1, 1, 4), 3, mode="cubic"), "mode is one of"),
        (lambda: nn.ZeroPad2d((1, 2, 3)), "needs 4 values"),
        (lambda: nn.FractionalMaxPool2d(2), "exactly one"),
        (lambda: nn.FractionalMaxPool2d(2, 4)(tr.zeros(1, 1, 4, 4)), "do not fit"),
        (lambda: F.bilinear(tr.zeros(1, 2), tr.zeros(1, 3), tr.zeros(1, 3, 2)), "do not fit"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_a_torch_checkpoint_loads_unchanged(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    class Net:
        def __init__(self, n):
            self.body = n.ModuleDict({
                "embed": n.Embedding(20, 8, padding_idx=0),
                "conv": n.Sequential(n.Conv1d(8, 8, 3, padding=1), n.BatchNorm1d(8), n.PReLU(8)),
                "rnn": n.GRU(8, 6, bidirectional=True, batch_first=True),
                "attend": n.TransformerEncoder(n.TransformerEncoderLayer(12, 3, 16, 0.0, batch_first=True), 2),
                "out": n.Linear(12, 5),
            })  # fmt: skip

        def __call__(self, ids):
            b = self.body
            x = b["embed"](ids)
            x = b["conv"](x.swapaxes(1, 2)).swapaxes(1, 2)
            return b["out"](b["attend"](b["rnn"](x)[0]))

    theirs, mine = Net(torch.nn), Net(nn)
    save_file(theirs.body.state_dict(), tmp_path / "net.safetensors")
    mine.body.load_state_dict(tr.load(tmp_path / "net.safetensors"))
    ids = rng.integers(0, 20, (3, 7))
    theirs.body.eval(), mine.body.eval()
    expected = theirs(torch.tensor(ids)).detach().numpy()
    np.testing.assert_allclose(num(mine(tr.tensor(ids))), expected, atol=1e-5)


# ------------------------------------------------------------------ lazy layers

LAZY = [
    ("Linear", (3,), (2, 5)),
    ("Conv2d", (6, 3, 1, 0, 1, 2), (2, 4, 5, 5)),
    ("Conv1d", (6, 3), (4, 5)),
    ("ConvTranspose2d", (6, 3), (2, 4, 5, 5)),
    ("BatchNorm1d", (), (3, 4)),
    ("InstanceNorm1d", (1e-5, 0.1, True, True), (3, 4, 6)),
]


@pytest.mark.parametrize("name,args,shape", LAZY, ids=[n for n, *_ in LAZY])
def test_lazy_layers_become_the_plain_ones(name, args, shape):
    layer, x = getattr(nn, "Lazy" + name)(*args), tr.tensor(arr(*shape))
    called = []
    layer.register_forward_hook(lambda *a: called.append(1))
    assert not layer.state_dict() and isinstance(layer, getattr(nn, name)) and "?" in repr(layer)
    with pytest.raises(RuntimeError, match="once outside of compile"):
        tr.compile(layer, fullgraph=True)(x)
    layer(x)
    assert type(layer) is getattr(nn, name) and called and list(layer.parameters())
    other = getattr(nn, "Lazy" + name)(*args)
    other.load_state_dict(layer.state_dict())
    assert type(other) is type(layer)
    np.testing.assert_array_equal(num(other.eval()(x)), num(layer.eval()(x)))
    assert repr(other) == repr(layer)
