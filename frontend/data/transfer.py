"""Objects between processes: what pickle keeps of them goes through a socket, the memory of their arrays through an
anonymous file (`memfd`) whose descriptor is passed along.

Such a file has no name: it is gone when the last process that maps it is, in whatever way that ends.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import socket
import weakref
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

SHARED = hasattr(os, "memfd_create") and hasattr(socket, "send_fds")
SMALLEST = 1 << 15  # bytes of arrays that are worth a file
MOST_MAPPED = 256  # files: each mapping holds a file descriptor
_ALIGNMENT = 64

_mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


class Unreadable(Exception):
    """A message arrived whole, but what is in it cannot be made here."""


@dataclass(slots=True)
class Packed:
    """An object ready to be sent, as often as wanted: its message, and the file with the memory of its arrays."""

    message: bytes
    file: int | None = None

    def close(self) -> None:
        """Lets the file go here; what was sent stays with the receivers."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def pack(x: Any, receivers: int = 1) -> Packed:
    """`x` pickled. Raises what pickle raises; OSError if there is no memory for its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    data = io.BytesIO()
    _Pickler(data, 5, buffer_callback=buffers.append).dump(x)
    raws = [b.raw() for b in buffers]
    sizes = [r.nbytes for r in raws]
    if not SHARED or sum(sizes) < SMALLEST:
        return Packed(pickle.dumps((data.getvalue(), [bytearray(r) for r in raws], False), 5))
    packed = Packed(pickle.dumps((data.getvalue(), sizes, receivers > 1), 5), os.memfd_create("tracefuse-arrays"))
    try:
        os.ftruncate(packed.file, sum(map(_aligned, sizes)))  # type: ignore[arg-type]
        at = 0
        for raw in raws:
            _write(packed.file, raw, at)
            at += _aligned(raw.nbytes)
    except BaseException:
        packed.close()
        raise
    return packed


def post(connection: Connection, packed: Packed) -> None:
    """Sends a packed object to the other end of a connection made by `Pipe()`."""
    connection.send_bytes(packed.message)
    if packed.file is not None:
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as s:
            socket.send_fds(s, [b"f"], [packed.file])


def send(connection: Connection, x: Any) -> None:
    """Packs and posts. When packing fails, nothing has been sent."""
    packed = pack(x)
    try:
        post(connection, packed)
    finally:
        packed.close()


def receive(connection: Connection) -> Any:
    """What was sent. EOFError or OSError if the other end is gone; Unreadable if it cannot be unpickled here, with the
    connection ready for the next object. The arrays are writable, and nobody else sees what is written."""
    data, buffers, private = pickle.loads(connection.recv_bytes())
    if buffers and isinstance(buffers[0], int):
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as s:
            _, files, flags, _ = socket.recv_fds(s, 1, 1)
        if flags & socket.MSG_CTRUNC:
            raise RuntimeError("too many open files: a batch from a worker process could not be received (ulimit -n)")
        if not files:
            raise EOFError("the sender ended in the middle of a message")
        try:
            buffers = _split(_memory(files[0], private), buffers)
        finally:
            os.close(files[0])
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as e:
        raise Unreadable(f"{type(e).__name__}: {e}") from e


def _memory(file: int, private: bool) -> memoryview:
    """The contents of a file, writable: mapped, or copied when many mappings are alive. `private`: others map it too."""
    size = os.fstat(file).st_size
    if len(_mapped) < MOST_MAPPED:
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        mapping = mmap.mmap(file, size, flags)
        _mapped.add(mapping)
        return memoryview(mapping)
    memory = np.empty(size, np.uint8).data
    at = 0
    while at < size:
        at += os.preadv(file, [memory[at:]], at)
    return memory


def _split(memory: memoryview, sizes: list[int]) -> list[memoryview]:
    out, at = [], 0
    for size in sizes:
        out.append(memory[at : at + size])
        at += _aligned(size)
    return out


def _write(file: Any, raw: memoryview, at: int) -> None:
    """All of `raw` at a place in the file: one call writes 2 GiB at most."""
    done = 0
    while done < raw.nbytes:
        done += os.pwrite(file, raw[done:], at + done)


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


# ------------------------------------------------------------------ pickling


class _Pickler(pickle.Pickler):
    """Hands all memory of arrays to the buffer callback. Left alone, pickle writes it between its own bytes for arrays
    that are not contiguous, and for element types that NumPy does not bring."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray or obj.dtype.hasobject or obj.dtype.names:
            return NotImplemented
        foreign = obj.dtype.isbuiltin == 2
        if not foreign and obj.flags.forc:
            return NotImplemented
        array = np.ascontiguousarray(obj).reshape(obj.shape)
        if not foreign:
            return array.__reduce_ex__(5)
        return _as_type, (array.view(f"u{obj.itemsize}"), obj.dtype.type)


def _as_type(array: np.ndarray, element: type) -> np.ndarray:
    return array.view(element)
