"""Python numbers that the compiled function itself changes from call to call (`self.n += 1`).

A `LazyNumber` knows what it is in the traced call, and how it is computed in any other. Arithmetic that can't fail is
recorded; whatever steers Python (a comparison, `range`, an index) asks for the number, and from then on the trace
expects just that: of a comparison its outcome, of everything else the value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import ops
from ...ir.dtypes import DType, float64
from ..state import SymbolicScalar, state
from ..tensor import Tensor
from .origins import OPERATIONS, Held, Operation, Origin
from .scalars import ScalarArgument

if TYPE_CHECKING:
    from .overlay import Overlay

_DEEPEST = 64  # operations in one expression


class LazyNumber(SymbolicScalar):
    """An int or float (a bool as the outcome of a comparison, at once) that is computed anew on every call."""

    __slots__ = ("depth", "now", "origin", "overlay", "settled")

    def __init__(self, overlay: "Overlay", origin: Origin, now: Any, depth: int = 0):
        self.overlay, self.origin, self.now, self.depth, self.settled = overlay, origin, now, depth, False

    @property
    def python_type(self) -> type:  # type: ignore[override]
        return type(self.now)

    def settle(self) -> Any:
        """The number itself, which later calls must find again."""
        if not self.settled:
            self.settled = True
            self.overlay.expect_value(self.origin, self.now)
        return self.now

    def to_tensor(self, dtype: DType) -> Tensor:
        assert state.tracer is not None
        v = self.overlay.number_input(self)
        return state.tracer.wrap(v if v.type.dtype is dtype else ops.cast(v, dtype=dtype))

    def _with(self, other: Any, symbol: str, swapped: bool = False) -> Any:
        if isinstance(other, ScalarArgument):
            return self._with_argument(other, symbol, swapped)
        if isinstance(other, LazyNumber):
            origin, now, depth = other.origin, other.now, other.depth
        elif type(other) in (int, float, bool):
            origin, now, depth = Held(other), other, 0
        else:
            return NotImplemented
        divides = symbol in ("/", "//", "%")
        fixed = isinstance(origin, Held) and now != 0 and not swapped
        if self.settled or divides and not fixed or max(depth, self.depth) >= _DEEPEST:
            a, b = self.settle(), other.settle() if isinstance(other, LazyNumber) else other
            return OPERATIONS[symbol](b, a) if swapped else OPERATIONS[symbol](a, b)
        if type(now) is int and not -(2**62) < now < 2**62:
            return OPERATIONS[symbol](now, self.settle()) if swapped else OPERATIONS[symbol](self.settle(), now)
        left, right = ((origin, now), (self.origin, self.now))[:: 1 if swapped else -1]
        result = OPERATIONS[symbol](left[1], right[1])
        recorded = Operation(symbol, (left[0], right[0]))
        if symbol in ("==", "!=", "<", "<=", ">", ">="):
            self.overlay.expect_value(recorded, result)
            return result
        return LazyNumber(self.overlay, recorded, result, max(depth, self.depth) + 1)

    def _with_argument(self, other: ScalarArgument, symbol: str, swapped: bool) -> Any:
        op = {"+": ops.add, "-": ops.sub, "*": ops.mul}.get(symbol)
        if op is None:
            return other._concrete()
        v = self.overlay.number_input(self)
        v = v if v.type.dtype is float64 else ops.cast(v, dtype=float64)
        return ScalarArgument(op(other.value, v) if swapped else op(v, other.value), other.leaf)

    def __neg__(self) -> "LazyNumber":
        return LazyNumber(self.overlay, Operation("neg", (self.origin,)), -self.now, self.depth + 1)

    def __pos__(self) -> "LazyNumber":
        return self

    def __abs__(self) -> "LazyNumber":
        return LazyNumber(self.overlay, Operation("abs", (self.origin,)), abs(self.now), self.depth + 1)

    def __bool__(self) -> bool:
        if not self.settled:
            self.overlay.expect_value(Operation("bool", (self.origin,)), bool(self.now))
        return bool(self.now)

    def __index__(self) -> int:
        if type(self.now) is not int:
            raise TypeError("'float' object cannot be interpreted as an integer")
        return self.settle()

    def __hash__(self) -> int:
        return hash(self.settle())

    def __int__(self) -> int:
        return int(self.settle())

    def __float__(self) -> float:
        return float(self.settle())

    def __complex__(self) -> complex:
        return complex(self.settle())

    def __round__(self, *digits: Any) -> Any:
        return round(self.settle(), *digits)

    def __str__(self) -> str:
        return str(self.settle())

    def __repr__(self) -> str:
        return repr(self.settle())

    def __format__(self, spec: str) -> str:
        return format(self.settle(), spec)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Tensor) for x in inputs):
            return NotImplemented
        return getattr(ufunc, method)(*[settled(x) for x in inputs], **options)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return np.asarray(self.settle(), *args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in LazyNumber.__slots__:
            raise AttributeError(name)
        return getattr(self.settle(), name)


def _recorded(symbol: str, swapped: bool = False) -> Any:
    return lambda self, other: self._with(other, symbol, swapped)


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%"}.items():
    setattr(LazyNumber, f"__{_name}__", _recorded(_symbol))
    setattr(LazyNumber, f"__r{_name}__", _recorded(_symbol, True))
for _name, _symbol in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items():
    setattr(LazyNumber, f"__{_name}__", _recorded(_symbol))


def _settled(name: str) -> Any:
    def method(self: LazyNumber, *others: Any) -> Any:
        if any(isinstance(x, Tensor) for x in others):
            return NotImplemented
        return getattr(self.settle(), name)(*[x.settle() if isinstance(x, LazyNumber) else x for x in others])

    return method


for _name in "pow rpow divmod rdivmod and rand or ror xor rxor lshift rlshift rshift rrshift invert".split():
    setattr(LazyNumber, f"__{_name}__", _settled(f"__{_name}__"))
for _name in "trunc floor ceil".split():
    setattr(LazyNumber, f"__{_name}__", _settled(f"__{_name}__"))


def settled(v: Any) -> Any:
    """A value as Python itself needs it: numbers that change from call to call are expected to be what they are."""
    return v.settle() if isinstance(v, LazyNumber) else v
