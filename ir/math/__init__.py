"""Math functions as basic operations: branch-free, without tables or libm, for float32 and float64."""

from __future__ import annotations

from collections.abc import Callable

from ..dtypes import float32, float64
from ..scalar import MATH, Expr, transform
from . import exponential, gamma, inverse, power, special, trigonometric
from .kit import Kit

FUNCTIONS: dict[str, Callable[..., Expr]] = {
    "exp": exponential.exp,
    "exp2": exponential.exp2,
    "expm1": exponential.expm1,
    "log": exponential.log,
    "log2": exponential.log2,
    "log10": exponential.log10,
    "log1p": exponential.log1p,
    "tanh": exponential.tanh,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "tan": trigonometric.tan,
    "asin": inverse.asin,
    "acos": inverse.acos,
    "atan": inverse.atan,
    "atan2": inverse.atan2,
    "sinh": inverse.sinh,
    "cosh": inverse.cosh,
    "asinh": inverse.asinh,
    "acosh": inverse.acosh,
    "atanh": inverse.atanh,
    "erf": special.erf,
    "erfc": special.erfc,
    "erfinv": special.erfinv,
    "lgamma": gamma.lgamma,
    "digamma": gamma.digamma,
    "pow": power.pow,
    "cbrt": power.cbrt,
    "rsqrt": power.rsqrt,
}


def expand(e: Expr, fma: bool = True) -> Expr:
    """The node `e` (its operands are left alone) in basic operations; `e` itself where it is one already.

    fma: whether the target has the instruction; without it the result holds no `fma`. Raises TypeError for operands
    that are not float32 or float64.
    """
    if e.op not in MATH:
        return e
    if e.dtype is not float32 and e.dtype is not float64:
        raise TypeError(f"{e.op} is expanded for float32 and float64, not {e.dtype.name}: cast the operand")
    return FUNCTIONS[e.op](Kit(e.dtype, fma), *e.args)


def expand_all(e: Expr, fma: bool = True, memo: dict[int, Expr] | None = None) -> Expr:
    """`e` with every math function in it expanded. Share `memo` between expressions with common parts."""
    return transform(e, lambda node: expand(node, fma), memo)
