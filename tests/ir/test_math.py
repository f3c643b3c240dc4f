"""Every expanded math function, compiled for this machine, against references of higher precision."""

from __future__ import annotations

import ctypes
import functools

import mpmath
import numpy as np
import pytest
import scipy.special
from tracefuse.backends.llvm.builder import Module, i64, literal, scalar_type, vec
from tracefuse.backends.llvm.scalars import ScalarEmitter
from tracefuse.ir.dtypes import dtype_of, float16, float32, float64
from tracefuse.ir.math import FUNCTIONS, ULP_BOUNDS, expand, expand_all
from tracefuse.ir.scalar import BASIC, LEAVES, MATH, apply, result, walk
from tracefuse.ir.target import AVX2, AVX512, Target

llvm = pytest.importorskip("llvmlite.binding")

TARGETS = {
    "avx512": AVX512,
    "avx2": AVX2,
    "scalar": Target("scalar", "x86_64-unknown-linux-gnu", "x86-64", "", 16, 16),
}
NEEDS = {"avx512": "avx512dq", "avx2": "avx2", "scalar": "sse2"}
TWO_OPERANDS = ("pow", "atan2")
SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1,
    -1,
    0.5,
    -0.5,
    2,
    -2,
    3,
    1.5,
    -1.5,
    5e-324,
    -5e-324,
    1e-40,
    88.8,
    709.9,
]
_alive = []


# ---- compiling an expression into a loop
def _kernel_text(expr, names, dtype, target) -> str:
    lanes, element = target.lanes(dtype), scalar_type(dtype)
    module = Module()
    f = module.function("kernel", "void", [*(("ptr", n) for n in (*names, "out")), ("i64", "n")])
    emitter = ScalarEmitter(target)
    with f.loop(i64(0), f.args[-1], i64(lanes)) as loop:
        inputs = {n: f.load(vec(element, lanes), f.gep(element, p, loop.index), 1) for n, p in zip(names, f.args)}
        values = {}
        for e in walk(expr):
            if e.op == "const":
                values[id(e)] = literal(e.attr, vec(scalar_type(e.dtype), lanes))
            elif e.op == "result":
                values[id(e)] = inputs[e.attr]
            else:
                args = [values[id(a)] for a in e.args]
                values[id(e)] = emitter.emit(f, e.op, args, e.args[-1].dtype, e.dtype, lanes)
        f.store(values[id(expr)], f.gep(element, f.args[-2], loop.index), 1)
    f.ret()
    return str(module)


def _machine(target, jit=True):
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    found = llvm.Target.from_default_triple()
    return found.create_target_machine(cpu=target.cpu, features=target.features, opt=2, jit=jit)


@functools.cache
def compiled(name: str, dtype_name: str, isa: str):
    """(function of arrays, assembly)"""
    target, dtype = TARGETS[isa], dtype_of(dtype_name)
    if not llvm.get_host_cpu_features().get(NEEDS[isa]) or "x86_64" not in llvm.get_default_triple():
        pytest.skip(f"this machine has no {isa}")
    names = ("x", "y") if name in TWO_OPERANDS else ("x",)
    expr = expand_all(apply(name, *(result(n, dtype) for n in names)), fma=isa != "scalar")
    module = llvm.parse_assembly(_kernel_text(expr, names, dtype, target))
    module.verify()
    assembly = _machine(target).emit_assembly(module)
    engine = llvm.create_mcjit_compiler(module, _machine(target))
    engine.finalize_object()
    _alive.append(engine)
    pointers = [ctypes.c_void_p] * (len(names) + 1)
    function = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)(engine.get_function_address("kernel"))
    lanes = target.lanes(dtype)

    def run(*arrays):
        n = len(arrays[0])
        padded = [np.concatenate([a, np.zeros(-n % lanes, a.dtype)]) for a in arrays]
        out = np.empty_like(padded[0])
        function(*(a.ctypes.data for a in padded), out.ctypes.data, len(out))
        return out[:n]

    return run, assembly


# ---- measuring
def ulp_error(got, want, floor=0.0):
    """|got - want| in units in the last place of max(|want|, floor); 0 where both are NaN or the same infinity."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(np.where(np.isfinite(want), np.maximum(np.abs(want), floor), 1))
        ulp = np.ldexp(np.ones_like(want), np.maximum(exponent, info.minexp + 1) - info.nmant - 1)
        error = np.abs(got.astype(want.dtype) - want) / ulp
        # at the edge of overflow either side is within an ulp
        edge = np.isinf(got) & (want.astype(got.dtype) == np.sign(got) * info.max)
        edge |= np.isinf(want.astype(got.dtype)) & (np.abs(got) == info.max)
        error[edge] = 1
        same = (got == want.astype(got.dtype)) & np.isinf(got) | np.isnan(got) & np.isnan(want)
        error[np.isnan(error)] = np.inf
        error[same] = 0
    return error


NUMPY = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "pow": np.power,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "rsqrt": lambda x: 1 / np.sqrt(x),
}  # fmt: skip
SCIPY = {
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "erfinv": scipy.special.erfinv,
    "lgamma": lambda x: np.where(np.isinf(x), np.inf, scipy.special.gammaln(x)),
    "digamma": scipy.special.digamma,
}
MPMATH = {
    "erf": mpmath.erf,
    "erfc": mpmath.erfc,
    "erfinv": mpmath.erfinv,
    "lgamma": lambda x: mpmath.log(abs(mpmath.gamma(x))) if abs(x) < 1000 else mpmath.loggamma(x),
    "digamma": mpmath.digamma,
}


def reference(name: str, *arrays):
    """float64 for float32 arrays, longdouble for float64 arrays."""
    with np.errstate(all="ignore"):
        if arrays[0].dtype == np.float32:
            wide = [a.astype(np.float64) for a in arrays]
            return (SCIPY.get(name) or NUMPY.get(name) or getattr(np, name))(*wide)
        if name not in MPMATH:
            return (NUMPY.get(name) or getattr(np, name))(*(a.astype(np.longdouble) for a in arrays))
        return np.array([_precise(name, float(x)) for x in arrays[0]], np.longdouble)


def _precise(name: str, x: float):
    if not np.isfinite(x) or x == 0 or name == "erfinv" and abs(x) >= 1 or x < 0 and x == np.floor(x):
        with np.errstate(all="ignore"):
            return np.longdouble(SCIPY[name](np.float64(x)))
    with mpmath.workdps(40):
        exact = MPMATH[name](mpmath.mpf(x))
        high = float(exact)
        return np.longdouble(high) + np.longdouble(float(exact - high) if np.isfinite(high) else 0)


def floor_of(name: str, x) -> np.ndarray | float:
    """lgamma left of 0 and digamma pass through zero between poles: there the absolute error counts."""
    if name == "lgamma":
        return np.where(x < 0, 1.0, 0.0)
    return 1.0 if name == "digamma" else 0.0


@functools.cache
def arguments(name: str, dtype: str, stride: int = 1009):
    rng = np.random.default_rng(7)
    special = np.array(SPECIAL).astype(dtype)
    if name in TWO_OPERANDS:
        return _pairs(rng, special)
    if dtype == "float32":
        patterns = np.arange(0, 1 << 32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
        ranges = [np.linspace(-r, r, 100_001).astype(np.float32) for r in (2, 12, 100, 1e5)]
        return (np.concatenate([patterns, special, *ranges]),)
    if name in MPMATH:
        limit = {"erfinv": 1, "erfc": 27, "lgamma": 30, "digamma": 30}.get(name, 6)
        near_one = 1 - 10 ** rng.uniform(-16, 0, 400)
        parts = [rng.uniform(-limit, limit, 1500), rng.normal(size=500), 10 ** rng.uniform(-300, 0, 200), near_one]
        return (np.concatenate([special, *parts]),)
    patterns = rng.integers(0, 1 << 64, 200_000, dtype=np.uint64).view(np.float64)
    ranges = [rng.uniform(-r, r, 50_000) for r in (1e-3, 1, 12, 750, 1e9)]
    return (np.concatenate([patterns, special, 1 + rng.normal(size=20_000) * 1e-4, *ranges]),)


def _pairs(rng, special):
    n, dtype = 50_000, special.dtype
    x, y = (v.ravel() for v in np.meshgrid(special, special))
    xs = [rng.uniform(0, 10, n), np.exp(rng.normal(size=n) * 30), 1 + rng.normal(size=n) * 1e-3, rng.uniform(-5, 0, n)]
    ys = [rng.uniform(-30, 30, n), rng.normal(size=n) * 10, rng.normal(size=n) * 3e5, rng.integers(-200, 200, n)]
    with np.errstate(over="ignore"):
        return tuple(np.concatenate([s, *(p.astype(dtype) for p in parts)]) for s, parts in ((x, xs), (y, ys)))


@functools.cache
def expected(name: str, dtype: str):
    return reference(name, *arguments(name, dtype))


def check(name: str, dtype: str, isa: str, arrays, want, bound: float):
    got = compiled(name, dtype, isa)[0](*arrays)
    error = ulp_error(got, want, floor_of(name, arrays[0]))
    worst = error.argmax()
    at = ", ".join(repr(a[worst]) for a in arrays)
    assert error[worst] <= bound, f"{name}({at}) = {got[worst]!r}, not {want[worst]!r}: {error[worst]:.2f} ulp"


# ---- tests
def test_every_function_has_an_expansion_and_a_bound():
    assert set(FUNCTIONS) == set(MATH) == set(ULP_BOUNDS)


@pytest.mark.parametrize("fma", [True, False])
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.parametrize("name", MATH)
def test_expansions_hold_basic_operations_only(name, dtype, fma):
    expanded = expand(apply(name, *(result(n, dtype) for n in "xy"[: MATH[name]])), fma)
    assert expanded.dtype is dtype
    ops = {e.op for e in walk(expanded)}
    assert ops <= set(BASIC) | LEAVES
    assert fma or "fma" not in ops


def test_narrow_floats_are_refused():
    with pytest.raises(TypeError, match="float16"):
        expand(apply("exp", result("x", float16)))


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("name", MATH)
def test_float32(name, isa):
    check(name, "float32", isa, arguments(name, "float32"), expected(name, "float32"), ULP_BOUNDS[name][0])


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("name", MATH)
def test_float64(name, isa):
    check(name, "float64", isa, arguments(name, "float64"), expected(name, "float64"), ULP_BOUNDS[name][1])


@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MATH)
def test_no_library_calls(name, dtype, isa):
    assert "call" not in compiled(name, dtype, isa)[1]


ODD = ("sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "tanh", "erf", "erfinv", "expm1", "log1p", "cbrt")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("name", ODD)
def test_zero_keeps_its_sign(name, isa, dtype):
    got = compiled(name, dtype, isa)[0](np.array([0.0, -0.0], dtype))
    assert (got == 0).all() and list(np.signbit(got)) == [False, True]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("name", TWO_OPERANDS)
def test_signs_at_zeros_and_infinities(name, isa, dtype):
    x, y = (v.ravel() for v in np.meshgrid(*[np.array(SPECIAL).astype(dtype)] * 2))
    got = compiled(name, dtype, isa)[0](x, y)
    with np.errstate(all="ignore"):
        want = NUMPY[name](x, y)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.signbit(got)[~np.isnan(want)], np.signbit(want)[~np.isnan(want)])
    exact = (want == 0) | np.isinf(want) | (want == 1)
    np.testing.assert_array_equal(got[exact], want[exact])


@pytest.mark.parametrize("isa", TARGETS)
def test_huge_arguments_of_sine(isa):
    """The float64 closest to a multiple of pi/2, and its neighbours, besides large powers of two and ten."""
    worst = 6381956970095103.0 * 2.0**797
    x = np.array(
        [worst, np.nextafter(worst, 0), 1e22, 2.0**1023, 1.7e308, 2.0**54, 2.0**107, 1e15, 1e16, 2.0**60 + 1e4]
    )
    for name in ("sin", "cos"):
        got, want = compiled(name, "float64", isa)[0](x), reference(name, x)
        relative = np.abs(got - want) / np.abs(want)
        assert (relative[1:] < 2.0**-51).all()
        assert relative[0] < 2.0**-40


@pytest.mark.parametrize("name", ["pow", "exp2"])
def test_whole_powers_of_two_are_exact(name):
    n = np.arange(-1074, 1024).astype(np.float64)
    operands = (np.full_like(n, 2.0), n) if name == "pow" else (n,)
    np.testing.assert_array_equal(compiled(name, "float64", "avx2")[0](*operands), np.ldexp(1.0, n.astype(int)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf"])
def test_every_float32(name):
    bound, step = ULP_BOUNDS[name][0], 1 << 22
    run = compiled(name, "float32", "avx2")[0]
    for start in range(0, 1 << 32, step):
        x = np.arange(start, start + step, dtype=np.uint64).astype(np.uint32).view(np.float32)
        got, want = run(x), reference(name, x)
        with np.errstate(all="ignore"):
            near = np.abs(got - want) <= bound * np.spacing(np.abs(got) * np.float32(0.999999))
        suspects = np.flatnonzero(~near)  # NaN, infinities, and what the quick test cannot tell
        if len(suspects):
            x, want = x[suspects], want[suspects]
            check(name, "float32", "avx2", (x,), want, bound)
