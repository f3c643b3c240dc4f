"""What the steps of a loop may change besides variables: elements of lists and dicts, attributes, tensors from outside.

A step that is traced changes these for real, as far as the trace is concerned, so that its own reads find what it has
put there. What it began with is put back after each way through the step. A way that changes a thing for the first time
is not the last (`Again`): in the next attempt to close the loop the thing is a holder, whose parts are carried like variables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..state import state
from ..tape import needs_grad
from ..tensor import Tensor
from . import policy
from .containers import Old, Tracked
from .overlay import DELETED, MISSING, Overlay
from .tracer import NotClosed

if TYPE_CHECKING:
    from .hooks import Hooks

MOST_AGAIN = 24  # things that one loop changes


class Again(BaseException):
    """The attempt to close a loop begins again: more has turned up that its steps change."""


class Holder:
    """Something whose parts a loop changes. Its form (length, keys) stays as it is."""

    name = "an object"
    before: list[Any]
    form_before: Any

    def begin(self) -> None:
        """Takes note of how the loop finds it."""
        self.before, self.form_before = self.parts(), self.form()

    def restore(self) -> None:
        self.put(self.before)

    def key(self) -> tuple:
        raise NotImplementedError

    def parts(self) -> list[Any]:
        raise NotImplementedError

    def form(self) -> Any:
        return None

    def put(self, parts: list[Any]) -> None:
        """Gives it these parts, within a trace."""
        raise NotImplementedError

    def commit(self, parts: list[Any]) -> None:
        """Gives it these parts, as the user's code would."""
        raise NotImplementedError


class ListHolder(Holder):
    """A list that the trace has made."""

    name = "a list"

    def __init__(self, hooks: "Hooks", of: list):
        self.hooks, self.of = hooks, of

    def key(self) -> tuple:
        return ("container", id(self.of))

    def parts(self) -> list[Any]:
        return list(self.of)

    def form(self) -> Any:
        return len(self.of)

    def put(self, parts: list[Any]) -> None:
        self.of[:] = parts

    def commit(self, parts: list[Any]) -> None:
        self.hooks.mutable(self.of)
        self.put(parts)


class DictHolder(Holder):
    """A dict that the trace has made."""

    name = "a dict"

    def __init__(self, hooks: "Hooks", of: dict):
        self.hooks, self.of = hooks, of

    def begin(self) -> None:
        self.keys = tuple(self.of)
        super().begin()

    def key(self) -> tuple:
        return ("container", id(self.of))

    def parts(self) -> list[Any]:
        return list(self.of.values())

    def form(self) -> Any:
        return tuple(self.of)

    def put(self, parts: list[Any]) -> None:
        self.of.clear()
        self.of.update(zip(self.keys, parts))

    def commit(self, parts: list[Any]) -> None:
        self.hooks.mutable(self.of)
        self.put(parts)


class ObjectHolder(Holder):
    """An object of a user's class that the trace has made: all its attributes."""

    def __init__(self, hooks: "Hooks", of: Any):
        self.hooks, self.of = hooks, of

    def begin(self) -> None:
        self.names = tuple(self.of.__dict__)
        super().begin()

    def key(self) -> tuple:
        return ("object", id(self.of))

    def parts(self) -> list[Any]:
        return list(self.of.__dict__.values())

    def form(self) -> Any:
        return tuple(self.of.__dict__)

    def put(self, parts: list[Any]) -> None:
        self.of.__dict__.clear()
        self.of.__dict__.update(zip(self.names, parts))

    def commit(self, parts: list[Any]) -> None:
        for name, before, now in zip(self.names, self.before, parts):
            if now is not before:
                self.hooks.put_attribute(self.of, name, now)


class PlaceHolder(Holder):
    """An attribute of an object from outside, a global or a closure variable: a place of the overlay."""

    def __init__(self, overlay: Overlay, of: Any, name: str, attribute: bool):
        self.overlay, self.of, self.name, self.attribute = overlay, of, name, attribute

    def key(self) -> tuple:
        return ("place", id(self.of), self.name)

    def begin(self) -> None:
        self.stored = self.overlay.attributes.get((id(self.of), self.name), MISSING)
        super().begin()

    def parts(self) -> list[Any]:
        if not self.attribute:
            found = self.overlay.load(self.of, self.name)
        elif isinstance(self.of, type):
            raise NotClosed("a step sets an attribute of a class")
        else:
            found = self.overlay.hooks.attribute(self.of, self.name)
        if found is MISSING or found is DELETED:
            raise NotClosed(f"a step is the first to set {self.name}")
        return [found]

    def put(self, parts: list[Any]) -> None:
        self.overlay.attributes[id(self.of), self.name] = parts[0]

    def restore(self) -> None:
        if self.stored is MISSING:
            self.overlay.attributes.pop((id(self.of), self.name), None)
        else:
            self.put([self.stored])

    def commit(self, parts: list[Any]) -> None:
        if self.attribute:
            self.overlay.hooks.put_attribute(self.of, self.name, parts[0])
        else:
            self.overlay.store(self.of, self.name, parts[0])


class TrackedHolder(Holder):
    """A list or dict from outside."""

    name = "a list or dict from outside"

    def __init__(self, of: Tracked):
        self.of: Any = of

    def key(self) -> tuple:
        return ("container", id(self.of.real))

    def begin(self) -> None:
        self.of.plain()  # everything is read
        self.state = {**self.of.__dict__, "items": self.of.items.copy()}
        super().begin()

    def parts(self) -> list[Any]:
        items = self.of.items
        return [x.value if isinstance(x, Old) else x for x in (items.values() if isinstance(items, dict) else items)]

    def form(self) -> Any:
        return tuple(self.of.items) if isinstance(self.of.items, dict) else len(self.of.items)

    def put(self, parts: list[Any]) -> None:
        if isinstance(self.of.items, dict):
            self.of.items = dict(zip(self.form_before, parts))
        else:
            self.of.items = list(parts)

    def restore(self) -> None:
        self.of.__dict__.update({**self.state, "items": self.state["items"].copy()})

    def commit(self, parts: list[Any]) -> None:
        keys = self.form_before if isinstance(self.of.items, dict) else range(len(parts))
        for key, before, now in zip(keys, self.before, parts):
            if now is not before:
                self.of.call("__setitem__", (key, now), {})


class Changes:
    """What the steps of one loop are known to change. written: tensors from outside; numbers: those in tuples and holders
    that do not stay as they are, by the number of their slot; shared: variables whose tensor has other names; single: tensors of variables that are written. differentiable:
    gradients pass the loop."""

    def __init__(self, hooks: "Hooks"):
        self.hooks, self.differentiable = hooks, False
        self.holders: dict[tuple, Holder] = {}
        self.written: dict[int, Tensor] = {}
        self.numbers: set[int] = set()
        self.shared: set[int] = set()
        self.more = False  # something has turned up in this attempt
        self.single: dict[int, Tensor] = {}

    def begin(self) -> None:
        tracer: Any = state.tracer
        for t in (*self.written.values(), *self.single.values()):
            tracer.ties.cut(tracer, t)
        self.actions = len(self.hooks.overlay.actions)
        self.tapes = [(t, t._node, t._requires_grad, t._version) for t in self.written.values()]
        self.more = False
        self.begun = list(self.holders.values())
        for h in self.begun:
            h.begin()

    def restore(self) -> None:
        """Everything as the loop has found it."""
        del self.hooks.overlay.actions[self.actions :]
        for t, node, requires_grad, version in self.tapes:
            t._node, t._requires_grad, t._version = node, requires_grad, version
        for h in self.begun:
            h.restore()

    # ---- what a step does

    def holds(self, holder: Holder | None) -> bool:
        """Whether the step may change what `holder` stands for; if it can't be held: no."""
        if holder is None:
            return False
        key = holder.key()
        if key not in self.holders:
            holder.begin()
            self.holders[key] = holder
            self.begun.append(holder)
            self.more = True
        return True

    def object(self, v: Any) -> bool:
        """Whether the step may change a container or object that the trace has made before."""
        return self.holds(self._holder_of(v))

    def _holder_of(self, v: Any) -> Holder | None:
        if id(v) in self.hooks.tracer.external:
            return None
        if type(v) is list:
            return ListHolder(self.hooks, v)
        if type(v) is dict:
            return DictHolder(self.hooks, v)
        plain = policy.is_user(type(v)) and id(v) in self.hooks.tracer.created and not isinstance(v, type)
        if plain and type(getattr(v, "__dict__", None)) is dict and not isinstance(v, (Tensor, list, dict, set)):
            return ObjectHolder(self.hooks, v)
        return None

    def tensor(self, t: Tensor) -> bool:
        """Whether the step may write into a tensor from outside."""
        if id(t) not in self.written:
            self.tapes.append((t, t._node, t._requires_grad, t._version))
            self.written[id(t)] = t
            self.more = True
        return True

    def number(self, slot: int) -> None:
        """The number in this slot changes."""
        self.numbers.add(slot)
        self.more = True

    def share(self, slots: set[int]) -> None:
        """The tensors in these slots are written under other names as well: no longer carried with the variable."""
        if not slots <= self.shared:
            self.shared |= slots
            raise Again

    def in_place(self, tensors: list[Tensor]) -> None:
        """The steps write these tensors of variables."""
        tracer: Any = state.tracer
        more = {id(t): t for t in tensors if tracer.ties.of(t) and id(t) not in self.single}
        if more:
            self.single |= more
            raise Again

    def gradients(self, tensors: list[Tensor]) -> None:
        """Gradients may pass if they pass one of these."""
        if not self.differentiable and any(map(needs_grad, tensors)):
            self.differentiable = True
            raise Again
