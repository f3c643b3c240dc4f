"""Discrete Fourier transforms, not normalised: numpy.fft computes them, backends have none.

With w = exp(-2 pi i / n) the forward transform is y[k] = sum_j x[j] w^(jk); the inverse has exp(+2 pi i / n).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import shifted
from ..dim import DimLike
from ..dtypes import complex_of, from_numpy
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import checked_axes, draw, rng_of, with_length
from .complex import conj, draw_complex, real
from .movement import concat, pad, slice_
from .pointwise import scale


def _refuse(x: TensorType, kinds: str, what: str) -> None:
    if x.dtype.kind != kinds or x.dtype.bits < 32:
        raise DTypeRuleError(f"takes {what} operands, not {x.dtype.code}")


def _size(x: TensorType, axis: int, least: int = 1) -> int:
    """The size of an axis. TypeRuleError if it is symbolic or too small."""
    checked_axes((axis,), x)
    n = x.shape[axis]
    if not isinstance(n, int) or n < least:
        raise TypeRuleError(f"axis {axis} of {x} must have a known size of at least {least}")
    return n


# ------------------------------------------------------------------ complex to complex


def _fft_type(x: TensorType, axes: tuple[int, ...], inverse: bool) -> TensorType:
    _refuse(x, "c", "complex")
    checked_axes(axes, x)
    for a in axes:
        _size(x, a)
    return x


def _fft(x: np.ndarray, axes: tuple[int, ...], inverse: bool) -> np.ndarray:
    if not axes:
        return x.copy()
    out = np.fft.ifftn(x, axes=axes, norm="forward") if inverse else np.fft.fftn(x, axes=axes)
    return out.astype(x.dtype, copy=False)


fft = register(
    OpDef(
        "fft",
        "structural",
        ("x",),
        _fft_type,
        _fft,
        lambda c, g: (fft(g, **c.attrs),),  # the matrix of the transform is symmetric
        attrs={"axes": REQUIRED, "inverse": False},
        batch=shifted("axes"),
        saves=(),
        linear=("x",),
        samples=lambda: [
            Sample((draw_complex(rng_of("fft"), shape),), {"axes": axes, "inverse": inverse})
            for shape, axes, inverse in (((5,), (0,), False), ((2, 4, 3), (0, 2), True), ((1, 6), (1,), False))
        ],
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32),), {"axes": (0,)}, DTypeRuleError, "complex operands"),
            ErrorSample((np.zeros(3, np.complex64),), {"axes": (1,)}, TypeRuleError, "sorted, unique"),
            ErrorSample((np.zeros(0, np.complex64),), {"axes": (0,)}, TypeRuleError, "at least 1"),
        ],
        doc="Over all of `axes`; `inverse`: without the division by the number of elements.",
    )
)

# ------------------------------------------------------------------ real to complex and back


def _rfft_type(x: TensorType, axis: int) -> TensorType:
    _refuse(x, "f", "float32 or float64")
    n = _size(x, axis)
    return TensorType(complex_of(x.dtype), with_length(x.shape, axis, n // 2 + 1))


def _rfft_vjp(c: VjpContext, g: Any) -> tuple:
    """The cotangents of the frequencies that were left out are 0, and only the real part counts."""
    axis, shape = c.attrs["axis"], c.types[0].shape
    n = shape[axis]
    high = tuple(n - (n // 2 + 1) if a == axis else 0 for a in range(len(shape)))
    padded = pad(g, low=(0,) * len(shape), high=high, value=0)
    return (real(fft(padded, axes=(axis,), inverse=False)),)


def _rfft(x: np.ndarray, axis: int) -> np.ndarray:
    return np.fft.rfft(x, axis=axis).astype(complex_of(from_numpy(x.dtype)).np, copy=False)


rfft = register(
    OpDef(
        "rfft",
        "structural",
        ("x",),
        _rfft_type,
        _rfft,
        _rfft_vjp,
        attrs={"axis": REQUIRED},
        batch=shifted("axis"),
        saves=(),
        linear=("x",),
        samples=lambda: [
            Sample((draw(rng_of("rfft"), shape),), {"axis": axis})
            for shape, axis in (((5,), 0), ((2, 4, 3), 1), ((1, 6), 1), ((3, 1), 1))
        ],
        errors=lambda: [
            ErrorSample((np.zeros(3, np.complex64),), {"axis": 0}, DTypeRuleError, "float32 or float64 operands"),
            ErrorSample((np.zeros(3, np.float32),), {"axis": 1}, TypeRuleError, "sorted, unique"),
        ],
        doc="The frequencies 0 to n // 2 of a real signal of n elements along `axis`.",
    )
)


def _irfft_type(x: TensorType, n: int, axis: int) -> TensorType:
    _refuse(x, "c", "complex")
    checked_axes((axis,), x)
    if not isinstance(n, int) or n < 1 or x.shape[axis] != n // 2 + 1:
        raise TypeRuleError(f"axis {axis} of {x} must have the {n}//2 + 1 frequencies of a signal of {n} elements")
    return TensorType(x.dtype.real, with_length(x.shape, axis, n))


def _irfft_vjp(c: VjpContext, g: Any) -> tuple:
    """Frequencies that stand for their mirror images too count twice."""
    n, axis = c.attrs["n"], c.attrs["axis"]
    y = conj(rfft(g, axis=axis))
    shape = value_type(y).shape
    last = (n + 1) // 2  # behind the frequencies that have a mirror image

    def part(start: DimLike, stop: DimLike) -> Any:
        starts = tuple(start if a == axis else 0 for a in range(len(shape)))
        return slice_(y, start=starts, stop=with_length(shape, axis, stop), step=(1,) * len(shape))

    parts = [part(0, 1), scale(part(1, last), 2.0)] if last > 1 else [part(0, 1)]
    if n % 2 == 0:
        parts.append(part(n // 2, n // 2 + 1))
    return (concat(*parts, axis=axis) if len(parts) > 1 else parts[0],)


def _irfft(x: np.ndarray, n: int, axis: int) -> np.ndarray:
    out = np.fft.irfft(x, n, axis=axis, norm="forward")
    return out.astype(from_numpy(x.dtype).real.np, copy=False)


irfft = register(
    OpDef(
        "irfft",
        "structural",
        ("x",),
        _irfft_type,
        _irfft,
        _irfft_vjp,
        attrs={"n": REQUIRED, "axis": REQUIRED},
        batch=shifted("axis"),
        saves=(),
        linear=("x",),
        samples=lambda: [
            Sample((draw_complex(rng_of("irfft"), shape),), {"n": n, "axis": axis})
            for shape, n, axis in (((3,), 5, 0), ((2, 4), 6, 1), ((1, 3), 1, 0), ((2, 3), 2, 0))
        ],
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32),), {"n": 4, "axis": 0}, DTypeRuleError, "complex operands"),
            ErrorSample((np.zeros(3, np.complex64),), {"n": 7, "axis": 0}, TypeRuleError, "7//2"),
        ],
        doc="The real signal of n elements with these frequencies 0 to n // 2; not divided by n.",
    )
)

__all__ = ["fft", "irfft", "rfft"]
