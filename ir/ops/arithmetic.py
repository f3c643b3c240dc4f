"""More pointwise arithmetic: fmod, gcd; and the special functions that are series in one operand.

Special functions are written once, over an `Algebra`: on float64 ndarrays that is the reference, on `Expr`s it is what
the backends compile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import scalar as s
from ..op import VjpContext
from ..scalar import Expr, select
from . import _series
from ._declare import NUMBERS, const_like, pointwise, wanted
from .elementary import exp
from .pointwise import XY, div, eq, mul, neg, scale, sign, sub, trunc, where


def _fmod_scalar(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind == "f":
        return s.apply("rem", x, y)
    zero = s.apply("eq", y, 0)
    unsafe = zero | s.apply("eq", y, -1) if x.dtype.kind == "i" else zero  # the smallest integer % -1 traps
    return select(unsafe, 0, s.apply("rem", x, select(unsafe, s.const(1, y.dtype), y)))


fmod = pointwise(
    "fmod", np.fmod, _fmod_scalar,
    lambda c, g: wanted(c, lambda: g, lambda: neg(mul(g, trunc(div(*c.inputs))))),
    operands=XY, takes=NUMBERS, saves=XY, away=(0.0,),
    doc="x - y * trunc(x / y): has the sign of x. Integers by zero give 0.",
)  # fmt: skip


# ------------------------------------------------------------------ special functions of one operand


@dataclass(frozen=True)
class Algebra:
    """The functions that a special function is made of, on ndarrays or on Exprs."""

    apply: Callable[..., Any]
    select: Callable[..., Any]


_UFUNCS = {"exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs, "erfc": None, "max": np.maximum,
           "min": np.minimum, "log1p": np.log1p, "copysign": np.copysign}  # fmt: skip


def _on_arrays(name: str, *xs: Any) -> Any:
    if name == "erfc":
        from . import _special

        return _special.erfc(np.asarray(xs[0], np.float64))
    return _UFUNCS[name](*xs)


ARRAYS = Algebra(_on_arrays, np.where)
EXPRS = Algebra(s.apply, select)
Form = Callable[[Algebra, Any], Any]


def _special(name: str, form: Form, vjp: Any, saves: tuple[str, ...], domain: tuple[float, float], doc: str, **more):
    return pointwise(
        name, lambda x: form(ARRAYS, np.asarray(x, np.float64)).astype(x.dtype), lambda x: form(EXPRS, x), vjp,
        saves=saves, domains=(domain,), tolerance=2e-5, doc=doc, **more,
    )  # fmt: skip


def _chebyshev(t: Any, coefficients: tuple[float, ...]) -> Any:
    """sum of c[k] T_k(t), by Clenshaw's recurrence."""
    after, now = 0.0, coefficients[-1]
    for c in coefficients[-2:0:-1]:
        now, after = 2.0 * t * now - after + c, now
    return t * now - after + coefficients[0]


def _bessel_scaled(a: Algebra, x: Any, near: tuple[float, ...], far: tuple[float, ...], limit: float) -> Any:
    """exp(-|x|) I(|x|) for orders whose series are in `near` (up to `limit`) and `far`."""
    size = a.apply("abs", x)
    inside = a.apply("min", size, limit)
    outside = a.apply("max", size, limit)
    small = _chebyshev(inside * (2.0 / limit) - 1.0, near)
    large = _chebyshev(2.0 * limit / outside - 1.0, far) / a.apply("sqrt", outside)
    return a.select(size > limit, large, small)


def _i0e(a: Algebra, x: Any) -> Any:
    return _bessel_scaled(a, x, _series.I0_NEAR, _series.I0_FAR, _series.BESSEL_LIMIT)


def _i1e(a: Algebra, x: Any) -> Any:
    size = a.apply("abs", x)
    small = a.apply("min", size, _series.BESSEL_LIMIT)
    near = _chebyshev(small * (2.0 / _series.BESSEL_LIMIT) - 1.0, _series.I1_NEAR) * small  # the series is of I1(x) / x
    outside = a.apply("max", size, _series.BESSEL_LIMIT)
    far = _chebyshev(2.0 * _series.BESSEL_LIMIT / outside - 1.0, _series.I1_FAR) / a.apply("sqrt", outside)
    return a.apply("copysign", a.select(size > _series.BESSEL_LIMIT, far, near), x)


def _grown(form: Form) -> Form:
    """form(x) * exp(|x|), in two steps against early overflow."""

    def grown(a: Algebra, x: Any) -> Any:
        half = a.apply("exp", 0.5 * a.apply("abs", x))
        return form(a, x) * half * half

    return grown


def _erfcx(a: Algebra, x: Any) -> Any:
    """exp(x^2) erfc(x): a series in (|x| - k) / (|x| + k); for negative x by 2 exp(x^2) - erfcx(-x)."""
    size = a.apply("abs", x)
    t = 1.0 - 2.0 * _series.ERFCX_CENTRE / (size + _series.ERFCX_CENTRE)
    out = 0.5 * _chebyshev(t, _series.ERFCX) / (0.5 + size)  # 1 + 2 size could overflow
    return a.select(x < 0, 2.0 * a.apply("exp", x * x) - out, out)


def _log_ndtr(a: Algebra, x: Any) -> Any:
    low = a.apply("min", x, -1.0)
    high = a.apply("max", x, -1.0)
    tail = a.apply("log", 0.5 * _erfcx(a, low * -(0.5**0.5))) - 0.5 * low * low
    body = a.apply("log1p", -0.5 * a.apply("erfc", high * 0.5**0.5))
    return a.select(x < -1, tail, body)


def _ndtri(a: Algebra, p: Any) -> Any:
    """The normal quantile: z = sqrt(-2 log p) and series in 1 / z for the tails; a series in (p - 1/2)^2 between."""
    low = a.select(p > 0.5, 1.0 - p, p)
    tail = a.apply("min", low, _series.NDTRI_EDGE)
    z = a.apply("sqrt", -2.0 * a.apply("log", tail))
    r = 1.0 / z
    far_edge, middle, near_edge = _series.NDTRI_FAR_RANGE[0], _series.NDTRI_FAR_RANGE[1], _series.NDTRI_NEAR_RANGE[1]
    far = _chebyshev(_mapped(a, r, far_edge, middle), _series.NDTRI_FAR)
    near = _chebyshev(_mapped(a, r, middle, near_edge), _series.NDTRI_NEAR)
    from_tail = z - a.apply("log", z) * r + r * a.select(r < middle, far, near)
    centre = a.apply("max", low, _series.NDTRI_EDGE) - 0.5
    reach = (0.5 - _series.NDTRI_EDGE) ** 2
    from_centre = -centre * _chebyshev(centre * centre * (2.0 / reach) - 1.0, _series.NDTRI_CENTRE)
    out = a.select(low < _series.NDTRI_EDGE, from_tail, from_centre)
    out = a.select(p > 0.5, out, -out)
    out = a.select(p >= 1, np.inf, a.select(p <= 0, -np.inf, out))
    return a.select((p >= 0) & (p <= 1), out, np.nan)


def _mapped(a: Algebra, r: Any, low: float, high: float) -> Any:
    """[low, high] as [-1, 1], cut."""
    cut = a.apply("max", a.apply("min", r, high), low)
    return (cut - low) * (2.0 / (high - low)) - 1.0


def _i1_over_x(x: Any, bessel: Any, at_zero: float) -> Any:
    zero = eq(x, const_like(x, 0))
    return where(zero, const_like(x, at_zero), div(bessel, where(zero, const_like(x, 1), x)))


def _i0e_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    return (mul(g, sub(i1e(x), mul(sign(x), c.out))),)


def _i1_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    return (mul(g, sub(i0(x), _i1_over_x(x, c.out, 0.5))),)


def _i1e_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    return (mul(g, sub(sub(i0e(x), mul(sign(x), c.out)), _i1_over_x(x, c.out, 0.5))),)


def _log_ndtr_vjp(c: VjpContext, g: Any) -> tuple:
    """phi(x) / Phi(x) = sqrt(2 / pi) / erfcx(-x / sqrt(2))."""
    return (div(scale(g, (2 / np.pi) ** 0.5), erfcx(scale(c.inputs[0], -(0.5**0.5)))),)


def _ndtri_vjp(c: VjpContext, g: Any) -> tuple:
    return (mul(g, scale(exp(scale(mul(c.out, c.out), 0.5)), (2 * np.pi) ** 0.5)),)


i0e = _special("i0e", _i0e, _i0e_vjp, ("x", "out"), (-12, 12), "exp(-|x|) I0(x).", away=(0.0,))
i1e = _special("i1e", _i1e, _i1e_vjp, ("x", "out"), (-12, 12), "exp(-|x|) I1(x).", away=(0.0,))
i0 = _special(
    "i0", _grown(_i0e), lambda c, g: (mul(g, i1(c.inputs[0])),), ("x",), (-9, 9), "The modified Bessel function I0."
)
i1 = _special("i1", _grown(_i1e), _i1_vjp, ("x", "out"), (-9, 9), "The modified Bessel function I1.")
erfcx = _special(
    "erfcx", _erfcx,
    lambda c, g: (mul(g, sub(scale(mul(c.inputs[0], c.out), 2), const_like(g, 2 / np.pi**0.5))),), ("x", "out"),
    (-3, 9), "exp(x^2) erfc(x), without overflow for large x.",
)  # fmt: skip
log_ndtr = _special(
    "log_ndtr", _log_ndtr, _log_ndtr_vjp, ("x",), (-9, 3), "log of the normal distribution function, in its tail too."
)
ndtri = _special(
    "ndtri", _ndtri, _ndtri_vjp, ("out",), (0.02, 0.98), "The normal quantile: infinite at 0 and 1, NaN outside."
)

__all__ = ["erfcx", "fmod", "i0", "i0e", "i1", "i1e", "log_ndtr", "ndtri"]
