"""Memory of a GPU: blocks by size class, kept when freed and handed out again, each in the order of its stream.

A block goes back with the last array that refers to it, while the device may still work on what it was given; so it is
only handed out to what comes later on the same stream.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..memory import size_class
from .driver import OutOfDeviceMemory

if TYPE_CHECKING:
    from .device import Gpu, Stream

SMALL = 64 << 10


def block_size(nbytes: int) -> int:
    """The size of the block that serves `nbytes`: powers of two from 512 bytes on, then eight classes to a doubling."""
    return max(512, 1 << (nbytes - 1).bit_length()) if nbytes <= SMALL else size_class(nbytes)


class Block:
    """A piece of device memory. Goes back to its pool when nobody refers to it any more."""

    __slots__ = ("pool", "address", "size", "stream", "__weakref__")

    def __init__(self, pool: "Pool", address: int, size: int, stream: "Stream"):
        self.pool, self.address, self.size, self.stream = pool, address, size, stream

    def __del__(self) -> None:
        self.pool.put(self)


@dataclass(frozen=True, slots=True)
class DeviceMemoryStats:
    """Bytes in use by arrays, the most there have been, and bytes kept for reuse; how often the driver was asked."""

    in_use: int
    peak: int
    cached: int
    allocations: int


class Pool:
    """The blocks of one device. Thread-safe; `put` may run inside a garbage collection at any point of any thread."""

    def __init__(self, gpu: "Gpu"):
        self.gpu = gpu
        self._free: dict[tuple[int, int], list[int]] = {}  # (id of the stream's handle, size) -> addresses
        self._handles: dict[int, Any] = {}
        self._returned: deque[tuple[int, int, Any]] = deque()  # freed, not yet in `_free`: appending needs no lock
        self._lock = threading.Lock()
        self._in_use = self._peak = self._cached = self._allocations = 0

    def get(self, nbytes: int) -> Block:
        """A block of at least `nbytes` for the current stream, of undefined content. OutOfDeviceMemory if there is none."""
        size, stream = block_size(nbytes), self.gpu.stream
        with self._lock:
            self._drain()
            kept = self._free.get((id(stream.handle), size))
            if kept:
                address = kept.pop()
                self._cached -= size
            else:
                address = self._new(size, stream)
            self._in_use += size
            self._peak = max(self._peak, self._in_use)
        return Block(self, address, size, stream)

    def _new(self, size: int, stream: "Stream") -> int:
        self._allocations += 1
        try:
            return self.gpu.driver.allocate(size, stream.handle)
        except OutOfDeviceMemory:
            self._trim()
            self.gpu.driver.trim()
            try:
                return self.gpu.driver.allocate(size, stream.handle)
            except OutOfDeviceMemory:
                free, total = self.gpu.driver.memory_info()
                raise OutOfDeviceMemory(
                    f"{self.gpu.name} is out of memory: {size:,} bytes were asked for, {free:,} of {total:,} are free; tensors of "
                    f"this process hold {self._in_use:,}, the most so far was {self._peak:,}"
                ) from None

    def put(self, block: Block) -> None:
        self._returned.append((block.address, block.size, block.stream.handle))

    def _drain(self) -> None:
        while self._returned:
            address, size, handle = self._returned.popleft()
            self._handles[id(handle)] = handle  # kept, so that its id stays its own
            self._free.setdefault((id(handle), size), []).append(address)
            self._in_use -= size
            self._cached += size

    def trim(self) -> None:
        """Gives the blocks that are kept back to the driver."""
        with self._lock:
            self._drain()
            self._trim()

    def _trim(self) -> None:
        for (handle, size), addresses in self._free.items():
            for address in addresses:
                self.gpu.driver.release(address, self._handles[handle])
                self._cached -= size
        self._free.clear()

    def stats(self) -> DeviceMemoryStats:
        with self._lock:
            self._drain()
            return DeviceMemoryStats(self._in_use, self._peak, self._cached, self._allocations)

    def reset_peak(self) -> None:
        with self._lock:
            self._drain()
            self._peak = self._in_use
