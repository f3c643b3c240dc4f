"""The hooks of a trace: what instrumented code may call, and how.

User functions are instrumented on the fly, library functions on the lists in `policy.py` are called as they are, and
everything else ends the capture with a reason.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import sys
import types
import typing
from typing import Any, Callable, Iterator

import numpy as np

from ...ir.decider import decider
from ...ir.dim import Dim
from ...ir.graph import Value
from .. import autograd, scipy_special
from ..state import SymbolicScalar
from ..tensor import Tensor
from . import array_mode, by_hooks, dunders, host_calls, opaque, opt_out, policy, text
from . import guards as g
from .classes import ClassHooks
from .instrument import NoSource, instrument, is_instrumented
from .kinds import kind_of
from .lazy import LazyNumber, settled
from .loop_holders import Changes
from .loop_walks import Walk, called, walk_of
from .loops import Loop
from .overlay import Restart, Volatile
from .scalars import ScalarArgument, TracedInt, TracedScalar, call_math, extreme
from .sizes import SizeNumber, square_root
from .tracer import Tracer
from .watch import global_names, optimizers

_FRAME = frozenset("locals globals vars dir eval exec compile __import__ breakpoint input open".split())


class Hooks(ClassHooks):
    """The hooks of one trace."""

    def __init__(self, tracer: Tracer, volatile: Volatile | None = None):
        super().__init__(tracer, volatile)
        self._copies: dict[int, tuple[Any, Any]] = {}
        tracer.on_callable = self.callable
        tracer.array_class = array_mode.ArrayTracer

    # ---- loops: see `loop_syntax`

    def loop(self, names: tuple[str, ...], free: tuple[bool, ...]) -> Loop:
        return Loop(self, names, free)

    def walk(self, function: Any, *args: Any) -> Walk:
        return called(self, function, args)

    def walked(self, iterable: Any) -> Walk:
        return walk_of(self, iterable)

    def assigning(self) -> None:
        """A function of the trace's begins that assigns variables of one around it."""
        if self.tracer.attempts:
            self.tracer.stop("a step calls a function that assigns variables around it")

    def leave_open(self, place: str) -> Callable[[], None]:
        """What begins the capture again, with the loop at `place` left open."""

        def reopen() -> None:
            self.overlay.volatile.add("loop", None, place)
            self.overlay.restarting = True
            raise Restart

        return reopen

    def stays_open(self, place: str) -> bool:
        return self.overlay.volatile.has("loop", None, place)

    @contextlib.contextmanager
    def attempting(self, changes: Changes) -> Iterator[None]:
        """An attempt to close a loop: what this trace has made so far counts as from outside, and changes only as
        `changes` says."""
        tracer, before = self.tracer, (self.before, self.changes)
        tracer.attempts += 1
        self.before, self.changes = {*tracer.created, *self.displays}, changes
        try:
            yield
        finally:
            tracer.attempts -= 1
            self.before, self.changes = before

    def call(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.tracer.stopped is not None:
            raise self.tracer.stopped
        if host_calls.is_host_call(f):
            return host_calls.record(self, f, args, kwargs)
        opaque_parts = opaque.opaque_parts(f)
        if opaque_parts is not None:
            return opaque.call(self, opaque_parts, args, kwargs)
        if opt_out.is_disabled(f):
            self.tracer.stop(f"it calls {getattr(f, '__qualname__', f)}, which tr.disable keeps in plain Python")
        if host_calls.is_level(f):
            return host_calls.level(self, f, args)
        kind = type(f)
        if kind is types.FunctionType:
            return self._function(f, None, args, kwargs)
        instead = by_hooks.find(f, args)
        if instead is not None:
            return instead(self, *args, **kwargs)
        if kind is types.MethodType:
            if isinstance(f.__func__, types.FunctionType):
                return self._function(f.__func__, f.__self__, args, kwargs)
            return self.call(f.__func__, f.__self__, *args, **kwargs)
        if kind is functools.partial:
            if id(f) not in self.tracer.created and self.once("partial", id(f)):
                for part in (f.args, f.keywords):
                    self.external(part, "partial")
                    self.guard_content(part, f"what a partial passes to {getattr(f.func, '__name__', f.func)}")
            return self.call(f.func, *f.args, *args, **{**f.keywords, **kwargs})
        if isinstance(f, type):
            return self._class(f, args, kwargs)
        inner = inspect.getattr_static(f, "__tracefuse_wrapped__", None)
        if inner is not None:
            return self.call(inner, *args, **kwargs)
        if (
            kind is np.ufunc
            or isinstance(f, (types.BuiltinFunctionType, types.MethodWrapperType))
            or not hasattr(kind, "__call__")
        ):
            return self._builtin(f, args, kwargs)
        if kind in (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType):
            if f.__objclass__ is object and f.__name__ == "__setattr__":
                return self.put_attribute(*args)
            if args and f.__name__ not in ("__init__", "__new__", "__delattr__"):
                first = args[0]  # not its own method of that name: it may be the one that calls this
                bound = f.__get__(first) if isinstance(first, f.__objclass__) else getattr(first, f.__name__)
                return self.call(bound, *args[1:], **kwargs)
            return f(*args, **kwargs)
        if policy.is_numpy(policy.module_of(kind)):
            return self._builtin(f, args, kwargs)
        if kind is types.GenericAlias or kind.__module__ == "typing":  # Class[int](...)
            return self._generic(f, args, kwargs)
        own = getattr(kind, "__call__")
        self.special(f, "__call__")
        if isinstance(own, types.FunctionType):
            self.watch(f, self.tracer.reach.paths.get(id(f), kind.__name__))
            return self._function(own, f, args, kwargs)
        if policy.is_library(policy.module_of(kind)):  # ops
            return f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
        if kind.__module__ in ("operator", "functools"):  # itemgetter, lru_cache, ...
            inner = getattr(f, "__wrapped__", None)
            if inner is None:
                return self._builtin(f, args, kwargs)
            before = len(self.overlay.actions)
            out = self.call(inner, *args, **kwargs)
            if len(self.overlay.actions) != before:
                self.tracer.stop(f"it calls {inner.__qualname__}, which has effects, but only when its cache is empty")
            return out
        self.tracer.stop(f"it calls a {kind.__name__}, which capture knows nothing about")

    def _generic(self, alias: Any, args: tuple, kwargs: dict) -> Any:
        origin = typing.get_origin(alias)
        if origin is None:
            self.tracer.stop(f"it calls {alias!r}, which capture knows nothing about")
        made = self.call(origin, *args, **kwargs)
        if hasattr(made, "__dict__"):
            self.set_attribute(made, "__orig_class__", alias)
        return made

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
        elif (special := scipy_special.function(f)) is not None:
            out = self._scipy(special, args, kwargs)
        elif policy.is_standard(module) and not policy.is_user(f):
            inner = getattr(f, "__wrapped__", None)
            if module == "contextlib" and inspect.isgeneratorfunction(inner) and policy.is_user(inner):
                return self.own(contextlib.contextmanager(self.copy_of(inner))(*args, **kwargs))
            tracked = None if bound is None else self.overlay.changing(bound)
            if tracked is not None:
                return tracked.call(f.__name__, args[1:], kwargs)
            if f in by_hooks.OF_DATACLASSES and len(args) == 1:
                return by_hooks.OF_DATACLASSES[f](self, *args, **kwargs)
            if policy.is_generated(f) or module in policy.PURE_MODULES and inner is None:
                self._unguarded(f, bound)
                self._readable(f, module, args)
                out = f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
            else:
                self.tracer.stop(f"it calls {module}.{f.__name__}, which is not known to be pure")
        elif policy.is_generated(f):  # what dataclasses and namedtuples generate
            if (own := dunders.of_dataclass(self, f, args)) is not None:
                return own()
            if bound is not None and id(bound) not in self.tracer.created and f.__name__ in ("__init__", "__setattr__"):
                self.tracer.stop(f"it calls {f.__qualname__} on an object from outside")
            out = f(*args, **kwargs)
        else:
            out = self.copy_of(f)(*args, **kwargs)
        if isinstance(out, types.GeneratorType):
            self.own(out)
        return out

    def _unguarded(self, f: types.FunctionType, bound: Any) -> None:
        """Ends the capture if a method of the standard library would read or change an object from outside unseen."""
        values = isinstance(bound, (type, enum.Enum, tuple)) or g.is_value(bound)
        if bound is not None and not values and not self.is_ours(bound) and not policy.is_generated(f):
            self.tracer.stop(f"it calls {f.__qualname__} of a {type(bound).__name__} that was made outside")

    def _readable(self, f: Any, module: str, args: tuple) -> None:
        """The same for functions that look into the objects that they are given."""
        for x in args if module in policy.READS_OBJECTS else ():
            outside = policy.is_user(type(x)) and not isinstance(x, type) and not self.is_ours(x) and not g.is_value(x)
            copies = any(self.special(x, f"__{name}__") for name in ("copy", "deepcopy", "reduce", "reduce_ex"))
            if outside or copies or module not in ("copy", "dataclasses") and by_hooks.holds_special(x):
                self.tracer.stop(f"it calls {f.__name__} with a {type(x).__name__}, which reads it unseen")

    def copy_of(self, f: types.FunctionType) -> types.FunctionType:
        """The instrumented copy of a user function, whose reads are guarded."""
        found = self._copies.get(id(f))
        if found is None:
            try:
                found = self._copies[id(f)] = (f, instrument(f, self, *self._assigned(f)))
            except NoSource as e:
                self.tracer.stop(f"it calls {f.__qualname__}, which can't be captured: {e}")
            self.enter(f)
        return found[1]

    def _assigned(self, f: types.FunctionType) -> tuple[frozenset[str], frozenset[str]]:
        """Globals and closure variables of `f` that the trace assigns."""
        volatile = self.overlay.volatile
        if not volatile.keys:
            return frozenset(), frozenset()
        globals_ = {n for n in global_names(f.__code__) if volatile.has("item", f.__globals__, n)}
        cells = {n for n, c in zip(f.__code__.co_freevars, f.__closure__ or ()) if volatile.has("cell", c)}
        return frozenset(globals_), frozenset(cells)

    def function_of(self, copy: types.FunctionType) -> types.FunctionType | None:
        """The function that `copy` is the instrumented copy of, if it existed before the call."""
        return next((f for f, c in self._copies.values() if c is copy), None)

    def is_outside(self, cell: types.CellType) -> bool:
        """Whether a closure cell existed before the call."""
        return id(cell) in self._outside

    def callable(self, f: Any) -> Any:
        """`f` as library code should call it: user functions with their hooks."""
        if isinstance(f, types.FunctionType) and policy.is_user(f) and not is_instrumented(f.__code__):
            return self.copy_of(f)
        if (
            isinstance(f, types.MethodType)
            and isinstance(f.__func__, types.FunctionType)
            and policy.is_user(f.__func__)
        ):
            self._guard_method(f)
            return types.MethodType(self.callable(f.__func__), f.__self__)
        if isinstance(f, functools.partial) and f.func == self.call:
            return f  # it has its hooks
        if isinstance(f, functools.partial) or inspect.getattr_static(f, "__tracefuse_wrapped__", None) is not None:
            return functools.partial(self.call, f)
        return f

    def _guard_method(self, f: types.MethodType) -> None:
        """Guards that the class of its object goes on having this method."""
        cls = f.__self__ if isinstance(f.__self__, type) else type(f.__self__)
        for c in cls.__mro__ if policy.is_user(cls) else ():
            for name, member in c.__dict__.items():
                if member is f.__func__ or getattr(member, "__func__", None) is f.__func__:
                    self.guard_class(cls, name)

    def _passed(self, v: Any) -> Any:
        """An argument of library code: functions get their hooks, arrays from outside become inputs."""
        if type(v) is np.ndarray:
            return self.adopt(self.array(v))
        if isinstance(v, ScalarArgument):
            return v.concrete()
        if isinstance(v, TracedInt):
            return v.as_size()
        if isinstance(v, LazyNumber):
            return v.settle()
        if isinstance(v, Tensor):
            if type(v._data) is not Value:
                self.tracer.remember(v)
            return v
        v = self.overlay.plain(v)
        if type(v) in (list, tuple):
            changed = [self._passed(x) for x in v]
            return v if all(a is b for a, b in zip(v, changed)) else type(v)(changed)
        if type(v) is dict:
            values = {k: self._passed(x) for k, x in v.items()}
            return v if all(v[k] is x for k, x in values.items()) else values
        if isinstance(v, (types.FunctionType, types.MethodType, functools.partial)):
            return self.callable(v)
        return self.known(v)

    def _handed_on(self, v: Any) -> Any:
        """An argument that library code hands on to a user's function."""
        return v if isinstance(v, (ScalarArgument, TracedInt, LazyNumber)) else self._passed(v)

    def _library(self, f: types.FunctionType, module: str, bound: Any, args: tuple, kwargs: dict) -> Any:
        from ..nn.module import Module

        if isinstance(bound, type) and issubclass(bound, autograd.Function) and f.__name__ == "apply":
            return self._custom(bound)(*args[1:], **kwargs)
        name = f.__name__
        allowed = policy.is_traceable(module) and name not in policy.IMPURE_NAMES
        if isinstance(bound, Module) and name == "__setattr__":
            return self.put_attribute(*args)
        if self.is_ours(bound) and isinstance(bound, (Module, *optimizers())):
            with self.making():
                return self.own_iterator(f(*[a if a is bound else self._passed(a) for a in args], **kwargs))
        if isinstance(bound, Module) or isinstance(bound, optimizers()):
            allowed = name in policy.READ_ONLY_METHODS
            self.watch(bound, self.tracer.reach.paths.get(id(bound), type(bound).__name__))
        elif name in policy.READ_ONLY_METHODS and (".nn." in module or ".optim" in module):
            allowed = True
        if not allowed:
            self.tracer.stop(f"it calls {f.__qualname__}, which can't be part of a trace")
        f = self._with_callbacks(f)
        if isinstance(bound, Module) and name == "__call__" and policy.is_user(type(bound).forward):
            take = self._handed_on
        else:
            take = self._passed
        passed = [a if a is bound else array_mode.weak(take(a)) for a in args]
        out = f(*passed, **{k: take(v) for k, v in kwargs.items()})
        if name in policy.CREATION and isinstance(out, Tensor) and type(out._data) is not Value:
            if (
                not any(out is a for a in args)
                and id(out) not in self.tracer.known
                and id(out) not in self.tracer.slots
            ):
                self.own(out)
        return self.own_iterator(out)

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
            self.mutable(kwargs["out"])
        values = (*args, *kwargs.values())
        if all(type(a) is np.ndarray and self.made_here(a) or g.is_value(a) or type(a) is float for a in values):
            return self.result(f(*args, **kwargs))  # NumPy alone, on arrays of this trace: they may change later
        args = tuple(self._passed(a) for a in args)
        out = f(*args, **{k: self._passed(v) for k, v in kwargs.items()})
        return self.result(out)

    def _scipy(self, f: Any, args: tuple, kwargs: dict) -> Any:
        """A function of scipy.special; of arrays as one of NumPy."""
        x, *rest = (self._passed(a) for a in args)
        options = {k: self._passed(v) for k, v in kwargs.items()}
        if not isinstance(x, array_mode.ArrayTracer):
            return f(x, *rest, **options)
        return self.result(array_mode.call_special(f, x, *rest, **options))

    def _builtin(self, f: Any, args: tuple, kwargs: dict) -> Any:
        name = getattr(f, "__name__", type(f).__name__)
        owner = getattr(f, "__self__", None)
        if isinstance(owner, np.ndarray) or isinstance(owner, np.generic):
            if name in policy.ARRAY_MUTATORS:
                self.mutable(owner)
            if name in ("tofile", "dump"):
                self.tracer.stop(f"it calls {name} of an array")
            return self.result(f(*[self._passed(a) for a in args], **kwargs))
        if type(f) is np.ufunc or isinstance(owner, np.ufunc) or policy.is_numpy(policy.module_of(f)):
            if isinstance(owner, types.BuiltinFunctionType) or "random" in str(type(owner)):
                self.tracer.stop(f"it calls {name} of NumPy's random numbers")
            return self._numpy(f, args, kwargs)
        if owner is not None and not isinstance(owner, types.ModuleType):
            return self._builtin_method(f, name, owner, args, kwargs)
        module = getattr(f, "__module__", None) or ""
        if f is sys.exit:
            f(*args)  # raises
        if module == "builtins":
            return self._of_builtins(f, name, args, kwargs)
        if module == "math" and len(args) == 1 and isinstance(args[0], TracedScalar):
            found = call_math(f, args[0])
            if found is not NotImplemented:
                return found
        if module in policy.PURE_MODULES or _module_of_builtin(f) in policy.PURE_MODULES:
            self._iterators(name, args)
            if name == "sqrt" and len(args) == 1 and isinstance(args[0], (Dim, SizeNumber)) and decider() is not None:
                return square_root(args[0])
            self._readable(f, module or _module_of_builtin(f), args)
            if module == "itertools":
                args = self._iterated(args)
            out = f(*[self._passed(a) for a in args], **{k: self._passed(v) for k, v in kwargs.items()})
            return self.own_iterator(out)
        self.tracer.stop(f"it calls {module}.{name}, which is not known to be pure")

    def _builtin_method(self, f: Any, name: str, owner: Any, args: tuple, kwargs: dict) -> Any:
        kind = type(owner)
        if name == "__setattr__" and isinstance(f, types.MethodWrapperType):
            return self.put_attribute(owner, *args)
        if name == "__new__":
            return self.own(f(*args, **kwargs))
        if isinstance(f, (types.BuiltinMethodType, types.MethodWrapperType)) and kind_of(owner) is not None:
            changes = any(isinstance(owner, base) and name in m for base, m in policy.MUTATING_METHODS.items())
            tracked = self.overlay.changing(owner) if changes else self.overlay.tracked_of(owner)
            if tracked is not None:
                return tracked.call(name, args, kwargs)
        for base, methods in policy.MUTATING_METHODS.items():
            if isinstance(owner, base) and name in methods:
                self.mutable(owner)
        if kind is str and name == "join":
            return text.joined(self, owner, self.iterate(args[0]))
        if kind is str and name in ("format", "format_map"):
            return text.str_format(self, owner, *((args, kwargs) if name == "format" else ((), args[0])))
        if isinstance(owner, (dict, set, frozenset)):
            self.numbers(args)
        if isinstance(owner, types.GeneratorType) and not self.is_ours(owner):
            self.tracer.stop("it advances a generator that was made outside")
        if not isinstance(owner, types.GeneratorType):
            self.known(owner)
        self.options(owner, args[0] if name == "get" and args else None)
        if args and isinstance(owner, (dict, set)):
            args = (settled(self.index(args[0])), *args[1:])
        if name == "sort" and kwargs.get("key") is not None:
            kwargs = {**kwargs, "key": self.callable(kwargs["key"])}
        if name in ("extend", "update", "extendleft") and kind_of(owner) is not None:
            args = tuple([self.overlay.plain(a) for a in args])
            self._iterators("list", args)
        return self.own_iterator(f(*args, **kwargs))

    def _of_builtins(self, f: Any, name: str, args: tuple, kwargs: dict) -> Any:
        if name == "getattr":
            try:
                return self.attribute(args[0], args[1])
            except AttributeError:
                if len(args) < 3:
                    raise
                return args[2]
        if name == "setattr":
            return self.set_attribute(*args)
        if name == "delattr":
            return self.delete_attribute(*args)
        if name == "isinstance":
            return self._isinstance(*args)
        if name == "len" and (own := self.special(args[0], "__len__")):
            return self.call(types.MethodType(own, args[0]))
        if name == "len" and isinstance(args[0], Tensor) and args[0].ndim and decider() is not None:
            return args[0].shape[0]
        if name == "len" and (tracked := self.overlay.tracked_of(args[0])) is not None:
            return tracked.length()
        if name == "next" and (own := self.special_method(args[0], "__next__")) is not None:
            try:
                return self.call(own)
            except StopIteration:
                if len(args) < 2:
                    raise
                return args[1]
        if name in ("abs", "hash", "iter", "reversed", "round", "divmod", "callable", "repr", "format", "ascii"):
            done, out = self._special(name, args)
            if done:
                return out
        if name in ("abs", "max", "min") and not kwargs and any(isinstance(a, TracedScalar) for a in args):
            if name == "abs" or all(isinstance(a, (TracedScalar, int, float)) for a in args):
                return abs(*args) if name == "abs" else extreme(name, args)
        if name == "hasattr":
            try:
                self.attribute(args[0], args[1])
            except AttributeError:
                return False
            return True
        if name in _FRAME or name not in policy.PURE_BUILTINS:
            self.tracer.stop(f"it calls {name}()")
        if name in policy.CONSUMES_ITERATORS:
            args = self._iterated(args)
        self._iterators(name, args)
        if name in policy.TAKES_FUNCTIONS:
            kwargs = {k: self._passed(v) for k, v in kwargs.items()}
        args = tuple(self._passed(a) for a in args)
        out = f(*args, **kwargs)
        return self.own(out) if name == "iter" else out

    def _special(self, name: str, args: tuple) -> tuple[bool, Any]:
        """(True, result) for builtins that the class of their argument may define, or that make text."""
        x = args[0]
        if name in ("repr", "ascii"):
            return True, self.formatted(x, name[0])
        if name == "format":
            return True, self.formatted(x, None, args[1] if len(args) > 1 else "")
        if name == "iter" and len(args) == 1 and self.special(x, "__iter__"):
            return True, self.call(types.MethodType(type(x).__iter__, x))
        own = self.special_method(x, f"__{name}__")
        if own is None or policy.is_generated(own.__func__):  # type: ignore[arg-type]
            return False, None
        return True, self.call(own, *args[1:])

    def _isinstance(self, x: Any, classes: Any) -> bool:
        if isinstance(x, text.TracedText):
            return issubclass(str, classes)
        if isinstance(x, SymbolicScalar):
            return issubclass(x.python_type, classes)
        if isinstance(x, Dim) and decider() is not None:
            return issubclass(int, classes)
        if isinstance(x, array_mode.ArrayTracer):
            return issubclass(x.stands_for, classes)
        return isinstance(x, classes)


def _module_of_builtin(f: Any) -> str:
    owner = getattr(f, "__self__", None)
    return owner.__name__ if isinstance(owner, types.ModuleType) else ""
