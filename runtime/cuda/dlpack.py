"""DLPack for arrays of GPUs: the capsules that PyTorch, CuPy and JAX exchange memory with, written with ctypes.

Source: https://dmlc.github.io/dlpack/latest/c_api.html. Versioned capsules are read, plain ones are written, which all read.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ...ir.dtypes import bfloat16, from_numpy
from .array import DeviceArray
from .device import Event, Gpu, Stream, gpu
from .driver import DeviceError

CUDA = 2  # kDLCUDA
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_BFLOAT = 4
_NAMES = {0: "int", 1: "uint", 2: "float", 5: "complex"}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64), ("tensor", _Tensor),
    ]  # fmt: skip


_api: Any = ctypes.pythonapi
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", _api)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
_names = {False: (b"dltensor", b"used_dltensor"), True: (b"dltensor_versioned", b"used_dltensor_versioned")}

# ------------------------------------------------------------------ to others

_lent: dict[int, tuple[_Managed, Any]] = {}  # what others hold, by address


@_Deleter
def _give_back(address: int) -> None:
    _lent.pop(address, None)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _drop(capsule: int) -> None:
    """Of a capsule that nobody has taken."""
    raw_name = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
    valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
    if valid(capsule, b"dltensor"):
        _lent.pop(raw_name(capsule, b"dltensor"), None)


def capsule(a: DeviceArray, stream: Any = None) -> Any:
    """A capsule of the array's memory, good for what `stream` (a handle; 1 or None: the default one; -1: no order is asked
    for) is given from now on."""
    if stream != -1:
        ready = Event(a.gpu)
        a.gpu.stream.record(ready)
        Stream(a.gpu, a.gpu.driver.foreign_stream(stream), owned=False).wait(ready)
    item = a.itemsize
    shape = (ctypes.c_int64 * a.ndim)(*a.shape)
    strides = (ctypes.c_int64 * a.ndim)(*(s // item for s in a.strides))
    dtype = from_numpy(a.dtype)
    tensor = _Tensor(
        a.address,
        CUDA,
        a.gpu.index,
        a.ndim,
        _BFLOAT if dtype is bfloat16 else _CODES[dtype.kind],
        item * 8,
        1,
        shape,
        strides,
        0,
    )
    managed = _Managed(tensor, None, ctypes.cast(_give_back, ctypes.c_void_p).value)
    address = ctypes.addressof(managed)
    _lent[address] = managed, (a, shape, strides)
    return _new_capsule(address, b"dltensor", ctypes.cast(_drop, ctypes.c_void_p))


# ------------------------------------------------------------------ from others


class _Borrowed:
    """Memory of another library's, in the place of a `Block`: given back with the last array that refers to it."""

    __slots__ = ("_delete", "_owner", "address", "size", "stream")

    def __init__(self, address: int, size: int, stream: Stream, owner: int, deleter: int | None):
        self.address, self.size, self.stream, self._owner = address, size, stream, owner
        self._delete = _Deleter(deleter) if deleter else None

    def record_stream(self, stream: Stream) -> None:
        """The stream that it was borrowed in waits for the other one, as the lender knows of no other."""
        self.stream.wait_stream(stream)

    def __del__(self) -> None:
        if self._delete is not None:
            self._delete(self._owner)


def from_capsule(taken: Any) -> DeviceArray:
    """The array in a capsule, which shares its memory. BufferError for what is on no GPU of this process, or has elements
    that tracefuse has not."""
    versioned = bool(_is_valid(taken, b"dltensor_versioned"))
    if not versioned and not _is_valid(taken, b"dltensor"):
        raise BufferError("a DLPack capsule can be taken once only")
    name, used = _names[versioned]
    address = _pointer(taken, name)
    managed = (_Versioned if versioned else _Managed).from_address(address)
    t = managed.tensor
    if t.device_type != CUDA:
        raise BufferError(f"the DLPack capsule is of device type {t.device_type}, not of a CUDA GPU")
    dtype = _dtype(t.code, t.bits, t.lanes)
    shape = tuple(t.shape[k] for k in range(t.ndim))
    strides = tuple(t.strides[k] * dtype.itemsize for k in range(t.ndim)) if t.strides else None
    g = gpu(t.device_id)
    _rename(taken, used)
    block: Any = _Borrowed(t.data or 0, 0, g.stream, address, managed.deleter)
    return DeviceArray(g, block, shape, dtype, strides, t.byte_offset)


def _dtype(code: int, bits: int, lanes: int) -> np.dtype:
    if lanes == 1:
        if code == _BFLOAT and bits == 16:
            return bfloat16.np
        if code == _CODES["b"] and bits == 8:
            return np.dtype(np.bool_)
        if code in _NAMES:
            return np.dtype(f"{_NAMES[code]}{bits}")
    raise BufferError(f"tracefuse has no elements of DLPack's type {code} with {bits} bits in {lanes} lanes")


def array_interface(a: DeviceArray) -> dict[str, Any]:
    """`__cuda_array_interface__`, version 3: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
    if a.dtype.kind == "V":
        raise AttributeError(f"__cuda_array_interface__ has no elements of type {a.dtype}; exchange it by DLPack")
    strides = None if a.contiguous else a.strides
    stream = a.gpu.driver.stream_number(a.gpu.stream.handle)
    return {
        "shape": a.shape, "typestr": a.dtype.str, "data": (a.address, False), "strides": strides, "version": 3, "stream": stream,
    }  # fmt: skip


def check_device(g: Gpu, wanted: Any) -> None:
    """BufferError unless `dl_device` asks for the device where the array lies."""
    if wanted is not None and tuple(wanted) != (CUDA, g.index):
        raise BufferError(f"the tensor is on {g.name}; copy it to where it is wanted first")


__all__ = ["DeviceError", "array_interface", "capsule", "check_device", "from_capsule"]
