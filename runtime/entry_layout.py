"""The memory that the native entry reads: which word is what, and the writing of it from a TraceSpec.

Everything is a table of 64-bit words. The layouts of Python's and NumPy's own objects are found, or checked, by looking
at objects whose content is known; `Layout.discover` raises `UnknownLayout` where they are not as expected.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
import types
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .trace_spec import ABSENT, Arg, ArrayArg, EqualArg, ScalarArg, Size, Slot, State, StaticArg, TraceSpec, Word

# ---- a trace: header words
(
    HITS, ARGS, ARG_TABLE, WORDS, WORD_TABLE, DICTS, DICT_TABLE, STATES, STATE_TABLE, CONSTANTS, CONSTANT_TABLE,
    DERIVE, DISJOINT, DISJOINT_TABLE, OUTPUTS, OUTPUT_TABLE, RESULTS, RESULT_TABLE, PLAN, ARENA, ARENA_DIM,
    RELEASE_GIL, STRUCTURE, FINISH, AT_DIMS, AT_SIZES, AT_SCALARS, AT_HELD, AT_OUTPUTS, MODE, SAME, SAME_TABLE,
    CHECKS, CHECK_TABLE, LOADS, LOAD_TABLE, EFFECTS, EFFECT_TABLE, RETURNED, VERSIONS, VERSION_TABLE, HOLDS,
    ENDINGS, ENDING_TABLE, NAMES, NAME_TABLE, HEADER_WORDS,
) = range(47)  # fmt: skip
ANY_MODE = -1
# ---- records of the tables
(A_KIND, A_VALUE, A_TYPE_NUMBER, A_NDIM, A_DIMS, A_STRIDES, A_FLAGS, A_OBJECT, A_TYPE, A_SLOTS, A_SLOT_TABLE, A_ITEM,
 A_NBYTES, A_FRESH, ARG_WORDS) = range(15)  # fmt: skip
TENSOR, ARRAY, STATIC, EQUAL, BITS, FLOAT, INT = range(7)  # A_KIND
D_SLOT, D_FIRST, D_LOW, D_HIGH, DIM_WORDS = range(5)  # D_SLOT < 0: the size is D_LOW
S_TENSOR, S_ARRAY, S_DATA, S_VALUE, S_NBYTES, S_RECORD, STATE_WORDS = range(7)
L_OWNER, L_SLOT, LOAD_WORDS = range(3)
E_OWNER, E_SLOT, E_RESULT, EFFECT_WORDS = range(4)  # E_RESULT < 0: None
V_TENSOR, V_ARGUMENT, VERSION_WORDS = range(3)  # V_TENSOR 0: an argument
O_VALUE, O_NDIM, O_DIMS, O_TYPE_NUMBER, O_ITEM, O_DTYPE, OUTPUT_WORDS = range(7)
R_TENSOR, R_ARRAY, R_ARGUMENT, R_AGAIN, R_OBJECT = range(5)
SINGLE, TUPLE, FINISHED = range(3)
RESULT_KINDS = {"tensor": R_TENSOR, "array": R_ARRAY, "argument": R_ARGUMENT, "again": R_AGAIN, "object": R_OBJECT}
# ---- the settings of the process, `@tf_entry_settings`
(G_TENSOR_TYPE, G_DATA_SLOT, G_DEFAULTS, G_DEFAULT_TABLE, G_EMPTY, G_LEASE, G_BIG, G_ARENA_BUSY, G_ARENA_ADDRESS,
 G_ARENA_SIZE, G_NONE, G_TRUE, G_MODE_KEY, G_BASE_SLOT, G_VERSION_SLOT, SETTINGS_WORDS) = range(16)  # fmt: skip
MOST_DEFAULTS = 16

# ---- NumPy's objects: the same since 1.7, checked below
ARRAY_DATA, ARRAY_NDIM, ARRAY_DIMS, ARRAY_STRIDES, ARRAY_DESCR, ARRAY_FLAGS = 16, 24, 32, 40, 56, 64
DESCR_BYTE_ORDER, DESCR_TYPE_NUMBER = 26, 28
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400
CELL_CONTENTS = 16  # of a closure cell, checked by `cell_word`
# ---- CompiledFunction's own
F_VECTORCALL, F_DICT, F_WEAKREFS, F_MISS, F_CHAIN, FUNCTION_BYTES = 16, 24, 32, 40, 48, 56


class UnknownLayout(RuntimeError):
    """This Python or NumPy lays its objects out in a way that is not known here; calls go through Python then."""


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def slot_offset(cls: type, name: str) -> int:
    """Where instances of `cls` keep their slot `name`: a marker is put there and looked for."""
    make: Any = cls.__new__
    instance, marker = make(cls), [name]
    cls.__dict__[name].__set__(instance, marker)
    for offset in range(16, cls.__basicsize__, 8):
        if _word(id(instance) + offset) == id(marker):
            return offset
    raise UnknownLayout(f"no slot {name} in {cls.__name__}")


def slot_word(owner: Any, cls: type, name: str) -> Word:
    """The guard that `owner` (an instance of `cls`, which declares the slot) has in it what it has now."""
    expected = getattr(owner, name)
    return Word(id(owner) + _slot_offset(cls, name), id(expected), (owner, expected))


_slot_offset = cache(slot_offset)


def cell_word(cell: types.CellType) -> Word:
    """The guard that a closure cell has in it what it has now. UnknownLayout for one that is empty."""
    try:
        expected = cell.cell_contents
    except ValueError:
        raise UnknownLayout("an empty cell") from None
    address = id(cell) + CELL_CONTENTS
    if _word(address) != id(expected):
        raise UnknownLayout("closure cells")
    return Word(address, id(expected), (cell, expected))


def field_word(owner: Any, field: str, expected: Any) -> Word:
    """The guard that a field of `owner`, one of `_FIELDS`, still refers to `expected`. UnknownLayout if it does not."""
    address = id(owner) + _field_offset(field)
    word = _word(address)
    if word != id(expected) and (word or expected is not None):
        raise UnknownLayout(f"the {field} of a {type(owner).__name__}")
    return Word(address, word, (owner, expected))


def _probe(a: Any = object(), *, b: Any = object()) -> None:
    """A function whose parts are looked for in it."""


class _Probe:
    """A class whose parts are looked for in it."""


# field of an object: an object that has it, and what is there
_FIELDS: dict[str, tuple[Any, Any]] = {
    "class": (_Probe(), _Probe),
    "mro": (_Probe, _Probe.__mro__),
    "code": (_probe, _probe.__code__),
    "defaults": (_probe, _probe.__defaults__),
    "keyword defaults": (_probe, _probe.__kwdefaults__),
}


@cache
def _field_offset(field: str) -> int:
    owner, value = _FIELDS[field]
    for offset in range(8, type(owner).__basicsize__, 8):
        if _word(id(owner) + offset) == id(value):
            return offset
    raise UnknownLayout(f"no {field} in a {type(owner).__name__}")


@dataclass(frozen=True, slots=True)
class Layout:
    """What differs between builds and is compiled into the entry."""

    pointers_slot: int  # of Chain.pointers
    bytes_data: int  # where a bytes object has its bytes

    @staticmethod
    def discover(chain_type: type) -> Layout:
        """Looks, and checks everything above. Raises UnknownLayout."""
        if sys.implementation.name != "cpython" or not (3, 11) <= sys.version_info[:2] <= (3, 14):
            raise UnknownLayout("a Python other than CPython 3.11 to 3.14")
        if sysconfig.get_config_var("Py_GIL_DISABLED") or struct.calcsize("P") != 8 or sys.byteorder != "little":
            raise UnknownLayout("a free-threaded, 32-bit or big-endian build")
        if object.__basicsize__ != 16 or float.__basicsize__ != 24:
            raise UnknownLayout("a debug build")
        _check_numpy()
        probe = b"tracefuse bytes!"
        data = bytes.__basicsize__ - 1
        if ctypes.string_at(id(probe) + data, len(probe)) != probe:
            raise UnknownLayout("bytes objects")
        if _word(id(probe) + 8) != id(bytes) or ctypes.c_double.from_address(id(2.5) + 16).value != 2.5:
            raise UnknownLayout("object headers")
        return Layout(slot_offset(chain_type, "pointers"), data)


def _check_numpy() -> None:
    a = np.zeros((3, 5), np.float32)
    at = id(a)
    ok = _word(at + ARRAY_DATA) == a.ctypes.data and ctypes.c_int.from_address(at + ARRAY_NDIM).value == 2
    ok = ok and [_word(_word(at + ARRAY_DIMS) + 8 * k) for k in (0, 1)] == [3, 5]
    ok = ok and [_word(_word(at + ARRAY_STRIDES) + 8 * k) for k in (0, 1)] == [20, 4]
    ok = ok and _word(at + ARRAY_DESCR) == id(a.dtype)
    ok = ok and ctypes.c_int.from_address(at + ARRAY_FLAGS).value & 0xFFFF == a.flags.num & 0xFFFF
    for dtype in (np.dtype("=f8"), np.dtype("=i2"), np.dtype(">i4")):
        number = ctypes.c_int.from_address(id(dtype) + DESCR_TYPE_NUMBER).value
        order = ctypes.c_char.from_address(id(dtype) + DESCR_BYTE_ORDER).value
        ok = ok and number == dtype.num and order == dtype.byteorder.encode()
    if not ok:
        raise UnknownLayout("ndarray objects")


class _Writer:
    """Collects words; tables follow the header. Addresses within are known once the memory is there."""

    def __init__(self, header: int):
        self.words: list[int] = [0] * header
        self.inner: list[int] = []  # positions of words that hold a position to be made an address

    def table(self, rows: Sequence[Sequence[int]]) -> int:
        """Appends rows; returns the position."""
        position = len(self.words)
        for row in rows:
            self.words += row
        return position

    def refer(self, at: int, position: int) -> None:
        self.words[at] = position
        self.inner.append(at)

    def finish(self) -> np.ndarray:
        memory = np.array(self.words, np.int64)
        base = memory.ctypes.data
        for at in self.inner:
            memory[at] = base + 8 * self.words[at]
        return memory


def _dim_rows(shape: Sequence[Size], bound: set[int]) -> list[list[int]]:
    rows = []
    for size in shape:
        if isinstance(size, Slot):
            rows.append([size.index, int(size.index not in bound), size.low, size.high])
            bound.add(size.index)
        else:
            rows.append([-1, 0, size, 0])
    return rows


def strided_bytes(arg: ArrayArg) -> int:
    """Bytes from the first to behind the last element of a strided argument, -1 when the shape has to tell."""
    if arg.strides is None:
        return -1
    shape = [n for n in arg.shape if isinstance(n, int)]
    if 0 in shape:
        return 0
    return arg.dtype.itemsize + sum((n - 1) * s for n, s in zip(shape, arg.strides))


def write_trace(
    spec: TraceSpec, tensor_type: type | None, keep: list[Any], endings: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, int]:
    """(the trace's memory, words of frame it needs). Objects that the memory points to are appended to `keep`.
    `endings`: the memory of the spec's."""

    def address(x: Any) -> int:
        keep.append(x)
        return id(x)

    w = _Writer(HEADER_WORDS)
    head = w.words
    holds = len(spec.args) + len(spec.loads)
    unused = spec.values  # where values go that the plan does not get
    dims_at = spec.values + 1
    sizes_at = dims_at + spec.dims
    scalars_at = sizes_at + spec.values + 1
    held_at = scalars_at + holds
    outputs_at = held_at + holds
    places = (dims_at, sizes_at, scalars_at, held_at, outputs_at)
    for at, value in zip((AT_DIMS, AT_SIZES, AT_SCALARS, AT_HELD, AT_OUTPUTS), places):
        head[at] = value
    head[DERIVE], head[PLAN], head[RELEASE_GIL] = spec.derive, spec.plan, int(spec.release_gil)
    head[ARENA], head[ARENA_DIM] = (0, spec.arena.index) if isinstance(spec.arena, Slot) else (spec.arena, -1)
    if callable(spec.structure):
        head[STRUCTURE], head[FINISH] = FINISHED, address(spec.structure)
    else:
        head[STRUCTURE] = {"single": SINGLE, "tuple": TUPLE}[spec.structure]

    def table(count_at: int, rows: list[list[int]]) -> int:
        head[count_at] = len(rows)
        position = w.table(rows)
        w.refer(count_at + 1, position)
        return position

    head[MODE] = ANY_MODE if spec.mode is None else spec.mode
    head[RETURNED] = len(spec.results) if spec.returned == -1 else spec.returned
    bound: set[int] = set()
    # what is loaded has its record behind those of the arguments, raw states theirs behind that
    raw = [k for k, s in enumerate(spec.states) if s.tensor is None]
    records: list[Arg] = [*spec.args, *(x.arg for x in spec.loads), *(_array_record(spec.states[k]) for k in raw)]
    args_at = table(ARGS, [_arg_row(arg, address, unused) for arg in records])
    head[ARGS], head[HOLDS] = len(spec.args), holds
    for k, arg in enumerate(records):
        if isinstance(arg, ArrayArg):
            record = args_at + k * ARG_WORDS
            w.refer(record + A_DIMS, w.table(_dim_rows(arg.shape, bound)))
            if arg.strides is not None:
                w.refer(record + A_STRIDES, w.table([[s] for s in arg.strides]))
            if arg.slots and tensor_type is not None:
                rows = [[_slot_offset(tensor_type, n), address(o[0]), address(o[-1])] for n, o in arg.slots]
                w.refer(record + A_SLOT_TABLE, w.table(rows))
    table(WORDS, [[g.address, g.expected] for g in spec.words])
    guards = [
        (address(g.mapping), address(g.key), 0 if g.expected is ABSENT else address(g.expected)) for g in spec.dicts
    ]
    table(DICTS, [list(g) for g in guards])
    states_at = table(STATES, [_state_row(s, address) for s in spec.states])
    for n, k in enumerate(raw):
        w.refer(states_at + k * STATE_WORDS + S_RECORD, args_at + (holds + n) * ARG_WORDS)
    table(CONSTANTS, [[c.value, c.address] for c in spec.constants])
    table(DISJOINT, [list(pair) for pair in spec.disjoint])
    outputs_table = table(
        OUTPUTS, [[o.value, len(o.shape), 0, o.dtype.num, o.dtype.itemsize, address(o.dtype)] for o in spec.outputs]
    )
    for k, output in enumerate(spec.outputs):
        every = {s.index for s in output.shape if isinstance(s, Slot)}
        w.refer(outputs_table + k * OUTPUT_WORDS + O_DIMS, w.table(_dim_rows(output.shape, every)))
    results = [[RESULT_KINDS[r.kind], address(r.object) if r.kind == "object" else r.index] for r in spec.results]
    table(RESULTS, results)
    table(SAME, [[i, j, int(equal)] for i, j, equal in spec.same])
    table(ENDINGS, [[m.ctypes.data] for m in endings])
    table(NAMES, [[address(name)] for name in spec.names])
    table(CHECKS, [[address(check)] for check in spec.checks])
    if tensor_type is not None:
        table(LOADS, [[address(x.owner), _slot_offset(tensor_type, x.slot)] for x in spec.loads])
        effects = [
            [address(e.owner), _slot_offset(tensor_type, e.slot), -1 if e.result is None else e.result]
            for e in spec.effects
        ]
        table(EFFECTS, effects)
        table(VERSIONS, _version_rows(spec, address))
    return w.finish(), outputs_at + max([len(spec.outputs), *(len(e.outputs) for e in spec.endings)])


def word_position(memory: np.ndarray, k: int) -> int:
    """Where in a trace's memory the expected number of its k-th `Word` is."""
    return (int(memory[WORD_TABLE]) - memory.ctypes.data) // 8 + 2 * k + 1


def _array_record(s: State) -> ArrayArg:
    return ArrayArg(s.value, s.layout[0], s.layout[1], tensor=False)


def _state_row(s: State, address: Any) -> list[int]:
    tensor = 0 if s.tensor is None else address(s.tensor)
    return [tensor, address(s.array), s.layout[2], s.value, s.array.nbytes, 0]


def _version_rows(spec: TraceSpec, address: Any) -> list[list[int]]:
    arguments = {a.value: k for k, a in enumerate(spec.args) if isinstance(a, ArrayArg)}
    states = {s.value: s.tensor for s in spec.states}
    return [[0, arguments[v]] if v in arguments else [address(states[v]), 0] for v in spec.written]


def _arg_row(arg: Arg, address: Any, unused: int) -> list[int]:
    row = [0] * ARG_WORDS
    if isinstance(arg, ArrayArg):
        row[A_KIND], row[A_VALUE] = TENSOR if arg.tensor else ARRAY, unused if arg.value == -1 else arg.value
        row[A_FRESH] = int(arg.fresh)
        row[A_TYPE_NUMBER], row[A_NDIM], row[A_ITEM] = arg.dtype.num, len(arg.shape), arg.dtype.itemsize
        row[A_FLAGS] = ALIGNED | (C_CONTIGUOUS if arg.strides is None else 0) | (WRITEABLE if arg.writeable else 0)
        row[A_SLOTS], row[A_NBYTES] = len(arg.slots), strided_bytes(arg)
    elif isinstance(arg, StaticArg):
        row[A_KIND], row[A_OBJECT] = STATIC, address(arg.expected)
    elif isinstance(arg, ScalarArg):
        row[A_KIND], row[A_VALUE] = FLOAT if arg.kind is float else INT, arg.value
    elif isinstance(arg, EqualArg) and isinstance(arg.expected, float):
        row[A_KIND] = BITS
        row[A_OBJECT] = struct.unpack("<q", struct.pack("<d", arg.expected))[0]
    else:
        row[A_KIND], row[A_OBJECT], row[A_TYPE] = EQUAL, address(arg.expected), address(type(arg.expected))
    return row
