"""Files of named arrays in safetensors form: written atomically, read with every size, offset and checksum tested.

A file is 8 bytes of header length, a JSON header (element type, shape and place of each tensor; a mapping of strings as
metadata), and the tensors. What is written here has a CRC-32 of all that in its metadata, which other readers ignore.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from ..ir import dtypes
from .convert import native

CODES = {
    "BOOL": dtypes.bool_, "I8": dtypes.int8, "I16": dtypes.int16, "I32": dtypes.int32, "I64": dtypes.int64,
    "U8": dtypes.uint8, "U16": dtypes.uint16, "U32": dtypes.uint32, "U64": dtypes.uint64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64, "C64": dtypes.complex64,
}  # fmt: skip
_NAMES = {dtype: code for code, dtype in CODES.items()}
_METADATA = "__metadata__"
_CHECKSUM = "tracefuse.crc32"
_COMPLEX = (
    "tracefuse.complex128"  # names of tensors that are stored as float64[..., 2]: safetensors has no code for them
)


class InvalidTensorFile(ValueError):
    """A file that is no safetensors file, is damaged, or holds element types that tracefuse does not have."""


# ------------------------------------------------------------------ writing


def write(path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Replaces the file at `path` by one with these tensors or arrays. TypeError for other element types."""
    write_atomically(path, chunks(tensors, metadata))


def chunks(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Iterator[bytes | memoryview]:
    """The content of a file, piece by piece; the arrays are not copied unless they are not contiguous."""
    extra = {"format": "pt", **(metadata or {})}
    arrays = {name: _contiguous(x) for name, x in tensors.items()}
    wide = [name for name, a in arrays.items() if a.dtype == np.complex128]
    if wide:
        extra[_COMPLEX] = json.dumps(wide)
        arrays.update({name: arrays[name][..., None].view(np.float64) for name in wide})
    # The widest elements first: then all lie where their size wants them to, however many there are of each.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {_METADATA: extra}
    at = 0
    for name in order:
        a = arrays[name]
        code = _NAMES[dtypes.from_numpy(a.dtype)]
        header[name] = {"dtype": code, "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    parts = [_bytes(arrays[name]) for name in order]
    extra[_CHECKSUM] = _checksum(header, parts)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from parts


def _contiguous(x: Any) -> np.ndarray:
    array = native(np.asarray(x.cpu() if hasattr(x, "is_cuda") else x))
    return np.ascontiguousarray(array).reshape(array.shape)


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _checksum(header: Mapping[str, Any], parts: Iterable[Any]) -> str:
    value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"


def write_atomically(path: str | os.PathLike[str], content: Iterable[bytes | memoryview]) -> None:
    """Replaces the file at `path` by one with `content`; at no time does anyone see a part of it, not even after a
    crash of the machine. Whatever goes wrong, the old file stays as it was."""
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path)[:200] + ".", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as f:
            for part in content:
                f.write(part)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(folder)


def _sync_folder(folder: str) -> None:
    """The new name reaches the disk too. Some file systems have no such thing for folders; the file is whole anyway."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


# ------------------------------------------------------------------ reading


def read(
    path: str | os.PathLike[str], *, mapped: bool = False, verify: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, metadata) of a file. InvalidTensorFile if it is damaged or something else.

    mapped: the arrays are pages of the file, read when they are used; writing to an array does not change the file.
    verify: tests the checksum where there is one, which reads everything.
    """
    try:
        with open(path, "rb") as f:
            return read_from(f, os.fstat(f.fileno()).st_size, mapped=mapped, verify=verify)
    except InvalidTensorFile as e:
        raise InvalidTensorFile(f"{os.fspath(path)}: {e}") from None


def read_from(
    f: BinaryIO, size: int, *, mapped: bool = False, verify: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`read` from an open file of `size` bytes."""
    if size < 8:
        raise InvalidTensorFile("not a safetensors file: shorter than its header")
    length = int.from_bytes(f.read(8), "little")
    if length > size - 8:
        raise InvalidTensorFile("not a safetensors file, or cut short: the header is longer than the file")
    header = parse(f.read(length))
    if not isinstance(header, dict):
        raise InvalidTensorFile("the header is no JSON object")
    metadata = header.get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidTensorFile("the metadata is no mapping of strings")
    checksum = metadata.pop(_CHECKSUM, None)
    data = size - 8 - length
    places = {name: _place(name, entry) for name, entry in header.items() if name != _METADATA}
    order = sorted(places, key=lambda name: places[name][2:])
    end = 0
    for name in order:
        if places[name][2] != end or places[name][3] > data:
            raise InvalidTensorFile(f"tensor {name!r} does not fit its place in the file (cut short?): {header[name]}")
        end = places[name][3]
    if end != data:
        raise InvalidTensorFile(f"there are {data} bytes of tensors in the file, and {end} in its header")
    source = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY) if mapped and data else None
    arrays: dict[str, np.ndarray] = {}
    for name in order:
        dtype, shape, begin, _ = places[name]
        try:
            arrays[name] = (
                _array(f, dtype, shape) if source is None else _view(source, dtype, shape, 8 + length + begin)
            )
        except ValueError as e:
            raise InvalidTensorFile(f"tensor {name!r}: {e}") from None
    if verify and checksum is not None:
        parts = (_bytes(arrays[name]) for name in order)
        if _checksum(header, parts) != checksum:
            raise InvalidTensorFile("the content does not match its checksum: the file has been altered")
    _join_complex(arrays, metadata)
    return {name: arrays[name] for name in header if name != _METADATA}, metadata


def _place(name: str, entry: Any) -> tuple[dtypes.DType, tuple[int, ...], int, int]:
    """(element type, shape, begin, end) of a tensor, as its entry in the header says."""
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise InvalidTensorFile(f"tensor {name!r} lacks dtype, shape or data_offsets") from None
    dtype = CODES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise InvalidTensorFile(f"tensor {name!r} has the element type {code!r}, which tracefuse does not have")
    if (
        not isinstance(shape, list)
        or len(shape) > 64
        or not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end))
        or end - begin != math.prod(shape) * dtype.itemsize
    ):
        raise InvalidTensorFile(f"tensor {name!r} has an impossible shape or place: {str(entry)[:200]}")
    return dtype, tuple(shape), begin, end


def _array(f: BinaryIO, dtype: dtypes.DType, shape: tuple[int, ...]) -> np.ndarray:
    """The next array of the file."""
    out = np.empty(shape, dtype.np)
    raw = _bytes(out)
    if out.size and f.readinto(raw) != raw.nbytes:  # type: ignore[attr-defined]
        raise ValueError("the file became shorter while it was read")
    return out


def _view(source: mmap.mmap, dtype: dtypes.DType, shape: tuple[int, ...], at: int) -> np.ndarray:
    if not math.prod(shape):
        return np.empty(shape, dtype.np)
    out = np.frombuffer(source, dtype.np, math.prod(shape), at).reshape(shape)
    return out if out.flags.aligned else out.copy()  # files of others may begin their data anywhere


def _join_complex(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    wide = parse(metadata.pop(_COMPLEX, "[]"))
    for name in wide if isinstance(wide, list) else ():
        a = arrays.get(name) if isinstance(name, str) else None
        if a is None or a.dtype != np.float64 or a.shape[-1:] != (2,):
            raise InvalidTensorFile(f"the metadata calls {name!r} complex, but it is not stored as pairs of float64")
        arrays[name] = a.view(np.complex128)[..., 0]


def parse(text: str | bytes) -> Any:
    """JSON. InvalidTensorFile if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidTensorFile("the header is no valid JSON") from None


# ------------------------------------------------------------------ in memory


def to_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Named tensors or arrays in safetensors form."""
    return b"".join(chunks(tensors, metadata))


def from_bytes(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, metadata) of a file's content. The arrays are fresh. InvalidTensorFile if damaged."""
    return read_from(io.BytesIO(content), len(content))
