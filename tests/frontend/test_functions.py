"""The array-API functions equal NumPy's."""

import math

import numpy as np
import pytest

import tracefuse as tr

rng = np.random.default_rng(0)
A = rng.uniform(-2, 2, (3, 4)).astype(np.float32)
B = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
INTS = rng.integers(-5, 6, (3, 4))
U = rng.uniform(-0.9, 0.9, (3, 4)).astype(np.float32)


def same(ours, theirs, rtol=1e-6, dtype=True):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=rtol, atol=1e-7)
    assert ours.shape == theirs.shape
    if dtype:
        assert ours.numpy().dtype == theirs.dtype


UNARY = {
    "exp": (np.exp, A), "exp2": (np.exp2, A), "expm1": (np.expm1, A), "log": (np.log, B), "log2": (np.log2, B),
    "log10": (np.log10, B),
    "log1p": (np.log1p, B), "sqrt": (np.sqrt, B), "cbrt": (np.cbrt, A), "sin": (np.sin, A), "cos": (np.cos, A),
    "tan": (np.tan, A),
    "asin": (np.arcsin, U), "acos": (np.arccos, U), "atan": (np.arctan, A), "sinh": (np.sinh, A), "cosh": (np.cosh, A),
    "tanh": (np.tanh, A), "asinh": (np.arcsinh, A), "acosh": (np.arccosh, B + 1), "atanh": (np.arctanh, U),
    "abs": (np.abs, A),
    "negative": (np.negative, A), "positive": (np.positive, A), "sign": (np.sign, A), "square": (np.square, A),
    "reciprocal": (np.reciprocal, B), "floor": (np.floor, A), "ceil": (np.ceil, A), "trunc": (np.trunc, A),
    "round": (np.round, A * 3),
    "isnan": (np.isnan, A), "isinf": (np.isinf, A), "isfinite": (np.isfinite, A), "signbit": (np.signbit, A),
    "logical_not": (np.logical_not, INTS), "bitwise_invert": (np.invert, INTS),
    "nan_to_num": (np.nan_to_num, np.array([np.nan, np.inf, 1])),
    "relu": (lambda x: np.maximum(x, 0), A), "rsqrt": (lambda x: 1 / np.sqrt(x), B),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), A),
}  # fmt: skip
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder, "maximum": np.maximum, "minimum": np.minimum, "atan2": np.arctan2,
    "copysign": np.copysign,
    "hypot": np.hypot, "logaddexp": np.logaddexp, "equal": np.equal, "not_equal": np.not_equal, "less": np.less,
    "less_equal": np.less_equal, "greater": np.greater, "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_operand(name):
    reference, x = UNARY[name]
    same(getattr(tr, name)(tr.asarray(x)), reference(x))
    same(getattr(tr, name)(tr.asarray(x[0, 0] if x.ndim == 2 else x)), reference(x[0, 0] if x.ndim == 2 else x))


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_operands(name):
    f, reference = getattr(tr, name), BINARY[name]
    same(f(tr.asarray(A), tr.asarray(B)), reference(A, B))
    same(f(tr.asarray(A[0]), tr.asarray(B[:, :1])), reference(A[0], B[:, :1]))
    same(f(tr.asarray(A), 1.5), reference(A, 1.5))
    same(f(1.5, tr.asarray(A)), reference(1.5, A))


@pytest.mark.parametrize(
    "op",
    ["add", "subtract", "multiply", "floor_divide", "remainder", "maximum", "bitwise_and", "bitwise_or", "bitwise_xor"],
)
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_integers(op, dtype):
    x, y = np.arange(1, 7, dtype=dtype), np.array([1, 2, 3, 1, 2, 3], dtype)
    same(getattr(tr, op)(tr.asarray(x), tr.asarray(y)), getattr(np, op)(x, y))
    same(getattr(tr, op)(tr.asarray(x), 2), getattr(np, op)(x, 2))


def test_shifts_and_powers():
    x = np.array([1, 2, -8], np.int32)
    same(tr.bitwise_left_shift(tr.asarray(x), 2), x << 2)
    same(tr.asarray(x) >> 1, x >> 1)
    same(tr.pow(tr.asarray(x), 3), x**3)
    same(tr.asarray(B) ** 0.5, B**0.5)
    same(2 ** tr.asarray(A), np.float32(2) ** A)


def test_selection():
    same(tr.where(tr.asarray(A) > 0, tr.asarray(A), 0.0), np.where(A > 0, A, np.float32(0)))
    same(tr.clip(tr.asarray(A), -0.5, 0.5), np.clip(A, -0.5, 0.5))
    same(tr.clip(tr.asarray(A), max=tr.asarray(B)), np.minimum(A, B))
    same(tr.clip(tr.asarray(INTS), 0, 3), np.clip(INTS, 0, 3))
    same(tr.asarray(A).masked_fill(tr.asarray(A) > 0, -1), np.where(A > 0, np.float32(-1), A))
    assert tr.isclose(tr.asarray([1.0, np.inf, np.nan]), tr.asarray([1.0, np.inf, np.nan]), equal_nan=True).all()
    same(tr.round(tr.asarray(A), 1), np.round(A, 1))


@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), ()])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions(axis, keepdims):
    x = tr.asarray(A)
    for name in ("sum", "prod", "mean", "max", "min", "var", "std"):
        same(
            getattr(tr, name)(x, axis=axis, keepdims=keepdims),
            getattr(np, name)(A, axis=axis, keepdims=keepdims),
            rtol=1e-5,
        )
    for name in ("any", "all"):
        same(
            getattr(tr, name)(x > 0, axis=axis, keepdims=keepdims),
            getattr(np, name)(A > 0, axis=axis, keepdims=keepdims),
        )
    same(tr.logsumexp(x, axis=axis, keepdims=keepdims), np.log(np.exp(A).sum(axis=axis, keepdims=keepdims)), rtol=1e-5)
    if not isinstance(axis, tuple):
        for name in ("argmax", "argmin"):
            same(getattr(tr, name)(x, axis=axis, keepdims=keepdims), getattr(np, name)(A, axis=axis, keepdims=keepdims))


def test_reduction_types_and_aliases():
    small = tr.ones(300, dtype=tr.uint8)
    assert (
        small.sum().dtype is tr.uint64
        and small.sum().item() == 300
        and tr.ones(3, dtype=tr.int8).prod().dtype is tr.int64
    )
    assert (tr.ones(3) > 0).sum().item() == 3 and (tr.ones(3) > 0).sum().dtype is tr.int64
    assert (
        tr.ones(3, dtype=tr.int32).mean().dtype is tr.float32 and tr.ones(3).sum(dtype=tr.float64).dtype is tr.float64
    )
    x = tr.ones(2, 3)
    assert x.sum(dim=1).shape == (2,) and x.sum(dim=1, keepdim=True).shape == (2, 1) and x.mean(1).shape == (2,)
    assert (
        tr.asarray([1.0, 2.0, 3.0]).var(correction=1).item() == 1
        and tr.asarray([1.0, 2.0, 3.0]).std(unbiased=True).item() == 1
    )
    assert tr.max(tr.asarray([True, False])).item() is True and tr.count_nonzero(tr.asarray([0, 1, 2])).item() == 2
    assert np.isnan(tr.max(tr.asarray([1.0, np.nan])).item()) and tr.argmax(tr.asarray([1.0, np.nan])).item() == 1
    assert tr.sum(tr.asarray(2.0), axis=0).item() == 2 and np.isnan(tr.mean(tr.zeros(0)).item())
    with pytest.raises(TypeError, match="not both"):
        x.sum(axis=0, dim=1)
    with pytest.raises(ValueError, match="zero-size"):
        tr.max(tr.zeros(0))


def test_shapes_and_axes():
    a = np.arange(24.0).reshape(2, 3, 4)
    x = tr.asarray(a)
    same(tr.reshape(x, (4, -1)), a.reshape(4, -1))
    same(tr.permute_dims(x, (2, 0, 1)), a.transpose(2, 0, 1))
    same(x.transpose(0, 2), a.swapaxes(0, 2))
    same(x.transpose(2, 0, 1), a.transpose(2, 0, 1))
    same(x.T, a.T)
    same(tr.matrix_transpose(x), a.swapaxes(-1, -2))
    same(tr.moveaxis(x, 0, -1), np.moveaxis(a, 0, -1))
    same(tr.moveaxis(x, (0, 1), (2, 0)), np.moveaxis(a, (0, 1), (2, 0)))
    same(tr.expand_dims(x, (0, -1)), np.expand_dims(a, (0, -1)))
    same(tr.squeeze(tr.expand_dims(x, 1), 1), a)
    same(tr.flip(x, 1), np.flip(a, 1))
    same(tr.flip(x), np.flip(a))
    same(tr.roll(x, 5), np.roll(a, 5))
    same(tr.roll(x, (1, -2), (0, 2)), np.roll(a, (1, -2), (0, 2)))
    same(tr.broadcast_to(x[:, :1], (5, 2, 3, 4)), np.broadcast_to(a[:, :1], (5, 2, 3, 4)))
    same(x[:, :1].expand(-1, 7, -1), np.broadcast_to(a[:, :1], (2, 7, 4)))
    same(tr.tile(x, (2, 1, 3)), np.tile(a, (2, 1, 3)))
    same(tr.tile(x[0], (2, 1, 1)), np.tile(a[0], (2, 1, 1)))
    same(tr.repeat(x, 2), np.repeat(a, 2))
    same(tr.repeat(x, 3, axis=1), np.repeat(a, 3, 1))
    same(tr.repeat(x, [1, 0, 2], axis=1), np.repeat(a, [1, 0, 2], 1))
    same(x.flatten(1), a.reshape(2, 12))
    same(tr.diagonal(x, offset=1), np.diagonal(a, 1, -2, -1))
    same(tr.diag(tr.asarray([1.0, 2.0]), -1), np.diag([np.float32(1), np.float32(2)], -1))
    same(tr.diff(x, axis=1, n=2), np.diff(a, n=2, axis=1))
    for ours, theirs in zip(tr.broadcast_arrays(x[0], x[0, :1]), np.broadcast_arrays(a[0], a[0, :1])):
        same(ours, theirs)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(5, -1\)"):
        x.reshape(5, -1)
    with pytest.raises(ValueError, match="not 1"):
        tr.squeeze(x, 0)
    with pytest.raises(ValueError, match="permutation"):
        x.permute(0, 0, 1)
    with pytest.raises(ValueError, match="broadcast"):
        tr.broadcast_to(x, (3, 4))


def test_joining_and_splitting():
    x = tr.asarray(A)
    same(tr.concat([x, x], axis=1), np.concatenate([A, A], 1))
    same(tr.concat([x, tr.asarray(INTS)], axis=None), np.concatenate([A, INTS], None).astype(np.float32))
    same(tr.stack([x, x], axis=-1), np.stack([A, A], -1))
    assert [p.shape for p in tr.split(x, 3, 1)] == [(3, 3), (3, 1)] and [p.shape for p in x.split([1, 2])] == [
        (1, 4),
        (2, 4),
    ]
    assert [p.shape for p in x.chunk(3, dim=1)] == [(3, 2), (3, 2)] and len(tr.unstack(x, axis=1)) == 4
    with pytest.raises(ValueError, match="add up to 5"):
        x.split([2, 3])
    with pytest.raises(ValueError, match="at least one"):
        tr.concat([])


def test_running_sums_and_products():
    for axis in (0, 1):
        same(tr.cumulative_sum(tr.asarray(A), axis=axis), np.cumsum(A, axis), rtol=1e-5)
        same(tr.cumulative_prod(tr.asarray(B), axis=axis), np.cumprod(B, axis), rtol=1e-5)
    same(
        tr.cumulative_sum(tr.asarray(INTS), axis=1, include_initial=True),
        np.cumulative_sum(INTS, axis=1, include_initial=True),
    )


def test_sorting_and_searching():
    a = np.array([[3.0, 1, 2, 1], [np.nan, 0, -1, 5]], np.float32)
    x = tr.asarray(a)
    same(tr.sort(x), np.sort(a))
    same(tr.argsort(x, axis=0), np.argsort(a, 0, stable=True))
    same(tr.sort(x[0], descending=True), np.array([3, 2, 1, 1], np.float32))
    assert tr.argsort(x[0], descending=True).tolist() == [0, 2, 1, 3]
    values, at = x[0].topk(2)
    assert values.tolist() == [3, 2] and at.tolist() == [0, 2]
    same(tr.median(tr.asarray(A), axis=1), np.median(A, 1))
    same(tr.median(x, axis=1), np.median(a, 1))
    same(tr.searchsorted(tr.asarray([1.0, 2.0, 3.0]), tr.asarray([2.0, 2.5])), np.array([1, 2]))
    assert [t.tolist() for t in tr.nonzero(tr.asarray([[0, 1], [2, 0]]))] == [[0, 1], [1, 0]]
    assert tr.unique_values(tr.asarray([3, 1, 3])).tolist() == [1, 3] and tr.unique_counts(tr.asarray([3, 1, 3]))[
        1
    ].tolist() == [1, 2]
    with pytest.raises(ValueError, match="topk"):
        x.topk(5)


def test_products():
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5))
    x, y = tr.asarray(a), tr.asarray(b)
    same(x @ y, a @ b)
    same(x[0, 0] @ y, a[0, 0] @ b)
    same(x @ y[:, 0], a @ b[:, 0])
    same(x[0, 0] @ x[1, 1], a[0, 0] @ a[1, 1])
    same(tr.vecdot(x, x), np.vecdot(a, a))
    same(tr.outer(x[0, 0], y[0]), np.outer(a[0, 0], b[0]))
    same(tr.tensordot(x, y, axes=1), np.tensordot(a, b, 1))
    same(tr.tensordot(x, x, axes=((0, 2), (0, 2))), np.tensordot(a, a, ((0, 2), (0, 2))))
    same(tr.asarray(INTS) @ tr.asarray(INTS.T), INTS @ INTS.T)
    same(tr.linalg.cross(tr.asarray(a[0, :, :3]), tr.asarray(a[1, :, :3])), np.cross(a[0, :, :3], a[1, :, :3]))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(2, 3, 4\)"):
        x @ x
    with pytest.raises(ValueError, match="0-d"):
        x @ tr.asarray(1.0)


@pytest.mark.parametrize(
    "equation, shapes",
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("ii->i", [(3, 3)]),
        ("ii", [(3, 3)]), ("ij->ji", [(2, 3)]), ("ij->", [(2, 3)]), ("i,j->ij", [(2,), (3,)]), ("i,i->", [(3,), (3,)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (3, 4)]), ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
        ("ij,ij->ij", [(2, 3), (2, 3)]), ("ijk,k->ij", [(2, 3, 4), (4,)]), ("ij,k->k", [(2, 3), (4,)]),
        ("...i->...", [(2, 3)]),
        ("iij->j", [(3, 3, 2)]), ("ab,ab->", [(2, 3), (2, 3)]), ("ij,ji->i", [(2, 3), (3, 2)]),
        ("ij,j->ij", [(2, 3), (1,)]),
    ],
)  # fmt: skip
def test_einsum(equation, shapes):
    arrays = [rng.standard_normal(s) for s in shapes]
    same(tr.einsum(equation, *map(tr.asarray, arrays)), np.einsum(equation, *arrays))


def test_einsum_errors():
    x = tr.ones(2, 3)
    for equation, operands in (
        ("ij,jk", (x,)),
        ("ijk", (x,)),
        ("ij->k", (x,)),
        ("ij,ij->ij", (x, tr.ones(4, 3))),
        ("i1", (x,)),
    ):
        with pytest.raises(ValueError, match="einsum"):
            tr.einsum(equation, *operands)


def test_norms():
    x = tr.asarray(A)
    for ord in (1, 2, 3, math.inf, -math.inf, 0):
        same(tr.linalg.vector_norm(x, axis=1, ord=ord), np.linalg.vector_norm(A, axis=1, ord=ord), rtol=1e-5)
    for ord in ("fro", 1, -1, math.inf, -math.inf):
        same(tr.linalg.matrix_norm(x, ord=ord), np.linalg.matrix_norm(A, ord=ord), rtol=1e-5)
    same(x.norm(), np.linalg.norm(A), rtol=1e-6)


def test_dtype_functions():
    assert tr.finfo(tr.float32).eps == np.finfo(np.float32).eps and tr.finfo(tr.bfloat16).bits == 16
    assert tr.iinfo(tr.int8).max == 127 and tr.can_cast(tr.int8, tr.int32) and not tr.can_cast(tr.float64, tr.float32)
    assert (
        tr.isdtype(tr.int8, "integral")
        and tr.isdtype(tr.float16, ("bool", "real floating"))
        and not tr.isdtype(tr.bool_, "numeric")
    )
    assert tr.result_type(tr.int32, 1.5) is tr.float32 and tr.result_type("float16", tr.ones(1)) is tr.float32
    assert tr.result_type(1, 2.0) is tr.float32
    with pytest.raises(TypeError, match="int8"):
        tr.finfo(tr.int8)


def test_narrow_floats_compute_like_float32():
    x = tr.asarray(A).to(tr.bfloat16)
    for y in (x + 1, x.sum(), x @ x.T, tr.exp(x), x.mean(axis=0), x.max()):
        assert y.dtype is tr.bfloat16
    np.testing.assert_allclose(np.asarray(x.sum(), dtype=np.float32), np.asarray(x, dtype=np.float32).sum(), rtol=1e-2)


def test_constants_and_the_array_namespace():
    assert tr.pi == math.pi and tr.newaxis is None and tr.inf == math.inf
    assert tr.asarray(1).__array_namespace__() is tr


def test_every_public_name_is_there():
    missing = [name for name in tr.__all__ if name not in tr._LAZY and not hasattr(tr, name)]
    assert not missing
