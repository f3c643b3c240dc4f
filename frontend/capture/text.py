"""Text with values of tensors in it, while those have no values yet: strings with holes that every call fills in.

f-strings, `str.format`, `%`, `join`, `str`, `repr` and `print` of tensors (and of containers and objects that hold some)
give a `TracedText`. What needs its characters (a comparison, `len`, slicing) ends the capture.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import string
import types
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ...ir.decider import decider
from ...ir.dim import Dim
from ..state import SymbolicScalar, state
from ..tensor import Tensor, new_tensor
from . import guards as g
from . import policy, pytree
from .array_mode import ArrayTracer, NumberTracer
from .effects import Shown, Text
from .lazy import LazyNumber
from .scalars import ScalarArgument

if TYPE_CHECKING:
    from .capture import _Finish
    from .objects import ObjectHooks

_CONVERSIONS: dict[str, Callable[[Any], str]] = {"s": str, "r": repr, "a": ascii}
_PERCENT = re.compile(r"%(?:\((?P<key>[^)]*)\))?(?P<spec>[#0\- +]*(?:\d+)?(?:\.\d+)?[hlL]?(?P<kind>[a-zA-Z%]))")


class Frozen:
    """A tensor (or number in the graph) as it is when it is turned into text."""

    __slots__ = ("history", "kind", "part", "requires_grad")

    def __init__(self, v: Any, tracer: Any):
        self.requires_grad, self.history, self.kind = False, None, "tensor"
        if isinstance(v, SymbolicScalar):
            self.part, self.kind = new_tensor(v.value, Tensor), "python"  # type: ignore[attr-defined]
            return
        cls = NumberTracer if isinstance(v, NumberTracer) else ArrayTracer if isinstance(v, ArrayTracer) else Tensor
        self.part: Any = new_tensor(tracer.read(v), cls)
        if cls is not Tensor:
            self.kind = "array"
        elif v._node is not None:
            self.history = v._node[0].name
        else:
            self.requires_grad = bool(v._requires_grad)

    def recipe(self, finish: "_Finish", remember: Callable[[Any], Any]) -> Any:
        return remember(Shown(finish.recipe(self.part), self.kind, self.requires_grad, self.history))


class Hole:
    """A place in a text: `render` makes a string of the value."""

    __slots__ = ("render", "value")

    def __init__(self, value: Any, render: Callable[[Any], str]):
        self.value, self.render = value, render


class TracedText:
    """Stands for a str. `pieces`: strings and holes."""

    __slots__ = ("hooks", "pieces")

    def __init__(self, hooks: "ObjectHooks", pieces: list[Any]):
        self.hooks, self.pieces = hooks, pieces

    def recipe(self, finish: "_Finish", remember: Callable[[Any], Any]) -> Any:
        out = remember(Text([p if isinstance(p, str) else p.render for p in self.pieces]))
        out.parts = tuple([finish.recipe(p.value) for p in self.pieces if not isinstance(p, str)])
        return out

    def __add__(self, other: Any) -> Any:
        return join(self.hooks, [self, other]) if isinstance(other, (str, TracedText)) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return join(self.hooks, [other, self]) if isinstance(other, str) else NotImplemented

    def __mul__(self, n: Any) -> Any:
        return join(self.hooks, [self] * n.__index__())

    __rmul__ = __mul__

    def _needed(self, *_: Any) -> NoReturn:
        self.hooks.tracer.stop("it looks into text that has the values of tensors in it")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __len__ = __getitem__ = __iter__ = _needed  # type: ignore[assignment]
    __contains__ = __mod__ = _needed  # type: ignore[assignment]

    def __str__(self) -> str:
        if state.tracer is not None:
            self._needed()
        return "".join(
            [p if isinstance(p, str) else "{...}" for p in self.pieces]
        )  # in the error of a trace that is over

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __bool__(self) -> bool:
        return any(isinstance(p, str) and p for p in self.pieces) or self._needed()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._needed()


def join(hooks: "ObjectHooks", parts: list[Any]) -> Any:
    """One text of several: a str if all of them are."""
    if all(isinstance(p, str) for p in parts):
        return "".join(parts)
    pieces: list[Any] = []
    for p in parts:
        pieces += p.pieces if isinstance(p, TracedText) else [p]
    return TracedText(hooks, pieces)


def _render(conversion: str | None, spec: str, v: Any) -> str:
    return format(v if conversion is None else _CONVERSIONS[conversion](v), spec)


def formatted(hooks: "ObjectHooks", v: Any, conversion: str | None = None, spec: Any = "") -> Any:
    """`format(v, spec)`, after `str`, `repr` or `ascii` as `conversion` says ("s", "r", "a")."""
    if isinstance(spec, TracedText):
        hooks.tracer.stop("it formats with a width or precision that is the value of a tensor")
    render = functools.partial(_render, conversion, spec)
    if isinstance(v, TracedText):
        return v if not spec and conversion != "r" and conversion != "a" else TracedText(hooks, [Hole(v, render)])
    if isinstance(v, (LazyNumber,)):
        return TracedText(hooks, [Hole(v, render)])
    if isinstance(v, ScalarArgument) and v.original or isinstance(v, Dim) and decider() is not None:
        return TracedText(hooks, [Hole(v, render)])
    if isinstance(v, (Tensor, SymbolicScalar)):
        if isinstance(v, SymbolicScalar) and not hasattr(v, "value"):
            hooks.tracer.stop(f"it turns a {type(v).__name__} into text")
        return TracedText(hooks, [Hole(Frozen(v, hooks.tracer), render)])
    if g.is_value(v):
        return render(v)
    own = _own_text(hooks, v, conversion, spec)
    if own is None:
        hooks.tracer.stop(f"it turns a {type(v).__name__} into text")
    if isinstance(own, str):
        return format(own, spec)
    return own if not spec else TracedText(hooks, [Hole(own, functools.partial(_render, None, spec))])


def _own_text(hooks: "ObjectHooks", v: Any, conversion: str | None, spec: str) -> Any:
    """The text of something that is no plain value."""
    if not isinstance(v, type):
        if conversion is None and hooks.special(v, "__format__"):
            return hooks.call(types.MethodType(type(v).__format__, v), spec)
        if conversion in (None, "s") and hooks.special(v, "__str__"):
            return hooks.call(types.MethodType(type(v).__str__, v))
        if _prints_its_fields(v):
            return _of_dataclass(hooks, v)
        own = hooks.special(v, "__repr__")
        if own is not None:
            return hooks.call(types.MethodType(own, v))
    if isinstance(v, BaseException):
        return _of_exception(hooks, v, conversion)
    if isinstance(v, (type, types.ModuleType, types.BuiltinFunctionType)):
        return repr(v)
    return _of_container(hooks, hooks.overlay.plain(v))


def _prints_its_fields(v: Any) -> bool:
    """Whether `__repr__` is the one that `dataclass` has generated."""
    own = getattr(type(v).__repr__, "__wrapped__", None)
    return dataclasses.is_dataclass(v) and isinstance(own, types.FunctionType) and policy.is_generated(own)


def _of_dataclass(hooks: "ObjectHooks", v: Any) -> Any:
    shown = [f.name for f in dataclasses.fields(v) if f.repr]
    parts: list[Any] = [type(v).__qualname__, "("]
    for i, name in enumerate(shown):
        parts += [", " if i else "", f"{name}=", formatted(hooks, hooks.attribute(v, name), "r")]
    return join(hooks, [*parts, ")"])


def _of_exception(hooks: "ObjectHooks", e: BaseException, conversion: str | None) -> Any:
    args = e.args
    if conversion in ("r", "a"):
        inside = _listed(hooks, args)
        return join(hooks, [type(e).__name__, "(", *inside, ")"])
    if not args:
        return ""
    if len(args) > 1:
        return formatted(hooks, args, "s") if type(e).__str__ is BaseException.__str__ else str(e)
    return formatted(hooks, list(args)[0], "r" if isinstance(e, KeyError) else "s")


def _listed(hooks: "ObjectHooks", values: Any) -> list[Any]:
    out: list[Any] = []
    for i, x in enumerate(values):
        out += [", " if i else "", formatted(hooks, x, "r")]
    return out


def _of_container(hooks: "ObjectHooks", v: Any) -> Any:
    kind = type(v)
    if kind is list:
        return join(hooks, ["[", *_listed(hooks, v), "]"])
    if kind is tuple:
        return join(hooks, ["(", *_listed(hooks, v), ",)" if len(v) == 1 else ")"])
    if kind is dict:
        parts: list[Any] = []
        for i, (k, x) in enumerate(v.items()):
            parts += [", " if i else "", formatted(hooks, k, "r"), ": ", formatted(hooks, x, "r")]
        return join(hooks, ["{", *parts, "}"])
    if kind in (set, frozenset) and all(map(g.is_value, v)):
        return repr(v)
    if pytree.is_namedtuple(kind) and not hooks.special(v, "__repr__"):
        parts = []
        for i, name in enumerate(kind._fields):  # type: ignore[attr-defined]
            parts += [", " if i else "", f"{name}=", formatted(hooks, v[i], "r")]
        return join(hooks, [kind.__name__, "(", *parts, ")"])
    return None


def joined(hooks: "ObjectHooks", separator: Any, values: Any) -> Any:
    """`separator.join(values)`"""
    values = list(values)
    if isinstance(separator, str) and not any(isinstance(x, TracedText) for x in values):
        return separator.join(values)
    parts: list[Any] = []
    for i, x in enumerate(values):
        if not isinstance(x, (str, TracedText)):
            raise TypeError(f"sequence item {i}: expected str instance, {type(x).__name__} found")
        parts += [separator, x] if i else [x]
    return join(hooks, parts)


def str_format(hooks: "ObjectHooks", text: str, args: tuple, kwargs: Any) -> Any:
    """`text.format(*args, **kwargs)`"""
    if all(g.is_value(x) for x in (*args, *kwargs.values())):
        return text.format(*args, **kwargs)
    return _format(hooks, text, args, kwargs, [0])


def _format(hooks: "ObjectHooks", text: str, args: tuple, kwargs: Any, counter: list[int]) -> Any:
    parts: list[Any] = []
    for literal, field, spec, conversion in string.Formatter().parse(text):
        parts.append(literal)
        if field is None:
            continue
        first, rest = re.match(r"([^.\[]*)(.*)", field, re.S).groups()  # type: ignore[union-attr]
        if first == "":
            first, counter[0] = str(counter[0]), counter[0] + 1
        v = args[int(first)] if first.isdigit() else kwargs[first]
        for name, key in re.findall(r"\.([^.\[]+)|\[([^\]]+)\]", rest):
            v = hooks.attribute(v, name) if name else hooks.indexed(v)[int(key) if key.isdigit() else key]
        parts.append(formatted(hooks, v, conversion, _format(hooks, spec or "", args, kwargs, counter)))
    return join(hooks, parts)


def percent(hooks: "ObjectHooks", text: Any, values: Any) -> Any:
    """`text % values`"""
    if isinstance(text, bytes) or _is_static(values):
        return text % values
    named = isinstance(values, dict)
    rest = [] if named else list(values) if isinstance(values, tuple) else [values]
    parts: list[Any] = []
    end = 0
    for m in _PERCENT.finditer(text):
        parts.append(text[end : m.start()])
        end = m.end()
        if m["kind"] == "%":
            parts.append("%")
            continue
        if not named and not rest:
            raise TypeError("not enough arguments for format string")
        v = values[m["key"]] if named else rest.pop(0)
        parts.append(_percent(hooks, f"%{m['spec']}", m["kind"], v))
    if rest:
        raise TypeError("not all arguments converted during string formatting")
    return join(hooks, [*parts, text[end:]])


def _percent(hooks: "ObjectHooks", spec: str, kind: str, v: Any) -> Any:
    if g.is_value(v):
        return spec % (v,)
    if kind in "sra":
        v = formatted(hooks, v, kind)
        return v if spec[1:] == kind and not isinstance(v, str) else _render_percent(hooks, f"{spec[:-1]}s", v)
    if isinstance(v, LazyNumber) or isinstance(v, ScalarArgument) and v.original:
        return TracedText(hooks, [Hole(v, functools.partial(_apply_percent, spec))])
    if isinstance(v, (Tensor, SymbolicScalar)):
        return TracedText(hooks, [Hole(Frozen(v, hooks.tracer), functools.partial(_apply_percent, spec))])
    hooks.tracer.stop(f"it turns a {type(v).__name__} into text")


def _render_percent(hooks: "ObjectHooks", spec: str, v: Any) -> Any:
    if isinstance(v, str):
        return spec % (v,)
    return TracedText(hooks, [Hole(v, functools.partial(_apply_percent, spec))])


def _apply_percent(spec: str, v: Any) -> str:
    return spec % (v,)


def _is_static(v: Any) -> bool:
    if isinstance(v, (list, tuple)):
        return all(map(_is_static, v))
    if isinstance(v, dict):
        return all(map(_is_static, v.values()))
    return g.is_value(v)
