"""What runs in a loader's worker processes."""

from __future__ import annotations

import random as python_random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import random
from .collate import default_collate
from .dataset import TensorDataset


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker process knows of itself. `seed`: of the pass over the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


@dataclass(slots=True)
class Job:
    """How to make a batch."""

    dataset: Any
    collate: Callable[[Sequence[Any]], Any]

    def make(self, indices: Any) -> Any:
        """The batch of a list of sample numbers; a single number gives that sample, collated."""
        if not isinstance(indices, (list, tuple)):
            return self.collate(self.dataset[indices])
        if self.collate is default_collate and type(self.dataset) is TensorDataset:
            return self.dataset.gather(indices)
        fetch = getattr(self.dataset, "__getitems__", None)
        return self.collate(fetch(indices) if fetch is not None else [self.dataset[i] for i in indices])


_job: Job | None = None
_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker process: which one. None in the main process."""
    return _info


def start(job: Job, ids: Any, num_workers: int, seed: int, init: Callable[[int], Any] | None) -> None:
    """Runs once in each new worker."""
    global _job, _info
    with ids.get_lock():
        number = ids.value
        ids.value += 1
    _job, _info = job, WorkerInfo(number, num_workers, seed, job.dataset)
    if init is not None:
        init(number)


def work(indices: Any, seed: int) -> Any:
    """One batch. Random numbers depend on the batch only, not on which worker makes it."""
    assert _job is not None
    seed_everything(seed)
    return _job.make(indices)


def seed_everything(seed: int) -> None:
    python_random.seed(seed)
    np.random.seed(seed % 2**32)
    random.manual_seed(seed)
