"""`DeviceArray`: an array in the memory of a GPU, with the attributes of an ndarray that the rest of the house reads.

It says where elements are, and moves them to and from the host; computing is done by `eager.py` and by executables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dtypes import DType
from ...ir.op import Attrs, OpDef, register_interpreter
from .device import Gpu, Stream
from .host import STAGED, is_pinned, packed
from .memory import Block

Shape = tuple[int, ...]
ALIGN = 16  # bytes: what kernels rely on


@dataclass(frozen=True, slots=True)
class Flags:
    c_contiguous: bool
    writeable: bool = True
    aligned: bool = True


class DeviceArray:
    """`shape` and `strides` (in bytes) of elements of `dtype`, from byte `offset` of `block` on. Immutable but for the
    elements. `contiguous`: whether they lie row by row, without gaps; `plain`: and at a multiple of `ALIGN` bytes."""

    __slots__ = (
        "gpu", "block", "offset", "shape", "strides", "dtype", "base", "address", "contiguous", "plain", "__weakref__"
    )  # fmt: skip

    def __init__(
        self,
        gpu: Gpu,
        block: Block,
        shape: Shape,
        dtype: np.dtype,
        strides: Shape | None = None,
        offset: int = 0,
        base: DeviceArray | None = None,
    ):
        self.gpu, self.block, self.offset, self.shape, self.dtype, self.base = gpu, block, offset, shape, dtype, base
        self.strides = _strides(shape, dtype.itemsize) if strides is None else strides
        self.address = block.address + offset
        self.contiguous = strides is None or _is_contiguous(shape, strides, dtype.itemsize)
        self.plain = self.contiguous and not self.address % ALIGN

    # ---- what it is
    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def byte_bounds(self) -> tuple[int, int]:
        """The first address that it may touch, and the first one behind it."""
        low, high = _span(self)
        return self.block.address + low, self.block.address + high

    @property
    def flags(self) -> Flags:
        return Flags(self.contiguous)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of an array without axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.dtype}{list(self.shape)} on {self.gpu.name}>"

    # ---- other arrays of the same memory
    def view(self, shape: Shape, strides: Shape, offset: int = 0) -> DeviceArray:
        """Elements from byte `offset` of this array on."""
        return DeviceArray(self.gpu, self.block, shape, self.dtype, strides, self.offset + offset, self)

    def reshape(self, shape: Shape) -> DeviceArray:
        """The elements of a contiguous array in another shape."""
        assert self.contiguous
        return self.view(shape, _strides(shape, self.dtype.itemsize))

    # ---- to and from the host
    def numpy(self) -> np.ndarray:
        """A copy in host memory; waits until the elements are there."""
        from .copies import contiguous

        source = contiguous(self)
        out = np.empty(self.shape, self.dtype)
        if out.size:
            stream = self.gpu.stream
            self.gpu.driver.copy_out(out.ctypes.data, source.address, out.nbytes, stream.handle)
            stream.synchronize()
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(f"a tensor on {self.gpu.name} is no NumPy array; copy it to the host first: .cpu()")

    def item(self) -> Any:
        return self.numpy().item()

    def __bool__(self) -> bool:
        return bool(self.numpy())

    def __int__(self) -> int:
        return int(self.numpy())

    __index__ = __int__

    def __float__(self) -> float:
        return float(self.numpy())

    def _like(self, value: Any, dtype: DType | None = None) -> np.ndarray:
        """A constant of this array's dtype (or another), for rules."""
        return np.asarray(value, self.dtype if dtype is None else dtype.np)

    # ---- elements
    def copy(self) -> DeviceArray:
        """A contiguous copy in memory of its own."""
        from .copies import copied

        return copied(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        """array[...] = value, of the same dtype, and of a shape that broadcasts."""
        from .eager import assign

        assert key is Ellipsis, "views are assigned as a whole"
        assign(self, value)


def _strides(shape: Shape, itemsize: int) -> Shape:
    """In bytes, of elements that lie row by row."""
    out = []
    for n in reversed(shape):
        out.append(itemsize)
        itemsize *= n
    return tuple(reversed(out))


def _is_contiguous(shape: Shape, strides: Shape, want: int) -> bool:
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n != 1 and stride != want:
            return 0 in shape
        want *= n
    return True


def empty(gpu: Gpu, shape: Shape, dtype: np.dtype, tag: str = "arrays") -> DeviceArray:
    """An array of undefined content. tag: see `Pool.get`."""
    return DeviceArray(gpu, gpu.pool.get(max(1, math.prod(shape) * dtype.itemsize), tag), shape, dtype)


def to_device(gpu: Gpu, array: np.ndarray, non_blocking: bool = False) -> DeviceArray:
    """A copy of a host array, which may be changed at once. non_blocking: it may not until the copy is made, if its memory
    is pinned; then the host does not wait, however large it is."""
    out = empty(gpu, array.shape, array.dtype)
    write(gpu, out.address, array, non_blocking)
    return out


def write(gpu: Gpu, address: int, array: np.ndarray, non_blocking: bool = False) -> None:
    """The elements of a host array into device memory, row by row. See `to_device`."""
    source = np.ascontiguousarray(array)
    if not source.size:
        return
    keeps = non_blocking and is_pinned(source)
    if source.nbytes <= STAGED and not keeps:
        gpu.host.upload(address, [source], [0], source.nbytes)
        return
    gpu.driver.copy_in(address, source.ctypes.data, source.nbytes, gpu.stream.handle)
    if keeps:
        gpu.host.put_later(0, 0, source)
    else:
        gpu.stream.synchronize()


def to_device_together(gpu: Gpu, arrays: Sequence[np.ndarray]) -> list[DeviceArray]:
    """Copies of small host arrays, made by one copy: they share a block."""
    if len(arrays) < 2:
        return [to_device(gpu, a) for a in arrays]
    offsets, nbytes = packed(arrays)
    block = gpu.pool.get(max(1, nbytes))
    if nbytes:
        gpu.host.upload(block.address, arrays, offsets, nbytes)
    return [DeviceArray(gpu, block, a.shape, a.dtype, None, o) for a, o in zip(arrays, offsets)]


def used_on(stream: Stream, arrays: Iterable[DeviceArray]) -> None:
    """Says that what the stream has been given works on these arrays: their memory stays theirs until that is done."""
    if stream.gpu.several_streams:
        for a in arrays:
            if a.block.stream is not stream:
                a.block.record_stream(stream)


def share_memory(a: DeviceArray, b: DeviceArray) -> bool:
    """Whether they may have elements in common."""
    return a.block is b.block and a.size > 0 and b.size > 0 and _span(a)[0] < _span(b)[1] and _span(b)[0] < _span(a)[1]


def _span(a: DeviceArray) -> tuple[int, int]:
    """The first byte of its block that may be its own, and the first behind it that is not."""
    low = sum(min(0, (n - 1) * s) for n, s in zip(a.shape, a.strides))
    high = sum(max(0, (n - 1) * s) for n, s in zip(a.shape, a.strides))
    return a.offset + low, a.offset + high + a.itemsize


def _evaluate(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    from .eager import evaluate

    return evaluate(op, args, attrs)


register_interpreter(DeviceArray, 1, _evaluate)
