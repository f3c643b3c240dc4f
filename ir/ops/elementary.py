"""Roots, exponentials, logarithms, trigonometry and special functions: floating operands only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import scalar as s
from ..op import OpDef, VjpContext
from . import _special
from ._declare import Domain, const_like, lowers_to, pointwise, wanted
from .pointwise import XY, add, and_, div, eq, isinf, lt, mul, neg, scale, shift, sub, where

LN2, LN10 = math.log(2), math.log(10)
OPEN_UNIT, POSITIVE = (-0.9, 0.9), (0.2, 4)


def _math(
    name: str, reference: Any, vjp: Any, saves: tuple[str, ...] = ("x",), domain: Domain = (-3, 3), **more: Any
) -> OpDef:
    """A function of one operand that is a scalar operation by itself."""
    return pointwise(name, reference, lowers_to(name), vjp, saves=saves, domains=(domain,), **more)


def _square(x: Any) -> Any:
    return mul(x, x)


# ------------------------------------------------------------------ roots

sqrt = _math("sqrt", np.sqrt, lambda c, g: (div(scale(g, 0.5), c.out),), ("out",), POSITIVE, complex=True)
rsqrt = _math(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    lambda c, g: (mul(scale(g, -0.5), mul(c.out, _square(c.out))),),
    ("out",),
    POSITIVE,
    complex=True,
)
cbrt = _math("cbrt", np.cbrt, lambda c, g: (div(g, scale(_square(c.out), 3)),), ("out",), away=(0.0,))

# ------------------------------------------------------------------ exponentials and logarithms


def _expm1(x: Any) -> np.ndarray:
    """numpy.expm1, but for complex infinities and zeros, where the array API asks for other signs."""
    if x.dtype.kind != "c":
        return np.expm1(x)
    half = np.sin(x.imag / 2)
    out: Any = np.empty_like(x)
    out.real = np.expm1(x.real) * np.cos(x.imag) - 2 * half * half + 0.0
    out.imag = np.exp(x.real) * np.sin(x.imag)
    return np.where(np.isfinite(x), out, np.exp(x) - 1)


exp = _math("exp", np.exp, lambda c, g: (mul(g, c.out),), ("out",), complex=True)
exp2 = _math("exp2", np.exp2, lambda c, g: (mul(g, scale(c.out, LN2)),), ("out",), complex=True)
expm1 = _math("expm1", _expm1, lambda c, g: (mul(g, shift(c.out, 1)),), ("out",), complex=True)
log = _math("log", np.log, lambda c, g: (div(g, c.inputs[0]),), domain=POSITIVE, complex=True)
log2 = _math("log2", np.log2, lambda c, g: (div(g, scale(c.inputs[0], LN2)),), domain=POSITIVE, complex=True)
log10 = _math("log10", np.log10, lambda c, g: (div(g, scale(c.inputs[0], LN10)),), domain=POSITIVE, complex=True)
log1p = _math("log1p", np.log1p, lambda c, g: (div(g, shift(c.inputs[0], 1)),), domain=(-0.8, 3), complex=True)


def _logaddexp_scalar(x: s.Expr, y: s.Expr) -> s.Expr:
    apart = s.apply("max", x, y) + s.apply("log1p", s.apply("exp", -s.apply("abs", x - y)))
    return s.select(s.apply("eq", x, y), x + LN2, apart)  # equal infinities have no difference


def _logaddexp_vjp(c: VjpContext, g: Any) -> tuple:
    from .activation import sigmoid

    x, y = c.inputs
    same_infinity = and_(eq(x, y), isinf(x))  # equal finite numbers have a difference, which can be differentiated
    gap = where(same_infinity, const_like(x, 0), sub(x, y))
    return wanted(c, lambda: mul(g, sigmoid(gap)), lambda: mul(g, sigmoid(neg(gap))))


logaddexp = pointwise(
    "logaddexp", np.logaddexp, _logaddexp_scalar, _logaddexp_vjp, operands=XY, saves=XY,
    doc="log(exp(x) + exp(y)) without overflow.",
)  # fmt: skip

# ------------------------------------------------------------------ trigonometric and hyperbolic


def _one_minus_square(x: Any) -> Any:
    return sub(const_like(x, 1), _square(x))


def _atan2_vjp(c: VjpContext, g: Any) -> tuple:
    y, x = c.inputs
    length = add(_square(y), _square(x))
    share = where(eq(length, const_like(length, 0)), const_like(g, 0), div(g, length))
    return wanted(c, lambda: mul(share, x), lambda: neg(mul(share, y)))


def _acosh_vjp(c: VjpContext, g: Any) -> tuple:
    """Two roots, because one of their product has other branch cuts."""
    (x,) = c.inputs
    return (mul(g, mul(rsqrt(shift(x, -1)), rsqrt(shift(x, 1)))),)


sin = _math("sin", np.sin, lambda c, g: (mul(g, cos(c.inputs[0])),), complex=True)
cos = _math("cos", np.cos, lambda c, g: (neg(mul(g, sin(c.inputs[0]))),), complex=True)
tan = _math("tan", np.tan, lambda c, g: (mul(g, shift(_square(c.out), 1)),), ("out",), (-1, 1), complex=True)
asin = _math(
    "asin", np.arcsin, lambda c, g: (mul(g, rsqrt(_one_minus_square(c.inputs[0]))),), domain=OPEN_UNIT, complex=True
)
acos = _math(
    "acos",
    np.arccos,
    lambda c, g: (neg(mul(g, rsqrt(_one_minus_square(c.inputs[0])))),),
    domain=OPEN_UNIT,
    complex=True,
)
atan = _math("atan", np.arctan, lambda c, g: (div(g, shift(_square(c.inputs[0]), 1)),), complex=True)
atan2 = pointwise(
    "atan2", np.arctan2, lowers_to("atan2"), _atan2_vjp, operands=("y", "x"), saves=("y", "x"), away=(0.0,),
    doc="The angle of the point (x, y): the first operand is y.",
)  # fmt: skip
sinh = _math("sinh", np.sinh, lambda c, g: (mul(g, cosh(c.inputs[0])),), complex=True)
cosh = _math("cosh", np.cosh, lambda c, g: (mul(g, sinh(c.inputs[0])),), complex=True)
tanh = _math("tanh", np.tanh, lambda c, g: (mul(g, _one_minus_square(c.out)),), ("out",), complex=True)
asinh = _math("asinh", np.arcsinh, lambda c, g: (mul(g, rsqrt(shift(_square(c.inputs[0]), 1))),), complex=True)
acosh = _math("acosh", np.arccosh, _acosh_vjp, domain=(1.2, 4), complex=True)
atanh = _math(
    "atanh", np.arctanh, lambda c, g: (div(g, _one_minus_square(c.inputs[0])),), domain=OPEN_UNIT, complex=True
)

# ------------------------------------------------------------------ special functions


def _gauss(x: Any) -> Any:
    """2 / sqrt(pi) * exp(-x^2): the slope of erf."""
    return scale(exp(neg(_square(x))), 2 / math.sqrt(math.pi))


def trigamma(x: Any) -> Any:
    """The derivative of digamma, as a composition of ops (reflection, recurrence up to 6, asymptotic series)."""
    low = lt(x, const_like(x, 0.5))
    z = where(low, sub(const_like(x, 1), x), x)
    total = const_like(x, 0)
    for k in range(6):
        total = add(total, div(const_like(x, 1), _square(shift(z, k))))
    z = shift(z, 6)
    r = div(const_like(x, 1), _square(z))
    series = const_like(x, 5 / 66)
    for b in (-1 / 30, 1 / 42, -1 / 30, 1 / 6):  # Bernoulli numbers
        series = add(const_like(x, b), mul(series, r))
    asymptotic = add(scale(r, 0.5), div(add(const_like(x, 1), mul(series, r)), z))
    total = add(total, asymptotic)
    mirror = div(const_like(x, math.pi**2), _square(sin(scale(x, math.pi))))
    return where(low, sub(mirror, total), total)


erf = _math("erf", _special.erf, lambda c, g: (mul(g, _gauss(c.inputs[0])),))
erfc = _math("erfc", _special.erfc, lambda c, g: (neg(mul(g, _gauss(c.inputs[0]))),))
erfinv = _math("erfinv", _special.erfinv, lambda c, g: (div(g, _gauss(c.out)),), ("out",), OPEN_UNIT, tolerance=5e-6)
lgamma = _math(
    "lgamma", _special.lgamma, lambda c, g: (mul(g, digamma(c.inputs[0])),), domain=(0.3, 8), tolerance=1e-5,
    doc="log |gamma(x)|.",
)  # fmt: skip
digamma = _math(
    "digamma", _special.digamma, lambda c, g: (mul(g, trigamma(c.inputs[0])),), domain=(0.3, 8), tolerance=1e-5,
    doc="The derivative of lgamma.",
)  # fmt: skip

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "cos",
    "cosh",
    "digamma",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "rsqrt",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
]  # fmt: skip
