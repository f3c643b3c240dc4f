"""Convolution and padding of `[N, C, d1, ..]` tensors (N may be left out, as in PyTorch)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import ops
from .. import functions as fn
from ..dispatch import apply
from ..manipulation import narrow
from ..tensor import Tensor

Size = int | Sequence[int]


def spread(value: Size, k: int, what: str) -> tuple[int, ...]:
    """`value` as k ints. ValueError if it is a sequence of another length."""
    if isinstance(value, int):
        return (value,) * k
    out = tuple(value)
    if len(out) == 1:
        out = out * k
    if len(out) != k:
        raise ValueError(f"{what} needs {k} values, got {out}")
    return out


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(low, high) that keep sizes at stride 1; an odd total leaves the extra element high."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)


def _batched(x: Tensor, k: int, what: str) -> tuple[Tensor, bool]:
    """`x` with a batch axis, and whether it was added. ValueError if the rank is neither k + 1 nor k + 2."""
    if x.ndim == k + 2:
        return x, False
    if x.ndim == k + 1:
        return fn.expand_dims(x, axis=0), True
    raise ValueError(f"{what}: input of shape {tuple(x.shape)} has {x.ndim} dimensions; {k + 1} or {k + 2} are needed")


def _conv(k: int, x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, dilation, groups: int) -> Tensor:
    what = f"conv{k}d"
    x, added = _batched(x, k, what)
    stride, dilation = spread(stride, k, what + " stride"), spread(dilation, k, what + " dilation")
    if padding == "same":
        if any(s != 1 for s in stride):
            raise ValueError(f"{what}: padding='same' needs stride 1, got {stride}")
        low, high = same_padding(weight.shape[2:], dilation)
    elif isinstance(padding, str):
        if padding != "valid":
            raise ValueError(f"{what}: padding is 'same', 'valid' or integers, not {padding!r}")
        low = high = (0,) * k
    else:
        low = high = spread(padding, k, what + " padding")
    out = apply(
        ops.conv,
        x,
        weight,
        stride=stride,
        low=low,
        high=high,
        lhs_dilation=(1,) * k,
        rhs_dilation=dilation,
        groups=groups,
    )
    return _finish_conv(out, bias, k, added)


def _finish_conv(out: Tensor, bias: Tensor | None, k: int, added: bool) -> Tensor:
    if bias is not None:
        out = out + fn.reshape(bias, (bias.shape[0],) + (1,) * k)
    return fn.squeeze(out, axis=0) if added else out


def conv1d(
    input, weight, bias=None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1, groups: int = 1
) -> Tensor:
    """input [N, C, L], weight [O, C/groups, k], bias [O] -> [N, O, L']."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input, weight, bias=None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1, groups: int = 1
) -> Tensor:
    """input [N, C, H, W], weight [O, C/groups, kh, kw], bias [O] -> [N, O, H', W']."""
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input, weight, bias=None, stride: Size = 1, padding: Size | str = 0, dilation: Size = 1, groups: int = 1
) -> Tensor:
    """input [N, C, D, H, W], weight [O, C/groups, kd, kh, kw], bias [O] -> [N, O, D', H', W']."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(k: int, x, weight, bias, stride, padding, output_padding, groups: int, dilation) -> Tensor:
    """The gradient of a convolution with respect to its input: a convolution of the input dilated by `stride`."""
    what = f"conv_transpose{k}d"
    x, added = _batched(x, k, what)
    stride, padding = spread(stride, k, what + " stride"), spread(padding, k, what + " padding")
    extra, dilation = spread(output_padding, k, what + " output_padding"), spread(dilation, k, what + " dilation")
    reach = [d * (n - 1) for d, n in zip(dilation, weight.shape[2:], strict=True)]
    c_in, c_out = weight.shape[:2]
    w = fn.reshape(weight, (groups, c_in // groups, *weight.shape[1:]))
    w = fn.permute_dims(w, (0, 2, 1, *range(3, k + 3)))
    w = fn.flip(fn.reshape(w, (groups * c_out, c_in // groups, *weight.shape[2:])), axis=tuple(range(2, k + 2)))
    out = apply(
        ops.conv,
        x,
        w,
        stride=(1,) * k,
        low=tuple(r - p for r, p in zip(reach, padding)),
        high=tuple(r - p + e for r, p, e in zip(reach, padding, extra)),
        lhs_dilation=stride,
        rhs_dilation=dilation,
        groups=groups,
    )
    return _finish_conv(out, bias, k, added)


def conv_transpose1d(
    input,
    weight,
    bias=None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """input [N, C, L], weight [C, O/groups, k] -> [N, O, L'],

    L' = (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.
    """
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input,
    weight,
    bias=None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`conv_transpose1d` in two dimensions."""
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input,
    weight,
    bias=None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """`conv_transpose1d` in three dimensions."""
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation)


# ------------------------------------------------------------------ padding


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pads the last axes: `pad` is (low, high) of the last axis, then of the one before it, and so on.

    mode: "constant" (with `value`, 0 if None), "reflect", "replicate" or "circular". Negative sizes crop.
    """
    if len(pad) % 2 or len(pad) // 2 > input.ndim:
        raise ValueError(
            f"pad: {tuple(pad)} does not fit a tensor of shape {tuple(input.shape)}: (low, high) per axis, last first"
        )
    axes = [(input.ndim - 1 - i, pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    if mode == "constant":
        return _pad_constant(input, axes, 0.0 if value is None else value)
    piece = _EDGES.get(mode)
    if piece is None:
        raise ValueError(f"pad: mode is 'constant', 'reflect', 'replicate' or 'circular', not {mode!r}")
    for axis, low, high in axes:
        whole, crop_low, crop_high = input.shape[axis], max(-low, 0), max(-high, 0)
        low, high = max(low, 0), max(high, 0)
        if mode == "circular" and (crop_low or crop_high):  # what is cut off does not come round again
            input = narrow(input, axis, crop_low, whole - crop_high)
            whole, crop_low, crop_high = input.shape[axis], 0, 0
        size, reach = input.shape[axis], max(low, high) + (mode == "reflect")
        if mode != "replicate" and isinstance(size, int) and reach > size:
            raise ValueError(
                f"pad: {mode} padding of {max(low, high)} is too large for axis {axis} of {tuple(input.shape)}"
            )
        parts = [piece(input, axis, low, True)] if low else []
        parts.append(input)
        if high:
            parts.append(piece(input, axis, high, False))
        input = fn.concat(parts, axis=axis) if len(parts) > 1 else input
        if crop_low or crop_high:  # after the other end was padded, which may read what is cut off here
            input = narrow(input, axis, crop_low, low + whole + high - crop_high)
    return input


def _pad_constant(x: Tensor, axes: list[tuple[int, int, int]], value: float) -> Tensor:
    low, high = [0] * x.ndim, [0] * x.ndim
    for axis, a, b in axes:
        if a < 0 or b < 0:
            x = narrow(x, axis, max(-a, 0), x.shape[axis] - max(-b, 0))
        low[axis], high[axis] = max(a, 0), max(b, 0)
    if not any(low) and not any(high):
        return x
    fill = float(value) if x.dtype.is_floating else int(value)
    return apply(ops.pad, x, low=tuple(low), high=tuple(high), value=fill)


def _reflect(x: Tensor, axis: int, n: int, low: bool) -> Tensor:
    size = x.shape[axis]
    part = narrow(x, axis, 1, 1 + n) if low else narrow(x, axis, size - 1 - n, size - 1)
    return fn.flip(part, axis=axis)


def _replicate(x: Tensor, axis: int, n: int, low: bool) -> Tensor:
    size = x.shape[axis]
    part = narrow(x, axis, 0, 1) if low else narrow(x, axis, size - 1, size)
    return fn.broadcast_to(part, (*x.shape[:axis], n, *x.shape[axis + 1 :]))


def _circular(x: Tensor, axis: int, n: int, low: bool) -> Tensor:
    size = x.shape[axis]
    return narrow(x, axis, size - n, size) if low else narrow(x, axis, 0, n)


_EDGES = {"reflect": _reflect, "replicate": _replicate, "circular": _circular}
