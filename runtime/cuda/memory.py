"""Memory of a GPU: blocks by size class, kept when freed and handed out again, each in the order of its stream.

A block goes back with the last array that refers to it, while the device may still work on what it was given; so it is
only handed out to what comes later on the same stream. If other streams have used it (`Block.record_stream`), it waits
until they are done with what they were given before it went back.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..memory import size_class
from .driver import OutOfDeviceMemory

if TYPE_CHECKING:
    from .device import Event, Gpu, Stream

SMALL = 64 << 10


def block_size(nbytes: int) -> int:
    """The size of the block that serves `nbytes`: powers of two from 512 bytes on, then eight classes to a doubling."""
    return max(512, 1 << (nbytes - 1).bit_length()) if nbytes <= SMALL else size_class(nbytes)


class Block:
    """A piece of device memory. Goes back to its pool when nobody refers to it any more."""

    __slots__ = ("pool", "address", "size", "stream", "others", "__weakref__")

    def __init__(self, pool: "Pool", address: int, size: int, stream: "Stream"):
        self.pool, self.address, self.size, self.stream = pool, address, size, stream
        self.others: tuple[Stream, ...] = ()  # that use it besides its own

    def record_stream(self, stream: "Stream") -> None:
        """Says that `stream` uses it too: its memory will not be handed out before that is done."""
        if stream is not self.stream and stream not in self.others:
            self.others += (stream,)

    def __del__(self) -> None:
        self.pool.put(self)


@dataclass(frozen=True, slots=True)
class DeviceMemoryStats:
    """Bytes in use by arrays, the most there have been, and bytes kept for reuse; how often the driver was asked, and
    how often it had nothing left at first."""

    in_use: int
    peak: int
    cached: int
    allocations: int
    retries: int = 0

    @property
    def reserved(self) -> int:
        """Bytes that others can't have."""
        return self.in_use + self.cached


@dataclass(slots=True)
class _Kept:
    """Free blocks of one stream, by size. `handle`: kept, so that its id stays its own."""

    handle: Any
    blocks: dict[int, list[int]] = field(default_factory=dict)


class Pool:
    """The blocks of one device. Thread-safe; `put` and `retire` may run inside a garbage collection at any point of any
    thread, so what they are told is looked at later."""

    def __init__(self, gpu: "Gpu"):
        self.gpu = gpu
        self.limit: int | None = None  # bytes that this process may have; None: all
        self._free: dict[int, _Kept] = {}  # by the id of the stream's handle
        self._returned: deque[tuple[int, int, Stream, tuple[Stream, ...]]] = deque()
        self._retired: deque[Any] = deque()  # handles of streams that are gone
        self._waiting: list[tuple[list[Event], int, int, Any]] = []  # for events: (..., address, size, stream's handle)
        self._live: dict[int, tuple[int, str]] = {}  # size and tag of what is in use, by address
        self._lock = threading.Lock()
        self._in_use = self._peak = self._cached = self._allocations = self._retries = 0

    def get(self, nbytes: int, tag: str = "arrays") -> Block:
        """A block of at least `nbytes` for the current stream, of undefined content. OutOfDeviceMemory if there is none.
        tag: what it is for, as `summary` shows it."""
        size, stream = block_size(nbytes), self.gpu.stream
        with self._lock:
            self._drain()
            kept = self._free.get(id(stream.handle))
            addresses = kept.blocks.get(size) if kept is not None else None
            if addresses:
                address = addresses.pop()
                self._cached -= size
            else:
                address = self._new(size, stream)
            self._live[address] = (size, tag)
            self._in_use += size
            self._peak = max(self._peak, self._in_use)
        return Block(self, address, size, stream)

    def _new(self, size: int, stream: "Stream") -> int:
        self._allocations += 1
        driver = self.gpu.driver
        try:
            return self._allocate(size, stream)
        except OutOfDeviceMemory:
            self._retries += 1
            driver.trim()  # waits: all that was given back is free now
            self._drain()
            self._trim()
            driver.trim()
        try:
            return self._allocate(size, stream)
        except OutOfDeviceMemory:
            raise OutOfDeviceMemory(self._message(size)) from None

    def _allocate(self, size: int, stream: "Stream") -> int:
        if self.limit is not None and self._in_use + self._cached + size > self.limit:
            raise OutOfDeviceMemory("the limit of this process")
        return self.gpu.driver.allocate(size, stream.handle)

    def _message(self, size: int) -> str:
        free, total = self.gpu.driver.memory_info()
        limit = "" if self.limit is None else f", this process may have {self.limit:,}"
        holders = ", ".join(f"{tag} {n:,}" for tag, n in self._by_tag()[:4])
        return (
            f"{self.gpu.name} is out of memory: {size:,} bytes were asked for, {free:,} of {total:,} are free{limit}; "
            f"tensors of this process hold {self._in_use:,} ({holders or 'nothing'}), the most so far was {self._peak:,}"
        )

    def put(self, block: Block) -> None:
        self._returned.append((block.address, block.size, block.stream, block.others))

    def retire(self, handle: Any) -> None:
        """Says that a stream is gone: nothing else will be given to it. Its free blocks go back to the driver."""
        self._retired.append(handle)

    def _drain(self) -> None:
        while self._returned:
            address, size, stream, others = self._returned.popleft()
            del self._live[address]
            self._in_use -= size
            self._cached += size
            if others:
                self._waiting.append(([self._now(s) for s in others], address, size, stream.handle))
            else:
                self._keep(address, size, stream.handle)
        while self._retired:
            self._bury(self._retired.popleft())
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for events, address, size, handle in waiting:
                left = [e for e in events if not e.is_done()]
                if left:
                    self._waiting.append((left, address, size, handle))
                else:
                    self._keep(address, size, handle)

    def _now(self, stream: "Stream") -> "Event":
        from .device import Event

        event = Event(self.gpu)
        stream.record(event)
        return event

    def _keep(self, address: int, size: int, handle: Any) -> None:
        kept = self._free.get(id(handle))
        if kept is None:
            kept = self._free[id(handle)] = _Kept(handle)
        kept.blocks.setdefault(size, []).append(address)

    def _bury(self, handle: Any) -> None:
        kept = self._free.pop(id(handle), None)
        if kept is not None:
            self._release(kept)
        main = self.gpu.main_stream.handle
        self._waiting = [(e, a, n, main if h is handle else h) for e, a, n, h in self._waiting]
        self.gpu.driver.release_stream(handle)

    def trim(self) -> None:
        """Gives the blocks that are kept back to the driver, and what that keeps to the system."""
        with self._lock:
            self._drain()
            self._trim()
            self.gpu.driver.trim()

    def _trim(self) -> None:
        for kept in self._free.values():
            self._release(kept)
        self._free.clear()

    def _release(self, kept: _Kept) -> None:
        for size, addresses in kept.blocks.items():
            for address in addresses:
                self.gpu.driver.release(address, kept.handle)
                self._cached -= size

    # ---- what there is
    def set_fraction(self, fraction: float) -> None:
        """This process may have that part of the device's memory."""
        if not 0 < fraction <= 1:
            raise ValueError(f"a fraction of the memory is between 0 and 1, not {fraction}")
        self.limit = None if fraction == 1 else int(fraction * self.gpu.driver.properties.total_memory)

    def stats(self) -> DeviceMemoryStats:
        with self._lock:
            self._drain()
            return DeviceMemoryStats(self._in_use, self._peak, self._cached, self._allocations, self._retries)

    def reset_peak(self) -> None:
        with self._lock:
            self._drain()
            self._peak = self._in_use

    def by_tag(self) -> list[tuple[str, int]]:
        """Bytes in use by what they are for, the most first."""
        with self._lock:
            self._drain()
            return self._by_tag()

    def _by_tag(self) -> list[tuple[str, int]]:
        sums: dict[str, int] = {}
        for size, tag in self._live.values():
            sums[tag] = sums.get(tag, 0) + size
        return sorted(sums.items(), key=lambda item: -item[1])

    def summary(self) -> str:
        """A table of who holds how much."""
        stats = self.stats()
        rows = [("in use", stats.in_use), ("at most", stats.peak), ("kept for reuse", stats.cached)]
        rows += [(f"  {tag}", n) for tag, n in self.by_tag()]
        lines = [f"{label:<40} {n:>18,}" for label, n in rows]
        asked = f"{stats.allocations} allocations by the driver, {stats.retries} of them when it had no memory left"
        return "\n".join([f"{self.gpu.name} ({self.gpu.driver.properties.name}), bytes:", *lines, asked])
