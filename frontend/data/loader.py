"""`DataLoader`: batches of a dataset, made here or in worker processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any

from .collate import default_collate
from .dataset import IterableDataset
from .sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed, seeded
from .worker import Job, start, work


def _as_is(x: Any) -> Any:
    return x


class DataLoader:
    """Iterates over batches of `dataset`, as PyTorch's loader of that name does.

    shuffle: a new order each pass, fixed by `generator` (an int seed, a tracefuse or NumPy generator; None: by
    `tr.manual_seed`). batch_size None: single samples. num_workers > 0: that many spawned processes make batches ahead
    of use (`prefetch_factor` a worker), in order; dataset, collate_fn and samples must be picklable, and scripts need
    `if __name__ == "__main__":`. In workers, the random generators of Python, NumPy and tracefuse are seeded for each
    batch, so that augmentation does not depend on the number of workers. timeout: seconds to wait for a batch (0: any).
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[Sequence[int]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        *,
        generator: Any = None,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
    ):
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {num_workers}")
        streaming = isinstance(dataset, IterableDataset)
        if streaming and (shuffle or sampler is not None or batch_sampler is not None or num_workers):
            raise ValueError("an IterableDataset takes no shuffle, sampler, batch_sampler or num_workers")
        if sampler is not None and shuffle:
            raise ValueError("give sampler or shuffle, not both")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_size is None and drop_last:
            raise ValueError("drop_last needs a batch_size")
        if prefetch_factor is not None and (num_workers == 0 or prefetch_factor < 1):
            raise ValueError("prefetch_factor needs num_workers > 0, and must be positive")
        self.dataset: Any = dataset
        self.num_workers, self.timeout = num_workers, timeout
        self.drop_last, self.worker_init_fn, self.persistent_workers = drop_last, worker_init_fn, persistent_workers
        self.prefetch_factor = prefetch_factor or 2
        self.generator = generator = seeded(generator)
        if sampler is None and not streaming:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None and batch_size is not None and sampler is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = (
            None if batch_sampler is not None and not isinstance(batch_sampler, BatchSampler) else batch_size
        )
        self.sampler, self.batch_sampler = sampler, batch_sampler
        single = batch_size is None and batch_sampler is None
        self.collate_fn = collate_fn or (_as_is if single else default_collate)
        self._pool: ProcessPoolExecutor | None = None

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.dataset, IterableDataset):
            return self._stream()
        order = self.batch_sampler if self.batch_sampler is not None else self.sampler
        assert order is not None
        seed = draw_seed(self.generator)  # without workers too, so that their number does not change the next order
        if self.num_workers == 0:
            job = Job(self.dataset, self.collate_fn)
            return (job.make(indices) for indices in order)
        return self._from_workers(order, seed)

    def __len__(self) -> int:
        order = self.batch_sampler if self.batch_sampler is not None else self.sampler
        if order is not None:
            return len(order)  # type: ignore[arg-type]
        n = len(self.dataset)  # a stream that knows its length
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def _stream(self) -> Iterator[Any]:
        samples = iter(self.dataset)
        if self.batch_size is None:
            yield from map(self.collate_fn, samples)
            return
        while batch := list(islice(samples, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield self.collate_fn(batch)

    def _from_workers(self, order: Iterable[Any], seed: int) -> Iterator[Any]:
        pool = self._pool or self._start(seed)
        self._pool = pool if self.persistent_workers else None
        jobs = enumerate(order)
        waiting: deque[Future] = deque()
        try:
            for number, indices in islice(jobs, self.num_workers * self.prefetch_factor):
                waiting.append(pool.submit(work, indices, seed + number))
            while waiting:
                batch = waiting.popleft().result(self.timeout or None)
                for number, indices in islice(jobs, 1):
                    waiting.append(pool.submit(work, indices, seed + number))
                yield batch
        except BrokenProcessPool as e:
            self._pool = None
            raise RuntimeError(
                "a DataLoader worker process ended unexpectedly. If it could not start: scripts with num_workers > 0 "
                'need `if __name__ == "__main__":`, and dataset and collate_fn must be importable'
            ) from e
        finally:
            for f in waiting:
                f.cancel()
            if self._pool is not pool:
                pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, seed: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        job = Job(self.dataset, self.collate_fn)
        return ProcessPoolExecutor(
            self.num_workers,
            mp_context=context,
            initializer=start,
            initargs=(job, context.Value("i", 0), self.num_workers, seed, self.worker_init_fn),
        )
