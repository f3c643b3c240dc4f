"""Tiles of contractions on GPUs: which ones fit a multiprocessor, and roughly how long they would take."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.dtypes import DType, float32, int8
from ..ir.kernel import Axis, Contraction, Kernel, Schedule, matrix_strides, offset, roots
from ..ir.scalar import Expr, free_symbols, walk
from ..ir.target import Gpu, Target
from .access import expr_cost

SIDES = (16, 32, 64, 128, 256)
UNKNOWN = 1024  # what is assumed of symbolic sizes
LEAST = 16  # points of a block along any dimension that tensor cores take
GROUP = 8  # rows of tiles that programs share columns in
REGISTERS, THREADS = 65536, 2048  # of a multiprocessor
LATENCY, CACHED = 1.2e-6, 0.8e-6  # seconds from asking for memory, or what a cache has, to having it, under load
PORT = 100e9  # bytes a second that a multiprocessor moves
STEP = 25e-9  # seconds of a step through the contracted points, whatever its size
COPIED = 16  # bytes: what strides of a matrix have to be multiples of for the hardware to copy its blocks
VECTOR = 8  # bytes: what a load has to have for a thread to need few of them
COMPUTED = 64  # elements of a block that a thread has registers for where operands are computed
HEAVY = 10  # instructions of an epilogue that needs registers of its own


@dataclass(frozen=True, slots=True)
class Unit:
    """How one kind of product is computed. bytes: of an operand. flops: at best, in a second. depths: contracted points of a
    block. What a thread has registers for, in elements: `most` accumulators, `heavy` of a problem that is;
    `loads` of operands, `scattered` of them if each is loaded by itself. staged: bytes in memory of what an element of lhs
    and of rhs is made of, which is more where they are computed of others: () for `bytes` each."""

    bytes: int
    flops: float
    most: int
    heavy: int
    depths: tuple[int, ...]
    loads: int = 256
    scattered: int = 40
    staged: tuple[int, ...] = ()

    @property
    def sides(self) -> tuple[int, int]:
        """Bytes of an element of lhs, and of rhs, on their way."""
        lhs, rhs = self.staged or (self.bytes, self.bytes)
        return max(lhs, self.bytes), max(rhs, self.bytes)


def unit(c: Contraction, gpu: Gpu, precision: str) -> Unit:
    lhs, rhs = c.unwidened
    found = _unit(c, gpu, precision)
    if lhs.op == rhs.op == "load":
        return found
    staged = _staged(lhs, c.m, c.k), _staged(rhs, c.n, c.k)
    return replace(found, staged=staged, loads=min(found.loads, COMPUTED))  # computed operands pass through registers


def _staged(e: Expr, side: tuple[Axis, ...], contracted: tuple[Axis, ...]) -> int:
    """Bytes in memory of all that differs from element to element of an operand."""
    axes = [{a.sym for a in x if a.extent != 1} for x in (side, contracted)]
    loads = {x for x in walk(e) if x.op == "load" and all(a & free_symbols(x) for a in axes if a)}
    return sum(x.dtype.itemsize for x in loads)


def _unit(c: Contraction, gpu: Gpu, precision: str) -> Unit:
    operand = c.unwidened[0].dtype
    if operand is int8:
        return Unit(1, 2 * gpu.half_flops, 64, 64, (32, 64, 128))
    if operand.kind != "f":
        return Unit(operand.itemsize, gpu.float_flops / 4, 4, 4, (16,))  # the block has three dimensions
    if operand.bits == 16:
        return Unit(2, gpu.half_flops, 128, 64, (16, 32, 64, 128))
    if operand.bits == 64:
        return Unit(8, gpu.double_flops, 32, 16, (16,))
    if precision == "ieee":
        return Unit(4, gpu.float_flops, 64, 32, (16, 32))
    if precision == "tf32":
        return Unit(4, gpu.half_flops / 2, 64, 32, (16, 32, 64))
    return Unit(4, gpu.half_flops / 6, 64, 32, (16, 32, 64), 36, 24)  # each operand in two parts


@dataclass(frozen=True, slots=True)
class Problem:
    """A contraction in numbers. in_bytes, out_bytes: memory read and written, each element once. heavy: whether more needs
    registers than the products. scattered: whether some operand is not loaded in vectors. runs: contracted points that
    can be numbered through, if there are several axes: blocks should divide one of them."""

    batch: int
    m: int
    n: int
    k: int
    in_bytes: int
    out_bytes: int
    heavy: bool
    scattered: bool
    runs: tuple[int, ...]

    @staticmethod
    def of(kernel: Kernel) -> "Problem":
        c = kernel.contraction
        batch, m, n, k = (_known(_points(axes)) for axes in (c.batch, c.m, c.n, c.k))
        inputs = sum(_known(dim.numel(b.shape)) * b.dtype.itemsize for b in kernel.params if b.role != "out")
        outputs = sum(_known(dim.numel(b.shape)) * b.dtype.itemsize for b in kernel.params if b.role == "out")
        runs = tuple(_known(_points(c.k[first:])) for first in range(len(c.k))) if c.k[1:] else ()
        return Problem(batch, m, n, k, inputs, outputs, _is_heavy(kernel, c), _is_scattered(kernel, c), runs)


def tiles(kernel: Kernel, target: Target, precision: str) -> list[Schedule]:
    """Every schedule that fits, the one that should be fastest first."""
    assert target.gpu is not None
    gpu, problem = target.gpu, Problem.of(kernel)
    how = unit(kernel.contraction, gpu, precision)
    if kernel.contraction.unwidened[0].dtype is not float32:
        precision = "ieee"
    fitting = [s for s in _all(problem, how, precision) if shared_bytes(s, how) <= gpu.block_shared]

    def rank(s: Schedule) -> tuple[int, ...]:
        """By time; what is within four percent by how far loads run ahead, and how little a block is read again."""
        m, n, k = s.blocks
        ahead = min(s.stages - 1, 3, -(-problem.k // k)) * k
        return round(25 * math.log(seconds(problem, s, how, gpu))), -ahead, -m * n, s.stages

    return sorted(fitting, key=rank)


def persistent(kernel: Kernel, target: Target, chosen: list[Schedule]) -> list[Schedule]:
    """The same schedules, if need be with fewer stages, for programs that take tile after tile, where the hardware can copy
    both operands and there are tiles for several rounds."""
    c = kernel.contraction
    assert target.gpu is not None
    lhs, rhs = c.unwidened
    matrices = (matrix_strides(kernel, lhs, c.m, c.k), matrix_strides(kernel, rhs, c.k, c.n))
    if not target.gpu.copies or not all(s is not None and _copied(s, lhs.dtype) for s in matrices):
        return []
    p, found = Problem.of(kernel), []
    for s in chosen:
        how = unit(c, target.gpu, s.precision)
        fewer = (replace(s, persistent=True, stages=n) for n in range(s.stages, 1, -1))
        staying = next((t for t in fewer if shared_bytes(t, how) <= target.gpu.block_shared), None)
        if staying and -(-p.m // s.blocks[0]) * -(-p.n // s.blocks[1]) > target.gpu.multiprocessors:
            found.append(staying)
    return list(dict.fromkeys(found))


def _copied(strides: tuple[int, int], dtype: DType) -> bool:
    return 1 in strides and max(strides) * dtype.itemsize % COPIED == 0


def _all(p: Problem, how: Unit, precision: str):
    most = how.heavy if p.heavy else how.most
    sides = [[b for b in SIDES if b == LEAST or b < 2 * x] for x in (p.m, p.n)]
    depths = [d for d in how.depths if d == how.depths[0] or d < 2 * p.k]
    for m, n, k, warps in itertools.product(*sides, depths, (2, 4, 8)):
        each, loaded = m * n // (32 * warps), (m + n) * k // (32 * warps)
        if each > most or loaded > (how.scattered if p.scattered else how.loads):
            continue
        if each < min(8, most) and warps > 2:
            continue
        blocks = -(-p.k // k)
        for stages in range(2, 6):
            if stages <= max(2, blocks):
                group = min(GROUP, -(-p.m // m))
                yield Schedule(blocks=(m, n, k), warps=warps, stages=stages, group=group, precision=precision)


def shared_bytes(s: Schedule, how: Unit) -> int:
    """Shared memory of a program, at most: operand blocks of all stages, later the result on its way to memory; both at once
    in programs that stay."""
    m, n, k = s.blocks
    parts = how.bytes == 4 and s.precision != "ieee"  # float32 that was taken apart may be there, too
    lhs, rhs = how.sides
    operands = s.stages * (m * lhs + n * rhs) * k + parts * (m + n) * k * how.bytes
    return operands + m * n * 2 + 1024 if s.persistent else max(operands, m * n * 4)


def residents(s: Schedule, how: Unit, gpu: Gpu) -> int:
    """Programs that share a multiprocessor."""
    m, n, _ = s.blocks
    threads = 32 * s.warps
    registers = min(255, 56 + m * n // threads * max(4, how.bytes) // 4 * 5 // 4)
    return max(1, min(gpu.shared // shared_bytes(s, how), REGISTERS // (registers * threads), THREADS // threads))


def seconds(p: Problem, s: Schedule, how: Unit, gpu: Gpu) -> float:
    """About how long a contraction takes: the longest of computing, of reading by all and of what the busiest multiprocessor
    moves, and the time to fill and drain each wave."""
    m, n, k = s.blocks
    rows, columns, depth = -(-p.m // m), -(-p.n // n), -(-p.k // k) * k
    count = rows * columns * p.batch
    busiest = -(-count // gpu.multiprocessors)  # tiles of the multiprocessor with most of them
    resident = residents(s, how, gpu)
    at_once = min(resident, busiest)
    reuse = m * n / (m + n)
    efficiency = reuse / (reuse + 16) * min(1.0, at_once * s.warps / 8) ** 0.5
    if p.runs and all(run % k for run in p.runs):
        efficiency *= 0.75  # the contracted axes are taken apart point by point
    computing = 2 * m * n * depth * gpu.multiprocessors / (how.flops * efficiency)
    waiting = CACHED / (s.stages - 1) / at_once  # if nothing but loads took time
    steps = depth // k
    computing = busiest * max(computing + steps * STEP / at_once, steps * waiting)
    lhs, rhs = how.sides
    block = (m * lhs + n * rhs) * k
    flying = min(count, gpu.multiprocessors) * at_once * (s.stages - 1) * block
    bandwidth = gpu.bandwidth * min(1.0, flying / (gpu.bandwidth * LATENCY))
    cached = count * (m + n) * depth * how.bytes / 3  # the second-level cache is about three times as fast as memory
    reading = max(cached, p.in_bytes) / bandwidth + p.out_bytes / gpu.bandwidth
    moving = busiest * (depth // k * block + m * n * p.out_bytes / (p.batch * p.m * p.n)) / PORT
    return max(computing, reading, moving) + -(-busiest // resident) * 1.5 * LATENCY


def _points(axes: tuple[Axis, ...]) -> DimLike:
    return dim.numel(tuple(a.extent for a in axes))


def _known(n: DimLike) -> int:
    """The number, or what is assumed of it."""
    if isinstance(n, int):
        return max(1, n)
    low, high = dim.bounds(n)
    return min(max(low or 1, UNKNOWN), UNKNOWN if high is None else max(1, high))


def _is_heavy(kernel: Kernel, c: Contraction) -> bool:
    """Whether the epilogue computes much, or reads an element of memory for each of the result's; or operands have masks of
    their own."""
    whole = {a.sym for a in (*c.m, *c.n) if a.extent != 1}
    values = [e for s in kernel.stages for e in roots(s)]
    reads = any(e.op == "load" and whole <= free_symbols(e) for e in walk(*values))
    masked = any(e.op == "load" and e.attr.mask for e in walk(c.lhs, c.rhs))
    return reads or masked or expr_cost(*values) > HEAVY


def _is_scattered(kernel: Kernel, c: Contraction) -> bool:
    """Whether an operand has loads that run along neither its last axis nor the last contracted one, in aligned runs."""
    for e, axes in ((c.lhs, (c.k[-1], c.m[-1])), (c.rhs, (c.k[-1], c.n[-1]))):
        for x in walk(e):
            if x.op == "load" and not any(_runs_along(kernel, x, a) for a in axes):
                return True
    return False


def _runs_along(kernel: Kernel, e: Expr, a: Axis) -> bool:
    at = offset(kernel.buffer(e.attr.buffer), e.attr.index)
    if isinstance(at, int) or not at.is_linear_in(a.sym) or any(a.sym in dim.symbols(d) for d in e.attr.mask):
        return False
    rest = at - a.sym
    steps = (rest,) if isinstance(rest, int) else (c for _, c in rest.terms)
    return at.coefficient(a.sym) == 1 and all(c * e.dtype.itemsize % VECTOR == 0 for c in steps)
