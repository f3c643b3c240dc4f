"""Questions about the bounds that guard memory accesses."""

from __future__ import annotations

from ...ir import dim
from ...ir.dim import DimLike


def ranges(conditions: tuple[DimLike, ...]) -> list[tuple[DimLike, int | None]]:
    """The conditions d >= 0 that are not certain. Two that say 0 <= d <= top become one: (d, top), one unsigned test."""
    rest = [d for d in conditions if not dim.nonnegative(d)]
    out: list[tuple[DimLike, int | None]] = []
    while rest:
        d = rest.pop(0)
        partner = next((e for e in rest if isinstance(d + e, int)), None)
        if partner is None:
            out.append((d, None))
            continue
        rest.remove(partner)
        top = d + partner
        assert isinstance(top, int)
        out.append((d, top) if top >= 0 else (-1, None))
    return out


def small(d: DimLike) -> bool:
    """Whether an index expression and its parts certainly fit into 31 bits."""
    low, high = dim.bounds(d)
    if low is None or high is None or not -(1 << 30) < low <= high < 1 << 30:
        return False
    parts = () if isinstance(d, int) else (x for m, _ in d.terms for a in m if a.kind != "sym" for x in (a.a, a.b))
    return all(map(small, parts))
