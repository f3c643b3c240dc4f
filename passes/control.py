"""Control flow without what nobody reads: results, what is carried from step to step for their sake, and operands.

Gradients and transforms leave much of that behind: a scan hands on its carries for a backward pass that may never come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..ir import ops
from ..ir.graph import Graph, Node, Rewriter, Signature, Value
from ..ir.ops.control import CONTROL
from ..ir.subgraph import subgraphs
from .fuel import Fuel

FAILING = frozenset(("gather", "scatter", "check_index"))  # ops whose indices are checked, whoever reads the result


def trim(graph: Graph, fuel: Fuel) -> Graph:
    """Needs nothing; leaves no result, carried value or operand of control flow that nothing depends on, and carries
    nothing that does not change. Runs until nothing changes: what one node no longer needs, another need not give."""
    while any(n.op.name in CONTROL for n in graph.nodes):
        new = _Trim(graph, fuel).run()
        if new is graph:
            break
        graph = new
    return graph


def _alive(graph: Graph, outputs: Iterable[Value]) -> set[Value]:
    """The values that these outputs, and checks, depend on."""
    alive = set(outputs)
    for node in reversed(graph.nodes):
        if any(v in alive for v in node.outputs) or node.op.name in FAILING or _may_fail(node):
            alive.update(node.inputs)
            alive.update(node.outputs)
    return alive


def _may_fail(node: Node) -> bool:
    return not node.op.pure or any(n.op.name in FAILING or _may_fail(n) for g in subgraphs(node) for n in g.nodes)


def _reduced(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value], alive: set[Value]) -> Graph:
    """The graph with fewer inputs and outputs."""
    nodes = tuple(n for n in graph.nodes if any(v in alive for v in n.outputs))
    signature = Signature.plain(len(inputs), len(outputs))
    return replace(graph, inputs=tuple(inputs), nodes=nodes, outputs=tuple(outputs), signature=signature)


class _Trim(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel
        self.read = set(graph.outputs).union(*(n.inputs for n in graph.nodes))

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op.name not in CONTROL:
            return None
        used = [v in self.read for v in node.outputs]
        if not any(used):
            return None  # dead code, or there for its checks
        return {"cond": self._cond, "while": self._while, "scan": self._scan}[node.op.name](node, inputs, used)

    def _results(self, node: Node, kept: Sequence[int], found: Sequence[Value]) -> tuple[Value, ...]:
        """A value for each of the node's results; for those that are gone, which nobody reads, zeros."""
        new = dict(zip(kept, found, strict=True))
        return tuple(
            new[k] if k in new else ops.full(value=0, shape=v.shape, dtype=v.dtype) for k, v in enumerate(node.outputs)
        )

    def _cond(self, node: Node, inputs: tuple[Value, ...], used: list[bool]) -> tuple[Value, ...] | None:
        graphs = list(subgraphs(node))
        outputs = [k for k, u in enumerate(used) if u]
        alive = [_alive(g, [g.outputs[k] for k in outputs]) for g in graphs]
        operands = [k for k in range(len(inputs) - 1) if any(g.inputs[k] in a for g, a in zip(graphs, alive))]
        if len(outputs) == len(used) and len(operands) == len(inputs) - 1 or not self.fuel.spend("simplify"):
            return None
        true, false = (
            _reduced(g, [g.inputs[k] for k in operands], [g.outputs[k] for k in outputs], a)
            for g, a in zip(graphs, alive)
        )
        given = (inputs[0], *(inputs[k + 1] for k in operands))
        return self._results(node, outputs, self.builder.emit(node.op, given, {"true": true, "false": false}))

    def _while(self, node: Node, inputs: tuple[Value, ...], used: list[bool]) -> tuple[Value, ...] | None:
        a = node.attrs
        test, body, n = a["cond"], a["body"], a["carried"]
        always = _alive(test, test.outputs)
        kept = {k for k in range(n) if used[k] or test.inputs[k] in always}
        kept, alive = _carried(body, n, kept, ())
        constant = [k for k in sorted(kept) if body.outputs[k] is body.inputs[k]]
        carry = [k for k in sorted(kept) if k not in constant]
        rest = [*constant, *(k for k in range(n, len(inputs)) if body.inputs[k] in alive or test.inputs[k] in always)]
        if len(carry) == n and len(rest) == len(inputs) - n or not carry or not self.fuel.spend("simplify"):
            return None
        order = [*carry, *rest]
        new = {
            "cond": _reduced(test, [test.inputs[k] for k in order], test.outputs, always),
            "body": _reduced(body, [body.inputs[k] for k in order], [body.outputs[k] for k in carry], alive),
            "carried": len(carry),
        }
        found = self.builder.emit(node.op, tuple(inputs[k] for k in order), new)
        return self._results(node, [*carry, *constant], [*found, *(inputs[k] for k in constant)])

    def _scan(self, node: Node, inputs: tuple[Value, ...], used: list[bool]) -> tuple[Value, ...] | None:
        a = node.attrs
        body, n, m = a["body"], a["carried"], a["scanned"]
        ys = [k for k in range(n, len(used)) if used[k]]
        kept, alive = _carried(body, n, {k for k in range(n) if used[k]}, [body.outputs[k] for k in ys])
        constant = [k for k in sorted(kept) if body.outputs[k] is body.inputs[k]]
        carry = [k for k in sorted(kept) if k not in constant]
        rows = [k for k in range(n, n + m) if body.inputs[k] in alive]
        rest = [*constant, *(k for k in range(n + m, len(inputs)) if body.inputs[k] in alive)]
        same = (len(carry), len(rows), len(rest), len(ys)) == (n, m, len(inputs) - n - m, len(used) - n)
        if same or not carry and not ys or not self.fuel.spend("simplify"):
            return None
        order = [*carry, *rows, *rest]
        outputs = [body.outputs[k] for k in (*carry, *ys)]
        new = {
            "body": _reduced(body, [body.inputs[k] for k in order], outputs, alive),
            "carried": len(carry),
            "scanned": len(rows),
            "length": a["length"],
            "reverse": a["reverse"],
        }
        found = self.builder.emit(node.op, tuple(inputs[k] for k in order), new)
        return self._results(node, [*carry, *ys, *constant], [*found, *(inputs[k] for k in constant)])


def _carried(body: Graph, n: int, kept: set[int], others: Sequence[Value]) -> tuple[set[int], set[Value]]:
    """The carried values that the ones in `kept` and these outputs depend on, from step to step, and all that does."""
    while True:
        alive = _alive(body, [*(body.outputs[k] for k in kept), *others])
        more = {k for k in range(n) if body.inputs[k] in alive}
        if more <= kept:
            return kept, alive
        kept = kept | more


__all__ = ["trim"]
