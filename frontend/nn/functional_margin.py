"""Losses of margins, distances, counts and labels. `reduction` is "mean", "sum" or "none"."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .. import functions as fn
from ..state import state, traced
from ..tensor import Tensor
from .functional_activation import logsigmoid
from .functional_index import as_index, class_index, pick
from .functional_loss import reduce_losses, same_shapes
from .functional_norm import pairwise_distance


def _positive(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return fn.maximum(x, 0.0)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """max(0, -target (input1 - input2) + margin); target 1: input1 should be larger, -1: input2."""
    if not input1.ndim == input2.ndim == target.ndim:
        raise ValueError(
            f"margin_ranking_loss: input1 {tuple(input1.shape)}, input2 {tuple(input2.shape)} and "
            f"target {tuple(target.shape)} need equally many dimensions"
        )
    return reduce_losses(_positive(-target * (input1 - input2) + margin), reduction, "margin_ranking_loss")


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean") -> Tensor:
    """input where target is 1, max(0, margin - input) where it is -1."""
    far = fn.where(target != 1, _positive(margin - input), 0.0)
    near = fn.where(target != -1, input, 0.0)
    return reduce_losses(far + near, reduction, "hinge_embedding_loss")


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos(input1, input2) where target is 1, max(0, cos - margin) where it is -1. input [N, D] and target [N], or
    [D] and a 0-d target."""
    if target.ndim + 1 != input1.ndim or input1.ndim != input2.ndim:
        raise ValueError(
            f"cosine_embedding_loss: inputs {tuple(input1.shape)}, {tuple(input2.shape)} and target "
            f"{tuple(target.shape)} do not fit; [N, D], [N, D], [N] or [D], [D], [] are needed"
        )
    size = (fn.sum(input1 * input1, axis=-1) + 1e-12) * (fn.sum(input2 * input2, axis=-1) + 1e-12)
    cosine = fn.sum(input1 * input2, axis=-1) / fn.sqrt(size)
    losses = fn.where(target == 1, 1.0 - cosine, 0.0) + fn.where(target == -1, _positive(cosine - margin), 0.0)
    return reduce_losses(losses, reduction, "cosine_embedding_loss")


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """log(1 + exp(-target input)), target 1 or -1."""
    return reduce_losses(-logsigmoid(target * input), reduction, "soft_margin_loss")


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), d the p-norm distance of rows [N, D]. swap: the
    negative's distance to the positive counts if it is the smaller one."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return pairwise_distance(a, b, p, eps)

    return _triplet(anchor, positive, negative, distance, margin, swap, reduction, "triplet_margin_loss")


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with any distance; `pairwise_distance` if None."""
    distance = pairwise_distance if distance_function is None else traced(distance_function)
    what = "triplet_margin_with_distance_loss"
    return _triplet(anchor, positive, negative, distance, margin, swap, reduction, what)


def _triplet(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    distance: Callable[..., Tensor],
    margin: float,
    swap: bool,
    reduction: str,
    what: str,
) -> Tensor:
    if margin <= 0:
        raise ValueError(f"{what}: margin must be positive, not {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise ValueError(
            f"{what}: anchor {tuple(anchor.shape)}, positive {tuple(positive.shape)} and negative "
            f"{tuple(negative.shape)} need equally many dimensions"
        )
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = fn.minimum(far, distance(positive, negative))
    return reduce_losses(_positive(near - far + margin), reduction, what)


# ------------------------------------------------------------------ classes


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """sum over i != target of max(0, margin - input[target] + input[i])^p / C: input [N, C] or [C], target [N] or [].

    p is 1 or 2; weight [C]: a factor for the samples of each class.
    """
    what = "multi_margin_loss"
    if p not in (1, 2):
        raise ValueError(f"{what}: p is 1 or 2, not {p}")
    single = input.ndim <= 1  # a number is one class
    x, classes = (fn.reshape(input, (1, -1)), fn.reshape(target, (1,))) if single else (input, target)
    if x.ndim != 2 or tuple(classes.shape) != (x.shape[0],):
        raise ValueError(f"{what}: input {tuple(input.shape)} and target {tuple(target.shape)}: [N, C], [N] needed")
    n_classes = x.shape[1]
    if weight is not None and tuple(weight.shape) != (n_classes,):
        raise ValueError(f"{what}: weight has shape {tuple(weight.shape)}; ({n_classes},) is needed")
    classes = class_index(classes, n_classes, f"{what}: a target class")
    terms = _positive(margin - fn.expand_dims(pick(x, classes), axis=-1) + x)
    terms = terms * terms if p == 2 else terms
    if weight is not None:
        terms = terms * fn.expand_dims(fn.take(weight, classes, axis=0), axis=-1)
    is_target = fn.expand_dims(classes, axis=-1) == fn.arange(n_classes)
    losses = fn.sum(fn.where(is_target, 0.0, terms), axis=-1) * (1.0 / n_classes)
    return reduce_losses(fn.squeeze(losses, axis=0) if single else losses, reduction, what)


def multilabel_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """sum over labels j and other classes i of max(0, 1 - (input[j] - input[i])) / C: input [N, C] or [C], target of
    the same shape: the labels of each sample, ended by -1."""
    what = "multilabel_margin_loss"
    same_shapes(input, target, what)
    if input.ndim == 0:  # a number is one class
        input, target = fn.reshape(input, (1,)), fn.reshape(target, (1,))
    n_classes = input.shape[-1]
    labels = as_index(target, f"{what}: labels")
    counts = fn.cumulative_sum(fn.astype(labels < 0, labels.dtype), axis=-1) == 0  # before the first -1
    labels = class_index(fn.where(counts, labels, 0), n_classes, f"{what}: a label")
    hits = (fn.expand_dims(labels, axis=-1) == fn.arange(n_classes)) & fn.expand_dims(counts, axis=-1)
    is_label = fn.any(hits, axis=-2)
    scores = fn.take_along_axis(input, labels, axis=-1)
    terms = _positive(1.0 - fn.expand_dims(scores, axis=-1) + fn.expand_dims(input, axis=-2))
    wanted = fn.expand_dims(counts, axis=-1) & fn.expand_dims(fn.logical_not(is_label), axis=-2)
    losses = fn.sum(fn.where(wanted, terms, 0.0), axis=(-2, -1)) * (1.0 / n_classes)
    return reduce_losses(losses, reduction, what)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-(target log sigmoid(input) + (1 - target) log sigmoid(-input)), averaged over the last axis. weight: a factor
    per class."""
    losses = -(target * logsigmoid(input) + (1.0 - target) * logsigmoid(-input))
    losses = losses if weight is None else losses * weight
    return reduce_losses(fn.mean(losses, axis=-1), reduction, "multilabel_soft_margin_loss")


# ------------------------------------------------------------------ likelihoods


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """-log P(target) for Poisson rates exp(input) (or input itself: log_input=False), without the terms of target only.

    full: those too, by Stirling's formula where target > 1.
    """
    losses = fn.exp(input) - target * input if log_input else input - target * fn.log(input + eps)
    if full:
        safe = fn.where(target > 1, target, 1.0)
        stirling = safe * fn.log(safe) - safe + 0.5 * fn.log(2 * math.pi * safe)
        losses = losses + fn.where(target > 1, stirling, 0.0)
    return reduce_losses(losses, reduction, "poisson_nll_loss")


def gaussian_nll_loss(
    input: Tensor, target: Tensor, var: Any, full: bool = False, eps: float = 1e-6, *, reduction: str = "mean"
) -> Tensor:
    """(log var + (input - target)^2 / var) / 2, var at least eps; full: plus log(2 pi) / 2.

    var: a number, the shape of input, or one that broadcasts to it; or that without its last axis. ValueError if it is
    negative.
    """
    if not isinstance(var, Tensor):
        var = fn.full(tuple(input.shape), float(var), dtype=input.dtype)
    elif tuple(var.shape) == tuple(input.shape[:-1]):
        var = fn.expand_dims(var, axis=-1)
    elif any(d not in (1, n) for d, n in zip(reversed(var.shape), reversed(input.shape))) or var.ndim > input.ndim:
        raise ValueError(f"gaussian_nll_loss: var {tuple(var.shape)} does not broadcast to input {tuple(input.shape)}")
    if state.tracer is None and bool(fn.any(var < 0)):
        raise ValueError("gaussian_nll_loss: var has negative entries")
    var = var + (fn.maximum(var, eps) - var).detach()  # the limit does not stop the gradient
    losses = 0.5 * (fn.log(var) + (input - target) ** 2 / var)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return reduce_losses(losses, reduction, "gaussian_nll_loss")
