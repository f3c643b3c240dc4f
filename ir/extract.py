"""A part of a recorded graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .graph import Graph, GraphBuilder, Node, Signature, Value


def slice_of(nodes: Sequence[Node], wanted: Iterable[Value], given: Iterable[Value] = ()) -> list[Node]:
    """The nodes that `wanted` needs, in order, where the values in `given` are known already."""
    known, needed = set(given), set(wanted)
    out: list[Node] = []
    for node in reversed(nodes):
        if any(v in needed and v not in known for v in node.outputs):
            needed.update(node.inputs)
            out.append(node)
    return out[::-1]


def extract(
    name: str,
    nodes: Iterable[Node],
    inputs: Sequence[Value],
    given: Sequence[Value],
    wanted: Sequence[Value],
    constants: Mapping[Value, np.ndarray],
    signature: Signature | None = None,
) -> Graph:
    """`nodes` (in order, all that `wanted` needs) as a graph of `inputs`, then `given`. Of the constants it has those
    that it reads."""
    b = GraphBuilder(name)
    env: dict[Value, Value] = {v: b.input(v.type, v.name) for v in (*inputs, *given)}

    def value(v: Value) -> Value:
        found = env.get(v)
        if found is None:
            found = env[v] = Value(v.type, name=v.name, builder=b)
            b.constants[found] = constants[v]
        return found

    with b:
        for node in nodes:
            new = Node(node.op, tuple(map(value, node.inputs)), node.attrs, (v.type for v in node.outputs), node.loc)
            for old, v in zip(node.outputs, new.outputs):
                v.builder = b
                env.setdefault(old, v)
            b.nodes.append(new)
    return b.finish([value(v) for v in wanted], signature)
