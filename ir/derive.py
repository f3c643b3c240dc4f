"""Graphs from graphs: reverse mode, and many lanes at once. What the rules of ops with sub-graphs are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .batching import BatchContext, batch
from .dim import DimLike
from .graph import Graph, GraphBuilder, Node, Value
from .op import NO_GRADIENT, Attrs, OpDef, VjpContext, VjpRule, get_op
from .subgraph import apply_graph, graph_of
from .types import TensorType


def zeros(t: TensorType) -> Any:
    return get_op("full")(value=0, shape=t.shape, dtype=t.dtype)


def sum_to(g: Any, shape: tuple) -> Any:
    """The cotangent `g` of a value that was broadcast from `shape`: summed over what broadcasting repeated."""
    have = tuple(g.shape)
    if len(have) == len(shape) and have == tuple(shape):
        return g
    lead = len(have) - len(shape)
    axes = (*range(lead), *(lead + i for i, d in enumerate(shape) if d != have[lead + i]))
    if axes:
        g = get_op("reduce_sum")(g, axes=axes)
    return g if len(axes) == lead else get_op("reshape")(g, shape=tuple(shape))


class _Forward(GraphBuilder):
    """Records ops that have rules: those that are differentiated through their decomposition are decomposed."""

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        if op.vjp != "decompose" or op.decompose is None:
            return super().emit(op, inputs, attrs)
        out = op.decompose(*inputs, **attrs)
        return out if isinstance(out, tuple) else (out,)


def vjp_graph(graph: Graph, wanted: Sequence[bool], seeded: Sequence[bool]) -> Graph:
    """Reverse mode through a graph. Its inputs are those of `graph`, then a cotangent for each output that is `seeded`;
    its outputs are the cotangents of the inputs that are `wanted`. It computes the forward pass again."""
    with _Forward(f"{graph.name}_vjp") as b:
        inputs = [b.input(v.type, v.name) for v in graph.inputs]
        env: dict[Value, Any] = dict(zip(graph.inputs, inputs)) | graph.constants
        for node in graph.nodes:
            b.loc = node.loc
            out = node.op(*(env[v] for v in node.inputs), **node.attrs)
            env.update(zip(node.outputs, out if isinstance(out, tuple) else (out,), strict=True))
        active = {v for v, w in zip(inputs, wanted, strict=True) if w}
        tape = [n for n in b.nodes if _activates(n, active)]
        found: dict[Value, Any] = {}
        for v, s in zip(graph.outputs, seeded, strict=True):
            if s:
                g = b.input(v.type, f"g{len(b.inputs)}")
                if type(env[v]) is Value:  # else a constant
                    _add(found, env[v], g)
        for node in reversed(tape):
            b.loc = node.loc
            _pull(node, active, found)
        return b.finish(_value(b, found.get(v), v.type) for v, w in zip(inputs, wanted) if w)


def vjp_of_decomposition(decompose: Callable[..., Any]) -> VjpRule:
    """The rule of a composite that has no shorter way: reverse mode through its decomposition, which computes that again."""

    def rule(c: VjpContext, *gs: Any) -> tuple:
        parts = graph_of(lambda *xs: decompose(*xs, **c.attrs), c.types)
        found = iter(apply_graph(vjp_graph(parts, c.needs, (True,) * len(gs)), (*c.inputs, *gs)))
        return tuple(next(found) if n else None for n in c.needs)

    return rule


def _activates(node: Node, active: set[Value]) -> bool:
    """Whether cotangents pass a node; then they pass the values that it computes."""
    if node.op.vjp == NO_GRADIENT or not any(v in active for v in node.inputs):
        return False
    results = [v for v in node.outputs if v.dtype.is_inexact]
    active.update(results)
    return bool(results)


def _pull(node: Node, active: set[Value], found: dict[Value, Any]) -> None:
    gs = [found.get(v) for v in node.outputs]
    if all(g is None for g in gs):
        return
    if len(gs) > 1:
        gs = [zeros(v.type) if g is None else g for g, v in zip(gs, node.outputs)]
    needs = tuple(v in active for v in node.inputs)
    types = tuple(v.type for v in node.inputs)
    context = VjpContext(node.inputs, node.outputs, types, node.attrs, needs)
    for v, g, n in zip(node.inputs, node.op.vjp(context, *gs), needs, strict=True):  # type: ignore[operator]
        if n and g is not None:
            _add(found, v, sum_to(g, v.shape) if node.op.kind == "pointwise" else g)


def _add(found: dict[Value, Any], v: Value, g: Any) -> None:
    before = found.get(v)
    found[v] = g if before is None else get_op("add")(before, g)


def _value(b: GraphBuilder, v: Any, type_: TensorType) -> Value:
    if v is None:
        return b.interpret(get_op("full"), (), {"value": 0, "shape": type_.shape, "dtype": type_.dtype})
    return v if type(v) is Value else b.constant(v)


def batched_graph(
    graph: Graph, batched: Sequence[bool], size: DimLike, outputs: Sequence[bool] | None = None
) -> tuple[Graph, tuple[bool, ...]]:
    """The graph for `size` lanes at once: inputs that are `batched` have an axis of lanes in front. With it, which outputs
    have one; those named in `outputs` in any case."""
    with GraphBuilder(graph.name) as b:
        given = []
        for v, lanes in zip(graph.inputs, batched, strict=True):
            t = v.type.with_shape((size, *v.shape)) if lanes else v.type
            given.append((b.input(t, v.name), lanes))
        found = _in_lanes(b, graph, given, size)
        spread = [x[1] or bool(outputs and outputs[k]) for k, x in enumerate(found)]
        results = [
            get_op("broadcast_to")(x, shape=(size, *v.shape)) if s and not lanes else x
            for v, (x, lanes), s in zip(graph.outputs, found, spread)
        ]
        return b.finish(_value(b, x, v.type) for x, v in zip(results, graph.outputs)), tuple(spread)


Lanes = tuple[Any, bool]  # a value, and whether its first axis is the lanes'


def _in_lanes(b: GraphBuilder, graph: Graph, given: Sequence[Lanes], size: DimLike) -> list[Lanes]:
    env: dict[Value, Lanes] = dict(zip(graph.inputs, given, strict=True))
    env.update({v: (a, False) for v, a in graph.constants.items()})
    for node in graph.nodes:
        b.loc = node.loc
        args, batched = zip(*(env[v] for v in node.inputs)) if node.inputs else ((), ())
        if not any(batched):
            out = node.op(*args, **node.attrs)
            rows = [(x, False) for x in (out if isinstance(out, tuple) else (out,))]
        else:
            types = tuple(v.type for v in node.inputs)
            found = batch(BatchContext(node.op, args, batched, types, node.attrs, size))
            if found is None:
                assert node.op.decompose is not None
                decompose, attrs = node.op.decompose, node.attrs
                parts = graph_of(lambda *xs: decompose(*xs, **attrs), types)
                rows = _in_lanes(b, parts, [env[v] for v in node.inputs], size)
            else:
                rows = [(x, True) for x in found]
        env.update(zip(node.outputs, rows, strict=True))
    return [env[v] for v in graph.outputs]


__all__ = ["batched_graph", "sum_to", "vjp_graph", "vjp_of_decomposition", "zeros"]
