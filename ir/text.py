"""The text form of graphs: what tests, bug reports, cache keys and files hold. `parse_graph(format_graph(g))` equals g.

    graph @f(%x: f32[n, 64], %w: f32[64, 10]) -> (%1) {
      sym n in [1, inf]
      const %c: f32[10]
      %0: f32[n, 10] = matmul(%x, %w)  # model.py:12
      %1: f32[n, 10] = add(%0, %c)
      in %x "x" arg
      in %w "net.weight" state
      out %1 result
    }

Graphs that a node holds (`cond`, `while`, `scan`) are written before it, and named in its attributes: `body=@step`.
Constants stay out of line unless asked for; `text_reader.py` reads the form back.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterable

import numpy as np

from . import dim
from .dim import Dim, DimLike
from .dtypes import DType
from .graph import Graph, Node, Value
from .subgraph import subgraphs
from .text_reader import LITERAL, InvalidGraph, parse_graph
from .verify import node_sizes

INLINE_LIMIT = 16  # elements of constants that `data=True` writes into the text
_WORD = re.compile(r"\w+", re.ASCII)
_NAME = re.compile(r"[\w.]+", re.ASCII)


def format_graph(graph: Graph, data: bool = False) -> str:
    """The graph's text. `data`: with the values of constants of at most 16 elements. TypeError names an attribute whose
    value has no text form."""
    return "\n".join(Printer(graph).lines(data))


def graph_key(graph: Graph) -> str:
    """The text without anything a compiled program does not depend on: names, paths, source lines, constants' data.

    Equal keys mean equal code, but not equal messages: those of checks name lines of the program at hand.
    """
    return "\n".join(Printer(graph, canonical=True).lines())


def equal_graphs(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same but for the names of values and inner graphs, and source lines: structure, types, attributes
    (1, 1.0 and True differ, 0.0 and -0.0 too), constants bit by bit, signature, name."""
    if a.name != b.name or a.signature != b.signature or graph_key(a) != graph_key(b):
        return False
    return all(_bits(x) == _bits(y) for x, y in zip(a.constants.values(), b.constants.values(), strict=True))


def _bits(x: np.ndarray) -> bytes:
    return x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes()


class Printer:
    """Writes one graph. `canonical`: values by number, and nothing else that has no influence on the program. `name`: of a
    graph inside of a node."""

    def __init__(self, graph: Graph, canonical: bool = False, name: str = ""):
        self.graph, self.canonical = graph, canonical
        self.inside = bool(name)
        self.own_name = name or ("" if canonical else graph.name)
        self.inner: dict[int, str] = {}  # names of graphs that nodes hold, by id
        self.names: dict[Value, str] = {}
        taken: set[str] = set()
        for v in graph.values():
            if v in self.names:
                continue
            name = "" if canonical else v.name
            if not _WORD.fullmatch(name) or name in taken:
                k = len(self.names)
                while (name := f"v{k}") in taken:
                    k += 1
            taken.add(name)
            self.names[v] = name
        for g in (g for n in graph.nodes for g in subgraphs(n)):
            if id(g) not in self.inner:
                self.inner[id(g)] = self._inner_name(g)

    def _inner_name(self, g: Graph) -> str:
        used = set(self.inner.values())
        if not self.canonical and _WORD.fullmatch(g.name) and g.name not in used:
            return g.name
        base = "g" if self.canonical or not _WORD.fullmatch(g.name) else f"{g.name}_"
        k = len(used)
        while (name := f"{base}{k}") in used:
            k += 1
        return name

    def lines(self, data: bool = False) -> Iterable[str]:
        yield self.header() + " {"
        for s in self._symbols():
            ((atom,), _) = s.terms[0]  # a symbol is one atom
            yield f"  sym {s} in [{format_value(atom.lo)}, {'inf' if atom.hi is None else format_value(atom.hi)}]"
        for v, array in self.graph.constants.items():
            values = inline(array) if data and not self.canonical else ""
            yield f"  const {self.name(v)}: {v.type}{values and f' = {values}'}"
        written: set[int] = set()
        for n in self.graph.nodes:
            for g in subgraphs(n):
                if id(g) not in written:
                    written.add(id(g))
                    inner = Printer(g, self.canonical, self.inner[id(g)])
                    yield from (f"  {line}" for line in inner.lines(data))
            yield self.node(n)
        if not self.inside:  # graphs inside of nodes have a plain one
            yield from self.signature()
        yield "}"

    def name(self, v: Value) -> str:
        return f"%{self.names.get(v, 'undefined')}"

    def header(self) -> str:
        name = self.own_name
        name = name if _NAME.fullmatch(name) else json.dumps(name)
        inputs = ", ".join(f"{self.name(v)}: {v.type}" for v in self.graph.inputs)
        return f"graph @{name}({inputs}) -> ({', '.join(map(self.name, self.graph.outputs))})"

    def node(self, n: Node) -> str:
        results = ", ".join(f"{self.name(v)}: {v.type}" for v in n.outputs)
        args = [self.name(v) for v in n.inputs]
        for k, v in n.attrs.items() if not self.canonical else sorted(n.attrs.items()):
            try:
                args.append(
                    f"{k}=@{self.inner.get(id(v), v.name)}" if isinstance(v, Graph) else f"{k}={format_value(v)}"
                )
            except TypeError as e:
                raise TypeError(f"{n.op.name}: attribute {k}: {e}") from None
        line = f"  {results} = {n.op.name}({', '.join(args)})"
        if n.loc is None or self.canonical:
            return line
        return f"{line}  # {''.join(c if c.isprintable() else '?' for c in str(n.loc))}"

    def signature(self) -> Iterable[str]:
        spec = self.graph.signature
        aliases: dict[str, str] = {}
        for k, i in enumerate(spec.inputs):
            name = self.name(self.graph.inputs[k]) if k < len(self.graph.inputs) else "%undefined"
            path = "" if self.canonical else i.path
            alias = aliases.setdefault(i.alias, f"a{len(aliases)}" if self.canonical else i.alias) if i.alias else ""
            yield f"  in {name} {json.dumps(path)} {i.kind}" + (f" alias {json.dumps(alias)}" if alias else "")
        for k, o in enumerate(spec.outputs):
            name = self.name(self.graph.outputs[k]) if k < len(self.graph.outputs) else "%undefined"
            path = "" if self.canonical else o.path
            target = f" {o.target}" if o.target != -1 else ""
            yield f"  out {name} {o.kind}{target}" + (f" {json.dumps(path)}" if path else "")

    def _symbols(self) -> list[Dim]:
        """Every symbol of the graph, in order of appearance; those that a range mentions come before it."""
        out: dict[Dim, None] = {}

        def add(d: DimLike) -> None:
            for s in sorted(dim.symbols(d), key=str):
                if s not in out:
                    ((atom,), _) = s.terms[0]  # a symbol is one atom
                    add(atom.lo)
                    add(0 if atom.hi is None else atom.hi)
                    out[s] = None

        for v in (*self.graph.inputs, *self.graph.constants):
            for d in v.type.shape:
                add(d)
        for n in self.graph.nodes:
            for d in node_sizes(n):
                add(d)
        return list(out)


def format_value(v: Any) -> str:
    """An attribute: int, float, bool, None, str, DType, Dim or nested tuples of these. TypeError for anything else."""
    if isinstance(v, np.generic) and not isinstance(v, (float, str)):
        v = v.item()
    if isinstance(v, tuple):
        return f"({', '.join(map(format_value, v))}{',' if len(v) == 1 else ''})"
    if isinstance(v, Dim):
        text = str(v)
        return f"0 + {text}" if LITERAL.fullmatch(text) else text  # a size named like a literal
    if isinstance(v, DType):
        return v.code
    if isinstance(v, str):
        return json.dumps(v)
    if isinstance(v, float):
        return repr(float(v))
    if v is None or isinstance(v, (bool, int)):
        return repr(v)
    raise TypeError(f"a {type(v).__name__} has no text form")


def inline(array: np.ndarray) -> str:
    """The values of a small constant, exactly; "" if it is large or its NaNs carry bits that no text tells."""
    if array.size > INLINE_LIMIT or array.dtype.kind == "c":
        return ""
    flat = array.reshape(-1)
    values = [x.item() if flat.dtype.kind in "biu" else float(repr(float(x))) for x in flat]
    if _bits(np.array(values, dtype=array.dtype)) != _bits(flat):
        return ""
    return f"[{', '.join(map(repr, values))}]"


__all__ = [
    "InvalidGraph",
    "Printer",
    "equal_graphs",
    "format_graph",
    "format_value",
    "graph_key",
    "inline",
    "parse_graph",
]
