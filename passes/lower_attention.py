"""Attention and its gradients as the `Attention` anchor: what is done to scores and weights becomes expressions of them."""

from __future__ import annotations

import math
from dataclasses import replace

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.dtypes import DType, accumulator, bool_
from ..ir.graph import Node, Value
from ..ir.kernel import SCORE, Attention, Axis, Buffer, Kernel, Stage, Store, size_symbols
from ..ir.ops.attention import extras
from ..ir.scalar import Expr, apply, cast, const, result, select
from .access import Index, broadcast_index
from .lower import GroupLowering, linear

LOG2_E = math.log2(math.e)
PARTS = {
    "attention": ("rows", ("acc", "lse")),
    "attention_queries": ("queries", ("acc",)),
    "attention_keys": ("keys", ("acc", "acc_v")),
}


def attention(low: GroupLowering, node: Node) -> tuple[Attention, tuple[Axis, ...]]:
    """The anchor of a node whose first result has all of the kernel's outer axes, and these."""
    *batch, row, column = low.group.symbols
    m, n = _axis("m", row, low.group.shape[-2]), _axis("n", None, _operands(node)[1].shape[-2])
    last = _axis("e" if node.op.name == "attention" else "d", column, low.group.shape[-1])
    anchor = _anchor(low, node, tuple(batch), m, n, last)
    return anchor, (*anchor.batch, m, last)


def lower_keys(low: GroupLowering) -> Kernel:
    """The kernel of attention_keys: the gradients of keys and of values, whose rows are of different lengths."""
    node = low.group.anchor
    assert node is not None
    *batch, row, column = low.group.symbols
    n = _axis("n", row, low.group.shape[-2])
    anchor = _anchor(
        low, node, tuple(batch), _axis("m", None, node.inputs[0].shape[-2]), n, _axis("d", column, low.group.shape[-1])
    )
    stages = []
    for v, name, axis in zip(node.outputs, anchor.names, (anchor.d, anchor.e), strict=True):
        if v in low.partition.stored:
            buffer = low.writes[v] = Buffer(f"y{len(low.writes)}", v.dtype, (v.type.size,), (1,), "out")
            at = linear((*batch, _index(n), _index(axis)), v.shape)
            stages.append(Stage((axis,), (), (Store(buffer.name, (at,), cast(result(name, anchor.dtype), v.dtype)),)))
    params = tuple(dict.fromkeys((*low.reads.values(), *low.writes.values())))
    kernel = Kernel(
        low.name,
        params,
        (*anchor.batch, n),
        tuple(stages),
        anchor,
        (),
        (str(node.loc),) if node.loc else (),
        (node.op.name,),
    )
    return replace(kernel, dims=size_symbols(kernel))


def _operands(node: Node) -> tuple[Value, ...]:
    """q, k, v and what comes behind them."""
    if node.op.name == "attention":
        return node.inputs
    return (*node.inputs[1:4], *node.inputs[6:])


def _anchor(low: GroupLowering, node: Node, batch: Index, m: Axis, n: Axis, last: Axis) -> Attention:
    q, k, v, *more = _operands(node)
    dtype = accumulator(q.dtype)
    d = _axis("d", None, q.shape[-1]) if node.op.name == "attention" else last
    e = last if node.op.name == "attention" else _axis("e", None, v.shape[-1])
    row, column = _index(m), _index(n)

    def at(x: Value, *ends: DimLike) -> Expr:
        return low.element(x, broadcast_index((*batch, *ends), x.shape))

    part, names = PARTS[node.op.name]
    mask, state = extras(tuple(more), node.attrs["dropout"])
    shape = (*node.out.shape[:-2], m.extent, n.extent)
    scaled = result(SCORE, dtype) * (node.attrs["scale"] * LOG2_E)
    anchor = Attention(
        part, names, tuple(Axis(s, x) for s, x in zip(batch, shape) if isinstance(s, Dim)), m, n, d, e,
        at(q, row, _index(d)), at(k, column, _index(d)), at(v, column, _index(e)),
        scaled if mask is None else _masked(scaled, at(mask, row, column)),
        node.attrs["causal"], mask is not None and mask.dtype is bool_, dtype,
    )  # fmt: skip
    if state is not None:
        drawn = low.random_word(state, linear((*batch, row, column), shape))
        anchor = replace(anchor, factor=_factor(drawn, node.attrs["dropout"], dtype))
    if part == "rows":
        return anchor
    g, lse, delta = at(node.inputs[0], row, _index(e)), at(node.inputs[4], row), at(node.inputs[5], row)
    return replace(anchor, g=g, lse=lse * LOG2_E, delta=delta, slope=node.attrs["scale"])


def _masked(scaled: Expr, mask: Expr) -> Expr:
    return select(mask, scaled, -math.inf) if mask.dtype is bool_ else scaled + mask * LOG2_E


def _factor(drawn: Expr, dropout: float, dtype: DType) -> Expr:
    """What dropout multiplies a weight by."""
    return select(apply("ge", drawn, int(dropout * 2**32)), const(1.0 / (1.0 - dropout), dtype), 0.0)


def _axis(name: str, own: DimLike | None, extent: DimLike) -> Axis:
    """An axis with the group's symbol for it, if that is one; axes of one element have none."""
    return Axis(own if isinstance(own, Dim) else dim.symbol(f"{name}0", 0, extent - 1), extent)


def _index(axis: Axis) -> DimLike:
    return 0 if axis.extent == 1 else axis.sym
