"""Graphs inside of nodes: what `cond`, `while` and `scan` hold. Building them, running them on any kind of value, and
giving them other types.

A sub-graph is closed: whatever it reads is one of its inputs, and it holds no constants, so that its text is all of it.
`closed` turns constants into inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .dim import Dim, DimLike, evaluate, symbols
from .graph import Graph, GraphBuilder, Node, Signature, Value
from .op import Attrs
from .types import TensorType


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs among a node's attributes."""
    for v in node.attrs.values():
        if isinstance(v, Graph):
            yield v


def graph_of(function: Callable[..., Any], types: Iterable[TensorType], name: str = "body") -> Graph:
    """What `function` computes on values of these types. It returns a value or a tuple of them."""
    with GraphBuilder(name) as b:
        out = function(*(b.input(t) for t in types))
        outs = out if isinstance(out, (tuple, list)) else (out,)
        return b.finish(v if type(v) is Value else b.constant(np.asarray(v)) for v in outs)


def apply_graph(graph: Graph, values: Sequence[Any]) -> tuple:
    """The graph's outputs for bound values of any kind, op by op."""
    env: dict[Value, Any] = dict(zip(graph.inputs, values, strict=True)) | graph.constants
    builder = next((v.builder for v in values if type(v) is Value), None)
    for node in graph.nodes:
        if builder is not None:
            builder.loc = node.loc  # new nodes come from the same lines
        out = node.op(*(env[v] for v in node.inputs), **node.attrs)
        env.update(zip(node.outputs, out if isinstance(out, tuple) else (out,), strict=True))
    return tuple(env[v] for v in graph.outputs)


def retyped(graph: Graph, types: Sequence[TensorType]) -> Graph:
    """The same ops on inputs of other types. TypeRuleError where they don't fit."""
    return graph_of(lambda *xs: apply_graph(graph, xs), types, graph.name)


def closed(graphs: Sequence[Graph]) -> tuple[tuple[Graph, ...], tuple[np.ndarray, ...]]:
    """The graphs with their constants as further inputs, the same ones for all, and these arrays."""
    arrays: dict[int, np.ndarray] = {}
    for g in graphs:
        arrays.update({id(a): a for a in g.constants.values()})
    if not arrays:
        return tuple(graphs), ()
    out = []
    for g in graphs:
        own = {id(a): v for v, a in g.constants.items()}
        types = {id(a): TensorType(v.dtype, v.shape) for h in graphs for v, a in h.constants.items()}
        more = tuple(own.get(k) or Value(types[k], name=f"c{n}") for n, k in enumerate(arrays))
        inputs = (*g.inputs, *more)
        out.append(replace(g, inputs=inputs, constants={}, signature=Signature.plain(len(inputs), len(g.outputs))))
    return tuple(out), tuple(arrays.values())


def sizes_of(graph: Graph) -> Iterator[DimLike]:
    """All sizes in a graph's types and attributes."""
    for v in graph.values():
        yield from v.type.shape
    for n in graph.nodes:
        for a in n.attrs.values():
            yield from sizes_in(a)


def sizes_in(value: Any) -> Iterator[DimLike]:
    """The sizes in an attribute."""
    if isinstance(value, Dim):
        yield value
    elif isinstance(value, tuple):
        for v in value:
            yield from sizes_in(v)
    elif isinstance(value, Graph):
        yield from sizes_of(value)


def concrete(graph: Graph, sizes: Mapping[str, int]) -> Graph:
    """The graph with numbers for its symbolic sizes."""
    if not any(symbols(d) for d in sizes_of(graph)):
        return graph
    env: dict[Value, Value] = {}

    def fixed(t: TensorType) -> TensorType:
        return t.with_shape(d if isinstance(d, int) else evaluate(d, sizes) for d in t.shape)

    for v in (*graph.inputs, *graph.constants):
        env[v] = Value(fixed(v.type), name=v.name)
    nodes = []
    for n in graph.nodes:
        inputs = tuple(env[v] for v in n.inputs)
        new = Node(n.op, inputs, concrete_attrs(n.attrs, sizes), [fixed(v.type) for v in n.outputs], n.loc)
        env.update(zip(n.outputs, new.outputs))
        nodes.append(new)
    return Graph(
        graph.name,
        tuple(env[v] for v in graph.inputs),
        tuple(nodes),
        tuple(env[v] for v in graph.outputs),
        graph.signature,
        {env[v]: a for v, a in graph.constants.items()},
    )


def concrete_attrs(attrs: Attrs, sizes: Mapping[str, int]) -> Attrs:
    """Attributes with numbers for symbolic sizes."""
    return {k: concrete_value(v, sizes) for k, v in attrs.items()}


def concrete_value(v: Any, sizes: Mapping[str, int]) -> Any:
    """One of these."""
    if isinstance(v, Dim):
        return evaluate(v, sizes)
    if isinstance(v, tuple):
        return tuple(concrete_value(x, sizes) for x in v)
    return concrete(v, sizes) if isinstance(v, Graph) else v
