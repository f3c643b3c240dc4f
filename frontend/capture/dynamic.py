"""Symbolic sizes in the traces of `compile`.

The first call of a signature specialises. Sizes of arguments in which later calls differ become symbols; those that
were equal in every call so far are one symbol. While such a trace is captured, a `SizedTracer` answers what Python asks
of a size with what it is in the present call, and what the answer rests on becomes a guard. Where that can't be a guard
(Python needs the number; an equation says what a symbol is), the capture starts again with fewer symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.decider import decide_with
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import from_numpy
from ...ir.types import TensorType
from .. import autograd
from ..dims import Dim as Marked
from ..tensor import Tensor, new_tensor
from . import sizes
from .capture import Call, CaptureStop, argument_paths
from .replay import ArgSource, Captured
from .size_guards import RelationGuard, SizesGuard
from .tracer import Slot, Tracer
from .value_sizes import ValueSizes, divisor

Setting = Any  # None, a bool, or {argument: {axis: name or tr.Dim}}
MOST_SEEN = 64  # calls of one signature whose sizes are remembered
MOST_ATTEMPTS = 64  # captures of one call
MOST_FAILURES = 3  # of a signature, after which symbols are not tried any more


class Refine(BaseException):
    """Starts the capture again with symbols replaced. lasting: later traces take them for constants from the start."""

    def __init__(self, changes: dict[Dim, DimLike], values: dict[str, int] | None = None, lasting: bool = False):
        self.changes, self.values, self.lasting = changes, values or {}, lasting


@dataclass(frozen=True, slots=True)
class Assumption:
    """Shapes of arguments, some of them symbolic, and the sizes of the present call by name. floors: expressions that
    a symbol with a range stood for, which must stay in it."""

    shapes: Mapping[int, tuple[DimLike, ...]]
    values: Mapping[str, int]
    floors: tuple[DimLike, ...] = ()

    @property
    def symbols(self) -> list[Dim]:
        found = {s for shape in self.shapes.values() for d in shape for s in dim.symbols(d)}
        return sorted(found, key=str)

    def with_changes(self, changes: Mapping[Dim, DimLike], values: Mapping[str, int]) -> Assumption:
        shapes = {k: tuple(dim.substitute(d, changes) for d in shape) for k, shape in self.shapes.items()}
        floors = [dim.substitute(d, changes) for d in self.floors]
        for s, new in changes.items():
            low, high = dim.bounds(s)
            if isinstance(new, Dim):
                floors += [new - (low or 0)] + ([] if high is None else [high - new])
        open_ones = tuple(d for d in floors if isinstance(d, Dim) and not dim.nonnegative(d))
        return Assumption(shapes, {**self.values, **values}, open_ones)

    def constant(self, symbols: Iterable[Dim]) -> Assumption:
        return self.with_changes({s: self.values[str(s)] for s in symbols}, {})

    def places(self, symbols: Iterable[Dim]) -> set[tuple[int, int]]:
        """(leaf, axis) of every size that depends on one of them."""
        wanted = set(symbols)
        return {
            (leaf, axis)
            for leaf, shape in self.shapes.items()
            for axis, d in enumerate(shape)
            if dim.symbols(d) & wanted
        }


@dataclass(slots=True)
class Family:
    """What is known of the calls that differ in sizes only. pinned: (leaf, axis) that Python needs as numbers.
    failures: calls that could not be captured at all, symbols or not."""

    seen: list[dict[int, tuple[int, ...]]] = field(default_factory=list)
    pinned: set[tuple[int, int]] = field(default_factory=set)
    failures: int = 0

    def add(self, shapes: dict[int, tuple[int, ...]]) -> None:
        if shapes not in self.seen:
            self.seen = [*self.seen[-MOST_SEEN + 1 :], shapes]


class SizedTracer(Tracer, sizes.Answers):
    """A tracer with symbolic sizes, which answers for the present call: see `ir.dim.Decider`."""

    decides = True

    def __init__(self, name: str, assumed: Assumption, of: dict[int, int]):
        super().__init__(name)
        self.assumed, self.size_values = assumed, assumed.values
        self.noted: dict[tuple[DimLike, str], None] = {(d, ">="): None for d in assumed.floors}
        self.guard: SizesGuard | None = None  # set by whoever knows the call
        self._told, self._handed = False, 0  # what of the guard and of `noted` has been handed out
        self._leaf_of = of  # by id: real arguments with symbolic sizes
        self._standins: dict[int, tuple[Any, Any]] = {}
        self._views: set[int] = set()
        self._before_me: Any = None

    def __enter__(self) -> SizedTracer:
        super().__enter__()
        self._before_me = decide_with(self)
        return self

    def __exit__(self, *exc: object) -> None:
        decide_with(self._before_me)
        super().__exit__(*exc)

    def size_guards(self) -> list[Any]:
        assert self.guard is not None
        out: list[Any] = [] if self._told else [self.guard]
        self._told = True
        self.forbid_empty(v.type.shape for n in self.builder.nodes for v in n.outputs)
        fresh = [(d, sign) for d, sign in list(self.noted)[self._handed :] if isinstance(d, Dim)]
        self._handed = len(self.noted)
        relations = [RelationGuard(self.guard, d, sign) for d, sign in fresh]
        self.guard.relations = (*self.guard.relations, *relations)
        return out + relations

    # ---- arguments

    def argument(self, leaf: int, x: Any, path: str) -> Any:
        """Real tensors have real sizes: the function gets stand-ins."""
        shape = self.assumed.shapes.get(leaf)
        if shape is None:
            return super().argument(leaf, x, path)
        found = self._standins.get(id(x))
        if found is None:
            found = self._standins[id(x)] = (x, self._standin(ArgSource(leaf, path), x, shape))
        return found[1]

    def _standin(self, source: ArgSource, x: Any, shape: tuple[DimLike, ...]) -> Tensor:
        array = x._data if isinstance(x, Tensor) else x
        self.found(array)
        value = self.add_input(source, TensorType(from_numpy(array.dtype), shape))
        t = new_tensor(value, self.wrapper if isinstance(x, Tensor) else self.array_class)
        self.slots[id(t)] = Slot(t, source, value, value, array)
        if isinstance(x, Tensor):
            t._node, t._requires_grad, t._version = x._node, x._requires_grad, x._version
            self.known[id(t)] = (t, source)
            self.remember(t)
            if x._base is not None:
                self._views.add(id(t))
        else:
            self.arrays[id(x)] = (x, t)
        return t

    def remember(self, t: Tensor) -> None:
        leaf = self._leaf_of.get(id(t))
        if leaf is not None:  # an argument that is reached another way too: there must be one input for both
            found = [s for d in self.assumed.shapes[leaf] for s in dim.symbols(d)]
            raise Refine({s: self.assumed.values[str(s)] for s in found}, lasting=True)
        super().remember(t)

    def _set(self, root: Tensor, v: Any) -> None:
        if id(root) in self._views:
            self.stop("it writes into a view that was made outside")
        super()._set(root, v)

    # ---- answers

    def _value(self, d: DimLike) -> int:
        return dim.evaluate(d, self.assumed.values)

    def _note(self, d: DimLike, sign: str) -> None:
        self.noted.setdefault((d, sign))

    def _counted(self, *sizes: DimLike) -> ValueSizes | None:
        """Who answers where one of these depends on values."""
        return self.counted if self.counted is not None and self.counted.concern(*sizes) else None

    def equal(self, a: Dim, b: DimLike) -> bool:
        if (counted := self._counted(a, b)) is not None:
            return counted.equal(a, b)
        difference = a - b
        if isinstance(difference, int):
            return difference == 0
        if dim.negative(difference) or dim.negative(-1 * difference):
            return False
        if self._value(difference) != 0:
            self._note(difference, "!=")
            return False
        self._unify(difference)
        return True

    def _unify(self, difference: Dim) -> None:
        """Makes use of difference == 0, or notes it."""
        symbols = sorted(difference.symbols(), key=str, reverse=True)
        for s in symbols:
            factor = difference.coefficient(s) if difference.is_linear_in(s) else 0
            if factor in (1, -1):
                raise Refine({s: s - difference * factor})
        if len(symbols) == 1:
            s, now = symbols[0], self.assumed.values[str(symbols[0])]
            by = divisor(difference, s, now)
            if by > 1:
                low, high = dim.bounds(s)
                part = dim.symbol(f"{s}_{by}", -(-max(1, low or 1) // by), None if high is None else high // by)
                raise Refine({s: part * by}, {str(part): now // by})
            if difference.is_linear_in(s):
                raise Refine({s: now})
        self._note(difference, "==")

    def nonnegative(self, d: Dim) -> bool:
        if (counted := self._counted(d)) is not None:
            return counted.nonnegative(d)
        holds = self._value(d) >= 0
        self._note(d if holds else -1 - d, ">=")
        return holds

    def concrete(self, d: Dim) -> int:
        if (counted := self._counted(d)) is not None:
            return counted.concrete(d)
        raise Refine({s: self.assumed.values[str(s)] for s in d.symbols()}, lasting=True)

    def forbid_empty(self, shapes: Iterable[tuple[DimLike, ...]]) -> None:
        """Sizes of values that could be 0 on another call, and are not on this one: it does not serve that."""
        for d in dict.fromkeys(d for shape in shapes for d in shape if isinstance(d, Dim)):
            low, _ = dim.bounds(d)
            if (low is None or low < 1) and self._counted(d) is None:
                if self._value(d) < 1:
                    raise Refine({s: self.assumed.values[str(s)] for s in d.symbols()})
                self._note(d - 1, ">=")


class Dynamic:
    """How one compiled function deals with sizes that change."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.marks: dict[str, dict[int, Marked]] = {}
        if isinstance(setting, Mapping):
            for path, axes in setting.items():
                given = axes.items() if isinstance(axes, Mapping) else enumerate(axes)
                self.marks[path] = {a: Marked(d) if isinstance(d, str) else d for a, d in given if d is not None}
        elif setting not in (None, True, False):
            raise TypeError(f"dynamic={setting!r}: it is None, True, False, or {{argument: {{axis: name or Dim}}}}")
        self.families: dict[tuple, Family] = {}
        self._marked: dict[Any, list[tuple[int, str, dict[int, Marked]]]] = {}  # by the nesting of arguments

    def check(self, function: Callable, call: Call) -> None:
        """ValueError if the marks do not fit the call."""
        if self.marks:
            self._marks(function, call)

    # ---- the layout of a call without its sizes

    def pattern(self, function: Callable, key: tuple, call: Call) -> tuple | None:
        """`key` without the sizes that may be symbolic: what calls must share to share a trace. None: nothing may."""
        if self.setting is False:
            return None
        marks = self._marks(function, call) if self.marks else {}
        out: list[Any] = ["sizes", *key[:3]]
        for leaf, (x, k) in enumerate(zip(call.leaves, key[3:], strict=True)):
            if isinstance(x, (Tensor, np.ndarray)):
                marked = marks.get(leaf, {})
                shape = k[2]
                k = (*k[:2], tuple(n if n < 2 and a not in marked else -1 for a, n in enumerate(shape)), *k[3:])
            out.append(k)
        return tuple(out)

    def give_up(self, pattern: tuple) -> None:
        """Calls of the pattern have traces of their own from now on: symbols have come to nothing."""
        self.families.setdefault(pattern, Family()).failures = MOST_FAILURES

    def _marks(self, function: Callable, call: Call) -> dict[int, dict[int, Marked]]:
        """The marks of each leaf. ValueError for a size out of its range, or for sizes of one name that differ."""
        found = self._marked.get(call.spec)
        if found is None:
            found = self._marked[call.spec] = self._find_marks(function, call)
        out: dict[int, dict[int, Marked]] = {}
        named: dict[str, tuple[int, str]] = {}
        for leaf, path, axes in found:
            x = call.leaves[leaf]
            if not isinstance(x, (Tensor, np.ndarray)):
                raise ValueError(f"dynamic: {path} is a {type(x).__name__}, not a tensor")
            for axis, d in axes.items():
                if not -x.ndim <= axis < x.ndim:
                    raise ValueError(f"dynamic: {path} of shape {list(x.shape)} has no axis {axis}")
                n = x.shape[axis]
                if n < d.min or d.max is not None and n > d.max:
                    raise ValueError(f"{path} has size {n} at axis {axis}, but {d.name} is {d.range}")
                first = named.setdefault(d.name, (n, f"axis {axis} of {path}"))
                if first[0] != n:
                    raise ValueError(f"{d.name} is {first[0]} at {first[1]}, but {n} at axis {axis} of {path}")
                out.setdefault(leaf, {})[axis % x.ndim] = d
        return out

    def _find_marks(self, function: Callable, call: Call) -> list[tuple[int, str, dict[int, Marked]]]:
        paths = argument_paths(function, call)
        for path in self.marks:
            if path not in paths:
                raise ValueError(f"dynamic: there is no argument {path!r}; there are {', '.join(paths) or 'none'}")
        return [(paths.index(path), path, axes) for path, axes in self.marks.items()]

    # ---- which sizes are symbols

    def _assume(self, function: Callable, family: Family, call: Call) -> Assumption:
        marks = self._marks(function, call) if self.marks else {}
        eligible = {k: _shape(x) for k, x in enumerate(call.leaves) if _may_change(x)}
        family.add(eligible)
        values: dict[str, int] = {}
        names: dict[Any, Dim] = {}
        shapes: dict[int, tuple[DimLike, ...]] = {}
        for leaf, shape in eligible.items():
            new: list[DimLike] = []
            for axis, n in enumerate(shape):
                marked = marks.get(leaf, {}).get(axis)
                history = tuple(s[leaf][axis] for s in family.seen if leaf in s)
                changes = marked is not None or len(set(history)) > 1 or self.setting is True and n > 1
                if not changes or (leaf, axis) in family.pinned:
                    new.append(n)
                    continue
                group = history if marked is None else marked.name
                if group not in names:
                    names[group] = dim.symbol(f"size{len(names)}", 2) if marked is None else marked.symbol()
                    values[str(names[group])] = n
                new.append(names[group])
            if any(isinstance(d, Dim) for d in new):
                shapes[leaf] = tuple(new)
        return Assumption(shapes, values)

    def capture(
        self, function: Callable, key: tuple, call: Call, once: Callable[[Callable[[], Tracer | None]], Captured]
    ) -> Captured:
        """The trace of a call, with symbolic sizes if the calls so far say so. `once` captures with the given tracer."""
        pattern = self.pattern(function, key, call)
        if pattern is None:
            return once(lambda: None)
        family = self.families.setdefault(pattern, Family())
        base = assumed = self._assume(function, family, call)
        trials: list[list[Dim]] | None = None  # after a failure: which symbols are made constants next
        trial: list[Dim] = []
        for _ in range(MOST_ATTEMPTS):
            if not assumed.symbols or family.failures >= MOST_FAILURES:
                break
            attempt = _Attempt(function, call, assumed)
            try:
                captured = once(attempt.tracer)
                attempt.finish(captured)
            except Refine as e:
                if e.lasting:
                    family.pinned |= assumed.places(e.changes)
                assumed = assumed.with_changes(e.changes, e.values)
                continue
            except (CaptureStop, Exception):
                if trials is None:
                    base = assumed
                    found = assumed.symbols
                    trials = [[s] for s in found[:4]] if len(found) > 1 else []
                trial = trials.pop(0) if trials else base.symbols
                assumed = base.constant(trial)
                continue
            family.pinned |= base.places(trial)
            return captured
        try:
            return once(lambda: None)
        except (CaptureStop, Exception):
            family.failures += 1
            raise


class _Attempt:
    """One capture under an assumption."""

    def __init__(self, function: Callable, call: Call, assumed: Assumption):
        self.function, self.call, self.assumed = function, call, assumed
        self.last: SizedTracer | None = None

    def tracer(self) -> Tracer:
        of = {id(self.call.leaves[k]): k for k in self.assumed.shapes if isinstance(self.call.leaves[k], Tensor)}
        name = getattr(self.function, "__name__", type(self.function).__name__)
        paths = argument_paths(self.function, self.call)
        self.last = SizedTracer(name, self.assumed, of)
        shapes = {k: (paths[k], shape) for k, shape in self.assumed.shapes.items()}
        self.last.guard = SizesGuard(shapes, _shapes(self.call))
        return self.last

    def finish(self, captured: Captured) -> None:
        """Adds the guards that the backward pass asks for. Refine, if the trace would not do."""
        tracer = self.last
        assert tracer is not None
        if captured.backward is not None:
            tracer.forbid_empty(v.type.shape for n in captured.backward.graph.nodes for v in n.outputs)
        captured.guards += tracer.size_guards()
        captured.sizes = tracer.guard


def _shape(x: Any) -> tuple[int, ...]:
    return (x._data if isinstance(x, Tensor) else x).shape


def _shapes(call: Call) -> dict[int, tuple[int, ...]]:
    """The shapes of all tensors and arrays."""
    return {k: _shape(x) for k, x in enumerate(call.leaves) if isinstance(x, (Tensor, np.ndarray))}


def _may_change(x: Any) -> bool:
    """Whether an argument can have symbolic sizes: a plain tensor or array. Hooks and gradients that are there already
    belong to the real one."""
    if type(x) is np.ndarray:
        return x.dtype.isnative
    return type(x) is Tensor and x._grad is None and id(x) not in autograd._LEAF_HOOKS
