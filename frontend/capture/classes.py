"""Hooks around calls of classes: builtins that convert, containers, objects of the user's classes."""

from __future__ import annotations

import abc
import enum
import functools
import itertools
import types
from typing import Any

from ...ir.decider import decider
from ...ir.dim import Dim
from ..operators import one_element
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import array_mode, by_hooks, policy, text
from .kinds import kind_of
from .lazy import LazyNumber
from .objects import ObjectHooks
from .scalars import TracedFloat, TracedInt, TracedScalar, whole_number
from .watch import optimizers


class ClassHooks(ObjectHooks):
    """What instrumented code makes by calling a class, and how arguments are iterated over."""

    def _function(self, f: types.FunctionType, bound: Any, args: tuple, kwargs: dict) -> Any:
        """Calls `f` as part of the trace: see `hooks.Hooks`."""
        raise NotImplementedError

    def _passed(self, v: Any) -> Any:
        """An argument of library code: see `hooks.Hooks`."""
        raise NotImplementedError

    def _class(self, cls: type, args: tuple, kwargs: dict) -> Any:
        from ..nn.module import Module
        from ..nn.parameter import Parameter

        module = policy.module_of(cls)
        if cls is type and len(args) == 1:
            x = args[0]
            if isinstance(x, (SymbolicScalar, text.TracedText)):
                return x.python_type if isinstance(x, SymbolicScalar) else str
            if isinstance(x, Dim) and decider() is not None:
                return int
            return x.stands_for if isinstance(x, array_mode.ArrayTracer) else type(x)
        if policy.is_user(cls):
            return self._construct(cls, args, kwargs)
        if issubclass(cls, (Module, Parameter, *optimizers())):
            return self._library_object(cls, args, kwargs)
        if module == "builtins":
            if issubclass(cls, BaseException):
                return cls(*args, **kwargs)
            if cls is str and len(args) == 1 and not kwargs:
                return self.formatted(args[0], "s")
            if cls is reversed and len(args) == 1 and (own := self.special_method(args[0], "__reversed__")):
                return self.call(own)
            if cls is dict and args:
                args = (self._mapping(args[0]), *args[1:])
            elif cls.__name__ in policy.CONSUMES_ITERATORS and cls is not reversed:
                args = self._iterated(args)
            if cls.__name__ not in policy.PURE_BUILTINS:
                self.tracer.stop(f"it makes a {cls.__name__}")
            self._iterators(cls.__name__, args)
            for a in args:
                self.options(a)
            if cls in (int, float) and len(args) == 1 and isinstance(args[0], Dim) and (asked := decider()):
                return args[0] if cls is int else asked.real(args[0])
            if cls in (set, frozenset, dict):
                self.numbers(args)
            if cls in (set, frozenset) and args and by_hooks.holds_special(args[0]):
                values: Any = args[0]
                for x in values:
                    self.index(x)
            if cls in (int, float, bool) and len(args) == 1 and isinstance(args[0], (Tensor, TracedScalar)):
                return self._number(cls, args[0])
            if cls is bool and args:
                return bool(self.test(args[0]))
            if cls is int and len(args) == 1 and isinstance(args[0], LazyNumber) and args[0].python_type is int:
                return args[0]
            if args and (own := self.special_method(args[0], f"__{cls.__name__}__")) is not None:
                return self.call(own)
            if cls in (int, float, str) and args and isinstance(args[0], text.TracedText):
                self.tracer.stop("it reads a number out of text that has the values of tensors in it")
            return self.own(cls(*[self._passed(a) for a in args], **kwargs))
        if policy.is_library(module):
            if not (policy.is_traceable(module) or cls is Tensor):
                self.tracer.stop(f"it makes a {cls.__name__}")
            return self.own(cls(*[self._passed(a) for a in args], **kwargs))
        if policy.is_numpy(module):
            return self.result(cls(*[self._passed(a) for a in args], **kwargs))
        if module in policy.PURE_MODULES:
            self._iterators(cls.__name__, args)
            if module == "itertools":
                args = self._iterated(args)
            return self.own(cls(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()}))
        self.tracer.stop(f"it makes a {module}.{cls.__name__}, which is not known to be pure")

    def _library_object(self, cls: type, args: tuple, kwargs: dict) -> Any:
        """A new module, parameter or optimizer of the library."""
        from ..nn.module import Module

        with self.making():
            out = self.own(cls(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()}))
            for m in out.modules() if isinstance(out, Module) else ():
                self.own(m)
        return out

    def _number(self, cls: type, x: Any) -> Any:
        """int(x), float(x) or bool(x) of a tensor or a traced number; ints and floats stay in the graph."""
        if cls is int:
            return whole_number(x)
        if cls is bool:
            return bool(x)
        if isinstance(x, TracedInt):
            return TracedFloat(x.as_float())
        return x if isinstance(x, TracedFloat) else one_element(x, "float")

    def _construct(self, cls: type, args: tuple, kwargs: dict) -> Any:
        """A new object of a user's class; its `__init__` is instrumented."""
        if issubclass(cls, BaseException):
            init = cls.__init__
            if not isinstance(init, types.FunctionType) or not policy.is_user(init):
                return self.own(cls(*args, **kwargs))
            error = self.own(cls.__new__(cls, *args, **kwargs))
            self._function(init, error, args, kwargs)
            return error
        if type(cls) is not type and not issubclass(type(cls), abc.ABCMeta):
            if issubclass(cls, enum.Enum):
                return cls(*args, **kwargs)
            self.tracer.stop(f"it makes a {cls.__name__}, whose metaclass is {type(cls).__name__}")
        for name in ("__new__", "__init__", "__post_init__"):
            self.guard_class(cls, name)
        new = cls.__new__
        if isinstance(new, types.FunctionType) and not policy.is_generated(new) and policy.is_user(new):
            if not hasattr(cls, "_fields"):
                obj = self.call(new, cls, *args, **kwargs)
                if isinstance(obj, cls) and isinstance(cls.__init__, types.FunctionType):
                    self._function(cls.__init__, obj, args, kwargs)
                return obj
        obj = object.__new__(cls) if new is object.__new__ else new(cls, *args, **kwargs)  # type: ignore[call-arg]
        self.own(obj)
        init = cls.__init__
        if isinstance(init, types.FunctionType):
            post = getattr(cls, "__post_init__", None)
            if post is not None and policy.is_generated(init):
                self._with_post_init(obj, post, init, args, kwargs)
                return obj
            self._function(init, obj, args, kwargs)
        elif kind_of(obj) is not None:
            args = (self._mapping(args[0]),) if isinstance(obj, dict) and args else self._iterated(args)
            init(obj, *[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
        return obj

    def _with_post_init(self, obj: Any, post: Any, init: Any, args: tuple, kwargs: dict) -> None:
        """`__init__` of a dataclass, which calls the user's `__post_init__`: it finds the instrumented one."""
        members = getattr(obj, "__dict__", None)
        if members is None:
            self.tracer.stop(f"it makes a {type(obj).__name__}, which has slots and defines __post_init__")
        members["__post_init__"] = functools.partial(self.call, post, obj)
        try:
            self._function(init, obj, args, kwargs)
        finally:
            members.pop("__post_init__", None)

    def _iterators(self, name: str, args: tuple) -> None:
        if name in policy.CONSUMES_ITERATORS:
            for a in args:
                if hasattr(type(a), "__next__"):
                    self.iterate(a)
                elif self.special(a, "__iter__"):
                    self.tracer.stop(f"it passes a {type(a).__name__} to {name}")

    def _iterated(self, args: tuple) -> tuple:
        """Arguments that are iterated over: objects of the user's as iterators through their own methods."""
        return tuple([self.iterate(a) if self._iterates_by_hooks(a) else a for a in args])

    def _iterates_by_hooks(self, v: Any) -> bool:
        own = any(self.special(v, d) for d in ("__iter__", "__next__", "__getitem__"))
        return own or type(v) is itertools.groupby or self.overlay.tracked_of(v) is not None

    def _mapping(self, v: Any) -> Any:
        """What `dict` is given: mappings of the user's are read through their methods, and so are iterables."""
        if policy.is_user(type(v)) and hasattr(type(v), "keys") and not isinstance(v, dict):
            keys = self.iterate(self.call(self.attribute(v, "keys")))
            return {k: self.indexed(v)[k] for k in keys}
        return v if self.overlay.tracked_of(v) is not None else self._iterated((v,))[0]
