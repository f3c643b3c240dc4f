"""lgamma and digamma. float32 is computed in float64."""

from __future__ import annotations

from ..dtypes import float64
from ..scalar import Expr, apply, cast, select
from .exponential import log
from .kit import INF, NAN, Kit
from .trigonometric import sin_cos_reduced

# lgamma(2 + z) / z on -3/4 <= z <= 1/4: 2**-61
LGAMMA = (
    0.42278433509846713, 0.3224670334241132, -0.067352301053198282, 0.020580808427786347, -0.0073855510286355147,
    0.0028905103306244616, -0.0011927539147468206, 0.0005096695238117027, -0.00022315464795533065,
    9.9457796174540745e-05, -4.4927935560209671e-05, 2.0498439498969308e-05, -9.4381308594464242e-06,
    4.4695422832781168e-06, -1.8213471797386392e-06, 8.6824623706961882e-07, -1.7678131887656473e-06,
    -2.6684941208305952e-06, -3.3172093841693705e-06, -1.9075038164772745e-06, -5.6223620457501989e-07,
)  # fmt: skip
# (lgamma(x) - (x - 1/2) log(x) + x - log(2 pi)/2) x in 1/x**2 for x >= 8: 2**-66.9 over 10 x
STIRLING = (
    0.083333333333333329, -0.0027777777777774682, 0.00079365079336950184, -0.00059523798023832918,
    0.00084172578940853668, -0.0019144027966972509, 0.0061841591527989851, -0.020447311084381664,
)  # fmt: skip
# (log(x) - 1/(2 x) - digamma(x)) x**2 in 1/x**2 for x >= 8: 2**-66.8 over 10 x**2
DIGAMMA = (
    0.083333333333333329, -0.0083333333333226334, 0.00396825396055288, -0.0041666639778651579, 0.0075752352565040077,
    -0.021033039274806188, 0.079279685354461851, -0.28706428793223332,
)  # fmt: skip
PI = 3.141592653589793


def _sin_cos_pi(k: Kit, x: Expr) -> tuple[Expr, Expr]:
    """(|sin(pi x)|, cos(pi x) with the sign of tan(pi x)): the fraction is exact, so zeros are where they belong."""
    r = x - apply("round", x)
    a = k.abs(r)
    folded = apply("gt", a, 0.25)
    s, c = sin_cos_reduced(k, select(folded, 0.5 - a, a) * PI, None)
    return select(folded, c, s), k.copysign(select(folded, s, c), r)


def lgamma(k: Kit, x: Expr) -> Expr:
    """log|gamma(x)|; inf at the poles and at both infinities."""
    wide = Kit(float64, k.has_fma)
    return cast(_lgamma(wide, cast(x, float64)), k.dtype)


def _lgamma(k: Kit, x: Expr) -> Expr:
    reflect = apply("lt", x, 0.5)
    y = _lgamma_right(k, select(reflect, 1.0 - x, x))
    sine, _ = _sin_cos_pi(k, x)
    tiny = apply("lt", k.abs(x), 2.0**-60)
    y = select(reflect, -log(k, select(tiny, k.abs(x), sine * (1 / PI))) - y, y)
    return select(apply("ge", k.abs(x), 2.56e305), INF, y)  # too large a result, or a pole as all such x are


def _lgamma_right(k: Kit, x: Expr) -> Expr:
    """For x >= 1/2: lgamma(z) + log((x - 1) (x - 2) ... z) with z in [5/4, 9/4], or - log(x); from 8 on Stirling's series."""
    product: Expr = k.const(1.0)
    z = x
    for i in range(1, 7):
        step = apply("ge", x, i + 1.25)
        product = select(step, product * (x - float(i)), product)
        z = select(step, x - float(i), z)
    low, far = apply("lt", x, 1.25), apply("ge", x, 8.0)
    z = select(low, x - 1.0, z - 2.0)
    logarithm = log(k, select(far | low, x, product))
    near = k.mad(z, k.poly(z, LGAMMA), select(low, -logarithm, logarithm))
    inverse = 1.0 / x
    series = k.mad(inverse, k.poly(inverse * inverse, STIRLING), 0.41893853320467274)
    return select(far, k.mad(x - 0.5, logarithm - 1.0, series), near)


def digamma(k: Kit, x: Expr) -> Expr:
    """The derivative of lgamma; -inf at 0, inf at -0, NaN at negative integers and at -inf."""
    wide = Kit(float64, k.has_fma)
    return cast(_digamma(wide, cast(x, float64)), k.dtype)


def _digamma(k: Kit, x: Expr) -> Expr:
    reflect = apply("lt", x, 0.5)
    start = select(reflect, 1.0 - x, x)
    # 1/x + 1/(x + 1) + ... up to 8 as one fraction
    numerator, denominator = k.const(0.0), k.const(1.0)
    z = start
    for _ in range(8):
        step = apply("lt", z, 8.0)
        numerator = select(step, k.mad(numerator, z, denominator), numerator)
        denominator = select(step, denominator * z, denominator)
        z = select(step, z + 1.0, z)
    inverse = 1.0 / z
    u = inverse * inverse
    y = log(k, z) - k.mad(u, k.poly(u, DIGAMMA), k.mad(inverse, 0.5, numerator / denominator))
    sine, cosine = _sin_cos_pi(k, x)
    y = select(reflect, y - PI * cosine / sine, y)
    pole = apply("lt", x, 0.0) & apply("eq", apply("floor", x), x)
    y = select(pole, NAN, y)
    return select(apply("eq", x, 0.0), k.copysign(k.const(INF), -x), y)
