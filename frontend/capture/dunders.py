"""Special methods of the user's classes in instrumented code: operators, comparisons, iteration, contexts, attributes.

Python would call them without hooks. Here the hooks look them up as Python does and call the instrumented copy.
"""

from __future__ import annotations

import dataclasses
import operator
import types
from typing import TYPE_CHECKING, Any, Callable, Iterator

from . import policy
from .instrument import is_instrumented

if TYPE_CHECKING:
    from .attributes import AttributeHooks
    from .objects import ObjectHooks

NAMES = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "truediv",
    "//": "floordiv",
    "%": "mod",
    "**": "pow",
    "@": "matmul",
    "&": "and",
    "|": "or",
    "^": "xor",
    "<<": "lshift",
    ">>": "rshift",
}
_REFLECTED = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
_SYMBOLS = {"eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {n: getattr(operator, n) for n in _REFLECTED}


def is_made_class(cls: type) -> bool:
    """Whether the traced code itself has defined the class."""
    return any(isinstance(v, types.FunctionType) and is_instrumented(v.__code__) for v in vars(cls).values())


def has_operator(hooks: "ObjectHooks", v: Any, name: str) -> bool:
    return policy.is_user(type(v)) and any([hooks.special(v, f"__{p}{name}__") for p in ("", "r", "i")])


def binary(hooks: "ObjectHooks", symbol: str, a: Any, b: Any) -> Any:
    """`a + b` where the class of one of them defines it in Python."""
    name = NAMES[symbol]
    out = _first(hooks, a, b, f"__{name}__", f"__r{name}__")
    if out is NotImplemented:
        left, right = type(a).__name__, type(b).__name__
        shown = "** or pow()" if symbol == "**" else symbol
        raise TypeError(f"unsupported operand type(s) for {shown}: '{left}' and '{right}'")
    return out


def _first(hooks: "ObjectHooks", a: Any, b: Any, method: str, reflected: str, both: bool = False) -> Any:
    """What the methods of `a` and `b` say, in the order in which Python asks them."""
    steps = [(a, method, b), (b, reflected, a)]
    kinds = type(a), type(b)
    if kinds[0] is kinds[1] and not both:
        steps = steps[:1]
    elif kinds[0] is not kinds[1] and issubclass(kinds[1], kinds[0]):
        if both or getattr(kinds[0], reflected, None) is not getattr(kinds[1], reflected, None):
            steps.reverse()
    for x, name, y in steps:
        own = hooks.special_method(x, name)
        if own is not None:
            out = hooks.call(own, y)
        else:
            tracked = hooks.overlay.tracked_of(x)
            found = getattr(type(x) if tracked is None else tracked, name, None)
            out = NotImplemented if found is None else found(x, y) if tracked is None else found(y)
        if out is not NotImplemented:
            return out
    return NotImplemented


def in_place(hooks: "ObjectHooks", symbol: str, a: Any, b: Any) -> Any:
    """`a += b`"""
    own = hooks.special_method(a, f"__i{NAMES[symbol]}__")
    if own is not None:
        out = hooks.call(own, b)
        if out is not NotImplemented:
            return out
    return binary(hooks, symbol, a, b)


def compare(hooks: "ObjectHooks", name: str, a: Any, b: Any) -> Any:
    """`a == b` (or another comparison), where one of them may be an object of the user's, or hold some."""
    if type(a) is type(b) and type(a) in (list, tuple, dict):
        return _of_containers(hooks, name, hooks.overlay.plain(a), hooks.overlay.plain(b))
    out = _first(hooks, a, b, f"__{name}__", f"__{_REFLECTED[name]}__", both=True)
    if out is not NotImplemented:
        return out
    if name in ("eq", "ne"):
        return (a is b) is (name == "eq")
    left, right = type(a).__name__, type(b).__name__
    raise TypeError(f"'{_SYMBOLS[name]}' not supported between instances of '{left}' and '{right}'")


def of_dataclass(hooks: "ObjectHooks", f: types.FunctionType, args: tuple) -> Callable[[], Any] | None:
    """What a method that `dataclass` has generated does with objects from outside, their fields read by hooks; None for
    other methods and objects."""
    name = f.__name__.strip("_")
    if name not in (*_REFLECTED, "hash") or not dataclasses.is_dataclass(type(args[0])):
        return None

    def read(x: Any) -> tuple:
        fields = [d for d in dataclasses.fields(x) if (d.compare if d.hash is None or name != "hash" else d.hash)]
        return tuple([hooks.attribute(x, d.name) for d in fields])

    if name == "hash":
        return lambda: hash(read(args[0]))
    if type(args[0]) is not type(args[1]):
        return lambda: NotImplemented
    return lambda: compare(hooks, name, read(args[0]), read(args[1]))


def _of_containers(hooks: "ObjectHooks", name: str, a: Any, b: Any) -> Any:
    """The comparison of two lists, tuples or dicts by their elements."""
    if isinstance(a, dict):
        equal = a.keys() == b.keys() and all(_equal(hooks, x, b[k]) for k, x in a.items())
        return equal if name in ("eq", "ne") and (name == "eq") else not equal
    for x, y in zip(a, b):
        if not _equal(hooks, x, y):
            return name == "ne" if name in ("eq", "ne") else compare(hooks, name, x, y)
    return _COMPARISONS[name](len(a), len(b))


def _equal(hooks: "ObjectHooks", a: Any, b: Any) -> bool:
    return a is b or bool(hooks.test(compare(hooks, "eq", a, b)))


class Compared:
    """Stands for an object of the user's in a comparison or a test for membership."""

    __slots__ = ("hooks", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, hooks: "ObjectHooks", value: Any):
        self.hooks, self.value = hooks, value

    def __contains__(self, x: Any) -> bool:
        x = x.value if isinstance(x, Compared) else x
        own = self.hooks.special_method(self.value, "__contains__")
        if own is not None:
            return bool(self.hooks.test(self.hooks.call(own, x)))
        if isinstance(self.value, dict):
            return x in self.hooks.operand(self.value)
        for y in self.hooks.iterate(self.value):
            if x is y or self.hooks.test(self.hooks.compared(x) == self.hooks.compared(y)):
                return True
        return False


def _comparison(name: str) -> Any:
    def method(self: Compared, other: Any) -> Any:
        return compare(self.hooks, name, self.value, other.value if isinstance(other, Compared) else other)

    return method


for _name in _REFLECTED:
    setattr(Compared, f"__{_name}__", _comparison(_name))

ASKED = ("eq", "ne", "lt", "le", "gt", "ge", "contains", "iter", "getitem")


def advance(hooks: "ObjectHooks", v: Any) -> Iterator[Any]:
    """The items of an iterator of the user's."""
    step = hooks.special_method(v, "__next__")
    while True:
        try:
            x = hooks.call(step)
        except StopIteration:
            return
        yield x


def by_index(hooks: "ObjectHooks", v: Any) -> Iterator[Any]:
    """The items of an object that has only `__getitem__`."""
    i, method = 0, hooks.special_method(v, "__getitem__")
    while True:
        try:
            x = hooks.call(method, i)
        except IndexError:
            return
        yield x
        i += 1


class Context:
    """A context manager of the user's, entered and left through its instrumented methods."""

    __slots__ = ("hooks", "value")

    def __init__(self, hooks: "ObjectHooks", value: Any):
        self.hooks, self.value = hooks, value

    def __enter__(self) -> Any:
        return self.hooks.call(types.MethodType(type(self.value).__enter__, self.value))

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        if error is not None and not isinstance(error, Exception) and kind.__module__.startswith(policy.LIBRARY):
            return False  # the capture ends or starts again
        out = self.hooks.call(types.MethodType(type(self.value).__exit__, self.value), kind, error, traceback)
        return bool(self.hooks.test(out))


class Setter:
    """Stands for an object whose attribute is set or deleted."""

    __slots__ = ("_tf_hooks", "_tf_object")

    def __init__(self, hooks: "AttributeHooks", obj: Any):
        object.__setattr__(self, "_tf_hooks", hooks)
        object.__setattr__(self, "_tf_object", obj)

    def __setattr__(self, name: str, value: Any) -> None:
        self._tf_hooks.set_attribute(self._tf_object, name, value)

    def __delattr__(self, name: str) -> None:
        self._tf_hooks.delete_attribute(self._tf_object, name)


class Items:
    """Stands for an object whose item access is the user's, or of which the trace keeps an overlay."""

    __slots__ = ("_call", "_hooks")

    def __init__(self, hooks: "ObjectHooks", call: Callable[[str, tuple], Any]):
        self._hooks, self._call = hooks, call

    def __getitem__(self, key: Any) -> Any:
        return self._call("__getitem__", (key,))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._call("__setitem__", (key, value))

    def __delitem__(self, key: Any) -> None:
        self._call("__delitem__", (key,))
