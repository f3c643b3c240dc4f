"""Joins neighbouring axes that every access runs through in one stride, so that loops are as few and long as possible."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.kernel import Axis, Kernel, Stage, Store
from ..ir.scalar import Expr, Load, transform, walk
from ..ir.target import Target
from .access import divisions


def collapse(kernel: Kernel, target: Target) -> Kernel:
    """Needs plain kernels; those with an anchor, or stores where values say, or parts of rows are left alone. Leaves no two adjacent axes that could be one, and last
    axes that fill a vector register where there is something to fill it with."""
    if kernel.anchor is not None or kernel.scatters or any(s.span for s in kernel.stages):
        return kernel
    while True:
        new = _collapse_outer(kernel, 0) or _collapse_inner(kernel, 0)
        if new is None:
            new = _collapse_outer(kernel, target.vector_bytes // 4) or _collapse_inner(kernel, target.vector_bytes // 4)
        if new is None:
            return kernel
        kernel = new


def _short(a: Axis, b: Axis, lanes: int) -> bool:
    """Whether `b` alone leaves lanes empty, so that it is worth dividing indices to run through a and b together."""
    return isinstance(b.extent, int) and b.extent < lanes and isinstance(a.extent, int) and a.extent > 1


def _collapse_outer(kernel: Kernel, lanes: int) -> Kernel | None:
    for k in range(len(kernel.axes) - 1, 0, -1):
        a, b = kernel.axes[k - 1], kernel.axes[k]
        if lanes and (k != len(kernel.axes) - 1 or not _short(a, b, lanes)):
            continue
        joined = _join(kernel, a, b, bool(lanes))
        if joined is not None:
            axis, stages = joined
            return replace(kernel, axes=(*kernel.axes[: k - 1], axis, *kernel.axes[k + 1 :]), stages=stages)
    return None


def _collapse_inner(kernel: Kernel, lanes: int) -> Kernel | None:
    axes = next((s.axes for s in kernel.stages if s.axes), ())
    for k in range(len(axes) - 1, 0, -1):
        if lanes and (k != len(axes) - 1 or not _short(axes[k - 1], axes[k], lanes) or _wide(kernel.axes, lanes)):
            continue
        joined = _join(kernel, axes[k - 1], axes[k], bool(lanes))
        if joined is not None:
            axis, stages = joined
            inner = (*axes[: k - 1], axis, *axes[k + 1 :])
            return replace(kernel, stages=tuple(replace(s, axes=inner) if s.axes else s for s in stages))
    return None


def _wide(axes: tuple[Axis, ...], lanes: int) -> bool:
    """Whether the last outer axis can fill the lanes instead."""
    return bool(axes) and (not isinstance(axes[-1].extent, int) or axes[-1].extent >= lanes)


def _join(kernel: Kernel, a: Axis, b: Axis, divide: bool) -> tuple[Axis, tuple[Stage, ...]] | None:
    """One axis for a and b, and the stages written with it; without `divide` only if no index has to be split for it."""
    extent = a.extent * b.extent
    fused = dim.symbol(a.name, 0, extent - 1)
    env: dict[Dim, DimLike] = {a.sym: dim.floordiv(fused, b.extent), b.sym: dim.mod(fused, b.extent)}
    memo: dict[DimLike, DimLike | None] = {}

    def mapped(d: DimLike) -> DimLike | None:
        """`d` in terms of the fused axis; None if that needs a division."""
        if isinstance(d, int):
            return d
        if d not in memo:
            used = d.symbols()
            if a.sym not in used and b.sym not in used:
                memo[d] = d
            else:
                new = dim.substitute(d, env)
                memo[d] = new if divide or divisions(new) <= divisions(d) else None
        return memo[d]

    for d in _indices(kernel.stages):
        if mapped(d) is None:
            return None

    def leaf(e: Expr) -> Expr | None:
        if e.op == "index":
            return Expr("index", e.dtype, (), mapped(e.attr))
        if e.op == "in_bounds":
            return Expr("in_bounds", e.dtype, (), tuple(mapped(d) for d in e.attr))
        if e.op == "load":
            return Expr(
                "load", e.dtype, e.args, Load(e.attr.buffer, _all(e.attr.index, mapped), _all(e.attr.mask, mapped))
            )
        return None

    exprs: dict[int, Expr] = {}
    stages = tuple(_rewrite(s, leaf, mapped, exprs) for s in kernel.stages)
    return Axis(fused, extent), stages


def _rewrite(stage: Stage, leaf, mapped, memo: dict[int, Expr]) -> Stage:
    reductions = tuple(replace(r, inputs=tuple(transform(x, leaf, memo) for x in r.inputs)) for r in stage.reductions)
    stores = tuple(
        Store(s.buffer, _all(s.index, mapped), transform(s.value, leaf, memo), _all(s.mask, mapped), s.accumulate)
        for s in stage.stores
    )
    return Stage(stage.axes, reductions, stores)


def _all(entries: tuple, mapped) -> tuple:
    return tuple(i if isinstance(i, Expr) else mapped(i) for i in entries)


def _indices(stages: tuple[Stage, ...]):
    """Every index expression and bound in the stages."""
    for s in stages:
        roots = [x for r in s.reductions for x in r.inputs] + [x.value for x in s.stores]
        for e in walk(*roots):
            if e.op == "index":
                yield e.attr
            elif e.op == "in_bounds":
                yield from e.attr
            elif e.op == "load":
                yield from (i for i in (*e.attr.index, *e.attr.mask) if not isinstance(i, Expr))
        for x in s.stores:
            yield from (i for i in (*x.index, *x.mask) if not isinstance(i, Expr))
