"""Copies between arrays of one device, whatever their strides: one kernel for each number of axes and size of elements."""

from __future__ import annotations

import functools
from typing import Any

from ...ir import dim
from ...ir.dim import Dim
from ...ir.dtypes import DType, uint8, uint16, uint32, uint64
from ...ir.kernel import Axis, Buffer, Kernel, Stage, Store
from ...ir.scalar import load
from ...passes.pipeline import named
from ...passes.schedule_gpu import schedule
from .array import DeviceArray, Shape, empty, used_on
from .device import Gpu
from .driver import Function
from .launches import Alone

WORDS: dict[int, DType] = {1: uint8, 2: uint16, 4: uint32, 8: uint64}


def copy(target: DeviceArray, source: DeviceArray) -> None:
    """Writes the elements of `source` into `target`: equal dtypes and shapes; a stride of 0 repeats elements. They must not
    overlap."""
    gpu = target.gpu
    if target.size == 0:
        return
    used_on(gpu.stream, (target, source))
    if target.contiguous and source.contiguous:
        gpu.driver.copy(target.address, source.address, target.nbytes, gpu.stream.handle)
        return
    word = min(8, target.itemsize)
    parts = target.itemsize // word  # complex128 is copied as two words
    axes = _merged(target.shape + (parts,), target.strides + (word,), source.strides + (word,), word)
    shape, to, at = zip(*axes)
    sizes = {f"n{k}": n for k, n in enumerate(shape)}
    sizes |= {f"s{k}": s for k, s in enumerate(at)} | {f"t{k}": s for k, s in enumerate(to)}
    gpu.driver.enter()
    Alone(_loaded(gpu, len(axes), WORDS[word]), sizes, (source.address, target.address))(gpu.stream.handle)


def contiguous(a: DeviceArray) -> DeviceArray:
    """`a` itself if its elements lie row by row, else a copy."""
    return a if a.contiguous else copied(a)


def copied(a: DeviceArray) -> DeviceArray:
    """A contiguous copy."""
    out = empty(a.gpu, a.shape, a.dtype)
    copy(out, a)
    return out


def _merged(shape: Shape, to: Shape, at: Shape, word: int) -> list[tuple[int, int, int]]:
    """(extent, target stride, source stride) in words, neighbouring axes that both sides run through as one merged."""
    out: list[tuple[int, int, int]] = []
    for n, t, s in zip(shape, to, at):
        if n == 1:
            continue
        t, s = t // word, s // word
        if out and out[-1][1] == n * t and out[-1][2] == n * s:
            out[-1] = (out[-1][0] * n, t, s)
        else:
            out.append((n, t, s))
    return out or [(1, 1, 1)]


@functools.cache
def _loaded(gpu: Gpu, rank: int, dtype: DType) -> Function:
    kernel = _kernel(rank, dtype)
    return gpu.load(kernel, schedule(kernel, gpu.target), frozenset("xy"))


def _kernel(rank: int, dtype: DType) -> Kernel:
    """y[i..] = x[i..] with sizes n0.., strides s0.. of x and t0.. of y."""

    def symbols(name: str, least: int) -> tuple[Any, ...]:
        return tuple(dim.symbol(f"{name}{k}", least) for k in range(rank))

    extents, at, to = symbols("n", 1), symbols("s", -(2**48)), symbols("t", -(2**48))  # strides may be negative
    axes = tuple(Axis(dim.symbol(f"i{k}", 0, n - 1), n) for k, n in enumerate(extents))
    index = tuple(a.sym for a in axes)
    params = (Buffer("x", dtype, extents, at, "in"), Buffer("y", dtype, extents, to, "out"))
    stage = Stage((), (), (Store("y", index, load(dtype, "x", index)),))
    dims: tuple[Dim, ...] = (*extents, *at, *to)
    return named(Kernel("copy", params, axes, (stage,), None, dims, (), ("copy",)))
