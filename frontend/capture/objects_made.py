"""Objects that a call makes and hands out (results, attributes, elements of containers): how later calls make their own."""

from __future__ import annotations

import functools
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any, Callable, Sequence

from ..tensor import Tensor
from . import guards as g
from . import policy, pytree
from .effects import (
    CHANGEABLE,
    IMMUTABLE,
    Action,
    Apply,
    Composite,
    Container,
    Found,
    HostCall,
    Instance,
    Make,
    Mutate,
    Pending,
    SetAttribute,
    SetCell,
)
from .instrument import original_code
from .lazy import LazyNumber
from .origins import Call
from .replay import Static
from .text import Frozen, TracedText

if TYPE_CHECKING:
    from .capture import _Finish

Remember = Callable[[Any], Any]


class CellOf(Composite):
    """A closure cell that the call has made; functions that share it go on sharing it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.parts = ()

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        out = made[id(self)] = types.CellType()
        for p in self.parts:
            out.cell_contents = make(p)
        return out


class Function(Composite):
    """A function that the call has made. parts: its cells, its defaults, its keyword-only defaults."""

    __slots__ = ("code", "kwdefaults", "like", "n")

    def __init__(self, code: types.CodeType, like: types.FunctionType):
        self.code, self.like, self.n, self.parts = code, like, len(code.co_freevars), ()
        self.kwdefaults = tuple(like.__kwdefaults__ or ())

    def build(self, make: Make, made: dict[int, Any], call: Call | None) -> Any:
        cells = tuple([make(p) for p in self.parts[: self.n]])
        if id(self) in made:  # one of the cells led back here
            return made[id(self)]
        like = self.like
        out = types.FunctionType(self.code, like.__globals__, like.__name__, None, cells)
        made[id(self)] = out
        out.__qualname__, out.__module__, out.__doc__ = like.__qualname__, like.__module__, like.__doc__
        rest = [make(p) for p in self.parts[self.n :]]
        n = len(rest) - len(self.kwdefaults)
        out.__defaults__ = tuple(rest[:n]) or None
        out.__kwdefaults__ = dict(zip(self.kwdefaults, rest[n:])) or None
        return out


def actions(pending: Sequence[Pending], finish: "_Finish") -> list[Action]:
    """The effects of a finished trace, with recipes for their values."""
    out = []
    for p in pending:
        if isinstance(p, (SetAttribute, SetCell)):
            values: tuple = (p.value,)
        elif isinstance(p, Mutate):
            values = p.args
        elif isinstance(p, HostCall):
            values = (*p.args, *p.kwargs.values())
        else:
            values = ()
        out.append(Action(p, tuple([finish.recipe(v) for v in values])))
    return out


def composite(x: Any, finish: "_Finish", remember: Callable[[Any], Any]) -> Any:
    """The recipe of a value that is no tensor, array or constant; None if there is none. `remember` is told of a recipe
    before those of its parts are made: they may lead back to it."""
    overlay = finish.hooks.overlay
    if isinstance(x, LazyNumber):
        return remember(Found(x.origin))
    if id(x) in overlay.tracked or id(x) in overlay.given or id(x) in overlay.origins:
        return remember(Found(overlay.tracked[id(x)].origin if id(x) in overlay.tracked else overlay.origin_of(x)))
    kind = type(x)
    if kind in (list, tuple, set, frozenset, dict, OrderedDict, Counter, defaultdict, deque) or pytree.is_namedtuple(
        kind
    ):
        return _container(x, kind, finish, remember)
    return recipe(x, finish, remember)


def _container(x: Any, kind: type, finish: "_Finish", remember: Callable[[Any], Any]) -> Any:
    external = (
        id(x) in finish.tracer.external or kind in (deque, Counter, defaultdict) and id(x) not in finish.tracer.created
    )
    if external and kind not in (tuple, frozenset) and not pytree.is_namedtuple(kind):
        return remember(Static(x))
    if kind in (set, frozenset):
        if not all(g.is_value(v) for v in x):
            finish.tracer.stop(f"it keeps a {kind.__name__} of more than plain values")
        out = remember(Container(kind, ()))
        out.parts = tuple([finish.recipe(v) for v in x])
        return out
    if isinstance(x, dict):
        keys = tuple(k.settle() if isinstance(k, LazyNumber) else k for k in x)
        if any(isinstance(k, Tensor) for k in keys):
            finish.tracer.stop("it keeps a dict with tensors as keys")
        extra = (x.default_factory,) if isinstance(x, defaultdict) else ()
        out = remember(Container(kind, keys, extra))
        out.parts = tuple([finish.recipe(v) for v in x.values()])
        return out
    out = remember(Container(kind, (), (x.maxlen,) if isinstance(x, deque) else ()))
    out.parts = tuple([finish.recipe(v) for v in x])
    return out


def recipe(x: Any, finish: "_Finish", remember: Remember) -> Any:
    """The recipe of an object that this trace has made; None for anything else."""
    if isinstance(x, (TracedText, Frozen)):
        return x.recipe(finish, remember)
    if isinstance(x, types.FunctionType):
        return _function(x, finish, remember)
    if isinstance(x, types.CellType):
        return _cell(x, finish, remember)
    if isinstance(x, types.MethodType) and _is_made(x, finish):
        out = remember(Apply(types.MethodType))
        out.parts = (finish.recipe(x.__func__), finish.recipe(x.__self__))
        return out
    if type(x) is functools.partial and _is_made(x, finish):
        out = remember(Apply(_partial))
        out.parts = (finish.recipe(x.func), finish.recipe(tuple(x.args)), finish.recipe(dict(x.keywords)))
        return out
    plain = policy.is_user(type(x)) or type(x) is types.SimpleNamespace or type(x) in pytree.RECORDS
    plain = plain or policy.is_module(x)
    if id(x) in finish.tracer.created and plain and not isinstance(x, type):
        return _instance(x, finish, remember)
    return None


def _is_made(x: Any, finish: "_Finish") -> bool:
    if isinstance(x, types.FunctionType):
        return original_code(x.__code__) is not None
    if isinstance(x, types.MethodType):
        return _is_made(x.__func__, finish) or _is_made(x.__self__, finish)
    return id(x) in finish.tracer.created


def _partial(function: Any, args: tuple, keywords: dict[str, Any]) -> Any:
    return functools.partial(function, *args, **keywords)


def _function(f: types.FunctionType, finish: "_Finish", remember: Remember) -> Any:
    code = original_code(f.__code__)
    if code is None:
        return None
    real = finish.hooks.function_of(f)
    if real is not None:  # the copy of one that is there already
        return remember(Static(real))
    if vars(f):
        finish.tracer.stop(f"it hands out {f.__qualname__}, a function with attributes that it has made")
    cells = dict(zip(f.__code__.co_freevars, f.__closure__ or ()))
    if any(n not in cells for n in code.co_freevars):
        finish.tracer.stop(f"it hands out {f.__qualname__}, which assigns variables of the function around it")
    out = remember(Function(code, f))
    defaults = (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values())
    out.parts = tuple([finish.recipe(v) for v in (*[cells[n] for n in code.co_freevars], *defaults)])
    return out


def _cell(cell: types.CellType, finish: "_Finish", remember: Remember) -> Any:
    if finish.hooks.is_outside(cell):
        return remember(Static(cell))
    out = remember(CellOf())
    try:
        content = cell.cell_contents
    except ValueError:
        return out
    out.parts = (finish.recipe(content),)
    return out


def _instance(x: Any, finish: "_Finish", remember: Remember) -> Any:
    kind = type(x)
    base = (
        object
        if kind in pytree.RECORDS or policy.is_module(x)
        else next(c for c in kind.__mro__ if not policy.is_user(c))
    )
    content: tuple = ()
    if base in IMMUTABLE:
        content = (base(x),)
    elif base in CHANGEABLE:
        content = (dict(x) if isinstance(x, dict) else list(x),)
    elif base not in (object, types.SimpleNamespace):
        finish.tracer.stop(f"it hands out a {kind.__name__} that it has made")
    if "<locals>" in kind.__qualname__ and _is_new(kind, finish):
        finish.tracer.stop(f"it hands out a {kind.__name__}, whose class it has made too")
    names: list[str] = list(getattr(x, "__dict__", ()))
    slots = set()
    for c in kind.__mro__ if base is not types.SimpleNamespace else ():
        for name, member in vars(c).items():
            if isinstance(member, types.MemberDescriptorType) and name not in names and hasattr(x, name):
                slots.add(name)
                names.append(name)
    out = remember(Instance(kind, base, tuple(names), frozenset(slots)))
    out.parts = tuple([finish.recipe(v) for v in (*content, *(getattr(x, name) for name in names))])
    return out


def _is_new(kind: type, finish: "_Finish") -> bool:
    """Whether the class itself was made by the call."""
    return any(isinstance(v, types.FunctionType) and original_code(v.__code__) is not None for v in vars(kind).values())


def whole(result: Any, finish: "_Finish") -> Callable[[Any], bool]:
    """Which containers in a result are not taken apart: those that existed before, and those that are also elsewhere."""
    times: dict[int, int] = {}
    overlay, external = finish.hooks.overlay, finish.tracer.external

    def count(c: Any) -> None:
        times[id(c)] = times.get(id(c), 0) + 1

    pytree.containers(result, count)

    def decide(c: Any) -> bool:
        if id(c) in finish.made or id(c) in overlay.given or id(c) in overlay.tracked or times.get(id(c), 0) > 1:
            return True
        return id(c) in external and not isinstance(c, tuple)

    return decide
