"""Tensors in files: safetensors, without pickle. Loading runs no code.

A flat dict of named tensors is a plain safetensors file, as PyTorch tools write and read them. Any other nesting of
dicts, lists, tuples, numbers and strings around tensors is kept as JSON in the file's metadata.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..ir import dtypes
from .convert import native
from .tensor import Tensor, new_tensor

_TREE = "tracefuse.tree"
_CODES = {
    "BOOL": dtypes.bool_, "I8": dtypes.int8, "I16": dtypes.int16, "I32": dtypes.int32, "I64": dtypes.int64,
    "U8": dtypes.uint8, "U16": dtypes.uint16, "U32": dtypes.uint32, "U64": dtypes.uint64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64,
}  # fmt: skip
_PLAIN = (bool, int, float, str, type(None))
_DEEPEST = 100


class InvalidTensorFile(ValueError):
    """A file that is no safetensors file, is damaged, or holds element types that tracefuse does not have."""


# ------------------------------------------------------------------ saving


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Writes a state dict (dicts, lists and tuples around tensors, arrays, numbers and strings) to `path`; for a module
    or an optimizer, its `state_dict()`. The file appears whole or not at all.

    TypeError names what cannot be saved.
    """
    if hasattr(obj, "state_dict"):
        obj = obj.state_dict()
    if isinstance(obj, Mapping) and all(
        isinstance(k, str) and isinstance(v, (Tensor, np.ndarray)) for k, v in obj.items()
    ):
        save_tensors(obj, path)
        return
    arrays: dict[str, np.ndarray] = {}
    tree = _encode(obj, "", arrays, {}, 0)
    save_tensors(arrays, path, {_TREE: json.dumps(tree)})


def save_tensors(
    tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors (or arrays) as a safetensors file, by way of a temporary file in the same folder."""
    write_atomically(path, tensors_to_bytes(tensors, metadata))


def tensors_to_bytes(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Named tensors (or arrays) in safetensors form."""
    from safetensors.numpy import save as to_bytes

    arrays = {k: np.ascontiguousarray(native(np.asarray(v))).reshape(np.shape(v)) for k, v in tensors.items()}
    return to_bytes(arrays, {"format": "pt", **(metadata or {})})


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces the file at `path` by one with `content`; at no time does anyone see a part of it."""
    path = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mode = 0o666 & ~_umask()
    handle, temporary = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _encode(x: Any, path: str, arrays: dict[str, np.ndarray], names: dict[int, str], depth: int) -> dict[str, Any]:
    """`x` as JSON; its tensors go into `arrays` under the path to them."""
    if depth > _DEEPEST:
        raise TypeError(f"cannot save: nested deeper than {_DEEPEST} at {path[:100]}...")
    if isinstance(x, (Tensor, np.ndarray)):
        name = names.get(id(x))
        if name is None:
            name = names[id(x)] = path or "tensor"
            arrays[name] = np.asarray(x)
        return {"tensor" if isinstance(x, Tensor) else "array": name}
    if isinstance(x, np.generic):
        x = x.item()
    if type(x) in _PLAIN:
        return {"value": x}
    if isinstance(x, Mapping):
        bad = [k for k in x if type(k) not in (str, int)]
        if bad:
            raise TypeError(f"cannot save {path or 'this'}: the key {bad[0]!r} is neither a string nor an integer")
        return {"dict": [[k, _encode(v, _join(path, k, arrays), arrays, names, depth + 1)] for k, v in x.items()]}
    if isinstance(x, (list, tuple)):
        kind = "tuple" if isinstance(x, tuple) else "list"
        return {kind: [_encode(v, _join(path, i, arrays), arrays, names, depth + 1) for i, v in enumerate(x)]}
    raise TypeError(
        f"cannot save {path or 'this'}: a {type(x).__name__} is no tensor, number, string, dict, list or tuple"
    )


def _join(path: str, key: Any, arrays: dict[str, np.ndarray]) -> str:
    name = f"{path}.{key}" if path else str(key)
    while name in arrays:  # {"a": {"b": x}, "a.b": y}
        name += "'"
    return name


# ------------------------------------------------------------------ loading


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """What `save` wrote: a dict of tensors by name, or the nested structure. Also reads safetensors files of others.

    InvalidTensorFile for a file that is damaged or something else.
    """
    with open(path, "rb") as f:
        content = f.read()
    try:
        arrays, metadata = tensors_from_bytes(content)
        if _TREE not in metadata:
            return {k: new_tensor(a) for k, a in arrays.items()}
        return _decode(_parse(metadata[_TREE]), arrays, 0)
    except InvalidTensorFile as e:
        raise InvalidTensorFile(f"{os.fspath(path)}: {e}") from None


def tensors_from_bytes(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays by name, metadata) of a file in safetensors form. The arrays are fresh. InvalidTensorFile if damaged."""
    if len(content) < 8:
        raise InvalidTensorFile("not a safetensors file: shorter than its header")
    length = int.from_bytes(content[:8], "little")
    if length > len(content) - 8:
        raise InvalidTensorFile("not a safetensors file, or cut short: the header is longer than the file")
    header = _parse(content[8 : 8 + length])
    if not isinstance(header, dict):
        raise InvalidTensorFile("the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InvalidTensorFile("the metadata is no mapping of strings")
    data = memoryview(content)[8 + length :]
    return {name: _array(name, entry, data) for name, entry in header.items()}, metadata


def _array(name: str, entry: Any, data: memoryview) -> np.ndarray:
    try:
        code, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise InvalidTensorFile(f"tensor {name!r} lacks dtype, shape or data_offsets") from None
    dtype = _CODES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise InvalidTensorFile(f"tensor {name!r} has the element type {code!r}, which tracefuse does not have")
    if (
        not isinstance(shape, list)
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n < 2**48 for n in (*shape, begin, end))
    ):
        raise InvalidTensorFile(f"tensor {name!r} has an impossible shape or place: {str(entry)[:200]}")
    if not begin <= end <= len(data) or end - begin != math.prod(shape) * dtype.itemsize:
        raise InvalidTensorFile(f"tensor {name!r} does not fit its place in the file (cut short?): {str(entry)[:200]}")
    return np.frombuffer(data[begin:end], dtype.np).reshape(shape).copy()


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidTensorFile("the header is no valid JSON") from None


def _decode(node: Any, arrays: dict[str, np.ndarray], depth: int) -> Any:
    if isinstance(node, dict) and len(node) == 1 and depth <= _DEEPEST + 1:
        (kind, x), *_ = node.items()
        if kind in ("tensor", "array") and isinstance(x, str) and x in arrays:
            return new_tensor(arrays[x]) if kind == "tensor" else arrays[x]
        if kind == "value" and type(x) in _PLAIN:
            return x
        if kind in ("list", "tuple") and isinstance(x, list):
            items = [_decode(v, arrays, depth + 1) for v in x]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and isinstance(x, list) and all(isinstance(p, list) and len(p) == 2 for p in x):
            if all(type(k) in (str, int) for k, _ in x):
                return {k: _decode(v, arrays, depth + 1) for k, v in x}
    raise InvalidTensorFile("the structure in the metadata is damaged")
