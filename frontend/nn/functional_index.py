"""Lookups by integer tensors: embedding, one_hot, and the checked indices that losses use."""

from __future__ import annotations

from typing import Any

from ...ir import ops
from ...ir.dtypes import int32, int64
from .. import creation
from .. import functions as fn
from ..autograd import no_grad
from ..dispatch import apply
from ..tensor import Tensor


def as_index(x: Any, what: str) -> Tensor:
    """`x` as an int32 or int64 tensor. TypeError if its elements are not integers."""
    t = x if isinstance(x, Tensor) else creation.asarray(x)
    if t.dtype is int64 or t.dtype is int32:
        return t
    if not t.dtype.is_integer:
        raise TypeError(f"{what} must be integers, not {t.dtype.name}")
    return fn.astype(t, int64)


def class_index(ids: Tensor, size: Any, what: str) -> Tensor:
    """`ids`, asserted to be in [0, size). IndexError naming `what` otherwise."""
    ids = as_index(ids, what)
    # check_index lets negative indices down to -size pass; moved below that, they are caught as well
    strict = fn.where(ids < 0, ids - size, ids)
    try:
        return apply(ops.check_index, strict, size=size)
    except IndexError:
        raise IndexError(f"{what} is outside [0, {size})") from None


def pick(x: Tensor, index: Tensor) -> Tensor:
    """x[.., index[..]] along the last axis: x [.., C], index [..] -> [..]."""
    if x.ndim == 1:
        return apply(ops.gather, x, index)
    shape = tuple(x.shape[:-1])
    rows = [apply(ops.iota, shape=shape, axis=a, dtype=index.dtype) for a in range(len(shape))]
    return apply(ops.gather, x, *rows, index)


def embedding(
    input: Any, weight: Tensor, padding_idx: int | None = None, max_norm: float | None = None, norm_type: float = 2.0
) -> Tensor:
    """Rows of `weight` [V, D] at integer `input` [..] -> [.., D]. IndexError for an index outside [0, V).

    The row `padding_idx` gets no gradient. max_norm: rows that are used are first scaled in place to at most this norm.
    """
    size = weight.shape[0]
    ids = class_index(input, size, "embedding: an index")
    if max_norm is not None:
        with no_grad():
            _renormalize(weight, ids, max_norm, norm_type)
    out = apply(ops.gather, weight, ids)
    if padding_idx is None:
        return out
    if not -size <= padding_idx < size:
        raise ValueError(f"embedding: padding_idx {padding_idx} is outside the {size} rows of weight")
    is_padding = fn.expand_dims(ids == padding_idx % size, axis=-1)
    return fn.where(is_padding, out.detach(), out)


def _renormalize(weight: Tensor, ids: Tensor, max_norm: float, norm_type: float) -> None:
    rows = apply(ops.gather, weight, ids)
    norms = fn.sum(fn.abs(rows) ** norm_type, axis=-1, keepdims=True) ** (1.0 / norm_type)
    weight[ids] = rows * fn.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """[..] integers -> [.., num_classes] int64, 1 at each integer. -1: the largest one + 1 (read from the values)."""
    ids = as_index(tensor, "one_hot: the classes")
    if num_classes == -1:
        num_classes = int(fn.max(ids)) + 1
    ids = class_index(ids, num_classes, "one_hot: a class")
    classes = creation.arange(num_classes, dtype=ids.dtype)
    return fn.astype(fn.expand_dims(ids, axis=-1) == classes, int64)
