"""Moves constant offsets out of kernels into the pointers they get: the steps of an unrolled loop, which read one slice
after another, then share one kernel."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dim
from ..ir.kernel import Kernel, map_loads, roots
from ..ir.scalar import Expr, Load, walk


def rebase(kernel: Kernel) -> tuple[Kernel, dict[str, int]]:
    """The kernel, whose inputs begin with the first element it reads and end with the last, and for those that do not
    begin with their first one the number of that element."""
    lowest: dict[str, int] = {}
    highest: dict[str, int | None] = {}
    exprs = [e for stage in kernel.stages for e in roots(stage)]
    if kernel.anchor is not None:
        exprs += kernel.anchor.operands
    for e in walk(*exprs):
        if e.op == "load":
            b, index = e.attr.buffer, e.attr.index
            plain = len(index) == 1 and not isinstance(index[0], Expr)
            low, high = dim.bounds(index[0]) if plain else (0, None)
            lowest[b] = min(lowest.get(b, low or 0), low or 0)
            before = highest.get(b, -1)
            highest[b] = None if high is None or before is None else max(before, high)
    shifts: dict[str, int] = {}
    params = []
    for p in kernel.params:
        low, high = lowest.get(p.name, 0), highest.get(p.name)
        if p.role == "in" and high is not None and len(p.shape) == 1 and isinstance(p.shape[0], int):
            shifts[p.name] = max(0, low)
            p = replace(p, shape=(min(high + 1, p.shape[0]) - shifts[p.name],))
        params.append(p)
    shifts = {b: c for b, c in shifts.items() if c}

    def moved(load: Load) -> Load:
        c = shifts.get(load.buffer)
        return load if c is None else Load(load.buffer, (load.index[0] - c,), load.mask)

    new = map_loads(kernel, moved) if shifts else kernel
    return replace(new, params=tuple(params)), shifts
