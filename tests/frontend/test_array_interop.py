"""Tensors and the rest of the Python world: DLPack, pickling, copies, the namespace, printing."""

import copy
import pickle

import numpy as np
import pytest

import tracefuse as tr

DTYPES = [tr.bool, tr.uint8, tr.int16, tr.int64, tr.float16, tr.float32, tr.float64, tr.complex64, tr.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dlpack_shares_memory_with_numpy_both_ways(dtype):
    x = tr.ones((2, 3), dtype=dtype)
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.numpy()) and array.dtype == dtype.np
    source = np.zeros((3, 2), dtype.np)
    y = tr.from_dlpack(source)
    assert y.dtype is dtype and np.shares_memory(y.numpy(), source)
    assert not np.shares_memory(tr.from_dlpack(source, copy=True).numpy(), source)


def test_dlpack_refuses_what_it_cannot_share():
    with pytest.raises(BufferError, match=r"detach\(\)"):
        np.from_dlpack(tr.ones(2, requires_grad=True))
    assert tr.ones(2).__dlpack_device__() == (1, 0)


def test_dlpack_shares_memory_with_torch_both_ways():
    torch = pytest.importorskip("torch")
    x = tr.ones(3)
    t = torch.from_dlpack(x)
    t[0] = 5
    assert x.tolist() == [5, 1, 1]
    y = tr.from_dlpack(torch.arange(3.0))
    assert y.tolist() == [0, 1, 2]
    t = torch.zeros(2)
    y = tr.from_dlpack(t)
    t[1] = 7
    assert y.tolist() == [0, 7]


@pytest.mark.parametrize("dtype", [*DTYPES, tr.bfloat16], ids=str)
def test_pickle_and_copies_keep_values_and_types(dtype):
    x = tr.asarray(np.arange(6).reshape(2, 3).astype(dtype.np))
    for y in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x)):
        assert y.dtype is dtype and y.tolist() == x.tolist()
    assert not np.shares_memory(copy.deepcopy(x).numpy(), x.numpy())
    leaf = tr.ones(2, requires_grad=True)
    assert pickle.loads(pickle.dumps(leaf)).requires_grad and copy.deepcopy(leaf).requires_grad
    assert pickle.loads(pickle.dumps(tr.complex64)) is tr.complex64


@pytest.mark.skipif(not hasattr(type(memoryview(b"")), "__buffer__"), reason="Python classes have buffers from 3.12 on")
def test_the_buffer_protocol_shares_memory():
    x = tr.asarray([1.0, 2.0])
    view = memoryview(x)
    assert view.tolist() == [1, 2] and np.shares_memory(np.asarray(view), x.numpy())
    with pytest.raises(BufferError, match="bfloat16"):
        memoryview(tr.ones(2, dtype=tr.bfloat16))


def test_the_namespace_says_what_it_has():
    xp = tr.ones(2).__array_namespace__()
    assert xp is tr and xp.__array_api_version__ >= "2024.12"
    info = xp.__array_namespace_info__()
    assert info.default_dtypes()["complex floating"] is tr.complex64
    assert set(info.dtypes(kind="complex floating")) == {"complex64", "complex128"}
    assert info.devices()[0] == "cpu" and info.default_device() == "cpu"
    with pytest.raises(ValueError, match="no device 'tpu'"):
        info.dtypes(device="tpu")
    with pytest.raises(ValueError, match="no device"):
        tr.ones(1).to_device("mps")


SHAPES = [(), (0, 3), (5,), (100_000,), (300, 300), (1000, 1), (1, 4000), (6,) * 5, (2,) * 14, (40, 40, 40)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [tr.float32, tr.bool, tr.complex64, tr.bfloat16], ids=str)
def test_a_person_can_read_tensors_of_any_size(shape, dtype):
    text = repr(tr.zeros(shape, dtype=dtype))
    assert len(text.splitlines()) < 200 and len(text) < 30_000
    small = np.prod(shape) <= 1000 and np.prod(shape[:-1]) <= 130 and 0 not in shape
    assert small or f"shape={shape}" in text


def test_printing_says_what_is_not_the_default():
    assert repr(tr.asarray([1.5, 2.0])) == "tensor([1.5, 2. ])"
    assert "dtype=complex64" in repr(tr.asarray([1j])) and "requires_grad=True" in repr(tr.ones(1, requires_grad=True))
    assert "from 0.0 to 1.0" in repr(tr.asarray((np.arange(2**14) % 2).reshape((2,) * 14).astype(np.float32)))


def test_numbers_are_written_without_losing_digits():
    x = tr.zeros((), dtype=tr.float64)
    x[...] = 16777217.0
    assert x.item() == 16777217.0
    x = tr.zeros(2, dtype=tr.float64)
    x[0] = 0.1
    assert x[0].item() == 0.1
