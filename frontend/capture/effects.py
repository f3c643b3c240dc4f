"""What a call does to Python objects besides computing tensors, and how values for them are built at commit.

While a trace is recorded, effects are `Pending`, with the values of that trace. `objects_made.actions` turns them
into `Action`s with recipes. At commit every action first builds its values, from things as they were when the call began; then all of them
take place in the order of the program.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, Callable, Sequence

from ..tensor import new_tensor
from . import policy, pytree
from .kinds import kind_of
from .origins import Call, Origin

Make = Callable[[Any], Any]  # from a recipe to what it makes

# ------------------------------------------------------------------ while tracing


@dataclass(slots=True, eq=False)
class SetAttribute:
    of: Origin
    name: str
    value: Any
    key: Any = None


@dataclass(slots=True, eq=False)
class DeleteAttribute:
    of: Origin
    name: str
    key: Any = None


@dataclass(slots=True, eq=False)
class SetCell:
    cell: types.CellType
    value: Any
    key: Any = None


@dataclass(slots=True, eq=False)
class Mutate:
    """`method` of a container. `key`: of namespaces, where only the last value of a name counts."""

    of: Origin
    method: str
    args: tuple
    key: Any = None


@dataclass(slots=True, eq=False)
class HostCall:
    """A call of Python that has no part in the computation (print, logging), seen as made at `frames`: (file, line,
    function, globals), outermost first."""

    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    frames: tuple[tuple[str, int, str, dict], ...] = ()


Pending = SetAttribute | DeleteAttribute | SetCell | Mutate | HostCall

# ------------------------------------------------------------------ recipes of values


class Composite:
    """A recipe made of others."""

    __slots__ = ("parts",)
    parts: tuple[Any, ...]

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        raise NotImplementedError


class Found(Composite):
    """What is found at an origin: an object that existed before the call, or a number computed from such."""

    __slots__ = ("origin",)

    def __init__(self, origin: Origin):
        self.parts, self.origin = (), origin

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = made[id(self)] = self.origin.fetch(call)
        return out


class Container(Composite):
    """A new builtin container of `kind`; `keys` of dicts (as values or recipes); `extra`: what makes it besides."""

    __slots__ = ("extra", "keys", "kind")

    def __init__(self, kind: type, keys: tuple, extra: tuple = ()):
        self.kind, self.keys, self.extra, self.parts = kind, keys, extra, ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        kind = self.kind
        if kind in (tuple, frozenset) or pytree.is_namedtuple(kind):
            values = [make(p) for p in self.parts]
            out = kind._make(values) if pytree.is_namedtuple(kind) else kind(values)  # type: ignore[attr-defined]
            made[id(self)] = out
            return out
        out: Any = kind(*self.extra) if kind is not deque else deque((), *self.extra)
        made[id(self)] = out  # first: it may hold itself
        if isinstance(out, dict):
            for k, p in zip(self.keys, self.parts):
                out[k] = make(p)
        elif kind is set:
            out.update([make(p) for p in self.parts])
        else:
            out.extend([make(p) for p in self.parts])
        return out


IMMUTABLE = (tuple, frozenset, str, bytes, int, float, complex)
CHANGEABLE = (list, dict, set, deque, OrderedDict)


class Instance(Composite):
    """A new object of a class, with its attributes, past what the class does when it makes one. `base`: the class that
    is not written in Python below it. parts: first what it is besides (the value of a str, the items of a list)."""

    __slots__ = ("base", "kind", "names", "slots")

    def __init__(self, kind: type, base: type, names: tuple[str, ...], slots: frozenset[str]):
        self.kind, self.base, self.names, self.slots, self.parts = kind, base, names, slots, ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        content = self.parts[: len(self.parts) - len(self.names)]
        new: Any = self.base.__new__
        if self.base in IMMUTABLE:
            out = made[id(self)] = new(self.kind, *map(make, content))
        else:
            out = made[id(self)] = new(self.kind)  # first: it may hold itself
            if content:
                init: Any = self.base.__init__
                init(out, make(content[0]))
        members = getattr(out, "__dict__", {})
        for name, p in zip(self.names, self.parts[len(content) :]):
            if name in self.slots:
                object.__setattr__(out, name, make(p))
            else:
                members[name] = make(p)
        return out


class NewLeaf(Composite):
    """A tensor of class `kind` that is no result of others. parts: its values, and its gradient if it has one."""

    __slots__ = ("kind", "requires_grad")

    def __init__(self, kind: type, requires_grad: bool):
        self.kind, self.requires_grad, self.parts = kind, requires_grad, ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = made[id(self)] = new_tensor(make(self.parts[0])._data, self.kind)
        out._requires_grad = self.requires_grad or None
        if len(self.parts) > 1:
            out._grad = make(self.parts[1])
        return out


class Viewed(Composite):
    """A view of what another composite makes."""

    __slots__ = ("view",)

    def __init__(self, base: Composite, view: Callable[[Any], Any]):
        self.parts, self.view = (base,), view

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = made[id(self)] = self.view(make(self.parts[0]))
        return out


class Shown(Composite):
    """A tensor as it was when it was turned into text: only to be printed."""

    __slots__ = ("history", "kind", "requires_grad")

    def __init__(self, part: Any, kind: str, requires_grad: bool, history: str | None):
        self.parts, self.kind, self.requires_grad, self.history = (part,), kind, requires_grad, history

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = make(self.parts[0])
        if self.kind == "python":
            return out.item()
        if self.kind != "tensor":
            return out
        shown = new_tensor(out._data)
        shown._requires_grad = self.requires_grad
        if self.history is not None:
            shown._node = (types.SimpleNamespace(name=self.history), 0)  # type: ignore[assignment]
        return shown


class Text(Composite):
    """A string with values in it: pieces are strings, and functions from a value to a string."""

    __slots__ = ("pieces",)

    def __init__(self, pieces: Sequence[str | Callable[[Any], str]]):
        self.pieces, self.parts = tuple(pieces), ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        values = iter(self.parts)
        out = "".join([p if isinstance(p, str) else p(make(next(values))) for p in self.pieces])
        made[id(self)] = out
        return out


class Apply(Composite):
    """What a constructor of the standard library makes of the parts: a bound method, a `functools.partial`."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]):
        self.function, self.parts = function, ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = made[id(self)] = self.function(*[make(p) for p in self.parts])
        return out


def parts_of(recipes: Sequence[Any]) -> list[Any]:
    """The recipes that are no composites, in and below `recipes`, in order."""
    out: list[Any] = []
    seen: set[int] = set()
    stack = list(reversed(recipes))
    while stack:
        r = stack.pop()
        if id(r) in seen:
            continue
        seen.add(id(r))
        if isinstance(r, Composite):
            stack.extend(reversed(r.parts))
        else:
            out.append(r)
    return out


# ------------------------------------------------------------------ at commit


@dataclass(slots=True)
class Action:
    """One effect. `recipes`: of the values that it takes."""

    what: Pending
    recipes: tuple[Any, ...]

    def prepare(self, make: Make, call: Call | None) -> Callable[[], Any]:
        """Builds the values; what comes back does it."""
        what, values = self.what, [make(r) for r in self.recipes]
        if isinstance(what, HostCall):
            n = len(what.args)
            kwargs = dict(zip(what.kwargs, values[n:]))
            return functools.partial(_framed, what.frames, what.function, values[:n], kwargs)
        if isinstance(what, SetCell):
            return functools.partial(setattr, what.cell, "cell_contents", values[0])
        of = what.of.fetch(call)
        if isinstance(what, Mutate):
            return functools.partial(getattr(kind_of(of), what.method), of, *values)  # past what its class overrides
        if isinstance(what, DeleteAttribute):
            return functools.partial(_delete, of, what.name)
        return functools.partial(_assign, of, what.name, values[0])


def _assign(of: Any, name: str, value: Any) -> None:
    if isinstance(of, type):
        setattr(of, name, value)
    elif policy.is_module(of) and name in of.__dict__.get("_buffers", ()):
        of._buffers[name] = value
    else:  # past __setattr__: what that does besides is part of the trace
        object.__setattr__(of, name, value)


def _delete(of: Any, name: str) -> None:
    with contextlib.suppress(AttributeError):  # the call itself may have set it
        object.__delattr__(of, name)


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any: return function(*args, **kwargs)  # noqa: E501, E704  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _code(file: str, line: int, name: str) -> types.CodeType:
    return _call.__code__.replace(co_filename=file, co_firstlineno=line, co_name=name, co_qualname=name)


def _framed(frames: tuple, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Calls `function` from frames that look like the user's: loggers and warnings say where they were called."""
    for file, line, name, space in reversed(frames):
        step = types.FunctionType(_code(file, line, name), space)
        function, args, kwargs = functools.partial(step, function, args, kwargs), (), {}
    return function(*args, **kwargs)
