"""Element-wise functions of the array API, made from a table of ops.

Each goes one of two ways: for plain Tensors outside of traces that need no gradient it calls the op's NumPy reference
at once, which costs about a microsecond over NumPy; for everything else, large ones too, it promotes operands and runs
`dispatch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir import ops as _ops  # noqa: F401  (declares every op)
from ..ir.dtypes import DType, bool_, dtype_of, float32, float64, int64
from ..ir.op import OpDef, get_op
from .convert import as_tensor, cast_to, check_cast, is_scalar, promote_operands
from .dispatch import run
from .large import LARGE
from .state import state
from .tensor import Tensor

_FLOAT32, _FLOAT64, _INT64, _BOOL = float32.np, float64.np, int64.np, bool_.np
_FLOATS = (_FLOAT32, _FLOAT64)
_allocate = object.__new__


def _untracked(x: Tensor) -> bool:
    return x._node is None and x._requires_grad is None and x._base is None or not state.grad_enabled


def _fresh(out: np.ndarray) -> Tensor:
    """`new_tensor` for results of references, which may be NumPy scalars."""
    t = _allocate(Tensor)
    t._data = out if type(out) is np.ndarray else np.asarray(out)
    t._grad = t._node = t._requires_grad = t._base = t._view = t._version = None
    return t


# ------------------------------------------------------------------ functions of one operand


def _unary(
    op_name: str, doc: str, name: str = "", floats: bool = True, of_complex: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Any], Tensor]:
    """floats: integers and bools are taken as floats of the default type. of_complex: what complex tensors go to
    instead."""
    op = get_op(op_name)
    reference = op.reference

    def function(x, /):
        if type(x) is Tensor and state.tracer is None and _untracked(x):
            a = x._data
            if type(a) is np.ndarray and ((dt := a.dtype) is _FLOAT32 or dt is _FLOAT64) and a.size < LARGE:
                try:
                    return _fresh(reference(a))
                except (TypeError, ValueError):
                    pass  # the full way says what is wrong with the operands
        x = as_tensor(x)
        if floats and not x.dtype.is_inexact:
            x = cast_to(x, state.default_dtype)
        if of_complex is not None and x.dtype.is_complex:
            return of_complex(x)
        return run(op, (x,), {})

    return _named(function, name or op_name, doc)


def at_once(ufunc: np.ufunc, bools: bool = False) -> Callable[[Callable], Callable]:
    """For functions that are made of several ops: plain Tensors of one floating type (`bools`: of bools) outside of
    traces that need no gradient go through NumPy's `ufunc`, which means the same, in one step."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(x, /, *others, **named):
            if type(x) is Tensor and not named and state.tracer is None and _untracked(x):
                a = x._data
                if type(a) is np.ndarray:
                    dt = a.dtype
                    if (dt is _BOOL) if bools else (dt is _FLOAT32 or dt is _FLOAT64):
                        if not others:
                            return _fresh(ufunc(a))
                        y = others[0]
                        if type(y) is Tensor and type(y._data) is np.ndarray and y._data.dtype is dt and _untracked(y):
                            try:
                                return _fresh(ufunc(a, y._data))
                            except ValueError:
                                pass  # the full way says what is wrong with the operands
            return function(x, *others, **named)

        return call

    return decorate


def _named(function: Callable, name: str, doc: str) -> Callable:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _size_of_complex(x: Tensor) -> Tensor:
    return run(get_op("complex_abs"), (x,), {})


def _direction_of_complex(x: Tensor) -> Tensor:
    size = _size_of_complex(x)
    return where(equal(size, 0), 0, divide(x, where(equal(size, 0), 1, size)))


abs = _unary(
    "abs", "Absolute value: of complex numbers the real distance from 0.", floats=False, of_complex=_size_of_complex
)
sign = _unary(
    "sign", "-1, 0 or 1; NaN stays. Of complex numbers x / abs(x).", floats=False, of_complex=_direction_of_complex
)
exp = _unary("exp", "e**x.")
exp2 = _unary("exp2", "2**x.")
expm1 = _unary("expm1", "e**x - 1, accurate near 0.")
log = _unary("log", "Natural logarithm.")
log2 = _unary("log2", "Logarithm to base 2.")
log10 = _unary("log10", "Logarithm to base 10.")
log1p = _unary("log1p", "log(1 + x), accurate near 0.")
sqrt = _unary("sqrt", "Square root.")
rsqrt = _unary("rsqrt", "1 / sqrt(x).")
cbrt = _unary("cbrt", "Cube root.")
sin = _unary("sin", "Sine (radians).")
cos = _unary("cos", "Cosine (radians).")
tan = _unary("tan", "Tangent (radians).")
asin = _unary("asin", "Inverse sine.")
acos = _unary("acos", "Inverse cosine.")
atan = _unary("atan", "Inverse tangent.")
sinh = _unary("sinh", "Hyperbolic sine.")
cosh = _unary("cosh", "Hyperbolic cosine.")
tanh = _unary("tanh", "Hyperbolic tangent.")
asinh = _unary("asinh", "Inverse hyperbolic sine.")
acosh = _unary("acosh", "Inverse hyperbolic cosine.")
atanh = _unary("atanh", "Inverse hyperbolic tangent.")
erf = _unary("erf", "Error function.")
erfc = _unary("erfc", "1 - erf(x), accurate for large x.")
erfinv = _unary("erfinv", "Inverse error function.")
lgamma = _unary("lgamma", "log |gamma(x)|.")
digamma = _unary("digamma", "Derivative of lgamma.")
sigmoid = _unary("sigmoid", "1 / (1 + e**-x).")
relu = _unary("relu", "max(x, 0).", floats=False)
negative = _unary("neg", "-x.", "negative", floats=False)
floor = _unary("floor", "Rounds towards minus infinity.", floats=False)
ceil = _unary("ceil", "Rounds towards infinity.", floats=False)
trunc = _unary("trunc", "Rounds towards zero.", floats=False)
isnan = _unary("isnan", "Whether each element is NaN.", floats=False)
isinf = _unary("isinf", "Whether each element is infinite.", floats=False)
isfinite = _unary("isfinite", "Whether each element is finite.", floats=False)
bitwise_invert = _unary("not", "~x: bits of integers, negation of bools.", "bitwise_invert", floats=False)
_round = _unary("round", "", floats=False)


def round(x: Any, /, decimals: int = 0) -> Tensor:
    """To the nearest integer, halves to even; or to `decimals` digits behind the point."""
    if decimals == 0:
        return _round(x)
    scale = 10.0**decimals
    return divide(_round(multiply(x, scale)), scale)


@at_once(np.positive)
def positive(x: Any, /) -> Tensor:
    """A copy of x."""
    x = as_tensor(x)
    return run(get_op("cast"), (x,), {"dtype": x.dtype})


@at_once(np.square)
def square(x: Any, /) -> Tensor:
    """x * x."""
    return multiply(x, x)


@at_once(np.reciprocal)
def reciprocal(x: Any, /) -> Tensor:
    """1 / x."""
    return divide(1.0, x)


@at_once(np.signbit)
def signbit(x: Any, /) -> Tensor:
    """Whether the sign bit is set: true for -0.0 too."""
    x = as_tensor(x)
    return less(copysign(1.0, x) if x.dtype.is_floating else x, 0)


def logical_not(x: Any, /) -> Tensor:
    """x == 0, as bools."""
    return bitwise_invert(to_bool(x))


# ------------------------------------------------------------------ functions of two operands


def _binary(op_name: str, doc: str, name: str = "", floats: bool = False) -> Callable[[Any, Any], Tensor]:
    """floats: integers are taken as floats of the default type."""
    op = get_op(op_name)
    reference = op.reference

    def function(x, y, /):
        if type(x) is Tensor and state.tracer is None and _untracked(x):
            a = x._data
            if type(a) is np.ndarray and a.size < LARGE:
                dt = a.dtype
                try:
                    if type(y) is Tensor:
                        b = y._data
                        if type(b) is np.ndarray and b.dtype is dt and _untracked(y) and (not floats or dt in _FLOATS):
                            return _fresh(reference(a, b))
                    elif dt is _FLOAT32 or dt is _FLOAT64:
                        if type(y) is float or type(y) is int:
                            return _fresh(reference(a, y))
                    elif dt is _INT64 and type(y) is int and not floats:
                        return _fresh(reference(a, y))
                except (TypeError, ValueError):
                    pass  # the full way says what is wrong with the operands
        return binary(op, x, y, floats)

    return _named(function, name or op_name, doc)


def binary(op: OpDef, x: Any, y: Any, floats: bool) -> Tensor:
    """The full way of a function of two operands."""
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x._data.dtype is y._data.dtype):
        x, y = promote_operands(x, y)
    if floats and not x.dtype.is_inexact:
        x, y = cast_to(x, state.default_dtype), cast_to(y, state.default_dtype)
    if x.dtype is bool_ and op.name in _OF_BOOLS:
        op = get_op(_OF_BOOLS[op.name])
    return run(op, (x, y), {})


_OF_BOOLS = {"add": "or", "mul": "and", "maximum": "or", "minimum": "and"}


add = _binary("add", "x + y.")
subtract = _binary("sub", "x - y.", "subtract")
multiply = _binary("mul", "x * y.", "multiply")
divide = _binary("div", "x / y: true division, of integers too.", "divide", floats=True)
floor_divide = _binary("floordiv", "x // y, rounded towards minus infinity.", "floor_divide")
remainder = _binary("mod", "x % y: has the sign of y.", "remainder")
pow = _binary("pow", "x ** y.")
maximum = _binary("maximum", "The larger of each pair; NaN wins.")
minimum = _binary("minimum", "The smaller of each pair; NaN wins.")
copysign = _binary("copysign", "The magnitude of x with the sign of y.", floats=True)
atan2 = _binary("atan2", "The angle of the point (y, x): atan(x / y) in the right quadrant.", floats=True)
logaddexp = _binary("logaddexp", "log(e**x + e**y) without overflow.", floats=True)
nextafter = _binary("nextafter", "The next float after x in the direction of y.", floats=True)
equal = _binary("eq", "x == y, as bools.", "equal")
not_equal = _binary("ne", "x != y, as bools.", "not_equal")
less = _binary("lt", "x < y, as bools.", "less")
less_equal = _binary("le", "x <= y, as bools.", "less_equal")
greater = _binary("gt", "x > y, as bools.", "greater")
greater_equal = _binary("ge", "x >= y, as bools.", "greater_equal")
bitwise_and = _binary("and", "x & y, of integers or bools.", "bitwise_and")
bitwise_or = _binary("or", "x | y, of integers or bools.", "bitwise_or")
bitwise_xor = _binary("xor", "x ^ y, of integers or bools.", "bitwise_xor")
bitwise_left_shift = _binary("shl", "x << y, of integers.", "bitwise_left_shift")
bitwise_right_shift = _binary("shr", "x >> y, of integers; arithmetic for signed ones.", "bitwise_right_shift")


@at_once(np.hypot)
def hypot(x: Any, y: Any, /) -> Tensor:
    """sqrt(x*x + y*y) without overflow in between."""
    x, y = promote_operands(x, y)
    x, y = abs(x), abs(y)
    large, small = maximum(x, y), minimum(x, y)
    ratio = divide(small, where(equal(large, 0), 1, large))
    plain = multiply(large, sqrt(add(multiply(ratio, ratio), 1)))
    return where(isinf(large), large, plain)


def to_bool(x: Any) -> Tensor:
    """x != 0."""
    x = as_tensor(x)
    return x if x.dtype is bool_ else run(get_op("cast"), (x,), {"dtype": bool_})


@at_once(np.logical_and, bools=True)
def logical_and(x: Any, y: Any, /) -> Tensor:
    """Whether both are not 0."""
    return bitwise_and(to_bool(x), to_bool(y))


@at_once(np.logical_or, bools=True)
def logical_or(x: Any, y: Any, /) -> Tensor:
    """Whether one is not 0."""
    return bitwise_or(to_bool(x), to_bool(y))


@at_once(np.logical_xor, bools=True)
def logical_xor(x: Any, y: Any, /) -> Tensor:
    """Whether exactly one is not 0."""
    return bitwise_xor(to_bool(x), to_bool(y))


# ------------------------------------------------------------------ selection and casts


def where(condition: Any, x: Any, y: Any, /) -> Tensor:
    """x where `condition` holds, else y. The three broadcast; x and y promote."""
    return run(get_op("where"), (to_bool(condition), *promote_operands(x, y)), {})


def clip(x: Any, /, min: Any = None, max: Any = None) -> Tensor:
    """Limits x to [min, max]; either may be None. The result has the dtype of x."""
    x = as_tensor(x)
    for bound, limit in ((min, maximum), (max, minimum)):
        if bound is not None:
            x = limit(x, bound if is_scalar(bound) and x.dtype.is_floating else _bound(x, bound))
    return positive(x) if min is None and max is None else x


def _bound(x: Tensor, bound: Any) -> Any:
    if not is_scalar(bound):
        return cast_to(as_tensor(bound), x.dtype)
    return bound


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
    """x with another element type. copy=False returns x itself if it has that type already.

    TypeError for complex x and a real type: it is not said which part is meant.
    """
    x, wanted = as_tensor(x), dtype_of(dtype)
    check_cast(x.dtype, wanted)
    return x if not copy and x.dtype is wanted else run(get_op("cast"), (x,), {"dtype": wanted})


def bitcast(x: Any, dtype: DType, /) -> Tensor:
    """The bits of x read as another element type of the same size."""
    return run(get_op("bitcast"), (as_tensor(x),), {"dtype": dtype})


def lerp(x: Any, y: Any, weight: Any, /) -> Tensor:
    """x + weight * (y - x)."""
    return add(x, multiply(weight, subtract(y, x)))


def nan_to_num(x: Any, /, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """x with NaN and the infinities replaced (by default by 0 and the largest finite numbers)."""
    x = as_tensor(x)
    if not x.dtype.is_floating:
        return positive(x)
    from ml_dtypes import finfo

    top = float(finfo(x.dtype.np).max)
    x = where(isnan(x), nan, x)
    x = where(equal(x, float("inf")), top if posinf is None else posinf, x)
    return where(equal(x, float("-inf")), -top if neginf is None else neginf, x)


def isclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether |x - y| <= atol + rtol * |y|; equal infinities are close."""
    x, y = promote_operands(x, y)
    near = less_equal(abs(subtract(x, y)), add(multiply(abs(y), rtol), atol))
    out = logical_or(equal(x, y), logical_and(near, isfinite(y)))
    return logical_or(out, logical_and(isnan(x), isnan(y))) if equal_nan else out


__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bitcast",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "cbrt",
    "ceil",
    "clip",
    "copysign",
    "cos",
    "cosh",
    "digamma",
    "divide",
    "equal",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "lerp",
    "less",
    "less_equal",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "multiply",
    "nan_to_num",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
    "where",
]  # fmt: skip
