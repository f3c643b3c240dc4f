"""Packing: an operand's elements, evaluated and laid out as panels that the microkernel reads from front to back.

A panel holds `width` neighbouring points of the operand's m or n side: for every k, `width` elements. Panels are
`stride` elements apart, which leaves room behind each for the tail of a whole vector and for k rounded up to whole
vectors: packing writes whole vectors, in an order in which what is garbage is overwritten or lies in that room.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType
from ...ir.scalar import cast
from .builder import Function, Val, i64, lanes_of, scalar_type, vec
from .gemm_frame import Frame
from .gemm_sides import Operand, Side, bounds_symbols, map_dims, substitution


@dataclass(frozen=True, slots=True)
class Panels:
    """The layout of a packed operand. `depth` is the greatest k extent."""

    width: int
    lanes: int
    depth: DimLike
    dtype: DType

    @property
    def stride(self) -> DimLike:
        """Elements from panel to panel, a multiple of `lanes`."""
        rows = dim.ceildiv(self.depth, self.lanes) * self.lanes
        return dim.ceildiv(rows * self.width, self.lanes) * self.lanes + self.lanes

    def count(self, extent: DimLike) -> DimLike:
        return dim.ceildiv(extent, self.width)


def pack(frame: Frame, op: Operand, panels: Panels, to: Val, k0: Val, depth: Val, start: Val, count: Val) -> None:
    """Packs points [start, start + count) of the panel side for k in [k0, k0 + depth), from the panel at `to` on.

    `start` is a multiple of the width, `k0` one of the lanes.
    """
    if panels.dtype is not op.expr.dtype:
        op = Operand(cast(op.expr, panels.dtype), op.panel, op.k)
    if op.along_k(panels.lanes) and not (op.along_panel and _long(op.panel, panels.lanes)):
        _pack_transposed(frame, op, panels, to, k0, depth, start, count)
    elif _is_window(op, panels):
        _pack_windows(frame, op, panels, to, k0, depth, start, count)
    elif len(op.panel.axes) == 1 or panels.width % panels.lanes == 0 and op.panel.whole_vectors(panels.lanes):
        _pack_vectors(frame, op, panels, to, k0, depth, start, count)
    else:
        _pack_rows(frame, op, panels, to, k0, depth, start, count)


def _pack_vectors(
    frame: Frame, op: Operand, panels: Panels, to: Val, k0: Val, depth: Val, start: Val, count: Val
) -> None:
    """Vectors along the panel side; for every k one sweep over the panels, as the operand lies in memory."""
    f, lanes, width = frame.f, panels.lanes, panels.width
    vectors = -(-width // lanes)
    stride, align = frame.size(panels.stride), panels.dtype.itemsize
    # panels all of whose vectors are inside, the last vector's lanes beyond the panel included
    fitting = f.add(count, i64(width - vectors * lanes))
    whole = f.binary("sdiv", frame.max(fitting, i64(0)), i64(width))
    every = f.binary("udiv", f.add(count, i64(width - 1)), i64(width))

    def sweep(k: Val, first: Val, last: Val, masked: bool) -> None:
        with frame.loop(first, last) as loop:
            point = frame.times(loop.index, width)
            row = f.add(f.mul(loop.index, stride), frame.times(k, width))
            for v in range(vectors):
                mask = frame.below(f.sub(f.sub(count, point), i64(v * lanes)), lanes) if masked else None
                frame.vector(op.panel, f.add(f.add(start, point), i64(v * lanes)), lanes)
                value = frame.em.value(op.expr, lanes, mask)
                f.store(value, frame.cell(to, f.add(row, i64(v * lanes)), panels.dtype), align)

    with frame.loop(i64(0), depth) as loop:
        frame.bind(op.k, f.add(k0, loop.index))
        sweep(loop.index, i64(0), whole, masked=False)
        if not _always_whole(op.panel.extent, width, lanes):
            sweep(loop.index, whole, every, masked=True)
    frame.em.scalar()


def _long(side: Side, lanes: int) -> bool:
    """Whether runs along the innermost axis fill vectors."""
    return not isinstance(side.inner.extent, int) or side.inner.extent >= lanes


def _is_window(op: Operand, panels: Panels) -> bool:
    """Whether bounds are tested that stay the same along the innermost k axis: the window of a convolution."""
    bounded = bounds_symbols(op.expr)
    return (
        len(op.k.axes) >= 2
        and bool(bounded)
        and op.k.inner.sym not in bounded
        and panels.width % panels.lanes == 0
        and op.panel.whole_vectors(panels.lanes)
    )


def _pack_windows(
    frame: Frame, op: Operand, panels: Panels, to: Val, k0: Val, depth: Val, start: Val, count: Val
) -> None:
    """Vectors along the panel side; each goes through all of k in turn, so that a run of the innermost k axis shares one
    evaluation of the bounds."""
    f, lanes, width = frame.f, panels.lanes, panels.width
    stride, align = frame.size(panels.stride), panels.dtype.itemsize
    inner = frame.size(op.k.inner.extent)
    stop = f.add(k0, depth)
    first = f.binary("udiv", k0, inner)
    last = f.binary("udiv", f.add(stop, f.sub(inner, i64(1))), inner)
    every = f.binary("udiv", f.add(count, i64(width - 1)), i64(width))
    with frame.loop(i64(0), every) as panel_loop:
        point = frame.times(panel_loop.index, width)
        corner = f.mul(panel_loop.index, stride)
        for v in range(width // lanes):
            mask = None
            if not _always_whole(op.panel.extent, width, lanes):
                mask = frame.below(f.sub(f.sub(count, point), i64(v * lanes)), lanes)
            frame.vector(op.panel, f.add(f.add(start, point), i64(v * lanes)), lanes)
            with frame.loop(first, last) as run:
                frame.bind(Side(op.k.axes[:-1]), run.index)
                origin = f.mul(run.index, inner)
                low, high = frame.max(f.sub(k0, origin), i64(0)), frame.min(f.sub(stop, origin), inner)
                row = f.add(corner, f.add(frame.times(f.sub(origin, k0), width), i64(v * lanes)))
                with frame.loop(low, high, sym=op.k.inner.sym) as loop:
                    value = frame.em.value(op.expr, lanes, mask)
                    f.store(value, frame.cell(to, f.add(row, frame.times(loop.index, width)), panels.dtype), align)
    frame.em.scalar()


def _always_whole(extent: DimLike, width: int, lanes: int) -> bool:
    return isinstance(extent, int) and extent % width == 0 and width % lanes == 0


def _pack_rows(frame: Frame, op: Operand, panels: Panels, to: Val, k0: Val, depth: Val, start: Val, count: Val) -> None:
    """For sides of several axes whose rows do not end with vectors: masked vectors along every row, split at panel ends."""
    f, em, lanes, width = frame.f, frame.em, panels.lanes, panels.width
    stride = frame.size(panels.stride)
    row_size = frame.size(op.panel.axes[-1].extent)
    outer = Side(op.panel.axes[:-1])
    stop = f.add(start, count)
    with frame.loop(i64(0), depth) as k_loop:
        k = k_loop.index
        frame.bind(op.k, f.add(k0, k))
        first_row = f.binary("udiv", start, row_size)
        last_row = f.binary("udiv", f.add(stop, f.sub(row_size, i64(1))), row_size)
        with frame.loop(first_row, last_row) as row_loop:
            frame.bind(outer, row_loop.index)
            row_start = f.mul(row_loop.index, row_size)
            low = frame.max(f.sub(start, row_start), i64(0))
            high = frame.min(f.sub(stop, row_start), row_size)
            with frame.loop(low, high, lanes) as loop:
                em.vector(op.panel.axes[-1].sym, loop.index, lanes)
                left = f.sub(high, loop.index)
                value = em.value(op.expr, lanes, frame.below(left, lanes))
                point = f.sub(f.add(row_start, loop.index), start)
                panel, offset = frame.divide(point, width)
                at = f.add(f.add(f.mul(panel, stride), frame.times(k, width)), offset)
                room = f.sub(i64(width), offset)
                live = frame.below(frame.min(left, room), lanes)
                frame.masked_store(value, frame.cell(to, at, panels.dtype), live, panels.dtype.itemsize)
                with frame.when(f.cmp("slt", room, frame.min(left, i64(lanes)))):
                    _spill_over(frame, value, panels, to, at, room, left, stride)
    em.scalar()


def _spill_over(frame: Frame, value: Val, panels: Panels, to: Val, at: Val, room: Val, left: Val, stride: Val) -> None:
    """The lanes from `room` on belong to the next panel, and to the ones after it where panels are narrow."""
    f, lanes, width = frame.f, panels.lanes, panels.width
    inside = frame.below(left, lanes)
    for step in range(1, -(-(lanes - 1) // width) + 1):
        at = f.add(at, f.sub(stride, i64(width)))
        begin = f.add(room, i64((step - 1) * width))
        before, upto = frame.below(begin, lanes), frame.below(f.add(begin, i64(width)), lanes)
        mask = f.binary("and", inside, f.binary("xor", upto, before))
        frame.masked_store(value, frame.cell(to, at, panels.dtype), mask, panels.dtype.itemsize)


def _pack_transposed(
    frame: Frame, op: Operand, panels: Panels, to: Val, k0: Val, depth: Val, start: Val, count: Val
) -> None:
    """Vectors along k, one per point, transposed: zips within 128-bit parts, then whole parts by way of the stack.

    All in registers takes a third fewer instructions, but LLVM spends most of a kernel's compile time on those shuffles.
    """
    f, em, lanes, width = frame.f, frame.em, panels.lanes, panels.width
    stride, align = frame.size(panels.stride), panels.dtype.itemsize
    groups = -(-width // lanes)
    corner = f.alloca(vec(scalar_type(panels.dtype), lanes), lanes)
    rows = min(width, lanes)
    part = min(lanes, max(1, 16 // panels.dtype.itemsize))
    last = f.sub(count, i64(1))
    exprs, syms = [], []
    for r in range(rows):
        own = {a.sym: _row_symbol(a.sym, r) for a in op.panel.axes}
        exprs.append(map_dims(op.expr, substitution(own)))
        syms.append(Side(tuple(type(a)(own[a.sym], a.extent) for a in op.panel.axes)))
    every = f.binary("udiv", f.add(count, i64(width - 1)), i64(width))
    whole = f.mul(f.binary("udiv", depth, i64(lanes)), i64(lanes))

    def block(base: Val, k: Val, mask: Val | None) -> None:
        frame.vector(op.k, f.add(k0, k), lanes)
        loaded = [em.value(e, lanes, mask) for e in exprs]
        loaded += [frame.zero(panels.dtype, lanes)] * (lanes - rows)
        zipped = [v for g in range(0, lanes, part) for v in _zips(f, loaded[g : g + part])]
        for j, v in enumerate(zipped):
            f.store(v, f.gep(v.type, corner, i64(j)), lanes * align)
        # part q of zipped[g + j] is column q + j of rows [g, g + part)
        with frame.loop(i64(0), i64(lanes), part) as q_loop:
            for j in range(part):
                at = [
                    frame.cell(corner, f.add(q_loop.index, i64((g + j) * lanes)), panels.dtype)
                    for g in range(0, lanes, part)
                ]
                pieces = [f.load(vec(scalar_type(panels.dtype), part), p, min(16, part * align)) for p in at]
                point = f.add(base, f.mul(f.add(k, f.add(q_loop.index, i64(j))), i64(width)))
                f.store(_joined(f, pieces), frame.cell(to, point, panels.dtype), align)

    with frame.loop(i64(0), frame.times(every, groups)) as loop:
        panel, before = frame.divide(loop.index, groups)
        group = f.sub(
            i64(groups - 1), before
        )  # from the last one: what it writes behind a row is the start of the next
        first = f.add(frame.times(panel, width), frame.times(group, lanes))
        base = f.add(f.mul(panel, stride), frame.times(group, lanes))
        for r in range(rows):
            frame.bind(syms[r], f.add(start, frame.min(f.add(first, i64(r)), last)))
        with frame.loop(i64(0), whole, lanes) as k_loop:
            block(base, k_loop.index, None)
        if not (isinstance(op.k.extent, int) and op.k.extent % lanes == 0):
            with frame.when(f.cmp("slt", whole, depth)):
                block(base, whole, frame.below(f.sub(depth, whole), lanes))
    em.scalar()


def _row_symbol(sym: Dim, r: int) -> Dim:
    atom = sym.terms[0][0][0]
    return dim.symbol(f"{sym}.{r}", atom.lo, atom.hi)


def _joined(f: Function, pieces: list[Val]) -> Val:
    """Vectors (a power of two of them) one behind the other."""
    while len(pieces) > 1:
        both = range(2 * lanes_of(pieces[0].type))
        pieces = [f.shuffle(x, y, both) for x, y in zip(pieces[::2], pieces[1::2])]
    return pieces[0]


def _zips(f: Function, rows: list[Val]) -> list[Val]:
    """Transposes the square blocks that `rows` have in every part of len(rows) lanes, by perfect shuffles."""
    n, part = lanes_of(rows[0].type), len(rows)
    half = part // 2
    low = [p + i // 2 + (n if i % 2 else 0) for p in range(0, n, part) for i in range(part)]
    high = [m + half for m in low]
    size = part
    while size > 1:
        rows = [f.shuffle(rows[i // 2], rows[i // 2 + half], high if i % 2 else low) for i in range(part)]
        size //= 2
    return rows
