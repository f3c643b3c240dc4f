"""Kernels in the form that Triton source is written from: no scratch, no welford, no function that Triton lacks, and
equal expressions one object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import float32
from ...ir.kernel import Kernel, Reduction, Stage, map_stage
from ...ir.math import expand
from ...ir.scalar import Expr, apply, bitcast, bits_dtype, cast, const, index, moved, result, select, transform
from .exprs import is_native

Rewrite = Callable[[Expr], Expr]


def prepare(kernel: Kernel) -> Kernel:
    """An equal kernel without scratch buffers (their values are computed again: where a row fits a block the writer
    keeps them in registers anyway) and with only those operations that `exprs` has."""
    kernel = _split_welford(_inline_scratch(kernel))
    memo: dict[int, Expr] = {}
    basic: dict[int, Expr] = {}
    shared: dict[int, Expr] = {}
    intern = _Interner()

    def rewrite(e: Expr) -> Expr:
        e = transform(e, _expand_math, memo)
        return transform(transform(e, _expand_basic, basic), intern, shared)

    stages = tuple(map_stage(s, rewrite) for s in kernel.stages)
    anchor = None if kernel.anchor is None else kernel.anchor.map(rewrite)
    return replace(kernel, stages=stages, anchor=anchor)


# ------------------------------------------------------------------ operations


def _expand_math(e: Expr) -> Expr | None:
    return None if is_native(e.op, e.dtype) else expand(e)


def _expand_basic(e: Expr) -> Expr | None:
    """trunc, round and copysign, which Triton has no function for."""
    if e.op == "trunc":
        (x,) = e.args
        return select(x < 0, apply("ceil", x), apply("floor", x))
    if e.op == "copysign":
        return _with_sign(*e.args)
    if e.op == "round":
        (x,) = e.args
        magic = 2.0**23 if e.dtype is float32 else 2.0**52  # from here on all floats are whole
        size = apply("abs", x)
        return select(size < magic, _with_sign((size + magic) - magic, x), x)
    return None


def _with_sign(x: Expr, y: Expr) -> Expr:
    """|x| with the sign of y, by bits."""
    integer = bits_dtype(x.dtype, signed=False)
    sign = 1 << (integer.bits - 1)
    return bitcast((bitcast(x, integer) & (sign - 1)) | (bitcast(y, integer) & sign), x.dtype)


class _Interner:
    """As a leaf function of `transform`: replaces every node by the first equal one."""

    def __init__(self) -> None:
        self.found: dict[tuple, Expr] = {}

    def __call__(self, e: Expr) -> Expr:
        attr = e.attr
        if e.op == "load":
            attr = (attr.buffer, tuple(id(i) if isinstance(i, Expr) else i for i in attr.index), attr.mask)
        elif e.op == "const":
            attr = repr(attr)  # tells -0.0 from 0.0, and NaN equals itself
        return self.found.setdefault((e.op, e.dtype.code, attr, tuple(map(id, e.args))), e)


# ------------------------------------------------------------------ scratch and welford


def _inline_scratch(kernel: Kernel) -> Kernel:
    scratch = {b.name for b in kernel.params if b.role == "scratch"}
    if not scratch:
        return kernel
    values: dict[str, tuple[tuple[DimLike, ...], Expr]] = {}

    def leaf(e: Expr) -> Expr | None:
        if e.op != "load" or e.attr.buffer not in values:
            return None
        at, value = values[e.attr.buffer]
        env = {a: b for a, b in zip(at, e.attr.index, strict=True) if isinstance(a, Dim) and a is not b}
        return moved(value, env) if env else value

    stages = []
    for s in kernel.stages:
        memo: dict[int, Expr] = {}  # a stage reads what earlier ones stored
        s = map_stage(s, lambda e, memo=memo: transform(e, leaf, memo))
        for x in s.stores:
            if x.buffer in scratch:
                assert not any(isinstance(i, Expr) for i in x.index), "scratch is addressed by indices"
                values[x.buffer] = (x.index, x.value)  # type: ignore[assignment]
        kept = tuple(x for x in s.stores if x.buffer not in scratch)
        if kept or s.reductions:
            stages.append(replace(s, stores=kept))
    params = tuple(b for b in kernel.params if b.role != "scratch")
    return replace(kernel, params=params, stages=tuple(stages))


def _split_welford(kernel: Kernel) -> Kernel:
    """A mean and a sum of squared deviations as two stages of plain sums."""
    means: dict[str, Expr] = {}

    def leaf(e: Expr) -> Expr | None:
        return means.get(e.attr) if e.op == "result" else None

    stages: list[Stage] = []
    for s in kernel.stages:
        s = map_stage(s, lambda e: transform(e, leaf))
        found = [r for r in s.reductions if r.kind == "welford"]
        if not found:
            stages.append(s)
            continue
        n = dim.numel(tuple(a.extent for a in s.axes))
        count = const(n, found[0].dtype) if isinstance(n, int) else cast(index(n), found[0].dtype)
        sums, squares = [], []
        for r in found:
            mean, m2 = r.names
            means[mean] = result(f"{mean}_sum", r.dtype) / count
            deviation = r.inputs[0] - means[mean]
            sums.append(Reduction((f"{mean}_sum",), "sum", r.inputs, r.dtype))
            squares.append(Reduction((m2,), "sum", (deviation * deviation,), r.dtype))
        others = tuple(r for r in s.reductions if r.kind != "welford")
        stages += [Stage(s.axes, (*others, *sums), s.stores), Stage(s.axes, tuple(squares))]
    return replace(kernel, stages=tuple(stages))
