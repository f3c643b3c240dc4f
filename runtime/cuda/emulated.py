"""A GPU that is none: `TRACEFUSE_CUDA=interpret` runs kernels through Triton's interpreter, on memory of the host.

Slow, and made for tests: everything above the driver is what runs on real devices. `interpret:2` gives two devices, each
of which refuses what lies in the memory of the other. Streams do at once what they are given.
"""

from __future__ import annotations

import bisect
import ctypes
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...backends.triton.lowered import TritonKernel
from .driver import DeviceError, Driver, Grid, Launch, OutOfDeviceMemory, Properties

MEMORY = 2 << 30
ALIGN = 256


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
    """When it was recorded, in seconds; None: never."""

    at: float | None = None


class EmulatedDevice:
    interprets = True

    def __init__(self, index: int):
        self.index = index
        self.properties = Properties("Triton's interpreter", (9, 0), MEMORY, 4, 227 << 10)
        self._blocks: dict[int, np.ndarray] = {}
        self._starts: list[int] = []  # of the blocks, sorted
        self._host: dict[int, np.ndarray] = {}
        self._capturing: list[tuple[Any, tuple]] | None = None
        self.launches = 0

    # ---- memory
    def memory_info(self) -> tuple[int, int]:
        return MEMORY - sum(b.size for b in self._blocks.values()), MEMORY

    def allocate(self, nbytes: int, stream: Any) -> int:
        if nbytes + ALIGN > self.memory_info()[0]:
            raise OutOfDeviceMemory(f"cuda:{self.index} has no {nbytes:,} bytes left")
        block = np.full(nbytes + ALIGN, 0xA5, np.uint8)  # what was never written should show
        address = -(-block.ctypes.data // ALIGN) * ALIGN
        self._blocks[address] = block
        bisect.insort(self._starts, address)
        return address

    def release(self, address: int, stream: Any) -> None:
        del self._blocks[address]
        self._starts.remove(address)

    def host_memory(self, nbytes: int) -> int:
        block = np.empty(max(1, nbytes), np.uint8)
        self._host[block.ctypes.data] = block
        return block.ctypes.data

    def release_host(self, address: int) -> None:
        del self._host[address]

    def copy_in(self, target: int, host: int, nbytes: int, stream: Any) -> None:
        self._check(target, nbytes)
        self._do(ctypes.memmove, target, host, nbytes)

    def copy_out(self, host: int, source: int, nbytes: int, stream: Any) -> None:
        self._check(source, nbytes)
        self._do(ctypes.memmove, host, source, nbytes)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._check(target, nbytes)
        self._do(ctypes.memmove, target, source, nbytes)

    def _check(self, address: int, nbytes: int) -> int:
        """Bytes from the address to the end of its block. DeviceError if `nbytes` do not fit into it."""
        k = bisect.bisect_right(self._starts, address) - 1
        block = self._blocks[self._starts[k]] if k >= 0 else np.empty(0, np.uint8)
        left = block.ctypes.data + block.size - address
        if nbytes > left or left < 0:
            raise DeviceError(f"{address:#x} and {nbytes:,} bytes from there on are no memory of cuda:{self.index}")
        return left

    # ---- order
    def new_stream(self) -> Any:
        return object()

    def release_stream(self, stream: Any) -> None:
        pass

    def stream_number(self, stream: Any) -> int:
        return stream if isinstance(stream, int) else 1

    def foreign_stream(self, number: int | None) -> Any:
        return number or 1

    def new_event(self, timing: bool) -> _Event:
        return _Event()

    def release_event(self, event: _Event) -> None:
        pass

    def record(self, event: _Event, stream: Any) -> None:
        event.at = time.perf_counter()

    def wait(self, stream: Any, event: _Event) -> None:
        pass

    def is_done(self, event: _Event) -> bool:
        return True

    def wait_for(self, event: _Event) -> None:
        pass

    def milliseconds(self, start: _Event, end: _Event) -> float:
        assert start.at is not None and end.at is not None
        return (end.at - start.at) * 1e3

    def synchronize(self, stream: Any) -> None:
        if self._capturing is not None:
            raise DeviceError("a stream can't be waited for while a graph is captured")

    # ---- kernels
    def load(self, kernel: TritonKernel) -> Launch:
        from ...backends.triton.launch import HostMemory, load_function

        function = load_function(kernel.name, kernel.source)
        constants = dict(kernel.constexprs)

        def run(grid: Grid, arguments: Sequence[int]) -> None:
            given: list[Any] = []
            for (_, dtype), address in zip(kernel.buffers, arguments):
                left = self._check(address, 0) // dtype.itemsize
                memory: Any = (ctypes.c_char * (left * dtype.itemsize)).from_address(address)
                given.append(HostMemory(np.frombuffer(memory, dtype.np)))
            self.launches += 1
            with np.errstate(all="ignore"):
                function[grid](*given, *arguments[len(given) :], **constants)

        def launch(grid: Grid, arguments: Sequence[int], stream: Any) -> None:
            self._do(run, grid, tuple(arguments))

        return launch

    # ---- graphs
    def _do(self, action: Any, *arguments: Any) -> None:
        if self._capturing is None:
            action(*arguments)
        else:
            self._capturing.append((action, arguments))

    def begin_capture(self, stream: Any) -> None:
        self._capturing = []

    def end_capture(self, stream: Any) -> Any:
        graph, self._capturing = self._capturing, None
        return graph

    def replay(self, graph: Any, stream: Any) -> None:
        for action, arguments in graph:
            action(*arguments)

    def release_graph(self, graph: Any) -> None:
        pass
