"""Functions of complex numbers. Gradients follow PyTorch's convention: they point where a real result grows fastest."""

from __future__ import annotations

import builtins
from typing import Any

from ..ir.dtypes import complex_of
from ..ir.op import get_op
from . import elementwise as e
from .convert import as_tensor, cast_to, promote_operands
from .dispatch import run
from .manipulation import broadcast_arrays, stack
from .state import state
from .tensor import Tensor


def real(x: Any, /) -> Tensor:
    """The real part; of real tensors a copy."""
    x = as_tensor(x)
    return run(get_op("real"), (x,), {}) if x.dtype.is_complex else e.positive(x)


def imag(x: Any, /) -> Tensor:
    """The imaginary part; of real tensors zeros."""
    x = as_tensor(x)
    return run(get_op("imag"), (x,), {}) if x.dtype.is_complex else e.multiply(x, 0)


def conj(x: Any, /) -> Tensor:
    """The complex conjugate; of real tensors a copy."""
    x = as_tensor(x)
    return run(get_op("conj"), (x,), {}) if x.dtype.is_complex else e.positive(x)


def angle(x: Any, /) -> Tensor:
    """The angle to the positive real axis, in (-pi, pi]; of real numbers 0 or pi."""
    x = as_tensor(x)
    if x.dtype.is_complex:
        return e.atan2(imag(x), real(x))
    x = x if x.dtype.is_floating else cast_to(x, state.default_dtype)
    return e.where(e.isnan(x), x, e.where(e.less(x, 0), e.acos(-1.0), 0.0))


def complex(real: Any, imag: Any, /) -> Tensor:
    """real + i * imag of float32 or float64 tensors, which broadcast."""
    re, im = broadcast_arrays(*promote_operands(real, imag))
    return run(get_op("complex"), (re, im), {})


def polar(abs: Any, angle: Any, /) -> Tensor:
    """abs * e**(i * angle)."""
    return complex(e.multiply(abs, e.cos(angle)), e.multiply(abs, e.sin(angle)))


def as_complex(x: Any) -> Tensor:
    """x as a complex tensor of the same precision (of the default one for integers and bools)."""
    x = as_tensor(x)
    if x.dtype.is_complex:
        return x
    return cast_to(x, complex_of(x.dtype if x.dtype.is_floating else state.default_dtype))


def view_as_real(x: Any, /) -> Tensor:
    """Real and imaginary part along a new last axis. A copy."""
    x = as_tensor(x)
    if not x.dtype.is_complex:
        raise TypeError(f"view_as_real takes a complex tensor, not {x.dtype.name}")
    return stack([real(x), imag(x)], axis=-1)


def view_as_complex(x: Any, /) -> Tensor:
    """The complex tensor whose parts lie along the last axis of x, which has size 2. A copy."""
    x = as_tensor(x)
    if x.ndim == 0 or x.shape[-1] != 2:
        raise ValueError(f"view_as_complex needs a last axis of size 2, not shape {x.shape}")
    return complex(x[..., 0], x[..., 1])


def is_complex(x: Any, /) -> builtins.bool:
    """Whether the tensor has a complex type."""
    return as_tensor(x).dtype.is_complex


__all__ = [
    "angle", "complex", "conj", "imag", "is_complex", "polar", "real", "view_as_complex", "view_as_real",
]  # fmt: skip
