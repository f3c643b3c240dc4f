"""Lists, deques, dicts and sets from outside that a trace changes: what the trace sees of them, and what it has to guard.

An element that nobody has touched is an `Old`; reading it gives it an origin and a guard. What is only added, stored or
taken off needs none, so that a list may grow with every call. Whatever depends on more (slices, searches, iteration)
expects the length, or all keys, to be as they are, and then reads what it needs.
"""

from __future__ import annotations

import operator
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any, Iterable

from ..state import state
from . import guards as g
from .effects import Mutate
from .lazy import LazyNumber, settled
from .origins import Contains, Given, Held, Item, Keys, Length, Operation, Origin

if TYPE_CHECKING:
    from .overlay import Overlay

KINDS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)


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
        self.kind = type(real)
        self.sized = isinstance(origin, Given)  # length or keys are known; those of arguments pick the trace
        self.name = self.kind.__name__

    def record(self, method: str, *args: Any) -> None:
        self.overlay.actions.append(Mutate(self.origin, method, args))

    def own(self, copy: Any) -> Any:
        """`copy`, which is this trace's own."""
        return self.overlay.hooks.own(copy)

    def unknown(self, method: str) -> Any:
        self.overlay.tracer.stop(f"it calls {method} of a {self.name} that existed before the call")

    def call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        method = getattr(self, f"do_{name.strip('_')}", None)
        if name not in _READING:
            self.overlay.lasting(f"changes a {self.name}")
        if method is not None:
            return method(*args, **kwargs)
        if name in getattr(self, "READS", ()):
            return self.own(getattr(self.plain(), name)(*args, **kwargs))
        return self.unknown(name)

    def plain(self) -> Any:
        """A copy with everything read."""
        raise NotImplementedError

    def length(self) -> Any:
        raise NotImplementedError

    def truth(self) -> bool:
        return bool(self.length())

    def __iter__(self) -> Any:
        return iter(self.plain())

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


class TrackedDict(Tracked):
    """A dict, OrderedDict, defaultdict or Counter."""

    READS = frozenset(("keys", "values", "items", "total", "most_common", "elements"))

    def __init__(self, overlay: "Overlay", real: Any, origin: Origin):
        super().__init__(overlay, real, origin)
        self.items: dict[Any, Any] = dict(real) if self.sized else {k: Old(k, v) for k, v in real.items()}
        self.keys_then = tuple(real)
        self.decided: set[Any] = set()  # keys of which it is known whether they are there
        self.changed = False

    def settle(self) -> None:
        """Expects all keys, in their order."""
        if not self.sized:
            self.sized = True
            keys = g.expect(self.keys_then)
            self.overlay.expect(Keys(self.origin), keys, f"the {self.name} has the same {len(self.keys_then)} keys")

    def length(self) -> Any:
        if not self.changed and not self.sized:
            return LazyNumber(self.overlay, Length(self.origin), len(self.items))
        self.settle()
        return len(self.items)

    def _has(self, key: Any) -> bool:
        """Whether the key is there, which later calls must find too."""
        if not self.sized and key not in self.decided:
            self.decided.add(key)
            now = key in self.items
            self.overlay.expect(Contains(self.origin, key), g.Equal(now), f"{key!r} is {'' if now else 'not '}there")
        return key in self.items

    def _value(self, key: Any) -> Any:
        x = self.items[key]
        if not isinstance(x, Old):
            return x
        if not x.known:
            self.decided.add(key)  # its guard says so
            x.value = self.overlay.read(Item(self.origin, x.key), x.value, f"{self.name}[{key!r}]")
            x.known = True
        return x.value

    def plain(self) -> Any:
        self.settle()
        out = {k: self._value(k) for k in self.items}
        if self.kind is defaultdict:
            return self.own(defaultdict(self.real.default_factory, out))
        return self.own(out if self.kind is dict else self.kind(out))

    def do_getitem(self, key: Any) -> Any:
        key = settled(key)
        if isinstance(self.items.get(key), Old) or self._has(key):
            return self._value(key)
        if self.kind is Counter:
            return 0
        factory = self.real.default_factory if self.kind is defaultdict else None
        if factory is None:
            raise KeyError(key)
        made = self.overlay.hooks.call(factory)
        self.do_setitem(key, made)
        return made

    def do_setitem(self, key: Any, value: Any) -> None:
        key = settled(key)
        self.items[key] = value
        self.decided.add(key)
        self.changed = True
        self.record("__setitem__", key, value)

    def do_delitem(self, key: Any) -> None:
        key = settled(key)
        if not self._has(key):
            if self.kind is Counter:
                return
            raise KeyError(key)
        del self.items[key]
        self.changed = True
        self.record("__delitem__", key)

    def do_get(self, key: Any, default: Any = None) -> Any:
        key = settled(key)
        return self._value(key) if isinstance(self.items.get(key), Old) or self._has(key) else default

    def do_contains(self, x: Any) -> bool:
        return self._has(settled(x))

    __contains__ = do_contains

    def do_pop(self, key: Any, *default: Any) -> Any:
        key = settled(key)
        if not self._has(key):
            if default:
                return default[0]
            raise KeyError(key)
        x = self._value(key)
        del self.items[key]
        self.changed = True
        self.record("__delitem__", key)
        return x

    def do_popitem(self, last: bool = True) -> Any:
        self.settle()
        if not self.items:
            return {}.popitem()
        key = list(self.items)[-1 if last else 0]
        return key, self.do_pop(key)

    def do_setdefault(self, key: Any, default: Any = None) -> Any:
        key = settled(key)
        if not self._has(key):
            self.do_setitem(key, default)
        return self._value(key)

    def do_update(self, other: Any = (), /, **more: Any) -> None:
        if self.kind is Counter:
            self.unknown("update")
        other = self.overlay.plain(other)
        for k, v in {**dict(other), **more}.items():
            self.do_setitem(k, v)

    def do_ior(self, other: Any) -> Any:
        self.do_update(other)
        return self.real

    def do_clear(self) -> None:
        self.items.clear()
        self.sized = self.changed = True
        self.record("clear")

    def do_move_to_end(self, key: Any, last: bool = True) -> None:
        key = settled(key)
        self.settle()
        order = OrderedDict(self.items)
        order.move_to_end(key, last)
        self.items = dict(order)
        self.record("move_to_end", key, last)

    def do_copy(self) -> Any:
        return self.plain()


class TrackedSet(Tracked):
    """A set of plain values (what is in it is compared, not read)."""

    READS = frozenset("union intersection difference symmetric_difference issubset issuperset isdisjoint".split())

    def __init__(self, overlay: "Overlay", real: Any, origin: Origin):
        super().__init__(overlay, real, origin)
        self.items, self.then = set(real), set(real)
        self.decided: set[Any] = set()
        self.changed = False

    def settle(self) -> None:
        if not self.sized:
            self.sized = True
            try:
                self.overlay.expect(self.origin, g.expect(self.then), f"the set has the same {len(self.then)} elements")
            except g.TooLarge:
                self.overlay.tracer.stop("it looks at all elements of a set that holds more than plain values")

    def length(self) -> Any:
        if not self.changed and not self.sized:
            return LazyNumber(self.overlay, Length(self.origin), len(self.items))
        self.settle()
        return len(self.items)

    def plain(self) -> Any:
        self.settle()
        return self.own(set(self.items))

    def do_contains(self, x: Any) -> bool:
        x = settled(x)
        if not self.sized and x not in self.decided:
            self.decided.add(x)
            now = x in self.items
            self.overlay.expect(Contains(self.origin, x), g.Equal(now), f"{x!r} is {'' if now else 'not '}there")
        return x in self.items

    __contains__ = do_contains

    def do_add(self, x: Any) -> None:
        x = settled(x)
        self.items.add(x)
        self.decided.add(x)
        self.changed = True
        self.record("add", x)

    def do_discard(self, x: Any) -> None:
        x = settled(x)
        self.items.discard(x)
        self.decided.add(x)
        self.changed = True
        self.record("discard", x)

    def do_remove(self, x: Any) -> None:
        if not self.do_contains(x):
            raise KeyError(x)
        self.do_discard(x)

    def do_update(self, *others: Any) -> None:
        for other in others:
            for x in self.overlay.hooks.iterate(other):
                self.do_add(x)

    def do_difference_update(self, *others: Any) -> None:
        for other in others:
            for x in self.overlay.hooks.iterate(other):
                self.do_discard(x)

    def do_intersection_update(self, *others: Any) -> None:
        kept = self.plain().intersection(*[set(self.overlay.hooks.iterate(x)) for x in others])
        for x in self.plain() - kept:
            self.do_discard(x)

    def do_symmetric_difference_update(self, other: Any) -> None:
        for x in set(self.overlay.hooks.iterate(other)):
            (self.do_discard if self.do_contains(x) else self.do_add)(x)

    def do_ior(self, other: Any) -> Any:
        self.do_update(other)
        return self.real

    def do_isub(self, other: Any) -> Any:
        self.do_difference_update(other)
        return self.real

    def do_iand(self, other: Any) -> Any:
        self.do_intersection_update(other)
        return self.real

    def do_ixor(self, other: Any) -> Any:
        self.do_symmetric_difference_update(other)
        return self.real

    def do_clear(self) -> None:
        self.items.clear()
        self.sized = self.changed = True
        self.record("clear")

    def do_copy(self) -> Any:
        return self.plain()


def tracked_class(v: Any) -> type[Tracked]:
    kind = type(v)
    if kind in (list, deque):
        return TrackedList
    return TrackedSet if kind is set else TrackedDict
