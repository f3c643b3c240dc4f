"""Keeps costly expressions of a row in scratch memory between stages, instead of computing them again."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dim
from ..ir.kernel import Buffer, Kernel, Stage, Store, roots
from ..ir.scalar import MATH, Expr, free_symbols, load, transform, walk
from ..ir.target import Target
from .schedule import vectorizes_rows

SCRATCH_LIMIT = 256 * 1024  # bytes of one row's scratch: it has to stay in the second-level cache


def cache_rows(kernel: Kernel, target: Target) -> Kernel:
    """Needs collapsed kernels. An expression with a transcendental function that two stages compute is stored by the
    first of them and read back by the others."""
    looped = [k for k, s in enumerate(kernel.stages) if s.axes]
    if kernel.anchor is not None or len(looped) < 2 or "scatter" in kernel.ops:
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
    outermost = [
        e for e in repeated if not any(e is not o and e in set(walk(o)) and seen[o] == seen[e] for o in repeated)
    ]
    for number, e in enumerate(outermost):
        size = extent * e.dtype.itemsize
        if size > budget:
            continue
        budget -= size
        kernel = _cache(kernel, e, seen[e], f"s{number}", extent)
    return kernel


def _cache(kernel: Kernel, e: Expr, stages: list[int], name: str, extent: int) -> Kernel:
    buffer = Buffer(name, e.dtype, (extent,), (1,), "scratch")
    axis = kernel.stages[stages[0]].axes[0]
    again = load(e.dtype, name, (axis.sym,))
    out = []
    for k, s in enumerate(kernel.stages):
        if k == stages[0]:
            s = replace(s, stores=(*s.stores, Store(name, (axis.sym,), e)))
        elif k in stages:
            memo: dict[int, Expr] = {}

            def leaf(x: Expr) -> Expr | None:
                return again if x == e else None

            s = Stage(
                s.axes,
                tuple(replace(r, inputs=tuple(transform(x, leaf, memo) for x in r.inputs)) for r in s.reductions),
                tuple(replace(x, value=transform(x.value, leaf, memo)) for x in s.stores),
            )
        out.append(s)
    return replace(kernel, params=(*kernel.params, buffer), stages=tuple(out))
