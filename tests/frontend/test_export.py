"""`tr.export`: programs that equal the compiled function bit for bit, on disk and in processes without its source."""

import io
import json
import subprocess
import sys
import zipfile
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
from tracefuse.frontend.export import Dim, ExportError, InvalidProgram, Program, export, load
from tracefuse.frontend.nn import functional as F
from tracefuse.ir import serial

import tracefuse as tr
from tracefuse import nn

Point = namedtuple("Point", "x y")


@dataclass
class Pair:
    a: object
    b: object


class Block(nn.Module):
    """A transformer block, written as users do: sizes are unpacked and reshaped with."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads = heads
        self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, time, width = x.shape
        parts = self.qkv(self.n1(x)).reshape(batch, time, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.permute(0, 2, 1, 3).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.n2(x))))


def mlp():
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def conv_net():
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


NETS = {
    "mlp": (mlp, "input", (8, 16)),
    "conv": (conv_net, "input", (4, 1, 8, 8)),
    "block": (Block, "x", (2, 6, 32)),
    "encoder": (lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), "src", (2, 6, 32)),
}


def made(name):
    make, path, shape = NETS[name]
    tr.manual_seed(0)
    return make().eval(), path, tr.rand(*shape)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


# ------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("name", NETS)
def test_a_program_equals_the_compiled_module(name, tmp_path):
    net, _, x = made(name)
    with tr.no_grad():
        want = tr.compile(net, fullgraph=True)(x)
    program = export(net, (x,))
    same(program(x), want)
    program.save(tmp_path / "net.tfx")
    loaded = tr.load(tmp_path / "net.tfx")
    same(loaded(x), want)
    assert str(loaded) == str(program) and repr(loaded) == repr(program)
    loaded.save(tmp_path / "again.tfx")
    assert (tmp_path / "again.tfx").read_bytes() == (tmp_path / "net.tfx").read_bytes()


@pytest.mark.parametrize("name", NETS)
def test_a_dynamic_batch_runs_at_every_size(name, tmp_path):
    net, path, x = made(name)
    program = export(net, (x,), dynamic={path: {0: "batch"}})
    program.save(tmp_path / "net.tfx")
    loaded = load(tmp_path / "net.tfx")
    for n in (1, 3, 8):
        other = tr.rand(n, *x.shape[1:])
        with tr.no_grad():
            want = net(other)
        np.testing.assert_allclose(np.asarray(program(other)), np.asarray(want), rtol=1e-4, atol=1e-5)
        same(program(other), loaded(other))


def test_two_dynamic_sizes():
    net, _, x = made("block")
    program = export(net, (x,), dynamic={"x": {0: "batch", 1: Dim("time", max=64)}})
    for shape in ((1, 1, 32), (3, 9, 32), (2, 40, 32)):
        other = tr.rand(*shape)
        with tr.no_grad():
            np.testing.assert_allclose(np.asarray(program(other)), np.asarray(net(other)), rtol=1e-4, atol=1e-5)


def test_a_new_process_needs_no_source(tmp_path):
    net, _, x = made("conv")
    program = export(net, (x,), dynamic={"input": {0: "batch"}})
    program.save(tmp_path / "net.tfx")
    np.save(tmp_path / "x.npy", x.numpy())
    script = (
        "import sys, numpy as np, tracefuse as tr\n"
        "np.save(sys.argv[3], np.asarray(tr.load(sys.argv[1])(np.load(sys.argv[2]))))"
    )
    files = [str(tmp_path / f) for f in ("net.tfx", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", script, *files], check=True, cwd=tmp_path)
    same(np.load(tmp_path / "y.npy"), program(x))


def test_a_program_keeps_the_parameters_of_its_time():
    net = nn.Linear(4, 2)
    x = tr.rand(3, 4)
    program = export(net, (x,))
    want = np.asarray(program(x))
    with tr.no_grad():
        net.weight.zero_()
    same(program(x), want)


# ------------------------------------------------------------------ arguments and results


def test_nested_arguments_and_results(tmp_path):
    def f(batch, scale, *, flag=True):
        a, (b, c) = batch["a"], batch["rest"]
        return {"sum": a + b * scale, "parts": [Point(c, 3), (a, "text")], "flag": flag, "nothing": None}

    batch = {"a": tr.rand(3), "rest": (tr.rand(3), np.arange(3, dtype=np.float32))}
    program = export(f, (batch, 0.5), {"flag": False})
    program.save(tmp_path / "f.tfx")
    for p in (program, load(tmp_path / "f.tfx")):
        out = p(batch, 0.25, flag=False)
        same(out["sum"], np.asarray(batch["a"]) + np.asarray(batch["rest"][0]) * np.float32(0.25))
        assert isinstance(out["sum"], tr.Tensor) and out["flag"] is False and out["nothing"] is None
        assert out["parts"][0].x is batch["rest"][1] and out["parts"][0].y == 3
        assert type(out["parts"][0]).__name__ == "Point" and out["parts"][1] == (batch["a"], "text")
        assert "batch['a']: f32[3]" in repr(p) and "scale: f64[]" in repr(p)


def test_arguments_by_name():
    program = export(lambda x, y: x - y, (tr.ones(2), tr.zeros(2)))
    a, b = tr.rand(2), tr.rand(2)
    same(program(y=b, x=a), program(a, b))
    same(program(a, y=b), program(a, b))
    with pytest.raises(TypeError, match="other arguments"):
        program(a)
    with pytest.raises(TypeError, match="other arguments"):
        program(a, b, z=1)


def test_dataclasses_come_back_as_records():
    program = export(lambda p: Pair(p.b, p.a * 2), (Pair(tr.ones(2), tr.zeros(3)),))
    out = program(Pair(tr.ones(2), tr.ones(3)))
    assert type(out).__name__ == "Pair"
    same(out.a, np.ones(3))
    same(out.b, np.full(2, 2))


def test_ndarrays_in_ndarrays_out():
    program = export(lambda x: np.exp(x) + 1, (np.zeros(3),))
    out = program(np.ones(3))
    assert type(out) is np.ndarray and out.dtype == np.float64
    np.testing.assert_allclose(out, np.e + 1)


def test_an_argument_changed_in_place_is_changed():
    def f(x):
        x += 1
        return x, x[0]

    program = export(f, (tr.zeros(3),))
    x = tr.zeros(3)
    whole, first = program(x)
    assert whole is x and first.item() == 1
    same(x, np.ones(3))


def test_unused_and_fixed_arguments():
    program = export(lambda x, n, unused: x * n, (tr.ones(2), 3, tr.ones(5)))
    same(program(tr.ones(2), 3, None), np.full(2, 3))
    with pytest.raises(ValueError, match="n was exported as 3, not 4"):
        program(tr.ones(2), 4, None)


def test_wrong_arguments_are_named():
    program = export(lambda x: x * 2, (tr.ones(2, 3),), dynamic={"x": {0: Dim("rows", 1, 4)}})
    with pytest.raises(TypeError, match=r"x must be a tensor f32\[rows, 3\], not float64\[2, 3\]"):
        program(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"x must be a tensor f32\[rows, 3\], not of shape \[2, 4\]"):
        program(tr.ones(2, 4))
    with pytest.raises(ValueError, match=r"rows is 5, not in \[1, 4\]"):
        program(tr.ones(5, 3))
    with pytest.raises(TypeError, match="must be a tensor"):
        program("text")


def test_equal_names_are_one_size():
    program = export(lambda x, y: x + y, (tr.ones(2, 3), tr.ones(2, 3)), dynamic={"x": {0: "n"}, "y": {0: "n"}})
    same(program(tr.ones(5, 3), tr.ones(5, 3)), np.full((5, 3), 2))
    with pytest.raises(ValueError, match="y has shape"):
        program(tr.ones(5, 3), tr.ones(4, 3))


def test_an_index_out_of_range_is_an_error():
    table = tr.rand(5, 2)
    program = export(lambda i: F.embedding(i, table), (tr.tensor([0, 1]),))
    same(program(tr.tensor([4, 2])), np.asarray(table)[[4, 2]])
    with pytest.raises(IndexError, match="out of range"):
        program(tr.tensor([0, 5]))


# ------------------------------------------------------------------ what can't be exported


def test_refusals_name_the_line_and_the_cure():
    with pytest.raises(ExportError, match="test_export.py.*needs the value"):
        export(lambda x: float(x.sum()), (tr.ones(2),))
    with pytest.raises(ExportError, match=r"writes .*call .eval\(\) first"):
        export(conv_net(), (tr.rand(4, 1, 8, 8),))
    with pytest.raises(ExportError, match=r"draws random numbers.*call .eval\(\) first"):
        export(nn.Dropout(0.5), (tr.ones(4),))
    with pytest.raises(ExportError, match="same tensor"):
        x = tr.ones(2)
        export(lambda a, b: a + b, (x, x))
    with pytest.raises(ExportError, match="a object"):
        export(lambda a, b: a, (tr.ones(2), object()))
    with pytest.raises(TypeError, match="needed"):
        export(3, ())


def test_dynamic_sizes_that_do_not_fit():
    x = tr.ones(2, 3)
    for dynamic, message in (
        ({"z": {0: "n"}}, "no argument 'z'; there are x"),
        ({"x": {2: "n"}}, "no axis 2"),
        ({"x": {0: "n", 1: "n"}}, "is 2 at one place and 3"),
        ({"x": {0: Dim("n", 5)}}, "outside the range"),
    ):
        with pytest.raises(ExportError, match=message):
            export(lambda x: x, (x,), dynamic=dynamic)
    with pytest.raises(ValueError, match="identifier"):
        Dim("not a name")
    with pytest.raises(ValueError, match="no range"):
        Dim("n", 3, 2)


def test_a_size_that_decides_what_is_computed_is_refused():
    def by_size(x):
        return x * 2 if x.shape[0] == 8 else x

    def by_order(x):
        return x * 2 if x.shape[0] > 8 else x

    for f in (by_size, by_order):
        with pytest.raises(ExportError, match=r"test_export.py.*depends on the symbolic size"):
            export(f, (tr.ones(2),), dynamic={"x": {0: "n"}})
        same(export(f, (tr.ones(9),), dynamic={"x": {0: Dim("n", 9)}})(tr.ones(10)), f(tr.ones(10)))


# ------------------------------------------------------------------ files


def program_bytes():
    out = io.BytesIO()
    serial.write(out, export(mlp(), (tr.rand(3, 16),), dynamic={"input": {0: "batch"}}).contents)
    return out.getvalue()


def test_damaged_files_are_invalid_programs(tmp_path):
    good = program_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "bad.tfx"
    cut = [good[:n] for n in (0, 1, 100, len(good) // 2, len(good) - 1)]
    flipped = []
    for at in rng.integers(0, len(good), 60):
        changed = bytearray(good)
        changed[at] ^= 1 << int(rng.integers(8))
        flipped.append(bytes(changed))
    refused = 0
    for data in [*cut, *flipped]:
        path.write_bytes(data)
        try:
            load(path)
        except InvalidProgram as e:
            assert "bad.tfx" in str(e)
            refused += 1
    assert refused >= len(cut) + 50  # some bits of a zip file mean nothing


def test_other_files_are_invalid_programs(tmp_path):
    path = tmp_path / "other.tfx"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("hello.txt", "hello")
    with pytest.raises(InvalidProgram):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.tfx")


INPUTS = {
    "not a dict": lambda i, o: ([], o),
    "no leaves": lambda i, o: ({**i, "leaves": []}, o),
    "a deep tree": lambda i, o: ({**i, "tree": json.loads('{"list": [' * 300 + "]}" * 300)}, o),
    "a bad record": lambda i, o: ({**i, "tree": {"record": "os; import", "fields": []}}, o),
    "no such input": lambda i, o: ({**i, "leaves": [{**i["leaves"][0], "input": 7}]}, o),
    "a wrong kind": lambda i, o: ({**i, "leaves": [{**i["leaves"][0], "kind": "file"}]}, o),
    "a number": lambda i, o: ({**i, "leaves": [{**i["leaves"][0], "kind": "number"}]}, o),
    "names that are none": lambda i, o: ({**i, "positional": [3]}, o),
    "no results": lambda i, o: (i, {}),
    "no such output": lambda i, o: (i, {**o, "leaves": [{"kind": "tensor", "output": -1}]}),
    "no such argument": lambda i, o: (i, {**o, "leaves": [{"argument": "x"}]}),
    "too many results": lambda i, o: (i, {**o, "leaves": o["leaves"] * 2}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_descriptions_that_do_not_fit_the_graph_are_refused(name):
    contents = export(mlp(), (tr.rand(3, 16),)).contents
    inputs, outputs = INPUTS[name](contents.inputs, contents.outputs)
    with pytest.raises(InvalidProgram):
        Program(serial.Contents(contents.graph, inputs=inputs, outputs=outputs))
