"""Special functions: `tracefuse.special`, under PyTorch's names."""

from __future__ import annotations

import math
from typing import Any

from ..ir.op import get_op
from ..ir.ops import arithmetic as _declared  # noqa: F401  (declares the Bessel functions and their like)
from ..ir.ops import hurwitz as _zeta  # noqa: F401  (declares zeta and the incomplete gamma functions)
from . import elementwise as e
from .arithmetic import floating, floating_operands, logit, sinc, xlog1py, xlogy
from .arithmetic import mvlgamma as multigammaln
from .dispatch import run
from .elementwise import digamma, erf, erfc, erfinv, exp2, expm1, log1p, sigmoid
from .reductions import logsumexp
from .tensor import Tensor


def _unary(op: str, x: Any) -> Tensor:
    return run(get_op(op), (floating(x),), {})


def i0(input: Any) -> Tensor:
    """The modified Bessel function of the first kind of order 0."""
    return _unary("i0", input)


def i0e(input: Any) -> Tensor:
    """exp(-|x|) i0(x)."""
    return _unary("i0e", input)


def i1(input: Any) -> Tensor:
    """The modified Bessel function of the first kind of order 1."""
    return _unary("i1", input)


def i1e(input: Any) -> Tensor:
    """exp(-|x|) i1(x)."""
    return _unary("i1e", input)


def erfcx(input: Any) -> Tensor:
    """exp(x**2) erfc(x), without overflow for large x."""
    return _unary("erfcx", input)


def ndtr(input: Any) -> Tensor:
    """The distribution function of the standard normal distribution."""
    return e.multiply(e.erfc(e.multiply(floating(input), -math.sqrt(0.5))), 0.5)


def ndtri(input: Any) -> Tensor:
    """The quantile of the standard normal distribution: infinite at 0 and 1, NaN outside."""
    return _unary("ndtri", input)


def log_ndtr(input: Any) -> Tensor:
    """log(ndtr(x)), accurate in the tail."""
    return _unary("log_ndtr", input)


def entr(input: Any) -> Tensor:
    """-x log(x) for x > 0, 0 at 0, -inf below."""
    x = floating(input)
    positive = e.greater(x, 0)
    inside = e.negative(e.multiply(x, e.log(e.where(positive, x, 1))))
    return e.where(e.logical_or(positive, e.isnan(x)), inside, e.where(e.equal(x, 0), 0.0, -math.inf))


def zeta(x: Any, q: Any) -> Tensor:
    """Hurwitz' zeta function: the sum of (k + q)**-x over k = 0, 1, 2, ... (differentiable in q)."""
    return run(get_op("zeta"), floating_operands(x, q), {})


def polygamma(n: int, input: Any) -> Tensor:
    """The n-th derivative of digamma."""
    if n < 0:
        raise ValueError(f"polygamma: n must not be negative, it is {n}")
    x = floating(input)
    if n == 0:
        return e.digamma(x)
    return e.multiply(zeta(float(n + 1), x), math.factorial(n) * (1 if n % 2 else -1))


def gammainc(input: Any, other: Any) -> Tensor:
    """The regularised lower incomplete gamma function P(a, x) (differentiable in x)."""
    return run(get_op("igamma"), floating_operands(input, other), {})


def gammaincc(input: Any, other: Any) -> Tensor:
    """1 - gammainc(a, x), accurate where it is small (differentiable in x)."""
    return run(get_op("igammac"), floating_operands(input, other), {})


def softmax(input: Any, dim: int, *, dtype: Any = None) -> Tensor:
    """e**x / sum(e**x) along an axis."""
    from .nn.functional import softmax as function

    x = floating(input)
    return function(x if dtype is None else e.astype(x, dtype, copy=False), dim)


def log_softmax(input: Any, dim: int, *, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along an axis, without overflow."""
    from .nn.functional import log_softmax as function

    x = floating(input)
    return function(x if dtype is None else e.astype(x, dtype, copy=False), dim)


expit, psi, gammaln, round = sigmoid, digamma, e.lgamma, e.round
igamma, igammac = gammainc, gammaincc

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc", "gammaln",
    "i0", "i0e", "i1", "i1e", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp", "multigammaln", "ndtr", "ndtri",
    "polygamma", "psi", "round", "sinc", "softmax", "xlog1py", "xlogy", "zeta",
]  # fmt: skip
