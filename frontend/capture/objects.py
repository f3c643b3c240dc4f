"""Hooks around operators, attributes, items and iteration in instrumented code; `instrument.py` says where."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import operator
import sys
import types
from collections import deque
from typing import Any, Callable

import numpy as np

from ...ir.decider import decider
from ...ir.dim import Dim
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import array_mode, by_hooks, dunders, matching, policy, text
from . import guards as g
from .attributes import AttributeHooks
from .lazy import settled
from .sizes import ComparedSize
from .watch import param_groups

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
    "@": operator.matmul,
    "&": operator.and_,
    "|": operator.or_,
    "^": operator.xor,
    "<<": operator.lshift,
    ">>": operator.rshift,
}
_INPLACE: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.iadd,
    "-": operator.isub,
    "*": operator.imul,
    "/": operator.itruediv,
    "//": operator.ifloordiv,
    "%": operator.imod,
    "**": operator.ipow,
    "@": operator.imatmul,
    "&": operator.iand,
    "|": operator.ior,
    "^": operator.ixor,
    "<<": operator.ilshift,
    ">>": operator.irshift,
}
_HARMLESS = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, property)
_HARMLESS += (functools.partial, np.ufunc, np.dtype, BaseException, types.MappingProxyType, types.MethodWrapperType)


class ObjectHooks(AttributeHooks):
    """What instrumented code does with values and objects, calls aside."""

    def stop(self, reason: str) -> None:
        self.tracer.stop(reason)

    # ---- values on their way into an operation

    def operand(self, v: Any) -> Any:
        """A value that an operator or function is about to read."""
        kind = type(v)
        if kind is np.ndarray:
            return self.array(v)
        if isinstance(v, (Tensor, SymbolicScalar)) or g.is_value(v):
            return v
        tracked = self.overlay.tracked_of(v)
        return tracked if tracked is not None else self.known(v)

    def compared(self, v: Any) -> Any:
        """An operand of a comparison."""
        if isinstance(v, Dim):
            return ComparedSize(v, self.tracer) if decider() is None else v
        if policy.is_user(type(v)) and any([self.special(v, f"__{d}__") for d in dunders.ASKED]):
            if not g.is_value(v):
                return dunders.Compared(self, v)
        if type(v) in (list, tuple, dict, deque) and by_hooks.holds_special(v):
            return dunders.Compared(self, v)
        return self.operand(v)

    def contained(self, x: Any, v: Any) -> bool:
        """`x in v`"""
        own = self.special_method(v, "__contains__")
        if own is not None:
            return bool(self.test(self.call(own, x)))
        if isinstance(v, (dict, set, frozenset)):
            self.numbers((x,))
            return self.index(x) in self.operand(v)
        if type(v) in (list, tuple, deque) and not by_hooks.holds_special((x, v)):
            return self.compared(x) in self.operand(v)
        if policy.is_user(type(v)) or type(v) in (list, tuple, deque):
            return by_hooks.contains(self, v, x)
        return self.compared(x) in self.operand(v)

    def index(self, v: Any) -> Any:
        """A key or index that something is looked up by. Special methods of the user's are called once by hooks, for
        their guards, since Python is about to call them too."""
        if by_hooks.is_special(v):
            before = len(self.overlay.actions)
            for name in ("__hash__", "__index__"):
                own = self.special_method(v, name)
                if own is not None:
                    self.call(own)
            if len(self.overlay.actions) != before:
                self.tracer.stop(f"looking up a {type(v).__name__} has effects")
        return v

    def known(self, v: Any) -> Any:
        """`v`, unless it is an object from outside whose contents can change without a guard noticing."""
        kind = type(v)
        tracked = self.overlay.tracked_of(v)
        if tracked is not None:
            return tracked.plain()
        if (
            g.is_value(v)
            or g.is_content(v)
            or isinstance(v, (*_HARMLESS, Tensor, SymbolicScalar))
            or v is NotImplemented
        ):
            return v
        if id(v) in self.tracer.created or policy.is_library(policy.module_of(kind)):
            return v
        if not policy.is_user(kind) or isinstance(v, (list, tuple, dict, set, frozenset, bytearray, np.ndarray)):
            self.tracer.stop(f"it looks into a {kind.__name__} that was made outside")
        return v

    def result(self, v: Any) -> Any:
        """The result of library code on values made in this trace."""
        if type(v) is np.ndarray and id(v) not in self.tracer.external and v.flags.owndata:
            self.own(v)
        return v

    def adopt(self, v: Any) -> Any:
        """NumPy arrays made in the trace that meet a tensor become constants: they must not change any more."""
        if type(v) is np.ndarray:
            self.tracer.constants[id(v)] = v
        return v

    def binary(self, symbol: str, a: Any, b: Any) -> Any:
        name = dunders.NAMES[symbol]
        if dunders.has_operator(self, a, name) or dunders.has_operator(self, b, name):
            return dunders.binary(self, symbol, a, b)
        if symbol == "%" and isinstance(a, (str, bytes, text.TracedText)):
            return text.percent(self, a, b)
        a, b = self.operand(a), self.operand(b)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            self.adopt(a)
            self.adopt(b)
            a, b = array_mode.meet(a, b)
        return self.result(_BINARY[symbol](a, b))

    def unary(self, name: str, v: Any) -> Any:
        """`-v`, `+v`, `~v`"""
        own = self.special_method(v, f"__{name}__")
        return self.call(own) if own is not None else self.result(getattr(operator, name)(self.operand(v)))

    def augmented(self, symbol: str, a: Any, b: Any) -> Any:
        """`a += b` for a name: in place where `a` can."""
        name = dunders.NAMES[symbol]
        if dunders.has_operator(self, a, name) or dunders.has_operator(self, b, name):
            return dunders.in_place(self, symbol, a, b)
        tracked = self.overlay.changing(a) if policy.is_mutating(a, f"__i{name}__") else None
        if tracked is not None:
            return tracked.call(f"__i{name}__", (b,), {})
        b = self.operand(b)
        if isinstance(a, (str, text.TracedText)):
            return self.binary(symbol, a, b)
        a = self.operand(a) if isinstance(a, np.ndarray) else a
        self.mutable(a)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            self.adopt(b)
            if type(a) is np.ndarray:
                self.tracer.stop("it adds a tensor into a NumPy array in place")
            a, b = array_mode.meet(a, b)
        return _INPLACE[symbol](a, b)

    def augment_attribute(self, symbol: str, obj: Any, name: str, b: Any) -> None:
        value = self.augmented(symbol, self.attribute(obj, name), b)
        setattr(self.owner(obj, name), name, value)

    def augment_item(self, symbol: str, obj: Any, key: Any, b: Any) -> None:
        key = settled(key)
        target = self.container(obj)
        if type(obj) is np.ndarray and not isinstance(target, np.ndarray):
            obj = target
        target[key] = self.augmented(symbol, self.indexed(obj)[key], b)

    def test(self, v: Any) -> Any:
        """A truth test. (Tensors ask the tracer themselves.)"""
        own = self.special_method(v, "__bool__")
        if own is not None:
            return self.call(own)
        own = self.special_method(v, "__len__")
        if own is not None:
            return self.call(own) != 0
        tracked = self.overlay.tracked_of(v)
        if tracked is not None:
            return tracked.truth()
        return self.array(v) if type(v) is np.ndarray else self.known(v)

    def iterate(self, v: Any) -> Any:
        if type(v) is np.ndarray:
            return self.array(v)
        own = self.special(v, "__iter__")
        if own is not None:
            made = self.call(types.MethodType(own, v))
            return self.own(dunders.advance(self, made)) if self.special(made, "__next__") else self.iterate(made)
        if own is None and self.special(v, "__getitem__") and not hasattr(type(v), "__iter__"):
            return self.own(dunders.by_index(self, v))
        if hasattr(type(v), "__next__") and not self.is_ours(v):
            self.tracer.stop(f"it advances a {type(v).__name__} that was made outside")
        tracked = self.overlay.tracked_of(v)
        if tracked is not None:
            return self.own(tracked.steps())
        if type(v) is itertools.groupby:
            return self.own((key, self.own(group)) for key, group in v)
        if policy.is_library(policy.module_of(type(v))) and ".data" in policy.module_of(type(v)):
            self.tracer.stop(f"it iterates over a {type(v).__name__}")
        return self.known(v)

    def formatted(self, v: Any, conversion: str | None = None, spec: Any = "") -> Any:
        """A value in a text: a str, or a text with holes."""
        return text.formatted(self, v, conversion, spec)

    def joined(self, *parts: Any) -> Any:
        """The pieces of an f-string."""
        return text.join(self, list(parts))

    def key(self, v: Any) -> Any:
        """A key of a dict, an element of a set."""
        return settled(self.index(v))

    def set_of(self, values: list) -> set:
        """`{*a, b}`"""
        return {self.key(v) for v in values}

    def unpacked(self, v: Any) -> Any:
        """The dict of `**v`."""
        return self.overlay.plain(v)

    def match(self, subject: Any, pattern: tuple) -> dict[str, Any] | None:
        """What a `case` binds, or None."""
        return matching.match(self, subject, pattern)

    def numbers(self, parts: Any) -> None:
        """Has the sizes among `parts` as numbers, where Python is about to print or look them up."""
        asked = decider()
        for p in parts if asked is not None else ():
            if isinstance(p, Dim):
                asked.concrete(p)  # type: ignore[union-attr]
            elif isinstance(p, (tuple, list)):
                self.numbers(p)

    def context(self, v: Any) -> Any:
        kind = type(v)
        if policy.is_user(kind) and hasattr(kind, "__enter__"):
            self.guard_class(kind, "__enter__")
            self.guard_class(kind, "__exit__")
            return dunders.Context(self, v)
        generator = kind is contextlib._GeneratorContextManager and id(v) in self.tracer.created
        if policy.is_standard(policy.module_of(kind)) and not generator:
            if kind.__name__ in ("nullcontext", "suppress"):
                return v
            self.tracer.stop(f"it enters a {type(v).__name__} context")
        return v

    def importing(self, modules: tuple, names: tuple) -> None:
        for m in modules:
            if policy.is_standard(m) or policy.is_numpy(m) or policy.is_library(m):
                continue
            module = sys.modules.get(m)
            if module is None:
                self.tracer.stop(f"it imports {m}")
            for n in names:
                self.guard_global(module.__dict__, n)

    def importing_near(self, level: int, module: str, space: Any, names: tuple) -> None:
        """`from .module import names`"""
        package = space.__package__ or space.__name__.rpartition(".")[0]
        full = importlib.util.resolve_name("." * level + module, package)
        for n in names:
            inner = f"{full}.{n}"
            self.importing((full,), (n,)) if hasattr(sys.modules.get(full), n) else self.importing((inner,), ())

    # ---- items

    def indexed(self, v: Any) -> Any:
        """An object that is about to be subscripted."""
        if type(v) is np.ndarray:
            return self.array(v)
        if isinstance(v, param_groups()):
            return _Options(self, v)
        own = self._items(v, "__getitem__")
        if own is not None:
            return own
        tracked = self.overlay.tracked_of(v)
        if tracked is not None:
            return dunders.Items(self, lambda name, args: tracked.call(name, args, {}))
        if isinstance(v, dict) and self.special(v, "__missing__"):
            return dunders.Items(self, lambda name, args: self._item_or_missing(v, *args))
        return self.known(v)

    def _item_or_missing(self, v: dict, key: Any) -> Any:
        """`v[key]` of a dict of a user's class with `__missing__`."""
        v, key = self.known(v), settled(key)
        return dict.__getitem__(v, key) if key in v else self.call(self.special_method(v, "__missing__"), key)

    def _items(self, v: Any, name: str) -> Any:
        """Stands for an object whose item access is the user's."""
        if self.special(v, name) is None:
            return None
        return dunders.Items(self, lambda name, args: self.call(types.MethodType(getattr(type(v), name), v), *args))

    def options(self, v: Any, key: Any = None) -> None:
        """If `v` is a parameter group: guards its option `key` (None: all) by value, as Python is about to see it."""
        if isinstance(v, param_groups()):
            for name in v if key is None else (key,):
                if name != "params" and self.once("option", id(v), name):
                    expected = self.expect(v.get(name, g.ABSENT), f"the option {name}")
                    self.guards.append(g.ItemGuard(v, name, expected, f"option {name} is {expected}"))

    def container(self, v: Any) -> Any:
        """An object one of whose items is about to be set or deleted."""
        if isinstance(v, Tensor):
            return v
        if type(v) is np.ndarray and not self.made_here(v):
            return self.array(v)
        own = self._items(v, "__setitem__") or self._items(v, "__delitem__")
        if own is not None:
            return own
        tracked = self.overlay.changing(v)
        if tracked is not None:
            return dunders.Items(self, lambda name, args: tracked.call(name, args, {}))
        self.mutable(v)
        return v

    def mutable(self, v: Any) -> None:
        """Ends the capture if changing `v` in place would be seen outside."""
        if type(v) is np.ndarray:
            if not self.made_here(v):
                self.tracer.stop("it writes into a NumPy array from outside")
            if any(np.may_share_memory(v, c) for c in self.tracer.constants.values()):
                self.tracer.stop("it writes into a NumPy array that tensors were computed from")
            return
        if isinstance(v, Tensor) or g.is_value(v) or isinstance(v, (SymbolicScalar, tuple, frozenset)):
            return
        if (
            id(v) in self.tracer.external
            or not self.is_ours(v)
            and (self.before is not None or not g.is_content(v) and type(v) is not bytearray)
        ):
            if self.changes is None or not self.changes.object(v):
                self.tracer.stop(f"it changes a {type(v).__name__} that existed before the call")


class _Options:
    """Stands for a parameter group whose options Python reads: steps read them as tensors."""

    def __init__(self, hooks: ObjectHooks, group: Any):
        self._hooks, self._group = hooks, group

    def __getitem__(self, key: Any) -> Any:
        self._hooks.options(self._group, key)
        return self._group[key]
