"""What users pass where a tensor is expected: Tensors, ndarrays, NumPy and Python numbers, lists; and promotion."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.dim import Dim, DimLike
from ..ir.dtypes import DType, bool_, complex_of, dtype_of, int64, promote, promote_scalar
from ..ir.op import get_op
from .dispatch import lift, run
from .state import SymbolicScalar, UnsupportedOperand, default_for, state
from .tensor import Tensor, new_tensor

PYTHON_NUMBERS = (bool, int, float, complex)


def as_size(d: Any) -> DimLike:
    """An integer that says how large something is, or where it begins. In a trace it may be a symbol. TypeError for
    anything that is no integer."""
    if isinstance(d, Dim):
        return d
    if isinstance(d, Tensor) and state.tracer is not None and d.dtype.is_integer:
        d = d.item()
    if isinstance(d, SymbolicScalar):
        return d.as_size()
    if not hasattr(d, "__index__"):
        raise TypeError(f"sizes must be integers, not {d!r}")
    return d.__index__()


def is_scalar(x: Any) -> bool:
    """Whether `x` takes part in promotion by its kind only: Python numbers and their symbolic stand-ins. np.float64
    is a Python float, and counts as one; np.complex128 likewise."""
    return isinstance(x, (bool, int, float, complex, SymbolicScalar, Dim))


def scalar_dtype(dtype: DType, value: Any) -> DType:
    """The type in which a tensor of `dtype` meets the scalar."""
    if isinstance(value, SymbolicScalar):
        return (
            promote_scalar(dtype, value.python_type(0))
            if value.python_type is not float or dtype.is_inexact
            else state.default_dtype
        )
    if isinstance(value, Dim):
        return int64 if dtype is bool_ else dtype
    if isinstance(value, (float, complex)) and not dtype.is_inexact:
        return state.default_dtype if isinstance(value, float) else complex_of(state.default_dtype)
    return promote_scalar(dtype, value)


def scalar_tensor(value: Any, dtype: DType | None = None) -> Tensor:
    """A 0-d tensor of a Python number, or of what stands for one."""
    if isinstance(value, SymbolicScalar):
        return value.to_tensor(dtype or default_for(value.python_type))
    if isinstance(value, Dim):
        return lift(get_op("full")(value=value, shape=(), dtype=dtype or int64))
    if dtype is None:
        dtype = default_for(
            type(value) if type(value) in PYTHON_NUMBERS else complex if isinstance(value, complex) else float
        )
    if isinstance(value, complex) and not dtype.is_complex:
        raise TypeError(f"the complex number {value} does not fit into a {dtype.name} tensor; cast the tensor first")
    if dtype.kind in "iub" and isinstance(value, float) and not float(value).is_integer():
        raise TypeError(f"the number {value} does not fit into a {dtype.name} tensor; cast the tensor first")
    t = new_tensor(np.array(value, dtype.np))
    if state.tracer is not None:
        state.tracer.made(t)
    return t


def as_tensor(x: Any) -> Tensor:
    """A Tensor as it is; ndarrays and NumPy scalars with their dtype; Python numbers and lists of them with the
    default.

    Raises UnsupportedOperand for anything else.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, np.ndarray):
        return new_tensor(native(x))
    if is_scalar(x):
        return scalar_tensor(x)
    if isinstance(x, np.generic):
        return new_tensor(native(np.asarray(x)))
    if isinstance(x, (list, tuple)):
        from .creation import asarray

        return asarray(x)
    raise UnsupportedOperand(f"a {type(x).__name__} is neither a tensor nor a number")


def native(array: np.ndarray) -> np.ndarray:
    """The array with a dtype that tracefuse has, in native byte order. TypeError if there is none."""
    found = dtype_of(array.dtype).np
    return array if array.dtype is found else array.astype(found) if array.dtype != found else array.view(found)


def cast_to(x: Tensor, dtype: DType) -> Tensor:
    """`x` itself if it has the dtype already. TypeError for complex x and a real type."""
    if x.dtype is dtype:
        return x
    check_cast(x.dtype, dtype)
    return run(get_op("cast"), (x,), {"dtype": dtype})


def check_cast(source: DType, target: DType) -> None:
    """TypeError for complex numbers that shall become real ones: it is not said which part is meant."""
    if source.is_complex and target.kind not in "cb":
        raise TypeError(f"{source.name} does not become {target.name} by a cast; take real(x), imag(x) or abs(x)")


def promote_operands(*operands: Any) -> tuple[Tensor, ...]:
    """Tensors of the common dtype. Python numbers are weak; at least one operand should be a tensor."""
    dtype: DType | None = None
    tensors: list[Any] = []
    for x in operands:
        if not is_scalar(x):
            x = as_tensor(x)
            dtype = x.dtype if dtype is None else promote(dtype, x.dtype)
        tensors.append(x)
    if dtype is None:
        kinds = [scalar_tensor(x).dtype for x in operands]
        dtype = kinds[0]
        for k in kinds[1:]:
            dtype = promote(dtype, k)
    else:
        for x in tensors:
            if not isinstance(x, Tensor):
                dtype = scalar_dtype(dtype, x)
    return tuple([cast_to(x, dtype) if isinstance(x, Tensor) else scalar_tensor(x, dtype) for x in tensors])


def result_dtype(*operands: Any) -> DType:
    """The dtype that `operands` (tensors, arrays, dtypes, numbers) meet in."""
    strong = [x for x in operands if not is_scalar(x)]
    weak = [x for x in operands if is_scalar(x)]
    if not strong:
        return promote_operands(*weak)[0].dtype
    dtypes = [
        x if isinstance(x, DType) else as_tensor(x).dtype if not isinstance(x, (str, type, np.dtype)) else dtype_of(x)
        for x in strong
    ]
    dtype = dtypes[0]
    for d in dtypes[1:]:
        dtype = promote(dtype, d)
    for x in weak:
        dtype = scalar_dtype(dtype, x)
    return dtype
