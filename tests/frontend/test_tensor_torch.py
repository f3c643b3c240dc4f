"""PyTorch-shaped functions and methods: what they do without PyTorch at hand. `tests/torch` compares them with it."""

import math

import numpy as np
import pytest
from tracefuse.frontend import in_place

import tracefuse as tr

rng = np.random.default_rng(0)


def tensor(*shape: int) -> tr.Tensor:
    return tr.asarray(rng.normal(size=shape).astype(np.float32))


# ------------------------------------------------------------------ in-place methods

UNARY = [
    name for name in in_place.FUNCTIONS
    if name in """abs absolute ceil cos cosh deg2rad erf erfc exp exp2 expm1 fix floor frac logical_not negative
    nan_to_num rad2deg relu round sgn sigmoid sign sin sinc sinh square tan tanh trunc""".split()
]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_in_place_methods_write_what_the_function_returns(name):
    x = tensor(3, 4)
    want = getattr(tr, name)(x)
    address = x.data_ptr()
    assert getattr(x, name + "_")() is x
    assert x.data_ptr() == address
    np.testing.assert_allclose(x.numpy(), want.numpy().astype(np.float32))


@pytest.mark.parametrize("name", in_place.FUNCTIONS)
def test_every_function_of_the_list_has_its_method(name):
    if hasattr(tr, name):
        assert callable(getattr(tr.Tensor, name + "_"))


def test_in_place_methods_of_leaves_that_require_grad_are_refused():
    x = tensor(3).requires_grad_()
    with pytest.raises(RuntimeError, match="in place"):
        x.cos_()


def test_in_place_methods_are_differentiated():
    x = tensor(3).requires_grad_()
    y = x * 2
    y.fmod_(0.7)
    y.addmv_(tensor(3, 3), tr.ones(3))
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [2, 2, 2])


def test_an_in_place_method_cannot_widen_the_element_type():
    with pytest.raises(TypeError, match="cannot be written"):
        tr.arange(3).sqrt_()


def test_scatter_and_fill_in_place():
    x = tr.zeros(2, 3)
    x.scatter_(1, tr.asarray([[0], [2]]), 5.0)
    x.fill_diagonal_(7.0)
    np.testing.assert_array_equal(x.numpy(), [[7, 0, 0], [0, 7, 5]])
    tall = tr.zeros(5, 2).fill_diagonal_(1.0, wrap=True)
    np.testing.assert_array_equal(tall.numpy()[:, 0], [1, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("method", "args", "mean"),
    [
        ("exponential_", (2.0,), 0.5),
        ("geometric_", (0.25,), 4.0),
        ("log_normal_", (0.0, 0.5), math.exp(0.125)),
        ("random_", (10,), 4.5),
        ("bernoulli_", (0.3,), 0.3),
    ],
)
def test_random_fills_have_the_mean_of_their_distribution(method, args, mean):
    tr.manual_seed(0)
    x = getattr(tr.zeros(20000), method)(*args).numpy()
    assert abs(x.mean() - mean) < 0.05 * mean
    assert x.std() > 0


# ------------------------------------------------------------------ properties


def test_properties_of_memory():
    x = tr.zeros(4, 6)
    assert (x.itemsize, x.nbytes, x.element_size(), x.numel(), x.nelement()) == (4, 96, 4, 24, 24)
    assert x.stride() == (6, 1) and x.stride(0) == 6 and x.storage_offset() == 0
    part = x[1:, 2:]
    assert part.storage_offset() == 8 and not part.is_contiguous() and part.contiguous().is_contiguous()
    assert x.T.stride() == (1, 6) and x.mT.shape == (6, 4) and x.H.shape == (6, 4) and x.mH.shape == (6, 4)
    assert x.ndimension() == x.dim() == 2 and x.is_signed() and x.is_floating_point()


def test_new_tensors_have_the_type_of_their_maker():
    x = tr.zeros(2, dtype=tr.float64)
    assert x.new_zeros(3).dtype is x.new_ones((3, 1)).dtype is x.new_full((2,), 1).dtype is tr.float64
    assert x.new_tensor([1, 2]).dtype is tr.float64 and x.new_empty(2, dtype=tr.int64).dtype is tr.int64


def test_division_rounds_as_asked():
    x, y = tr.asarray([7, -7]), tr.asarray([2, 2])
    np.testing.assert_array_equal(x.div(y, rounding_mode="trunc").numpy(), [3, -3])
    np.testing.assert_array_equal(x.div(y, rounding_mode="floor").numpy(), [3, -4])
    with pytest.raises(ValueError, match="rounding_mode"):
        x.div(y, rounding_mode="up")


# ------------------------------------------------------------------ functions


@pytest.mark.parametrize("name", ["i0", "i0e", "i1", "i1e", "erfcx", "ndtr", "ndtri", "log_ndtr", "entr", "sinc"])
def test_special_functions_agree_with_scipy(name):
    special = pytest.importorskip("scipy.special")
    x = np.concatenate([np.linspace(-12, 20, 401), [0.0, np.inf, np.nan]])
    x = np.concatenate([np.linspace(0, 1, 301), 10.0 ** -np.arange(1.0, 300, 13)]) if name == "ndtri" else x
    want = np.sinc(x) if name == "sinc" else getattr(special, name)(x)
    got = getattr(tr.special, name)(tr.asarray(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-13, atol=1e-15)


def test_functions_of_two_operands_agree_with_scipy():
    special = pytest.importorskip("scipy.special")
    a, x = rng.uniform(0.05, 40, 300), rng.uniform(0, 60, 300)
    np.testing.assert_allclose(tr.special.gammainc(a, x).numpy(), special.gammainc(a, x), atol=1e-12)
    np.testing.assert_allclose(tr.special.gammaincc(a, x).numpy(), special.gammaincc(a, x), rtol=1e-11)
    np.testing.assert_allclose(tr.special.zeta(a + 1, x + 0.1).numpy(), special.zeta(a + 1, x + 0.1), rtol=1e-13)
    np.testing.assert_allclose(tr.special.polygamma(2, x + 0.1).numpy(), special.polygamma(2, x + 0.1), rtol=1e-13)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: tr.special.polygamma(1, x),
        lambda x: tr.special.zeta(3.5, x),
        lambda x: tr.special.gammainc(tr.full((), 2.5, dtype=tr.float64), x),
        lambda x: tr.special.gammaincc(tr.full((), 2.5, dtype=tr.float64), x),
    ],
    ids=["polygamma", "zeta", "gammainc", "gammaincc"],
)
def test_gradients_with_respect_to_the_last_operand(f):
    at, step = np.linspace(0.3, 9, 40), 1e-5
    x = tr.asarray(at).requires_grad_()
    f(x).sum().backward()
    numeric = (f(tr.asarray(at + step)).numpy() - f(tr.asarray(at - step)).numpy()) / (2 * step)
    np.testing.assert_allclose(x.grad.numpy(), numeric, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_frexp_takes_numbers_apart_exactly(dtype):
    limits = np.finfo(dtype)
    x = np.array([0, -0.0, 1, -3, 0.3, limits.max, limits.tiny, limits.smallest_subnormal, np.inf, np.nan], dtype)
    mantissa, exponent = tr.frexp(tr.asarray(x))
    want, powers = np.frexp(x)
    np.testing.assert_array_equal(mantissa.numpy(), want)
    np.testing.assert_array_equal(exponent.numpy(), powers)


def test_divisors():
    x, y = np.array([12, -18, 0, 7]), np.array([18, 12, 5, 0])
    np.testing.assert_array_equal(tr.gcd(tr.asarray(x), y).numpy(), np.gcd(x, y))
    np.testing.assert_array_equal(tr.lcm(tr.asarray(x), y).numpy(), np.lcm(x, y))


def test_logaddexp_of_equal_numbers_has_a_second_derivative():
    """It was 0 where both operands are equal."""
    x = tr.tensor(1.5, dtype=tr.float64, requires_grad=True)
    (slope,) = tr.autograd.grad(tr.logaddexp(x, tr.tensor(1.5, dtype=tr.float64)), x, create_graph=True)
    (curvature,) = tr.autograd.grad(slope, x)
    assert curvature.item() == pytest.approx(0.25)


@pytest.mark.parametrize("p", [0.5, 1.5, 2, 3])
def test_the_gradient_of_the_norm_of_zeros_is_zero(p):
    x = tr.zeros(3).requires_grad_()
    tr.linalg.vector_norm(x, ord=p).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 0, 0])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_negative_padding_crops(mode):
    x = tr.arange(5.0).reshape(1, 1, 5)
    padded = tr.nn.functional.pad(x, (-1, 0), mode)
    np.testing.assert_array_equal(padded.numpy().ravel(), [1, 2, 3, 4])


def test_multinomial_draws_with_the_given_probabilities():
    tr.manual_seed(3)
    p = tr.asarray([[0.0, 1.0, 3.0], [1.0, 0.0, 0.0]])
    drawn = tr.multinomial(p, 4000, replacement=True).numpy()
    assert drawn.shape == (2, 4000) and (drawn[1] == 0).all() and (drawn[0] > 0).all()
    assert abs((drawn[0] == 2).mean() - 0.75) < 0.03
    once = tr.multinomial(tr.ones(6), 6).numpy()
    assert sorted(once) == list(range(6))
    with pytest.raises(ValueError, match="replacement=True"):
        tr.multinomial(tr.ones(3), 4)


def test_poisson_counts_have_their_rate_as_mean_and_variance():
    tr.manual_seed(1)
    x = tr.poisson(tr.full((5000,), 3.5)).numpy()
    assert abs(x.mean() - 3.5) < 0.1 and abs(x.var() - 3.5) < 0.3


def test_windows_end_where_they_should():
    np.testing.assert_allclose(tr.signal.windows.hann(5).numpy(), [0, 0.5, 1, 0.5, 0], atol=1e-7)
    np.testing.assert_allclose(tr.hann_window(4).numpy(), [0, 0.5, 1, 0.5], atol=1e-7)
    np.testing.assert_allclose(tr.signal.windows.kaiser(7, beta=8.0).numpy(), np.kaiser(7, 8.0), rtol=1e-6)
    assert tr.signal.windows.cosine(0).shape == (0,)


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"mm takes tensors of 2 dimensions, not shape \(2, 3, 4\)"):
        tr.mm(tensor(2, 3, 4), tensor(4, 4))
    with pytest.raises(ValueError, match=r"bmm: the batches of shapes"):
        tr.bmm(tensor(2, 3, 4), tensor(3, 4, 4))
    with pytest.raises(ValueError, match=r"addmm: input of shape \(3,\) does not broadcast"):
        tr.addmm(tensor(3), tensor(2, 4), tensor(4, 5))
    with pytest.raises(IndexError, match="k=9"):
        tr.kthvalue(tensor(4), 9)
    with pytest.raises(ValueError, match=r"index_add: source has shape \(2, 2\), \(2, 3\) is needed"):
        tr.index_add(tensor(4, 3), 0, tr.asarray([0, 1]), tensor(2, 2))
    with pytest.raises(ValueError, match="grid_sample"):
        tr.nn.functional.grid_sample(tensor(1, 1, 4, 4), tensor(1, 3, 3, 3))
    with pytest.raises(ValueError, match="has no 4 equal parts"):
        tr.hsplit(tensor(3, 6), 4)


def test_compiled_functions_use_the_same_names():
    def f(x, y):
        a, at = tr.cummax(x, axis=1)
        b = tr.addmm(a, x, y, beta=0.5) + tr.special.i1e(x) + tr.fmod(x, 0.3)
        return tr.scatter_reduce(b, 1, at, x, "amax"), tr.quantile(b, 0.3, axis=0), tr.diag_embed(b).sum(-1)

    x, y = tensor(4, 5), tensor(5, 5)
    for got, want in zip(tr.compile(f, fullgraph=True)(x, y), f(x, y), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-5, atol=2e-6)
