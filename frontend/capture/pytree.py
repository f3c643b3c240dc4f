"""Nested containers as a flat list of leaves and a comparable description of the nesting."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Callable

from ..random import Generator


@dataclass(frozen=True, slots=True)
class Spec:
    """The nesting around leaves: a container type, its keys (of dicts and dataclasses), and its children's specs.

    `kind` None is a leaf. Specs of equal nesting are equal and hash alike.
    """

    kind: type | None = None
    keys: tuple = ()
    children: tuple["Spec", ...] = ()

    @property
    def n_leaves(self) -> int:
        return 1 if self.kind is None else sum(c.n_leaves for c in self.children)


LEAF = Spec()
RECORDS: dict[type, tuple[str, ...]] = {
    Generator: ("state",)
}  # classes of the library that are nothing but their fields


def is_namedtuple(kind: type) -> bool:
    return issubclass(kind, tuple) and kind is not tuple and hasattr(kind, "_fields")


def is_container(x: Any) -> bool:
    """Whether `flatten` looks inside: list, tuple, dict, OrderedDict (not other subclasses), namedtuple, dataclass,
    Generator."""
    kind = type(x)
    return kind in (list, tuple, dict, OrderedDict) or is_namedtuple(kind) or is_dataclass(kind)


def is_dataclass(kind: type) -> bool:
    """A dataclass that is nothing more (a Module that happens to be one is a leaf), or one of `RECORDS`."""
    if kind in RECORDS:
        return True
    return "__dataclass_fields__" in kind.__dict__ and all(
        base is object or "__dataclass_fields__" in base.__dict__ for base in kind.__mro__
    )


def field_names(x: Any) -> tuple[str, ...]:
    """The fields of a dataclass, or of an object of `RECORDS`, that are there."""
    names = RECORDS.get(type(x)) or [f.name for f in dataclasses.fields(x)]
    return tuple(n for n in names if hasattr(x, n))


def flatten(x: Any, whole: Callable[[Any], bool] | None = None) -> tuple[list[Any], Spec]:
    """The leaves of `x`, left to right (dicts in their own order), and the nesting. whole: containers that are leaves."""
    leaves: list[Any] = []
    return leaves, _flatten(x, leaves, whole)


def _flatten(x: Any, leaves: list[Any], whole: Callable[[Any], bool] | None) -> Spec:
    kind = type(x)
    if whole is not None and is_container(x) and whole(x):
        leaves.append(x)
        return LEAF
    if kind is tuple or kind is list:
        return Spec(kind, (), tuple([_flatten(v, leaves, whole) for v in x]))
    if kind is dict or kind is OrderedDict:
        return Spec(kind, tuple(x), tuple([_flatten(v, leaves, whole) for v in x.values()]))
    if is_namedtuple(kind):
        return Spec(kind, (), tuple([_flatten(v, leaves, whole) for v in x]))
    if is_dataclass(kind):
        names = field_names(x)
        return Spec(kind, names, tuple([_flatten(getattr(x, n), leaves, whole) for n in names]))
    leaves.append(x)
    return LEAF


def unflatten(spec: Spec, leaves: list[Any]) -> Any:
    """The inverse of `flatten`: new containers around `leaves`."""
    return _unflatten(spec, iter(leaves))


def _unflatten(spec: Spec, leaves) -> Any:
    kind = spec.kind
    if kind is None:
        return next(leaves)
    children = [_unflatten(c, leaves) for c in spec.children]
    if kind is list:
        return children
    if kind is tuple:
        return tuple(children)
    if kind is dict or kind is OrderedDict:
        return kind(zip(spec.keys, children))
    if is_namedtuple(kind):
        return kind._make(children)  # type: ignore[attr-defined]
    out = object.__new__(kind)
    for name, child in zip(spec.keys, children):
        object.__setattr__(out, name, child)
    return out


def paths(spec: Spec, prefix: str = "") -> list[str]:
    """How a user would write each leaf: "batch['ids']", "xs[1]", "point.x"."""
    out: list[str] = []
    _paths(spec, prefix, out)
    return out


def _paths(spec: Spec, prefix: str, out: list[str]) -> None:
    if spec.kind is None:
        out.append(prefix)
        return
    for i, child in enumerate(spec.children):
        _paths(child, prefix + _step(spec, i), out)


def _step(spec: Spec, i: int) -> str:
    kind = spec.kind
    assert kind is not None
    if kind is dict or kind is OrderedDict:
        return f"[{spec.keys[i]!r}]"
    if is_namedtuple(kind):
        return f".{kind._fields[i]}"  # type: ignore[attr-defined]
    return f".{spec.keys[i]}" if spec.keys else f"[{i}]"


def containers(x: Any, found: Callable[[Any], None]) -> None:
    """Calls `found` with every container in `x`, itself included."""
    kind = type(x)
    if kind is dict or kind is OrderedDict:
        found(x)
        for v in x.values():
            containers(v, found)
    elif kind in (list, tuple) or is_namedtuple(kind):
        found(x)
        for v in x:
            containers(v, found)
    elif is_dataclass(kind):
        found(x)
        for v in vars(x).values() if hasattr(x, "__dict__") else ():
            containers(v, found)
