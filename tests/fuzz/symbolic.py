"""The same program with symbols in place of some of its sizes."""

from __future__ import annotations

from math import prod

from generator import Program
from tracefuse.ir import dim
from tracefuse.ir.dim import DimLike
from tracefuse.ir.graph import Graph, GraphBuilder, Node, Value
from tracefuse.ir.op import Attrs
from tracefuse.ir.types import TypeRuleError

NAMES = ("n", "m")
SIZES_IN_ATTRIBUTES = ("shape", "stop", "size")


def symbolic(p: Program) -> Graph | None:
    """A graph that has symbols where the program's inputs have one of their two largest sizes, or only the largest; None
    if no such graph is well typed. Given the program's inputs it computes what the program computes."""
    sizes = sorted({n for v in p.graph.inputs for n in v.shape if isinstance(n, int) and n > 1}, reverse=True)
    for chosen in dict.fromkeys((tuple(sizes[:2]), tuple(sizes[:1]), tuple(sizes[1:2]))):
        found = _with_symbols(p.graph, {n: dim.symbol(name, 2) for n, name in zip(chosen, NAMES)}) if chosen else None
        if found is not None:
            return found
    return None


def _with_symbols(graph: Graph, symbols: dict[int, DimLike]) -> Graph | None:
    b = GraphBuilder(f"{graph.name}_symbolic")
    env: dict[Value, Value] = {}
    for v in graph.inputs:
        env[v] = b.input(v.type.with_shape(tuple(symbols.get(n, n) for n in v.shape)), v.name)  # type: ignore[call-overload]
    for v, a in graph.constants.items():
        env[v] = b.constant(a, v.name)
    for node in graph.nodes:
        args = tuple(env[v] for v in node.inputs)
        b.loc = node.loc
        try:
            attrs = _attributes(node, args, symbols)
            out = b.emit(node.op, args, attrs)
        except (TypeRuleError, TypeError, ValueError, IndexError):  # a question that only numbers answer is one too
            return None
        env.update(zip(node.outputs, out, strict=True))
    outs = [env[v] for v in graph.outputs]
    if any(s.target >= 0 and v.type != b.inputs[s.target].type for v, s in zip(outs, graph.signature.outputs)):
        return None
    return b.finish(outs, graph.signature)


def _attributes(node: Node, args: tuple[Value, ...], symbols: dict[int, DimLike]) -> Attrs:
    attrs = dict(node.attrs)
    if node.op.name == "reshape":
        return {**attrs, "shape": _reshaped(node.inputs[0].shape, args[0].shape, attrs["shape"])}
    for name in SIZES_IN_ATTRIBUTES:
        if isinstance(attrs.get(name), tuple):
            attrs[name] = tuple(symbols.get(n, n) for n in attrs[name])
        elif name in attrs:
            attrs[name] = symbols.get(attrs[name], attrs[name])
    return attrs


def _reshaped(shape: tuple, symbolic: tuple[DimLike, ...], wanted: tuple) -> tuple[DimLike, ...]:
    """The wanted shape, of products of the symbolic sizes. TypeRuleError if it takes a symbol apart."""
    out: list[DimLike] = []
    k = 0
    for n in wanted:
        taken: DimLike = 1
        count = 1
        while count < n and k < len(shape) or count == n and k < len(shape) and shape[k] == 1 and n != 1:
            count, taken, k = count * shape[k], taken * symbolic[k], k + 1
        if count != n:
            break
        out.append(taken)
    else:
        if all(x == 1 for x in shape[k:]):
            return tuple(out)
    if all(isinstance(d, int) for d in symbolic):
        return wanted
    raise TypeRuleError(f"no reshape of {symbolic} to {wanted} of {prod(wanted)} elements")
