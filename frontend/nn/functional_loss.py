"""Losses. `reduction` is "mean", "sum" or "none" (one value per element or sample)."""

from __future__ import annotations

import math

from ...ir import ops
from .. import functions as fn
from ..dispatch import apply
from ..tensor import Tensor
from .functional_activation import log_softmax
from .functional_index import class_index, pick


def reduce_losses(values: Tensor, reduction: str, what: str) -> Tensor:
    """The mean or sum of all values, or the values themselves. ValueError naming `what` for another reduction."""
    if reduction == "mean":
        return fn.mean(values)
    if reduction == "sum":
        return fn.sum(values)
    if reduction == "none":
        return values
    raise ValueError(f"{what}: reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def same_shapes(input: Tensor, target: Tensor, what: str) -> None:
    """ValueError unless the shapes are equal."""
    if tuple(input.shape) != tuple(target.shape):
        raise ValueError(
            f"{what}: input has shape {tuple(input.shape)}, target {tuple(target.shape)}; they must be equal"
        )


def _classes_last(x: Tensor, what: str) -> Tensor:
    """[C] or [N, C, d1, ..] as [N, d1, .., C]."""
    if x.ndim == 0:
        raise ValueError(f"{what}: input needs a class axis, got a 0-d tensor")
    return x if x.ndim <= 2 else fn.permute_dims(x, (0, *range(2, x.ndim), 1))


def _check_target(x: Tensor, target: Tensor, what: str) -> None:
    if tuple(target.shape) != tuple(x.shape[:-1]):
        raise ValueError(
            f"{what}: target has shape {tuple(target.shape)}; {tuple(x.shape[:-1])} is needed (axis 1 of input: class)"
        )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target]. input [C] or [N, C, d1, ..]; target integers [N, d1, ..], or class probabilities of
    the shape of input.

    weight [C]: a factor per class; the mean divides by the factors' sum. ignore_index: targets that do not count.
    IndexError for any other target outside [0, C).
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: label_smoothing is in [0, 1], not {label_smoothing}")
    if target.dtype.is_floating:
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    logits = _classes_last(input, "cross_entropy")
    _check_target(logits, target, "cross_entropy")
    if weight is not None or label_smoothing:
        return _nll(log_softmax(logits, -1), target, weight, ignore_index, reduction, label_smoothing, "cross_entropy")
    counted = target != ignore_index
    classes = class_index(fn.where(counted, target, 0), logits.shape[-1], "cross_entropy: a target class")
    rows, labels = logits, classes
    if logits.ndim != 2:
        n = math.prod(target.shape)
        rows, labels = fn.reshape(logits, (n, logits.shape[-1])), fn.reshape(classes, (n,))
    losses = apply(ops.cross_entropy, rows, labels)
    if logits.ndim != 2:
        losses = fn.reshape(losses, tuple(target.shape))
    losses = fn.where(counted, losses, 0.0)
    if reduction != "mean":
        return reduce_losses(losses, reduction, "cross_entropy")
    return fn.sum(losses) / fn.sum(fn.astype(counted, losses.dtype))


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-input[target] for log-probabilities input [C] or [N, C, d1, ..]; the rest as in `cross_entropy`."""
    x = _classes_last(input, "nll_loss")
    _check_target(x, target, "nll_loss")
    return _nll(x, target, weight, ignore_index, reduction, 0.0, "nll_loss")


def _nll(
    logp: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float, what: str
) -> Tensor:
    """`logp` [.., C] with classes last, `target` [..]."""
    n_classes = logp.shape[-1]
    if weight is not None and tuple(weight.shape) != (n_classes,):
        raise ValueError(f"{what}: weight has shape {tuple(weight.shape)}; ({n_classes},) is needed")
    counted = target != ignore_index
    classes = class_index(fn.where(counted, target, 0), n_classes, f"{what}: a target class")
    share = (
        fn.astype(counted, logp.dtype) if weight is None else fn.where(counted, apply(ops.gather, weight, classes), 0.0)
    )
    losses = fn.where(counted, -pick(logp, classes) * share, 0.0)
    if smoothing:
        spread = -fn.sum(logp if weight is None else logp * weight, axis=-1)
        losses = losses * (1 - smoothing) + fn.where(counted, spread, 0.0) * (smoothing / n_classes)
    if reduction != "mean":
        return reduce_losses(losses, reduction, what)
    return fn.sum(losses) / fn.sum(share)


def _soft_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, smoothing: float
) -> Tensor:
    same_shapes(input, target, "cross_entropy with class probabilities")
    logits, shares = _classes_last(input, "cross_entropy"), _classes_last(target, "cross_entropy")
    if smoothing:
        shares = shares * (1 - smoothing) + smoothing / logits.shape[-1]
    terms = log_softmax(logits, -1) * shares
    return reduce_losses(-fn.sum(terms if weight is None else terms * weight, axis=-1), reduction, "cross_entropy")


# ------------------------------------------------------------------ regression


def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input - target)^2."""
    same_shapes(input, target, "mse_loss")
    d = input - target
    return reduce_losses(d * d, reduction, "mse_loss")


def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """|input - target|."""
    same_shapes(input, target, "l1_loss")
    return reduce_losses(fn.abs(input - target), reduction, "l1_loss")


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2."""
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    same_shapes(input, target, "smooth_l1_loss")
    d = input - target
    size = fn.abs(d)
    return reduce_losses(fn.where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta), reduction, "smooth_l1_loss")


def huber_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2)."""
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    same_shapes(input, target, "huber_loss")
    d = input - target
    size = fn.abs(d)
    return reduce_losses(fn.where(size < delta, d * d * 0.5, (size - 0.5 * delta) * delta), reduction, "huber_loss")


# ------------------------------------------------------------------ probabilities


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(target log input + (1 - target) log(1 - input)); the logarithms are cut at -100."""
    same_shapes(input, target, "binary_cross_entropy")
    yes, no = fn.maximum(fn.log(input), -100.0), fn.maximum(fn.log1p(-input), -100.0)
    losses = (target - 1.0) * no - target * yes
    return reduce_losses(losses if weight is None else losses * weight, reduction, "binary_cross_entropy")


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """`binary_cross_entropy` of sigmoid(input), without overflow. pos_weight: a factor for the positive term."""
    same_shapes(input, target, "binary_cross_entropy_with_logits")
    log_no = fn.log1p(fn.exp(-fn.abs(input))) + fn.maximum(-input, 0.0)  # softplus(-x)
    if pos_weight is None:
        losses = (1.0 - target) * input + log_no
    else:
        losses = (1.0 - target) * input + (1.0 + (pos_weight - 1.0) * target) * log_no
    return reduce_losses(losses if weight is None else losses * weight, reduction, "binary_cross_entropy_with_logits")


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - input) for log-probabilities `input`; reduction "batchmean": the sum over axis 0's size."""
    same_shapes(input, target, "kl_div")
    if log_target:
        terms = fn.exp(target) * (target - input)
    else:
        zero = target == 0
        terms = fn.where(zero, 0.0, target * fn.log(fn.where(zero, 1.0, target))) - target * input
    if reduction == "batchmean":
        return fn.sum(terms) / input.shape[0] if input.ndim else fn.sum(terms)
    return reduce_losses(terms, reduction, "kl_div")
