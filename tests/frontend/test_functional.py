"""F: against NumPy formulas, and against PyTorch where it is installed."""

import math

import numpy as np
import pytest
from tracefuse.frontend import nn
from tracefuse.frontend.nn import functional as F

import tracefuse as tr

rng = np.random.default_rng(7)


def arr(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def ints(high, *shape):
    return rng.integers(0, high, shape)


def against_torch(name, arrays, kwargs=None, grads=None, tol=2e-5):
    """F.name on tracefuse and torch tensors: equal results, and equal gradients of the floating operands."""
    torch = pytest.importorskip("torch")
    kwargs = kwargs or {}
    ours, theirs = [], []
    for i, a in enumerate(arrays):
        wanted = isinstance(a, np.ndarray) and a.dtype.kind == "f" and (grads is None or i in grads)
        ours.append(tr.tensor(a, requires_grad=wanted) if isinstance(a, np.ndarray) else a)
        theirs.append(torch.tensor(a, requires_grad=wanted) if isinstance(a, np.ndarray) else a)
    our_kwargs = {k: tr.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    their_kwargs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    out = getattr(F, name)(*ours, **our_kwargs)
    expected = getattr(torch.nn.functional, name)(*theirs, **their_kwargs)
    assert tuple(out.shape) == tuple(expected.shape)
    np.testing.assert_allclose(np.asarray(out.detach()), expected.detach().numpy(), rtol=tol, atol=tol)
    if not any(t.requires_grad for t in theirs if hasattr(t, "requires_grad")):
        return
    seed = rng.standard_normal(expected.shape).astype(np.float32)
    out.backward(tr.tensor(seed))
    expected.backward(torch.tensor(seed))
    for a, b in zip(ours, theirs):
        if getattr(b, "requires_grad", False):
            np.testing.assert_allclose(np.asarray(a.grad), b.grad.numpy(), rtol=5 * tol, atol=5 * tol)


ACTIVATIONS = [
    ("relu", {}),
    ("relu6", {}),
    ("gelu", {}),
    ("gelu", {"approximate": "tanh"}),
    ("silu", {}),
    ("sigmoid", {}),
    ("tanh", {}),
    ("leaky_relu", {"negative_slope": 0.2}),
    ("elu", {"alpha": 0.7}),
    ("celu", {"alpha": 0.7}),
    ("selu", {}),
    ("softplus", {"beta": 2.0, "threshold": 3.0}),
    ("softsign", {}),
    ("hardtanh", {"min_val": -0.5, "max_val": 0.7}),
    ("hardsigmoid", {}),
    ("hardswish", {}),
    ("mish", {}),
    ("logsigmoid", {}),
    ("tanhshrink", {}),
    ("hardshrink", {"lambd": 0.3}),
    ("softshrink", {"lambd": 0.3}),
    ("threshold", {"threshold": 0.1, "value": 7.0}),
    ("softmax", {"dim": 1}),
    ("softmin", {"dim": 0}),
    ("log_softmax", {"dim": -1}),
    ("normalize", {}),
    ("normalize", {"p": 1.0, "dim": 0}),
    ("normalize", {"p": 3.0}),
]


@pytest.mark.parametrize("name,kwargs", ACTIVATIONS, ids=[n for n, _ in ACTIVATIONS])
def test_activations_match_torch(name, kwargs):
    against_torch(name, [2 * arr(5, 17)], kwargs)


def test_activations_match_formulas():
    x = arr(4, 9) * 2
    t = tr.tensor(x)
    erf = np.vectorize(math.erf)
    np.testing.assert_allclose(np.asarray(F.gelu(t)), 0.5 * x * (1 + erf(x / math.sqrt(2))), atol=1e-6)
    np.testing.assert_allclose(np.asarray(F.silu(t)), x / (1 + np.exp(-x)), atol=1e-6)
    e = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(np.asarray(F.softmax(t, 1)), e / e.sum(1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(F.relu(t)), np.maximum(x, 0))


def test_inplace_activation_writes_its_input_and_differentiates():
    x = tr.tensor(np.array([-1.0, 2.0], np.float32), requires_grad=True)
    y = x * 1.0
    out = F.silu(y, inplace=True)
    assert np.array_equal(np.asarray(out.detach()), np.asarray(y.detach()))
    out.sum().backward()
    s = 1 / (1 + np.exp(-np.array([-1.0, 2.0])))
    np.testing.assert_allclose(np.asarray(x.grad), s * (1 + np.array([-1.0, 2.0]) * (1 - s)), rtol=1e-5)


def test_glu_and_prelu():
    against_torch("glu", [arr(3, 8)], {"dim": 1})
    against_torch("prelu", [arr(2, 3, 4), np.array([0.1, 0.2, 0.3], np.float32)])
    against_torch("prelu", [arr(2, 3), np.array([0.1], np.float32)])


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_linear(shape):
    x, w, b = arr(*shape), arr(5, 7), arr(5)
    np.testing.assert_allclose(np.asarray(F.linear(tr.tensor(x), tr.tensor(w), tr.tensor(b))), x @ w.T + b, atol=1e-5)
    against_torch("linear", [x, w, b])
    with pytest.raises(ValueError, match="last axis"):
        F.linear(tr.tensor(arr(3, 6)), tr.tensor(w))


CONVS = [
    (1, (2, 4, 11), (6, 4, 3), {}),
    (1, (2, 4, 11), (6, 2, 3), {"groups": 2, "padding": "same", "dilation": 2}),
    (2, (2, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}),
    (2, (2, 3, 9, 8), (4, 3, 3, 2), {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
    (2, (2, 4, 9, 8), (4, 1, 3, 3), {"groups": 4, "padding": "same"}),
    (2, (3, 9, 8), (4, 3, 1, 1), {}),
    (3, (1, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"stride": 2, "padding": 1}),
]


@pytest.mark.parametrize("k,x,w,kwargs", CONVS)
def test_convolutions_match_torch(k, x, w, kwargs):
    against_torch(f"conv{k}d", [arr(*x), arr(*w), arr(w[0])], kwargs, tol=1e-4)


TRANSPOSED = [
    (1, (2, 4, 5), (4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    (2, (2, 4, 5, 6), (4, 3, 3, 2), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    (2, (2, 4, 5, 6), (4, 3, 3, 3), {"groups": 2, "stride": 2}),
    (3, (1, 2, 3, 3, 3), (2, 3, 2, 2, 2), {"stride": 2}),
]


@pytest.mark.parametrize("k,x,w,kwargs", TRANSPOSED)
def test_transposed_convolutions_match_torch(k, x, w, kwargs):
    o = w[1] * kwargs.get("groups", 1)
    against_torch(f"conv_transpose{k}d", [arr(*x), arr(*w), arr(o)], kwargs, tol=1e-4)


def test_conv2d_matches_a_direct_sum():
    x, w = arr(1, 2, 5, 5), arr(3, 2, 3, 3)
    out = np.asarray(F.conv2d(tr.tensor(x), tr.tensor(w)))
    for i in range(3):
        for j in range(3):
            expected = np.einsum("chw,ochw->o", x[0, :, i : i + 3, j : j + 3], w)
            np.testing.assert_allclose(out[0, :, i, j], expected, atol=1e-4)


POOLS = [
    ("max_pool1d", (2, 3, 11), (3,), {"stride": 2, "padding": 1}),
    ("max_pool2d", (2, 3, 9, 8), (2,), {}),
    ("max_pool2d", (2, 3, 9, 8), ((3, 2),), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}),
    ("max_pool2d", (2, 3, 9, 8), (3,), {"stride": 2, "ceil_mode": True, "padding": 1}),
    ("max_pool3d", (1, 2, 5, 6, 4), (2,), {}),
    ("avg_pool1d", (2, 3, 11), (3,), {"stride": 2, "padding": 1}),
    ("avg_pool2d", (2, 3, 9, 8), (2,), {}),
    ("avg_pool2d", (2, 3, 9, 8), (3,), {"padding": 1, "count_include_pad": False}),
    ("avg_pool2d", (2, 3, 9, 8), (3,), {"stride": 2, "padding": 1, "ceil_mode": True}),
    ("avg_pool2d", (2, 3, 10, 8), (3,), {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ("avg_pool2d", (2, 3, 9, 8), (3,), {"divisor_override": 5}),
    ("avg_pool2d", (3, 9, 8), (3,), {}),
    ("avg_pool3d", (1, 2, 5, 6, 4), (2,), {}),
    ("adaptive_avg_pool1d", (2, 3, 12), (4,), {}),
    ("adaptive_avg_pool2d", (2, 3, 12, 8), ((4, 2),), {}),
    ("adaptive_avg_pool2d", (2, 3, 12, 8), (1,), {}),
    ("adaptive_avg_pool2d", (2, 3, 11, 7), ((4, 3),), {}),
    ("adaptive_avg_pool2d", (3, 5, 7), ((None, 3),), {}),
    ("adaptive_max_pool1d", (2, 3, 11), (4,), {}),
    ("adaptive_max_pool2d", (2, 3, 11, 7), ((4, 3),), {}),
]


@pytest.mark.parametrize("name,shape,args,kwargs", POOLS)
def test_pooling_matches_torch(name, shape, args, kwargs):
    against_torch(name, [arr(*shape), *args], kwargs)


def test_pooling_without_overlap_is_a_reshape():
    x = arr(2, 3, 4, 6)
    blocks = x.reshape(2, 3, 2, 2, 3, 2)
    np.testing.assert_array_equal(np.asarray(F.max_pool2d(tr.tensor(x), 2)), blocks.max((3, 5)))
    np.testing.assert_allclose(np.asarray(F.avg_pool2d(tr.tensor(x), 2)), blocks.mean((3, 5)), atol=1e-6)
    with pytest.raises(ValueError, match="more than half"):
        F.max_pool2d(tr.tensor(x), 2, padding=2)


PADS = [
    ((2, 3, 4, 5), (1, 2), {}),
    ((2, 3, 4, 5), (1, 2, 0, 3), {"value": 1.5}),
    ((2, 3, 4, 5), (-1, 2, 1, -2), {}),
    ((2, 3, 4, 5), (1, 2, 3, 1), {"mode": "reflect"}),
    ((2, 3, 4, 5), (1, 2, 3, 1), {"mode": "replicate"}),
    ((2, 3, 4, 5), (1, 2, 3, 1), {"mode": "circular"}),
]


@pytest.mark.parametrize("shape,pads,kwargs", PADS)
def test_pad_matches_torch(shape, pads, kwargs):
    against_torch("pad", [arr(*shape), pads], kwargs)


@pytest.mark.parametrize("mode,numpy_mode", [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")])
def test_pad_matches_numpy(mode, numpy_mode):
    x = arr(2, 5)
    out = F.pad(tr.tensor(x), (2, 3), mode=mode)
    np.testing.assert_array_equal(np.asarray(out), np.pad(x, ((0, 0), (2, 3)), numpy_mode))
    with pytest.raises(ValueError, match="too large|mode"):
        F.pad(tr.tensor(x), (9, 9), mode="reflect" if mode == "replicate" else mode)


INTERPOLATIONS = [
    ((2, 3, 4, 5), {"scale_factor": 2}),
    ((2, 3, 4, 5), {"size": (7, 3)}),
    ((2, 3, 4, 5), {"scale_factor": (1.5, 2.3)}),
    ((2, 3, 4, 5), {"size": 6, "mode": "nearest-exact"}),
    ((2, 3, 7), {"scale_factor": 0.5}),
]


@pytest.mark.parametrize("shape,kwargs", INTERPOLATIONS)
def test_interpolate_matches_torch(shape, kwargs):
    against_torch("interpolate", [arr(*shape)], kwargs)


# ------------------------------------------------------------------ normalisation


def test_norms_match_torch():
    x, w, b = arr(4, 6, 5), arr(5), arr(5)
    against_torch("layer_norm", [x, (5,), w, b])
    against_torch("layer_norm", [x, (6, 5)])
    against_torch("rms_norm", [x, (5,), w])
    against_torch("rms_norm", [x, (5,)], {"eps": 1e-3})
    against_torch("group_norm", [x, 3, arr(6), arr(6)], tol=5e-5)
    against_torch("instance_norm", [x], {"weight": arr(6), "bias": arr(6)}, tol=5e-5)
    against_torch("cosine_similarity", [arr(3, 4), arr(3, 4)])


def test_layer_norm_matches_the_formula():
    x, w, b = arr(4, 6), arr(6), arr(6)
    out = F.layer_norm(tr.tensor(x), (6,), tr.tensor(w), tr.tensor(b))
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(np.asarray(out), expected, atol=1e-5)
    with pytest.raises(ValueError, match="normalized_shape"):
        F.layer_norm(tr.tensor(x), (5,))


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_updates_running_statistics(shape):
    x = arr(*shape)
    mean, var = tr.zeros(3), tr.ones(3)
    out = F.batch_norm(tr.tensor(x), mean, var, training=True, momentum=0.3)
    axes = (0, *range(2, len(shape)))
    channels = (1, 3) + (1,) * (len(shape) - 2)
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes).reshape(channels) + 1e-5)
    np.testing.assert_allclose(np.asarray(out), expected, atol=1e-5)
    np.testing.assert_allclose(np.asarray(mean), 0.3 * x.mean(axes), atol=1e-6)
    np.testing.assert_allclose(np.asarray(var), 0.7 + 0.3 * x.var(axes, ddof=1), atol=1e-5)


def test_batch_norm_matches_torch():
    x, w, b = arr(4, 3, 5), arr(3), arr(3)
    against_torch("batch_norm", [x, None, None, w, b, True], grads=(0, 3, 4), tol=5e-5)
    against_torch("batch_norm", [x, arr(3), np.abs(arr(3)) + 0.5, w, b, False], grads=(0, 3, 4))


def test_normalize_has_finite_gradients_at_zero():
    x = tr.tensor(np.zeros((2, 3), np.float32), requires_grad=True)
    F.normalize(x).sum().backward()
    assert np.isfinite(np.asarray(x.grad)).all()


# ------------------------------------------------------------------ lookups


def test_embedding():
    w = arr(10, 4)
    ids = ints(10, 3, 5)
    np.testing.assert_array_equal(np.asarray(F.embedding(tr.tensor(ids), tr.tensor(w))), w[ids])
    for bad in (10, -1):
        with pytest.raises(IndexError, match=r"embedding.*\[0, 10\)"):
            F.embedding(tr.tensor(np.array([0, bad])), tr.tensor(w))
    with pytest.raises(TypeError, match="integers"):
        F.embedding(tr.tensor(np.array([0.5])), tr.tensor(w))


def test_embedding_padding_gets_no_gradient():
    w = tr.tensor(arr(4, 2), requires_grad=True)
    F.embedding(tr.tensor(np.array([0, 1, 1, 3])), w, padding_idx=1).sum().backward()
    np.testing.assert_array_equal(np.asarray(w.grad), [[1, 1], [0, 0], [0, 0], [1, 1]])
    against_torch("embedding", [ints(10, 6), arr(10, 4)], {"padding_idx": 3})


def test_embedding_max_norm_renormalizes_in_place():
    w = tr.tensor(np.array([[3.0, 4.0], [0.3, 0.4]], np.float32))
    F.embedding(tr.tensor(np.array([0, 1])), w, max_norm=1.0)
    np.testing.assert_allclose(np.asarray(w), [[0.6, 0.8], [0.3, 0.4]], atol=1e-6)


def test_one_hot():
    ids = np.array([[0, 2], [1, 1]])
    np.testing.assert_array_equal(np.asarray(F.one_hot(tr.tensor(ids))), np.eye(3, dtype=np.int64)[ids])
    assert F.one_hot(tr.tensor(ids), 5).shape == (2, 2, 5)
    with pytest.raises(IndexError, match="one_hot"):
        F.one_hot(tr.tensor(ids), 2)


def test_chunk():
    pieces = F.chunk(tr.tensor(np.arange(7)), 3)
    assert [p.shape[0] for p in pieces] == [3, 3, 1]


# ------------------------------------------------------------------ losses


def test_cross_entropy_matches_the_formula():
    x, t = arr(6, 5), ints(5, 6)
    logp = x - np.log(np.exp(x).sum(1, keepdims=True))
    each = -logp[np.arange(6), t]
    np.testing.assert_allclose(float(F.cross_entropy(tr.tensor(x), tr.tensor(t))), each.mean(), rtol=1e-5)
    t[2] = t[4] = -100
    kept = np.array([0, 1, 3, 5])
    np.testing.assert_allclose(float(F.cross_entropy(tr.tensor(x), tr.tensor(t))), each[kept].mean(), rtol=1e-5)


CROSS = [
    {},
    {"ignore_index": 2},
    {"label_smoothing": 0.1},
    {"weight": np.array([0.5, 1.0, 2.0, 0.1, 1.5], np.float32)},
    {"weight": np.array([0.5, 1.0, 2.0, 0.1, 1.5], np.float32), "label_smoothing": 0.2, "ignore_index": 1},
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kwargs", CROSS)
def test_cross_entropy_matches_torch(kwargs, reduction):
    against_torch("cross_entropy", [arr(6, 5), ints(5, 6)], {**kwargs, "reduction": reduction})
    against_torch("cross_entropy", [arr(2, 5, 3, 4), ints(5, 2, 3, 4)], {**kwargs, "reduction": reduction})
    if "label_smoothing" not in kwargs:
        against_torch("nll_loss", [arr(6, 5), ints(5, 6)], {**kwargs, "reduction": reduction})


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_probabilities_matches_torch(reduction):
    p = np.abs(arr(6, 5))
    p /= p.sum(1, keepdims=True)
    kwargs = {"reduction": reduction, "label_smoothing": 0.1, "weight": np.abs(arr(5))}
    against_torch("cross_entropy", [arr(6, 5), p], kwargs, grads=(0,))
    against_torch("cross_entropy", [arr(5), np.array(3)], {"reduction": reduction})


def test_cross_entropy_refuses_bad_targets():
    x = tr.tensor(arr(3, 4))
    for bad in (4, -1):
        with pytest.raises(IndexError, match=r"cross_entropy: a target class is outside \[0, 4\)"):
            F.cross_entropy(x, tr.tensor(np.array([0, 1, bad])))
    with pytest.raises(ValueError, match="target has shape"):
        F.cross_entropy(x, tr.tensor(np.array([0, 1])))
    with pytest.raises(ValueError, match="reduction"):
        F.cross_entropy(x, tr.tensor(np.array([0, 1, 2])), reduction="avg")


LOSSES = [
    ("mse_loss", {}),
    ("l1_loss", {}),
    ("smooth_l1_loss", {"beta": 0.7}),
    ("huber_loss", {"delta": 0.7}),
    ("kl_div", {"log_target": True}),
    ("binary_cross_entropy_with_logits", {}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name,kwargs", LOSSES, ids=[n for n, _ in LOSSES])
def test_losses_match_torch(name, kwargs, reduction):
    against_torch(name, [arr(4, 5), arr(4, 5)], {**kwargs, "reduction": reduction})


def test_probability_losses_match_torch():
    p, t = 1 / (1 + np.exp(-arr(4, 5))), (arr(4, 5) > 0).astype(np.float32)
    against_torch("binary_cross_entropy", [p, t], grads=(0,), tol=1e-4)
    against_torch("binary_cross_entropy", [p, t], {"weight": np.abs(arr(4, 5))}, grads=(0,), tol=1e-4)
    against_torch("binary_cross_entropy_with_logits", [arr(4, 5), t], {"pos_weight": np.abs(arr(5))}, grads=(0,))
    q = np.abs(arr(4, 5))
    q[0, 0] = 0.0
    against_torch("kl_div", [np.log(p), q], {"reduction": "batchmean"}, grads=(0,))


def test_losses_need_equal_shapes():
    with pytest.raises(ValueError, match="must be equal"):
        F.mse_loss(tr.tensor(arr(3, 1)), tr.tensor(arr(3)))


# ------------------------------------------------------------------ dropout, attention


def test_dropout():
    tr.manual_seed(3)
    x = tr.ones(10000)
    out = np.asarray(F.dropout(x, 0.3))
    assert set(np.unique(out)) == {np.float32(0), np.float32(1 / 0.7)}
    assert abs((out == 0).mean() - 0.3) < 0.02
    tr.manual_seed(3)
    np.testing.assert_array_equal(np.asarray(F.dropout(x, 0.3)), out)
    assert F.dropout(x, 0.3, training=False) is x and F.dropout(x, 0.0) is x
    assert not np.asarray(F.dropout(x, 1.0)).any()
    with pytest.raises(ValueError, match="probability"):
        F.dropout(x, 1.5)


def test_dropout2d_drops_whole_channels():
    out = np.asarray(F.dropout2d(tr.ones(8, 16, 3, 3), 0.5))
    per_channel = out.reshape(8 * 16, 9)
    assert (per_channel == per_channel[:, :1]).all() and 0 < (per_channel[:, 0] == 0).mean() < 1


ATTENTION = [
    {},
    {"is_causal": True},
    {"scale": 0.3},
    {"attn_mask": rng.random((6, 7)) > 0.4},
    {"attn_mask": rng.standard_normal((2, 1, 6, 7)).astype(np.float32)},
]


@pytest.mark.parametrize("kwargs", ATTENTION)
def test_attention_matches_torch(kwargs):
    against_torch("scaled_dot_product_attention", [arr(2, 4, 6, 8), arr(2, 4, 7, 8), arr(2, 4, 7, 5)], kwargs)
    q, k, v = arr(2, 4, 6, 8), arr(2, 2, 7, 8), arr(2, 2, 7, 8)
    against_torch("scaled_dot_product_attention", [q, k, v], {**kwargs, "enable_gqa": True})


def test_attention_matches_the_formula():
    q, k, v = arr(3, 4), arr(5, 4), arr(5, 2)
    s = q @ k.T / 2
    e = np.exp(s - s.max(1, keepdims=True))
    out = F.scaled_dot_product_attention(*map(tr.tensor, (q, k, v)))
    np.testing.assert_allclose(np.asarray(out), e / e.sum(1, keepdims=True) @ v, atol=1e-5)


def test_attention_rows_without_any_key_give_zero_and_finite_gradients():
    mask = np.array([[True, True], [False, False]])
    q = tr.tensor(arr(2, 4), requires_grad=True)
    out = F.scaled_dot_product_attention(q, tr.tensor(arr(2, 4)), tr.tensor(arr(2, 3)), tr.tensor(mask))
    assert not np.asarray(out.detach())[1].any()
    out.sum().backward()
    assert np.isfinite(np.asarray(q.grad)).all()


def test_public_names():
    assert nn.functional is F
    assert all(callable(getattr(F, name)) for name in F.__all__)
