"""Gradient clipping, and parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .. import functions as fn
from ..autograd import no_grad
from ..tensor import Tensor


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [g for p in listed if (g := p.grad) is not None]


def get_total_norm(tensors: Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all tensors taken as one vector; 0-d."""
    listed = list(tensors)
    if not listed:
        from ..creation import zeros

        return zeros(())
    if norm_type == math.inf:
        return fn.max(fn.stack([fn.max(fn.abs(t)) for t in listed]))
    if norm_type == 2:
        return fn.sqrt(_total([fn.sum(t * t) for t in listed]))
    return _total([fn.sum(fn.abs(t) ** norm_type) for t in listed]) ** (1.0 / norm_type)


def _total(parts: list[Tensor]) -> Tensor:
    return fn.sum(fn.stack(parts)) if len(parts) > 1 else parts[0]


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scales all gradients in place so that their total norm is at most `max_norm`. Returns the norm before that."""
    with no_grad():
        grads = _grads(parameters)
        norm = get_total_norm(grads, float(norm_type))
        factor = fn.minimum(max_norm / (norm + 1e-6), 1.0)
        for g in grads:
            g.mul_(fn.astype(factor, g.dtype))
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Cuts all gradients in place to [-clip_value, clip_value]."""
    with no_grad():
        for g in _grads(parameters):
            g.copy_(fn.clip(g, -clip_value, clip_value))


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after the other, 1-d."""
    return fn.concat([fn.reshape(p, (-1,)) for p in parameters], axis=0)


def vector_to_parameters(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes the pieces of a 1-d tensor into the parameters, in order."""
    at = 0
    with no_grad():
        for p in parameters:
            n = math.prod(p.shape)
            p.copy_(fn.reshape(vector[at : at + n], tuple(p.shape)))
            at += n
    if at != vector.shape[0]:
        raise ValueError(f"the vector has {vector.shape[0]} elements, the parameters {at}")
