"""Finding the source of a function: its file as it is now, and the definition in it that the code comes from."""

from __future__ import annotations

import ast
import linecache
import sys
import types
from functools import lru_cache

Function = ast.FunctionDef | ast.Lambda


class NoSource(Exception):
    """A function that can't be instrumented; the message says why."""


@lru_cache(maxsize=64)
def parse(text: str, file: str) -> ast.Module:
    return ast.parse(text, file)


@lru_cache(maxsize=64)
def code_objects(text: str, file: str, flags: int) -> list[types.CodeType]:
    """Every code object of a file as it is now."""
    out = [compile(text, file, "exec", flags=flags, dont_inherit=True)]
    for c in out:
        out.extend(x for x in c.co_consts if isinstance(x, types.CodeType))
    return out


def source_of(code: types.CodeType, module_globals: dict) -> str:
    file = code.co_filename
    if file.startswith("<frozen "):  # into the interpreter, out of a file
        file = getattr(sys.modules.get(file[8:-1]), "__file__", None) or file
    linecache.checkcache(file)
    lines = linecache.getlines(file, module_globals)
    if not lines:
        raise NoSource("its source is not available")
    return "".join(lines)


def definitions(tree: ast.Module, code: types.CodeType) -> list[tuple[Function, str | None]]:
    """The definitions in `tree` that `code` may come from, each with the class around it."""
    found: list[tuple[Function, str | None]] = []

    def walk(node: ast.AST, owner: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                walk(child, child.name)
                continue
            if isinstance(child, ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.FunctionDef):
                first = min((d.lineno for d in child.decorator_list), default=child.lineno)
                if first == code.co_firstlineno and code.co_name == child.name:
                    found.append((child, owner))
            elif isinstance(child, ast.Lambda) and code.co_name == "<lambda>" and child.lineno == code.co_firstlineno:
                found.append((child, owner))
            walk(child, owner)

    walk(tree, None)
    if len(found) > 1 and code.co_name == "<lambda>":
        spans = [p for p in code.co_positions() if p[2] is not None and (p[0], p[2]) != (p[1], p[3])]
        found = [c for c in found if spans and all(_within(c[0], p) for p in spans)]
        narrowest = [c for c in found if not any(c[0] is not d[0] and _inside(d[0], c[0]) for d in found)]
        found = narrowest if len(narrowest) == 1 else found
    return found


def _within(node: ast.AST, position: tuple) -> bool:
    line, end_line, column, end_column = position
    begin, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
    return begin <= (line, column) and (end_line, end_column) <= end


def _inside(inner: ast.AST, outer: ast.AST) -> bool:
    return any(n is inner for n in ast.walk(outer))


def same(a: types.CodeType, b: types.CodeType) -> bool:
    """Whether two code objects do the same thing."""
    if a.co_code != b.co_code or a.co_varnames != b.co_varnames or a.co_names != b.co_names:
        return False
    if len(a.co_consts) != len(b.co_consts):
        return False
    for x, y in zip(a.co_consts, b.co_consts):
        if isinstance(x, types.CodeType) and isinstance(y, types.CodeType):
            if not same(x, y):
                return False
        elif type(x) is not type(y) or repr(x) != repr(y):
            return False
    return True


def rewritten_by_pytest(code: types.CodeType) -> bool:
    return any(n.startswith("@py") for n in (*code.co_varnames, *code.co_names)) or any(
        rewritten_by_pytest(c) for c in code.co_consts if isinstance(c, types.CodeType)
    )
