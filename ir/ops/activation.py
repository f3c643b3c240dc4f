"""Activation functions: floating operands, gradients at kinks as PyTorch has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import scalar as s
from ..op import VjpContext
from ..scalar import Expr, select
from ..types import TypeRuleError
from . import _special
from ._declare import NUMBERS, const_like, pointwise
from .elementary import erf, exp, tanh
from .pointwise import abs_, add, and_, div, ge, gt, le, lt, masked, mul, neg, scale, shift, sub, where


def _exp(x: Expr) -> Expr:
    return s.apply("exp", x)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _logistic_scalar(x: Expr) -> Expr:
    return 1 / (1 + _exp(-x))


def _slope(out: Any) -> Any:
    """The derivative of sigmoid, from its result."""
    return mul(out, sub(const_like(out, 1), out))


def _clamped(x: Expr, low: float, high: float) -> Expr:
    return s.apply("min", s.apply("max", x, low), high)


# ------------------------------------------------------------------ sigmoid, relu, gelu, silu

sigmoid = pointwise("sigmoid", _logistic, _logistic_scalar, lambda c, g: (mul(g, _slope(c.out)),), saves=("out",))
relu = pointwise(
    "relu", lambda x: np.maximum(x, 0), lambda x: s.apply("max", x, 0),
    lambda c, g: (where(le(c.out, const_like(c.out, 0)), const_like(g, 0), g),),
    takes=NUMBERS, saves=("out",), away=(0.0,), doc="NaN stays.",
)  # fmt: skip


def _silu_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    out = sigmoid(x)
    return (mul(g, mul(out, shift(mul(x, sub(const_like(x, 1), out)), 1))),)


silu = pointwise(
    "silu", lambda x: x / (1 + np.exp(-x)), lambda x: x / (1 + _exp(-x)), _silu_vjp, saves=("x",), doc="x * sigmoid(x)."
)

_TANH_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _gelu_check(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise TypeRuleError(f"approximate={approximate!r} must be 'none' or 'tanh'")


def _gelu_reference(x: np.ndarray, approximate: str) -> np.ndarray:
    if approximate == "none":
        out = _special.erf(x * math.sqrt(0.5))
        out += 1
        out *= 0.5
        out *= x
        return out
    return x / (1 + np.exp(-2 * _TANH_SCALE * (x + _CUBIC * (x * x * x))))


def _gelu_scalar(x: Expr, approximate: str) -> Expr:
    """With 0.5 * (1 + tanh(t)) = sigmoid(2t) the approximation needs one exponential and one division. Its argument is
    rounded several times anyway, so a power of 2, which is cheaper, loses nothing."""
    if approximate == "none":
        return 0.5 * x * (1 + s.apply("erf", x * math.sqrt(0.5)))
    linear = -2 * _TANH_SCALE / math.log(2)
    return x / (1 + s.apply("exp2", x * (linear * _CUBIC * (x * x) + linear)))


def _gelu_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    square = mul(x, x)
    if c.attrs["approximate"] == "none":
        below = scale(shift(erf(scale(x, math.sqrt(0.5))), 1), 0.5)
        density = scale(exp(scale(square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return (mul(g, add(below, mul(x, density))),)
    twice = scale(mul(x, shift(scale(square, _CUBIC), 1)), 2 * _TANH_SCALE)
    out = sigmoid(twice)
    inner = scale(shift(scale(square, 3 * _CUBIC), 1), 2 * _TANH_SCALE)
    return (mul(g, add(out, mul(mul(x, _slope(out)), inner))),)


gelu = pointwise(
    "gelu", _gelu_reference, _gelu_scalar, _gelu_vjp, attrs={"approximate": "none"}, check=_gelu_check, saves=("x",),
    sample_attrs=({"approximate": "none"}, {"approximate": "tanh"}), tolerance=2e-6,
    doc="x * P(normal variable < x); approximate='tanh' is the usual closed form.",
)  # fmt: skip

# ------------------------------------------------------------------ elu and its kin

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _elu_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    falling = mul(g, scale(exp(x), c.attrs["alpha"]))
    return (where(gt(x, const_like(x, 0)), g, falling),)


def _selu_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    falling = mul(g, scale(exp(x), SELU_SCALE * SELU_ALPHA))
    return (where(gt(x, const_like(x, 0)), scale(g, SELU_SCALE), falling),)


def _leaky_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    return (where(gt(x, const_like(x, 0)), g, scale(g, c.attrs["slope"])),)


elu = pointwise(
    "elu", lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
    lambda x, alpha: select(x > 0, x, alpha * s.apply("expm1", x)),
    _elu_vjp, attrs={"alpha": 1.0}, saves=("x",), away=(0.0,), sample_attrs=({"alpha": 1.0}, {"alpha": 0.5}),
)  # fmt: skip
selu = pointwise(
    "selu", lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(x)),
    lambda x: SELU_SCALE * select(x > 0, x, SELU_ALPHA * s.apply("expm1", x)),
    _selu_vjp, saves=("x",), away=(0.0,),
)  # fmt: skip
leaky_relu = pointwise(
    "leaky_relu", lambda x, slope: np.where(x > 0, x, slope * x), lambda x, slope: select(x > 0, x, slope * x),
    _leaky_vjp, attrs={"slope": 0.01}, saves=("x",), away=(0.0,), sample_attrs=({"slope": 0.01}, {"slope": 0.2}),
)  # fmt: skip

# ------------------------------------------------------------------ softplus, mish, log_sigmoid


def _softplus_scalar(x: Expr, beta: float, threshold: float) -> Expr:
    t = x * beta
    return select(t > threshold, x, s.apply("log1p", _exp(t)) / beta)


def _softplus_vjp(c: VjpContext, g: Any) -> tuple:
    t = scale(c.inputs[0], c.attrs["beta"])
    return (where(gt(t, const_like(t, c.attrs["threshold"])), g, mul(g, sigmoid(t))),)


softplus = pointwise(
    "softplus", lambda x, beta, threshold: np.where(x * beta > threshold, x, np.log1p(np.exp(x * beta)) / beta),
    _softplus_scalar, _softplus_vjp, attrs={"beta": 1.0, "threshold": 20.0}, saves=("x",),
    sample_attrs=({"beta": 1.0, "threshold": 20.0}, {"beta": 2.0, "threshold": 20.0}),
    doc="log(1 + exp(beta x)) / beta; x itself where beta x > threshold.",
)  # fmt: skip


def _mish_reference(x: np.ndarray) -> np.ndarray:
    w = np.exp(np.minimum(x, 20))
    t = w * (w + 2)
    return x * (t / (t + 2))


def _mish_scalar(x: Expr) -> Expr:
    """tanh(log(1 + w)) = w (w + 2) / (w (w + 2) + 2) with w = exp(x); it is 1 from x = 20 on."""
    w = _exp(s.apply("min", x, 20))
    t = w * (w + 2)
    return x * (t / (t + 2))


def _mish_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    t = tanh(softplus(x))
    bend = mul(mul(x, sub(const_like(x, 1), mul(t, t))), sigmoid(x))
    return (mul(g, add(t, bend)),)


mish = pointwise("mish", _mish_reference, _mish_scalar, _mish_vjp, saves=("x",), doc="x * tanh(softplus(x)).")
log_sigmoid = pointwise(
    "log_sigmoid", lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))),
    lambda x: s.apply("min", x, 0) - s.apply("log1p", _exp(-s.apply("abs", x))),
    lambda c, g: (mul(g, sigmoid(neg(c.inputs[0]))),), saves=("x",),
)  # fmt: skip

# ------------------------------------------------------------------ piecewise linear


def _between(x: Any, low: float, high: float) -> Any:
    return and_(gt(x, const_like(x, low)), lt(x, const_like(x, high)))


def _hardtanh_vjp(c: VjpContext, g: Any) -> tuple:
    return (masked(_between(c.inputs[0], c.attrs["low"], c.attrs["high"]), g),)


def _hardswish_vjp(c: VjpContext, g: Any) -> tuple:
    x = c.inputs[0]
    middle = mul(g, shift(scale(x, 1 / 3), 0.5))
    rising = where(ge(x, const_like(x, 3)), g, middle)
    return (where(le(x, const_like(x, -3)), const_like(g, 0), rising),)


hardtanh = pointwise(
    "hardtanh", lambda x, low, high: np.minimum(np.maximum(x, low), high), _clamped, _hardtanh_vjp,
    attrs={"low": -1.0, "high": 1.0}, saves=("x",), away=(-1.0, 1.0, 0.0, 2.0),
    sample_attrs=({"low": -1.0, "high": 1.0}, {"low": 0.0, "high": 2.0}),
)  # fmt: skip
hardsigmoid = pointwise(
    "hardsigmoid", lambda x: np.minimum(np.maximum(x + 3, 0), 6) / 6, lambda x: _clamped(x + 3, 0, 6) * (1 / 6),
    lambda c, g: (masked(_between(c.inputs[0], -3, 3), scale(g, 1 / 6)),),
    saves=("x",), domains=((-5, 5),), away=(-3.0, 3.0),
)  # fmt: skip
hardswish = pointwise(
    "hardswish", lambda x: x * (np.minimum(np.maximum(x + 3, 0), 6) / 6),
    lambda x: x * (_clamped(x + 3, 0, 6) * (1 / 6)),
    _hardswish_vjp, saves=("x",), domains=((-5, 5),), away=(-3.0, 3.0),
)  # fmt: skip

# ------------------------------------------------------------------ softsign, tanhshrink


def _softsign_vjp(c: VjpContext, g: Any) -> tuple:
    size = shift(abs_(c.inputs[0]), 1)
    return (div(g, mul(size, size)),)


def _tanhshrink_vjp(c: VjpContext, g: Any) -> tuple:
    t = tanh(c.inputs[0])
    return (mul(g, mul(t, t)),)


softsign = pointwise(
    "softsign", lambda x: x / (1 + np.abs(x)), lambda x: x / (1 + s.apply("abs", x)), _softsign_vjp,
    saves=("x",), away=(0.0,),
)  # fmt: skip
tanhshrink = pointwise(
    "tanhshrink", lambda x: x - np.tanh(x), lambda x: x - s.apply("tanh", x), _tanhshrink_vjp, saves=("x",)
)

__all__ = [
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_sigmoid",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanhshrink",
]  # fmt: skip
