"""Contraction kernels for tests, and a way to run what `lower_contraction` makes of them without the runtime."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tracefuse.backends.llvm.contraction import lower_contraction
from tracefuse.backends.llvm.engine import compile_object, host_target, link
from tracefuse.backends.llvm.lowered import LoweredKernel
from tracefuse.ir import dim
from tracefuse.ir.dim import Dim, DimLike, symbol
from tracefuse.ir.dtypes import DType, accumulator, dtype_of
from tracefuse.ir.kernel import Axis, Buffer, Contraction, Kernel, Schedule, Stage, Store
from tracefuse.ir.scalar import Expr, Load, cast, result

CHOICE = Schedule()  # without a tile: the generator's choice


def axis(name: str, extent: DimLike) -> Axis:
    return Axis(symbol(name, 0, extent - 1 if not isinstance(extent, int) else max(0, extent - 1)), extent)


def buffer(name: str, array: np.ndarray, role: str = "in", shape: tuple[DimLike, ...] | None = None) -> Buffer:
    """A parameter that looks like `array`; `shape` replaces its sizes, which then must be row-major."""
    if shape is not None:
        return Buffer(name, dtype_of(array.dtype), shape, dim.contiguous_strides(shape), role)
    strides = tuple(s // array.itemsize for s in array.strides)
    return Buffer(name, dtype_of(array.dtype), array.shape, strides, role)


def read(b: Buffer, *index: DimLike, mask: tuple[DimLike, ...] = ()) -> Expr:
    return Expr("load", b.dtype, (), Load(b.name, index, mask))


def matmul_kernel(
    x: Buffer, y: Buffer, out: Buffer, dims: tuple[Dim, ...] = (), epilogue=None, extra: tuple[Buffer, ...] = (), acc: DType | None = None
) -> Kernel:  # fmt: skip
    """x[..., M, K] @ y[..., K, N] -> out[..., M, N]; size-1 batch dims of the operands broadcast."""
    batch = tuple(axis(f"b{i}", e) for i, e in enumerate(out.shape[:-2]))
    m, n, k = axis("m", out.shape[-2]), axis("n", out.shape[-1]), axis("k", x.shape[-1])

    def at(b: Buffer) -> list[DimLike]:
        own = batch[len(batch) - (len(b.shape) - 2) :]
        return [0 if e == 1 else a.sym for a, e in zip(own, b.shape)]

    acc = acc or accumulator(x.dtype)
    lhs, rhs = cast(read(x, *at(x), m.sym, k.sym), acc), cast(read(y, *at(y), k.sym, n.sym), acc)
    value = result("acc", acc)
    points = (*(a.sym for a in batch), m.sym, n.sym)
    stores = epilogue(value, points) if epilogue else (Store(out.name, points, cast(value, out.dtype)),)
    anchor = Contraction("acc", batch, (m,), (n,), (k,), lhs, rhs, acc)
    return Kernel("mm", (x, y, out, *extra), (*batch, m, n), (Stage((), (), stores),), anchor, dims)


class Runnable:
    """A lowered kernel, compiled, with memory for its workspace and scratch."""

    def __init__(self, lowered: LoweredKernel, kernel: Kernel, sizes: dict[str, int] | None = None, target=None):
        self.kernel, self.lowered = kernel, lowered
        sizes = sizes or {}
        self.code = link([compile_object(lowered.text, target or host_target())])
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        self.phases = [(kind(self.code.address(p.symbol)), dim.evaluate(p.tasks, sizes)) for p in lowered.phases]
        self.workspace = aligned(dim.evaluate(lowered.workspace, sizes))
        self.dims = np.array([sizes[str(d)] for d in kernel.dims] or [0], np.int64)

    def __call__(self, *arrays: np.ndarray, threads: int = 1) -> None:
        self.prepared(*arrays, threads=threads)()

    def prepared(self, *arrays: np.ndarray, threads: int = 1) -> Callable[[], None]:
        """A call with everything allocated; each phase's tasks are spread over the threads."""
        scratch = aligned(self.lowered.thread_scratch * threads)
        pointers = [a.ctypes.data for a in arrays] + [self.workspace.ctypes.data, scratch.ctypes.data]
        bufs = np.array(pointers, np.int64)
        table, sizes = bufs.ctypes.data, self.dims.ctypes.data
        pool = ThreadPoolExecutor(threads) if threads > 1 else None

        def call() -> None:
            for function, tasks in self.phases:
                if pool is None:
                    function(table, sizes, 0, tasks, 0)
                    continue
                cuts = [tasks * t // threads for t in range(threads + 1)]
                parts = [pool.submit(function, table, sizes, cuts[t], cuts[t + 1], t) for t in range(threads)]
                for part in parts:
                    part.result()

        call.memory = (bufs, scratch, arrays)  # type: ignore[attr-defined]
        return call

    def pooled(self, *arrays: np.ndarray) -> Callable[[], None]:
        """A call through the runtime's thread pool, all its threads."""
        from tracefuse.runtime.threads import get_num_threads, pool_symbols

        scratch = aligned(self.lowered.thread_scratch * get_num_threads())
        pointers = [a.ctypes.data for a in arrays] + [self.workspace.ctypes.data, scratch.ctypes.data]
        bufs = np.array(pointers, np.int64)
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int64)
        parallel = kind(pool_symbols()["tf_parallel"])
        starts = [
            (ctypes.cast(f, ctypes.c_void_p), n, p.grain)
            for (f, n), p in zip(self.phases, self.lowered.phases, strict=True)
        ]

        def call() -> None:
            for address, tasks, grain in starts:
                parallel(address, bufs.ctypes.data, self.dims.ctypes.data, tasks, grain)

        call.memory = (bufs, scratch, arrays)  # type: ignore[attr-defined]
        return call


def aligned(count: int) -> np.ndarray:
    """`count` bytes at a multiple of 64, full of NaNs, so that reads of what nobody wrote show."""
    raw = np.full(count + 64, 0xFF, np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + count]


def compiled(kernel: Kernel, sizes: dict[str, int] | None = None, target=None, schedule: Schedule = CHOICE) -> Runnable:
    target = target or host_target()
    return Runnable(lower_contraction(kernel, schedule, target), kernel, sizes, target)
