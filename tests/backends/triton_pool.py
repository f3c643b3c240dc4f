"""Compiles many Triton kernels in processes that do not interpret them, whatever this one does."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from tracefuse.backends.triton.lowered import TritonKernel

JOBS = 2


def compile_errors(kernels: Iterable[TritonKernel], capability: int = 90) -> dict[str, str]:
    """What is wrong with those that can't be compiled, by their names. Kernels of one name are compiled once."""
    apart = {k.name: replace(k, dims=(), grid=()) for k in kernels}  # what a compiler needs
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(JOBS, context, initializer=_compile_here) as pool:
        found = pool.map(_error, apart.values(), [capability] * len(apart), chunksize=8)
        return {name: error for name, error in zip(apart, found, strict=True) if error}


def _compile_here() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def _error(kernel: TritonKernel, capability: int) -> str:
    from tracefuse.backends.triton.compile import compile_kernel

    try:
        compile_kernel(kernel, capability)
    except Exception as e:
        cause = e.__cause__ or e
        return f"{type(e).__name__}: {e}\n{cause}\n{kernel.source}"
    return ""
