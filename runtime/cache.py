"""Compiled objects on disk, shared by all processes of one user.

An entry is one file named by its key, written aside and renamed into place, so readers see all of it or nothing. It
carries a checksum; whatever is wrong with an entry or with the folder makes a miss, never an error.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import knobs

MAGIC = b"tracefuse\x00"
VERSION = 1
_FIXED = struct.Struct("<10sHII32s")  # magic, version, length of target key, length of key, sha256 of all that follows
STALE_TEMPORARY = 3600.0  # seconds after which a temporary file's writer is taken for dead
PRUNE_EVERY = 64  # puts between two looks at the folder's size
PRUNE_TO = 0.8  # of the limit, so that the next put does not prune again


def _is_ours(status: os.stat_result) -> bool:
    """Whether nobody else can have written the file: its content is run as code."""
    if not hasattr(os, "geteuid"):
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


class DiskCache:
    """get(key) -> bytes | None and put(key, bytes) under `folder` (None: keeps nothing).

    key: any text that determines the bytes. target: goes into the file name and the entry, so that entries for another
    machine are misses. limit: bytes the folder may hold; the entries unused for longest go first.
    """

    def __init__(self, folder: Path | None, target: str = "", limit: int = 1 << 30):
        self.folder = folder
        self.target = target
        self.limit = limit
        self.hits = 0
        self.misses = 0
        self._puts = 0
        self._warned = False
        self._lock = threading.Lock()

    def path(self, key: str) -> Path | None:
        """Where the entry of `key` is kept."""
        if self.folder is None:
            return None
        name = hashlib.sha256(f"{VERSION}\0{self.target}\0{key}".encode()).hexdigest()
        return self.folder / name[:2] / name

    def get(self, key: str) -> bytes | None:
        """The bytes put under `key`, or None. A damaged entry is removed."""
        path = self.path(key)
        if path is None:
            return None
        try:
            with open(path, "rb") as file:
                raw = file.read() if _is_ours(os.fstat(file.fileno())) else b""
        except OSError:
            self.misses += 1
            return None
        data = self._unpack(raw, key)
        if data is None:
            self.misses += 1
            self._remove(path)
            return None
        self.hits += 1
        try:
            os.utime(path)  # last use, for pruning
        except OSError:
            pass  # a read-only cache is not pruned by us either
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keeps `data`. Does nothing (but warn once) where the folder cannot be written."""
        path = self.path(key)
        if path is None:
            return
        try:
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix="tmp-", dir=path.parent)  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(self._pack(key, data))
                os.replace(temporary, path)
            except BaseException:
                self._remove(Path(temporary))
                raise
        except OSError as error:
            self._warn(error)
            return
        with self._lock:
            self._puts += 1
            due = self._puts % PRUNE_EVERY == 1
        if due:
            self.prune()

    def prune(self) -> int:
        """Removes the entries unused for longest until the folder is below its limit. Returns bytes removed."""
        entries: list[tuple[float, int, Path]] = []
        now = time.time()
        for path in self._files():
            try:
                status = path.stat()
            except OSError:
                continue  # another process was faster
            if path.name.startswith("tmp-"):
                if now - status.st_mtime > STALE_TEMPORARY:
                    self._remove(path)
                continue
            entries.append((status.st_mtime, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return 0
        removed = 0
        for _, size, path in sorted(entries):
            if total - removed <= self.limit * PRUNE_TO:
                break
            self._remove(path)
            removed += size
        return removed

    def clear(self) -> None:
        """Removes every entry."""
        for path in self._files():
            self._remove(path)

    def size(self) -> tuple[int, int]:
        """(entries, bytes) on disk."""
        count = total = 0
        for path in self._files():
            try:
                total += path.stat().st_size
                count += 1
            except OSError:
                continue
        return count, total

    def _files(self) -> list[Path]:
        """The files that look like ours, so that a folder given by mistake loses nothing else."""
        if self.folder is None:
            return []
        try:
            folders = [f for f in self.folder.iterdir() if len(f.name) == 2 and f.is_dir() and not f.is_symlink()]
        except OSError:
            return []
        found: list[Path] = []
        for folder in folders:
            try:
                found += [p for p in folder.iterdir() if len(p.name) == 64 or p.name.startswith("tmp-")]
            except OSError:
                continue
        return found

    def _pack(self, key: str, data: bytes) -> bytes:
        target, name = self.target.encode(), key.encode()
        rest = target + name + data
        return _FIXED.pack(MAGIC, VERSION, len(target), len(name), hashlib.sha256(rest).digest()) + rest

    def _unpack(self, raw: bytes, key: str) -> bytes | None:
        if len(raw) < _FIXED.size:
            return None
        magic, version, n_target, n_key, digest = _FIXED.unpack_from(raw)
        rest = memoryview(raw)[_FIXED.size :]
        if magic != MAGIC or version != VERSION or hashlib.sha256(rest).digest() != digest:
            return None
        if rest[:n_target] != self.target.encode() or rest[n_target : n_target + n_key] != key.encode():
            return None
        return bytes(rest[n_target + n_key :])

    def _remove(self, path: Path) -> None:
        try:
            path.unlink()
        except OSError:
            pass  # gone already, or not ours to remove

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"tracefuse cannot write its cache in {self.folder}: {error}", RuntimeWarning, stacklevel=4)


class Recent:
    """What was used last, by key: as much as fits into `limit` bytes. `size` says how many an entry has."""

    def __init__(self, limit: int, size: Callable[[Any], int]):
        self.limit, self.size, self.total = limit, size, 0
        self._entries: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: str, entry: Any) -> None:
        with self._lock:
            if key in self._entries:
                self.total -= self.size(self._entries.pop(key))
            self._entries[key] = entry
            self.total += self.size(entry)
            while self.total > self.limit:
                self.total -= self.size(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.total = 0


_shared: dict[tuple[str, str, int], DiskCache] = {}


def disk_cache(target: str) -> DiskCache:
    """The process's cache for `target` (`Target.key`), as the knobs have it at this moment."""
    folder = knobs.cache_dir()
    limit = knobs.number("TRACEFUSE_CACHE_LIMIT", 1 << 30, least=0)
    key = (str(folder), target, limit)
    if key not in _shared:
        _shared[key] = DiskCache(folder / "objects" if folder else None, target, limit)
    return _shared[key]


def cached_object(key: str, target: str, make: Callable[[], bytes]) -> bytes:
    """The object of `key` from disk, or made and put there."""
    cache = disk_cache(target)
    found = cache.get(key)
    if found is None:
        found = make()
        cache.put(key, found)
    return found
