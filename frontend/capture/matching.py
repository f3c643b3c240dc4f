"""`match` statements: lowered to `if` with a hook that takes subjects apart as Python does, through the other hooks.

case Point(x=0, y=b) if b > 1:    if (__tfm__ := __tf__.match(subject, pattern)) is not None and ...
"""

from __future__ import annotations

import ast
import collections.abc
from typing import TYPE_CHECKING, Any, Callable

from ..tensor import Tensor

if TYPE_CHECKING:
    from .objects import ObjectHooks

_FOUND = "__tfm__"
_PLAIN = (bool, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)  # match themselves, positionally


# ------------------------------------------------------------------ syntax


def lower(node: ast.Match, subject: str, visit: Callable[[Any], Any], test: Callable[..., Any]) -> list[ast.stmt]:
    """The statements for `node`, whose subject is in the local variable `subject`. `visit`: instruments an expression
    or statement; `test(*args)`: the call of the hook."""
    rest: list[ast.stmt] = []
    for case in reversed(node.cases):
        spec, names = _pattern(case.pattern, visit)
        found = ast.NamedExpr(ast.Name(_FOUND, ast.Store()), test(ast.Name(subject, ast.Load()), spec))
        parts: list[ast.expr] = [ast.Compare(found, [ast.IsNot()], [ast.Constant(None)])]
        for name in names:
            value = ast.Subscript(ast.Name(_FOUND, ast.Load()), ast.Constant(name), ast.Load())
            bound = ast.NamedExpr(ast.Name(name, ast.Store()), value)
            parts.append(ast.Tuple([bound], ast.Load()))  # true, whatever is bound
        if case.guard is not None:
            parts.append(visit(case.guard))
        condition = parts[0] if len(parts) == 1 else ast.BoolOp(ast.And(), parts)
        body = [visit(s) for s in case.body]
        made = ast.If(condition, body, rest)
        rest = [ast.copy_location(made, case.body[0])]
        for n in ast.walk(condition):
            if isinstance(n, ast.expr) and not hasattr(n, "lineno"):
                ast.copy_location(n, case.pattern)
    return rest


def _tuple(*items: ast.expr) -> ast.Tuple:
    return ast.Tuple(list(items), ast.Load())


def _pattern(p: ast.pattern | None, visit: Callable[[Any], Any]) -> tuple[ast.expr, list[str]]:
    """(an expression that makes the description of the pattern, the names that it binds)"""
    constant = ast.Constant
    if p is None:
        return _tuple(constant("any")), []
    if isinstance(p, ast.MatchValue):
        return _tuple(constant("value"), visit(p.value)), []
    if isinstance(p, ast.MatchSingleton):
        return _tuple(constant("is"), constant(p.value)), []
    if isinstance(p, ast.MatchStar):
        return _tuple(constant("star"), constant(p.name)), [p.name] if p.name else []
    if isinstance(p, ast.MatchAs):
        inner, names = _pattern(p.pattern, visit)
        return _tuple(constant("as"), inner, constant(p.name)), [*names, *([p.name] if p.name else [])]
    if isinstance(p, ast.MatchOr):
        made = [_pattern(q, visit) for q in p.patterns]
        return _tuple(constant("or"), *[m[0] for m in made]), made[0][1]
    if isinstance(p, ast.MatchSequence):
        made = [_pattern(q, visit) for q in p.patterns]
        return _tuple(constant("sequence"), *[m[0] for m in made]), [n for m in made for n in m[1]]
    if isinstance(p, ast.MatchMapping):
        made = [_pattern(q, visit) for q in p.patterns]
        keys = _tuple(*[visit(k) for k in p.keys])
        names = [n for m in made for n in m[1]] + ([p.rest] if p.rest else [])
        return _tuple(constant("mapping"), keys, _tuple(*[m[0] for m in made]), constant(p.rest)), names
    assert isinstance(p, ast.MatchClass)
    made = [_pattern(q, visit) for q in (*p.patterns, *p.kwd_patterns)]
    n = len(p.patterns)
    positional, keyword = _tuple(*[m[0] for m in made[:n]]), _tuple(*[m[0] for m in made[n:]])
    names = [name for m in made for name in m[1]]
    return _tuple(constant("class"), visit(p.cls), positional, _tuple(*map(constant, p.kwd_attrs)), keyword), names


# ------------------------------------------------------------------ meaning


def match(hooks: "ObjectHooks", subject: Any, pattern: tuple) -> dict[str, Any] | None:
    """What the names of the pattern are bound to; None if it does not match."""
    bound: dict[str, Any] = {}
    return bound if _matches(hooks, subject, pattern, bound) else None


def _matches(hooks: "ObjectHooks", x: Any, pattern: tuple, bound: dict[str, Any]) -> bool:
    kind = pattern[0]
    if kind == "any":
        return True
    if kind == "value":
        return bool(hooks.test(hooks.compared(x) == hooks.compared(pattern[1])))
    if kind == "is":
        return x is pattern[1]
    if kind == "as":
        if not _matches(hooks, x, pattern[1], bound):
            return False
        if pattern[2] is not None:
            bound[pattern[2]] = x
        return True
    if kind == "or":
        return any(_matches(hooks, x, p, bound) for p in pattern[1:])
    if kind == "sequence":
        return _sequence(hooks, x, pattern[1:], bound)
    if kind == "mapping":
        return _mapping(hooks, x, pattern, bound)
    return _class(hooks, x, pattern, bound)


def _sequence(hooks: "ObjectHooks", x: Any, patterns: tuple, bound: dict[str, Any]) -> bool:
    if not isinstance(x, collections.abc.Sequence) or isinstance(x, (str, bytes, bytearray, Tensor)):
        return False
    values = list(hooks.iterate(x))
    star = next((i for i, p in enumerate(patterns) if p[0] == "star"), None)
    if star is None:
        if len(values) != len(patterns):
            return False
        return all(_matches(hooks, v, p, bound) for v, p in zip(values, patterns))
    after = len(patterns) - star - 1
    if len(values) < star + after:
        return False
    end = len(values) - after
    ends = zip((*values[:star], *values[end:]), (*patterns[:star], *patterns[star + 1 :]))
    if not all(_matches(hooks, v, p, bound) for v, p in ends):
        return False
    if patterns[star][1] is not None:
        bound[patterns[star][1]] = values[star:end]
    return True


def _mapping(hooks: "ObjectHooks", x: Any, pattern: tuple, bound: dict[str, Any]) -> bool:
    _, keys, patterns, rest = pattern
    if not isinstance(x, collections.abc.Mapping):
        return False
    missing = object()
    values = [hooks.call(hooks.attribute(x, "get"), k, missing) for k in keys]
    if any(v is missing for v in values):
        return False
    if not all(_matches(hooks, v, p, bound) for v, p in zip(values, patterns)):
        return False
    if rest is not None:
        bound[rest] = {k: v for k, v in dict(hooks.overlay.plain(x)).items() if k not in keys}
    return True


def _class(hooks: "ObjectHooks", x: Any, pattern: tuple, bound: dict[str, Any]) -> bool:
    _, cls, positional, names, keyword = pattern
    if not isinstance(cls, type):
        raise TypeError("called match pattern must be a class")
    if not hooks.call(isinstance, x, cls):
        return False
    if positional:
        if cls in _PLAIN and len(positional) == 1:
            if not _matches(hooks, x, positional[0], bound):
                return False
        else:
            known = getattr(cls, "__match_args__", ())
            if len(positional) > len(known):
                n = len(known)
                raise TypeError(
                    f"{cls.__name__}() accepts {n} positional sub-pattern{'s' * (n != 1)} ({len(positional)} given)"
                )
            names, keyword = (*known[: len(positional)], *names), (*positional, *keyword)
    for name, p in zip(names, keyword):
        try:
            v = hooks.attribute(x, name)
        except AttributeError:
            return False
        if not _matches(hooks, v, p, bound):
            return False
    return True
