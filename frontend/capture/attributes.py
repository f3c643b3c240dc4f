"""Hooks around attributes: what is read is guarded, what is set goes into the overlay."""

from __future__ import annotations

import functools
import inspect
import types
from collections import OrderedDict
from typing import Any

import numpy as np

from ...ir.graph import Value
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import array_functions, array_lengths, array_mode, dunders, policy, pytree  # noqa: F401
from . import guards as g
from .instrument import is_instrumented
from .overlay import DELETED, MISSING
from .watch import Watch, optimizers

_DICT_VIEWS = (type({}.keys()), type({}.values()), type({}.items()))
_DICT_VIEWS += (type(OrderedDict().keys()), type(OrderedDict().values()), type(OrderedDict().items()))


class AttributeHooks(Watch):
    """Attributes of objects, classes and modules in instrumented code."""

    def call(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Calls `f` as part of the trace: see `hooks.Hooks`."""
        return f(*args, **kwargs)

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

    def own_iterator(self, v: Any) -> Any:
        """The result of library code, which may be an iterator (some, in a tuple) or a view of a dict that it has made."""
        if type(v) is tuple:
            for x in v:
                self.own_iterator(x)
        elif hasattr(type(v), "__next__") or type(v) in _DICT_VIEWS:
            self.own(v)
        return v

    # ---- reads

    def attribute(self, obj: Any, name: str) -> Any:
        if isinstance(obj, array_mode.ArrayTracer):
            return array_functions.attribute(obj, name)
        if isinstance(obj, Tensor):
            outside = type(obj._data) is not Value
            if outside or id(obj) in self.tracer.slots:  # an argument with symbolic sizes has a stand-in there
                if name in ("register_hook", "register_post_accumulate_grad_hook", "retain_grad", "__class__"):
                    self.tracer.stop(f"it reads .{name} of a tensor from outside")
                if outside and id(obj) not in self.tracer.created:
                    self.tracer.remember(obj)
            if name in ("_data", "__array_interface__", "ctypes"):
                self.tracer.stop(f"it reads .{name} of a tensor")
            return getattr(obj, name)
        found = self.overlay.attribute(obj, name)
        if found is not MISSING and found is not DELETED:
            return found
        if type(obj) is np.ndarray:
            return self.attribute(self.array(obj), name) if not self.made_here(obj) else getattr(obj, name)
        if isinstance(obj, super):
            return self._super_attribute(obj, name)
        if isinstance(obj, types.ModuleType):
            v = self.overlay.load(obj.__dict__, name)
            if v is not MISSING and v is not DELETED:
                return v
            try:
                v = getattr(obj, name)
            except AttributeError:
                self.guards.append(g.ItemGuard(obj.__dict__, name, g.Same(g.ABSENT), f"{obj.__name__} has no {name}"))
                raise
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
        own = getattr(obj, "__dict__", None)
        if isinstance(found, functools.cached_property) and (own is None or name not in own):
            value = self.call(found.func, obj)
            if own is not None:
                own[name] = value
            return value
        if found is None and (own is None or name not in own) and self.special(obj, "__getattr__"):
            return self.call(types.MethodType(type(obj).__getattr__, obj), name)
        return getattr(obj, name)

    def _super_attribute(self, obj: Any, name: str) -> Any:
        """An attribute of `super()`."""
        x = obj.__self__
        mro = (x if obj.__self_class__ is x else type(x)).__mro__
        for c in mro[mro.index(obj.__thisclass__) + 1 :]:
            if name in c.__dict__:
                if policy.is_user(c):
                    self.guard_class(c, name)
                found = c.__dict__[name]
                if isinstance(found, property) and policy.is_user(found.fget):
                    return self.call(types.MethodType(found.fget, x))  # type: ignore[arg-type]
                break
        return getattr(obj, name)

    def _class_attribute(self, cls: type, name: str) -> Any:
        for c in cls.__mro__:
            if name in c.__dict__:
                found = self.overlay.attribute(c, name)
                if found is not MISSING and found is not DELETED:
                    return found
                break
        self.guard_class(cls, name)
        v = getattr(cls, name)
        return self.external(v, f"{cls.__name__}.{name}") if not isinstance(v, types.FunctionType) else v

    def special(self, v: Any, name: str) -> types.FunctionType | None:
        """The user's own Python implementation of a special method of `v`, which later calls find too."""
        cls = type(v)
        if self.once("special", id(cls), name):
            self.guard_class(cls, name)
        return policy.user_dunder(v, name)

    def special_method(self, v: Any, name: str) -> types.MethodType | None:
        """The same, bound to `v`."""
        found = self.special(v, name)
        return None if found is None else types.MethodType(found, v)

    def guard_class(self, cls: type, name: str) -> None:
        """Guards what the class of an object says about `name`, the classes that it passes over included."""
        for c in cls.__mro__:
            if policy.is_user(c) and not dunders.is_made_class(c) and self.once("class", id(c), name):
                if self.once("mro", id(c)):
                    self.guards.append(g.FieldGuard(c, "mro", c.__mro__, f"class {c.__name__} has the same bases"))
                v = c.__dict__.get(name, g.ABSENT)
                expected = self.expect(v, f"{c.__name__}.{name}")
                self.guards.append(g.ItemGuard(c.__dict__, name, expected, f"{c.__name__}.{name} is {expected}"))
            if name in c.__dict__:
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
            if self.special(obj, "__getattribute__"):
                self.tracer.stop(f"class {cls.__name__} defines __getattribute__")
        members = getattr(obj, "__dict__", None)
        mine = members is not None and name in members and (id(obj), name) not in self.overlay.attributes
        if isinstance(static, functools.cached_property) and not mine:
            self.guard_class(cls, name)
            self._absent(obj, name)
            value = self.call(static.func, obj)
            self.overlay.set_attribute(obj, name, value)
            return value
        if static is None and not mine and self.special(obj, "__getattr__"):
            self._absent(obj, name)
            return self.call(types.MethodType(cls.__getattr__, obj), name)  # type: ignore[attr-defined]
        getter = inspect.getattr_static(cls, "__getattr__", None)
        if static is None and not mine and isinstance(getter, types.MethodDescriptorType) and isinstance(obj, dict):
            self.guard_class(cls, "__getattr__")
            self._absent(obj, name)
            return self.call(getter, obj, name)  # `__getattr__ = dict.__getitem__`
        if static is not None and not mine and policy.is_user(cls):
            for c in cls.__mro__:
                if name in c.__dict__:
                    found = self.overlay.attribute(c, name)
                    if found is not MISSING and found is not DELETED:
                        self._absent(obj, name)
                        return found
                    break
        if members is not None and name in members and not mine:
            if static is None:
                raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
            v = getattr(cls, name)
            return types.MethodType(v, obj) if isinstance(v, types.FunctionType) else v
        try:
            v = getattr(obj, name)
        except AttributeError:
            self._nowhere(obj, name)
            raise
        if id(obj) in self.overlay.given and name in pytree.field_names(obj):
            return v  # part of an argument
        path = self._path(obj, name)
        if static is not None:
            self.guard_class(cls, name)
        if isinstance(v, (types.MethodType, types.BuiltinMethodType)) and v.__self__ is obj:
            return v
        if library:
            self.watch(obj, self.tracer.reach.paths.get(id(obj), cls.__name__))
            self.note(v)
            if g.is_content(v) and self.once("content", id(v)) and not isinstance(obj, optimizers()):
                self.guard_content(v, path)
            self.watch(v, path)
            return v
        self.external(v, path)
        self.overlay.objects[id(obj)] = obj
        if self.once("attribute", id(obj), name):
            expected = self.expect(v, path)
            text = f"{path} is {expected}"
            if isinstance(members, dict) and name in members:
                self.guards.append(g.ItemGuard(members, name, expected, text))
            else:
                self.guards.append(g.SlotGuard(obj, name, expected, text))
        return v

    def _nowhere(self, obj: Any, name: str) -> None:
        """Guards that there is no such attribute, in the object and in its class."""
        self.guard_class(type(obj), name)
        if isinstance(getattr(obj, "__dict__", None), dict):
            self._absent(obj, name)
        elif self.once("attribute", id(obj), name):
            self.guards.append(g.SlotGuard(obj, name, g.Same(g.ABSENT), f"there is no attribute {name}"))

    def _path(self, obj: Any, name: str) -> str:
        return f"{type(obj).__name__}.{name}"

    def owner(self, obj: Any, name: str) -> Any:
        """An object whose attribute is about to be set or deleted."""
        if isinstance(obj, Tensor):
            if name not in ("grad", "requires_grad"):
                if not name.startswith("_") and not hasattr(obj, "__dict__"):
                    object.__setattr__(obj, name, None)  # raises: there is nothing else to set
                self.tracer.stop(f"it sets .{name} of a tensor")
            if type(obj._data) is not Value and id(obj) not in self.tracer.created:
                self.tracer.remember(obj)
            return obj
        return dunders.Setter(self, obj)

    def set_attribute(self, obj: Any, name: str, value: Any) -> None:
        """`obj.name = value`"""
        if isinstance(obj, Tensor):
            setattr(self.owner(obj, name), name, value)
            return
        own = self.special(obj, "__setattr__")
        if own is not None and not isinstance(obj, type):
            if policy.is_generated(own):  # of a frozen dataclass: it raises
                own(obj, name, value)
            else:
                self.call(types.MethodType(own, obj), name, value)
            return
        setter = inspect.getattr_static(type(obj), "__setattr__")
        if isinstance(setter, types.WrapperDescriptorType) and isinstance(obj, dict) and setter.__objclass__ is dict:
            self.guard_class(type(obj), "__setattr__")
            self.call(setter, obj, name, value)  # `__setattr__ = dict.__setitem__`
            return
        self.put_attribute(obj, name, value)

    def put_attribute(self, obj: Any, name: str, value: Any) -> None:
        """As `object.__setattr__` does."""
        from ..nn.module import Module

        cls = type(obj)
        static = inspect.getattr_static(cls, name, None)
        if isinstance(static, property) and isinstance(static.fset, types.FunctionType) and policy.is_user(static.fset):
            self.guard_class(cls, name)
            self.call(types.MethodType(static.fset, obj), value)
            return
        if self.is_ours(obj) or self.changes is not None and self.changes.object(obj):
            with self.making():
                (Module if policy.is_module(obj) else object).__setattr__(obj, name, value)
            return
        if isinstance(obj, types.ModuleType):
            self.overlay.store(obj.__dict__, name, value)
            return
        if isinstance(obj, type):
            if dunders.is_made_class(obj):
                setattr(obj, name, value)
            elif policy.is_user(obj):
                self.overlay.set_attribute(obj, name, value)
            else:
                self.tracer.stop(f"it sets the attribute {name} of the class {obj.__name__}")
            return
        if isinstance(obj, types.FunctionType) and is_instrumented(obj.__code__):
            setattr(obj, name, value)
            return
        slot = isinstance(static, types.MemberDescriptorType)
        if not slot and (hasattr(type(static), "__set__") or not hasattr(obj, "__dict__")):
            if isinstance(static, property) or static is None:
                object.__setattr__(obj, name, value)  # raises
            self.tracer.stop(f"it sets the attribute {name} of a {cls.__name__}")
        plain = policy.is_user(cls) or cls is types.SimpleNamespace or policy.is_module(obj)
        if not plain and not (isinstance(obj, types.FunctionType) and policy.is_user(obj)):
            self.tracer.stop(f"it sets the attribute {name} of an object of class {cls.__name__} from outside")
        self.overlay.set_attribute(obj, name, value)

    def delete_attribute(self, obj: Any, name: str) -> None:
        """`del obj.name`"""
        if isinstance(obj, (Tensor, type, types.ModuleType)) or policy.is_module(obj):
            self.tracer.stop(f"it deletes the attribute {name} of a {type(obj).__name__}")
        own = self.special_method(obj, "__delattr__")
        if own is not None:
            self.call(own, name)
        elif self.is_ours(obj):
            delattr(obj, name)
        else:
            self.attribute(obj, name)  # raises if there is none
            self.overlay.set_attribute(obj, name, DELETED)

    def _absent(self, obj: Any, name: str) -> None:
        """Guards that the object itself has no such attribute."""
        members = getattr(obj, "__dict__", None)
        if isinstance(members, dict) and name not in members and self.once("absent", id(obj), name):
            if not self.overlay.volatile.has("attribute", obj, name):
                expected = g.Same(g.ABSENT)
                self.guards.append(g.ItemGuard(members, name, expected, f"there is no attribute {name}"))
