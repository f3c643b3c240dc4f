"""The blocked product of packed operands: what BLIS does, cut for two levels of cache and any number of threads.

Phase one packs the smaller operand whole, into the shared workspace. A task of phase two owns a block of the other
operand and a group of the first one's panels: for every K block it packs its block into its thread's scratch, where it
stays in L2, and takes each panel of the group, which then is in L1, past all panels of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import dim
from ...ir.dim import DimLike
from ...ir.kernel import Kernel
from ...ir.scalar import free_symbols
from ...ir.target import Target
from .builder import Module, Val, i64
from .gemm_frame import EmitterFactory, Frame
from .gemm_micro import Output, Tile, finish, load_tile, panel_product, zeros
from .gemm_pack import Panels, pack
from .gemm_sides import Operand, Side
from .lowered import LoweredKernel, Phase

PANELS_PER_PACKING_TASK = 8
TASKS = 16  # tasks wanted before blocks get smaller
TASK_WORK = 4 << 20  # multiply-adds below which a task is not split further
WORTHWHILE = 1 << 20  # multiply-adds that pay for waking a thread


@dataclass(frozen=True, slots=True)
class Blocking:
    """kc: k per pass. group: panels of the resident operand per task; block: panels of the other operand."""

    kc: int
    group: int
    block: int
    resident_lhs: bool


def lower_packed(
    kernel: Kernel, batch: Side, lhs: Operand, rhs: Operand, out: Output, tile: Tile, blocking: Blocking, target: Target, emit: EmitterFactory
) -> LoweredKernel:  # fmt: skip
    return _Packed(kernel, batch, lhs, rhs, out, tile, blocking, target, emit).lower()


class _Packed:
    def __init__(
        self,
        kernel: Kernel,
        batch: Side,
        lhs: Operand,
        rhs: Operand,
        out: Output,
        tile: Tile,
        blocking: Blocking,
        target: Target,
        emit: EmitterFactory,
    ):
        self.kernel, self.batch, self.out, self.tile, self.blocking = kernel, batch, out, tile, blocking
        self.target, self.emit = target, emit
        lanes, dtype, depth = tile.lanes, tile.dtype, lhs.k.extent
        self.depth: DimLike = depth
        self.deep = not isinstance(depth, int) or depth > blocking.kc
        self.resident, self.blocked = (lhs, rhs) if blocking.resident_lhs else (rhs, lhs)
        widths = (tile.rows, tile.width) if blocking.resident_lhs else (tile.width, tile.rows)
        self.resident_panels = Panels(widths[0], lanes, depth, dtype)
        self.block_panels = Panels(widths[1], lanes, blocking.kc if self.deep else depth, dtype)
        symbols = free_symbols(self.resident.expr)
        self.shared = not any(a.sym in symbols for a in batch.axes)  # one packed copy serves every batch
        self.copies: DimLike = 1 if self.shared else batch.extent
        self.count = self.resident_panels.count(self.resident.panel.extent)
        self.groups = dim.ceildiv(self.count, blocking.group)
        self.per_task = self._panels_per_task(widths[1])
        self.blocks = dim.ceildiv(self.blocked.panel.extent, self.per_task * widths[1])

    def _panels_per_task(self, width: int) -> DimLike:
        """Panels of the blocked operand per task: where its extent is symbolic, fewer if it turns out to be short."""
        extent, most = self.blocked.panel.extent, self.blocking.block
        if isinstance(extent, int) or most == 1:
            return most
        resident = self.blocking.group * self.resident_panels.width
        if isinstance(self.count, int):
            resident = min(resident, self.count * self.resident_panels.width)
        depth = min(dim.bounds(self.depth)[1] or self.blocking.kc, self.blocking.kc)
        least = min(most, max(1, -(-TASK_WORK // (2 * resident * depth * width))))
        shares = TASKS if not isinstance(self.groups, int) else max(1, TASKS // self.groups)
        return dim.minimum(most, dim.maximum(least, dim.ceildiv(dim.ceildiv(extent, width), shares)))

    def lower(self) -> LoweredKernel:
        module = Module(self.target.triple)
        size = self.tile.dtype.itemsize
        block_stride = self.block_panels.stride
        assert isinstance(block_stride, int)
        self.block_bytes = _round(self.blocking.block * block_stride * size)
        tile_bytes = self.tile.rows * self.tile.width * size
        tiles = self.blocking.group * self.blocking.block if self.deep else 1
        scratch = self.block_bytes + _round(tiles * tile_bytes)
        steps = dim.ceildiv(self.count, PANELS_PER_PACKING_TASK)
        names = f"{self.kernel.name}_pack", self.kernel.name
        self._pack_resident(Frame(module, names[0], self.kernel, self.target, self.emit, scratch), steps)
        self._multiply(Frame(module, names[1], self.kernel, self.target, self.emit, scratch))
        return LoweredKernel(
            str(module),
            (
                Phase(
                    names[0],
                    self.copies * steps,
                    self._grain(PANELS_PER_PACKING_TASK * self.resident_panels.width * 16),
                ),
                Phase(
                    names[1],
                    self.batch.extent * self.groups * self.blocks,
                    self._grain(self.blocking.group * self.blocking.block * tile_bytes // size),
                ),
            ),
            workspace=self.copies * self.count * self.resident_panels.stride * size,
            thread_scratch=scratch,
        )

    def _grain(self, work_per_k: int) -> int:
        depth = dim.bounds(self.depth)[1] or self.blocking.kc
        return max(1, WORTHWHILE // max(1, work_per_k * depth))

    def _prepare(self, frame: Frame) -> None:
        frame.prepare(
            self.batch, self.resident.panel, self.resident.k, self.blocked.panel, self.blocked.k, self.out.m, self.out.n
        )
        for d in (
            self.resident_panels.stride,
            self.block_panels.stride,
            self.count,
            self.groups,
            self.blocks,
            self.per_task,
            self.depth,
        ):
            frame.size(d)

    def _pack_resident(self, frame: Frame, steps: DimLike) -> None:
        f, op, panels = frame.f, self.resident, self.resident_panels
        self._prepare(frame)
        frame.size(steps)
        with frame.loop(frame.begin, frame.end) as loop:
            copy, step = frame.divide(loop.index, steps)
            if not self.shared:
                frame.bind(self.batch, copy)
            panel = frame.times(step, PANELS_PER_PACKING_TASK)
            at = f.mul(f.add(f.mul(copy, frame.size(self.count)), panel), frame.size(panels.stride))
            start = frame.times(panel, panels.width)
            count = frame.min(i64(PANELS_PER_PACKING_TASK * panels.width), f.sub(frame.size(op.panel.extent), start))
            pack(
                frame,
                op,
                panels,
                frame.cell(frame.workspace, at, panels.dtype),
                i64(0),
                frame.size(self.depth),
                start,
                count,
            )
        f.ret()

    def _multiply(self, frame: Frame) -> None:
        f, b = frame.f, self.blocking
        self._prepare(frame)
        one = i64(1)
        passes = dim.ceildiv(self.depth, b.kc) if self.deep else 1
        count = frame.size(passes)
        if not isinstance(passes, int):
            count = frame.max(count, one)  # nothing to add up still means storing zeros
        with frame.loop(frame.begin, frame.end) as loop:
            rest, group = frame.divide(loop.index, self.groups)
            batch, block = frame.divide(rest, self.blocks)
            frame.bind(self.batch, batch)
            long = f.mul(frame.size(self.per_task), i64(self.block_panels.width))
            start = f.mul(block, long)
            points = frame.min(long, f.sub(frame.size(self.blocked.panel.extent), start))
            first_panel = frame.times(group, b.group)
            last_panel = frame.min(f.add(first_panel, i64(b.group)), frame.size(self.count))
            copy = i64(0) if self.shared else f.mul(batch, frame.size(self.count))
            if not self.deep:
                self._pass(frame, i64(0), frame.size(self.depth), None, start, points, copy, (first_panel, last_panel))
            else:
                with frame.loop(i64(0), count, once=True) as k_loop:
                    k0 = frame.times(k_loop.index, b.kc)
                    depth = frame.min(i64(b.kc), f.sub(frame.size(self.depth), k0))
                    ends = f.cmp("eq", k_loop.index, i64(0)), f.cmp("eq", f.add(k_loop.index, one), count)
                    self._pass(frame, k0, depth, ends, start, points, copy, (first_panel, last_panel))
        f.ret()

    def _pass(
        self, frame: Frame, k0: Val, depth: Val, ends: tuple[Val, Val] | None, start: Val, points: Val, copy: Val, group: tuple[Val, Val]
    ) -> None:  # fmt: skip
        """Packs the block for k in [k0, k0 + depth) and multiplies. `ends`: whether this is the first, the last pass."""
        f, tile, dtype = frame.f, self.tile, self.tile.dtype
        pack(frame, self.blocked, self.block_panels, frame.scratch, k0, depth, start, points)
        block_stride, stride = frame.size(self.block_panels.stride), frame.size(self.resident_panels.stride)
        tiles = f.gep("i8", frame.scratch, i64(self.block_bytes))
        panels = f.binary("udiv", f.add(points, i64(self.block_panels.width - 1)), i64(self.block_panels.width))
        with frame.loop(*group) as outer:
            at = f.add(f.mul(f.add(copy, outer.index), stride), frame.times(k0, self.resident_panels.width))
            x = frame.cell(frame.workspace, at, dtype)
            x_start = frame.times(outer.index, self.resident_panels.width)
            x_points = frame.min(
                i64(self.resident_panels.width), f.sub(frame.size(self.resident.panel.extent), x_start)
            )
            with frame.loop(i64(0), panels) as inner:
                y = frame.cell(frame.scratch, f.mul(inner.index, block_stride), dtype)
                y_local = frame.times(inner.index, self.block_panels.width)
                y_points = frame.min(i64(self.block_panels.width), f.sub(points, y_local))
                here = tiles
                if ends is not None:
                    number = f.add(frame.times(f.sub(outer.index, group[0]), self.blocking.block), inner.index)
                    here = frame.cell(tiles, frame.times(number, tile.rows * tile.width), dtype)
                acc = zeros(frame, tile) if ends is None else load_tile(frame, tile, here, ends[0])
                x_side, y_side = (x, x_start, x_points), (y, f.add(start, y_local), y_points)
                (a, row, rows), (b, column, columns) = (
                    (x_side, y_side) if self.blocking.resident_lhs else (y_side, x_side)
                )
                acc = panel_product(frame, tile, a, b, depth, acc)
                finish(frame, tile, self.out, acc, here, ends and ends[1], row, rows, column, columns)


def _round(n: int) -> int:
    return -(-n // 64) * 64
