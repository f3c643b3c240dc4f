"""Starting values, filled in place: PyTorch's names and distributions, drawn from tracefuse's generator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import random
from ..autograd import no_grad
from ..tensor import Tensor, new_tensor


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The recommended gain for a nonlinearity (or ValueError). `param`: the slope of leaky_relu (None: 0.01)."""
    if nonlinearity in (
        "linear",
        "sigmoid",
        "identity",
        *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)),
    ):
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"unknown nonlinearity {nonlinearity!r}")


def _fan_in_out(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need at least 2 dimensions, not shape {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _fan(tensor: Tensor, mode: str) -> int:
    fan_in, fan_out = _fan_in_out(tensor)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode is 'fan_in' or 'fan_out', not {mode!r}")
    return fan_in if mode == "fan_in" else fan_out


def _fill(tensor: Tensor, values: Any) -> Tensor:
    with no_grad():
        tensor.copy_(values)
    return tensor


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """U(a, b)."""
    with no_grad():
        unit = random.rand(tuple(tensor.shape), dtype=tensor.dtype, generator=generator)
        return _fill(tensor, unit * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """N(mean, std^2)."""
    with no_grad():
        return _fill(tensor, random.randn(tuple(tensor.shape), dtype=tensor.dtype, generator=generator) * std + mean)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """N(mean, std^2) cut to [a, b], by the inverse of its distribution function."""
    from .. import functions as fn

    def cdf(x: float) -> float:
        return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0

    low, high = 2 * cdf((a - mean) / std) - 1, 2 * cdf((b - mean) / std) - 1
    with no_grad():
        unit = random.rand(tuple(tensor.shape), dtype=tensor.dtype, generator=generator) * (high - low) + low
        return _fill(tensor, fn.clip(fn.erfinv(unit) * (std * math.sqrt(2.0)) + mean, a, b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    with no_grad():
        tensor.fill_(val)
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity, for a 2-D tensor."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ needs a 2-D tensor, not shape {tuple(tensor.shape)}")
    return _fill(tensor, new_tensor(np.eye(*tensor.shape, dtype=tensor.dtype.np)))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Glorot & Bengio 2010: U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out))."""
    bound = gain * math.sqrt(6.0 / sum(_fan_in_out(tensor)))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """Glorot & Bengio 2010: std = gain * sqrt(2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fan_in_out(tensor))), generator)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """He et al. 2015: U(-b, b), b = gain * sqrt(3 / fan). `a`: slope of the leaky relu that follows."""
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / max(1, _fan(tensor, mode)))
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """He et al. 2015: std = gain / sqrt(fan)."""
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(max(1, _fan(tensor, mode))), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """A (semi-)orthogonal matrix (Saxe et al. 2013); axes after the first are taken as one."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs at least 2 dimensions, not shape {tuple(tensor.shape)}")
    rows, cols = tensor.shape[0], math.prod(tensor.shape[1:])
    flat = np.asarray(random.randn((rows, cols), generator=generator), dtype=np.float64)
    q, r = np.linalg.qr(flat.T if rows < cols else flat)
    q = q * np.sign(np.diag(r))
    q = q.T if rows < cols else q
    return _fill(tensor, new_tensor((gain * q).reshape(tuple(tensor.shape)).astype(tensor.dtype.np)))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """N(0, std^2) with ceil(sparsity * rows) random zeros in each column of a matrix (Martens 2010)."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_ needs a 2-D tensor, not shape {tuple(tensor.shape)}")
    rows, columns = tensor.shape
    normal_(tensor, 0.0, std, generator)
    order = np.argsort(np.asarray(random.rand((rows, columns), generator=generator)), axis=0)
    keep = np.ones((rows, columns), bool)
    np.put_along_axis(keep, order[: math.ceil(sparsity * rows)], False, axis=0)
    with no_grad():
        tensor.mul_(new_tensor(keep.astype(tensor.dtype.np)))
    return tensor


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution's weight [O, I, ..] that hands as many channels on as it can, in each of `groups` groups."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_ needs 3 to 5 dimensions, not shape {tuple(tensor.shape)}")
    if tensor.shape[0] % groups:
        raise ValueError(f"dirac_: the first axis of {tuple(tensor.shape)} does not divide into {groups} groups")
    out = np.zeros(tuple(tensor.shape), tensor.dtype.np)
    rows, centre = tensor.shape[0] // groups, tuple(n // 2 for n in tensor.shape[2:])
    for g in range(groups):
        for d in range(min(rows, tensor.shape[1])):
            out[(g * rows + d, d, *centre)] = 1
    return _fill(tensor, new_tensor(out))


def reset_linear(weight: Tensor, bias: Tensor | None) -> None:
    """What Linear and the convolutions start from: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = _fan_in_out(weight)[0]
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        uniform_(bias, -bound, bound)
