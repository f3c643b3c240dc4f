"""Element types: their names in Python and in the text form, their NumPy dtypes, and promotion."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


class DType:
    """An element type. Instances are singletons; compare them with `is` or `==`."""

    __slots__ = ("name", "code", "kind", "bits", "np")

    def __init__(self, name: str, code: str, kind: str, bits: int, np_type: Any):
        self.name = name  # "float32": the public name
        self.code = code  # "f32": the name in text forms
        self.kind = kind  # "b" bool, "i" signed, "u" unsigned, "f" floating, "c" complex
        self.bits = bits  # bits in memory
        self.np = np.dtype(np_type)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8

    @property
    def is_floating(self) -> bool:
        return self.kind == "f"

    @property
    def is_complex(self) -> bool:
        return self.kind == "c"

    @property
    def is_inexact(self) -> bool:
        """Floating or complex: the types that gradients have."""
        return self.kind in "fc"

    @property
    def real(self) -> "DType":
        """The type of the real and imaginary part; of other types themselves."""
        return {complex64: float32, complex128: float64}.get(self, self)

    @property
    def is_integer(self) -> bool:
        return self.kind in "iu"

    def __repr__(self) -> str:
        return f"tracefuse.{self.name}"

    def __str__(self) -> str:
        return self.code

    def __reduce__(self):
        return (dtype_of, (self.name,))


bool_ = DType("bool", "bool", "b", 8, np.bool_)
int8 = DType("int8", "i8", "i", 8, np.int8)
int16 = DType("int16", "i16", "i", 16, np.int16)
int32 = DType("int32", "i32", "i", 32, np.int32)
int64 = DType("int64", "i64", "i", 64, np.int64)
uint8 = DType("uint8", "u8", "u", 8, np.uint8)
uint16 = DType("uint16", "u16", "u", 16, np.uint16)
uint32 = DType("uint32", "u32", "u", 32, np.uint32)
uint64 = DType("uint64", "u64", "u", 64, np.uint64)
float16 = DType("float16", "f16", "f", 16, np.float16)
bfloat16 = DType("bfloat16", "bf16", "f", 16, ml_dtypes.bfloat16)
float32 = DType("float32", "f32", "f", 32, np.float32)
float64 = DType("float64", "f64", "f", 64, np.float64)
complex64 = DType("complex64", "c64", "c", 64, np.complex64)
complex128 = DType("complex128", "c128", "c", 128, np.complex128)

SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGERS = SIGNED + UNSIGNED
FLOATS = (float16, bfloat16, float32, float64)
COMPLEX = (complex64, complex128)
ALL = (bool_, *INTEGERS, *FLOATS)  # the types that kernels compute with: complex numbers are computed by references
EVERY = (*ALL, *COMPLEX)

_BY_NAME = {d.name: d for d in EVERY} | {d.code: d for d in EVERY}
_BY_NAME |= {"half": float16, "float": float32, "double": float64, "cfloat": complex64, "cdouble": complex128}
_BY_NUMPY = {d.np: d for d in EVERY}
_BY_PYTHON: dict[Any, DType] = {bool: bool_, int: int64, float: float32, complex: complex64}


def dtype_of(x: Any) -> DType:
    """The DType for a DType, a name ("float32" or "f32"), a NumPy dtype or scalar type, or
    bool/int/float/complex. Raises TypeError for anything else.
    """
    if isinstance(x, DType):
        return x
    if isinstance(x, str) and x in _BY_NAME:
        return _BY_NAME[x]
    try:
        if x in _BY_PYTHON:
            return _BY_PYTHON[x]
        return _BY_NUMPY[np.dtype(x).newbyteorder("=")]
    except (TypeError, KeyError):
        raise TypeError(
            f"{x!r} is not an element type of tracefuse; use one of {', '.join(d.name for d in EVERY)}"
        ) from None


def from_numpy(dt: np.dtype) -> DType:
    """`dtype_of` for an ndarray's dtype: the fast path."""
    try:
        return _BY_NUMPY[dt]
    except KeyError:
        return dtype_of(dt)


def promote(a: DType, b: DType) -> DType:
    """The type two operands meet in: array API rules, and PyTorch's for integer with floating (the floating one wins)."""
    if a is b:
        return a
    key = (a, b)
    found = _PROMOTED.get(key)
    if found is None:
        found = _PROMOTED[key] = _promote(a, b)
    return found


def _promote(a: DType, b: DType) -> DType:
    if a.kind == "b":
        return b
    if b.kind == "b":
        return a
    if a.kind == "c" or b.kind == "c":
        real = promote(a.real, b.real)
        return complex128 if real is float64 else complex64
    if a.kind == "f" and b.kind == "f":
        if a.bits == b.bits:  # float16 with bfloat16
            return float32
        return a if a.bits > b.bits else b
    if a.kind == "f":
        return a
    if b.kind == "f":
        return b
    if a.kind == b.kind:
        return a if a.bits >= b.bits else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.bits > unsigned.bits:
        return signed
    wider = {8: int16, 16: int32, 32: int64}.get(unsigned.bits)
    if wider is None:
        raise TypeError("int64 and uint64 have no common integer type; cast one of them first (x.astype(...))")
    return wider


_PROMOTED: dict[tuple[DType, DType], DType] = {}


def promote_scalar(dtype: DType, value: bool | int | float | complex) -> DType:
    """The type a Python scalar gives with a tensor of `dtype`: the scalar is weak, its kind alone counts."""
    if isinstance(value, bool):
        return dtype
    if isinstance(value, int):
        return int64 if dtype.kind == "b" else dtype
    if isinstance(value, complex):
        return dtype if dtype.kind == "c" else complex_of(dtype if dtype.kind == "f" else float32)
    return dtype if dtype.is_inexact else float32


def complex_of(dtype: DType) -> DType:
    """The complex type whose parts are of the floating type `dtype` (or the nearest wider one)."""
    return complex128 if dtype in (float64, complex128) else complex64


def accumulator(dtype: DType) -> DType:
    """The type sums of `dtype` are accumulated in inside one kernel (narrow floats in float32)."""
    return float32 if dtype in (float16, bfloat16) else dtype
