"""Complex tensors: types, values, gradients in PyTorch's convention, eager and compiled."""

import numpy as np
import pytest

import tracefuse as tr

VALUES = np.array([[1 + 2j, -0.5j, 3.0], [-1 - 1j, 2 - 0.25j, 0.5 + 0.5j]])


def z64() -> tr.Tensor:
    return tr.asarray(VALUES.astype(np.complex64))


def test_python_numbers_and_arrays_give_their_types():
    assert tr.asarray([1j]).dtype is tr.complex64
    assert tr.asarray(VALUES).dtype is tr.complex128
    assert (tr.ones(2) * 1j).dtype is tr.complex64
    assert (tr.ones(2, dtype=tr.float64) + 1j).dtype is tr.complex128
    assert tr.result_type(tr.complex64, tr.float64) is tr.complex128
    assert tr.abs(z64()).dtype is tr.float32
    assert tr.full((2,), 0j).dtype is tr.complex64 and tr.full((), 2 - 1j).item() == 2 - 1j
    assert tr.full((), 16777217j, dtype=tr.complex128).item() == 16777217j


def test_a_real_type_is_no_target_of_a_cast():
    with pytest.raises(TypeError, match=r"real\(x\), imag\(x\) or abs\(x\)"):
        z64().astype(tr.float32)
    with pytest.raises(TypeError, match="complex64 does not become float32"):
        tr.ones(2, dtype=tr.float32)[0] = 1j


UNARY = ["abs", "real", "imag", "conj", "angle", "exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "sinh",
         "cosh", "tanh", "square", "reciprocal", "negative", "sign"]  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_values_are_numpys(name):
    want = getattr(np, name)(VALUES)
    np.testing.assert_allclose(getattr(tr, name)(tr.asarray(VALUES)).numpy(), want, rtol=1e-12)


def test_arithmetic_reductions_and_products_are_numpys():
    x, y = tr.asarray(VALUES), tr.asarray(VALUES[::-1].copy())
    for got, want in (
        (x * y + x / y - 2, VALUES * VALUES[::-1] + VALUES / VALUES[::-1] - 2),
        (x**2, VALUES**2),
        (x.sum(axis=0), VALUES.sum(axis=0)),
        (x.prod(), VALUES.prod()),
        (x.mean(), VALUES.mean()),
        (x @ y.mT, VALUES @ VALUES[::-1].T),
        (x.mH, VALUES.conj().T),
        (tr.cumulative_sum(x, axis=1), np.cumsum(VALUES, axis=1)),
    ):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-12)


def test_gradients_point_where_the_result_grows():
    z = tr.tensor(VALUES, requires_grad=True)
    (tr.abs(z) ** 2).sum().backward()
    np.testing.assert_allclose(z.grad.numpy(), 2 * VALUES)
    seen = []
    w = tr.tensor(VALUES, requires_grad=True)
    w.register_hook(lambda g: seen.append(g.numpy().copy()))
    tr.real(w * (1 + 1j)).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), np.full(VALUES.shape, 1 - 1j))
    np.testing.assert_allclose(seen[0], np.full(VALUES.shape, 1 - 1j))


def test_a_complex_result_needs_a_gradient():
    z = tr.tensor([1j], requires_grad=True)
    with pytest.raises(RuntimeError, match="need gradient="):
        (z * 2).backward()
    (z * 2j).backward(tr.asarray([1.0 + 0j]))
    assert z.grad.tolist() == [-2j]


FUNCTIONS = {
    "product": lambda x, y: tr.abs(x * y + x).sum(),
    "quotient": lambda x, y: tr.imag(x / y).sum(),
    "power": lambda x, y: tr.real(x**2 * tr.conj(y)).sum(),
    "matmul": lambda x, y: tr.abs(x @ y.mT).sum(),
    "exp": lambda x, y: tr.real(tr.exp(x) * tr.sin(y)).sum(),
    "angle": lambda x, y: (tr.angle(x) * tr.abs(y)).sum(),
    "fft": lambda x, y: tr.abs(tr.fft.fft(x) * tr.fft.ifft(y)).sum(),
    "irfft": lambda x, y: (tr.fft.irfft(x, n=4) * tr.fft.hfft(y, n=4)).sum(),
    "parts": lambda x, y: (tr.abs(tr.complex(tr.real(x), tr.imag(y))) ** 2).sum(),
    "svd": lambda x, y: tr.linalg.svdvals(x).sum() + tr.abs(y).sum(),
    "eigh": lambda x, y: tr.linalg.eigvalsh(x @ x.mH).sum() + tr.abs(y).sum(),
}


def numeric_gradient(f, x: np.ndarray) -> np.ndarray:
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        for unit in (1, 1j):
            step = np.zeros_like(x)
            step[i] = unit * 1e-6
            out[i] += unit * (f(x + step) - f(x - step)) / 2e-6
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_agree_with_differences_eager_and_compiled(name):
    f = FUNCTIONS[name]
    other = VALUES[::-1] * (1 - 0.5j)

    def step(x, y):
        f(x, y).backward()

    want = (
        numeric_gradient(lambda x: f(tr.asarray(x), tr.asarray(other)).item(), VALUES),
        numeric_gradient(lambda y: f(tr.asarray(VALUES), tr.asarray(y)).item(), other),
    )
    for run in (step, tr.compile(step, fullgraph=True)):
        x, y = tr.tensor(VALUES, requires_grad=True), tr.tensor(other, requires_grad=True)
        run(x, y)
        np.testing.assert_allclose(x.grad.numpy(), want[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(y.grad.numpy(), want[1], rtol=1e-5, atol=1e-6)


def test_gradients_are_pytorchs():
    torch = pytest.importorskip("torch")
    for f, g in (
        (lambda z: (z * z.conj() * z).sum(), lambda z: (z * z.conj() * z).sum()),
        (lambda z: tr.fft.fft(z.sqrt()).sum(), lambda z: torch.fft.fft(z.sqrt()).sum()),
        (lambda z: tr.real(z).sum() * z.sum(), lambda z: z.real.sum() * z.sum()),
    ):
        ours, theirs = tr.tensor(VALUES, requires_grad=True), torch.tensor(VALUES, requires_grad=True)
        f(ours).backward(tr.asarray(1 - 2j, dtype=tr.complex128))
        g(theirs).backward(torch.tensor(1 - 2j, dtype=torch.complex128))
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-10)
