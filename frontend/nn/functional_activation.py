"""Activations. All keep the shape of `input`, except `glu`. `inplace` writes the result into `input` as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import ops
from ...ir.dtypes import dtype_of
from ...ir.op import OpDef
from .. import functions as fn
from ..dispatch import apply
from ..tensor import Tensor


def _run(f: Callable[[Tensor], Tensor], input: Tensor, inplace: bool) -> Tensor:
    """f(input); in place it runs on a copy, so that the gradient sees the values from before the write."""
    return input.copy_(f(input.clone())) if inplace else f(input)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    return _run(lambda x: apply(ops.relu, x), input, inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    return hardtanh(input, 0.0, 6.0, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x * Phi(x), with the exact normal distribution ("none") or its tanh approximation ("tanh")."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return apply(ops.gelu, input, approximate=approximate)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return _run(lambda x: apply(ops.silu, x), input, inplace)


def sigmoid(input: Tensor) -> Tensor:
    return apply(ops.sigmoid, input)


def tanh(input: Tensor) -> Tensor:
    return apply(ops.tanh, input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return _run(lambda x: apply(ops.leaky_relu, x, slope=float(negative_slope)), input, inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x if x > 0 else alpha * (exp(x) - 1)."""
    return _run(lambda x: apply(ops.elu, x, alpha=float(alpha)), input, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return _run(lambda x: fn.where(x > 0, x, fn.expm1(fn.minimum(x, 0.0) / alpha) * alpha), input, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    return _run(lambda x: apply(ops.selu, x), input, inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, and x itself where beta x > threshold."""
    return apply(ops.softplus, input, beta=float(beta), threshold=float(threshold))


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return apply(ops.softsign, input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x cut to [min_val, max_val]."""
    return _run(lambda x: apply(ops.hardtanh, x, low=float(min_val), high=float(max_val)), input, inplace)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return _run(lambda x: apply(ops.hardsigmoid, x), input, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    return _run(lambda x: apply(ops.hardswish, x), input, inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    return _run(lambda x: apply(ops.mish, x), input, inplace)


def logsigmoid(input: Tensor) -> Tensor:
    return apply(ops.log_sigmoid, input)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return apply(ops.tanhshrink, input)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, else 0."""
    return fn.where(fn.abs(input) > lambd, input, 0.0)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by lambd, and 0 within."""
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must not be negative, got {lambd}")
    return fn.where(input > lambd, input - lambd, fn.where(input < -lambd, input + lambd, 0.0))


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, else value."""
    return _run(lambda x: fn.where(x > threshold, x, value), input, inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """Leaky relu with learned slopes: `weight` [], [1] or [C], C the size of axis 1 of `input`."""
    if weight.ndim > 1:
        raise ValueError(f"prelu: weight has shape {tuple(weight.shape)}; [], [1] or [channels] is needed")
    if weight.ndim == 0:
        return fn.where(input > 0, input, input * weight)
    slope = weight
    if input.ndim > 2 and weight.shape[0] != 1:
        slope = fn.reshape(weight, (weight.shape[0],) + (1,) * (input.ndim - 2))
    if input.ndim == 0:
        slope = fn.reshape(weight, ())
    return fn.where(input > 0, input, input * slope)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b) for the halves a, b of axis `dim`, whose size must be even."""
    if input.shape[dim] % 2 != 0:
        raise ValueError(f"glu: axis {dim} of shape {tuple(input.shape)} is not even")
    a, b = fn.split(input, input.shape[dim] // 2, axis=dim)
    return a * sigmoid(b)


def softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along axis `dim` (if None: 0 for 0, 1 or 3 dimensions, else 1), after a cast to `dtype` if one is given."""
    return _along_axis(ops.softmax, input, dim, dtype)


def softmin(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    return softmax(-input, dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, dtype: Any = None) -> Tensor:
    """log(softmax(x)) along axis `dim` (if None: 0 for 0, 1 or 3 dimensions, else 1), computed without overflow."""
    return _along_axis(ops.log_softmax, input, dim, dtype)


def _along_axis(op: OpDef, input: Tensor, dim: int | None, dtype: Any) -> Tensor:
    x = input if dtype is None else fn.astype(input, dtype_of(dtype))
    axis = _axis(x, dim)
    if x.ndim == 0:
        return fn.reshape(apply(op, fn.reshape(x, (1,)), axis=0), ())
    return apply(op, x, axis=axis)


def _axis(x: Tensor, dim: int | None) -> int:
    if dim is None:  # PyTorch's choice: the class axis
        return 0 if x.ndim in (0, 1, 3) else 1
    if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
        raise IndexError(f"axis {dim} is out of bounds for a tensor with {x.ndim} dimensions")
    return dim % max(x.ndim, 1)


# ------------------------------------------------------------------ in place, under PyTorch's names


def relu_(input: Tensor) -> Tensor:
    return relu(input, inplace=True)


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    return leaky_relu(input, negative_slope, inplace=True)


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    return elu(input, alpha, inplace=True)


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    return celu(input, alpha, inplace=True)


def selu_(input: Tensor) -> Tensor:
    return selu(input, inplace=True)


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return hardtanh(input, min_val, max_val, inplace=True)


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    return _run(lambda x: fn.where(x > threshold, x, value), input, True)
