"""Elements moved between channels and space: pixel shuffles, and blocks of images as columns."""

from __future__ import annotations

import math

from ...ir import ops
from .. import functions as fn
from ..dispatch import apply
from ..tensor import Tensor
from .functional_conv import Size, spread


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """[.., C r^2, H, W] -> [.., C, H r, W r] (Shi et al. 2016). ValueError if r^2 does not divide the channels."""
    r = upscale_factor
    if input.ndim < 3 or r <= 0 or input.shape[-3] % (r * r):
        raise ValueError(
            f"pixel_shuffle: the channels of {tuple(input.shape)} (axis -3) do not divide by {upscale_factor}^2"
        )
    *lead, c, h, w = input.shape
    n = len(lead)
    x = fn.reshape(input, (*lead, c // (r * r), r, r, h, w))
    x = fn.permute_dims(x, (*range(n + 1), n + 3, n + 1, n + 4, n + 2))
    return fn.reshape(x, (*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """[.., C, H r, W r] -> [.., C r^2, H, W]: the inverse of `pixel_shuffle`."""
    r = downscale_factor
    if input.ndim < 3 or r <= 0 or input.shape[-1] % r or input.shape[-2] % r:
        raise ValueError(f"pixel_unshuffle: the last two sizes of {tuple(input.shape)} do not divide by {r}")
    *lead, c, h, w = input.shape
    n = len(lead)
    x = fn.reshape(input, (*lead, c, h // r, r, w // r, r))
    x = fn.permute_dims(x, (*range(n + 1), n + 2, n + 4, n + 1, n + 3))
    return fn.reshape(x, (*lead, c * r * r, h // r, w // r))


def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """[N, G K, ..] -> the same shape, channel k of group g moved to k G + g."""
    if input.ndim < 3 or groups <= 0 or input.shape[1] % groups:
        raise ValueError(f"channel_shuffle: the channels of {tuple(input.shape)} do not divide into {groups} groups")
    n, c, *rest = input.shape
    x = fn.reshape(input, (n, groups, c // groups, *rest))
    return fn.reshape(fn.swapaxes(x, 1, 2), (n, c, *rest))


def _window_attrs(what: str, kernel_size: Size, dilation: Size, padding: Size, stride: Size) -> dict:
    low = spread(padding, 2, what + " padding")
    return {
        "window": spread(kernel_size, 2, what + " kernel_size"),
        "stride": spread(stride, 2, what + " stride"),
        "low": low,
        "high": low,
        "dilation": spread(dilation, 2, what + " dilation"),
    }


def unfold(input: Tensor, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1) -> Tensor:
    """The windows of [N, C, H, W] as columns [N, C kh kw, number of windows] (N may be left out)."""
    if input.ndim not in (3, 4):
        raise ValueError(f"unfold: input of shape {tuple(input.shape)} has {input.ndim} dimensions; 3 or 4 are needed")
    attrs = _window_attrs("unfold", kernel_size, dilation, padding, stride)
    cut = apply(ops.windows, input, fill=0, **attrs)  # [.., C, oh, ow, kh, kw]
    *lead, c, oh, ow, kh, kw = cut.shape
    n = len(lead)
    columns = fn.permute_dims(cut, (*range(n), n, n + 3, n + 4, n + 1, n + 2))
    return fn.reshape(columns, (*lead, c * kh * kw, oh * ow))


def fold(
    input: Tensor, output_size: Size, kernel_size: Size, dilation: Size = 1, padding: Size = 0, stride: Size = 1
) -> Tensor:
    """Columns [N, C kh kw, number of windows] added up in an image [N, C, *output_size]: the adjoint of `unfold`."""
    attrs = _window_attrs("fold", kernel_size, dilation, padding, stride)
    sizes = spread(output_size, 2, "fold output_size")
    counts = tuple(
        (d + 2 * p - e * (w - 1) - 1) // s + 1
        for d, p, e, w, s in zip(sizes, attrs["low"], attrs["dilation"], attrs["window"], attrs["stride"])
    )
    kh, kw = attrs["window"]
    if (
        input.ndim not in (2, 3)
        or any(n < 1 for n in counts)
        or input.shape[-1] != math.prod(counts)
        or input.shape[-2] % (kh * kw)
    ):
        raise ValueError(
            f"fold: input {tuple(input.shape)} is not [N, C * {kh * kw}, {math.prod(counts)}], the windows of an "
            f"image {sizes}"
        )
    *lead, rows, _ = input.shape
    n, c = len(lead), rows // (kh * kw)
    cut = fn.reshape(input, (*lead, c, kh, kw, *counts))
    cut = fn.permute_dims(cut, (*range(n + 1), n + 3, n + 4, n + 1, n + 2))
    parts = apply(ops.unwindows, cut, size=sizes, **attrs)
    return apply(ops.reduce_sum, parts, axes=(n + 3, n + 4))
