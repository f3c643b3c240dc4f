"""The nodes that closed loops become: `while`; or, where gradients pass, `scan`s, whose reverse pass is native as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...ir.graph import Graph
from ...ir.op import get_op
from ...ir.ops.control import with_carries
from ...ir.subgraph import apply_graph, graph_of
from ..autograd import no_grad
from ..dispatch import apply
from ..tensor import Tensor

MOST_KEPT = 4096  # steps whose carried values are all kept for the reverse pass
MOST_DIFFERENTIABLE = 256  # chunks, and steps of one, of a loop of unknown length that is differentiated


def run_loop(
    first: Sequence[Tensor], rest: Sequence[Tensor], test: Graph, step: Graph, length: int | None, differentiable: bool
) -> Sequence[Tensor]:
    """What the loop has carried to its end. length: how many steps there are, if that is known."""
    n = len(first)
    operands = (*first, *rest)
    if not differentiable:
        return apply(get_op("while"), *operands, cond=test, body=step, carried=n)
    if length is not None and length <= MOST_KEPT:
        return _scan(operands, step, n, length)[:n]
    chunk = MOST_DIFFERENTIABLE if length is None else math.isqrt(length - 1) + 1
    types = [v.type for v in step.inputs]
    one = _if_going(test, step, types)
    chunk_of = graph_of(lambda *v: _chunk(v, one, n, chunk), types, f"{step.name}s")
    out = _scan(operands, _if_going(test, chunk_of, types), n, chunk)[:n]
    if length is None:
        with no_grad():
            (going,) = apply_graph(test, (*out, *rest))
            apply(get_op("check_index"), going.astype("int64"), size=1)  # too long: plain Python
    return out


def _scan(operands: Sequence[Tensor], body: Graph, carried: int, length: int) -> Sequence[Tensor]:
    """The body so many times. It hands on what each step began with, which the reverse pass reads; else that is dropped."""
    keeps = with_carries(body, carried, [k for k in range(carried) if body.inputs[k] not in body.outputs[carried:]])
    return apply(get_op("scan"), *operands, body=keeps, carried=carried, scanned=0, length=length, reverse=False)


def _chunk(values: Sequence[Any], body: Graph, carried: int, length: int) -> tuple:
    attrs = {"body": body, "carried": carried, "scanned": 0, "length": length, "reverse": False}
    return tuple(get_op("scan")(*values, **attrs)[:carried])


def _if_going(test: Graph, step: Graph, types: Sequence[Any]) -> Graph:
    """A step that does nothing once the loop has ended."""
    n = len(step.outputs)
    stay = graph_of(lambda *v: v[:n], types, "stay")

    def once(*values: Any) -> tuple:
        (going,) = apply_graph(test, values)
        return get_op("cond")(going, *values, true=step, false=stay)

    return graph_of(once, types, step.name)
