"""The worker processes of a loader, seen from the process that has it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection as mp_connection
from multiprocessing import forkserver
from typing import Any

from . import transfer, worker
from .fetch import Job
from .worker import Begin, Ended, Failed, Made, Make

# Workers are processes instead of threads: libraries in them should not start threads of their own.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TRACEFUSE_NUM_THREADS")
_GUARD = (
    "a script whose loader has num_workers > 0 is imported by the workers, so it must start its work under "
    '`if __name__ == "__main__":` (or use num_workers=0)'
)
_starting = threading.Lock()
_alive: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


class WorkerPool:
    """`count` processes that do a job. Closed by `close`, when it is no longer referenced, and at exit.

    TypeError if the job cannot be pickled; RuntimeError in a process that is itself still being started.
    """

    def __init__(self, job: Job, count: int, context: Any):
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(f"a DataLoader is used while this worker process imports the main script: {_GUARD}")
        self.pass_number = 0
        self._processes: list[Any] = []
        self._connections: list[Any] = []
        _alive.add(self)
        self._ready = False  # an answer has come, so that the workers can work at all
        self._finalizer = weakref.finalize(self, _shut_down, self._processes, self._connections, os.getpid())
        inherited, packed = _pack(job, count, context)
        try:
            _preload(context)
            with _quiet_start():
                for i in range(count):
                    self._start(context, i, count, inherited)
            if packed is not None:
                for c in self._connections:
                    _post(c, packed)
        except BaseException:
            self.close()
            raise
        finally:
            if packed is not None:
                packed.close()

    def _start(self, context: Any, i: int, count: int, inherited: Job | None) -> None:
        ours, theirs = context.Pipe()
        self._connections.append(ours)
        # A forked process has copies of our ends, and would keep itself and others from seeing that we closed them.
        forked = context.get_start_method() == "fork"
        copies = [c for pool in _alive for c in pool._connections] if forked else []
        process = context.Process(
            target=worker.main, args=(theirs, i, count, inherited, copies), name=f"DataLoader worker {i}", daemon=True
        )
        try:
            process.start()
        except (EOFError, ConnectionError) as e:
            raise RuntimeError(f"the fork server has ended, what it printed may say why. Mind that {_GUARD}") from e
        self._processes.append(process)
        theirs.close()  # so that ours ends when the process does

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def begin(self, seed: int, skips: list[int]) -> None:
        """Starts a pass over the dataset. Answers of earlier ones are not given any more."""
        self.pass_number += 1
        for c, skip in zip(self._connections, skips):
            _post(c, transfer.pack(Begin(self.pass_number, seed, skip)))

    def submit(self, which: int, number: int, indices: Any) -> None:
        """Asks worker `which` for batch `number`. Returns at once."""
        _post(self._connections[which], transfer.pack(Make(self.pass_number, number, indices)))

    def receive(self, timeout: float) -> Made | Ended | Failed:
        """The next answer of any worker, waiting up to `timeout` seconds (0: for ever).

        RuntimeError if none comes in time, or a worker has ended; after that the pool is closed. So it is after any
        other interruption: a message may have been read in part.
        """
        try:
            return self._receive(time.monotonic() + timeout if timeout else None, timeout)
        except BaseException:
            self.close()
            raise

    def _receive(self, deadline: float | None, timeout: float) -> Made | Ended | Failed:
        sentinels = {p.sentinel: i for i, p in enumerate(self._processes)}
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            found = mp_connection.wait([*self._connections, *sentinels], left)
            if not found:
                raise RuntimeError(f"the DataLoader got no batch from its workers in {timeout} seconds (timeout=)")
            for i, c in enumerate(self._connections):
                if c not in found:
                    continue
                try:
                    answer = transfer.receive(c)
                except (EOFError, OSError):
                    raise RuntimeError(self._obituary(i)) from None
                self._ready = self._ready or answer.number >= 0
                if isinstance(answer, Failed) and answer.number < 0:
                    self.close()
                    raise answer.exception()
                if answer.of_pass == self.pass_number:
                    return answer
                break
            else:
                raise RuntimeError(self._obituary(sentinels[found[0]]))  # type: ignore[index]

    def _obituary(self, i: int) -> str:
        process = self._processes[i]
        process.join(1.0)
        code, text = process.exitcode, f"DataLoader worker {i} (process {process.pid})"
        if code is None:
            return f"{text} has closed its connection"
        if code < 0:
            name = signal.Signals(-code).name if -code in iter(signal.Signals) else f"signal {-code}"
            text += f" was killed by {name} (exit code {code})"
            return text + ("; the system may have run out of memory" if name == "SIGKILL" else "")
        text += f" ended with exit code {code}"
        return (
            text if self._ready else f"{text} before it made a batch; what it printed may say why. Mind that {_GUARD}"
        )

    def close(self) -> None:
        """Ends all workers, and waits until they are gone. What they are doing is given two seconds."""
        self._finalizer()


def _preload(context: Any) -> None:
    """Lets a fork server that is not running yet import what every worker needs, unless it was told what to import."""
    server = getattr(forkserver, "_forkserver", None)
    if context.get_start_method() == "forkserver" and getattr(server, "_preload_modules", None) == ["__main__"]:
        context.set_forkserver_preload(["__main__", worker.__name__])


def _post(connection: Any, packed: transfer.Packed) -> None:
    """Sends, unless the worker has ended: `receive` says so, with what it may have sent before."""
    try:
        transfer.post(connection, packed)
    except OSError:
        pass


def _pack(job: Job, count: int, context: Any) -> tuple[Job | None, transfer.Packed | None]:
    """The job as an argument of the processes, or as a message to them: (one, None) or (None, the other).

    A message is better where possible: workers share the memory of its arrays, and can report what is wrong with it.
    """
    if context.get_start_method() == "fork":
        return job, None
    try:
        return None, transfer.pack(job, count)
    except RuntimeError:  # locks, queues and shared values of multiprocessing can only be inherited
        return job, None
    except (pickle.PicklingError, TypeError, AttributeError) as e:
        raise TypeError(
            f"dataset, collate_fn and worker_init_fn must be picklable for num_workers > 0: {e}; "
            "define them at the top level of a module (no lambda, no local class), or use num_workers=0"
        ) from e


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes started here find libraries limited to one thread, unless the user says otherwise, and Ctrl-C off."""
    with _starting:
        added = [name for name in _ONE_THREAD if name not in os.environ]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.environ.update(dict.fromkeys(added, "1"))
        try:
            yield
        finally:
            for name in added:
                os.environ.pop(name, None)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shut_down(processes: list[Any], connections: list[Any], owner: int) -> None:
    if os.getpid() != owner:
        return  # a copy in a forked process
    for c in connections:
        c.close()
    for end in ("", "terminate", "kill"):
        alive = [p for p in processes if p.is_alive()]
        if end:
            for p in alive:
                getattr(p, end)()
        deadline = time.monotonic() + 2.0
        for p in alive:
            p.join(max(0.0, deadline - time.monotonic()))
    for p in processes:
        if not p.is_alive():
            p.close()
