"""Dicts and sets from outside, as a trace sees them while it changes them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any, Callable, Iterator

from . import guards as g
from .containers import Old, Tracked
from .lazy import LazyNumber, settled
from .origins import Contains, Item, Keys, Length, Origin

if TYPE_CHECKING:
    from .overlay import Overlay


class TrackedDict(Tracked):
    """A dict, OrderedDict, defaultdict or Counter."""

    READS = frozenset(("total", "most_common", "elements"))

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

    def steps(self) -> Iterator[Any]:
        self.settle()
        return _steps(self.items, "dictionary")

    def do_keys(self) -> Any:
        return self.own(View(self, lambda key: key))

    def do_values(self) -> Any:
        return self.own(View(self, self._value))

    def do_items(self) -> Any:
        return self.own(View(self, lambda key: (key, self._value(key))))

    def do_getitem(self, key: Any) -> Any:
        key = settled(key)
        if isinstance(self.items.get(key), Old) or self._has(key):
            return self._value(key)
        if self.kind is Counter:
            return 0
        missing = self.overlay.hooks.special_method(self.real, "__missing__")
        if missing is not None:
            return self.overlay.hooks.call(missing, key)
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
            self._count(1, other, more)
            return
        other = self.overlay.plain(other)
        for k, v in {**dict(other), **more}.items():
            self.do_setitem(k, v)

    def do_subtract(self, other: Any = (), /, **more: Any) -> None:
        self._count(-1, other, more)

    def _count(self, sign: int, other: Any, more: dict[str, Any]) -> None:
        """Adds what a Counter is given to its counts, one after the other."""
        other = self.overlay.plain(() if other is None else other)
        counts = other if isinstance(other, dict) else Counter(self.overlay.hooks.iterate(other))
        for k, n in (*counts.items(), *more.items()):
            self.do_setitem(k, self.do_get(k, 0) + (n if sign > 0 else -n))

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


def _steps(items: Any, name: str) -> Iterator[Any]:
    """The keys of a dict or elements of a set, which must not come or go meanwhile."""
    n = len(items)
    for x in list(items):
        yield x
        if len(items) != n:
            raise RuntimeError(f"{name} changed size during iteration")


class View:
    """The keys, values or items of a dict that the trace changes: those of the moment, as in Python."""

    def __init__(self, tracked: TrackedDict, part: Callable[[Any], Any]):
        self.tracked, self.part = tracked, part

    def __iter__(self) -> Iterator[Any]:
        return map(self.part, self.tracked.steps())

    def __len__(self) -> int:
        return len(self.tracked)

    def __contains__(self, x: Any) -> bool:
        return x in list(self)

    def __eq__(self, other: object) -> bool:
        return set(self) == (set(other) if isinstance(other, View) else other)

    __hash__ = None  # type: ignore[assignment]


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

    def steps(self) -> Iterator[Any]:
        self.settle()
        return _steps(self.items, "Set")

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
