"""Datasets: where samples come from."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..creation import asarray
from ..tensor import Tensor


class Dataset:
    """Samples by number: subclasses define `__getitem__(index)` and `__len__()`."""

    def __getitem__(self, index: int) -> Any:
        raise TypeError(f"{type(self).__name__} does not define __getitem__")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset:
    """Samples in the order of a stream: subclasses define `__iter__()`."""

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(f"{type(self).__name__} does not define __iter__")


class TensorDataset(Dataset):
    """Sample i is (t[i] for each tensor). ValueError unless all first axes have one size."""

    def __init__(self, *tensors: Any):
        self.tensors = tuple(t if isinstance(t, Tensor) else asarray(t) for t in tensors)
        sizes = {t.shape[0] for t in self.tensors}
        if len(sizes) > 1:
            raise ValueError(
                f"TensorDataset: the first axes have different sizes: {[tuple(t.shape) for t in self.tensors]}"
            )

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return self.tensors[0].shape[0] if self.tensors else 0

    def gather(self, indices: Sequence[int]) -> list[Tensor]:
        """What collating the samples `indices` gives, in one lookup a tensor."""
        at = np.asarray(indices, np.int64)
        return [t[at] for t in self.tensors]


class Subset(Dataset):
    """The samples `indices` of a dataset."""

    def __init__(self, dataset: Any, indices: Sequence[int]):
        self.dataset, self.indices = dataset, indices

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


class ConcatDataset(Dataset):
    """Datasets one after the other."""

    def __init__(self, datasets: Iterable[Any]):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.cumulative_sizes = [int(n) for n in np.cumsum([len(d) for d in self.datasets])]

    def __getitem__(self, index: int) -> Any:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"sample {index} is out of range for {n} samples")
        index %= n
        which = bisect.bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]


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
    if sum(sizes) != n:
        raise ValueError(f"random_split: the lengths {sizes} do not add up to {n} samples")
    order = permutation(n, generator)
    ends = np.cumsum(sizes)
    return [Subset(dataset, order[end - size : end]) for end, size in zip(ends, sizes)]
