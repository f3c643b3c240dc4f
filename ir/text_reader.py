"""Reads graphs from their text form. Text comes from anywhere: whatever is wrong with it gives `InvalidGraph`."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping

import numpy as np

from . import dim
from .dim import DimLike
from .dim_text import parse as parse_dim
from .dtypes import EVERY, DType, from_numpy
from .graph import Graph, InputSpec, Location, Node, OutputSpec, Signature, Value
from .op import REGISTRY, Attrs
from .types import TensorType
from .verify import check_application, check_closed, check_signature, check_sizes, check_type

_CODES = {d.code: d for d in EVERY}
_NAMED: dict[str, Any] = {"True": True, "False": False, "None": None}
_SPECIAL = {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}
_WORDS: dict[str, Any] = {**_NAMED, **_SPECIAL, **_CODES}
# What is a value by itself; anything else in an attribute is a tuple or a size expression.
LITERAL = re.compile(r"-?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|" + "|".join(map(re.escape, _WORDS)))
_STRING = r'"(?:[^"\\]|\\.)*"'
_PUNCTUATION = re.compile(rf"{_STRING}|[][(),]")
_HEADER = re.compile(rf"graph @([\w.]+|{_STRING})\((.*)\) -> \(([^()]*)\) \{{", re.ASCII)
_SYM = re.compile(r"sym ([A-Za-z_]\w*) in \[([^,]+|.+), ([^,]+|.+)\]")
_TYPED = re.compile(r"%(\w+): (\w+)\[([^][]*)\]", re.ASCII)
_NODE = re.compile(r"([^=]*) = (\w+)\((.*)", re.ASCII)
_IN = re.compile(rf"in (%\w+) ({_STRING}) (\w+)(?: alias ({_STRING}))?", re.ASCII)
_OUT = re.compile(rf"out (%\w+) (\w+)(?: (-?[0-9]{{1,9}}))?(?: ({_STRING}))?", re.ASCII)
_LOC = re.compile(r"(.+):([0-9]{1,9})")
NESTING = 8  # of tuples
DEPTH = 16  # of graphs that nodes hold, one within the other
SIZE_LENGTH = 1000  # characters of one size expression


class InvalidGraph(ValueError):
    """Text that is not a graph. The message gives the line number."""


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `text` describes, with the data of constants by name (those written inline need none).

    InvalidGraph, and nothing else, for text that is not a well-formed graph of registered ops with right types.
    """
    if not isinstance(text, str):
        raise InvalidGraph(f"line 1: a graph is text, not {type(text).__name__}")
    rows = [(k, line.strip()) for k, line in enumerate(text.split("\n"))]
    reader = _Reader([(k, line) for k, line in rows if line and not line.startswith("#")], constants or {})
    try:
        return reader.read()
    except InvalidGraph:
        raise
    except Exception as e:  # hostile text reaches rules that were not written for it
        raise InvalidGraph(f"line {reader.at + 1}: {e or type(e).__name__}") from None


class _Reader:
    """Reads one graph from its lines, given with their numbers. `depth`: how many graphs it is inside of."""

    def __init__(self, rows: list[tuple[int, str]], constants: Mapping[str, np.ndarray], depth: int = 0):
        self.rows, self.data, self.depth = rows, constants, depth
        self.at = 0  # the line being read
        self.graphs: dict[str, Graph] = {}  # that nodes may hold
        self.symbols: dict[str, DimLike] = {}
        self.values: dict[str, Value] = {}
        self.arrays: dict[Value, np.ndarray] = {}
        self.nodes: list[Node] = []
        self.specs: list[tuple[Value, InputSpec]] = []
        self.outs: list[tuple[Value, OutputSpec]] = []

    def fail(self, problem: str) -> InvalidGraph:
        return InvalidGraph(f"line {self.at + 1}: {problem}")

    def read(self) -> Graph:
        body = self.rows
        if not body:
            raise self.fail("a graph begins with `graph @name(...) -> (...) {`")
        (start, first), rest = body[0], body[1:]
        self.at = start
        header = _HEADER.fullmatch(first)
        if header is None:
            raise self.fail("expected `graph @name(%x: f32[3], ...) -> (%y, ...) {`")
        while rest and rest[0][1].startswith("sym "):
            self.at, line = rest.pop(0)
            self.symbol(line)
        self.at = start
        name = string(header[1]) if header[1].startswith('"') else header[1]
        inputs = tuple(self.declare(t) for t in split(header[2]))
        if not rest or rest[-1][1] != "}":
            self.at = body[-1][0]
            raise self.fail("expected `}` after the last line")
        end = 0
        for k, (number, line) in enumerate(rest[:-1]):
            if k < end:
                continue
            self.at = number
            if line.startswith("graph @"):
                end = self.inner(rest, k)
            else:
                self.line(line)
        self.at = start
        outputs = tuple(self.value(n) for n in split(header[3]))
        if self.depth and not self.specs and not self.outs:  # a plain one
            plain = Signature.plain(len(inputs), len(outputs))
            self.specs, self.outs = list(zip(inputs, plain.inputs)), list(zip(outputs, plain.outputs))
        if [v for v, _ in self.specs] != list(inputs) or [v for v, _ in self.outs] != list(outputs):
            raise self.fail("the `in` and `out` lines must list all inputs and outputs, in order")
        signature = Signature(tuple(s for _, s in self.specs), tuple(s for _, s in self.outs))
        graph = Graph(name, inputs, tuple(self.nodes), outputs, signature, self.arrays)
        check_signature(graph)
        check_sizes(graph, self.depth > 0)
        if self.depth:
            check_closed(graph)
        return graph

    def inner(self, rows: list[tuple[int, str]], start: int) -> int:
        """Reads the graph for a node that begins at row `start`; returns the row after it."""
        if self.depth >= DEPTH:
            raise self.fail("graphs are nested too deeply")
        open_graphs, end = 0, start
        for end in range(start, len(rows)):
            line = rows[end][1]
            open_graphs += line.startswith("graph @") - (line == "}")
            if open_graphs == 0:
                break
        reader = _Reader(rows[start : end + 1], {}, self.depth + 1)
        try:
            graph = reader.read()
        finally:
            self.at = reader.at
        if graph.name in self.graphs:
            raise self.fail(f"the graph @{graph.name} is defined twice")
        self.graphs[graph.name] = graph
        return end + 1

    # ---- lines
    def line(self, line: str) -> None:
        if line.startswith("const "):
            self.constant(line)
        elif line.startswith("in "):
            m = self.match(_IN, line, 'in %x "path" arg')
            alias = string(m[4]) if m[4] else ""
            self.specs.append((self.value(m[1]), InputSpec(string(m[2]), m[3], alias)))
        elif line.startswith("out "):
            m = self.match(_OUT, line, 'out %3 result, out %3 write 2 or out %3 attr "net.a.grad"')
            target, path = -1 if m[3] is None else int(m[3]), string(m[4]) if m[4] else ""
            self.outs.append((self.value(m[1]), OutputSpec(m[2], target, path)))
        else:
            self.node(line)

    def match(self, pattern: re.Pattern[str], line: str, expected: str) -> re.Match[str]:
        found = pattern.fullmatch(line)
        if found is None:
            raise self.fail(f"expected `{expected}`")
        return found

    def symbol(self, line: str) -> None:
        m = self.match(_SYM, line, "sym n in [1, inf]")
        low, high = self.size(m[2]), None if m[3] == "inf" else self.size(m[3])
        if m[1] in self.symbols:
            raise self.fail(f"the size {m[1]} is declared twice")
        if high is not None and dim.negative(high - low):
            raise self.fail(f"the size {m[1]} has an empty range")
        self.symbols[m[1]] = dim.symbol(m[1], low, high)

    def constant(self, line: str) -> None:
        head, _, values = line[6:].partition(" = ")
        v = self.declare(head)
        name, shape = v.name, v.type.shape
        if values:
            if not (values.startswith("[") and values.endswith("]")):
                raise self.fail("expected the values of the constant in [...]")
            items = [self.attribute(x) for x in split(values[1:-1])]
            if any(type(x) not in (bool, int, float) for x in items):
                raise self.fail("the values of a constant are numbers")
            with np.errstate(all="ignore"):
                self.arrays[v] = np.array(items, dtype=v.dtype.np).reshape(tuple(dim.evaluate(d, {}) for d in shape))
            return
        array = self.data.get(name)
        if array is None:
            raise self.fail(f"constant %{name} has no data")
        if (from_numpy(array.dtype), array.shape) != (v.dtype, shape):
            raise self.fail(f"constant %{name} is a {v.type}; its data is {array.dtype}{list(array.shape)}")
        self.arrays[v] = array

    def node(self, line: str) -> None:
        m = _NODE.fullmatch(line)
        end = closing(m[3]) if m else -1
        if m is None or end < 0:
            raise self.fail("expected `%3: f32[2] = op(%1, %2, attribute=value)`")
        rest = m[3][end + 1 :].strip()
        if rest and not rest.startswith("#"):
            raise self.fail(f"unexpected {rest[:40]!r} after the node")
        op = REGISTRY.get(m[2])
        if op is None:
            raise self.fail(f"unknown op {m[2]}")
        operands, attrs = self.arguments(m[3][:end])
        attrs = {k: attrs[k] for k in op.attrs if k in attrs} | attrs  # in the order of the declaration
        types = check_application(op, tuple(v.type for v in operands), attrs)
        stated = [self.typed(t) for t in split(m[1])]
        if tuple(t for _, t in stated) != types:
            raise self.fail(f"{m[2]} gives {', '.join(map(str, types))} here")
        node = Node(op, operands, attrs, types, location(rest))
        for v, (name, _) in zip(node.outputs, stated, strict=True):
            self.define(name, v)
        self.nodes.append(node)

    def arguments(self, text: str) -> tuple[tuple[Value, ...], Attrs]:
        operands: list[Value] = []
        attrs: Attrs = {}
        for part in split(text):
            if part.startswith("%"):
                if attrs:
                    raise self.fail("operands come before attributes")
                operands.append(self.value(part))
                continue
            name, equals, value = part.partition("=")
            if not equals or not name.isidentifier() or name in attrs:
                raise self.fail(f"expected %operand or attribute=value, not {part[:40]!r}")
            attrs[name] = self.attribute(value)
        return tuple(operands), attrs

    # ---- parts
    def declare(self, text: str) -> Value:
        name, type = self.typed(text)
        return self.define(name, Value(type))

    def define(self, name: str, v: Value) -> Value:
        if name in self.values:
            raise self.fail(f"%{name} is defined twice")
        v.name = name
        self.values[name] = v
        return v

    def typed(self, text: str) -> tuple[str, TensorType]:
        m = self.match(_TYPED, text, "%x: f32[2, 3]")
        dtype: DType | None = _CODES.get(m[2])
        if dtype is None:
            raise self.fail(f"unknown element type {m[2]}")
        type = TensorType(dtype, tuple(self.size(d) for d in split(m[3])))
        check_type(type)
        return m[1], type

    def value(self, text: str) -> Value:
        found = self.values.get(text.removeprefix("%"))
        if found is None:
            raise self.fail(f"{text[:40]} is not defined here")
        return found

    def size(self, text: str) -> DimLike:
        if len(text) > SIZE_LENGTH:
            raise self.fail("size expression too long")
        return parse_dim(text, self.named)

    def named(self, name: str) -> DimLike:
        found = self.symbols.get(name)
        if found is None:
            raise self.fail(f"the size {name} is not declared by a `sym` line")
        return found

    def attribute(self, text: str, depth: int = 0) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if text.startswith('"'):
            return string(text)
        if text.startswith("@"):
            if text[1:] not in self.graphs:
                raise self.fail(f"the graph {text[:40]} is not defined before the node")
            return self.graphs[text[1:]]
        if LITERAL.fullmatch(text):
            return int(text) if text.removeprefix("-").isdigit() else float(text)
        if text.startswith("(") and closing(text[1:]) == len(text) - 2:
            parts = split(text[1:-1])
            if len(parts) != 1 or text[-2] == ",":
                if depth > NESTING:
                    raise self.fail("tuples are nested too deeply")
                return tuple(self.attribute(p, depth + 1) for p in parts)
        return self.size(text)


def split(text: str) -> list[str]:
    """The parts between top-level commas, stripped. A trailing comma ends the last part."""
    parts: list[str] = []
    depth = begin = 0
    for m in _PUNCTUATION.finditer(text):
        c = m[0]
        depth += (c in "([") - (c in ")]")
        if c == "," and depth == 0:
            parts.append(text[begin : m.start()].strip())
            begin = m.end()
    last = text[begin:].strip()
    return [*parts, last] if last else parts


def closing(text: str) -> int:
    """Where the parenthesis that was opened before `text` closes; -1 if it does not."""
    depth = 1
    for m in _PUNCTUATION.finditer(text):
        depth += (m[0] in "([") - (m[0] in ")]")
        if depth == 0:
            return m.start()
    return -1


def string(text: str) -> str:
    """A quoted string. ValueError if it is none."""
    out = json.loads(text)
    if not isinstance(out, str):
        raise ValueError(f"expected a string, not {text[:40]}")
    return out


def location(comment: str) -> Location | None:
    """The source line that a comment gives, if that is what it is."""
    m = _LOC.fullmatch(comment.removeprefix("#").strip())
    return Location(m[1], int(m[2])) if m else None
