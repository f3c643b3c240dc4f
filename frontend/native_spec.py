"""From captured traces to what the native entry reads: `TraceSpec`s.

What it can't say (histories of results, nested arguments) stays with the Python path, which also gets every
call that a native guard refuses. Native guards are stricter where that is cheaper: an equal value is the same object.
A trace tree becomes one spec with several endings: the guards are those of all of them, and its code asks the questions.
"""

from __future__ import annotations

import gc
import math
import sys
import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..ir import dim
from ..ir.plan import Plan
from ..ir.types import TensorType
from ..runtime.dims_code import Dims, UnknownSize
from ..runtime.entry_layout import UnknownLayout, cell_word, field_word, slot_word
from ..runtime.executable import Executable
from ..runtime.trace_spec import (
    ABSENT,
    Arg,
    ArrayArg,
    Constant,
    DictGuard,
    EqualArg,
    Load,
    Output,
    ScalarArg,
    Size,
    State,
    StaticArg,
    TraceSpec,
    Word,
)
from ..runtime.tree_code import Stage, TreeCode, Unbounded, tree_code
from . import autograd
from .capture import guards as g
from .capture.origins import NumberSource, OriginGuard, ReadSource
from .capture.overlap import OverlapGuard
from .capture.replay import (
    ArgSource,
    ArraySource,
    Captured,
    GradSource,
    Invocation,
    RootSource,
    ScalarSource,
    Source,
    TensorSource,
)
from .capture.size_guards import RelationGuard, SizesGuard
from .capture.tree import Segment, leaves_of
from .costs import kernel_cost
from .epoch import epoch
from .native_results import Inexpressible, Results
from .state import modes, state
from .tensor import Tensor

LONG = 20e-6  # seconds: longer plans let other threads run
BYTES_PER_SECOND, OPERATIONS_PER_SECOND = 10e9, 20e9  # of one core, roughly
MOST_VALUES, MOST_ARGS = 1 << 14, 1 << 10


def executable_of(captured: Captured | Segment) -> Executable | None:
    """The machine code of a trace, or of a segment; None for other backends."""
    x = captured.executable
    while x is not None and not isinstance(x, Executable):
        x = getattr(x, "executable", None)
    return x


def trace_spec(captured: Captured, call: Invocation) -> TraceSpec | None:
    """A trace in the native entry's terms, or None if calls have to stay on the Python path.

    `call` is served by the trace, and belongs to this thread with its modes as they are.
    """
    if not _flat(call):
        return None
    try:
        executable = _expressible(captured)
        return _Writer([captured], call, executable).spec(captured, executable)
    except (Inexpressible, UnknownLayout, UnknownSize):
        return None


def tree_spec(captured: Captured, call: Invocation) -> tuple[TraceSpec, list[Captured]] | None:
    """The same for the tree that a trace hangs in, with the traces that are endings of the spec. That of `call` is one
    of them."""
    if not _flat(call):
        return None
    try:
        writer = _TreeWriter(captured, call)
        return writer.tree_spec(), writer.traces
    except (Inexpressible, UnknownLayout, UnknownSize, Unbounded):
        return None


def _flat(call: Invocation) -> bool:
    """Whether the leaves of the arguments are the arguments."""
    given = (*call.args, *call.kwargs.values())
    same = len(given) == len(call.leaves) and all(a is b for a, b in zip(given, call.leaves))
    return same and len(given) <= MOST_ARGS


def _expressible(node: Captured | Segment) -> Executable:
    executable = executable_of(node)
    if executable is None or executable.plan.host_steps:
        raise Inexpressible("code of another kind, or with steps on the host")
    if isinstance(node, Captured) and node.backward is not None:
        raise Inexpressible("results with a history")
    if len(executable.plan.buffers) > MOST_VALUES:
        raise Inexpressible("too many values")
    return executable


def _source_key(s: Source) -> tuple:
    """Equal for sources of several traces that are the same input."""
    if isinstance(s, (ArgSource, ScalarSource)):
        return (type(s), s.leaf)
    if isinstance(s, GradSource):
        return (GradSource, _source_key(s.of))
    if isinstance(s, RootSource):
        raise Inexpressible("arguments that are views of one tensor")
    return (type(s), id(s.origin if isinstance(s, (ReadSource, NumberSource)) else s.held))


class _Writer:
    """Writes one spec, for the traces of one tree that are to be in it."""

    def __init__(self, traces: Sequence[Captured], call: Invocation, executable: Executable | None = None):
        self.sizes = traces[0].sizes
        self.dims = Dims(() if executable is None else executable.plan.dims)
        self.leaves, self.prefix, self.epoch = call.leaves, call.prefix, call.epoch
        self.names = tuple(map(sys.intern, call.kwargs))
        self.sources: list[Source] = []  # of all traces; their places among the values are their numbers
        self.types: list[TensorType] = []
        self._place: dict[tuple, int] = {}
        self.written: set[int] = set()
        for t in traces:
            for s, v in zip(t.sources, t.graph.inputs, strict=True):
                if (key := _source_key(s)) not in self._place:
                    self._place[key] = len(self.sources)
                    self.sources.append(s)
                    self.types.append(v.type)
            self.written |= {self.place(t.sources[k]) for _, k in t.writes}
        self.words: list[Word] = []
        self.dicts: list[DictGuard] = []
        self.checks: list[Any] = []
        self.loads: list[Load] = []
        self.disjoint: list[tuple[int, int]] = []
        self.without_grad: set[int] = set()  # leaves
        self.with_epoch = False
        # arguments that are known by identity: states of the trace
        self.fixed = {x.leaf for t in traces for x in t.all_guards if isinstance(x, g.ArgumentGuard)}
        seen: set[int] = set()
        for t in traces:
            for guard in t.all_guards:
                if id(guard) not in seen:
                    seen.add(id(guard))
                    self._guard(guard, t)
        if self.with_epoch:  # the first word: it is renewed in place
            self.words.insert(0, Word(epoch.address, self.epoch, epoch))

    def place(self, s: Source) -> int:
        """Where an input stands among the values."""
        return self._place[_source_key(s)]

    def spec(self, captured: Captured, executable: Executable) -> TraceSpec:
        """That of a single trace."""
        first = len(self.sources)
        shared = self._shared()  # arguments give sizes their places: they come first
        ending = self.ending(captured, executable, first, (), first + executable_values(executable))
        arena = self.dims.size(dim.maximum(64, executable.arena_size))
        relations = [] if self.sizes is None else [(r.difference, r.sign) for r in self.sizes.relations]
        derive, code = self.dims.derive(relations, executable.target, executable.link_text)
        known = {} if self.sizes is None else self.sizes.bind(self.leaves)
        return TraceSpec(
            **ending,
            **shared,
            **self._asked(),
            plan=executable.address,
            dims=len(self.dims.slots),
            derive=derive,
            arena=arena,
            release_gil=_seconds(executable.plan, known) > LONG,
            keep=(executable, code),
        )

    def _shared(self) -> dict[str, Any]:
        """What all endings of a spec have."""
        args = (*map(StaticArg, self.prefix), *(self._arg(i, x) for i, x in enumerate(self.leaves)))
        return dict(args=args, states=self._states(), loads=tuple(self.loads))

    def _asked(self) -> dict[str, Any]:
        """The guards."""
        return dict(
            words=tuple(self.words),
            dicts=tuple(self.dicts),
            mode=modes(),
            same=self._same(),
            checks=tuple(self.checks),
            names=self.names,
            disjoint=tuple(self.disjoint),
        )

    def ending(
        self, captured: Captured, executable: Executable, first: int, before: Sequence[Constant], values: int
    ) -> dict[str, Any]:
        """What becomes of a call. first: where the plan's constants, then its outputs, stand among the `values`. before:
        constants that stand there already."""
        plan = executable.plan
        constants = [*before, *(Constant(k, c.ctypes.data, c) for k, c in enumerate(plan.constants, first))]
        first += len(plan.constants)
        outputs: list[Output] = []
        places: dict[int, int] = {}  # graph output -> its place among the fresh ones
        for j, b in enumerate(plan.outputs):
            buffer = plan.buffers[b]
            if buffer.kind == "output":
                places[j] = len(outputs)
                shape = tuple(self.dims.size(d) for d in buffer.type.shape)
                outputs.append(Output(first + j, buffer.type.dtype.np, shape))
            else:
                constants.append(Constant(first + j, 0))  # written into an input, or a check: nobody looks here
        constants += [Constant(k, 0) for k in range(first + len(plan.outputs), values)]
        results = Results(captured, places, len(self.prefix))
        return dict(
            values=values,
            outputs=tuple(outputs),
            results=tuple(results.items),
            structure=results.structure,
            returned=results.returned,
            effects=tuple(results.effects),
            constants=tuple(constants),
            written=self._versions(captured),
        )

    # ---- inputs

    def _source_of(self, leaf: int) -> Any:
        for s in self.sources:
            if isinstance(s, (ArgSource, ScalarSource)) and s.leaf == leaf:
                return s
        return None

    def _arg(self, leaf: int, x: Any) -> Arg:
        if leaf in self.fixed:
            return self._fixed_arg(x)
        source = self._source_of(leaf)
        value = -1 if source is None else self.place(source)
        if isinstance(x, Tensor):
            if type(x) is not Tensor or x._node is not None:
                raise Inexpressible("an argument with a history, or of a class of its own")
            written = value in self.written
            slots: list[tuple[str, tuple[Any, ...]]] = [
                ("_requires_grad", (True,) if x._requires_grad else (None, False)),
                ("_node", (None,)),
            ]
            if written:
                slots.append(("_base", (None,)))
            if leaf in self.without_grad:
                slots.append(("_grad", (None,)))
            fresh = state.grad_enabled and not written
            array = self._array(x._data, value)
            return ArrayArg(
                value, array.dtype, self._shape(leaf, array), writeable=written, slots=tuple(slots), fresh=fresh
            )
        if isinstance(x, np.ndarray):
            array = self._array(x, value)
            if not array.flags.writeable:
                raise Inexpressible("an array that can't be written")
            return ArrayArg(value, array.dtype, self._shape(leaf, array), tensor=False, writeable=True)
        if type(x) is float:
            return ScalarArg(value) if source is not None else EqualArg(x)
        return EqualArg(x) if type(x) in (int, str, bytes) else StaticArg(x)

    def _fixed_arg(self, x: Any) -> Arg:
        if isinstance(x, Tensor):
            if x._node is not None or x._base is not None:
                raise Inexpressible("an argument with a history, or a view, that is known by identity")
            self.words += [slot_word(x, Tensor, name) for name in ("_requires_grad", "_node", "_base")]
        return StaticArg(x)

    def _shape(self, leaf: int, array: np.ndarray) -> tuple[Size, ...]:
        """The shape that an argument must have."""
        symbolic = None if self.sizes is None else self.sizes.symbolic.get(leaf)
        return array.shape if symbolic is None else tuple(map(self.dims.argument, symbolic[1]))

    def _array(self, array: Any, value: int) -> np.ndarray:
        """An array that native code can take, as input `value` (-1: none) of the graph."""
        if type(array) is not np.ndarray or not array.dtype.isnative:
            raise Inexpressible("an array of a class of its own")
        if not array.flags.c_contiguous or not array.flags.aligned:
            raise Inexpressible("an array that is not contiguous")
        if value >= 0:
            wanted = self.types[value]
            _require(array.dtype == wanted.dtype.np and array.ndim == len(wanted.shape))
            _require(all(n == d for n, d in zip(array.shape, wanted.shape) if isinstance(d, int)))
        return array

    def _states(self) -> tuple[State, ...]:
        out = []
        for k, s in enumerate(self.sources):
            if isinstance(s, TensorSource):
                out.append(State(s.held, self._array(s.held._data, k), k))
            elif isinstance(s, ArraySource):
                out.append(State(None, self._array(s.held, k), k))
            elif isinstance(s, ArgSource) and s.leaf in self.fixed:
                x = self.leaves[s.leaf]
                tensor = x if isinstance(x, Tensor) else None
                out.append(State(tensor, self._array(x if tensor is None else x._data, k), k))
            elif isinstance(s, (ReadSource, NumberSource)):
                raise Inexpressible("an input that is found anew on every call")
            elif isinstance(s, GradSource) and not any(x.arg.value == k for x in self.loads):
                raise Inexpressible("a gradient that no guard looks at")
        return tuple(out)

    def _same(self) -> tuple[tuple[int, int, bool], ...]:
        """Arguments that are one object are so again, and no others."""
        arrays = [i for i, x in enumerate(self.leaves) if isinstance(x, (Tensor, np.ndarray))]
        n = len(self.prefix)
        return tuple(
            (n + i, n + j, self.leaves[i] is self.leaves[j]) for a, i in enumerate(arrays) for j in arrays[a + 1 :]
        )

    def _versions(self, captured: Captured) -> tuple[int, ...]:
        out = []
        for _, k in sorted(captured.writes, key=lambda write: write[1]):
            source = captured.sources[k]
            if isinstance(source, GradSource):
                raise Inexpressible("it writes into a gradient that was there before")
            if not isinstance(source, ArraySource) and isinstance(source.tensor(self.leaves), Tensor):  # type: ignore[union-attr]
                out.append(self.place(source))
        return tuple(sorted(out))

    # ---- guards

    def _guard(self, guard: g.Guard, captured: Captured) -> None:
        if isinstance(guard, g.EpochGuard):
            self.with_epoch = True
        elif isinstance(guard, g.ItemGuard):
            self._item(guard)
        elif isinstance(guard, g.CellGuard):
            self._cell(guard)
        elif isinstance(guard, g.FieldGuard):
            self.words.append(field_word(guard.owner, guard.field, guard.value))
        elif isinstance(guard, (g.ContentGuard, g.SlotGuard, OriginGuard)):
            self._check(guard)
        elif isinstance(guard, g.TensorGuard):
            self._slot(guard.tensor, "_requires_grad", bool(guard.requires_grad))
        elif isinstance(guard, g.HookGuard):
            self._hooks(guard)
        elif isinstance(guard, g.GradGuard):
            self._grad(guard)
        elif isinstance(guard, OverlapGuard):
            self._overlap(guard, captured)
        elif not isinstance(guard, (g.ScalarGuard, g.ArrayGuard, g.ArgumentGuard, SizesGuard, RelationGuard)):
            # those are in the arguments, the states and the sizes
            raise Inexpressible(f"a {type(guard).__name__}")

    def _slot(self, t: Tensor, name: str, holds: bool) -> None:
        """A slot that has True or a tensor in it, or else None or False."""
        word = slot_word(t, Tensor, name)
        found = word.holder[1]
        _require((found is not None and found is not False) is holds)
        self.words.append(word)

    def _check(self, guard: Any) -> None:
        self.checks.append(partial(guard.check, ()))

    def _item(self, guard: g.ItemGuard) -> None:
        namespace = guard.namespace
        if type(namespace) is types.MappingProxyType:
            namespace = next(iter(gc.get_referents(namespace)), None)  # the dict of a class
        now = guard.namespace.get(guard.name, g.ABSENT)
        _require(guard.expected.match(now))
        if type(namespace) is not dict or not _is_fixed(guard.expected):
            self._check(guard)
        else:
            self.dicts.append(DictGuard(namespace, guard.name, ABSENT if now is g.ABSENT else now))

    def _cell(self, guard: g.CellGuard) -> None:
        if not _is_fixed(guard.expected) or getattr(guard.expected, "value", None) is g.ABSENT:
            self._check(guard)
        else:
            word = cell_word(guard.cell)
            _require(guard.expected.match(word.holder[1]))
            self.words.append(word)

    def _hooks(self, guard: g.HookGuard) -> None:
        """Hooks of leaves come and go with the epoch; those of arguments are not known before the call."""
        self.with_epoch = True
        if not isinstance(guard.source, TensorSource) and autograd._LEAF_HOOKS:
            raise Inexpressible("gradient hooks of an argument")

    def _grad(self, guard: g.GradGuard) -> None:
        owner = guard.source
        if isinstance(owner, ArgSource) and guard.expected is None:
            self.without_grad.add(owner.leaf)
        elif not isinstance(owner, TensorSource):
            raise Inexpressible("the gradient of an argument")
        elif guard.expected is None:
            self._slot(owner.held, "_grad", False)
        else:
            dtype, shape, contiguous, gpu = guard.expected
            if not contiguous or gpu is not None:
                raise Inexpressible("a gradient that is not contiguous")
            value = self._place.get((GradSource, _source_key(owner)), -1)
            if not any(x.owner is owner.held for x in self.loads):
                self.loads.append(Load(owner.held, "_grad", ArrayArg(value, dtype, shape)))

    def _overlap(self, guard: OverlapGuard, captured: Captured) -> None:
        """Pairs of which one is written and one moves. What stays where it is was compared when the trace was made."""
        sources = captured.sources
        moving = [k for k in guard.moving if not isinstance(sources[k], ScalarSource)]
        sized = [k for k, s in enumerate(sources) if not isinstance(s, ScalarSource) and s.fetch(self.leaves).size]
        for i in moving:
            for j in sized:
                if i in sized and i != j and (guard.written[i] or guard.written[j]) and (j not in moving or i < j):
                    self.disjoint.append((self.place(sources[i]), self.place(sources[j])))


class _TreeWriter(_Writer):
    """Writes the spec of a tree: of those of its endings whose guards hold for this call, and that the native entry can
    express. The others are ways that its code does not know."""

    def __init__(self, captured: Captured, call: Invocation):
        self.root: Segment = captured.above[0][0]
        traces = [t for t in leaves_of([self.root]) if t is captured or self._fits(t, captured, call)]
        super().__init__(traces, call)
        self.traces = traces

    def _fits(self, t: Captured, captured: Captured, call: Invocation) -> bool:
        if any(not guard.check(call.leaves) for guard in t.all_guards):
            return False
        if (t.sizes and t.sizes.symbolic) != (captured.sizes and captured.sizes.symbolic):
            return False
        try:
            writer = _Writer([t], call)
            writer._shared()
            writer.ending(t, _expressible(t), 0, (), 0)
        except (Inexpressible, UnknownLayout, UnknownSize):
            return False
        return True

    def tree_spec(self) -> TraceSpec:
        self.numbers = {id(t): k for k, t in enumerate(self.traces)}
        self.constants: list[Constant] = []
        self.executables = [_expressible(t) for t in self.traces]
        shared = self._shared()  # arguments give sizes their places: they come first
        symbols = [] if self.sizes is None else self.sizes.symbols
        for s in symbols:
            self.dims.size(s)
        arguments = {s: self.dims.slots[str(s)] for s in symbols}
        root = self._stage(self.root, 0)
        first = len(self.sources) + len(self.constants)
        values = first + max(executable_values(e) for e in self.executables)
        self.endings.sort(key=lambda end: end[0].ending)
        for stage, e in self.endings:
            stage.constants, stage.outputs = first, first + len(e.plan.constants)
        ends = []
        for t, e, (stage, _) in zip(self.traces, self.executables, self.endings):
            self.dims.wanted.clear()
            ends.append(self.ending(t, e, first, self.constants, values))
            needed = {str(d): d for d in (*e.plan.dims, *self.dims.wanted.values())}
            for d in needed.values():
                self.dims.size(d)
            stage.sizes = [(d, self.dims.slots[name]) for name, d in needed.items()]
        code: TreeCode = tree_code(root, len(self.traces), arguments)
        self.dims.only(symbols)
        shared["arena"] = self.dims.size(dim.maximum(64, code.arena))
        relations = {(r.difference, r.sign): None for t in self.traces if t.sizes for r in t.sizes.relations}
        target = self.executables[0].target
        derive, derived = self.dims.derive(list(relations), target, self.executables[0].link_text)
        shared["dims"] = len(self.dims.slots)
        known = {} if self.sizes is None else self.sizes.bind(self.leaves)
        slow = any(_seconds(e.plan, _largest(e.plan, known)) > LONG for e in (*self.executables, *self.segments))
        endings = tuple(
            TraceSpec(**end, **shared, plan=address, release_gil=slow) for end, address in zip(ends, code.endings)
        )
        pads = tuple(Constant(k, 0) for k in range(first, values))
        return TraceSpec(
            **shared,
            **self._asked(),
            plan=code.select,
            derive=derive,
            values=values,
            constants=(*self.constants, *pads),
            structure="tuple",
            release_gil=slow,
            endings=endings,
            keep=(code.code, derived, *self.executables, *self.segments),
        )

    endings: list[tuple[Stage, Executable]]
    segments: list[Executable]

    def _stage(self, node: Segment | Captured, depth: int) -> Stage:
        if node is self.root:
            self.endings, self.segments = [], []
        executable = _expressible(node)
        inputs = [self.place(s) for s in node.sources]
        if isinstance(node, Captured):
            stage = Stage(executable, inputs, node.given, 0, 0, ending=self.numbers[id(node)])
            self.endings.append((stage, executable))
            return stage
        self.segments.append(executable)
        first = len(self.sources) + len(self.constants)
        self.constants += [Constant(k, c.ctypes.data, c) for k, c in enumerate(executable.plan.constants, first)]
        stage = Stage(executable, inputs, node.given, first, kind=node.kind)
        if node.kind == "size":
            traces = (t for t in leaves_of(node.branches.get(2, ())) if id(t) in self.numbers)
            symbols = (s for t in traces for s, (d, _) in t.counted.items() if d == depth)
            stage.counts = next(symbols, None)
        for answer, below in node.branches.items():
            known = [n for n in below if any(id(t) in self.numbers for t in leaves_of([n]))]
            if known:
                stage.branches[int(answer)] = [self._stage(n, depth + 1) for n in known]
        return stage


def _largest(plan: Plan, known: Mapping[str, int]) -> dict[str, int]:
    """The symbols of a plan: as they are in a call, or as large as they can be."""

    def most(s: dim.Dim) -> int:
        high = known.get(str(s), dim.limits(s)[1])
        return 0 if high is None else dim.evaluate(high, {str(x): most(x) for x in dim.symbols(high)})

    return {str(d): most(d) for d in plan.dims}


def executable_values(executable: Executable) -> int:
    """How many constants and outputs a plan has."""
    return len(executable.plan.constants) + len(executable.plan.outputs)


def _is_fixed(expected: Any) -> bool:
    """Whether an object that matches once always does: it, and what it is compared by, does not change."""
    if isinstance(expected, g.Contents):
        return issubclass(expected.kind, tuple) and all(map(_is_fixed, expected.items))
    if isinstance(expected, g.Members):
        return expected.kind is frozenset
    return isinstance(expected, (g.Same, g.Equal))


def _require(holds: bool) -> None:
    if not holds:
        raise Inexpressible("a guard that has failed meanwhile: another thread has changed something")


def _seconds(plan: Plan, sizes: dict[str, int]) -> float:
    """How long a plan takes on one core, roughly. sizes: of the symbols in it. While loops may take forever."""
    costs = [kernel_cost(s.kernel) for s in plan.kernel_steps]
    moved, done = sum(c.read + c.written for c in costs), sum(c.flops for c in costs)
    total = dim.evaluate(moved, sizes) / BYTES_PER_SECOND + dim.evaluate(done, sizes) / OPERATIONS_PER_SECOND
    for s in plan.control_steps:
        if s.node.op.name == "while":
            return math.inf
        total += sum(_seconds(p, sizes) for p in s.plans) * dim.evaluate(s.node.attrs.get("length", 1), sizes)
    return total
