"""What a trace took for granted. A guard checks one assumption at call time and says it in words for `explain`.

Checks by value compare exactly (`1` is not `True`, `0.0` is not `-0.0`, a nan equals itself); everything mutable that
is not a container is compared by identity.
"""

from __future__ import annotations

import enum
import types
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Callable, Protocol, Sequence

import numpy as np

from ...ir.dtypes import DType
from .. import autograd
from ..epoch import epoch
from ..state import state
from ..tape import needs_grad
from ..tensor import Tensor
from . import pytree

_VALUES = (int, bool, str, bytes, type(None), complex, type(...), range, slice)
_LIMIT = 10_000  # elements of one container that are compared on every call
ABSENT = object()  # "there is no such name"


class Guard(Protocol):
    """`check(leaves)`: whether the assumption holds, given the flattened arguments. `text`: what it says."""

    text: str

    def check(self, leaves: Sequence[Any]) -> bool: ...


class TooLarge(Exception):
    """A container too large (or nested too deep) to be compared on every call."""


# ------------------------------------------------------------------ expectations


class Same:
    """Expects this very object."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def match(self, v: Any) -> bool:
        return v is self.value

    def __str__(self) -> str:
        v = self.value
        named = isinstance(v, (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType))
        name = v.__qualname__ if named else type(v).__qualname__
        return f"the same {name}" if v is not ABSENT else "absent"


class Equal:
    """Expects an equal immutable value of the same type."""

    __slots__ = ("kind", "value", "shown")

    def __init__(self, v: Any):
        self.kind, self.value, self.shown = type(v), exact(v), repr(v)

    def match(self, v: Any) -> bool:
        return type(v) is self.kind and exact(v) == self.value

    def __str__(self) -> str:
        return f"== {self.shown if len(self.shown) < 60 else self.shown[:57] + '...'}"


class Contents:
    """Expects a container of the same type with matching elements (and the same keys in the same order)."""

    __slots__ = ("kind", "keys", "items")

    def __init__(self, v: Any, budget: list[int], depth: int, same: Collection[int] = ()):
        self.kind = type(v)
        budget[0] -= len(v)
        if budget[0] < 0 or depth > 20:
            raise TooLarge
        self.keys = tuple(v) if isinstance(v, dict) else None
        values = v.values() if isinstance(v, dict) else v
        self.items = tuple([expect(x, budget, depth + 1, same) for x in values])

    def match(self, v: Any) -> bool:
        if type(v) is not self.kind or len(v) != len(self.items):
            return False
        if self.keys is None:
            return all(e.match(x) for e, x in zip(self.items, v))
        return all(e.match(x) and (k is key or k == key) for e, key, (k, x) in zip(self.items, self.keys, v.items()))

    def __str__(self) -> str:
        return f"the same {self.kind.__name__} of {len(self.items)}"


class Members:
    """Expects an equal set of immutable values."""

    __slots__ = ("kind", "value")

    def __init__(self, v: Any):
        self.kind, self.value = type(v), frozenset(v)

    def match(self, v: Any) -> bool:
        return type(v) is self.kind and v == self.value

    def __str__(self) -> str:
        return f"the same {self.kind.__name__} of {len(self.value)}"


class Structural:
    """Expects the options of a parameter group, whose *numbers* may change where tensors carry them.

    Optimizers hold the hyperparameters of a group as tensors too, which their math reads; only structure is fixed.
    """

    __slots__ = ("token",)

    def __init__(self, v: Any):
        self.token = v.structure()

    def match(self, v: Any) -> bool:
        return v.structure() == self.token

    def __str__(self) -> str:
        return "the same options"


Expectation = Same | Equal | Contents | Members | Structural


def exact(v: Any) -> Any:
    """A key that tells 0.0 from -0.0 and finds nan equal to itself."""
    if isinstance(v, float):
        return v.hex()
    if isinstance(v, np.generic):
        return v.tobytes()
    if isinstance(v, complex):
        return (v.real.hex(), v.imag.hex())
    if isinstance(v, slice):  # not hashable
        return (v.start, v.stop, v.step)
    return v


def is_value(v: Any) -> bool:
    """Whether `v` is immutable and compared by value."""
    return type(v) in _VALUES or type(v) is float or isinstance(v, (np.generic, enum.Enum, np.dtype, DType))


def is_content(v: Any) -> bool:
    """Whether `v` is a builtin container, compared element by element."""
    kind = type(v)
    return kind in (list, tuple, dict, OrderedDict, set, frozenset) or pytree.is_namedtuple(kind)


def expect(v: Any, budget: list[int] | None = None, depth: int = 0, same: Collection[int] = ()) -> Expectation:
    """What a later value must be to pass for `v`. TooLarge for containers that are too large to compare. same: ids of
    containers that are compared by identity."""
    if id(v) in same:
        return Same(v)
    if is_value(v):
        return Equal(v)
    if type(v) in (set, frozenset):
        if len(v) > _LIMIT or not all(is_value(x) for x in v):
            raise TooLarge
        return Members(v)
    if is_content(v):
        return Contents(v, budget or [_LIMIT], depth, same)
    if isinstance(v, types.MethodType):
        return BoundMethod(v)
    return Same(v)


class BoundMethod(Same):
    """Expects the same function bound to the same object (bound methods are made anew on every load)."""

    __slots__ = ()

    def match(self, v: Any) -> bool:
        return (
            isinstance(v, types.MethodType) and v.__func__ is self.value.__func__ and v.__self__ is self.value.__self__
        )


# ------------------------------------------------------------------ guards


@dataclass(slots=True)
class ItemGuard:
    """An entry of a namespace: a global, a module's attribute, an entry of an object's `__dict__`."""

    namespace: Any  # dict or mappingproxy
    name: str
    expected: Expectation
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.expected.match(self.namespace.get(self.name, ABSENT))


@dataclass(slots=True)
class CellGuard:
    """The contents of a closure cell."""

    cell: types.CellType
    expected: Expectation
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        try:
            return self.expected.match(self.cell.cell_contents)
        except ValueError:  # empty
            return self.expected.match(ABSENT)


@dataclass(slots=True)
class SlotGuard:
    """An attribute that lives in a slot."""

    owner: Any
    name: str
    expected: Expectation
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.expected.match(getattr(self.owner, self.name, ABSENT))


FIELDS: dict[str, Callable[[Any], Any]] = {
    "class": type,  # of any object
    "mro": lambda cls: cls.__mro__,
    "code": lambda f: f.__code__,
    "defaults": lambda f: f.__defaults__,
    "keyword defaults": lambda f: f.__kwdefaults__,
}


@dataclass(slots=True)
class FieldGuard:
    """What the interpreter itself looks up in an object, one of `FIELDS`: reloading code in place changes it."""

    owner: Any
    field: str
    value: Any
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return FIELDS[self.field](self.owner) is self.value


@dataclass(slots=True)
class ContentGuard:
    """A container of the user that the trace looked into."""

    container: Any
    expected: Expectation
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.expected.match(self.container)


@dataclass(slots=True)
class ScalarGuard:
    """A float argument that steers Python."""

    leaf: int
    expected: Expectation
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.expected.match(leaves[self.leaf])


@dataclass(slots=True)
class ArgumentGuard:
    """An argument that the function also reaches by itself."""

    leaf: int
    value: Any
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return leaves[self.leaf] is self.value


@dataclass(slots=True)
class EpochGuard:
    """Attributes of modules and optimizers. One compare while nothing in the process has changed; else each of them."""

    entries: list[tuple[dict, Any, str]] = field(default_factory=list)
    seen: int = -1
    text: str = "modules and optimizers are as they were"
    failed: str = ""

    def check(self, leaves: Sequence[Any]) -> bool:
        now = epoch.value
        if now == self.seen:
            return True
        for namespace, expected, text in self.entries:
            if not expected.match(namespace):
                self.failed = text
                return False
        self.seen = now
        return True


@dataclass(slots=True)
class TensorGuard:
    """A tensor that the function reaches by itself: dtype, shape, layout and whether it requires grad."""

    tensor: Tensor
    array: np.ndarray
    requires_grad: bool | None
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        t, old = self.tensor, self.array
        if t._requires_grad is not self.requires_grad and bool(t._requires_grad) != bool(self.requires_grad):
            return False
        data = t._data
        if data is old:
            return True
        if data.dtype != old.dtype or data.shape != old.shape or data.strides != old.strides:
            return False
        if layout(data) != layout(old):
            return False
        self.array = data
        return True


@dataclass(slots=True)
class ArrayGuard:
    """An ndarray that the function reaches by itself: nobody has reshaped it in place."""

    array: np.ndarray
    dtype: np.dtype
    shape: tuple[int, ...]
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.array.dtype == self.dtype and self.array.shape == self.shape


@dataclass(slots=True)
class HookGuard:
    """The gradient hooks of a leaf."""

    source: Any  # replay.Source of the tensor
    hooks: tuple
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        if not autograd._LEAF_HOOKS:
            return not self.hooks
        now = leaf_hooks(self.source.tensor(leaves))
        return len(now) == len(self.hooks) and all(a is b for a, b in zip(now, self.hooks))


def leaf_hooks(t: Tensor) -> tuple:
    """What `register_hook` has put on a leaf."""
    found = autograd._LEAF_HOOKS.get(id(t))
    return () if found is None else tuple(found[1])


@dataclass(slots=True)
class GradGuard:
    """Whether a tensor had a `.grad` when the call began, and of what kind."""

    source: Any  # replay.Source of the tensor
    expected: tuple | None
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        grad = self.source.tensor(leaves)._grad
        if grad is None or self.expected is None:
            return grad is None and self.expected is None
        return layout(grad._data) == self.expected


# ------------------------------------------------------------------ the key of a call


def layout(array: Any) -> tuple:
    """Of which kind the array of a tensor is, and where."""
    where = None if type(array) is np.ndarray else getattr(array, "gpu", None)
    return array.dtype, array.shape, array.flags.c_contiguous, where


def leaf_key(x: Any) -> Any:
    """What of an argument picks the trace: layout of arrays, type of floats, value of other numbers and strings,
    identity of everything else."""
    kind = type(x)
    if isinstance(x, Tensor):
        if x._view is not None and state.grad_enabled:
            needs_grad(x)  # a view gets the history that was written into its storage since
        d = x._data
        return kind, *layout(d), bool(x._requires_grad), x._node is not None
    if kind is np.ndarray:
        return kind, x.dtype, x.shape, x.flags.c_contiguous, x.flags.writeable
    if kind is float:
        return float
    if is_value(x):
        return kind, exact(x)
    if isinstance(x, types.MethodType):
        return kind, id(x.__func__), id(x.__self__)
    return kind, id(x)


def sharing(leaves: Sequence[Any]) -> tuple:
    """Which tensors and arrays among the arguments are one object."""
    ids = [id(x) for x in leaves if isinstance(x, (Tensor, np.ndarray))]
    if len(ids) < 2 or len(set(ids)) == len(ids):
        return ()
    return tuple(ids.index(i) for i in ids)
