"""Python float arguments that stay in the graph: a changing learning rate does not make a new trace.

Only arithmetic that can't fail in Python is recorded. Whatever else is asked of the number (a comparison, `int()`, a
library function that wants a float) starts the capture again with the argument as a constant of the trace.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ...ir import ops
from ...ir.dim import Dim
from ...ir.dtypes import DType, float64
from ...ir.graph import Value
from ..state import SymbolicScalar, state
from ..tensor import Tensor
from .tracer import Specialize


class ScalarArgument(SymbolicScalar):
    """A float that was computed from argument `leaf` (a 0-d float64 value of the graph)."""

    __slots__ = ("value", "leaf", "original")
    python_type = float

    def __init__(self, value: Value, leaf: Any, original: bool = False):
        self.value, self.leaf, self.original = value, leaf, original

    def to_tensor(self, dtype: DType) -> Tensor:
        assert state.tracer is not None
        v = self.value if dtype is float64 else ops.cast(self.value, dtype=dtype)
        return state.tracer.wrap(v)

    def _with(self, other: Any, op: Any, swapped: bool = False) -> Any:
        if isinstance(other, ScalarArgument):
            b = other.value
        elif type(other) in (int, float, bool):
            b = ops.full(value=float(other), shape=(), dtype=float64)
        elif isinstance(other, Dim):
            b = ops.full(value=other, shape=(), dtype=float64)
        else:
            return NotImplemented
        return type(self)(op(b, self.value) if swapped else op(self.value, b), self.leaf)

    def __add__(self, other: Any) -> Any:
        return self._with(other, ops.add)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, ops.add, True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, ops.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, ops.sub, True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, ops.mul)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, ops.mul, True)

    def __truediv__(self, other: Any) -> Any:
        if type(other) in (int, float) and other != 0:  # a zero raises in Python
            return self._with(other, ops.div)
        return NotImplemented if isinstance(other, Tensor) else self._concrete()

    def __neg__(self) -> "ScalarArgument":
        return type(self)(ops.neg(self.value), self.leaf)

    def __pos__(self) -> "ScalarArgument":
        return self

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return NotImplemented if any(isinstance(x, Tensor) for x in inputs) else self._concrete()

    def _concrete(self, *_: Any) -> NoReturn:
        raise Specialize(self.leaf)

    def __rtruediv__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else self._concrete()

    def __pow__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else self._concrete()

    __rpow__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __rdivmod__ = __pow__

    __bool__ = __int__ = __float__ = __index__ = __complex__ = __round__ = __trunc__ = __floor__ = __ceil__ = _concrete
    __abs__ = __str__ = __repr__ = __format__ = __hash__ = __lt__ = __le__ = __gt__ = __ge__ = _concrete  # type: ignore[assignment]
    __eq__ = __ne__ = _concrete  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # protocols that a float does not have
            raise AttributeError(name)
        raise Specialize(self.leaf)
