"""Samplers: in which order a loader visits a dataset.

Random orders come from one 64-bit seed per pass. It is drawn from tracefuse's generator (so `tr.manual_seed` fixes it)
or from the `generator` given: an int seeds a sequence of its own, a tracefuse or NumPy generator is drawn from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np

from .. import random


def draw_seed(generator: Any = None) -> int:
    """A 63-bit seed from `generator`: None (tracefuse's own), a tracefuse or a NumPy generator."""
    if isinstance(generator, np.random.Generator):
        return int(generator.integers(0, 2**63 - 1))
    words = np.asarray(random.randint(0, 2**31 - 1, (2,), generator=generator))
    return int(words[0]) << 31 | int(words[1])


def seeded(generator: Any) -> Any:
    """An int as a NumPy generator of that seed; anything else as it is."""
    return np.random.Generator(np.random.Philox(generator)) if isinstance(generator, (int, np.integer)) else generator


def permutation(n: int, generator: Any = None) -> list[int]:
    """0 .. n-1 in random order."""
    return np.random.Generator(np.random.Philox(draw_seed(seeded(generator)))).permutation(n).tolist()


T = TypeVar("T", covariant=True)


def _positive(n: Any) -> bool:
    return isinstance(n, (int, np.integer)) and not isinstance(n, bool) and bool(n > 0)


class Sampler(Generic[T]):
    """Subclasses yield sample numbers from `__iter__`."""

    def __init__(self, data_source: Any = None):
        pass  # old code calls super().__init__(data_source)

    def __iter__(self) -> Iterator[T]:
        raise TypeError(f"{type(self).__name__} does not define __iter__")


class SequentialSampler(Sampler[int]):
    """0, 1, 2, .."""

    def __init__(self, data_source: Sized):
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """A new random order each pass, of `num_samples` (default: all; more than all: in several rounds). replacement:
    independent draws instead. TypeError or ValueError for a `replacement` that is no bool, a `num_samples` below 1."""

    def __init__(
        self, data_source: Sized, replacement: bool = False, num_samples: int | None = None, generator: Any = None
    ):
        if not isinstance(replacement, bool):
            raise TypeError(f"RandomSampler: replacement must be True or False, not {replacement!r}")
        if num_samples is not None and not _positive(num_samples):
            raise ValueError(f"RandomSampler: num_samples must be a positive integer, got {num_samples!r}")
        self.data_source, self.replacement = data_source, replacement
        self.generator = seeded(generator)
        self._num_samples = num_samples

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n, wanted = len(self.data_source), self.num_samples
        if wanted and not n:
            raise ValueError(f"RandomSampler: {wanted} samples are wanted of a dataset that has none")
        rng = np.random.Generator(np.random.Philox(draw_seed(self.generator)))
        if self.replacement:
            yield from rng.integers(0, n, wanted).tolist()
            return
        while wanted > 0:
            order = rng.permutation(n)[:wanted].tolist()
            yield from order
            wanted -= len(order)

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler[int]):
    """The given numbers in a new random order each pass."""

    def __init__(self, indices: Sequence[int], generator: Any = None):
        self.indices, self.generator = indices, seeded(generator)

    def __iter__(self) -> Iterator[int]:
        return (self.indices[i] for i in permutation(len(self.indices), self.generator))

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler[int]):
    """`num_samples` draws of i with probability weights[i] / sum(weights), each time anew unless `replacement` is
    False: then no number comes twice, and ValueError says if there are too few positive weights."""

    def __init__(self, weights: Sequence[float], num_samples: int, replacement: bool = True, generator: Any = None):
        self.weights = np.asarray(weights, np.float64)
        total = self.weights.sum()
        if self.weights.ndim != 1 or (self.weights < 0).any() or not 0 < total < np.inf:
            raise ValueError(
                "WeightedRandomSampler: weights must be a list of non-negative numbers with a positive, finite sum"
            )
        if not isinstance(replacement, bool):
            raise TypeError(f"WeightedRandomSampler: replacement must be True or False, not {replacement!r}")
        if not _positive(num_samples):
            raise ValueError(f"WeightedRandomSampler: num_samples must be a positive integer, got {num_samples!r}")
        positive = np.count_nonzero(self.weights)
        if not replacement and num_samples > positive:
            raise ValueError(
                f"WeightedRandomSampler: {num_samples} samples without replacement, but {positive} positive weights"
            )
        self.num_samples, self.replacement, self.generator = num_samples, replacement, seeded(generator)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.Generator(np.random.Philox(draw_seed(self.generator)))
        p = self.weights / self.weights.sum()
        return iter(rng.choice(len(p), self.num_samples, self.replacement, p).tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of `batch_size` numbers of another sampler; the last, shorter one unless drop_last."""

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool = False):
        if not _positive(batch_size):
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last must be True or False, got {drop_last!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        for i in self.sampler:
            batch.append(i)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
