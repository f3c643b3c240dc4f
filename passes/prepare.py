"""The last graph pass before fusion: everything that needs memory of its own becomes a value that runs."""

from __future__ import annotations

from ..ir import ops
from ..ir.graph import Graph, Rewriter, Value
from .access import is_virtual
from .fuse import memory_root


def copy(v: Value) -> Value:
    """An element-wise copy: a cast to the same type."""
    return ops.cast(v, dtype=v.dtype)


def prepare(graph: Graph) -> Graph:
    """Needs primitive ops. Leaves every output computed by a node that runs, no value in two outputs, and the tensors
    that gather reads in memory."""
    gathered = {n.inputs[0] for n in graph.nodes if n.op.name == "gather"}
    wanted = {v for v in gathered if (root := memory_root(v)).node is not None and is_virtual(root.node)}
    rewriter = _CopyOperands(graph, wanted)
    rewriter.changed = True
    graph = rewriter.run()
    seen: set[Value] = set()
    outputs = []
    builder = rewriter.builder
    changed = False
    with builder:
        for v, spec in zip(graph.outputs, graph.signature.outputs, strict=True):
            passed_on = spec.kind == "result" and spec.target >= 0
            if not passed_on and (v.node is None or is_virtual(v.node) or v in seen):
                v = copy(v)
                changed = True
            if not passed_on:
                seen.add(v)
            outputs.append(v)
    return builder.finish(outputs, graph.signature) if changed else graph


class _CopyOperands(Rewriter):
    def __init__(self, graph: Graph, wanted: set[Value]):
        super().__init__(graph)
        self.wanted = wanted
        self.copies: dict[Value, Value] = {}

    def rewrite(self, node, inputs):
        if node.op.name != "gather" or node.inputs[0] not in self.wanted:
            return None
        data = node.inputs[0]
        if data not in self.copies:
            self.copies[data] = copy(inputs[0])
        return self.builder.emit(node.op, (self.copies[data], *inputs[1:]), node.attrs)
