"""One pass over a loader: an iterator that knows which batches it has delivered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any

from .pool import WorkerPool
from .worker import Ended, Failed, Made

if TYPE_CHECKING:
    from .loader import DataLoader


@dataclass(slots=True)
class Position:
    """What of a pass has been delivered. Numbered batches: all below `done`, and those in `ahead`. Streams: `counts`
    batches of each worker's (without workers: of the only) stream, and it is `turn`'s turn."""

    done: int = 0
    ahead: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    turn: int = 0

    @property
    def delivered(self) -> int:
        """Number of batches."""
        return self.done + len(self.ahead) + sum(self.counts)

    def deliver(self, number: int) -> None:
        """Batch `number` has been delivered."""
        self.ahead.append(number)
        while self.done in self.ahead:
            self.ahead.remove(self.done)
            self.done += 1

    def remaining(self, order: Iterator[Any]) -> Iterator[tuple[int, Any]]:
        """(number, indices) of the batches still to come. The first is taken from `order` at once: samplers draw random
        orders then, and the order must not depend on what is drawn between here and its use."""
        skipped = set(self.ahead)
        found = ((n, x) for n, x in enumerate(islice(order, self.done, None), self.done) if n not in skipped)
        first = list(islice(found, 1))
        return chain(first, found)


class Pass(Iterator[Any]):
    """Batches of `loader`, from `position` on; subclasses make them. `start`: the random state when the pass began."""

    def __init__(self, loader: DataLoader, position: Position, start: dict[str, Any]):
        self.loader, self.position, self.start = loader, position, start
        self.finished = False

    def __len__(self) -> int:
        return len(self.loader)

    def __next__(self) -> Any:
        if self.finished:
            raise StopIteration
        try:
            return self._next()
        except StopIteration:
            self.finish()
            raise

    def _next(self) -> Any:
        raise StopIteration

    def finish(self) -> None:
        """No more batches: what makes them is let go."""
        self.finished = True


class LocalPass(Pass):
    """Makes batches when they are asked for, in this process."""

    def __init__(self, loader: DataLoader, position: Position, start: dict[str, Any], order: Iterator[Any] | None):
        super().__init__(loader, position, start)
        self.job = loader._job()
        self.jobs = position.remaining(order) if order is not None else None
        self.batches: Iterator[Any] = iter(())
        if order is None:
            position.counts = position.counts or [0]
            self.batches = self.job.stream()
            for _ in islice(self.batches, position.counts[0]):
                pass  # delivered before

    def _next(self) -> Any:
        if self.jobs is None:
            batch = next(self.batches)
            self.position.counts[0] += 1
            return batch
        number, indices = next(self.jobs)
        self.position.deliver(number)
        try:
            return self.job.make(indices)
        except StopIteration as e:  # would end the caller's loop silently
            raise RuntimeError("StopIteration in a DataLoader's dataset or collate_fn") from e


class WorkerPass(Pass):
    """Has batches made ahead of use by worker processes: `loader.prefetch_factor` for each.

    A numbered batch is made by the worker that has the least to do; a stream's next batch by the next worker in turn
    whose stream has not ended. Delivered in that order, or with `in_order` False as they come.
    """

    def __init__(
        self, loader: DataLoader, position: Position, start: dict[str, Any], order: Iterator[Any] | None, seed: int
    ):
        self.pool: WorkerPool = loader._take_pool()
        super().__init__(loader, position, start)
        n = loader.num_workers
        self.ended: set[int] = set()
        self.waiting: dict[int, int] = {}  # number of a batch asked for: worker
        self.arrived: dict[int, Made | Ended | Failed] = {}
        self.jobs: Iterator[tuple[int, Any]] = ((i, None) for i in count())
        self.is_stream, self.turn = order is None, position.turn
        if self.is_stream:
            position.counts = position.counts or [0] * n
        try:
            if order is not None:
                self.jobs = position.remaining(order)
            self.pool.begin(seed, position.counts or [0] * n)
            for _ in range(n * (loader.prefetch_factor or 1)):
                self._submit()
        except BaseException:
            self.finish()
            raise

    def _submit(self) -> None:
        """Asks for one more batch, if there is one."""
        if self.is_stream and len(self.ended) == self.loader.num_workers:
            return
        found = next(self.jobs, None)
        if found is None:
            return
        number, indices = found
        worker = self._next_in_turn() if self.is_stream else self._least_busy(number)
        self.pool.submit(worker, number, indices)
        self.waiting[number] = worker

    def _next_in_turn(self) -> int:
        n = self.loader.num_workers
        while self.turn in self.ended:
            self.turn = (self.turn + 1) % n
        worker, self.turn = self.turn, (self.turn + 1) % n
        return worker

    def _least_busy(self, number: int) -> int:
        n = self.loader.num_workers
        load = [0] * n
        for other, worker in self.waiting.items():
            load[worker] += other not in self.arrived
        return min(range(n), key=lambda w: (load[w], (w - number) % n))

    def _next(self) -> Any:
        while self.waiting:
            number = next(iter(self.waiting if self.loader.in_order else self.arrived), None)
            if number not in self.arrived:
                self._receive()
                continue
            self._submit()  # first: if it raises, this batch can still be had
            worker, answer = self.waiting.pop(number), self.arrived.pop(number)
            if isinstance(answer, Ended):
                continue
            if self.is_stream:
                self.position.counts[worker] += 1
                self.position.turn = (worker + 1) % self.loader.num_workers
            else:
                self.position.deliver(number)
            if isinstance(answer, Failed):
                raise answer.exception()
            return answer.batch
        raise StopIteration

    def _receive(self) -> None:
        if self.pool.closed:
            raise RuntimeError("the DataLoader's workers have ended, as an earlier error said; start a new pass")
        answer = self.pool.receive(self.loader.timeout)
        self.arrived[answer.number] = answer
        if isinstance(answer, Ended):
            self.ended.add(self.waiting[answer.number])

    def finish(self) -> None:
        if self.finished:
            return
        super().finish()
        self.waiting.clear()
        self.arrived.clear()
        self.jobs = iter(())
        self.loader._give_back(self.pool)

    def __del__(self) -> None:
        if not getattr(self, "finished", True):
            self.finish()
