"""asin, acos, atan, atan2 and the hyperbolic functions with their inverses."""

from __future__ import annotations

from ..scalar import Expr, apply, select
from .exponential import exp_minus_one_reduced, log, log1p, reduce_exp
from .kit import INF, NAN, Kit

# (atan(z)/z - 1) / z**2 in z**2 for |z| <= tan(pi/8): 2**-25.6 of z**2 < 0.17, 2**-64
ATAN = (
    (-0.333329529, 0.19977811, -0.138784811, 0.0805552527),
    (
        -0.33333333333333326, 0.19999999999997647, -0.14285714285385182, 0.11111111087999842, -0.090909081380597223,
        0.076922826115000106, -0.066662245727987388, 0.058770003037800875, -0.052182654022360504, 0.045029818064997396,
        -0.033461185170024645, 0.015181616451513547,
    ),
)  # fmt: skip
# (asin(z)/z - 1) / z**2 in z**2 for |z| <= 1/2: 2**-27.6, 2**-56, of z**2 <= 1/4
ASIN = (
    (0.166667536, 0.0749524161, 0.0454770848, 0.0241476409, 0.0422185101),
    (
        0.16666666666665383, 0.075000000003430725, 0.044642856823470342, 0.03038195933147941, 0.022371753522257332,
        0.017359771079339885, 0.013884599002053719, 0.012173274933235861, 0.0065108738585634204, 0.019573849278512124,
        -0.016293986494588998, 0.03195890869659529,
    ),
)  # fmt: skip
TAN_PI_8, TAN_3PI_8 = 0.41421356237309503, 2.414213562373095
# pi/4, pi/2 and pi in two parts
QUARTER = ((0.7853981852531433, -2.1855694143368964e-08), (0.7853981633974483, 3.061616997868383e-17))


def _angle(k: Kit, parts: float) -> tuple[float, float]:
    high, low = k.pick(*QUARTER)
    return high * parts, low * parts


def _atan_near_zero(k: Kit, z: Expr) -> Expr:
    u = z * z
    return k.mad(z * u, k.poly(u, k.pick(*ATAN)), z)


def atan(k: Kit, x: Expr) -> Expr:
    """atan(a) = pi/4 + atan((a - 1)/(a + 1)) = pi/2 + atan(-1/a): one division serves the three ranges."""
    a = k.abs(x)
    middle, far = apply("gt", a, TAN_PI_8), apply("gt", a, TAN_3PI_8)
    z = select(far, -1.0, select(middle, a - 1.0, a)) / select(far, a, select(middle, a + 1.0, 1.0))
    quarter, half = _angle(k, 1), _angle(k, 2)
    base = select(far, k.const(half[0]), select(middle, k.const(quarter[0]), 0.0))
    rest = select(far, k.const(half[1]), select(middle, k.const(quarter[1]), 0.0))
    return k.copysign(base + (_atan_near_zero(k, z) + rest), x)


def atan2(k: Kit, y: Expr, x: Expr) -> Expr:
    """The angle of (x, y) with all of C99's signs, zeros and infinities."""
    ay, ax = k.abs(y), k.abs(x)
    swap = apply("gt", ay, ax)
    low, high = select(swap, ax, ay), select(swap, ay, ax)
    infinite = apply("eq", high, INF)
    low = select(infinite, select(apply("eq", low, INF), k.const(1.0), 0.0), low)
    high = select(infinite | apply("eq", high, 0.0), 1.0, high)
    scale = select(apply("gt", high, 2.0 ** (k.bias - 2)), k.const(0.125), 1.0)  # low + high must not overflow
    low, high = low * scale, high * scale
    middle = apply("gt", low, high * TAN_PI_8)
    z = select(middle, low - high, low) / select(middle, low + high, high)
    t = _atan_near_zero(k, z)
    # The angle is now t plus 0 or pi/4; with `swap` pi/2 minus that; left of the y axis pi minus that.
    negative = apply("lt", k.bits(x), 0)
    turn: Expr = select(middle, k.const(1.0), 0.0)
    turn = select(swap, 2.0 - turn, turn)
    t = select(swap, -t, t)
    turn = select(negative, 4.0 - turn, turn)
    t = select(negative, -t, t)
    quarter, rest = k.pick(*QUARTER)
    angle = k.mad(turn, quarter, k.mad(turn, rest, t))
    return select(apply("eq", x, x) & apply("eq", y, y), k.copysign(angle, y), x + y)


def _asin_parts(k: Kit, x: Expr) -> tuple[Expr, Expr, Expr]:
    """(|x| > 1/2, asin of |x| or of sqrt((1 - |x|)/2), that argument's magnitude)."""
    a = k.abs(x)
    far = apply("gt", a, 0.5)
    u = select(far, (1.0 - a) * 0.5, a * a)
    z = select(far, apply("sqrt", u), a)
    return far, k.mad(z * u, k.poly(u, k.pick(*ASIN)), z), a


def asin(k: Kit, x: Expr) -> Expr:
    far, t, _ = _asin_parts(k, x)
    high, low = _angle(k, 2)
    return k.copysign(select(far, high - (t * 2.0 - low), t), x)


def acos(k: Kit, x: Expr) -> Expr:
    far, t, _ = _asin_parts(k, x)
    signed = k.copysign(t, x)
    half, whole = _angle(k, 2), _angle(k, 4)
    near = half[0] - (signed - half[1])
    twice = t * 2.0
    return select(far, select(apply("lt", x, 0.0), whole[0] - (twice - whole[1]), twice), near)


# ---- hyperbolic
def _quarter_exp(k: Kit, x: Expr) -> tuple[Expr, Expr]:
    """(2**(n - 2), e**f - 1) with e**|x| = 2**n e**f, so that nothing overflows before the result does."""
    f, shifted = reduce_exp(k, k.clamp_above(k.abs(x), k.pick(89.5, 710.6)))
    return k.power_of_two(k.bits(shifted), -2), exp_minus_one_reduced(k, f)


def sinh(k: Kit, x: Expr) -> Expr:
    """(m + m / (m + 1)) / 2 with m = e**|x| - 1."""
    s, p = _quarter_exp(k, x)
    m = k.mad(s, p, s - 0.25)
    y = m + m / k.mad(m, 4.0, 1.0)
    return select(apply("lt", k.abs(x), k.smallest_normal * 16), x, k.copysign(y + y, x))


def cosh(k: Kit, x: Expr) -> Expr:
    s, p = _quarter_exp(k, x)
    e = k.mad(s, p, s)
    y = e + 0.0625 / e
    return y + y


def asinh(k: Kit, x: Expr) -> Expr:
    a = k.abs(x)
    large = apply("gt", a, k.pick(1e4, 1e8))
    b = select(large, 1.0, a)
    square = b * b
    t = b + square / (apply("sqrt", square + 1.0) + 1.0)
    return k.copysign(_log1p_or_log_of_double(k, t, a, large), x)


def acosh(k: Kit, x: Expr) -> Expr:
    large = apply("gt", x, k.pick(1e4, 1e8))
    t = select(large, 1.0, x) - 1.0
    t = t + apply("sqrt", k.mad(t, t, t + t))
    return select(apply("lt", x, 1.0), k.const(NAN), _log1p_or_log_of_double(k, t, x, large))


def _log1p_or_log_of_double(k: Kit, t: Expr, a: Expr, large: Expr) -> Expr:
    """log(1 + t), or log(2 a) where `large`."""
    log2 = 0.6931471805599453
    return select(large, log(k, a) + log2, log1p(k, t))


def atanh(k: Kit, x: Expr) -> Expr:
    a = k.abs(x)
    return k.copysign(log1p(k, (a + a) / (1.0 - a)) * 0.5, x)
