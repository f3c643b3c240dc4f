"""Globals and closure variables that user functions assign, in instrumented code.

The names that are assigned (by `global`, `nonlocal`) or that another function of the trace assigns become attributes of
a `Namespace`, which asks the overlay; all other names stay what they are.
"""

from __future__ import annotations

import ast
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .objects import ObjectHooks

GLOBALS, CELLS = "__tfg__", "__tfc__"


class Namespace:
    """Names as attributes. `place`: name -> the dict or cell that it lives in."""

    __slots__ = ("_tf_builtins", "_tf_hooks", "_tf_place")

    def __init__(self, hooks: "ObjectHooks", place: Any, builtins: Any):
        object.__setattr__(self, "_tf_hooks", hooks)
        object.__setattr__(self, "_tf_place", place)
        object.__setattr__(self, "_tf_builtins", builtins)

    def __getattr__(self, name: str) -> Any:
        from .overlay import DELETED, MISSING

        place = self._tf_place
        cell = None if self._tf_builtins is not None else place[name]
        v = self._tf_hooks.overlay.load(place if cell is None else cell, name)
        if v is MISSING:
            v = _cell_contents(cell, name) if cell is not None else self._global(name)
        if v is DELETED:
            raise NameError(f"name {name!r} is not defined")
        return v

    def _global(self, name: str) -> Any:
        if name in self._tf_place:
            self._tf_hooks.guard_global(self._tf_place, name)
            return self._tf_place[name]
        if hasattr(self._tf_builtins, name):
            return getattr(self._tf_builtins, name)
        raise NameError(f"name {name!r} is not defined")

    def __setattr__(self, name: str, value: Any) -> None:
        place = self._tf_place
        self._tf_hooks.overlay.store(place if self._tf_builtins is not None else place[name], name, value)

    def __delattr__(self, name: str) -> None:
        from .overlay import DELETED

        getattr(self, name)
        setattr(self, name, DELETED)


def _cell_contents(cell: types.CellType, name: str) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise NameError(f"cannot access free variable {name!r} where it is not associated with a value") from None


def declared(node: ast.AST, kind: type) -> set[str]:
    """Names in the `global` or `nonlocal` statements of a function and of those nested in it."""
    return {name for n in ast.walk(node) if isinstance(n, kind) for name in n.names}  # type: ignore[attr-defined]


def conflict(node: ast.AST, names: frozenset[str], kind: type) -> str | None:
    """A name of `names` that a scope in `node` binds for itself, or in a way that can't be an attribute."""
    for n in ast.walk(node):
        if isinstance(n, ast.arg) and n.arg in names and n is not node:
            return n.arg
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n is not node and n.name in names:
            return n.name
        if isinstance(n, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and n.name in names:
            return n.name
        if isinstance(n, ast.NamedExpr) and n.target.id in names:
            return n.target.id
        if isinstance(n, ast.alias) and (n.asname or n.name) in names:
            return n.asname or n.name
        if isinstance(n, ast.comprehension):
            bound = {t.id for t in ast.walk(n.target) if isinstance(t, ast.Name)} & names
            if bound:
                return bound.pop()
    return _stored_undeclared(node, names, kind)


def _stored_undeclared(scope: ast.AST, names: frozenset[str], kind: type) -> str | None:
    """A name that a function stores to without having declared it: a local one of its own."""
    own: list[ast.AST] = []
    nested: list[ast.AST] = []
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        n = stack.pop()
        if isinstance(n, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            nested.append(n)
            continue
        own.append(n)
        stack.extend(ast.iter_child_nodes(n))
    said = {name for n in own if isinstance(n, kind) for name in n.names}  # type: ignore[attr-defined]
    for n in own:
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load) and n.id in names and n.id not in said:
            return n.id
    for n in nested:
        found = _stored_undeclared(n, names, kind)
        if found:
            return found
    return None
