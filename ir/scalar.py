"""Scalar expressions: what one element of a kernel computes, as data that every backend reads.

An `Expr` is a typed DAG node. Leaves read memory (`load`), an index (`index`), a constant, a bounds predicate
(`in_bounds`) or the result of an earlier reduction or anchor (`result`). Inner nodes apply one of `BASIC`, the
operations that every backend must have, or one of `MATH`, the transcendental functions, which a backend either
has natively or expands with `ir/math` into basic operations.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping

import numpy as np

from .dim import Dim, DimLike, substitute, symbols
from .dtypes import DType, bool_, int32, int64, uint32, uint64

# name -> number of operands. Operands have one dtype, which is also the result's, except where noted.
BASIC: dict[str, int] = {
    "add": 2,
    "sub": 2,
    "mul": 2,
    "div": 2,  # floats: IEEE; integers: truncating, never by zero (the caller selects around it)
    "rem": 2,  # truncating remainder, like C's % and fmod
    "neg": 1,
    "abs": 1,
    "fma": 3,  # a*b + c, rounded once (floats only)
    "min": 2,
    "max": 2,  # floats: NaN wins (IEEE 754-2019 minimum/maximum)
    "sqrt": 1,
    "floor": 1,
    "ceil": 1,
    "trunc": 1,
    "round": 1,  # round: half to even
    "copysign": 2,
    "eq": 2,
    "ne": 2,
    "lt": 2,
    "le": 2,
    "gt": 2,
    "ge": 2,  # -> bool; ne is true for NaN, the others false
    "and": 2,
    "or": 2,
    "xor": 2,
    "not": 1,  # integers and bool
    "shl": 2,
    "shr": 2,  # shr is arithmetic for signed, logical for unsigned; counts in [0, bits)
    "mulhi": 2,  # high half of the product of unsigned integers
    "select": 3,  # (bool, x, y)
    "cast": 1,  # value conversion, target in Expr.dtype; float to int truncates, out of range wraps or saturates
    "bitcast": 1,  # same bits, target in Expr.dtype
}
MATH: dict[str, int] = {
    "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log10": 1, "log1p": 1,
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "atan2": 2,
    "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1,
    "erf": 1, "erfc": 1, "erfinv": 1, "lgamma": 1, "digamma": 1, "pow": 2, "cbrt": 1, "rsqrt": 1,
}  # fmt: skip
# Operations that only some targets have; the expansions of MATH use them where they are told to.
OPTIONAL: dict[str, int] = {
    "scale": 2,  # x * 2**n for a float n without fraction, rounded once
}
COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge"))
LEAVES = frozenset(("const", "index", "load", "in_bounds", "result"))


def _attr_key(e: "Expr") -> object:
    """What tells attributes apart. Computed places of loads are in it as expressions, which know their hashes: their texts
    grow with every load that another one's place depends on."""
    if e.op != "load":
        return repr(e.attr)
    index = tuple([i if isinstance(i, Expr) else repr(i) for i in e.attr.index])
    return e.attr.buffer, index, repr(e.attr.mask)


class Expr:
    """One node. `attr` holds: const: the Python value; index: the Dim; load: a `Load`; in_bounds: a tuple of Dims that
    must all be >= 0; result: the name of the reduction or anchor."""

    __slots__ = ("op", "dtype", "args", "attr", "_hash", "_symbols", "_results")

    def __init__(self, op: str, dtype: DType, args: tuple["Expr", ...] = (), attr: Any = None):
        self.op, self.dtype, self.args, self.attr = op, dtype, args, attr
        self._hash: int | None = None
        self._symbols: frozenset | None = None
        self._results: frozenset | None = None

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Expr)
            and hash(self) == hash(other)
            and self.op == other.op
            and self.dtype is other.dtype
            and _attr_key(self) == _attr_key(other)
            and self.args == other.args
        )

    def __hash__(self) -> int:
        if self._hash is None:
            for e in _operands_first(self, lambda e: e._hash is None):
                e._hash = hash((e.op, e.dtype.code, _attr_key(e), e.args))
        assert self._hash is not None
        return self._hash

    def __repr__(self) -> str:
        from .kernel_text import format_expr

        return format_expr(self)

    # Arithmetic sugar, so that expansions and lowerings read as formulas. Python numbers take the other's dtype.
    def __add__(self, o):
        return apply("add", self, o)

    def __radd__(self, o):
        return apply("add", o, self)

    def __sub__(self, o):
        return apply("sub", self, o)

    def __rsub__(self, o):
        return apply("sub", o, self)

    def __mul__(self, o):
        return apply("mul", self, o)

    def __rmul__(self, o):
        return apply("mul", o, self)

    def __truediv__(self, o):
        return apply("div", self, o)

    def __rtruediv__(self, o):
        return apply("div", o, self)

    def __neg__(self):
        return apply("neg", self)

    def __and__(self, o):
        return apply("and", self, o)

    def __or__(self, o):
        return apply("or", self, o)

    def __xor__(self, o):
        return apply("xor", self, o)

    def __invert__(self):
        return apply("not", self)

    def __lshift__(self, o):
        return apply("shl", self, o)

    def __rshift__(self, o):
        return apply("shr", self, o)

    def __lt__(self, o):
        return apply("lt", self, o)

    def __le__(self, o):
        return apply("le", self, o)

    def __gt__(self, o):
        return apply("gt", self, o)

    def __ge__(self, o):
        return apply("ge", self, o)


class Load:
    """Reads `buffer` at `index` (one entry per dim: a Dim over axis symbols, or an integer Expr for indirect access).

    Where some Dim of `mask` is negative the element is not touched and the value is 0. Indirect entries must
    already be in range.
    """

    __slots__ = ("buffer", "index", "mask")

    def __init__(self, buffer: str, index: tuple["DimLike | Expr", ...], mask: tuple[DimLike, ...] = ()):
        self.buffer, self.index, self.mask = buffer, index, mask

    def __repr__(self) -> str:
        inner = ", ".join(map(str, self.index))
        return f"{self.buffer}[{inner}]" + (f" if {' & '.join(f'{d} >= 0' for d in self.mask)}" if self.mask else "")


def const(value: bool | int | float, dtype: DType) -> Expr:
    """A constant, stored as the Python value that `dtype` holds exactly."""
    if dtype.kind == "f":
        value = float(np.asarray(value, np.float64).astype(dtype.np).astype(np.float64))
    elif dtype.kind == "b":
        value = bool(value)
    else:
        value = int(value)
    return Expr("const", dtype, (), value)


def index(d: DimLike, dtype: DType = int64) -> Expr:
    """The value of an index expression, as a number."""
    return const(d, dtype) if isinstance(d, int) else Expr("index", dtype, (), d)


def load(dtype: DType, buffer: str, at: tuple[DimLike | Expr, ...], mask: tuple[DimLike, ...] = ()) -> Expr:
    args = tuple(i for i in at if isinstance(i, Expr))
    return Expr("load", dtype, args, Load(buffer, at, mask))


def in_bounds(conditions: tuple[DimLike, ...]) -> Expr:
    """True where every Dim of `conditions` is >= 0."""
    return Expr("in_bounds", bool_, (), conditions)


def result(name: str, dtype: DType) -> Expr:
    """The value of an earlier reduction or of the kernel's anchor."""
    return Expr("result", dtype, (), name)


def apply(op: str, *args: Any, dtype: DType | None = None) -> Expr:
    """`op` on Exprs; Python numbers among the operands become constants of the others' dtype. Folds what is cheap."""
    if op not in BASIC and op not in MATH and op not in OPTIONAL:
        raise ValueError(f"{op!r} is not a scalar operation")
    typed = next((a.dtype for a in reversed(args) if isinstance(a, Expr)), None)
    if typed is None:
        raise TypeError(f"{op}: at least one operand must be an Expr")
    if op == "select":
        typed = next((a.dtype for a in args[1:] if isinstance(a, Expr)), typed)
        args = (args[0], *(a if isinstance(a, Expr) else const(a, typed) for a in args[1:]))
    else:
        args = tuple(a if isinstance(a, Expr) else const(a, typed) for a in args)
    operands = args[1:] if op == "select" else args
    if any(a.dtype is not operands[0].dtype for a in operands):
        raise TypeError(f"{op}: operand dtypes differ: {', '.join(a.dtype.code for a in args)}")
    if dtype is None:
        dtype = bool_ if op in COMPARISONS else operands[0].dtype
    if op in ("cast", "bitcast") and dtype is args[0].dtype:
        return args[0]
    assert dtype is not None
    return Expr(op, dtype, args)


def cast(x: Expr, dtype: DType) -> Expr:
    """`x` as `dtype`. What was widened within its kind comes back as it was, the bits of a NaN included."""
    if x.op == "cast" and x.args[0].dtype is dtype and x.dtype.kind == dtype.kind and x.dtype.bits > dtype.bits:
        return x.args[0]
    if x.op == "const" and not (x.dtype.kind == "f" and dtype.kind != "f"):
        return (
            const(x.attr, dtype) if not (dtype.kind in "iu" and not _fits(x.attr, dtype)) else Expr("cast", dtype, (x,))
        )
    return apply("cast", x, dtype=dtype)


def _fits(value: int, dtype: DType) -> bool:
    low = 0 if dtype.kind == "u" else -(1 << (dtype.bits - 1))
    return low <= value < low + (1 << dtype.bits)


def bitcast(x: Expr, dtype: DType) -> Expr:
    return apply("bitcast", x, dtype=dtype)


def select(condition: Expr, x: Any, y: Any) -> Expr:
    return apply("select", condition, x, y)


def bits_dtype(dtype: DType, signed: bool = True) -> DType:
    """The integer type as wide as a 32- or 64-bit float."""
    if dtype.bits == 32:
        return int32 if signed else uint32
    return int64 if signed else uint64


def free_symbols(e: Expr) -> frozenset:
    """Every index symbol an expression depends on (through loads, masks and indices)."""
    if e._symbols is None:
        for n in _operands_first(e, lambda n: n._symbols is None):
            n._symbols = _own_symbols(n).union(*(a._symbols for a in n.args))  # type: ignore[arg-type]
    assert e._symbols is not None
    return e._symbols


def _own_symbols(e: Expr) -> frozenset:
    if e.op == "index":
        return symbols(e.attr)
    if e.op == "in_bounds":
        return frozenset().union(*map(symbols, e.attr))
    if e.op == "load":
        return frozenset().union(*(symbols(d) for d in (*e.attr.index, *e.attr.mask) if not isinstance(d, Expr)))
    return frozenset()


def free_results(e: Expr) -> frozenset:
    """The names of the reductions and anchors an expression depends on."""
    if e._results is None:
        for n in _operands_first(e, lambda n: n._results is None):
            own = frozenset((n.attr,)) if n.op == "result" else frozenset()
            n._results = own.union(*(a._results for a in n.args))  # type: ignore[arg-type]
    assert e._results is not None
    return e._results


def _operands_first(root: Expr, wanted: Callable[[Expr], bool]) -> Iterator[Expr]:
    """The nodes that are wanted and reachable through wanted ones, each after its operands. No recursion: expressions
    get deep."""
    stack = [root]
    while stack:
        e = stack[-1]
        waiting = [a for a in e.args if wanted(a)]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if wanted(e):
            yield e


def walk(*roots: Expr):
    """Every node reachable from the roots once, operands before users."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            yield e
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            stack.extend((a, False) for a in reversed(e.args))


def transform(e: Expr, leaf: Callable[[Expr], Expr | None], memo: dict[int, Expr] | None = None) -> Expr:
    """Rebuilds `e` bottom up; `leaf(node)` (operands already rebuilt) may return a replacement."""
    memo = {} if memo is None else memo
    for node in _operands_first(e, lambda n: id(n) not in memo):
        args = tuple(memo[id(a)] for a in node.args)
        new = node
        if any(a is not b for a, b in zip(args, node.args)):
            attr = node.attr
            if node.op == "load":
                fresh = iter(args)
                attr = Load(
                    attr.buffer, tuple(next(fresh) if isinstance(i, Expr) else i for i in attr.index), attr.mask
                )
            new = Expr(node.op, node.dtype, args, attr)
        memo[id(node)] = leaf(new) or new
    return memo[id(e)]


def moved(e: Expr, env: Mapping[Dim, DimLike], memo: dict[int, Expr] | None = None) -> Expr:
    """`e` at another point: with index symbols replaced."""

    def at(d: DimLike) -> DimLike:
        return substitute(d, env)

    def leaf(x: Expr) -> Expr | None:
        if x.op == "index":
            return index(at(x.attr), x.dtype)
        if x.op == "in_bounds":
            return in_bounds(tuple(map(at, x.attr)))
        if x.op == "load":
            entries = tuple(d if isinstance(d, Expr) else at(d) for d in x.attr.index)
            return Expr("load", x.dtype, x.args, Load(x.attr.buffer, entries, tuple(map(at, x.attr.mask))))
        return None

    return transform(e, leaf, memo)
