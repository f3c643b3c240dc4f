"""Native code takes over: which calls of a function its traces serve without Python, and how they follow what changes.

`native_spec` says what a trace takes for granted and does in the native entry's terms.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

from ..runtime import entry
from ..runtime.entry_layout import word_position
from ..runtime.trace_spec import ABSENT, TraceSpec, Word
from . import autograd
from .capture import guards as g
from .capture.replay import Captured, Invocation, TensorSource
from .capture.tree import leaves_of
from .epoch import epoch
from .native_spec import trace_spec, tree_spec

PATIENCE = 1024  # calls at most between two attempts to renew a trace


class NativeTrace:
    """A captured trace in the chain of a native function. `renew` follows what has changed since without harm."""

    __slots__ = ("_at_hits", "_patience", "_wait", "captured", "counted", "function", "trace")

    def __init__(self, function: Any, captured: Captured, spec: TraceSpec):
        self.function, self.captured = function, captured
        self.trace = entry.add_trace(function, spec)
        self.counted = self._wait = self._patience = self._at_hits = 0

    @property
    def unseen(self) -> int:
        """Calls served since `new_hits`."""
        return self.trace.hits - self.counted

    def new_hits(self) -> int:
        """Calls served since this was asked the last time."""
        hits = self.trace.hits
        new, self.counted = hits - self.counted, hits
        return new

    def renew(self, call: Invocation) -> None:
        """For a call that the native guards have refused and all Python guards have passed: expects from now on what is
        there now. Waits longer and longer when that does not help."""
        if self.trace.hits - self._at_hits > 16:
            self._wait = self._patience = 0
        if self._wait > 0:
            self._wait -= 1
            return
        self._patience = min(2 * self._patience + 1, PATIENCE)
        self._wait, self._at_hits = self._patience, self.trace.hits
        spec = self.trace.spec
        if spec.words and spec.words[0].address == epoch.address:
            self._renew_epoch(call.epoch)
        changed = any(_changed(w) for w in spec.words if w.address != epoch.address)
        changed = changed or any(d.mapping.get(d.key, ABSENT) is not d.expected for d in spec.dicts)
        changed = changed or any(
            s.array.ctypes.data != s.layout[2] or s.tensor is not None and s.tensor._data is not s.array
            for s in spec.states
        )
        if changed:
            new = trace_spec(self.captured, call)
            if new is not None:
                self._replace(new)

    def _renew_epoch(self, now: int) -> None:
        """The guards behind the epoch hold. Hooks of arguments were looked at for those of this call only."""
        if autograd._LEAF_HOOKS and any(
            isinstance(x, g.HookGuard) and not isinstance(x.source, TensorSource) for x in self.captured.guards
        ):
            return
        spec = self.trace.spec
        if not entry.is_native():
            words = (replace(spec.words[0], expected=now), *spec.words[1:])
            self._replace(replace(spec, words=words))
            return
        self.trace.memory[word_position(self.trace.memory, 0)] = now

    def _replace(self, spec: TraceSpec) -> None:
        entry.remove_trace(self.function, self.trace)
        before = self.trace
        self.trace = entry.add_trace(self.function, spec)
        self.counted -= before.hits
        self._at_hits = 0


class NativeTree:
    """A trace tree in the chain of a native function: one entry trace with an ending for each way that it knows."""

    def __init__(self, function: Any):
        self.function = function
        self.trace: entry.Trace | None = None
        self._wait = self._patience = self._at_hits = 0

    def serve(self, captured: Captured, call: Invocation) -> bool:
        """Takes in the way of a call, which all Python guards have let pass, and what has changed since. False if the
        native entry can't express it."""
        new = self.trace is None or captured.native is None
        hits = 0 if self.trace is None else self.trace.hits
        if hits - self._at_hits > 16:
            self._wait = self._patience = 0
        if self._wait > 0:
            self._wait -= 1
            return True
        if not new:  # a new way is worth the code at once; else: as in NativeTrace.renew
            self._patience = min(2 * self._patience + 1, PATIENCE)
            self._wait = self._patience
        found = tree_spec(captured, call)
        if found is None:
            return False
        spec, traces = found
        before = self.trace
        for t in leaves_of([captured.above[0][0]]):
            if isinstance(t.native, NativeEnding):
                t.native.detach()
        self.trace = entry.add_trace(self.function, spec)
        self._at_hits = 0
        if before is not None:
            entry.remove_trace(self.function, before)
        for t, ending in zip(traces, self.trace.endings):
            t.native = NativeEnding(self, t, ending, t.native)
        return True


class NativeEnding:
    """One way of a tree, in the place of a `NativeTrace`."""

    __slots__ = ("_pending", "captured", "counted", "trace", "tree")

    def __init__(self, tree: NativeTree, captured: Captured, trace: entry.Trace, before: Any):
        self.tree, self.captured, self.trace = tree, captured, trace
        self.counted = 0
        self._pending = before._pending if isinstance(before, NativeEnding) else 0

    @property
    def unseen(self) -> int:
        """Calls served since `new_hits`."""
        return self._pending + self.trace.hits - self.counted

    def new_hits(self) -> int:
        """Calls served since this was asked the last time."""
        new, self._pending, self.counted = self._pending + self.trace.hits - self.counted, 0, self.trace.hits
        return new

    def detach(self) -> None:
        """Another entry trace takes the place of this one; what it has counted is kept."""
        self._pending += self.trace.hits - self.counted
        self.counted = self.trace.hits

    def renew(self, call: Invocation) -> None:
        """As `NativeTrace.renew`."""
        self.tree.serve(self.captured, call)


def _changed(word: Word) -> bool:
    return ctypes.c_int64.from_address(word.address).value != word.expected


def attach(function: Any, captured: Captured, call: Invocation) -> NativeTrace | NativeEnding | None:
    """Lets native code serve the trace from now on, if it can: it is added to the chain of `function`."""
    if captured.above:
        root = captured.above[0][0]
        root.native = root.native or NativeTree(function)
        return captured.native if root.native.serve(captured, call) else None
    spec = trace_spec(captured, call)
    return None if spec is None else NativeTrace(function, captured, spec)
