"""The one table from scalar operations to Triton expressions, and the names of element types."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...ir.dtypes import DType, bfloat16, float32, float64
from ...ir.scalar import Expr
from ...ir.target import Target

TYPE_NAMES = {
    "bool": "int1", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64",
}  # fmt: skip
SIGNATURE_NAMES = {"bool": "u8", "f16": "fp16", "f32": "fp32", "f64": "fp64"}

# Functions of tl that are as good as our own expansions: correctly rounded or within about 2 ulp. tl.exp of float32 is
# not among them: it rounds x * log2(e) first, which costs dozens of ulp for large results.
NATIVE: dict[str, tuple[str, tuple[DType, ...]]] = {
    "exp": ("tl.exp({0})", (float64,)),
    "exp2": ("tl.exp2({0})", (float32, float64)),
    "log": ("tl.log({0})", (float32, float64)),
    "log2": ("tl.log2({0})", (float32, float64)),
    "sin": ("tl.sin({0})", (float32, float64)),
    "cos": ("tl.cos({0})", (float32, float64)),
    "erf": ("tl.erf({0})", (float32, float64)),
    "rsqrt": ("tl.rsqrt({0})", (float32,)),
}

# op -> template; infix ones stand in parentheses inside others, and take literals as operands.
INFIX = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}",
    "eq": "{0} == {1}", "ne": "{0} != {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}",
    "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}", "shl": "{0} << {1}", "shr": "{0} >> {1}",
    "neg": "-{0}", "not": "~{0}",
}  # fmt: skip
CALLS = {
    "abs": "tl.abs({0})",
    "fma": "tl.fma({0}, {1}, {2})",
    "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})",
    "mulhi": "tl.umulhi({0}, {1})",
    "select": "tl.where({0}, {1}, {2})",
}
NAN_WINS = "propagate_nan=tl.PropagateNan.ALL"

INTERPRETER = "interpreter"  # Target.cpu of Triton's interpreter


def type_name(dtype: DType) -> str:
    """`tl.float32` and the like."""
    return f"tl.{TYPE_NAMES[dtype.code]}"


def memory_dtype_name(dtype: DType) -> str:
    """The element type behind a pointer parameter, as in a Triton signature. Booleans are bytes in memory."""
    return SIGNATURE_NAMES.get(dtype.code, dtype.code)


def literal(value: bool | int | float) -> str:
    """A constant as Python source."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def is_native(op: str, dtype: DType) -> bool:
    return op in NATIVE and dtype in NATIVE[op][1]


class Form(NamedTuple):
    """How an operation is written: text with {k} for operands; whether they need parentheses in it, and it in others."""

    text: str
    wraps_operands: bool = False
    wrapped: bool = False


def form(e: Expr, target: Target) -> Form:
    """The Triton expression of an inner node."""
    op, dtype = e.op, e.args[0].dtype
    floating = dtype.kind == "f"
    if op in INFIX:
        return _infix(INFIX[op])
    if op in CALLS:
        return Form(CALLS[op])
    if is_native(op, dtype):
        return Form(NATIVE[op][0])
    if op in ("cast", "bitcast"):
        return _conversion(e)
    if op == "div":
        return Form("tl.div_rn({0}, {1})") if dtype is float32 else _infix("{0} / {1}" if floating else "{0} // {1}")
    if op == "rem":
        return Form("libdevice.fmod({0}, {1})") if needs_libdevice(e, target) else _infix("{0} % {1}")
    if op == "sqrt":
        return Form("tl.sqrt_rn({0})" if dtype is float32 else "tl.sqrt({0})")
    if op in ("min", "max"):
        if dtype.kind == "b":
            return _infix("{0} & {1}" if op == "min" else "{0} | {1}")
        return Form(f"tl.{op}imum({{0}}, {{1}}, {NAN_WINS})" if floating else f"tl.{op}imum({{0}}, {{1}})")
    raise ValueError(f"{op} of {dtype} has to be expanded before Triton source is written")


def needs_libdevice(e: Expr, target: Target) -> bool:
    """Whether a remainder needs NVIDIA's function: on a GPU, % of floats loses digits of large quotients."""
    return e.dtype.kind == "f" and target.cpu != INTERPRETER


def _infix(text: str) -> Form:
    return Form(text, True, True)


def _conversion(e: Expr) -> Form:
    source, to = e.args[0].dtype, e.dtype
    if to.kind == "b":
        return _infix("{0} != 0")
    if e.op == "bitcast":
        middle = ".to(tl.uint8)" if source.kind == "b" else ""
        return Form(f"{{0}}{middle}.to({type_name(to)}, bitcast=True)", True)
    narrow = bfloat16 in (source, to) and float32 not in (source, to)  # bfloat16 converts from and to float32 only
    return Form(f"{{0}}.to(tl.float32).to({type_name(to)})" if narrow else f"{{0}}.to({type_name(to)})", True)


def takes_literals(e: Expr, constant: list[bool]) -> bool:
    """Whether the constants among the operands of `e` may be Python numbers, which take the other operands' type."""
    if e.op in ("fma", "select"):  # older Tritons give their numbers a type first: only float32 comes through
        first = e.op == "select"
        wanted = e.dtype is float32 and not constant[0] * first and not all(constant[first:])
        return wanted and all(_is_normal(a.attr) for a, c in zip(e.args, constant, strict=True) if c)
    return e.op in _NUMBERS and not all(constant)


def _is_normal(value: float) -> bool:
    return value == 0 or abs(value) >= 2.0**-126


_NUMBERS = frozenset((*INFIX, "rem"))
