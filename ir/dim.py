"""Symbolic integer expressions with bounds: tensor dims, and the index maps of kernels.

A `Dim` is a sum of integer multiples of products of *atoms*; an atom is a named symbol with a range, or a
floordiv, mod, max or min of two expressions. Constant expressions are plain ints everywhere, so static shapes
stay tuples of ints. Expressions are normalised when they are built and hash-consed: equal ones are identical.

`==` is structural, and what else Python asks of a number (order, truth, an index) has no answer, unless a `Decider` is
at work in this thread: it knows the sizes of one call, answers for them, and notes what the answers rest on.
"""

from __future__ import annotations

import sys
from math import gcd
from typing import Any, Callable, Mapping, Union

from .decider import Decider, decider
from .dim_atom import Atom, Monomial

DimLike = Union[int, "Dim"]
_INTERNED: dict[tuple, "Dim"] = {}
_INTERN_LIMIT = 200_000


class Dim:
    """A non-constant integer expression. Build with `symbol` and arithmetic; `==` is structural equality."""

    __slots__ = ("terms", "_hash", "_bounds", "__weakref__")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]):
        self.terms = terms
        self._hash = hash(terms)
        self._bounds: tuple[int | None, int | None] | None = None

    # ---- identity
    def __eq__(self, other: object) -> bool:
        if same(self, other):
            return True
        found = decider()
        return found is not None and isinstance(other, (int, Dim)) and found.equal(self, other)

    def __hash__(self) -> int:
        found = decider()
        if found is not None:
            found.hashed(self, sys._getframe(1).f_globals.get("__name__", ""))
        return self._hash

    # ---- questions that only a number answers
    def _decided(self, question: str) -> Decider:
        found = decider()
        if found is None:
            raise TypeError(f"{question} of the symbolic size {self} is not known while tracing")
        return found

    def __bool__(self) -> bool:
        return not self._decided("the truth value").equal(self, 0)

    def __index__(self) -> int:
        return self._decided("the value").concrete(self)

    def __float__(self) -> float:
        return float(self._decided("the value").concrete(self))

    def __ge__(self, other: DimLike) -> bool:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        difference = self - other
        if nonnegative(difference):
            return True
        if negative(difference):
            return False
        assert isinstance(difference, Dim)
        return self._decided(f"whether {self} >= {other}: the order").nonnegative(difference)

    def __gt__(self, other: DimLike) -> bool:
        return self >= other + 1 if isinstance(other, (int, Dim)) else NotImplemented

    def __lt__(self, other: DimLike) -> bool:
        return not self >= other if isinstance(other, (int, Dim)) else NotImplemented

    def __le__(self, other: DimLike) -> bool:
        return not self >= other + 1 if isinstance(other, (int, Dim)) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return NotImplemented if decider() is None else self._decided("a quotient").real(self) / other

    def __rtruediv__(self, other: Any) -> Any:
        return NotImplemented if decider() is None else other / self._decided("a quotient").real(self)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and 0 <= other <= 8:
            out: DimLike = 1
            for _ in range(other):
                out = out * self
            return out
        return NotImplemented if decider() is None else self._decided("a power").real(self) ** other

    def __divmod__(self, other: DimLike) -> tuple[DimLike, DimLike]:
        return self // other, self % other

    def __rdivmod__(self, other: DimLike) -> tuple[DimLike, DimLike]:
        return other // self, other % self

    def __pos__(self) -> Dim:
        return self

    def __abs__(self) -> DimLike:
        return self if self >= 0 else -self

    def __repr__(self) -> str:
        out = ""
        for monomial, coefficient in self.terms:
            sign = "-" if coefficient < 0 else "+"
            size = abs(coefficient)
            factors = [str(a) for a in monomial]
            if size != 1 or not factors:
                factors.append(str(size))
            text = "*".join(factors)
            out = (f"-{text}" if sign == "-" else text) if not out else f"{out} {sign} {text}"
        return out

    # ---- arithmetic
    def __add__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and other == 0:
            return self
        return _sum({}, (self, 1), (other, 1))

    __radd__ = __add__

    def __sub__(self, other: DimLike) -> DimLike:
        return _sum({}, (self, 1), (other, -1))

    def __rsub__(self, other: DimLike) -> DimLike:
        return _sum({}, (other, 1), (self, -1))

    def __neg__(self) -> DimLike:
        return _sum({}, (self, -1))

    def __mul__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            return 0 if other == 0 else self if other == 1 else _make({m: c * other for m, c in self.terms})
        if not isinstance(other, Dim):
            real = isinstance(other, float) and decider()
            return real.real(self) * other if real else NotImplemented
        out: dict[Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in other.terms:
                m = tuple(sorted(m1 + m2, key=_atom_order))
                out[m] = out.get(m, 0) + c1 * c2
        return _make(out)

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and other < 0:
            return floordiv(-1 * self, -other)
        return floordiv(self, _divisor(other)) if isinstance(other, (int, Dim)) else NotImplemented

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return floordiv(other, _divisor(self)) if isinstance(other, (int, Dim)) else NotImplemented

    def __mod__(self, other: DimLike) -> DimLike:
        if isinstance(other, int) and other < 0:
            return -1 * mod(-1 * self, -other)
        return mod(self, _divisor(other)) if isinstance(other, (int, Dim)) else NotImplemented

    def __rmod__(self, other: DimLike) -> DimLike:
        return mod(other, _divisor(self)) if isinstance(other, (int, Dim)) else NotImplemented

    # ---- inspection
    @property
    def constant(self) -> int:
        """The constant term."""
        return next((c for m, c in self.terms if not m), 0)

    def coefficient(self, sym: "Dim") -> DimLike:
        """The factor of symbol `sym` where it appears alone in products (its linear coefficient)."""
        (atom,) = sym.terms[0][0]
        out: DimLike = 0
        for m, c in self.terms:
            if m.count(atom) == 1:
                rest = tuple(a for a in m if a != atom)
                out = out + _make({rest: c})
        return out

    def symbols(self) -> frozenset["Dim"]:
        """Every symbol in the expression, inside floordivs and the like too."""
        out: set[Dim] = set()
        for m, _ in self.terms:
            for a in m:
                if a.kind == "sym":
                    out.add(_of_atom(a))
                else:
                    out |= symbols(a.a) | symbols(a.b)
        return frozenset(out)

    def is_linear_in(self, sym: "Dim") -> bool:
        """Whether `sym` appears only as a plain factor, once per term."""
        (atom,) = sym.terms[0][0]
        for m, _ in self.terms:
            if m.count(atom) > 1:
                return False
            if any(a.kind != "sym" and (sym in symbols(a.a) or sym in symbols(a.b)) for a in m):
                return False
        return True


def same(a: object, b: object) -> bool:
    """Whether two sizes are structurally equal, whoever decides."""
    if a is b:
        return True
    if isinstance(a, Dim):
        return isinstance(b, Dim) and a._hash == b._hash and a.terms == b.terms
    return not isinstance(b, Dim) and a == b


def _divisor(d: DimLike) -> DimLike:
    """A divisor in the user's code. The rules here are for positive ones: others ask for the number itself."""
    found = decider()
    if found is None or d >= 1:
        return d
    if d == 0:
        raise ZeroDivisionError("integer division or modulo by zero")
    raise TypeError(f"a symbolic size is divided by {d}, which is negative")


def _atom_order(a: Atom):
    if a._order is None:
        a._order = (a.kind != "sym", a.name, str(a) if a.kind != "sym" else "")
    return a._order


def _of_atom(a: Atom) -> Dim:
    return _intern((((a,), 1),))


def _intern(terms: tuple[tuple[Monomial, int], ...]) -> Dim:
    found = _INTERNED.get(terms)
    if found is None:
        if len(_INTERNED) > _INTERN_LIMIT:
            _INTERNED.clear()
        found = _INTERNED[terms] = Dim(terms)
    return found


def _sum(out: dict[Monomial, int], *parts: tuple[DimLike, int]) -> DimLike:
    for d, k in parts:
        if isinstance(d, Dim):
            for m, c in d.terms:
                out[m] = out.get(m, 0) + c * k
        elif isinstance(d, int):
            out[()] = out.get((), 0) + d * k
        else:
            return NotImplemented
    return _make(out)


def _make(terms: dict[Monomial, int]) -> DimLike:
    _recombine(terms)
    kept = [(m, c) for m, c in terms.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    kept.sort(key=lambda mc: (not mc[0], [_atom_order(a) for a in mc[0]]))
    return _intern(tuple(kept))


def _recombine(terms: dict[Monomial, int]) -> None:
    """c*(x//c) + x%c -> x, and d*((x//d)%c) + x%d -> x % (c*d): reshapes that undo each other vanish."""
    again = any(a.kind == "mod" for m in terms for a in m)
    while again:
        again = False
        for m, k in list(terms.items()):
            at = next((i for i, a in enumerate(m) if a.kind == "mod"), None)
            if at is None or not k:
                continue
            x, c = m[at].a, m[at].b
            rest = m[:at] + m[at + 1 :]
            for whole, result in ((floordiv(x, c), x), *_outer_mods(terms, x, c)):
                scaled = _scaled(whole, rest, k, c)
                if scaled is None or any(terms.get(sm, 0) != sc for sm, sc in scaled.items()):
                    continue
                for sm in scaled:
                    del terms[sm]
                del terms[m]
                for rm, rc in _scaled(result, rest, k, 1).items():  # type: ignore[union-attr]
                    terms[rm] = terms.get(rm, 0) + rc
                again = True
                break
            if again:
                break


def _outer_mods(terms: dict[Monomial, int], x: DimLike, d: DimLike):
    if isinstance(x, int):
        return
    quotient = floordiv(x, d)
    for m in list(terms):
        for a in m:
            if a.kind == "mod" and same(a.a, quotient):
                yield mod(quotient, a.b), mod(x, a.b * d)


def _scaled(d: DimLike, rest: Monomial, k: int, c: DimLike) -> dict[Monomial, int] | None:
    product = d * c
    if isinstance(product, int):
        return {rest: product * k} if product else None
    return {tuple(sorted(m + rest, key=_atom_order)): q * k for m, q in product.terms}


# ------------------------------------------------------------------ constructors


def symbol(name: str, lo: DimLike = 0, hi: DimLike | None = None) -> Dim:
    """A named integer in [lo, hi] (both inclusive; hi None: unbounded). Name and range are its identity."""
    return _of_atom(Atom("sym", name, 0, 0, lo, hi))


def floordiv(a: DimLike, b: DimLike) -> DimLike:
    """floor(a / b); b must be positive."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if same(b, 1):
        return a
    whole, rest = _split(a, b)
    if same(rest, 0):
        return whole
    if within(rest, b):
        return whole
    if isinstance(rest, Dim) and isinstance(b, int):
        if len(rest.terms) == 1 and len(rest.terms[0][0]) == 1 and rest.terms[0][1] == 1:
            inner = rest.terms[0][0][0]
            if inner.kind == "floordiv":
                return whole + floordiv(inner.a, inner.b * b)
        g = _gcd_of_terms(rest)  # (4x + 1) // 8 -> x // 2
        g = gcd(g, b)
        if g > 1:
            return whole + floordiv(_divide_exact(rest - rest.constant, g) + rest.constant // g, b // g)
    return whole + _of_atom(Atom("floordiv", "", rest, b, *_floordiv_range(rest, b)))


def mod(a: DimLike, b: DimLike) -> DimLike:
    """a - b * floor(a / b); b must be positive."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if same(b, 1):
        return 0
    _, rest = _split(a, b)
    if isinstance(rest, int) and isinstance(b, int):
        return rest % b
    if within(rest, b):
        return rest
    if isinstance(rest, Dim) and isinstance(b, int) and len(rest.terms) == 1:
        ((m, c),) = rest.terms
        if c == 1 and len(m) == 1 and m[0].kind == "mod" and isinstance(m[0].b, int) and m[0].b % b == 0:
            return mod(m[0].a, b)
    if isinstance(rest, Dim) and isinstance(b, int):
        g = gcd(_gcd_of_terms(rest), b)  # (4x + 1) % 8 -> 4*(x % 2) + 1
        if g > 1:
            low = rest.constant % g
            return mod(_divide_exact(rest - low, g), b // g) * g + low
    return _of_atom(Atom("mod", "", rest, b, 0, b - 1))


def maximum(a: DimLike, b: DimLike) -> DimLike:
    return _extremum("max", a, b)


def minimum(a: DimLike, b: DimLike) -> DimLike:
    return _extremum("min", a, b)


def ceildiv(a: DimLike, b: DimLike) -> DimLike:
    return floordiv(a + b - 1, b)


def _extremum(kind: str, a: DimLike, b: DimLike) -> DimLike:
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if kind == "max" else min(a, b)
    if nonnegative(a - b):
        return a if kind == "max" else b
    if nonnegative(b - a):
        return b if kind == "max" else a
    if str(b) < str(a):
        a, b = b, a
    (la, ha), (lb, hb) = bounds(a), bounds(b)
    pick = max if kind == "max" else min
    lows = [v for v in (la, lb) if v is not None]
    highs = [v for v in (ha, hb) if v is not None]
    lo = pick(lows) if len(lows) == 2 else (lows[0] if lows and kind == "max" else None)
    hi = pick(highs) if len(highs) == 2 else (highs[0] if highs and kind == "min" else None)
    return _of_atom(Atom(kind, "", a, b, -(2**62) if lo is None else lo, hi))


def _split(a: DimLike, b: DimLike) -> tuple[DimLike, DimLike]:
    """a = whole * b + rest, taking every term of `a` that b divides."""
    if isinstance(a, int):
        return (a // b, a % b) if isinstance(b, int) else (0, a)
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    if isinstance(b, int):
        for m, c in a.terms:
            if not m:
                q, r = divmod(c, b)
                whole[m], rest[m] = q, r
            elif c % b == 0:
                whole[m] = c // b
            else:
                rest[m] = c
        return _make(whole), _make(rest)
    if len(b.terms) == 1:
        ((bm, bc),) = b.terms
        for m, c in a.terms:
            left = list(m)
            ok = c % bc == 0
            for atom in bm:
                if atom in left:
                    left.remove(atom)
                else:
                    ok = False
            if ok:
                whole[tuple(left)] = c // bc
            else:
                rest[m] = c
        return _make(whole), _make(rest)
    if same(a, b):
        return 1, 0
    return 0, a


def _gcd_of_terms(d: Dim) -> int:
    g = 0
    for m, c in d.terms:
        if m:
            g = gcd(g, c)
    return g


def _divide_exact(d: DimLike, g: int) -> DimLike:
    return d // g if isinstance(d, int) else _make({m: c // g for m, c in d.terms})


def _floordiv_range(a: DimLike, b: DimLike) -> tuple[int, int | None]:
    lo, hi = bounds(a)
    blo, _ = bounds(b)
    blo = max(1, blo or 1)
    low = -(2**62) if lo is None else (0 if lo >= 0 else lo // blo)
    if lo is not None and lo >= 0 and isinstance(b, int):
        low = lo // b
    return low, None if hi is None else (hi // blo if hi >= 0 else -1)


# ------------------------------------------------------------------ questions


def symbols(d: DimLike) -> frozenset[Dim]:
    return frozenset() if isinstance(d, int) else d.symbols()


def bounds(d: DimLike) -> tuple[int | None, int | None]:
    """Least and greatest value (None: unknown), by interval arithmetic over the ranges of the symbols."""
    if isinstance(d, int):
        return d, d
    if d._bounds is None:
        lo: int | None = 0
        hi: int | None = 0
        for m, c in d.terms:
            mlo: int | None = 1
            mhi: int | None = 1
            for a in m:
                alo, ahi = bounds(a.lo)[0], None if a.hi is None else bounds(a.hi)[1]
                mlo, mhi = _times(mlo, mhi, alo, ahi)
            if c < 0:
                mlo, mhi = mhi, mlo
            lo = None if lo is None or mlo is None else lo + mlo * c
            hi = None if hi is None or mhi is None else hi + mhi * c
        d._bounds = (lo, hi)
    return d._bounds


def limits(s: Dim) -> tuple[DimLike, DimLike | None]:
    """The range that a symbol was made with."""
    ((atom,), _) = s.terms[0]
    return atom.lo, atom.hi


def _times(alo: int | None, ahi: int | None, blo: int | None, bhi: int | None):
    if alo is not None and blo is not None and alo >= 0 and blo >= 0:
        return alo * blo, None if ahi is None or bhi is None else ahi * bhi
    if alo is None or ahi is None or blo is None or bhi is None:
        return None, None
    products = (alo * blo, alo * bhi, ahi * blo, ahi * bhi)
    return min(products), max(products)


def nonnegative(d: DimLike) -> bool:
    """Whether d >= 0 is certain. Where intervals alone do not tell, symbols are replaced by their symbolic upper bounds
    and quotients by linear ones, where d falls with that."""
    for _ in range(8):
        lo, _ = bounds(d)
        if lo is not None and lo >= 0:
            return True
        if isinstance(d, int):
            return False
        lower = _lowered(d)
        if lower is None or same(lower, d):
            return False
        d = lower
    return False


def negative(d: DimLike) -> bool:
    """Whether d < 0 is certain."""
    return nonnegative(-1 - d)


def _lowered(d: Dim) -> DimLike | None:
    """A smaller expression: one symbol with a symbolic upper bound and a negative factor is put at that bound, or one
    quotient whose divisor its factor holds is freed: b*(x//b) lies in [x - b + 1, x]."""
    for m, c in d.terms:
        if not all(_nonnegative_atom(a) for a in m):
            continue
        for i, a in enumerate(m):
            if c < 0 and isinstance(a.hi, Dim):
                return d - _make({m: c}) + _make({m[:i] + m[i + 1 :]: c}) * a.hi
    for m, c in d.terms:
        for i, a in enumerate(m):
            rest = m[:i] + m[i + 1 :]
            if a.kind == "floordiv" and all(_nonnegative_atom(x) for x in rest):
                whole, left = _split(_make({rest: c}), a.b)
                if same(left, 0):
                    return d - _make({m: c}) + whole * (a.a if c < 0 else a.a - a.b + 1)
    return None


def _nonnegative_atom(a: Atom) -> bool:
    lo = bounds(a.lo)[0]
    return lo is not None and lo >= 0


def within(d: DimLike, n: DimLike) -> bool:
    """Whether 0 <= d < n is certain."""
    return nonnegative(d) and nonnegative(n - 1 - d)


def substitute(d: DimLike, env: Mapping[Dim, DimLike]) -> DimLike:
    """`d` with symbols replaced, simplified again."""
    if isinstance(d, int) or not env:
        return d
    if not (d.symbols() & env.keys()):
        return d
    return _rebuild(d, lambda a: env.get(_of_atom(a), _of_atom(a)))


def evaluate(d: DimLike, env: Mapping[str, int]) -> int:
    """The value of `d` with every symbol's value given by name. KeyError names a missing one."""
    out = d if isinstance(d, int) else _rebuild(d, lambda a: env[a.name])
    assert isinstance(out, int)
    return out


OPS: dict[str, Callable[[DimLike, DimLike], DimLike]] = {
    "floordiv": floordiv,
    "mod": mod,
    "max": maximum,
    "min": minimum,
}


def _rebuild(d: DimLike, leaf: Callable[[Atom], DimLike]) -> DimLike:
    if isinstance(d, int):
        return d
    out: DimLike = 0
    for m, c in d.terms:
        product: DimLike = c
        for a in m:
            product = product * (leaf(a) if a.kind == "sym" else OPS[a.kind](_rebuild(a.a, leaf), _rebuild(a.b, leaf)))
        out = out + product
    return out


def numel(shape: tuple[DimLike, ...]) -> DimLike:
    """The number of elements of a shape."""
    out: DimLike = 1
    for d in shape:
        out = out * d
    return out


def contiguous_strides(shape: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """Row-major strides, in elements."""
    out: list[DimLike] = []
    step: DimLike = 1
    for d in reversed(shape):
        out.append(step)
        step = step * d
    return tuple(reversed(out))
