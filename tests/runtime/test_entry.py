"""CompiledFunction: guards, results, lifetime. Everything holds for the native entry and for the one in Python."""

import functools
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracefuse.runtime import entry, memory
from tracefuse.runtime.trace_spec import (
    ABSENT,
    ArrayArg,
    Constant,
    DictGuard,
    EqualArg,
    Output,
    Result,
    ScalarArg,
    Slot,
    State,
    StaticArg,
    TraceSpec,
    Word,
)  # fmt: skip

_spec = importlib.util.spec_from_file_location("runtime_kernels", Path(__file__).with_name("kernels.py"))
assert _spec and _spec.loader
kernels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kernels)

F4 = np.dtype("f4")
KINDS = pytest.mark.parametrize("native", [True, False], ids=["native", "python"])


class Tensor:
    __slots__ = ("_data", "_grad", "_node", "_requires_grad", "_base", "_view", "_version", "__weakref__")

    def __init__(self, data, requires_grad=None):
        self._data, self._requires_grad = data, requires_grad


class Parameter(Tensor):
    __slots__ = ()


@pytest.fixture(autouse=True)
def tensors():
    entry.configure(Tensor)


def miss(*args, **kwargs):
    return ("miss", args, kwargs)


def missed(answer):
    return type(answer) is tuple and len(answer) == 3 and answer[0] == "miss"


def references(tensor):
    """How many there are to the tensor's array, itself included."""
    return sys.getrefcount(tensor._data) - 1


def vector(n=16, start=0.0):
    return Tensor(np.arange(n, dtype="f4") + np.float32(start))


def spec_of(inputs=1, size=16, symbol="plan", **changes):
    """Sum of the inputs plus one; `changes` replace fields of the spec."""
    text = {k: changes.pop(k) for k in ("status", "spin", "scratch") if k in changes}
    code = kernels.build(kernels.affine_text(inputs, size, **text))
    shape = (size if size is not None else Slot(0),)
    fields = dict(
        plan=code.address(symbol),
        args=tuple(ArrayArg(k, F4, shape) for k in range(inputs)),
        values=inputs + 1,
        outputs=(Output(inputs, F4, shape),),
        results=(Result("tensor"),),
        dims=1 if size is None else 0,
        keep=(code,),
    )
    return TraceSpec(**(fields | changes))  # type: ignore[arg-type]


def function_of(native, *specs, to=miss):
    f = entry.new_function(to, native=native)
    for s in specs:
        entry.add_trace(f, s)
    return f


def test_it_is_native_here():
    if sys.platform == "linux":
        assert entry.is_native(), entry.why_not_native()


@KINDS
def test_without_traces_everything_goes_to_miss(native):
    f = function_of(native)
    assert f(1, 2, k=3) == ("miss", (1, 2), {"k": 3})
    assert f() == ("miss", (), {})
    assert f(*range(100), **{str(k): k for k in range(50)})[1] == tuple(range(100))


@KINDS
def test_a_call_that_a_trace_serves(native):
    f = entry.new_function(miss, native=native)
    trace = entry.add_trace(f, spec_of(3))
    x, y, z = vector(), vector(start=1), vector(start=2)
    r = f(x, y, z)
    assert type(r) is Tensor
    np.testing.assert_array_equal(r._data, x._data + y._data + z._data + 1)
    assert r._node is None and r._requires_grad is None and r._version is None
    assert r._data.base is None and r._data.flags.owndata
    assert trace.hits == 1 and entry.traces(f) == (trace,)


@KINDS
@pytest.mark.parametrize(
    "arg",
    [
        vector()._data, None, 3, Parameter(np.zeros(16, "f4")), Tensor(np.zeros(17, "f4")), Tensor(np.zeros((4, 4), "f4")),
        Tensor(np.zeros((), "f4")), Tensor(np.zeros(16, "f8")), Tensor(np.zeros(16, "i4")), Tensor(np.zeros(16, ">f4")),
        Tensor(np.zeros(32, "f4")[::2]), Tensor(np.zeros(16, "f4")[::-1]), Tensor(np.zeros(0, "f4")), Tensor(None),
        Tensor(np.frombuffer(b"\0" * 65, "f4", 16, 1)), Tensor(np.ma.zeros(16, "f4")),
        Tensor("data"), Tensor.__new__(Tensor),
    ],
    ids=repr,
)  # fmt: skip
def test_what_the_guards_refuse(native, arg):
    f = function_of(native, spec_of())
    assert missed(f(arg))
    assert not missed(f(vector()))


@KINDS
def test_the_wrong_number_of_arguments(native):
    f = function_of(native, spec_of(2))
    x = vector()
    assert missed(f(x)) and missed(f(x, x, x)) and missed(f()) and missed(f(x, b=x)) and missed(f(x, x, k=1))
    assert not missed(f(x, x))


@KINDS
def test_the_first_trace_that_serves(native):
    short, long = spec_of(size=8), spec_of(size=16)
    f = function_of(native, short, long)
    assert f(vector(8))._data.shape == (8,) and f(vector(16))._data.shape == (16,) and missed(f(vector(9)))
    assert [t.hits for t in entry.traces(f)] == [1, 1]
    entry.add_trace(f, replace(spec_of(size=16), results=(Result("object", object="first"),)), first=True)
    assert f(vector(16)) == "first"
    entry.remove_trace(f, entry.traces(f)[0])
    assert f(vector(16)) != "first"
    entry.clear(f)
    assert missed(f(vector(16)))


@KINDS
def test_symbolic_sizes(native):
    f = function_of(native, spec_of(2, size=None))
    for n in (2, 3, 100, 5000):
        np.testing.assert_array_equal(f(vector(n), vector(n))._data, 2 * np.arange(n, dtype="f4") + 1)
    assert missed(f(vector(3), vector(4)))
    assert missed(f(vector(1), vector(1))) and missed(f(vector(0), vector(0)))
    bounded = function_of(native, spec_of(size=None, args=(ArrayArg(0, F4, (Slot(0, 4, 8),)),)))
    assert [missed(bounded(vector(n))) for n in (3, 4, 8, 9)] == [True, False, False, True]


@KINDS
def test_derived_sizes(native):
    code = kernels.build(kernels.affine_text(1, None))
    out = Output(1, F4, (Slot(1),))
    f = function_of(native, spec_of(size=None, dims=2, derive=code.address("derive"), outputs=(out,)))
    assert f(vector(6))._data.shape == (12,)
    assert missed(f(vector(7)))


@KINDS
def test_strides(native):
    f = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,), strides=(8,)),)))
    assert not missed(f(Tensor(np.zeros(32, "f4")[::2]))) and missed(f(vector()))


@KINDS
def test_writeable_where_it_is_written(native):
    x = vector()
    x._data.flags.writeable = False
    assert not missed(function_of(native, spec_of())(x))
    assert missed(function_of(native, spec_of(args=(ArrayArg(0, F4, (16,), writeable=True),)))(x))


@KINDS
def test_ndarrays(native):
    f = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,), tensor=False),), results=(Result("array"),)))
    r = f(vector()._data)
    assert type(r) is np.ndarray and r[3] == 4 and missed(f(vector()))


@KINDS
def test_bfloat16(native):
    import ml_dtypes

    dtype = np.dtype(ml_dtypes.bfloat16)
    args, outputs = (ArrayArg(0, dtype, (32,)),), (Output(1, dtype, (32,)),)
    f = function_of(native, spec_of(args=args, outputs=outputs))
    assert f(Tensor(np.zeros(32, dtype)))._data.dtype == dtype
    assert missed(f(Tensor(np.zeros(32, "f2"))))


@KINDS
def test_static_and_equal_arguments(native):
    flag = object()
    rest = (StaticArg(None), StaticArg(flag), EqualArg(2**70), EqualArg("sum"), EqualArg(0.0))
    f = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,)), *rest)))
    x = vector()
    assert not missed(f(x, None, flag, 2**70, "su" + "m"[:1], 0.0))
    wrong = [(None, flag, 2**70, "sum", -0.0), (None, flag, 2**70, "sum", 0), (None, flag, 2**70 + 1, "sum", 0.0)]
    wrong += [(None, object(), 2**70, "sum", 0.0), (False, flag, 2**70, "sum", 0.0), (None, flag, 2**70, b"sum", 0.0)]
    assert all(missed(f(x, *w)) for w in wrong)
    one = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,)), EqualArg(1))))
    assert missed(one(x, True)) and missed(one(x, 1.0)) and not missed(one(x, 1))
    nan = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,)), EqualArg(float("nan")))))
    assert not missed(nan(x, float("nan")))


@KINDS
def test_scalars_and_states(native):
    p = vector()
    spec = spec_of(
        symbol="axpy", args=(ArrayArg(0, F4, (16,)), ScalarArg(2)), values=3, outputs=(), states=(State(p, p._data, 1),),
        results=(Result("object", object=None),),
    )  # fmt: skip
    f = function_of(native, spec)
    assert f(vector(), 0.5) is None
    np.testing.assert_array_equal(p._data, 1.5 * np.arange(16, dtype="f4"))
    f(vector(), 1.5)
    np.testing.assert_array_equal(p._data, 3 * np.arange(16, dtype="f4"))
    assert missed(f(vector(), 1)) and missed(f(vector(), np.float64(1)))
    p._data = p._data.copy()
    assert missed(f(vector(), 0.5))


@KINDS
def test_integer_scalars(native):
    spec = spec_of(args=(ArrayArg(0, F4, (16,)), ScalarArg(2, int)), values=3)
    f = function_of(native, spec)
    x = vector()
    assert (
        not missed(f(x, 5))
        and not missed(f(x, -(2**63)))
        and missed(f(x, 2**63))
        and missed(f(x, True))
        and missed(f(x, 1.0))
    )


@KINDS
def test_constants(native):
    a = np.full(16, 5, "f4")
    spec = spec_of(2, args=(ArrayArg(0, F4, (16,)),), constants=(Constant(1, a.ctypes.data, a),))
    assert function_of(native, spec)(vector())._data[2] == 8


@KINDS
def test_words(native):
    cell = np.array([7], np.int64)
    f = function_of(native, spec_of(words=(Word(cell.ctypes.data, 7, cell),)))
    assert not missed(f(vector()))
    cell[0] = 8
    assert missed(f(vector()))


@KINDS
def test_dicts(native):
    space = {"scale": 2.0}
    f = function_of(native, spec_of(dicts=(DictGuard(space, "scale", space["scale"]), DictGuard(space, "len", ABSENT))))
    assert not missed(f(vector()))
    space["len"] = len
    assert missed(f(vector()))
    del space["len"]
    assert not missed(f(vector()))
    space["scale"] = float("2.0")
    assert missed(f(vector()))
    del space["scale"]
    assert missed(f(vector()))


@KINDS
def test_slots_of_arguments(native):
    allowed = (("_requires_grad", (None, False)), ("_node", (None,)))
    f = function_of(native, spec_of(args=(ArrayArg(0, F4, (16,), slots=allowed),)))
    x = vector()
    assert not missed(f(x))
    x._requires_grad = False
    assert not missed(f(x))
    x._requires_grad = True
    assert missed(f(x))
    x._requires_grad, x._node = None, "node"
    assert missed(f(x))


@KINDS
def test_overlap(native):
    f = function_of(native, spec_of(2, disjoint=((0, 1),)))
    memory_of_all = np.zeros(40, "f4")
    part = [Tensor(memory_of_all[k : k + 16]) for k in (0, 8, 16)]
    assert missed(f(part[0], part[1])) and missed(f(part[2], part[1])) and missed(f(part[0], part[0]))
    assert not missed(f(part[0], part[2])) and not missed(f(part[2], part[0]))


@KINDS
def test_shapes_of_results(native):
    kinds = (Result("tensor"), Result("array"), Result("argument", 0), Result("again", 0), Result("object", object="x"))
    f = function_of(native, spec_of(results=kinds, structure="tuple"))
    x = vector()
    tensor, array, same, again, text = f(x)
    assert same is x and again is tensor and text == "x" and tensor._data is array
    named = function_of(native, spec_of(results=kinds[:2], structure=lambda found: {"all": found}))
    assert type(named(x)["all"][0]) is Tensor
    empty = function_of(native, spec_of(results=(), structure="tuple"))
    assert empty(x) == ()


@KINDS
def test_defaults_of_new_tensors(native):
    entry.configure(Tensor, {"_version": 0, "_requires_grad": False})
    r = function_of(native, spec_of())(vector())
    assert r._version == 0 and r._requires_grad is False and not hasattr(r, "_node")


@KINDS
def test_big_outputs_come_from_the_cache(native):
    n = 1 << 18
    f = function_of(native, spec_of(size=n))
    before = memory.stats().in_use
    r = f(vector(n))
    assert memory.stats().in_use > before and r._data[-1] == n
    where = r._data.ctypes.data
    del r
    gc.collect()
    assert f(vector(n))._data.ctypes.data == where


@KINDS
@pytest.mark.parametrize("arena", [64, 1 << 20, Slot(0)], ids=str)
def test_arenas(native, arena):
    f = function_of(native, spec_of(size=None, scratch=True, arena=arena))
    before = memory.stats().in_use
    for n in (8, 12, 16):
        assert f(vector(n))._data[n - 1] == n
    entry.trim()
    assert memory.stats().in_use <= before


@KINDS
def test_a_plan_that_declines_goes_to_miss(native):
    f = function_of(native, spec_of(status=1))
    x = vector()
    before = references(x)
    assert missed(f(x))
    assert references(x) == before


@KINDS
def test_errors_come_through(native):
    def fail(*_):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        function_of(native, to=fail)(1)
    f = function_of(native, spec_of(structure=fail, results=(Result("tensor"),)))
    x = vector()
    before = references(x)
    for _ in range(3):
        with pytest.raises(KeyError, match="mine"):
            f(x)
    assert references(x) == before
    too_big = function_of(native, spec_of(outputs=(Output(1, F4, (1 << 60,)),)))
    with pytest.raises((MemoryError, ValueError)):
        too_big(x)
    assert references(x) == before


@KINDS
def test_it_behaves_as_a_function(native):
    def original(x):
        """What it does."""

    f = functools.update_wrapper(function_of(native), original)
    assert f.__wrapped__ is original and f.__name__ == "original" and f.__doc__ == "What it does."
    f.unload = 5
    assert f.unload == 5 and f.__dict__["unload"] == 5
    del f.unload
    assert not hasattr(f, "unload") and callable(f) and weakref.ref(f)() is f and hash(f) == hash(f)

    class Holder:
        method = f

    h = Holder()
    assert h.method(3, k=4) == ("miss", (h, 3), {"k": 4}) and Holder.method is f
    assert h.method.__self__ is h and functools.partial(f, 1)(2) == ("miss", (1, 2), {})


def test_subclasses():
    class Mine(entry.function_type()):
        def explain(self):
            return len(entry.traces(self))

    f = entry.new_function(miss, Mine)
    entry.add_trace(f, spec_of())
    assert f.explain() == 1 and f(vector())._data[0] == 1 and missed(f(1, k=2))
    assert type(Mine.__call__(f, vector())) is Tensor


def test_one_made_by_hand_fails_softly():
    with pytest.raises((TypeError, RuntimeError)):
        entry.function_type()()(1)
    f = function_of(True)
    del f._miss
    with pytest.raises(RuntimeError):
        f(1)


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
    text = kernels.affine_text(2, 16, scratch=True, spin=50)
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


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": 0}, {"values": 3}, {"results": ()}, {"results": (Result("tensor", 1),)}, {"results": (Result("again"),)},
        {"structure": "list"}, {"dims": -1}, {"disjoint": ((0, 1),)}, {"arena": Slot(0)}, {"results": (Result("nothing"),)},
        {"args": (ArrayArg(0, np.dtype(">f4"), (16,)),)}, {"args": (ArrayArg(0, F4, (Slot(3),)),)},
        {"args": (ArrayArg(0, F4, (16,), strides=(4, 4)),)}, {"args": (ArrayArg(0, F4, (16,), slots=(("_node", ()),)),)},
        {"outputs": (Output(1, F4, (Slot(0),)),)}, {"outputs": (Output(0, F4, (16,)),)},
    ],
    ids=repr,
)  # fmt: skip
def test_unsound_specs_are_refused(changes):
    with pytest.raises((ValueError, TypeError)):
        entry.add_trace(function_of(True), spec_of(**changes))


def test_values_of_other_types_in_specs():
    with pytest.raises(TypeError):
        entry.add_trace(function_of(True), spec_of(args=(ArrayArg(0, F4, (16,)), EqualArg((1,)))))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        entry.add_trace(function_of(True), spec_of(dicts=(DictGuard(type("D", (dict,), {})(), "k", 1),)))


def test_without_native_code_it_still_works(monkeypatch):
    monkeypatch.setattr(entry, "_settings", entry._Settings())
    monkeypatch.setattr(entry.PythonFunction, "_settings", entry._settings)
    monkeypatch.setattr(
        entry.Layout, "discover", staticmethod(lambda chain: (_ for _ in ()).throw(entry.UnknownLayout("test")))
    )
    entry.configure(Tensor)
    assert not entry.is_native() and entry.why_not_native() == "test"
    f = function_of(True, spec_of())
    assert isinstance(f, entry.PythonFunction) and f(vector())._data[1] == 2


def test_the_interpreter_ends_cleanly():
    here = str(Path(__file__).parent)
    code = f"""
import sys, threading; sys.path.insert(0, {here!r})
import kernels, numpy as np
from tracefuse.runtime import entry
from tracefuse.runtime.trace_spec import *
class T:
    __slots__ = ("_data", "__weakref__")
entry.configure(T)
F = np.dtype("f4"); code = kernels.build(kernels.affine_text(1, 16, spin=1000))
f = entry.new_function(lambda *a: None)
entry.add_trace(f, TraceSpec(code.address("plan"), (ArrayArg(0, F, (16,)),), 2, (Output(1, F, (16,)),), (Result("tensor"),),
                             release_gil=True, keep=(code,)))
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


def test_it_is_fast():
    import timeit

    f = function_of(True, spec_of(3))
    x = vector()
    best = min(timeit.repeat("f(x, x, x)", globals={"f": f, "x": x}, number=20_000, repeat=10)) / 20_000
    assert best < 1e-6  # some 0.2 us where nothing else runs
