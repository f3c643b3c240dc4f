"""`DataLoader`: batches of a dataset, made here or in worker processes."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any

from .. import random, random_state
from .collate import default_collate, default_convert
from .dataset import IterableDataset
from .fetch import Job
from .iteration import LocalPass, Pass, Position, WorkerPass
from .pool import WorkerPool
from .sampler import BatchSampler, RandomSampler, SequentialSampler, draw_seed, seeded


class DataLoader:
    """Iterates over batches of `dataset`, as PyTorch's loader of that name does.

    shuffle: a new order each pass, fixed by `generator` (an int seed, a tracefuse or NumPy generator; None: by
    `tr.manual_seed`). batch_size None: single samples. collate_fn: makes a batch of a list of samples.

    num_workers > 0: that many processes make batches ahead of use, `prefetch_factor` (2) each, and deliver them in
    order unless `in_order` is False. Arrays come through shared memory. `multiprocessing_context`: "forkserver" (the
    default: a clean process that has imported tracefuse once is forked), "spawn", "fork" or a context of
    multiprocessing; dataset, collate_fn and worker_init_fn must be picklable (not for "fork"), and scripts need
    `if __name__ == "__main__":`. persistent_workers: they stay for the next pass. timeout: seconds to wait for a batch
    (0: any). worker_init_fn: called with each worker's number in that worker when it starts.

    In worker i the generators of Python, NumPy and tracefuse are seeded with a number drawn from `generator` plus i
    when a pass begins, and, where samples have numbers, again for each batch: so random augmentation depends neither on
    the number of workers nor on where a pass was resumed. `get_worker_info()` tells where one is.

    pin_memory and pin_memory_device are accepted for PyTorch's sake: tensors are in the CPU's memory anyway.

    `state_dict()` holds the position in a pass; a loader that has loaded it goes on with the next batch.

    An error in a worker is raised here, with the worker's traceback as a note; RuntimeError if a worker is killed or
    too slow. ValueError for arguments that contradict each other.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Sequence[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: str | BaseContext | None = None,
        generator: Any = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ):
        if num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {num_workers}")
        if timeout < 0:
            raise ValueError(f"timeout must not be negative, got {timeout}")
        if prefetch_factor is not None and (num_workers == 0 or prefetch_factor < 1):
            raise ValueError("prefetch_factor needs num_workers > 0, and must be positive")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers needs num_workers > 0")
        if multiprocessing_context is not None and num_workers == 0:
            raise ValueError("multiprocessing_context needs num_workers > 0")
        streaming = isinstance(dataset, IterableDataset)
        if streaming and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "an IterableDataset takes no shuffle, sampler or batch_sampler: it has an order of its own"
            )
        if sampler is not None and shuffle:
            raise ValueError("give sampler or shuffle, not both")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_size is None and drop_last:
            raise ValueError("drop_last needs a batch_size")
        self.dataset: Any = dataset
        self.num_workers, self.timeout, self.in_order = num_workers, timeout, in_order
        self.prefetch_factor = prefetch_factor or (2 if num_workers else None)
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.drop_last, self.worker_init_fn, self.persistent_workers = drop_last, worker_init_fn, persistent_workers
        self.multiprocessing_context = _context(multiprocessing_context) if num_workers else None
        self.generator = generator = seeded(generator)
        if sampler is None and not streaming:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.batch_size: int | None = batch_size
        if batch_sampler is not None:
            self.batch_size = batch_sampler.batch_size if isinstance(batch_sampler, BatchSampler) else None
        elif batch_size is not None:  # for streams too, so that bad sizes are noticed
            batch_sampler = BatchSampler(() if sampler is None else sampler, batch_size, drop_last)
        self.sampler, self.batch_sampler = sampler, None if streaming else batch_sampler
        single = batch_sampler is None
        self.collate_fn: Callable[[Any], Any] = collate_fn or (default_convert if single else default_collate)
        self._pool: WorkerPool | None = None
        self._current: weakref.ref[Pass] | None = None
        self._resume: dict[str, Any] | None = None

    # ------------------------------------------------------------ passes

    def __iter__(self) -> Iterator[Any]:
        resumed, self._resume = self._resume, None
        position = Position() if resumed is None else Position(**copy.deepcopy(resumed["position"]))
        start = random_state.states(self._generators()) if resumed is None else resumed["start"]
        now = None if resumed is None else random_state.states(self._generators())
        try:
            if now is not None:
                random_state.set_states(start, self._generators())
            seed = draw_seed(self.generator)  # without workers too: their number does not change the next order
            order = self.batch_sampler if self.batch_sampler is not None else self.sampler
            drawn = None if order is None else iter(order)
            if self.num_workers == 0:
                current: Pass = LocalPass(self, position, start, drawn)
            else:
                current = WorkerPass(self, position, start, drawn, seed)
        finally:
            if now is not None:  # what was drawn here has been drawn before the state was saved
                random_state.set_states(now, self._generators())
        self._current = weakref.ref(current)
        return current

    def __len__(self) -> int:
        """Batches in a pass. TypeError for streams that do not know their length."""
        order = self.batch_sampler if self.batch_sampler is not None else self.sampler
        if order is not None:
            return len(order)  # type: ignore[arg-type]
        n = len(self.dataset)
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def _job(self) -> Job:
        return Job(self.dataset, self.collate_fn, self.batch_size, self.drop_last, self.worker_init_fn)

    def _take_pool(self) -> WorkerPool:
        """Workers for one pass: those that are waiting, or new ones."""
        pool, self._pool = self._pool, None
        if pool is None or pool.closed:
            pool = WorkerPool(self._job(), self.num_workers, self.multiprocessing_context)
        return pool

    def _give_back(self, pool: WorkerPool) -> None:
        if self.persistent_workers and self._pool is None and not pool.closed:
            self._pool = pool
        else:
            pool.close()

    # ------------------------------------------------------------ position

    def _generators(self) -> list[Any]:
        """The generators that the order depends on, besides the default ones."""
        order = self.batch_sampler, getattr(self.batch_sampler, "sampler", None), self.sampler
        found = [self.generator, *(getattr(s, "generator", None) for s in order)]
        kinds = [g for g in found if hasattr(g, "get_state") or hasattr(g, "bit_generator")]
        return [g for g in {id(g): g for g in kinds}.values() if g is not random.default_generator]

    def state_dict(self) -> dict[str, Any]:
        """Where this loader is: dicts and lists of arrays, numbers and strings. In the middle of a pass, that is the
        number of batches delivered by the newest iterator still in use; otherwise the next pass begins anew."""
        current = self._current() if self._current is not None else None
        running = self._resume
        if running is None and current is not None and not current.finished:
            running = {"position": dataclasses.asdict(current.position), "start": current.start}
        return {
            "batch_size": self.batch_size,
            "stream_workers": self.num_workers if isinstance(self.dataset, IterableDataset) else None,
            "pass": running,
            "generators": [random_state.generator_state(g) for g in self._generators()],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next pass goes on where the one was whose `state_dict()` this is, with the same order and batches.

        Map-style datasets are not asked for what was delivered before; streams are read again up to there. With a
        stream, workers must be as many as they were: ValueError for that, for another batch size, and for generators of
        another kind.
        """
        own = self.state_dict()
        for key, name in (("batch_size", "batch_size"), ("stream_workers", "num_workers")):
            if state_dict[key] != own[key]:
                raise ValueError(f"the loader's state is of {name}={state_dict[key]}, this loader has {own[key]}")
        generators = self._generators()
        if len(state_dict["generators"]) != len(generators):
            raise ValueError(
                f"the loader's state has {len(state_dict['generators'])} generators, this loader {len(generators)}"
            )
        for generator, saved in zip(generators, state_dict["generators"]):
            random_state.set_generator_state(generator, saved)
        self._resume = None if state_dict["pass"] is None else dict(state_dict["pass"])
        self._current = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None, "_current": None}


def _context(given: str | BaseContext | None) -> BaseContext:
    """A context of multiprocessing. ValueError names the start methods that there are."""
    methods = multiprocessing.get_all_start_methods()
    if given is None:
        given = "forkserver" if "forkserver" in methods else "spawn"
    if not isinstance(given, str):
        return given
    if given not in methods:
        known = ", ".join(methods)
        raise ValueError(f"multiprocessing_context={given!r} is no start method; there are {known}")
    return multiprocessing.get_context(given)
