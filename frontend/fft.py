"""Fourier transforms: `tracefuse.fft`. numpy.fft computes them; they differentiate, and compiled functions call them
between their kernels.

`n` (or `s`): the transformed sizes; longer axes are cut, shorter ones filled with zeros. `norm`: "backward" divides the
inverse by the number of elements, "forward" the forward transform, "ortho" both by its square root. `dim` is accepted
for `axis` and `axes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir.dtypes import dtype_of
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .autocast import install as install_autocast
from .complex_numbers import as_complex, conj
from .convert import as_tensor, cast_to
from .creation import arange
from .dispatch import run
from .elementwise import multiply
from .manipulation import concat, narrow, roll
from .state import state
from .tensor import Tensor

Axes = Any  # an int, a sequence of ints, or None


# ------------------------------------------------------------------ pieces


def _scaled(x: Tensor, count: int, norm: str | None, inverse: bool) -> Tensor:
    """Divided by the number of elements, as `norm` asks for. ValueError for another norm."""
    norm = "backward" if norm is None else norm
    if norm not in ("backward", "forward", "ortho"):
        raise ValueError(f'norm must be "backward", "forward" or "ortho", not {norm!r}')
    if norm == "ortho":
        return multiply(x, 1 / math.sqrt(count))
    return multiply(x, 1 / count) if inverse == (norm == "backward") else x


def _resized(x: Tensor, axis: int, n: int) -> Tensor:
    """Cut or filled with zeros to n elements along an axis. ValueError if n is not positive."""
    if n < 1:
        raise ValueError(f"a transform needs at least 1 element along axis {axis} of shape {x.shape}, not {n}")
    size = x.shape[axis]
    if size == n:
        return x
    if size > n:
        return narrow(x, axis, 0, n)
    high = tuple(n - size if a == axis else 0 for a in range(x.ndim))
    return run(get_op("pad"), (x,), {"low": (0,) * x.ndim, "high": high, "value": 0})


def _real(x: Any, what: str) -> Tensor:
    x = as_tensor(x)
    if x.dtype.is_complex:
        raise TypeError(f"{what} takes a real tensor, not {x.dtype.name}; use fft")
    return x if x.dtype.is_floating else cast_to(x, state.default_dtype)


def _axis(x: Tensor, axis: int, dim: int | None) -> int:
    return normalize_axis(axis if dim is None else dim, x.ndim)


def _sizes(x: Tensor, s: Sequence[int] | None, axes: Axes, what: str) -> tuple[list[int], list[int]]:
    """Distinct axes and the size of each: of the last len(s) axes if only sizes are given, else of all."""
    if axes is None:
        axes = range(x.ndim) if s is None else range(x.ndim - len(s), x.ndim)
    listed = [normalize_axis(a, x.ndim) for a in ((axes,) if isinstance(axes, int) else axes)]
    sizes = [x.shape[a] for a in listed] if s is None else [x.shape[a] if n == -1 else n for a, n in zip(listed, s)]
    if len(sizes) != len(listed) or s is not None and len(s) != len(listed) or len(set(listed)) != len(listed):
        raise ValueError(f"{what}: {len(sizes)} sizes for axes {listed} of shape {x.shape}; axes must be distinct")
    return listed, sizes


def _transform(x: Tensor, axes: Sequence[int], sizes: Sequence[int], norm: str | None, inverse: bool) -> Tensor:
    for a, n in zip(axes, sizes):
        x = _resized(x, a, n)
    out = run(get_op("fft"), (x,), {"axes": tuple(sorted(axes)), "inverse": inverse})
    return _scaled(out, math.prod(sizes), norm, inverse)


# ------------------------------------------------------------------ one axis


def fft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The discrete Fourier transform along an axis; complex."""
    x = as_complex(x)
    axis = _axis(x, axis, dim)
    return _transform(x, [axis], [x.shape[axis] if n is None else n], norm, False)


def ifft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The inverse of `fft`; complex."""
    x = as_complex(x)
    axis = _axis(x, axis, dim)
    return _transform(x, [axis], [x.shape[axis] if n is None else n], norm, True)


def rfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The frequencies 0 to n // 2 of a real signal: the others are their conjugates."""
    x = _real(x, "rfft")
    axis = _axis(x, axis, dim)
    size: int = x.shape[axis] if n is None else n
    return _scaled(run(get_op("rfft"), (_resized(x, axis, size),), {"axis": axis}), size, norm, False)


def irfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The inverse of `rfft`: a real signal of n elements, 2 * (size - 1) unless given."""
    x = as_complex(x)
    axis = _axis(x, axis, dim)
    size: int = 2 * (x.shape[axis] - 1) if n is None else n
    x = _resized(x, axis, size // 2 + 1 if size > 0 else 0)
    return _scaled(run(get_op("irfft"), (x,), {"n": size, "axis": axis}), size, norm, True)


_OTHER = {"backward": "forward", "forward": "backward", "ortho": "ortho", None: "forward"}


def hfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The real transform of a signal of which the first half is given, the second being its conjugate."""
    return irfft(conj(as_complex(x)), n, axis, _OTHER.get(norm, norm), dim=dim)


def ihfft(x: Any, /, n: int | None = None, axis: int = -1, norm: str | None = "backward", *, dim: Any = None) -> Tensor:
    """The inverse of `hfft`."""
    return conj(rfft(x, n, axis, _OTHER.get(norm, norm), dim=dim))


# ------------------------------------------------------------------ several axes


def fftn(x: Any, /, s: Any = None, axes: Axes = None, norm: str | None = "backward", *, dim: Axes = None) -> Tensor:
    """`fft` over several axes: all of them unless given."""
    x = as_complex(x)
    return _transform(x, *_sizes(x, s, axes if dim is None else dim, "fftn"), norm, False)


def ifftn(x: Any, /, s: Any = None, axes: Axes = None, norm: str | None = "backward", *, dim: Axes = None) -> Tensor:
    """The inverse of `fftn`."""
    x = as_complex(x)
    return _transform(x, *_sizes(x, s, axes if dim is None else dim, "ifftn"), norm, True)


def rfftn(x: Any, /, s: Any = None, axes: Axes = None, norm: str | None = "backward", *, dim: Axes = None) -> Tensor:
    """`rfft` over the last of several axes, `fft` over the others."""
    x = _real(x, "rfftn")
    listed, sizes = _sizes(x, s, axes if dim is None else dim, "rfftn")
    if not listed:
        raise ValueError("rfftn needs at least one axis")
    return _transform(rfft(x, sizes[-1], listed[-1], norm), listed[:-1], sizes[:-1], norm, False)


def irfftn(x: Any, /, s: Any = None, axes: Axes = None, norm: str | None = "backward", *, dim: Axes = None) -> Tensor:
    """The inverse of `rfftn`; the last axis has 2 * (size - 1) elements unless given."""
    x = as_complex(x)
    listed, sizes = _sizes(x, s, axes if dim is None else dim, "irfftn")
    if not listed:
        raise ValueError("irfftn needs at least one axis")
    last = 2 * (x.shape[listed[-1]] - 1) if s is None or s[-1] == -1 else sizes[-1]
    return irfft(_transform(x, listed[:-1], sizes[:-1], norm, True), last, listed[-1], norm)


def fft2(x: Any, /, s: Any = None, axes: Axes = (-2, -1), norm: str | None = "backward", *, dim: Axes = None) -> Tensor:
    """`fftn` over the last two axes."""
    return fftn(x, s, axes, norm, dim=dim)


def ifft2(
    x: Any, /, s: Any = None, axes: Axes = (-2, -1), norm: str | None = "backward", *, dim: Axes = None
) -> Tensor:
    """`ifftn` over the last two axes."""
    return ifftn(x, s, axes, norm, dim=dim)


def rfft2(
    x: Any, /, s: Any = None, axes: Axes = (-2, -1), norm: str | None = "backward", *, dim: Axes = None
) -> Tensor:
    """`rfftn` over the last two axes."""
    return rfftn(x, s, axes, norm, dim=dim)


def irfft2(
    x: Any, /, s: Any = None, axes: Axes = (-2, -1), norm: str | None = "backward", *, dim: Axes = None
) -> Tensor:
    """`irfftn` over the last two axes."""
    return irfftn(x, s, axes, norm, dim=dim)


# ------------------------------------------------------------------ frequencies


def _frequency_type(dtype: Any) -> Any:
    found = state.default_dtype if dtype is None else dtype_of(dtype)
    if not found.is_floating:
        raise TypeError(f"frequencies are real floating numbers, not {found.name}")
    return found


def fftfreq(n: int, /, d: float = 1.0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of `fft` of n samples that are d apart: 0, 1, ..., -2, -1 over n * d."""
    found = _frequency_type(dtype)
    half = (n + 1) // 2
    whole = concat([arange(0, half), arange(-(n // 2), 0)])
    return multiply(cast_to(whole, found), 1.0 / (n * d))


def rfftfreq(n: int, /, d: float = 1.0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """The frequencies of `rfft` of n samples that are d apart: 0, 1, ..., n // 2 over n * d."""
    return multiply(cast_to(arange(0, n // 2 + 1), _frequency_type(dtype)), 1.0 / (n * d))


def fftshift(x: Any, /, axes: Axes = None, *, dim: Axes = None) -> Tensor:
    """Moves frequency 0 from the front to the middle of the axes (all of them unless given)."""
    return _shifted(as_tensor(x), axes if dim is None else dim, 1)


def ifftshift(x: Any, /, axes: Axes = None, *, dim: Axes = None) -> Tensor:
    """The inverse of `fftshift`."""
    return _shifted(as_tensor(x), axes if dim is None else dim, -1)


def _shifted(x: Tensor, axes: Axes, sign: int) -> Tensor:
    axes = range(x.ndim) if axes is None else (axes,) if isinstance(axes, int) else axes
    listed = [normalize_axis(a, x.ndim) for a in axes]
    return roll(x, [sign * (x.shape[a] // 2) for a in listed], listed)


__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift", "ihfft", "irfft",
    "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip

install_autocast(globals())
