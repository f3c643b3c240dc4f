"""The exact floating-point remainder, as a loop that usually runs once."""

from __future__ import annotations

from collections.abc import Callable

from .builder import Function, Val, element_of, lanes_of, literal, vec


def float_remainder(f: Function, x: Val, y: Val, truncate: Callable[[Function, Val], Val], has_fma: bool) -> Val:
    """x - trunc(x / y) * y, exact, with the sign of x: C's fmod. NaN for y = 0 or x infinite; x for y infinite.

    Every round takes some bits off the quotient. Where it is huge the divisor is scaled by a power of two first, so
    that the partial quotient is a small integer and `r - q * y` exact.
    """
    type, lanes = x.type, lanes_of(x.type)
    if not has_fma and element_of(type) == "float":
        wide = vec("double", lanes)
        r = float_remainder(f, f.convert("fpext", x, wide), f.convert("fpext", y, wide), truncate, False)
        return f.convert("fptrunc", r, type)
    single = element_of(type) == "float"
    bits = 22 if single else 50 if has_fma else 24
    a, b = f.intrinsic("fabs", type, x), f.intrinsic("fabs", type, y)
    infinity = literal(float("inf"), type)
    usable = f.binary("and", f.cmp("ogt", b, literal(0.0, type)), f.cmp("olt", a, infinity))
    usable = f.binary("and", usable, f.cmp("olt", b, infinity))
    start = f.select(usable, a, literal(0.0, type))
    divisor = f.select(usable, b, literal(1.0, type))

    before, head, after = f.current, f.block("rem"), f.block("remainder")
    f.br(head)
    f.current = head
    f._count += 1
    r = Val(f"%r{f._count}", type)
    scaled = _divisor(f, r, divisor, bits, single)
    quotient = truncate(f, f.binary("fdiv", r, scaled))
    least = _subtract_product(f, r, quotient, scaled, has_fma)
    # The rounded quotient may be one too large; then the difference is negative and exact as well.
    following = f.select(f.cmp("olt", least, literal(0.0, type)), f.binary("fadd", least, scaled), least)
    more = f.cmp("oge", following, divisor)
    again = more if lanes == 1 else f.intrinsic("vector.reduce.or", "i1", more, overload=f"v{lanes}i1")
    f.cbr(again, head, after)
    head.lines.insert(
        0, f"  {r.ref} = phi {type} [ {start.ref}, %{before.label} ], [ {following.ref}, %{f.current.label} ]"
    )
    f.blocks.remove(after)
    f.blocks.append(after)
    f.current = after
    result = f.intrinsic("copysign", type, following, x)
    kept = f.binary("and", f.cmp("oeq", b, infinity), f.cmp("olt", a, infinity))
    otherwise = f.select(kept, x, literal(float("nan"), type))
    return f.select(usable, result, otherwise)


def _divisor(f: Function, r: Val, divisor: Val, bits: int, single: bool) -> Val:
    """divisor * 2**n, n >= 0 as small as makes r / it less than 2**(bits + 1)."""
    type = r.type
    integer = vec("i32" if single else "i64", lanes_of(type))
    shift, bias = (23, 127) if single else (52, 1023)
    smallest_normal, lift = literal(2.0 ** (1 - bias), type), literal(2.0**64, type)

    def exponent(v: Val) -> Val:
        """The biased exponent, as if it had no lower end."""
        subnormal = f.cmp("olt", v, smallest_normal)
        lifted = f.select(subnormal, f.binary("fmul", v, lift), v)
        field = f.binary("lshr", f.convert("bitcast", lifted, integer), literal(shift, integer))
        return f.select(subnormal, f.binary("sub", field, literal(64, integer)), field)

    def power(n: Val) -> Val:
        biased = f.binary("add", n, literal(bias, integer))
        return f.convert("bitcast", f.binary("shl", biased, literal(shift, integer)), type)

    excess = f.binary("sub", f.binary("sub", exponent(r), exponent(divisor)), literal(bits, integer))
    n = f.intrinsic("smax", integer, excess, literal(0, integer))
    quarter = f.binary("lshr", n, literal(2, integer))  # n itself can be twice the largest exponent
    scaled, factor = divisor, power(quarter)
    for _ in range(3):
        scaled, n = f.binary("fmul", scaled, factor), f.binary("sub", n, quarter)
    return f.binary("fmul", scaled, power(n))


def _subtract_product(f: Function, r: Val, q: Val, y: Val, has_fma: bool) -> Val:
    """r - q * y, exactly representable."""
    if has_fma:
        return f.fma(f.emit(q.type, f"fneg {q}"), y, r)
    type = r.type
    integer = vec("i64", lanes_of(type))
    # q, rounded up, times y may overflow although r does not: halve all three there, which loses nothing.
    huge = f.cmp("ogt", r, literal(2.0**1000, type))
    scale = f.select(huge, literal(0.5, type), literal(1.0, type))
    back = f.select(huge, literal(2.0, type), literal(1.0, type))
    r, y = f.binary("fmul", r, scale), f.binary("fmul", y, scale)
    high = f.binary("and", f.convert("bitcast", y, integer), literal(~((1 << 27) - 1), integer))
    upper = f.convert("bitcast", high, type)
    lower = f.binary("fsub", y, upper)
    least = f.binary("fsub", f.binary("fsub", r, f.binary("fmul", q, upper)), f.binary("fmul", q, lower))
    return f.binary("fmul", least, back)
