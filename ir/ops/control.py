"""Control flow: ops that hold graphs. What bodies read besides their own operands is an operand too.

A graph's inputs are the node's operands (of one step, for `scan`), so that each of the three has a plain meaning:

    cond(pred, *operands)              true(*operands) or false(*operands)
    while(*carry, *rest)               carry = body(*carry, *rest) as long as cond(*carry, *rest)
    scan(*carry, *xs, *rest)           carry, y = body(*carry, *x, *rest) for x along the first axis of xs; ys are stacked
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import BatchContext
from ..derive import batched_graph, vjp_graph
from ..graph import Graph
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..subgraph import apply_graph, closed, graph_of
from ..types import TensorType, TypeRuleError
from ._control import (
    CONTROL,
    NO_REVERSE_MODE,
    ROW,
    NoReverseMode,
    listed,
    one_bool,
    run_graph,
    takes,
    types_of,
)
from ._declare import draw, rng_of
from .loops import while_, while_vjp
from .movement import reshape
from .pointwise import mul, sub, where
from .reduce import reduce_sum
from .scanning import scan_, with_carries


def _cond_type(pred: TensorType, *operands: TensorType, true: Graph, false: Graph) -> tuple[TensorType, ...]:
    one_bool("the predicate", pred)
    takes("the true branch", true, operands)
    takes("the false branch", false, operands)
    if types_of(true) != types_of(false):
        raise TypeRuleError(
            f"the branches give different types: {listed(types_of(true))} and {listed(types_of(false))}"
        )
    return types_of(true)


def _cond(pred: np.ndarray, *operands: np.ndarray, true: Graph, false: Graph) -> tuple:
    return tuple(run_graph(true if pred else false, operands))


def _cond_vjp(c: VjpContext, *gs: Any) -> tuple:
    """The branch that was taken, backward."""
    true, false = c.attrs["true"], c.attrs["false"]
    wanted = [n and t.dtype.is_inexact for n, t in zip(c.needs[1:], c.types[1:])]
    seeded = [t.dtype.is_inexact for t in types_of(true)]
    if not any(wanted):
        return (None,) * len(c.inputs)
    (back_true, back_false), more = closed([vjp_graph(g, wanted, seeded) for g in (true, false)])
    seeds = (g for g, s in zip(gs, seeded) if s)
    found = iter(cond(*c.inputs, *seeds, *more, true=back_true, false=back_false))
    return (None, *(next(found) if w else None for w in wanted))


def _cond_batch(c: BatchContext) -> tuple:
    """With a predicate for each lane both branches run, and each lane picks its own."""
    pred, operands = c.args[0], c.args[1:]
    everywhere = [True] * len(types_of(c.attrs["true"]))
    graphs = [batched_graph(c.attrs[k], c.batched[1:], c.size, everywhere)[0] for k in ("true", "false")]
    if not c.batched[0]:
        (true, false), more = closed(graphs)
        return cond(pred, *operands, *more, true=true, false=false)
    pairs = zip(*(apply_graph(g, operands) for g in graphs), types_of(c.attrs["true"]))
    return tuple(where(reshape(pred, shape=(c.size, *(1,) * t.ndim)), x, y) for x, y, t in pairs)


def _cond_samples() -> Iterator[Sample]:
    rng = rng_of("cond")
    graphs = {
        "true": graph_of(lambda x, y: (mul(x, y), reduce_sum(x, axes=(0,))), (ROW, ROW), "yes"),
        "false": graph_of(lambda x, y: (sub(x, mul(y, y)), reduce_sum(mul(x, y), axes=(0,))), (ROW, ROW), "no"),
    }
    for pred in (True, False):
        yield Sample((np.asarray(pred), draw(rng, (3,)), draw(rng, (3,))), dict(graphs))


cond = register(
    OpDef(
        "cond", "structural", ("pred", "*operands"), _cond_type, _cond, _cond_vjp,
        attrs={"true": REQUIRED, "false": REQUIRED}, batch=_cond_batch, samples=_cond_samples, n_outputs=0,
        errors=lambda: [
            ErrorSample(
                (np.zeros(2, bool), np.zeros(3, np.float32)),
                dict.fromkeys(("true", "false"), graph_of(lambda x: x, (ROW,))), TypeRuleError, "must be one bool",
            ),
            ErrorSample(
                (np.asarray(True), np.zeros(3, np.float32)),
                {"true": graph_of(lambda x: x, (ROW,)), "false": graph_of(lambda x: reduce_sum(x, axes=(0,)), (ROW,))},
                TypeRuleError, "different types",
            ),
            ErrorSample(
                (np.asarray(True), np.zeros(4, np.float32)),
                dict.fromkeys(("true", "false"), graph_of(lambda x: x, (ROW,))), TypeRuleError, "takes",
            ),
        ],
        doc="The results of the graph `true` or of the graph `false`.",
    )
)  # fmt: skip

__all__ = ["CONTROL", "NO_REVERSE_MODE", "NoReverseMode", "cond", "scan_", "while_", "while_vjp", "with_carries"]
