"""Matmul and convolution as the `Contraction` anchor: their operands become expressions over batch, m, n and k axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.dtypes import accumulator
from ..ir.graph import Node
from ..ir.kernel import Axis, Contraction
from ..ir.scalar import Expr, in_bounds, select
from .access import broadcast_index

if TYPE_CHECKING:
    from .lower import GroupLowering


def contraction(low: "GroupLowering", node: Node) -> tuple[Contraction, tuple[Axis, ...]]:
    """The anchor of `node` and the kernel's outer axes (batch + m + n)."""
    anchor = _matmul(low, node) if node.op.name == "matmul" else _conv(low, node)
    return anchor, (*anchor.batch, *anchor.m, *anchor.n)


def _axis(name: str, extent: DimLike) -> tuple[Axis, DimLike]:
    """A fresh axis, and the index to use for it (0 if it has one element)."""
    sym = dim.symbol(name, 0, extent - 1)
    return Axis(sym, extent), 0 if extent == 1 else sym


def _own_axis(low: "GroupLowering", k: int, name: str) -> Axis:
    """The k-th axis of the result, which has no symbol if it has one element."""
    sym, extent = low.group.symbols[k], low.group.shape[k]
    return Axis(sym, extent) if isinstance(sym, Dim) else _axis(name, extent)[0]


def _matmul(low: "GroupLowering", node: Node) -> Contraction:
    x, y = node.inputs
    at = low.group.symbols
    k_axis, k = _axis("k0", x.shape[-1])
    batch = tuple(Axis(s, n) for s, n in zip(at[:-2], low.group.shape[:-2]) if isinstance(s, Dim))
    lhs = low.element(x, (*broadcast_index(at[:-2], x.shape[:-2]), at[-2], k))
    rhs = low.element(y, (*broadcast_index(at[:-2], y.shape[:-2]), k, at[-1]))
    return Contraction(
        "acc", batch, (_own_axis(low, -2, "m"),), (_own_axis(low, -1, "n"),), (k_axis,), lhs, rhs, accumulator(x.dtype)
    )  # fmt: skip


def _conv(low: "GroupLowering", node: Node) -> Contraction:
    x, w = node.inputs
    a = node.attrs
    groups: int = a["groups"]
    group = low.group
    out_channels, per_group = w.shape[0], w.shape[1]
    rank = len(x.shape) - 2
    batch: tuple[Axis, ...] = ()
    if groups == 1:
        m = _own_axis(low, 1, "m")
        g: DimLike = 0
    else:
        g_axis, g = _axis("g", groups)
        m, o = _axis("o", out_channels // groups)
        batch = (g_axis,)
        channel = group.symbols[1]
        if isinstance(channel, Dim):
            group.substitute({channel: g * (out_channels // groups) + o})
    at = group.symbols
    c_axis, c = _axis("c", per_group)
    windows = [_axis(f"k{d}", w.shape[2 + d]) for d in range(rank)]
    position: list[DimLike] = []
    mask: list[DimLike] = []
    for d in range(rank):
        p = at[2 + d] * a["stride"][d] - a["low"][d] + windows[d][1] * a["rhs_dilation"][d]
        step, size = a["lhs_dilation"][d], x.shape[2 + d]
        mask += [p, (size - 1) * step - p]
        if step != 1:
            mask.append(-dim.mod(p, step))
            p = dim.floordiv(p, step)
        position.append(p)
    outside = tuple(c for c in mask if not dim.nonnegative(c))
    rhs = low.element(x, (at[0], g * per_group + c, *position), outside)
    if outside and not _zero_outside(rhs):
        rhs = select(in_bounds(outside), rhs, 0)
    lhs = low.element(w, (at[1], c, *(k for _, k in windows)))
    # Channels innermost if the window is small: its bounds are then the same for a whole run of k. The window of a weight
    # gradient is a whole image: its rows are the long runs.
    window_axes = tuple(axis for axis, _ in windows)
    points = dim.numel(w.shape[2:])
    k = (*window_axes, c_axis) if isinstance(points, int) and points < 32 else (c_axis, *window_axes)
    n = (_own_axis(low, 0, "img"), *(_own_axis(low, 2 + d, f"o{d}") for d in range(rank)))
    n = tuple(axis for axis in n if axis.extent != 1) or n[-1:]
    return Contraction(
        "acc", batch, (m,), n, _without_units(k), lhs, rhs, accumulator(x.dtype)
    )  # fmt: skip


def _without_units(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.extent != 1) or axes[-1:]


def _zero_outside(e: Expr) -> bool:
    return e.op == "load" and bool(e.attr.mask) or e.op == "cast" and _zero_outside(e.args[0])
