"""Nested arguments and results as plain JSON: how a serialized program says what it takes and gives."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from functools import lru_cache
from typing import Any

from .capture import pytree
from .capture.pytree import Spec

LEAF = "*"
Tree = (
    Any  # LEAF, or {"list": [...]}, {"tuple": [...]}, {"dict": [[key, ...]]}, {"record": name, "fields": [[name, ...]]}
)
_DEEPEST = 100
_KEYS = (str, int, bool, type(None))


class BadTree(ValueError):
    """JSON that is no tree."""


def to_tree(spec: Spec) -> Tree:
    """The JSON form of a nesting. Named tuples and dataclasses are records. TypeError for dict keys that JSON lacks."""
    kind = spec.kind
    if kind is None:
        return LEAF
    children = [to_tree(c) for c in spec.children]
    if kind is list or kind is tuple:
        return {kind.__name__: children}
    if kind is dict or kind is OrderedDict:
        bad = [k for k in spec.keys if type(k) not in _KEYS]
        if bad:
            raise TypeError(f"a dict with the key {bad[0]!r} can't be part of a program: use strings or integers")
        return {"dict": [[k, c] for k, c in zip(spec.keys, children)]}
    names = kind._fields if pytree.is_namedtuple(kind) else spec.keys  # type: ignore[attr-defined]
    return {"record": kind.__name__, "fields": [[n, c] for n, c in zip(names, children)]}


def shape_of(tree: Tree) -> str:
    """What two trees share when the same values fit both: everything but the names of records."""
    return json.dumps(_shape(tree))


def _shape(tree: Tree) -> Any:
    if tree == LEAF:
        return LEAF
    if "record" in tree:
        return {"fields": [[n, _shape(c)] for n, c in tree["fields"]]}
    ((kind, items),) = tree.items()
    return {kind: [[k, _shape(c)] for k, c in items] if kind == "dict" else [_shape(c) for c in items]}


def to_spec(tree: Tree, depth: int = 0) -> Spec:
    """The nesting that `tree` describes, with records as named tuples. BadTree for anything that `to_tree` can't give."""
    if tree == LEAF:
        return pytree.LEAF
    if not isinstance(tree, dict) or depth > _DEEPEST:
        raise BadTree("a tree is damaged")
    if tree.keys() == {"record", "fields"}:
        names, children = _pairs(tree["fields"], depth, (str,))
        return Spec(_record(tree["record"], names), (), children)
    if len(tree) != 1:
        raise BadTree("a tree is damaged")
    ((kind, items),) = tree.items()
    if kind == "dict":
        keys, children = _pairs(items, depth, _KEYS)
        return Spec(dict, keys, children)
    if kind not in ("list", "tuple") or not isinstance(items, list):
        raise BadTree("a tree is damaged")
    return Spec(list if kind == "list" else tuple, (), tuple(to_spec(c, depth + 1) for c in items))


def _pairs(items: Any, depth: int, keys: tuple[type, ...]) -> tuple[tuple, tuple[Spec, ...]]:
    if not isinstance(items, list) or not all(
        isinstance(p, list) and len(p) == 2 and type(p[0]) in keys for p in items
    ):
        raise BadTree("a tree is damaged")
    names = tuple(k for k, _ in items)
    if len(set(names)) != len(names):
        raise BadTree("a tree has a key twice")
    return names, tuple(to_spec(c, depth + 1) for _, c in items)


@lru_cache(maxsize=256)
def _record_class(name: str, fields: tuple[str, ...]) -> type:
    return namedtuple(name, fields)  # type: ignore[misc]  # checks both: nothing but identifiers


def _record(name: Any, fields: tuple[str, ...]) -> type:
    try:
        if not isinstance(name, str):
            raise ValueError
        return _record_class(name, fields)
    except ValueError:
        raise BadTree(f"{str(name)[:60]!r} with {len(fields)} fields is no record") from None
