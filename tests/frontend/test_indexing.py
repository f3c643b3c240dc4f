"""Indexing equals NumPy's, for reading and writing, eagerly, differentiated, and through ops alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracefuse as tr

SHAPE = (4, 3, 5)
KEYS = {
    "int": 1, "negative int": -2, "numpy int": np.int64(2), "slice": slice(1, 3), "empty slice": slice(3, 1),
    "step": slice(None, None, 2),
    "reverse": slice(None, None, -1), "reverse part": (slice(None), slice(2, 0, -1)), "far slice": slice(-10, 10),
    "ellipsis": ...,
    "ellipsis and int": (..., 2), "none": None, "none inside": (slice(None), None, 1, None), "all ints": (1, 2, 3),
    "empty": (),
    "list": [0, 2, 2], "negative list": [-1, 0], "empty list": [], "array": np.array([[0, 1], [3, 2]]),
    "small ints": np.array([1, 2], np.uint8),
    "list in the middle": (slice(None), [0, 2]), "list at the end": (..., [4, 0, 4]),
    "two lists": ([0, 1, 3], [0, 1, 2]),
    "lists that broadcast": ([[0], [3]], [1, 2]), "lists apart": ([0, 1], slice(None), [2, 3]),
    "lists apart by none": ([0, 1], None, [2, 1]),
    "list and int": (1, slice(None), [0, 2]), "int and list together": (slice(None), 1, [0, 2]),
    "list after slice": (slice(1, 3), [0, 1], 2),
    "list and reverse": (slice(None, None, -1), [2, 0]), "reverse behind list": ([2, 0], slice(None, None, -2)),
    "list and none": (None, [1, 2], slice(1, 3)), "list and ellipsis": ([1, 2], ..., 0), "zero-d": np.array(2),
    "zero-d and list": (np.array(1), [0, 2]),
    "mask": np.arange(60).reshape(SHAPE) % 7 < 2, "mask of rows": np.array([True, False, True, True]),
    "mask of two axes": np.arange(12).reshape(4, 3) % 5 == 0,
    "mask in the middle": (slice(None), np.array([True, False, True])),
    "mask and list": (np.array([True, False, True, False]), [0, 2]),
    "mask and slice": (np.array([True, False, True, False]), slice(1, None)),
    "true": True, "false": False, "true and int": (True, 1), "empty mask": np.zeros(SHAPE, bool),
}  # fmt: skip


def array():
    return np.arange(60, dtype=np.float64).reshape(SHAPE)


def tensors(key):
    """The key with tensors for arrays."""
    if isinstance(key, tuple):
        return tuple(map(tensors, key))
    return tr.asarray(key) if isinstance(key, np.ndarray) else key


@pytest.mark.parametrize("name", KEYS)
def test_reading_equals_numpy(name):
    key, a = KEYS[name], array()
    expected = a[key]
    for k in (key, tensors(key)):
        got = tr.asarray(a)[k]
        np.testing.assert_array_equal(got.numpy(), expected)
        assert got.shape == expected.shape
        tracked = tr.tensor(a, requires_grad=True)
        got = tracked[k]
        np.testing.assert_array_equal(got.numpy(), expected)
        weights = np.random.default_rng(0).standard_normal(expected.shape)
        got.backward(tr.asarray(weights))
        gradient = np.zeros_like(a)
        np.add.at(gradient, key, weights)
        np.testing.assert_allclose(tracked.grad.numpy(), gradient)


@pytest.mark.parametrize("name", KEYS)
def test_writing_equals_numpy(name):
    key, a = KEYS[name], array()
    values = -1.0 - np.arange(a[key].size, dtype=np.float64).reshape(a[key].shape)
    for value in (values, 7, values[:1] if values.ndim else values, values[None]):
        expected = a.copy()
        try:
            expected[key] = value
        except (ValueError, TypeError):  # NumPy takes no broadcasting along a mask
            continue
        for k in (key, tensors(key)):
            plain = tr.tensor(a)
            plain[k] = value
            np.testing.assert_array_equal(plain.numpy(), expected)
            tracked = tr.tensor(a, requires_grad=True) * 1
            v = tr.asarray(value, dtype=tr.float64).requires_grad_()
            tracked[k] = v
            np.testing.assert_array_equal(tracked.numpy(), expected)
            (tracked**2).sum().backward()
            assert v.grad is None or v.grad.shape == v.shape


@pytest.mark.parametrize("name", KEYS)
def test_gradients_of_written_values(name):
    key, a = KEYS[name], array()
    if a[key].size == 0:
        return
    base = tr.tensor(a, requires_grad=True)
    value = tr.tensor(np.ones(a[key].shape), requires_grad=True)
    weights = np.random.default_rng(1).standard_normal(SHAPE)
    written = base * 2
    written[key] = value * 3
    written.backward(tr.asarray(weights))
    kept = np.ones(SHAPE)
    kept[key] = 0
    gradient = np.zeros(SHAPE) if base.grad is None else base.grad.numpy()  # None: nothing of it is left
    np.testing.assert_allclose(gradient, 2 * weights * kept)
    if name not in ("list", "two lists"):  # an element that is written twice gives each writer its gradient
        np.testing.assert_allclose(value.grad.numpy(), 3 * weights[key])


entries = st.one_of(
    st.integers(-2, 1),
    st.builds(
        slice, st.none() | st.integers(-6, 6), st.none() | st.integers(-6, 6), st.sampled_from([None, 1, 2, -1, -3])
    ),
    st.none(),
    st.just(...),
    st.lists(st.integers(-2, 1), min_size=2, max_size=2),
    st.lists(st.lists(st.integers(-2, 1), min_size=2, max_size=2), min_size=1, max_size=2),
)


@given(st.lists(entries, max_size=5).map(tuple), st.booleans())
@settings(max_examples=150, deadline=None)
def test_random_keys(key, requires_grad):
    a = array()
    x = tr.tensor(a, requires_grad=requires_grad)
    try:
        expected = a[key]
    except (IndexError, ValueError):
        with pytest.raises((IndexError, ValueError)):
            x[key]
        return
    np.testing.assert_array_equal(x[key].numpy(), expected)
    a[key] = 5
    written = x * 1
    written[key] = 5
    np.testing.assert_array_equal(written.numpy(), a)


def test_basic_keys_give_views_and_the_others_copies():
    x = tr.asarray(array())
    for key in (1, slice(1, 3), (..., 0), None, (slice(None, None, 2), None)):
        assert np.shares_memory(x[key].numpy(), x.numpy())
    for key in ([1], slice(None, None, -1), x > 3, (0, [1])):
        assert not np.shares_memory(x[key].numpy(), x.numpy())


@pytest.mark.parametrize(
    "key, error, match",
    [
        (4, IndexError, r"index 4.*axis 0.*\(4, 3, 5\)"), ((0, -4), IndexError, "axis 1"),
        ((0, 0, 0, 0), IndexError, "too many"),
        ([4], IndexError, "index 4 is out of bounds.*size 4"), ("a", IndexError, "str is no index"),
        (1.5, IndexError, "float is no index"),
        (np.ones(3, bool), IndexError, r"mask.*\(3,\)|boolean"), (slice(None, None, 0), ValueError, "zero"),
        ((..., ...), IndexError, "single ellipsis"), (np.ones(2), IndexError, "integers or bools|integer"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("requires_grad", [False, True])
def test_errors(key, error, match, requires_grad):
    with pytest.raises(error, match=match):
        tr.tensor(array(), requires_grad=requires_grad)[key]


def test_written_values_are_cast_and_must_fit():
    x = tr.arange(4)
    x[1] = 2.7
    x[2:] = tr.asarray([1.5, 2.5])
    assert x.tolist() == [0, 2, 1, 2] and x.dtype is tr.int64
    with pytest.raises(ValueError):
        x[:2] = tr.ones(3)
    y = tr.ones(4, requires_grad=True) * 1
    with pytest.raises(ValueError, match=r"\(3\).*\(2\)"):
        y[:2] = tr.ones(3)


def test_taking_and_putting_along_axes():
    a = np.random.default_rng(0).standard_normal((3, 4, 5))
    x = tr.asarray(a)
    at = np.argsort(a, axis=1)
    np.testing.assert_array_equal(tr.take_along_axis(x, tr.asarray(at), axis=1).numpy(), np.take_along_axis(a, at, 1))
    for axis in (0, 1, 2, -1, None):
        np.testing.assert_array_equal(
            tr.take(x, tr.asarray([[2, 0], [1, -1]]), axis=axis).numpy(), np.take(a, [[2, 0], [1, -1]], axis=axis)
        )
    index = tr.asarray([[0, 2], [1, 1]])
    base = tr.zeros(2, 3)
    assert base.scatter(1, index, tr.asarray([[1.0, 2.0], [3.0, 4.0]])).tolist() == [[1, 0, 2], [0, 4, 0]]
    assert base.scatter_add(1, index, tr.ones(2, 2)).tolist() == [[1, 0, 1], [0, 2, 0]]
    assert x.gather(2, tr.zeros(3, 4, 1, dtype=tr.int64)).shape == (3, 4, 1)
    with pytest.raises(IndexError, match="out of bounds"):
        tr.take(x, tr.asarray([3]), axis=0)
    with pytest.raises(TypeError, match="float32"):
        tr.take(x, tr.asarray([1.0]), axis=0)


def test_an_ellipsis_without_axes_keeps_indices_apart():
    """As in NumPy, the axes of the indices come first then."""
    whole = tr.asarray(np.arange(24.0).reshape(2, 3, 4)).requires_grad_()
    key = (slice(None), 0, Ellipsis, [0, 0])
    np.testing.assert_array_equal(whole[key].numpy(), whole.detach().numpy()[key])
