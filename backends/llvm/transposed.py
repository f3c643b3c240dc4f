"""Loads that are contiguous along another axis than the vectors: a square of vectors, turned in registers."""

from __future__ import annotations

from ...ir.dim import DimLike
from ...ir.kernel import Axis, Kernel, roots
from ...ir.scalar import Expr, walk
from .builder import Function, Val
from .elements import ElementEmitter


def transposed_loads(kernel: Kernel, emitter: ElementEmitter, across: Axis, along: Axis) -> list[tuple[Expr, DimLike]]:
    """The loads that step by 1 along the axis `across` and by n > 1 along the vector axis, with that n."""
    found = []
    for e in dict.fromkeys(x for s in kernel.stages for x in walk(*roots(s)) if x.op == "load"):
        if e.attr.mask or any(isinstance(i, Expr) for i in e.attr.index):
            continue
        offset = sum((i * s for i, s in zip(e.attr.index, emitter.types[e.attr.buffer].strides, strict=True)), 0)
        if isinstance(offset, int) or not all(offset.is_linear_in(a.sym) for a in (across, along)):
            continue
        if offset.coefficient(across.sym) == 1 and offset.coefficient(along.sym) not in (0, 1):
            found.append((e, offset.coefficient(along.sym)))
    return found


def turned(f: Function, rows: list[Val]) -> list[Val]:
    """Column k of the square whose rows these are, for each k: log2(n) rounds that swap ever smaller blocks."""
    n = len(rows)
    distance = n // 2
    while distance:
        following = list(rows)
        for k in range(n):
            if k & distance:
                continue
            low, high = rows[k], rows[k + distance]
            following[k] = f.shuffle(low, high, [j + n - distance if j & distance else j for j in range(n)])
            following[k + distance] = f.shuffle(low, high, [j + n if j & distance else j + distance for j in range(n)])
        rows = following
        distance //= 2
    return rows


def load_square(emitter: ElementEmitter, e: Expr, step: DimLike) -> list[Val]:
    """The values of a transposed load for `lanes` neighbours along its own contiguous axis; the emitter stands at the
    first of them, and at a vector."""
    f, lanes = emitter.f, emitter.lanes
    pointer, type, size = emitter.vector_at(e)
    rows = []
    for k in range(lanes):
        row = f.gep("i8", pointer, emitter.index(step * k * size))
        rows.append(f.load(type, row, size))
        if e.attr.buffer in emitter.prefetch:
            emitter.fetch_ahead(row, emitter.prefetch[e.attr.buffer])
    return [emitter.from_memory(v, e.dtype) for v in turned(f, rows)]
