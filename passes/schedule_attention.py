"""How attention and its gradients run on a GPU: blocks, warps and stages, by what is computed, the elements of a head, and
the machine. The sizes are those whose code keeps everything in registers."""

from __future__ import annotations

from ..ir.dim import DimLike
from ..ir.dtypes import bfloat16, float16
from ..ir.kernel import Attention, Kernel, Schedule
from ..ir.scalar import walk
from ..ir.target import Target

Sizes = dict[int, tuple[int, int, int, int]]  # by elements of a head: (rows, columns, warps, stages)
# Products of narrow floats, with the shared memory and the asynchronous products of data centers since Hopper ...
LARGE: dict[str, Sizes] = {
    "rows": {64: (128, 64, 8, 3), 128: (128, 64, 8, 3), 256: (64, 64, 8, 2)},
    "queries": {64: (128, 64, 8, 2), 128: (128, 64, 8, 2), 256: (64, 32, 8, 2)},
    "keys": {64: (64, 128, 8, 2), 128: (64, 128, 8, 2), 256: (32, 32, 8, 1)},
}
# ... with 99 KB of shared memory, or with registers that random numbers need.
SMALL: dict[str, Sizes] = {
    "rows": {64: (128, 64, 8, 3), 128: (128, 64, 8, 3), 256: (64, 32, 8, 2)},
    "queries": {64: (128, 64, 8, 2), 128: (64, 64, 4, 2), 256: (32, 32, 4, 1)},
    "keys": {64: (32, 128, 8, 2), 128: (32, 64, 8, 2), 256: (32, 32, 8, 1)},
}
# IEEE products of float32, which every thread computes for itself.
SINGLE: dict[str, Sizes] = {
    "rows": {64: (32, 32, 4, 2), 128: (32, 16, 8, 2), 256: (16, 32, 8, 1)},
    "queries": {64: (32, 32, 8, 1), 128: (32, 16, 8, 1), 256: (16, 16, 8, 1)},
    "keys": {64: (16, 32, 4, 1), 128: (16, 32, 8, 1), 256: (16, 16, 8, 1)},
}
# Products of float32 in parts, which tensor cores multiply.
PARTS: dict[str, Sizes] = {
    "rows": {64: (64, 32, 4, 2), 128: (32, 32, 4, 2)},
    "queries": {64: (32, 32, 4, 1), 128: (16, 32, 4, 1)},
    "keys": {64: (32, 32, 4, 1), 128: (32, 32, 8, 1)},
}
LARGE_CAPABILITIES = range(90, 104)  # 9.0 and 10.x; 12.x has little shared memory
SMALLEST = 16  # points along a side of a product


def schedule_attention(kernel: Kernel, target: Target, precision: str = "ieee") -> Schedule:
    """`blocks`: rows, columns, and the elements of a query and of a value, which are not divided. `precision`: of products
    of float32; heads that take too many registers in parts have IEEE products."""
    a = kernel.anchor
    assert isinstance(a, Attention)
    d, e = (_block(axis.extent, 256) for axis in (a.d, a.e))
    if max(d, e) > max(PARTS[a.part]) or _is_narrow(a):
        precision = "ieee"
    table = _table(a, target, precision)[a.part]
    m, n, warps, stages = table[next(size for size in table if size >= max(d, e))]
    blocks = _block(a.m.extent, m), _block(a.n.extent, n)
    small = blocks[0] * blocks[1] < m * n
    if any(x.op == "load" for x in walk(a.score)):
        stages = min(stages, 2)  # blocks of the mask are loaded ahead too
    return Schedule(blocks=(*blocks, d, e), warps=min(warps, 4) if small else warps, stages=stages, precision=precision)


def _is_narrow(a: Attention) -> bool:
    return a.q.op == "cast" and a.q.args[0].dtype in (float16, bfloat16)


def _table(a: Attention, target: Target, precision: str) -> dict[str, Sizes]:
    if not _is_narrow(a):
        return SINGLE if precision == "ieee" else PARTS
    capability = target.cpu.removeprefix("sm_")
    large = capability.isdecimal() and int(capability) in LARGE_CAPABILITIES
    return LARGE if large and a.factor is None else SMALL


def _block(n: DimLike, most: int) -> int:
    """The smallest power of two that holds n points and that a product can have, at most `most`."""
    return max(SMALLEST, min(most, 1 << max(0, n - 1).bit_length())) if isinstance(n, int) else most
