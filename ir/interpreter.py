"""Runs a graph node by node with the ops' references: the executable meaning of the IR."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np

from . import subgraph
from .dim import symbols
from .graph import Graph, Node, Value
from .op import Attrs


def run(graph: Graph, inputs: Sequence[np.ndarray], dims: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """The graph's outputs for `inputs`. Symbolic attributes take their sizes from the inputs. Nothing is written in place."""
    env: dict[Value, np.ndarray] = dict(zip(graph.inputs, inputs, strict=True))
    env.update(graph.constants)
    sizes = dict(dims or {}) | bind_dims(graph, inputs)
    for node in graph.nodes:
        if node.op.name == "extent":
            sizes |= {str(s): int(env[node.inputs[0]]) for s in symbols(node.attrs["size"])}
        out = node.op.evaluate(tuple(env[v] for v in node.inputs), concrete_attrs(node, sizes))
        for v, array in zip(node.outputs, out if isinstance(out, tuple) else (out,), strict=True):
            env[v] = array
    return [env[v] for v in graph.outputs]


def dim_sources(graph: Graph) -> dict[str, tuple[int, int, int]]:
    """Where the sizes of the graph's symbols stand: (input, axis, factor), the first where a whole axis is that symbol,
    or else a multiple of it."""
    out: dict[str, tuple[int, int, int]] = {}
    for k, v in enumerate(graph.inputs):
        for axis, d in enumerate(v.type.shape):
            if isinstance(d, int) or len(d.terms) != 1 or len(d.terms[0][0]) != 1:
                continue
            (atom,), factor = d.terms[0]
            if atom.kind == "sym" and (atom.name not in out or factor < out[atom.name][2]):
                out[atom.name] = (k, axis, factor)
    return out


def bind_dims(graph: Graph, inputs: Sequence[np.ndarray]) -> dict[str, int]:
    """The sizes of the graph's symbols, read off the inputs."""
    return {name: inputs[k].shape[axis] // factor for name, (k, axis, factor) in dim_sources(graph).items()}


def concrete_attrs(node: Node, sizes: Mapping[str, int]) -> Attrs:
    """The node's attributes with symbolic sizes replaced by numbers."""
    return concrete(node.attrs, sizes)


def concrete(attrs: Attrs, sizes: Mapping[str, int]) -> Attrs:
    """Attributes with symbolic sizes replaced by numbers."""
    return subgraph.concrete_attrs(attrs, sizes)
