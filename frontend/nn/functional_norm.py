"""Normalisations, and distances along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...ir import ops
from ...ir.dtypes import DType
from .. import creation
from .. import functions as fn
from ..autograd import no_grad
from ..dispatch import apply
from ..linalg import vector_norm
from ..manipulation import narrow
from ..tensor import Tensor


def _trailing(x: Tensor, normalized_shape: int | Sequence[int], what: str) -> int:
    """How many last axes `normalized_shape` names. ValueError if `x` does not end with it."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[x.ndim - len(shape) :]) != shape:
        raise ValueError(f"{what}: input of shape {tuple(x.shape)} does not end with normalized_shape {shape}")
    return len(shape)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes, whose shape is `normalized_shape`."""
    n = _trailing(input, normalized_shape, "layer_norm")
    shape = tuple(input.shape[input.ndim - n :])
    weight = creation.ones(shape, dtype=input.dtype) if weight is None else weight
    bias = creation.zeros(shape, dtype=input.dtype) if bias is None else bias
    return apply(ops.layer_norm, input, weight, bias, ndim_normalized=n, eps=float(eps))


def rms_norm(
    input: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes; eps is the element type's epsilon if None."""
    n = _trailing(input, normalized_shape, "rms_norm")
    shape = tuple(input.shape[input.ndim - n :])
    weight = creation.ones(shape, dtype=input.dtype) if weight is None else weight
    eps = _epsilon(input.dtype) if eps is None else eps
    return apply(ops.rms_norm, input, weight, ndim_normalized=n, eps=float(eps))


def _epsilon(dtype: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype.np).eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalises each of `num_groups` groups of channels of [N, C, ..]; weight and bias [C]."""
    if input.ndim < 2:
        raise ValueError(f"group_norm: input of shape {tuple(input.shape)} needs at least 2 dimensions")
    n, c = input.shape[:2]
    if c % num_groups != 0:
        raise ValueError(f"group_norm: {c} channels do not divide into {num_groups} groups")
    size = (c // num_groups) * math.prod(input.shape[2:])
    flat = layer_norm(fn.reshape(input, (n, num_groups, size)), (size,), eps=eps)
    return _scale_channels(fn.reshape(flat, tuple(input.shape)), weight, bias)


def _scale_channels(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    if weight is not None:
        x = x * fn.reshape(weight, shape)
    return x if bias is None else x + fn.reshape(bias, shape)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel of [N, C, ..] by the statistics of this batch (`training`) or the running ones.

    In training the running statistics are updated in place: new = (1 - momentum) old + momentum * batch (the variance
    without bias).
    """
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input of shape {tuple(input.shape)}, [N, C, ..] is needed")
    c = input.shape[1]
    if training:
        if isinstance(_count(input), int) and _count(input) == 1:
            raise ValueError(
                f"batch_norm: training needs more than one value per channel, got shape {tuple(input.shape)}"
            )
        mean, var = apply(ops.batch_stats, input)
        with no_grad():
            some = _count(input) != 0  # an empty batch says nothing
            if running_mean is not None and some:
                _move(running_mean, mean.detach(), momentum)
            if running_var is not None and some:
                _move(running_var, _unbiased(input, var), momentum)
    else:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: running_mean and running_var are needed unless training")
        mean, var = running_mean, running_var
    weight = creation.ones((c,), dtype=input.dtype) if weight is None else weight
    bias = creation.zeros((c,), dtype=input.dtype) if bias is None else bias
    return apply(ops.batch_norm, input, mean, var, weight, bias, eps=float(eps))


def _count(x: Tensor):
    """Values per channel."""
    return x.shape[0] * math.prod(x.shape[2:])


def _unbiased(x: Tensor, var: Tensor) -> Tensor:
    n = _count(x)
    return var.detach() * n / (n - 1)


def _move(running: Tensor, batch: Tensor, momentum: float | Tensor) -> None:
    if batch.dtype is not running.dtype:
        batch = fn.astype(batch, running.dtype)
    running.mul_(1 - momentum).add_(batch * momentum)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalises each channel of each sample of [N, C, ..]; running statistics: their mean over samples."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = tuple(range(2, input.ndim))
    with no_grad():
        if running_mean is not None:
            _move(running_mean, fn.mean(fn.mean(input.detach(), axis=axes), axis=0), momentum)
        if running_var is not None:
            _move(running_var, fn.mean(fn.var(input.detach(), axis=axes, correction=1), axis=0), momentum)
    return group_norm(input, input.shape[1], weight, bias, eps)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """input / max(p-norm along axis `dim`, eps). Gradients are finite for zero vectors too."""
    if p == 2:
        squares = fn.sum(input * input, axis=dim, keepdims=True)
        return input / fn.sqrt(fn.maximum(squares, eps * eps))
    if p == math.inf:
        return input / fn.maximum(fn.max(fn.abs(input), axis=dim, keepdims=True), eps)
    if p == 1:
        return input / fn.maximum(fn.sum(fn.abs(input), axis=dim, keepdims=True), eps)
    return input / fn.maximum(vector_norm(input, axis=dim, keepdims=True, ord=p), eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along axis `dim`, which is dropped."""
    x1, x2 = fn.broadcast_arrays(x1, x2)
    dot = fn.sum(x1 * x2, axis=dim)
    a = fn.maximum(fn.sum(x1 * x1, axis=dim), eps * eps)
    b = fn.maximum(fn.sum(x2 * x2, axis=dim), eps * eps)
    return dot / (fn.sqrt(a) * fn.sqrt(b))


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last axis: [.., D], [.., D] -> [..]."""
    return vector_norm(x1 - x2 + eps, axis=-1, keepdims=keepdim, ord=p)


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """input / (k + alpha * mean of squares over `size` neighbouring channels)^beta for [N, C, ..]; absent channels
    count as 0."""
    if input.ndim < 3:
        raise ValueError(f"local_response_norm: input of shape {tuple(input.shape)} needs at least 3 dimensions")
    channels, rank = input.shape[1], input.ndim
    low, high = [0] * rank, [0] * rank
    low[1], high[1] = size // 2, (size - 1) // 2
    squares = apply(ops.pad, input * input, low=tuple(low), high=tuple(high), value=0.0)
    total = narrow(squares, 1, 0, channels)
    for i in range(1, size):
        total = total + narrow(squares, 1, i, i + channels)
    return input / (total * (alpha / size) + k) ** beta
