"""Pooling: reductions over `windows` of `[N, C, d1, ..]` tensors (N may be left out)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ...ir import ops
from .. import creation
from .. import functions as fn
from ..dispatch import apply
from ..manipulation import narrow
from ..tensor import Tensor
from .functional_conv import Size, spread
from .functional_unpool import adaptive_max_with_positions, max_with_positions


def _windows(
    x: Tensor, k: int, kernel, stride, padding, dilation, ceil_mode: bool, fill, what: str
) -> tuple[Tensor, dict[str, Any]]:
    """The windows of the last k axes, as a tensor with k more axes, and the attributes they were cut with."""
    if x.ndim not in (k + 1, k + 2):
        raise ValueError(
            f"{what}: input of shape {tuple(x.shape)} has {x.ndim} dimensions; {k + 1} or {k + 2} are needed"
        )
    window = spread(kernel, k, what + " kernel_size")
    strides = window if stride is None or stride == () else spread(stride, k, what + " stride")
    low, dil = spread(padding, k, what + " padding"), spread(dilation, k, what + " dilation")
    for p, w in zip(low, window):
        if p > w // 2:
            raise ValueError(f"{what}: padding {low} is more than half of kernel_size {window}")
    high = list(low)
    if ceil_mode:
        for i in range(k):
            high[i] += _ceil_extra(x.shape[x.ndim - k + i], window[i], strides[i], low[i], dil[i])
    for i in range(k):
        size, reach = x.shape[x.ndim - k + i], dil[i] * (window[i] - 1) + 1
        if isinstance(size, int) and size + low[i] + high[i] < reach:
            raise ValueError(
                f"{what}: windows of {reach} do not fit into the input {tuple(x.shape)} with padding {low}"
            )
    attrs = {"window": window, "stride": strides, "low": low, "high": tuple(high), "dilation": dil}
    return apply(ops.windows, x, fill=fill, **attrs), attrs


def _ceil_extra(size: int, window: int, stride: int, padding: int, dilation: int) -> int:
    """Padding that lets a last, partial window in; it must start inside the input or its low padding."""
    reach = dilation * (window - 1) + 1
    span = size + 2 * padding - reach
    out = -(-span // stride) + 1
    if (out - 1) * stride >= size + padding:
        out -= 1
    return max(0, (out - 1) * stride - span)


def _last(k: int, x: Tensor) -> tuple[int, ...]:
    return tuple(range(x.ndim - k, x.ndim))


def _max_pool(
    k: int, x: Tensor, kernel, stride, padding, dilation, ceil_mode: bool, return_indices: bool
) -> Tensor | tuple[Tensor, Tensor]:
    lowest = -math.inf if x.dtype.is_floating else -(2 ** (x.dtype.bits - 1)) if x.dtype.kind == "i" else 0
    cut, attrs = _windows(x, k, kernel, stride, padding, dilation, ceil_mode, lowest, f"max_pool{k}d")
    if return_indices:
        return max_with_positions(x, k, cut.shape[x.ndim - k : x.ndim], attrs)
    return apply(ops.reduce_max, cut, axes=_last(k, cut))


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """[N, C, L] -> [N, C, L']; stride is kernel_size if None, padding counts as -inf.

    return_indices: (maxima, positions of them in the spatial axes taken as one).
    """
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """[N, C, H, W] -> [N, C, H', W']; stride is kernel_size if None, padding counts as -inf.

    return_indices: (maxima, positions of them in the spatial axes taken as one).
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """[N, C, D, H, W] -> [N, C, D', H', W']; stride is kernel_size if None, padding counts as -inf.

    return_indices: (maxima, positions of them in the spatial axes taken as one).
    """
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    k: int, x: Tensor, kernel, stride, padding, ceil_mode: bool, count_include_pad: bool, divisor: int | None
) -> Tensor:
    what = f"avg_pool{k}d"
    if divisor == 0:
        raise ValueError(f"{what}: divisor_override must not be 0")
    cut, attrs = _windows(x, k, kernel, stride, padding, 1, ceil_mode, 0.0, what)
    total = apply(ops.reduce_sum, cut, axes=_last(k, cut))
    if divisor is None and (attrs["high"] != attrs["low"] or (any(attrs["low"]) and not count_include_pad)):
        return total / _counts(x, k, attrs, count_include_pad)
    return total * (1.0 / (divisor or math.prod(attrs["window"])))


def _counts(x: Tensor, k: int, attrs: dict[str, Any], count_include_pad: bool) -> Tensor:
    """How many elements each window averages: those in the input, and in its padding if that counts (never what
    ceil_mode adds beyond it)."""
    ones = creation.ones(tuple(x.shape[x.ndim - k :]), dtype=x.dtype)
    if count_include_pad:
        low = attrs["low"]
        ones = apply(ops.pad, ones, low=low, high=low, value=1.0)
        attrs = attrs | {"low": (0,) * k, "high": tuple(h - p for h, p in zip(attrs["high"], low, strict=True))}
    cut = apply(ops.windows, ones, fill=0.0, **attrs)
    return apply(ops.reduce_sum, cut, axes=_last(k, cut))


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """[N, C, L] -> [N, C, L']: the mean of each window; stride is kernel_size if None."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """[N, C, H, W] -> [N, C, H', W']: the mean of each window, or its sum over `divisor_override`."""
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """[N, C, D, H, W] -> [N, C, D', H', W']: the mean of each window, or its sum over `divisor_override`."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# ------------------------------------------------------------------ power means


def _lp_pool(k: int, x: Tensor, p: float, kernel: Size, stride: Size | None, ceil_mode: bool) -> Tensor:
    cut, attrs = _windows(x**p, k, kernel, stride, 0, 1, ceil_mode, 0.0, f"lp_pool{k}d")
    total = apply(ops.reduce_sum, cut, axes=_last(k, cut))
    if any(attrs["high"]):  # a partial window's sum is scaled up to a whole one's
        total = total / _counts(x, k, attrs, False) * math.prod(attrs["window"])
    zero = total == 0  # the gradient there is set to 0
    return fn.where(zero, 0.0, fn.where(zero, 1.0, total) ** (1.0 / p))


def lp_pool1d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """[N, C, L] -> [N, C, L']: (sum of x^p)^(1/p) of each window; stride is kernel_size if None."""
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """`lp_pool1d` in two dimensions."""
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> Tensor:
    """`lp_pool1d` in three dimensions."""
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


# ------------------------------------------------------------------ adaptive

Adaptive = int | Sequence[int | None]


def _wanted(k: int, size: Adaptive, what: str) -> tuple[int | None, ...]:
    wanted = (size,) * k if isinstance(size, int) else tuple(size)
    if len(wanted) != k:
        raise ValueError(f"{what}: output_size needs {k} values, got {wanted}")
    return wanted


def _adaptive(k: int, x: Tensor, size: Adaptive, reduce: Callable[..., Tensor], what: str) -> Tensor:
    """Window i of n over an axis of d covers [floor(i d / n), ceil((i + 1) d / n)); axes are reduced one by one, which
    is the same thing for means and maxima of boxes."""
    if x.ndim not in (k + 1, k + 2):
        raise ValueError(
            f"{what}: input of shape {tuple(x.shape)} has {x.ndim} dimensions; {k + 1} or {k + 2} are needed"
        )
    wanted = _wanted(k, size, what)
    lead = x.ndim - k
    if all(n == 1 for n in wanted):
        return reduce(x, axis=tuple(range(lead, x.ndim)), keepdims=True)
    if all(n is None or x.shape[lead + i] % n == 0 for i, n in enumerate(wanted)):
        shape, axes = list(x.shape[:lead]), []
        for i, n in enumerate(wanted):
            d = x.shape[lead + i]
            shape += [d, 1] if n is None else [n, d // n]
            axes.append(lead + 2 * i + 1)
        return reduce(fn.reshape(x, tuple(shape)), axis=tuple(axes))
    for i, n in enumerate(wanted):
        axis, d = lead + i, x.shape[lead + i]
        if n is None or n == d:
            continue
        cuts = [(j * d // n, -((j + 1) * d // -n)) for j in range(n)]
        x = fn.concat([reduce(narrow(x, axis, a, b), axis=axis, keepdims=True) for a, b in cuts], axis=axis)
    return x


def adaptive_avg_pool1d(input: Tensor, output_size: Adaptive) -> Tensor:
    """[N, C, L] -> [N, C, output_size]."""
    return _adaptive(1, input, output_size, fn.mean, "adaptive_avg_pool1d")


def adaptive_avg_pool2d(input: Tensor, output_size: Adaptive) -> Tensor:
    """[N, C, H, W] -> [N, C, *output_size]; None keeps a size."""
    return _adaptive(2, input, output_size, fn.mean, "adaptive_avg_pool2d")


def adaptive_avg_pool3d(input: Tensor, output_size: Adaptive) -> Tensor:
    """[N, C, D, H, W] -> [N, C, *output_size]; None keeps a size."""
    return _adaptive(3, input, output_size, fn.mean, "adaptive_avg_pool3d")


def _adaptive_max(k: int, x: Tensor, size: Adaptive, return_indices: bool) -> Any:
    what = f"adaptive_max_pool{k}d"
    if not return_indices:
        return _adaptive(k, x, size, fn.max, what)
    if x.ndim not in (k + 1, k + 2):
        raise ValueError(f"{what}: input of shape {tuple(x.shape)} needs {k + 1} or {k + 2} dimensions")
    return adaptive_max_with_positions(x, k, _wanted(k, size, what))


def adaptive_max_pool1d(input: Tensor, output_size: Adaptive, return_indices: bool = False) -> Any:
    """[N, C, L] -> [N, C, output_size]; return_indices: (maxima, their positions)."""
    return _adaptive_max(1, input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Adaptive, return_indices: bool = False) -> Any:
    """[N, C, H, W] -> [N, C, *output_size]; None keeps a size. return_indices: (maxima, their positions)."""
    return _adaptive_max(2, input, output_size, return_indices)


def adaptive_max_pool3d(input: Tensor, output_size: Adaptive, return_indices: bool = False) -> Any:
    """[N, C, D, H, W] -> [N, C, *output_size]; None keeps a size. return_indices: (maxima, their positions)."""
    return _adaptive_max(3, input, output_size, return_indices)
