"""A GPU that is none: `TRACEFUSE_CUDA=interpret` runs kernels through Triton's interpreter, on memory of the host.

Slow, and made for tests: everything above the driver is what runs on real devices. `interpret:2` gives two devices, each
of which refuses what lies in the memory of the other. Streams do at once what they are given; where `deferred` is set, they
do it only when somebody waits for it, so that what relies on luck on a real device fails here.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
import time
import weakref
from collections import deque
from typing import Any

import numpy as np

from .code import KernelCode
from .driver import DeviceError, Driver, Function, Grid, Launch, OutOfDeviceMemory, Properties

MEMORY = 2 << 30
ALIGN = 256

_lock = threading.RLock()  # the interpreter works on one kernel at a time


def devices(setting: str) -> tuple[Driver, ...]:
    """The devices that `TRACEFUSE_CUDA` asks for."""
    name, _, count = setting.partition(":")
    if name != "interpret" or not (count or "1").isdigit():
        raise DeviceError(f"TRACEFUSE_CUDA={setting}: it is empty, interpret, or interpret:<devices>")
    try:
        from ...backends.triton.launch import enable_interpreter

        enable_interpreter()
    except RuntimeError as e:
        raise DeviceError(str(e)) from None
    except ImportError:
        raise DeviceError("TRACEFUSE_CUDA=interpret needs Triton: pip install 'tracefuse[gpu]'") from None
    return tuple(EmulatedDevice(k) for k in range(int(count or 1)))


class _Event:
    """When it was passed, in seconds; None: not yet. `stream`: the one it was recorded in."""

    at: float | None = None
    stream: _Stream | None = None


class _Stream:
    """What is still to be done, in order; and, while a graph is captured, what is part of that."""

    def __init__(self) -> None:
        self.queue: deque[tuple[Any, tuple]] = deque()
        self.graph: list[tuple[Any, tuple]] | None = None


class EmulatedDevice:
    interprets = True

    def __init__(self, index: int):
        self.index = index
        self.properties = Properties("Triton's interpreter", (9, 0), MEMORY, 4, 227 << 10, 1 << 16)
        self.deferred = False
        self.launches = 0
        self._blocks: dict[int, np.ndarray] = {}
        self._starts: list[int] = []  # of the blocks, sorted
        self._host: dict[int, np.ndarray] = {}
        self._streams: weakref.WeakSet[_Stream] = weakref.WeakSet()
        self._numbered: weakref.WeakValueDictionary[int, _Stream] = weakref.WeakValueDictionary()

    def enter(self) -> None:
        pass

    # ---- memory
    def memory_info(self) -> tuple[int, int]:
        with _lock:
            return MEMORY - sum(b.size for b in self._blocks.values()), MEMORY

    def allocate(self, nbytes: int, stream: Any) -> int:
        if nbytes + ALIGN > self.memory_info()[0]:
            raise OutOfDeviceMemory(f"cuda:{self.index} has no {nbytes:,} bytes left")
        block = np.full(nbytes + ALIGN, 0xA5, np.uint8)  # what was never written should show
        address = -(-block.ctypes.data // ALIGN) * ALIGN
        with _lock:
            self._blocks[address] = block
            bisect.insort(self._starts, address)
        return address

    def release(self, address: int, stream: Any) -> None:
        self._do(stream, self._release, address)

    def _release(self, address: int) -> None:
        self._blocks.pop(address)[...] = 0xA5
        self._starts.remove(address)

    def trim(self) -> None:
        for stream in list(self._streams):
            self._drain(stream)

    def host_memory(self, nbytes: int) -> int:
        block = np.empty(max(1, nbytes), np.uint8)
        self._host[block.ctypes.data] = block
        return block.ctypes.data

    def release_host(self, address: int) -> None:
        del self._host[address]

    def copy_in(self, target: int, host: int, nbytes: int, stream: Any) -> None:
        self._check(target, nbytes)
        self._do(stream, ctypes.memmove, target, host, nbytes)

    def copy_out(self, host: int, source: int, nbytes: int, stream: Any) -> None:
        self._check(source, nbytes)
        self._do(stream, ctypes.memmove, host, source, nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._check(source, nbytes)
        self.copy_in(target, source, nbytes, stream)

    def copy_peer(self, target: int, source: int, nbytes: int, owner: Any, stream: Any) -> None:
        owner._check(source, nbytes)
        self.copy_in(target, source, nbytes, stream)

    def fill(self, target: int, byte: int, nbytes: int, stream: Any) -> None:
        self._check(target, nbytes)
        self._do(stream, ctypes.memset, target, byte, nbytes)

    def _check(self, address: int, nbytes: int) -> int:
        """Bytes from the address to the end of its block. DeviceError if `nbytes` do not fit into it."""
        k = bisect.bisect_right(self._starts, address) - 1
        block = self._blocks[self._starts[k]] if k >= 0 else np.empty(0, np.uint8)
        left = block.ctypes.data + block.size - address
        if nbytes > left or left < 0:
            raise DeviceError(f"{address:#x} and {nbytes:,} bytes from there on are no memory of cuda:{self.index}")
        return left

    # ---- order
    def _do(self, stream: _Stream | int, action: Any, *arguments: Any) -> None:
        if isinstance(stream, int):  # another library's: it has nothing of its own to do here
            action(*arguments)
            return
        if stream.graph is not None:
            stream.graph.append((action, arguments))
            return
        with _lock:
            stream.queue.append((action, arguments))
            if not self.deferred:
                self._drain(stream)

    def _drain(self, stream: _Stream) -> None:
        with _lock:
            while stream.queue:
                action, arguments = stream.queue.popleft()
                action(*arguments)

    def new_stream(self) -> Any:
        stream = _Stream()
        self._streams.add(stream)
        return stream

    def release_stream(self, stream: _Stream) -> None:
        self._drain(stream)

    def stream_number(self, stream: Any) -> int:
        self._numbered[id(stream)] = stream
        return id(stream)

    def foreign_stream(self, number: int | None) -> Any:
        return self._numbered.setdefault(number or 1, _Stream())

    def new_event(self, timing: bool) -> _Event:
        return _Event()

    def release_event(self, event: _Event) -> None:
        pass

    def record(self, event: _Event, stream: _Stream | int) -> None:
        event.at, event.stream = None, stream if isinstance(stream, _Stream) else None
        self._do(stream, self._pass, event)

    def _pass(self, event: _Event) -> None:
        event.at = time.perf_counter()

    def wait(self, stream: _Stream, event: _Event) -> None:
        self._do(stream, self.wait_for, event)

    def is_done(self, event: _Event) -> bool:
        return event.stream is None or event.at is not None

    def wait_for(self, event: _Event) -> None:
        if not self.is_done(event) and event.stream is not None:
            self._drain(event.stream)

    def milliseconds(self, start: _Event, end: _Event) -> float:
        assert start.at is not None and end.at is not None
        return (end.at - start.at) * 1e3

    def synchronize(self, stream: _Stream | int) -> None:
        if isinstance(stream, int):
            return
        if stream.graph is not None:
            raise DeviceError("a stream can't be waited for while a graph is captured")
        self._drain(stream)

    # ---- kernels
    def load(self, code: KernelCode) -> Function:
        return _Interpreted(self, code)

    # ---- graphs
    def begin_capture(self, stream: _Stream) -> None:
        stream.graph = []

    def end_capture(self, stream: _Stream) -> Any:
        graph, stream.graph = stream.graph, None
        return graph

    def replay(self, graph: Any, stream: _Stream) -> None:
        for action, arguments in graph:
            self._do(stream, action, *arguments)

    def release_graph(self, graph: Any) -> None:
        graph.clear()


class _Interpreted:
    """A kernel that is run on memory of the host."""

    def __init__(self, device: EmulatedDevice, code: KernelCode):
        assert code.source is not None
        self.device, self.code = device, code
        self.parameters = len(code.buffers) + len(code.dims)
        self._types = [dtype.np for _, dtype in code.source.buffers]

    def bind(self, grid: Grid, table: int) -> Launch:
        def launch(stream: _Stream) -> None:
            pointers = (ctypes.c_int64 * self.parameters).from_address(table)
            arguments = [ctypes.c_int64.from_address(p).value for p in pointers]
            self.device._do(stream, self._run, grid, arguments)

        return launch

    def _run(self, grid: Grid, arguments: list[int]) -> None:
        from ...backends.triton.launch import call

        arrays: list[np.ndarray] = []
        assert self.code.source is not None
        for (name, _), aligned, address in zip(self.code.buffers, self.code.source.aligned, arguments):
            if aligned and address % 16:
                raise DeviceError(f"{self.code.name} takes {name} at a multiple of 16 bytes, not at {address:#x}")
        for dtype, address in zip(self._types, arguments):
            left = self.device._check(address, 0) // dtype.itemsize
            memory: Any = (ctypes.c_char * (left * dtype.itemsize)).from_address(address)
            arrays.append(np.frombuffer(memory, dtype))
        self.device.launches += 1
        call(self.code.source, grid, arrays, arguments[len(arrays) :])
