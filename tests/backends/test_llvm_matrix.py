"""Every op on the LLVM backend against its NumPy reference: all dtypes it accepts, awkward shapes, awkward values.

What is accepted is asked of the ops' own type rules. Many cases share one graph, so that each op is built a few times.

Tolerances: integers, bools and everything that only moves elements are exact. Floats may be off by ULPS units in the last
place, or by what the op's `tolerance` allows, from the reference in the same dtype or from the one in float64, whichever
is nearer. Sums count units of the sum of the absolute values.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import ml_dtypes
import numpy as np
import pytest
from tracefuse.backends.llvm.engine import host_target
from tracefuse.ir.dtypes import ALL, DType, bfloat16, bool_, float32, float64, from_numpy, int32, uint8
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import REGISTRY, Attrs, OpDef
from tracefuse.ir.types import TensorType, TypeRuleError
from tracefuse.runtime.executable import build

import tracefuse as tr

ULPS = 4.0
Arrays = tuple[np.ndarray, ...]
Case = tuple[Arrays, Attrs]

POINTWISE = sorted(n for n, op in REGISTRY.items() if op.kind == "pointwise" and n not in ("cast", "bitcast"))
REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_any", "reduce_all")
CANCELLING = {  # differences: how large what they are taken of is
    "tanhshrink": lambda x: x,
    "logaddexp": np.maximum,
    "lgamma": lambda x: 1.0,  # zero at 1 and 2
    "digamma": lambda x: 1.0,
    "gelu": lambda x: np.minimum(x, 8.0),
}
SUMS = ("reduce_sum", "matmul", "conv", "scatter")  #


# ------------------------------------------------------------------ values


def rng_of(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def special(dtype: DType) -> np.ndarray:
    """The values that break things: extremes, zeros of both signs, subnormals, NaN, halves, neighbours of one."""
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.np)
        values = {info.min, info.min + 1, -65, -7, -2, -1, 0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, info.max - 1, info.max}
        return np.array(sorted(v for v in values if info.min <= v <= info.max), dtype.np)
    info = ml_dtypes.finfo(dtype.np)
    tiny, least, most, eps = (float(v) for v in (info.tiny, info.smallest_subnormal, info.max, info.eps))
    positive = [0.0, least, 37 * least, tiny, 1 - eps, 1, 1 + eps, 0.5, 1.5, 2.5, 3, 30, 88.8, 104, 710, 65504, most]
    return np.array([np.nan, np.inf, -np.inf, *positive, *(-v for v in positive)]).astype(dtype.np)


def usual(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    if dtype is bool_:
        return np.asarray(rng.random(shape) < 0.5)
    x = np.asarray(
        rng.uniform(0, 100, shape) if dtype.kind == "u" else rng.normal(0, 1 if dtype.is_floating else 40, shape)
    )
    return x.astype(dtype.np)


def any_bits(rng: np.random.Generator, dtype: DType, n: int) -> np.ndarray:
    """All exponents, all magnitudes."""
    if dtype is bool_:
        return usual(rng, dtype, (n,))
    return rng.integers(0, 256, (n, dtype.itemsize), np.uint8).view(dtype.np)[:, 0]


def awkward(op: OpDef, dtype: DType) -> Arrays:
    """Operands of equal shape (3, n): all combinations of special values, any bits, and usual values."""
    rng, n = rng_of(op.name, dtype.name), len(op.operands)
    values = special(dtype)
    if n == 1:
        columns = [np.concatenate([values, any_bits(rng, dtype, 150), usual(rng, dtype, (100,))])]
    else:
        grid = [g.ravel() for g in np.meshgrid(*(values,) * n, indexing="ij")] if n == 2 else [values] * n
        columns = [np.concatenate([g, any_bits(rng, dtype, 100), usual(rng, dtype, (60,))]) for g in grid]
    if op.name == "where":
        columns[0] = rng.random(len(columns[1])) < 0.5
    size = len(columns[-1]) // 3 * 3
    return tuple(np.ascontiguousarray(c[len(c) - size :].reshape(3, -1)) for c in columns)


# ------------------------------------------------------------------ what an op takes


def types_of(args: Iterable[np.ndarray]) -> tuple[TensorType, ...]:
    return tuple(TensorType(from_numpy(a.dtype), a.shape) for a in args)


def accepts(op: OpDef, args: Arrays, attrs: Attrs) -> bool:
    try:
        op.result_types(types_of(args), attrs)
    except TypeRuleError:
        return False
    return True


def attrs_of(op: OpDef) -> list[Attrs]:
    """The distinct attributes among the op's samples."""
    assert op.samples is not None
    found: dict[str, Attrs] = {repr(sorted(s.attrs.items())): s.attrs for s in op.samples()}
    return list(found.values())


def scalar_operands(op: OpDef, dtype: DType) -> Arrays:
    first = (np.zeros((), np.bool_),) if op.name == "where" else ()
    return first + (np.zeros((), dtype.np),) * (len(op.operands) - len(first))


def dtypes_of(op: OpDef) -> list[DType]:
    return [d for d in ALL if accepts(op, scalar_operands(op, d), attrs_of(op)[0])]


def host_classes() -> list[str]:
    """The target classes that this machine can run."""
    found = []
    for isa in ("avx512", "avx2", "neon", "scalar"):
        try:
            found.append(host_target(isa).isa)
        except ValueError:
            pass
    return found


# ------------------------------------------------------------------ running and comparing


def execute(op: OpDef, cases: Sequence[Case], isa: str = "") -> list[Arrays]:
    """All cases in one graph on the LLVM backend, for this machine or a lesser class of it."""
    b = GraphBuilder(op.name)
    inputs: list[np.ndarray] = []
    outputs, counts = [], []
    with b:
        for args, attrs in cases:
            values = tuple(b.input(t) for t in types_of(args))
            inputs += args
            out = b.emit(op, values, attrs)
            outputs += out
            counts.append(len(out))
    results = build(b.finish(outputs), host_target(isa), verify=False).run(inputs)
    assert all(r is not None for r in results)
    found = iter(results)
    return [tuple(next(found) for _ in range(n)) for n in counts]  # type: ignore[misc]


def reference(op: OpDef, args: Arrays, attrs: Attrs) -> Arrays:
    with np.errstate(all="ignore"):
        out = op.evaluate(args, attrs)
    return out if isinstance(out, tuple) else (out,)


@np.errstate(all="ignore")
def widened(a: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) if from_numpy(a.dtype).is_floating else a


def magnitude(op: OpDef, args: Arrays, attrs: Attrs, out: np.ndarray) -> np.ndarray:
    """What rounding errors are relative to: the result, or the size of the terms that cancel in it."""
    if op.name in CANCELLING:
        return np.maximum(np.abs(widened(out)), CANCELLING[op.name](*(np.abs(widened(a)) for a in args)))
    if op.name in SUMS:
        (out,) = reference(op, tuple(abs(a) if a.dtype.kind == "f" else a for a in map(widened, args)), attrs)
    return np.abs(widened(out))


def units(got: np.ndarray, want: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    """The difference in units in the last place of `scale`, of numbers of that precision. 0 where both are the same
    infinity, NaN or zero."""
    info = ml_dtypes.finfo(got.dtype)
    g, w = widened(got), widened(want)
    with np.errstate(all="ignore"):
        size = np.clip(np.maximum(np.abs(w), scale), float(info.tiny), float(info.max))
        ulp = np.exp2(np.floor(np.log2(size))) * eps
        off = np.abs(g / ulp - w / ulp)
    same = (g == w) | (np.isnan(g) & np.isnan(w))
    return np.where(same, 0, np.where(np.isnan(off), np.inf, off))


def check(op: OpDef, case: Case, got: Arrays, ulps: float = ULPS) -> str:
    """ "" when `got` is right, else what is wrong first."""
    args, attrs = case
    wants = reference(op, args, attrs)
    what = f"{op.name}({', '.join(map(str, types_of(args)))}) {attrs or ''}"
    for k, (g, w) in enumerate(zip(got, wants, strict=True)):
        if g.dtype != w.dtype or g.shape != w.shape:
            return f"{what}: result {k} is {g.dtype}{g.shape}, not {w.dtype}{w.shape}"
        if not from_numpy(w.dtype).is_floating:
            wrong = g != w
        else:
            allowed = max(ulps, op.tolerance / 2**-23 if op.tolerance > 1e-6 else 0)
            floats = [w, *(a for a in args if from_numpy(a.dtype).is_floating)] if op.kind == "composite" else [w]
            eps = max(
                float(ml_dtypes.finfo(a.dtype).eps) for a in floats
            )  # some give float32 that narrow floats went into
            off = units(g, w, magnitude(op, args, attrs, w), eps)
            if np.any(off > allowed):
                wide = reference(op, tuple(map(widened, args)), attrs)[k]
                with np.errstate(all="ignore"):
                    off = np.minimum(off, units(g, wide.astype(w.dtype), magnitude(op, args, attrs, wide), eps))
            wrong = off > allowed
        if np.any(wrong):
            at = tuple(np.argwhere(wrong)[0])
            operands = [np.broadcast_to(a, w.shape)[at] if op.kind == "pointwise" else "..." for a in args]
            n = int(np.sum(wrong))
            return f"{what}: {n} of {w.size} differ, first at {at} of {operands}: {g[at]!r}, not {w[at]!r}"
    return ""


def assert_right(op: OpDef, cases: Sequence[Case], ulps: float = ULPS, isa: str = "") -> None:
    problems = [check(op, c, got, ulps) for c, got in zip(cases, execute(op, cases, isa), strict=True)]
    assert not any(problems), "\n".join(filter(None, problems))


# ------------------------------------------------------------------ pointwise ops


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_values(name):
    """Every accepted dtype, with special values in all combinations and values of all magnitudes."""
    op = REGISTRY[name]
    assert_right(op, [(awkward(op, d), attrs) for attrs in attrs_of(op) for d in dtypes_of(op)])


SHAPES = (
    ((), ()),
    ((0, 3), (1, 3)),
    ((1,), (1,)),
    ((5, 17), (5, 17)),
    ((3, 70), (3, 1)),
    ((4, 1, 3), (5, 1)),
    ((7,), ()),
)


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_shapes(name):
    """No elements, one element, tails of vectors, broadcasting either way."""
    op = REGISTRY[name]
    rng = rng_of(name)
    cases: list[Case] = []
    for d in [d for d in (float32, float64, bfloat16, int32, uint8, bool_) if d in dtypes_of(op)][:3]:
        for pair in SHAPES:
            shapes = [pair[k % 2] for k in range(len(op.operands))]
            args = [usual(rng, d, s) for s in shapes]
            if name == "where":
                args[0] = usual(rng, bool_, shapes[0])
            cases.append((tuple(args), attrs_of(op)[0]))
    assert_right(op, cases)


def castable(x: np.ndarray, target: DType) -> np.ndarray:
    """Floats that lie out of the target's range (or are NaN) become 1: their casts are unspecified."""
    if from_numpy(x.dtype).is_floating and target.is_integer:
        info, wide = np.iinfo(target.np), widened(x)
        inside = (wide >= float(info.min)) & (wide < float(info.max))
        return np.where(inside, x, np.ones((), x.dtype))
    return x


@pytest.mark.parametrize("source", ALL, ids=str)
def test_cast(source):
    (x,) = awkward(REGISTRY["cast"], source)
    assert_right(REGISTRY["cast"], [((castable(x, d),), {"dtype": d}) for d in ALL], ulps=0)


@pytest.mark.parametrize("source", ALL, ids=str)
def test_bitcast(source):
    op = REGISTRY["bitcast"]
    (x,) = awkward(op, source)
    cases = [((x,), {"dtype": d}) for d in ALL if accepts(op, (x,), {"dtype": d})]
    bits = np.dtype(f"u{source.itemsize}")
    for (_, attrs), (got,) in zip(cases, execute(op, cases) if cases else [], strict=True):
        np.testing.assert_array_equal(got.view(bits), x.view(bits), err_msg=str(attrs))


# ------------------------------------------------------------------ reductions

REDUCED = (
    ((), ()),
    ((1,), (0,)),
    ((5, 17), (0,)),
    ((5, 17), (1,)),
    ((3, 70), (0, 1)),
    ((2, 3, 37), (0, 2)),
    ((3, 0), (1,)),
)
REDUCED += (((0, 3), (1,)), ((1300,), (0,)), ((2, 1, 9), (1,)), ((70, 3), (0,)))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    """Usual values: every accepted dtype over every kind of axes; integers wrap."""
    op, rng = REGISTRY[name], rng_of(name)
    accepted = [d for d in ALL if accepts(op, (np.zeros(3, d.np),), {"axes": (0,)})]
    assert accepted
    for d in accepted:
        cases: list[Case] = []
        for shape, axes in REDUCED:
            x = usual(rng, d, shape)
            if name == "reduce_prod" and d.is_floating:
                x = np.asarray(rng.uniform(0.8, 1.25, shape)).astype(d.np)
            if accepts(op, (x,), {"axes": axes}):
                cases.append(((x,), {"axes": axes}))
        assert_right(op, cases, ulps=1 if d.bits == 16 else 64 if name == "reduce_prod" else ULPS)


def poisoned(d: DType, greatest: bool) -> np.ndarray:
    """Rows that hold a special value at each of several places among usual ones, or nothing but that value.
    Without the greatest values, products overflow in no order of their factors."""
    values = special(d)
    if d.is_floating and not greatest:
        values = values[~(abs(widened(values)) > 1e4) | np.isinf(values)]
    rows = [usual(rng_of(d.name), d, (37,)) for _ in range(4 * len(values))]
    for k, v in enumerate(values):
        for j, place in enumerate((0, 17, 36)):
            rows[4 * k + j][place] = v
        rows[4 * k + 3][:] = v
    return np.stack(rows)


@pytest.mark.parametrize("name", [*REDUCTIONS, "argmax", "argmin"])
def test_reductions_of_special_values(name):
    op = REGISTRY[name]
    named = "axis" if name.startswith("arg") else "axes"
    pick = (lambda a: a) if named == "axis" else (lambda a: (a,))
    cases: list[Case] = []
    for d in ALL:
        x = poisoned(d, name != "reduce_prod")
        if accepts(op, (x,), {named: pick(1)}):
            cases += [((x,), {named: pick(1)}), ((np.ascontiguousarray(x.T),), {named: pick(0)})]
    assert_right(op, cases, ulps=64)  # sums of 37 values of all magnitudes; infinities and NaN count exactly


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_positions(name):
    """The first of equal extremes, NaN first of all, over either axis."""
    op, rng = REGISTRY[name], rng_of(name)
    cases: list[Case] = []
    for d in ALL:
        for shape, axis in (
            ((7,), 0),
            ((5, 17), 0),
            ((5, 17), 1),
            ((2, 70, 3), 1),
            ((1300,), 0),
            ((3, 1), 1),
            ((0, 3), 1),
        ):
            x = np.asarray(rng.integers(0, 4, shape)).astype(d.np)
            if accepts(op, (x,), {"axis": axis}):
                cases.append(((x,), {"axis": axis}))
    assert_right(op, cases)


# ------------------------------------------------------------------ everything else: the samples, in all dtypes

OTHERS = sorted(
    n for n, op in REGISTRY.items() if op.kind != "pointwise" and n not in (*REDUCTIONS, "argmax", "argmin")
)


def retyped(op: OpDef, args: Arrays, attrs: Attrs) -> Iterator[Case]:
    """The sample with its data operands (those of the first floating dtype) in each dtype that the op takes."""
    data = next((a.dtype for a in args if from_numpy(a.dtype).is_floating), None)
    if data is None:
        yield args, attrs
        return
    for d in ALL:
        with np.errstate(all="ignore"):
            new = tuple(np.array(abs(a) if d.kind == "u" else a, d.np) if a.dtype == data else a for a in args)
        changed = {k: d if v == from_numpy(data) else v for k, v in attrs.items()}
        for k in ("value", "fill"):
            if k in changed and d.is_integer:
                changed[k] = int(abs(changed[k])) if np.isfinite(changed[k]) else 0
        if accepts(op, new, changed):
            yield new, changed


@pytest.mark.parametrize("name", OTHERS)
def test_samples_in_all_dtypes(name):
    op = REGISTRY[name]
    assert op.samples is not None
    cases = [c for sample in op.samples() for c in retyped(op, sample.args, sample.attrs)]
    # composites: units of intermediate results, which may be larger than the results; running products round each step
    assert_right(op, cases, ulps=256 if op.kind == "composite" or op.name == "cumprod" else ULPS)


LESSER = [t for t in ("avx2", "scalar") if t in host_classes()]


@pytest.mark.parametrize("isa", LESSER)
@pytest.mark.parametrize("name", ["broadcast_to", "concat", "matmul", "pad", "permute", "scatter", "softmax", "where"])
def test_narrow_types_on_lesser_targets(name, isa):
    """Targets without instructions for narrow floats do without calls of compiler-rt, too."""
    op = REGISTRY[name]
    assert op.samples is not None
    cases = [c for sample in op.samples() for c in retyped(op, sample.args, sample.attrs)]
    narrow = [c for c in cases if any(a.dtype.itemsize == 2 or a.dtype == np.int8 for a in c[0])]
    assert_right(op, narrow, 64, isa)


# ------------------------------------------------------------------ layouts


def layouts() -> dict[str, np.ndarray]:
    """float32 arrays (6, 8) of the same values, laid out in every way NumPy knows."""
    base = rng_of("layouts").standard_normal((6, 8)).astype(np.float32)
    every_other = np.zeros((12, 24), np.float32)
    every_other[::2, ::3] = base
    unaligned = np.zeros(base.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(6, 8)
    unaligned[...] = base
    read_only = base.copy()
    read_only.flags.writeable = False
    return {
        "contiguous": base,
        "fortran": np.asfortranarray(base),
        "strided": every_other[::2, ::3],
        "reversed": base[::-1, ::-1].copy()[::-1, ::-1],
        "swapped": base[:, ::-1].copy()[:, ::-1],
        "unaligned": unaligned,
        "read-only": read_only,
        "window": np.pad(base, 3)[3:-3, 3:-3],
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("wrap", [tr.asarray, lambda a: a], ids=["tensor", "ndarray"])
def test_layouts_of_inputs(layout, wrap):
    x = layouts()[layout]

    def f(x, y):
        return x * 2 + y.T.sum(0)[:, None], x @ y.T, (x - y).max(1)

    with np.errstate(all="ignore"):
        want = f(x.copy(), x.copy())
    for args in ((wrap(x), wrap(x)), (wrap(x), wrap(layouts()["strided"])), (wrap(layouts()["reversed"]), wrap(x))):
        got = tr.compile(f, fullgraph=True)(*args)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(g), w, rtol=1e-5, atol=1e-5)


def test_overlapping_and_repeated_inputs():
    """Windows over one buffer, broadcast (stride 0) arrays, and the same array twice."""
    base = np.arange(12, dtype=np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(base, 5)
    same = np.broadcast_to(np.float32(3), (8, 5))
    compiled = tr.compile(lambda a, b: (a * b + a, (a + b).sum(0)), fullgraph=True)
    for a, b in ((windows, same), (same, windows), (windows, windows), (same, same)):
        for g, w in zip(compiled(a, b), (a * b + a, (a + b).sum(0)), strict=True):
            np.testing.assert_array_equal(np.asarray(g), w)


def test_in_place_through_views():
    """Written inputs that are not contiguous get what plain Python would have written, and nothing else changes."""

    def step(x):
        x += 1
        x[1] *= 2

    for make in (lambda b: b[::2], lambda b: b[::-1, 1:4], lambda b: b.T, lambda b: b[:, ::3]):
        plain, compiled = (np.arange(48, dtype=np.float32).reshape(6, 8) for _ in range(2))
        step(make(plain))
        tr.compile(step)(make(compiled))
        np.testing.assert_array_equal(compiled, plain)
