"""Page-locked memory of the host, which devices copy from while the host goes on: for small uploads, and for arrays of
users who ask for it."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .device import Event, Gpu

SMALLEST = 4 << 10
TINY = 4 << 10  # bytes of an array for which an array to copy it with costs more than a copy
STAGED = 1 << 20  # bytes up to which uploads go through memory of ours
WAITING = 256 << 20  # bytes of uploads on their way from which on the host waits for the first of them
ALIGN = 16


class HostPool:
    """Blocks by powers of two, handed out again once the device has read them. Thread-safe; `put` may run in a garbage
    collection."""

    def __init__(self, gpu: Gpu):
        self.gpu = gpu
        self.allocations = 0
        self._free: dict[int, list[int]] = {}
        self._returned: deque[tuple[int, int]] = deque()  # (address, size), not yet in `_free`
        self._waiting: deque[tuple[Event, int, int, Any]] = deque()  # (..., address, size, what has to stay until then)
        self._bytes = 0  # of what waits
        self._lock = threading.Lock()

    def get(self, nbytes: int) -> tuple[int, int]:
        """(address, size) of a block that nobody reads any more."""
        size = max(SMALLEST, 1 << (nbytes - 1).bit_length())
        with self._lock:
            self._collect()
            while self._returned:
                self._keep(*self._returned.popleft())
            kept = self._free.get(size)
            if kept:
                return kept.pop(), size
            self.allocations += 1
        return self.gpu.driver.host_memory(size), size

    def put(self, address: int, size: int) -> None:
        """Gives a block back that no device reads."""
        self._returned.append((address, size))

    def put_later(self, address: int, size: int, held: Any = None) -> None:
        """Gives a block back (size 0: none), and lets go of `held`, when the current stream has done what it was given."""
        from .device import Event

        event = Event(self.gpu)
        self.gpu.stream.record(event)
        with self._lock:
            self._waiting.append((event, address, size, held))
            self._bytes += size
            while self._bytes > WAITING:
                self._waiting[0][0].synchronize()
                self._collect()

    def _collect(self) -> None:
        while self._waiting and self._waiting[0][0].is_done():
            _, address, size, _ = self._waiting.popleft()
            self._bytes -= size
            if size:
                self._keep(address, size)

    def _keep(self, address: int, size: int) -> None:
        self._free.setdefault(size, []).append(address)

    def trim(self) -> None:
        """Gives what is not in use back to the system."""
        with self._lock:
            self._collect()
            while self._returned:
                self._keep(*self._returned.popleft())
            for addresses in self._free.values():
                for address in addresses:
                    self.gpu.driver.release_host(address)
            self._free.clear()

    # ---- uploads
    def upload(self, target: int, arrays: Sequence[np.ndarray], offsets: Sequence[int], nbytes: int) -> None:
        """Copies arrays to `offsets` of device memory, as one copy of `nbytes`. They may be changed at once."""
        address, size = self.get(nbytes)
        for a, offset in zip(arrays, offsets, strict=True):
            _copy(address + offset, a)
        stream = self.gpu.stream.handle
        self.gpu.driver.copy_in(target, address, nbytes, stream)
        self.put_later(address, size)


def _copy(address: int, a: np.ndarray) -> None:
    """The elements of an array to an address, row by row."""
    if a.nbytes <= TINY:
        ctypes.memmove(address, a.tobytes(), a.nbytes)
        return
    memory: Any = (ctypes.c_uint8 * a.nbytes).from_address(address)
    np.frombuffer(memory, a.dtype).reshape(a.shape)[...] = a


def packed(arrays: Sequence[np.ndarray]) -> tuple[list[int], int]:
    """Where arrays lie that are uploaded together, and how many bytes that takes."""
    offsets, end = [], 0
    for a in arrays:
        offsets.append(end)
        end += -(-a.nbytes // ALIGN) * ALIGN
    return offsets, end


class _Owner:
    """A block in use by arrays: with the last of them it goes back."""

    def __init__(self, pool: HostPool, nbytes: int):
        self._pool = pool
        self._address, self._size = pool.get(max(1, nbytes))
        self.__array_interface__ = {
            "shape": (nbytes,), "typestr": "|u1", "data": (self._address, False), "version": 3
        }  # fmt: skip

    def __del__(self) -> None:
        self._pool.put(self._address, self._size)


def pinned_empty(gpu: Gpu, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of the host, of undefined content, that devices copy from while the host goes on."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return np.asarray(_Owner(gpu.host, nbytes)).view(dtype).reshape(shape)


def is_pinned(a: np.ndarray) -> bool:
    """Whether an array is in page-locked memory of ours."""
    owner: Any = a
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, _Owner)
