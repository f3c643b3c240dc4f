"""Normalisation: layer_norm, rms_norm, batch_norm and its statistics. Composite ops, as in `composite.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import NO_DIRECT_WAY, BatchContext, fold, leading, unfold
from ..op import ErrorSample, VjpContext, value_type
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError
from ._composite_samples import batch_norm_errors, batch_norm_samples, norm_errors, norm_samples, stats_samples
from ._declare import FLOATING, common_dtype, expand, shape_text, wanted
from .composite import Axes, centred, composite, count, divided, mean, mean_reference, shape_of, var, var_reference
from .elementary import rsqrt
from .movement import reshape
from .pointwise import add, mul, scale, shift, sub
from .reduce import reduce_sum

# ------------------------------------------------------------------ layer_norm, rms_norm


def _norm_axes(x: TensorType | np.ndarray, ndim_normalized: int) -> tuple[Axes, Axes]:
    """(leading axes, normalized axes)."""
    split = len(x.shape) - ndim_normalized
    return tuple(range(split)), tuple(range(split, len(x.shape)))


def _norm_infer(x: TensorType, *params: TensorType, ndim_normalized: int, eps: float) -> TensorType:
    common_dtype((x, *params), FLOATING)
    if not 1 <= ndim_normalized <= x.ndim:
        raise TypeRuleError(f"ndim_normalized={ndim_normalized} must be between 1 and the {x.ndim} dimensions of {x}")
    shape = x.shape[x.ndim - ndim_normalized :]
    for name, p in zip(("weight", "bias"), params):
        if p.shape != shape:
            raise TypeRuleError(f"{name} has shape {shape_text(p.shape)}, but {shape_text(shape)} is normalized")
    return x


def _norm_batch(c: BatchContext) -> Any:
    """More leading axes of x; parameters that differ between lanes are multiplied by themselves."""
    return NO_DIRECT_WAY if any(c.batched[1:]) else leading(c)


def _layer_statistics(x: Any, axes: Axes, eps: float) -> tuple[Any, Any]:
    """(x - mean) / std, and 1 / std expanded."""
    spread = rsqrt(shift(var(x, axes=axes, correction=0), eps))
    spread = expand(spread, axes, shape_of(x))
    return mul(centred(x, axes), spread), spread


def _layer_norm_decompose(x: Any, weight: Any, bias: Any, ndim_normalized: int, eps: float) -> Any:
    normal, _ = _layer_statistics(x, _norm_axes(value_type(x), ndim_normalized)[1], eps)
    return add(mul(normal, weight), bias)


def _layer_norm_reference(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, ndim_normalized: int, eps: float
) -> np.ndarray:
    _, axes = _norm_axes(x, ndim_normalized)
    d = x - np.mean(x, axis=axes, keepdims=True)
    d *= 1 / np.sqrt(np.mean(d * d, axis=axes, keepdims=True) + eps)
    d *= weight
    d += bias
    return d


def _layer_norm_vjp(c: VjpContext, g: Any) -> tuple:
    x, weight, _ = c.inputs
    leading, axes = _norm_axes(c.types[0], c.attrs["ndim_normalized"])
    shape = c.types[0].shape
    normal, spread = _layer_statistics(x, axes, c.attrs["eps"])

    def to_x():
        h = mul(g, weight)
        along = expand(mean(mul(h, normal), axes=axes), axes, shape)
        return mul(spread, sub(centred(h, axes), mul(normal, along)))

    return wanted(c, to_x, lambda: reduce_sum(mul(g, normal), axes=leading), lambda: reduce_sum(g, axes=leading))


layer_norm = composite(
    "layer_norm", ("x", "weight", "bias"), _norm_infer, _layer_norm_decompose, _layer_norm_reference, _layer_norm_vjp,
    attrs={"ndim_normalized": 1, "eps": 1e-5}, saves=("x", "weight"), samples=lambda: norm_samples("layer_norm", 2),
    errors=lambda: norm_errors(2), batch=_norm_batch,
    doc="(x - mean) / sqrt(var + eps) * weight + bias over the last `ndim_normalized` axes, whose shape "
    "the parameters have.",
)  # fmt: skip


def _rms_statistics(x: Any, axes: Axes, eps: float) -> tuple[Any, Any]:
    """x / rms, and 1 / rms expanded."""
    spread = expand(rsqrt(shift(mean(mul(x, x), axes=axes), eps)), axes, shape_of(x))
    return mul(x, spread), spread


def _rms_norm_decompose(x: Any, weight: Any, ndim_normalized: int, eps: float) -> Any:
    return mul(_rms_statistics(x, _norm_axes(value_type(x), ndim_normalized)[1], eps)[0], weight)


def _rms_norm_reference(x: np.ndarray, weight: np.ndarray, ndim_normalized: int, eps: float) -> np.ndarray:
    _, axes = _norm_axes(x, ndim_normalized)
    return x * (1 / np.sqrt(np.mean(x * x, axis=axes, keepdims=True) + eps)) * weight


def _rms_norm_vjp(c: VjpContext, g: Any) -> tuple:
    x, weight = c.inputs
    leading, axes = _norm_axes(c.types[0], c.attrs["ndim_normalized"])
    normal, spread = _rms_statistics(x, axes, c.attrs["eps"])

    def to_x():
        h = mul(g, weight)
        along = expand(mean(mul(h, normal), axes=axes), axes, c.types[0].shape)
        return mul(spread, sub(h, mul(normal, along)))

    return wanted(c, to_x, lambda: reduce_sum(mul(g, normal), axes=leading))


rms_norm = composite(
    "rms_norm", ("x", "weight"), _norm_infer, _rms_norm_decompose, _rms_norm_reference, _rms_norm_vjp,
    attrs={"ndim_normalized": 1, "eps": 1e-6}, saves=("x", "weight"), samples=lambda: norm_samples("rms_norm", 1),
    errors=lambda: norm_errors(1), batch=_norm_batch, doc="x / sqrt(mean(x^2) + eps) * weight over the last `ndim_normalized` axes.",
)  # fmt: skip

# ------------------------------------------------------------------ batch_norm, batch_stats


def _batch_axes(ndim: int) -> Axes:
    """All axes but the channels', which is 1."""
    return (0, *range(2, ndim))


def _per_channel(p: Any, shape: Shape) -> Any:
    """p[C] as [C, 1, ...], which broadcasts with the shape."""
    return reshape(p, shape=(shape[1], *(1,) * (len(shape) - 2)))


def _check_channels(x: TensorType) -> None:
    if x.ndim < 2:
        raise TypeRuleError(f"{x} has no channel axis: at least 2 dimensions are needed")


def _batch_norm_infer(x: TensorType, *params: TensorType, eps: float) -> TensorType:
    common_dtype((x, *params), FLOATING)
    _check_channels(x)
    for name, p in zip(("mean", "var", "weight", "bias"), params):
        if p.shape != x.shape[1:2]:
            raise TypeRuleError(f"{name} has shape {shape_text(p.shape)}, but {x} has {x.shape[1]} channels")
    return x


def _batch_norm_decompose(x: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    shape = shape_of(x)
    slope = mul(weight, rsqrt(shift(var, eps)))
    return add(mul(sub(x, _per_channel(mean, shape)), _per_channel(slope, shape)), _per_channel(bias, shape))


def _batch_norm_reference(x, mean, var, weight, bias, eps: float) -> np.ndarray:
    channels = (-1, *(1,) * (x.ndim - 2))
    out = x - mean.reshape(channels)
    out *= (weight / np.sqrt(var + eps)).reshape(channels)
    out += bias.reshape(channels)
    return out


def _batch_norm_vjp(c: VjpContext, g: Any) -> tuple:
    x, mean, var, weight, _ = c.inputs
    shape = c.types[0].shape
    axes = _batch_axes(len(shape))
    spread = rsqrt(shift(var, c.attrs["eps"]))
    slope = mul(weight, spread)
    total = reduce_sum(g, axes=axes)
    along = reduce_sum(mul(g, sub(x, _per_channel(mean, shape))), axes=axes)
    return wanted(
        c,
        lambda: mul(g, _per_channel(slope, shape)),
        lambda: scale(mul(total, slope), -1),
        lambda: scale(mul(along, mul(slope, mul(spread, spread))), -0.5),
        lambda: mul(along, spread),
        lambda: total,
    )


def _batch_norm_batch(c: BatchContext) -> Any:
    """Lanes of images are more images; lanes of channels' numbers are more channels."""
    x, n, channels = c.args[0], c.types[0].shape[0], c.types[0].shape[1]
    if not any(c.batched[1:]):
        return unfold(batch_norm(fold(x, 0), *c.args[1:], **c.attrs), 0, c.size, n)
    params = (fold(c.spread(i), 0) for i in range(1, 5))
    return unfold(batch_norm(fold(c.spread(0), 1), *params, **c.attrs), 1, c.size, channels)


batch_norm = composite(
    "batch_norm", ("x", "mean", "var", "weight", "bias"), _batch_norm_infer, _batch_norm_decompose,
    _batch_norm_reference, _batch_norm_vjp, attrs={"eps": 1e-5}, saves=("x", "mean", "var", "weight"),
    samples=batch_norm_samples, batch=_batch_norm_batch,
    errors=batch_norm_errors,
    doc="(x - mean) / sqrt(var + eps) * weight + bias for x[N, C, ...] and statistics and parameters [C]. In training "
    "they come from batch_stats(x), and the gradient passes through both.",
)  # fmt: skip


def _batch_stats_infer(x: TensorType) -> tuple[TensorType, TensorType]:
    common_dtype((x,), FLOATING)
    _check_channels(x)
    out = x.with_shape(x.shape[1:2])
    return out, out


def _batch_stats_decompose(x: Any) -> tuple:
    axes = _batch_axes(len(shape_of(x)))
    return mean(x, axes=axes), var(x, axes=axes, correction=0)


def _batch_stats_reference(x: np.ndarray) -> tuple:
    axes = _batch_axes(x.ndim)
    return mean_reference(x, axes), var_reference(x, axes, 0)


def _batch_stats_vjp(c: VjpContext, g_mean: Any, g_var: Any) -> tuple:
    x, shape = c.inputs[0], c.types[0].shape
    axes = _batch_axes(len(shape))
    n = count(shape, axes)
    flat = _per_channel(divided(g_mean, n), shape)
    slope = _per_channel(divided(scale(g_var, 2), n), shape)
    return (add(mul(centred(x, axes), slope), flat),)


def _batch_stats_batch(c: BatchContext) -> tuple:
    return tuple(unfold(s, 0, c.size, c.types[0].shape[1]) for s in batch_stats(fold(c.args[0], 1)))


batch_stats = composite(
    "batch_stats", ("x",), _batch_stats_infer, _batch_stats_decompose, _batch_stats_reference, _batch_stats_vjp,
    saves=("x",), samples=stats_samples, batch=_batch_stats_batch,
    errors=lambda: [
        ErrorSample((np.zeros(3, np.float32),), {}, TypeRuleError, "no channel axis"),
        ErrorSample((np.zeros((2, 3), np.int32),), {}, DTypeRuleError, "not i32"),
    ],
    n_outputs=2, doc="Mean and biased variance of x[N, C, ...] over all axes but 1: two tensors [C].",
)  # fmt: skip
