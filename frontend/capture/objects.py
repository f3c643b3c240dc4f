"""Hooks around operators, attributes, items and iteration in instrumented code; `instrument.py` says where."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
from typing import Any, Callable

import numpy as np

from ...ir.decider import decider
from ...ir.dim import Dim
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import array_functions, array_mode, policy
from . import guards as g
from .sizes import ComparedSize
from .watch import Watch, optimizers, param_groups

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
_DUNDERS = (
    "__add__",
    "__radd__",
    "__mul__",
    "__rmul__",
    "__sub__",
    "__rsub__",
    "__truediv__",
    "__matmul__",
    "__rmatmul__",
)
_DUNDERS += (
    "__eq__",
    "__lt__",
    "__gt__",
    "__le__",
    "__ge__",
    "__neg__",
    "__contains__",
    "__iadd__",
    "__pow__",
    "__mod__",
)


class ObjectHooks(Watch):
    """What instrumented code does with values and objects, calls aside."""

    def call(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls `f` as part of the trace: see `hooks.Hooks`."""
        return f(*args, **kwargs)

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
        if policy.is_user(kind) and any(policy.user_dunder(v, d) for d in _DUNDERS):
            self.tracer.stop(f"it uses an operator that the class {kind.__name__} defines in Python")
        return self.known(v)

    def compared(self, v: Any) -> Any:
        """An operand of a comparison."""
        if isinstance(v, Dim):
            return ComparedSize(v, self.tracer) if decider() is None else v
        return self.operand(v)

    def known(self, v: Any) -> Any:
        """`v`, unless it is an object from outside whose contents can change without a guard noticing."""
        kind = type(v)
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

    def array(self, v: np.ndarray) -> Any:
        """A real array: one made in this trace is a constant, any other becomes an input."""
        if self.made_here(v):
            return v
        return self.tracer.array_input(v)

    def made_here(self, v: np.ndarray) -> bool:
        while isinstance(v, np.ndarray):
            if id(v) in self.tracer.external:
                return False
            if id(v) in self.tracer.created:
                return True
            v = v.base  # type: ignore[assignment]
        return False

    def own(self, v: Any) -> Any:
        """Registers an object that this trace has made."""
        self.tracer.created[id(v)] = v
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
        a, b = self.operand(a), self.operand(b)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            self.adopt(a)
            self.adopt(b)
            a, b = array_mode.meet(a, b)
        if symbol == "%" and isinstance(a, (str, bytes)):
            self.formatted(b)
        return self.result(_BINARY[symbol](a, b))

    def augmented(self, symbol: str, a: Any, b: Any) -> Any:
        """`a += b` for a name: in place where `a` can."""
        b = self.operand(b)
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
        target = self.container(obj)
        if type(obj) is np.ndarray and not isinstance(target, np.ndarray):
            obj = target
        target[key] = self.augmented(symbol, self.indexed(obj)[key], b)

    def test(self, v: Any) -> Any:
        """A truth test. (Tensors ask the tracer themselves.)"""
        if policy.user_dunder(v, "__bool__") or policy.user_dunder(v, "__len__"):
            self.tracer.stop(f"it tests an object of class {type(v).__name__}, which defines that in Python")
        return self.array(v) if type(v) is np.ndarray else self.known(v)

    def iterate(self, v: Any) -> Any:
        if type(v) is np.ndarray:
            return self.array(v)
        own = policy.user_dunder(v, "__iter__")
        if own is not None:
            return self.call(types.MethodType(own, v))
        if hasattr(type(v), "__next__") and id(v) not in self.tracer.created:
            self.tracer.stop("it advances an iterator that was made outside")
        if policy.is_library(policy.module_of(type(v))) and ".data" in policy.module_of(type(v)):
            self.tracer.stop(f"it iterates over a {type(v).__name__}")
        return self.known(v)

    def formatted(self, v: Any) -> Any:
        parts = v if isinstance(v, (list, tuple)) else (v,)
        self.numbers(parts)
        if not all(g.is_value(p) for p in parts) or any(isinstance(p, SymbolicScalar) for p in parts):
            self.tracer.stop(f"it turns a {type(v).__name__} into text")
        return v

    def numbers(self, parts: Any) -> None:
        """Has the sizes among `parts` as numbers, where Python is about to print or look them up."""
        asked = decider()
        for p in parts if asked is not None else ():
            if isinstance(p, Dim):
                asked.concrete(p)  # type: ignore[union-attr]
            elif isinstance(p, (tuple, list)):
                self.numbers(p)

    def context(self, v: Any) -> Any:
        if (
            policy.is_user(type(v))
            or policy.is_standard(policy.module_of(type(v)))
            and type(v).__name__
            not in (
                "nullcontext",
                "suppress",
            )
        ):
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

    # ---- objects

    def attribute(self, obj: Any, name: str) -> Any:
        if isinstance(obj, array_mode.ArrayTracer):
            return array_functions.attribute(obj, name)
        if isinstance(obj, Tensor):
            outside = type(obj._data) is np.ndarray
            if outside or id(obj) in self.tracer.slots:  # an argument with symbolic sizes has a stand-in there
                if name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "__class__"):
                    self.tracer.stop(f"it reads .{name} of a tensor from outside")
                if outside and id(obj) not in self.tracer.created:
                    self.tracer.remember(obj)
            if name in ("data", "_data", "__array_interface__", "ctypes"):
                self.tracer.stop(f"it reads .{name} of a tensor")
            return getattr(obj, name)
        if type(obj) is np.ndarray:
            return self.attribute(self.array(obj), name) if not self.made_here(obj) else getattr(obj, name)
        if isinstance(obj, types.ModuleType):
            v = getattr(obj, name)
            mutable = policy.is_standard(obj.__name__) and not callable(v) and not isinstance(v, types.ModuleType)
            if (mutable or policy.is_user_module(obj.__name__)) and name in obj.__dict__:
                self.guard_global(obj.__dict__, name)
            return v
        if isinstance(obj, SymbolicScalar) or g.is_value(obj) or g.is_content(obj) or id(obj) in self.tracer.created:
            return self._plain(obj, name)
        if isinstance(obj, type):
            return self._class_attribute(obj, name) if policy.is_user(obj) else getattr(obj, name)
        return self._object_attribute(obj, name)

    def _plain(self, obj: Any, name: str) -> Any:
        """An attribute of an object that needs no guard; a property of the user's is instrumented all the same."""
        found = inspect.getattr_static(type(obj), name, None)
        if isinstance(found, property) and isinstance(found.fget, types.FunctionType) and policy.is_user(found.fget):
            return self.call(types.MethodType(found.fget, obj))
        return getattr(obj, name)

    def _class_attribute(self, cls: type, name: str) -> Any:
        self.guard_class(cls, name)
        v = getattr(cls, name)
        return self.external(v, f"{cls.__name__}.{name}") if not isinstance(v, types.FunctionType) else v

    def guard_class(self, cls: type, name: str) -> None:
        for c in cls.__mro__:
            if name in c.__dict__:
                if policy.is_user(c) and self.once("class", id(c), name):
                    v = c.__dict__[name]
                    expected = self.expect(v, f"{c.__name__}.{name}")
                    self.guards.append(g.ItemGuard(c.__dict__, name, expected, f"{c.__name__}.{name} is {expected}"))
                return

    def _object_attribute(self, obj: Any, name: str) -> Any:
        cls = type(obj)
        library = policy.is_library(policy.module_of(cls)) or any(
            policy.is_library(policy.module_of(c)) for c in cls.__mro__
        )
        static = inspect.getattr_static(cls, name, None)
        if isinstance(static, property) and isinstance(static.fget, types.FunctionType) and policy.is_user(static.fget):
            self.guard_class(cls, name)
            return self.call(types.MethodType(static.fget, obj))
        if not library and policy.is_user(cls):
            if policy.user_dunder(obj, "__getattribute__"):
                self.tracer.stop(f"class {cls.__name__} defines __getattribute__")
        members = getattr(obj, "__dict__", None)
        if isinstance(static, functools.cached_property):
            self.tracer.stop(f"it reads the cached property {name}")
        if static is None and (members is None or name not in members) and policy.user_dunder(obj, "__getattr__"):
            self.tracer.stop(f"class {cls.__name__} defines __getattr__")
        v = getattr(obj, name)
        path = self._path(obj, name)
        if static is not None:
            self.guard_class(cls, name)
        if isinstance(v, types.MethodType) and v.__self__ is obj or isinstance(v, types.BuiltinMethodType):
            return v
        if library:
            self.watch(obj, self.tracer.reach.paths.get(id(obj), cls.__name__))
            self.note(v)
            if g.is_content(v) and self.once("content", id(v)) and not isinstance(obj, optimizers()):
                self.guard_content(v, path)
            self.watch(v, path)
            return v
        self.external(v, path)
        if self.once("attribute", id(obj), name):
            expected = self.expect(v, path)
            text = f"{path} is {expected}"
            if isinstance(members, dict) and name in members:
                self.guards.append(g.ItemGuard(members, name, expected, text))
            else:
                self.guards.append(g.SlotGuard(obj, name, expected, text))
        return v

    def _path(self, obj: Any, name: str) -> str:
        return f"{type(obj).__name__}.{name}"

    def owner(self, obj: Any, name: str) -> Any:
        """An object whose attribute is about to be set or deleted."""
        if isinstance(obj, Tensor):
            if name not in ("grad", "requires_grad"):
                self.tracer.stop(f"it sets .{name} of a tensor")
            if type(obj._data) is np.ndarray and id(obj) not in self.tracer.created:
                self.tracer.remember(obj)
            return obj
        if id(obj) not in self.tracer.created:
            self.tracer.stop(f"it sets the attribute {name} of an object of class {type(obj).__name__} from outside")
        if policy.user_dunder(obj, "__setattr__"):
            self.tracer.stop(f"class {type(obj).__name__} defines __setattr__")
        return obj

    def indexed(self, v: Any) -> Any:
        """An object that is about to be subscripted."""
        if type(v) is np.ndarray:
            return self.array(v)
        if isinstance(v, param_groups()):
            return _Options(self, v)
        own = policy.user_dunder(v, "__getitem__")
        return _Items(self, types.MethodType(own, v)) if own is not None else self.known(v)

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
        if policy.user_dunder(v, "__setitem__") or policy.user_dunder(v, "__delitem__"):
            self.tracer.stop(f"it sets an item of a {type(v).__name__}")
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
            or id(v) not in self.tracer.created
            and not g.is_content(v)
            and type(v) is not bytearray
        ):
            self.tracer.stop(f"it changes a {type(v).__name__} that existed before the call")


class _Items:
    """Stands for an object whose `__getitem__` is the user's."""

    def __init__(self, hooks: ObjectHooks, method: Any):
        self._hooks, self._method = hooks, method

    def __getitem__(self, key: Any) -> Any:
        return self._hooks.call(self._method, key)


class _Options:
    """Stands for a parameter group whose options Python reads: steps read them as tensors."""

    def __init__(self, hooks: ObjectHooks, group: Any):
        self._hooks, self._group = hooks, group

    def __getitem__(self, key: Any) -> Any:
        self._hooks.options(self._group, key)
        return self._group[key]
