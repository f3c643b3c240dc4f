"""The entry in Python: the same guards and the same results as the native one, for systems it is not made for."""

from __future__ import annotations

import ctypes
import struct
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from . import memory
from .trace_spec import ABSENT, Arg, ArrayArg, EqualArg, ScalarArg, Size, Slot, StaticArg, TraceSpec, layout_of

_PLAN = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_DERIVE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p)
DECLINED = object()


def array_serves(arg: ArrayArg, array: Any, dims: list[int], bound: set[int]) -> bool:
    """Is this what the record asks? Binds symbolic sizes."""
    if type(array) is not np.ndarray or array.ndim != len(arg.shape):
        return False
    if array.dtype.num != arg.dtype.num or not array.dtype.isnative or not array.flags.aligned:
        return False
    if arg.writeable and not array.flags.writeable:
        return False
    if not array.flags.c_contiguous if arg.strides is None else array.strides != arg.strides:
        return False
    return all(_size_serves(want, have, dims, bound) for want, have in zip(arg.shape, array.shape))


def _size_serves(want: Size, have: int, dims: list[int], bound: set[int]) -> bool:
    if not isinstance(want, Slot):
        return have == want
    if want.index in bound:
        return have == dims[want.index]
    bound.add(want.index)
    dims[want.index] = have
    return want.low <= have <= want.high


class _Call:
    """One call tried on one trace: what its guards collect."""

    def __init__(self, spec: TraceSpec, args: tuple[Any, ...], tensor_type: type | None):
        self.spec, self.args, self.tensor_type = spec, args, tensor_type
        self.values = (ctypes.c_void_p * max(1, spec.values))()
        self.dims = [0] * spec.dims
        self.bound: set[int] = set()
        self.sizes = [0] * spec.values
        self.held: list[Any] = []

    def served(self, mode: int) -> bool:
        spec = self.spec
        if len(self.args) != len(spec.args) or spec.mode is not None and spec.mode != mode:
            return False
        if any(ctypes.c_int64.from_address(w.address).value != w.expected for w in spec.words):
            return False
        if not all(map(self._arg_served, spec.args, self.args)):
            return False
        for load in spec.loads:
            if not self._arg_served(load.arg, getattr(load.owner, load.slot, None)):
                return False
        for state in spec.states:
            if state.tensor is None:
                if layout_of(state.array) != state.layout:
                    return False
            elif getattr(state.tensor, "_data", None) is not state.array:
                return False
            self._put(state.value, state.array)
        if any((self.args[i] is self.args[j]) is not equal for i, j, equal in spec.same):
            return False
        if any(g.mapping.get(g.key, ABSENT) is not g.expected for g in spec.dicts):
            return False
        if any(self._overlap(a, b) for a, b in spec.disjoint):
            return False
        if not all(map(_holds, spec.checks)):
            return False
        self.native_dims = (ctypes.c_int64 * max(1, spec.dims))(*self.dims)
        return not (spec.derive and _DERIVE(spec.derive)(ctypes.addressof(self.native_dims)))

    def _put(self, value: int, array: np.ndarray) -> None:
        self.held.append(array)
        if value == -1:
            return
        self.values[value] = array.ctypes.data
        extent = sum((n - 1) * s for n, s in zip(array.shape, array.strides)) + array.itemsize
        self.sizes[value] = extent if array.size else 0

    def _overlap(self, a: int, b: int) -> bool:
        x, y = self.values[a] or 0, self.values[b] or 0
        return x < y + self.sizes[b] and y < x + self.sizes[a]

    def _arg_served(self, want: Arg, have: Any) -> bool:
        if isinstance(want, StaticArg):
            return have is want.expected
        if isinstance(want, EqualArg):
            if type(have) is not type(want.expected):
                return False
            if isinstance(have, float):
                return struct.pack("<d", have) == struct.pack("<d", want.expected)
            return have == want.expected
        if isinstance(want, ScalarArg):
            return self._scalar_served(want, have)
        array: Any = have
        if want.tensor:
            if type(have) is not self.tensor_type:
                return False
            for name, allowed in want.slots:
                found = getattr(have, name, None)
                if all(found is not one for one in allowed):
                    return False
            if want.fresh and not _is_fresh(have):
                return False
            array = getattr(have, "_data", None)
        if not array_serves(want, array, self.dims, self.bound):
            return False
        self._put(want.value, array)
        return True

    def _scalar_served(self, want: ScalarArg, have: Any) -> bool:
        if type(have) is not want.kind or want.kind is int and not -(1 << 63) <= have < 1 << 63:
            return False
        cell = ctypes.c_double(have) if want.kind is float else ctypes.c_int64(have)
        self.held.append(cell)
        self.values[want.value] = ctypes.addressof(cell)
        return True

    def run(self, box: Callable[[np.ndarray], Any], trace: Any) -> Any:
        """The answer of the call; `trace`: the `entry.Trace` of the spec, which counts."""
        spec, dims = self.spec, self.native_dims
        nbytes = dims[spec.arena.index] if isinstance(spec.arena, Slot) else spec.arena
        with memory.lease(max(1, nbytes)) as arena:
            if spec.endings:
                for constant in spec.constants:
                    self.values[constant.value] = constant.address
                status = _PLAN(spec.plan)(ctypes.addressof(self.values), ctypes.addressof(dims), arena.address)
                if status < 0:
                    return DECLINED
                trace.python_hits += 1
                trace = trace.endings[status]
                self.spec = trace.spec
            answer = self._end(box, arena.address)
        if answer is not DECLINED:
            trace.python_hits += 1
        return answer

    def _end(self, box: Callable[[np.ndarray], Any], arena: int) -> Any:
        spec, dims = self.spec, self.native_dims
        for constant in spec.constants:
            self.values[constant.value] = constant.address
        outputs = []
        for output in spec.outputs:
            shape = [dims[n.index] if isinstance(n, Slot) else n for n in output.shape]
            outputs.append(memory.empty(shape, output.dtype))
            self.values[output.value] = outputs[-1].ctypes.data
        if _PLAN(spec.plan)(ctypes.addressof(self.values), ctypes.addressof(dims), arena):
            return DECLINED
        self._count_writes()
        results: list[Any] = []
        for r in spec.results:
            if r.kind == "tensor":
                results.append(box(outputs[r.index]))
            elif r.kind == "object":
                results.append(r.object)
            else:
                results.append({"array": outputs, "argument": self.args, "again": results}[r.kind][r.index])
        for effect in spec.effects:
            setattr(effect.owner, effect.slot, None if effect.result is None else results[effect.result])
        if spec.structure == "single":
            return results[0]
        if spec.structure == "tuple":
            return tuple(results) if spec.returned == -1 else tuple(results[: spec.returned])
        return spec.structure(tuple(results))  # type: ignore[operator]

    def _count_writes(self) -> None:
        written = set(self.spec.written)
        tensors = [have for want, have in zip(self.spec.args, self.args) if getattr(want, "value", -1) in written]
        tensors += [s.tensor for s in self.spec.states if s.value in written]
        for t in tensors:
            t._version = (getattr(t, "_version", None) or 0) + 1


def _is_fresh(tensor: Any) -> bool:
    root = tensor
    while getattr(root, "_base", None) is not None:
        root = root._base
    return getattr(tensor, "_version", None) is getattr(root, "_version", None)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check() is True
    except Exception:  # noqa: BLE001 (as in native code: a guard that fails in any way does not hold)
        return False


class PythonFunction:
    """`CompiledFunction` where there is no native one. `_settings` is put there by `entry`."""

    _miss: Callable[..., Any]
    _chain: Any = None
    _settings: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        chain = self._chain
        if chain is not None:
            for trace in chain.traces:
                if tuple(kwargs) != trace.spec.names:
                    continue
                call = _Call(trace.spec, (*args, *kwargs.values()), self._settings.tensor_type)
                if not call.served(self._settings.mode):
                    continue
                answer = call.run(self._settings.box, trace)
                if answer is DECLINED:
                    break
                return answer
        return self._miss(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)
