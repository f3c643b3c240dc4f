"""Complex numbers: their parts, conjugates and sizes, and how gradients of them are counted.

Cotangents of complex values pair with changes as the real part of cotangent * change, without a conjugate, so that the
rules of holomorphic functions are those of the real ones. The frontend conjugates where gradients enter and leave, so
that users see PyTorch's convention: the gradient points where a real result grows fastest.

Backends have no complex numbers: ops on them are computed by their references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import leading, shifted
from ..dtypes import complex_of
from ..op import ErrorSample, OpDef, Sample, VjpContext, VjpRule, register, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import const_like, draw, rng_of, shape_text, zeros_like
from .pointwise import div, eq, mul, neg, where


def draw_complex(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform values in the square from -3 - 3i to 3 + 3i, as complex64."""
    return np.asarray(draw(rng, shape) + 1j * draw(rng, shape)).astype(np.complex64)


def is_complex(x: Any) -> bool:
    """Whether a bound value has a complex type."""
    return value_type(x).dtype.is_complex


def adjoint(x: Any) -> Any:
    """The conjugate; real values themselves."""
    return conj(x) if is_complex(x) else x


def _refuse_real(x: TensorType) -> None:
    if not x.dtype.is_complex:
        raise DTypeRuleError(f"takes complex operands, not {x.dtype.code}")


def _of_complex(name: str, reference: Callable, vjp: VjpRule, to_real: bool, saves: tuple = (), doc: str = "") -> OpDef:
    def infer(x: TensorType) -> TensorType:
        _refuse_real(x)
        return x.with_dtype(x.dtype.real) if to_real else x

    def samples() -> Iterator[Sample]:
        rng = rng_of(name)
        for shape in ((), (5, 17), (2, 0, 3)):
            yield Sample((draw_complex(rng, shape),))
        yield Sample((draw_complex(rng, (3, 2)).astype(np.complex128),))

    return register(
        OpDef(
            name, "structural", ("x",), infer, np.errstate(all="ignore")(reference), vjp, saves=saves, samples=samples,
            errors=lambda: [ErrorSample((np.zeros(3, np.float32),), {}, DTypeRuleError, "complex operands, not f32")],
            batch=leading, doc=doc,
        )
    )  # fmt: skip


def _complex_type(re: TensorType, im: TensorType) -> TensorType:
    if re.dtype is not im.dtype or not re.dtype.is_floating or re.dtype.bits < 32:
        raise DTypeRuleError(f"takes two float32 or two float64 operands, not {re.dtype.code} and {im.dtype.code}")
    if re.shape != im.shape:
        raise TypeRuleError(f"shapes {shape_text(re.shape)} and {shape_text(im.shape)} differ")
    return re.with_dtype(complex_of(re.dtype))


def _complex(re: np.ndarray, im: np.ndarray) -> np.ndarray:
    out = np.empty(re.shape, complex_of(value_type(re).dtype).np)
    out.real, out.imag = re, im  # not re + 1j * im, which makes NaNs of infinities
    return out


complex_ = register(
    OpDef(
        "complex", "structural", ("re", "im"), _complex_type, _complex,
        lambda c, g: (real(g), neg(imag(g))), saves=(), linear=("re", "im"),
        samples=lambda: [
            Sample((draw(rng_of("re"), shape), draw(rng_of("im"), shape))) for shape in ((), (5, 17), (2, 0))
        ],
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32), np.zeros(3)), {}, DTypeRuleError, "f32 and f64"),
            ErrorSample((np.zeros(3), np.zeros(4)), {}, TypeRuleError, r"\(3\) and \(4\)"),
        ],
        batch=shifted(), doc="re + i * im.",
    )
)  # fmt: skip


def _as_complex(x: Any, imaginary: bool = False) -> Any:
    """A real value as a complex one: x, or i * x."""
    zero = zeros_like(x)
    return complex_(zero, x) if imaginary else complex_(x, zero)


def _size_vjp(c: VjpContext, g: Any) -> tuple:
    (x,) = c.inputs
    direction = div(conj(x), _as_complex(where(eq(c.out, const_like(c.out, 0)), const_like(c.out, 1), c.out)))
    return (mul(_as_complex(g), direction),)


real = _of_complex("real", lambda x: x.real.copy(), lambda c, g: (_as_complex(g),), True)
imag = _of_complex("imag", lambda x: x.imag.copy(), lambda c, g: (neg(_as_complex(g, imaginary=True)),), True)
conj = _of_complex("conj", np.conj, lambda c, g: (conj(g),), False)
complex_abs = _of_complex(
    "complex_abs", np.abs, _size_vjp, True, saves=("x", "out"), doc="The distance from 0. Its gradient at 0 is 0."
)

__all__ = ["adjoint", "complex_", "complex_abs", "conj", "draw_complex", "imag", "is_complex", "real"]
