"""`unload` and the limits of code memory: what is not needed goes, what runs stays, and nothing grows."""

import gc
import os
import sys
import threading
import weakref

import numpy as np
import pytest
from tracefuse.frontend.capture.tree import executables_of
from tracefuse.frontend.code_memory import CODE
from tracefuse.runtime.background import WORKER

import tracefuse as tr
from tracefuse import nn


def trained(x):
    return (x * 2 + 1).sum()


def branching(x):
    return x * 2 if x.sum() > 0 else x - 1


def codes(f):
    return [weakref.ref(e.code) for nodes in f._traces.values() for e in executables_of(nodes)]


@pytest.mark.parametrize("mode", ["default", "lazy"])
@pytest.mark.parametrize("function", [trained, branching])
def test_unload_frees_the_code_at_once(function, mode):
    f, x = tr.compile(function, mode=mode), tr.rand(4)
    for _ in range(6):
        f(x), f(x - 5)
        assert f.ready(60)
    thread = WORKER._thread
    if thread is not None:  # it may hold on to the last thing that it made
        thread.join(60)
    held = codes(f)
    assert held and all(c() is not None for c in held)
    gc.disable()
    try:
        f.unload()
        assert [c() for c in held] == [None] * len(held)
    finally:
        gc.enable()


def test_a_backward_that_is_to_come_keeps_its_code():
    net, x = nn.Linear(3, 3), tr.rand(2, 3)
    f = tr.compile(net)
    loss = f(x).sum()
    tr.compiled_function(f).unload()
    gc.collect()
    loss.backward()
    np.testing.assert_allclose(net.bias.grad.numpy(), [2, 2, 2])


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_rounds_of_compiling_and_unloading_hold_no_more_memory():
    f, x = tr.compile(lambda x: tr.tanh((tr.sin(x) @ x.T).sum(axis=-1))), tr.rand(16, 16)

    def rounds(n):
        for _ in range(n):
            f(x), f(x)
            f.unload()

    rounds(20)
    gc.collect()
    before = resident()
    rounds(100)
    gc.collect()
    assert resident() - before < 8 << 20  # one round's code and graphs, kept, would be some 20 times that


def test_unloading_while_others_call():
    f = tr.compile(lambda x: (x @ x).sum(axis=0) * 2)
    tree = tr.compile(branching)
    stop, errors = threading.Event(), []

    def call(k):
        x = tr.rand(32, 32) + k
        want, want_tree = (x @ x).sum(axis=0) * 2, branching(x)
        try:
            while not stop.is_set():
                np.testing.assert_allclose(f(x).numpy(), want.numpy(), rtol=1e-4)
                np.testing.assert_allclose(tree(x).numpy(), want_tree.numpy(), rtol=1e-4)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for _ in range(40):
        f.unload(), tree.unload()
        for g in (f, tree):
            for place, nodes in list(g._traces.items()):
                for node in list(nodes):
                    g.unload_tree(place, node)
        threading.Event().wait(0.02)
    stop.set()
    for t in threads:
        t.join()
    assert not errors, errors[0]


# ---- limits


def test_cache_info_is_complete():
    f = tr.compile(branching)
    f(tr.ones(3)), f(-tr.ones(3))
    info = f.cache_info()
    assert info["traces"] == 2 and info["compiles"] == 3 and info["pending"] == 0 and info["unloaded"] == 0
    assert 0 < info["code_bytes"] < 1 << 20 and 0 < info["seconds"] < 60
    f.unload()
    assert f.cache_info()["compiles"] == f.cache_info()["code_bytes"] == 0


def test_the_traces_called_last_are_kept():
    """With room for about three traces, and the first one called all the time."""
    once = tr.compile(trained, dynamic=False)
    once(tr.rand(10))
    limit = int(3.5 * once.cache_info()["code_bytes"])
    f = tr.compile(trained, dynamic=False, options={"code_limit": limit, "max_traces": 100})
    first = tr.rand(10)
    for n in range(10, 30):
        x = tr.rand(n)
        for _ in range(3):
            f(first)
            np.testing.assert_allclose(f(x).numpy(), trained(x).numpy(), rtol=1e-5)
    info = f.cache_info()
    assert info["code_bytes"] <= limit and info["unloaded"] == 20 - info["traces"] and info["traces"] >= 2
    assert info["misses"] == 20, "the one that is called most was never made again"
    assert info["hits"] == 20 * 6 - 20 and info["compiles"] == 20
    f(tr.rand(11))
    assert f.cache_info()["misses"] == 21


def test_the_process_has_a_limit(monkeypatch):
    f, g = (tr.compile(lambda x, k=k: x * k + 1) for k in range(2))
    f(tr.rand(3)), f(tr.rand(3))
    held = codes(f)
    monkeypatch.setenv("TRACEFUSE_CODE_LIMIT", "1")
    g(tr.rand(3)), g(tr.rand(3))
    gc.collect()
    assert f.cache_info()["traces"] == 0 and f.cache_info()["unloaded"] == 1 and held[0]() is None
    assert g.cache_info()["traces"] == 1, "what is needed now is there, whatever the limit"
    f(tr.rand(3))
    assert f.cache_info()["traces"] == 1


def test_trees_go_as_a_whole(monkeypatch):
    f, x = tr.compile(branching), tr.ones(3)
    for _ in range(3):
        f(x), f(-x)
    held = codes(f)
    monkeypatch.setenv("TRACEFUSE_CODE_LIMIT", "1")
    g = tr.compile(trained)
    g(x)
    assert f.cache_info()["unloaded"] == 2 and all(c() is None for c in held)
    np.testing.assert_array_equal(f(-x).numpy(), [-2, -2, -2])


def test_functions_that_are_gone_are_not_counted():
    f = tr.compile(trained)
    f(tr.rand(3))
    assert f in CODE.functions
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None
