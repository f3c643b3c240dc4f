"""Conversions of 16-bit floats, and rounding, in integer and basic float operations, for targets without the instructions."""

from __future__ import annotations

from .builder import Function, Val, element_of, lanes_of, literal, vec


def bfloat_to_float(f: Function, x: Val) -> Val:
    """Exact: a bfloat16 is the upper half of a float32."""
    lanes = lanes_of(x.type)
    wide = f.convert("zext", f.convert("bitcast", x, vec("i16", lanes)), vec("i32", lanes))
    return f.convert("bitcast", f.binary("shl", wide, literal(16, wide.type)), vec("float", lanes))


def float_to_bfloat(f: Function, x: Val) -> Val:
    """Rounds to nearest even; NaN stays NaN, made quiet."""
    lanes = lanes_of(x.type)
    i32 = vec("i32", lanes)
    bits = f.convert("bitcast", x, i32)
    upper = f.binary("lshr", bits, literal(16, i32))
    odd = f.binary("and", upper, literal(1, i32))
    rounded = f.binary("add", bits, f.binary("add", odd, literal(0x7FFF, i32)))
    rounded = f.binary("lshr", rounded, literal(16, i32))
    quiet = f.binary("or", upper, literal(0x40, i32))
    chosen = f.select(f.cmp("uno", x, x), quiet, rounded)
    return f.convert("bitcast", f.convert("trunc", chosen, vec("i16", lanes)), vec("bfloat", lanes))


def half_to_float(f: Function, x: Val) -> Val:
    """Exact, subnormals included: scaling by 2**112 in float32 moves the exponent and normalises at once."""
    lanes = lanes_of(x.type)
    i32, float_ = vec("i32", lanes), vec("float", lanes)
    bits = f.convert("zext", f.convert("bitcast", x, vec("i16", lanes)), i32)
    magnitude = f.binary("shl", f.binary("and", bits, literal(0x7FFF, i32)), literal(13, i32))
    scaled = f.binary("fmul", f.convert("bitcast", magnitude, float_), literal(2.0**112, float_))
    special = f.binary("or", magnitude, literal(0x7F800000, i32))
    finite = f.cmp("ult", magnitude, literal(0x7C00 << 13, i32))
    chosen = f.select(finite, f.convert("bitcast", scaled, i32), special)
    sign = f.binary("shl", f.binary("and", bits, literal(0x8000, i32)), literal(16, i32))
    return f.convert("bitcast", f.binary("or", chosen, sign), float_)


def float_to_half(f: Function, x: Val) -> Val:
    """Rounds to nearest even. Subnormal results are rounded by a float addition that aligns them to the last bit."""
    lanes = lanes_of(x.type)
    i32, float_ = vec("i32", lanes), vec("float", lanes)
    bits = f.convert("bitcast", x, i32)
    magnitude = f.binary("and", bits, literal(0x7FFFFFFF, i32))
    odd = f.binary("and", f.binary("lshr", magnitude, literal(13, i32)), literal(1, i32))
    rebiased = f.binary("add", f.binary("add", magnitude, literal(0xFFF - (112 << 23), i32)), odd)
    normal = f.binary("lshr", rebiased, literal(13, i32))
    aligned = f.binary("fadd", f.convert("bitcast", magnitude, float_), literal(0.5, float_))
    subnormal = f.binary("sub", f.convert("bitcast", aligned, i32), literal(0x3F000000, i32))
    finite = f.select(f.cmp("ult", magnitude, literal(113 << 23, i32)), subnormal, normal)
    nan = f.cmp("ugt", magnitude, literal(0x7F800000, i32))
    special = f.select(nan, literal(0x7E00, i32), literal(0x7C00, i32))
    # 65520 is the first float32 that rounds to infinity
    chosen = f.select(f.cmp("uge", magnitude, literal(0x477FF000, i32)), special, finite)
    sign = f.binary("and", f.binary("lshr", bits, literal(16, i32)), literal(0x8000, i32))
    joined = f.convert("trunc", f.binary("or", chosen, sign), vec("i16", lanes))
    return f.convert("bitcast", joined, vec("half", lanes))


def double_to_odd_float(f: Function, x: Val) -> Val:
    """float64 to float32 rounded to odd, so that a second rounding, to 16 bits, gives what one rounding would."""
    lanes = lanes_of(x.type)
    i32 = vec("i32", lanes)
    near = f.convert("fptrunc", x, vec("float", lanes))
    back = f.convert("fpext", near, x.type)
    larger = f.cmp("ogt", f.intrinsic("fabs", x.type, back), f.intrinsic("fabs", x.type, x))
    bits = f.convert("bitcast", near, i32)
    towards_zero = f.select(larger, f.binary("sub", bits, literal(1, i32)), bits)
    odd = f.binary("or", towards_zero, literal(1, i32))
    return f.convert("bitcast", f.select(f.cmp("une", back, x), odd, towards_zero), near.type)


def round_by_magic(f: Function, op: str, x: Val) -> Val:
    """floor, ceil, trunc or round of float32 and float64: adding 2**23 (2**52) leaves no room for a fraction."""
    type = x.type
    limit = literal(2.0**23 if element_of(type) == "float" else 2.0**52, type)
    magnitude = f.intrinsic("fabs", type, x)
    near = f.binary("fsub", f.binary("fadd", magnitude, limit), limit)
    one = literal(1.0, type)
    if op == "trunc":
        near = f.select(f.cmp("ogt", near, magnitude), f.binary("fsub", near, one), near)
    signed = f.intrinsic("copysign", type, near, x)
    if op == "floor":
        signed = f.select(f.cmp("ogt", signed, x), f.binary("fsub", signed, one), signed)
    elif op == "ceil":
        signed = f.select(f.cmp("olt", signed, x), f.binary("fadd", signed, one), signed)
    signed = f.intrinsic("copysign", type, signed, x)
    return f.select(f.cmp("olt", magnitude, limit), signed, x)
