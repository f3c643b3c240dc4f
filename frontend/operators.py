"""Operators of tensors: `x + y`, `x @ y`, `x += y`, `x[key]`, `float(x)`, `for row in x`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .state import UnsupportedOperand, state

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorOperators:
    """Mixed into Tensor. Holds no data."""

    __slots__ = ()

    if TYPE_CHECKING:
        _data: Any
        shape: tuple
        ndim: int

    def __add__(self, other: Any) -> Tensor:
        return _operator(F.add, self, other)

    def __sub__(self, other: Any) -> Tensor:
        return _operator(F.subtract, self, other)

    def __mul__(self, other: Any) -> Tensor:
        return _operator(F.multiply, self, other)

    def __truediv__(self, other: Any) -> Tensor:
        return _operator(F.divide, self, other)

    def __floordiv__(self, other: Any) -> Tensor:
        return _operator(F.floor_divide, self, other)

    def __mod__(self, other: Any) -> Tensor:
        return _operator(F.remainder, self, other)

    def __pow__(self, other: Any) -> Tensor:
        return _operator(F.pow, self, other)

    def __and__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_and, self, other)

    def __or__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_or, self, other)

    def __xor__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_xor, self, other)

    def __lshift__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_left_shift, self, other)

    def __rshift__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_right_shift, self, other)

    def __matmul__(self, other: Any) -> Tensor:
        return _operator(F.matmul, self, other)

    def __lt__(self, other: Any) -> Tensor:
        return _operator(F.less, self, other)

    def __le__(self, other: Any) -> Tensor:
        return _operator(F.less_equal, self, other)

    def __gt__(self, other: Any) -> Tensor:
        return _operator(F.greater, self, other)

    def __ge__(self, other: Any) -> Tensor:
        return _operator(F.greater_equal, self, other)

    def __eq__(self, other: object) -> Tensor:  # type: ignore[override]
        return _operator(F.equal, self, other)

    def __ne__(self, other: object) -> Tensor:  # type: ignore[override]
        return _operator(F.not_equal, self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _operator(F.add, other, self)

    def __rsub__(self, other: Any) -> Tensor:
        return _operator(F.subtract, other, self)

    def __rmul__(self, other: Any) -> Tensor:
        return _operator(F.multiply, other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _operator(F.divide, other, self)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return _operator(F.floor_divide, other, self)

    def __rmod__(self, other: Any) -> Tensor:
        return _operator(F.remainder, other, self)

    def __rpow__(self, other: Any) -> Tensor:
        return _operator(F.pow, other, self)

    def __rand__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_and, other, self)

    def __ror__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_or, other, self)

    def __rxor__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_xor, other, self)

    def __rlshift__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_left_shift, other, self)

    def __rrshift__(self, other: Any) -> Tensor:
        return _operator(F.bitwise_right_shift, other, self)

    def __rmatmul__(self, other: Any) -> Tensor:
        return _operator(F.matmul, other, self)

    def __iadd__(self, other: Any) -> Tensor:
        return _in_place(self, F.add, other)

    def __isub__(self, other: Any) -> Tensor:
        return _in_place(self, F.subtract, other)

    def __imul__(self, other: Any) -> Tensor:
        return _in_place(self, F.multiply, other)

    def __itruediv__(self, other: Any) -> Tensor:
        return _in_place(self, F.divide, other)

    def __ifloordiv__(self, other: Any) -> Tensor:
        return _in_place(self, F.floor_divide, other)

    def __imod__(self, other: Any) -> Tensor:
        return _in_place(self, F.remainder, other)

    def __ipow__(self, other: Any) -> Tensor:
        return _in_place(self, F.pow, other)

    def __iand__(self, other: Any) -> Tensor:
        return _in_place(self, F.bitwise_and, other)

    def __ior__(self, other: Any) -> Tensor:
        return _in_place(self, F.bitwise_or, other)

    def __ixor__(self, other: Any) -> Tensor:
        return _in_place(self, F.bitwise_xor, other)

    def __ilshift__(self, other: Any) -> Tensor:
        return _in_place(self, F.bitwise_left_shift, other)

    def __irshift__(self, other: Any) -> Tensor:
        return _in_place(self, F.bitwise_right_shift, other)

    def __neg__(self) -> Tensor:
        return F.negative(self)

    def __pos__(self) -> Tensor:
        return F.positive(self)

    def __abs__(self) -> Tensor:
        return F.abs(self)

    def __invert__(self) -> Tensor:
        return F.bitwise_invert(self)

    def __getitem__(self, key: Any) -> Tensor:
        return F.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        F.setitem(self, key, value)

    # ---- as Python numbers and sequences
    def __bool__(self) -> bool:
        return bool(one_element(self, "bool"))

    def __int__(self) -> int:
        return int(one_element(self, "int"))

    def __float__(self) -> float:
        return float(one_element(self, "float"))

    def __complex__(self) -> complex:
        return complex(one_element(self, "float"))

    def __index__(self) -> int:
        value = one_element(self, "int")
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError("only integer tensors with one element can be used as an index")
        return int(value)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (F.getitem(self, i) for i in range(self.shape[0]))

    def __contains__(self, value: Any) -> bool:
        return bool(F.any(F.equal(self, value)))

    def __repr__(self) -> str:
        from .printing import format_tensor

        return format_tensor(self)  # type: ignore[arg-type]

    def __format__(self, spec: str) -> str:
        return format(one_element(self, "item"), spec) if spec else repr(self)


def _operator(function: Callable, x: Any, y: Any) -> Any:
    """The function's result; NotImplemented for operands that are neither tensors nor numbers."""
    try:
        return function(x, y)
    except UnsupportedOperand:
        return NotImplemented


def _in_place(t: Any, function: Callable, other: Any) -> Any:
    """t = function(t, other), written into t's memory."""
    try:
        new = function(t, other)
    except UnsupportedOperand:
        return NotImplemented
    return dispatch.write_result(t, new)


def one_element(t: Any, what: str) -> Any:
    """The only element, as a Python number. ValueError if there are more."""
    if state.tracer is not None:
        return state.tracer.concretize(t, what)
    if t._data.size != 1:
        raise ValueError(
            f"a tensor of shape {t.shape} has no single {'truth value; use any() or all()' if what == 'bool' else 'value'}"
        )
    return t._data.item() if t._data.dtype.kind != "V" else float(t._data.reshape(()))


from . import dispatch
from . import functions as F
