"""Lists, deques, dicts and sets from outside that a trace changes: what the trace sees of them, and what it has to guard.

An element that nobody has touched is an `Old`; reading it gives it an origin and a guard. What is only added, stored or
taken off needs none, so that a list may grow with every call. Whatever depends on more (slices, searches, iteration)
expects the length, or all keys, to be as they are, and then reads what it needs.
"""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Any, Iterator

from .effects import Mutate
from .kinds import kind_of
from .origins import Given, Origin

if TYPE_CHECKING:
    from .overlay import Overlay


class Old:
    """An element that was there before the call; `key` is its index or key. `known`: the value is what the trace has read
    there, or put there."""

    __slots__ = ("key", "known", "value")

    def __init__(self, key: Any, value: Any, known: bool = False):
        self.key, self.value, self.known = key, value, known


_READING = frozenset("__getitem__ getitem get __contains__ contains copy __copy__".split())


class Tracked:
    """A container as the trace sees it. `real`: the object that the user's code holds."""

    def __init__(self, overlay: "Overlay", real: Any, origin: Origin):
        self.overlay, self.real, self.origin = overlay, real, origin
        self.kind = kind_of(real)
        self.sized = isinstance(origin, Given)  # length or keys are known; those of arguments pick the trace
        self.name = type(real).__name__

    def record(self, method: str, *args: Any) -> None:
        self.overlay.actions.append(Mutate(self.origin, method, args))

    def own(self, copy: Any) -> Any:
        """`copy`, which is this trace's own."""
        return self.overlay.hooks.own(copy)

    def unknown(self, method: str) -> Any:
        self.overlay.tracer.stop(f"it calls {method} of a {self.name} that existed before the call")

    def call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        method = getattr(self, f"do_{name.strip('_')}", None)
        if name not in _READING and self.overlay.tracer.attempts:
            self._in_step(name)
        if method is not None:
            return method(*args, **kwargs)
        if name in getattr(self, "READS", ()):
            return self.own(getattr(self.plain(), name)(*args, **kwargs))
        return self.unknown(name)

    def _in_step(self, method: str) -> None:
        """Called before a step of a loop that is being tried changes it: only elements may become others."""
        from .loop_holders import TrackedHolder

        if method.strip("_") != "setitem" or self.kind not in (list, dict):
            self.overlay.lasting(f"changes a {self.name}")
        self.overlay.hooks.changes.holds(TrackedHolder(self))

    def plain(self) -> Any:
        """A copy with everything read."""
        raise NotImplementedError

    def length(self) -> Any:
        raise NotImplementedError

    def steps(self) -> Iterator[Any]:
        """The elements, as an iterator of the real one gives them while the trace goes on changing it."""
        raise NotImplementedError

    def truth(self) -> bool:
        return bool(self.length())

    def __iter__(self) -> Any:
        return self.steps()

    def __contains__(self, x: Any) -> bool:
        return x in self.plain()

    def __eq__(self, other: object) -> Any:
        return self.plain() == (other.plain() if isinstance(other, Tracked) else other)

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return operator.index(self.length())

    def _binary(self, symbol: str, other: Any, swapped: bool = False) -> Any:
        other = other.plain() if isinstance(other, Tracked) else other
        a, b = (other, self.plain()) if swapped else (self.plain(), other)
        return getattr(operator, symbol)(a, b)


def _binary(symbol: str, swapped: bool) -> Any:
    return lambda self, other: self._binary(symbol, other, swapped)


for _symbol in ("add", "mul", "or_", "and_", "sub", "xor", "lt", "le", "gt", "ge"):
    _plain_name = _symbol.rstrip("_")
    setattr(Tracked, f"__{_plain_name}__", _binary(_symbol, False))
    setattr(Tracked, f"__r{_plain_name}__", _binary(_symbol, True))


def tracked_class(v: Any) -> type[Tracked]:
    from .keyed import TrackedDict, TrackedSet
    from .sequences import TrackedList

    kind = kind_of(v)
    if kind in (list, deque):
        return TrackedList
    return TrackedSet if kind is set else TrackedDict
