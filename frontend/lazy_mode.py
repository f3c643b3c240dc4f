"""`mode="lazy"`: calls run as plain Python until their trace has been compiled in the background.

The first call of a signature only shows that the function is called. The second one is traced, in its own thread (a
trace looks at the user's objects, so it can't be made beside the user's code), and then runs as plain Python too; what
takes long, the passes and LLVM, is the background's. Segments of trace trees answer with NumPy in the meantime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Graph
from ..runtime.background import WORKER, Errands, Pending
from .capture.replay import Captured
from .executables import ReferenceExecutable

MOST_SEEN = 1000  # signatures of a function that are remembered before they are traced


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A trace of which the background makes the code. key: of the call it was made for. place: where it is kept."""

    key: tuple
    place: tuple
    captured: Captured

    @property
    def pending(self) -> list[Pending]:
        return [e for e in self.captured.executables if isinstance(e, Pending)]


class Background:
    """What one compiled function has the background do. All but `ready` is called with the function's lock held."""

    def __init__(self, make: Callable[..., Any]):
        self.make = make
        self.errands = Errands()
        self.plain = 0  # plain calls on their way, in all threads: nothing is traced beside them
        self.forget()

    def forget(self) -> None:
        """Gives up what is being compiled, for `unload`."""
        for job in getattr(self, "jobs", ()):
            for p in job.pending:
                p.close()
        self.errands.clear()
        self.jobs: list[Job] = []
        self.broken: dict[tuple, str] = {}  # why there is no code for a signature
        self.seen: dict[tuple, None] = {}

    def build(self, graph: Graph, gpu: Any = None) -> Any:
        """An executable that the background makes; until then NumPy computes the graph. On a GPU there is none to do that."""
        if gpu is not None:
            return self.make(graph, gpu=gpu)
        pending = Pending(
            lambda breathe: self.make(graph, breathe=breathe, elsewhere=self.errands), ReferenceExecutable(graph)
        )
        WORKER.submit(pending)
        return pending

    def may_trace(self, signature: tuple) -> bool:
        """Whether a call is to be traced: not the first of its signature, no plain call may see it, and there is room."""
        if signature not in self.seen:
            if len(self.seen) >= MOST_SEEN:
                self.seen.clear()
            self.seen[signature] = None
            return False
        return self.plain == 0 and WORKER.has_room()

    def failed(self) -> list[tuple[Job, BaseException]]:
        """Jobs that have come to nothing since this was asked the last time, with the reason."""
        out: list[tuple[Job, BaseException]] = []
        for job in list(self.jobs):
            errors = [p.error for p in job.pending if p.error is not None]
            if errors or all(p.done for p in job.pending):
                self.jobs.remove(job)
            if errors:
                out.append((job, errors[0]))
        WORKER.wake()
        return out

    def finish(self, traces: list[Captured]) -> None:
        """Gives up the code of traces."""
        gone = {id(t) for t in traces}
        for job in self.jobs:
            if id(job.captured) in gone:
                for p in job.pending:
                    p.close()
        self.jobs = [job for job in self.jobs if id(job.captured) not in gone]

    def ready(self, timeout: float | None) -> bool:
        """Waits until all code is there, or has turned out impossible. False: it was not within `timeout` seconds."""
        graphs = [p for job in list(self.jobs) for p in job.pending]
        return WORKER.wait([*graphs, *self.errands.pending], timeout)
