"""What products in size expressions are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .dim import DimLike


class Atom:
    """One indivisible factor: a symbol, or `kind(a, b)` that no rule could simplify."""

    __slots__ = ("kind", "name", "a", "b", "lo", "hi", "_key", "_hash", "_order")

    def __init__(self, kind: str, name: str, a: DimLike, b: DimLike, lo: DimLike, hi: DimLike | None):
        self.kind, self.name, self.a, self.b, self.lo, self.hi = kind, name, a, b, lo, hi
        first, second = (lo, 0 if hi is None else hi) if kind == "sym" else (a, b)
        self._key = (kind, name, hi is None, _key(first), _key(second))
        self._hash = hash(self._key)
        self._order: tuple | None = None

    def __eq__(self, other: object) -> bool:
        return self is other or isinstance(other, Atom) and self._hash == other._hash and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        if self.kind == "sym":
            return self.name
        if self.kind in ("max", "min"):
            return f"{self.kind}({self.a}, {self.b})"
        return f"({_wrapped(self.a)} {'//' if self.kind == 'floordiv' else '%'} {_wrapped(self.b)})"


def _wrapped(d: DimLike) -> str:
    if isinstance(d, int):
        return str(d) if d >= 0 else f"({d})"
    ((monomial, coefficient), *others) = d.terms
    return str(d) if not others and coefficient == 1 and len(monomial) == 1 else f"({d})"


def _key(d: DimLike):
    return d if isinstance(d, int) else d.terms


Monomial = tuple[Atom, ...]
