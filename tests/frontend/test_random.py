"""Random numbers: reproducible, from one stream, of the right distributions."""

import numpy as np
import pytest
from tracefuse.frontend.random import default_generator
from tracefuse.ir.ops.random import philox4x32

import tracefuse as tr


def test_seeds_make_streams():
    tr.manual_seed(3)
    a, b = tr.rand(5), tr.rand(5)
    tr.manual_seed(3)
    assert np.array_equal(a.numpy(), tr.rand(5).numpy()) and np.array_equal(b.numpy(), tr.rand(5).numpy())
    assert not np.array_equal(a.numpy(), b.numpy())
    tr.manual_seed(4)
    assert not np.array_equal(a.numpy(), tr.rand(5).numpy())


def test_the_state_counts_blocks():
    g = tr.Generator(7)
    g.bits((5,))
    assert g.state.tolist() == [7, 2] and g.initial_seed() == 7
    saved = g.get_state()
    first = tr.rand(3, generator=g)
    g.set_state(saved)
    assert np.array_equal(first.numpy(), tr.rand(3, generator=g).numpy())
    tr.manual_seed(0)
    state = tr.get_rng_state()
    x = tr.randn(2)
    tr.set_rng_state(state)
    assert np.array_equal(x.numpy(), tr.randn(2).numpy())


def test_draws_are_consecutive_words_of_one_stream():
    g, h = tr.Generator(1), tr.Generator(1)
    whole = g.bits((16,)).numpy()
    parts = np.concatenate([h.bits((2, 4)).numpy().ravel(), h.bits((8,)).numpy()])
    assert np.array_equal(whole, parts)
    words = philox4x32(np.array([[0, 0, 0, 0]], np.uint32), (1, 0))
    assert np.array_equal(whole[:4], words[0])


def test_uniform_recipe():
    bits = tr.Generator(5).bits((100,)).numpy()
    assert np.array_equal(
        tr.rand(100, generator=tr.Generator(5)).numpy(), (bits >> 8).astype(np.float32) * np.float32(2**-24)
    )


@pytest.mark.parametrize("dtype", [tr.float16, tr.bfloat16, tr.float32, tr.float64])
def test_uniform(dtype):
    x = tr.rand(200, 100, dtype=dtype, generator=tr.Generator(1))
    values = x.numpy().astype(np.float64)
    assert x.dtype is dtype and x.shape == (200, 100) and values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01 and abs(values.var() - 1 / 12) < 0.005
    y = tr.uniform(-3, 5, (1000,), generator=tr.Generator(1)).numpy()
    assert y.min() >= -3 and y.max() < 5 and abs(y.mean() - 1) < 0.3


@pytest.mark.parametrize("dtype", [tr.float32, tr.float64, tr.bfloat16])
def test_normal(dtype):
    x = tr.randn(300, 100, dtype=dtype, generator=tr.Generator(2))
    values = x.numpy().astype(np.float64)
    assert x.dtype is dtype and np.isfinite(values).all()
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    assert abs((values**3).mean()) < 0.05 and abs((values**4).mean() - 3) < 0.15
    assert abs((np.abs(values) < 1).mean() - 0.6827) < 0.01
    y = tr.normal(5.0, 0.5, (1000,), generator=tr.Generator(1)).numpy()
    assert abs(y.mean() - 5) < 0.1
    assert tr.normal(tr.zeros(3), tr.ones(3)).shape == (3,)


def test_integers():
    x = tr.randint(-2, 3, (10_000,), generator=tr.Generator(1))
    values, counts = np.unique(x.numpy(), return_counts=True)
    assert x.dtype is tr.int64 and values.tolist() == [-2, -1, 0, 1, 2] and counts.min() > 1800
    assert tr.randint(5, (3,)).shape == (3,) and tr.randint(0, 2**32, (3,)).shape == (3,)
    assert tr.randint(0, 5, (2,), dtype=tr.int32).dtype is tr.int32
    with pytest.raises(ValueError, match="range"):
        tr.randint(3, 3, (1,))


def test_bernoulli():
    x = tr.bernoulli(0.3, (10_000,), generator=tr.Generator(1))
    assert x.dtype is tr.bool_ and abs(x.float().mean().item() - 0.3) < 0.02
    p = tr.asarray([0.0, 1.0])
    assert tr.bernoulli(p).tolist() == [0, 1] and tr.bernoulli(p).dtype is tr.float32


def test_permutations():
    x = tr.randperm(1000, generator=tr.Generator(1))
    assert sorted(x.tolist()) == list(range(1000)) and x.tolist() != list(range(1000))
    assert sorted(tr.permutation(tr.asarray([3.0, 1.0, 2.0])).tolist()) == [1, 2, 3]


def test_shapes_and_options():
    assert tr.rand(()).shape == () and tr.rand(2, 3).shape == tr.rand((2, 3)).shape == (2, 3)
    assert tr.rand_like(tr.ones(2, dtype=tr.float64)).dtype is tr.float64 and tr.randn_like(tr.ones(2)).shape == (2,)
    assert tr.randn(2, requires_grad=True).requires_grad and tr.randn(0).shape == (0,)
    x = tr.zeros(1000)
    x.normal_(2, 0.1)
    assert abs(x.mean().item() - 2) < 0.05
    assert x.uniform_(1, 2).min().item() >= 1 and set(x.bernoulli_(0.5).tolist()) == {0, 1}
    with pytest.raises(TypeError, match="int64"):
        tr.rand(2, dtype=tr.int64)


def test_random_numbers_have_no_gradient_and_leave_grad_mode_alone():
    assert tr.is_grad_enabled() and not tr.rand(2).requires_grad and tr.is_grad_enabled()
    assert default_generator.state.shape == (2,)
