"""Loops of user functions, written so that they can close: the test and the body are there a second time, as functions of
the variables that the loop assigns.

    while test:          __tf_loop = __tf__.loop(("a", "b"), (False, True))
        body             def __tf_test(a, b): return test
    else:                def __tf_body(a, b):
        other                body                       # continue: return (GOING, (a, b)); break: return (BROKEN, (a, b))
                             return (GOING, (a, b))     # return x: return (FIRST_EXIT, (a, b))
                         while __tf_loop.open(__tf_test, __tf_body, (lambda: a, lambda: b)) and __tf__.test(test):
                             body
                         else:
                             if __tf_loop.closed: (a, b) = __tf_loop.values
                             if __tf_loop.left(FIRST_EXIT): return x
                             if __tf_loop.ended(): other

`for i in xs` likewise, with `__tf_loop.over(...)` in place of `xs`. `open` and `over` try to close the loop, and then end it;
where that fails it goes on as it was: see `loops`. What leaves the loop (`return`, `raise`, `assert`) says so by its number,
and is done behind it, with the variables as they are there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

GOING, ENDED, BROKEN, FIRST_EXIT = range(4)  # how a step ends; the exits have numbers of their own

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_REFUSED = (
    ast.Yield, ast.YieldFrom, ast.Await, ast.Delete, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom,
    ast.AsyncFor, ast.AsyncWith, ast.TryStar, *_SCOPES,
)  # fmt: skip
_WALKS = ("range", "enumerate", "zip", "reversed")  # functions whose results loops go along without making them
Loop = ast.While | ast.For


# ------------------------------------------------------------------ names


def bound_names(nodes: Iterable[ast.AST]) -> list[str]:
    """Local names that the nodes assign, in order."""
    found: dict[str, None] = {}

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
        elif isinstance(node, (ast.MatchAs, ast.MatchStar)) and node.name:
            found[node.name] = None
        elif isinstance(node, ast.MatchMapping) and node.rest:
            found[node.rest] = None
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, _COMPREHENSIONS):  # their variables are their own
                walk(child)

    for n in nodes:
        walk(n)
    return list(found)


def read_names(nodes: Iterable[ast.AST]) -> set[str]:
    return {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def names_outside(function: ast.AST, loop: Loop) -> set[str]:
    """Names that `function` may read outside of the loop as the loop has left them."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if child is loop:
                found.update(read_names(loop.orelse))
            elif isinstance(child, (ast.While, ast.For)) and not any(n is loop for n in ast.walk(child)):
                found.update(exposed_names([child]))
            else:
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                    found.add(child.id)
                walk(child)

    walk(function)
    return found


def exposed_names(statements: Iterable[ast.stmt]) -> set[str]:
    """Names that the statements may read before they have assigned them."""
    exposed: set[str] = set()
    _flow(statements, set(), exposed)
    return exposed


def _flow(statements: Iterable[ast.stmt], assigned: set[str], exposed: set[str]) -> set[str] | None:
    """The names that are certainly assigned behind the statements, with `assigned` before; None where nothing comes
    behind. Names that are read without go into `exposed`."""

    def read(*nodes: ast.AST | None) -> None:
        exposed.update(read_names(n for n in nodes if n is not None) - assigned)

    now: set[str] | None = assigned
    for s in statements:
        if now is None:
            break
        assigned = now
        if isinstance(s, ast.If):
            read(s.test)
            now = _both(_flow(s.body, now, exposed), _flow(s.orelse, now, exposed))
        elif isinstance(s, (ast.While, ast.For)):
            inside = set(now)
            if isinstance(s, ast.While):
                read(s.test)
            else:
                read(s.iter)
                inside |= set(bound_names([s.target]))
            _flow(s.body, inside, exposed)
            _flow(s.orelse, now, exposed)
        elif isinstance(s, ast.With):
            read(*(item.context_expr for item in s.items))
            now = _flow(s.body, now | set(bound_names([i.optional_vars for i in s.items if i.optional_vars])), exposed)
        elif isinstance(s, ast.Try):
            done = _flow([*s.body, *s.orelse], now, exposed)
            for h in s.handlers:
                done = _both(done, _flow(h.body, now | ({h.name} if h.name else set()), exposed))
            _flow(s.finalbody, now, exposed)
            now = done
        elif isinstance(s, ast.Match):
            read(s.subject)
            ends = [now]
            for c in s.cases:
                inside = now | set(bound_names([c.pattern]))
                exposed.update(read_names([c.guard] if c.guard else []) - inside)
                ends.append(_flow(c.body, inside, exposed))  # type: ignore[arg-type]
            for e in ends[1:]:
                now = _both(now, e)
        else:
            read(s)
            if isinstance(s, ast.AugAssign):
                exposed.update(set(bound_names([s.target])) - now)
            leaves = isinstance(s, (ast.Break, ast.Continue, ast.Return, ast.Raise))
            walrus = {n.target.id for n in ast.walk(s) if isinstance(n, ast.NamedExpr)}  # perhaps
            valued = not isinstance(s, ast.AnnAssign) or s.value is not None
            now = None if leaves else now | (set(bound_names([s])) - walrus if valued else set())
    return now


def _both(a: set[str] | None, b: set[str] | None) -> set[str] | None:
    return b if a is None else a if b is None else a & b


def note_outside(function: ast.AST) -> None:
    """Leaves in each loop of a function the names that are read outside of it. (Copies keep them.)"""
    for n in ast.walk(function):
        if isinstance(n, (ast.While, ast.For)):
            n.read_outside = names_outside(function, n)  # type: ignore[union-attr]


# ------------------------------------------------------------------ what can close


def can_close(node: Loop) -> bool:
    """Whether the loop can be written as functions of its variables."""
    parts = [node.test, *node.body] if isinstance(node, ast.While) else [node.target, *node.body]
    for part in parts:
        for n in ast.walk(part):
            if isinstance(n, _REFUSED) or isinstance(n, ast.Try) and not _plain_try(n):
                return False
            if isinstance(n, _COMPREHENSIONS) and any(isinstance(m, ast.NamedExpr) for m in ast.walk(n)):
                return False
    if isinstance(node, ast.For) and not all(isinstance(n, _TARGETS) for n in ast.walk(node.target)):
        return False
    return all(_is_simple(s) for s in _guarded_returns(node.body))


_TARGETS = (ast.Name, ast.Tuple, ast.List, ast.Store)


def _plain_try(node: ast.Try) -> bool:
    """Whether nothing that its `finally` does is missed by what leaves the loop there."""
    leaving = (ast.Break, ast.Continue, ast.Return)
    last = any(isinstance(n, leaving) for s in node.finalbody for n in ast.walk(s))
    return not last and (not bound_names(node.finalbody) or not any(isinstance(n, leaving) for n in ast.walk(node)))


def _guarded_returns(statements: list[ast.stmt]) -> Iterator[ast.Return]:
    """`return` statements within `with` and `try`."""
    for s in statements:
        for n in ast.walk(s):
            if isinstance(n, (ast.With, ast.Try)):
                yield from (m for m in ast.walk(n) if isinstance(m, ast.Return))


def _is_simple(node: ast.Return) -> bool:
    """Whether what is returned can be evaluated outside of the `with` and `try` around it."""
    kinds = (ast.Name, ast.Constant, ast.Tuple, ast.List, ast.Load)
    return node.value is None or all(isinstance(n, kinds) for n in ast.walk(node.value))


# ------------------------------------------------------------------ what leaves the loop


@dataclass
class _Exits(ast.NodeTransformer):
    """What leaves the body of this loop, as results of a step. `found`: what is to be done behind the loop instead, by
    number."""

    result: Callable[[int], ast.stmt]
    found: list[ast.stmt] = field(default_factory=list)
    inner: int = 0  # loops around, within this one's body
    guarded: int = 0  # `with` and `try` around

    def _leave(self, code: int, node: ast.AST) -> ast.stmt:
        return ast.copy_location(self.result(code), node)

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return node if self.inner else self._leave(BROKEN, node)

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return node if self.inner else self._leave(GOING, node)

    def visit_Return(self, node: ast.Return) -> ast.stmt:
        self.found.append(node)
        return self._leave(FIRST_EXIT + len(self.found) - 1, node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node if self.guarded else self.visit_Return(node)  # type: ignore[arg-type]

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        if self.guarded or not __debug__:
            return node
        error: ast.expr = ast.Name("AssertionError", ast.Load())
        error = ast.Call(error, [node.msg], []) if node.msg is not None else error
        failed = self.visit_Return(ast.copy_location(ast.Raise(error), node))  # type: ignore[arg-type]
        return ast.copy_location(ast.If(ast.UnaryOp(ast.Not(), node.test), [failed], []), node)

    def _loop(self, node: Loop) -> ast.AST:
        self.inner += 1
        node.body = [self.visit(s) for s in node.body]
        self.inner -= 1
        node.orelse = [self.visit(s) for s in node.orelse]
        return node

    visit_While = visit_For = _loop

    def _guard(self, node: Any) -> ast.AST:
        self.guarded += 1
        self.generic_visit(node)
        self.guarded -= 1
        return node

    visit_With = visit_Try = _guard


# ------------------------------------------------------------------ the loop


@dataclass(frozen=True)
class Rewriter:
    """What makes the parts. hook: a call of a hook; visit: an instrumented expression or list of statements; copy: a copy
    of one."""

    hook: Callable[..., Any]
    visit: Callable[[Any], Any]
    copy: Callable[[Any], Any]

    def walk(self, iterable: ast.expr) -> ast.expr:
        """What a loop goes along: `range(n)` and the like are not made, so that n may be a number of the trace."""
        if (
            isinstance(iterable, ast.Call)
            and isinstance(iterable.func, ast.Name)
            and iterable.func.id in _WALKS
            and not iterable.keywords
            and not any(isinstance(a, ast.Starred) for a in iterable.args)
        ):
            inner = iterable.func.id != "range"
            args = [self.walk(a) if inner else self.visit(a) for a in iterable.args]
            return ast.copy_location(self.hook("walk", self.visit(iterable.func), *args), iterable)
        return ast.copy_location(self.hook("walked", self.visit(iterable)), iterable)


def closing(node: Loop, number: int, names: list[str], free: list[bool], make: Rewriter) -> list[ast.stmt]:
    """The statements that stand for the loop. names: what it assigns; free: those that nobody needs to have before, or
    reads afterwards."""
    loop, test, body, item = (f"__tf_{part}_{number}__" for part in ("loop", "test", "body", "item"))

    def result(code: int) -> ast.stmt:
        return ast.Return(ast.Tuple([ast.Constant(code), _tuple(names, ast.Load())], ast.Load()))

    def method(name: str, *args: ast.expr) -> ast.expr:
        return ast.Call(ast.Attribute(_name(loop), name, ast.Load()), list(args), [])

    exits = _Exits(result)
    first: list[ast.stmt] = []
    condition: ast.expr = make.copy(node.test) if isinstance(node, ast.While) else ast.Constant(True)
    if isinstance(node, ast.For):
        first = [ast.Assign([make.copy(node.target)], _name(item))]
    elif any(isinstance(n, ast.NamedExpr) for n in ast.walk(node.test)):  # it assigns: part of the body
        first = [ast.If(ast.UnaryOp(ast.Not(), condition), [result(ENDED)], [])]
        condition = ast.Constant(True)
    steps = [exits.visit(s) for s in map(make.copy, node.body)]
    again = make.visit([_placed(s, node) for s in first] + steps)
    parameters = [item, *names] if isinstance(node, ast.For) else names
    getters = ast.Tuple([ast.Lambda(_no_arguments(), _name(n)) for n in names], ast.Load())
    started = make.hook("loop", _constants(names), _constants(free))
    out: list[ast.stmt] = [
        ast.Assign([ast.Name(loop, ast.Store())], started),
        _function(body, parameters, [*again, result(GOING)]),
    ]
    behind: list[ast.stmt] = [
        ast.If(
            ast.Attribute(_name(loop), "closed", ast.Load()),
            [ast.Assign([_tuple(names, ast.Store())], ast.Attribute(_name(loop), "values", ast.Load()))],
            [],
        )
    ]
    for k, statement in enumerate(exits.found):
        left = ast.If(method("left", ast.Constant(FIRST_EXIT + k)), make.visit([statement]), [])
        behind.append(ast.copy_location(left, statement))
    if node.orelse:
        behind.append(ast.If(method("ended"), make.visit(node.orelse), []))
    if isinstance(node, ast.While):
        out.append(_function(test, names, [ast.Return(make.visit(condition))]))
        going = [method("open", _name(test), _name(body), getters), make.hook("test", make.visit(node.test))]
        out.append(ast.While(ast.BoolOp(ast.And(), going), make.visit(node.body), behind))
    else:
        along = method("over", make.walk(node.iter), _name(body), getters)
        out.append(ast.For(make.visit(node.target), along, make.visit(node.body), behind))
    return [_placed(s, node) for s in out]


def _placed(s: ast.stmt, node: ast.AST) -> ast.stmt:
    return ast.copy_location(s, node)


def _name(n: str) -> ast.Name:
    return ast.Name(n, ast.Load())


def _tuple(names: list[str], context: ast.expr_context) -> ast.Tuple:
    return ast.Tuple([ast.Name(n, context) for n in names], context)


def _no_arguments() -> ast.arguments:
    return ast.arguments([], [], None, [], [], None, [])


def _constants(values: list[Any]) -> ast.Tuple:
    return ast.Tuple([ast.Constant(v) for v in values], ast.Load())


def _function(name: str, parameters: list[str], body: list[ast.stmt]) -> ast.FunctionDef:
    arguments = ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])
    out = ast.FunctionDef(name, arguments, body, [], None)
    if "type_params" in ast.FunctionDef._fields:
        out.type_params = []  # type: ignore[attr-defined]
    return out
