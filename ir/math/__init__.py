"""Math functions as basic operations: branch-free, without tables or libm, for float32 and float64.

`ULP_BOUNDS` is what the tests hold them to, in units in the last place, with and without an fma instruction, over the
whole range with subnormals, infinities and NaN as in C99. sin, cos and tan reduce every finite argument; in float64
beyond 2**54 the reduction leaves 2**-105 quarter turns, which shows only within 2**-50 of a zero. lgamma below 0 and
digamma change sign between poles: there the unit is that of 1 if the result is smaller.

| function | float32 | float64 |
|---|---|---|
| exp | 1.1 | 1.1 |
| exp2 | 1.2 | 1.2 |
| expm1 | 1.5 | 2.0 |
| log | 1.0 | 1.0 |
| log2 | 1.0 | 1.0 |
| log10 | 1.0 | 1.0 |
| log1p | 1.0 | 1.0 |
| sin | 1.6 | 1.0 |
| cos | 1.6 | 1.0 |
| tan | 0.6 | 2.4 |
| asin | 2.5 | 2.5 |
| acos | 1.4 | 1.4 |
| atan | 2.5 | 2.5 |
| atan2 | 2.5 | 2.5 |
| sinh | 2.5 | 2.5 |
| cosh | 1.6 | 1.6 |
| tanh | 1.4 | 1.4 |
| asinh | 2.0 | 2.0 |
| acosh | 2.5 | 2.5 |
| atanh | 2.5 | 2.5 |
| erf | 1.2 | 1.0 |
| erfc | 3.5 | 3.5 |
| erfinv | 3.2 | 4.5 |
| lgamma | 0.6 | 4.5 |
| digamma | 0.6 | 10.0 |
| pow | 0.6 | 1.5 |
| cbrt | 0.6 | 1.0 |
| rsqrt | 1.5 | 1.5 |
"""

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

ULP_BOUNDS: dict[str, tuple[float, float]] = {  # (float32, float64)
    "exp": (1.1, 1.1), "exp2": (1.2, 1.2), "expm1": (1.5, 2.0), "log": (1.0, 1.0), "log2": (1.0, 1.0),
    "log10": (1.0, 1.0), "log1p": (1.0, 1.0), "sin": (1.6, 1.0), "cos": (1.6, 1.0), "tan": (0.6, 2.4),
    "asin": (2.5, 2.5), "acos": (1.4, 1.4), "atan": (2.5, 2.5), "atan2": (2.5, 2.5), "sinh": (2.5, 2.5),
    "cosh": (1.6, 1.6), "tanh": (1.4, 1.4), "asinh": (2.0, 2.0), "acosh": (2.5, 2.5), "atanh": (2.5, 2.5),
    "erf": (1.2, 1.0), "erfc": (3.5, 3.5), "erfinv": (3.2, 4.5), "lgamma": (0.6, 4.5), "digamma": (0.6, 10.0),
    "pow": (0.6, 1.5), "cbrt": (0.6, 1.0), "rsqrt": (1.5, 1.5),
}  # fmt: skip


def expand(e: Expr, fma: bool = True, scale: bool = False) -> Expr:
    """The node `e` (its operands are left alone) in basic operations; `e` itself where it is one already.

    fma: whether the target has the instruction; without it the result holds no `fma`. scale: whether it has that of
    `scalar.OPTIONAL`, which takes the place of arithmetic on exponents. Raises TypeError for operands
    that are not float32 or float64.
    """
    if e.op not in MATH:
        return e
    if e.dtype is not float32 and e.dtype is not float64:
        raise TypeError(f"{e.op} is expanded for float32 and float64, not {e.dtype.name}: cast the operand")
    return FUNCTIONS[e.op](Kit(e.dtype, fma, scale), *e.args)


def expand_all(e: Expr, fma: bool = True, memo: dict[int, Expr] | None = None) -> Expr:
    """`e` with every math function in it expanded. Share `memo` between expressions with common parts."""
    return transform(e, lambda node: expand(node, fma), memo)
