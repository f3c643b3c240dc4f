"""Connectionist temporal classification (Graves et al. 2006), by the forward recursion in logarithms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ir import ops
from ...ir.dtypes import int64
from .. import creation
from .. import functions as fn
from ..dispatch import apply
from ..manipulation import narrow
from ..tensor import Tensor, new_tensor
from .functional_index import as_index, class_index
from .functional_loss import reduce_losses
from .utils.rnn import known_sizes

_NEVER = -1e30  # log 0, finite so that differences are numbers


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log P(targets | log_probs), summed over all alignments: log_probs [T, N, C] (or [T, C]) log-probabilities.

    targets [N, S], or all sequences one after the other in one axis; lengths [N] (ints or tensors). "mean" divides by
    the target lengths before it averages. Targets that cannot be aligned cost inf, or 0 with zero_infinity.
    """
    single = log_probs.ndim == 2
    if log_probs.ndim not in (2, 3):
        raise ValueError(f"ctc_loss: log_probs has shape {tuple(log_probs.shape)}; [T, N, C] or [T, C] is needed")
    x = fn.expand_dims(log_probs, axis=1) if single else log_probs
    steps, n, n_classes = x.shape
    if not 0 <= blank < n_classes:
        raise ValueError(f"ctc_loss: blank {blank} is not one of the {n_classes} classes")
    in_lengths, out_lengths = _lengths(input_lengths, n, "input"), _lengths(target_lengths, n, "target")
    labels = as_index(targets, "ctc_loss: targets")
    if labels.ndim == 1 and not single:
        labels = _rows_of(labels, target_lengths, n)
    labels = fn.reshape(labels, (1, labels.shape[-1])) if labels.ndim == 1 else labels
    if tuple(labels.shape[:-1]) != (n,):
        raise ValueError(f"ctc_loss: targets of shape {tuple(targets.shape)} do not fit a batch of {n}")
    losses = _forward(x, labels, in_lengths, out_lengths, blank)
    if zero_infinity:
        losses = fn.where(losses == math.inf, 0.0, losses)
    if reduction == "mean":
        return fn.mean(losses / fn.astype(fn.maximum(out_lengths, 1), losses.dtype))
    return reduce_losses(fn.squeeze(losses, axis=0) if single else losses, reduction, "ctc_loss")


def _lengths(given: Any, n: int, which: str) -> Tensor:
    lengths = fn.astype(given if isinstance(given, Tensor) else creation.asarray(given), int64)
    lengths = fn.reshape(lengths, (1,)) if lengths.ndim == 0 else lengths
    if tuple(lengths.shape) != (n,):
        raise ValueError(f"ctc_loss: {which}_lengths of shape {tuple(lengths.shape)} do not fit a batch of {n}")
    return lengths


def _rows_of(labels: Tensor, target_lengths: Any, n: int) -> Tensor:
    """Concatenated targets as [N, longest]."""
    sizes = known_sizes(target_lengths, "ctc_loss with concatenated targets")
    if sum(sizes) != labels.shape[0]:
        raise ValueError(f"ctc_loss: target_lengths add up to {sum(sizes)}, targets has {labels.shape[0]}")
    starts = np.cumsum([0, *sizes[:-1]])[:, None]
    inside = np.arange(max(max(sizes), 1)) < np.array(sizes)[:, None]
    at = np.where(inside, starts + np.arange(inside.shape[1]), 0)
    if not labels.shape[0]:
        return creation.zeros(at.shape, dtype=labels.dtype)
    return apply(ops.gather, labels, new_tensor(at))


def _forward(x: Tensor, labels: Tensor, in_lengths: Tensor, out_lengths: Tensor, blank: int) -> Tensor:
    """The losses [N]. Positions are those of the labels with blanks before, between and after: [N, 2 S + 1]."""
    steps, n, n_classes = x.shape
    size = 2 * labels.shape[1] + 1
    used = creation.arange(labels.shape[1]) < fn.expand_dims(out_lengths, axis=1)
    labels = class_index(fn.where(used, labels, 0), n_classes, "ctc_loss: a target")
    blanks = fn.full_like(labels, blank)
    both = fn.reshape(fn.stack([blanks, labels], axis=2), (n, size - 1))
    places = fn.concat([both, creation.full((n, 1), blank, dtype=both.dtype)], axis=1)
    # a label may follow the one before it directly, without a blank, if they differ
    skips = (creation.arange(size) % 2 == 1) & (places != _shifted(places, 2, -1))
    emitted = fn.take_along_axis(x, fn.broadcast_to(fn.expand_dims(places, axis=0), (steps, n, size)), axis=2)
    emitted = fn.maximum(emitted, _NEVER)
    alpha = fn.where(creation.arange(size) < 2, emitted[0], _NEVER)
    for t in range(1, steps):
        reached = fn.logaddexp(alpha, _shifted(alpha, 1, _NEVER))
        reached = fn.logaddexp(reached, fn.where(skips, _shifted(alpha, 2, _NEVER), _NEVER))
        reached = fn.maximum(reached + emitted[t], _NEVER)
        alpha = fn.where(fn.expand_dims(in_lengths > t, axis=1), reached, alpha)
    end = fn.expand_dims(2 * out_lengths, axis=1)
    last = fn.take_along_axis(alpha, end, axis=1)
    before = fn.where(end > 0, fn.take_along_axis(alpha, fn.maximum(end - 1, 0), axis=1), _NEVER)
    total = fn.squeeze(fn.logaddexp(last, before), axis=1)
    nothing_read = in_lengths == 0
    total = fn.where(nothing_read, fn.where(out_lengths == 0, 0.0, _NEVER), total)
    return fn.where(total < 0.5 * _NEVER, math.inf, -total)


def _shifted(x: Tensor, by: int, fill: float) -> Tensor:
    """x [N, P] moved right by `by` places."""
    n, size = x.shape
    front = creation.full((n, min(by, size)), fill, dtype=x.dtype)
    return fn.concat([front, narrow(x, 1, 0, max(size - by, 0))], axis=1)
