"""The basic operations of `ir/scalar.py` as LLVM instructions on vectors: no operation becomes a call of libm or compiler-rt.

float16 and bfloat16 are computed in float32. What a target lacks (rounding and half conversions on baseline x86-64,
bfloat16 conversions nearly everywhere) is written out with integer operations in `narrow_floats.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.dtypes import DType, bfloat16, bool_, float16, float32, float64
from ...ir.scalar import BASIC, COMPARISONS
from ...ir.target import Target
from . import narrow_floats
from .builder import Function, Val, element_of, lanes_of, literal, scalar_type, suffix, vec
from .remainder import float_remainder

_INTEGER_BINARY = {"add": "add", "sub": "sub", "mul": "mul", "and": "and", "or": "or", "xor": "xor", "shl": "shl"}
_FLOAT_BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_BOOL_BINARY = {"add": "or", "mul": "and", "min": "and", "max": "or", "and": "and", "or": "or", "xor": "xor"}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "roundeven"}


class ScalarEmitter:
    """Emits basic operations for one target.

    Float min and max propagate NaN; which zero wins between -0 and +0 is left open, as in NumPy. Float to integer
    saturates for 32 and 64 bits (NaN gives 0) and wraps from there to 8 and 16. Integer division by zero, which callers
    may leave in lanes they throw away, gives some value but never a trap; so does the smallest integer by -1.
    """

    def __init__(self, target: Target):
        x86 = target.triple.startswith("x86_64")
        modern = target.isa in ("avx512", "avx2")
        self.target = target
        self.has_fma = modern or target.isa == "neon"
        self.has_round = modern or not x86
        self.has_half = modern or target.isa == "neon"
        self.native_minimum = not x86

    def emit(self, f: Function, op: str, args: list[Val], dtype: DType, out_dtype: DType, lanes: int) -> Val:
        """`op` of `args`, which have `lanes` lanes of `dtype` (select: its last two). bool is i1. Returns `out_dtype`.

        Raises ValueError for an operation that `dtype` does not have.
        """
        if op == "scale":
            return self._scale(f, args[0], args[1])
        if op not in BASIC or len(args) != BASIC[op]:
            raise ValueError(f"{op!r} of {len(args)} operands is not a basic operation")
        if op == "cast":
            return self.cast(f, args[0], dtype, out_dtype)
        if op == "bitcast":
            return f.convert("bitcast", args[0], vec(scalar_type(out_dtype), lanes))
        if op == "select":
            return self._select(f, *args)
        if dtype.kind == "b":
            return self._bool(f, op, args)
        if dtype.kind != "f":
            return self._integer(f, op, args, dtype)
        if dtype.bits == 16:
            return self._narrow(f, op, args, dtype)
        return self._float(f, op, args)

    def _scale(self, f: Function, x: Val, n: Val) -> Val:
        """x * 2**n by AVX-512's instruction, on whole registers."""
        lanes, full = lanes_of(x.type), 16 if element_of(x.type) == "float" else 8
        if lanes < full:  # powers of two, both
            wide = [
                f.splat(v, full) if lanes == 1 else f.shuffle(v, None, [k % lanes for k in range(full)]) for v in (x, n)
            ]
            out = self._scale(f, *wide)
            return f.extract(out, 0) if lanes == 1 else f.shuffle(out, None, range(lanes))
        if lanes > full:
            low, high = range(lanes // 2), range(lanes // 2, lanes)
            halves = [self._scale(f, f.shuffle(x, None, part), f.shuffle(n, None, part)) for part in (low, high)]
            return f.shuffle(halves[0], halves[1], range(lanes))
        name = f"x86.avx512.mask.scalef.{'ps' if full == 16 else 'pd'}.512"
        every, rounding = Val("-1", f"i{full}"), Val("4", "i32")
        return f.intrinsic(name, x.type, x, n, literal(0, x.type), every, rounding, overload="")

    def _select(self, f: Function, condition: Val, x: Val, y: Val) -> Val:
        type = x.type
        if "half" in type or "bfloat" in type:
            bits = vec("i16", lanes_of(type))
            x, y = f.convert("bitcast", x, bits), f.convert("bitcast", y, bits)
        return f.convert("bitcast", f.select(condition, x, y), type)

    def _bool(self, f: Function, op: str, args: list[Val]) -> Val:
        if op in _BOOL_BINARY:
            return f.binary(_BOOL_BINARY[op], *args)
        if op in COMPARISONS:
            return f.cmp(op if op in ("eq", "ne") else f"u{op}", *args)
        if op == "not":
            return f.binary("xor", args[0], literal(True, args[0].type))
        if op == "abs":
            return args[0]
        raise ValueError(f"bool has no {op!r}")

    # ---- integers
    def _integer(self, f: Function, op: str, args: list[Val], dtype: DType) -> Val:
        x, type, signed = args[0], args[0].type, dtype.kind == "i"
        if op in _INTEGER_BINARY:
            return f.binary(_INTEGER_BINARY[op], *args)
        if op in COMPARISONS:
            return f.cmp(op if op in ("eq", "ne") else ("s" if signed else "u") + op, *args)
        if op == "shr":
            return f.binary("ashr" if signed else "lshr", *args)
        if op in ("min", "max"):
            return f.intrinsic(("s" if signed else "u") + op, type, *args)
        if op == "not":
            return f.binary("xor", x, literal(-1, type))
        if op == "neg":
            return f.binary("sub", literal(0, type), x)
        if op == "abs":
            return f.intrinsic("abs", type, x, Val("false", "i1")) if signed else x
        if op == "mulhi":
            return _mulhi(f, args[0], args[1], dtype)
        if op in ("div", "rem"):
            return self._divide(f, op, args[0], args[1], dtype)
        if op in _ROUNDING:
            return x
        raise ValueError(f"{dtype.name} has no {op!r}")

    def _divide(self, f: Function, op: str, x: Val, y: Val, dtype: DType) -> Val:
        """Up to 32 bits through a wider float, where the rounded quotient truncates to the right integer: that vectorises.

        1/|y|, the least distance of a fractional quotient from an integer, is at least 2**-bits of the quotient.
        """
        type, lanes, signed = x.type, lanes_of(x.type), dtype.kind == "i"
        one = literal(1, type)
        if signed:
            minus = f.cmp("eq", y, literal(-1, type))
            safe = f.select(f.binary("or", minus, f.cmp("eq", y, literal(0, type))), one, y)
        else:
            minus = None
            safe = f.intrinsic("umax", type, y, one)
        if dtype.bits == 64:
            quotient = f.binary("sdiv" if signed else "udiv", x, safe)
        else:
            wide = vec("float" if dtype.bits <= 16 else "double", lanes)
            up, down = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
            quotient = f.convert(down, f.binary("fdiv", f.convert(up, x, wide), f.convert(up, safe, wide)), type)
        if op == "rem":
            return f.binary("sub", x, f.binary("mul", quotient, safe))
        return quotient if minus is None else f.select(minus, f.binary("sub", literal(0, type), x), quotient)

    # ---- floats
    def _narrow(self, f: Function, op: str, args: list[Val], dtype: DType) -> Val:
        lanes = lanes_of(args[0].type)
        bits = vec("i16", lanes)
        if op in ("neg", "abs", "copysign"):
            x, sign = f.convert("bitcast", args[0], bits), literal(0x8000, bits)
            y = f.binary("xor", x, sign) if op == "neg" else f.binary("and", x, literal(0x7FFF, bits))
            if op == "copysign":
                # A select: masks and "or" would be recognised as a bfloat copysign, which LLVM 22 then fails to select.
                negative = f.cmp("slt", f.convert("bitcast", args[1], bits), literal(0, bits))
                y = f.select(negative, f.binary("or", y, sign), y)
            return f.convert("bitcast", y, args[0].type)
        wide = self._float(f, op, [self.cast(f, a, dtype, float32) for a in args])
        return wide if op in COMPARISONS else self.cast(f, wide, float32, dtype)

    def _float(self, f: Function, op: str, args: list[Val]) -> Val:
        x, type = args[0], args[0].type
        if op in _FLOAT_BINARY:
            return f.binary(_FLOAT_BINARY[op], *args)
        if op in COMPARISONS:
            return f.cmp("une" if op == "ne" else "o" + op, *args)
        if op == "fma":
            return self._fma(f, *args)
        if op in ("min", "max"):
            return self._extremum(f, op, args[0], args[1])
        if op in _ROUNDING:
            return f.intrinsic(_ROUNDING[op], type, x) if self.has_round else narrow_floats.round_by_magic(f, op, x)
        if op == "neg":
            return f.emit(type, f"fneg {x}")
        if op == "abs":
            return f.intrinsic("fabs", type, x)
        if op in ("sqrt", "copysign"):
            return f.intrinsic(op, type, *args)
        if op == "rem":
            return float_remainder(f, args[0], args[1], self._round_down, self.has_fma)
        raise ValueError(f"floats have no {op!r}")

    def _round_down(self, f: Function, x: Val) -> Val:
        return self._float(f, "trunc", [x])

    def _fma(self, f: Function, x: Val, y: Val, z: Val) -> Val:
        """Without the instruction: float32 through float64 (the product is exact), float64 rounds the product as well."""
        if self.has_fma:
            return f.fma(x, y, z)
        if "float" not in x.type:
            return f.binary("fadd", f.binary("fmul", x, y), z)
        wide = vec("double", lanes_of(x.type))
        a, b, c = (f.convert("fpext", v, wide) for v in (x, y, z))
        return f.convert("fptrunc", f.binary("fadd", f.binary("fmul", a, b), c), x.type)

    def _extremum(self, f: Function, op: str, x: Val, y: Val) -> Val:
        if self.native_minimum:
            return f.intrinsic("minimum" if op == "min" else "maximum", x.type, x, y)
        # minps/maxps is exactly this select: y wherever either is NaN, so only a NaN in x has to be put back.
        ordered = f.select(f.cmp("olt" if op == "min" else "ogt", x, y), x, y)
        return f.select(f.cmp("uno", x, x), x, ordered)

    # ---- conversions
    def cast(self, f: Function, x: Val, source: DType, to: DType) -> Val:
        """The value of `x` in `to`."""
        if source is to:
            return x
        lanes = lanes_of(x.type)
        type = vec(scalar_type(to), lanes)
        if to is bool_:
            if source.kind != "f":
                return f.cmp("ne", x, literal(0, x.type))
            return f.cmp("une", self.cast(f, x, source, float32) if source.bits == 16 else x, _zero(source, lanes))
        if source.kind == "f" and to.kind == "f":
            return self._float_to_float(f, x, source, to)
        if to.kind == "f":
            wide = float32 if to.bits == 16 else to
            op = "sitofp" if source.kind == "i" else "uitofp"
            return self._float_to_float(f, f.convert(op, x, vec(scalar_type(wide), lanes)), wide, to)
        if source.kind == "f":
            return self._float_to_integer(f, x, source, to)
        if source.bits == to.bits and source is not bool_:
            return x
        if source is bool_ or source.bits < to.bits:
            return f.convert("sext" if source.kind == "i" else "zext", x, type)
        return f.convert("trunc", x, type)

    def _float_to_integer(self, f: Function, x: Val, source: DType, to: DType) -> Val:
        if source.bits == 16:
            return self._float_to_integer(f, self.cast(f, x, source, float32), float32, to)
        lanes = lanes_of(x.type)
        via = vec("i64" if to.bits == 64 else "i32", lanes)
        signed = to.kind == "i" or to.bits < 32
        overload = f"{suffix(via)}.{suffix(x.type)}"
        y = f.intrinsic("fptosi.sat" if signed else "fptoui.sat", via, x, overload=overload)
        return f.convert("trunc", y, vec(scalar_type(to), lanes)) if to.bits < 32 else y

    def _float_to_float(self, f: Function, x: Val, source: DType, to: DType) -> Val:
        if source is to:
            return x
        lanes = lanes_of(x.type)
        if source.bits == 16:
            widen: Callable[[Function, Val], Val] = narrow_floats.bfloat_to_float
            if source is float16:
                widen = narrow_floats.half_to_float
                if self.has_half:
                    wide = f.convert("fpext", x, vec("float", lanes))
                    return self._float_to_float(f, wide, float32, to)
            return self._float_to_float(f, widen(f, x), float32, to)
        if to.bits >= 32:
            return f.convert("fpext" if to is float64 else "fptrunc", x, vec(scalar_type(to), lanes))
        if source is float64:
            x = narrow_floats.double_to_odd_float(f, x)
        if to is bfloat16:
            return narrow_floats.float_to_bfloat(f, x)
        if self.has_half:
            return f.convert("fptrunc", x, vec("half", lanes))
        return narrow_floats.float_to_half(f, x)


def _zero(source: DType, lanes: int) -> Val:
    return literal(0.0, vec("double" if source is float64 else "float", lanes))


def _mulhi(f: Function, x: Val, y: Val, dtype: DType) -> Val:
    """High half of the unsigned product; 64 bits from four products of 32-bit halves, which vectors have."""
    lanes = lanes_of(x.type)
    if dtype.kind != "u":
        raise ValueError(f"mulhi takes unsigned integers, not {dtype.name}")
    if dtype.bits < 64 or lanes == 1:
        wide = vec(f"i{2 * dtype.bits}", lanes)
        product = f.binary("mul", f.convert("zext", x, wide), f.convert("zext", y, wide))
        return f.convert("trunc", f.binary("lshr", product, literal(dtype.bits, wide)), x.type)
    shift, low = literal(32, x.type), literal(0xFFFFFFFF, x.type)
    x0, y0 = f.binary("and", x, low), f.binary("and", y, low)
    x1, y1 = f.binary("lshr", x, shift), f.binary("lshr", y, shift)
    first = f.binary("lshr", f.binary("mul", x0, y0), shift)
    second = f.binary("add", f.binary("mul", x1, y0), first)
    third = f.binary("add", f.binary("mul", x0, y1), f.binary("and", second, low))
    high = f.binary("add", f.binary("mul", x1, y1), f.binary("lshr", second, shift))
    return f.binary("add", high, f.binary("lshr", third, shift))
