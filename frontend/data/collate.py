"""Samples into batches."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from .. import functions as fn
from ..creation import asarray
from ..devices import is_on_gpu
from ..state import state
from ..tape import needs_grad
from ..tensor import Tensor


def default_collate(batch: Sequence[Any]) -> Any:
    """Stacks samples of one structure along a new first axis: tensors, arrays and numbers become tensors (Python floats
    of the default type), strings, bytes and None stay a sequence; in dicts, tuples, named tuples and lists element by
    element. Dicts, lists and named tuples keep their type, tuples become lists.

    TypeError for other kinds, ValueError if shapes, lengths or keys differ.
    """
    first = batch[0]
    if isinstance(first, (Tensor, np.ndarray, np.generic)):
        return _stack(batch)
    if isinstance(first, (bool, int, float, complex)):
        return asarray(list(batch))
    if isinstance(first, (str, bytes)) or first is None:
        return batch
    if isinstance(first, Mapping):
        if any(x.keys() != first.keys() for x in batch):
            raise ValueError("samples with different keys cannot be batched; give the loader a collate_fn")
        return _mapping_like(first, {key: default_collate([x[key] for x in batch]) for key in first})
    if isinstance(first, Sequence):
        if len({len(x) for x in batch}) > 1:
            raise ValueError("samples of different lengths cannot be batched; give the loader a collate_fn")
        return _sequence_like(first, (default_collate(column) for column in zip(*batch)))
    raise TypeError(f"samples of type {type(first).__name__} cannot be batched; give the loader a collate_fn")


def _stack(batch: Sequence[Any]) -> Tensor:
    """Tensors, arrays or NumPy numbers of one shape as one tensor."""
    shapes = {tuple(np.shape(x)) for x in batch}
    if len(shapes) > 1:
        raise ValueError(
            f"samples of different shapes cannot be batched: {sorted(shapes)}; give the loader a collate_fn"
        )
    if all(isinstance(x, (np.ndarray, np.generic)) for x in batch):
        if batch[0].dtype.kind in "SUO":
            raise TypeError(f"arrays of {batch[0].dtype} cannot be batched")
        if len({x.dtype for x in batch}) == 1:
            return asarray(np.stack(batch))
    tensors = [asarray(x) for x in batch]
    plain = state.tracer is None and len({t.dtype for t in tensors}) == 1 and not is_on_gpu(*tensors)
    if plain and not any(map(needs_grad, tensors)):
        return asarray(np.stack([t.numpy() for t in tensors]))  # as fn.stack does, with less effort
    return fn.stack(tensors, axis=0)


def default_convert(data: Any) -> Any:
    """Arrays and NumPy numbers in a sample as tensors; everything else stays as it is."""
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in "SUO" else asarray(data)
    if isinstance(data, (Tensor, str, bytes)):
        return data
    if isinstance(data, Mapping):
        return _mapping_like(data, {key: default_convert(x) for key, x in data.items()})
    if isinstance(data, Sequence) and not isinstance(data, range):
        return _sequence_like(data, (default_convert(x) for x in data))
    return data


def _mapping_like(first: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """A mapping of the type of `first`; a dict where that type cannot be made so."""
    if type(first) is dict:
        return values
    try:
        if isinstance(first, MutableMapping):  # a copy keeps what else the mapping holds, such as a default factory
            out = copy.copy(first)
            out.update(values)
            return out
        return type(first)(values)  # type: ignore[call-arg]
    except TypeError:
        return values


def _sequence_like(first: Sequence[Any], values: Iterable[Any]) -> Any:
    """Named tuples and lists keep their type, tuples become lists, as in PyTorch."""
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*values)
    items = list(values)
    if type(first) in (list, tuple):
        return items
    try:
        return type(first)(items)  # type: ignore[call-arg]
    except TypeError:
        return items
