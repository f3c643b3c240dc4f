"""NumPy functions, compiled: the results, types and dtypes are NumPy's own."""

import functools

import numpy as np
import pytest
from tracefuse.frontend.capture import pytree
from tracefuse.frontend.compile import CaptureWarning, compile

reference = functools.partial(compile, backend="reference")
strict = functools.partial(compile, backend="reference", fullgraph=True)
ARRAY = np.array([1.0, 2.0, 3.0])


def same(a, b):
    """Equal results: structure, types, dtypes, shapes, values."""
    left, ls = pytree.flatten(a)
    right, rs = pytree.flatten(b)
    assert ls == rs
    for x, y in zip(left, right):
        assert type(x) is type(y)
        if isinstance(x, (np.ndarray, np.generic)):
            assert x.dtype == y.dtype and x.shape == y.shape
            np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7)
        else:
            assert x == y
    return True


def numpy_cases():
    f64, f32 = np.array([[1.0, 2.0], [3.0, 4.5]]), np.array([[0.5, 1.5], [2.5, 3.0]], np.float32)
    i32, u8, b = (
        np.array([[1, 2], [3, 4]], np.int32),
        np.array([[1, 2], [250, 4]], np.uint8),
        np.array([[True, False], [False, True]]),
    )
    return [
        ("promotion", lambda x, y: (x + y, x * 2, y * 2.5, x / y), (f64, i32)),
        ("mixed", lambda x, y: (x + y, np.sqrt(y), x > y), (f32, i32)),
        ("small ints", lambda x: (x + 1, x / 2, x.sum(), x.mean(), np.sqrt(x), x // 3, x % 3, -x), (u8,)),
        ("bools", lambda x: (x.sum(), ~x, x & True, x.any(), x.all(axis=0), np.mean(x)), (b,)),
        ("float32", lambda x: (x * np.float64(2), x * 2.0, x**2, np.exp(x), x.std(), x.var(axis=0, ddof=1)), (f32,)),
        (
            "reductions",
            lambda x: (x.max(), x.min(axis=0), x.sum(axis=1, keepdims=True), np.prod(x), x.argmax()),
            (f64,),
        ),
        ("shapes", lambda x: (x.T, x.reshape(-1), x[0], x[:, 1], x[0, 1], np.stack([x, x]), x.ravel()), (f64,)),
        ("joins", lambda x, y: (np.concatenate([x, y]), np.where(x > 2, x, y), np.clip(x, 2, 3)), (f64, f32)),
        ("matmul", lambda x, y: (x @ y, np.dot(x, y[0]), np.outer(x[0], y[1])), (f64, f32)),
        ("shape queries", lambda x: (x * x.shape[0], x.dtype == np.float64, x.ndim, x.size), (f64,)),
        ("isinstance", lambda x: x * 2 if isinstance(x, np.ndarray) else x, (f64,)),
        ("casts", lambda x: (x.astype(np.int64), x.astype("float32"), x.copy()), (f64,)),
        ("globals", lambda x: x[0] * ARRAY[:2] + ARRAY.sum(), (f64,)),
    ]


@pytest.mark.parametrize("name,f,args", numpy_cases(), ids=[c[0] for c in numpy_cases()])
def test_numpy_code_gives_what_numpy_gives(name, f, args):
    assert same(strict(f)(*args), f(*args))


def test_numpy_arrays_are_written_in_place():
    def f(x, out):
        x[1:] *= 2
        x[0] = 9
        np.add(x, 1, out=out)
        return out

    a, b = np.arange(4.0), np.arange(4.0)
    out_a, out_b = np.zeros(4), np.zeros(4)
    got = strict(f)(a, out_a)
    f(b, out_b)
    assert got is out_a
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(out_a, out_b)


def test_numpy_functions_that_capture_does_not_know_fall_back():
    with pytest.warns(CaptureWarning, match="median"):
        assert reference(lambda x: np.median(x) + x)(np.array([1.0, 5.0]))[0] == 4.0
