"""Other schedules for a kernel that compute the same bits: what `mode="max"` tries.

None of them changes the order in which a reduction combines: lanes and unrolling of kernels that reduce, and the K blocks
of contractions, stay as they are. Nor does any write more outputs past the cache than the default: that makes a kernel
faster and whoever reads the result slower.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..backends.llvm.contraction import choose_tile, vector_lanes
from ..ir.kernel import Kernel, Schedule, roots
from ..ir.scalar import walk
from ..ir.target import Target

MOST_UNROLL = 8


def alternatives(kernel: Kernel, now: Schedule, target: Target) -> Iterator[list[Schedule]]:
    """Groups of schedules for a kernel, each of which changes one thing about `now`."""
    if kernel.anchor is not None:
        yield from _tiles(kernel, now, target)
        return
    yield _blocks(kernel, now)
    yield _unrolled(kernel, now)
    yield [replace(now, stream=())] if now.stream else []
    yield [replace(now, prefetch=())] if now.prefetch else []
    yield [replace(now, grain=g) for g in (max(1, now.grain // 4), now.grain * 4) if g != now.grain]


def is_tunable(kernel: Kernel) -> bool:
    """Whether it may run on any contents of its buffers: not where an index is computed from them."""
    indices = [e.attr.index for e in _expressions(kernel) if e.op == "load"]
    indices += [s.index for stage in kernel.stages for s in stage.stores]
    accumulates = any(s.accumulate for stage in kernel.stages for s in stage.stores)
    plain = all(isinstance(i, int) or hasattr(i, "terms") for index in indices for i in index)
    return plain and not kernel.dims and not accumulates


def _expressions(kernel: Kernel) -> Iterator:
    found = [x for stage in kernel.stages for x in roots(stage)]
    if kernel.anchor is not None:
        found += kernel.anchor.operands
    yield from walk(*found)


def _blocks(kernel: Kernel, now: Schedule) -> list[Schedule]:
    """Shorter and longer pieces of the vector axis for each task."""
    if not now.block or not kernel.axes:
        return []
    extent, group = kernel.axes[-1].extent, max(1, now.lanes * now.unroll)
    sizes = [now.block // 4, now.block // 2, now.block * 2, now.block * 4]
    if isinstance(extent, int):
        sizes = [min(s, extent) for s in sizes]
    rounded = dict.fromkeys(max(group, -(-s // group) * group) for s in sizes)
    return [replace(now, block=s) for s in rounded if s != now.block]


def _unrolled(kernel: Kernel, now: Schedule) -> list[Schedule]:
    """More and fewer vectors at once; only where nothing is reduced."""
    if not now.vector or now.across or any(stage.reductions for stage in kernel.stages):
        return []
    counts = [n for n in (now.unroll // 2, now.unroll * 2) if 1 <= n <= MOST_UNROLL]
    fits = [n for n in counts if not now.block or now.block % (n * now.lanes) == 0]
    return [replace(now, unroll=n) for n in fits]


def _tiles(kernel: Kernel, now: Schedule, target: Target) -> Iterator[list[Schedule]]:
    """Register tiles, then rows and columns per task."""
    assert kernel.anchor is not None
    rows, width, kc, mc, nc = now.tile or choose_tile(kernel, target)
    lanes = vector_lanes(target, kernel.anchor.dtype)
    tiles: list[Schedule] = []
    for vectors in (1, 2, 3, 4):
        most = (target.registers - 2 - vectors) // vectors
        for r in dict.fromkeys((most, min(most, rows), max(1, most // 2))):
            if r >= 1 and (r, vectors * lanes) != (rows, width):
                new = (r, vectors * lanes, kc, _whole(mc, r), _whole(nc, vectors * lanes))
                tiles.append(replace(now, tile=new))
    yield list(dict.fromkeys(tiles))
    sizes = ((mc // 2, nc), (mc * 2, nc), (mc, nc // 2), (mc, nc * 2), (mc // 2, nc // 2), (mc * 2, nc * 2))
    blocks = dict.fromkeys((rows, width, kc, _whole(m, rows), _whole(n, width)) for m, n in sizes)
    yield [replace(now, tile=t) for t in blocks if t != (rows, width, kc, mc, nc)]


def _whole(n: int, width: int) -> int:
    """The nearest number of points in whole panels, at least one."""
    return max(1, round(n / width)) * width
