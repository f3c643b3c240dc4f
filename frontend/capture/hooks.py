"""What the hooks in instrumented code do: guard what is read, refuse what can't be replayed, instrument what is called.

See `instrument.py` for where each hook stands in the user's code.
"""

from __future__ import annotations

import builtins
import dis
import functools
import inspect
import operator
import types
from typing import Any, Callable

import numpy as np

from ...ir.graph import Value
from .. import autograd
from ..epoch import epoch
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import guards as g
from . import policy
from .instrument import NoSource, instrument, is_instrumented
from .tracer import Specialize, Tracer

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
_DUNDERS = ("__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__rsub__", "__truediv__", "__matmul__", "__rmatmul__")
_DUNDERS += ("__eq__", "__lt__", "__gt__", "__le__", "__ge__", "__neg__", "__contains__", "__iadd__", "__pow__", "__mod__")
_FRAME = frozenset("locals globals vars dir eval exec compile __import__ breakpoint input print open delattr".split())


class Hooks:
    """The hooks of one trace."""

    def __init__(self, tracer: Tracer):
        self.tracer = tracer
        self.guards: list[g.Guard] = []
        self.epoch_guard = g.EpochGuard()
        self._guarded: set[tuple] = set()
        self._entered: dict[int, Any] = {}
        self._copies: dict[int, tuple[Any, Any]] = {}
        self.seen_objects: dict[int, Any] = {}  # what was read from outside
        self._watched: dict[int, Any] = {}
        tracer.callable = self.callable

    def stop(self, reason: str) -> None:
        self.tracer.stop(reason)

    # ---- guards

    def expect(self, v: Any, what: str) -> g.Expectation:
        try:
            return g.expect(v)
        except g.TooLarge:
            self.tracer.stop(f"{what} is too large a container to be compared on every call")

    def _once(self, *key: Any) -> bool:
        if key in self._guarded:
            return False
        self._guarded.add(key)
        return True

    def external(self, v: Any, path: str) -> Any:
        """Takes note of a value from outside the trace: its contents are watched, its tensors have a path."""
        if isinstance(v, (types.ModuleType, type)) or g.is_value(v):
            return v
        self.seen_objects[id(v)] = v
        self.tracer.reach.add(path, v)
        self._note(v)
        self.watch(v, path)
        return v

    def _note(self, v: Any, depth: int = 0) -> None:
        if isinstance(v, np.ndarray) or g.is_content(v):
            if id(v) in self.tracer.external or depth > 20:
                return
            self.tracer.external[id(v)] = v
            if not isinstance(v, np.ndarray):
                for x in v.values() if isinstance(v, dict) else v:
                    self._note(x, depth + 1)

    def note_container(self, c: Any) -> None:
        """A container among the arguments: what is changed in it would be seen outside."""
        self.tracer.external[id(c)] = c

    def watch(self, v: Any, path: str) -> None:
        """Guards the attributes of modules and optimizers in `v`, which library code reads without hooks."""
        from ..nn.module import Module

        if g.is_content(v):
            for i, x in enumerate(v.values() if isinstance(v, dict) else v):
                if not g.is_value(x) and not isinstance(x, (Tensor, np.ndarray)):
                    self.watch(x, f"{path}[{i}]")
            return
        if isinstance(v, types.MethodType):
            self.watch(v.__self__, path)
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
        if id(x) in self._watched:
            return
        self._watched[id(x)] = x
        members = x.__dict__
        watched = {k: v for k, v in members.items() if k not in ("param_groups", "state", "defaults")}
        self.epoch_guard.entries.append((members, _Members(watched), f"attributes of {path}"))
        for v in watched.values():
            self._note(v)

    def enter(self, function: types.FunctionType) -> None:
        """Guards the globals, closure cells and defaults that a user function reads."""
        if id(function) in self._entered:
            return
        self._entered[id(function)] = function
        code = function.__code__
        for name in sorted(_global_names(code)):
            self._global(function.__globals__, name)
        for name, cell in zip(code.co_freevars, function.__closure__ or ()):
            if name != "__class__":
                self._cell(cell, name)
        for v in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self.external(v, function.__name__)
            if g.is_content(v) and self._once("content", id(v)):
                self._content(v, f"a default of {function.__name__}")

    def _global(self, namespace: dict, name: str) -> None:
        if not self._once("global", id(namespace), name):
            return
        v = namespace.get(name, g.ABSENT)
        if v is g.ABSENT:
            expected: g.Expectation = g.Same(v)  # a builtin, or a NameError to come
        else:
            if isinstance(v, types.ModuleType) and not policy.is_user(_Named(v.__name__)):
                return
            if isinstance(v, (types.FunctionType, type)) and not policy.is_user(v):
                return
            self.external(v, name)
            expected = self.expect(v, f"the global {name}")
        self.guards.append(g.ItemGuard(namespace, name, expected, f"global {name} is {expected}"))

    def _cell(self, cell: types.CellType, name: str) -> None:
        if not self._once("cell", id(cell)):
            return
        try:
            v = cell.cell_contents
        except ValueError:
            v = g.ABSENT
        if v is not g.ABSENT:
            self.external(v, name)
        expected = self.expect(v, f"the closure variable {name}")
        self.guards.append(g.CellGuard(cell, expected, f"closure variable {name} is {expected}"))

    def _content(self, v: Any, text: str) -> None:
        expected = self.expect(v, text)
        self.guards.append(g.ContentGuard(v, expected, f"{text} is {expected}"))

    # ---- values on their way into an operation

    def operand(self, v: Any) -> Any:
        """A value that an operator or function is about to read."""
        kind = type(v)
        if kind is np.ndarray:
            return self._array(v)
        if isinstance(v, Tensor) or g.is_value(v):
            return v
        if isinstance(v, SymbolicScalar):
            return v
        if policy.is_user(kind) and any(policy.user_dunder(v, d) for d in _DUNDERS if d in kind.__dict__):
            self.tracer.stop(f"it uses an operator that the class {kind.__name__} defines in Python")
        return v

    def _array(self, v: np.ndarray) -> Any:
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

    def _own(self, v: Any) -> Any:
        """Registers an object that this trace has made."""
        self.tracer.created[id(v)] = v
        return v

    def _result(self, v: Any) -> Any:
        """The result of library code on values made in this trace."""
        if type(v) is np.ndarray and id(v) not in self.tracer.external and v.flags.owndata:
            self._own(v)
        return v

    def _adopt(self, v: Any) -> Any:
        """NumPy arrays made in the trace that meet a tensor become constants: they must not change any more."""
        if type(v) is np.ndarray:
            self.tracer.constants[id(v)] = v
        return v

    def binary(self, symbol: str, a: Any, b: Any) -> Any:
        a, b = self.operand(a), self.operand(b)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            self._adopt(a), self._adopt(b)
        if symbol == "%" and isinstance(a, (str, bytes)):
            self.formatted(b)
        return self._result(_BINARY[symbol](a, b))

    def augmented(self, symbol: str, a: Any, b: Any) -> Any:
        """`a += b` for a name: in place where `a` can."""
        b = self.operand(b)
        a = self.operand(a) if isinstance(a, np.ndarray) else a
        self._mutable(a)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            self._adopt(b)
            if type(a) is np.ndarray:
                self.tracer.stop("it adds a tensor into a NumPy array in place")
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
        return self._array(v) if type(v) is np.ndarray else v

    def iterate(self, v: Any) -> Any:
        if type(v) is np.ndarray:
            return self._array(v)
        own = policy.user_dunder(v, "__iter__")
        if own is not None:
            return self.call(types.MethodType(own, v))
        if hasattr(type(v), "__next__") and id(v) not in self.tracer.created:
            self.tracer.stop("it advances an iterator that was made outside")
        if policy.is_library(policy.module_of(type(v))) and ".data" in policy.module_of(type(v)):
            self.tracer.stop(f"it iterates over a {type(v).__name__}")
        return v

    def formatted(self, v: Any) -> Any:
        parts = v if isinstance(v, (list, tuple)) else (v,)
        if not all(g.is_value(p) for p in parts) or any(isinstance(p, SymbolicScalar) for p in parts):
            self.tracer.stop(f"it turns a {type(v).__name__} into text")
        return v

    def context(self, v: Any) -> Any:
        if policy.is_user(type(v)) or policy.is_standard(policy.module_of(type(v))) and type(v).__name__ not in (
            "nullcontext",
            "suppress",
        ):
            self.tracer.stop(f"it enters a {type(v).__name__} context")
        return v

    def importing(self, modules: tuple, names: tuple) -> None:
        import sys

        for m in modules:
            if policy.is_standard(m) or policy.is_numpy(m) or policy.is_library(m):
                continue
            module = sys.modules.get(m)
            if module is None:
                self.tracer.stop(f"it imports {m}")
            for n in names:
                self._global(module.__dict__, n)

    # ---- objects

    def attribute(self, obj: Any, name: str) -> Any:
        if isinstance(obj, Tensor):
            if name in ("data", "_data", "__array_interface__", "ctypes"):
                self.tracer.stop(f"it reads .{name} of a tensor")
            return getattr(obj, name)
        if type(obj) is np.ndarray:
            return getattr(self._array(obj), name)
        if isinstance(obj, types.ModuleType):
            if policy.is_user(_Named(obj.__name__)):
                self._global(obj.__dict__, name)
            return getattr(obj, name)
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
        self._guard_class(cls, name)
        v = getattr(cls, name)
        return self.external(v, f"{cls.__name__}.{name}") if not isinstance(v, types.FunctionType) else v

    def _guard_class(self, cls: type, name: str) -> None:
        for c in cls.__mro__:
            if name in c.__dict__:
                if policy.is_user(c) and self._once("class", id(c), name):
                    v = c.__dict__[name]
                    expected = self.expect(v, f"{c.__name__}.{name}")
                    self.guards.append(g.ItemGuard(c.__dict__, name, expected, f"{c.__name__}.{name} is {expected}"))
                return

    def _object_attribute(self, obj: Any, name: str) -> Any:
        cls = type(obj)
        library = policy.is_library(policy.module_of(cls)) or any(policy.is_library(policy.module_of(c)) for c in cls.__mro__)
        static = inspect.getattr_static(cls, name, None)
        if isinstance(static, property) and isinstance(static.fget, types.FunctionType) and policy.is_user(static.fget):
            self._guard_class(cls, name)
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
            self._guard_class(cls, name)
        if isinstance(v, types.MethodType) and v.__self__ is obj or isinstance(v, types.BuiltinMethodType):
            return v
        if library:
            self.watch(obj, self.tracer.reach.paths.get(id(obj), cls.__name__))
            self._note(v)
            if g.is_content(v) and self._once("content", id(v)) and not isinstance(obj, _optimizers()):
                self._content(v, path)
            self.watch(v, path)
            return v
        self.external(v, path)
        if self._once("attribute", id(obj), name):
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
            return obj
        if id(obj) not in self.tracer.created:
            self.tracer.stop(f"it sets the attribute {name} of an object of class {type(obj).__name__} from outside")
        if policy.user_dunder(obj, "__setattr__"):
            self.tracer.stop(f"class {type(obj).__name__} defines __setattr__")
        return obj

    def indexed(self, v: Any) -> Any:
        """An object that is about to be subscripted."""
        if type(v) is np.ndarray:
            return self._array(v)
        own = policy.user_dunder(v, "__getitem__")
        return _Items(self, types.MethodType(own, v)) if own is not None else v

    def container(self, v: Any) -> Any:
        """An object one of whose items is about to be set or deleted."""
        if isinstance(v, Tensor):
            return v
        if type(v) is np.ndarray and not self.made_here(v):
            return self._array(v)
        if policy.user_dunder(v, "__setitem__") or policy.user_dunder(v, "__delitem__"):
            self.tracer.stop(f"it sets an item of a {type(v).__name__}")
        self._mutable(v)
        return v

    def _mutable(self, v: Any) -> None:
        """Ends the capture if changing `v` in place would be seen outside."""
        if type(v) is np.ndarray:
            if not self.made_here(v):
                self.tracer.stop("it writes into a NumPy array from outside")
            if any(np.may_share_memory(v, c) for c in self.tracer.constants.values()):
                self.tracer.stop("it writes into a NumPy array that tensors were computed from")
            return
        if isinstance(v, Tensor) or g.is_value(v) or isinstance(v, (SymbolicScalar, tuple, frozenset)):
            return
        if id(v) in self.tracer.external or id(v) not in self.tracer.created and not g.is_content(v) and type(v) is not bytearray:
            self.tracer.stop(f"it changes a {type(v).__name__} that existed before the call")

    # ---- calls

    def call(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.tracer.stopped is not None:
            raise self.tracer.stopped
        kind = type(f)
        if kind is types.FunctionType:
            return self._function(f, None, args, kwargs)
        if kind is types.MethodType:
            if isinstance(f.__func__, types.FunctionType):
                return self._function(f.__func__, f.__self__, args, kwargs)
            return self.call(f.__func__, f.__self__, *args, **kwargs)
        if kind is functools.partial:
            return self.call(f.func, *f.args, *args, **{**f.keywords, **kwargs})
        if isinstance(f, type):
            return self._class(f, args, kwargs)
        inner = getattr(f, "__tracefuse_wrapped__", None)
        if inner is not None:
            return self.call(inner, *args, **kwargs)
        if kind is np.ufunc or isinstance(f, (types.BuiltinFunctionType, types.MethodWrapperType)) or not hasattr(kind, "__call__"):
            return self._builtin(f, args, kwargs)
        if kind in (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType):
            if args and f.__name__ not in ("__init__", "__new__"):
                return self.call(getattr(args[0], f.__name__), *args[1:], **kwargs)
            return f(*args, **kwargs)
        if policy.is_numpy(policy.module_of(kind)):
            return self._builtin(f, args, kwargs)
        own = getattr(kind, "__call__")
        if isinstance(own, types.FunctionType):
            self.watch(f, self.tracer.reach.paths.get(id(f), kind.__name__))
            return self._function(own, f, args, kwargs)
        if policy.is_library(policy.module_of(kind)):  # ops
            return f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
        if kind.__module__ in ("operator", "functools"):  # itemgetter, lru_cache, ...
            inner = getattr(f, "__wrapped__", None)
            return self._builtin(f, args, kwargs) if inner is None else self.call(inner, *args, **kwargs)
        self.tracer.stop(f"it calls a {kind.__name__}, which capture knows nothing about")

    def _function(self, f: types.FunctionType, bound: Any, args: tuple, kwargs: dict) -> Any:
        module = policy.module_of(f)
        if bound is not None:
            args = (bound, *args)
        if is_instrumented(f.__code__):
            out = f(*args, **kwargs)
        elif policy.is_library(module):
            out = self._library(f, module, bound, args, kwargs)
        elif policy.is_numpy(module):
            out = self._numpy(f, args, kwargs)
        elif policy.is_standard(module):
            inner = getattr(f, "__wrapped__", None)
            if f.__code__.co_filename == "<string>" or module in policy.PURE_MODULES and inner is None:
                out = f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
            else:
                self.tracer.stop(f"it calls {module}.{f.__name__}, which is not known to be pure")
        elif f.__code__.co_filename == "<string>":  # what dataclasses and namedtuples generate
            if bound is not None and id(bound) not in self.tracer.created and f.__name__ in ("__init__", "__setattr__"):
                self.tracer.stop(f"it calls {f.__qualname__} on an object from outside")
            out = f(*args, **kwargs)
        else:
            out = self.copy_of(f)(*args, **kwargs)
        if isinstance(out, types.GeneratorType):
            self._own(out)
        return out

    def copy_of(self, f: types.FunctionType) -> types.FunctionType:
        """The instrumented copy of a user function, whose reads are guarded."""
        found = self._copies.get(id(f))
        if found is None:
            try:
                found = self._copies[id(f)] = (f, instrument(f, self))
            except NoSource as e:
                self.tracer.stop(f"it calls {f.__qualname__}, which can't be captured: {e}")
            self.enter(f)
        return found[1]

    def callable(self, f: Any) -> Any:
        """`f` as library code should call it: user functions with their hooks."""
        if isinstance(f, types.FunctionType) and policy.is_user(f) and not is_instrumented(f.__code__):
            return self.copy_of(f)
        if isinstance(f, types.MethodType) and isinstance(f.__func__, types.FunctionType) and policy.is_user(f.__func__):
            return types.MethodType(self.callable(f.__func__), f.__self__)
        if isinstance(f, functools.partial) or hasattr(f, "__tracefuse_wrapped__"):
            return functools.partial(self.call, f)
        return f

    def _passed(self, v: Any) -> Any:
        """An argument of library code: functions get their hooks, arrays from outside become inputs."""
        if type(v) is np.ndarray:
            return self._adopt(self._array(v))
        if isinstance(v, SymbolicScalar):
            raise Specialize(v.leaf)  # type: ignore[attr-defined]
        if type(v) in (list, tuple) and any(type(x) is np.ndarray or isinstance(x, SymbolicScalar) for x in v):
            return type(v)([self._passed(x) for x in v])
        return self.callable(v) if isinstance(v, (types.FunctionType, types.MethodType, functools.partial)) else v

    def _library(self, f: types.FunctionType, module: str, bound: Any, args: tuple, kwargs: dict) -> Any:
        from ..nn.module import Module

        if isinstance(bound, type) and issubclass(bound, autograd.Function) and f.__name__ == "apply":
            return self._custom(bound)(*args[1:], **kwargs)
        name = f.__name__
        allowed = policy.is_traceable(module) and name not in policy.IMPURE_NAMES
        if isinstance(bound, Module) or isinstance(bound, _optimizers()):
            allowed = name in policy.READ_ONLY_METHODS
            self.watch(bound, self.tracer.reach.paths.get(id(bound), type(bound).__name__))
        elif name in policy.READ_ONLY_METHODS and (".nn." in module or ".optim" in module):
            allowed = True
        if not allowed:
            self.tracer.stop(f"it calls {f.__qualname__}, which can't be part of a trace")
        f = self._with_callbacks(f)
        passed = [a if a is bound else self._passed(a) for a in args]
        out = f(*passed, **{k: self._passed(v) for k, v in kwargs.items()})
        if name in policy.CREATION and isinstance(out, Tensor) and type(out._data) is np.ndarray:
            if not any(out is a for a in args) and id(out) not in self.tracer.known and id(out) not in self.tracer.slots:
                self._own(out)
        return out

    def _with_callbacks(self, f: types.FunctionType) -> types.FunctionType:
        """A library closure over user functions (`grad(f)`, `no_grad()(f)`) with hooks in those."""
        cells = f.__closure__ or ()
        values = [c.cell_contents for c in cells]
        changed = [self.callable(v) for v in values]
        for name, v in zip(f.__code__.co_freevars, values):
            self.external(v, name)
        if all(a is b for a, b in zip(values, changed)):
            return f
        closure = tuple(types.CellType(v) for v in changed)
        out = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, closure)
        out.__kwdefaults__ = f.__kwdefaults__
        return out

    def _custom(self, cls: type) -> Callable:
        """`apply` of an autograd.Function whose rules have hooks."""
        rules = {n: staticmethod(self.callable(inspect.unwrap(getattr(cls, n)))) for n in ("forward", "backward")}
        return type(cls.__name__, (cls,), rules).apply  # type: ignore[attr-defined]

    def _numpy(self, f: Any, args: tuple, kwargs: dict) -> Any:
        name = f.__name__
        if ".random" in policy.module_of(f) or name in policy.NUMPY_IMPURE:
            self.tracer.stop(f"it calls numpy.{name}, which can't be part of a trace")
        if kwargs.get("out") is not None:
            self._mutable(kwargs["out"])
        args = tuple(self._passed(a) for a in args)
        out = f(*args, **{k: self._passed(v) for k, v in kwargs.items()})
        return self._result(out)

    def _builtin(self, f: Any, args: tuple, kwargs: dict) -> Any:
        name = getattr(f, "__name__", type(f).__name__)
        owner = getattr(f, "__self__", None)
        if isinstance(owner, np.ndarray) or isinstance(owner, np.generic):
            if name in policy.ARRAY_MUTATORS:
                self._mutable(owner)
            if name in ("tofile", "dump"):
                self.tracer.stop(f"it calls {name} of an array")
            return self._result(f(*[self._passed(a) for a in args], **kwargs))
        if type(f) is np.ufunc or isinstance(owner, np.ufunc) or policy.is_numpy(policy.module_of(f)):
            if isinstance(owner, types.BuiltinFunctionType) or "random" in str(type(owner)):
                self.tracer.stop(f"it calls {name} of NumPy's random numbers")
            return self._numpy(f, args, kwargs)
        if owner is not None and not isinstance(owner, types.ModuleType):
            return self._builtin_method(f, name, owner, args, kwargs)
        module = getattr(f, "__module__", None) or ""
        if module == "builtins":
            return self._of_builtins(f, name, args, kwargs)
        if module in policy.PURE_MODULES or kind_module(f) in policy.PURE_MODULES:
            self._iterators(name, args)
            return f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
        self.tracer.stop(f"it calls {module}.{name}, which is not known to be pure")

    def _builtin_method(self, f: Any, name: str, owner: Any, args: tuple, kwargs: dict) -> Any:
        kind = type(owner)
        for base, methods in policy.MUTATING_METHODS.items():
            if isinstance(owner, base) and name in methods:
                self._mutable(owner)
        if kind in (str, bytes) and name in ("format", "join", "format_map"):
            for a in (*args, *kwargs.values()):
                self.formatted(a)
        if isinstance(owner, types.GeneratorType) and id(owner) not in self.tracer.created:
            self.tracer.stop("it advances a generator that was made outside")
        known = g.is_value(owner) or isinstance(owner, tuple(policy.MUTATING_METHODS)) or isinstance(owner, (tuple, frozenset))
        if not known and id(owner) not in self.tracer.created and not isinstance(owner, type):
            if not isinstance(owner, (types.MappingProxyType,)) and policy.is_standard(policy.module_of(kind)):
                self.tracer.stop(f"it calls {kind.__name__}.{name} on an object from outside")
        out = f(*args, **kwargs)
        return out

    def _iterators(self, name: str, args: tuple) -> None:
        if name in policy.CONSUMES_ITERATORS:
            for a in args:
                if hasattr(type(a), "__next__"):
                    self.iterate(a)
                elif policy.user_dunder(a, "__iter__"):
                    self.tracer.stop(f"it passes a {type(a).__name__} to {name}")

    def _of_builtins(self, f: Any, name: str, args: tuple, kwargs: dict) -> Any:
        if name == "getattr":
            try:
                return self.attribute(args[0], args[1])
            except AttributeError:
                if len(args) < 3:
                    raise
                return args[2]
        if name == "setattr":
            setattr(self.owner(args[0], args[1]), args[1], args[2])
            return None
        if name == "isinstance":
            return self._isinstance(*args)
        if name == "len" and (own := policy.user_dunder(args[0], "__len__")):
            return self.call(types.MethodType(own, args[0]))
        if name == "hasattr":
            try:
                self.attribute(args[0], args[1])
            except AttributeError:
                if isinstance(getattr(args[0], "__dict__", None), dict) and id(args[0]) not in self.tracer.created:
                    self.guards.append(
                        g.ItemGuard(args[0].__dict__, args[1], g.Same(g.ABSENT), f"there is no attribute {args[1]}")
                    )
                return False
            return True
        if name in _FRAME or name not in policy.PURE_BUILTINS:
            self.tracer.stop(f"it calls {name}()")
        if name in ("repr", "format", "ascii"):
            self.formatted(args[0])
        self._iterators(name, args)
        if name in policy.TAKES_FUNCTIONS:
            kwargs = {k: self._passed(v) for k, v in kwargs.items()}
        args = tuple(self._passed(a) for a in args)
        return f(*args, **kwargs)

    def _isinstance(self, x: Any, classes: Any) -> bool:
        if isinstance(x, SymbolicScalar):
            return issubclass(x.python_type, classes)
        if isinstance(x, Tensor) and self.tracer.wrapper is not Tensor and isinstance(x, self.tracer.wrapper):
            return issubclass(np.ndarray, classes)
        return isinstance(x, classes)

    def _class(self, cls: type, args: tuple, kwargs: dict) -> Any:
        from ..nn.module import Module

        module = policy.module_of(cls)
        if cls is type and len(args) == 1:
            x = args[0]
            if isinstance(x, SymbolicScalar):
                return x.python_type
            return np.ndarray if isinstance(x, Tensor) and isinstance(x, self.tracer.wrapper) and self.tracer.wrapper is not Tensor else type(x)
        if issubclass(cls, Module):
            self.tracer.stop(f"it makes a new {cls.__name__}")
        if policy.is_user(cls):
            return self._construct(cls, args, kwargs)
        if module == "builtins":
            if issubclass(cls, BaseException):
                return cls(*args, **kwargs)
            if cls is str and args:
                self.formatted(args[0])
            if cls.__name__ not in policy.PURE_BUILTINS:
                self.tracer.stop(f"it makes a {cls.__name__}")
            self._iterators(cls.__name__, args)
            if cls in (int, float, bool, complex) and args and isinstance(args[0], SymbolicScalar):
                raise Specialize(args[0].leaf)  # type: ignore[attr-defined]
            if args and policy.user_dunder(args[0], f"__{cls.__name__}__"):
                self.tracer.stop(f"it converts a {type(args[0]).__name__} to {cls.__name__}")
            return self._own(cls(*[self._passed(a) for a in args], **kwargs))
        if policy.is_library(module):
            if not (policy.is_traceable(module) or cls is Tensor):
                self.tracer.stop(f"it makes a {cls.__name__}")
            return self._own(cls(*[self._passed(a) for a in args], **kwargs))
        if policy.is_numpy(module):
            return self._result(cls(*[self._passed(a) for a in args], **kwargs))
        if module in policy.PURE_MODULES:
            self._iterators(cls.__name__, args)
            return self._own(cls(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()}))
        self.tracer.stop(f"it makes a {module}.{cls.__name__}, which is not known to be pure")

    def _construct(self, cls: type, args: tuple, kwargs: dict) -> Any:
        """A new object of a user's class; its `__init__` is instrumented."""
        if issubclass(cls, BaseException):
            return cls(*args, **kwargs)
        if type(cls) is not type and not issubclass(type(cls), type(_AbstractBase)):
            if issubclass(cls, _enum()):
                return cls(*args, **kwargs)
            self.tracer.stop(f"it makes a {cls.__name__}, whose metaclass is {type(cls).__name__}")
        new = cls.__new__
        if isinstance(new, types.FunctionType) and new.__code__.co_filename != "<string>" and policy.is_user(new):
            if not hasattr(cls, "_fields"):
                self.tracer.stop(f"it makes a {cls.__name__}, which defines __new__")
        obj = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
        self._own(obj)
        init = cls.__init__
        if isinstance(init, types.FunctionType):
            post = getattr(cls, "__post_init__", None)
            if post is not None and init.__code__.co_filename == "<string>":
                self.tracer.stop(f"it makes a {cls.__name__}, which defines __post_init__")
            self._function(init, obj, args, kwargs)
        return obj

    def finish(self) -> list[g.Guard]:
        """All guards of the trace."""
        if self.epoch_guard.entries:
            self.epoch_guard.seen = epoch.value
            return [self.epoch_guard, *self.guards]
        return self.guards


class _Items:
    """Stands for an object whose `__getitem__` is the user's."""

    def __init__(self, hooks: Hooks, method: Any):
        self._hooks, self._method = hooks, method

    def __getitem__(self, key: Any) -> Any:
        return self._hooks.call(self._method, key)


class _Members:
    """Expects the members of an object to be as they were, names that optimizers keep in tensors aside."""

    def __init__(self, members: dict):
        self.items = {k: _loose(v) for k, v in members.items()}
        self.count = len(members)

    def match(self, members: Any) -> bool:
        skipped = sum(k in members for k in ("param_groups", "state", "defaults"))
        if len(members) - skipped != self.count:
            return False
        return all(e.match(members.get(k, g.ABSENT)) for k, e in self.items.items())

    def __str__(self) -> str:
        return f"the same {self.count} attributes"


def _loose(v: Any) -> g.Expectation:
    """Contents where they can be compared, else identity."""
    try:
        return g.expect(v)
    except g.TooLarge:
        return g.Same(v)


class _Named:
    """Gives `policy.is_user` the name of a module."""

    def __init__(self, module: str):
        self.__module__ = module


_AbstractBase = __import__("abc").ABC


def _enum() -> type:
    import enum

    return enum.Enum


def _optimizers() -> tuple[type, ...]:
    from ..optim import Optimizer

    return (Optimizer,)


def kind_module(f: Any) -> str:
    owner = getattr(f, "__self__", None)
    return owner.__name__ if isinstance(owner, types.ModuleType) else ""


def _global_names(code: types.CodeType) -> set[str]:
    """Names that `code`, and what is nested in it, reads as globals."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            names |= _global_names(c)
    return {n for n in names if n not in builtins.__dict__} | {n for n in names if n in builtins.__dict__}


__all__ = ["Hooks", "Value"]
