"""The .tfx container: a graph, its constants and state, and how to call it, in one file that is data only.

A zip archive, stored without compression, of exactly three members:

    graph.txt            `# tracefuse graph 1`, then the graph's text
    weights.safetensors  "constant/NAME" for the graph's constants, "state/PATH" for the tensors it reaches by itself
    meta.json            format, tracefuse version, trees of inputs and outputs, dims, SHA-256 of the other members

Equal contents give equal bytes. Reading trusts nothing: a file that is not exactly this gives `InvalidProgram`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np

from . import dtypes
from .dtypes import from_numpy
from .graph import Graph
from .text import format_graph, format_value, parse_graph
from .types import TensorType
from .verify import verify

FORMAT = 1
GRAPH, WEIGHTS, META = "graph.txt", "weights.safetensors", "meta.json"
_HEAD = f"# tracefuse graph {FORMAT}\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_META_LIMIT = 64 << 20  # bytes of meta.json
_GRAPH_LIMIT = 1 << 30  # bytes of graph.txt
_CODES = {
    "BOOL": dtypes.bool_, "I8": dtypes.int8, "I16": dtypes.int16, "I32": dtypes.int32, "I64": dtypes.int64,
    "U8": dtypes.uint8, "U16": dtypes.uint16, "U32": dtypes.uint32, "U64": dtypes.uint64, "F16": dtypes.float16,
    "BF16": dtypes.bfloat16, "F32": dtypes.float32, "F64": dtypes.float64,
}  # fmt: skip


class InvalidProgram(ValueError):
    """A file that is no tracefuse program, is damaged, or was made by a newer version."""


@dataclass(eq=False)
class Contents:
    """What a .tfx file holds. `state`: data by the path of its input (kind "state" needs it, "rng" may have it).
    `inputs`, `outputs`: the trees of arguments and results, `extra`: anything else; all three plain JSON values.
    `version`: the tracefuse that wrote the file ("" before writing: this one)."""

    graph: Graph
    state: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: Any = None
    outputs: Any = None
    extra: Any = None
    version: str = ""


# ------------------------------------------------------------------ writing


def write(target: str | os.PathLike[str] | IO[bytes], contents: Contents) -> None:
    """Writes `contents` to a path, where the file appears whole or not at all, or to a binary file.

    VerifyError for a graph that breaks a rule, ValueError for state that does not fit it, TypeError for trees that are
    not JSON.
    """
    data = to_bytes(contents)
    if hasattr(target, "write"):
        target.write(data)  # type: ignore[union-attr]
        return
    path = os.path.realpath(target)  # type: ignore[arg-type]
    handle, temporary = tempfile.mkstemp(prefix=".tfx-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(path))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _mode(path: str) -> int:
    """The permissions of the file that is replaced; for a new one, what a plain `open` would give it."""
    try:
        return os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def to_bytes(contents: Contents) -> bytes:
    """The file's bytes. Raises what `write` raises."""
    from safetensors.numpy import save

    graph = contents.graph
    verify(graph)
    _check_state(graph, contents.state)
    tensors = {f"constant/{v.name}": a for v, a in graph.constants.items()}
    if len(tensors) != len(graph.constants):
        raise ValueError("two constants have the same name")
    tensors |= {f"state/{path}": a for path, a in contents.state.items()}
    weights = save({name: _little(a) for name, a in sorted(tensors.items())})
    text = (_HEAD + format_graph(graph) + "\n").encode()
    meta = {
        "format": FORMAT,
        "version": contents.version or own_version(),
        "inputs": contents.inputs,
        "outputs": contents.outputs,
        "dims": _dims(graph),
        "extra": contents.extra,
        "sha256": {GRAPH: _sha(text), WEIGHTS: _sha(weights)},
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ((GRAPH, text), (WEIGHTS, weights), (META, json.dumps(meta, indent=1).encode())):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            archive.writestr(info, data)
    return out.getvalue()


def own_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tracefuse")
    except PackageNotFoundError:
        return "0"


def _little(a: np.ndarray) -> np.ndarray:
    """Contiguous and little-endian, as the file has it."""
    return np.ascontiguousarray(a.astype(a.dtype.newbyteorder("<"), copy=False)).reshape(a.shape)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _dims(graph: Graph) -> list[list[str]]:
    """Name, least and greatest value of each symbolic size, as text."""
    out = []
    for s in graph.dims():
        ((atom,), _) = s.terms[0]
        out.append([str(s), format_value(atom.lo), "inf" if atom.hi is None else format_value(atom.hi)])
    return out


def _check_state(graph: Graph, state: dict[str, np.ndarray]) -> None:
    """ValueError unless there is data of the right type for every input that needs some, and for no other."""
    unused = set(state)
    for v, spec in zip(graph.inputs, graph.signature.inputs, strict=True):
        if spec.kind not in ("state", "rng"):
            continue
        array = state.get(spec.path)
        if array is None:
            if spec.kind == "state":
                raise ValueError(f"there is no data for {spec.path}")
            continue
        unused.discard(spec.path)
        fits = len(array.shape) == v.ndim and all(d == n for d, n in zip(v.shape, array.shape) if isinstance(d, int))
        if from_numpy(array.dtype) is not v.dtype or not fits:
            raise ValueError(f"{spec.path} must be a {v.type}, not {TensorType(from_numpy(array.dtype), array.shape)}")
    if unused:
        raise ValueError(f"the graph has no state named {min(unused)}")


# ------------------------------------------------------------------ reading


def read(source: str | os.PathLike[str] | IO[bytes]) -> Contents:
    """Reads a .tfx file from a path or a binary file. Runs nothing of it.

    OSError if it cannot be opened. InvalidProgram, and nothing else, for whatever is wrong with what it holds.
    """
    if hasattr(source, "read"):
        return _guarded(source)  # type: ignore[arg-type]
    with open(source, "rb") as file:  # type: ignore[arg-type]
        return _guarded(file)


def _guarded(file: IO[bytes]) -> Contents:
    try:
        return _read(file)
    except InvalidProgram:
        raise
    except zipfile.BadZipFile as e:
        raise InvalidProgram(f"not a tracefuse program, or damaged: {e}") from None
    except Exception as e:  # archive, JSON and tensor readers meet hostile bytes: each has errors of its own
        raise InvalidProgram(f"damaged program: {e or type(e).__name__}") from None


def _read(file: IO[bytes]) -> Contents:
    with zipfile.ZipFile(file) as archive:
        members = _members(archive, file)
        meta = _meta(members[META])
        for name in (GRAPH, WEIGHTS):
            if meta["sha256"].get(name) != _sha(members[name]):
                raise InvalidProgram(f"{name} is damaged: its SHA-256 is not the one in {META}")
    text = members[GRAPH].decode()
    if not text.startswith(_HEAD):
        raise InvalidProgram(f"{GRAPH} does not begin with {_HEAD.strip()!r}")
    constants, state = _weights(members[WEIGHTS])
    graph = parse_graph(text, constants)
    spare = constants.keys() - {v.name for v in graph.constants}
    if spare:
        raise InvalidProgram(f"{WEIGHTS} has data for the constant {min(spare)}, which the graph lacks")
    _check_state(graph, state)
    if meta["dims"] != _dims(graph):
        raise InvalidProgram(f"{META} gives other dims than the graph")
    return Contents(graph, state, meta["inputs"], meta["outputs"], meta["extra"], meta["version"])


def _members(archive: zipfile.ZipFile, file: IO[bytes]) -> dict[str, bytes]:
    """The members' bytes. Names, methods and sizes are checked before anything is read."""
    infos = archive.infolist()
    if sorted(i.filename for i in infos) != sorted((GRAPH, WEIGHTS, META)):
        raise InvalidProgram(f"a program has exactly the members {GRAPH}, {WEIGHTS} and {META}")
    whole = file.seek(0, os.SEEK_END)
    for i in infos:
        if i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size or i.flag_bits & 1:
            raise InvalidProgram(f"{i.filename} is compressed or encrypted; programs are stored as they are")
        if i.file_size > whole:
            raise InvalidProgram(f"{i.filename} claims {i.file_size} bytes of a file of {whole}")
    sizes = {i.filename: i.file_size for i in infos}
    if sum(sizes.values()) > whole or sizes[META] > _META_LIMIT or sizes[GRAPH] > _GRAPH_LIMIT:
        raise InvalidProgram("the members are larger than the file, or than they may be")
    return {i.filename: archive.read(i) for i in infos}


_META_KINDS = {
    "format": int,
    "version": str,
    "dims": list,
    "sha256": dict,
    "inputs": object,
    "outputs": object,
    "extra": object,
}


def _meta(data: bytes) -> dict[str, Any]:
    meta = json.loads(data)
    if not isinstance(meta, dict) or type(meta.get("format")) is not int:
        raise InvalidProgram(f"{META} gives no format number")
    if meta["format"] > FORMAT:
        raise InvalidProgram(f"the program has format {meta['format']}; this tracefuse reads formats up to {FORMAT}")
    if meta["format"] < 1 or meta.keys() != _META_KINDS.keys():
        raise InvalidProgram(f"{META} does not have the fields {', '.join(_META_KINDS)}")
    for name, kind in _META_KINDS.items():
        if not isinstance(meta[name], kind):
            raise InvalidProgram(f"{META}: {name} must be a {kind.__name__}")
    return meta


def _weights(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Constants and state, by name."""
    from safetensors import deserialize

    found: dict[str, dict[str, np.ndarray]] = {"constant": {}, "state": {}}
    for name, entry in deserialize(data):
        kind, slash, rest = name.partition("/")
        dtype = _CODES.get(entry["dtype"])
        if kind not in found or not slash:
            raise InvalidProgram(f"{WEIGHTS}: {name[:60]!r} is neither a constant nor state")
        if dtype is None:
            raise InvalidProgram(f"{WEIGHTS}: {name[:60]!r} has the element type {entry['dtype']}")
        raw = np.frombuffer(entry["data"], dtype.np.newbyteorder("<"))
        if dtype is dtypes.bool_ and (raw.view(np.uint8) > 1).any():
            raise InvalidProgram(f"{WEIGHTS}: {name[:60]!r} holds bools that are neither 0 nor 1")
        found[kind][rest] = raw.reshape(entry["shape"]).astype(dtype.np)  # a copy: aligned, and writable
    return found["constant"], found["state"]
