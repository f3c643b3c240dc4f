"""What this package asks of a GPU's driver, and who answers: NVIDIA's, or Triton's interpreter on the host.

Addresses are ints. Streams, events and graphs are whatever the driver says they are. Everything that a stream is given is
done in order, after the call has returned; host memory must stay as it is until then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .. import knobs
from .code import KernelCode

Grid = tuple[int, ...]
Launch = Callable[[Any], None]  # gives one launch, with all that it needs, to a stream


class DeviceError(RuntimeError):
    """A GPU, or its driver, is not there or does not do what was asked."""


class OutOfDeviceMemory(DeviceError, MemoryError):
    """The device has no memory left; the message says who holds how much."""


class Function(Protocol):
    """A kernel's code on a device. `parameters`: how many arguments of 8 bytes it has: addresses of buffers, sizes, then
    what Triton's own launcher would add, of which the first is the address of scratch memory, if it needs that."""

    code: KernelCode
    parameters: int

    def bind(self, grid: Grid, table: int) -> Launch:
        """A launch of that many programs. `table`: the address of a table of pointers to the arguments. Both are read when
        the launch is given to a stream, and may change afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Properties:
    """name, compute capability (9, 0), bytes of memory, multiprocessors, bytes of shared memory that a program may have,
    bytes of the cache in front of the memory."""

    name: str
    capability: tuple[int, int]
    total_memory: int
    multi_processor_count: int
    shared_memory: int
    l2: int = 32 << 20


class Driver(Protocol):
    """One device. Every method may be called from any thread."""

    index: int
    properties: Properties
    interprets: bool  # whether kernels are interpreted, on the host

    def enter(self) -> None:
        """Makes it the device of this thread: before launches; everything else does so itself."""
        ...

    # memory
    def memory_info(self) -> tuple[int, int]:
        """Bytes that are free, and all there are."""
        ...

    def allocate(self, nbytes: int, stream: Any) -> int:
        """An address, valid for what `stream` is given from now on. OutOfDeviceMemory if there is none."""
        ...

    def release(self, address: int, stream: Any) -> None: ...
    def trim(self) -> None:
        """Gives the system back what is released."""
        ...

    def host_memory(self, nbytes: int) -> int:
        """Page-locked host memory, from and to which copies are asynchronous."""
        ...

    def release_host(self, address: int) -> None: ...
    def copy_in(self, target: int, host: int, nbytes: int, stream: Any) -> None: ...
    def copy_out(self, host: int, source: int, nbytes: int, stream: Any) -> None: ...
    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None: ...
    def copy_peer(self, target: int, source: int, nbytes: int, owner: Driver, stream: Any) -> None:
        """From memory of the device `owner` into memory of this one."""
        ...

    def fill(self, target: int, byte: int, nbytes: int, stream: Any) -> None: ...

    # order
    def new_stream(self) -> Any: ...
    def release_stream(self, stream: Any) -> None: ...
    def stream_number(self, stream: Any) -> int:
        """The stream as other libraries know it: its CUDA handle."""
        ...

    def foreign_stream(self, number: int | None) -> Any:
        """Another library's stream. None or 1: CUDA's default stream, 2: that of each thread."""
        ...

    def new_event(self, timing: bool) -> Any: ...
    def release_event(self, event: Any) -> None: ...
    def record(self, event: Any, stream: Any) -> None: ...
    def wait(self, stream: Any, event: Any) -> None: ...
    def is_done(self, event: Any) -> bool: ...
    def wait_for(self, event: Any) -> None: ...
    def milliseconds(self, start: Any, end: Any) -> float: ...
    def synchronize(self, stream: Any) -> None: ...

    # kernels
    def load(self, code: KernelCode) -> Function:
        """Brings a kernel's code onto the device."""
        ...

    # graphs
    def begin_capture(self, stream: Any) -> None:
        """What this thread gives the stream from now on is not done, but part of a graph."""
        ...

    def end_capture(self, stream: Any) -> Any: ...
    def replay(self, graph: Any, stream: Any) -> None: ...
    def release_graph(self, graph: Any) -> None: ...


@functools.cache
def drivers() -> tuple[Driver, ...]:
    """The devices of this process. DeviceError, with the reason, if there are none."""
    setting = knobs.KNOBS["TRACEFUSE_CUDA"].get()
    if setting:
        from .emulated import devices

        return devices(setting)
    from .nvidia import devices

    return devices()
