"""Questions about element types: limits, promotion, kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.dtypes import DType, dtype_of, promote
from .convert import result_dtype
from .tensor import Tensor


@dataclass(frozen=True, slots=True)
class FloatInfo:
    """Limits of a floating type."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType

    @property
    def tiny(self) -> float:
        return self.smallest_normal


@dataclass(frozen=True, slots=True)
class IntegerInfo:
    """Limits of an integer type."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype(x: Any) -> DType:
    return x.dtype if isinstance(x, Tensor) else dtype_of(x)


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a floating dtype (or of a tensor's); of a complex one those of its parts. TypeError for others."""
    import ml_dtypes

    dtype = _dtype(type).real
    if not dtype.is_floating:
        raise TypeError(f"finfo takes a floating type, not {dtype.name}")
    info = ml_dtypes.finfo(dtype.np)
    return FloatInfo(dtype.bits, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal), dtype)


def iinfo(type: Any, /) -> IntegerInfo:
    """Limits of an integer dtype (or of a tensor's). TypeError for others."""
    dtype = _dtype(type)
    if not dtype.is_integer:
        raise TypeError(f"iinfo takes an integer type, not {dtype.name}")
    info = np.iinfo(dtype.np)
    return IntegerInfo(dtype.bits, int(info.max), int(info.min), dtype)


def result_type(*operands: Any) -> DType:
    """The dtype that tensors, dtypes and Python numbers (which are weak) meet in."""
    if not operands:
        raise ValueError("result_type needs at least one operand")
    return result_dtype(*operands)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether promotion alone turns the one type into the other."""
    source, target = _dtype(from_), dtype_of(to)
    try:
        return promote(source, target) is target
    except TypeError:
        return False


_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "c",
    "numeric": "iufc",
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether a dtype is of a kind: a dtype, a tuple of kinds, or "bool", "signed integer", "unsigned integer",
    "integral", "real floating", "complex floating", "numeric"."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str) and kind in _KINDS:
        return dtype_of(dtype).kind in _KINDS[kind]
    return dtype_of(dtype) is dtype_of(kind)
