"""NumPy and scipy.special functions on tensors, and on arrays in compiled NumPy-style functions."""

import numpy as np
import pytest

import tracefuse as tr

A = np.array([[2.0, 0.5, 1.0], [0.5, 3.0, 0.25], [1.0, 0.25, 4.0]])
UNIT = np.array([0.1, 0.4, 0.7])

NUMPY = {
    "exp": lambda x: np.exp(x) + np.log1p(x),
    "where": lambda x: np.where(x > 0.9, x, -x),
    "sum": lambda x: np.sum(x, axis=0) + np.mean(x, axis=1),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "norm": lambda x: np.linalg.norm(x),
    "norm of rows": lambda x: np.linalg.norm(x, axis=1),
    "spectral norm": lambda x: np.linalg.norm(x, 2),
    "inv": lambda x: np.linalg.inv(x),
    "solve": lambda x: np.linalg.solve(x, x[0]),
    "det": lambda x: np.linalg.det(x),
    "slogdet": lambda x: np.linalg.slogdet(x)[1],
    "svd": lambda x: np.linalg.svd(x)[1],
    "eigvalsh": lambda x: np.linalg.eigvalsh(x),
    "cholesky": lambda x: np.linalg.cholesky(x),
    "fft": lambda x: np.abs(np.fft.fft(x)),
    "irfft": lambda x: np.fft.irfft(np.fft.rfft(x), 3),
    "real": lambda x: np.real(np.fft.fft(x)) + np.imag(np.fft.ifft(x)),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_functions_dispatch_eagerly_with_gradients(name):
    f = NUMPY[name]
    x = tr.tensor(A, requires_grad=True)
    out = f(x)
    assert isinstance(out, tr.Tensor)
    np.testing.assert_allclose(out.detach().numpy(), f(A), rtol=1e-9, atol=1e-12)
    out.sum().backward()
    direction = np.array([[0.3, -0.2, 0.5], [-0.2, 0.1, 0.4], [0.5, 0.4, -0.6]])  # symmetric, as for eigvalsh
    numeric = (f(A + 1e-6 * direction).sum() - f(A - 1e-6 * direction).sum()) / 2e-6
    np.testing.assert_allclose((x.grad.numpy() * direction).sum(), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_functions_dispatch_while_tracing(name):
    f = NUMPY[name]
    got = tr.compile(f, fullgraph=True)(tr.asarray(A))
    assert isinstance(got, tr.Tensor)
    np.testing.assert_allclose(got.numpy(), f(A), rtol=1e-9, atol=1e-12)


COMPILED = ["inv", "solve", "det", "slogdet", "svd", "eigvalsh", "cholesky", "fft", "irfft", "norm of rows"]


@pytest.mark.parametrize("name", COMPILED)
def test_arrays_in_arrays_out(name):
    f = NUMPY[name]
    x = A.astype(np.float32)
    want = f(x)
    got = tr.compile(f, fullgraph=True)(x)
    assert type(got) is type(want) and got.dtype == want.dtype and got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


UFUNCS = [
    "betaln", "entr", "erf", "erfc", "erfcinv", "erfcx", "erfinv", "exp10", "expit", "gammainc", "gammaincc", "gammaln",
    "huber", "i0", "i0e", "i1", "i1e", "kl_div", "log_expit", "log_ndtr", "logit", "ndtr", "ndtri", "psi", "rel_entr",
    "xlog1py", "xlogy",
]  # fmt: skip


@pytest.mark.parametrize("name", UFUNCS)
def test_scipy_ufuncs_dispatch(name):
    ufunc = getattr(pytest.importorskip("scipy.special"), name)

    def f(*x):
        return ufunc(*x)

    arrays = (UNIT, UNIT[::-1].copy())[: ufunc.nin]
    want = ufunc(*arrays)
    tensors = tuple(map(tr.asarray, arrays))
    for got in (f(*tensors), tr.compile(f, fullgraph=True)(*tensors)):
        assert isinstance(got, tr.Tensor)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["erf", "gammaln", "xlogy"])
def test_scipy_ufuncs_take_and_give_arrays(name):
    ufunc = getattr(pytest.importorskip("scipy.special"), name)

    def f(x):
        return ufunc(*(x,) * ufunc.nin)

    got, want = tr.compile(f, fullgraph=True)(UNIT.astype(np.float32)), f(UNIT.astype(np.float32))
    assert isinstance(got, np.ndarray) and got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_scipy_ufuncs_are_differentiated():
    special = pytest.importorskip("scipy.special")
    x = tr.tensor(UNIT, requires_grad=True)
    (special.erf(x) * special.expit(x)).sum().backward()
    numeric = [
        (special.erf(u + 1e-6) * special.expit(u + 1e-6) - special.erf(u - 1e-6) * special.expit(u - 1e-6)) / 2e-6
        for u in UNIT
    ]
    np.testing.assert_allclose(x.grad.numpy(), numeric, rtol=1e-6)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_scipy_functions_are_traced(name):
    special = pytest.importorskip("scipy.special")

    def f(x):
        return getattr(special, name)(x, axis=1)

    want = f(A)
    got = tr.compile(f, fullgraph=True)(tr.asarray(A))
    assert isinstance(got, tr.Tensor)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9)
    array = tr.compile(f, fullgraph=True)(A)
    assert type(array) is np.ndarray and array.dtype == np.float64
    np.testing.assert_allclose(array, want, rtol=1e-9)
    whole = tr.compile(lambda x: special.logsumexp(x), fullgraph=True)(A)
    np.testing.assert_allclose(whole, special.logsumexp(A), rtol=1e-12)


def test_other_ufuncs_run_in_numpy_and_do_not_lose_gradients():
    special = pytest.importorskip("scipy.special")
    assert isinstance(special.ellipk(tr.asarray(UNIT)), tr.Tensor)
    with pytest.raises(TypeError, match="no gradient here"):
        special.ellipk(tr.tensor(UNIT, requires_grad=True))
