"""Lookups by integer tensors: embedding, embedding_bag, one_hot, and the checked indices that losses use."""

from __future__ import annotations

import math
from typing import Any

from ...ir import ops
from ...ir.dtypes import bool_, int32, int64
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
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of `weight` [V, D] at integer `input` [..] -> [.., D]. IndexError for an index outside [0, V).

    The row `padding_idx` gets no gradient. max_norm: rows that are used are first scaled in place to at most this norm.
    scale_grad_by_freq: gradients are divided by how often their index occurs. `sparse`: gradients are dense always.
    """
    size = weight.shape[0]
    ids = class_index(input, size, "embedding: an index")
    if max_norm is not None:
        with no_grad():
            _renormalize(weight, ids, max_norm, norm_type)
    out = apply(ops.gather, weight, ids)
    if scale_grad_by_freq:
        out = _by_frequency(out, ids, size)
    if padding_idx is None:
        return out
    is_padding = fn.expand_dims(ids == _padding_row(padding_idx, size, "embedding"), axis=-1)
    return fn.where(is_padding, out.detach(), out)


def _padding_row(padding_idx: int, size: int, what: str) -> int:
    if not -size <= padding_idx < size:
        raise ValueError(f"{what}: padding_idx {padding_idx} is outside the {size} rows of weight")
    return padding_idx % size


def _by_frequency(rows: Tensor, ids: Tensor, size: int) -> Tensor:
    """`rows` [.., D], with gradients divided by how often their index occurs in `ids` [..]."""
    ones = fn.ones_like(fn.astype(ids, rows.dtype))
    counts = apply(ops.scatter, creation.zeros((size,), dtype=rows.dtype), ones, ids, mode="add")
    share = fn.expand_dims(1.0 / apply(ops.gather, counts, ids), axis=-1)
    scaled = rows * share
    return scaled + (rows - scaled).detach()


def embedding_bag(
    input: Any,
    weight: Tensor,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """The "sum", "mean" or "max" of the rows of `weight` [V, D] in each bag -> [bags, D]; empty bags give 0.

    input [bags, L], or [L] with `offsets` [bags]: where each bag begins (include_last_offset: and the end of the last).
    per_sample_weights (mode "sum"): a factor for each index. Indices padding_idx do not count. The rest as `embedding`.
    """
    what = "embedding_bag"
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"{what}: mode is 'sum', 'mean' or 'max', not {mode!r}")
    if per_sample_weights is not None and mode != "sum":
        raise ValueError(f"{what}: per_sample_weights are for mode 'sum', not {mode!r}")
    size = weight.shape[0]
    ids = class_index(input, size, f"{what}: an index")
    if ids.ndim not in (1, 2) or (ids.ndim == 1) == (offsets is None):
        raise ValueError(
            f"{what}: input of shape {tuple(ids.shape)} {'needs' if ids.ndim == 1 else 'takes no'} offsets; "
            "[bags, L] without or [L] with offsets [bags] is needed"
        )
    if per_sample_weights is not None and tuple(per_sample_weights.shape) != tuple(ids.shape):
        raise ValueError(
            f"{what}: per_sample_weights {tuple(per_sample_weights.shape)} and input {tuple(ids.shape)} differ in shape"
        )
    rows = embedding(ids, weight, None, max_norm, norm_type, scale_grad_by_freq)
    counted = fn.full_like(ids, True, dtype=bool_)
    if padding_idx is not None:
        counted = ids != _padding_row(padding_idx, size, what)
    if per_sample_weights is not None:
        rows = rows * fn.expand_dims(per_sample_weights, axis=-1)
    if offsets is None:
        inside = fn.expand_dims(counted, axis=-1)  # [bags, L, 1] for rows [bags, L, D]
    else:
        starts = as_index(offsets, f"{what}: offsets")
        place = fn.expand_dims(creation.arange(ids.shape[0]), axis=0)
        if not include_last_offset:
            starts = fn.concat([starts, fn.full_like(starts[:1], ids.shape[0])], axis=0)
        member = (place >= fn.expand_dims(starts[:-1], axis=1)) & (place < fn.expand_dims(starts[1:], axis=1))
        inside = fn.expand_dims(member & counted, axis=-1)  # [bags, L, 1] for rows [L, D]
    if ids.shape[-1] == 0:
        return creation.zeros((inside.shape[0], weight.shape[1]), dtype=rows.dtype)
    if mode == "max":
        largest = fn.max(fn.where(inside, rows, -math.inf), axis=1)
        return fn.where(fn.any(inside, axis=1), largest, 0.0)
    share = fn.astype(inside, rows.dtype)
    if offsets is None:
        total = fn.sum(rows * share, axis=1)
    else:
        total = fn.matmul(fn.squeeze(share, axis=-1), rows)
    return total if mode == "sum" else total / fn.maximum(fn.sum(share, axis=1), 1.0)


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
