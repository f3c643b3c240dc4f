"""One step of a loop along every way that it can take, and the ways merged into one.

The function of a step is traced once for each sequence of answers to what Python asks of it. Equal operations of
different ways are one node, which remembers on which way it is needed first. Where ways meet, their values are picked:
both are computed and one is taken if that costs next to nothing, can't fail, and no gradient passes; else the ways become
the branches of a `cond`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ...ir import ops
from ...ir.dim import Dim
from ...ir.dtypes import int64
from ...ir.extract import extract
from ...ir.graph import Node, Value
from ...ir.op import Attrs, OpDef, get_op
from ...ir.ops.control import CONTROL
from ...ir.subgraph import subgraphs
from ...ir.types import TensorType
from ...passes.control import FAILING
from ..control_body import Body, Captures
from ..dispatch import link_view
from ..state import state
from ..tape import needs_grad, storage_of
from ..tensor import Tensor, new_tensor
from ..trace_views import Elements
from .loop_holders import Changes
from .loop_slots import Slot
from .loop_ties import Ties
from .scalars import number_of
from .tracer import NotClosed

MOST_WAYS = 64  # through one step
MOST_ASKED = 16  # on one way
_LARGEST = 4096  # elements that are computed for nothing, rather than branched around
_CHEAP = frozenset("broadcast_to reshape permute slice flip full iota cast".split())

Path = tuple[tuple[Value, bool], ...]  # questions, and their answers


class Declines(BaseException):
    """This way can't be taken natively: a call that comes here goes on as plain Python."""


@dataclass(slots=True)
class Way:
    """A question with what comes of either answer; or (`question` None) what came out."""

    question: Value | None
    yes: Any
    no: Any = None

    def each(self) -> list[Any]:
        """What came out, of all ways."""
        return [self.yes] if self.question is None else [*self.yes.each(), *self.no.each()]


class LoopTracer(Body):
    """Traces the test or the body of a loop. changes: what its steps are known to change. changed: tensors that stand for
    variables, and are written in place."""

    def __init__(self, name: str, captures: Captures, changes: Changes):
        super().__init__(name, captures)
        self.asker, self.changes = self.ask, changes
        self.parameters: set[int] = set()
        self.ties = Ties()
        self.positions: set[Value] = set()  # ints as indices
        self.changed: set[int] = set()
        self.decisions: list[bool] = []
        self.path: Path = ()  # from here on
        self.paths: dict[Node, Path] = {}  # where nodes are needed first
        self.stopped: NotClosed | None = None
        self.declined: Declines | None = None
        self._nodes: dict[tuple, Node] = {}  # by what they compute
        self._answers: dict[Value, bool] = {}

    def stop(self, reason: str) -> NoReturn:
        """Ends the attempt, even if the user's code catches everything."""
        self.stopped = self.stopped or NotClosed(reason)
        raise self.stopped

    def decline(self, reason: str) -> NoReturn:
        self.declined = Declines(reason)
        raise self.declined

    # ---- ways

    def ask(self, value: Value, kind: str) -> bool:
        """Both answers are right, one after the other."""
        if kind != "bool":
            self.stop("Python needs an int that the loop computes")
        known = self._answers.get(value)
        if known is None:
            if len(self.path) >= MOST_ASKED:
                self.stop(f"a step of it asks more than {MOST_ASKED} times")
            if len(self.path) == len(self.decisions):
                self.decisions.append(True)
            known = self._answers[value] = self.decisions[len(self.path)]
            self.path = (*self.path, (value, known))
        return known

    def ways(self, run: Callable[[], Any]) -> Way:
        """What `run` gives along every way."""
        found: list[tuple[Path, Any]] = []
        self.decisions = []
        while True:
            self.path, self._answers, self.declined = (), {}, None
            out = run()
            if self.stopped is not None:
                raise self.stopped
            found.append((self.path, out))
            decisions = self.decisions[: len(self.path)]
            while decisions and not decisions[-1]:
                decisions.pop()
            if not decisions:
                return _tree(found, 0)
            decisions[-1] = False
            self.decisions = decisions
            if len(found) >= MOST_WAYS:
                self.stop(f"a step of it has more than {MOST_WAYS} ways")

    def merged(self, way: Way, values_of: Callable[[Any], list[Value]], path: Path = ()) -> list[Value]:
        """The values of all ways as one list; `values_of` gives those of what came out of one."""
        self.path = path
        if way.question is None:
            return values_of(way.yes)
        yes = self.merged(way.yes, values_of, (*path, (way.question, True)))
        no = self.merged(way.no, values_of, (*path, (way.question, False)))
        self.path = path
        differ = [k for k, (a, b) in enumerate(zip(yes, no)) if a is not b]
        if not differ:
            return yes
        sides = [[x[k] for k in differ] for x in (yes, no)]
        nodes = [self._only(side, path) for side in sides]
        if not self.changes.differentiable and all(_is_cheap(n) for side in nodes for n in side):
            picked = [ops.where(way.question, a, b) for a, b in zip(*sides)]
        else:
            picked = self._branches(way.question, nodes, sides)
        new = dict(zip(differ, picked))
        return [new.get(k, v) for k, v in enumerate(yes)]

    def _only(self, wanted: Sequence[Value], path: Path) -> list[Node]:
        """The nodes that `wanted` needs behind the end of `path`."""
        found: set[Node] = set()
        stack = list(wanted)
        while stack:
            node = stack.pop().node
            if node is not None and node not in found and not _begins(self.paths[node], path):
                found.add(node)
                stack += node.inputs
        return [n for n in self.nodes if n in found]

    def _branches(self, question: Value, nodes: Sequence[list[Node]], wanted: Sequence[list[Value]]) -> Sequence[Value]:
        inside = set().union(*nodes)
        read = [v for side in nodes for n in side for v in n.inputs] + [v for side in wanted for v in side]
        given = [v for v in dict.fromkeys(read) if v.node not in inside]
        true, false = (
            extract(name, side, given, (), values, {}) for name, side, values in zip(("yes", "no"), nodes, wanted)
        )
        return self.emit(get_op("cond"), (question, *given), {"true": true, "false": false})

    def failure(self) -> Value:
        """An int that can't be computed: a call that needs it goes on as plain Python."""
        return ops.check_index(ops.full(value=1, shape=(), dtype=int64), size=1)

    def finished(self, wanted: Sequence[Value]) -> None:
        """Leaves the nodes that `wanted` needs, and what may fail on every way."""
        checks = [v for n in self.nodes if not self.paths[n] and may_fail(n) for v in n.outputs]
        needed, kept = {*wanted, *checks}, []
        for node in reversed(self.nodes):
            if any(v in needed for v in node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes[:] = kept[::-1]

    # ---- values

    def enter_step(self, slots: Sequence[Slot], parts: Sequence[Any], inputs: Sequence[Value]) -> None:
        """A way begins: these are the slots, what stands for them, and their values."""
        it = iter(inputs)
        values = [next(it) if s.type is not None else None for s in slots]
        self.parameters = {id(p) for s, p in zip(slots, parts) if s.kind == "tensor"}
        self.written = {id(s.before): (s.before, v) for s, v in zip(slots, values) if s.kind == "written" and v}

    def write(self, t: Tensor, v: Value) -> None:
        self.ties.cut(self, t)
        super().write(t, v)

    def read(self, t: Tensor) -> Value:
        if not self._is_own(t) and t._view is not None and id(storage_of(t)) in self.written and self._is_view(t):
            op, attrs = t._view
            return op(self.read(t._base), **attrs)  # type: ignore[arg-type]
        return super().read(t)

    def position(self, v: Value) -> Tensor:
        """An int that the loop computes, as an index. What it picks is a view, as with any int."""
        at = self.emit(ops.bitcast, (self.own(v),), {"dtype": int64})[0]  # a value of its own
        self.positions.add(at)
        return self.wrap(at)

    def elements(self, base: Tensor, indices: tuple[Value, ...], value: Value) -> Tensor:
        out = self.wrap(value)
        found = [v.node.inputs[0] if v.node is not None and v.node.op.name == "check_index" else v for v in indices]
        ints = [v in self.positions for v in found]
        if any(ints) and all(i or v.node is not None and v.node.op.name == "full" for i, v in zip(ints, found)):
            link_view(out, base, Elements(indices), {})  # type: ignore[arg-type]
            self._view_made(out, base)
        return out

    def _is_view(self, t: Tensor) -> bool:
        return t._base is not None and t._view is not None and type(t._data) is Value

    def _set(self, root: Tensor, v: Value) -> None:
        if id(root) in self.parameters:
            self.changed.add(id(root))
        if self._is_own(root) or id(root) in self._made:
            super()._set(root, v)
        elif self.changes.tensor(root):
            self.written[id(root)] = (root, v)

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        key = (op.name, inputs, _frozen(attrs), self._records())
        known = self._nodes.get(key)
        if known is not None and (_begins(self.paths[known], self.path) or not may_fail(known)):
            return known.outputs
        out = super().emit(op, inputs, attrs)
        if out and out[0].node is not None:
            node = self._nodes[key] = out[0].node
            self.paths[node] = self.path
        return out

    def _records(self) -> bool:
        mode = state.grad_enabled if state.mode_before_walk is None else state.mode_before_walk
        return mode or not self.recording

    def without_history(self, v: Value) -> Value:
        out = super().without_history(v)
        if out.node is not None and out.node not in self.paths:
            self.paths[out.node] = () if v.node is None else self.paths[v.node]
        return out

    def concretize(self, t: Tensor, what: str) -> Any:
        if what in ("bool", "int", "index", "item", "float"):
            if needs_grad(t):
                t = new_tensor(self.without_history(self.read(t)))
            return number_of(self, t, what)  # type: ignore[arg-type]
        return super().concretize(t, what)


def _tree(found: list[tuple[Path, Any]], depth: int) -> Way:
    path, out = found[0]
    if len(path) == depth:
        return Way(None, out)
    parts = ([f for f in found if f[0][depth][1] is answer] for answer in (True, False))
    yes, no = (_tree(p, depth + 1) for p in parts)
    return Way(path[depth][0], yes, no)


def _begins(short: Path, path: Path) -> bool:
    """Whether `path` begins with `short`."""
    return len(short) <= len(path) and all(a[0] is b[0] and a[1] is b[1] for a, b in zip(short, path))


def may_fail(node: Node) -> bool:
    """Whether a node can end the call."""
    if node.op.name in FAILING or not node.op.pure:
        return True
    return any(may_fail(n) for g in subgraphs(node) for n in g.nodes)


def _is_cheap(node: Node) -> bool:
    """Whether a node may as well be computed for nothing."""
    op = node.op
    if op.name in FAILING or not op.pure or op.name in CONTROL or not (op.kind == "pointwise" or op.name in _CHEAP):
        return False
    return all(_elements(v.type) <= _LARGEST for v in node.outputs)


def _elements(t: TensorType) -> int:
    n = 1
    for d in t.shape:
        if isinstance(d, Dim):
            return _LARGEST + 1
        n *= d
    return n


def _frozen(x: Any) -> Any:
    """An attribute as part of a key: numbers that are equal but not the same are told apart."""
    if isinstance(x, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(x.items()))
    if isinstance(x, tuple):
        return tuple(map(_frozen, x))
    if isinstance(x, (bool, int, float, complex, str)):
        return type(x), repr(x)
    return id(x)  # graphs, dtypes, and sizes, of which there is one each; nodes keep them
