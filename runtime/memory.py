"""Memory for big outputs and for arenas: blocks on huge pages, kept when freed and handed out again.

The first touch of fresh memory costs more than most kernels that fill it; a block used again costs nothing. Small
arrays come from NumPy, which keeps them itself.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

BIG = 256 << 10  # bytes from which on an array gets a block of ours
HUGE_PAGE = 2 << 20
SMALLEST = 64 << 10


def _default_limit() -> int:
    """Bytes of free blocks that are kept: an eighth of the machine's memory, at most 4 GiB."""
    try:
        return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8, 4 << 30)
    except (AttributeError, ValueError, OSError):
        return 1 << 30


def size_class(nbytes: int) -> int:
    """The size of the block that serves `nbytes`: eight classes to a doubling, so at most an eighth is wasted."""
    if nbytes <= SMALLEST:
        return SMALLEST
    step = max(1 << (nbytes - 1).bit_length() - 4, 4096)
    return -(-nbytes // step) * step


class Block:
    """A piece of memory from the system, in use or kept."""

    __slots__ = ("mapping", "offset", "size", "address", "tick")

    def __init__(self, size: int):
        # room to begin at a huge page; address space is free, only what is touched costs memory
        room = HUGE_PAGE if size >= HUGE_PAGE else 0
        try:
            if os.name == "posix":
                private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
                self.mapping = mmap.mmap(-1, size + room, flags=private)
            else:
                self.mapping = mmap.mmap(-1, size + room)
        except (OSError, ValueError, OverflowError):
            raise MemoryError(f"no block of {size} bytes to be had") from None
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))
        self.offset = -start % HUGE_PAGE if room else 0
        self.address = start + self.offset
        self.size = size
        self.tick = 0
        if room and hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self.mapping.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without huge pages


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """Bytes in use and kept for reuse; how often a block was reused, made, and given back to the system."""

    in_use: int
    cached: int
    reused: int
    created: int
    released: int


class BlockCache:
    """Blocks by size class. Thread-safe; `put` may run inside a garbage collection at any point of any thread."""

    def __init__(self, limit: int):
        self.limit = limit
        self._free: dict[int, deque[Block]] = {}
        self._returned: deque[Block] = deque()  # freed, not yet in `_free`: appending needs no lock
        self._lock = threading.Lock()
        self._tick = self._cached = self._in_use = 0
        self._reused = self._created = self._released = 0

    def get(self, nbytes: int) -> Block:
        """A block of at least `nbytes`, of undefined content. MemoryError when the system has none."""
        size = size_class(nbytes)
        with self._lock:
            self._drain()
            kept = self._free.get(size)
            block = kept.pop() if kept else None
            if block is not None:
                self._cached -= size
                self._reused += 1
            self._in_use += size
        if block is not None:
            return block
        try:
            block = self._make(size)
        except MemoryError:
            with self._lock:
                self._in_use -= size
            raise
        self._created += 1
        return block

    def _make(self, size: int) -> Block:
        try:
            return Block(size)
        except MemoryError:
            self.trim(0)
            return Block(size)

    def put(self, block: Block) -> None:
        """Takes a block back. Its memory may be handed out again at once."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):  # else: whoever holds it, or the next to take it, drains
            try:
                self._drain()
            finally:
                self._lock.release()

    def _drain(self) -> None:
        """Moves returned blocks to the free lists, and the longest unused ones beyond the limit to the system."""
        while self._returned:
            block = self._returned.popleft()
            self._tick += 1
            block.tick = self._tick
            self._in_use -= block.size
            self._cached += block.size
            self._free.setdefault(block.size, deque()).append(block)
        self._evict(self.limit)

    def _evict(self, limit: int) -> None:
        while self._cached > limit:
            oldest = min((kept for kept in self._free.values() if kept), key=lambda kept: kept[0].tick)
            self._cached -= oldest.popleft().size  # the mapping goes with its last reference
            self._released += 1

    def trim(self, keep: int = 0) -> None:
        """Gives free blocks back to the system until at most `keep` bytes are kept."""
        with self._lock:
            self._drain()
            self._evict(keep)

    def stats(self) -> MemoryStats:
        with self._lock:
            self._drain()
            return MemoryStats(self._in_use, self._cached, self._reused, self._created, self._released)

    def after_fork(self) -> None:
        """In the child: the lock may have been held by a thread that is not here, in the middle of its work."""
        self._lock = threading.Lock()
        self._cached = sum(block.size for kept in self._free.values() for block in kept)


_cache = BlockCache(_default_limit())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _cache.after_fork())


@cache
def _owner_type(size: int) -> Any:
    """The type of the objects that arrays of a size class have as `base`: they give the block back when they die."""

    def back(self: Any, put: Any = _cache.put) -> None:
        put(self.block)

    return type("Memory", (ctypes.c_char * size,), {"__del__": back, "__slots__": ("block",)})


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """A new C-contiguous array of undefined content; its memory returns to the cache when the last view of it dies.

    At least 64-byte aligned from BIG bytes on. MemoryError when there is none.
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < BIG:
        return np.empty(shape, dtype)
    block = _cache.get(nbytes)
    owner = _owner_type(block.size).from_buffer(block.mapping, block.offset)
    owner.block = block
    return np.ndarray(tuple(shape), dtype, buffer=owner)


class Lease:
    """An arena: `size` bytes at `address` (64-byte aligned at least), one's own until `release()`, `with` or death."""

    __slots__ = ("_block", "address", "size")

    def __init__(self, nbytes: int):
        self._block: Block | None = None
        self._block = _cache.get(nbytes)
        self.address, self.size = self._block.address, self._block.size

    def release(self) -> None:
        """Gives the arena back; a second time does nothing."""
        block, self._block = self._block, None
        if block is not None:
            _cache.put(block)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self):
        self.release()


def lease(nbytes: int) -> Lease:
    """An arena of at least `nbytes`. Arenas are reused: in a steady state nothing is allocated."""
    return Lease(nbytes)


def stats() -> MemoryStats:
    """What the process holds here."""
    return _cache.stats()


def trim(keep: int = 0) -> None:
    """Gives unused memory back to the system, but for `keep` bytes."""
    _cache.trim(keep)


def set_limit(nbytes: int) -> int:
    """How many bytes of unused memory are kept at most; returns what it was."""
    if nbytes < 0:
        raise ValueError(f"set_limit({nbytes}): a number of bytes is wanted")
    was, _cache.limit = _cache.limit, nbytes
    _cache.trim(nbytes)
    return was
