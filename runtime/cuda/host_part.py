"""What a graph writes into small inputs of host memory is computed there, so that nobody waits for the device: the state of
random numbers, step counts and rates of optimizers.

The device computes it too, for what depends on it there; its results are not fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.extract import extract, slice_of
from ...ir.graph import Graph, Node, Value
from ...ir.interpreter import run
from ...ir.ops.control import CONTROL

SMALL = 4096  # elements of everything that takes part
MOST_NODES = 256


class HostPart:
    """The writes of a graph into `known`, the inputs that lie in host memory, that need nothing but those."""

    def __init__(self, graph: Graph, known: frozenset[int]):
        position = {v: k for k, v in enumerate(graph.inputs)}
        nodes: dict[Node, None] = {}
        wanted: list[Value] = []
        self.targets: list[int] = []
        for v, spec in zip(graph.outputs, graph.signature.outputs):
            if spec.kind != "write" or spec.target not in known:
                continue
            needed = slice_of(graph.nodes, [v])
            read = {position[x] for n in needed for x in n.inputs if x in position}
            if len(needed) <= MOST_NODES and all(map(_is_small, needed)) and read <= known:
                nodes |= dict.fromkeys(needed)
                wanted.append(v)
                self.targets.append(spec.target)
        used = {v for n in nodes for v in n.inputs} | set(wanted)
        self.reads = [k for v, k in position.items() if v in used]
        ordered = [n for n in graph.nodes if n in nodes]
        given = [graph.inputs[k] for k in self.reads]
        self.graph = extract(f"{graph.name}_on_host", ordered, given, (), wanted, graph.constants)

    def run(self, inputs: Sequence[Any]) -> dict[int, np.ndarray]:
        """What is to be written into which inputs."""
        if not self.targets:
            return {}
        with np.errstate(all="ignore"):
            return dict(zip(self.targets, run(self.graph, [inputs[k] for k in self.reads])))


def _is_small(node: Node) -> bool:
    if node.op.name in CONTROL or not node.op.pure:
        return False
    return all(isinstance(v.type.size, int) and v.type.size <= SMALL for v in (*node.inputs, *node.outputs))
