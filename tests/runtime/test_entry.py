"""CompiledFunction: guards and results. Everything holds for the native entry and for the one in Python."""

import functools
import gc
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
from runtime_helpers import (
    F4,
    Parameter,
    Tensor,
    affine_text,
    build,
    function_of,
    miss,
    missed,
    references,
    spec_of,
    vector,
)
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
    Word,
)

KINDS = pytest.mark.parametrize("native", [True, False], ids=["native", "python"])


@pytest.fixture(autouse=True)
def tensors():
    entry.configure(Tensor)


def test_it_is_native_here():
    if sys.platform == "linux":
        assert entry.is_native(), entry.why_not_native()


@KINDS
def test_arguments_by_name(native):
    f = function_of(native, spec_of(3, names=("scale", "shift")))
    x, y, z = vector(), vector(start=1), vector(start=2)
    np.testing.assert_array_equal(f(x, scale=y, shift=z)._data, x._data + y._data + z._data + 1)
    assert missed(f(x, y, z)) and missed(f(x, y))
    for options in ({"shift": y, "scale": z}, {"scale": y, "other": z}, {"scale": y}, {"a": x, "scale": y, "shift": z}):
        assert f(x, **options) == ("miss", (x,), options)


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
        vector()._data, None, 3, Parameter(np.zeros(16, "f4")), Tensor(np.zeros(17, "f4")),
        Tensor(np.zeros((4, 4), "f4")),
        Tensor(np.zeros((), "f4")), Tensor(np.zeros(16, "f8")), Tensor(np.zeros(16, "i4")), Tensor(np.zeros(16, ">f4")),
        Tensor(np.zeros(32, "f4")[::2]), Tensor(np.zeros(16, "f4")[::-1]), Tensor(np.zeros(0, "f4")), Tensor(None),
        Tensor(np.frombuffer(b"\0" * 65, "f4", 16, 1)), Tensor(np.ma.zeros(16, "f4")),
        Tensor("data"), Tensor.__new__(Tensor),
    ],
    ids=lambda arg: type(arg).__name__,
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
    code = build(affine_text(1, None))
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
        symbol="axpy", args=(ArrayArg(0, F4, (16,)), ScalarArg(2)), values=3, outputs=(),
        states=(State(p, p._data, 1),), results=(Result("object", object=None),),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": 0}, {"values": 3}, {"results": ()}, {"results": (Result("tensor", 1),)}, {"dims": -1},
        {"results": (Result("again"),)}, {"results": (Result("nothing"),)}, {"structure": "list"},
        {"disjoint": ((0, 1),)}, {"arena": Slot(0)},
        {"args": (ArrayArg(0, np.dtype(">f4"), (16,)),)}, {"args": (ArrayArg(0, F4, (Slot(3),)),)},
        {"args": (ArrayArg(0, F4, (16,), strides=(4, 4)),)},
        {"args": (ArrayArg(0, F4, (16,), slots=(("_node", ()),)),)},
        {"outputs": (Output(1, F4, (Slot(0),)),)}, {"outputs": (Output(0, F4, (16,)),)},
    ],
    ids=lambda arg: type(arg).__name__,
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


def test_it_is_fast():
    import timeit

    f = function_of(True, spec_of(3))
    x = vector()
    best = min(timeit.repeat("f(x, x, x)", globals={"f": f, "x": x}, number=20_000, repeat=10)) / 20_000
    assert best < 1e-6  # some 0.2 us where nothing else runs
