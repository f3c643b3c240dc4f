"""A stand-in for `cuda.bindings.driver` whose device is the host: it checks what it is given as strictly as the real one,
records the calls, and interprets kernels, whose "cubins" are pickled Triton kernels (`image_of`).

Parameters are named as in the real module; a test compares the two where that is installed.
"""

from __future__ import annotations

import ctypes
import inspect
import pickle
import time
import types
from enum import EnumMeta, IntEnum
from typing import Any

import numpy as np
from tracefuse.backends.triton.launch import call as interpreted
from tracefuse.backends.triton.launch import enable_interpreter
from tracefuse.backends.triton.lowered import TritonKernel
from tracefuse.runtime.cuda.code import Image

enable_interpreter()

ENUMS = {
    "CUresult": {
        "CUDA_SUCCESS": 0, "CUDA_ERROR_INVALID_VALUE": 1, "CUDA_ERROR_OUT_OF_MEMORY": 2, "CUDA_ERROR_NOT_INITIALIZED": 3,
        "CUDA_ERROR_NO_DEVICE": 100, "CUDA_ERROR_INVALID_CONTEXT": 201, "CUDA_ERROR_NO_BINARY_FOR_GPU": 209,
        "CUDA_ERROR_NOT_READY": 600, "CUDA_ERROR_ILLEGAL_ADDRESS": 700, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": 900,
    },
    "CUdevice_attribute": {
        "CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT": 16, "CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE": 38,
        "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR": 75, "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR": 76,
        "CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 97, "CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED": 115,
    },
    "CUmemPool_attribute": {"CU_MEMPOOL_ATTR_RELEASE_THRESHOLD": 4},
    "CUstream_flags": {"CU_STREAM_DEFAULT": 0, "CU_STREAM_NON_BLOCKING": 1},
    "CUevent_flags": {"CU_EVENT_DEFAULT": 0, "CU_EVENT_DISABLE_TIMING": 2},
    "CUstreamCaptureMode": {"CU_STREAM_CAPTURE_MODE_GLOBAL": 0, "CU_STREAM_CAPTURE_MODE_RELAXED": 2},
    "CUfunction_attribute": {"CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES": 8},
}  # fmt: skip
HANDLES = (
    "CUdevice", "CUcontext", "CUmemoryPool", "CUstream", "CUevent", "CUmodule", "CUfunction", "CUgraph", "CUgraphExec",
    "CUdeviceptr", "cuuint64_t",
)  # fmt: skip


class Plain(EnumMeta):
    """Members are attributes: NVIDIA's enums are not subscriptable."""

    __getitem__ = None  # type: ignore[assignment]


class PlainEnum(IntEnum, metaclass=Plain):
    pass


enums: Any = types.SimpleNamespace(**{name: PlainEnum(name, members) for name, members in ENUMS.items()})


class Handle:
    """What the driver hands out: equal to nothing else, and an int for who asks."""

    def __init__(self, value: int = 0, **what: Any):
        self.value = value
        self.__dict__.update(what)

    def __int__(self) -> int:
        return self.value


handles: Any = types.SimpleNamespace(**{name: type(name, (Handle,), {}) for name in HANDLES})
H = handles
OK, BAD = enums.CUresult.CUDA_SUCCESS, enums.CUresult.CUDA_ERROR_INVALID_VALUE


def image_of(kernel: TritonKernel, scratch: int = 0, shared: int = 0) -> Image:
    """What stands for the machine code of a kernel here. Triton adds two parameters, as on real devices."""
    parameters = len(kernel.buffers) + len(kernel.dims) + 2
    return Image(pickle.dumps(kernel), kernel.name, 32 * kernel.num_warps, shared, scratch, parameters)


class FakeDriver:
    """The functions of the module. `calls`: the names of those that were called, with their arguments. `fail`: the status
    that a function of that name gives instead of doing anything."""

    def __init__(self, *capabilities: tuple[int, int], version: int = 12040, pools: bool = True):
        self.capabilities, self.version = capabilities, version
        self.attributes = {16: 4, 38: 1 << 16, 97: 227 << 10, 115: int(pools)}
        self.calls: list[tuple[str, tuple]] = []
        self.fail: dict[str, int] = {}
        self.blocks: dict[int, np.ndarray] = {}
        self.memory = 1 << 30
        self.contexts: list[Any] = [None]  # of this thread; the last is current

    def module(self) -> types.ModuleType:
        """A module like the real one."""
        out: Any = types.ModuleType("cuda.bindings.driver")
        for space in (enums, handles):
            out.__dict__.update(vars(space))
        out.CU_MEMHOSTALLOC_PORTABLE = 1
        for name, function in inspect.getmembers(self, inspect.ismethod):
            if name.startswith("cu"):
                setattr(out, name, self._checked(name, function))
        return out

    def _checked(self, name: str, function: Any) -> Any:
        kinds = [p.annotation for p in inspect.signature(function).parameters.values()]

        def call(*arguments: Any) -> tuple:
            assert len(arguments) == len(kinds), f"{name} takes {len(kinds)} arguments, not {len(arguments)}"
            for kind, a in zip(kinds, arguments):
                _check(name, kind, a)
            self.calls.append((name, arguments))
            if name in self.fail:
                return (enums.CUresult(self.fail[name]), *([None] * (name not in NOTHING)))
            out = function(*arguments)
            return out if isinstance(out, tuple) else (OK, out)

        call.__name__ = name
        return call

    def _here(self) -> None:
        assert self.contexts[-1] is not None, "no context is current"

    # ---- the library and its devices
    def cuInit(self, Flags: int):
        return (OK,)

    def cuDriverGetVersion(self):
        return self.version

    def cuGetErrorString(self, error: enums.CUresult):
        return f"the text of {error.name}".encode()

    def cuDeviceGetCount(self):
        return len(self.capabilities)

    def cuDeviceGet(self, ordinal: int):
        return H.CUdevice(ordinal)

    def cuDeviceGetName(self, length: int, dev: H.CUdevice):
        return b"Fake GPU".ljust(length, b"\0")

    def cuDeviceTotalMem(self, dev: H.CUdevice):
        return self.memory

    def cuDeviceGetAttribute(self, attrib: enums.CUdevice_attribute, dev: H.CUdevice):
        part = {75: 0, 76: 1}.get(attrib)
        return self.attributes[attrib] if part is None else self.capabilities[dev.value][part]

    def cuDevicePrimaryCtxRetain(self, dev: H.CUdevice):
        return H.CUcontext(dev.value + 100)

    def cuCtxSynchronize(self):
        return (OK,)

    def cuCtxSetCurrent(self, ctx: H.CUcontext):
        self.contexts[-1] = ctx
        return (OK,)

    def cuCtxPushCurrent(self, ctx: H.CUcontext):
        self.contexts.append(ctx)
        return (OK,)

    def cuCtxPopCurrent(self):
        return self.contexts.pop()

    # ---- memory
    def cuDeviceGetDefaultMemPool(self, dev: H.CUdevice):
        return H.CUmemoryPool()

    def cuMemPoolSetAttribute(self, pool: H.CUmemoryPool, attr: enums.CUmemPool_attribute, value: H.cuuint64_t):
        return (OK,)

    def cuMemPoolTrimTo(self, pool: H.CUmemoryPool, minBytesToKeep: int):
        return (OK,)

    def cuMemGetInfo(self):
        return OK, self.memory - sum(b.size for b in self.blocks.values()), self.memory

    def _new(self, nbytes: int):
        self._here()
        if nbytes > self.cuMemGetInfo()[1]:
            return enums.CUresult.CUDA_ERROR_OUT_OF_MEMORY, H.CUdeviceptr(0)
        block = np.full(nbytes + 256, 0xA5, np.uint8)
        address = -(-block.ctypes.data // 256) * 256
        self.blocks[address] = block
        return OK, H.CUdeviceptr(address)

    def cuMemAllocAsync(self, bytesize: int, hStream: H.CUstream):
        return self._new(bytesize)

    def cuMemAlloc(self, bytesize: int):
        return self._new(bytesize)

    def cuMemFreeAsync(self, dptr: int, hStream: H.CUstream):
        self._here()
        del self.blocks[dptr]
        return (OK,)

    def cuMemFree(self, dptr: int):
        del self.blocks[dptr]
        return (OK,)

    def cuMemHostAlloc(self, bytesize: int, Flags: int):
        code, pointer = self._new(bytesize)
        return code, int(pointer)

    def cuMemFreeHost(self, p: int):
        return self.cuMemFree(p)

    def _move(self, stream: Any, *copy: Any):
        self._here()
        stream.graph.append((ctypes.memmove, copy)) if stream.graph is not None else ctypes.memmove(*copy)
        return (OK,)

    def cuMemcpyHtoDAsync(self, dstDevice: int, srcHost: int, ByteCount: int, hStream: H.CUstream):
        return self._move(hStream, dstDevice, srcHost, ByteCount)

    def cuMemcpyDtoHAsync(self, dstHost: int, srcDevice: int, ByteCount: int, hStream: H.CUstream):
        return self._move(hStream, dstHost, srcDevice, ByteCount)

    def cuMemcpyDtoDAsync(self, dstDevice: int, srcDevice: int, ByteCount: int, hStream: H.CUstream):
        return self._move(hStream, dstDevice, srcDevice, ByteCount)

    def cuMemcpyPeerAsync(
        self, dstDevice: int, dstContext: H.CUcontext, srcDevice: int, srcContext: H.CUcontext, ByteCount: int,
        hStream: H.CUstream,
    ):  # fmt: skip
        assert dstContext is not srcContext
        return self._move(hStream, dstDevice, srcDevice, ByteCount)

    def cuMemsetD8Async(self, dstDevice: int, uc: int, N: int, hStream: H.CUstream):
        ctypes.memset(dstDevice, uc, N)
        return (OK,)

    # ---- order
    def cuStreamCreate(self, Flags: int):
        return H.CUstream(1, graph=None)

    def cuStreamDestroy(self, hStream: H.CUstream):
        return (OK,)

    def cuStreamSynchronize(self, hStream: H.CUstream):
        return (OK,)

    def cuStreamWaitEvent(self, hStream: H.CUstream, hEvent: H.CUevent, Flags: int):
        return (OK,)

    def cuEventCreate(self, Flags: int):
        return H.CUevent(timed=not Flags & 2, at=0.0)

    def cuEventDestroy(self, hEvent: H.CUevent):
        return (OK,)

    def cuEventQuery(self, hEvent: H.CUevent):
        return (OK,)

    def cuEventSynchronize(self, hEvent: H.CUevent):
        return (OK,)

    def cuEventRecord(self, hEvent: H.CUevent, hStream: H.CUstream):
        hEvent.at = time.perf_counter()
        return (OK,)

    def cuEventElapsedTime(self, hStart: H.CUevent, hEnd: H.CUevent):
        return (OK, 1e3 * (hEnd.at - hStart.at)) if hStart.timed and hEnd.timed else (BAD, 0.0)

    # ---- kernels
    def cuModuleLoadData(self, image: bytes):
        self._here()
        return H.CUmodule(kernel=pickle.loads(image))

    def cuModuleUnload(self, hmod: H.CUmodule):
        return (OK,)

    def cuModuleGetFunction(self, hmod: H.CUmodule, name: bytes):
        assert name == hmod.kernel.name.encode()
        return H.CUfunction(kernel=hmod.kernel)

    def cuFuncSetAttribute(self, hfunc: H.CUfunction, attrib: enums.CUfunction_attribute, value: int):
        return (OK,)

    def cuLaunchKernel(
        self, f: H.CUfunction, gridDimX: int, gridDimY: int, gridDimZ: int, blockDimX: int, blockDimY: int,
        blockDimZ: int, sharedMemBytes: int, hStream: H.CUstream, kernelParams: int, extra: int,
    ):  # fmt: skip
        self._here()
        count = len(f.kernel.buffers) + len(f.kernel.dims) + 2
        pointers = (ctypes.c_int64 * count).from_address(kernelParams)
        arguments = [ctypes.c_int64.from_address(p).value for p in pointers]
        launch = (f.kernel, (gridDimX, gridDimY, gridDimZ), arguments)
        hStream.graph.append((self._run, launch)) if hStream.graph is not None else self._run(*launch)
        return (OK,)

    def _run(self, kernel: TritonKernel, grid: tuple, arguments: list[int]) -> None:
        arrays: list[np.ndarray] = []
        for (_, dtype), address in zip(kernel.buffers, arguments):
            at, block = next((at, b) for at, b in self.blocks.items() if at <= address < at + b.size)
            left = (block.ctypes.data + block.size - address) // dtype.itemsize
            memory: Any = (ctypes.c_char * (left * dtype.itemsize)).from_address(address)
            arrays.append(np.frombuffer(memory, dtype.np))
        interpreted(kernel, grid, arrays, arguments[len(arrays) : -2])

    # ---- graphs
    def cuStreamBeginCapture(self, hStream: H.CUstream, mode: enums.CUstreamCaptureMode):
        hStream.graph = []
        return (OK,)

    def cuStreamEndCapture(self, hStream: H.CUstream):
        graph, hStream.graph = hStream.graph, None
        return H.CUgraph(nodes=graph)

    def cuGraphInstantiate(self, hGraph: H.CUgraph, flags: int):
        return H.CUgraphExec(nodes=list(hGraph.nodes))

    def cuGraphDestroy(self, hGraph: H.CUgraph):
        return (OK,)

    def cuGraphExecDestroy(self, hGraphExec: H.CUgraphExec):
        return (OK,)

    def cuGraphLaunch(self, hGraphExec: H.CUgraphExec, hStream: H.CUstream):
        for action, arguments in hGraphExec.nodes:
            action(*arguments)
        return (OK,)


NOTHING = {
    name for name, f in vars(FakeDriver).items() if name.startswith("cu") and "return (OK,)" in inspect.getsource(f)
}


def _check(name: str, kind: Any, a: Any) -> None:
    kind = eval(kind) if isinstance(kind, str) else kind
    fits = type(a) is int if kind is int else isinstance(a, kind)
    assert fits, f"{name} takes {kind.__name__}, not {type(a).__name__}: {a!r}"
