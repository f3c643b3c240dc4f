"""pow, cbrt, rsqrt."""

from __future__ import annotations

from ..dtypes import float64
from ..scalar import Expr, apply, cast, select
from .exponential import LN2, exp, exp_minus_one_reduced, log, reduce_exp, split_exponent
from .kit import INF, NAN, Kit, Pair

# (atanh(s)/s - 1 - s**2/3) / s**4 in s**2 for 1 + f in [sqrt(1/2), sqrt(2)], s = f/(2 + f): 2**-66 times s**4
ATANH = (
    0.20000000000001128, 0.14285714285049611, 0.11111111259990451, 0.090908921811846691, 0.076933787696193232,
    0.066284065509573623, 0.065981851602897462,
)  # fmt: skip
THIRD = (0.3333333333333333, 1.850371707708594e-17)
# r**(-1/3) on 0.85 <= r <= 1.16: 2**-20.4
CUBE_ROOT = (1.8777582808219624, -1.8900217146043419, 1.6256734623388165, -0.75900440657771151, 0.14559436151909)


def rsqrt(k: Kit, x: Expr) -> Expr:
    return 1.0 / apply("sqrt", x)


def cbrt(k: Kit, x: Expr) -> Expr:
    """A third of the exponent, a polynomial in estimate**3 / x, one step of Halley's iteration; all in float64."""
    wide = Kit(float64, k.has_fma)
    a = wide.abs(cast(x, float64))
    small = apply("lt", a, wide.smallest_normal)
    b = a if k.single else select(small, a * 2.0**54, a)
    # The upper word divided by 3 by multiplication; 715094163 is two thirds of the bias, less what centres the error.
    t = wide.from_bits(((((wide.bits(b) >> 32) * 0x55555556) >> 32) + 715094163) << 32)
    t = t * wide.poly((t * t) * (t / b), CUBE_ROOT)
    t = wide.upper_half(t)  # its square is exact
    r = b / (t * t)
    y = wide.mad(t, (r - t) / (t + t + r), t)
    if not k.single:
        y = select(small, y * 2.0**-18, y)
    y = k.copysign(cast(y, k.dtype), x)
    usual = apply("lt", k.abs(x), INF) & apply("ne", x, 0.0)
    return select(usual, y, x)


def _log_pair(k: Kit, x: Expr) -> Pair:
    """log(x) for positive finite x with about 11 bits more than float64 has.

    log(m) = 2 s (1 + s**2/3 + s**4 (1/5 + ...)) with s = (m - 1)/(m + 1); all but the last sum in pairs.
    """
    f, e = split_exponent(k, x)
    zero = k.const(0.0)
    s = k.quotient((f, zero), k.two_sum(f, k.const(2.0)))
    z = k.product(s, s)
    inner = k.fast_two_sum(k.const(THIRD[0]), k.mad(z[0], k.poly(z[0], ATANH), THIRD[1]))
    t = k.product(s, k.product(z, inner))
    m = k.sum((s[0] + s[0], s[1] + s[1]), (t[0] + t[0], t[1] + t[1]))
    high, low = LN2[1]
    exponent = k.fast_two_sum(e * high, e * low)
    return k.sum(exponent, m)


def pow(k: Kit, x: Expr, y: Expr) -> Expr:
    """|x|**y as exp(y log|x|), then C99's rules for signs, zeros, infinities and NaN."""
    a = k.abs(x)
    r = _positive_power_single(k, a, y) if k.single else _positive_power_double(k, a, y)
    whole = apply("eq", apply("trunc", y), y)
    half = y * 0.5
    odd = whole & apply("ne", apply("trunc", half), half)
    undefined = apply("lt", x, 0.0) & apply("gt", x, -INF) & ~whole
    r = select(undefined, k.const(NAN), r)
    r = select(odd, k.copysign(r, x), r)
    one = apply("eq", y, 0.0) | apply("eq", x, 1.0) | (apply("eq", a, 1.0) & apply("eq", k.abs(y), INF))
    return select(one, 1.0, r)


def _positive_power_single(k: Kit, a: Expr, y: Expr) -> Expr:
    """In float64, whose 29 extra bits cover the 8 that the exponential magnifies."""
    wide = Kit(float64, k.has_fma)
    return cast(exp(wide, cast(y, float64) * log(wide, cast(a, float64))), k.dtype)


def _positive_power_double(k: Kit, a: Expr, y: Expr) -> Expr:
    usual = apply("gt", a, 0.0) & apply("lt", a, INF)
    log_high, log_low = _log_pair(k, a)
    # Beyond 2**80 the result is 0, 1 or infinite whatever y is; without the bound the product's error would overflow.
    bounded = k.clamp_below(k.clamp_above(y, 2.0**80), -(2.0**80))
    high, low = k.two_product(bounded, log_high)
    low = k.mad(bounded, log_low, low)
    at_ends = y * select(apply("eq", a, 0.0), k.const(-INF), a)
    high = select(usual, high, at_ends)
    inside = usual & apply("lt", k.abs(high), 800.0)
    low = select(inside, low, 0.0)
    high = k.clamp_below(k.clamp_above(high, 710.0), -746.0)
    f, shifted = reduce_exp(k, high, low)
    return k.scale(exp_minus_one_reduced(k, f) + 1.0, shifted)
