"""Runs Triton kernels on NumPy arrays through Triton's own interpreter: numbers without a GPU."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.kernel import Kernel, Schedule
from ...ir.target import CUDA_SM90, Target
from .emit import lower_kernel
from .exprs import INTERPRETER
from .interpreter import memory, patch
from .lowered import TritonKernel

INTERPRETED: Target = replace(CUDA_SM90, cpu=INTERPRETER)


def enable_interpreter() -> None:
    """Makes Triton interpret kernels in this process: has to happen before it is imported. RuntimeError if it is too
    late. A process that interprets cannot compile."""
    if "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    import triton.knobs

    if not triton.knobs.runtime.interpret:
        raise RuntimeError("triton was imported without TRITON_INTERPRET=1; interpret kernels in another process")
    patch(importlib.import_module("triton.runtime.interpreter"))


def run_kernel(kernel: Kernel, buffers: Mapping[str, np.ndarray], dims: Mapping[str, int], schedule: Schedule) -> None:
    """Lowers `kernel` and interprets it on `buffers` (C-contiguous arrays by parameter name), in place."""
    interpret(lower_kernel(kernel, schedule, INTERPRETED), buffers, dims)


def interpret(kernel: TritonKernel, buffers: Mapping[str, np.ndarray], dims: Mapping[str, int]) -> None:
    """Runs every program of a kernel lowered for `INTERPRETED`, one after another."""
    enable_interpreter()
    grid = tuple(dim.evaluate(n, dims) for n in kernel.grid)
    if 0 in grid:
        return
    call(kernel, grid, [buffers[name] for name, _ in kernel.buffers], [dims[str(d)] for d in kernel.dims])


def call(kernel: TritonKernel, grid: tuple[int, ...], arrays: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
    """Interprets a kernel's programs on arrays, in the order of its `buffers`. IndexError where it leaves them."""
    with np.errstate(all="ignore"), memory(arrays):
        load_function(kernel.name, kernel.source)[grid](*map(HostMemory, arrays), *sizes, **dict(kernel.constexprs))


@functools.cache
def load_function(name: str, source: str) -> Any:
    """The jit function `name` of a piece of source. Triton reads functions back from their file, so it gets one."""
    path = Path(_folder().name) / f"{name}_{abs(hash(source)):x}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="tracefuse-triton-")


class HostMemory:
    """An array as the interpreter wants it: the few methods of a tensor that it calls. It works on the array itself."""

    def __init__(self, array: np.ndarray | None = None):
        self.array = array
        self.dtype = None if array is None else np.dtype(np.uint8) if array.dtype == np.bool_ else array.dtype

    def data_ptr(self) -> int:
        assert self.array is not None
        return self.array.ctypes.data

    def untyped_storage(self) -> "HostMemory":
        return self

    def cpu(self) -> "HostMemory":
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        assert self.array is not None
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        assert self.array is not None
        return tuple(s // self.array.itemsize for s in self.array.strides)

    def new_empty(self, *shape: int, device: object = None) -> "HostMemory":
        return HostMemory()

    def set_(self, storage: "HostMemory", offset: int, size: object, stride: object) -> "HostMemory":
        self.array, self.dtype = storage.array, storage.dtype
        return self

    def copy_(self, other: "HostMemory") -> "HostMemory":
        return self
