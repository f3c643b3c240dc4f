"""Basic operations on vectors: no library calls in the object on any target, and NumPy's values on this machine."""

from __future__ import annotations

import ctypes
import itertools

import ml_dtypes
import numpy as np
import pytest
from tracefuse.backends.llvm.builder import Module, i64, memory_type, scalar_type, vec
from tracefuse.backends.llvm.scalars import ScalarEmitter
from tracefuse.ir.dtypes import ALL, DType, bfloat16, bool_, float16, float32, float64, int32
from tracefuse.ir.scalar import BASIC, COMPARISONS
from tracefuse.ir.target import AVX2, AVX512, NEON, Target

llvm = pytest.importorskip("llvmlite.binding")

SSE2 = Target("scalar", "x86_64-unknown-linux-gnu", "x86-64", "", 16, 16)
TARGETS = {"avx512": AVX512, "avx2": AVX2, "neon": NEON, "scalar": SSE2}
NEEDS = {"avx512": "avx512dq", "avx2": "avx2", "scalar": "sse2"}
ROUNDING = ("floor", "ceil", "trunc", "round")
FLOAT_OPS = ("add", "sub", "mul", "div", "rem", "neg", "abs", "fma", "min", "max", "sqrt", *ROUNDING, "copysign")
INTEGER_OPS = ("add", "sub", "mul", "div", "rem", "neg", "abs", "min", "max", "and", "or", "xor", "not", "shl", "shr")
BOOL_OPS = ("add", "mul", "min", "max", "and", "or", "xor", "not")
_alive = []


def ops_of(dtype: DType) -> tuple[str, ...]:
    own = {"f": FLOAT_OPS, "b": BOOL_OPS}.get(dtype.kind, INTEGER_OPS)
    return (*own, *sorted(COMPARISONS), "select", *(("mulhi",) if dtype.kind == "u" else ()))


def kernel_text(cases: list[tuple[str, DType, DType]], target: Target, lanes: int | None = None) -> str:
    """One function k<i>(a, b, c, out, n) per (op, operand dtype, result dtype)."""
    module = Module(target.triple)
    emitter = ScalarEmitter(target)
    for i, (op, dtype, out) in enumerate(cases):
        width = lanes or max(2, min(target.lanes(dtype), target.lanes(out)))
        f = module.function(f"k{i}", "void", [*(("ptr", n) for n in "abcd"), ("i64", "n")])
        with f.loop(i64(0), f.args[-1], i64(width)) as loop:

            def read(pointer, kind, at=loop.index, f=f, width=width):
                stored = f.load(vec(memory_type(kind), width), f.gep(memory_type(kind), pointer, at), 1)
                return f.convert("trunc" if kind is bool_ else "bitcast", stored, vec(scalar_type(kind), width))

            kinds = [bool_, dtype, dtype] if op == "select" else [dtype] * BASIC[op]
            y = emitter.emit(f, op, [read(p, d) for p, d in zip(f.args, kinds)], dtype, out, width)
            assert y.type == vec(scalar_type(out), width)
            y = f.convert("zext" if out is bool_ else "bitcast", y, vec(memory_type(out), width))
            f.store(y, f.gep(memory_type(out), f.args[3], loop.index), 1)
        f.ret()
    return str(module)


def machine(target: Target, jit: bool = False):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    found = llvm.Target.from_triple(target.triple)
    return found.create_target_machine(cpu=target.cpu, features=target.features, opt=2, jit=jit)


def run(cases, isa: str, operands, lanes: int | None = None):
    """The result array of every case; operands per case, with a length that every vector width divides."""
    target = TARGETS[isa]
    if not llvm.get_host_cpu_features().get(NEEDS[isa]) or "x86_64" not in llvm.get_default_triple():
        pytest.skip(f"this machine has no {isa}")
    module = llvm.parse_assembly(kernel_text(cases, target, lanes))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, machine(target, jit=True))
    engine.finalize_object()
    _alive.append(engine)
    results = []
    for i, ((_, _, out), arrays) in enumerate(zip(cases, operands)):
        y = np.empty(len(arrays[0]), out.np)
        three = [arrays[j % len(arrays)] for j in range(3)]
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)
        signature(engine.get_function_address(f"k{i}"))(*(a.ctypes.data for a in three), y.ctypes.data, len(y))
        results.append(y)
    return results


def values(dtype: DType, seed: int = 0, count: int = 512) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype is bool_:
        return rng.integers(0, 2, count).astype(bool)
    raw = rng.integers(0, 1 << 64, count, dtype=np.uint64).astype(f"u{dtype.itemsize}").view(dtype.np)
    if dtype.kind != "f":
        small = rng.integers(0, 20, count).astype(dtype.np)
        edges = np.array([np.iinfo(dtype.np).min, np.iinfo(dtype.np).max, 0, 1, np.iinfo(dtype.np).max - 1], dtype.np)
        mixed = np.where(rng.integers(0, 2, count) == 0, raw, small)
        return np.where(rng.integers(0, 4, count) == 0, rng.choice(edges, count), mixed)
    plain = (rng.normal(size=count) * 4).astype(dtype.np)
    halves = (rng.integers(-9, 9, count) / 2).astype(dtype.np)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.5], np.float32).astype(dtype.np)
    chosen = rng.integers(0, 4, count)
    return np.choose(chosen, [raw, plain, halves, rng.choice(special, count)]).astype(dtype.np)


# ---- assembly
@pytest.mark.parametrize("isa", TARGETS)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_nothing_becomes_a_call(dtype, isa):
    cases = [(op, dtype, bool_ if op in COMPARISONS else dtype) for op in ops_of(dtype)]
    cases += [("cast", dtype, to) for to in ALL]
    for lanes in (None, 1):
        module = llvm.parse_assembly(kernel_text(cases, TARGETS[isa], lanes))
        module.verify()
        assembly = machine(TARGETS[isa]).emit_assembly(module)
        calls = [line for line in assembly.splitlines() if line.split()[:1] in (["callq"], ["call"], ["bl"], ["blr"])]
        jumps = [line for line in assembly.splitlines() if line.split()[:1] == ["jmp"] and ".L" not in line]
        assert not calls + jumps


# ---- values
X86 = ("avx512", "avx2", "scalar")
NUMPY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "abs": np.abs, "min": np.minimum,
    "max": np.maximum, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint,
    "copysign": np.copysign, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "shl": np.left_shift, "shr": np.right_shift, "rem": np.fmod, "select": np.where,
}  # fmt: skip


def expected(op: str, dtype: DType, arrays):
    arrays = arrays[: BASIC[op]]
    if dtype.kind == "f" and dtype.bits == 16:
        if op in ("select", "neg", "abs"):
            return NUMPY[op](*arrays)
        wide = expected(op, float32, [a.astype(np.float32) for a in arrays])
        return wide if op in COMPARISONS else wide.astype(dtype.np)
    if op == "fma":
        if dtype is float64:
            return arrays[0] * arrays[1] + arrays[2]
        return (arrays[0].astype(np.float64) * arrays[1] + arrays[2]).astype(np.float32)
    if op == "div":
        if dtype.kind == "f":
            return arrays[0] / arrays[1]
        exact = []
        for x, y in zip(*(a.astype(object) for a in arrays)):
            quotient = abs(x) // abs(y)
            exact.append(quotient if (x < 0) == (y < 0) else -quotient)
        return _wrapped(exact, dtype)
    if op == "mulhi":
        return np.array([int(x) * int(y) >> dtype.bits for x, y in zip(*arrays)], object).astype(dtype.np)
    return NUMPY[op](*arrays)


def _wrapped(numbers, dtype: DType):
    mask = (1 << dtype.bits) - 1
    return np.array([n & mask for n in numbers], object).astype(f"u{dtype.itemsize}").view(dtype.np)


def assert_same(got, want, context, rtol=0.0):
    got, want = (a.astype(np.float32) if a.dtype in (ml_dtypes.bfloat16, np.float16) else a for a in (got, want))
    if rtol:
        np.testing.assert_allclose(got, want, rtol=rtol, err_msg=context)
    else:
        np.testing.assert_array_equal(got, want, err_msg=context)


@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("lanes", [None, 1])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values(dtype, isa, lanes):
    cases, operands = [], []
    for op in ops_of(dtype):
        a, b, c = (values(dtype, seed) for seed in (1, 2, 3))
        if op in ("shl", "shr"):
            b = (b.astype(np.uint8) % dtype.bits).astype(dtype.np)
        if op in ("div", "rem") and dtype.kind in "iu":
            b = np.where(b == 0, dtype.np.type(3), b)
        if op == "select":
            a = values(bool_, 4)
        if op == "fma":  # no overflow, no cancellation: the reference rounds twice
            a, b, c = (np.abs(np.nan_to_num(v, nan=1, posinf=1, neginf=1)) % 7 + 1 for v in (a, b, c))
            a, b, c = (v.astype(dtype.np) for v in (a, b, c))
        cases.append((op, dtype, bool_ if op in COMPARISONS else dtype))
        operands.append([a, b, c])
    for (op, _, _), arrays, got in zip(cases, operands, run(cases, isa, operands, lanes)):
        rtol = 1e-15 if op == "fma" and dtype is float64 else 0.0
        assert_same(got, expected(op, dtype, arrays), f"{op} {dtype} {isa}", rtol)


@pytest.mark.parametrize("isa", X86)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_casts(isa):
    cases = [("cast", s, t) for s, t in itertools.product(ALL, ALL)]
    operands = [[values(s, 5)] for s, _ in ((c[1], c[2]) for c in cases)]
    for (_, s, t), (x,), got in zip(cases, operands, run(cases, isa, operands)):
        wide = x.astype(np.float64) if s.kind == "f" else x
        fits = np.ones(len(x), bool)
        if s.kind == "f" and t.kind in "iu":
            low, high = float(np.iinfo(t.np).min), float(np.iinfo(t.np).max)
            fits = (np.trunc(wide) >= low) & (np.trunc(wide) < high)
            wide = np.where(fits, wide, 0)
        want = (
            x != 0
            if t is bool_
            else wide.astype(np.float32).astype(t.np)
            if t is bfloat16 and s.kind != "f"
            else wide.astype(t.np)
        )
        assert_same(got[fits], want[fits], f"{s} to {t} {isa}")


@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("narrow", [float16, bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_narrow_float_widens_and_returns(narrow, isa):
    every = np.arange(1 << 16, dtype=np.uint16).view(narrow.np)
    (wide,) = run([("cast", narrow, float32)], isa, [[every]])
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    steps = np.concatenate([np.nextafter(wide, np.float32(d)) for d in (-np.inf, np.inf)])
    with np.errstate(all="ignore"):
        middle = (wide[:-1] + wide[1:]) / 2
    x = np.concatenate([wide, steps, middle, middle[:1]])
    (back,) = run([("cast", float32, narrow)], isa, [[x]])
    assert_same(back, x.astype(narrow.np), "narrowing")
    # just off the middle, where rounding to float32 first would land on it
    x = x.astype(np.float64) * (1 + 2.0**-40)
    (direct,) = run([("cast", float64, narrow)], isa, [[x]])
    assert_same(direct, x.astype(np.float16) if narrow is float16 else nearest_bfloat(x), "narrowing once")


def nearest_bfloat(x: np.ndarray) -> np.ndarray:
    """float64 to bfloat16, rounded once: the nearer of the neighbours, which ml_dtypes (through float32) may miss."""
    with np.errstate(all="ignore"):
        single = x.astype(np.float32)
        single = np.where(np.abs(single.astype(np.float64)) > np.abs(x), np.nextafter(single, np.float32(0)), single)
        below = (single.view(np.uint32) >> 16).astype(np.uint16)  # towards zero
        above = below + np.uint16(1)
        low, high = (v.view(ml_dtypes.bfloat16).astype(np.float64) for v in (below, above))
        high = np.where(np.isinf(high), np.copysign(2.0**128, x), high)
        to_low, to_high = np.abs(x - low), np.abs(high - x)
        up = (to_high < to_low) | (to_high == to_low) & (below & 1 == 1)
    rounded = np.where(up, above, below).view(ml_dtypes.bfloat16)
    return np.where(np.isfinite(x), rounded, x.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("dtype", [float32, float64], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_remainder_of_any_magnitudes(dtype, isa):
    rng = np.random.default_rng(11)
    raw = f"u{dtype.itemsize}"
    x, y = (rng.integers(0, 1 << 64, 1 << 14, dtype=np.uint64).astype(raw).view(dtype.np) for _ in range(2))
    tiny = np.finfo(dtype.np).smallest_subnormal
    y[::7], y[1::21], x[1::7] = tiny * 3, tiny, np.finfo(dtype.np).max
    (got,) = run([("rem", dtype, dtype)], isa, [[x, y]])
    np.testing.assert_array_equal(got, np.fmod(x, y))


@pytest.mark.parametrize("isa", X86)
def test_division_never_traps(isa):
    for dtype in ALL:
        if dtype.kind in "iu":
            x = np.full(64, np.iinfo(dtype.np).min, dtype.np)
            y = np.resize(np.array([0, -1], np.int64).astype(dtype.np), 64)
            q, r = run([("div", dtype, dtype), ("rem", dtype, dtype)], isa, [[x, y]] * 2)
            if dtype.kind == "i":
                assert (q[1::2] == x[1::2]).all() and (r[1::2] == 0).all()


def test_missing_operations_are_refused():
    f = Module().function("f", "void", [("i1", "x"), ("i32", "y")])
    emitter = ScalarEmitter(AVX2)
    with pytest.raises(ValueError, match="bool has no 'sqrt'"):
        emitter.emit(f, "sqrt", [f.args[0]], bool_, bool_, 1)
    with pytest.raises(ValueError, match="int32 has no 'sqrt'"):
        emitter.emit(f, "sqrt", [f.args[1]], int32, int32, 1)
    with pytest.raises(ValueError, match="not a basic operation"):
        emitter.emit(f, "exp", [f.args[1]], int32, int32, 1)
