"""What `for` loops go along, item by item: ranges (whose ends may be numbers of the trace), rows of tensors, and what
`enumerate`, `zip` and `reversed` make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...ir import ops
from ...ir.dtypes import int64
from ..tensor import Tensor
from .scalars import TracedInt

if TYPE_CHECKING:
    from .hooks import Hooks

_MOST = 1 << 52


class Walk:
    """Any iterable. One that closed loops can go along knows its length, and its item at each number."""

    def __init__(self, hooks: "Hooks", iterable: Any):
        self.hooks, self._iterable = hooks, iterable

    def given(self) -> Any:
        """The iterable itself."""
        return self._iterable

    def iterable(self) -> Any:
        return self.hooks.iterate(self.given())

    def length(self) -> int | TracedInt | None:
        """None: closed loops can't go along it."""
        return None

    def item(self, i: TracedInt) -> Any:
        """Item `i`, which is not negative and less than the length."""
        raise NotImplementedError


class Called(Walk):
    """What a function gives."""

    def __init__(self, hooks: "Hooks", function: Any, args: tuple):
        self.hooks, self.function, self.args = hooks, function, args

    def given(self) -> Any:
        parts = [a.given() if isinstance(a, Walk) else a for a in self.args]
        return self.hooks.call(self.function, *parts)


class Rows(Walk):
    """The rows of a tensor."""

    def length(self) -> int | None:
        x = self._iterable
        return x.shape[0] if x.ndim and type(x.shape[0]) is int else None

    def item(self, i: TracedInt) -> Any:
        return self.hooks.indexed(self._iterable)[i]


class Range(Called):
    def __init__(self, hooks: "Hooks", function: Any, args: tuple):
        super().__init__(hooks, function, args)
        self.start, self.stop, self.step = (0, args[0], 1) if len(args) == 1 else (*args, 1) if len(args) == 2 else args

    def length(self) -> int | TracedInt | None:
        ends = (self.start, self.stop)
        if type(self.step) is not int or self.step == 0:
            return None
        if all(type(x) is int and -_MOST <= x <= _MOST for x in ends):
            return len(range(self.start, self.stop, self.step))
        if not all(isinstance(x, TracedInt) or type(x) is int and -_MOST <= x <= _MOST for x in ends):
            return None
        self.first = _value(self.start)
        distance = ops.sub(_value(self.stop), self.first)
        steps = _binary(ops.floordiv, _binary(ops.add, distance, self.step - (1 if self.step > 0 else -1)), self.step)
        return TracedInt(_binary(ops.maximum, steps, 0), counts=True)

    def item(self, i: TracedInt) -> Any:
        moved = i.value if self.step == 1 else _binary(ops.mul, i.value, self.step)
        if type(self.start) is not int:
            return TracedInt(ops.add(moved, self.first), counts=True)
        return TracedInt(_binary(ops.add, moved, self.start) if self.start else moved, counts=True)


class Enumerated(Called):
    def length(self) -> Any:
        self.start = self.args[1].given() if len(self.args) == 2 else 0
        return self.args[0].length() if type(self.start) is int and abs(self.start) <= _MOST else None

    def item(self, i: TracedInt) -> Any:
        number = TracedInt(_binary(ops.add, i.value, self.start), counts=True) if self.start else i
        return number, self.args[0].item(i)


class Zipped(Called):
    def length(self) -> Any:
        found = [a.length() for a in self.args]
        return min(found) if found and all(type(n) is int for n in found) else None

    def item(self, i: TracedInt) -> Any:
        return tuple([a.item(i) for a in self.args])


class Reversed(Called):
    def length(self) -> Any:
        n = self.args[0].length() if isinstance(self.args[0], (Range, Rows)) else None
        self.last = None if n is None else _binary(ops.sub, _value(n), 1)
        return n

    def item(self, i: TracedInt) -> Any:
        return self.args[0].item(TracedInt(ops.sub(self.last, i.value), counts=True))


def walk_of(hooks: "Hooks", iterable: Any) -> Walk:
    if isinstance(iterable, Walk):
        return iterable
    if isinstance(iterable, Tensor):
        return Rows(hooks, iterable)
    if type(iterable) is range:
        return Range(hooks, range, (iterable.start, iterable.stop, iterable.step))
    return Walk(hooks, iterable)


def called(hooks: "Hooks", function: Any, args: tuple) -> Walk:
    """`function(*args)` where a loop goes along it."""
    if function is range and 1 <= len(args) <= 3:
        return Range(hooks, function, args)
    kinds: dict[Any, tuple[type[Called], bool]] = {
        enumerate: (Enumerated, 1 <= len(args) <= 2),
        zip: (Zipped, True),
        reversed: (Reversed, len(args) == 1),
    }
    kind, fits = kinds.get(function, (Called, False)) if isinstance(function, type) else (Called, False)
    return (kind if fits else Called)(hooks, function, args)


def _value(x: Any) -> Any:
    return x.counted() if isinstance(x, TracedInt) else ops.full(value=x, shape=(), dtype=int64)


def _binary(op: Any, x: Any, number: int) -> Any:
    return op(x, ops.full(value=number, shape=(), dtype=int64))
