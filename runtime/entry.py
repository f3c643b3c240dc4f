"""`CompiledFunction`: what `compile` hands to the user. Calling it costs a walk over guards in native code.

function = new_function(miss)      # every call goes to miss(*args, **kwargs)
add_trace(function, TraceSpec(...))  # calls that it serves don't
clear(function)                    # back to the first line; code and memory go when no call is inside any more
"""

from __future__ import annotations

import ctypes
import importlib
import os
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import entry_layout as at
from . import memory
from .cache import cached_object
from .entry_code import entry_text
from .entry_layout import Layout, UnknownLayout, slot_offset, write_trace
from .entry_python import PythonFunction
from .trace_spec import TraceSpec

# numbers of the stable ABI (typeslots.h, object.h, descrobject.h)
PY_TP_CALL, PY_TP_CLEAR, PY_TP_DESCR_GET, PY_TP_DOC = 50, 51, 54, 56
PY_TP_TRAVERSE, PY_TP_MEMBERS, PY_TP_GETSET = 71, 72, 73
METH_O = 8
FLAG_BASETYPE, FLAG_VECTORCALL, FLAG_GC, FLAG_METHOD_DESCRIPTOR, FLAG_DEFAULT = (
    1 << 10,
    1 << 11,
    1 << 14,
    1 << 17,
    1 << 18,
)
T_OBJECT_EX, T_PYSSIZET, READONLY = 16, 19, 1
NUMPY_ARRAY_TYPE, NUMPY_NEW = 2, 93  # in NumPy's table of C functions


class Trace:
    """A TraceSpec in memory. `hits`: how many calls it served."""

    __slots__ = ("spec", "memory", "frame_words", "keep", "endings", "python_hits", "__weakref__")  # noqa: RUF023

    def __init__(self, spec: TraceSpec, tensor_type: type | None):
        spec.check()
        self.spec = spec
        self.keep: list[Any] = []
        self.endings = [Trace(e, tensor_type) for e in spec.endings]
        self.memory, self.frame_words = write_trace(spec, tensor_type, self.keep, [e.memory for e in self.endings])
        self.python_hits = 0

    @property
    def hits(self) -> int:
        return int(self.memory[at.HITS]) + self.python_hits


class Chain:
    """The traces of a function at one moment; never changed. A call in flight holds a reference to it.

    pointers: words of frame to reserve, the addresses of the traces, 0.
    """

    __slots__ = ("pointers", "traces", "__weakref__")  # noqa: RUF023

    def __init__(self, traces: Iterable[Trace] = ()):
        self.traces = tuple(traces)
        frame = max((t.frame_words for t in self.traces), default=0) + 2
        addresses = [t.memory.ctypes.data for t in self.traces]
        self.pointers = struct.pack(f"<{len(addresses) + 2}q", frame, *addresses, 0)


class _Settings:
    """What all functions share: the Tensor type and how to make one."""

    def __init__(self) -> None:
        self.tensor_type: type | None = None
        self.slots: tuple[str, ...] = ()
        self.modes = threading.local()
        self.data_slot = 0
        self.defaults: dict[str, Any] = {}
        self.native: _Native | None = None
        self.why_not = "not tried yet"
        self.function_type: Any = None

    @property
    def mode(self) -> int:
        """What `set_mode` has set in this thread, 0 at first."""
        return self.native.mode() if self.native is not None else getattr(self.modes, "number", 0)

    def box(self, array: np.ndarray) -> Any:
        """A Tensor with `array`, as the native entry makes it."""
        assert self.tensor_type is not None
        make: Any = self.tensor_type.__new__
        tensor = make(self.tensor_type)
        tensor._data = array
        for name, value in self.defaults.items():
            setattr(tensor, name, value)
        return tensor


class _Slot(ctypes.Structure):
    _fields_ = [("slot", ctypes.c_int), ("value", ctypes.c_void_p)]


class _TypeSpec(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("basicsize", ctypes.c_int),
        ("itemsize", ctypes.c_int),
        ("flags", ctypes.c_uint),
        ("slots", ctypes.POINTER(_Slot)),
    ]


class _Member(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _MethodDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


class _GetSet(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_char_p if name in ("name", "doc") else ctypes.c_void_p)
        for name in ("name", "get", "set", "doc", "closure")
    ]


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Native:
    """The linked entry and the type made from it. Lives until the process ends."""

    def __init__(self) -> None:
        from ..backends.llvm.engine import compile_object, host_target, link

        layout = Layout.discover(Chain)
        target = host_target()
        text = entry_text(layout)
        data = cached_object(text, target.key, lambda: compile_object(text, target, opt=3))
        umath = importlib.import_module("numpy._core._multiarray_umath")  # has the table of NumPy's C functions
        capsule = ctypes.pythonapi.PyCapsule_GetPointer
        capsule.restype, capsule.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        table = ctypes.cast(capsule(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
        array_type, array_new = table[NUMPY_ARRAY_TYPE], table[NUMPY_NEW]
        if array_type != id(np.ndarray) or not array_new:
            raise UnknownLayout("NumPy's table of C functions")
        self.code = link([data], {"tf_array_type": array_type, "tf_array_new": array_new})
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.code))  # there may be calls until the very end
        self.entry = self.code.address("tf_entry")
        settings = ctypes.CFUNCTYPE(ctypes.c_void_p)(self.code.address("tf_settings"))()
        self.words = (ctypes.c_int64 * at.SETTINGS_WORDS).from_address(settings)
        self.defaults = np.zeros(2 * at.MOST_DEFAULTS, np.int64)
        self.keep: list[Any] = [memory.empty, self.lease]
        self.arena: memory.Lease | None = None
        self.words[at.G_EMPTY], self.words[at.G_LEASE] = map(id, self.keep)
        self.words[at.G_BIG], self.words[at.G_NONE], self.words[at.G_TRUE] = memory.BIG, id(None), id(True)
        self.words[at.G_DEFAULT_TABLE] = self.defaults.ctypes.data
        self.set_mode = self._make_set_mode()
        self.types: set[type] = set()
        self.type = self.make_type(object)

    def _make_set_mode(self) -> Callable[[int], None]:
        """A builtin function: it is called whenever a thread changes its grad mode."""
        api = ctypes.pythonapi
        for function in (api.PyThread_tss_alloc, api.PyThread_tss_get):
            function.restype = ctypes.c_void_p
        key = ctypes.c_void_p(api.PyThread_tss_alloc())
        if not key or api.PyThread_tss_create(key):
            raise UnknownLayout("no memory of its own for a thread")
        self.words[at.G_MODE_KEY] = key.value or 0
        self.mode = lambda: int(api.PyThread_tss_get(key) or 0)
        definition = _MethodDef(b"set_mode", self.code.address("tf_set_mode"), METH_O, None)
        self.keep.append(definition)
        make = api.PyCFunction_NewEx
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        return make(ctypes.addressof(definition), None, None)

    def make_type(self, base: type) -> Any:
        """The native type on top of `base`, a class without slots. (A subclass of it would be called more slowly.)"""
        api = ctypes.pythonapi
        members = (_Member * 6)(
            _Member(b"__vectorcalloffset__", T_PYSSIZET, at.F_VECTORCALL, READONLY, None),
            _Member(b"__dictoffset__", T_PYSSIZET, at.F_DICT, READONLY, None),
            _Member(b"__weaklistoffset__", T_PYSSIZET, at.F_WEAKREFS, READONLY, None),
            _Member(b"_miss", T_OBJECT_EX, at.F_MISS, 0, b"what gets the calls that no trace serves"),
            _Member(b"_chain", T_OBJECT_EX, at.F_CHAIN, 0, b"the traces"),
            _Member(),
        )
        dict_get, dict_set = _address(api.PyObject_GenericGetDict), _address(api.PyObject_GenericSetDict)
        getset = (_GetSet * 2)(_GetSet(b"__dict__", dict_get, dict_set, None, None), _GetSet())
        slots = (_Slot * 8)(
            _Slot(PY_TP_CALL, _address(api.PyVectorcall_Call)),
            _Slot(PY_TP_MEMBERS, ctypes.addressof(members)),
            _Slot(PY_TP_GETSET, ctypes.addressof(getset)),
            _Slot(PY_TP_DESCR_GET, self.code.address("tf_descr_get")),
            _Slot(PY_TP_TRAVERSE, self.code.address("tf_traverse")),
            _Slot(PY_TP_CLEAR, self.code.address("tf_clear")),
            _Slot(PY_TP_DOC, ctypes.cast(ctypes.c_char_p(b"A function compiled by tracefuse."), ctypes.c_void_p).value),
            _Slot(0, None),
        )
        flags = FLAG_DEFAULT | FLAG_BASETYPE | FLAG_VECTORCALL | FLAG_GC | FLAG_METHOD_DESCRIPTOR
        spec = _TypeSpec(b"tracefuse.CompiledFunction", at.FUNCTION_BYTES, 0, flags, slots)
        self.keep += [members, getset, slots, spec]  # the type goes on reading names and getset
        make = api.PyType_FromSpecWithBases
        make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object]
        made = make(ctypes.addressof(spec), (base,))
        self.types.add(made)
        return made

    def lease(self, nbytes: int) -> tuple[int, memory.Lease]:
        """Scratch for one call, when the shared arena is busy, or too small: then it grows for the next call."""
        words = self.words
        if not words[at.G_ARENA_BUSY] and nbytes > words[at.G_ARENA_SIZE]:
            self.set_arena(memory.lease(nbytes))
        own = memory.lease(nbytes)
        return own.address, own

    def set_arena(self, arena: memory.Lease | None) -> None:
        self.words[at.G_ARENA_ADDRESS] = arena.address if arena else 0
        self.words[at.G_ARENA_SIZE] = arena.size if arena else 0
        self.arena = arena

    def configure(self, settings: _Settings, defaults: list[tuple[int, Any]]) -> None:
        tensor_type = settings.tensor_type
        assert tensor_type is not None
        self.words[at.G_DEFAULTS] = 0
        self.keep += [tensor_type, *(value for _, value in defaults)]
        for k, (offset, value) in enumerate(defaults):
            self.defaults[2 * k : 2 * k + 2] = offset, id(value)
        self.words[at.G_TENSOR_TYPE], self.words[at.G_DATA_SLOT] = id(tensor_type), settings.data_slot
        for word, name in ((at.G_BASE_SLOT, "_base"), (at.G_VERSION_SLOT, "_version")):
            self.words[word] = slot_offset(tensor_type, name) if name in settings.slots else 0
        self.words[at.G_DEFAULTS] = len(defaults)

    def try_out(self) -> None:
        """A call, a method, an attribute, a weak reference on a function without traces. Raises UnknownLayout."""
        import weakref

        function = self.type()
        function._miss = lambda *args, **kwargs: (args, kwargs)
        ctypes.c_void_p.from_address(id(function) + at.F_VECTORCALL).value = self.entry
        function.note = 1
        holder: Any = type("Holder", (), {"method": function})()
        ok = function(1, x=2) == ((1,), {"x": 2}) and holder.method(3) == ((holder, 3), {})
        if not ok or function.__dict__ != {"note": 1} or weakref.ref(function)() is not function:
            raise UnknownLayout("heap types")


_lock = threading.RLock()
_settings = _Settings()
PythonFunction._settings = _settings


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()
    if _settings.native is not None:
        _settings.native.words[at.G_ARENA_BUSY] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _ready() -> _Settings:
    """The settings, with the native entry made or found impossible."""
    if _settings.function_type is None:
        with _lock:
            if _settings.function_type is None:
                _settings.function_type = _make_native() or PythonFunction
    return _settings


def _make_native() -> Any:
    try:
        native = _Native()
        native.try_out()
        if _settings.tensor_type is not None:
            _configure_native(native)
    except (UnknownLayout, RuntimeError, ImportError, OSError, AttributeError) as error:
        _settings.why_not = str(error)
        return None
    _settings.native, _settings.why_not = native, ""
    return native.type


def _configure_native(native: _Native) -> None:
    assert _settings.tensor_type is not None
    offsets = [(slot_offset(_settings.tensor_type, name), value) for name, value in _settings.defaults.items()]
    native.configure(_settings, offsets)


def configure(tensor_type: type, defaults: dict[str, Any] | None = None) -> None:
    """Says what a Tensor is: a class with `__slots__`, among them `_data` (an ndarray).

    defaults: what the other slots of a new Tensor hold; None for each when not given. Call it before traces are added.
    """
    names = [n for n in tensor_type.__dict__.get("__slots__", ()) if not n.startswith("__")]
    if "_data" not in names:
        raise TypeError(f"{tensor_type.__name__} has no slot _data")
    others = defaults if defaults is not None else {n: None for n in names if n != "_data"}
    if len(others) > at.MOST_DEFAULTS:
        raise TypeError(f"{tensor_type.__name__} has more than {at.MOST_DEFAULTS} slots")
    with _lock:
        _settings.tensor_type, _settings.defaults, _settings.slots = tensor_type, dict(others), tuple(names)
        _settings.data_slot = slot_offset(tensor_type, "_data")
        if _settings.native is not None:
            _configure_native(_settings.native)


def tensor_type() -> type | None:
    """What `configure` was given."""
    return _settings.tensor_type


def is_native() -> bool:
    """Whether calls go through native code; `why_not_native` says why they don't."""
    return _ready().native is not None


def why_not_native() -> str:
    return _ready().why_not


def function_type() -> type:
    """The type of compiled functions. It can be subclassed, and instances take attributes."""
    return _ready().function_type


def function_type_on(base: type) -> type:
    """A type of compiled functions that has what `base` defines, a class with `__slots__ = ()` and no `__call__`."""
    settings = _ready()
    if settings.native is None:
        return type(base.__name__, (base, PythonFunction), {})
    with _lock:
        return settings.native.make_type(base)


def mode_setter() -> Callable[[int], None]:
    """What sets the mode of the calling thread, an int, which traces may ask for (TraceSpec.mode)."""
    settings = _ready()
    return settings.native.set_mode if settings.native is not None else _set_mode


def _set_mode(number: int) -> None:
    _settings.modes.number = number


def new_function(miss: Callable[..., Any], cls: type | None = None, *, native: bool = True) -> Any:
    """A function without traces: every call goes to `miss(*args, **kwargs)`. cls: a subclass of `function_type()`, or
    what `function_type_on` made.

    native=False makes one that walks its guards in Python.
    """
    settings = _ready()
    kind: Any = cls or (settings.function_type if native else PythonFunction)
    function = kind.__new__(kind)
    function._miss = miss
    function._chain = Chain()
    if settings.native is not None and not isinstance(function, PythonFunction):
        ctypes.c_void_p.from_address(id(function) + at.F_VECTORCALL).value = settings.native.entry
    return function


def traces(function: Any) -> tuple[Trace, ...]:
    """The traces in the order in which they are tried."""
    return function._chain.traces


def set_traces(function: Any, new: Iterable[Trace]) -> None:
    """Replaces them all at once. Calls that are inside finish with what they began with."""
    with _lock:
        function._chain = Chain(new)


def add_trace(function: Any, spec: TraceSpec, first: bool = False) -> Trace:
    """Adds a trace behind the others (before them: first). ValueError or TypeError when the spec is not sound."""
    uses_tensors = any(r.kind == "tensor" for r in spec.results) or any(getattr(a, "tensor", False) for a in spec.args)
    if _settings.tensor_type is None and (uses_tensors or spec.states):
        raise RuntimeError("configure(tensor_type) comes before traces with tensors")
    views = spec.written or any(getattr(a, "fresh", False) for a in (*spec.args, *(x.arg for x in spec.loads)))
    if views and not {"_base", "_version"} <= set(_settings.slots):
        raise TypeError("the Tensors have no _base and _version")
    trace = Trace(spec, _settings.tensor_type)
    with _lock:
        before = function._chain.traces
        function._chain = Chain((trace, *before) if first else (*before, trace))
    return trace


def remove_trace(function: Any, trace: Trace) -> None:
    """Takes one out; does nothing when it is not there."""
    with _lock:
        function._chain = Chain(t for t in function._chain.traces if t is not trace)


def clear(function: Any) -> None:
    """Takes all traces out."""
    set_traces(function, ())


def trim() -> None:
    """Gives back the arena that calls share, and unused memory."""
    native = _settings.native
    if native is not None and not native.words[at.G_ARENA_BUSY]:
        native.set_arena(None)
    memory.trim()
