"""sin, cos and tan, with an argument reduction that is right for every finite argument.

The quarter turns in x are x * 2/pi, of which only the value modulo 4 matters. So bits of 2/pi that contribute whole
multiples of 4 are left out, which ones depends on the exponent of x alone: a few constants picked by `select`.
"""

from __future__ import annotations

from fractions import Fraction

from ..dtypes import float32, float64, int32, int64
from ..scalar import Expr, apply, cast, select
from .kit import Kit, Pair

# The first 1216 bits of 2/pi after the binary point.
TWO_OVER_PI_BITS = 1216
TWO_OVER_PI = int(
    "a2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561b7246e3a424dd2e006492eea09d1921c"
    "fe1deb1cb129a73ee88235f52ebb4484e99c7026b45f7e413991d639835339f49c845f8bbdf9283b1ff897ffde05980f"
    "ef2f118b5a0a6d1f6d367ecf27cb09b74f463f669e5fea2d7527bac7ebe5f17b3d0739f78a5292ea6bfb5fb11f8d5d08"
    "56033046fc7b6bab",
    16,
)
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)

# (sin(r) - r) / r**3 in r**2 on |r| <= pi/4: 2**-28, 2**-58
SIN = (
    (-0.166666552, 0.00833217613, -0.000195169836),
    (
        -0.16666666666666632, 0.0083333333333223715, -0.00019841269829771744, 2.7557313678859648e-06,
        -2.5050755990514332e-08, 1.5896668130954258e-10,
    ),
)  # fmt: skip
# (cos(r) - 1 + r**2/2) / r**4 in r**2 on |r| <= pi/4: 2**-33, 2**-64
COS = (
    (0.0416666456, -0.0013887313, 2.44327948e-05),
    (
        0.041666666666666602, -0.0013888888888874066, 2.4801587289444451e-05, -2.7557314340928377e-07,
        2.0875721659444815e-09, -1.1359561153943112e-11,
    ),
)  # fmt: skip


def _quarter_turns_modulo_4(exponent: int) -> tuple[float, float]:
    """2**exponent * 2/pi modulo 4, nearest to zero, in two float64 of which the first is the smaller in magnitude."""
    modulus = 4 << TWO_OVER_PI_BITS
    value = (TWO_OVER_PI << exponent) % modulus
    value -= modulus if value >= modulus // 2 else 0
    exact = Fraction(value, 1 << TWO_OVER_PI_BITS)
    high = float(exact)
    return high, float(exact - Fraction(high))


def reduce_single(k: Kit, magnitude: Expr) -> Pair:
    """(quadrant in the low two bits of an int32, remainder in float64), for a float32 >= 0.

    x = m * 2**E with m < 2**50 and, where E > 0, a whole number, so that multiples of 4 drop out of 2**E * 2/pi. The
    float64 pair of constants leaves an error of 2**-55 quarter turns; no float32 comes closer than 2**-31 to a zero.
    """
    wide = Kit(float64, k.has_fma)
    scale: Expr = k.const(1.0)
    parts = [wide.const(c) for c in _quarter_turns_modulo_4(0)]
    for start in (48, 75, 102):
        exponent = start - 23
        beyond = apply("ge", magnitude, 2.0**start)
        scale = select(beyond, 2.0**-exponent, scale)
        parts = [select(beyond, c, p) for c, p in zip(_quarter_turns_modulo_4(exponent), parts)]
    m = cast(magnitude * scale, float64)
    high, low = parts
    shifted = wide.mad(m, high, wide.const(wide.magic))
    n = shifted - wide.magic
    turns = wide.mad(m, low, wide.fma(m, high, -n))
    quadrant = cast(wide.bits(shifted), int32)
    if not k.has_fma:  # m * high was rounded before n was taken off: for large m that shifts n by one
        shifted, n = wide.nearest(turns)
        turns, quadrant = turns - n, quadrant + cast(wide.bits(shifted), int32)
    return quadrant, turns * HALF_PI[0]


PIECE = 53  # bits of 2/pi in one constant of the float64 reduction
PIECES = 4


def _piece(i: int) -> float:
    """Bits [53 i, 53 (i + 1)) of 2/pi as a fraction."""
    shift = TWO_OVER_PI_BITS - PIECE * (i + 1)
    return ((TWO_OVER_PI >> shift) & ((1 << PIECE) - 1)) / 2.0**PIECE


def _window(k: Kit, j: Expr) -> list[Expr]:
    """Pieces j .. j + 3 of 2/pi, j in [0, 18], by a shifter of selects."""
    last = 18
    window: list[Expr] = [k.const(_piece(i)) for i in range(last + PIECES)]
    for step in (16, 8, 4, 2, 1):
        bit = apply("ne", j & step, 0)
        reach = min(len(window), step - 1 + PIECES)
        window = [
            select(bit, window[i + step], window[i]) if i + step < len(window) else window[i] for i in range(reach)
        ]
    return window


def reduce_double(k: Kit, magnitude: Expr) -> tuple[Expr, Expr, Expr]:
    """(quadrant in the low two bits of an int64, remainder high, low), for a float64 >= 0.

    x = m * 2**(53 j) with m < 2**107 a multiple of 4 where j > 0: pieces of 2/pi before the j-th only add multiples of
    4. Four pieces leave 2**-105 quarter turns at worst, and 2**-158 for x < 2**54.
    """
    excess = apply("max", (k.bits(magnitude) >> k.mantissa) - (1023 + 54), 0)
    j = (excess * 1237) >> 16  # excess // 53
    m = magnitude * k.from_bits((1023 - j * PIECE) << k.mantissa)
    g0, g1, g2, g3 = _window(k, j)
    p0, e0 = k.two_product(m, g0)
    p1, e1 = k.two_product(m * 2.0**-PIECE, g1)
    p2, e2 = k.two_product(m * 2.0 ** (-2 * PIECE), g2)
    q, q_low = k.two_sum(e0, p1)
    r, r_low = k.two_sum(e1, p2)
    s, s_low = k.two_sum(q_low, r)
    tail = (r_low + s_low) + k.mad(m * 2.0 ** (-3 * PIECE), g3, e2)

    def modulo_4(x: Expr) -> Expr:
        return k.mad(apply("round", x * 0.25), -4.0, x)

    a, a_low = k.two_sum(modulo_4(p0), modulo_4(q))
    b, b_low = k.two_sum(a, modulo_4(s))
    shifted, n = k.nearest(b)
    turns, turns_low = k.two_sum(b - n, (a_low + b_low) + tail)
    high, low = k.two_product(turns, k.const(HALF_PI[0]))
    low = k.mad(turns, HALF_PI[1], k.mad(turns_low, HALF_PI[0], low))
    near = apply("lt", magnitude, 0.78)
    return k.bits(shifted), select(near, magnitude, high), select(near, 0.0, low)


def sin_cos_reduced(k: Kit, r: Expr, low: Expr | None) -> Pair:
    """(sin, cos) of r + low for |r| <= pi/4."""
    u = r * r
    s, c = k.poly(u, k.pick(*SIN)), k.poly(u, k.pick(*COS))
    if low is None:
        return k.mad(u * r, s, r), k.mad(u, k.mad(u, c, -0.5), 1.0)
    half = u * 0.5
    one = 1.0 - half
    sine = r + k.mad(u * r, s, k.mad(-half, low, low))
    cosine = one + (((1.0 - one) - half) + k.mad(u * u, c, -(r * low)))
    return sine, cosine


def _reduced(k: Kit, x: Expr) -> tuple[Expr, Expr, Expr]:
    """(quadrant bits, sin, cos) of |x| less its quarter turns."""
    magnitude = k.abs(x)
    if k.single:
        quadrant, r = reduce_single(k, magnitude)
        return quadrant, *sin_cos_reduced(k, cast(r, float32), None)
    quadrant, r, low = reduce_double(k, magnitude)
    return quadrant, *sin_cos_reduced(k, r, low)


def _flip_sign(k: Kit, x: Expr, quadrant: Expr) -> Expr:
    """-x where bit 1 of `quadrant` is set."""
    return k.from_bits(k.bits(x) ^ ((quadrant & 2) << (k.dtype.bits - 2)))


def sin(k: Kit, x: Expr) -> Expr:
    quadrant, sine, cosine = _reduced(k, x)
    y = select(apply("ne", quadrant & 1, 0), cosine, sine)
    return k.from_bits(k.bits(_flip_sign(k, y, quadrant)) ^ k.sign_bit(x))


def cos(k: Kit, x: Expr) -> Expr:
    quadrant, sine, cosine = _reduced(k, x)
    y = select(apply("ne", quadrant & 1, 0), sine, cosine)
    return _flip_sign(k, y, quadrant + 1)


def tan(k: Kit, x: Expr) -> Expr:
    """sin / cos or -cos / sin; float32 in float64, where the remainder is at hand."""
    magnitude = k.abs(x)
    if k.single:
        wide = Kit(float64, k.has_fma)
        quadrant, r = reduce_single(k, magnitude)
        sine, cosine = sin_cos_reduced(wide, r, None)
        odd = apply("ne", cast(quadrant, int64) & 1, 0)
    else:
        quadrant, r, low = reduce_double(k, magnitude)
        sine, cosine = sin_cos_reduced(k, r, low)
        odd = apply("ne", quadrant & 1, 0)
    y = select(odd, -cosine, sine) / select(odd, sine, cosine)
    y = cast(y, k.dtype)
    return k.from_bits(k.bits(y) ^ k.sign_bit(x))
