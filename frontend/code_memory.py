"""Bounds the memory of compiled code: of all functions, the traces that were not called for longest are unloaded.

Native calls leave no time behind, only a count. So whenever a trace is added, the counts of all are looked at: what has
been called since the last time is younger than what has not. A trace that is needed again is made again, its kernels
from the cache on disk.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..runtime import knobs
from .capture.tree import TreeNode, executables_of, leaves_of

if TYPE_CHECKING:
    from .compile import CompiledFunction


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trace, or a tree of them, of a function."""

    function: CompiledFunction
    place: tuple
    node: TreeNode

    @property
    def calls(self) -> int:
        """How many it has served."""
        return sum(t.calls + (t.native.unseen if t.native else 0) for t in leaves_of([self.node]))

    @property
    def code_bytes(self) -> int:
        return sum(e.code_bytes for e in executables_of([self.node]))


class CodeMemory:
    """Which traces are loaded, and in which order they were called. limit: bytes of machine code of all together."""

    def __init__(self) -> None:
        self.functions: weakref.WeakSet[CompiledFunction] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._round = 0
        self._last: dict[int, tuple[int, int]] = {}  # by id of a node: its calls, and the round in which they had grown

    @property
    def limit(self) -> int:
        return knobs.number("TRACEFUSE_CODE_LIMIT", 1 << 30, least=0)

    def make_room(self, function: CompiledFunction, newest: TreeNode | None = None) -> None:
        """Unloads what is oldest until the limits hold, `function`'s own and that of the process; but not `newest`.
        `function` has its lock."""
        if not self._lock.acquire(blocking=False):
            return  # another thread does it
        try:
            self.functions.add(function)
            loaded = [x for x in self._by_age() if x.node is not newest]
            taken = sum(e.code_bytes for e in executables_of([] if newest is None else [newest]))
            own = function.options.code_limit
            if own is not None:
                self._shrink([x for x in loaded if x.function is function], own - taken)
            self._shrink(loaded, self.limit - taken)
        finally:
            self._lock.release()

    def _by_age(self) -> list[Loaded]:
        """What is loaded, in the order of the last calls."""
        self._round += 1
        last: dict[int, tuple[int, int]] = {}
        found = list(self._loaded())
        for x in found:
            calls, before = x.calls, self._last.get(id(x.node), (-1, 0))
            last[id(x.node)] = (calls, self._round if calls != before[0] else before[1])
        self._last = last
        return sorted(found, key=lambda x: last[id(x.node)][1])  # of equal age: in the order in which they were made

    def _loaded(self) -> Iterator[Loaded]:
        for f in list(self.functions):
            for place, nodes in list(f._traces.items()):
                for node in list(nodes):
                    yield Loaded(f, place, node)

    def _shrink(self, oldest_first: list[Loaded], limit: int) -> None:
        sizes = [x.code_bytes for x in oldest_first]
        total = sum(sizes)
        for x, size in zip(oldest_first, sizes):
            if total <= limit:
                return
            if size and x.function.unload_tree(x.place, x.node):
                total -= size


CODE = CodeMemory()
