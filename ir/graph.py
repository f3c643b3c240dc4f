"""The graph IR: functional SSA over tensors, its signature, and the builder that records it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Iterable, Iterator, NamedTuple

import numpy as np

from . import op as _op
from .dtypes import from_numpy
from .op import Attrs, OpDef
from .types import TensorType, TypeRuleError


class Location(NamedTuple):
    """A line of the user's program."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


class Value:
    """One SSA value: a graph input, a constant, or result `index` of `node`."""

    __slots__ = ("type", "node", "index", "name", "builder")

    def __init__(
        self, type: TensorType, node: "Node | None" = None, index: int = 0, name: str = "", builder: Any = None
    ):
        self.type, self.node, self.index, self.name, self.builder = type, node, index, name, builder

    @property
    def shape(self):
        return self.type.shape

    @property
    def dtype(self):
        return self.type.dtype

    @property
    def ndim(self) -> int:
        return len(self.type.shape)

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"


class Node:
    """One application of an op."""

    __slots__ = ("op", "inputs", "attrs", "outputs", "loc")

    def __init__(
        self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs, types: Iterable[TensorType], loc: Location | None
    ):
        self.op, self.inputs, self.attrs, self.loc = op, inputs, attrs, loc
        self.outputs = tuple(Value(t, self, i) for i, t in enumerate(types))

    @property
    def out(self) -> Value:
        return self.outputs[0]

    def __repr__(self) -> str:
        return f"{', '.join(map(repr, self.outputs))} = {self.op.name}({', '.join(map(repr, self.inputs))}) {self.attrs or ''}"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Where an input comes from. kind: "arg" (a leaf of the arguments), "scalar" (a Python number among them),
    "state" (a tensor that the function reaches by itself: parameter, buffer, optimizer state), "rng" (the generator's
    state). `path` is how the user would write it: "x", "batch['ids']", "net.a.weight". Inputs with the same non-empty
    `alias` share storage."""

    path: str
    kind: str = "arg"
    alias: str = ""


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What becomes of an output. kind: "result" (a leaf of the return value), "write" (overwrites input `target` at the
    commit), "attr" (becomes attribute `path`, such as "net.a.weight.grad"). A result with `target` >= 0 is returned as
    that input itself."""

    kind: str = "result"
    target: int = -1
    path: str = ""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph means to its caller. Graphs are functional: all mutation is here."""

    inputs: tuple[InputSpec, ...] = ()
    outputs: tuple[OutputSpec, ...] = ()

    @staticmethod
    def plain(n_inputs: int, n_outputs: int) -> "Signature":
        return Signature(tuple(InputSpec(f"x{i}") for i in range(n_inputs)), (OutputSpec(),) * n_outputs)


@dataclass(frozen=True, eq=False)
class Graph:
    """Immutable. Nodes are in an order in which every operand precedes its users."""

    name: str
    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    signature: Signature
    constants: dict[Value, np.ndarray] = field(default_factory=dict)

    def __str__(self) -> str:
        from .text import format_graph

        return format_graph(self)

    def values(self) -> Iterator[Value]:
        """Inputs, constants, then every node's results."""
        yield from self.inputs
        yield from self.constants
        for n in self.nodes:
            yield from n.outputs

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value (graph outputs not counted)."""
        out: dict[Value, list[Node]] = {v: [] for v in self.values()}
        for n in self.nodes:
            for v in dict.fromkeys(n.inputs):
                out[v].append(n)
        return out

    def dims(self) -> tuple:
        """The symbolic sizes of the inputs, in order of appearance."""
        seen: dict = {}
        for v in self.inputs:
            for d in v.type.shape:
                if not isinstance(d, int):
                    for s in sorted(d.symbols(), key=str):
                        seen.setdefault(s)
        return tuple(seen)

    def with_name(self, name: str) -> "Graph":
        return replace(self, name=name)


class GraphBuilder:
    """Records bound ops as nodes. Used by tracers, and by passes to rebuild a graph.

    While it is active (`with builder:`), ops without operands bind to it too. `loc` is stamped on new nodes.
    """

    depth = 0  # of builders whose values stand for values of others: how many those are

    def __init__(self, name: str = "graph"):
        self.name = name
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.constants: dict[Value, np.ndarray] = {}
        self.loc: Location | None = None
        self._lifted: dict[int, tuple[np.ndarray, Value]] = {}
        self._outer: list = []

    def __enter__(self) -> "GraphBuilder":
        self._outer.append(_op.scope.default)
        _op.scope.default = self.interpret
        return self

    def __exit__(self, *exc: object) -> None:
        _op.scope.default = self._outer.pop()

    def input(self, type: TensorType, name: str = "") -> Value:
        v = Value(type, name=name, builder=self)
        self.inputs.append(v)
        return v

    def constant(self, array: np.ndarray, name: str = "") -> Value:
        """A constant tensor; the same array gives the same value. 0-d arrays become `full` nodes."""
        found = self._lifted.get(id(array))
        if found is not None:
            return found[1]
        dtype = from_numpy(array.dtype)
        if array.ndim == 0 and not dtype.is_complex:
            v = self.emit(_op.get_op("full"), (), {"value": array.item(), "shape": (), "dtype": dtype})[0]
        else:
            v = Value(TensorType(dtype, array.shape), name=name, builder=self)
            self.constants[v] = array
        self._lifted[id(array)] = (array, v)
        return v

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        """Appends a node and returns its results. TypeRuleError if the operands don't fit."""
        try:
            types = op.result_types(tuple(v.type for v in inputs), attrs)
        except TypeRuleError as e:
            raise type(e)(f"{op.name}({', '.join(str(v.type) for v in inputs)}): {e}") from None
        node = Node(op, inputs, attrs, types, self.loc)
        for v in node.outputs:
            v.builder = self
        self.nodes.append(node)
        return node.outputs

    def interpret(self, op: OpDef, args: tuple, attrs: Attrs) -> Any:
        inputs = tuple(a if type(a) is Value else self.constant(a) for a in args)
        out = self.emit(op, inputs, attrs)
        return out[0] if op.n_outputs == 1 else out

    def finish(self, outputs: Iterable[Value], signature: Signature | None = None) -> Graph:
        """The graph of everything recorded so far."""
        outs = tuple(outputs)
        signature = signature or Signature.plain(len(self.inputs), len(outs))
        graph = Graph(self.name, tuple(self.inputs), tuple(self.nodes), outs, signature, dict(self.constants))
        number(graph)
        return graph


def _record(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    builder = None
    for a in args:  # the innermost: its values stand for values of the others
        if type(a) is Value and (builder is None or a.builder.depth > builder.depth):
            builder = a.builder
    assert builder is not None
    return builder.interpret(op, args, attrs)


_op.register_interpreter(Value, 1, _record)


def number(graph: Graph) -> None:
    """Gives every unnamed value a name: inputs keep theirs where unique, results are numbered in order."""
    taken: set[str] = set()
    for v in (*graph.inputs, *graph.constants):
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in v.name) or "x"
        if base[0].isdigit():
            base = "x" + base
        name, k = base, 1
        while name in taken:
            name, k = f"{base}_{k}", k + 1
        v.name = name
        taken.add(name)
    count = 0
    for n in graph.nodes:
        for v in n.outputs:
            v.name = str(count)
            count += 1


class Rewriter:
    """Rebuilds a graph node by node: the base of passes. Override `rewrite`; return None to keep a node as it is."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.builder = GraphBuilder(graph.name)
        self.env: dict[Value, Value] = {}
        self.changed = False

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """New results for `node`, whose operands are already `inputs` in the new graph."""
        return None

    def run(self) -> Graph:
        graph, b, env = self.graph, self.builder, self.env
        for v in graph.inputs:
            env[v] = b.input(v.type, v.name)
        for v, array in graph.constants.items():
            new = Value(v.type, name=v.name, builder=b)
            b.constants[new] = array
            b._lifted[id(array)] = (array, new)
            env[v] = new
        with b:
            for node in graph.nodes:
                inputs = tuple(env[v] for v in node.inputs)
                b.loc = node.loc
                out = self.rewrite(node, inputs)
                if out is None:
                    new = Node(node.op, inputs, node.attrs, (v.type for v in node.outputs), node.loc)
                    for v in new.outputs:
                        v.builder = b
                    b.nodes.append(new)
                    out = new.outputs
                else:
                    self.changed = True
                for old, new_value in zip(node.outputs, out, strict=True):
                    env[old] = new_value
        if not self.changed:
            return graph
        return b.finish((env[v] for v in graph.outputs), graph.signature)
