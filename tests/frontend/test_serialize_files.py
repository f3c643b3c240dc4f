"""Files of tensors: any structure comes back, damage is noticed, and no failure touches the old file."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import OrderedDict, namedtuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tracefuse.frontend import nn, tensor_file
from tracefuse.frontend.serialize import load, load_tensors, save
from tracefuse.frontend.tensor_file import InvalidTensorFile

import tracefuse as tr

DTYPES = [d.np for d in tensor_file.CODES.values()] + [np.dtype(np.complex128)]


def bits(a):
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8).tolist()


def same(a, b):
    """Whether `b` is what `a` should be loaded as, to the bit (NaNs too)."""
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, tr.Tensor):
        return isinstance(b, tr.Tensor) and same(a.numpy(), b.numpy())
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    return type(a) is type(b) and repr(a) == repr(b)


@st.composite
def arrays(draw):
    """Arrays of any element type and bits; some are not contiguous."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    if dtype == np.bool_:
        a = draw(hnp.arrays(np.bool_, shape))
    else:
        a = draw(hnp.arrays(np.uint8, (*shape, dtype.itemsize))).view(dtype)[..., 0]
    return a.T if draw(st.booleans()) else a


numbers = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text())
keys = st.one_of(st.text(alphabet="ab.'", max_size=4), st.text(max_size=3), st.integers(), st.none(), st.booleans())
leaves = st.one_of(numbers, arrays(), arrays().map(tr.frontend.tensor.new_tensor))
trees = st.recursive(
    leaves,
    lambda t: st.one_of(
        st.lists(t, max_size=4), st.lists(t, max_size=4).map(tuple), st.dictionaries(keys, t, max_size=4)
    ),
    max_leaves=12,
)
relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(trees, st.booleans())
def test_any_structure_comes_back(tmp_path, tree, mmap):
    save(tree, tmp_path / "x")
    loaded = load(tmp_path / "x", mmap=mmap, verify=True)
    flat = isinstance(tree, dict) and tree and all(isinstance(v, (tr.Tensor, np.ndarray)) for v in tree.values())
    if flat and all(type(k) is str and k != "__metadata__" for k in tree):
        tree = {k: loaded[k] if same(tr.asarray(v), loaded[k]) else v for k, v in tree.items()}  # all are tensors now
        loaded = {k: loaded[k] for k in tree}
        assert all(isinstance(v, tr.Tensor) for v in loaded.values())
    assert same(tree, loaded)


@relaxed
@given(trees, st.data())
def test_altered_files_are_noticed(tmp_path, tree, draw):
    path = tmp_path / "x"
    save(tree, path)
    good = load_tensors(path)
    content = bytearray(path.read_bytes())
    at = draw.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << draw.draw(st.integers(0, 7))
    if draw.draw(st.booleans()):
        content = content[:at]
    path.write_bytes(content)
    try:
        assert same(good, load_tensors(path))  # spaces in the header, or the case of a digit, may have changed
    except InvalidTensorFile:
        pass


def test_altered_elements_are_noticed(tmp_path):
    path = tmp_path / "x"
    save({"a": tr.zeros(1000), "b": tr.ones(10, dtype="int8")}, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidTensorFile, match="x: .*checksum: the file has been altered"):
        load_tensors(path)
    assert load_tensors(path, verify=False)["b"].numpy().sum() != 10
    assert load_tensors(path, mmap=True)["b"].numpy().sum() != 10  # reads no more than it must
    with pytest.raises(InvalidTensorFile, match="checksum"):
        load_tensors(path, mmap=True, verify=True)
    path.write_bytes(content[:-1])
    with pytest.raises(InvalidTensorFile, match="cut short"):
        load_tensors(path, mmap=True)
    path.write_bytes(content + b"x")
    with pytest.raises(InvalidTensorFile, match="bytes of tensors"):
        load_tensors(path)


@pytest.mark.parametrize("metadata", [["a"], ["x"], {"x": 1}, [1], "x"])
def test_metadata_that_lies_about_complex_numbers(tmp_path, metadata):
    content = tensor_file.to_bytes({"x": np.zeros(2, np.float32)}, {"tracefuse.complex128": json.dumps(metadata)})
    (tmp_path / "x").write_bytes(content)
    try:
        assert load_tensors(tmp_path / "x")["x"].shape == (2,)
    except InvalidTensorFile as e:
        assert "complex" in str(e)


def test_what_types_become(tmp_path):
    Point = namedtuple("Point", "x y")
    shared = tr.ones(2)
    save(
        {"point": Point(1, 2), "ordered": OrderedDict(b=1, a=2), "numpy": np.float32(1.5), "size": tr.ones(3).size,
         "parameter": nn.Parameter(tr.ones(2)), "shared": [shared, shared], "same": tr.ones(2)},
        tmp_path / "x",
    )  # fmt: skip
    x = load(tmp_path / "x")
    assert x["point"] == (1, 2) and x["ordered"] == {"b": 1, "a": 2} and list(x["ordered"]) == ["b", "a"]
    assert x["numpy"] == 1.5 and x["size"] == 3 and type(x["parameter"]) is tr.Tensor
    assert x["shared"][0] is x["shared"][1] and x["same"] is not x["shared"][0]


def test_mapped_tensors_are_private(tmp_path):
    path = tmp_path / "x"
    save({"a": tr.arange(1000), "b": np.zeros(0), "c": tr.ones(3, dtype="bfloat16")}, path)
    before = path.read_bytes()
    x = load(path, mmap=True)
    assert x["a"].numpy().flags.writeable
    x["a"].add_(1)
    assert path.read_bytes() == before and load(path)["a"][0].item() == 0
    save({"a": tr.zeros(5)}, path)  # replaces the file; what is mapped stays
    assert x["a"][999].item() == 1000 and x["c"].sum().item() == 3


def test_others_read_what_is_written_and_the_other_way_round(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    given = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "a.b": np.ones(3, np.int8), "": np.zeros((), np.uint64),
             "bf": np.ones(5, ml_dtypes.bfloat16), "c": np.full(2, 1 + 2j, np.complex64), "none": np.zeros((0, 2))}  # fmt: skip
    save(given, tmp_path / "ours")
    for name, a in load_file(tmp_path / "ours").items():
        assert same(given[name], a)
    with safe_open(tmp_path / "ours", "np") as f:
        assert f.metadata()["format"] == "pt"
    save_file(given, tmp_path / "theirs", {"by": "them"})
    for mmap in (False, True):
        found = load_tensors(tmp_path / "theirs", mmap=mmap)
        assert {k: bits(v.numpy()) for k, v in found.items()} == {k: bits(v) for k, v in given.items()}


def test_programs_and_tensors_have_one_load(tmp_path):
    tr.export(lambda x: x + 1, (tr.ones(2),)).save(tmp_path / "f.tfx")
    assert tr.load(tmp_path / "f.tfx")(tr.ones(2)).tolist() == [2, 2]
    tr.save({"x": tr.ones(2)}, tmp_path / "x.safetensors")
    assert tr.load(tmp_path / "x.safetensors")["x"].tolist() == [1, 1]
    (tmp_path / "bad.tfx").write_bytes(b"nonsense")
    with pytest.raises(tr.InvalidProgram):
        tr.load(tmp_path / "bad.tfx")
    (tmp_path / "bad").write_bytes(b"nonsense")
    with pytest.raises(tr.InvalidTensorFile):
        tr.load(tmp_path / "bad")


# ------------------------------------------------------------------ atomic writes


class FullDisk:
    """A file that takes some bytes and no more."""

    def __init__(self, f, room):
        self.f, self.room = f, room

    def write(self, part):
        if len(part) > self.room:
            self.f.write(bytes(part)[: self.room])
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(part)
        return self.f.write(part)

    def __getattr__(self, name):
        return getattr(self.f, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.f.close()


@pytest.mark.parametrize("room", [0, 100, 5000])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, room):
    path = tmp_path / "x"
    save({"a": tr.ones(3)}, path)
    real = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda *args: FullDisk(real(*args), room))
    with pytest.raises(OSError, match="No space left"):
        save({"a": tr.zeros(2000), "b": tr.zeros(2000)}, path)
    assert os.listdir(tmp_path) == ["x"] and load(path)["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_any_step_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "x"
    save({"a": tr.ones(3)}, path)

    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as m:
        m.setattr(os, step, broken)
        with pytest.raises(OSError, match="Input/output"):
            save({"a": tr.zeros(3)}, path)
    assert os.listdir(tmp_path) == ["x"] and load(path)["a"].tolist() == [1, 1, 1]


def test_what_is_renamed_is_on_the_disk_already(tmp_path, monkeypatch):
    calls = []
    for step in ("fsync", "replace"):
        real = getattr(os, step)
        monkeypatch.setattr(os, step, lambda *args, step=step, real=real: (calls.append(step), real(*args))[1])
    save({"a": tr.ones(3)}, tmp_path / "x")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there" / "file", tmp_path / "link")
    save({"a": tr.ones(1)}, tmp_path / "link")
    assert os.path.islink(tmp_path / "link") and load(tmp_path / "there" / "file")["a"].tolist() == [1]


WRITER = """
import sys
import numpy as np
from tracefuse.frontend.serialize import save
n = 0
while True:
    n += 1
    save({"n": n, "a": np.full(300_000, n)}, sys.argv[1])
    print(n, flush=True)
"""


def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path = tmp_path / "x"
    for delay in (0.001, 0.007, 0.02):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline().strip() == "1"
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            written = 1 + len(child.stdout.read().split())
        x = load(path)
        assert x["n"] in (written, written + 1) and (x["a"] == x["n"]).all()
