"""A captured trace: where its graph's inputs come from, what becomes of the outputs, and the commit that does it.

Everything a native entry needs to run the trace without Python is in `Captured`: sources, recipes, effects, guards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

import numpy as np

from ...ir.dim import Dim, evaluate
from ...ir.graph import Graph
from ...ir.interpreter import concrete
from ...ir.op import Attrs, OpDef
from ...runtime.background import is_ready
from ..autograd import no_grad
from ..devices import host
from ..dispatch import run as run_op
from ..tape import root_of
from ..tensor import Tensor, new_tensor
from . import pytree
from .effects import Action, Composite, parts_of
from .guards import Guard
from .origins import Call, NumberSource, ReadSource
from .size_guards import SizesGuard


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call on its way: flattened and original arguments. `epoch`: as it was before any guard was checked.
    `prefix`: objects that the native function gets before `args` (a Module that is called)."""

    leaves: list[Any]
    args: tuple
    kwargs: dict[str, Any]
    epoch: int
    prefix: tuple[Any, ...] = ()


# ------------------------------------------------------------------ sources: how an input is fetched


@dataclass(frozen=True, slots=True)
class ArgSource:
    """A Tensor or ndarray among the arguments."""

    leaf: int
    path: str
    kind: str = "arg"

    def tensor(self, leaves: Sequence[Any]) -> Tensor:
        return leaves[self.leaf]

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        x = leaves[self.leaf]
        return x if type(x) is np.ndarray else x._data


@dataclass(frozen=True, slots=True)
class RootSource:
    """The tensor that an argument is a view of."""

    leaf: int
    path: str
    kind: str = "arg"

    def tensor(self, leaves: Sequence[Any]) -> Tensor:
        return root_of(leaves[self.leaf])

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return self.tensor(leaves)._data


@dataclass(frozen=True, slots=True)
class ScalarSource:
    """A Python float among the arguments, as a 0-d float64."""

    leaf: int
    path: str
    kind: str = "scalar"

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return np.asarray(leaves[self.leaf], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class TensorSource:
    """A tensor that the function reaches by itself. `frozen`: the way to it is unknown, so it may be read only."""

    held: Tensor
    path: str
    kind: str = "state"
    frozen: bool = False

    def tensor(self, leaves: Sequence[Any]) -> Tensor:
        return self.held

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return self.held._data


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """An ndarray that the function reaches by itself."""

    held: np.ndarray
    path: str
    kind: str = "state"

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return self.held


@dataclass(frozen=True, slots=True)
class GradSource:
    """The `.grad` that a tensor has when the call begins."""

    of: "ArgSource | RootSource | TensorSource | GradSource | ReadSource"
    path: str
    kind: str = "state"

    def tensor(self, leaves: Sequence[Any]) -> Tensor:
        grad = self.of.tensor(leaves)._grad
        assert grad is not None
        return grad

    def fetch(self, leaves: Sequence[Any]) -> np.ndarray:
        return self.tensor(leaves)._data


Source = ArgSource | RootSource | ScalarSource | TensorSource | ArraySource | GradSource | ReadSource | NumberSource
TensorLike = ArgSource | RootSource | TensorSource | GradSource | ReadSource

# ------------------------------------------------------------------ recipes: how a result is made


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """Graph output `output` as a new Tensor, an ndarray, a NumPy scalar (kind "number") or a Python number ("python").
    `requires_grad`: it has a history."""

    output: int
    kind: str = "tensor"
    requires_grad: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Static:
    """The same immutable Python value every time."""

    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Alias:
    """An argument, or a tensor of the user's, itself."""

    source: Source


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A non-tensor argument, handed back."""

    leaf: int


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A view: `op` applied to another result, sharing its storage. `detached`: it never gets a history."""

    base: "Recipe"
    op: OpDef
    attrs: Attrs
    detached: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Size:
    """A Python int: a symbolic size, as it is in the call."""

    size: Dim


Recipe = Fresh | Static | Alias | Leaf | View | Size | Composite


@dataclass(frozen=True, slots=True)
class GradEffect:
    """`target.grad` becomes a result, or None."""

    target: TensorLike
    recipe: Recipe | None


@dataclass(slots=True)
class Backward:
    """The backward pass of a captured forward: a graph of (saved values, cotangents) -> gradients.

    saved: per saved value, ("output", k) of the forward graph or ("input", k). `roots`: the forward outputs with a
    history, in the order of the cotangents. `targets`: whose gradients come out, in order.
    """

    graph: Graph
    saved: list[tuple[str, int]]
    roots: list[int]
    targets: list[TensorLike]
    executable: Any = None


@dataclass(slots=True)
class Captured:
    """One trace of a function: the graph between its arguments and results, and all that ties it to Python."""

    graph: Graph
    sources: list[Source]
    spec: pytree.Spec  # nesting of the result
    recipes: list[Recipe]  # its leaves
    effects: list[GradEffect]
    writes: list[tuple[int, int]]  # (graph output, input that it overwrites)
    guards: list[Guard]
    backward: Backward | None = None
    keep: list[Any] = field(default_factory=list)  # arguments that are known by identity: it must not be used again
    given: list[tuple[int, int]] = field(default_factory=list)  # what `rest` takes from the segments above: tree.Place
    rest: Graph | None = None  # what is left of the graph behind the last segment; None: all of it
    above: list[Any] = field(default_factory=list)  # (segment, answer) on the way to it, from the root
    notes: tuple[str, ...] = ()  # what it could do better, for `explain`
    executable: Any = None  # of `rest`
    sizes: SizesGuard | None = None  # of a trace with symbolic sizes of arguments
    counted: dict[Dim, tuple[int, int]] = field(default_factory=dict)  # sizes of values: where segments tell them
    told: dict[Dim, int] = field(default_factory=dict)  # those that results are made with: graph outputs that tell them
    native: Any = None  # its NativeTrace; False when the native entry can't serve it
    calls: int = 0
    gpu: Any = None  # the GPU that it runs on; None: the CPU
    actions: list[Action] = field(default_factory=list)  # what it does to Python objects

    def matches(self, leaves: Sequence[Any]) -> Guard | None:
        """None if every guard holds, else the first that does not."""
        for g in self.guards:
            if not g.check(leaves):
                return g
        return None

    def run(self, arrays: list[np.ndarray], values: Sequence[Sequence[np.ndarray]]) -> list[Any]:
        """The outputs, from the inputs and what the segments above have computed."""
        return self.executable.run([*arrays, *(values[d][k] for d, k in self.given)] if self.given else arrays)

    @property
    def executables(self) -> list[Any]:
        """All the code that it needs: of the segments above, too."""
        own = [self.executable] if self.backward is None else [self.executable, self.backward.executable]
        return [*(segment.executable for segment, _ in self.above), *own]

    @property
    def ready(self) -> bool:
        return all(map(is_ready, self.executables))

    @property
    def all_guards(self) -> list[Guard]:
        """Those of the segments above, too."""
        return [g for segment, _ in self.above for g in segment.guards] + self.guards

    def bind(self, leaves: Sequence[Any], values: Sequence[Sequence[np.ndarray]]) -> dict[str, int]:
        """How large the symbolic sizes are in a call. values: as for `run`."""
        out = {} if self.sizes is None else self.sizes.bind(leaves)
        for s, (depth, k) in self.counted.items():
            out[str(s)] = values[depth][k].shape[1]
        return out

    def commit(
        self,
        leaves: Sequence[Any],
        arrays: list[np.ndarray],
        outputs: list[Any],
        values: Sequence[Sequence[np.ndarray]],
        call: Call | None = None,
        act: bool = True,
    ) -> Any:
        """Builds the results and replays the effects. values: as for `run`. call: the arguments. act: False leaves Python
        objects alone."""
        for k, target in self.writes:
            source = self.sources[target]
            if isinstance(source, (ArgSource, RootSource, TensorSource, GradSource, ReadSource)):
                t = source.tensor(leaves)
                if isinstance(t, Tensor):
                    t = root_of(t)
                    t._version = (t._version or 0) + 1
        now = _Now(leaves, outputs, self.bind(leaves, values), call)
        if self.backward is not None:  # before views of the results are made: they take part in the history
            self._connect(arrays, now)
        results = [self._make(r, now) for r in self.recipes]
        grads = [None if e.recipe is None else self._make(e.recipe, now) for e in self.effects]
        steps = [a.prepare(lambda r: self._make(r, now), call) for a in self.actions if act]
        targets = [e.target.tensor(leaves) for e in self.effects]
        for target, grad in zip(targets, grads):
            target._grad = grad
        for step in steps:
            step()
        self.calls += 1
        return pytree.unflatten(self.spec, results)

    def _make(self, r: Recipe, now: "_Now") -> Any:
        if isinstance(r, Static):
            return r.value
        found = now.made.get(id(r))
        if found is not None:
            return found
        if isinstance(r, Composite):
            return r.build(lambda part: self._make(part, now), now.made, now.call)
        if isinstance(r, Fresh):
            array = now.outputs[r.output]
            out = new_tensor(array) if r.kind == "tensor" else as_kind(array, r.kind)
        elif isinstance(r, Leaf):
            return now.leaves[r.leaf]
        elif isinstance(r, Size):
            return evaluate(r.size, now.sizes)
        elif isinstance(r, Alias):
            out = _object(r.source, now.leaves)
        else:
            out = make_view(self._make(r.base, now), r, now.sizes)
        now.made[id(r)] = out
        return out

    def _connect(self, arrays: list[np.ndarray], now: "_Now") -> None:
        from .joint import connect

        assert self.backward is not None
        roots: list[Tensor | None] = [None] * len(self.backward.roots)
        for r in parts_of(
            [*self.recipes, *(e.recipe for e in self.effects), *(r for a in self.actions for r in a.recipes)]
        ):
            while isinstance(r, View):
                r = r.base
            if isinstance(r, Fresh) and r.requires_grad:
                roots[self.backward.roots.index(r.output)] = self._make(r, now)
        numbers = (ScalarSource, ArraySource, NumberSource)
        inputs = [s.tensor(now.leaves) if not isinstance(s, numbers) else None for s in self.sources]
        tensors = [t if isinstance(t, Tensor) else None for t in inputs]
        written = frozenset(target for _, target in self.writes)
        connect(self.backward, roots, now.leaves, arrays, now.outputs, tensors, self.graph, written)


@dataclass(slots=True)
class _Now:
    """A call whose results are being built. sizes: of the symbols. made: what is there, by the recipe's id."""

    leaves: Sequence[Any]
    outputs: list[Any]
    sizes: Mapping[str, int]
    call: Call | None
    made: dict[int, Any] = field(default_factory=dict)


def as_kind(array: np.ndarray, kind: str) -> Any:
    """An array as what a `Fresh` wants that is no tensor."""
    return host(array) if kind == "array" else array.item() if kind == "python" else host(array)[()]


def make_view(base: Any, r: View, sizes: Mapping[str, int]) -> Any:
    """The view `r` of `base`, which has been made already. sizes: of the symbols, if there are any."""
    attrs = concrete(r.attrs, sizes) if sizes else r.attrs
    if type(base) is np.ndarray:
        return r.op.reference(base, **attrs)
    if not r.detached:
        return run_op(r.op, (base,), attrs)
    with no_grad():
        return run_op(r.op, (base,), attrs)


def _object(source: Source, leaves: Sequence[Any]) -> Any:
    if isinstance(source, ArraySource):
        return source.held
    if isinstance(source, ScalarSource):
        return leaves[source.leaf]
    if isinstance(source, NumberSource):
        return source.origin.fetch()
    return source.tensor(leaves)
