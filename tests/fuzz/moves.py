"""The ways in which a random program grows: each move adds a few nodes, or none where nothing fits.

Pointwise ops and composites are taken from the registry with what their samples say of them: operand kinds, domains and
attributes. So an op that is declared tomorrow takes part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from generator import Generator
from tracefuse.ir.dtypes import bool_, float32, from_numpy, int32, int64, uint32
from tracefuse.ir.graph import Value
from tracefuse.ir.op import REGISTRY, Attrs, OpDef, Sample

SPECIAL_CARE = frozenset(("cast", "bitcast", "where", "shl", "shr", "pow"))


@dataclass(slots=True)
class Manner:
    """How a pointwise op is used: the kinds of its operands, the domain of each where they are floats, attributes."""

    op: OpDef
    kinds: str
    domains: tuple[tuple[float, float], ...]
    attrs: tuple[Attrs, ...]


@cache
def pointwise_manners() -> list[Manner]:
    out = []
    for op in REGISTRY.values():
        if op.kind != "pointwise" and not (op.kind == "composite" and simple(op)) or op.name in SPECIAL_CARE:
            continue
        assert op.samples is not None
        samples = [s for s in op.samples() if len({a.dtype for a in s.args}) == 1]
        kinds = "".join(sorted({from_numpy(s.args[0].dtype).kind for s in samples}))
        plain = [s for s in samples if s.gradcheck and s.args[0].dtype == np.float32 and all(a.size for a in s.args)]
        domains = tuple(
            (min(float(a.min()) for a in each), max(float(a.max()) for a in each))
            for each in zip(*(s.args for s in plain))
        )
        distinct = {repr(s.attrs): s.attrs for s in samples}
        out.append(Manner(op, kinds, domains, tuple(distinct.values())))
    return out


def simple(op: OpDef) -> bool:
    """Whether the op works element by element: activations that are compositions."""
    assert op.samples is not None
    return len(op.operands) == 1 and all(s.attrs.keys().isdisjoint(("axes", "axis")) and s.args[0].shape == np.shape(
        op.evaluate(s.args, s.attrs)) for s in list(op.samples())[:3])  # fmt: skip


def within(g: Generator, v: Value, domain: tuple[float, float]) -> Value | None:
    """`v`, or something made of it whose values lie in the domain."""
    a = g.array(v)
    low, high = domain
    if not a.size or low <= float(a.min()) and float(a.max()) <= high:
        return v
    if g.chance(0.3):
        top = number(g, high, v)
        bottom = number(g, low, v)
        small = g.emit("minimum", v, top)
        return small and g.emit("maximum", small, bottom)
    squashed = g.emit("tanh", v)
    scaled = squashed and g.emit("mul", squashed, number(g, (high - low) / 2, v))
    return scaled and g.emit("add", scaled, number(g, (high + low) / 2, v))


def number(g: Generator, value: float, like: Value) -> Value:
    v = g.emit("full", value=value, shape=(), dtype=like.dtype)
    assert v is not None
    g.pool.remove(v)
    return v


def partner(g: Generator, v: Value) -> Value:
    """Another operand for a broadcasting op: one that fits, from the pool or new."""
    fits = [w for w in g.pool if w.dtype is v.dtype and broadcastable(v.shape, w.shape)]
    if fits and g.chance(0.8):
        return g.random.choice(fits)
    shape = tuple(n if g.chance(0.7) else 1 for n in v.shape)[g.random.choice((0, 0, 0, 1, 2)) :]
    return g.source(g.data(v.dtype, shape))


def broadcastable(a: tuple, b: tuple) -> bool:
    return all(x == y or 1 in (x, y) for x, y in zip(a[::-1], b[::-1]))


# ------------------------------------------------------------------ pointwise


def pointwise(g: Generator) -> None:
    m = g.random.choice(pointwise_manners())
    v = g.pick(m.kinds)
    if v is None:
        return
    args: list[Value] = [v]
    while len(args) < len(m.op.operands):
        args.append(partner(g, v))
    if v.dtype.kind == "f" and m.domains:
        fitted = [within(g, x, d) for x, d in zip(args, m.domains)]
        if any(x is None for x in fitted):
            return
        args = [x for x in fitted if x is not None]
    g.emit(m.op.name, *args, **g.random.choice(m.attrs))


def arithmetic(g: Generator) -> None:
    v = g.pick("iuf")
    if v is not None:
        g.emit(
            g.random.choice(("add", "sub", "mul", "mul", "add", "maximum", "minimum")),
            *g.random.sample((v, partner(g, v)), 2),
        )


def select(g: Generator) -> None:
    v = g.pick("biuf")
    if v is None:
        return
    c = g.pick("b", where=lambda w: broadcastable(w.shape, v.shape))
    if c is None or g.chance(0.3):
        c = g.emit(g.random.choice(("lt", "ge", "ne")), v, partner(g, v))
    if c is not None:
        g.emit("where", c, v, partner(g, v))


def convert(g: Generator) -> None:
    v = g.pick("biuf")
    if v is None:
        return
    target = g.random.choice((g.float, g.float, float32, int32, int64, bool_, g.dtype()))
    if v.dtype.kind == "f" and target.kind == "u":
        v = g.emit("abs", v)  # negative floats have no unsigned value
    if v is not None:
        g.emit("cast", v, dtype=target)


def bits(g: Generator) -> None:
    v = g.pick("iu")
    if v is None:
        v = g.source(g.data(g.random.choice((int32, int64, uint32)), g.shape(3)))
    amount = g.source(g.rng.integers(0, v.dtype.bits, v.shape[-1:]).astype(v.dtype.np))
    if g.chance(0.5):
        g.emit(g.random.choice(("shl", "shr")), v, amount)
    elif v.dtype is int32:
        wide = g.emit("and", v, number(g, 0x3FFFFF, v))  # keeps the float it becomes small
        if wide is not None:
            h = g.emit("or", wide, number(g, 0x3F800000, v))
            if h is not None:
                g.emit("bitcast", h, dtype=float32)


def power(g: Generator) -> None:
    v = g.pick("f")
    if v is None:
        return
    v = within(g, v, (0.2, 2.0))
    if v is not None:
        exponent = g.random.choice((2, 3, 1, 0.5, -1, -0.5, 1.7))
        g.emit("pow", v, number(g, exponent, v) if g.chance(0.8) else partner(g, v))


# ------------------------------------------------------------------ movement


def broadcast_to(g: Generator) -> None:
    v = g.pick("biuf")
    if v is not None:
        shape = tuple(g.random.choice(g.sizes) if n == 1 else n for n in v.shape)
        lead = tuple(g.random.choice(g.sizes) for _ in range(g.random.choice((0, 1, 1, 2))))
        g.emit("broadcast_to", v, shape=(*lead, *shape))


def reshape(g: Generator) -> None:
    v = g.pick("biuf")
    if v is None:
        return
    shape: list[int] = []
    for n in v.shape:
        split = [d for d in range(2, n) if n % d == 0]
        if shape and g.chance(0.4):
            shape[-1] *= n
        elif split and g.chance(0.5):
            d = g.random.choice(split)
            shape += [d, n // d]
        else:
            shape.append(n)
    if g.chance(0.3):
        shape.insert(g.random.randint(0, len(shape)), 1)
    g.emit("reshape", v, shape=tuple(shape))


def permute(g: Generator) -> None:
    v = g.pick("biuf", 2)
    if v is not None:
        g.emit("permute", v, perm=tuple(g.random.sample(range(v.ndim), v.ndim)))


def flip(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is not None:
        g.emit("flip", v, axes=tuple(k for k in range(v.ndim) if g.chance(0.5)))


def bounds(g: Generator, v: Value) -> Attrs:
    """Start, stop and step of a slice."""
    out: Attrs = {"start": (), "stop": (), "step": ()}
    for n in v.shape:
        lo, hi = sorted((g.random.randint(0, n), g.random.randint(0, n))) if g.chance(0.6) else (0, n)
        if lo == hi and g.chance(0.8):
            lo, hi = 0, n
        for name, x in zip(out, (lo, hi, g.random.choice((1, 1, 2, 3)))):
            out[name] += (x,)
    return out


def slice_(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is not None:
        g.emit("slice", v, **bounds(g, v))


def slice_scatter(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is None:
        return
    b = bounds(g, v)
    shape = tuple(-((lo - hi) // s) for lo, hi, s in zip(*b.values()))
    same = g.pick(v.dtype.kind, where=lambda w: w.type == v.type.with_shape(shape))
    g.emit("slice_scatter", v, same if same is not None else g.source(g.data(v.dtype, shape)), **b)


def pad(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is None:
        return
    low, high = (tuple(g.random.choice((0, 0, 1, 2, 5)) for _ in v.shape) for _ in range(2))
    value = {"b": True, "i": -3, "u": 3, "f": 0.25}[v.dtype.kind] if g.chance(0.5) else 0
    g.emit("pad", v, low=low, high=high, value=value)


def concat(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is None:
        return
    axis = g.random.randrange(v.ndim)

    def fits(w: Value) -> bool:
        return w.dtype is v.dtype and w.ndim == v.ndim and all(
            k == axis or a == b for k, (a, b) in enumerate(zip(w.shape, v.shape)))  # fmt: skip

    parts = [v]
    for _ in range(g.random.randint(1, 3)):
        w = g.pick("biuf", where=fits)
        parts.append(w if w is not None and g.chance(0.8) else g.source(g.data(v.dtype, v.shape)))
    g.emit("concat", *g.random.sample(parts, len(parts)), axis=axis)


def windows(g: Generator) -> None:
    v = g.pick("f", 1)
    if v is None:
        return
    k = g.random.randint(1, min(2, v.ndim))
    attrs: Attrs = {"window": (), "stride": (), "low": (), "high": (), "dilation": ()}
    for n in v.shape[v.ndim - k :]:
        w = g.random.randint(1, max(1, min(4, n)))
        for name, x in zip(attrs, (w, g.random.choice((1, 2, w)), g.random.choice((0, 1)), g.random.choice((0, 1)), 1)):
            attrs[name] += (x,)
    if g.chance(0.2):
        attrs["dilation"] = (2,) * k
    out = g.emit("windows", v, fill=g.random.choice((0, 0.5)), **attrs)
    if out is None:
        return
    last = tuple(range(out.ndim - k, out.ndim))
    if g.chance(0.6):
        g.emit(g.random.choice(("reduce_sum", "reduce_max", "reduce_min", "mean")), out, axes=last)
    elif g.chance(0.6):
        back = g.emit("unwindows", out, size=v.shape[v.ndim - k :], **attrs)
        if back is not None and g.chance(0.8):
            g.emit("reduce_sum", back, axes=last)


# ------------------------------------------------------------------ indexing


def index_into(g: Generator, n: int, shape: tuple[int, ...]) -> Value | None:
    """Integers of [-n, n): new, or computed from integers that are there."""
    if n == 0:
        shape = (0,)
    found = g.pick("i", where=lambda v: v.dtype in (int32, int64) and v.type.size != 0)
    if found is not None and n and g.chance(0.5):
        a = g.array(found)
        if a.size and -n <= a.min() and a.max() < n and g.chance(0.5):
            return found
        return g.emit("mod", found, number(g, n, found))
    low = -n if g.chance(0.4) else 0
    values = g.rng.integers(low, max(n, 1), shape) if n else np.zeros(shape)
    v = g.source(values.astype(g.random.choice((np.int32, np.int64))))
    return g.emit("check_index", v, size=n) if g.chance(0.1) else v


def indices_for(g: Generator, v: Value) -> list[Value] | None:
    count = g.random.choice((1, 1, 1, 2)) if v.ndim > 1 else 1
    shape = g.shape(2)
    out = []
    for k in range(count):
        n = v.shape[k]
        assert isinstance(n, int)
        i = index_into(g, n, shape if g.chance(0.8) else shape[-1:])
        if i is None:
            return None
        out.append(i)
    return out


def gather(g: Generator) -> None:
    v = g.pick("biuf", 1)
    indices = None if v is None else indices_for(g, v)
    if v is not None and indices is not None:
        g.emit("gather", v, *indices)


def scatter(g: Generator) -> None:
    v = g.pick("iuf", 1)
    indices = None if v is None else indices_for(g, v)
    if v is None or indices is None:
        return
    like = g.emit("gather", v, *indices)  # tells the shape of the updates, and may be the updates
    if like is None:
        return
    updates = like if g.chance(0.3) else g.source(g.data(v.dtype, g.array(like).shape))
    g.emit("scatter", v, updates, *indices, mode=g.random.choice(("set", "add")))


def create(g: Generator) -> None:
    shape = g.shape(3)
    dtype = g.dtype()
    if shape and g.chance(0.6) and dtype is not bool_:
        g.emit("iota", shape=shape, axis=g.random.randrange(len(shape)), dtype=dtype)
    else:
        g.emit("full", value=g.random.choice((0, 1, 2)), shape=shape, dtype=dtype)


def random_bits(g: Generator) -> None:
    state = g.source(g.rng.integers(0, 1 << 40, 2).astype(np.uint64), constant=False)
    words = g.emit("random_bits", state, shape=g.shape(3))
    g.pool.remove(state)
    if words is not None and g.chance(0.8):
        shifted = g.emit("shr", words, number(g, 8, words))
        value = shifted and g.emit("cast", shifted, dtype=float32)
        if value is not None:
            g.emit("mul", value, number(g, 2.0**-24, value))


# ------------------------------------------------------------------ reductions, contractions, composites


def reduce(g: Generator) -> None:
    v = g.pick("biuf", 1)
    if v is None:
        return
    names = ("reduce_any", "reduce_all")
    if v.dtype.kind != "b":
        names = ("reduce_sum", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin")
    name = g.random.choice(names)
    if name.startswith("arg"):
        g.emit(name, v, axis=g.random.randrange(v.ndim))
        return
    last = g.random.randint(0, v.ndim - 1)
    axes = tuple(range(last, v.ndim)) if g.chance(0.5) else tuple(k for k in range(v.ndim) if g.chance(0.4))
    out = g.emit(name, v, axes=axes)
    if out is not None and g.chance(0.4):  # and back to every element, as normalizations do
        kept = g.emit("reshape", out, shape=tuple(1 if k in axes else n for k, n in enumerate(v.shape)))
        if kept is not None:
            g.emit(g.random.choice(("sub", "add", "mul") if v.dtype.kind != "b" else ("xor",)), v, kept)


def scan(g: Generator) -> None:
    v = g.pick("iuf", 1)
    if v is not None:
        g.emit(g.random.choice(("cumsum", "cumsum", "cumprod")), v, axis=g.random.randrange(v.ndim))


def matmul(g: Generator) -> None:
    v = g.pick("f", 2) or g.pick("iuf", 2)
    if v is None:
        return
    k = v.shape[-1]
    y = g.pick("iuf", 2, lambda w: w.dtype is v.dtype and w.shape[-2] == k)
    if y is None or g.chance(0.4):
        batch = v.shape[:-2] if g.chance(0.3) else tuple(1 for _ in v.shape[:-2]) if g.chance(0.2) else ()
        y = g.source(g.data(v.dtype, (*batch, k, g.random.choice(g.sizes)), -1, 1))  # type: ignore[arg-type]
    out = g.emit("matmul", v, y)
    if out is not None and g.chance(0.5):
        g.emit("add", out, partner(g, out))


def conv(g: Generator) -> None:
    rank = g.random.choice((1, 2, 2))
    v = g.pick("f", where=lambda w: w.ndim == rank + 2)
    if v is None or g.chance(0.3):
        shape = (g.random.randint(1, 3), g.random.choice((1, 2, 4)), *(g.random.randint(3, 9) for _ in range(rank)))
        v = g.source(g.data(g.float, shape))
    channels = v.shape[1]
    assert isinstance(channels, int)
    groups = g.random.choice([d for d in range(1, channels + 1) if channels % d == 0] or [1])
    window = tuple(g.random.randint(1, 3) for _ in range(rank))
    w = g.source(g.data(v.dtype, (groups * g.random.randint(1, 3), channels // groups, *window), -1, 1))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(g.random.choice(values) for _ in range(rank))

    dilated = each(1, 1, 1, 2), each(1, 1, 1, 2)
    out = g.emit("conv", v, w, stride=each(1, 1, 2), low=each(0, 1, 2), high=each(0, 1), lhs_dilation=dilated[0],
                 rhs_dilation=dilated[1], groups=groups)  # fmt: skip
    if out is not None and g.chance(0.5):
        g.emit("relu", out)


def composite(g: Generator) -> None:
    """A composite of the registry on a value that is there, with axes that it has."""
    names = sorted(
        n for n, op in REGISTRY.items() if op.kind == "composite" and ("axes" in op.attrs or "axis" in op.attrs)
    )
    op = REGISTRY[g.random.choice(names)]
    v = g.pick("f", 1)
    if v is None or len(op.operands) != 1:
        return
    attrs: Attrs = {"axis": g.random.randrange(v.ndim), "axes": tuple(k for k in range(v.ndim) if g.chance(0.5))}
    if g.chance(0.6):
        attrs = {"axis": v.ndim - 1, "axes": (v.ndim - 1,)}
    g.emit(op.name, v, **attrs, **{k: 0 for k in ("correction",) if k in op.attrs})


def normalization(g: Generator) -> None:
    v = g.pick("f", 1, lambda w: w.shape[-1] != 0)
    if v is None:
        return
    weight, bias = (g.source(g.data(v.dtype, v.shape[-1:], 0.5, 1.5)) for _ in range(2))  # type: ignore[arg-type]
    if g.chance(0.6):
        g.emit("layer_norm", v, weight, bias, ndim_normalized=1, eps=1e-3)
    else:
        g.emit("rms_norm", v, weight, ndim_normalized=1, eps=1e-3)


@cache
def small_samples(name: str) -> list[Sample]:
    """The samples of an op that are finite and small."""
    op = REGISTRY[name]
    assert op.samples is not None
    return [
        s for s in op.samples()
        if all(a.size < 3000 and np.isfinite(a.astype(np.float64)).all() for a in s.args)
    ]  # fmt: skip


def sampled(g: Generator) -> None:
    """Any op of the registry, on one of its own samples."""
    name = g.random.choice(sorted(REGISTRY))
    samples = small_samples(name)
    if samples:
        s = g.random.choice(samples)
        before = len(g.pool)
        args = [g.source(a) for a in s.args]
        del g.pool[before:]
        g.emit(name, *args, **s.attrs)


MOVES: dict[Callable[[Generator], None], float] = {
    pointwise: 12, arithmetic: 8, select: 2, convert: 3, bits: 0.6, power: 0.8,
    broadcast_to: 2, reshape: 3, permute: 3, flip: 1, slice_: 2, slice_scatter: 1, pad: 1.5, concat: 2, windows: 1,
    gather: 2, scatter: 1, create: 1.5, random_bits: 0.4,
    reduce: 6, scan: 0.5, matmul: 3, conv: 0.8, composite: 2, normalization: 1.2, sampled: 2.5,
}  # fmt: skip
