"""The graph verifier: SSA order, declared ops, re-inferred types, attributes, sizes and the signature."""

from __future__ import annotations

import re
from math import prod
from typing import Any, Callable, Iterable

from . import dim
from .dim import Dim, DimLike
from .dtypes import DType, from_numpy
from .graph import Graph, Node, Signature, Value
from .op import REGISTRY, Attrs, OpDef
from .subgraph import sizes_in, subgraphs
from .types import TensorType

INPUT_KINDS = frozenset(("arg", "scalar", "state", "rng"))
OUTPUT_KINDS = frozenset(("result", "write", "attr", "check"))
MAX_BYTES = 1 << 62  # of one tensor: offsets are 64-bit
_SIZE_NAME = re.compile(r"[A-Za-z_]\w*")


class VerifyError(ValueError):
    """A graph that breaks a rule of the IR. The message names the pass and shows the lines around the fault."""


# ------------------------------------------------------------------ attributes


def _integer(v: Any) -> bool:
    return type(v) is int and -(1 << 63) <= v < 1 << 64


def _size(v: Any) -> bool:
    return type(v) is Dim or _integer(v)


def _number(v: Any) -> bool:
    return type(v) in (bool, float) or _size(v)


def _text(v: Any) -> bool:
    return type(v) is str


def _many(one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: type(v) is tuple and all(map(one, v))


# What each attribute name may hold, in every op that has it. "low" and "high" are numbers in pointwise ops.
ATTRIBUTES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "dtype": ("an element type", lambda v: type(v) is DType),
    **dict.fromkeys(("mode", "approximate"), ("a string", _text)),
    **dict.fromkeys(("true", "false", "cond", "body"), ("a graph", lambda v: isinstance(v, Graph))),
    **dict.fromkeys(
        ("descending", "right", "inverse", "full_matrices", "reverse", "causal"),
        ("True or False", lambda v: type(v) is bool),
    ),
    **dict.fromkeys(("n", "length"), ("a size", _size)),
    "rtol": ("a number or None", lambda v: v is None or _number(v)),
    **dict.fromkeys(
        ("axis", "groups", "correction", "ndim_normalized", "carried", "scanned"), ("an integer", _integer)
    ),
    **dict.fromkeys(
        ("value", "fill", "alpha", "slope", "beta", "threshold", "eps", "scale", "dropout"), ("a number", _number)
    ),
    **dict.fromkeys(
        ("perm", "axes", "step", "stride", "dilation", "lhs_dilation", "rhs_dilation"),
        ("a tuple of integers", _many(_integer)),
    ),
    **dict.fromkeys(("shape", "start", "stop", "window"), ("a tuple of sizes", _many(_size))),
    **dict.fromkeys(("low", "high"), ("a number or a tuple of sizes", lambda v: _number(v) or _many(_size)(v))),
    "size": ("a size or a tuple of sizes", lambda v: _size(v) or _many(_size)(v)),
}


def check_attributes(op: OpDef, attrs: Attrs) -> None:
    """ValueError unless `attrs` are the op's, each of its kind."""
    if attrs.keys() != op.attrs.keys():
        raise ValueError(f"{op.name} has the attributes ({', '.join(op.attrs)}), not ({', '.join(attrs)})")
    for name, value in attrs.items():
        known = ATTRIBUTES.get(name)
        if known is not None and not known[1](value):
            raise ValueError(f"{op.name}: {name} must be {known[0]}, not {value!r}")
        if op.kind == "pointwise" and name in ("low", "high") and not _number(value):
            raise ValueError(f"{op.name}: {name} must be a number, not {value!r}")
    if op.name == "full":
        _check_fill(attrs["value"], attrs["dtype"])


def _check_fill(value: Any, dtype: DType) -> None:
    if isinstance(value, Dim) or dtype.is_floating:
        return
    if value != value or abs(value) >= 1 << 64:
        raise ValueError(f"full: {value} is no {dtype.name}")


# ------------------------------------------------------------------ nodes


def check_type(t: TensorType) -> None:
    """ValueError unless sizes are ints or Dims, not negative, and the bytes of a tensor of static shape countable."""
    for d in t.shape:
        if type(d) is not int and type(d) is not Dim:
            raise ValueError(f"the size {d!r} of {t} is a {type(d).__name__}")
        if dim.negative(d):
            raise ValueError(f"{t} has the negative size {d}")
    if prod(d for d in t.shape if isinstance(d, int)) * t.dtype.itemsize > MAX_BYTES:
        raise ValueError(f"{t} is too large")


def check_application(op: OpDef, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    """The result types of `op`. ValueError when it is not a declared op or takes other operands or attributes."""
    if REGISTRY.get(op.name) is not op:
        raise ValueError(f"{op.name} is not a registered op")
    least = len(op.operands) - op.variadic
    if len(types) < least or len(types) > least and not op.variadic:
        raise ValueError(f"{op.name} takes {', '.join(op.operands) or 'no operands'}; {len(types)} were given")
    check_attributes(op, attrs)
    try:
        out = op.result_types(types, attrs)
    except Exception as e:  # type rules see unchecked operands: whatever they raise, the operands are wrong
        raise ValueError(f"{op.name}({', '.join(map(str, types))}): {e}") from None
    for t in out:
        check_type(t)
    return out


# ------------------------------------------------------------------ the whole graph


def symbol_clash(types: Iterable[DimLike]) -> str:
    """The name that two different symbols share, or ""."""
    seen: dict[str, Dim] = {}
    for d in types:
        for s in dim.symbols(d):
            if seen.setdefault(str(s), s) != s:
                return str(s)
    return ""


def check_sizes(graph: Graph, inside: bool = False) -> None:
    """ValueError if a symbol has two ranges, or if one that the nodes use is no whole axis of an input, and no `extent`
    has said before what it is. Graphs `inside` of nodes know the sizes of the graph around them."""
    sizes = [d for v in graph.inputs for d in v.type.shape]
    clash = symbol_clash(sizes)
    if clash:
        raise ValueError(f"two sizes with different ranges are named {clash}")
    if inside:
        return
    known = {d for d in sizes if isinstance(d, Dim) and d.symbols() == {d} and _SIZE_NAME.fullmatch(str(d))}
    used: dict[Dim, None] = {}
    for d in sizes:
        used.update(dict.fromkeys(dim.symbols(d)))
    for n in graph.nodes:
        if n.op.name == "extent":
            known |= dim.symbols(n.attrs["size"])
        for d in node_sizes(n):
            used.update(dict.fromkeys(s for s in dim.symbols(d) if s not in known))
    for s in used:
        if s not in known:
            raise ValueError(f"the size {s} is not given by any input")


def node_sizes(node: Node) -> Iterable[DimLike]:
    """The sizes in a node's attributes and result types."""
    for value in node.attrs.values():
        yield from sizes_in(value)
    for v in node.outputs:
        yield from v.type.shape


def symbols_in(nodes: Iterable[Node]) -> set[Dim]:
    """The symbols that nodes have sizes of."""
    return {s for n in nodes for d in node_sizes(n) for s in dim.symbols(d)}


def check_signature(graph: Graph) -> None:
    """ValueError unless the signature describes exactly the graph's inputs and outputs."""
    signature, inputs = graph.signature, graph.inputs
    if len(signature.inputs) != len(inputs) or len(signature.outputs) != len(graph.outputs):
        raise ValueError(
            f"the signature has {len(signature.inputs)} inputs and {len(signature.outputs)} outputs, "
            f"the graph {len(inputs)} and {len(graph.outputs)}"
        )
    for k, spec in enumerate(signature.inputs):
        if spec.kind not in INPUT_KINDS:
            raise ValueError(f"input {k} is of the unknown kind {spec.kind!r}")
    written: set[int] = set()
    for k, (v, out) in enumerate(zip(graph.outputs, signature.outputs)):
        if out.kind not in OUTPUT_KINDS:
            raise ValueError(f"output {k} is of the unknown kind {out.kind!r}")
        if out.kind == "check" and (v.dtype.kind != "b" or v.ndim):
            raise ValueError(f"output {k} is a check, so it must be one bool, not {v.type}")
        if not (0 if out.kind == "write" else -1) <= out.target < len(inputs):
            raise ValueError(f"output {k} is input {out.target}, which does not exist")
        if out.target >= 0 and inputs[out.target].type != v.type:
            raise ValueError(f"output {k}, a {v.type}, cannot be input {out.target}, a {inputs[out.target].type}")
        if out.kind == "write":
            if out.target in written:
                raise ValueError(f"input {out.target} is written twice")
            written.add(out.target)


def check_closed(graph: Graph) -> None:
    """ValueError unless a graph that a node holds needs nothing but its inputs, and only gives results."""
    if graph.constants:
        raise ValueError(f"the graph {graph.name} inside of a node holds constants; they must be operands")
    if graph.signature != Signature.plain(len(graph.inputs), len(graph.outputs)):
        raise ValueError(
            f"the graph {graph.name} inside of a node has a signature of its own; it takes and gives values"
        )


def verify(graph: Graph, after: str = "", inside: bool = False) -> None:
    """Raises VerifyError, naming the pass `after` which the graph was made, at the first broken rule. `inside`: it is held
    by a node of another graph."""
    known: dict[Value, None] = {}
    for k, v in enumerate(graph.inputs):
        if v in known or v.node is not None:
            raise _error(graph, after, f"input {k} is listed twice, or computed", -1)
        known[v] = None
        _run(graph, after, -1, check_type, v.type)
    for v, array in graph.constants.items():
        if v in known or v.node is not None:
            raise _error(graph, after, f"constant {v!r} is also an input, or computed", -1)
        known[v] = None
        if (from_numpy(array.dtype), array.shape) != (v.dtype, v.shape):
            raise _error(graph, after, f"constant {v!r} holds {array.dtype}{list(array.shape)}", -1)
    for k, node in enumerate(graph.nodes):
        for j, v in enumerate(node.inputs):
            if v not in known:
                raise _error(graph, after, f"operand {j} of {node.op.name} is not computed before it", k)
        for g in subgraphs(node):
            _run(graph, after, k, check_closed, g)
            verify(g, after, True)
        types = _run(graph, after, k, check_application, node.op, tuple(v.type for v in node.inputs), node.attrs)
        if types != tuple(v.type for v in node.outputs):
            raise _error(graph, after, f"{node.op.name} gives {', '.join(map(str, types))} here", k)
        for j, v in enumerate(node.outputs):
            if v in known or v.node is not node or v.index != j:
                raise _error(graph, after, f"result {j} of {node.op.name} belongs to another node", k)
            known[v] = None
    for k, v in enumerate(graph.outputs):
        if v not in known:
            raise _error(graph, after, f"output {k} is not computed", len(graph.nodes))
    _run(graph, after, len(graph.nodes), check_signature, graph)
    _run(graph, after, len(graph.nodes), check_sizes, graph, inside)


def _run(graph: Graph, after: str, at: int, check: Callable[..., Any], *args: Any) -> Any:
    try:
        return check(*args)
    except ValueError as e:
        raise _error(graph, after, str(e), at) from None


def _error(graph: Graph, after: str, problem: str, at: int) -> VerifyError:
    """The error, with the nodes around number `at` (-1: the inputs, len(nodes): the outputs)."""
    from .text import Printer

    printer = Printer(graph)
    lines: dict[int, str] = {-1: printer.header()}
    for k in range(max(0, at - 4), min(len(graph.nodes), at + 5)):
        try:
            lines[k] = printer.node(graph.nodes[k])
        except TypeError:  # what is wrong may be an attribute that has no text form
            lines[k] = f"  {graph.nodes[k]!r}"
    if at >= len(graph.nodes):
        lines[len(graph.nodes)] = "\n".join(printer.signature())
    shown = "\n".join(f"{'>' if k == at else ' '} {line}" for k, line in lines.items())
    return VerifyError(f"graph {graph.name} is wrong{f' after {after}' if after else ''}: {problem}\n{shown}")
