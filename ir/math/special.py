"""erf, erfc."""

from __future__ import annotations

from ..scalar import Expr, apply, select
from .exponential import exp_minus_one_reduced, exp_reduced, reduce_exp
from .kit import Kit

# (erf(x)/x - 1) in x**2 for |x| < 0.95 and for |x| < 1: 2**-30.6, 2**-62.7
ERF = (
    (0.128379166, -0.376126319, 0.112836637, -0.0268577058, 0.00519695226, -0.00080977066, 8.18510598e-05),
    (
        0.12837916709551259, -0.37612638903183748, 0.11283791670954857, -0.026866170645072896, 0.0052239776247808784,
        -0.00085483269787428259, 0.00012055331036919247, -1.4925593507264307e-05, 1.646097282130422e-06,
        -1.6350025249667398e-07, 1.4657879905823983e-08, -1.1365665784142511e-09, 5.9452607972667024e-11,
    ),
)  # fmt: skip
# -log(erfc(t))/t - 1 on 0.9 <= t <= 4, weighted for the error of erf: 2**-28.3
LOG_ERFC = (0.128519937, 0.635699391, 0.105286777, -0.0229059793, 0.00321995746, -0.000214592641)
# exp(t**2) erfc(t) (1 + 2 t) in q = (t - K) / (t + K): float32 K = 2, t < 10.3: 2**-29.7; float64 K = 4, t < 27.5: 2**-56
SCALED_ERFC = (
    (
        1.27697837, -0.0927638188, -0.166030511, 0.164051041, -0.0542179234, -0.0080308672, 0.00870960858,
        0.0012527951, -0.00142198708, -0.000401252182, 0.000170412939, 8.00847702e-05,
    ),
    (
        1.2329951186255526, -0.13962111684056286, 0.015379652102620177, 0.068097054254733086, -0.10103906603632413,
        0.093732834996928457, -0.066330365812053968, 0.037167515560503656, -0.016197734054297398, 0.0050319697722909897,
        -0.0007577733654886091, -0.00019925558914944246, 0.0001506223101982538, -2.4402915838085888e-05,
        -1.1224876559214172e-05, 5.7173973049426918e-06, 3.0135406672465449e-07, -8.3459626943552829e-07,
        6.2842163336042716e-08, 1.1499998839700162e-07, -7.8605852235459064e-09, -1.358553754309433e-08,
        -1.7749002775355053e-09,
    ),
)  # fmt: skip


def _erf_near_zero(k: Kit, t: Expr) -> Expr:
    return k.mad(t, k.poly(t * t, k.pick(*ERF)), t)


def erf(k: Kit, x: Expr) -> Expr:
    t = k.abs(x)
    small = _erf_near_zero(k, t)
    if k.single:
        v = k.clamp_above(t, 4.0)
        f, shifted = reduce_exp(k, -k.mad(v, k.poly(v, LOG_ERFC), v))
        s = k.power_of_two(k.bits(shifted))
        large = k.mad(-s, exp_reduced(k, f), 1.0)
    else:
        large = 1.0 - _erfc_positive(k, k.clamp_above(t, 7.0))
    return k.copysign(select(apply("lt", t, k.pick(0.9375, 1.0)), small, large), x)


def _erfc_positive(k: Kit, t: Expr) -> Expr:
    """erfc(t) for 0 <= t < 28 (10.3 in float32), where it is the scaled function times exp(-t**2), the square in two parts."""
    center = k.pick(2.0, 4.0)
    q = (t - center) / (t + center)
    scaled = k.poly(q, k.pick(*SCALED_ERFC)) / k.mad(t, 2.0, 1.0)
    high, low = k.two_product(t, t)
    f, shifted = reduce_exp(k, -high, -low)
    return k.scale(k.mad(scaled, exp_minus_one_reduced(k, f), scaled), shifted)


def erfc(k: Kit, x: Expr) -> Expr:
    """Keeps its relative accuracy down to the subnormal numbers."""
    y = _erfc_positive(k, k.clamp_above(k.abs(x), k.pick(10.3, 27.5)))
    y = select(apply("lt", x, 0.0), 2.0 - y, y)
    return select(apply("lt", k.abs(x), 0.5), 1.0 - _erf_near_zero(k, x), y)
