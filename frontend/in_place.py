"""In-place methods: `x.add_(y)` and its like. They write into the memory of `x`, through every view of it.

Where no history and no trace is involved they are one NumPy call with `out=`; else the result is computed as usual and
assigned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import float32, float64
from . import elementwise as e
from .convert import as_tensor, cast_to, is_scalar, scalar_tensor
from .dispatch import assign, check_writable, write_result
from .manipulation import broadcast_to
from .state import state
from .tape import needs_grad, root_of
from .tensor import Tensor

_PLAIN = (float32.np, float64.np)


def _wrote(x: Tensor, ufunc: np.ufunc, other: Any) -> bool:
    """Does x = ufunc(x, other) with one NumPy call if that is all there is to do."""
    if state.tracer is not None or x._data.dtype not in _PLAIN:
        return False
    if isinstance(other, Tensor):
        if state.grad_enabled and needs_grad(other) or other._data.dtype is not x._data.dtype:
            return False
        operand = other._data
    elif type(other) in (int, float):
        operand = other
    else:
        return False
    if state.grad_enabled and needs_grad(x):
        return False
    check_writable(x, ufunc.__name__ + "_")
    with np.errstate(all="ignore"):
        ufunc(x._data, operand, out=x._data)
    root = root_of(x)
    root._version = (root._version or 0) + 1
    return True


def _arithmetic(ufunc: np.ufunc, function: Callable, name: str) -> Callable:
    def method(x: Tensor, other: Any, alpha: float = 1) -> Tensor:
        if alpha != 1:
            other = e.multiply(other, alpha)
        return x if _wrote(x, ufunc, other) else write_result(x, function(x, other), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"x = {name[:-1]}(x, alpha * other), in place."
    return method


add_ = _arithmetic(np.add, e.add, "add_")
sub_ = _arithmetic(np.subtract, e.subtract, "sub_")
mul_ = _arithmetic(np.multiply, e.multiply, "mul_")
div_ = _arithmetic(np.divide, e.divide, "div_")
maximum_ = _arithmetic(np.maximum, e.maximum, "maximum_")
minimum_ = _arithmetic(np.minimum, e.minimum, "minimum_")


def _of_one(function: Callable, name: str) -> Callable:
    def method(x: Tensor) -> Tensor:
        return write_result(x, function(x), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"x = {name[:-1]}(x), in place."
    return method


abs_ = _of_one(e.abs, "abs_")
ceil_ = _of_one(e.ceil, "ceil_")
exp_ = _of_one(e.exp, "exp_")
floor_ = _of_one(e.floor, "floor_")
log_ = _of_one(e.log, "log_")
neg_ = _of_one(e.negative, "neg_")
reciprocal_ = _of_one(e.reciprocal, "reciprocal_")
relu_ = _of_one(e.relu, "relu_")
round_ = _of_one(e.round, "round_")
rsqrt_ = _of_one(e.rsqrt, "rsqrt_")
sigmoid_ = _of_one(e.sigmoid, "sigmoid_")
sign_ = _of_one(e.sign, "sign_")
sqrt_ = _of_one(e.sqrt, "sqrt_")
tanh_ = _of_one(e.tanh, "tanh_")


def copy_(x: Tensor, source: Any) -> Tensor:
    """x takes the values of `source`, cast and broadcast."""
    value = scalar_tensor(source) if is_scalar(source) else as_tensor(source)
    if state.tracer is None and not (state.grad_enabled and (needs_grad(value) or needs_grad(x))):
        x._data[...] = broadcast_to(value, x.shape)._data
        root = root_of(x)
        root._version = (root._version or 0) + 1
        return x
    value = cast_to(value, x.dtype)
    return assign(x, broadcast_to(value, x.shape), "copy_")


def fill_(x: Tensor, value: Any) -> Tensor:
    """Every element becomes `value`."""
    return copy_(x, value)


def zero_(x: Tensor) -> Tensor:
    """Every element becomes 0."""
    return copy_(x, False if x.dtype.kind == "b" else 0)


def pow_(x: Tensor, exponent: Any) -> Tensor:
    """x = x ** exponent, in place."""
    return write_result(x, e.pow(x, exponent), "pow_")


def clamp_(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limits x to [min, max], in place."""
    return write_result(x, e.clip(x, min, max), "clamp_")


def lerp_(x: Tensor, end: Any, weight: Any) -> Tensor:
    """x = x + weight * (end - x), in place."""
    return write_result(x, e.lerp(x, end, weight), "lerp_")


def addcmul_(x: Tensor, a: Any, b: Any, value: float = 1) -> Tensor:
    """x = x + value * a * b, in place."""
    return add_(x, e.multiply(a, b), value)


def addcdiv_(x: Tensor, a: Any, b: Any, value: float = 1) -> Tensor:
    """x = x + value * a / b, in place."""
    return add_(x, e.divide(a, b), value)


def masked_fill_(x: Tensor, mask: Any, value: Any) -> Tensor:
    """x = value where `mask` holds, in place."""
    return write_result(x, e.where(mask, value, x), "masked_fill_")


def uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with uniform numbers of [low, high)."""
    from .random import uniform

    return copy_(x, uniform(low, high, x.shape, dtype=x.dtype, generator=generator))


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with normal numbers."""
    from .random import normal

    return copy_(x, normal(mean, std, x.shape, dtype=x.dtype, generator=generator))


def bernoulli_(x: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    """Fills x with 1 (with probability p) and 0."""
    from .random import bernoulli

    return copy_(x, bernoulli(p, x.shape, generator=generator))


__all__ = [
    "abs_", "add_", "addcdiv_", "addcmul_", "bernoulli_", "ceil_", "clamp_", "copy_", "div_", "exp_", "fill_", "floor_",
    "lerp_", "log_", "masked_fill_", "maximum_", "minimum_", "mul_", "neg_", "normal_", "pow_", "reciprocal_", "relu_",
    "round_", "rsqrt_", "sigmoid_", "sign_", "sqrt_", "sub_", "tanh_", "uniform_", "zero_",
]  # fmt: skip
