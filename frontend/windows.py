"""Window functions: `tracefuse.signal.windows`, with PyTorch's arguments. `sym=False`: periodic, for spectra."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..ir.dtypes import dtype_of
from .devices import on_device
from .state import state
from .tensor import Tensor, new_tensor


def _steps(m: int, sym: bool) -> np.ndarray:
    """0 .. 1 over the window; half of a step for a window of one."""
    if m < 0:
        raise ValueError(f"the length of a window must not be negative, it is {m}")
    n = m - 1 if sym else m
    return np.arange(m) / n if n > 0 else np.full(m, 0.5)


def _window(values: np.ndarray, m: int, dtype: Any, requires_grad: bool) -> Tensor:
    wanted = state.default_dtype if dtype is None else dtype_of(dtype)
    if not wanted.is_floating:
        raise TypeError(f"windows are floating, not {wanted.name}")
    out = new_tensor((values if m != 1 else np.ones(1)).astype(wanted.np))
    return out.requires_grad_() if requires_grad else out


@on_device
def general_cosine(
    M: int, *, a: Iterable[float], sym: bool = True, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """The sum of (-1)^i a[i] cos(2 pi i t), t from 0 to 1."""
    factors = list(a)
    if not factors:
        raise ValueError("general_cosine: a must hold at least one coefficient")
    angle = 2 * math.pi * _steps(M, sym)
    values = sum(((-1) ** i * c * np.cos(i * angle) for i, c in enumerate(factors)), np.zeros(M))
    return _window(values, M, dtype, requires_grad)


def general_hamming(M: int, *, alpha: float = 0.54, sym: bool = True, **options: Any) -> Tensor:
    """alpha - (1 - alpha) cos(2 pi t)."""
    return general_cosine(M, a=(alpha, 1.0 - alpha), sym=sym, **options)


def hamming(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """0.54 - 0.46 cos(2 pi t)."""
    return general_hamming(M, sym=sym, **options)


def hann(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """(1 - cos(2 pi t)) / 2."""
    return general_hamming(M, alpha=0.5, sym=sym, **options)


def blackman(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """0.42 - 0.5 cos(2 pi t) + 0.08 cos(4 pi t)."""
    return general_cosine(M, a=(0.42, 0.5, 0.08), sym=sym, **options)


def nuttall(M: int, *, sym: bool = True, **options: Any) -> Tensor:
    """The minimum four-term Blackman-Harris window after Nuttall."""
    return general_cosine(M, a=(0.3635819, 0.4891775, 0.1365995, 0.0106411), sym=sym, **options)


@on_device
def bartlett(M: int, *, sym: bool = True, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A triangle from 0 to 1 to 0."""
    return _window(1 - np.abs(2 * _steps(M, sym) - 1), M, dtype, requires_grad)


@on_device
def cosine(M: int, *, sym: bool = True, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Half a wave of a sine, sampled in the middle of M steps."""
    n = M if sym else M + 1
    _steps(M, sym)
    return _window(np.sin(math.pi * (np.arange(M) + 0.5) / max(n, 1)), M, dtype, requires_grad)


@on_device
def exponential(
    M: int, *, center: float | None = None, tau: float = 1.0, sym: bool = True, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """exp(-|n - center| / tau); the middle if no centre is given."""
    if tau <= 0:
        raise ValueError(f"exponential: tau must be positive, it is {tau}")
    if sym and center is not None:
        raise ValueError("exponential: a symmetric window has its centre in the middle; give sym=False with center")
    _steps(M, sym)
    middle = (M - 1 if sym else M) / 2 if center is None else center
    return _window(np.exp(-np.abs(np.arange(M) - middle) / tau), M, dtype, requires_grad)


@on_device
def gaussian(
    M: int, *, std: float = 1.0, sym: bool = True, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """exp(-(n - middle)^2 / (2 std^2))."""
    if std <= 0:
        raise ValueError(f"gaussian: std must be positive, it is {std}")
    _steps(M, sym)
    at = np.arange(M) - (M - 1 if sym else M) / 2
    return _window(np.exp(-0.5 * (at / std) ** 2), M, dtype, requires_grad)


@on_device
def kaiser(
    M: int, *, beta: float = 12.0, sym: bool = True, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """i0(beta sqrt(1 - (2t - 1)^2)) / i0(beta)."""
    if beta < 0:
        raise ValueError(f"kaiser: beta must not be negative, it is {beta}")
    at = 2 * _steps(M, sym) - 1
    values = np.i0(beta * np.sqrt(np.maximum(0, 1 - at * at))) / np.i0(beta)
    return _window(values, M, dtype, requires_grad)


def _classic(function: Any, name: str) -> Any:
    """PyTorch's older functions: `hann_window(n, periodic=True)`."""

    def window(window_length: int, periodic: bool = True, *args: Any, dtype: Any = None, **options: Any) -> Tensor:
        names = {"hamming_window": ("alpha",), "kaiser_window": ("beta",)}.get(name, ())
        return function(window_length, sym=not periodic, dtype=dtype, **dict(zip(names, args)), **options)

    window.__name__ = window.__qualname__ = name
    window.__doc__ = f"`signal.windows.{name.removesuffix('_window')}`, periodic unless said otherwise."
    return window


bartlett_window = _classic(bartlett, "bartlett_window")
blackman_window = _classic(blackman, "blackman_window")
hamming_window = _classic(general_hamming, "hamming_window")
hann_window = _classic(hann, "hann_window")
kaiser_window = _classic(kaiser, "kaiser_window")

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine", "general_hamming", "hamming", "hann",
    "kaiser", "nuttall",
]  # fmt: skip
