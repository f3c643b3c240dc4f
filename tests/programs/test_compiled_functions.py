"""Compiled functions as objects: copies, pickles, threads, and where their source may come from."""

import copy
import linecache
import pickle
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tracefuse as tr
from tracefuse import nn

sys.path.insert(0, str(Path(__file__).parent))
from stateful import Box, described, vector  # noqa: E402


@tr.compile
def importable(x):
    return x * 2


def test_compiled_functions_pickle_by_reference():
    assert pickle.loads(pickle.dumps(importable)) is importable and copy.deepcopy(importable) is importable
    with pytest.raises(TypeError, match="compile it again"):
        pickle.dumps(tr.compile(lambda x: x))


def test_compiled_modules_stay_compiled_when_copied_and_pickled():
    from tracefuse.frontend.compile import is_compiled

    net = tr.compile(nn.Linear(3, 2), fullgraph=True)
    x = tr.ones((1, 3))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert is_compiled(twin) and isinstance(twin, nn.Linear) and twin.weight is not net.weight
        assert twin(x).tolist() == net(x).tolist()


def test_disabled_functions_stay_in_plain_python():
    traced = []

    @tr.compile
    def inner(x):
        traced.append(isinstance(tr.Tensor, type))
        return x + 1

    @tr.disable
    def plain(x):
        return float(inner(x).sum())

    @tr.compile
    def f(x):
        return x * plain(x)

    with pytest.warns(tr.CaptureWarning, match="disable"):
        assert f(vector(0)).tolist() == (vector(0) * plain(vector(0))).tolist()
    with tr.disable():
        inner(vector(0))
    assert inner.cache_info()["traces"] == 0 and plain.__name__ == "plain"
    inner(vector(0))
    inner(vector(0))
    with tr.disable():
        inner(vector(0))
    info = inner.cache_info()
    assert info["traces"] == 1 and info["hits"] == 1


def test_threads_share_a_compiled_function():
    box = Box(log=[])

    def f(x):
        box.log.append(x.sum())
        return x * 2

    compiled = tr.compile(f, fullgraph=True)
    threads = [threading.Thread(target=lambda: [compiled(vector(i)) for i in range(50)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(box.log) == 200 and all(type(v) is tr.Tensor and float(v) > 0 for v in box.log)


def test_source_that_only_linecache_knows():
    text = "def made(x, log):\n    log.append(x * 2)\n    return x + 1\n"
    linecache.cache["<cell 1>"] = (len(text), None, text.splitlines(True), "<cell 1>")
    space: dict = {}
    exec(compile(text, "<cell 1>", "exec"), space)
    compiled, log = tr.compile(space["made"], fullgraph=True), []
    assert compiled(vector(0), log).tolist() == (vector(0) + 1).tolist() and len(log) == 1


def test_relative_imports_inside():
    import tracefuse.frontend.demo as demo

    text = "def f(x):\n    from . import large\n    from .costs import kernel_cost\n    return x * 2\n"
    linecache.cache["<cell 2>"] = (len(text), None, text.splitlines(True), "<cell 2>")
    space = {"__package__": demo.__package__, "__name__": "some.module"}
    exec(compile(text, "<cell 2>", "exec"), space)
    assert tr.compile(space["f"], fullgraph=True)(vector(0)).tolist() == (vector(0) * 2).tolist()


def test_opaque_functions_are_steps_of_the_graph():
    seen = []

    @tr.allow_in_graph
    def halves(x, k=2):
        seen.append(x.shape)
        a = np.asarray(x) / k
        return tr.tensor(a), {"sum": tr.tensor(a.sum())}

    def f(x):
        a, d = halves(x * 2, k=4)
        return a + d["sum"] * x, halves(x)[0]

    compiled = tr.compile(f, fullgraph=True)
    for i in range(3):
        assert described(compiled(vector(i))) == described(f(vector(i)))
    assert compiled.cache_info()["traces"] == 1 and halves.__name__ == "halves"
    w = tr.ones(3, requires_grad=True)
    with pytest.raises(tr.CaptureError, match="gradient"):
        compiled(w)
