"""Lists and deques from outside, as a trace sees them while it changes them."""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Any, Iterable, Iterator

from ..state import state
from . import guards as g
from .containers import Old, Tracked
from .lazy import LazyNumber, settled
from .origins import Held, Item, Length, Operation, Origin

if TYPE_CHECKING:
    from .overlay import Overlay


class TrackedList(Tracked):
    """A list or deque."""

    READS = frozenset(("index", "count"))

    def __init__(self, overlay: "Overlay", real: Any, origin: Origin):
        super().__init__(overlay, real, origin)
        self.n = len(real)
        self.items: list[Any] = list(real) if self.sized else [Old(i, x) for i, x in enumerate(real)]
        self.front = self.back = 0  # how many were added at the ends
        self.cut_front = self.cut_back = False  # old ones were taken off
        self.bound = getattr(real, "maxlen", None)
        self.changes = 0

    def settle(self) -> None:
        """Expects the length that it had as the call began."""
        if not self.sized:
            self.sized = True
            self.overlay.expect(Length(self.origin), g.Equal(self.n), f"the {self.name} has {self.n} elements")

    def length(self) -> Any:
        if self.bound is not None:
            self.settle()
        if self.sized:
            return len(self.items)
        return LazyNumber(self.overlay, Length(self.origin), self.n)._with(len(self.items) - self.n, "+")

    def _read(self, position: int, from_end: bool = False) -> Any:
        x = self.items[position]
        if not isinstance(x, Old):
            return x
        if not x.known:
            key = x.key - self.n if from_end and not self.sized else x.key
            x.value = self.overlay.read(Item(self.origin, key), x.value, f"{self.name}[{key}]")
            x.known = True
        return x.value

    def _is_at(self, index: int) -> bool:
        """Whether `index` means the same element whatever the length is, as long as that element is there."""
        if self.bound is not None or not -len(self.items) <= index < len(self.items):
            return False
        if index >= 0:
            return index < self.front or isinstance(self.items[index], Old) and not self.cut_back
        return -index <= self.back or isinstance(self.items[index], Old) and not self.cut_front

    def plain(self) -> Any:
        self.settle()
        out = [self._read(i) for i in range(len(self.items))]
        return self.own(out if self.kind is list else deque(out, self.bound))

    def steps(self) -> Iterator[Any]:
        self.settle()
        return self._steps()

    def _steps(self) -> Iterator[Any]:
        i, then = 0, self.changes
        while i < len(self.items):
            yield self._read(i)
            i += 1
            if self.changes != then and self.kind is deque:
                raise RuntimeError("deque mutated during iteration")

    def record(self, method: str, *args: Any) -> None:
        self.changes += method != "__setitem__"
        super().record(method, *args)

    def do_getitem(self, key: Any) -> Any:
        if isinstance(key, slice):
            self.settle()
            return [self._read(i) for i in range(*key.indices(len(self.items)))]
        index = operator.index(settled(key))
        if not self._is_at(index):
            self.settle()
        return self._read(index if index >= 0 or not self.items else index + len(self.items), index < 0)

    def do_setitem(self, key: Any, value: Any) -> None:
        if isinstance(key, slice):
            self.settle()
            value = list(self.overlay.hooks.iterate(value))
            self.items[key] = value
            return self.record("__setitem__", key, value)
        index = operator.index(settled(key))
        if self._is_at(index):
            self._there(index)
        else:
            self.settle()
        old = self.items[index]
        self.items[index] = Old(old.key, value, True) if isinstance(old, Old) else value
        self.record("__setitem__", index, value)

    def _there(self, index: int) -> None:
        """Expects that there is an element `index`."""
        old = self.items[index]
        if isinstance(old, Old) and not old.known and not self.sized:
            least = old.key if index >= 0 else self.n - old.key - 1
            longer = Operation(">", (Length(self.origin), Held(least)))
            self.overlay.expect(longer, g.Equal(True), f"the {self.name} has more than {least} elements")

    def do_delitem(self, key: Any) -> None:
        self.settle()
        key = key if isinstance(key, slice) else operator.index(settled(key))
        del self.items[key]
        self.record("__delitem__", key)

    def _trim(self, left: bool) -> None:
        if self.bound is not None and len(self.items) > self.bound:
            self.items.pop(0 if left else -1)

    def do_append(self, x: Any) -> None:
        self.items.append(x)
        self.back += 1
        self.record("append", x)
        self._trim(True)

    def do_appendleft(self, x: Any) -> None:
        self.items.insert(0, x)
        self.front += 1
        self.record("appendleft", x)
        self._trim(False)

    def do_extend(self, values: Iterable[Any]) -> None:
        values = list(self.overlay.hooks.iterate(values))
        for x in values:
            self.items.append(x)
            self._trim(True)
        self.back += len(values)
        self.record("extend", values)

    def do_extendleft(self, values: Iterable[Any]) -> None:
        for x in self.overlay.hooks.iterate(values):
            self.do_appendleft(x)

    def do_iadd(self, values: Iterable[Any]) -> Any:
        self.do_extend(values)
        return self.real

    def do_imul(self, n: Any) -> Any:
        self._replace(list(self.plain()) * operator.index(settled(n)))
        return self.real

    def do_insert(self, index: Any, x: Any) -> None:
        index = operator.index(settled(index))
        if index == 0 and self.bound is None:
            self.front += 1
        else:
            self.settle()
        self.items.insert(index, x)
        self.record("insert", index, x)

    def do_pop(self, index: Any = -1) -> Any:
        index = operator.index(settled(index))
        if index == 0:
            return self._pop_front("pop", (0,))
        if index != -1 or not self.items or not self._is_at(-1):
            self.settle()
        x = self._read(index + len(self.items) if index < 0 and self.items else index, index < 0)
        self.items.pop(index)
        if self.back and index == -1:
            self.back -= 1
        else:
            self.cut_back = True
        self.record("pop", *(() if index == -1 else (index,)))
        return x

    def do_popleft(self) -> Any:
        return self._pop_front("popleft", ())

    def _pop_front(self, method: str, args: tuple) -> Any:
        if not self.items or not self._is_at(0):
            self.settle()
        if not self.items:
            return self.kind().pop()  # raises what the real one would
        x = self._read(0)
        self.items.pop(0)
        if self.front:
            self.front -= 1
        else:
            self.cut_front = True
        self.record(method, *args)
        return x

    def do_remove(self, x: Any) -> None:
        index = list(self.plain()).index(x) if x in self.plain() else -1
        if index < 0:
            return self.kind().remove(x)
        self.do_delitem(index)

    def do_clear(self) -> None:
        self.items.clear()
        self.sized = True  # it is empty now, however many there were
        self.record("clear")

    def do_reverse(self) -> None:
        self.settle()
        self.items.reverse()
        self.record("reverse")

    def do_rotate(self, n: Any = 1) -> None:
        self.settle()
        moved = deque(self.items)
        moved.rotate(settled(n))
        self.items = list(moved)
        self.record("rotate", settled(n))

    def do_sort(self, *, key: Any = None, reverse: bool = False) -> None:
        values = self.plain()
        assert state.tracer is not None
        values.sort(key=None if key is None else state.tracer.callable(key), reverse=reverse)
        self._replace(values)

    def _replace(self, values: list[Any]) -> None:
        self.items = list(values)
        self.record("clear")
        self.record("extend", list(values))

    def do_copy(self) -> Any:
        return self.plain()
