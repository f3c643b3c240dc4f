"""Views of tensors that a tracer made: writes go through to what they are views of, and are seen by its other views."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ..ir import ops
from ..ir.graph import Value
from ..ir.op import Attrs, OpDef
from .tape import root_of
from .tensor import Tensor


class Elements:
    """What stands for the op of a view whose position is a value of the graph: elements of the first axes."""

    name = "elements"

    def __init__(self, indices: tuple[Value, ...]):
        self.indices = indices

    def __call__(self, base: Value) -> Value:
        return ops.gather(base, *self.indices)

    def reference(self, x: np.ndarray) -> np.ndarray:
        """A view of the same strides."""
        return x[(0,) * len(self.indices)]

    def put(self, base: Value, v: Value) -> Value:
        """`base` with `v` in their place."""
        return ops.scatter(base, v, *self.indices, mode="set")


class TraceViews(ABC):
    """What tracers share: a graph value never changes, so that a write gives the written tensor a new one, and each view
    is made again when it is read after a write to its root."""

    def __init__(self) -> None:
        self._writes: dict[int, tuple[Tensor, int]] = {}  # root -> how often it was written
        self._seen: dict[int, tuple[Tensor, int]] = {}  # view -> the count at which its `_data` is right

    @abstractmethod
    def read(self, t: Tensor) -> Value:
        """The value of `t` now."""

    @abstractmethod
    def wrap(self, v: Value) -> Tensor:
        """A fresh tensor."""

    @abstractmethod
    def _is_own(self, t: Tensor) -> bool:
        """Whether the tracer made `t`."""

    @abstractmethod
    def _set(self, root: Tensor, v: Value) -> None:
        """Gives a tensor that is no view inside the trace the value `v`."""

    def _is_view(self, t: Tensor) -> bool:
        """Whether writes to `t` go on to what it is a view of."""
        return self._is_own(t) and t._base is not None and t._view is not None

    def _current(self, t: Tensor) -> Value:
        """The value of a tensor that the tracer made."""
        if t._view is None or t._base is None:
            return t._data  # type: ignore[return-value]
        writes, seen = self._count(root_of(t)), self._seen.get(id(t))
        if seen is not None and seen[1] != writes:
            op, attrs = t._view
            t._data = op(self.read(t._base), **attrs)
            self._seen[id(t)] = (t, writes)
        return t._data  # type: ignore[return-value]

    def _count(self, root: Tensor) -> int:
        found = self._writes.get(id(root))
        return 0 if found is None else found[1]

    def write(self, t: Tensor, v: Value) -> None:
        chain: list[tuple[Tensor, Value]] = []
        while self._is_view(t):
            if self._is_own(t):
                chain.append((t, v))
            assert t._base is not None and t._view is not None
            op, attrs = t._view
            v = _put_into_base(self.read(t._base), v, op, attrs)
            t = t._base
        self._set(t, v)
        writes = self._count(t) + 1
        self._writes[id(t)] = (t, writes)
        for view, current in chain:
            view._data = current  # type: ignore[assignment]
            self._seen[id(view)] = (view, writes)

    def elements(self, base: Tensor, indices: tuple[Value, ...], value: Value) -> Tensor:
        """What indexing `base` with tensors gives."""
        return self.wrap(value)

    def alias_made(self, t: Tensor, base: Tensor) -> None:
        """Takes note of a tensor that is a view of `base` by another class."""
        self._view_made(t, base)

    def _view_made(self, t: Tensor, base: Tensor) -> Tensor:
        """Notes that `t` is a new view of `base`."""
        self._seen[id(t)] = (t, self._count(root_of(base)))
        return t


def _put_into_base(base: Value, v: Value, op: OpDef, attrs: Attrs) -> Value:
    """The value of `base` after its view op(base) was overwritten with `v`."""
    if isinstance(op, Elements):
        return op.put(base, v)
    if op.name == "slice":
        return ops.slice_scatter(base, v, **attrs)
    if op.name == "reshape":
        return ops.reshape(v, shape=base.shape)
    if op.name == "permute":
        perm = attrs["perm"]
        return ops.permute(v, perm=tuple(sorted(range(len(perm)), key=perm.__getitem__)))
    if op.name == "flip":
        return ops.flip(v, **attrs)
    raise RuntimeError(f"a tensor made by {op.name} cannot be written in place: its elements share memory")
