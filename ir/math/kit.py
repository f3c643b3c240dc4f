"""Building blocks of the expansions: polynomial steps, error-free transformations, exponent arithmetic on bits."""

from __future__ import annotations

from collections.abc import Sequence

from ..dtypes import DType, float32
from ..scalar import Expr, apply, bitcast, bits_dtype, const, select

Pair = tuple[Expr, Expr]  # an unevaluated sum high + low

INF, NAN = float("inf"), float("nan")


class Kit:
    """Arithmetic for one float type, with or without an fma instruction.

    Without one, `mad` rounds twice, and `fma` and `two_product` split their factors (Dekker), so that reductions stay
    exact.
    """

    def __init__(self, dtype: DType, has_fma: bool, has_scale: bool = False):
        self.dtype, self.has_fma, self.has_scale = dtype, has_fma, has_scale
        self.single = dtype is float32
        self.integer = bits_dtype(dtype)
        self.mantissa = 23 if self.single else 52  # stored bits
        self.bias = 127 if self.single else 1023
        # Adding it leaves the nearest integer in the low bits of the result. Its own low bits, also halved, are zero.
        self.magic = 1.5 * 2.0**self.mantissa
        self.smallest_normal = 2.0 ** (1 - self.bias)

    def pick(self, single, double):
        """The first for float32, the second for float64: coefficients and thresholds."""
        return single if self.single else double

    def const(self, value: float) -> Expr:
        return const(value, self.dtype)

    def mad(self, a, b, c) -> Expr:
        """a * b + c, rounded once or twice."""
        if self.has_fma:
            return apply("fma", self._expr(a), b, c)
        return self._expr(a) * b + c

    def _expr(self, a) -> Expr:
        return a if isinstance(a, Expr) else self.const(a)

    def fma(self, a, b, c) -> Expr:
        """a * b + c where the sum may cancel: the whole product takes part."""
        if self.has_fma:
            return self.mad(a, b, c)
        high, low = self.two_product(self._expr(a), self._expr(b))
        return (high + c) + low

    def poly(self, x: Expr, coefficients: Sequence[float]) -> Expr:
        """Horner's rule; coefficients from the constant term up."""
        y = self.const(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            y = self.mad(y, x, c)
        return y

    # ---- error-free transformations
    def two_sum(self, a: Expr, b: Expr) -> Pair:
        s = a + b
        t = s - a
        return s, (a - (s - t)) + (b - t)

    def fast_two_sum(self, a: Expr, b: Expr) -> Pair:
        """Exact where |a| >= |b| or a = 0."""
        s = a + b
        return s, b - (s - a)

    def two_product(self, a: Expr, b: Expr) -> Pair:
        p = a * b
        if self.has_fma:
            return p, self.mad(a, b, -p)
        a1, b1 = self.upper_half(a), self.upper_half(b)
        a0, b0 = a - a1, b - b1
        return p, ((a1 * b1 - p) + a1 * b0 + a0 * b1) + a0 * b0

    def upper_half(self, a: Expr) -> Expr:
        """The nearest number with half of the bits: products of such halves are exact."""
        low = 12 if self.single else 27
        return self.from_bits((self.bits(a) + (1 << (low - 1))) & -(1 << low))

    def product(self, a: Pair, b: Pair) -> Pair:
        """Product of two pairs, with a relative error near the square of the rounding unit."""
        p, e = self.two_product(a[0], b[0])
        return self.fast_two_sum(p, self.mad(a[0], b[1], self.mad(a[1], b[0], e)))

    def sum(self, a: Pair, b: Pair) -> Pair:
        s, e = self.two_sum(a[0], b[0])
        return self.fast_two_sum(s, e + (a[1] + b[1]))

    def quotient(self, a: Pair, b: Pair) -> Pair:
        q = a[0] / b[0]
        p, e = self.two_product(q, b[0])
        r = (((a[0] - p) - e) + a[1]) - q * b[1]
        return self.fast_two_sum(q, r / b[0])

    # ---- bits
    def bits(self, x: Expr) -> Expr:
        return bitcast(x, self.integer)

    def from_bits(self, i: Expr) -> Expr:
        return bitcast(i, self.dtype)

    def sign_bit(self, x: Expr) -> Expr:
        """The sign bit alone, as an integer."""
        return self.bits(x) & (-1 << (self.dtype.bits - 1))

    def nearest(self, x: Expr) -> Pair:
        """(n + magic, n) with n = x rounded to an integer, for |x| < 2**(mantissa - 2)."""
        t = x + self.magic
        return t, t - self.magic

    def power_of_two(self, n: Expr, offset: int = 0) -> Expr:
        """2**(n + offset) for an integer or for the bits of n + magic; n + offset in the normal range."""
        return self.from_bits((n << self.mantissa) + ((self.bias + offset) << self.mantissa))

    def scale(self, x: Expr, shifted: Expr) -> Expr:
        """x * 2**n with one rounding, for `shifted` = n + magic; n may leave the normal range by a factor of two."""
        if self.has_scale:
            return apply("scale", x, shifted - self.magic)
        b = self.bits(shifted)
        one = self.bias << self.mantissa
        half = (b >> 1) << self.mantissa
        rest = (b << self.mantissa) - half
        return x * self.from_bits(half + one) * self.from_bits(rest + one)

    # ---- selection
    def clamp_above(self, x: Expr, top: float) -> Expr:
        """min(x, top); NaN stays. One instruction on x86, unlike `min`."""
        return select(apply("lt", self.const(top), x), top, x)

    def clamp_below(self, x: Expr, bottom: float) -> Expr:
        """max(x, bottom); NaN stays."""
        return select(apply("gt", self.const(bottom), x), bottom, x)

    def abs(self, x: Expr) -> Expr:
        return apply("abs", x)

    def copysign(self, x: Expr, sign: Expr) -> Expr:
        return apply("copysign", x, sign)
