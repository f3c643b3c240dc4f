"""A process-wide counter of structural changes: of modules, hooks and optimizers.

A compiled function compares one integer per call instead of walking every attribute it has read; when the counter has
moved, it checks its guards one by one. Native code reads the counter by address.
"""

from __future__ import annotations

import threading

import numpy as np


class EpochCounter:
    """An int64 in one fixed place of memory. `bump` is thread-safe; a value never comes back."""

    __slots__ = ("_cell", "_lock", "address")

    def __init__(self) -> None:
        self._cell = np.zeros(1, np.int64)
        self._lock = threading.Lock()
        self.address: int = self._cell.ctypes.data

    def bump(self) -> None:
        with self._lock:
            self._cell[0] += 1

    @property
    def value(self) -> int:
        return int(self._cell[0])


epoch = EpochCounter()
