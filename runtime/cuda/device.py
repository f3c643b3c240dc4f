"""The GPUs of this process: each with its driver, its memory, its streams and the kernels that it has loaded."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ...backends.triton.exprs import INTERPRETER
from ...ir.kernel import Kernel, Schedule
from ...ir.target import CUDA_SM90, Target, cuda_target
from .code import Counts, KernelCode, Work, interpreted, machine_code
from .driver import DeviceError, Driver, Function, drivers
from .host import HostPool
from .memory import Pool


class Gpu:
    """One device. `stream`: what work of this thread is given to."""

    def __init__(self, driver: Driver):
        self.driver, self.index = driver, driver.index
        self.name = f"cuda:{self.index}"
        self.target: Target = _target(driver)
        self.streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        self.pool = Pool(self)
        self.main_stream = Stream(self, driver.new_stream())
        self.host = HostPool(self)
        self.several_streams = False  # whether work has been given to another stream than the main one
        self._local = threading.local()
        self._loaded: weakref.WeakValueDictionary[str, Function] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def stream(self) -> "Stream":
        return getattr(self._local, "stream", self.main_stream)

    @stream.setter
    def stream(self, stream: "Stream") -> None:
        self._local.stream = stream
        self.several_streams |= stream is not self.main_stream

    def synchronize(self) -> None:
        """Waits for everything that was given to the device's streams."""
        for stream in list(self.streams):
            stream.synchronize()

    def load(self, kernel: Kernel, schedule: Schedule, unaligned: frozenset[str] = frozenset()) -> Function:
        """A kernel's code on this device. unaligned: see `Work`."""
        return self.load_all([Work(kernel, schedule, unaligned)])[0]

    def load_all(
        self, work: Sequence[Work], breathe: Callable[[], None] = lambda: None, counts: Counts | None = None
    ) -> list[Function]:
        """The code of kernels on this device, which stays there as long as somebody refers to it. Kernels that are not on
        disk are compiled beside each other. breathe: called between kernels; what it raises ends it."""
        keys = [w.text for w in work]
        found = {k: self._loaded.get(k) for k in keys}
        missing = {k: w for k, w in zip(keys, work) if found[k] is None}
        codes = self._codes(list(missing.values()), breathe, counts or Counts()) if missing else []
        for key, code in zip(missing, codes, strict=True):
            with self._lock:  # another thread may have been faster
                found[key] = self._loaded.get(key)
                if found[key] is None:
                    found[key] = self._loaded[key] = self.driver.load(code)
        return [f for f in map(found.__getitem__, keys) if f is not None]

    def _codes(self, work: list[Work], breathe: Callable[[], None], counts: Counts) -> list[KernelCode]:
        if not self.driver.interprets:
            return machine_code(work, self.target, counts, breathe)
        out = []
        for w in work:
            breathe()
            out.append(interpreted(w, self.target))
        return out

    def __repr__(self) -> str:
        return f"<{self.name}: {self.driver.properties.name}>"


def _target(driver: Driver) -> Target:
    """What code for the device is generated for: with the limits of its own kind, and its own number of multiprocessors."""
    if driver.interprets:
        return replace(CUDA_SM90, cpu=INTERPRETER)
    major, minor = driver.properties.capability
    return cuda_target(10 * major + minor, driver.properties.multi_processor_count)


class Stream:
    """Work that is done in order. Streams of one device run beside each other."""

    def __init__(self, gpu: Gpu, handle: Any, owned: bool = True):
        self.gpu, self.handle, self._owned = gpu, handle, owned
        gpu.streams.add(self)

    def synchronize(self) -> None:
        """Waits until everything is done that the stream was given."""
        self.gpu.driver.synchronize(self.handle)

    def record(self, event: "Event") -> None:
        event.gpu.driver.record(event.handle, self.handle)

    def wait(self, event: "Event") -> None:
        """What the stream is given from now on waits for the event."""
        self.gpu.driver.wait(self.handle, event.handle)

    def wait_stream(self, other: "Stream") -> None:
        """What the stream is given from now on waits for all that `other` has been given until now."""
        if other is not self:
            event = Event(other.gpu)
            other.record(event)
            self.wait(event)

    @property
    def number(self) -> int:
        """The stream as other libraries know it: its CUDA handle."""
        return self.gpu.driver.stream_number(self.handle)

    def __del__(self) -> None:
        if self._owned:
            self.gpu.pool.retire(self.handle)


class Event:
    """A point in a stream's work."""

    def __init__(self, gpu: Gpu, timing: bool = False):
        self.gpu = gpu
        self.handle = gpu.driver.new_event(timing)

    def is_done(self) -> bool:
        return self.gpu.driver.is_done(self.handle)

    def synchronize(self) -> None:
        self.gpu.driver.wait_for(self.handle)

    def milliseconds_to(self, end: "Event") -> float:
        """Between the two points. Both must have been made with timing=True, and be done."""
        return self.gpu.driver.milliseconds(self.handle, end.handle)

    def __del__(self) -> None:
        self.gpu.driver.release_event(self.handle)


@functools.cache
def _gpus() -> tuple[Gpu, ...]:
    return tuple(map(Gpu, drivers()))


def gpu(index: int) -> Gpu:
    """The device of that number. DeviceError with the reason if it is not there."""
    found = _gpus()
    if not 0 <= index < len(found):
        raise DeviceError(f"there is no cuda:{index}: this process sees {len(found)} GPU(s), cuda:0 is the first")
    return found[index]


def gpu_count() -> int:
    """How many GPUs this process sees; 0 without a driver."""
    try:
        return len(_gpus())
    except DeviceError:
        return 0
