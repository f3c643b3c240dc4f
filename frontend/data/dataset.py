"""Datasets: where samples come from."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from ..creation import asarray
from ..tensor import Tensor

T = TypeVar("T", covariant=True)


class Dataset(Generic[T]):
    """Samples by number: subclasses define `__getitem__(index)` and `__len__()`; if they also define
    `__getitems__(indices)`, a list of samples, loaders fetch each batch with one call of it."""

    def __getitem__(self, index: int) -> T:
        raise TypeError(f"{type(self).__name__} does not define __getitem__")

    def __add__(self, other: Any) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset[T]):
    """Samples in the order of a stream: subclasses define `__iter__()`.

    Every worker process of a loader iterates over a copy of its own: `get_worker_info()` tells it which part of the
    stream to give.
    """

    def __iter__(self) -> Iterator[T]:
        raise TypeError(f"{type(self).__name__} does not define __iter__")

    def __getitem__(self, index: int) -> T:
        raise TypeError(f"{type(self).__name__} is a stream: it has no sample {index}, iterate over it")

    def __add__(self, other: Any) -> ChainDataset:
        return ChainDataset([self, other])


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Sample i is (t[i] for each tensor). ValueError unless all first axes have one size."""

    def __init__(self, *tensors: Any):
        self.tensors = tuple(t if isinstance(t, Tensor) else asarray(t) for t in tensors)
        shapes = [tuple(t.shape) for t in self.tensors]
        if not all(shapes):
            raise ValueError(f"TensorDataset: a tensor without axes has no samples: {shapes}")
        if len({s[0] for s in shapes}) > 1:
            raise ValueError(f"TensorDataset: the first axes have different sizes: {shapes}")

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0] if self.tensors else 0


class StackDataset(Dataset[Any]):
    """Datasets of one length side by side: sample i is a tuple of their samples i, or a dict for keyword arguments.

    ValueError unless datasets are given, all of one length, and either positionally or by name.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset takes datasets either as positional or as keyword arguments, at least one")
        self.datasets: Any = args or kwargs
        sizes = [len(d) for d in args or kwargs.values()]
        if len(set(sizes)) > 1:
            raise ValueError(f"StackDataset: the datasets have different lengths: {sizes}")

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.datasets, dict):
            return {name: d[index] for name, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if isinstance(self.datasets, dict):
            columns = zip(*(samples(d, indices) for d in self.datasets.values()))
            return [dict(zip(self.datasets, column)) for column in columns]
        return list(zip(*(samples(d, indices) for d in self.datasets)))

    def __len__(self) -> int:
        return len(next(iter(self.datasets.values())) if isinstance(self.datasets, dict) else self.datasets[0])


class Subset(Dataset[T]):
    """The samples `indices` of a dataset."""

    def __init__(self, dataset: Any, indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: int) -> T:
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[T]:
        return samples(self.dataset, [self.indices[i] for i in indices])

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset[T]):
    """Datasets one after the other."""

    def __init__(self, datasets: Iterable[Any]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        if any(isinstance(d, IterableDataset) for d in self.datasets):
            raise ValueError("ConcatDataset cannot number the samples of an IterableDataset; use ChainDataset")
        self.cumulative_sizes = [int(n) for n in np.cumsum([len(d) for d in self.datasets])]

    def __getitem__(self, index: int) -> T:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"sample {index} is out of range for {n} samples")
        index %= n
        which = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


class ChainDataset(IterableDataset[T]):
    """Streams one after the other."""

    def __init__(self, datasets: Iterable[Any]):
        self.datasets = list(datasets)
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise TypeError(f"ChainDataset takes IterableDatasets, not a {type(d).__name__}; use ConcatDataset")

    def __iter__(self) -> Iterator[T]:
        for d in self.datasets:
            yield from d

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)


def samples(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """The samples of those numbers, by one call of `__getitems__` where the dataset has it."""
    fetch = getattr(dataset, "__getitems__", None)
    return fetch(indices) if fetch is not None else [dataset[i] for i in indices]


def gathered(dataset: Any, indices: Sequence[int]) -> list[Tensor] | None:
    """What `default_collate` makes of these samples, in one lookup a tensor; None for datasets not made of tensors."""
    while type(dataset) is Subset:
        dataset, indices = dataset.dataset, [dataset.indices[i] for i in indices]
    if type(dataset) is not TensorDataset:
        return None
    at = np.asarray(indices, np.int64)
    return [t[at] for t in dataset.tensors]


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Any = None) -> list[Subset]:
    """Non-overlapping random subsets; `lengths` are numbers of samples, or fractions that add up to 1."""
    from .sampler import permutation

    n = len(dataset)
    sizes = [int(x) for x in lengths]
    if any(isinstance(x, float) for x in lengths):
        if abs(sum(lengths) - 1) > 1e-6:
            raise ValueError(f"random_split: the fractions {list(lengths)} do not add up to 1")
        sizes = [int(n * x) for x in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
    if sum(sizes) != n or any(size < 0 for size in sizes):
        raise ValueError(f"random_split: the lengths {sizes} do not add up to {n} samples")
    order = permutation(n, generator)
    ends = np.cumsum(sizes)
    return [Subset(dataset, order[end - size : end]) for end, size in zip(ends, sizes)]
