"""Parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ... import functions as fn
from ...autograd import no_grad
from ...tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after the other, 1-d."""
    return fn.concat([fn.reshape(p, (-1,)) for p in parameters], axis=0)


def vector_to_parameters(vector: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes the pieces of a 1-d tensor into the parameters, in order. ValueError if the sizes differ."""
    at = 0
    with no_grad():
        for p in parameters:
            n = math.prod(p.shape)
            p.copy_(fn.reshape(vector[at : at + n], tuple(p.shape)))
            at += n
    if at != vector.shape[0]:
        raise ValueError(f"the vector has {vector.shape[0]} elements, the parameters {at}")
