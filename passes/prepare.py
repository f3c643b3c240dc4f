"""The last graph pass before fusion: everything that needs memory of its own becomes a value that runs."""

from __future__ import annotations

from ..ir import dim, ops
from ..ir.dim import Dim
from ..ir.graph import Graph, Node, Rewriter, Value
from .access import CREATION, DIVISIONS, Index, broadcast_index, index_map, is_virtual, most_divisions
from .fuse import SEE_THROUGH, addressed, axis_symbol, memory_root, overwritten
from .host import on_host


def copy(v: Value) -> Value:
    """An element-wise copy: a cast to the same type."""
    return ops.cast(v, dtype=v.dtype)


def prepare(graph: Graph) -> Graph:
    """Needs primitive ops. Leaves every output computed by a node that runs, no value in two outputs, the tensors that
    gather and host steps read in memory, those that are overwritten without other readers, and no long rows of nodes that
    only move elements."""
    read = {v for n in graph.nodes for v in addressed(n)}
    wanted = {v for v in read if (root := memory_root(v)).node is not None and is_virtual(root.node)}
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
    """Copies the operands in `wanted`, and what nodes in a row have moved often or in a complicated way."""

    def __init__(self, graph: Graph, wanted: set[Value]):
        super().__init__(graph)
        self.wanted = wanted
        self.copies: dict[Value, Value] = {}
        self.rows: dict[Value, tuple[int, Index]] = {}  # nodes in a row, and where their first one reads its operand
        self.copied = False
        self.users = graph.users()

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        row, at = self._row(node)
        if is_virtual(node) and (row >= SEE_THROUGH or most_divisions([at]) > DIVISIONS):
            self.copied = True
            return (copy(self.builder.emit(node.op, inputs, node.attrs)[0]),)
        if row:
            self.rows[node.out] = row, at
        shared = [v for v in overwritten(node) if not self._is_own(v) or node.inputs.count(v) > 1]
        if not shared and not self.wanted.intersection(addressed(node)):
            return None
        given = list(inputs)
        for k in map(node.inputs.index, shared):
            self.copied = True
            given[k] = copy(inputs[k])
        for k, v in enumerate(addressed(node)):
            if v in self.wanted:
                if v not in self.copies:
                    self.copied = True
                    self.copies[v] = copy(inputs[k])
                given[k] = self.copies[v]
        return self.builder.emit(node.op, tuple(given), node.attrs)

    def _is_own(self, v: Value) -> bool:
        """Whether `v` has memory of its own that only one node reads, so that this one may take it over."""
        if v.node is None or is_virtual(v.node) or v.node.op.name == "gather" or v in self.graph.outputs:
            return False
        return len(self.users[v]) == 1

    def _row(self, node: Node) -> tuple[int, Index]:
        """How many nodes that run nowhere end with this one, and the worst index through all of them; (0, ()) for nodes
        that run."""
        own = tuple(axis_symbol(k, n) for k, n in enumerate(node.out.shape))
        if on_host(node):
            return 0, ()
        if node.op.name in CREATION:
            return 1, own
        if node.op.name == "gather":
            rank = len(own) - (node.inputs[0].ndim - len(node.inputs) + 1)
            reads = [(v, broadcast_index(own[:rank], v.shape)) for v in node.inputs[1:]]
        elif is_virtual(node):
            reads = [(node.inputs[a.operand], a.index) for a in index_map(node, own).alternatives]
        elif node.op.kind == "pointwise" and all(v in self.rows for v in node.inputs):
            reads = [(v, broadcast_index(own, v.shape)) for v in node.inputs]  # may be computed wherever it is read
        else:
            return 0, ()
        row, worst = 0, own
        for v, at in reads:
            before, index = self.rows.get(v, (0, None))
            if index is not None:
                symbols = (axis_symbol(k, n) for k, n in enumerate(v.shape))
                env = {s: i for s, i in zip(symbols, at) if isinstance(s, Dim)}
                at = tuple(dim.substitute(d, env) for d in index)
            row = max(row, before + 1)
            worst = max(worst, at, key=lambda i: most_divisions([i]))
        return row, worst
