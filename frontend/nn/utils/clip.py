"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ... import functions as fn
from ...autograd import no_grad
from ...creation import zeros
from ...tensor import Tensor

Tensors = Tensor | Iterable[Tensor]


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all tensors taken as one vector; 0-d. norm_type: any p > 0, inf, -inf (the smallest magnitude) or 0
    (how many tensors are not all zero). No tensors: 0. foreach has no effect.

    RuntimeError if `error_if_nonfinite` and the norm is nan or infinite; that question needs the value, so it is for
    eager code.
    """
    listed, p = _listed(tensors), float(norm_type)
    if not listed:
        return zeros(())
    norm = _norm(fn.stack([_norm(fn.reshape(t, (-1,)), p) for t in listed]), p)
    if error_if_nonfinite and not math.isfinite(float(norm)):
        raise RuntimeError(
            f"the total norm of order {p} of the gradients is {float(norm)}, so they cannot be clipped; "
            "pass error_if_nonfinite=False to scale by it all the same"
        )
    return norm


def _norm(x: Tensor, p: float) -> Tensor:
    """The p-norm of a vector."""
    if p == math.inf:
        return fn.max(fn.abs(x))
    if p == -math.inf:
        return fn.min(fn.abs(x))
    if p == 0:
        return fn.sum(fn.astype(x != 0, x.dtype))
    if p == 1:
        return fn.sum(fn.abs(x))
    if p == 2:
        return fn.sqrt(fn.sum(x * x))
    return fn.sum(fn.abs(x) ** p) ** (1.0 / p)


def _listed(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _grads(parameters: Tensors) -> list[Tensor]:
    return [g for p in _listed(parameters) if (g := p.grad) is not None]


def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scales all gradients in place by max_norm / total_norm where that is less than 1. foreach has no effect."""
    with no_grad():
        factor = fn.clip(max_norm / (total_norm + 1e-6), None, 1.0)
        for g in _grads(parameters):
            g.mul_(fn.astype(factor, g.dtype))


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scales all gradients in place so that their total norm is at most `max_norm`. Returns the norm before that.
    The other arguments are those of `get_total_norm`."""
    listed = _listed(parameters)
    with no_grad():
        norm = get_total_norm(_grads(listed), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(listed, max_norm, norm)
    return norm


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Cuts all gradients in place to [-clip_value, clip_value]. foreach has no effect."""
    bound = float(clip_value)
    with no_grad():
        for g in _grads(parameters):
            g.copy_(fn.clip(g, -bound, bound))
