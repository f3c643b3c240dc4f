"""Evaluates scalar expressions with NumPy: what a kernel's `Expr` means, for every point at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType
from ...ir.op import get_op
from ...ir.scalar import MATH, Expr, Load, walk

Env = Mapping[Any, np.ndarray]


def evaluate(e: Expr, env: Env) -> np.ndarray:
    """The value of `e`, of its dtype; operands broadcast as in NumPy.

    `env` gives the leaves: by the leaf `Expr` itself; or by name: the array of a buffer that is loaded from, the value
    of a `result`; or by `Dim` symbol: its value, or an integer array of values, wherever index expressions mention it.
    KeyError names what is missing.
    """
    return evaluate_all((e,), env)[0]


def evaluate_all(roots: tuple[Expr, ...], env: Env) -> list[np.ndarray]:
    """`evaluate` for several expressions, whose common parts are computed once."""
    memo: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for node in walk(*roots):
            args = [memo[id(a)] for a in node.args]
            value = env[node] if node in env else _leaf(node, args, env) if node.op in _LEAVES else _apply(node, args)
            memo[id(node)] = np.asarray(value).astype(node.dtype.np, copy=False)
    return [memo[id(r)] for r in roots]


# ------------------------------------------------------------------ leaves


def _leaf(e: Expr, args: list[np.ndarray], env: Env) -> np.ndarray:
    if e.op == "const":
        return np.asarray(e.attr, e.dtype.np)
    if e.op == "index":
        return index_value(e.attr, env)
    if e.op == "in_bounds":
        return holds(e.attr, env)
    if e.op == "result":
        return env[e.attr]
    return _load(e.attr, args, env)


_LEAVES = frozenset(("const", "index", "in_bounds", "result", "load"))


def _load(load: Load, args: list[np.ndarray], env: Env) -> np.ndarray:
    """Reads under the mask; 0 elsewhere."""
    buffer, indirect = env[load.buffer], iter(args)
    at = [next(indirect) if isinstance(i, Expr) else index_value(i, env) for i in load.index]
    live = holds(load.mask, env)
    shape = np.broadcast_shapes(live.shape, *(a.shape for a in at))
    live = np.broadcast_to(live, shape)
    out = np.zeros(shape, buffer.dtype)
    chosen = tuple(np.broadcast_to(a, shape)[live] for a in at)
    for i, (position, size) in enumerate(zip(chosen, buffer.shape, strict=True)):
        if position.size and not (0 <= position.min() and position.max() < size):
            raise IndexError(f"{load} reads outside axis {i} of size {size}")
    out[live] = buffer[chosen]
    return out


def index_value(d: DimLike, env: Env) -> np.ndarray:
    """An index expression at the given values of its symbols."""
    if isinstance(d, int):
        return np.asarray(d, np.int64)
    out = np.asarray(0, np.int64)
    for factors, coefficient in d.terms:
        product = np.asarray(coefficient, np.int64)
        for atom in factors:
            if atom.kind == "sym":
                value = np.asarray(env[_symbol(atom)], np.int64)
            else:
                value = _INDEX[atom.kind](index_value(atom.a, env), index_value(atom.b, env))
            product = product * value
        out = out + product
    return out


def _symbol(atom: Any) -> Dim:
    return Dim((((atom,), 1),))


_INDEX: dict[str, Callable[..., Any]] = {
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "max": np.maximum,
    "min": np.minimum,
}


def holds(conditions: tuple[DimLike, ...], env: Env) -> np.ndarray:
    """Where every condition is >= 0."""
    out = np.asarray(True)
    for d in conditions:
        out = out & (index_value(d, env) >= 0)
    return np.asarray(out)


# ------------------------------------------------------------------ operations


def _apply(e: Expr, args: list[np.ndarray]) -> np.ndarray:
    if e.op in MATH:
        return get_op(e.op).reference(*args)
    if e.op == "cast":
        return args[0].astype(e.dtype.np)
    if e.op == "bitcast":
        return _bitcast(args[0], e.dtype)
    if e.op == "scale":
        return np.ldexp(args[0], args[1].astype(np.int64))
    return BASIC[e.op](*args)


def _bitcast(x: np.ndarray, dtype: DType) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(x.shape).view(dtype.np)


def _div(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Truncating for integers."""
    if x.dtype.kind not in "iu":
        return x / y
    return (x - np.fmod(x, y)) // y


def _mulhi(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = x.dtype.itemsize * 8
    if bits < 64:
        return (x.astype(np.uint64) * y.astype(np.uint64)) >> np.uint64(bits)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + ((x0 * y0) >> half)
    other = x0 * y1 + (middle & low)
    return x1 * y1 + (middle >> half) + (other >> half)


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c, rounded once: in float64 for narrower floats (whose products are exact there), else from exact parts."""
    if a.dtype != np.float64:
        return (a.astype(np.float64) * b + c).astype(a.dtype)
    product = a * b
    low = _product_error(a, b, product)
    total = product + c
    shifted = total - product
    lost = (product - (total - shifted)) + (c - shifted)
    exact = total + (low + lost)
    return np.where(np.isfinite(exact), exact, total)


def _product_error(a: np.ndarray, b: np.ndarray, product: np.ndarray) -> np.ndarray:
    """a*b - product, exactly (Dekker)."""
    a1, a2 = _halves(a)
    b1, b2 = _halves(b)
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scaled = x * 134217729.0  # 2^27 + 1 (Veltkamp)
    high = scaled - (scaled - x)
    return high, x - high


BASIC: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _div, "rem": np.fmod, "neg": np.negative,
    "abs": np.abs, "fma": _fma, "min": np.minimum, "max": np.maximum, "sqrt": np.sqrt, "floor": np.floor,
    "ceil": np.ceil, "trunc": np.trunc, "round": np.rint, "copysign": np.copysign, "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "and": np.bitwise_and,
    "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert, "shl": np.left_shift, "shr": np.right_shift,
    "mulhi": _mulhi, "select": np.where,
}  # fmt: skip
