"""Loads that are contiguous along another axis than the vectors: a square of vectors, turned in registers."""

from __future__ import annotations

from ...ir.dim import DimLike
from ...ir.scalar import Expr
from .builder import Function, Val
from .elements import ElementEmitter


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
