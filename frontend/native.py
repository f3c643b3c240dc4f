"""From captured traces to the native entry: `trace_spec` says in its terms what a trace takes for granted and does.

What it can't say (histories of results, nested arguments, keywords) stays with the Python path, which also gets every
call that a native guard refuses. Native guards are stricter where that is cheaper: an equal value is the same object.
"""

from __future__ import annotations

import ctypes
import gc
import types
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ..ir import dim
from ..runtime import entry
from ..runtime.dims_code import Dims, UnknownSize
from ..runtime.entry_layout import UnknownLayout, cell_word, slot_word, word_position
from ..runtime.executable import Executable
from ..runtime.trace_spec import (
    ABSENT,
    Arg,
    ArrayArg,
    Constant,
    DictGuard,
    Effect,
    EqualArg,
    Load,
    Output,
    Result,
    ScalarArg,
    Size,
    State,
    StaticArg,
    TraceSpec,
    Word,
)
from . import autograd
from .capture import guards as g
from .capture import pytree, replay
from .capture.overlap import OverlapGuard
from .capture.replay import (
    ArgSource,
    ArraySource,
    Captured,
    Fresh,
    GradSource,
    Invocation,
    Leaf,
    Recipe,
    ScalarSource,
    Static,
    TensorSource,
    View,
    make_view,
)
from .capture.size_guards import RelationGuard, SizesGuard
from .costs import kernel_cost
from .epoch import epoch
from .state import modes, state
from .tensor import Tensor

LONG = 20e-6  # seconds: longer plans let other threads run
BYTES_PER_SECOND, OPERATIONS_PER_SECOND = 10e9, 20e9  # of one core, roughly
MOST_VALUES, MOST_ARGS = 1 << 14, 1 << 10
PATIENCE = 1024  # calls at most between two attempts to renew a trace


class Inexpressible(Exception):
    """The native entry has no words for something in this trace."""


def executable_of(captured: Captured) -> Executable | None:
    """The machine code of a trace; None for other backends."""
    x = captured.executable
    while x is not None and not isinstance(x, Executable):
        x = getattr(x, "executable", None)
    return x


def trace_spec(captured: Captured, call: Invocation) -> TraceSpec | None:
    """The trace in the native entry's terms, or None if calls have to stay on the Python path.

    `call` is served by the trace, and belongs to this thread with its modes as they are.
    """
    executable = executable_of(captured)
    if executable is None or captured.backward is not None or call.kwargs:
        return None
    if executable.plan.host_steps:
        return None
    if len(call.args) != len(call.leaves) or any(a is not b for a, b in zip(call.args, call.leaves)):
        return None
    try:
        return _Writer(captured, executable, call).spec()
    except (Inexpressible, UnknownLayout, UnknownSize):
        return None


class _Writer:
    """Writes one spec."""

    def __init__(self, captured: Captured, executable: Executable, call: Invocation):
        self.captured, self.executable = captured, executable
        self.leaves, self.prefix, self.epoch = call.leaves, call.prefix, call.epoch
        self.values = {id(s): k for k, s in enumerate(captured.sources)}
        self.written = {target for _, target in captured.writes}
        self.words: list[Word] = []
        self.dicts: list[DictGuard] = []
        self.checks: list[Any] = []
        self.loads: list[Load] = []
        self.disjoint: list[tuple[int, int]] = []
        self.without_grad: set[int] = set()  # leaves
        self.with_epoch = False
        self.sizes = captured.sizes
        self.dims = Dims(executable.plan.dims)

    def spec(self) -> TraceSpec:
        for guard in self.captured.guards:
            self._guard(guard)
        args = (*map(StaticArg, self.prefix), *(self._arg(i, x) for i, x in enumerate(self.leaves)))
        if self.with_epoch:  # the first word: it is renewed in place
            self.words.insert(0, Word(epoch.address, self.epoch, epoch))
        plan = self.executable.plan
        if len(plan.buffers) > MOST_VALUES or len(self.leaves) > MOST_ARGS:
            raise Inexpressible("too many values")
        first_output = len(self.captured.sources) + len(plan.constants)
        constants = [Constant(k, c.ctypes.data, c) for k, c in enumerate(plan.constants, len(self.captured.sources))]
        outputs: list[Output] = []
        self.places: dict[int, int] = {}  # graph output -> its place among the fresh ones
        for j, b in enumerate(plan.outputs):
            buffer = plan.buffers[b]
            if buffer.kind == "output":
                self.places[j] = len(outputs)
                shape = tuple(self.dims.size(d) for d in buffer.type.shape)
                outputs.append(Output(first_output + j, buffer.type.dtype.np, shape))
            else:
                constants.append(Constant(first_output + j, 0))  # written into an input, or a check: nobody looks here
        results = _Results(self)
        states = self._states()
        arena = self.dims.size(dim.maximum(64, self.executable.arena_size))
        relations = [] if self.sizes is None else [(r.difference, r.sign) for r in self.sizes.relations]
        derive, code = self.dims.derive(relations, self.executable.target, self.executable.compile_text)
        return TraceSpec(
            plan=self.executable.address,
            args=args,
            values=first_output + len(plan.outputs),
            outputs=tuple(outputs),
            results=tuple(results.items),
            structure=results.structure,
            returned=results.returned,
            effects=tuple(results.effects),
            states=states,
            constants=tuple(constants),
            words=tuple(self.words),
            dicts=tuple(self.dicts),
            mode=modes(),
            same=self._same(),
            checks=tuple(self.checks),
            loads=tuple(self.loads),
            written=self._versions(),
            disjoint=tuple(self.disjoint),
            dims=len(self.dims.slots),
            derive=derive,
            arena=arena,
            release_gil=_seconds(self.executable, {} if self.sizes is None else self.sizes.bind(self.leaves)) > LONG,
            keep=(self.executable, code),
        )

    # ---- inputs

    def _source_of(self, leaf: int) -> Any:
        for s in self.captured.sources:
            if isinstance(s, (ArgSource, ScalarSource)) and s.leaf == leaf:
                return s
        return None

    def _arg(self, leaf: int, x: Any) -> Arg:
        source = self._source_of(leaf)
        value = -1 if source is None else self.values[id(source)]
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
            wanted = self.captured.graph.inputs[value].type
            _require(array.dtype == wanted.dtype.np and array.ndim == wanted.ndim)
            _require(all(n == d for n, d in zip(array.shape, wanted.shape) if isinstance(d, int)))
        return array

    def _states(self) -> tuple[State, ...]:
        out = []
        for k, s in enumerate(self.captured.sources):
            if isinstance(s, TensorSource):
                out.append(State(s.held, self._array(s.held._data, k), k))
            elif isinstance(s, ArraySource):
                out.append(State(None, self._array(s.held, k), k))
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

    def _versions(self) -> tuple[int, ...]:
        out = []
        for k in sorted(self.written):
            source = self.captured.sources[k]
            if isinstance(source, GradSource):
                raise Inexpressible("it writes into a gradient that was there before")
            if not isinstance(source, ArraySource) and isinstance(source.tensor(self.leaves), Tensor):  # type: ignore[union-attr]
                out.append(k)
        return tuple(out)

    # ---- guards

    def _guard(self, guard: g.Guard) -> None:
        if isinstance(guard, g.EpochGuard):
            self.with_epoch = True
        elif isinstance(guard, g.ItemGuard):
            self._item(guard)
        elif isinstance(guard, g.CellGuard):
            self._cell(guard)
        elif isinstance(guard, (g.ContentGuard, g.SlotGuard)):
            self._check(guard)
        elif isinstance(guard, g.TensorGuard):
            self._slot(guard.tensor, "_requires_grad", bool(guard.requires_grad))
        elif isinstance(guard, g.HookGuard):
            self._hooks(guard)
        elif isinstance(guard, g.GradGuard):
            self._grad(guard)
        elif isinstance(guard, OverlapGuard):
            self._overlap(guard)
        elif not isinstance(guard, (g.ScalarGuard, g.ArrayGuard, SizesGuard, RelationGuard)):
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
            dtype, shape, contiguous = guard.expected
            if not contiguous:
                raise Inexpressible("a gradient that is not contiguous")
            sources = enumerate(self.captured.sources)
            value = next((k for k, s in sources if isinstance(s, GradSource) and s.of is owner), -1)
            self.loads.append(Load(owner.held, "_grad", ArrayArg(value, dtype, shape)))

    def _overlap(self, guard: OverlapGuard) -> None:
        """Pairs of which one is written and one moves. What stays where it is was compared when the trace was made."""
        sources = self.captured.sources
        moving = [k for k in guard.moving if not isinstance(sources[k], ScalarSource)]
        sized = [k for k, s in enumerate(sources) if not isinstance(s, ScalarSource) and s.fetch(self.leaves).size]
        for i in moving:
            for j in sized:
                if i in sized and i != j and (guard.written[i] or guard.written[j]) and (j not in moving or i < j):
                    self.disjoint.append((i, j))


class _Results:
    """What a call returns and changes, as the native entry makes it."""

    def __init__(self, writer: _Writer):
        self.writer, self.captured = writer, writer.captured
        self.items: list[Result] = []
        self.effects: list[Effect] = []
        self._known: dict[int, int] = {}  # by recipe
        recipes, spec = self.captured.recipes, self.captured.spec
        flat = spec.kind is None or spec.kind in (tuple, list) and all(c.kind is None for c in spec.children)
        self.sized: dict[int, int] = {}
        self.structure: Any = "single" if spec.kind is None else "tuple"
        if flat and all(map(_is_plain, recipes)):
            for r in recipes:
                known = self._known.get(id(r))
                if known is None:
                    self._add(r)
                else:
                    self.items.append(Result("again", known))
        else:
            for r in recipes:
                if not isinstance(r, replay.Size):
                    self._base(r)
            self.sized = self._sized()
        self.returned = len(self.items)
        for effect in self.captured.effects:
            if not isinstance(effect.target, TensorSource):
                raise Inexpressible("it sets the gradient of an argument")
            if effect.recipe is not None and not _is_plain(effect.recipe):
                raise Inexpressible("a gradient that is a view")
            number = None if effect.recipe is None else self._base(effect.recipe)
            self.effects.append(Effect(effect.target.held, "_grad", number))
        if not flat or not all(map(_is_plain, recipes)):
            self.structure = _Finish(self.captured, self._known, self.sized)
        elif spec.kind is list:
            self.structure = partial(_listed, self.returned) if self.effects else list

    def _sized(self) -> dict[int, int]:
        """Where `_Finish` finds the arguments (by leaf) whose shapes tell the symbolic sizes that views are made with."""
        sizes = self.captured.sizes
        out: dict[int, int] = {}
        for leaf, _, _ in () if sizes is None else sizes.sources.values():
            if leaf not in out:
                out[leaf] = len(self.items)
                self.items.append(Result("argument", len(self.writer.prefix) + leaf))
        return out

    def _base(self, r: Recipe) -> int:
        """The place of what `r` is made from."""
        while isinstance(r, View):
            r = r.base
        known = self._known.get(id(r))
        return self._add(r) if known is None else known

    def _add(self, r: Any) -> int:
        self._known[id(r)] = len(self.items)
        self.items.append(self._result(r))
        return len(self.items) - 1

    def _result(self, r: Any) -> Result:
        n = len(self.writer.prefix)
        if isinstance(r, Fresh):
            place = self.writer.places.get(r.output)
            if place is None:
                raise Inexpressible("a result without memory of its own")
            return Result("tensor" if r.kind == "tensor" else "array", place)
        if isinstance(r, Static):
            return Result("object", object=r.value)
        if isinstance(r, Leaf):
            return Result("argument", n + r.leaf)
        source = r.source
        if isinstance(source, (ArgSource, ScalarSource)):
            return Result("argument", n + source.leaf)
        if isinstance(source, GradSource):
            raise Inexpressible("it returns a gradient that was there before")
        return Result("object", object=source.held)


class _Finish:
    """Makes views and nested containers of the plain results."""

    __slots__ = ("captured", "places", "sized")

    def __init__(self, captured: Captured, places: dict[int, int], sized: dict[int, int]):
        self.captured, self.places, self.sized = captured, places, sized

    def __call__(self, results: tuple[Any, ...]) -> Any:
        made: dict[int, Any] = {}
        sizes: dict[str, int] = {}
        if self.captured.sizes is not None:
            sizes = self.captured.sizes.bind({leaf: results[k] for leaf, k in self.sized.items()})
        leaves = [self._make(r, results, made, sizes) for r in self.captured.recipes]
        return pytree.unflatten(self.captured.spec, leaves)

    def _make(self, r: Recipe, results: tuple[Any, ...], made: dict[int, Any], sizes: dict[str, int]) -> Any:
        found = made.get(id(r))
        if found is None:
            if isinstance(r, View):
                found = make_view(self._make(r.base, results, made, sizes), r, sizes)
            elif isinstance(r, replay.Size):
                return dim.evaluate(r.size, sizes)
            else:
                found = results[self.places[id(r)]]
                if isinstance(r, Fresh) and r.kind == "number":
                    found = found[()]
            made[id(r)] = found
        return found


def _listed(n: int, results: tuple[Any, ...]) -> list[Any]:
    return list(results[:n])


def _is_plain(r: Recipe) -> bool:
    """Whether native code makes it by itself."""
    return not isinstance(r, (View, replay.Size)) and not (isinstance(r, Fresh) and r.kind == "number")


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


def _seconds(executable: Executable, sizes: dict[str, int]) -> float:
    """How long a plan takes on one core, roughly. sizes: of the symbols in it."""
    costs = [kernel_cost(s.kernel) for s in executable.plan.kernel_steps]
    moved, done = sum(c.read + c.written for c in costs), sum(c.flops for c in costs)
    return dim.evaluate(moved, sizes) / BYTES_PER_SECOND + dim.evaluate(done, sizes) / OPERATIONS_PER_SECOND


class NativeTrace:
    """A captured trace in the chain of a native function. `renew` follows what has changed since without harm."""

    __slots__ = ("_at_hits", "_patience", "_wait", "captured", "counted", "function", "trace")

    def __init__(self, function: Any, captured: Captured, spec: TraceSpec):
        self.function, self.captured = function, captured
        self.trace = entry.add_trace(function, spec)
        self.counted = self._wait = self._patience = self._at_hits = 0

    def new_hits(self) -> int:
        """Calls served since this was asked the last time."""
        hits = self.trace.hits
        new, self.counted = hits - self.counted, hits
        return new

    def renew(self, call: Invocation) -> None:
        """For a call that the native guards have refused and all Python guards have passed: expects from now on what is
        there now. Waits longer and longer when that does not help."""
        if self.trace.hits - self._at_hits > 16:
            self._wait = self._patience = 0
        if self._wait > 0:
            self._wait -= 1
            return
        self._patience = min(2 * self._patience + 1, PATIENCE)
        self._wait, self._at_hits = self._patience, self.trace.hits
        spec = self.trace.spec
        if spec.words and spec.words[0].address == epoch.address:
            self._renew_epoch(call.epoch)
        changed = any(_changed(w) for w in spec.words if w.address != epoch.address)
        changed = changed or any(d.mapping.get(d.key, ABSENT) is not d.expected for d in spec.dicts)
        changed = changed or any(
            s.array.ctypes.data != s.layout[2] or s.tensor is not None and s.tensor._data is not s.array
            for s in spec.states
        )
        if changed:
            new = trace_spec(self.captured, call)
            if new is not None:
                self._replace(new)

    def _renew_epoch(self, now: int) -> None:
        """The guards behind the epoch hold. Hooks of arguments were looked at for those of this call only."""
        if autograd._LEAF_HOOKS and any(
            isinstance(x, g.HookGuard) and not isinstance(x.source, TensorSource) for x in self.captured.guards
        ):
            return
        spec = self.trace.spec
        if not entry.is_native():
            words = (replace(spec.words[0], expected=now), *spec.words[1:])
            self._replace(replace(spec, words=words))
            return
        self.trace.memory[word_position(self.trace.memory, 0)] = now

    def _replace(self, spec: TraceSpec) -> None:
        entry.remove_trace(self.function, self.trace)
        before = self.trace
        self.trace = entry.add_trace(self.function, spec)
        self.counted -= before.hits
        self._at_hits = 0


def _changed(word: Word) -> bool:
    return ctypes.c_int64.from_address(word.address).value != word.expected


def attach(function: Any, captured: Captured, call: Invocation) -> NativeTrace | None:
    """Lets native code serve the trace from now on, if it can: it is added to the chain of `function`."""
    spec = trace_spec(captured, call)
    return None if spec is None else NativeTrace(function, captured, spec)
