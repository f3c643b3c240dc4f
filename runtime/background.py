"""Compiles in the background: `Pending` is an executable that will be there later, made by the one `WORKER` thread.

LLVM runs outside of the GIL, the passes inside of it. The worker takes a breath between the kernels of a graph: there
a fork waits for it, so that no child inherits a lock of LLVM's that nobody will release, and there it ends when the
interpreter does. A child of a fork goes on with what was queued when somebody asks for it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

MOST_WAITING = 256  # jobs; while there are as many, nothing new is taken on

Breathe = Callable[[], None]
Make = Callable[[Breathe], Any]  # compiles; calls its argument wherever it may be held up, or given up by an exception


class Abandoned(Exception):
    """Nobody waits for this executable any more, or the interpreter ends."""


class Pending:
    """An executable in the making. Until it is there, `run` does the same another way, with `meanwhile`.

    executable: None before `ready`. error: why there will never be one. `close` when nobody needs it any more.
    """

    __slots__ = ("__weakref__", "_make", "closed", "error", "executable", "meanwhile")

    def __init__(self, make: Make, meanwhile: Any):
        self._make = make
        self.meanwhile: Any = meanwhile
        self.executable: Any = None
        self.error: BaseException | None = None
        self.closed = False

    @property
    def ready(self) -> bool:
        return self.executable is not None

    @property
    def done(self) -> bool:
        """Whether nothing will change any more."""
        return self.ready or self.error is not None or self.closed

    def run(self, inputs: list) -> list:
        executable = self.executable
        return (self.meanwhile if executable is None else executable).run(inputs)

    def make(self, breathe: Breathe) -> None:
        """What the worker does."""

        def go_on() -> None:
            breathe()
            if self.closed:
                raise Abandoned

        try:
            go_on()
            self.executable = self._make(go_on)
        except Abandoned:
            self.closed = True
        except BaseException as e:  # whoever waits is told, whatever it is
            self.error = e

    def close(self) -> None:
        self.closed = True


def is_ready(executable: Any) -> bool:
    """Whether native code is behind it (or whatever its backend has instead)."""
    return not isinstance(executable, Pending) or executable.ready


class NotYet(Exception):
    """What was asked for is being made."""


class Errands:
    """Small things that somebody has the background make, by key: who asks again later gets them, once."""

    def __init__(self) -> None:
        self._pending: dict[Any, Pending] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns. NotYet until then; the error if there was one."""
        pending = self._pending.get(key)
        if pending is None:
            if not WORKER.has_room():
                raise NotYet
            pending = self._pending.setdefault(key, Pending(lambda breathe: make(), None))
            WORKER.submit(pending)
        if not pending.done:
            WORKER.wake()
            raise NotYet
        self._pending.pop(key, None)
        if pending.error is not None:
            raise pending.error
        return pending.executable

    @property
    def pending(self) -> list[Pending]:
        return list(self._pending.values())

    def clear(self) -> None:
        """Gives them up."""
        for pending in self._pending.values():
            pending.close()
        self._pending.clear()


class Worker:
    """Makes what is `Pending`, one after the other, in a thread that lives while there is something to do."""

    def __init__(self) -> None:
        self._queue: deque[weakref.ref[Pending]] = deque()
        self._new()

    def _new(self) -> None:
        """As in a process without the thread."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._working = self._held_up = self._ending = False

    def has_room(self) -> bool:
        return len(self._queue) < MOST_WAITING and not self._ending

    def submit(self, pending: Pending) -> None:
        with self._changed:
            self._queue.append(weakref.ref(pending))
        self.wake()

    def wake(self) -> None:
        """Sees to it that somebody works on the queue."""
        if self._thread is not None or not self._queue:
            return
        with self._changed:
            if self._thread is None and not self._ending:
                thread = threading.Thread(target=self._work, name="tracefuse-compile", daemon=True)
                try:
                    thread.start()
                    self._thread = thread
                except RuntimeError:  # the interpreter is shutting down
                    self._ending = True

    def wait(self, pending: Iterable[Pending], timeout: float | None = None) -> bool:
        """Whether all are done, after `timeout` seconds at most (None: however long it takes)."""
        self.wake()
        wanted = list(pending)
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not all(p.done for p in wanted):
                left = None if end is None else end - time.monotonic()
                if self._ending or left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True

    # ---- in the thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._held_up:
                    self._changed.wait()
                pending = None
                while self._queue and (pending is None or pending.done):
                    job = self._queue.popleft()
                    pending = job()
                if pending is None or pending.done or self._ending:
                    self._thread = None
                    self._changed.notify_all()
                    return
                self._queue.appendleft(job)  # stays until it is done: a child of a fork begins it again
                self._working = True
            try:
                pending.make(self._breathe)
            finally:
                with self._changed:
                    self._working = False
                    if self._queue and self._queue[0] is job:
                        self._queue.popleft()
                    self._changed.notify_all()
            del pending

    def _breathe(self) -> None:
        if self._ending:
            raise Abandoned
        if self._held_up:
            with self._changed:
                self._working = False
                self._changed.notify_all()
                while self._held_up:
                    self._changed.wait()
                self._working = True

    # ---- fork and exit

    def before_fork(self) -> None:
        self._changed.acquire()
        self._held_up = True
        while self._working:
            self._changed.wait()

    def after_fork_in_parent(self) -> None:
        self._held_up = False
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self._new()

    def end(self) -> None:
        """Lets the kernel that is being compiled be finished, and no more: LLVM must not run when the process ends."""
        self._ending = True
        thread = self._thread
        if thread is not None:
            thread.join()


WORKER = Worker()
atexit.register(lambda: WORKER.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: WORKER.before_fork(),
        after_in_parent=lambda: WORKER.after_fork_in_parent(),
        after_in_child=lambda: WORKER.after_fork_in_child(),
    )
