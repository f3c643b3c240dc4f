"""What a trace changes on Python objects from outside: attributes and containers as this trace sees them.

Nothing real is touched while tracing. Writes go into the overlay, later reads find them there, and each is put down as
an action that the commit of every call repeats on the real object (`effects.py`).

What the function writes can't be guarded by value where it is read: it would have changed at the next call. The first
capture finds out what that is (`Volatile`) and starts over; from then on such reads have an *origin*, and later calls
look there: numbers become `LazyNumber`s, tensors inputs, tuples are taken apart, containers and objects are read
element by element.
"""

from __future__ import annotations

import types
import weakref
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from ...ir.dtypes import float64, int64
from ...ir.graph import Value
from ...ir.types import TensorType
from ..epoch import epoch
from ..tensor import Tensor
from . import guards as g
from . import policy, pytree
from .containers import Tracked, tracked_class
from .effects import DeleteAttribute, Mutate, Pending, SetAttribute, SetCell
from .kinds import KINDS, kind_of
from .lazy import LazyNumber
from .origins import (
    Attribute,
    Cell,
    Contains,
    Given,
    Held,
    Item,
    Kind,
    Layout,
    Length,
    Number,
    NumberSource,
    Origin,
    OriginGuard,
    ReadSource,
    SharingGuard,
)

if TYPE_CHECKING:
    from .objects import ObjectHooks

MISSING = object()  # "the overlay has nothing to say about it"
DELETED = object()
_MEMBERS: "weakref.WeakKeyDictionary[Any, set[str]]" = weakref.WeakKeyDictionary()


def volatile_members(module: Any) -> set[str]:
    """Names of attributes of a module that compiled functions set: the epoch does not stand for those."""
    found = _MEMBERS.get(module)
    if found is None:
        found = _MEMBERS[module] = set()
    return found


class Restart(BaseException):
    """Starts the capture again, now that it is known what the function changes."""


class Volatile:
    """What the traces of one function change outside of tensors: ("attribute", object, name), ("item", namespace,
    name), ("cell", cell), ("container", container). One capture finds it, all later ones know."""

    def __init__(self) -> None:
        self.keys: set[tuple] = set()
        self.joined = False  # it writes into arguments that are views of one tensor
        self._held: list[Any] = []  # ids stay valid

    def has(self, kind: str, x: Any, name: str = "") -> bool:
        return (kind, id(x), name) in self.keys

    def add(self, kind: str, x: Any, name: str = "") -> None:
        self.keys.add((kind, id(x), name))
        self._held.append(x)
        if kind == "attribute" and policy.is_module(x) and name not in volatile_members(x):
            volatile_members(x).add(name)
            epoch.bump()  # traces for which the epoch stood for it make sure again

    def containers(self) -> set[int]:
        return {key[1] for key in self.keys if key[0] == "container"}


class Overlay:
    """Attributes, namespaces, cells and containers as one trace sees them, and what it does to them."""

    def __init__(self, hooks: "ObjectHooks", volatile: Volatile):
        self.hooks, self.tracer, self.volatile = hooks, hooks.tracer, volatile
        self.attributes: dict[tuple[int, str], Any] = {}  # as set by the trace
        self.tracked: dict[int, Tracked] = {}
        self.origins: dict[int, Origin] = {}  # of objects that may be others in later calls
        self.given: dict[int, Origin] = {}  # containers among the arguments
        self.actions: list[Pending] = []
        self.restarting = False
        self.objects: dict[int, Any] = {}  # whose attributes are guarded by value
        self.loose = volatile.containers()  # guarded by identity, and by what is read of them
        self._read: dict[tuple[int, str], Any] = {}
        self._values: set[int] = set()
        self._numbers: dict[int, Value] = {}
        self._dynamic: list[Origin] = []
        self._held: list[Any] = []

    def lasting(self, what: str) -> None:
        """Called before an effect is put down. The step of a loop that is being tried must have none."""
        if self.tracer.attempts:
            self.tracer.stop(f"a step {what}")

    def in_step(self, of: Any, name: str, attribute: bool, value: Any) -> bool:
        """Assigns a place in a step of a loop that is being tried, which carries it. False outside of steps."""
        if not self.tracer.attempts or value is DELETED:
            return False
        from .loop_holders import PlaceHolder

        self.hooks.changes.holds(PlaceHolder(self, of, name, attribute))
        self.attributes[id(of), name] = value
        return True

    def give(self, copy: Any, real: Any) -> None:
        """Takes note of where the containers among the arguments, of which the function gets a copy, come from."""
        seen: dict[int, int] = {}
        for i, (c, x) in enumerate(zip(copy[0], real[0])):
            self._give(c, x, (("argument", i),), seen)
        for name, c in copy[1].items():
            self._give(c, real[1][name], (("argument", name),), seen)

    def _give(self, copy: Any, real: Any, steps: tuple, seen: dict[int, int]) -> None:
        if not pytree.is_container(real):
            return
        twice = id(real) in seen and not isinstance(real, tuple)
        self.given[id(copy)] = Held(real) if twice else Given(steps)
        if twice:
            self.given[seen[id(real)]] = Held(real)
        seen[id(real)] = id(copy)
        self._held.append(copy)
        if isinstance(real, dict):
            for k in real:
                self._give(copy[k], real[k], (*steps, ("item", k)), seen)
        elif isinstance(real, (list, tuple)):
            for i, x in enumerate(real):
                self._give(copy[i], x, (*steps, ("item", i)), seen)
        else:
            for name in pytree.flatten(real)[1].keys:
                self._give(getattr(copy, name), getattr(real, name), (*steps, ("attribute", name)), seen)

    # ---- guards

    def expect(self, origin: Origin, expected: Any, text: str) -> None:
        self.hooks.guards.append(OriginGuard(origin, expected, text))

    def expect_value(self, origin: Origin, now: Any) -> None:
        if id(origin) not in self._values:
            self._values.add(id(origin))
            self._held.append(origin)
            self.expect(origin, g.Equal(now), f"{_describe(origin)} is {now!r}")

    def sharing(self, leaves: Sequence[Any]) -> SharingGuard | None:
        """The guard of which objects are one and the same, if there are any that change."""
        if not self._dynamic:
            return None
        sources = [s for s in self.tracer.sources if s.kind != "scalar"]
        fixed = [v for k, v in self.tracer.external.items() if type(v) in KINDS and k not in self.given]
        fixed += self.objects.values()
        here = {id(x.fetch()) for x in self._dynamic}
        origins = [*self._dynamic, *(Held(v) for v in fixed if id(v) not in here)]
        guard = SharingGuard(origins, sources, ())
        guard.pattern = guard.found(leaves)
        return guard

    # ---- reads

    def read(self, origin: Origin, v: Any, path: str) -> Any:
        """A value that may be another one in later calls, as the trace sees it."""
        kind = type(v)
        if kind is float or kind is int and Number(int).match(v):
            self.expect(origin, Number(kind), f"{path} is a {kind.__name__}")
            return LazyNumber(self, origin, v)
        if g.is_value(v):
            self.expect(origin, g.Equal(v), f"{path} is {v!r}")
            return v
        self._held.append(v)
        if isinstance(v, Tensor) or kind is np.ndarray:
            return self._tensor(origin, v, path)
        if kind is tuple or pytree.is_namedtuple(kind):
            self.expect(origin, Kind(kind), f"{path} is a {kind.__name__}")
            self.expect(Length(origin), g.Equal(len(v)), f"{path} has {len(v)} elements")
            parts = [self.read(Item(origin, i), x, f"{path}[{i}]") for i, x in enumerate(v)]
            return tuple(parts) if kind is tuple else kind._make(parts)  # type: ignore[attr-defined]
        if kind in KINDS:
            self.expect(origin, Kind(kind), f"{path} is a {kind.__name__}")
            self._dynamic.append(origin)
            if id(v) not in self.tracked:
                self.track(v, origin)
            return v
        if _is_plain_object(v):
            self.expect(origin, Kind(kind), f"{path} is a {kind.__name__}")
            self._dynamic.append(origin)
            self.origins.setdefault(id(v), origin)
            return v
        self.hooks.external(v, path)
        self.expect(origin, g.Same(v), f"{path} is {g.Same(v)}")
        return v

    def _tensor(self, origin: Origin, v: Any, path: str) -> Any:
        if isinstance(v, Tensor) and type(v._data) is Value:
            self.tracer.stop(f"{path} is a tensor that another trace has left behind")
        self.expect(origin, Layout(v), f"{path} is a tensor of the same layout")
        self._dynamic.append(origin)
        source = ReadSource(origin, path)
        if not isinstance(v, Tensor):
            return self.tracer.array_input(v, source)
        self.tracer.known.setdefault(id(v), (v, source))
        return v

    def number_input(self, n: LazyNumber) -> Value:
        """The number as an input of the graph."""
        found = self._numbers.get(id(n.origin))
        if found is None:
            kind = type(n.now)
            self.expect(n.origin, Number(kind), f"{_describe(n.origin)} is a {kind.__name__} of 64 bits")
            source = NumberSource(n.origin, _describe(n.origin), kind)
            dtype = float64 if kind is float else int64
            found = self._numbers[id(n.origin)] = self.tracer.add_input(source, TensorType(dtype, ()))
            self._held.append(n.origin)
        return found

    def origin_of(self, x: Any) -> Origin:
        return self.origins.get(id(x)) or self.given.get(id(x)) or Held(x)

    # ---- attributes

    def attribute(self, obj: Any, name: str) -> Any:
        """`obj.name` if this trace has set it, or if it may be another one in later calls; else MISSING."""
        key = (id(obj), name)
        if key in self.attributes:
            return self.attributes[key]
        if key in self._read:
            return self._read[key]
        dynamic = id(obj) in self.origins and not name.startswith("__")
        if not dynamic and not self.volatile.has("attribute", obj, name):
            return MISSING
        v = own_attribute(obj, name)
        origin = Attribute(self.origin_of(obj), name)
        if v is MISSING:
            if getattr(obj, "__dict__", None) is not None:
                members = Attribute(self.origin_of(obj), "__dict__")
                self.expect(Contains(members, name), g.Equal(False), f"there is no attribute {name}")
            return MISSING
        out = self._read[key] = self.read(origin, v, f"{type(obj).__name__}.{name}")
        self._held.append(obj)
        return out

    def set_attribute(self, obj: Any, name: str, value: Any) -> None:
        """`obj.name = value` for an object from outside. DELETED deletes."""
        if policy.is_module(obj) and obj.__dict__["_parameters"].get(name, MISSING) is value:
            return  # it was written in place
        if self.in_step(obj, name, True, value):
            return
        self.lasting(f"sets the attribute {name}")
        self._volatile("attribute", obj, name, read=("attribute", id(obj), name))
        _check_member(self, obj, name, value)
        key, origin = (id(obj), name), self.origin_of(obj)
        self.attributes[key] = value
        self._held.append(obj)
        self._drop(lambda a: isinstance(a, (SetAttribute, DeleteAttribute)) and a.key == key)
        if value is DELETED:
            self.actions.append(DeleteAttribute(origin, name, key))
        else:
            self.actions.append(SetAttribute(origin, name, value, key))

    def _drop(self, which: Any) -> None:
        self.actions[:] = [a for a in self.actions if not which(a)]

    def _volatile(self, kind: str, x: Any, name: str, read: tuple) -> None:
        """Makes sure that what is about to change has not been guarded by value."""
        if self.volatile.has(kind, x, name) or id(x) in self.origins or id(x) in self.given:
            return
        self.volatile.add(kind, x, name)
        watched = isinstance(x, type) or policy.is_module(x)
        if read in self.hooks.guarded or watched or kind in ("item", "cell", "container"):
            self.restarting = True
            raise Restart

    # ---- globals, attributes of modules, closure cells

    def load(self, namespace: Any, name: str) -> Any:
        """A global (of the dict `namespace`) or closure cell; MISSING where the trace and later calls agree on it."""
        key = (id(namespace), name)
        if key in self.attributes:
            return self.attributes[key]
        if key in self._read:
            return self._read[key]
        cell = isinstance(namespace, types.CellType)
        if not self.volatile.has("cell" if cell else "item", namespace, "" if cell else name):
            return MISSING
        origin: Origin = Cell(namespace) if cell else Item(Held(namespace), name)
        try:
            v = origin.fetch()
        except (KeyError, ValueError):
            if not cell:
                self.expect(Contains(Held(namespace), name), g.Equal(False), f"there is no global {name}")
            return MISSING
        out = self._read[key] = self.read(origin, v, name)
        return out

    def store(self, namespace: Any, name: str, value: Any) -> None:
        """Assigns a global or closure cell. DELETED deletes."""
        if self.in_step(namespace, name, False, value):
            return
        self.lasting(f"assigns {name or 'a variable of the function around it'}")
        cell = isinstance(namespace, types.CellType)
        self._volatile("cell" if cell else "item", namespace, "" if cell else name, read=())
        self.attributes[id(namespace), name] = value
        key = (id(namespace), name)
        self._drop(lambda a: isinstance(a, (Mutate, SetCell)) and a.key == key)
        if cell:
            self.actions.append(SetCell(namespace, value, key))
        elif value is DELETED:
            self.actions.append(Mutate(Held(namespace), "pop", (name,), key))
        else:
            self.actions.append(Mutate(Held(namespace), "__setitem__", (name, value), key))

    # ---- containers

    def tracked_of(self, v: Any) -> Tracked | None:
        """The overlay of a container from outside that the trace changes or has to read piece by piece."""
        found = self.tracked.get(id(v))
        if found is not None:
            return found
        kind = type(v)
        if (kind not in KINDS and kind_of(v) is None) or id(v) in self.tracer.created:
            return None
        if id(v) in self.loose or not g.is_content(v):
            return self.track(v, Held(v))
        return None

    def track(self, v: Any, origin: Origin) -> Tracked:
        out = self.tracked[id(v)] = tracked_class(v)(self, v, origin)
        self._held.append(v)
        return out

    def changing(self, v: Any) -> Tracked | None:
        """The overlay of a container that is about to be changed; None if the trace has made it."""
        found = self.tracked_of(v)
        if found is not None:
            return found
        if id(v) not in self.tracer.external or type(v) not in KINDS:
            return None
        if id(v) in self.given:
            if isinstance(self.given[id(v)], Given):
                return self.track(v, self.given[id(v)])
            self.tracer.stop(f"it changes a {type(v).__name__} that is part of the arguments twice")
        self._volatile("container", v, "", read=())
        return None

    def plain(self, v: Any) -> Any:
        """A container as code without hooks may read it: a copy if it is one that changes."""
        found = self.tracked_of(v)
        return v if found is None else found.plain()


def own_attribute(obj: Any, name: str) -> Any:
    """What lies in the object itself (its dict, a slot, a registry of a module), or MISSING."""
    members = getattr(obj, "__dict__", None)
    if members is not None and name in members:
        return members[name]
    if members is not None and name in members.get("_buffers", ()):
        return members["_buffers"][name]
    if isinstance(getattr(type(obj), name, None), types.MemberDescriptorType):
        return getattr(obj, name, MISSING)
    return MISSING


def _check_member(overlay: Overlay, obj: Any, name: str, value: Any) -> None:
    from ..nn.module import Module, Parameter

    if not isinstance(obj, Module):
        return
    members = obj.__dict__
    if isinstance(value, (Parameter, Module)) or name in members["_parameters"] or name in members["_modules"]:
        overlay.tracer.stop(f"it registers or replaces {name}, a parameter or module of a {type(obj).__name__}")
    if name in members["_buffers"] and value is not None and not isinstance(value, Tensor):
        raise TypeError(f"cannot assign a {type(value).__name__} as buffer '{name}' (Tensor or None needed)")


def _is_plain_object(v: Any) -> bool:
    """An object of a user's class whose attributes lie in it and nowhere else."""
    kind = type(v)
    if type(kind) is not type or not policy.is_user(kind) or policy.is_module(v) or isinstance(v, BaseException):
        return False
    if any(policy.user_dunder(v, d) for d in ("__getattr__", "__getattribute__")):
        return False
    setter = policy.user_dunder(v, "__setattr__")
    if setter is not None and not policy.is_generated(setter):  # that of a frozen dataclass raises
        return False
    builtin = next(c for c in kind.__mro__ if not policy.is_user(c))
    return builtin is object


def _describe(origin: Origin) -> str:
    """How a guard names it."""
    if isinstance(origin, Attribute):
        return f"{_describe(origin.of)}.{origin.name}"
    if isinstance(origin, Item):
        return f"{origin.key}" if isinstance(origin.of, Held) else f"{_describe(origin.of)}[{origin.key!r}]"
    if isinstance(origin, Length):
        return f"len({_describe(origin.of)})"
    if isinstance(origin, Contains):
        return f"{origin.key!r} in {_describe(origin.of)}"
    operands = getattr(origin, "operands", None)
    if operands is not None:
        return f" {origin.symbol} ".join(map(_describe, operands))  # type: ignore[union-attr]
    if isinstance(origin, Held):
        return repr(origin.value) if g.is_value(origin.value) else type(origin.value).__name__
    return "a closure variable" if isinstance(origin, Cell) else type(origin).__name__.lower()
