"""TRACEFUSE_DEBUG says what happens, TRACEFUSE_DUMP keeps what was made."""

import os
import warnings
from pathlib import Path

import pytest
from tracefuse.frontend.compile import CaptureWarning
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.ops import add, argsort, exp
from tracefuse.ir.types import TensorType
from tracefuse.runtime import dump
from tracefuse.runtime.executable import build

import tracefuse as tr

scale = 2


def graph(name: str = "small"):
    b = GraphBuilder(name)
    x = b.input(TensorType(float32, (3,)), "x")
    return b.finish((add(exp(x), x), argsort(exp(x), axis=0)))


@pytest.fixture
def lines(monkeypatch, capsys):
    """What was printed since the last call, with TRACEFUSE_DEBUG=1."""
    monkeypatch.setenv("TRACEFUSE_DEBUG", "1")

    def read():
        out = capsys.readouterr()
        assert not out.out
        return out.err.splitlines()

    return read


def test_nothing_is_printed_by_default(monkeypatch, capsys):
    monkeypatch.delenv("TRACEFUSE_DEBUG", raising=False)
    tr.compile(lambda x: x + 1)(tr.ones(2))
    assert capsys.readouterr().err == ""


def test_captures_and_compiles(lines):
    f = tr.compile(lambda x: tr.sort(tr.exp(x)) * 2)
    f(tr.rand(3))
    captured, compiled = lines()
    assert captured.startswith("tracefuse: <lambda>: captured in ") and " nodes, 1 inputs, " in captured
    assert compiled.startswith("tracefuse: <lambda>: compiled in ") and "passes" in compiled and "link" in compiled
    assert ": 2 kernels, " in compiled and compiled.endswith("from the cache on disk; on the host: argsort")
    f(tr.rand(3))
    assert lines() == []


def test_why_a_function_is_traced_again(lines, monkeypatch):
    @tr.compile
    def f(x, k=1):
        return x * scale * k

    def again(*args, **kwargs):
        f(*args, **kwargs)
        why, captured, compiled = lines()
        assert "captured" in captured and "compiled" in compiled
        return why.removeprefix("tracefuse: f: traced again, because ")

    f(tr.rand(3), 1)
    lines()
    assert again(tr.rand(4), 1) == "x has shape (4,), not (3,)"
    assert again(tr.rand(4), 2) == "k is 2 now"
    assert "nested in another way" in again(tr.rand(4), k=2)
    with tr.no_grad():
        assert "gradients are on or off" in again(tr.rand(4), 2)
    monkeypatch.setitem(globals(), "scale", 3)
    why = again(tr.rand(4), 2)
    assert "scale" in why and "== 2 no longer holds: it is 3 now" in why


def test_a_tensor_that_changes_is_shown(lines):
    held = [tr.rand(3)]
    f = tr.compile(lambda x: x * held[0])
    f(tr.rand(3))
    lines()
    held[0] = tr.rand(1)
    f(tr.rand(3))
    assert "traced again, because " in lines()[0]


def test_fallbacks(lines):
    f = tr.compile(lambda x: x.tolist())
    with pytest.warns(CaptureWarning):
        f(tr.ones(2))
    (line,) = lines()
    assert "runs as plain Python: test_debug.py:" in line and "needs the value of a tensor" in line


def test_higher_levels_print_the_code(monkeypatch, capsys):
    seen = []
    for level in "12345":
        monkeypatch.setenv("TRACEFUSE_DEBUG", level)
        build(graph())
        seen.append(capsys.readouterr().err)
    marks = ["compiled in", "graph @small", "plan @small", "define", ".text"]
    for k, text in enumerate(seen):
        assert [m in text for m in marks] == [i <= k for i in range(5)]


def test_garbage_names_the_variable(monkeypatch):
    monkeypatch.setenv("TRACEFUSE_DEBUG", "lots")
    with pytest.raises(ValueError, match="TRACEFUSE_DEBUG='lots' is not an integer"):
        build(graph())


# ------------------------------------------------------------------ folders


def test_each_graph_gets_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACEFUSE_DUMP", str(tmp_path / "new" / "folder"))
    e = build(graph())
    build(graph())  # the same files: nothing new
    build(graph("other/../name"))
    first, second = sorted((tmp_path / "new" / "folder").iterdir())
    assert first.name.startswith("other____name-") and second.name.startswith("small-")
    files = {f.name: f.read_text() for f in second.iterdir()}
    kernels = {s.kernel.name for s in e.plan.kernel_steps}
    assert files.keys() == {"graph.txt", "optimized.txt", "kernels.txt", "plan.txt", "plan.ll", "plan.s"} | {
        f"{k}{end}" for k in kernels for end in (".ll", ".s")
    }
    assert files["graph.txt"].strip() == str(e.graph) and files["optimized.txt"].strip() == str(e.report.graph)
    assert all(k in files["kernels.txt"] and k in files["plan.txt"] for k in kernels)
    assert "schedule" in files["kernels.txt"]
    assert "host argsort" in files["plan.txt"] and "no kernel computes argsort" in files["plan.txt"]
    for k in kernels:
        assert "define" in files[f"{k}.ll"] and ".text" in files[f"{k}.s"]


def test_kernels_from_the_cache_on_disk_have_their_text_too(tmp_path, monkeypatch):
    from tracefuse.runtime import executable

    build(graph())
    executable._compiled.clear()
    monkeypatch.setenv("TRACEFUSE_DUMP", str(tmp_path))
    e = build(graph())
    assert e.hits
    (folder,) = tmp_path.iterdir()
    assert all("define" in f.read_text() for f in folder.glob("*.ll"))


def test_a_folder_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "_warned", False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACEFUSE_DUMP", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="TRACEFUSE_DUMP=.*graphs are not written"):
        build(graph())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(graph())


def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "_warned", False)
    monkeypatch.setenv("TRACEFUSE_DUMP", str(tmp_path))
    write = Path.write_text

    def full(self, *args, **kwargs):
        if self.name == "plan.txt":
            raise OSError(28, os.strerror(28))
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        build(graph())
    assert list(tmp_path.iterdir()) == []
