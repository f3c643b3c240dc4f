"""Tensors: creation, promotion, views and in-place writes, NumPy interoperation."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import tracefuse as tr

FLOATS = (tr.float16, tr.bfloat16, tr.float32, tr.float64)


# ------------------------------------------------------------------ creation


@pytest.mark.parametrize(
    "data, dtype",
    [
        (1.5, tr.float32), (1, tr.int64), (True, tr.bool_), ([1.0, 2], tr.float32), ([1, 2], tr.int64),
        ([[True]], tr.bool_), ([], tr.float32), (np.zeros(2), tr.float64), (np.float64(1), tr.float64),
        (np.int8(1), tr.int8), ([np.float64(1), 2.0], tr.float64), ([np.zeros(2), np.ones(2)], tr.float64),
    ],
)  # fmt: skip
def test_asarray_gives_python_numbers_the_default_types_and_keeps_those_of_arrays(data, dtype):
    t = tr.asarray(data)
    assert t.dtype is dtype
    np.testing.assert_array_equal(np.asarray(t), np.asarray(data).astype(dtype.np))


def test_asarray_shares_memory_with_arrays_and_tensor_copies():
    a = np.arange(3.0)
    shared, copied = tr.asarray(a), tr.tensor(a)
    a[0] = 7
    assert shared[0].item() == 7 and copied[0].item() == 0
    assert np.shares_memory(np.asarray(shared), a)
    assert tr.asarray(shared) is shared
    assert not np.shares_memory(tr.asarray(shared, copy=True).numpy(), a)


def test_asarray_of_tensors_stacks_them_with_their_gradients():
    x = tr.tensor(2.0, requires_grad=True)
    y = tr.asarray([x, x * 3])
    y.sum().backward()
    assert y.shape == (2,) and x.grad.item() == 4


@pytest.mark.parametrize("data", [["a"], object()])
def test_asarray_refuses_what_is_no_number(data):
    with pytest.raises(TypeError):
        tr.asarray(data)


def test_other_byte_orders_are_converted():
    a = np.arange(3, dtype=">f4")
    t = tr.asarray(a)
    assert t.dtype is tr.float32 and t.tolist() == [0, 1, 2]


def test_creation_functions():
    assert tr.zeros(2, 3).shape == tr.zeros((2, 3)).shape == (2, 3)
    assert tr.ones(2, dtype=tr.int32).tolist() == [1, 1]
    assert tr.full((2,), 3).dtype is tr.int64 and tr.full((), 2.5).item() == 2.5
    assert tr.full((2,), tr.asarray([1.5, 2.5])).tolist() == [1.5, 2.5]
    assert tr.arange(5).tolist() == [0, 1, 2, 3, 4]
    assert tr.arange(5, 1, -2).tolist() == [5, 3] and tr.arange(5, 1).shape == (0,)
    np.testing.assert_allclose(tr.arange(0, 1, 0.25).numpy(), [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(tr.linspace(0, 1, 5).numpy(), np.linspace(0, 1, 5))
    np.testing.assert_array_equal(tr.eye(3, 4, k=1).numpy(), np.eye(3, 4, k=1))
    np.testing.assert_array_equal(tr.tril(tr.ones(3, 3), k=-1).numpy(), np.tril(np.ones((3, 3)), -1))
    np.testing.assert_array_equal(tr.triu(tr.ones(2, 3, 3), k=1).numpy(), np.triu(np.ones((2, 3, 3)), 1))
    for ours, theirs in zip(tr.meshgrid(tr.arange(2), tr.arange(3)), np.meshgrid(np.arange(2), np.arange(3))):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert tr.zeros_like(tr.ones(2, dtype=tr.int8)).dtype is tr.int8
    with pytest.raises(ValueError, match="negative size"):
        tr.zeros(2, -1)
    with pytest.raises(TypeError, match="integers"):
        tr.zeros(2.5)


def test_the_default_dtype_can_be_changed():
    tr.set_default_dtype(tr.float64)
    try:
        assert tr.asarray(1.0).dtype is tr.float64 and (tr.arange(2) / 2).dtype is tr.float64
    finally:
        tr.set_default_dtype(tr.float32)
    with pytest.raises(TypeError, match="floating"):
        tr.set_default_dtype(tr.int32)


# ------------------------------------------------------------------ promotion


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scalar", [2, 2.5, True, np.float64(2)])
def test_python_numbers_are_weak_with_float_tensors(dtype, scalar):
    x = tr.ones(3, dtype=dtype)
    for y in (
        x + scalar,
        scalar + x,
        x * scalar,
        scalar - x,
        x / scalar,
        tr.maximum(x, scalar),
        tr.where(x > 0, x, scalar),
    ):
        assert y.dtype is dtype
    for y in (x < scalar, scalar < x, x == scalar):
        assert y.dtype is tr.bool_


@pytest.mark.parametrize(
    "a, b, result",
    [
        ("int32", "float16", "float16"), ("int64", "float32", "float32"), ("uint8", "int8", "int16"),
        ("uint32", "int32", "int64"), ("bool", "int8", "int8"), ("bool", "float32", "float32"),
        ("float16", "bfloat16", "float32"), ("float32", "float64", "float64"), ("int8", "int64", "int64"),
    ],
)  # fmt: skip
def test_mixed_dtypes(a, b, result):
    x, y = tr.ones(2, dtype=a), tr.ones(2, dtype=b)
    assert (x + y).dtype.name == (y + x).dtype.name == tr.result_type(x, y).name == result
    np.testing.assert_array_equal((x + y).numpy().astype(np.float32), 1 if a == b == "bool" else 2)


def test_scalars_lift_kinds():
    i, b = tr.arange(3), tr.asarray([True, False])
    assert (i + 1.5).dtype is tr.float32 and (i + 2).dtype is tr.int64 and (i.int() * 2).dtype is tr.int32
    assert (b + 1).dtype is tr.int64 and (b * 1.0).dtype is tr.float32 and (b & True).dtype is tr.bool_
    assert (i / i.sum()).dtype is tr.float32 and (i // 2).dtype is tr.int64 and (i**2).dtype is tr.int64
    assert tr.exp(i).dtype is tr.float32 and tr.floor(i).dtype is tr.int64
    with pytest.raises(TypeError, match="uint64"):
        tr.ones(1, dtype=tr.int64) + tr.ones(1, dtype=tr.uint64)


def test_arrays_are_strong_operands_and_the_tensor_wins_the_type():
    x = tr.ones(2)
    for y in (x + np.ones(2), np.ones(2) + x, np.float32(1) + x, np.ones(2) @ x):
        assert isinstance(y, tr.Tensor)
    assert (x + np.ones(2)).dtype is tr.float64


def test_bools_add_as_or_and_multiply_as_and():
    a, b = tr.asarray([True, True, False]), tr.asarray([True, False, False])
    assert (a + b).tolist() == [True, True, False] and (a * b).tolist() == [True, False, False]


def test_operands_that_are_no_numbers():
    with pytest.raises(TypeError):
        tr.ones(2) + "a"
    with pytest.raises(TypeError, match="NoneType"):
        tr.exp(None)

    class Other:
        def __radd__(self, x):
            return "other"

    assert tr.ones(2) + Other() == "other"


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda x: x + tr.ones(4), ValueError), (lambda x: x @ tr.ones(4), ValueError), (lambda x: ~x, TypeError),
        (lambda x: x.reshape(2, 2), ValueError), (lambda x: x.sum(axis=3), IndexError), (lambda x: x[3], IndexError),
        (lambda x: tr.concat([x, tr.ones(2, 2)]), ValueError), (lambda x: bool(x), ValueError),
        (lambda x: x.item(), ValueError),
    ],
)  # fmt: skip
def test_errors_name_the_shapes(call, error):
    with pytest.raises(error, match=r"3"):
        call(tr.ones(3))


# ------------------------------------------------------------------ views and in-place writes

VIEWS = {
    "slice": lambda x: x[1:3], "int": lambda x: x[1], "step": lambda x: x[:, ::2],
    "new axis": lambda x: x[None, ..., 0],
    "reshape": lambda x: x.reshape(2, -1), "T": lambda x: x.T, "permute": lambda x: x.permute(1, 0),
    "transpose": lambda x: x.transpose(0, 1), "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "flatten": lambda x: x.flatten(), "detach": lambda x: x.detach(), "swapaxes": lambda x: x.swapaxes(0, 1),
    "chunk": lambda x: x.chunk(2)[1], "split": lambda x: x.split([1, 3])[1], "view": lambda x: x.view(6, 4),
    "mT": lambda x: x.mT,
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory_both_ways(name):
    x = tr.asarray(np.arange(24.0).reshape(4, 6))
    view = VIEWS[name](x)
    assert np.shares_memory(view.numpy(), x.numpy())
    view += 100
    assert (x.numpy() >= 100).sum() == view.size
    x.zero_()
    assert not view.numpy().any()


@pytest.mark.parametrize(
    "make",
    [lambda x: x[[0, 1]], lambda x: x[::-1], lambda x: x.flip(0), lambda x: x.clone(), lambda x: +x, lambda x:
    x.tile(1), lambda x: x.to(tr.float64), lambda x: x.repeat(1), lambda x: tr.concat([x]),
             lambda x: x.astype(tr.float32), lambda x: x.T.flatten()],
)  # fmt: skip
def test_copies_do_not_share_memory(make):
    x = tr.ones(4, 6)
    y = make(x)
    y += 1
    assert (x.numpy() == 1).all()


def test_view_refuses_what_needs_a_copy():
    with pytest.raises(ValueError, match="reshape"):
        tr.ones(3, 4).T.view(12)
    assert tr.ones(3, 4).T.reshape(12).shape == (12,)


def test_in_place_operators_keep_memory_and_dtype():
    x = tr.ones(3)
    data = x.numpy()
    before = x
    x += 1
    x *= tr.asarray([1.0, 2.0, 3.0])
    x -= np.ones(3, np.float32)
    x /= 2
    x **= 2
    assert x is before and x.numpy() is data
    np.testing.assert_allclose(data, [0.25, 2.25, 6.25])
    i = tr.arange(3)
    i += 2
    i //= 2
    assert i.tolist() == [1, 1, 2]
    with pytest.raises(TypeError, match="float32.*int64"):
        i += 0.5
    with pytest.raises(ValueError, match="does not fit"):
        x += tr.ones(2, 3)


def test_named_in_place_methods():
    x = tr.asarray([1.0, -4.0, 9.0])
    assert x.abs_().sqrt_().tolist() == [1, 2, 3]
    assert x.add_(tr.ones(3), alpha=2).mul_(2).sub_(1).div_(5).tolist() == [1, pytest.approx(1.4), pytest.approx(1.8)]
    assert x.fill_(2).addcmul_(tr.ones(3), tr.ones(3), value=3).tolist() == [5, 5, 5]
    assert x.addcdiv_(tr.ones(3), tr.ones(3) * 2, value=-2).lerp_(tr.zeros(3), 0.5).tolist() == [2, 2, 2]
    assert x.copy_([1, 2, 3]).clamp_(max=2).tolist() == [1, 2, 2]
    assert x.masked_fill_(x == 2, 0).neg_().tolist() == [-1, 0, 0]
    assert x.zero_().exp_().tolist() == [1, 1, 1]


def test_versions_count_writes_of_the_storage():
    x = tr.ones(3)
    assert x._version is None
    x.add_(1)
    x[0] = 3
    x[1:].mul_(2)
    assert x._version == 3


def test_expanded_tensors_cannot_be_written():
    with pytest.raises((ValueError, RuntimeError)):
        tr.ones(3).expand(2, 3).add_(1)


# ------------------------------------------------------------------ shapes as methods


def test_sizes_and_kinds():
    x = tr.zeros(2, 3)
    assert x.size == 6 and x.size() == (2, 3) and x.size(1) == 3 and x.numel() == 6 and x.dim() == x.ndim == 2
    assert x.itemsize == 4 and x.nbytes == 24 and x.stride() == (3, 1) and x.is_contiguous() and not x.T.is_contiguous()
    assert len(x) == 2 and [row.shape for row in x] == [(3,), (3,)] and x.T.contiguous().is_contiguous()
    assert x.long().dtype is tr.int64 and x.half().dtype is tr.float16 and x.to(x.double()).dtype is tr.float64
    assert x.to("cpu") is x and x.float() is x
    with pytest.raises(TypeError, match="0-d"):
        len(tr.ones(()))


def test_python_numbers():
    assert float(tr.asarray(1.5)) == 1.5 and int(tr.asarray([3])) == 3 and bool(tr.asarray(0)) is False
    assert [10, 20][tr.asarray(1)] == 20 and f"{tr.asarray(1.25):.1f}" == "1.2"
    assert tr.ones(2, dtype=tr.bfloat16).tolist() == [1.0, 1.0] and tr.asarray(1.0, dtype=tr.bfloat16).item() == 1.0
    assert 2 in tr.arange(3) and 5 not in tr.arange(3)
    with pytest.raises(TypeError, match="integer"):
        range(tr.asarray(1.5))


def test_tensors_hash_by_identity():
    x = tr.ones(2)
    assert {x: 1}[x] == 1 and x.clone() not in {x: 1}


def test_pickle_and_deepcopy():
    x = tr.tensor([1.0, 2.0], requires_grad=True)
    x.grad = tr.ones(2)
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert y.tolist() == [1, 2] and y.requires_grad and y is not x
    assert copy.deepcopy(x).grad.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="leaves"):
        copy.deepcopy(x * 2)


@pytest.mark.parametrize(
    "x, text",
    [
        (lambda: tr.asarray([1.0, 2.5]), "tensor([1. , 2.5])"), (lambda: tr.asarray(3), "tensor(3)"),
        (lambda: tr.zeros(0, 3), "tensor([], shape=(0, 3))"),
        (lambda: tr.ones(1, dtype=tr.bfloat16), "tensor([1.], dtype=bfloat16)"),
        (lambda: tr.ones(1, requires_grad=True), "tensor([1.], requires_grad=True)"),
        (lambda: tr.ones(1, requires_grad=True) * 2, "tensor([2.], grad_fn=mul)"),
    ],
)  # fmt: skip
def test_repr(x, text):
    assert repr(x()) == text


def test_repr_of_large_tensors_is_short():
    text = repr(tr.zeros(1000, 1000))
    assert "..." in text and "shape=(1000, 1000)" in text and len(text) < 1000


# ------------------------------------------------------------------ NumPy and others


def test_numpy_functions_take_tensors():
    a = np.linspace(0.1, 2, 6).reshape(2, 3).astype(np.float32)
    x = tr.asarray(a)
    for function in (
        np.exp, np.log, np.negative, np.sum, np.mean, np.std, np.cumsum, np.transpose, np.ravel, np.flip, np.sort,
        np.isnan,
        lambda v: np.where(v > 1, v, 0), lambda v: np.concatenate([v, v], axis=1), lambda v: np.stack([v, v]),
        lambda v: np.add.reduce(v, axis=1), lambda v: np.maximum(v, 1), lambda v: np.einsum("ij,kj->ik", v, v),
        lambda v: np.clip(v, 0.5, 1), lambda v: np.reshape(v, (3, 2)), lambda v: np.max(v, axis=0, keepdims=True),
        lambda v: np.linalg.norm(v), lambda v: np.dot(v, v.T), lambda v: np.split(v, 3, axis=1)[1],
        lambda v: np.tile(v, (2, 1)),
        lambda v: np.vstack([v, v]), lambda v: np.hstack([v, v]), lambda v: np.expand_dims(v, 0),
        lambda v: np.argmax(v, axis=1),
        lambda v: np.take(v, [0, 2], axis=1), lambda v: np.roll(v, 1, axis=1), lambda v: np.percentile(v, 50),
        lambda v: np.arctan2(v, 1),
    ):  # fmt: skip
        ours, theirs = function(x), function(a)
        assert isinstance(ours, tr.Tensor) or not isinstance(theirs, np.ndarray)
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-6)


def test_numpy_functions_are_differentiated_or_refuse():
    x = tr.ones(3, requires_grad=True)
    np.sum(np.exp(x) * np.arange(3)).backward()
    np.testing.assert_allclose(x.grad.numpy(), np.e * np.arange(3), rtol=1e-6)
    with pytest.raises(TypeError, match="no gradient"):
        np.convolve(x, x)


def test_ufuncs_with_out():
    x, out, array = tr.ones(3), tr.zeros(3), np.zeros(3, np.float32)
    np.add(x, 1, out=out)
    np.add(x, 2, out=array)
    assert out.tolist() == [2, 2, 2] and array.tolist() == [3, 3, 3]
    array += x
    assert isinstance(array, np.ndarray) and array.tolist() == [4, 4, 4]


def test_conversion_to_arrays():
    x = tr.ones(3)
    assert np.asarray(x) is x.numpy() and np.shares_memory(np.asarray(x), np.array(x, copy=False))
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.from_dlpack(x).tolist() == [1, 1, 1]
    a = np.arange(3.0)
    assert np.shares_memory(tr.from_dlpack(a).numpy(), a)
    assert tr.from_numpy(a).numpy() is a


def test_import_is_light():
    code = (
        "import sys, tracefuse\n"
        "heavy = {'llvmlite', 'networkx', 'triton', 'torch', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'compile' in dir(tracefuse)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
