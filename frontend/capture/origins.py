"""Where a Python object or number that a trace has read is found again: an origin is evaluated as a call begins.

They serve what the compiled function itself changes from call to call (a counter, a list that grows, a hidden state).
Everything else that a trace reads is guarded by value or identity where it is read: `watch.py`.
"""

from __future__ import annotations

import operator
import types
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from ..tensor import Tensor
from .guards import ABSENT, Expectation, leaf_key

Call = tuple[tuple, dict[str, Any]]  # the arguments of a call

OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "neg": operator.neg,
    "abs": abs,
    "bool": bool,
    "float": float,
}


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """This very object."""

    value: Any

    def fetch(self, call: Call | None = None) -> Any:
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """A container among the arguments: the first step picks an argument, by number or name."""

    steps: tuple[tuple[str, Any], ...]

    def fetch(self, call: Call | None = None) -> Any:
        assert call is not None
        (_, first), *rest = self.steps
        x = call[1][first] if isinstance(first, str) else call[0][first]
        for kind, step in rest:
            x = getattr(x, step) if kind == "attribute" else x[step]
        return x


@dataclass(frozen=True, slots=True, eq=False)
class Attribute:
    """An attribute, as it lies in the object."""

    of: "Origin"
    name: str

    def fetch(self, call: Call | None = None) -> Any:
        x = self.of.fetch(call)
        members = getattr(x, "__dict__", None)
        if members is not None and self.name in members:
            return members[self.name]
        return getattr(x, self.name)


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """An item of a container or namespace. (A defaultdict is not asked: it would make one.)"""

    of: "Origin"
    key: Any

    def fetch(self, call: Call | None = None) -> Any:
        x = self.of.fetch(call)
        if not isinstance(x, dict):
            return x[self.key]
        found = dict.get(x, self.key, ABSENT)
        if found is ABSENT:
            raise KeyError(self.key)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """The contents of a closure cell."""

    cell: types.CellType

    def fetch(self, call: Call | None = None) -> Any:
        return self.cell.cell_contents


@dataclass(frozen=True, slots=True, eq=False)
class Length:
    """The length of a container."""

    of: "Origin"

    def fetch(self, call: Call | None = None) -> Any:
        return len(self.of.fetch(call))


@dataclass(frozen=True, slots=True, eq=False)
class Contains:
    """Whether a container has a key or element."""

    of: "Origin"
    key: Any

    def fetch(self, call: Call | None = None) -> Any:
        return self.key in self.of.fetch(call)


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys of a dict, in their order."""

    of: "Origin"

    def fetch(self, call: Call | None = None) -> Any:
        return tuple(self.of.fetch(call))


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """Arithmetic of Python numbers. Only such as can't fail is recorded: see `lazy.py`."""

    symbol: str
    operands: tuple["Origin", ...]

    def fetch(self, call: Call | None = None) -> Any:
        return OPERATIONS[self.symbol](*[x.fetch(call) for x in self.operands])


@dataclass(frozen=True, slots=True, eq=False)
class Called:
    """What a function that has no effects says now (a logger's level)."""

    function: Callable[..., Any]
    args: tuple

    def fetch(self, call: Call | None = None) -> Any:
        return self.function(*self.args)


Origin = Held | Given | Attribute | Item | Cell | Length | Contains | Keys | Operation | Called


# ------------------------------------------------------------------ what is expected of it


@dataclass(frozen=True, slots=True)
class Kind:
    """Expects an object of exactly this type."""

    kind: type

    def match(self, v: Any) -> bool:
        return type(v) is self.kind

    def __str__(self) -> str:
        return f"a {self.kind.__name__}"


@dataclass(frozen=True, slots=True)
class Number:
    """Expects a number of exactly this type; an int of 64 bits."""

    kind: type

    def match(self, v: Any) -> bool:
        return type(v) is self.kind and (self.kind is float or -(2**63) <= v < 2**63)

    def __str__(self) -> str:
        return f"a {self.kind.__name__}"


class Layout:
    """Expects a tensor or array of the same kind, element type, shape and layout."""

    __slots__ = ("key",)

    def __init__(self, v: Any):
        self.key = leaf_key(v)

    def match(self, v: Any) -> bool:
        return isinstance(v, (Tensor, np.ndarray)) and leaf_key(v) == self.key

    def __str__(self) -> str:
        return "a tensor of the same layout"


@dataclass(slots=True)
class OriginGuard:
    """What is found at an origin as the call begins."""

    origin: Origin
    expected: Expectation | Kind | Number | Layout
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        try:
            found = self.origin.fetch()
        except Exception:  # it is not there any more
            return False
        return self.expected.match(found)


@dataclass(slots=True)
class SharingGuard:
    """Which of the objects that change from call to call are one and the same, with each other and with the rest."""

    origins: list[Origin]
    sources: list[Any]  # replay.Source of tensors and arrays
    pattern: tuple[int, ...]
    text: str = "objects that change from call to call are as distinct as before"

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.found(leaves) == self.pattern

    def found(self, leaves: Sequence[Any]) -> tuple[int, ...]:
        ids = [id(x.fetch()) for x in self.origins]
        ids += [id(s.tensor(leaves) if hasattr(s, "tensor") else s.fetch(leaves)) for s in self.sources]
        first: dict[int, int] = {}
        return tuple([first.setdefault(x, i) for i, x in enumerate(ids)])


# ------------------------------------------------------------------ inputs of the graph from there


@dataclass(frozen=True, slots=True, eq=False)
class ReadSource:
    """A tensor or array that the call finds at an origin."""

    origin: Origin
    path: str
    kind: str = "state"

    def tensor(self, leaves: Sequence[Any]) -> Any:
        return self.origin.fetch()

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        x = self.origin.fetch()
        return x if type(x) is np.ndarray else x._data


@dataclass(frozen=True, slots=True, eq=False)
class NumberSource:
    """A Python number that the call finds at an origin, as a 0-d int64 or float64."""

    origin: Origin
    path: str
    dtype: type
    kind: str = "scalar"

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return np.asarray(self.origin.fetch(), self.dtype)
