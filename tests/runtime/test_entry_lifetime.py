"""CompiledFunction: nothing leaks, nothing in use is freed, threads and children of a fork go on."""

import functools
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from runtime_helpers import Tensor, affine_text, function_of, miss, missed, references, spec_of, vector
from tracefuse.runtime import entry
from tracefuse.runtime.trace_spec import Result

KINDS = pytest.mark.parametrize("native", [True, False], ids=["native", "python"])


@pytest.fixture(autouse=True)
def tensors():
    entry.configure(Tensor)


@KINDS
@pytest.mark.parametrize("release", [False, True])
def test_nothing_leaks(native, release):
    x, y = vector(), vector()
    other = object()
    results = (Result("tensor"), Result("argument", 1), Result("object", object=other), Result("again", 0))
    f = function_of(native, spec_of(2, results=results, structure="tuple", release_gil=release, arena=100))
    watched = (x, y, x._data, y._data, other, Tensor, miss, entry.traces(f)[0], f._chain)
    f(x, y), f(1), f(x, k=1)
    before = [sys.getrefcount(w) for w in watched]
    for _ in range(500):
        f(x, y), f(1), f(x, k=1)
    assert [sys.getrefcount(w) for w in watched] == before
    r = f(x, y)[0]
    assert gc.is_tracked(r) and references(r) == 1


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_calls_hold_no_more_memory():
    f = function_of(True, spec_of(3, arena=1000))
    x = vector()
    for _ in range(10_000):
        f(x, x, x)
    before = resident()
    for _ in range(1_000_000):
        f(x, x, x)
    assert resident() - before < 1 << 20


@KINDS
def test_a_function_in_a_cycle_is_collected(native):
    f = entry.new_function(miss, native=native)
    f.me = f
    f._miss = functools.partial(miss, f)
    entry.add_trace(f, spec_of(results=(Result("object", object=[f]),)))
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None


class Kept:
    """Stands for code: something whose death can be seen."""


@KINDS
def test_what_a_trace_keeps_goes_when_it_is_cleared(native):
    kept = Kept()
    gone = weakref.ref(kept)
    f = function_of(native, replace(spec_of(), keep=(kept, spec_of().keep)))
    del kept
    f(vector())
    gc.collect()
    assert gone() is not None
    entry.clear(f)
    gc.collect()
    assert gone() is None


@KINDS
def test_what_is_in_use_stays_until_the_call_is_over(native):
    kept = Kept()
    gone = weakref.ref(kept)
    seen = []

    def finish(results):
        entry.clear(f)
        gc.collect()
        seen.append(gone() is not None)
        return results[0]

    f = function_of(native, replace(spec_of(), keep=(kept, spec_of().keep), structure=finish))
    del kept
    assert f(vector())._data[1] == 2 and seen == [True]
    del finish
    gc.collect()
    assert gone() is None


def test_other_threads_run_meanwhile():
    f = function_of(True, spec_of(spin=300_000_000, release_gil=True))
    ticks, done = [], threading.Event()
    caller = threading.Thread(target=lambda: (f(vector()), done.set()))
    caller.start()
    time.sleep(0.005)
    while not done.is_set():
        ticks.append(1)
        time.sleep(0.001)
    caller.join()
    assert len(ticks) > 5


def hammer(seconds):
    """Eight threads call while a ninth adds traces with code of their own and takes them away again."""
    text = affine_text(2, 16, scratch=True, spin=50)
    from tracefuse.backends.llvm import engine

    data = engine.compile_object(text, engine.host_target())
    f = function_of(True)
    stop, errors, served = threading.Event(), [], [0] * 8

    def call(k):
        x, y = vector(start=k), vector()
        expected = x._data + y._data + 1
        try:
            while not stop.is_set():
                r = f(x, y)
                if not missed(r):
                    served[k] += 1
                    assert (r._data == expected).all()
        except BaseException as error:
            errors.append(error)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for t in callers:
        t.start()
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end and not errors:
        code = engine.link([data])
        entry.add_trace(
            f,
            spec_of(
                2, plan=code.address("plan"), keep=(code,), arena=64 + rounds % 7 * 300, release_gil=rounds % 2 == 0
            ),
        )
        del code
        time.sleep(0.002)
        entry.clear(f)
        rounds += 1
    stop.set()
    for t in callers:
        t.join()
    assert not errors, errors[0]
    assert rounds > 10 and sum(served) > 100


def test_unloading_while_others_call():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        hammer(2)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.slow
def test_unloading_while_others_call_for_long():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        hammer(30)
    finally:
        sys.setswitchinterval(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_goes_on_calling():
    f = function_of(True, spec_of(2, arena=100, release_gil=True))
    x = vector()
    f(x, x)
    pid = os.fork()
    if pid == 0:
        ok = f(x, x)._data[1] == 3 and missed(f(1))
        entry.clear(f)
        os._exit(0 if ok and missed(f(x, x)) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_the_interpreter_ends_cleanly():
    here = str(Path(__file__).parent)
    code = f"""
import sys, threading; sys.path.insert(0, {here!r})
import runtime_helpers, numpy as np
from tracefuse.runtime import entry
from tracefuse.runtime.trace_spec import *
class T:
    __slots__ = ("_data", "__weakref__")
entry.configure(T)
F = np.dtype("f4"); code = runtime_helpers.build(runtime_helpers.affine_text(1, 16, spin=1000))
f = entry.new_function(lambda *a: None)
args, outputs = (ArrayArg(0, F, (16,)),), (Output(1, F, (16,)),)
spec = TraceSpec(code.address("plan"), args, 2, outputs, (Result("tensor"),), release_gil=True, keep=(code,))
entry.add_trace(f, spec)
x = T(); x._data = np.zeros(16, F)
def forever():
    while True: f(x)
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
for _ in range(1000): f(x)
print(f(x)._data[0])
"""
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (ended.returncode, ended.stdout) == (0, "1.0\n"), ended.stderr
