"""Resizing the spatial axes of `[N, C, d1, ..]`, one axis after the other: each output is a weighted sum of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .. import functions as fn
from ..tensor import Tensor, new_tensor
from .functional_conv import Size, spread
from .functional_pool import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

_RANKS = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
_MODES = ("nearest", "nearest-exact", "area", *_RANKS)


def interpolate(
    input: Tensor,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resizes the spatial axes of [N, C, d1, ..] to `size`, or by `scale_factor`.

    mode: "nearest" (output i reads input floor(i * scale)), "nearest-exact" (floor((i + 0.5) * scale)), "area" (means),
    "linear" [N, C, L], "bilinear", "bicubic" [N, C, H, W], "trilinear" [N, C, D, H, W]. scale is 1 / scale_factor, or
    input size / output size if a size is given or with recompute_scale_factor.
    align_corners: the first and last elements' centres stay where they are (linear and cubic modes). antialias: wider
    kernels when shrinking (bilinear, bicubic).
    """
    if mode not in _MODES:
        raise ValueError(f"interpolate: mode is one of {', '.join(map(repr, _MODES))}, not {mode!r}")
    k = input.ndim - 2
    if not 1 <= k <= 3 or _RANKS.get(mode, k) != k:
        raise ValueError(
            f"interpolate: mode {mode!r} takes {_RANKS.get(mode, '1 to 3')} spatial axes, input {tuple(input.shape)}"
        )
    if align_corners is not None and mode not in _RANKS:
        raise ValueError(f"interpolate: align_corners is for linear and cubic modes, not {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias is for modes 'bilinear' and 'bicubic', not {mode!r}")
    sizes, scales = _sizes(input.shape[2:], size, scale_factor, bool(recompute_scale_factor))
    if mode == "area":
        return (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)[k - 1](input, sizes)
    out = input
    for i, (n, scale) in enumerate(zip(sizes, scales)):
        axis, have = i + 2, input.shape[i + 2]
        if mode.startswith("nearest"):
            out = _nearest(out, axis, have, n, scale, mode == "nearest-exact")
        elif antialias:
            out = _filtered(out, axis, have, n, scale, mode == "bicubic", bool(align_corners))
        else:
            out = _taps(out, axis, have, n, scale, mode == "bicubic", bool(align_corners))
    return out


def _sizes(
    have: Sequence[int], size: Size | None, scale_factor: float | Sequence[float] | None, recompute: bool
) -> tuple[list[int], list[float | None]]:
    """Output sizes, and the scale of each axis where it is not simply input size / output size."""
    k = len(have)
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give exactly one of size and scale_factor")
    if size is not None:
        if recompute:
            raise ValueError("interpolate: recompute_scale_factor needs scale_factor, not size")
        return list(spread(size, k, "interpolate size")), [None] * k
    factors = (scale_factor,) * k if isinstance(scale_factor, (int, float)) else tuple(scale_factor)  # type: ignore[arg-type]
    if len(factors) != k:
        raise ValueError(f"interpolate: scale_factor needs {k} values, got {factors}")
    sizes = [d * int(f) if float(f).is_integer() else math.floor(d * f) for d, f in zip(have, factors)]
    return sizes, [None if recompute else 1.0 / f for f in factors]


def _nearest(x: Tensor, axis: int, have: int, want: int, scale: float | None, exact: bool) -> Tensor:
    if scale is not None and (1.0 / scale).is_integer() and want == have * int(1.0 / scale):
        return _repeat(x, axis, int(1.0 / scale))
    step = np.float32(have / want if scale is None else scale)
    at = (np.arange(want, dtype=np.float32) + np.float32(0.5 if exact else 0.0)) * step
    return fn.take(x, new_tensor(np.minimum(np.floor(at).astype(np.int64), have - 1)), axis=axis)


def _repeat(x: Tensor, axis: int, n: int) -> Tensor:
    """Each element of `axis` n times in a row."""
    if n == 1:
        return x
    shape = tuple(x.shape)
    wide = fn.broadcast_to(fn.expand_dims(x, axis=axis + 1), (*shape[: axis + 1], n, *shape[axis + 1 :]))
    return fn.reshape(wide, (*shape[:axis], shape[axis] * n, *shape[axis + 1 :]))


def _centres(have: int, want: int, scale: float | None, align_corners: bool) -> np.ndarray:
    """Where in the input the outputs lie."""
    i = np.arange(want, dtype=np.float64)
    if align_corners:
        return i * ((have - 1) / (want - 1) if want > 1 else 0.0)
    return (i + 0.5) * (have / want if scale is None else scale) - 0.5


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel at distance d."""
    d = np.abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _taps(x: Tensor, axis: int, have: int, want: int, scale: float | None, cubic: bool, align_corners: bool) -> Tensor:
    """Each output from its 2 (linear) or 4 (cubic) neighbours; those outside are the nearest inside."""
    at = _centres(have, want, scale, align_corners)
    at = at if cubic else np.maximum(at, 0.0)
    first = np.floor(at).astype(np.int64)
    out: Tensor | None = None
    for offset in (-1, 0, 1, 2) if cubic else (0, 1):
        distance = np.abs(at - (first + offset))
        weights = _cubic(distance, -0.75) if cubic else 1.0 - distance
        shape = [1] * x.ndim
        shape[axis] = want
        w = new_tensor(weights.reshape(shape).astype(x.dtype.np))
        part = fn.take(x, new_tensor(np.clip(first + offset, 0, have - 1)), axis=axis) * w
        out = part if out is None else out + part
    assert out is not None
    return out


def _filtered(
    x: Tensor, axis: int, have: int, want: int, scale: float | None, cubic: bool, align_corners: bool
) -> Tensor:
    """Each output from all inputs under a kernel that is as wide as `scale` when shrinking: a matrix product."""
    if align_corners:
        ratio = (have - 1) / (want - 1) if want > 1 else 0.0
    else:
        ratio = have / want if scale is None else scale
    wide = max(ratio, 1.0)
    centres = ratio * (np.arange(want) + 0.5)
    reach = (2.0 if cubic else 1.0) * wide
    inputs = np.arange(have)
    distance = (inputs - centres[:, None] + 0.5) / wide
    weights = _cubic(distance, -0.5) if cubic else np.maximum(1.0 - np.abs(distance), 0.0)
    low = np.maximum(np.floor(centres - reach + 0.5), 0)[:, None]
    high = np.minimum(np.floor(centres + reach + 0.5), have)[:, None]
    weights = np.where((inputs >= low) & (inputs < high), weights, 0.0)
    matrix = new_tensor((weights / weights.sum(1, keepdims=True)).astype(x.dtype.np))  # [want, have]
    return fn.moveaxis(fn.matmul(fn.moveaxis(x, axis, -1), fn.matrix_transpose(matrix)), -1, axis)


def upsample(
    input: Tensor,
    size: Size | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """`interpolate` under its older name."""
    return interpolate(input, size, scale_factor, mode, align_corners)
