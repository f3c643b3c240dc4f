"""Functions whose number of terms depends on the operand: zeta, the incomplete gamma functions, gcd. They have no
kernel: the NumPy references run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import pointwise as by_broadcasting
from ..op import NO_GRADIENT, ErrorSample, OpDef, Sample, VjpContext, VjpRule, register
from ..types import TensorType, broadcast_shapes
from . import _special
from ._declare import FLOATING, common_dtype, const_like, draw, exact, operand_errors, rng_of, wanted
from .elementary import exp, lgamma, log
from .pointwise import mul, neg, shift, sub

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330)
_START, _FURTHEST = 12.0, 200.0  # the asymptotic series has the precision of float64 from max(12, s) on
_ROUNDS = 600  # enough for the incomplete gamma functions of arguments up to some 10^4


def _pairwise(
    name: str, reference: Callable[..., Any], vjp: VjpRule | str, domains: tuple, saves: tuple[str, ...], doc: str,
    takes: str = FLOATING, dtypes: tuple = (np.float32, np.float64), operands: tuple[str, str] = ("x", "y"),
) -> OpDef:  # fmt: skip
    """An op on pairs of elements, without a scalar form."""

    def infer(x: TensorType, y: TensorType) -> TensorType:
        return TensorType(common_dtype((x, y), takes), broadcast_shapes(x.shape, y.shape))

    def samples() -> Iterator[Sample]:
        rng = rng_of(name)
        for shapes in (((), ()), ((5, 17), (5, 17)), ((3, 1), (1, 4)), ((0, 3), (1, 3)), ((4,), ())):
            for dtype in dtypes:
                arrays = tuple(draw(rng, s, d, dtype=dtype) for s, d in zip(shapes, domains))
                yield Sample(arrays, gradcheck=False)

    return register(
        OpDef(
            name, "structural", operands, infer, exact(reference), vjp, saves=saves, samples=samples,
            errors=lambda: _errors(takes), batch=by_broadcasting, tolerance=2e-5, doc=doc,
        )
    )  # fmt: skip


def _errors(takes: str) -> Iterator[ErrorSample]:
    yield from operand_errors(takes, 2, {})


def _wide(*arrays: np.ndarray) -> tuple[tuple[int, ...], list[np.ndarray]]:
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return shape, [np.broadcast_to(a, shape).astype(np.float64).ravel() for a in arrays]


def _zeta(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Terms up to q + k >= max(12, s), then Euler-Maclaurin summation."""
    shape, (s, a) = _wide(x, q)
    total, at = np.zeros_like(s), a.copy()
    start = np.clip(s, _START, _FURTHEST)  # what comes after 200 does not count for larger s
    while (low := at < start).any():
        total = np.where(low, total + at**-s, total)
        at = np.where(low, at + 1, at)
    last = at**-s
    out = total + at * last / (s - 1) + 0.5 * last
    factor, power, factorial = s.copy(), last / at, 2.0
    for k, b in enumerate(_BERNOULLI):
        out = out + b * factor * power / factorial
        factor = factor * (s + 2 * k + 1) * (s + 2 * k + 2)
        power = power / (at * at)
        factorial *= (2 * k + 3) * (2 * k + 4)
    out = np.where((a <= 0) & (a == np.floor(a)), np.inf, out)
    out = np.where((a <= 0) & (a != np.floor(a)) & (s != np.floor(s)), np.nan, out)
    out = np.where(s == 1, np.inf, np.where(s < 1, np.nan, out))
    return out.reshape(shape)


def _zeta_vjp(c: VjpContext, g: Any) -> tuple:
    x, q = c.inputs

    def slope() -> Any:
        return neg(mul(g, mul(x, zeta(shift(x, 1), q))))

    return wanted(c, lambda: None, slope)


zeta = _pairwise(
    "zeta", _zeta, _zeta_vjp, ((1.5, 6), (0.3, 20)), ("x", "q"),
    "Hurwitz' zeta function: the sum of (k + q)^-x over k >= 0. The gradient is with respect to q alone.",
    operands=("x", "q"),
)  # fmt: skip


def _gamma_parts(a: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P(a, x) by its power series where x < a + 1, 1 - P by Lentz' continued fraction elsewhere; the other of the two
    is the difference from 1. (Abramowitz, Stegun 6.5.29 and 6.5.31.)"""
    scale = np.exp(-x + a * np.log(x) - _special.lgamma(a))
    term = total = 1 / a
    step = a.copy()
    with np.errstate(all="ignore"):
        for _ in range(_ROUNDS):
            step = step + 1
            term = term * x / step
            total = total + term
            if not (np.abs(term) > 1e-17 * np.abs(total)).any():
                break
        tiny = 1e-300
        b = x + 1 - a
        upper, lower = np.full_like(x, 1 / tiny), 1 / b
        fraction = lower
        for i in range(1, _ROUNDS):
            an, b = -i * (i - a), b + 2
            lower = an * lower + b
            lower = 1 / np.where(np.abs(lower) < tiny, tiny, lower)
            upper = b + an / upper
            upper = np.where(np.abs(upper) < tiny, tiny, upper)
            fraction = fraction * lower * upper
            if not (np.abs(lower * upper - 1) > 1e-16).any():
                break
    small = x < a + 1
    p = np.where(small, scale * total, 1 - scale * fraction)
    return p, np.where(small, 1 - p, scale * fraction)


def _incomplete_gamma(upper: bool) -> Callable[..., np.ndarray]:
    def reference(a: np.ndarray, x: np.ndarray) -> np.ndarray:
        shape, (order, at) = _wide(a, x)
        plain = (order > 0) & (at > 0) & np.isfinite(order) & np.isfinite(at)
        out = np.full_like(at, np.nan)
        out[plain] = _gamma_parts(order[plain], at[plain])[int(upper)]
        none, all_of = (1.0, 0.0) if upper else (0.0, 1.0)
        out[(order > 0) & (at == 0)] = none
        out[(order > 0) & np.isposinf(at) & np.isfinite(order)] = all_of
        out[(order == 0) & (at > 0)] = all_of
        out[np.isposinf(order) & np.isfinite(at) & (at >= 0)] = none
        return out.reshape(shape)

    return reference


def _density(c: VjpContext) -> Any:
    a, x = c.inputs
    return exp(sub(sub(mul(sub(a, const_like(a, 1)), log(x)), x), lgamma(a)))


igamma = _pairwise(
    "igamma", _incomplete_gamma(False), lambda c, g: wanted(c, lambda: None, lambda: mul(g, _density(c))),
    ((0.3, 6), (0.2, 9)), ("a", "x"),
    "The regularised lower incomplete gamma function P(a, x). The gradient is with respect to x alone.",
    operands=("a", "x"),
)  # fmt: skip
igammac = _pairwise(
    "igammac", _incomplete_gamma(True), lambda c, g: wanted(c, lambda: None, lambda: neg(mul(g, _density(c)))),
    ((0.3, 6), (0.2, 9)), ("a", "x"), "1 - igamma(a, x). The gradient is with respect to x alone.", operands=("a", "x"),
)  # fmt: skip
gcd = _pairwise(
    "gcd", np.gcd, NO_GRADIENT, ((-60, 60), (-60, 60)), (), "The greatest common divisor, never negative.",
    takes="iu", dtypes=(np.int32, np.int64),
)  # fmt: skip

__all__ = ["gcd", "igamma", "igammac", "zeta"]
