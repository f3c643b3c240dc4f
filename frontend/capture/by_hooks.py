"""Builtins that would call special methods of the user's classes out of C, where no hook sees it: the same in terms of
hooks. They serve calls in which such objects take part, or iterators, which may give some; `find` says whether."""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
import types
from collections import deque
from typing import TYPE_CHECKING, Any, Callable

from . import policy

if TYPE_CHECKING:
    from .objects import ObjectHooks

_MISSING = object()
_METHODS = ("eq", "lt", "gt", "le", "ge", "add", "radd", "bool", "len", "int", "float", "index", "hash", "str")
_SEQUENCES = (list, tuple, deque)


def is_special(v: Any) -> bool:
    """Whether the class of `v` is the user's, and has special methods that builtins call."""
    kind = type(v)
    return policy.is_user(kind) and not policy.is_module(v) and any(policy.user_dunder(v, f"__{m}__") for m in _METHODS)


def holds_special(v: Any, depth: int = 0) -> bool:
    """Whether such an object is `v`, or in it."""
    if type(v) in (list, tuple, set, frozenset, deque, dict) and depth < 3:
        return any(holds_special(x, depth + 1) for x in (v.values() if type(v) is dict else v))
    return is_special(v)


def find(f: Any, args: tuple) -> Callable[..., Any] | None:
    """What to call instead of the builtin `f`, with the hooks in front of the arguments."""
    if not isinstance(f, (types.BuiltinFunctionType, types.MethodWrapperType)) and f is not map and f is not filter:
        return None
    made = _FUNCTIONS.get(f)
    if made is not None and any(hasattr(type(a), "__next__") or holds_special(a) for a in args):
        return made
    owner = getattr(f, "__self__", None)
    if type(owner) in _SEQUENCES and f.__name__ in _OF_SEQUENCES and any(map(holds_special, (owner, *args))):
        return functools.partial(_with_owner, _OF_SEQUENCES[f.__name__], owner)
    return None


def same(hooks: "ObjectHooks", a: Any, b: Any) -> bool:
    """`a is b or a == b`"""
    return a is b or bool(hooks.test(hooks.compared(a) == hooks.compared(b)))


def contains(hooks: "ObjectHooks", values: Any, x: Any) -> bool:
    """`x in values`, for sequences and iterators"""
    return any(same(hooks, v, x) for v in hooks.iterate(values))


# ------------------------------------------------------------------ functions


def _sum(hooks: "ObjectHooks", values: Any, /, start: Any = 0) -> Any:
    for x in hooks.iterate(values):
        start = hooks.binary("+", start, x)
    return start


def _any(hooks: "ObjectHooks", values: Any) -> bool:
    for x in hooks.iterate(values):
        if hooks.test(x):
            return True
    return False


def _all(hooks: "ObjectHooks", values: Any) -> bool:
    for x in hooks.iterate(values):
        if not hooks.test(x):
            return False
    return True


def _extreme(further: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def extreme(hooks: "ObjectHooks", *args: Any, key: Any = None, default: Any = _MISSING) -> Any:
        best: Any = _MISSING
        best_key: Any = None
        for x in hooks.iterate(args[0]) if len(args) == 1 else args:
            k = x if key is None else hooks.call(key, x)
            if best is _MISSING or hooks.test(further(hooks.compared(k), hooks.compared(best_key))):
                best, best_key = x, k
        if best is not _MISSING:
            return best
        return max(()) if default is _MISSING else default  # raises

    return extreme


def _sorted(hooks: "ObjectHooks", values: Any, *, key: Any = None, reverse: bool = False) -> list:
    def compared(x: Any) -> Any:
        return hooks.compared(x if key is None else hooks.call(key, x))

    return hooks.own(sorted(hooks.iterate(values), key=compared, reverse=reverse))


def _map(hooks: "ObjectHooks", f: Any, *values: Any) -> Any:
    return hooks.own(hooks.call(f, *xs) for xs in zip(*[hooks.iterate(v) for v in values]))


def _filter(hooks: "ObjectHooks", f: Any, values: Any) -> Any:
    return hooks.own(x for x in hooks.iterate(values) if hooks.test(x if f is None else hooks.call(f, x)))


def _reduce(hooks: "ObjectHooks", f: Any, values: Any, *initial: Any) -> Any:
    return functools.reduce(functools.partial(hooks.call, f), hooks.iterate(values), *initial)


def _operator(symbol: str) -> Callable[..., Any]:
    return lambda hooks, a, b: hooks.binary(symbol, a, b)


def _comparison(name: str) -> Callable[..., Any]:
    return lambda hooks, a, b: getattr(operator, name)(hooks.compared(a), hooks.compared(b))


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    sum: _sum,
    any: _any,
    all: _all,
    max: _extreme(operator.gt),
    min: _extreme(operator.lt),
    sorted: _sorted,
    map: _map,
    filter: _filter,
    functools.reduce: _reduce,
    operator.add: _operator("+"),
    operator.sub: _operator("-"),
    operator.mul: _operator("*"),
    operator.truediv: _operator("/"),
    operator.contains: contains,
    **{getattr(operator, n): _comparison(n) for n in ("eq", "ne", "lt", "le", "gt", "ge")},
}


# ------------------------------------------------------------------ functions of `dataclasses`


def _replace(hooks: "ObjectHooks", obj: Any, /, **changes: Any) -> Any:
    for field in dataclasses.fields(obj):
        if field.init and field.name not in changes:
            changes[field.name] = hooks.attribute(obj, field.name)
    return hooks.call(type(obj), **changes)


def _asdict(hooks: "ObjectHooks", obj: Any) -> dict[str, Any]:
    return hooks.own(
        {f.name: _taken_apart(hooks, _asdict, hooks.attribute(obj, f.name)) for f in dataclasses.fields(obj)}
    )


def _astuple(hooks: "ObjectHooks", obj: Any) -> tuple:
    return tuple([_taken_apart(hooks, _astuple, hooks.attribute(obj, f.name)) for f in dataclasses.fields(obj)])


def _taken_apart(hooks: "ObjectHooks", make: Callable[..., Any], v: Any) -> Any:
    if dataclasses.is_dataclass(v) and not isinstance(v, type):
        return make(hooks, v)
    kind: Any = type(v)
    if kind in (list, tuple):
        return hooks.own(kind(_taken_apart(hooks, make, x) for x in hooks.iterate(v)))
    if kind is dict:
        return hooks.own({k: _taken_apart(hooks, make, x) for k, x in hooks.overlay.plain(v).items()})
    return hooks.call(copy.deepcopy, v)


OF_DATACLASSES = {dataclasses.replace: _replace, dataclasses.asdict: _asdict, dataclasses.astuple: _astuple}


# ------------------------------------------------------------------ methods of sequences


def _index(hooks: "ObjectHooks", values: Any, x: Any, *between: int) -> int:
    for i in range(*slice(*between, *(() if len(between) > 1 else (None,))).indices(len(values))):
        if same(hooks, values[i], x):
            return i
    return [].index(x)  # raises


def _count(hooks: "ObjectHooks", values: Any, x: Any) -> int:
    return sum(same(hooks, v, x) for v in values)


def _remove(hooks: "ObjectHooks", values: Any, x: Any) -> None:
    i = _index(hooks, values, x)
    hooks.container(values).__delitem__(i)


def _sort(hooks: "ObjectHooks", values: Any, *, key: Any = None, reverse: bool = False) -> None:
    hooks.container(values).__setitem__(slice(None), _sorted(hooks, values, key=key, reverse=reverse))


_OF_SEQUENCES = {"index": _index, "count": _count, "remove": _remove, "sort": _sort, "__contains__": contains}


def _with_owner(f: Callable[..., Any], owner: Any, hooks: "ObjectHooks", *args: Any, **kwargs: Any) -> Any:
    tracked = hooks.overlay.tracked_of(owner)
    return f(hooks, owner if tracked is None else tracked.plain(), *args, **kwargs)
