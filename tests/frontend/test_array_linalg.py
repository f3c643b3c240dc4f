"""tr.linalg and tr.fft: NumPy's values, gradients by differences of what a user would compute, eager and compiled."""

import numpy as np
import pytest

import tracefuse as tr

RNG = np.random.default_rng(3)
SQUARE = RNG.standard_normal((2, 3, 3)) + 3 * np.eye(3)
WIDE, TALL = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((4, 3))
SIGNAL = RNG.standard_normal((3, 8))


def close(got, want, rtol=1e-10):
    np.testing.assert_allclose(got.numpy(), want, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", ["inv", "det", "eigvalsh", "pinv", "svdvals", "matrix_rank", "cond", "cholesky"])
def test_one_matrix_functions_are_numpys(name):
    x = SQUARE @ np.swapaxes(SQUARE, -1, -2)
    close(getattr(tr.linalg, name)(tr.asarray(x)), getattr(np.linalg, name)(x), 1e-8)


def test_factorizations_multiply_to_the_matrix():
    for x in (SQUARE, WIDE, TALL):
        t = tr.asarray(x)
        u, s, vh = tr.linalg.svd(t, full_matrices=False)
        close(u * s[..., None, :] @ vh, x)
        for mode in ("reduced", "complete"):
            q, r = tr.linalg.qr(t, mode=mode)
            close(q @ r, x)
    values, vectors = tr.linalg.eig(tr.asarray(SQUARE))
    close(vectors * values[..., None, :] @ tr.linalg.inv(vectors), SQUARE)
    upper = tr.linalg.cholesky(tr.asarray(TALL.T @ TALL), upper=True)
    close(upper.mT @ upper, TALL.T @ TALL)


def test_solve_broadcasts_and_takes_vectors():
    a, b = tr.asarray(SQUARE), tr.asarray(TALL[:3])
    close(a @ tr.linalg.solve(a, b), np.broadcast_to(TALL[:3], (2, 3, 3)))
    got = tr.linalg.solve(a, b[0])
    close((a @ got[..., None])[..., 0], np.broadcast_to(TALL[0], (2, 3)))


@pytest.mark.parametrize("ord", ["fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
def test_matrix_norms_are_numpys(ord):
    for keepdims in (False, True):
        close(tr.linalg.matrix_norm(tr.asarray(WIDE), ord=ord, keepdims=keepdims),
              np.linalg.matrix_norm(WIDE, ord=ord, keepdims=keepdims))  # fmt: skip
    close(tr.linalg.norm(tr.asarray(TALL), ord), np.linalg.norm(TALL, ord))


def test_powers_and_ranks():
    for n in (-2, -1, 0, 1, 5):
        close(tr.linalg.matrix_power(tr.asarray(SQUARE), n), np.linalg.matrix_power(SQUARE, n), 1e-9)
    singular = np.diag([1.0, 2.0, 0.0])
    assert tr.linalg.matrix_rank(tr.asarray(singular)).item() == 2
    x = tr.tensor(singular, requires_grad=True)
    tr.linalg.det(x).backward()
    close(x.grad, np.diag([0.0, 0.0, 2.0]))  # the gradient of det does not need the inverse


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"square matrices, not f32\[2, 3\]"):
        tr.linalg.inv(tr.ones((2, 3)))
    with pytest.raises(TypeError, match="float32, float64 or complex"):
        tr.linalg.inv(tr.ones((2, 2), dtype=tr.float16))
    with pytest.raises(np.linalg.LinAlgError):
        tr.linalg.inv(tr.zeros((2, 2)))
    with pytest.raises(ValueError, match="norm must be"):
        tr.fft.fft(tr.ones(4), norm="no")
    with pytest.raises(TypeError, match="use fft"):
        tr.fft.rfft(tr.asarray([1j]))


ONE_AXIS = ["fft", "ifft", "rfft", "irfft", "hfft", "ihfft"]


@pytest.mark.parametrize("norm", ["backward", "forward", "ortho"])
@pytest.mark.parametrize("name", ONE_AXIS)
def test_transforms_of_one_axis_are_numpys(name, norm):
    for n in (None, 5, 8, 11):
        for axis in (-1, 0):
            close(getattr(tr.fft, name)(tr.asarray(SIGNAL), n=n, axis=axis, norm=norm),
                  getattr(np.fft, name)(SIGNAL, n=n, axis=axis, norm=norm))  # fmt: skip


@pytest.mark.parametrize("name", ["fftn", "ifftn", "rfftn", "irfftn", "fft2", "irfft2"])
def test_transforms_of_several_axes_are_numpys(name):
    x = np.stack([SIGNAL, SIGNAL**2])
    close(getattr(tr.fft, name)(tr.asarray(x), axes=(1, 2)), getattr(np.fft, name)(x, axes=(1, 2)))
    close(getattr(tr.fft, name)(tr.asarray(x), s=(2, 6), axes=(0, 2)), getattr(np.fft, name)(x, s=(2, 6), axes=(0, 2)))


def test_frequencies_and_shifts_are_numpys():
    for n in (4, 5):
        close(tr.fft.fftfreq(n, d=0.5, dtype=tr.float64), np.fft.fftfreq(n, 0.5))
        close(tr.fft.rfftfreq(n, d=0.5, dtype=tr.float64), np.fft.rfftfreq(n, 0.5))
    close(tr.fft.fftshift(tr.asarray(SIGNAL)), np.fft.fftshift(SIGNAL))
    close(tr.fft.ifftshift(tr.asarray(SIGNAL), axes=1), np.fft.ifftshift(SIGNAL, axes=1))


STEPS = {
    "solve": lambda x: tr.linalg.solve(x, tr.ones((3,), dtype=x.dtype)).sum(),
    "slogdet": lambda x: tr.linalg.slogdet(x).logabsdet.sum(),
    "qr": lambda x: (tr.linalg.qr(x).R ** 2 * tr.asarray([1.0, 2.0, 3.0])).sum(),
    "eig": lambda x: tr.abs(tr.linalg.eigvals(x)).sum(),
    "pinv": lambda x: (tr.linalg.pinv(x[:, :2]) ** 2).sum(),
    "nuc": lambda x: tr.linalg.matrix_norm(x, ord="nuc").sum(),
    "rfft": lambda x: tr.abs(tr.fft.rfft(x)).sum(),
    "power": lambda x: tr.linalg.matrix_power(x, -2).sum(),
}


@pytest.mark.parametrize("name", STEPS)
def test_training_steps_compile(name):
    f = STEPS[name]

    def step(x):
        loss = f(x)
        loss.backward()
        return loss

    direction = RNG.standard_normal(SQUARE.shape)
    ends = [f(tr.asarray(SQUARE + s * 1e-6 * direction)).item() for s in (1, -1)]
    for run in (step, tr.compile(step, fullgraph=True)):
        x = tr.tensor(SQUARE, requires_grad=True)
        loss = run(x)
        np.testing.assert_allclose(loss.item(), f(tr.asarray(SQUARE)).item(), rtol=1e-10)
        np.testing.assert_allclose((x.grad.numpy() * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_gradients_of_vectors_that_do_not_depend_on_phases():
    """Projectors on eigenvectors and singular vectors."""
    z = SQUARE[0] + 1j * SQUARE[1]
    direction = np.swapaxes(z, 0, 1) * 0.7

    def of_eigh(x):
        v = tr.linalg.eigh(x @ x.mH).eigenvectors[:, :1]
        return tr.real((v @ v.mH)[0, 1] * (1 + 2j)) + tr.abs((v @ v.mH)[0, 2])

    def of_svd(x):
        u, s, vh = tr.linalg.svd(x)
        return tr.real((u[:, :1] @ vh[:1])[0, 1] * (1 + 2j)) + s[1]

    def of_eig(x):
        w, v = tr.linalg.eig(x)
        return tr.real(((v * w**2) @ tr.linalg.inv(v)).sum() * (1 - 1j)) + tr.abs(v @ v.mH).sum()

    for f in (of_eigh, of_svd, of_eig):
        x = tr.tensor(z, requires_grad=True)
        f(x).backward()
        ends = [f(tr.asarray(z + s * 1e-6 * direction)).item() for s in (1, -1)]
        pairing = np.real(np.sum(np.conj(x.grad.numpy()) * direction))
        np.testing.assert_allclose(pairing, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)
