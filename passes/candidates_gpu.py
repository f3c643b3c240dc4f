"""Schedules worth timing on a GPU, the best guess first."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ir.kernel import Contraction, Kernel, Schedule
from ..ir.target import Target
from .schedule_gpu import PRECISION, schedule
from .tiles_gpu import persistent, tiles

MOST = 12
ALIKE = 3  # candidates with the same tile, that differ in warps, stages and depth only
PERSISTENT = 3  # of the best, as programs that stay
LARGEST = 8192  # points of a tile of a kernel without a contraction


def candidates(kernel: Kernel, target: Target, precision: str = PRECISION) -> list[Schedule]:
    """Up to a dozen schedules, all of them valid; the first is `schedule`'s. They may sum in different orders: whoever picks
    one has to keep to it."""
    default = schedule(kernel, target, precision)
    found: list[Schedule] = []  # attention has tables, made from what compiles without spilling
    if isinstance(kernel.anchor, Contraction):
        found = _contractions(kernel, target, precision)
    elif kernel.anchor is None:
        found = _loops(kernel, default)
    return list(dict.fromkeys((default, *found)))[:MOST]


def _contractions(kernel: Kernel, target: Target, precision: str) -> list[Schedule]:
    alike: Counter[tuple[int, ...]] = Counter()
    chosen = []
    for s in tiles(kernel, target, precision):
        alike[s.blocks[:2]] += 1
        if alike[s.blocks[:2]] <= ALIKE:
            chosen.append(s)
    return [chosen[0], *persistent(kernel, target, chosen[:PERSISTENT]), *chosen[1:]]


def _loops(kernel: Kernel, default: Schedule) -> list[Schedule]:
    """Larger and smaller blocks, more and fewer warps."""
    first, *rest = default.blocks
    sizes = [x for x in (first, first * 2, first // 2, first * 4, first // 4) if x >= 1]
    found = []
    for x in sizes:
        points = x
        for r in rest:
            points *= r
        for warps in (default.warps, default.warps * 2, default.warps // 2):
            if points <= max(LARGEST, first) and 1 <= warps <= 16 and (points >= 32 * warps or x == first):
                found.append(replace(default, blocks=(x, *rest), warps=warps))
    return found
