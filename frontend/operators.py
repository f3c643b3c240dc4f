"""Operators of tensors: `x + y`, `x @ y`, `x += y`, `x[key]`, `float(x)`, `for row in x`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .devices import host
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

    if TYPE_CHECKING:  # made by `install_operators`
        _operator = cast("Callable[..., Tensor]", None)
        __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = _operator
        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = _operator
        __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _operator
        __and__ = __or__ = __xor__ = __lshift__ = __rshift__ = __rand__ = __ror__ = __rxor__ = _operator
        __rlshift__ = __rrshift__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _operator
        __lt__ = __le__ = __gt__ = __ge__ = _operator

        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]

        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]

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
        value = one_element(self, "index")
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


ARITHMETIC = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "pow", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "lshift": "bitwise_left_shift",
    "rshift": "bitwise_right_shift", "matmul": "matmul",
}  # fmt: skip
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def install_operators(cls: type, functions: dict[str, Any]) -> None:
    """Gives `cls` the operators: `x + y`, `2 + x`, `x += y`, `x < y`."""
    for name, function in (ARITHMETIC | COMPARISONS).items():
        setattr(cls, f"__{name}__", _operator(functions[function]))
    for name, function in ARITHMETIC.items():
        setattr(cls, f"__r{name}__", _reflected(functions[function]))
        setattr(cls, f"__i{name}__", _in_place(functions[function], function))


def _operator(function: Callable) -> Callable:
    """NotImplemented for operands that are neither tensors nor numbers, so that their class may answer."""

    def operator(x: Any, y: Any) -> Any:
        try:
            return function(x, y)
        except UnsupportedOperand:
            return NotImplemented

    return operator


def _reflected(function: Callable) -> Callable:
    def operator(y: Any, x: Any) -> Any:
        try:
            return function(x, y)
        except UnsupportedOperand:
            return NotImplemented

    return operator


def _in_place(function: Callable, name: str) -> Callable:
    from .dispatch import write_result

    def operator(x: Any, y: Any) -> Any:
        try:
            new = function(x, y)
        except UnsupportedOperand:
            return NotImplemented
        return write_result(x, new, f"in-place {name}")

    return operator


def one_element(t: Any, what: str) -> Any:
    """The only element, as a Python number. ValueError if there are more."""
    array = t._data if state.tracer is not None else host(t._data)
    if state.tracer is not None:
        array = state.tracer.concretize(t, what)
        if not isinstance(array, np.ndarray):
            return array
    if array.size != 1:
        wanted = "truth value; use any() or all()" if what == "bool" else "value"
        raise ValueError(f"a tensor of shape {t.shape} has no single {wanted}")
    return array.item() if array.dtype.kind != "V" else float(array.reshape(()))


# At the end: functions need the Tensor class, which needs this one.
from . import functions as F  # noqa: E402
