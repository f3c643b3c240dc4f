"""The last graph pass before fusion: everything that needs memory of its own becomes a value that runs."""

from __future__ import annotations

from ..ir import ops
from ..ir.graph import Graph, Node, Rewriter, Value
from .access import is_virtual
from .fuse import SEE_THROUGH, memory_root


def copy(v: Value) -> Value:
    """An element-wise copy: a cast to the same type."""
    return ops.cast(v, dtype=v.dtype)


def prepare(graph: Graph) -> Graph:
    """Needs primitive ops. Leaves every output computed by a node that runs, no value in two outputs, the tensors that
    gather reads in memory, and no long rows of nodes that only move elements."""
    gathered = {n.inputs[0] for n in graph.nodes if n.op.name == "gather"}
    wanted = {v for v in gathered if (root := memory_root(v)).node is not None and is_virtual(root.node)}
    rewriter = _Copies(graph, wanted)
    rewriter.changed = True  # so that the builder is there for the outputs
    prepared = rewriter.run()
    seen: set[Value] = set()
    outputs = []
    builder = rewriter.builder
    changed = False
    with builder:
        for v, spec in zip(prepared.outputs, prepared.signature.outputs, strict=True):
            passed_on = spec.kind == "result" and spec.target >= 0
            if not passed_on and (v.node is None or is_virtual(v.node) or v in seen):
                v = copy(v)
                changed = True
            if not passed_on:
                seen.add(v)
            outputs.append(v)
    if changed:
        return builder.finish(outputs, graph.signature)
    return prepared if rewriter.copied else graph


class _Copies(Rewriter):
    """Copies the operands in `wanted`, and what the last of many moving nodes in a row gives."""

    def __init__(self, graph: Graph, wanted: set[Value]):
        super().__init__(graph)
        self.wanted = wanted
        self.copies: dict[Value, Value] = {}
        self.rows: dict[Value, int] = {}
        self.copied = False

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if is_virtual(node):
            row = 1 + max((self.rows.get(v, 0) for v in node.inputs), default=0)
            if row == SEE_THROUGH:
                self.copied = True
                return (copy(self.builder.emit(node.op, inputs, node.attrs)[0]),)
            self.rows[node.out] = row
            return None
        if node.op.name != "gather" or node.inputs[0] not in self.wanted:
            return None
        data = node.inputs[0]
        if data not in self.copies:
            self.copied = True
            self.copies[data] = copy(inputs[0])
        return self.builder.emit(node.op, (self.copies[data], *inputs[1:]), node.attrs)
