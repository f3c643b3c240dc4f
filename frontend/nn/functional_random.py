"""Dropout. Masks come from the counter-based generator, so eager and compiled calls drop the same elements."""

from __future__ import annotations

from .. import functions as fn
from .. import random
from ..tensor import Tensor


def _check(p: float, what: str) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{what}: the probability p is in [0, 1], not {p}")


def _drop(input: Tensor, mask_shape: tuple, p: float) -> Tensor:
    if p == 1.0:
        return input * 0.0
    keep = random.default_generator.bits(mask_shape) >= int(p * 2**32)
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
