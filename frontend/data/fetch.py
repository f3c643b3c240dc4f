"""How batches are made, in worker processes and without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .collate import default_collate
from .dataset import IterableDataset, gathered, samples


@dataclass(slots=True)
class Job:
    """What a loader does with its dataset. `batch_size` and `drop_last` are for streams: other batches are given by
    their sample numbers."""

    dataset: Any
    collate: Callable[[Any], Any]
    batch_size: int | None
    drop_last: bool
    init: Callable[[int], Any] | None = None

    @property
    def is_stream(self) -> bool:
        return isinstance(self.dataset, IterableDataset)

    def make(self, indices: Any) -> Any:
        """The batch of a list of sample numbers; a single number gives that sample, collated."""
        if not isinstance(indices, (list, tuple)):
            return self.collate(self.dataset[indices])
        if self.collate is default_collate and indices:
            batch = gathered(self.dataset, indices)
            if batch is not None:
                return batch
        return self.collate(samples(self.dataset, indices))

    def stream(self) -> Iterator[Any]:
        """The batches of an iterable dataset."""
        found: Iterable[Any] = iter(self.dataset)
        return map(self.collate, found if self.batch_size is None else self._grouped(iter(found), self.batch_size))

    def _grouped(self, found: Iterator[Any], size: int) -> Iterator[Sequence[Any]]:
        while batch := list(islice(found, size)):
            if len(batch) == size or not self.drop_last:
                yield batch
