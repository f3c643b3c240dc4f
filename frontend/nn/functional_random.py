"""Dropout and other noise. Masks come from the counter-based generator, so eager and compiled calls drop the same elements."""

from __future__ import annotations

from .. import functions as fn
from .. import random
from ..manipulation import scatter_along_axis
from ..tensor import Tensor
from .functional_activation import softmax


def _check(p: float, what: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{what}: the probability p is in [0, 1], not {p}")


def _drop(input: Tensor, mask_shape: tuple, p: float) -> Tensor:
    if p == 1.0:
        return input * 0.0
    keep = random.default_generator.bits(mask_shape, input) >= int(p * 2**32)
    return fn.where(keep, input * (1.0 / (1.0 - p)), 0.0)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element is 0 with probability p, else scaled by 1 / (1 - p). Not `training`: the input itself."""
    _check(p, "dropout")
    if not training or p == 0.0:
        return input
    out = _drop(input, tuple(input.shape), p)
    return input.copy_(out) if inplace else out


def _drop_channels(input: Tensor, p: float, training: bool, inplace: bool, k: int) -> Tensor:
    _check(p, f"dropout{k}d")
    if input.ndim not in (k + 1, k + 2):
        raise ValueError(f"dropout{k}d: input of shape {tuple(input.shape)} needs {k + 1} or {k + 2} dimensions")
    if not training or p == 0.0:
        return input
    out = _drop(input, (*input.shape[: input.ndim - k], *(1,) * k), p)
    return input.copy_(out) if inplace else out


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, L] are 0 with probability p."""
    return _drop_channels(input, p, training, inplace, 1)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, H, W] are 0 with probability p."""
    return _drop_channels(input, p, training, inplace, 2)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Whole channels of [N, C, D, H, W] are 0 with probability p."""
    return _drop_channels(input, p, training, inplace, 3)


_ALPHA = -1.7580993408473766  # what SELU tends to for very negative inputs


def _alpha_drop(input: Tensor, mask_shape: tuple, p: float, inplace: bool) -> Tensor:
    """Dropped elements become SELU's lower limit; the result is scaled to keep mean 0 and variance 1."""
    if p == 1.0:
        out = input * 0.0
    else:
        keep = random.default_generator.bits(mask_shape, input) >= int(p * 2**32)
        a = ((1 - p) * (1 + p * _ALPHA**2)) ** -0.5
        out = fn.where(keep, input, _ALPHA) * a - a * _ALPHA * p
    return input.copy_(out) if inplace else out


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout that keeps the statistics of SELU networks (Klambauer et al. 2017)."""
    _check(p, "alpha_dropout")
    return input if not training or p == 0.0 else _alpha_drop(input, tuple(input.shape), p, inplace)


def feature_alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """`alpha_dropout` of whole channels of [N, C, ..]."""
    _check(p, "feature_alpha_dropout")
    if not training or p == 0.0:
        return input
    if input.ndim < 2:
        raise ValueError(f"feature_alpha_dropout: input of shape {tuple(input.shape)} needs at least 2 dimensions")
    return _alpha_drop(input, (*input.shape[:2], *(1,) * (input.ndim - 2)), p, inplace)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Leaky relu whose slope is drawn from U(lower, upper) for each element; not `training`: their mean."""
    if not lower <= upper:
        raise ValueError(f"rrelu: lower {lower} must not be more than upper {upper}")
    slope: Tensor | float = (lower + upper) / 2
    if training:
        slope = random.rand(tuple(input.shape), dtype=input.dtype) * (upper - lower) + lower
    x = input.clone() if inplace else input  # the gradient needs the values from before the write
    out = fn.where(x > 0, x, x * slope)
    return input.copy_(out) if inplace else out


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    return rrelu(input, lower, upper, training, inplace=True)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """softmax((logits + Gumbel noise) / tau) along `dim`. hard: one-hot, with the gradient of the soft values. `eps`
    has no effect, as in PyTorch."""
    unit = random.rand(tuple(logits.shape), dtype=logits.dtype)
    noise = -fn.log(-fn.log1p(-unit) + 1e-20)  # -log of an exponential variate
    soft = softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    best = fn.expand_dims(fn.argmax(soft.detach(), axis=dim), axis=dim)
    one = scatter_along_axis(fn.zeros_like(soft), dim, best, 1.0)
    return one + (soft - soft.detach())
