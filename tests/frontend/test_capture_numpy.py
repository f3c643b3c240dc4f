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
    with pytest.warns(CaptureWarning, match="kron"):
        assert reference(lambda x: np.kron(x, x))(np.array([1.0, 5.0]))[3] == 25.0


DTYPES = [np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_]
MORE = {
    "cumsum": lambda x: (np.cumsum(x), x.cumsum(axis=0), np.cumsum(x, axis=1)),
    "cumprod": lambda x: (np.cumprod(x), np.cumprod(x, 0)),
    "flip": lambda x: (np.flip(x), np.flip(x, 0), np.flipud(x), np.fliplr(x)),
    "roll": lambda x: (np.roll(x, 2), np.roll(x, 1, axis=1)),
    "tile": lambda x: (np.tile(x, 2), np.tile(x, (2, 1))),
    "tri": lambda x: (np.tril(x), np.triu(x, 1)),
    "diff": lambda x: (np.diff(x), np.diff(x, axis=0), np.diff(x, 2)),
    "repeat": lambda x: (np.repeat(x, 2), np.repeat(x, 3, axis=1), np.repeat(x, np.arange(3), axis=0), x.repeat(2)),
    "take": lambda x: (np.take(x, [0, 2]), np.take(x, np.array([1, 0]), axis=1), x.take([1])),
    "stacks": lambda x: (np.vstack([x, x]), np.hstack([x, x]), np.column_stack([x[0], x[1]]), np.append(x, x[0])),
    "at least": lambda x: (np.atleast_1d(x), np.atleast_2d(x[0])),
    "nonzero": lambda x: (np.nonzero(x), np.flatnonzero(x), np.argwhere(x), np.where(x > 1), x.nonzero()),
    "count": lambda x: (np.count_nonzero(x), np.count_nonzero(x, axis=0)),
    "masks": lambda x: (x[x > 1], x[x > 1].sum(), len(x[x == 0])),
    "unique": lambda x: (np.unique(x), *np.unique(x, return_index=True, return_inverse=True, return_counts=True)),
    "unique rows": lambda x: np.unique(x, axis=0),
    "median": lambda x: (np.median(x), np.median(x, axis=0), np.median(x, axis=1, keepdims=True)),
    "trace": lambda x: np.trace(x),
}
ROUND = lambda x: (np.round(x), np.round(x * 1.37, 2), np.around(x * 37.5, -1), x.round(1))  # noqa: E731


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", MORE)
def test_more_of_numpy(name, dtype):
    if np.dtype(dtype).kind == "b" and name in ("median", "trace", "diff", "cumprod"):
        pytest.skip("not of bools")
    f = MORE[name]
    compiled = compile(f, fullgraph=True)
    for values in ([[3, 0, 2], [0, 1, 3], [2, 2, 0]], [[0, 0, 0], [1, 1, 1], [5, 5, 7]]):
        x = np.array(values).astype(dtype)
        assert same(compiled(x), f(x))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding(dtype):
    x = np.array([0.5, 1.5, 2.5, -0.5, 2.675, 1e6 + 0.125, np.inf]).astype(dtype)
    assert same(compile(ROUND, fullgraph=True)(x), ROUND(x))
    assert same(strict(lambda n: (np.round(n), n.round()))(np.arange(3)), (np.arange(3), np.arange(3)))


def test_counting_elements_of_arrays():
    f = lambda x: (np.bincount(x), np.bincount(x, minlength=9))  # noqa: E731
    compiled = compile(f, fullgraph=True)
    for x in (np.array([1, 1, 3]), np.array([0]), np.array([7, 2, 2, 2])):
        assert same(compiled(x), f(x))
