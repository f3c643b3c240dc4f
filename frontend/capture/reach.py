"""Finding the way to a tensor: from the globals, closure cells and arguments that a trace has seen, through modules,
optimizers, containers and plain objects. The path is its name; a tensor with no path is not known to outlive the call.
"""

from __future__ import annotations

import functools
import gc
import types
from collections import deque
from typing import Any

import numpy as np

from ..tensor import Tensor

_LIMIT = 200_000  # objects that one trace looks at
_OPAQUE = (
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    np.generic,
    np.dtype,
)
_REGISTRIES = ("_parameters", "_buffers", "_modules")  # of nn.Module: not part of a user's path


class Reach:
    """Names objects by the first path found to them. Roots are walked only when an unknown tensor turns up."""

    def __init__(self) -> None:
        self.paths: dict[int, str] = {}  # of tensors and arrays, by id
        self._held: list[Any] = []
        self._visited: set[int] = set()
        self._queue: deque[tuple[str, Any]] = deque()

    def add(self, path: str, root: Any) -> None:
        """A place to start from."""
        if not isinstance(root, _OPAQUE):
            self._add((path, root))

    def _add(self, item: tuple[str, Any]) -> None:
        """Modules go first: their names are the ones that users know parameters by."""
        if "_modules" in getattr(item[1], "__dict__", ()):
            self._queue.appendleft(item)
        else:
            self._queue.append(item)

    def find(self, x: Any) -> str | None:
        """The path to a tensor or array, or None."""
        if id(x) not in self.paths:
            self._walk()
        return self.paths.get(id(x))

    def _walk(self) -> None:
        queue, visited = self._queue, self._visited
        while queue and len(visited) < _LIMIT:
            path, x = queue.popleft()
            if id(x) in visited or isinstance(x, _OPAQUE):
                continue
            visited.add(id(x))
            self._held.append(x)  # ids stay valid
            if isinstance(x, (Tensor, np.ndarray)):
                self.paths.setdefault(id(x), path)
                continue
            self._expand(path, x)

    def _expand(self, path: str, x: Any) -> None:
        add = self._add
        wrapped = vars(x).get("__tracefuse_wrapped__") if hasattr(x, "__dict__") else None
        if wrapped is not None:  # a compiled function: what it holds besides is nobody's but its own
            add((path, wrapped))
            return
        if isinstance(x, dict):
            for k, v in x.items():
                add((f"{path}[{self._key(k)}]", v))
                if isinstance(k, Tensor):
                    add((f"{path}.key", k))
        elif isinstance(x, (list, tuple, set, frozenset)):
            for i, v in enumerate(x):
                add((f"{path}[{i}]", v))
        elif isinstance(x, types.FunctionType):
            for name, cell in zip(x.__code__.co_freevars, x.__closure__ or ()):
                try:
                    add((name, cell.cell_contents))
                except ValueError:
                    continue
        elif isinstance(x, types.MethodType):
            add((path, x.__self__))
            add((path, x.__func__))
        elif isinstance(x, functools.partial):
            add((path, x.func))
            add((path, x.args))
            add((path, x.keywords))
        if not isinstance(x, (types.FunctionType, types.MethodType)):
            self._members(path, x)

    def _members(self, path: str, x: Any) -> None:
        members = getattr(x, "__dict__", None)
        if isinstance(members, dict):
            for name, v in members.items():
                if name in _REGISTRIES and isinstance(v, dict):
                    self._visited.add(id(v))
                    for k, inner in v.items():
                        self._queue.appendleft((f"{path}.{k}" if path else k, inner))
                else:
                    self._add((f"{path}.{name}" if path else name, v))
        for kind in type(x).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("__"):
                    v = getattr(x, name, None)
                    if v is not None:
                        self._queue.append((f"{path}.{name}" if path else name, v))

    def _key(self, k: Any) -> str:
        return self.paths.get(id(k), "...") if isinstance(k, Tensor) else repr(k)


class Young:
    """Tells objects made inside the block from older ones: while the collector rests, they are its youngest ones."""

    def __init__(self) -> None:
        self._enabled = False
        self._works = False
        self._ids: set[int] = set()

    def __enter__(self) -> "Young":
        self._enabled = gc.isenabled()
        gc.disable()
        old: list = []
        gc.collect(0)
        new: list = []
        ids = self._look()
        self._works = id(new) in ids and id(old) not in ids
        return self

    def __exit__(self, *exc: object) -> None:
        if self._enabled:
            gc.enable()

    def _look(self) -> set[int]:
        self._ids = {id(x) for x in gc.get_objects(generation=0)}
        return self._ids

    def holds(self, x: Any) -> bool:
        """Whether `x` (which the collector knows) was made inside the block. False when in doubt."""
        return self._works and (id(x) in self._ids and gc.is_tracked(x) or id(x) in self._look())
