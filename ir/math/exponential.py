"""exp, exp2, expm1, log, log2, log10, log1p, tanh.

Coefficients: Remez exchange in 50-digit arithmetic on the reduced range, weighted for relative error; each comment gives
the approximation error that is left.
"""

from __future__ import annotations

from ..scalar import Expr, apply, select
from .kit import INF, NAN, Kit, Pair

# (e**f - 1 - f) / f**2 on |f| <= log(2)/2: 2**-27.7 of e**f, 2**-61.7 in float64
EXP = (
    (0.5, 0.166665435, 0.0416662805, 0.0083665885, 0.0013946481),
    (
        0.5, 0.16666666666666677, 0.041666666666666699, 0.0083333333333216065, 0.0013888888888866915,
        0.0001984126988618538, 2.4801587360451609e-05, 2.7557244152045655e-06, 2.7557242822687004e-07,
        2.5109056208382074e-08, 2.092442939799128e-09,
    ),
)  # fmt: skip
# The same in float32 where e**f - 1 itself has to be accurate: 2**-32
EXPM1 = (0.5, 0.166666672, 0.041666355, 0.00833327323, 0.00139410177, 0.000199141548)
# (2**f - 1) / f on |f| <= 1/2: 2**-29
EXP2 = (0.693147182, 0.240226507, 0.055503279, 0.00961800385, 0.00134002941, 0.000154763082)
# (log(1 + f) - f + f**2/2) / f**3 on sqrt(1/2) <= 1 + f <= sqrt(2): 2**-27.3
LOG = (
    0.333333313, -0.250008196, 0.200012252, -0.166233599, 0.142017812, -0.13160184, 0.127614111, -0.0763427764,
)  # fmt: skip
# (2 atanh(s)/s - 2) / s**2 in s**2, s = f / (2 + f): 2**-58.5 times s**2
LOG_ATANH = (
    0.6666666666666734, 0.39999999999414354, 0.28571428742467264, 0.2222219856432506, 0.18183564820383238,
    0.15314037083808316, 0.14796092333431185,
)  # fmt: skip
# (tanh(x)/x - 1) / x**2 in x**2 for |x| < 0.56: 2**-34.6, 2**-70
TANH = (
    (-0.333333313, 0.133332863, -0.0539584532, 0.0217741635, -0.00838580541, 0.0023620557),
    (
        -0.33333333333333331, 0.13333333333333319, -0.053968253968240704, 0.021869488535560554, -0.0088632355141612003,
        0.0035921277683689397, -0.0014558312926456611, 0.0005900025468572349, -0.00023898751899619928,
        9.6345676236641987e-05, -3.7678870957518191e-05, 1.2882708132069113e-05, -2.76987007778076e-06,
    ),
)  # fmt: skip
# log(2) as high + low, the high part short enough that its product with an exponent is exact
LN2 = ((0.693145751953125, 1.42860677e-06), (6.93147180369123816490e-01, 1.90821492927058770002e-10))
LN2_DOUBLE = (0.6931471805599453, 2.3190468138462996e-17)
LOG2E = ((1.4426950216293335, 1.925963033500011e-08), (1.4426950408889634, 2.0355273740931033e-17))
LOG10E = ((0.4342944920063019, -1.0103049952192578e-08), (0.4342944819032518, 1.098319650216765e-17))
LOG10_2 = ((0.301025390625, 4.605039066518657e-06), (0.301029995663157, 8.241712586023572e-13))


def reduce_exp(k: Kit, x: Expr, low: Expr | None = None) -> Pair:
    """(f, n + magic) with x + low = n log(2) + f, |f| <= log(2)/2 or hardly more."""
    high2, low2 = k.pick(*LN2)
    shifted = k.mad(x, k.pick(*LOG2E)[0], k.const(k.magic))
    n = shifted - k.magic
    f = k.mad(n, -low2, k.mad(n, -high2, x))
    return (f if low is None else f + low), shifted


def exp_minus_one_reduced(k: Kit, f: Expr) -> Expr:
    """e**f - 1 on the reduced range, with small relative error."""
    return k.mad(f * f, k.poly(f, k.pick(EXPM1, EXP[1])), f)


def exp_reduced(k: Kit, f: Expr) -> Expr:
    """e**f on the reduced range."""
    return k.mad(f * f, k.poly(f, k.pick(*EXP)), f) + 1.0


def exp(k: Kit, x: Expr) -> Expr:
    x = k.clamp_below(k.clamp_above(x, k.pick(89.0, 710.0)), k.pick(-104.0, -746.0))
    f, shifted = reduce_exp(k, x)
    return k.scale(exp_reduced(k, f), shifted)


def exp2(k: Kit, x: Expr) -> Expr:
    x = k.clamp_below(k.clamp_above(x, k.pick(128.0, 1024.0)), k.pick(-151.0, -1076.0))
    shifted, n = k.nearest(x)
    f = x - n
    if k.single:
        return k.scale(k.mad(f, k.poly(f, EXP2), 1.0), shifted)
    high, low = k.two_product(f, k.const(LN2_DOUBLE[0]))
    low = k.mad(f, LN2_DOUBLE[1], low)
    p = exp_minus_one_reduced(k, high)
    return k.scale(k.mad(low, p + 1.0, p) + 1.0, shifted)


def expm1(k: Kit, x: Expr) -> Expr:
    y = k.clamp_below(k.clamp_above(x, k.pick(89.0, 710.0)), k.pick(-20.0, -40.0))
    f, shifted = reduce_exp(k, y)
    # Half of the result, since 2**n may overflow where the result does not.
    s = k.power_of_two(k.bits(shifted), -1)
    half = k.mad(s, exp_minus_one_reduced(k, f), s - 0.5)
    return select(apply("lt", k.abs(x), k.smallest_normal * 4), x, half + half)


def tanh(k: Kit, x: Expr) -> Expr:
    """An odd polynomial up to 0.56, 1 - 2 / (e**(2|x|) + 1) beyond."""
    t = k.abs(x)
    u = t * t
    small = k.mad(u * t, k.poly(u, k.pick(*TANH)), t)
    v = k.clamp_above(t, k.pick(10.0, 20.0))
    f, shifted = reduce_exp(k, v + v)
    s = k.power_of_two(k.bits(shifted))
    large = 1.0 - 2.0 / k.mad(s, exp_minus_one_reduced(k, f), s + 1.0)
    return k.copysign(select(apply("lt", t, 0.56), small, large), x)


# ---- logarithms
def split_exponent(k: Kit, x: Expr) -> Pair:
    """(m - 1, e) with x = m 2**e, sqrt(1/2) <= m < sqrt(2), for positive finite x; e as a float."""
    small = apply("lt", x, k.smallest_normal)
    shift = k.mantissa + 1
    b = k.bits(select(small, x * 2.0**shift, x))
    root = k.pick(0x3F3504F3, 0x3FE6A09E667F3BCD)  # bits of sqrt(1/2)
    offset = b - root
    e = (
        apply("cast", offset >> k.mantissa, dtype=k.dtype)
        if k.single
        else _small_integer_to_float(k, offset >> k.mantissa)
    )
    e = select(small, e - float(shift), e)
    m = k.from_bits((offset & ((1 << k.mantissa) - 1)) + root)
    return m - 1.0, e


def _small_integer_to_float(k: Kit, i: Expr) -> Expr:
    """int64 to float64 for |i| < 2**51; AVX2 has no instruction for it."""
    magic = 0x4338000000000000
    return k.from_bits(i + magic) - k.magic


def log_tail(k: Kit, f: Expr) -> Expr:
    """log(1 + f) - f on the reduced range."""
    square = f * f
    if k.single:
        return k.mad(square * f, k.poly(f, LOG), square * -0.5)
    s = f / (f + 2.0)
    z = s * s
    half = square * 0.5
    return s * (half + z * k.poly(z, LOG_ATANH)) - half


def _log_special(k: Kit, x: Expr, y: Expr) -> Expr:
    """-inf at zeros, NaN below, x itself at inf and NaN."""
    y = select(apply("lt", x, INF), y, x)
    return select(apply("gt", x, 0.0), y, select(apply("eq", x, 0.0), -INF, x * NAN))


def log(k: Kit, x: Expr) -> Expr:
    f, e = split_exponent(k, x)
    high, low = k.pick(*LN2)
    return _log_special(k, x, k.mad(e, high, f + k.mad(e, low, log_tail(k, f))))


def log1p(k: Kit, x: Expr) -> Expr:
    """log(u) + c / u, where u + c = 1 + x exactly."""
    u, c = k.two_sum(k.const(1.0), x)
    f, e = split_exponent(k, u)
    high, low = k.pick(*LN2)
    # c / u matters only where it is not far below one; there 1 / u needs no accuracy of its own.
    tail = k.mad(e, low, log_tail(k, f) + c / u)
    y = _log_special(k, u, k.mad(e, high, f + tail))
    return select(apply("lt", k.abs(x), k.pick(2.0**-25, 2.0**-54)), x, y)


def _log_of_base(k: Kit, x: Expr, factor: tuple[float, float], of_two: tuple[float, float]) -> Expr:
    """log(x) * factor with the products carried in two parts."""
    f, e = split_exponent(k, x)
    v, rest = k.fast_two_sum(f, log_tail(k, f))
    high, low = factor
    small = k.mad(rest, high, v * low)
    if of_two[1]:
        small = k.mad(e, of_two[1], small)
    if k.has_fma:
        main = k.mad(v, high, small)
    else:
        p, error = k.two_product(v, k.const(high))
        main = p + (error + small)
    return _log_special(k, x, k.mad(e, of_two[0], main))


def log2(k: Kit, x: Expr) -> Expr:
    return _log_of_base(k, x, k.pick(*LOG2E), (1.0, 0.0))


def log10(k: Kit, x: Expr) -> Expr:
    return _log_of_base(k, x, k.pick(*LOG10E), k.pick(*LOG10_2))
