"""What runs in a loader's worker processes.

A worker reads messages on a thread of its own, so that the loader never waits for it to take one, and so that it
notices in the middle of its work that the loader is gone.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from ..random import seed_everything
from . import transfer
from .fetch import Job

GRACE = 5.0  # seconds that a worker may go on with what it is doing after its loader has ended


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker process knows of itself. `seed`: of this worker in this pass over the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker process: which one. None in the main process."""
    return _info


# ------------------------------------------------------------------ messages


@dataclass(slots=True)
class Begin:
    """A pass over the dataset begins. `skip`: batches of a stream that have been delivered before."""

    number: int
    seed: int
    skip: int


@dataclass(slots=True)
class Make:
    """A batch is wanted: of these sample numbers, or for streams the next one."""

    of_pass: int
    number: int
    indices: Any


@dataclass(slots=True)
class Made:
    """The answer to `Make`."""

    of_pass: int
    number: int
    batch: Any


@dataclass(slots=True)
class Ended:
    """The answer to `Make` when this worker's stream has ended."""

    of_pass: int
    number: int


@dataclass(slots=True)
class Failed:
    """The answer to `Make` if it raised `error` (None if that cannot be pickled). number -1: the worker could not
    start."""

    of_pass: int
    number: int
    error: Exception | None
    kind: str
    text: str
    worker: int

    def exception(self) -> Exception:
        """The error to raise in the main process, with the worker's traceback as a note."""
        error = self.error
        if error is None or isinstance(error, StopIteration):  # a StopIteration would end the caller's loop silently
            error = RuntimeError(f"{self.kind} in a DataLoader worker")
        error.add_note(f"Raised in DataLoader worker {self.worker}:\n\n{self.text.rstrip()}")
        return error


# ------------------------------------------------------------------ the process


@dataclass(slots=True)
class _Worker:
    connection: Connection
    id: int
    count: int
    job: Job
    started: bool = False
    newest: int = 0  # pass
    seed: int = 0
    batches: Iterator[Any] | None = None
    tasks: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)

    def run(self) -> None:
        """Answers messages until the loader ends."""
        threading.Thread(target=self._listen, name="tracefuse-listener", daemon=True).start()
        try:
            while (task := self.tasks.get()) is not None:
                self._answer(task)
        except OSError:
            return  # the loader has ended

    def _listen(self) -> None:
        try:
            while True:
                try:
                    task = transfer.receive(self.connection)
                except transfer.Unreadable as e:
                    task = e
                if isinstance(task, Begin):
                    self.newest = task.number
                self.tasks.put(task)
        except (EOFError, OSError):
            self.tasks.put(None)
        time.sleep(GRACE)
        os._exit(1)

    def _answer(self, task: Begin | Make | Exception) -> None:
        """Does what is asked for. OSError: there is nobody to be answered."""
        try:
            if isinstance(task, Exception):
                raise task
            answer = self._begin(task) if isinstance(task, Begin) else self._make(task)
            if answer is None:
                return
            packed = transfer.pack(answer)
        except Exception as e:
            of_pass, number = (task.of_pass, task.number) if isinstance(task, Make) else (self.newest, -1)
            packed = transfer.pack(failure(e, of_pass, number, self.id))
        try:
            transfer.post(self.connection, packed)
        finally:
            packed.close()

    def _begin(self, task: Begin) -> None:
        global _info
        self.seed, self.batches = task.seed, None
        _info = WorkerInfo(self.id, self.count, task.seed + self.id, self.job.dataset)
        seed_everything(_info.seed)
        if not self.started:
            if self.job.init is not None:
                self.job.init(self.id)
            self.started = True
        if self.job.is_stream:
            self.batches = islice(self.job.stream(), task.skip, None)

    def _make(self, task: Make) -> Made | Ended | None:
        if task.of_pass != self.newest:
            return None  # of a pass that was given up
        if self.batches is not None:
            ended = Ended(task.of_pass, task.number)
            batch = next(self.batches, ended)
            return ended if batch is ended else Made(task.of_pass, task.number, batch)
        # Random numbers depend on the batch only: not on which worker makes it, or on what it has made before.
        seed_everything(self.seed + task.number)
        return Made(task.of_pass, task.number, self.job.make(task.indices))


def failure(error: Exception, of_pass: int, number: int, worker: int) -> Failed:
    """What the loader is told of an error."""
    text = "".join(traceback.format_exception(error))
    kept: Exception | None = error
    try:
        pickle.loads(pickle.dumps(error))  # some exceptions can be written, but not read
    except Exception:
        kept = None
    return Failed(of_pass, number, kept, f"{type(error).__name__}: {error}", text, worker)


def main(connection: Connection, worker: int, count: int, job: Job | None, copies: list[Connection]) -> None:
    """The life of a worker process. `job`: None if it comes through the connection. `copies`: to be closed."""
    for c in copies:
        c.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the loader's affair: it ends the workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        given = transfer.receive(connection) if job is None else job
    except (EOFError, OSError):
        return
    except transfer.Unreadable as e:
        transfer.send(connection, failure(e, 0, -1, worker))
        return
    _Worker(connection, worker, count, given).run()
