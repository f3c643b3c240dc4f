"""Tensors in files: safetensors, without pickle. Loading runs no code.

A flat dict of named tensors is a plain safetensors file, as PyTorch tools write and read them. Any other nesting of
dicts, lists, tuples, numbers and strings around tensors is kept as JSON in the file's metadata.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import tensor_file
from .tensor import Tensor, new_tensor
from .tensor_file import InvalidTensorFile

_TREE = "tracefuse.tree"
_PLAIN = (bool, int, float, str, type(None))
_DEEPEST = 100
_ZIP = b"PK\x03\x04"


# ------------------------------------------------------------------ saving


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Writes a state dict (dicts, lists and tuples around tensors, arrays, numbers, strings and None) to `path`; for a
    module, an optimizer or a loader, its `state_dict()`. The file appears whole or not at all.

    A tensor that comes twice is stored once. Named tuples and other subclasses are saved as what they derive from.
    TypeError names what cannot be saved.
    """
    if hasattr(obj, "state_dict"):
        obj = obj.state_dict()
    if isinstance(obj, Mapping) and all(_is_name(k) and isinstance(v, (Tensor, np.ndarray)) for k, v in obj.items()):
        save_tensors(obj, path)
        return
    arrays: dict[str, np.ndarray] = {}
    tree = _encode(obj, "", arrays, {}, 0)
    save_tensors(arrays, path, {_TREE: json.dumps(tree)})


def save_tensors(
    tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named tensors (or arrays) as a safetensors file, by way of a temporary file in the same folder."""
    tensor_file.write(path, tensors, metadata)


def _is_name(key: Any) -> bool:
    return type(key) is str and key != "__metadata__"


def _encode(x: Any, path: str, arrays: dict[str, np.ndarray], known: dict[int, tuple], depth: int) -> dict[str, Any]:
    """`x` as JSON; its tensors go into `arrays` under the path to them. `known`: (name, tensor) by identity."""
    if depth > _DEEPEST:
        raise TypeError(f"cannot save: nested deeper than {_DEEPEST} at {path[:100]}...")
    if isinstance(x, (Tensor, np.ndarray)):
        if id(x) not in known:
            name = path or "tensor"
            while name in arrays or not _is_name(name):  # {"a": {"b": x}, "a.b": y}
                name += "'"
            known[id(x)] = name, x
            arrays[name] = np.asarray(x.cpu() if isinstance(x, Tensor) else x)
        return {"tensor" if isinstance(x, Tensor) else "array": known[id(x)][0]}
    x = _plain(x)
    if type(x) in _PLAIN:
        return {"value": x}
    if type(x) is complex:
        return {"complex": [x.real, x.imag]}
    if isinstance(x, Mapping):
        pairs = [(_plain(k), v) for k, v in x.items()]
        bad = [k for k, _ in pairs if type(k) not in _PLAIN]
        if bad:
            raise TypeError(f"cannot save {path or 'this'}: the key {bad[0]!r} is neither a string nor a number")
        return {"dict": [[k, _encode(v, _join(path, k), arrays, known, depth + 1)] for k, v in pairs]}
    if isinstance(x, (list, tuple)):
        kind = "tuple" if isinstance(x, tuple) else "list"
        return {kind: [_encode(v, _join(path, i), arrays, known, depth + 1) for i, v in enumerate(x)]}
    raise TypeError(
        f"cannot save {path or 'this'}: a {type(x).__name__} is no tensor, number, string, dict, list or tuple"
    )


def _plain(x: Any) -> Any:
    """Numbers and strings of NumPy and of derived types as Python's own; members of enumerations are left alone."""
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, enum.Enum) or type(x) in _PLAIN:
        return x
    return next((kind(x) for kind in (int, float, str) if isinstance(x, kind)), x)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


# ------------------------------------------------------------------ loading


def load(path: str | os.PathLike[str], *, mmap: bool = False, verify: bool | None = None) -> Any:
    """What `save` wrote (see `load_tensors`), or the Program in a file that `Program.save` wrote.

    InvalidTensorFile or InvalidProgram for a file that is damaged or something else.
    """
    with open(path, "rb") as f:
        is_program = f.read(len(_ZIP)) == _ZIP
    if is_program or os.fspath(path).endswith(".tfx"):
        from .program import load as load_program

        return load_program(path)
    return load_tensors(path, mmap=mmap, verify=verify)


def load_tensors(path: str | os.PathLike[str], *, mmap: bool = False, verify: bool | None = None) -> Any:
    """What `save` wrote: a dict of tensors by name, or the nested structure. Also reads safetensors files of others.

    mmap: tensors are pages of the file, read from disk when they are used; writing to one changes neither the file nor
    what others see. verify: tests the checksum, which reads everything (default: unless `mmap`).
    InvalidTensorFile for a file that is damaged, altered or something else.
    """
    arrays, metadata = tensor_file.read(path, mapped=mmap, verify=not mmap if verify is None else verify)
    if _TREE not in metadata:
        return {k: new_tensor(a) for k, a in arrays.items()}
    try:
        return _decode(tensor_file.parse(metadata[_TREE]), arrays, {}, 0)
    except InvalidTensorFile as e:
        raise InvalidTensorFile(f"{os.fspath(path)}: {e}") from None


def _decode(node: Any, arrays: dict[str, np.ndarray], made: dict[str, Tensor], depth: int) -> Any:
    if isinstance(node, dict) and len(node) == 1 and depth <= _DEEPEST + 1:
        (kind, x), *_ = node.items()
        if kind in ("tensor", "array") and isinstance(x, str) and x in arrays:
            if kind == "array":
                return arrays[x]
            if x not in made:
                made[x] = new_tensor(arrays[x])
            return made[x]
        if kind == "value" and type(x) in _PLAIN:
            return x
        if kind == "complex" and isinstance(x, list) and [type(part) for part in x] == [float, float]:
            return complex(*x)
        if kind in ("list", "tuple") and isinstance(x, list):
            items = [_decode(v, arrays, made, depth + 1) for v in x]
            return items if kind == "list" else tuple(items)
        if kind == "dict" and isinstance(x, list) and all(isinstance(p, list) and len(p) == 2 for p in x):
            if all(type(k) in _PLAIN for k, _ in x):
                return {k: _decode(v, arrays, made, depth + 1) for k, v in x}
    raise InvalidTensorFile("the structure in the metadata is damaged")
