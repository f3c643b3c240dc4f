"""What a trace reads from outside, and the guards that make sure of it on later calls."""

from __future__ import annotations

import contextlib
import dis
import types
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from ..epoch import epoch
from ..tensor import Tensor
from . import guards as g
from . import policy
from .origins import Kind
from .overlay import Overlay, Volatile, volatile_members
from .tracer import Tracer


class Watch:
    """Guards of one trace: globals, closure cells, attributes, contents of containers, modules and optimizers."""

    def __init__(self, tracer: Tracer, volatile: Volatile | None = None):
        self.tracer = tracer
        self.overlay: Overlay = Overlay(self, volatile or Volatile())  # type: ignore[arg-type]
        self.guards: list[g.Guard] = []
        self.epoch_guard = g.EpochGuard()
        self.bumps = 0  # by how much the making of modules and optimizers has moved the epoch
        self.seen_objects: dict[int, Any] = {}  # what was read from outside
        self.noted: dict[int, Tensor] = {}  # tensors among that
        self.before: set[int] | None = None  # while a loop is tried: what the trace had made before that
        self.changes: Any = None  # and what its steps may change (`loop_holders.Changes`)
        self.attempts_failed: Counter[str] = Counter()  # in a row, by place
        self.displays: dict[int, Any] = {}  # containers made in steps by `[...]` and the like
        self.open_loops: list[str] = []  # why loops did not close
        self.guarded: set[tuple] = set()
        self._outside: set[int] = set()  # ids of closure cells of functions that were there before
        self._entered: dict[int, Any] = {}
        self._watched: dict[int, Any] = {}

    def expect(self, v: Any, what: str) -> g.Expectation:
        try:
            return g.expect(v, same=self.overlay.loose)
        except g.TooLarge:
            self.tracer.stop(f"{what} is too large a container to be compared on every call")

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Around library code that makes or changes a module or optimizer of this trace."""
        before = epoch.value
        try:
            yield
        finally:
            self.bumps += epoch.value - before

    def is_ours(self, v: Any) -> bool:
        """Whether this trace (and a loop that is being tried) has made `v`, and may change it."""
        mine = id(v) in self.tracer.created or id(v) in self.displays
        return mine and (self.before is None or id(v) not in self.before)

    def display(self, v: Any) -> Any:
        """A container that the user's code has just made."""
        if self.tracer.attempts:
            self.displays[id(v)] = v
        return v

    def once(self, *key: Any) -> bool:
        if key in self.guarded:
            return False
        self.guarded.add(key)
        return True

    def external(self, v: Any, path: str) -> Any:
        """Takes note of a value from outside the trace: its contents are watched, its tensors have a path."""
        if isinstance(v, (types.ModuleType, type)) or g.is_value(v):
            return v
        self.seen_objects[id(v)] = v
        if policy.is_user(type(v)) and not policy.is_module(v) and self.once("kind", id(v)):
            text = f"{path} is a {type(v).__name__}"
            self.guards.append(g.FieldGuard(v, "class", type(v), text))
        self.tracer.reach.add(path, v)
        self.note(v)
        self.watch(v, path)
        return v

    def note(self, v: Any, depth: int = 0) -> None:
        """Takes note of arrays and containers from outside, and of the tensors in them."""
        if isinstance(v, Tensor):
            self.noted[id(v)] = v
            return
        if isinstance(v, np.ndarray) or g.is_content(v):
            if id(v) in self.tracer.external or depth > 20:
                return
            self.tracer.external[id(v)] = v
            if not isinstance(v, np.ndarray):
                for x in v.values() if isinstance(v, dict) else v:
                    self.note(x, depth + 1)

    def note_container(self, c: Any) -> None:
        """A container among the arguments: what is changed in it would be seen outside."""
        self.tracer.external[id(c)] = c

    def watch(self, v: Any, path: str) -> None:
        """Guards the attributes of modules and optimizers in `v`, which library code reads without hooks."""
        from ..compile import CompiledFunction
        from ..nn.module import Module

        if id(v) in self.tracer.created and not policy.is_module(v):
            return
        if g.is_content(v):
            for i, x in enumerate(v.values() if isinstance(v, dict) else v):
                if not g.is_value(x) and not isinstance(x, (Tensor, np.ndarray)):
                    self.watch(x, f"{path}[{i}]")
            return
        if isinstance(v, types.MethodType):
            self.watch(v.__self__, path)
            return
        if isinstance(v, CompiledFunction):
            self.watch(v.__tracefuse_wrapped__, path)
            return
        if id(v) in self._watched or isinstance(v, (Tensor, np.ndarray, type, types.ModuleType, types.FunctionType)):
            return
        if isinstance(v, Module):
            for name, m in v.named_modules():
                self._watch_members(m, f"{path}.{name}" if name else path)
        elif policy.is_library(policy.module_of(type(v))) and hasattr(v, "__dict__"):
            self._watch_members(v, path)
            for group in getattr(v, "param_groups", ()):
                self.epoch_guard.entries.append((group, g.Structural(group), f"{path}.param_groups changed"))

    def _watch_members(self, x: Any, path: str) -> None:
        if id(x) in self._watched or id(x) in self.tracer.created:
            return
        self._watched[id(x)] = x
        members = x.__dict__
        watched = {k: v for k, v in members.items() if k not in ("param_groups", "state", "defaults")}
        names = volatile_members(x) if "_modules" in members else set()
        expected = _Members(watched, names, self.overlay.loose)
        self.epoch_guard.entries.append((members, expected, f"attributes of {path}"))
        if "_modules" in members:
            self.epoch_guard.entries.append((x, Kind(type(x)), f"the class of {path}"))
        for v in watched.values():
            self.note(v)

    def enter(self, function: types.FunctionType) -> None:
        """Guards the globals, closure cells and defaults that a user function reads."""
        if id(function) in self._entered:
            return
        self._entered[id(function)] = function
        code = function.__code__
        self._parts(function)
        for name in sorted(global_names(code)):
            self.guard_global(function.__globals__, name)
        self._outside.update(map(id, function.__closure__ or ()))
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            if name != "__class__":
                self._cell(cell, name)
        for v in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.external(v, function.__name__)
            if g.is_content(v) and self.once("content", id(v)):
                self.guard_content(v, f"a default of {function.__name__}")

    def _parts(self, f: types.FunctionType) -> None:
        """Guards the code and defaults of a function, which reloading changes in place."""
        options = f.__kwdefaults__
        parts = {"code": f.__code__, "defaults": f.__defaults__, "keyword defaults": options}
        for field, value in parts.items():
            self.guards.append(g.FieldGuard(f, field, value, f"{f.__qualname__} has the same {field}"))
        for name in options or ():
            expected = self.expect(options[name], f"the default of {name}")  # type: ignore[index]
            self.guards.append(g.ItemGuard(options, name, expected, f"{name} of {f.__qualname__} is {expected}"))

    def guard_global(self, namespace: dict, name: str) -> None:
        if self.overlay.volatile.has("item", namespace, name) or not self.once("global", id(namespace), name):
            return
        v = namespace.get(name, g.ABSENT)
        if v is g.ABSENT:
            expected: g.Expectation = g.Same(v)  # a builtin, or a NameError to come
        else:
            if isinstance(v, types.ModuleType) and not policy.is_user_module(v.__name__):
                return
            if isinstance(v, (types.FunctionType, type)) and not policy.is_user(v):
                return
            self.external(v, name)
            expected = self.expect(v, f"the global {name}")
        self.guards.append(g.ItemGuard(namespace, name, expected, f"global {name} is {expected}"))

    def _cell(self, cell: types.CellType, name: str) -> None:
        if self.overlay.volatile.has("cell", cell) or not self.once("cell", id(cell)):
            return
        try:
            v = cell.cell_contents
        except ValueError:
            v = g.ABSENT
        if v is not g.ABSENT:
            self.external(v, name)
        expected = self.expect(v, f"the closure variable {name}")
        self.guards.append(g.CellGuard(cell, expected, f"closure variable {name} is {expected}"))

    def guard_content(self, v: Any, text: str) -> None:
        if id(v) in self.overlay.loose:
            return
        expected = self.expect(v, text)
        self.guards.append(g.ContentGuard(v, expected, f"{text} is {expected}"))


class _Members:
    """Expects the members of an object to be as they were, names that optimizers keep in tensors aside. `volatile`: names
    that compiled functions set, which have guards of their own; the set grows."""

    def __init__(self, members: dict, volatile: set[str], same: Collection[int]):
        self.volatile, kept = volatile, {k: v for k, v in members.items() if k not in volatile}
        self.items: dict[str, Any] = {k: _loose(v, same) for k, v in kept.items()}
        if volatile and "_buffers" in kept:
            self.items["_buffers"] = _Members(kept["_buffers"], volatile, same)
        self.count = len(kept)

    def match(self, members: Any) -> bool:
        if not self.volatile.isdisjoint(self.items):
            return False
        skipped = sum(k in members for k in ("param_groups", "state", "defaults", *self.volatile))
        if len(members) - skipped != self.count:
            return False
        return all(e.match(members.get(k, g.ABSENT)) for k, e in self.items.items())

    def __str__(self) -> str:
        return f"the same {self.count} attributes"


def _loose(v: Any, same: Collection[int] = ()) -> g.Expectation:
    """Contents where they can be compared, else identity."""
    try:
        return g.expect(v, same=same)
    except g.TooLarge:
        return g.Same(v)


def optimizers() -> tuple[type, ...]:
    from ..optim import Optimizer

    return (Optimizer,)


def param_groups() -> tuple[type, ...]:
    from ..optim import ParamGroup

    return (ParamGroup,)


def global_names(code: types.CodeType) -> set[str]:
    """Names that `code`, and what is nested in it, reads as globals."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            names |= global_names(c)
    return names
