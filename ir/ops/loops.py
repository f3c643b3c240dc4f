"""`while`: a loop of unknown length, and its gradient. `control.py` says what the ops that hold graphs mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..batching import BatchContext, lane_by_lane
from ..derive import batched_graph, vjp_graph, zeros
from ..graph import Graph
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..subgraph import apply_graph, closed, graph_of
from ..types import TensorType, TypeRuleError
from ._control import (
    NO_REVERSE_MODE,
    ONE,
    ROW,
    NoReverseMode,
    carries_on,
    floating,
    listed,
    one_bool,
    run_graph,
    spread,
    stable,
    takes,
)
from ._declare import draw, rng_of
from .movement import broadcast_to, reshape
from .pointwise import add, lt, mul, where
from .reduce import reduce_any, reduce_sum


def _while_type(*operands: TensorType, cond: Graph, body: Graph, carried: int) -> tuple[TensorType, ...]:
    if not 0 < carried <= len(operands):
        raise TypeRuleError(f"carried={carried} of {len(operands)} operands")
    takes("the condition", cond, operands)
    takes("the body", body, operands)
    if len(cond.outputs) != 1:
        raise TypeRuleError(f"the condition gives {len(cond.outputs)} values")
    one_bool("the condition", cond.outputs[0].type)
    if len(body.outputs) != carried:
        raise TypeRuleError(f"the body gives {len(body.outputs)} values for {carried} that are carried")
    carries_on(body, operands[:carried])
    return operands[:carried]


def _while(*operands: np.ndarray, cond: Graph, body: Graph, carried: int) -> tuple:
    carry, rest = list(operands[:carried]), operands[carried:]
    while run_graph(cond, (*carry, *rest))[0]:
        carry = run_graph(body, (*carry, *rest))
    return tuple(carry)


def _while_vjp(c: VjpContext, *gs: Any) -> tuple:
    moves = floating(c.types)
    seeds = (g for g, f in zip(gs, moves) if f)
    found = iter(while_vjp(*c.inputs, *seeds, **c.attrs))
    return tuple(next(found) if f else None for f in moves)


def _while_batch(c: BatchContext) -> tuple:
    """Where lanes differ in the condition, the loop goes on until all of them are done; those that are stay as they are."""
    test, body, carried = c.attrs["cond"], c.attrs["body"], c.attrs["carried"]
    flags, graph = stable(c, body, carried, list(c.batched))
    lanes_test, (differs,) = batched_graph(test, flags, c.size)
    if differs:
        flags = [True] * carried + flags[carried:]
        lanes_test, _ = batched_graph(test, flags, c.size, [True])
        step, _ = batched_graph(body, flags, c.size, [True] * carried)
        own_test, own_step = lanes_test, step
        types = [v.type for v in step.inputs]

        def masked(*values: Any) -> tuple:
            (going,) = apply_graph(own_test, values)
            new = apply_graph(own_step, values)
            return tuple(
                where(reshape(going, shape=(c.size, *(1,) * (t.ndim - 1))), x, old)
                for x, old, t in zip(new, values, types)
            )

        graph = graph_of(masked, types, body.name)
        lanes_test = graph_of(lambda *v: reduce_any(apply_graph(own_test, v)[0], axes=(0,)), types, test.name)
    (new_test, new_body), more = closed([lanes_test, graph])
    out = while_(*spread(c, flags), *more, cond=new_test, body=new_body, carried=carried)
    shapes = [t.shape for t in c.types]
    return tuple(x if f else broadcast_to(x, shape=(c.size, *s)) for x, f, s in zip(out, flags, shapes))


def _while_samples() -> Iterator[Sample]:
    graphs = {
        "cond": graph_of(lambda x, y, top: lt(reduce_sum(x, axes=(0,)), top), (ROW, ROW, ONE), "test"),
        "body": graph_of(lambda x, y, top: (add(x, mul(y, y)), y), (ROW, ROW, ONE), "step"),
        "carried": 2,
    }
    step = np.array([1.0, -1.5, 0.5], np.float32)
    for start in (0.25, 2.0, 40.0):
        yield Sample((np.full(3, start, np.float32), step, np.asarray(30, np.float32)), dict(graphs))


def _while_errors() -> Iterator[ErrorSample]:
    x, same = np.zeros(3, np.float32), graph_of(lambda x: x, (ROW,))
    test = graph_of(lambda x: lt(reduce_sum(x, axes=(0,)), np.asarray(0, np.float32)), (ROW,), "test")
    total = graph_of(lambda x: reduce_sum(x, axes=(0,)), (ROW,))
    yield ErrorSample((x,), {"cond": test, "body": total, "carried": 1}, TypeRuleError, "carried value 0 is f32")
    yield ErrorSample((x,), {"cond": same, "body": same, "carried": 1}, TypeRuleError, "must be one bool")
    yield ErrorSample((x,), {"cond": test, "body": same, "carried": 2}, TypeRuleError, "carried=2 of 1")


while_ = register(
    OpDef(
        "while", "structural", ("*operands",), _while_type, _while, _while_vjp,
        attrs={"cond": REQUIRED, "body": REQUIRED, "carried": REQUIRED}, saves=("*operands",), batch=_while_batch,
        samples=_while_samples, errors=_while_errors, n_outputs=0,
        doc="Runs the graph `body` on the first `carried` operands, and on the others, as long as the graph `cond` holds.",
    )
)  # fmt: skip


# ------------------------------------------------------------------ gradients of while


def _while_vjp_type(*operands: TensorType, cond: Graph, body: Graph, carried: int) -> tuple[TensorType, ...]:
    own = operands[: len(body.inputs)]
    carry = [t for t in _while_type(*own, cond=cond, body=body, carried=carried) if t.dtype.is_inexact]
    if list(operands[len(own) :]) != carry:
        raise TypeRuleError(f"the cotangents of {listed(carry)} are {listed(operands[len(own) :])}")
    return tuple(t for t in own if t.dtype.is_inexact)


def _while_vjp_reference(*operands: np.ndarray, cond: Graph, body: Graph, carried: int) -> tuple:
    """Forward with all carries kept, then back over them."""
    n = len(body.inputs)
    carry, rest, gs = list(operands[:carried]), operands[carried:n], list(operands[n:])
    begins = []
    while run_graph(cond, (*carry, *rest))[0]:
        begins.append(carry)
        carry = run_graph(body, (*carry, *rest))
    types = [v.type for v in body.inputs]
    pull = vjp_graph(body, floating(types), floating(types[:carried]))
    sums = [np.zeros_like(x) for x, f in zip(rest, floating(types[carried:])) if f]
    for begin in reversed(begins):
        out = run_graph(pull, (*begin, *rest, *gs))
        gs = out[: len(gs)]
        sums = [np.asarray(s + d) for s, d in zip(sums, out[len(gs) :])]
    return (*gs, *sums)


def _while_push(c: VjpContext, *tangents: Any) -> tuple:
    """The loop with tangents: the gradient is linear in its cotangents, and forward mode is what stands across from them.
    That of the loop's own operands would need what its steps have left behind."""
    test, body, carried = c.attrs["cond"], c.attrs["body"], c.attrs["carried"]
    n = len(body.inputs)
    if any(c.needs[:n]):
        raise NoReverseMode(NO_REVERSE_MODE)
    types = [v.type for v in body.inputs]
    moves = floating(types)
    moving = sum(moves[:carried])  # carried values that have a tangent
    pull = vjp_graph(body, moves, moves[:carried])
    across = [k >= n for k in range(len(pull.inputs))]
    (push,), arrays = closed([vjp_graph(pull, across, [True] * len(pull.outputs))])
    own = len(pull.inputs) + len(pull.outputs)
    seeds = [v.type for v in pull.inputs[n:]]

    def parts(values: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
        at = (carried, carried + moving, n + moving, n + moving + len(pull.outputs) - moving)
        return tuple(values[a:b] for a, b in zip((0, *at), (*at, len(values))))  # type: ignore[return-value]

    def step(*values: Any) -> tuple:
        carry, d_carry, rest, d_rest, more = parts(values)
        new = apply_graph(body, (*carry, *rest))
        return (*new, *apply_graph(push, (*carry, *rest, *map(zeros, seeds), *d_carry, *d_rest, *more)))

    def going(*values: Any) -> tuple:
        carry, _, rest, _, _ = parts(values)
        return apply_graph(test, (*carry, *rest))

    d_types = [t for t, f in zip(types, moves) if f]
    listed = [*types[:carried], *d_types[:moving], *types[carried:], *d_types[moving:]]
    listed += [v.type for v in push.inputs[own:]]
    graphs = {"cond": graph_of(going, listed, test.name), "body": graph_of(step, listed, f"{body.name}_jvp")}
    primals = c.inputs[:n]
    operands = (*primals[:carried], *tangents[:moving], *primals[carried:], *tangents[moving:], *arrays)
    out = while_(*operands, **graphs, carried=carried + moving)
    return (*(None for _ in range(n)), *out[carried:])


def _while_vjp_samples() -> Iterator[Sample]:
    rng = rng_of("while_vjp")
    for s in _while_samples():
        yield Sample((*s.args, draw(rng, (3,)), draw(rng, (3,))), s.attrs, gradcheck=False)


def _while_vjp_errors() -> Iterator[ErrorSample]:
    s = next(_while_samples())
    yield ErrorSample((*s.args, np.zeros(3, np.float32)), s.attrs, TypeRuleError, "the cotangents of")
    yield ErrorSample((s.args[0], *s.args), s.attrs, TypeRuleError, "takes")


while_vjp = register(
    OpDef(
        "while_vjp", "structural", ("*operands",), _while_vjp_type, _while_vjp_reference, _while_push,
        attrs={"cond": REQUIRED, "body": REQUIRED, "carried": REQUIRED}, saves=("*operands",), batch=lane_by_lane,
        samples=_while_vjp_samples, errors=_while_vjp_errors, n_outputs=0,
        doc="The cotangents of the floating operands of `while`, from those of what it carries, which come last. On the host: "
        "it keeps the values of all steps. Forward mode has no need of them, so that there it is dead code.",
    )
)  # fmt: skip
