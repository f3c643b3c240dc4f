"""Programs in files come back as they were; files that are anything else give InvalidProgram and nothing else."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile

import numpy as np
import pytest
from tracefuse.ir import dtypes, ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.graph import Graph, GraphBuilder, InputSpec, OutputSpec, Signature
from tracefuse.ir.serial import Contents, InvalidProgram, read, to_bytes, write
from tracefuse.ir.text import equal_graphs
from tracefuse.ir.types import TensorType


def example() -> Contents:
    n = symbol("n", 1, 512)
    b = GraphBuilder("net")
    x = b.input(TensorType(dtypes.float32, (n, 3)), "x")
    w = b.input(TensorType(dtypes.float32, (3, 2)), "w")
    h = b.input(TensorType(dtypes.bfloat16, (2,)), "h")
    rng = b.input(TensorType(dtypes.uint64, (2,)), "rng")
    c = b.constant(np.array([0.5, -0.0], np.float32), "c")
    y = ops.add(ops.matmul(x, w), ops.add(c, ops.cast(h, dtype=dtypes.float32)))
    spec = Signature(
        (InputSpec("x"), InputSpec("net.weight", "state"), InputSpec("net.häß", "state"), InputSpec("rng", "rng")),
        (OutputSpec(), OutputSpec("write", 3)),
    )
    graph = b.finish([y, ops.add(rng, rng)], spec)
    state = {
        "net.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "net.häß": np.array([1.5, np.nan], dtypes.bfloat16.np),
    }
    return Contents(graph, state, {"tuple": [{"leaf": 0}]}, {"leaf": 0}, {"note": "ü", "lr": 1e-3})


def same(a: Contents, b: Contents) -> bool:
    return (
        equal_graphs(a.graph, b.graph)
        and a.state.keys() == b.state.keys()
        and all(x.dtype == b.state[k].dtype and x.tobytes() == b.state[k].tobytes() for k, x in a.state.items())
        and (a.inputs, a.outputs, a.extra) == (b.inputs, b.outputs, b.extra)
    )


def loaded(data: bytes) -> Contents:
    return read(io.BytesIO(data))


def test_contents_come_back(tmp_path):
    path = tmp_path / "net.tfx"
    contents = example()
    write(path, contents)
    again = read(path)
    assert same(again, contents) and again.version
    assert all(a.flags.writeable and a.flags.aligned for a in again.state.values())
    assert os.listdir(tmp_path) == ["net.tfx"]
    buffer = io.BytesIO()
    write(buffer, contents)
    assert buffer.getvalue() == path.read_bytes()


def test_equal_contents_give_equal_bytes():
    one, other = example(), example()
    other.state = dict(reversed(other.state.items()))
    assert to_bytes(one) == to_bytes(other)
    assert to_bytes(loaded(to_bytes(one))) == to_bytes(one)


def test_every_element_type_can_be_stored():
    b = GraphBuilder("g")
    arrays = [np.array([[0, 1, 1]]).astype(d.np) for d in dtypes.ALL]
    graph = b.finish([b.constant(a, d.name) for a, d in zip(arrays, dtypes.ALL)])
    again = loaded(to_bytes(Contents(graph)))
    assert equal_graphs(again.graph, graph)
    empty = GraphBuilder("g")
    graph = empty.finish([empty.constant(np.zeros((0, 3), np.float16)), empty.constant(np.zeros((2, 2)).T)])
    assert equal_graphs(loaded(to_bytes(Contents(graph))).graph, graph)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.tfx"
    write(path, example())
    before = path.read_bytes()
    wrong = example()
    wrong.state["net.weight"] = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"net.weight must be a f32\[3, 2\], not f32\[2, 3\]"):
        write(path, wrong)
    wrong = example()
    wrong.extra = object()
    with pytest.raises(TypeError):
        write(path, wrong)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["net.tfx"]


def test_state_has_to_fit():
    missing, spare = example(), example()
    del missing.state["net.weight"]
    spare.state["other"] = np.zeros(2)
    with pytest.raises(ValueError, match="no data for net.weight"):
        to_bytes(missing)
    with pytest.raises(ValueError, match="no state named other"):
        to_bytes(spare)


def repacked(change: dict, compress: int = zipfile.ZIP_STORED, drop: str = "") -> bytes:
    """The example with members replaced, and the hashes put right."""
    import hashlib

    with zipfile.ZipFile(io.BytesIO(to_bytes(example()))) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    meta = json.loads(members["meta.json"])
    for name, edit in change.items():
        if name != "meta.json":
            members[name] = edit(members.get(name, b""))
            meta["sha256"][name] = hashlib.sha256(members[name]).hexdigest()
    edit = change.get("meta.json", lambda m: m)
    meta = edit(meta)
    members["meta.json"] = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    members.pop(drop, None)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def swap(old: bytes, new: bytes):
    def edit(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    return edit


WRONG = [
    ({"graph.txt": swap(b"matmul", b"matmus")}, "line .*unknown op"),
    ({"graph.txt": swap(b"tracefuse graph 1", b"tracefuse graph 2")}, "does not begin with"),
    ({"graph.txt": lambda b: b"\xff" + b}, "damaged"),
    ({"graph.txt": swap(b"%c: f32[2]", b"%c: f32[3]")}, "its data is"),
    ({"graph.txt": swap(b"n in [1, 512]", b"n in [1, 5]")}, "other dims"),
    ({"weights.safetensors": swap(b"state/net.weight", b"state/net.weighs")}, "no data for net.weight"),
    ({"weights.safetensors": swap(b"constant/c", b"constanz/c")}, "neither a constant nor state"),
    ({"weights.safetensors": swap(b"constant/c", b"constant/d")}, "has no data"),
    ({"weights.safetensors": swap(b'"F32","shape":[3,2]', b'"I32","shape":[3,2]')}, "must be a f32"),
    ({"weights.safetensors": lambda b: b[:-4]}, "damaged"),
    ({"weights.safetensors": lambda b: b"\xff" * 8 + b[8:]}, "damaged"),
    ({"meta.json": lambda m: m | {"format": 2}}, "format 2; this tracefuse reads formats up to 1"),
    ({"meta.json": lambda m: m | {"format": True}}, "no format number"),
    ({"meta.json": lambda m: m | {"more": 1}}, "fields"),
    ({"meta.json": lambda m: m | {"version": 3}}, "version must be a str"),
    ({"meta.json": lambda m: m | {"sha256": {}}}, "SHA-256"),
    ({"meta.json": lambda m: b"[" * 100000}, "damaged"),
    ({"meta.json": lambda m: b"[]"}, "no format number"),
    ({"other.txt": lambda b: b"x"}, "exactly the members"),
    ({"../evil": lambda b: b"x"}, "exactly the members"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_altered_programs_are_refused(change, message):
    with pytest.raises(InvalidProgram, match=message):
        loaded(repacked(change))


def test_archives_of_other_kinds_are_refused():
    loaded(repacked({}))
    with pytest.raises(InvalidProgram, match="compressed"):
        loaded(repacked({}, zipfile.ZIP_DEFLATED))
    with pytest.raises(InvalidProgram, match="exactly the members"):
        loaded(repacked({}, drop="graph.txt"))
    for data in (b"", b"PK", b"not a zip", bytes(100)):
        with pytest.raises(InvalidProgram, match="not a tracefuse program"):
            loaded(data)


def test_sizes_that_lie_are_refused_before_reading():
    data = bytearray(to_bytes(example()))
    at = data.rindex(b"PK\x01\x02")  # the last entry of the central directory
    data[at + 20 : at + 28] = (0xF0000000).to_bytes(4, "little") * 2
    with pytest.raises(InvalidProgram, match="claims 4026531840 bytes|damaged"):
        loaded(bytes(data))


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.tfx")


def test_damaged_bytes_are_noticed():
    """Every byte position, flipped, and every length, cut: refused, or (padding, time stamps) without consequence."""
    contents = example()
    data = to_bytes(contents)
    rng = random.Random(3)
    harmless = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= rng.choice((1, 0x80, 0xFF))
        try:
            again = loaded(bytes(damaged))
        except InvalidProgram:
            continue
        harmless += 1
        assert same(again, contents)
    assert harmless < 150
    for length in range(0, len(data), 3):
        with pytest.raises(InvalidProgram):
            loaded(data[:length])


def test_random_members_are_refused_or_right():
    """Members mutated behind right hashes reach the inner readers."""
    rng = random.Random(5)

    def mutate(data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            out[rng.randrange(min(len(out), 600))] = rng.randrange(256)
        return bytes(out)

    for k in range(600):
        change: dict = {("graph.txt", "weights.safetensors")[k % 2]: mutate}
        if k % 3 == 0:
            change = {"meta.json": lambda m: mutate(json.dumps(m).encode())}
        try:
            again = loaded(repacked(change))
        except InvalidProgram:
            continue
        assert isinstance(again.graph, Graph)
