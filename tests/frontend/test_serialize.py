"""Saving and loading tensors."""

import json
import os

import numpy as np
import pytest
from tracefuse.frontend import nn, optim
from tracefuse.frontend.serialize import InvalidTensorFile, load_tensors, save, save_tensors
from tracefuse.frontend.tensor_file import to_bytes as tensors_to_bytes

import tracefuse as tr


def same(a, b):
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, tr.Tensor):
        return isinstance(b, tr.Tensor) and a.dtype is b.dtype and np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_state_dicts_are_plain_safetensors(tmp_path):
    from safetensors.numpy import load_file

    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    path = tmp_path / "net.safetensors"
    save(net, path)
    assert same(dict(sorted(load_tensors(path).items())), dict(sorted(net.state_dict().items())))
    others = load_file(str(path))
    assert set(others) == set(net.state_dict())
    np.testing.assert_array_equal(others["0.weight"], np.asarray(net[0].weight.detach()))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "bfloat16", "float32", "float64"])
def test_every_element_type_and_shape(tmp_path, dtype):
    path = tmp_path / "t"
    tensors = {str(i): tr.ones(shape, dtype=dtype) for i, shape in enumerate([(), (0, 3), (2, 3)])}
    tensors["t"] = tr.asarray(np.arange(6).reshape(2, 3)).T.to(tr.dtype_of(dtype) if hasattr(tr, "dtype_of") else dtype)
    save(tensors, path)
    assert same(dict(sorted(load_tensors(path).items())), tensors)


def test_nested_structures(tmp_path):
    shared = tr.ones(2)
    obj = {
        "model": {"a.b": tr.zeros(1), "a": {"b": tr.ones(1)}},
        "epoch": 3, "loss": float("inf"), "name": "x", "none": None, "flag": True, 7: [shared, (1, 2.5)],
        "array": np.arange(3), "again": shared,
    }  # fmt: skip
    path = tmp_path / "checkpoint"
    save(obj, path)
    loaded = load_tensors(path)
    assert same(obj, loaded)
    p = nn.Parameter(np.ones(3, np.float32))
    opt = optim.AdamW([p])
    p.grad = tr.ones(3)
    opt.step()
    save(opt, path)
    fresh = optim.AdamW([p])
    fresh.load_state_dict(load_tensors(path))
    assert same(fresh.state_dict(), opt.state_dict())


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"a\.1: a object"):
        save({"a": [1, object()]}, tmp_path / "x")
    with pytest.raises(TypeError, match="key"):
        save({(1, 2): 3}, tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_writing_replaces_whole_files(tmp_path, monkeypatch):
    path = tmp_path / "x"
    save_tensors({"a": np.ones(2)}, path)
    os.chmod(path, 0o640)

    def broken(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_tensors({"a": np.zeros(2)}, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"]
    np.testing.assert_array_equal(np.asarray(load_tensors(path)["a"]), np.ones(2))
    save_tensors({"a": np.zeros(2)}, path)
    assert os.stat(path).st_mode & 0o777 == 0o640


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


HOSTILE = [
    b"",
    b"\xff" * 40,
    with_header(b"{not json"),
    with_header(b"[" * 100000),
    with_header([1]),
    with_header({"__metadata__": 3}),
    with_header({"__metadata__": {"tracefuse.tree": '{"tensor": "nope"}'}}),
    with_header({"__metadata__": {"tracefuse.tree": '{"dict": [[[1], {"value": 1}]]}'}}),
    with_header({"a": 1}),
    with_header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [1, 2, 3]}}),
    with_header(entry(), b"1234"),
    with_header(entry(dtype="F8_E4M3"), b"12345678"),
    with_header(entry(dtype=["F32"]), b"12345678"),
    with_header(entry(shape=(-1, -2)), b"12345678"),
    with_header(entry(shape=(2**60, 2**60)), b"12345678"),
    with_header(entry(offsets=(8, 0)), b"12345678"),
    with_header(entry(offsets=(0.5, 8)), b"12345678"),
    with_header(entry(shape="2"), b"12345678"),
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_damaged_files_give_one_kind_of_error(tmp_path, content):
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises(InvalidTensorFile, match="bad"):
        load_tensors(path)


def test_cut_files_are_noticed(tmp_path):
    content = tensors_to_bytes({"a": np.ones(100)})
    path = tmp_path / "cut"
    for n in range(0, len(content), 37):
        path.write_bytes(content[:n])
        with pytest.raises(InvalidTensorFile):
            load_tensors(path)
