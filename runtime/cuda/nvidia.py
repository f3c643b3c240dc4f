"""NVIDIA's GPUs, through `cuda.bindings.driver` (the package cuda-bindings, which cuda-core uses, too), versions 12 and 13.

Every device is used by its primary context, as PyTorch, CuPy and the CUDA runtime do: memory, streams and events of one
are good for the other. Contexts are current per thread, and others may change that, so each call makes its own current.
"""

from __future__ import annotations

import importlib
import weakref
from collections import deque
from collections.abc import Callable
from importlib import metadata
from typing import Any

from .code import KernelCode
from .driver import DeviceError, Driver, Function, Grid, Launch, OutOfDeviceMemory, Properties

INSTALL = "pip install 'tracefuse[gpu]'"
OLDEST_DRIVER = 12000  # CUDA 12.0
OLDEST_TRITON = (3, 6)
OLDEST_CAPABILITY = (8, 0)
STATIC_SHARED = 48 << 10  # bytes of shared memory that a program gets without asking
UNLOADED = 64  # modules that wait to be unloaded, as the device is waited for then
NONE = "there is no NVIDIA GPU, or CUDA_VISIBLE_DEVICES hides it"


def devices() -> tuple[Driver, ...]:
    """The GPUs that this process sees and can use. DeviceError with the reason if there are none."""
    cuda = _bindings()
    _check_triton()
    handles = [_call(cuda.cuDeviceGet, k) for k in range(_call(cuda.cuDeviceGetCount))]
    found = [(h, _properties(cuda, h)) for h in handles]
    usable = [(h, p) for h, p in found if p.capability >= OLDEST_CAPABILITY]
    if not found:
        raise DeviceError(NONE)
    if not usable:
        name, (major, minor) = found[0][1].name, found[0][1].capability
        raise DeviceError(f"{name} has compute capability {major}.{minor}; tracefuse needs 8.0 (Ampere) or newer")
    return tuple(NvidiaDevice(cuda, k, h, p) for k, (h, p) in enumerate(usable))


def _bindings() -> Any:
    """NVIDIA's library, initialised. DeviceError if something is missing, or too old."""
    try:
        cuda = importlib.import_module("cuda.bindings.driver")
    except ImportError:
        raise DeviceError(f"GPUs need NVIDIA's cuda-bindings: {INSTALL}") from None
    try:
        status, version = cuda.cuDriverGetVersion()
    except RuntimeError:
        raise DeviceError("there is no NVIDIA driver (libcuda) on this machine") from None
    if status:
        raise _error(status, "cuDriverGetVersion")
    if version < OLDEST_DRIVER:
        raise DeviceError(
            f"the NVIDIA driver is for CUDA {version // 1000}.{version % 1000 // 10}, tracefuse needs one for 12.0 or "
            "newer: install driver 525 or newer"
        )
    try:
        _call(cuda.cuInit, 0)
    except DeviceError as e:
        if "CUDA_ERROR_NO_DEVICE" in str(e):
            raise DeviceError(NONE) from None
        raise
    return cuda


def _check_triton() -> None:
    """Looks without importing it: a process that finds its kernels on disk never does."""
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise DeviceError(f"GPUs need Triton: {INSTALL}") from None
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST_TRITON:
        raise DeviceError(f"Triton {version} is installed, tracefuse needs 3.6 or newer: {INSTALL}")


def _call(function: Callable[..., tuple], *arguments: Any) -> Any:
    """What a function of the driver gives besides its status. DeviceError, with CUDA's name and text, if it fails."""
    try:
        status, *values = function(*arguments)
    except RuntimeError as e:  # NVIDIA's library looks for functions in the driver when they are called
        raise DeviceError(
            f"{function.__name__}: {e}; the NVIDIA driver is too old for the installed cuda-bindings"
        ) from None
    if status:
        raise _error(status, function.__name__)
    return values[0] if len(values) == 1 else tuple(values) or None


def _error(status: Any, function: str) -> DeviceError:
    cuda = importlib.import_module("cuda.bindings.driver")
    _, text = cuda.cuGetErrorString(status)
    message = f"{function}: {status.name}: {text.decode() if text else 'unknown error'}"
    if status == cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        return OutOfDeviceMemory(message)
    if status == cuda.CUresult.CUDA_ERROR_NOT_INITIALIZED:
        message += " (a process that was forked can't use the GPUs of its parent: start it by spawn)"
    return DeviceError(message)


def _properties(cuda: Any, handle: Any) -> Properties:
    def attribute(name: str) -> int:
        return _call(cuda.cuDeviceGetAttribute, getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), handle)

    name = _call(cuda.cuDeviceGetName, 256, handle)
    return Properties(
        name.partition(b"\0")[0].decode(),
        (attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
        _call(cuda.cuDeviceTotalMem, handle),
        attribute("MULTIPROCESSOR_COUNT"),
        attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        attribute("L2_CACHE_SIZE"),
    )


class NvidiaDevice:
    """See `Driver`."""

    interprets = False

    def __init__(self, cuda: Any, index: int, handle: Any, properties: Properties):
        self.cuda, self.index, self.handle, self.properties = cuda, index, handle, properties
        self.context = _call(cuda.cuDevicePrimaryCtxRetain, handle)
        pools = cuda.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
        self._unloaded: deque[Any] = deque()  # modules that nobody refers to
        self._pool = None  # the driver's own memory pool; None where it has none
        if _call(cuda.cuDeviceGetAttribute, pools, handle):
            self._pool = _call(cuda.cuDeviceGetDefaultMemPool, handle)
            threshold = cuda.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
            _call(cuda.cuMemPoolSetAttribute, self._pool, threshold, cuda.cuuint64_t(2**64 - 1))

    def enter(self) -> None:
        status = self.cuda.cuCtxSetCurrent(self.context)[0]
        if status:
            raise _error(status, "cuCtxSetCurrent")

    def _do(self, function: Callable[..., tuple], *arguments: Any) -> Any:
        self.enter()
        return _call(function, *arguments)

    def _give_back(self, function: Callable[..., tuple], *arguments: Any) -> None:
        """Runs in `__del__`, so at any point: the thread keeps its context, and failures (the device is broken, or the
        process ends) help nobody."""
        if not self.cuda.cuCtxPushCurrent(self.context)[0]:
            function(*arguments)
            self.cuda.cuCtxPopCurrent()

    # ---- memory
    def memory_info(self) -> tuple[int, int]:
        return self._do(self.cuda.cuMemGetInfo)

    def allocate(self, nbytes: int, stream: Any) -> int:
        if self._pool is None:
            return int(self._do(self.cuda.cuMemAlloc, nbytes))
        return int(self._do(self.cuda.cuMemAllocAsync, nbytes, stream))

    def release(self, address: int, stream: Any) -> None:
        if self._pool is None:
            self._do(self.cuda.cuMemFree, address)
        else:
            self._do(self.cuda.cuMemFreeAsync, address, stream)

    def trim(self) -> None:
        self._do(self.cuda.cuCtxSynchronize)
        if self._pool is not None:
            _call(self.cuda.cuMemPoolTrimTo, self._pool, 0)

    def host_memory(self, nbytes: int) -> int:
        return int(self._do(self.cuda.cuMemHostAlloc, nbytes, self.cuda.CU_MEMHOSTALLOC_PORTABLE))

    def release_host(self, address: int) -> None:
        self._give_back(self.cuda.cuMemFreeHost, address)

    def copy_in(self, target: int, host: int, nbytes: int, stream: Any) -> None:
        self._do(self.cuda.cuMemcpyHtoDAsync, target, host, nbytes, stream)

    def copy_out(self, host: int, source: int, nbytes: int, stream: Any) -> None:
        self._do(self.cuda.cuMemcpyDtoHAsync, host, source, nbytes, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: Any) -> None:
        self._do(self.cuda.cuMemcpyDtoDAsync, target, source, nbytes, stream)

    def copy_peer(self, target: int, source: int, nbytes: int, owner: Any, stream: Any) -> None:
        self._do(self.cuda.cuMemcpyPeerAsync, target, self.context, source, owner.context, nbytes, stream)

    def fill(self, target: int, byte: int, nbytes: int, stream: Any) -> None:
        self._do(self.cuda.cuMemsetD8Async, target, byte, nbytes, stream)

    # ---- order
    def new_stream(self) -> Any:
        return self._do(self.cuda.cuStreamCreate, self.cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value)

    def release_stream(self, stream: Any) -> None:
        self._give_back(self.cuda.cuStreamDestroy, stream)

    def stream_number(self, stream: Any) -> int:
        return int(stream)

    def foreign_stream(self, number: int | None) -> Any:
        return self.cuda.CUstream(1 if number is None else number)

    def new_event(self, timing: bool) -> Any:
        flags = self.cuda.CUevent_flags
        return self._do(
            self.cuda.cuEventCreate, (flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING).value
        )

    def release_event(self, event: Any) -> None:
        self._give_back(self.cuda.cuEventDestroy, event)

    def record(self, event: Any, stream: Any) -> None:
        self._do(self.cuda.cuEventRecord, event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        self._do(self.cuda.cuStreamWaitEvent, stream, event, 0)

    def is_done(self, event: Any) -> bool:
        self.enter()
        status = self.cuda.cuEventQuery(event)[0]
        if status and status != self.cuda.CUresult.CUDA_ERROR_NOT_READY:
            raise _error(status, "cuEventQuery")
        return not status

    def wait_for(self, event: Any) -> None:
        self._do(self.cuda.cuEventSynchronize, event)

    def milliseconds(self, start: Any, end: Any) -> float:
        return self._do(self.cuda.cuEventElapsedTime, start, end)

    def synchronize(self, stream: Any) -> None:
        self._do(self.cuda.cuStreamSynchronize, stream)

    # ---- kernels
    def load(self, code: KernelCode) -> Function:
        self.enter()
        if len(self._unloaded) >= UNLOADED:
            _call(self.cuda.cuCtxSynchronize)  # nothing of it runs any more
            while self._unloaded:
                _call(self.cuda.cuModuleUnload, self._unloaded.popleft())
        return _Loaded(self, code)

    # ---- graphs
    def begin_capture(self, stream: Any) -> None:
        mode = self.cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED  # other work of this thread stays allowed
        self._do(self.cuda.cuStreamBeginCapture, stream, mode)

    def end_capture(self, stream: Any) -> Any:
        graph = self._do(self.cuda.cuStreamEndCapture, stream)
        try:
            return _call(self.cuda.cuGraphInstantiate, graph, 0)
        finally:
            self.cuda.cuGraphDestroy(graph)

    def replay(self, graph: Any, stream: Any) -> None:
        self._do(self.cuda.cuGraphLaunch, graph, stream)

    def release_graph(self, graph: Any) -> None:
        self._give_back(self.cuda.cuGraphExecDestroy, graph)


class _Loaded:
    """A kernel on a device. See `Function`."""

    def __init__(self, device: NvidiaDevice, code: KernelCode):
        image, cuda = code.image, device.cuda
        assert image is not None
        self.cuda, self.code, self.parameters = cuda, code, image.parameters
        try:
            self.module = _call(cuda.cuModuleLoadData, image.data)
        except DeviceError as e:
            raise DeviceError(f"{code.name} can't be loaded, perhaps for want of a newer driver: {e}") from None
        weakref.finalize(self, device._unloaded.append, self.module).atexit = False
        self.function = _call(cuda.cuModuleGetFunction, self.module, image.symbol.encode())
        if image.shared > STATIC_SHARED:
            limit = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _call(cuda.cuFuncSetAttribute, self.function, limit, image.shared)

    def bind(self, grid: Grid, table: int) -> Launch:
        image = self.code.image
        assert image is not None
        call, function, (x, y, z) = self.cuda.cuLaunchKernel, self.function, grid
        threads, shared = image.threads, image.shared

        def launch(stream: Any) -> None:
            status = call(function, x, y, z, threads, 1, 1, shared, stream, table, 0)[0]
            if status:
                raise _error(status, f"{self.code.name}: cuLaunchKernel")

        return launch
