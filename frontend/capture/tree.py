"""Trace trees: what a compiled function knows of the calls of one signature.

Where Python asks for the value of a tensor (a truth test, `int(t)`), the trace ends a *segment*: a graph that computes
the value asked for, and what the rest of the trace is likely to need. Below it hang the continuations, by the values
that were seen. The leaves are `Captured`s, which know what becomes of the results. Nothing is generalised: a value that
was not seen before leads to another trace of the function, of which only what comes behind that point is new.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from ...ir.decider import decide_with
from ...ir.dim import Dim
from ...ir.extract import extract, slice_of
from ...ir.graph import Graph, InputSpec, Location, Node, Signature, Value
from ...ir.verify import symbols_in
from ...runtime.background import is_ready
from .guards import Guard
from .replay import Captured, Source
from .tracer import TooMany

MOST_VALUES = 16  # of one question
MOST_INTS = 4  # of an int that may also become a symbol
MOST_QUESTIONS = 128  # in one call

Answer = Union[bool, int]
Build = Callable[..., Any]  # (graph, gpu=) -> an executable
TreeNode = Union["Segment", Captured]
Place = tuple[int, int]  # a value that a segment has computed: the segment's depth, number of the output


@dataclass(slots=True, eq=False)
class Segment:
    """A stretch of a trace up to a question. `graph`: its inputs are `sources`, then the values at `given`; its first
    output answers the question, the others are at `kept` (node and result numbers of the trace). `question`: the text
    of its graph without those.

    kind: "bool", "int", or "size", whose branches are 0, 1, and 2 for all others; behind the outputs it has an empty array
    that is as long as the size. location: the user's line. guards: what it takes for granted besides what the segments above
    do. branches: the continuations, by answer: usually one, more where their guards differ.
    """

    question: str
    graph: Graph
    executable: Any
    sources: list[Source]
    given: list[Place]
    kept: list[tuple[int, int]]
    kind: str
    location: Location | None
    guards: list[Guard]
    branches: dict[Answer, list[TreeNode]] = field(default_factory=dict)
    hits: Counter = field(default_factory=Counter)
    native: Any = None  # of a root: its NativeTree

    def told(self, answer: Answer) -> str:
        """An answer in words."""
        return "2 or more" if self.kind == "size" and answer == 2 else str(answer)

    def matches(self, leaves: Sequence[Any]) -> Guard | None:
        """None if every guard holds, else the first that does not."""
        for g in self.guards:
            if not g.check(leaves):
                return g
        return None

    def run(self, leaves: Sequence[Any], before: "Values") -> tuple[Answer, list[np.ndarray]]:
        """The answer for this call, and all outputs. Whatever the executable raises; nothing is written."""
        arrays = [s.fetch(leaves) for s in self.sources]
        out = self.executable.run([*arrays, *(before[d][k] for d, k in self.given)])
        self.hits[answer := self.answer(out[0])] += 1
        if self.kind == "size":
            out.append(np.empty((0, int(out[0])), np.bool_))
        return answer, out

    def answer(self, array: np.ndarray) -> Answer:
        return bool(array) if self.kind == "bool" else int(array) if self.kind == "int" else min(int(array), 2)


Values = list[list[np.ndarray]]  # what the segments on the way have computed


@dataclass(frozen=True, slots=True)
class Found:
    """Where a call ends up. captured: its leaf; None where it took a branch that has not been seen, or no guard held."""

    captured: Captured | None
    values: Values


class Declined(Exception):
    """A segment has failed for this call (an index out of range), or its code is not there yet: plain Python runs it."""


def walk(nodes: Sequence[TreeNode], leaves: Sequence[Any], failed: Callable[[Guard], None], above: Values) -> Found:
    """The way of a call through the tree. `failed` is told of guards that do not hold."""
    for node in list(nodes):
        guard = node.matches(leaves)
        if guard is not None:
            failed(guard)
            continue
        if isinstance(node, Captured):
            return Found(node, above)
        if not is_ready(node.executable):
            raise Declined
        try:
            answer, out = node.run(leaves, above)
        except Exception as e:
            raise Declined from e
        found = walk(node.branches.get(answer, ()), leaves, failed, [*above, out])
        if found.captured is not None:
            return found
    return Found(None, above)


def leaves_of(nodes: Sequence[TreeNode]) -> list[Captured]:
    """Every trace, in the order of the tree."""
    out: list[Captured] = []
    for node in list(nodes):
        if isinstance(node, Captured):
            out.append(node)
        else:
            for below in list(node.branches.values()):
                out += leaves_of(below)
    return out


def executables_of(nodes: Sequence[TreeNode]) -> list[Any]:
    """The runtime's executables of traces and segments: of those that have been compiled, each once."""
    found: dict[int, Any] = {}
    for captured in leaves_of(nodes):
        for e in captured.executables:
            while e is not None and not hasattr(e, "code_bytes"):
                e = getattr(e, "executable", None)
            if e is not None:
                found[id(e)] = e
    return list(found.values())


def separate(nodes: Sequence[TreeNode]) -> None:
    """Undoes what makes traces refer to themselves, through the native entry's and through trees: only calls on their way
    hold their code then. The native entry does not get them again."""
    for node in nodes:
        if isinstance(node, Captured):
            node.native = False
        else:
            node.native, below = None, list(node.branches.values())
            node.branches = {}
            for nodes in below:
                separate(nodes)


def without(nodes: list[TreeNode], unwanted: Callable[[TreeNode], bool]) -> list[TreeNode]:
    """The nodes but for those, and for segments that lead nowhere without them. Branches are changed in place."""
    kept: list[TreeNode] = []
    for node in nodes:
        if unwanted(node):
            continue
        if isinstance(node, Segment):
            node.branches = {a: below for a, b in node.branches.items() if (below := without(b, unwanted))}
            if not node.branches:
                continue
        kept.append(node)
    return kept


class Route:
    """The way that a trace takes through the tree while it is recorded: it answers Python's questions by running the
    segments on the arguments of the present call."""

    def __init__(
        self,
        nodes: list[TreeNode],
        leaves: Sequence[Any],
        build: Build,
        most_questions: int = MOST_QUESTIONS,
        most_values: int = MOST_VALUES,
    ):
        self.nodes, self.leaves, self.build = nodes, leaves, build  # nodes: the continuations where it is now
        self.most_questions, self.most_values = most_questions, most_values
        self.segments: list[tuple[Segment, Answer]] = []
        self.values: Values = []
        self.places: dict[Value, Place] = {}  # what the segments have computed, of this trace
        self.done: set[Node] = set()
        self.answers: dict[tuple[Value, str], Answer] = {}
        self.sizes: dict[Dim, Value] = {}  # symbols that a "size" has become: values that say how large they are
        self.given: list[Place] = []
        self._added: list[tuple[list[TreeNode], Segment]] = []

    def __enter__(self) -> "Route":
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        """Where the capture has failed: takes out the segments that lead nowhere."""
        if kind is not None:
            for nodes, segment in reversed(self._added):
                if not leaves_of([segment]) and segment in nodes:
                    nodes.remove(segment)

    def ask(self, tracer: Any, value: Value, kind: str, guards: list[Guard], location: Location | None) -> Answer:
        """The answer for the present call: of "size", the size itself; "whole" is an int that
        could be a symbol. `guards`: what the trace has come to rely on since
        the last question."""
        before = decide_with(None)  # sizes that passes and the code compare are no questions of the user's
        try:
            return self._ask(tracer, value, kind, guards, location)
        finally:
            decide_with(before)

    def _ask(self, tracer: Any, value: Value, kind: str, guards: list[Guard], location: Location | None) -> Answer:
        most, kind = (min(MOST_INTS, self.most_values), "int") if kind == "whole" else (self.most_values, kind)
        if len(self.segments) >= self.most_questions:
            tracer.stop(f"it asks for the values of tensors more than {self.most_questions} times")
        known = self.answers.get((value, kind))
        if known is not None:
            return known
        b = tracer.builder
        nodes = slice_of(b.nodes, [value], self.places)
        sizes = self._sizes_in(nodes)
        given = [v for v in self.places if v is value or v in sizes or any(v in n.inputs for n in nodes)]
        places = [self.places[v] for v in given]
        question = str(extract(b.name, nodes, b.inputs, given, [value], b.constants))
        segment = self._known(question, kind, places)
        if segment is None:
            kept = [v for v in _kept(b.nodes, nodes) if v is not value]
            name = f"{b.name}_asks{len(self.segments)}"
            graph = extract(name, nodes, b.inputs, given, [value, *kept], b.constants)
            position = {n: k for k, n in enumerate(b.nodes)}
            at = [(position[v.node], v.index) for v in kept]  # type: ignore[index]
            executable = self.build(graph, gpu=tracer.gpu)
            segment = Segment(question, graph, executable, list(tracer.sources), places, at, kind, location, guards)
            self.nodes.append(segment)
            self._added.append((self.nodes, segment))
        else:
            kept = [b.nodes[n].outputs[k] for n, k in segment.kept]
        try:
            answer, out = segment.run(self.leaves, self.values)
        except Exception as e:
            tracer.stop(f"what it asks for can't be computed: {type(e).__name__}: {e}")
        if answer not in segment.branches and len(segment.branches) >= most:
            raise TooMany(f"it asks for a number that has had {most} values already", location)
        self.places.update({v: (len(self.segments), k) for k, v in enumerate((value, *kept))})
        self.done.update(nodes)
        self.segments.append((segment, answer))
        self.values.append(out)
        self.nodes = segment.branches.setdefault(answer, [])
        self.answers[value, kind] = answer = int(out[0]) if kind == "size" else answer
        return answer

    def define(self, symbol: Dim, value: Value) -> None:
        """The answer to the last question, a "size", has become a symbol: that of the empty tensor `value`."""
        self.places[value] = (len(self.segments) - 1, len(self.values[-1]) - 1)
        self.sizes[symbol] = value

    def _sizes_in(self, nodes: Sequence[Node]) -> set[Value]:
        """The values that say how large the symbols in `nodes` are."""
        if not self.sizes:
            return set()
        used = symbols_in(nodes)
        return {v for s, v in self.sizes.items() if s in used}

    def _known(self, question: str, kind: str, places: list[Place]) -> Segment | None:
        """The segment that is there already, from an earlier trace of the function."""
        for node in self.nodes:
            if isinstance(node, Segment) and (node.kind, node.given, node.question) == (kind, places, question):
                if node.matches(self.leaves) is None:
                    return node
        return None

    def rest(self, graph: Graph) -> Graph:
        """What is left to compute of the trace's `graph`: its inputs are the graph's, then the values at `given`."""
        if not self.segments:
            return graph
        effects = [n for n in graph.nodes if not n.op.pure and n not in self.done]
        wanted = [*graph.outputs, *(v for n in effects for v in n.outputs)]
        nodes = slice_of(graph.nodes, wanted, self.places)
        read = {v for n in nodes for v in n.inputs} | set(graph.outputs) | self._sizes_in(nodes)
        values = [v for v in self.places if v in read]
        self.given = [self.places[v] for v in values]
        inputs = (*graph.signature.inputs, *(InputSpec(f"given{k}", "state") for k in range(len(values))))
        signature = Signature(inputs, graph.signature.outputs)
        return extract(graph.name, nodes, graph.inputs, values, graph.outputs, graph.constants, signature)


# ------------------------------------------------------------------ what to keep

_FREE = frozenset("broadcast_to reshape permute slice flip full iota".split())  # computed where they are read


def _kept(recorded: Sequence[Node], nodes: Sequence[Node]) -> list[Value]:
    """Values of `nodes` that somebody still holds, or that other nodes read: the rest of the trace is likely to need
    them. (What it needs and was not kept, it computes again.)"""
    inside = set(nodes)
    uses = Counter(v for n in recorded for v in n.inputs)
    held: dict[Value, None] = {}
    for n in recorded:
        if n not in inside:
            held.update(dict.fromkeys(v for v in n.inputs if v.node in inside))
    for n in nodes:
        for v in n.outputs:
            if _references(v) > uses[v]:
                held[v] = None
    out: dict[Value, None] = {}
    for n in reversed(nodes):  # of what costs nothing, the operands are kept
        for v in n.outputs:
            if v not in held:
                continue
            if n.op.name in _FREE:
                held.update(dict.fromkeys(x for x in n.inputs if x.node in inside))
            else:
                out[v] = None
    order = {n: k for k, n in enumerate(nodes)}
    return sorted(out, key=lambda v: (order[v.node], v.index))  # type: ignore[index]


def _references(v: Value) -> int:
    """How many hold `v`, besides its own node."""
    return sys.getrefcount(v) - _UNHELD


def _unheld() -> int:
    """What `sys.getrefcount` says in `_references` of an object that one tuple holds, and the loop that asks."""
    holder: Any = ((object(),),)
    for part in holder:
        for v in part:
            return _references(v)
    return 0


_UNHELD = 0
_UNHELD = _unheld()
