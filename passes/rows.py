"""Keeps costly expressions of a row in scratch memory between stages, instead of computing them again."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ..ir import dim
from ..ir.kernel import Axis, Buffer, Kernel, Stage, Store, roots
from ..ir.scalar import MATH, Expr, free_symbols, load, transform, walk
from ..ir.target import Target
from .schedule import vectorizes_rows

SCRATCH_LIMIT = 256 * 1024  # bytes of one row's scratch: it has to stay in the second-level cache


def cache_rows(kernel: Kernel, target: Target) -> Kernel:
    """Needs collapsed kernels. An expression with a transcendental function that two stages compute is stored by the
    first of them and read back by the others. Not on GPUs, where a row stays in registers: there scratch would be computed
    again, perhaps from an input that was overwritten meanwhile."""
    if target.isa == "cuda":
        return kernel
    looped = [k for k, s in enumerate(kernel.stages) if s.axes]
    if kernel.anchor is not None or len(looped) < 2 or kernel.scatters:
        return kernel
    axes = kernel.stages[looped[0]].axes
    if not vectorizes_rows(kernel, target):
        return kernel
    extent = dim.numel(tuple(a.extent for a in axes))
    if not isinstance(extent, int) or len(axes) != 1:
        return kernel
    budget = min(SCRATCH_LIMIT, target.l2 // 4)
    seen: dict[Expr, list[int]] = {}
    for k in looped:
        for e in dict.fromkeys(walk(*roots(kernel.stages[k]))):
            if e.op in MATH and axes[0].sym in free_symbols(e):
                seen.setdefault(e, []).append(k)
    repeated = [e for e, stages in seen.items() if len(stages) > 1]
    inside = {o: set(walk(*o.args)) for o in repeated}
    chosen: dict[Expr, _Kept] = {}
    for e in repeated:
        size = extent * e.dtype.itemsize
        if size <= budget and not any(e in inside[o] and seen[o] == seen[e] for o in repeated):
            budget -= size
            chosen[e] = _Kept(f"s{len(chosen)}", seen[e])
    return _keep(kernel, chosen, axes[0], extent) if chosen else kernel


class _Kept(NamedTuple):
    """Where an expression is kept, and the stages that compute it: the first one stores it."""

    name: str
    stages: list[int]


def _keep(kernel: Kernel, chosen: dict[Expr, _Kept], axis: Axis, extent: int) -> Kernel:
    stages = []
    for k, s in enumerate(kernel.stages):
        memo: dict[int, Expr] = {}

        def leaf(x: Expr, k: int = k) -> Expr | None:
            kept = chosen.get(x)
            return load(x.dtype, kept.name, (axis.sym,)) if kept is not None and k in kept.stages[1:] else None

        stores = [replace(x, value=transform(x.value, leaf, memo)) for x in s.stores]
        for e, kept in chosen.items():
            if k == kept.stages[0]:
                stores.append(Store(kept.name, (axis.sym,), transform(e, leaf, memo)))
        reductions = tuple(replace(r, inputs=tuple(transform(x, leaf, memo) for x in r.inputs)) for r in s.reductions)
        stages.append(Stage(s.axes, reductions, tuple(stores)))
    buffers = tuple(Buffer(kept.name, e.dtype, (extent,), (1,), "scratch") for e, kept in chosen.items())
    return replace(kernel, params=(*kernel.params, *buffers), stages=tuple(stages))
