"""Algebraic simplification, constant folding, common subexpressions and dead code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Callable

import numpy as np

from ..ir import ops
from ..ir.graph import Graph, Node, Rewriter, Value
from ..ir.text import graph_key
from .fuel import Fuel
from .host import on_host

Rule = Callable[[Node, tuple[Value, ...]], Value | None]
FOLD_LIMIT = 64  # elements: larger constant results are computed when the program runs


def scalar_of(v: Value) -> bool | int | float | None:
    """The number that every element of `v` is, if it is a constant."""
    node = v.node
    while node is not None and node.op.name in ("broadcast_to", "reshape"):
        node = node.inputs[0].node
    if node is not None and node.op.name == "full" and isinstance(node.attrs["value"], (bool, int, float)):
        return node.attrs["value"]
    return None


def _is(v: Value, number: float) -> bool:
    c = scalar_of(v)
    return c is not None and c == number and not (number == 0 and math.copysign(1, c) < 0)


def same(node: Node, x: Value) -> Value | None:
    """`x`, if it can stand for the node's result."""
    return x if x.type == node.out.type else None


def drop_neutral(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """x*1, x/1, x-0, and for integers x+0 (for floats -0.0 + 0.0 is 0.0: only x + -0.0 is neutral)."""
    x, y = inputs
    name = node.op.name
    if name in ("mul", "div") and _is(y, 1):
        return same(node, x)
    if name == "mul" and _is(x, 1):
        return same(node, y)
    if name == "sub" and _is(y, 0):
        return same(node, x)
    if name == "add" and x.dtype.is_integer:
        if _is(y, 0):
            return same(node, x)
        if _is(x, 0):
            return same(node, y)
    return None


def pow_of_constant(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    x, y = inputs
    exponent = scalar_of(y)
    if exponent is None or x.type != node.out.type:
        return None
    if exponent == 2:
        return ops.mul(x, x)
    if exponent == 1:
        return x
    if exponent == 3:
        return ops.mul(ops.mul(x, x), x)
    if x.dtype.is_floating and exponent == -1:
        return ops.div(ops.full(value=1.0, shape=(), dtype=x.dtype), x)
    return None


def no_op(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """Casts, reshapes, broadcasts, permutations, slices, pads and reductions that change nothing."""
    name, a = node.op.name, node.attrs
    if name == "permute" and a["perm"] != tuple(range(len(a["perm"]))):
        return None
    if name == "flip" and a["axes"]:
        return None
    if name.startswith("reduce_") and a["axes"]:
        return None
    if name == "slice" and any(s != 1 for s in a["step"]):
        return None
    if name == "pad" and any(n != 0 for n in (*a["low"], *a["high"])):
        return None
    return same(node, inputs[0])


def compose(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """reshape of reshape, permute of permute, broadcast of broadcast."""
    inner = inputs[0].node
    if inner is None or inner.op is not node.op:
        return None
    if node.op.name == "reshape":
        return ops.reshape(inner.inputs[0], shape=node.attrs["shape"])
    if node.op.name == "permute":
        first, second = inner.attrs["perm"], node.attrs["perm"]
        return ops.permute(inner.inputs[0], perm=tuple(first[k] for k in second))
    return ops.broadcast_to(inner.inputs[0], shape=node.attrs["shape"])


def move_constant(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """A rearranged constant is a constant."""
    inner = inputs[0].node
    if inner is None or inner.op.name != "full":
        return None
    return ops.full(value=inner.attrs["value"], shape=node.out.shape, dtype=node.out.dtype)


def involution(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    inner = inputs[0].node
    return inner.inputs[0] if inner is not None and inner.op is node.op else None


IDENTITIES = {"reduce_sum": 0, "reduce_prod": 1, "reduce_any": False, "reduce_all": True, "matmul": 0, "conv": 0}


def without_elements(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """Results without elements, and reductions and contractions over nothing, are constants: no kernel loops over 0 points."""
    if len(node.outputs) != 1:
        return None
    shape, dtype = node.out.shape, node.out.dtype
    if 0 in shape:
        return ops.full(value=False if dtype.kind == "b" else 0, shape=shape, dtype=dtype)
    if node.op.name in IDENTITIES and any(0 in v.shape for v in inputs):
        value = IDENTITIES[node.op.name]
        return ops.full(value=float(value) if dtype.kind == "f" else value, shape=shape, dtype=dtype)
    return None


def exact_windows(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """Windows that tile their axes exactly are a reshape, and so are the adjoints."""
    a = node.attrs
    tiling = (
        a["stride"] == a["window"] and not any(a["low"]) and not any(a["high"]) and all(d == 1 for d in a["dilation"])
    )
    if not tiling:
        return None
    x, rank = inputs[0], len(a["window"])
    lead = x.ndim - rank if node.op.name == "windows" else x.ndim - 2 * rank
    sizes = x.shape[lead : lead + rank] if node.op.name == "windows" else a["size"]
    if any(not isinstance(n, int) or n % w for n, w in zip(sizes, a["window"])):
        return None
    if node.op.name != "windows":
        return None
    split = tuple(d for n, w in zip(sizes, a["window"]) for d in (n // w, w))
    parts = ops.reshape(x, shape=(*x.shape[:lead], *split))
    evens = tuple(lead + 2 * k for k in range(rank))
    odds = tuple(lead + 2 * k + 1 for k in range(rank))
    return ops.permute(parts, perm=(*range(lead), *evens, *odds))


def sum_of_exact_unwindows(node: Node, inputs: tuple[Value, ...]) -> Value | None:
    """Adding up the adjoint of windows that tile their axes: every element lies in one window."""
    inner = inputs[0].node
    if inner is None or inner.op.name != "unwindows":
        return None
    a = inner.attrs
    rank = len(a["window"])
    last = tuple(range(inner.out.ndim - rank, inner.out.ndim))
    tiling = (
        a["stride"] == a["window"] and not any(a["low"]) and not any(a["high"]) and all(d == 1 for d in a["dilation"])
    )
    if node.attrs["axes"] != last or not tiling:
        return None
    if any(not isinstance(n, int) or n % w for n, w in zip(a["size"], a["window"])):
        return None
    g = inner.inputs[0]
    lead = g.ndim - 2 * rank
    pairs = tuple(x for k in range(rank) for x in (lead + k, lead + rank + k))
    return ops.reshape(ops.permute(g, perm=(*range(lead), *pairs)), shape=node.out.shape)


RULES: dict[str, tuple[Rule, ...]] = {
    "mul": (drop_neutral,), "div": (drop_neutral,), "sub": (drop_neutral,), "add": (drop_neutral,),
    "pow": (pow_of_constant,), "neg": (involution,), "not": (involution,),
    "cast": (no_op, move_constant), "reshape": (no_op, compose, move_constant), "permute": (no_op, compose, move_constant),
    "broadcast_to": (no_op, compose, move_constant), "slice": (no_op, move_constant), "flip": (no_op, move_constant),
    "pad": (no_op,), "windows": (exact_windows,), "reduce_sum": (no_op, sum_of_exact_unwindows), "reduce_prod": (no_op,),
    "reduce_max": (no_op,), "reduce_min": (no_op,), "reduce_any": (no_op,), "reduce_all": (no_op,),
}  # fmt: skip


class _Simplify(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.fuel = fuel

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not inputs or not node.op.pure:
            return None
        for rule in RULES.get(node.op.name, ()):
            mark = len(self.builder.nodes)
            out = rule(node, inputs)
            if out is not None and out.type == node.out.type:
                if self.fuel.spend("simplify"):
                    return (out,)
                del self.builder.nodes[mark:]
                return None
        return self._folded(node, inputs)

    def _folded(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """Pointwise ops on constants are computed now."""
        static = all(isinstance(d, int) for d in node.out.shape)
        if node.op.kind != "pointwise" or not inputs or not static or on_host(node):
            return None
        numbers = [scalar_of(v) for v in inputs]
        if any(n is None for n in numbers) or not self.fuel.spend("fold"):
            return None
        with np.errstate(all="ignore"):
            arrays = tuple(np.asarray(n, v.dtype.np) for n, v in zip(numbers, inputs))
            value = node.op.evaluate(arrays, node.attrs)
        dtype = node.out.dtype
        number = float(value) if dtype.kind == "f" else bool(value) if dtype.kind == "b" else int(value)
        return (ops.full(value=number, shape=node.out.shape, dtype=dtype),)


class _Empty(Rewriter):
    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        constant = without_elements(node, inputs) if inputs and node.op.pure else None
        return None if constant is None else (constant,)


def fill_empty(graph: Graph) -> Graph:
    """Needs primitive ops. Leaves none that loops over nothing: kernels need points."""
    return _Empty(graph).run()


def simplify(graph: Graph, fuel: Fuel) -> Graph:
    """Applies `RULES` and folds constants until nothing changes (8 rounds at most)."""
    for _ in range(8):
        new = eliminate_dead(_Simplify(graph, fuel).run())
        if new is graph:
            break
        graph = new
    return graph


def attribute_key(attrs: dict[str, Any]) -> tuple:
    """A key that tells 1, 1.0 and True, and 0.0 and -0.0, apart. Graphs are equal by what they compute."""
    return tuple((k, _value_key(v)) for k, v in sorted(attrs.items()))


def _value_key(v: Any) -> Any:
    if isinstance(v, tuple):
        return tuple(_value_key(x) for x in v)
    if isinstance(v, Graph):
        return ("graph", graph_key(v))
    return (type(v).__name__, repr(v)) if isinstance(v, (float, complex)) else (type(v).__name__, v)


class _Share(Rewriter):
    def __init__(self, graph: Graph, fuel: Fuel):
        super().__init__(graph)
        self.seen: dict[tuple, tuple[Value, ...]] = {}
        self.fuel = fuel

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not node.op.pure:
            return None
        key = (node.op.name, inputs, attribute_key(node.attrs))
        found = self.seen.get(key)
        if found is not None and self.fuel.spend("cse"):
            return found
        out = self.builder.emit(node.op, inputs, node.attrs)
        self.seen[key] = out
        self.builder.nodes[-1].loc = node.loc
        self.changed, before = self.changed, self.changed
        self._kept = before
        return out

    def run(self) -> Graph:
        out = super().run()
        return out if len(out.nodes) < len(self.graph.nodes) else self.graph


def share(graph: Graph, fuel: Fuel) -> Graph:
    """Equal nodes with equal operands become one."""
    return _Share(graph, fuel).run()


def eliminate_dead(graph: Graph) -> Graph:
    """Drops nodes and constants that no output needs. Ops with effects stay."""
    alive: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not node.op.pure or any(v in alive for v in node.outputs):
            kept.append(node)
            alive.update(node.inputs)
    constants = {v: a for v, a in graph.constants.items() if v in alive}
    if len(kept) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants)
