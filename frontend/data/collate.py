"""Samples into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import functions as fn
from ..creation import asarray
from ..tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Stacks samples of one structure along a new first axis: tensors, arrays and numbers become tensors, strings a
    list; in dicts, tuples, named tuples and lists element by element.

    TypeError for other kinds, ValueError if shapes or lengths differ.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        shapes = {tuple(t.shape) for t in batch}
        if len(shapes) > 1:
            raise ValueError(
                f"samples of different shapes cannot be batched: {sorted(shapes)}; give the loader a collate_fn"
            )
        return fn.stack(list(batch), axis=0)
    if isinstance(first, (np.ndarray, np.generic)):
        if first.dtype.kind in "SUO":
            raise TypeError(f"arrays of {first.dtype} cannot be batched")
        return default_collate([asarray(x) for x in batch])
    if isinstance(first, (bool, int, float)):
        return asarray(list(batch))
    if isinstance(first, (str, bytes)) or first is None:
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([x[key] for x in batch]) for key in first}
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(default_collate(list(column)) for column in zip(*batch)))
    if isinstance(first, Sequence):
        if len({len(x) for x in batch}) > 1:
            raise ValueError("samples of different lengths cannot be batched; give the loader a collate_fn")
        return [default_collate(list(column)) for column in zip(*batch)]
    raise TypeError(f"samples of type {type(first).__name__} cannot be batched; give the loader a collate_fn")
