"""Loops of user functions, written so that they can close: the test and the body are there a second time, as functions of
the variables that the loop assigns.

    while test:          __tf_loop = __tf__.loop(("a", "b"))
        body             def __tf_test(a, b): return test
                         def __tf_body(a, b):
                             body                       # continue: return (False, (a, b)); break: return (True, (a, b))
                             return (False, (a, b))
                         while True:
                             if __tf_loop.close(__tf_test, __tf_body, (lambda: a, lambda: b)):
                                 (a, b) = __tf_loop.values
                                 break
                             if not __tf__.test(test): break
                             body

`for i in range(...)` likewise. The loop as it was stands behind the attempt, which does nothing where it fails: see
`loops`. Loops that return, yield, or have an `else` stay as they are.
"""

from __future__ import annotations

import ast
from typing import Any, Callable

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_REFUSED = (
    ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Delete, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom,
    ast.Match, ast.NamedExpr, ast.Try, ast.With, *_SCOPES,
)  # fmt: skip


def assigned_names(statements: list[ast.stmt]) -> list[str]:
    """Local names that the statements assign, in order."""
    found: dict[str, None] = {}

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found[node.id] = None
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, _COMPREHENSIONS):  # their variables are their own
                walk(child)

    for s in statements:
        walk(s)
    return list(found)


def can_close(node: ast.While | ast.For) -> bool:
    """Whether the loop can be written as functions of its variables."""
    if node.orelse or any(isinstance(n, _REFUSED) for part in node.body for n in ast.walk(part)):
        return False
    if isinstance(node, ast.While):
        return not any(isinstance(n, (ast.NamedExpr, *_SCOPES, ast.Await)) for n in ast.walk(node.test))
    call = node.iter
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
        return False
    plain = not call.keywords and not any(isinstance(a, ast.Starred) for a in call.args)
    return plain and isinstance(node.target, ast.Name)


def names_outside(function: ast.AST, loop: ast.AST) -> set[str]:
    """Names that `function` reads outside of the loop."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if child is loop:
                continue
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                found.add(child.id)
            walk(child)

    walk(function)
    return found


def surely_assigned(statements: list[ast.stmt]) -> set[str]:
    """Names that the statements certainly assign before they read them."""
    sure: set[str] = set()
    read: set[str] = set()
    for s in statements:
        if isinstance(s, (ast.Assign, ast.AnnAssign)) and s.value is not None:
            read |= _loads(s.value)
            targets = s.targets if isinstance(s, ast.Assign) else [s.target]
            for t in targets:
                read |= _loads(t)
                sure |= {n.id for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - read
        else:
            read |= {n.id for n in ast.walk(s) if isinstance(n, ast.Name)}
            if any(isinstance(n, (ast.Break, ast.Continue)) for n in ast.walk(s)):
                break  # what comes behind may be skipped
    return sure


def _loads(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


class _Exits(ast.NodeTransformer):
    """break and continue of this loop become returns."""

    def __init__(self, result: Callable[[bool], ast.stmt]):
        self.result = result

    def visit_Break(self, node: ast.Break) -> ast.AST:
        return ast.copy_location(self.result(True), node)

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return ast.copy_location(self.result(False), node)

    def visit_While(self, node: ast.While) -> ast.AST:
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        return node


def _name(n: str) -> ast.Name:
    return ast.Name(n, ast.Load())


def _function(name: str, parameters: list[str], body: list[ast.stmt]) -> ast.FunctionDef:
    arguments = ast.arguments([], [ast.arg(p) for p in parameters], None, [], [], None, [])
    out = ast.FunctionDef(name, arguments, body, [], None)
    if "type_params" in ast.FunctionDef._fields:
        out.type_params = []  # type: ignore[attr-defined]
    return out


def _constants(values: list[Any]) -> ast.Tuple:
    return ast.Tuple([ast.Constant(v) for v in values], ast.Load())


def _tuple(names: list[str]) -> ast.Tuple:
    return ast.Tuple([_name(n) for n in names], ast.Load())


def closing(
    node: ast.While | ast.For,
    number: int,
    names: list[str],
    free: list[bool],
    hook: Callable[..., Any],
    visit: Callable[[Any], Any],
    copy: Callable[[Any], Any],
) -> list[ast.stmt]:
    """The statements that stand for the loop. names: what it assigns; free: those that nobody needs to have before, or
    reads afterwards. hook: makes a call of a hook; visit: instruments an expression or a list of statements; copy: makes a copy of one."""
    loop, test, body, spec = (f"__tf_{part}_{number}" for part in ("loop", "test", "body", "range"))

    def result(broken: bool) -> ast.stmt:
        return ast.Return(ast.Tuple([ast.Constant(broken), _tuple(names)], ast.Load()))

    exits = _Exits(result)
    again = visit([exits.visit(s) for s in map(copy, node.body)])
    flags = _constants(free)
    start: list[ast.stmt] = [
        ast.Assign([ast.Name(loop, ast.Store())], hook("loop", _constants(names), flags)),
        _function(body, names, [*again, result(False)]),
    ]
    getters = ast.Tuple(
        [ast.Lambda(ast.arguments([], [], None, [], [], None, []), _name(n)) for n in names], ast.Load()
    )
    take = ast.Assign(
        [ast.Tuple([ast.Name(n, ast.Store()) for n in names], ast.Store())],
        ast.Attribute(_name(loop), "values", ast.Load()),
    )
    if isinstance(node, ast.While):
        start.append(_function(test, names, [ast.Return(visit(copy(node.test)))]))
        attempt = ast.Call(ast.Attribute(_name(loop), "close", ast.Load()), [_name(test), _name(body), getters], [])
        leave = ast.If(ast.UnaryOp(ast.Not(), hook("test", visit(node.test))), [ast.Break()], [])
        statements = visit(node.body)
        plain = ast.While(ast.Constant(True), [ast.If(attempt, [take, ast.Break()], []), leave, *statements], [])
        out = [*start, plain]
    else:
        call = node.iter
        assert isinstance(call, ast.Call)
        ranged = hook("ranged", visit(call.func), *[visit(a) for a in call.args])
        start.append(ast.Assign([ast.Name(spec, ast.Store())], ranged))
        attempt = ast.Call(
            ast.Attribute(_name(loop), "close_range", ast.Load()), [_name(spec), _name(body), getters], []
        )
        target = visit(node.target)
        statements = visit(node.body)
        plain = ast.For(target, hook("counted", _name(spec)), statements, [])
        out = [*start, ast.If(attempt, [take], [plain])]
    for s in out:
        ast.copy_location(s, node)
    return out
