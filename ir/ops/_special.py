"""Special functions that NumPy lacks, vectorised: the references of erf, erfc, erfinv, lgamma and digamma.

erf and erfc in float64 are W. J. Cody's rational approximations ("Rational Chebyshev approximations for the error
function", Math. Comp. 23, 1969; his CALERF), within 2 ulp.
"""

from __future__ import annotations

import math

import numpy as np

Coefficients = tuple[float, ...]

# |x| <= 0.46875: erf(x) = x A(x^2) / B(x^2)
_A = (
    1.85777706184603153e-1,
    3.16112374387056560e0,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_B = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# 0.46875 < x <= 4: erfc(x) = exp(-x^2) C(x) / D(x)
_C = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_D = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
# 4 < x: erfc(x) = exp(-x^2) / x (1/sqrt(pi) - P(1/x^2) / (x^2 Q(1/x^2)))
_P = (
    1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
    1.60837851487422766e-2, 6.58749161529837803e-4,
)  # fmt: skip
_Q = (
    1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
    2.33520497626869185e-3,
)  # fmt: skip


def _polynomial(coefficients: Coefficients, x: np.ndarray) -> np.ndarray:
    """Highest power first."""
    out = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out *= x
        out += c
    return out


def _gauss(x: np.ndarray) -> np.ndarray:
    """exp(-x^2), with x^2 split so that its rounding error does not count."""
    near = np.trunc(x * 16) / 16
    return np.exp(-near * near) * np.exp(-(x - near) * (x + near))


def _erf_small(x: np.ndarray) -> np.ndarray:
    z = x * x
    return x * _polynomial(_A, z) / _polynomial(_B, z)


def _erfc_middle(x: np.ndarray) -> np.ndarray:
    return _gauss(x) * (_polynomial(_C, x) / _polynomial(_D, x))


def _erfc_large(x: np.ndarray) -> np.ndarray:
    z = 1 / (x * x)
    return _gauss(x) * ((1 / math.sqrt(math.pi) - z * _polynomial(_P, z) / _polynomial(_Q, z)) / x)


def _erf64(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    out = np.copysign(1.0, x)
    out[np.isnan(x)] = np.nan
    at = size <= 0.46875
    out[at] = _erf_small(x[at])
    at = (size > 0.46875) & (size <= 6)  # erf is 1 beyond
    y = size[at]
    out[at] = np.copysign(1 - np.where(y <= 4, _erfc_middle(np.minimum(y, 4)), _erfc_large(y)), x[at])
    return out


def _erfc64(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    out = np.where(np.isnan(x), x, 0.0)
    at = size <= 0.46875
    out[at] = 1 - _erf_small(x[at])
    at = (size > 0.46875) & (size <= 4)
    out[at] = _erfc_middle(size[at])
    at = (size > 4) & (size < 28)  # erfc(28) < 1e-342
    out[at] = _erfc_large(size[at])
    return np.where(x < -0.46875, 2 - out, out)


# erf(x) = -expm1(-x U(x)) for 0 <= x <= 4, where x U(x) = -log(erfc(x)) is smooth. Fitted at 600 Chebyshev nodes, the
# weights being adapted until the relative error of erf was even: 4e-9.
_U = (
    -9.25634868e-06, 0.000117641976, -0.000632839219, 0.00166703144, -0.000160399795, -0.0191530623, 0.102777831,
    0.636619389, 1.12837923,
)  # fmt: skip


def _erf32(x: np.ndarray) -> np.ndarray:
    size = np.minimum(np.abs(x), np.float32(4))
    out = _polynomial(_U, size)
    out *= size
    np.expm1(np.negative(out, out=out), out=out)
    return np.copysign(out, x, out=out)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function of float32 (within 3 ulp; fast, for GELU) or float64 (within 2 ulp)."""
    at_least_1d = np.atleast_1d(x)  # 0-d results would be scalars, which cannot be written to
    return (_erf32 if x.dtype == np.float32 else _erf64)(at_least_1d).reshape(x.shape)


def erfc(x: np.ndarray) -> np.ndarray:
    """1 - erf(x), accurate in the tail."""
    return _erfc64(np.atleast_1d(x).astype(np.float64)).reshape(x.shape).astype(x.dtype)


# Giles, "Approximating the erfinv function", GPU Computing Gems 2, 2011: single precision, in w = -log(1 - x^2).
_CENTRAL = (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
)  # fmt: skip
_TAIL = (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
)  # fmt: skip


def erfinv(x: np.ndarray) -> np.ndarray:
    """The inverse of erf: infinite at -1 and 1, NaN outside. Giles' start, then Halley steps (for large x
    Newton steps on log erfc) in float64."""
    v = np.atleast_1d(x).astype(np.float64)
    size = np.abs(v)
    inside = size < 1
    t = np.where(inside, size, 0.0)
    w = -np.log1p(-t * t)
    near = _polynomial(_CENTRAL, w - 2.5)
    far = _polynomial(_TAIL, np.sqrt(np.maximum(w, 5.0)) - 3)
    y = np.where(w < 5, near, far) * t
    for _ in range(4):
        slope, tail = 2 / math.sqrt(math.pi) * np.exp(-y * y), _erfc64(y)
        step = (_erf64(y) - t) / slope
        far_step = np.log(tail / (1 - t)) * tail / -slope  # erfc falls too fast for any step but one on its logarithm
        y = y - np.where(t < 0.5, step / (1 + y * step), far_step)
    y = np.where(inside, y, np.where(size == 1, np.inf, np.nan))
    return np.copysign(y, v).reshape(x.shape).astype(x.dtype)


def _lgamma_of(x: float) -> float:
    try:
        return math.lgamma(x)
    except (ValueError, OverflowError):  # a pole, or beyond the largest float
        return math.inf


_lgamma = np.frompyfunc(_lgamma_of, 1, 1)


def lgamma(x: np.ndarray) -> np.ndarray:
    """log |gamma(x)|, element by element through `math.lgamma`."""
    return np.asarray(_lgamma(x.astype(np.float64)), dtype=np.float64).astype(x.dtype)


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of lgamma: NaN at negative integers, -inf at 0 (+inf at -0).

    Reflection for x < 1/2, recurrence up to 10, then the asymptotic series (Abramowitz, Stegun 6.3.7, 6.3.5, 6.3.18).
    """
    v = np.atleast_1d(x).astype(np.float64)
    reflected = v < 0.5
    z = np.where(reflected, 1 - v, v)
    out = np.zeros_like(z)
    for _ in range(10):
        low = z < 10
        out = np.where(low, out - 1 / z, out)
        z = np.where(low, z + 1, z)
    r = 1 / (z * z)
    series = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
    out = out + np.log(z) - 0.5 / z - r * _polynomial(series[::-1], r)
    part = v - np.rint(v)
    out = np.where(reflected, out - math.pi / np.tan(math.pi * part), out)
    out = np.where(reflected & (part == 0), np.where(v == 0, np.copysign(np.inf, -v), np.nan), out)
    return np.where(np.isneginf(v), np.nan, out).reshape(x.shape).astype(x.dtype)
