"""Ops on arrays of a GPU, one at a time: each is a kernel, or a few, compiled for sizes of any kind and kept.

Nothing here waits for the device, but for ops that no kernel computes: those run on the host.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.dtypes import from_numpy
from ...ir.graph import Graph, GraphBuilder
from ...ir.op import Attrs, OpDef, get_op
from ...ir.types import TensorType
from .array import DeviceArray, empty, share_memory, to_device, used_on
from .copies import contiguous, copied, copy
from .device import Gpu
from .driver import DeviceError
from .executable import CudaExecutable, build
from .numerics import numerics

VIEWS = frozenset(("slice", "reshape", "permute", "broadcast_to"))


def evaluate(op: OpDef, args: tuple[Any, ...], attrs: Attrs) -> Any:
    """`op` on arrays, at least one of them on a GPU: arrays there. DeviceError if they are on different ones. Arrays of
    the host are copied to it."""
    gpu = gpu_of(args)
    if op.name in VIEWS:
        return _view(op, args[0], attrs)
    given = [_uploaded(gpu, a) if type(a) is np.ndarray else contiguous(a) for a in args]
    types = tuple([(a.dtype, a.shape) for a in given])
    out = _executable(gpu, op, types, _Attrs(attrs), numerics.key).run(given)
    return tuple(out) if len(out) > 1 else out[0]


def create(gpu: Gpu, op: OpDef, attrs: Attrs) -> DeviceArray:
    """`full` and `iota`: what differs comes from the host, the rest are copies of it on the device."""
    shape = tuple(attrs["shape"])
    kept = attrs["axis"] if op.name == "iota" else None
    small = op.evaluate((), {**attrs, "shape": tuple(n if k == kept else min(n, 1) for k, n in enumerate(shape))})
    out = to_device(gpu, small)
    return out if out.shape == shape else copied(_view(get_op("broadcast_to"), out, {"shape": shape}))


def creator(gpu: Gpu) -> Any:
    """What ops without operands are run by, where their results shall be on `gpu`: see `ir.op.scope`."""

    def run(op: OpDef, args: tuple, attrs: Attrs) -> Any:
        if any(type(a) is DeviceArray for a in args):
            return evaluate(op, args, attrs)
        return create(gpu, op, attrs) if op.name in ("full", "iota") else op.evaluate(args, attrs)

    return run


def _uploaded(gpu: Gpu, a: np.ndarray) -> DeviceArray:
    return to_device(gpu, a) if a.shape else _number(gpu, a.dtype, a.tobytes())


@functools.lru_cache(maxsize=1024)
def _number(gpu: Gpu, dtype: np.dtype, data: bytes) -> DeviceArray:
    """A number on the device; no op writes its operands."""
    return to_device(gpu, np.frombuffer(data, dtype).reshape(()))


def gpu_of(args: tuple[Any, ...]) -> Gpu:
    """The device that the arrays are on."""
    found = [a.gpu for a in args if type(a) is DeviceArray]
    for g in found[1:]:
        if g is not found[0]:
            raise DeviceError(f"the operands are on {found[0].name} and {g.name}; bring them together with .to()")
    return found[0]


def assign(target: DeviceArray, value: Any) -> None:
    """target[...] = value, which has its dtype and a shape that broadcasts to it."""
    source = to_device(target.gpu, np.asarray(value, target.dtype)) if not isinstance(value, DeviceArray) else value
    if source.gpu is not target.gpu:
        source = transferred(source, target.gpu)
    if share_memory(source, target):
        source = copied(source)
    if source.shape != target.shape:
        source = _view(get_op("broadcast_to"), source, {"shape": target.shape})
    copy(target, source)


def transferred(a: DeviceArray, gpu: Gpu) -> DeviceArray:
    """A contiguous copy on another device, made without the host."""
    source, out = contiguous(a), empty(gpu, a.shape, a.dtype)
    if source.size:
        gpu.stream.wait_stream(a.gpu.stream)
        gpu.driver.copy_peer(out.address, source.address, source.nbytes, a.gpu.driver, gpu.stream.handle)
        a.gpu.stream.wait_stream(gpu.stream)  # so that the source's memory is not handed out before
        used_on(a.gpu.stream, (source,))
    return out


def _view(op: OpDef, a: DeviceArray, attrs: Attrs) -> DeviceArray:
    """The result of an op that moves no elements: NumPy says how, on strides without memory. A reshape that has to move
    some gives a copy."""
    fake = np.lib.stride_tricks.as_strided(np.empty(1, a.dtype), a.shape, a.strides)
    if op.name == "reshape" and not a.contiguous:
        try:
            shown = fake.reshape(attrs["shape"], copy=False)
        except ValueError:
            return copied(a).reshape(tuple(attrs["shape"]))
    else:
        shown = op.reference(fake, **attrs)
    start = shown.__array_interface__["data"][0] - fake.__array_interface__["data"][0] if shown.size else 0
    return a.view(shown.shape, shown.strides, start)


# ------------------------------------------------------------------ executables of single ops


class _Attrs:
    """Attributes as a key."""

    __slots__ = ("attrs", "_key")

    def __init__(self, attrs: Attrs):
        self.attrs = attrs
        self._key = repr(sorted(attrs.items()))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Attrs) and self._key == other._key


Types = tuple[tuple[np.dtype, tuple[int, ...]], ...]


@functools.lru_cache(maxsize=4096)
def _executable(gpu: Gpu, op: OpDef, types: Types, attrs: _Attrs, settings: tuple) -> CudaExecutable:
    """What computes `op` on operands of those types. Executables with the same symbolic sizes are one."""
    sizes: dict[int, Any] = {}
    general = tuple(
        (dtype, tuple(n if n < 2 else sizes.setdefault(n, f"n{len(sizes)}") for n in shape)) for dtype, shape in types
    )
    if sizes:
        found = _general(gpu, op, general, attrs, settings)
        if found is not None:
            return found
    return build(_graph(op, types, attrs.attrs), gpu)


@functools.lru_cache(maxsize=4096)
def _general(gpu: Gpu, op: OpDef, types: tuple, attrs: _Attrs, settings: tuple) -> CudaExecutable | None:
    """An executable for all sizes; None where the op needs to know them."""
    try:
        return build(_graph(op, types, attrs.attrs), gpu)
    except Exception:  # a rule that asks for a number; the kernel for these very sizes tells what is wrong, if it is
        return None


def _graph(op: OpDef, types: tuple, attrs: Attrs) -> Graph:
    builder = GraphBuilder(f"eager_{op.name}")

    def size(n: Any) -> Any:
        return n if isinstance(n, int) else dim.symbol(n, 2)

    inputs = [builder.input(TensorType(from_numpy(d), tuple(map(size, shape))), "") for d, shape in types]
    with builder:
        out = builder.emit(op, tuple(inputs), attrs)
    return builder.finish(list(out))
