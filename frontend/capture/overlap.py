"""The guard of traces that write in place: what they write shares no memory with anything else they use."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from ..devices import byte_bounds
from .replay import ArraySource, Source, TensorSource


class OverlapGuard:
    """Byte ranges of written inputs against all others. Those of tensors that stay where they are are kept."""

    text = "tensors written in place share no memory with others"

    def __init__(self, sources: Sequence[Source], written: list[int]):
        self.sources = sources
        self.written = np.zeros(len(sources), bool)
        self.written[written] = True
        self.fixed = [i for i, s in enumerate(sources) if isinstance(s, (TensorSource, ArraySource))]
        self.moving = [i for i, s in enumerate(sources) if not isinstance(s, (TensorSource, ArraySource))]
        self.arrays: list[np.ndarray] = []
        self.low = np.zeros(len(sources), np.uint64)
        self.high = np.zeros(len(sources), np.uint64)

    def check(self, leaves: Sequence[Any]) -> bool:
        sources = self.sources
        now = [sources[i].fetch(leaves) for i in self.fixed]
        if len(now) != len(self.arrays) or any(a is not b for a, b in zip(now, self.arrays)):
            self._measure(self.fixed, now)
            if not self._disjoint(self.fixed):
                return False
            self.arrays = now
        if not self.moving:
            return True
        self._measure(self.moving, [sources[i].fetch(leaves) for i in self.moving])
        written, low, high = self.written, self.low, self.high
        for i in self.moving:
            meets = (low < high[i]) & (low[i] < high)
            meets[i] = False
            if not written[i]:
                meets &= written
            if meets.any():
                return False
        return True

    def pair(self) -> tuple[str, str]:
        """Names of a written input and one that overlaps with it, after a check that has failed."""
        low, high = self.low, self.high
        for i in np.flatnonzero(self.written):
            for j in np.flatnonzero((low < high[i]) & (low[i] < high)):
                if i != j:
                    return self.sources[int(i)].path, self.sources[int(j)].path
        return "a tensor", "another one"

    def _measure(self, which: list[int], arrays: list[np.ndarray]) -> None:
        for i, a in zip(which, arrays):
            self.low[i], self.high[i] = byte_bounds(a) if a.size else (0, 0)

    def _disjoint(self, which: list[int]) -> bool:
        """Whether no written range meets another one: a sweep over them in order."""
        order = sorted(which, key=lambda i: (self.low[i], self.high[i]))
        end, end_written = np.uint64(0), np.uint64(0)  # of all ranges so far, and of the written ones
        for i in order:
            low, high = self.low[i], self.high[i]
            if low == high:
                continue
            if low < (end if self.written[i] else end_written):
                return False
            end = max(end, high)
            end_written = max(end_written, high) if self.written[i] else end_written
        return True
