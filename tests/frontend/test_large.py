"""Eager element-wise ops on a million elements: compiled kernels, with the results of NumPy."""

import numpy as np
import pytest
from tracefuse.frontend import large
from tracefuse.ir.op import get_op

import tracefuse as tr

N = large.LARGE
rng = np.random.default_rng(0)
X = rng.uniform(0.1, 0.9, N).astype(np.float32)
Y = rng.uniform(0.1, 0.9, N).astype(np.float32)


def kernels():
    return large._kernel.cache_info().currsize


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sqrt", "abs", "isnan", "sign"])
def test_functions_of_one_operand_agree_with_their_reference(name):
    got = getattr(tr, name)(tr.asarray(X)).numpy()
    want = get_op(name).reference(X)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_functions_of_two_operands_and_numbers_agree_with_numpy():
    x, y = tr.asarray(X), tr.asarray(Y)
    np.testing.assert_allclose((x / y).numpy(), X / Y, rtol=1e-6)
    np.testing.assert_array_equal((x < y).numpy(), X < Y)
    np.testing.assert_allclose((2.5 - x).numpy(), 2.5 - X, rtol=1e-6)
    np.testing.assert_allclose((x * 3).numpy(), X * 3, rtol=1e-6)
    np.testing.assert_array_equal((tr.asarray(np.arange(N)) // 7).numpy(), np.arange(N) // 7)
    np.testing.assert_array_equal(tr.where(x > 0.5, x, y).numpy(), np.where(X > 0.5, X, Y))
    np.testing.assert_array_equal(x.to(tr.float16).numpy(), X.astype(np.float16))


def test_operands_that_broadcast_or_have_gaps_give_what_numpy_gives():
    a, b = X.reshape(1000, -1), Y[: N // 1000]
    np.testing.assert_allclose((tr.asarray(a) + tr.asarray(b)).numpy(), a + b, rtol=1e-6)
    np.testing.assert_allclose((tr.asarray(a).mT * 2).numpy(), a.T * 2, rtol=1e-6)
    column, row = tr.ones(N, 1), tr.ones(1, 2)
    assert (column + row).shape == (N, 2)
    z = tr.asarray(X).astype(tr.complex64)
    np.testing.assert_allclose((z * z).numpy(), X.astype(np.complex64) ** 2, rtol=1e-6)


def test_one_kernel_serves_every_size_and_equal_calls_give_equal_bits():
    first = tr.exp(tr.asarray(X)).numpy()
    before = kernels()
    longer = tr.exp(tr.asarray(np.concatenate([X, X]))).numpy()
    np.testing.assert_array_equal(longer, np.concatenate([first, first]))
    np.testing.assert_array_equal(tr.exp(tr.asarray(X.reshape(-1, 100))).numpy().ravel(), first)
    assert kernels() == before


def test_gradients_pass_through_large_ops():
    x = tr.asarray(X).requires_grad_()
    tr.tanh(x * 2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * (1 - np.tanh(2 * X) ** 2), rtol=1e-4, atol=1e-6)


def test_results_have_memory_of_their_own():
    x = tr.asarray(X.copy())
    y = tr.positive(x)
    y += 1
    np.testing.assert_array_equal(x.numpy(), X)


def test_errors_name_types_and_shapes():
    with pytest.raises((TypeError, ValueError), match=r"f32\[1000000\]"):
        tr.asarray(X) + tr.ones(7)
