"""What a compiled trace asks of a call and does for it: plain data, read by the native entry and by the Python one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ABSENT = object()  # as `DictGuard.expected`: the key must be missing


@dataclass(frozen=True, slots=True)
class Slot:
    """A symbolic size: number `index` of the `dims` that the plan gets.

    The first array argument that has it binds it, if low <= size <= high; everywhere else the size must be the same.
    """

    index: int
    low: int = 2
    high: int = (1 << 62) - 1


Size = int | Slot


@dataclass(frozen=True, slots=True)
class ArrayArg:
    """A positional argument that is a Tensor (exactly that type, an exact ndarray in its `_data`) or an exact ndarray.

    value: where its data pointer goes in `values`. dtype in native byte order, aligned. strides (in bytes, none
    negative, only with constant sizes): None means C-contiguous. writeable: required when the plan writes it.
    slots: (name, allowed objects: one or two) of other slots of the Tensor, compared by identity; unset counts as None.
    fresh: if the Tensor is a view (`_base`), nothing has been written into its root since: both have the same `_version`
    object. value -1: only looked at, the plan does not get it.
    """

    value: int
    dtype: np.dtype
    shape: tuple[Size, ...]
    tensor: bool = True
    strides: tuple[int, ...] | None = None
    writeable: bool = False
    slots: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class StaticArg:
    """An argument that is this very object (None, True, a module, a function...)."""

    expected: Any


@dataclass(frozen=True, slots=True)
class EqualArg:
    """An argument of exactly the same type (int, float, str or bytes) and equal; floats by their bits."""

    expected: int | float | str | bytes


@dataclass(frozen=True, slots=True)
class ScalarArg:
    """A Python number that flows into the computation: `values[value]` points to it as f64, or i64 for kind=int.

    The type must be exactly `kind`; an int must fit into 64 bits.
    """

    value: int
    kind: type = float


Arg = ArrayArg | StaticArg | EqualArg | ScalarArg


@dataclass(frozen=True, slots=True)
class Word:
    """An int64 in memory (an epoch, a reference) that must still be `expected`. `holder` keeps that memory alive."""

    address: int
    expected: int
    holder: Any = None


@dataclass(frozen=True, slots=True)
class DictGuard:
    """`mapping[key]` (an exact dict, an exact str) is still this very object; ABSENT: there is none."""

    mapping: Mapping[str, Any]
    key: str
    expected: Any


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that the trace reads or writes without being given it: `tensor._data` is still `array`, where it was.

    The trace keeps both alive. value: as in ArrayArg. tensor None: a C-contiguous array by itself; then its element type
    and shape are looked at too.
    """

    tensor: Any
    array: np.ndarray
    value: int
    layout: tuple[np.dtype, tuple[int, ...], int] = field(init=False, compare=False)  # as the trace is made

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", layout_of(self.array))


def layout_of(array: np.ndarray) -> tuple[np.dtype, tuple[int, ...], int]:
    """(element type, shape, address)"""
    return array.dtype, array.shape, array.ctypes.data


@dataclass(frozen=True, slots=True)
class Load:
    """A Tensor that hangs on another one: `owner.<slot>` as the call begins, which must be what `arg` says."""

    owner: Any
    slot: str
    arg: ArrayArg


@dataclass(frozen=True, slots=True)
class Effect:
    """Afterwards `owner.<slot>` is results[result]; None for result None."""

    owner: Any
    slot: str
    result: int | None


@dataclass(frozen=True, slots=True)
class Constant:
    """Memory that never changes: `values[value]` = address. `holder` keeps it alive."""

    value: int
    address: int
    holder: Any = None


@dataclass(frozen=True, slots=True)
class Output:
    """A fresh C-contiguous array that the plan fills."""

    value: int
    dtype: np.dtype
    shape: tuple[Size, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One leaf of what the call returns.

    kind: "tensor" (outputs[index] in a new Tensor), "array" (outputs[index]), "argument" (the argument itself),
    "again" (the same object as results[index], which comes before), "object" (`object`).
    """

    kind: str
    index: int = 0
    object: Any = None


@dataclass(frozen=True, slots=True)
class TraceSpec:
    """One trace. A call takes the first trace of its function whose guards all hold.

    plan: address of `i32 plan(ptr values, ptr dims, ptr arena)`: 0 for done; anything else means that it has written
    nothing a user sees, and the call goes to `miss`. values: how many pointers `values` has. dims: how many sizes.
    derive: address of `i32 derive(ptr dims)`, which computes the sizes that no argument binds; not 0 is a failed guard.
    disjoint: pairs of positions in `values` (arrays of arguments and states) whose memory may not overlap.
    arena: bytes of scratch, or the Slot whose size says how many. release_gil: let other threads run meanwhile.
    structure: "single" (the first result), "tuple", or what gets the tuple of results and returns the call's value.
    effects: happen before that. returned: how many results the tuple has, -1 for all; the others serve effects.
    mode: what `entry.set_mode` must have set in the calling thread; None: anything. same: (i, j, whether arguments i and
    j are one object). checks: guards in Python, which return True; asked last. names: the last arguments are given by name,
    in this order; interned strings.
    written: positions in `values` of the Tensors (arguments or states) whose `_version` counts this call.
    endings: traces with the same args, states, values, dims and arena but no guards, each an end that a call may come to.
    `plan` then says which one it is, by its number, or a negative one where it declines; outputs, results, effects,
    written, constants and plan are those of the ending, which gets the same values, dims and arena.
    keep: whatever must live as long as the trace: its Code first of all. It is let go when no call is inside any more.
    """

    plan: int
    args: tuple[Arg, ...]
    values: int
    outputs: tuple[Output, ...] = ()
    results: tuple[Result, ...] = ()
    structure: str | Callable[[tuple[Any, ...]], Any] = "single"
    dims: int = 0
    derive: int = 0
    states: tuple[State, ...] = ()
    constants: tuple[Constant, ...] = ()
    words: tuple[Word, ...] = ()
    dicts: tuple[DictGuard, ...] = ()
    mode: int | None = None
    same: tuple[tuple[int, int, bool], ...] = ()
    checks: tuple[Callable[[], bool], ...] = ()
    names: tuple[str, ...] = ()
    loads: tuple[Load, ...] = ()
    effects: tuple[Effect, ...] = ()
    returned: int = -1
    written: tuple[int, ...] = ()
    disjoint: tuple[tuple[int, int], ...] = ()
    arena: int | Slot = 0
    release_gil: bool = False
    endings: tuple[TraceSpec, ...] = ()
    keep: tuple[Any, ...] = field(default=(), compare=False)

    def check(self) -> None:
        """Raises ValueError or TypeError where this could not be run safely."""
        if not self.plan:
            raise ValueError("a trace needs the address of its plan")
        if not 0 <= self.values <= 1 << 15 or not 0 <= self.dims <= 1 << 12 or len(self.args) > 1 << 12:
            raise ValueError("a trace has at most 32768 values, 4096 dims and 4096 arguments")
        positions = [a.value for a in self.args if isinstance(a, ArrayArg | ScalarArg)]
        positions += [x.value for x in (*self.states, *self.constants, *self.outputs, *(x.arg for x in self.loads))]
        positions = [p for p in positions if p != -1]
        if sorted(positions) != list(range(self.values)):
            raise ValueError(f"{self.values} values, but these are given: {sorted(positions)}")
        for arg in (*self.args, *(x.arg for x in self.loads)):
            if isinstance(arg, ArrayArg):
                self._check_array(arg)
            elif isinstance(arg, EqualArg) and type(arg.expected) not in (int, float, str, bytes):
                raise TypeError(f"an equal argument is an int, float, str or bytes, not {type(arg.expected).__name__}")
            elif isinstance(arg, ScalarArg) and arg.kind not in (int, float):
                raise TypeError("a scalar argument is a float or an int")
        for guard in self.dicts:
            if type(guard.mapping) is not dict or type(guard.key) is not str:
                raise TypeError("a dict guard needs an exact dict and a str")
        for state in self.states:
            if (
                type(state.array) is not np.ndarray
                or state.tensor is not None
                and state.tensor._data is not state.array
            ):
                raise ValueError("a state's array is the exact ndarray in its tensor's _data")
            if state.tensor is None and not (state.array.flags.c_contiguous and state.array.flags.aligned):
                raise ValueError("a state that is an array by itself is C-contiguous")
        slots = [s for shaped in self.outputs for s in shaped.shape if isinstance(s, Slot)]
        slots += [self.arena] if isinstance(self.arena, Slot) else []
        if any(not 0 <= s.index < self.dims for s in slots):
            raise ValueError("a size refers to a dim that is not there")
        tensors = {a.value for a in self.args if isinstance(a, ArrayArg) and a.tensor}
        tensors |= {s.value for s in self.states if s.tensor is not None}
        if not tensors >= set(self.written):
            raise ValueError("only Tensors, arguments and states, have a version")
        sized = {a.value for a in (*self.args, *(x.arg for x in self.loads)) if isinstance(a, ArrayArg)}
        sized |= {s.value for s in self.states}
        if any(a not in sized or b not in sized for a, b in self.disjoint):
            raise ValueError("only arguments and states can be checked for overlap")
        arrays = {k for k, a in enumerate(self.args) if isinstance(a, ArrayArg)}
        if any(i not in arrays or j not in arrays for i, j, _ in self.same):
            raise ValueError("only array arguments are compared with each other")
        if any(not x.arg.tensor or x.arg.slots for x in self.loads):
            raise ValueError("what is loaded is a Tensor, without conditions on its slots")
        if self.endings:
            self._check_endings()
        else:
            self._check_results()

    def _check_endings(self) -> None:
        if self.outputs or self.results or self.effects or self.written:
            raise ValueError("what a trace with endings gives is theirs")
        for e in self.endings:
            e.check()
            shared = e.args == self.args and e.states == self.states and e.loads == self.loads
            if not shared or (e.values, e.dims, e.arena) != (self.values, self.dims, self.arena) or e.endings:
                raise ValueError("an ending has the arguments, states, values and arena of its trace")

    def _check_array(self, arg: ArrayArg) -> None:
        if not arg.dtype.isnative:
            raise ValueError(f"{arg.dtype} is not in native byte order")
        if arg.strides is not None:
            constant = all(isinstance(n, int) for n in arg.shape)
            if len(arg.strides) != len(arg.shape) or not constant or min(arg.strides, default=0) < 0:
                raise ValueError("strides are for constant sizes, one each, and not negative")
        if any(isinstance(n, Slot) and not 0 <= n.index < self.dims for n in arg.shape):
            raise ValueError("a size refers to a dim that is not there")
        if any(not 1 <= len(allowed) <= 2 for _, allowed in arg.slots) or arg.slots and not arg.tensor:
            raise ValueError("slots are those of a Tensor, with one or two allowed objects each")

    def _check_results(self) -> None:
        returned = len(self.results) if self.returned == -1 else self.returned
        if not 0 <= returned <= len(self.results) or self.structure == "single" and returned != 1:
            raise ValueError(f"{self.structure!r} with {returned} of {len(self.results)} results")
        if any(e.result is not None and not 0 <= e.result < len(self.results) for e in self.effects):
            raise ValueError("an effect needs a result that is there")
        if self.structure not in ("single", "tuple") and not callable(self.structure):
            raise ValueError(f"structure {self.structure!r}: 'single', 'tuple' or a callable")
        limits = {"tensor": len(self.outputs), "array": len(self.outputs), "argument": len(self.args)}
        for position, result in enumerate(self.results):
            limit = position if result.kind == "again" else limits.get(result.kind, 0)
            if (
                result.kind not in (*limits, "again", "object")
                or result.kind != "object"
                and not 0 <= result.index < limit
            ):
                raise ValueError(f"result {position}: {result.kind} {result.index}")
