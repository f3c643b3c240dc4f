"""`tr.cuda`: the GPUs of this process, their streams and their memory, by PyTorch's names.

Work on a GPU is asynchronous: calls return when it has been queued. What copies to the host (`cpu()`, `item()`, `print`)
waits for its own stream, `synchronize` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.cuda import device as runtime
from ..runtime.cuda.driver import DeviceError, OutOfDeviceMemory, Properties, drivers
from .devices import Device
from .devices import device as _device
from .random import manual_seed


def is_available() -> bool:
    """Whether there is a GPU. `why_not` has the reason if there is none."""
    return device_count() > 0


def why_not() -> str:
    """Why no GPU is available; "" if one is."""
    try:
        drivers()
    except DeviceError as e:
        return str(e)
    return ""


def device_count() -> int:
    """How many GPUs this process sees."""
    return runtime.gpu_count()


def _gpu(device: Any) -> runtime.Gpu:
    if device is None:
        return runtime.gpu(current_device())
    found = _device(device)
    if found.type != "cuda":
        raise ValueError(f"{found} is no GPU")
    return runtime.gpu(found.index or 0)


def current_device() -> int:
    """The GPU that is meant where none is named: that of the default device, else the first."""
    from .devices import get_default_device

    return get_default_device().index or 0


def get_device_properties(device: Any = None) -> Properties:
    """name, capability, total_memory (bytes), multi_processor_count, shared_memory (bytes of one program)."""
    return _gpu(device).driver.properties


def get_device_name(device: Any = None) -> str:
    return get_device_properties(device).name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """(9, 0) for sm_90."""
    return get_device_properties(device).capability


def synchronize(device: Any = None) -> None:
    """Waits for everything that a GPU was given."""
    _gpu(device).synchronize()


# ------------------------------------------------------------------ streams


class Stream(runtime.Stream):
    """Work that is done in order, beside that of other streams. `with tr.cuda.stream(s):` gives work to it."""

    def __init__(self, device: Any = None):
        gpu = _gpu(device)
        super().__init__(gpu, gpu.driver.new_stream())


class ExternalStream(runtime.Stream):
    """A stream of another library's, by the number of its CUDA handle (PyTorch: `torch.cuda.current_stream().cuda_stream`)."""

    def __init__(self, handle: int, device: Any = None):
        super().__init__(_gpu(device), handle, owned=False)


class Event(runtime.Event):
    """A point in a stream's work: `record(stream)`, `synchronize()`, `query()`, `elapsed_time(end)` in milliseconds if both
    were made with enable_timing=True."""

    def __init__(self, enable_timing: bool = False, device: Any = None):
        super().__init__(_gpu(device), enable_timing)

    def record(self, stream: runtime.Stream | None = None) -> None:
        """Becomes the point behind all that the stream (the current one) was given until now."""
        (stream or self.gpu.stream).record(self)

    def query(self) -> bool:
        """Whether all before it is done."""
        return self.is_done()

    def elapsed_time(self, end: runtime.Event) -> float:
        """Milliseconds between the two points."""
        return self.milliseconds_to(end)


def current_stream(device: Any = None) -> runtime.Stream:
    """What this thread's work on a GPU is given to."""
    return _gpu(device).stream


def default_stream(device: Any = None) -> runtime.Stream:
    """What it is given to unless said otherwise."""
    return _gpu(device).main_stream


@contextmanager
def stream(s: runtime.Stream | None) -> Iterator[None]:
    """Work of this thread on the stream's GPU is given to it. It waits for nothing: see `Stream.wait_stream`."""
    if s is None:
        yield
        return
    before = s.gpu.stream
    s.gpu.stream = s
    try:
        yield
    finally:
        s.gpu.stream = before


# ------------------------------------------------------------------ memory


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors hold."""
    return _gpu(device).pool.stats().in_use


def max_memory_allocated(device: Any = None) -> int:
    """The most bytes that tensors have held since `reset_peak_memory_stats`."""
    return _gpu(device).pool.stats().peak


def memory_reserved(device: Any = None) -> int:
    """Bytes of tensors and of memory that is kept for others."""
    stats = _gpu(device).pool.stats()
    return stats.in_use + stats.cached


def memory_stats(device: Any = None) -> Any:
    """All of that at once."""
    return _gpu(device).pool.stats()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Bytes that are free on the GPU, and all there are."""
    return _gpu(device).driver.memory_info()


def reset_peak_memory_stats(device: Any = None) -> None:
    _gpu(device).pool.reset_peak()


def empty_cache(device: Any = None) -> None:
    """Gives memory that is kept for later tensors back to the driver."""
    _gpu(device).pool.trim()


def is_bf16_supported() -> bool:
    """Every GPU that is supported has bfloat16."""
    return is_available()


manual_seed_all = manual_seed  # there is one stream of random numbers for all devices
OutOfMemoryError = OutOfDeviceMemory

__all__ = [
    "Device", "DeviceError", "Event", "ExternalStream", "OutOfMemoryError", "Stream", "current_device", "current_stream",
    "default_stream", "device_count", "empty_cache", "get_device_capability", "get_device_name", "get_device_properties",
    "is_available", "is_bf16_supported", "manual_seed", "manual_seed_all", "max_memory_allocated", "mem_get_info",
    "memory_allocated", "memory_reserved", "memory_stats", "reset_peak_memory_stats", "stream", "synchronize", "why_not",
]  # fmt: skip
