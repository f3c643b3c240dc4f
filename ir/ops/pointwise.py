"""Arithmetic, comparisons, logic, bits, `where`, `cast`: the pointwise ops that are no transcendental functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import scalar as s
from ..dtypes import DType, bool_, dtype_of, float16, float32, float64, int8, int32, int64, uint8, uint32
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..scalar import Expr, select
from ..types import DTypeRuleError, TensorType, TypeRuleError, broadcast_shapes
from ._declare import (
    BITS,
    NUMBERS,
    compare,
    const_like,
    draw,
    lowers_to,
    no_change,
    pointwise,
    rng_of,
    wanted,
    zeros_like,
)

XY = ("x", "y")


def scale(x: Any, k: float) -> Any:
    """x * k for a Python number."""
    return mul(x, const_like(x, k))


def shift(x: Any, k: float) -> Any:
    """x + k for a Python number."""
    return add(x, const_like(x, k))


def masked(condition: Any, x: Any) -> Any:
    """x where the condition holds, else 0 (so that infinities in x don't become NaN)."""
    return where(condition, x, const_like(x, 0))


# ------------------------------------------------------------------ arithmetic

add = pointwise(
    "add", np.add, lowers_to("add"), lambda c, g: (g, g),
    operands=XY, takes=NUMBERS, linear=XY, complex=True,
)  # fmt: skip
sub = pointwise(
    "sub", np.subtract, lowers_to("sub"), lambda c, g: wanted(c, lambda: g, lambda: neg(g)),
    operands=XY, takes=NUMBERS, linear=XY, complex=True,
)  # fmt: skip
mul = pointwise(
    "mul", np.multiply, lowers_to("mul"),
    lambda c, g: wanted(c, lambda: mul(g, c.inputs[1]), lambda: mul(g, c.inputs[0])),
    operands=XY, takes=NUMBERS, saves=XY, multilinear=True, complex=True,
)  # fmt: skip
div = pointwise(
    "div", np.divide, lowers_to("div"),
    lambda c, g: wanted(c, lambda: div(g, c.inputs[1]), lambda: neg(div(mul(g, c.out), c.inputs[1]))),
    operands=XY, saves=("y", "out"), linear=("x",), domains=((-3, 3), (0.3, 3)),
    complex=True, doc="True division of floats.",
)  # fmt: skip
neg = pointwise(
    "neg", np.negative, lowers_to("neg"), lambda c, g: (neg(g),), takes=NUMBERS, linear=("x",), complex=True
)


def _safe_divisor(y: Expr) -> tuple[Expr, Expr, Expr]:
    """(divisor that cannot trap, y == 0, y == -1): INT_MIN / -1 traps on x86, and so does a zero divisor."""
    zero = s.apply("eq", y, 0)
    minus_one = s.apply("eq", y, -1) if y.dtype.kind == "i" else s.const(False, bool_)
    return select(zero | minus_one, s.const(1, y.dtype), y), zero, minus_one


def _floordiv_scalar(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind == "f":
        return _float_floordiv(x, y)
    safe, zero, minus_one = _safe_divisor(y)
    q = x / safe
    if x.dtype.kind == "i":
        r = x - q * safe
        q = select(s.apply("ne", r, 0) & ((r ^ safe) < 0), q - 1, q)
        q = select(minus_one, -x, q)
    return select(zero, 0, q)


def _float_floordiv(x: Expr, y: Expr) -> Expr:
    """NumPy's (and Python's): from the remainder, so that x == y * floordiv + mod as closely as can be."""
    r = s.apply("rem", x, y)
    q = (x - r) / y
    q = select(s.apply("ne", r, 0) & ((r < 0) ^ (y < 0)), q - 1, q)
    whole = s.apply("floor", q)
    whole = select((q - whole) > 0.5, whole + 1, whole)
    whole = select(s.apply("eq", q, 0), s.apply("copysign", s.const(0, x.dtype), x / y), whole)
    return select(s.apply("eq", y, 0), x / y, whole)


def _mod_scalar(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind == "f":
        r = s.apply("rem", x, y)
        zero = s.apply("copysign", s.const(0, x.dtype), y)
        return select(s.apply("eq", r, 0), zero, select((r < 0) ^ (y < 0), r + y, r))
    safe, zero, _ = _safe_divisor(y)
    r = s.apply("rem", x, safe)
    if x.dtype.kind == "i":
        r = select(s.apply("ne", r, 0) & ((r ^ safe) < 0), r + safe, r)
    return select(zero, 0, r)


floordiv = pointwise(
    "floordiv", np.floor_divide, _floordiv_scalar, no_change,
    operands=XY, takes=NUMBERS, away=(0.0,),
    doc="Rounds towards minus infinity. Integers by zero give 0.",
)  # fmt: skip
mod = pointwise(
    "mod", np.remainder, _mod_scalar,
    lambda c, g: wanted(c, lambda: g, lambda: neg(mul(g, floordiv(*c.inputs)))),
    operands=XY, takes=NUMBERS, saves=XY, away=(0.0,),
    doc="x - y * floor(x / y): has the sign of y. Integers by zero give 0.",
)  # fmt: skip


def _pow_reference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = _arrays(x, y)
    if x.dtype.kind != "i":
        return np.power(x, y)
    below_one = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))
    return np.where(y < 0, below_one, np.power(x, np.maximum(y, 0))).astype(x.dtype)


def _arrays(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays of the dtype that the one which is no Python number has."""
    dtype = x.dtype if hasattr(x, "dtype") else y.dtype
    return np.asarray(x, dtype), np.asarray(y, dtype)


def _pow_scalar(x: Expr, y: Expr) -> Expr:
    if x.dtype.kind == "f":
        known = _known_powers(x, y.attr) if y.op == "const" else None
        return s.apply("pow", x, y) if known is None else known
    signed = x.dtype.kind == "i"
    bits = x.dtype.bits - signed  # negative exponents are a case of their own
    if y.op == "const":
        bits = min(bits, int(y.attr).bit_length())
    power, square = s.const(1, x.dtype), x
    for k in range(bits):  # by squaring; wraps as NumPy's does
        power = select(s.apply("ne", y & (1 << k), 0), power * square, power)
        square = square * square
    if not signed:
        return power
    zero = s.const(0, x.dtype)
    below_one = select(s.apply("eq", x, 1), 1, select(s.apply("eq", x, -1), 1 - (y & 1) * 2, zero))
    return select(y < 0, below_one, power)


def _known_powers(x: Expr, exponent: float) -> Expr | None:
    """Powers that need no logarithm. NumPy and PyTorch take sqrt for 0.5, too (which differs at -0 and -inf)."""
    square = x * x
    return {
        0.5: s.apply("sqrt", x),
        1.0: x,
        2.0: square,
        3.0: square * x,
        4.0: square * square,
        -1.0: 1 / x,
        -2.0: 1 / square,
    }.get(exponent)


def _pow_vjp(c: VjpContext, g: Any) -> tuple:
    x, y = c.inputs

    def base():
        slope = mul(y, pow_(x, shift(y, -1)))
        return mul(g, masked(ne(y, const_like(y, 0)), slope))

    def exponent():
        from . import log

        at_zero = eq(x, const_like(x, 0))
        if c.types[0].dtype.is_floating:  # 0 ** y is infinite for negative y: complex numbers have no such order
            at_zero = and_(at_zero, ge(y, const_like(y, 0)))
        return mul(g, where(at_zero, const_like(x, 0), mul(c.out, log(x))))

    return wanted(c, base, exponent)


pow_ = pointwise(
    "pow", _pow_reference, _pow_scalar, _pow_vjp,
    operands=XY, takes=NUMBERS, saves=("x", "y", "out"), domains=((0.3, 3), (-2, 3)), tolerance=5e-6,
    complex=True, doc="Integers wrap; to negative powers they give 0, except for 1 and -1.",
)  # fmt: skip


def _copysign_vjp(c: VjpContext, g: Any) -> tuple:
    x, y = c.inputs
    one = const_like(x, 1)
    same = mul(sign(x), copysign(one, y))  # 0 where x is 0
    return wanted(c, lambda: mul(g, same), lambda: zeros_like(g))


copysign = pointwise("copysign", np.copysign, lowers_to("copysign"), _copysign_vjp, operands=XY, saves=XY, away=(0.0,))


def _larger_vjp(c: VjpContext, g: Any) -> tuple:
    x, y = c.inputs
    return _chosen(c, g, lt(x, y), gt(x, y))


def _smaller_vjp(c: VjpContext, g: Any) -> tuple:
    x, y = c.inputs
    return _chosen(c, g, gt(x, y), lt(x, y))


def _chosen(c: VjpContext, g: Any, not_x: Any, not_y: Any) -> tuple:
    """Ties give each operand half."""
    halved = where(eq(*c.inputs), scale(g, 0.5), g)
    zero = const_like(g, 0)
    return wanted(c, lambda: where(not_x, zero, halved), lambda: where(not_y, zero, halved))


maximum = pointwise(
    "maximum", np.maximum, lowers_to("max"), _larger_vjp, operands=XY, takes=NUMBERS, saves=XY, doc="NaN wins."
)
minimum = pointwise(
    "minimum", np.minimum, lowers_to("min"), _smaller_vjp, operands=XY, takes=NUMBERS, saves=XY, doc="NaN wins."
)

# ------------------------------------------------------------------ steps and signs


def _sign_scalar(x: Expr) -> Expr:
    if x.dtype.kind == "u":
        return select(s.apply("ne", x, 0), s.const(1, x.dtype), x)
    return select(x > 0, 1, select(x < 0, s.const(-1, x.dtype), s.apply("abs", x)))  # 0 loses its sign, NaN stays


def _rounding(name: str, doc: str) -> OpDef:
    fn = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint}[name]

    def reference(x: np.ndarray) -> np.ndarray:
        return fn(x) if x.dtype.kind in "fc" else x.copy()

    def lowering(x: Expr) -> Expr:
        return s.apply(name, x) if x.dtype.kind == "f" else x

    return pointwise(
        name,
        reference,
        lowering,
        no_change,
        takes=NUMBERS,
        away=(-2.0, -1.0, 0.0, 1.0, 2.0),
        complex=name == "round",
        doc=doc,
    )


abs_ = pointwise(
    "abs", np.abs, lambda x: x if x.dtype.kind == "u" else s.apply("abs", x),
    lambda c, g: (mul(g, sign(c.inputs[0])),),
    takes=NUMBERS, saves=("x",), away=(0.0,),
)  # fmt: skip
sign = pointwise("sign", np.sign, _sign_scalar, no_change, takes=NUMBERS, away=(0.0,), doc="-1, 0 or 1; NaN stays.")
floor = _rounding("floor", "Towards minus infinity.")
ceil = _rounding("ceil", "Towards infinity.")
trunc = _rounding("trunc", "Towards zero.")
round_ = _rounding("round", "To the nearest, half to even.")

# ------------------------------------------------------------------ comparisons

eq = compare("eq", np.equal, lambda x, y: ~(x ^ y) if x.dtype is bool_ else s.apply("eq", x, y), NO_GRADIENT)
ne = compare("ne", np.not_equal, lambda x, y: x ^ y if x.dtype is bool_ else s.apply("ne", x, y), NO_GRADIENT)
lt = compare("lt", np.less, lambda x, y: ~x & y if x.dtype is bool_ else x < y, NO_GRADIENT)
le = compare("le", np.less_equal, lambda x, y: ~x | y if x.dtype is bool_ else x <= y, NO_GRADIENT)
gt = compare("gt", np.greater, lambda x, y: x & ~y if x.dtype is bool_ else x > y, NO_GRADIENT)
ge = compare("ge", np.greater_equal, lambda x, y: x | ~y if x.dtype is bool_ else x >= y, NO_GRADIENT)


def _float_test(name: str, reference: Any, lowering: Any) -> OpDef:
    def scalar(x: Expr) -> Expr:
        return lowering(x) if x.dtype.kind == "f" else s.const(name == "isfinite", bool_)

    return pointwise(name, reference, scalar, NO_GRADIENT, takes=NUMBERS, gives=bool_, complex=True)


isnan = _float_test("isnan", np.isnan, lambda x: s.apply("ne", x, x))
isinf = _float_test("isinf", np.isinf, lambda x: s.apply("eq", s.apply("abs", x), np.inf))
isfinite = _float_test("isfinite", np.isfinite, lambda x: s.apply("abs", x) < np.inf)

# ------------------------------------------------------------------ logic and bits

and_ = pointwise("and", np.bitwise_and, lowers_to("and"), NO_GRADIENT, operands=XY, takes=BITS)
or_ = pointwise("or", np.bitwise_or, lowers_to("or"), NO_GRADIENT, operands=XY, takes=BITS)
xor = pointwise("xor", np.bitwise_xor, lowers_to("xor"), NO_GRADIENT, operands=XY, takes=BITS)
not_ = pointwise("not", np.invert, lowers_to("not"), NO_GRADIENT, takes=BITS, doc="Bools: logical; integers: bitwise.")


def _in_range(y: Expr) -> Expr:
    below = y < y.dtype.bits
    return below & (y >= 0) if y.dtype.kind == "i" else below


def _shl_scalar(x: Expr, y: Expr) -> Expr:
    ok = _in_range(y)
    return select(ok, x << select(ok, y, 0), 0)


def _shr_scalar(x: Expr, y: Expr) -> Expr:
    ok = _in_range(y)
    if x.dtype.kind == "i":
        return x >> select(ok, y, x.dtype.bits - 1)
    return select(ok, x >> select(ok, y, 0), 0)


shl = pointwise(
    "shl", np.left_shift, _shl_scalar, NO_GRADIENT, operands=XY, takes="iu",
    doc="Counts outside [0, bits) give 0.",
)  # fmt: skip
shr = pointwise(
    "shr", np.right_shift, _shr_scalar, NO_GRADIENT, operands=XY, takes="iu",
    doc="Arithmetic for signed integers. Counts outside [0, bits) shift everything out.",
)  # fmt: skip

# ------------------------------------------------------------------ where, cast, bitcast


def _where_infer(c: TensorType, x: TensorType, y: TensorType) -> TensorType:
    if c.dtype is not bool_:
        raise DTypeRuleError(f"the condition must be bool, not {c.dtype.code}")
    if x.dtype is not y.dtype:
        raise DTypeRuleError(f"operand dtypes differ: {x.dtype.code} and {y.dtype.code}; cast one of them")
    return TensorType(x.dtype, broadcast_shapes(c.shape, x.shape, y.shape))


def _where_vjp(c: VjpContext, g: Any) -> tuple:
    condition, zero = c.inputs[0], const_like(g, 0)
    return wanted(c, lambda: None, lambda: where(condition, g, zero), lambda: where(condition, zero, g))


def _where_samples() -> Iterator[Sample]:
    rng = rng_of("where")
    shapes = ([(), (), ()], [(5, 17)] * 3, [(5, 1), (1, 17), ()], [(), (0, 3), (1, 3)], [(4,), (2, 1, 1), (3, 1)])
    for c, x, y in shapes:
        for dtype in (float32, int32):
            arrays = draw(rng, x, dtype=dtype.np), draw(rng, y, dtype=dtype.np)
            yield Sample((np.asarray(rng.random(c) < 0.5), *arrays), gradcheck=dtype is float32)
    yield Sample(
        (np.array([True, False]), np.array([1.0, np.nan], np.float16), np.array([np.inf, 2.0], np.float16)), {}, False
    )


def _where_errors() -> Iterator[ErrorSample]:
    c, x = np.ones(3, np.bool_), np.zeros(3, np.float32)
    yield ErrorSample((x, x, x), {}, DTypeRuleError, "condition must be bool")
    yield ErrorSample((c, x, x.astype(np.float64)), {}, DTypeRuleError, "dtypes differ")
    yield ErrorSample((c, x, np.zeros(4, np.float32)), {}, TypeRuleError, "do not broadcast")


where = register(
    OpDef(
        name="where", kind="pointwise", operands=("c", "x", "y"), infer=_where_infer,
        reference=lambda c, x, y: np.where(c, x, y), vjp=_where_vjp, saves=("c",), scalar=select, linear=XY,
        samples=_where_samples, errors=_where_errors, doc="x where c holds, else y.",
    )
)  # fmt: skip


def _cast_scalar(x: Expr, dtype: DType) -> Expr:
    return s.apply("ne", x, 0) if dtype is bool_ and x.dtype is not bool_ else s.cast(x, dtype)


def _cast_vjp(c: VjpContext, g: Any) -> tuple:
    source = c.types[0].dtype
    if not source.is_inexact:
        return (None,)
    if c.attrs["dtype"].is_complex and not source.is_complex:
        from . import real

        g = real(g)
    return (cast(g, dtype=source),)


def _cast_samples() -> Iterator[Sample]:
    rng = rng_of("cast")
    x = draw(rng, (5, 17), (0, 100))
    for source in (bool_, int8, int32, int64, uint8, uint32, float16, float32, float64):
        for target in (bool_, int32, uint8, int64, float16, float32, float64, dtype_of("bf16")):
            both = source.is_floating and target in (float32, float64)
            yield Sample((x.astype(source.np),), {"dtype": target}, gradcheck=both and source is not float16)
    for shape in ((), (0,), (3, 1)):
        yield Sample((draw(rng, shape),), {"dtype": float64})
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-42, 3e38, 65520.0, 1.00390625], np.float32)
    for target in (bool_, float16, dtype_of("bf16"), float64):
        yield Sample((special,), {"dtype": target}, gradcheck=False)
    yield Sample((np.array([-1.9, 1.9, -0.5], np.float32),), {"dtype": int32}, gradcheck=False)


cast = register(
    OpDef(
        name="cast", kind="pointwise", operands=("x",), attrs={"dtype": REQUIRED},
        infer=lambda x, dtype: x.with_dtype(_checked_dtype(dtype)),
        reference=np.errstate(all="ignore")(lambda x, dtype: x.astype(dtype.np)),
        vjp=_cast_vjp, saves=(), scalar=_cast_scalar, linear=("x",), samples=_cast_samples,
        errors=lambda: [ErrorSample((np.zeros(3, np.float32),), {"dtype": "f32"}, DTypeRuleError, "not a DType")],
        doc="Floats to integers truncate; out of range is unspecified. To bool: x != 0.",
    )
)  # fmt: skip


def _checked_dtype(dtype: Any) -> DType:
    if not isinstance(dtype, DType):
        raise DTypeRuleError(f"dtype={dtype!r} is not a DType")
    return dtype


def _bitcast_infer(x: TensorType, dtype: DType) -> TensorType:
    if x.dtype.bits != _checked_dtype(dtype).bits or bool_ in (x.dtype, dtype):
        raise DTypeRuleError(f"cannot reinterpret {x.dtype.code} as {dtype.code}: sizes differ, or one is bool")
    return x.with_dtype(dtype)


def _bitcast_samples() -> Iterator[Sample]:
    x = draw(rng_of("bitcast"), (5, 17))
    yield Sample((x,), {"dtype": int32}, gradcheck=False)
    yield Sample((x.astype(np.float64),), {"dtype": int64}, gradcheck=False)
    yield Sample((np.array(1065353216, np.int32),), {"dtype": float32}, gradcheck=False)
    yield Sample((np.zeros((0, 3), np.int8),), {"dtype": uint8}, gradcheck=False)


bitcast = register(
    OpDef(
        name="bitcast", kind="pointwise", operands=("x",), attrs={"dtype": REQUIRED}, infer=_bitcast_infer,
        reference=lambda x, dtype: x.view(dtype.np).copy(), vjp=NO_GRADIENT, saves=(),
        scalar=s.bitcast, samples=_bitcast_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32),), {"dtype": int64}, DTypeRuleError, "sizes differ"),
            ErrorSample((np.zeros(3, np.bool_),), {"dtype": int8}, DTypeRuleError, "one is bool"),
        ],
        doc="The same bits as another dtype of the same size.",
    )
)  # fmt: skip

__all__ = [
    "abs_",
    "add",
    "and_",
    "bitcast",
    "cast",
    "ceil",
    "copysign",
    "div",
    "eq",
    "floor",
    "floordiv",
    "ge",
    "gt",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lt",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "ne",
    "neg",
    "not_",
    "or_",
    "pow_",
    "round_",
    "shl",
    "shr",
    "sign",
    "sub",
    "trunc",
    "where",
    "xor",
]  # fmt: skip
