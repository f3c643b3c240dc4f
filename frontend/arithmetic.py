"""Element-wise functions beyond the array API, under PyTorch's names: compositions, and a few ops of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import float32, float64, int32, int64
from ..ir.op import get_op
from ..ir.ops import arithmetic as _declared  # noqa: F401  (declares fmod)
from . import elementwise as e
from .convert import as_tensor, cast_to, promote_operands
from .state import state
from .tensor import Tensor


def floating(x: Any) -> Tensor:
    """`x` as floats: integers and bools in the default type."""
    x = as_tensor(x)
    return x if x.dtype.is_floating else cast_to(x, state.default_dtype)


def floating_operands(*operands: Any) -> tuple[Tensor, ...]:
    """Operands in one floating type."""
    tensors = promote_operands(*operands)
    return tensors if tensors[0].dtype.is_floating else tuple(cast_to(t, state.default_dtype) for t in tensors)


# ------------------------------------------------------------------ products and quotients


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    product = e.multiply(tensor1, tensor2)
    return e.add(input, product if value == 1 else e.multiply(product, value))


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return e.add(input, e.divide(e.multiply(tensor1, value) if value != 1 else tensor1, tensor2))


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input."""
    return e.subtract(other, input if alpha == 1 else e.multiply(input, alpha))


@e.at_once(np.fmod)
def fmod(input: Any, other: Any) -> Tensor:
    """The remainder of division rounded towards zero: has the sign of `input`."""
    return e.binary(get_op("fmod"), input, other, False)


def frac(input: Any) -> Tensor:
    """x - trunc(x)."""
    x = as_tensor(input)
    return e.subtract(x, e.trunc(x))


def float_power(input: Any, exponent: Any) -> Tensor:
    """input ** exponent in float64."""
    base, power = promote_operands(input, exponent)
    return e.pow(cast_to(base, float64), cast_to(power, float64))


def ldexp(input: Any, other: Any) -> Tensor:
    """input * 2**other."""
    x, power = floating(input), as_tensor(other)
    return e.multiply(x, e.pow(2.0, cast_to(power, x.dtype) if not power.dtype.is_floating else power))


def frexp(input: Any) -> tuple[Tensor, Tensor]:
    """(mantissa, exponent) with x = mantissa * 2**exponent and 0.5 <= |mantissa| < 1; the exponent is int32. 0,
    infinities and NaN are their own mantissas, of exponent 0."""
    x = floating(input)
    if x.dtype not in (float32, float64):
        mantissa, exponent = frexp(cast_to(x, float32))
        return cast_to(mantissa, x.dtype), exponent
    digits, integer, bias = (23, int32, 127) if x.dtype is float32 else (52, int64, 1023)
    values = x.detach()
    lift = e.where(e.less(e.abs(values), 2.0 ** (2 - bias)), digits + 2, 0)  # subnormal numbers have leading zeros
    lifted = e.multiply(values, e.pow(2.0, cast_to(lift, x.dtype)))
    bits = e.bitwise_and(e.bitwise_right_shift(e.bitcast(lifted, integer), digits), 2 * bias + 1)
    plain = e.logical_and(e.isfinite(values), e.not_equal(values, 0))
    exponent = e.where(plain, e.subtract(e.subtract(bits, bias - 1), cast_to(lift, integer)), 0)
    half = e.floor_divide(exponent, 2)  # in two steps: 2**-exponent may be out of range
    rest = e.subtract(exponent, half)
    scale = [e.exp2(cast_to(e.negative(part), x.dtype)) for part in (half, rest)]
    return e.multiply(e.multiply(x, scale[0]), scale[1]), cast_to(exponent, int32)


def deg2rad(input: Any) -> Tensor:
    """Degrees as radians."""
    return e.multiply(floating(input), math.pi / 180)


def rad2deg(input: Any) -> Tensor:
    """Radians as degrees."""
    return e.multiply(floating(input), 180 / math.pi)


# ------------------------------------------------------------------ extremes and steps


def fmax(input: Any, other: Any) -> Tensor:
    """The larger of each pair; a number wins over NaN."""
    x, y = promote_operands(input, other)
    if not x.dtype.is_floating:
        return e.maximum(x, y)
    return e.where(e.logical_or(e.greater_equal(x, y), e.isnan(y)), x, y)


def fmin(input: Any, other: Any) -> Tensor:
    """The smaller of each pair; a number wins over NaN."""
    x, y = promote_operands(input, other)
    if not x.dtype.is_floating:
        return e.minimum(x, y)
    return e.where(e.logical_or(e.less_equal(x, y), e.isnan(y)), x, y)


def clamp_min(input: Any, min: Any) -> Tensor:
    """Limits x from below."""
    return e.clip(input, min=min)


def clamp_max(input: Any, max: Any) -> Tensor:
    """Limits x from above."""
    return e.clip(input, max=max)


@e.at_once(np.heaviside)
def heaviside(input: Any, values: Any) -> Tensor:
    """0 for negative x, 1 for positive x, and `values` where x is 0."""
    x, at_zero = promote_operands(input, values)
    return e.where(e.equal(x, 0), at_zero, cast_to(e.greater(x, 0), x.dtype))


def sgn(input: Any) -> Tensor:
    """The sign: -1, 0 or 1."""
    return e.sign(input)


def isneginf(input: Any) -> Tensor:
    """Whether each element is -inf."""
    return e.equal(input, -math.inf)


def isposinf(input: Any) -> Tensor:
    """Whether each element is inf."""
    return e.equal(input, math.inf)


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close: a Python bool."""
    from .reductions import all

    return bool(all(e.isclose(input, other, rtol, atol, equal_nan)))


# ------------------------------------------------------------------ bits and integers


def bitwise_not(input: Any) -> Tensor:
    """~x: the bits of integers, negation of bools."""
    return e.bitwise_invert(input)


def gcd(input: Any, other: Any) -> Tensor:
    """The greatest common divisor of each pair of integers, never negative."""
    return e.binary(get_op("gcd"), input, other, False)


def lcm(input: Any, other: Any) -> Tensor:
    """The least common multiple of each pair of integers, never negative."""
    x, y = promote_operands(input, other)
    return e.abs(e.multiply(e.floor_divide(x, e.maximum(gcd(x, y), 1)), y))


# ------------------------------------------------------------------ logarithms and friends


def logaddexp2(input: Any, other: Any) -> Tensor:
    """log2(2**x + 2**y) without overflow."""
    x, y = floating_operands(input, other)
    return e.multiply(e.logaddexp(e.multiply(x, math.log(2)), e.multiply(y, math.log(2))), 1 / math.log(2))


def xlogy(input: Any, other: Any) -> Tensor:
    """x * log(y), and 0 where x is 0 (NaN where y is)."""
    return _times_log(input, other, e.log, 0)


def xlog1py(input: Any, other: Any) -> Tensor:
    """x * log(1 + y), and 0 where x is 0 (NaN where y is)."""
    return _times_log(input, other, e.log1p, -1)


def _times_log(x: Any, y: Any, log: Callable[[Any], Tensor], edge: int) -> Tensor:
    x, y = floating_operands(x, y)
    nothing = e.logical_and(e.equal(x, 0), e.logical_or(e.less_equal(y, edge), e.isinf(y)))
    return e.multiply(x, log(e.where(nothing, edge + 1, y)))


def logit(input: Any, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)): the inverse of sigmoid. `eps`: x is limited to [eps, 1 - eps] first."""
    x = floating(input)
    x = x if eps is None else e.where(e.less(x, eps), eps, e.where(e.greater(x, 1 - eps), 1 - eps, x))
    return e.log(e.divide(x, e.subtract(1, x)))


def sinc(input: Any) -> Tensor:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = floating(input)
    zero = e.equal(x, 0)
    angle = e.multiply(e.where(zero, 1, x), math.pi)
    return e.where(zero, 1, e.divide(e.sin(angle), angle))


def mvlgamma(input: Any, p: int) -> Tensor:
    """The logarithm of the multivariate gamma function of dimension p."""
    x = floating(input)
    out: Any = p * (p - 1) / 4 * math.log(math.pi)
    for i in range(p):
        out = e.add(e.lgamma(e.subtract(x, i / 2)), out)
    return out


def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """`steps` powers of `base`, the exponents evenly spaced from `start` to `end`."""
    from .creation import linspace

    return e.pow(base, linspace(start, end, steps, dtype=dtype))


def numel(input: Any) -> Any:
    """The number of elements."""
    return as_tensor(input).numel()


def is_tensor(x: Any) -> bool:
    """Whether x is a Tensor."""
    return isinstance(x, Tensor)


# Other names for the same functions.
clamp = e.clip
true_divide = e.divide
arccos, arccosh, arcsin, arcsinh, arctan, arctanh = e.acos, e.acosh, e.asin, e.asinh, e.atan, e.atanh
arctan2, absolute, fix = e.atan2, e.abs, e.trunc

__all__ = [
    "absolute", "addcdiv", "addcmul", "allclose", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2",
    "arctanh", "bitwise_not", "clamp", "clamp_max", "clamp_min", "deg2rad", "fix", "float_power", "fmax", "fmin",
    "fmod", "frac", "frexp", "gcd", "heaviside", "is_tensor", "isneginf", "isposinf", "lcm", "ldexp", "logaddexp2",
    "logit", "logspace", "mvlgamma", "numel", "rad2deg", "rsub", "sgn", "sinc", "true_divide", "xlogy",
]  # fmt: skip
