"""Captures one call: runs the function with hooks and a tracer, and puts down what came of it as a `Captured`."""

from __future__ import annotations

import functools
import inspect
import types
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np

from ...ir.decider import decider
from ...ir.dim import Dim, symbols
from ...ir.dtypes import float64, from_numpy
from ...ir.graph import InputSpec, OutputSpec, Signature, Value
from ...ir.subgraph import sizes_in
from ...ir.types import TensorType
from ...runtime.cuda.numerics import numerics
from .. import random
from ..epoch import epoch
from ..nn.parameter import Parameter
from ..state import state
from ..tape import needs_grad, root_of, storage_of
from ..tensor import Tensor
from . import guards as g
from . import joined, joint, objects_made, pytree
from .array_mode import ArrayTracer, NumberTracer
from .effects import Composite, NewLeaf, Viewed, parts_of
from .hooks import Hooks
from .instrument import is_instrumented
from .overlap import OverlapGuard
from .overlay import Restart, Volatile
from .replay import (
    Alias,
    ArgSource,
    ArraySource,
    Backward,
    Captured,
    Fresh,
    GradEffect,
    Leaf,
    Recipe,
    ScalarSource,
    Size,
    Static,
    TensorSource,
    View,
    make_view,
)
from .scalars import ScalarArgument, TracedScalar
from .tracer import CaptureStop, GradSlot, Slot, Specialize, Tracer, user_location
from .tree import Route
from .value_sizes import Settled, ValueSizes

__all__ = ["CaptureStop", "Restart", "Specialize", "Volatile", "capture", "flatten_call"]


@dataclass(slots=True)
class Call:
    """Flattened arguments."""

    leaves: list[Any]
    spec: pytree.Spec

    @property
    def key(self) -> tuple:
        """What picks the traces that may fit; the guards decide."""
        modes = (state.grad_enabled, state.default_dtype, state.autocast, state.place, numerics.key)
        return (self.spec, modes, g.sharing(self.leaves), *map(g.leaf_key, self.leaves))


def flatten_call(args: tuple, kwargs: dict[str, Any]) -> Call:
    leaves, spec = pytree.flatten((args, kwargs))
    return Call(leaves, spec)


def argument_paths(function: Callable, call: Call) -> list[str]:
    """How the user calls each leaf: by the parameter's name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    args, kwargs = call.spec.children
    out: list[str] = []
    for i, child in enumerate(args.children):
        out += pytree.paths(child, names[i] if i < len(names) else f"arg{i}")
    for name, child in zip(kwargs.keys, kwargs.children):
        out += pytree.paths(child, name)
    return out


def capture(
    function: Callable,
    args: tuple,
    kwargs: dict[str, Any],
    static: frozenset[int] = frozenset(),
    tracer: Tracer | None = None,
    route: Route | None = None,
    volatile: Volatile | None = None,
    settled: Settled | None = None,
) -> Captured:
    """One trace of `function(*args, **kwargs)`. Nothing real is changed.

    static: leaves whose floats are constants of the trace. tracer: a fresh one, for a trace with symbolic sizes. route:
    answers what Python asks for; without one that ends the capture. volatile: what traces of this function are known to
    change outside of tensors. settled: what is known of its sizes that depend on values. Raises CaptureStop with the user's
    line where the call can't be part of a graph, Restart when more of that has turned up (into `volatile`), Settle for
    `settled`, Specialize if a float argument must be static, and whatever the
    function itself raises.
    """
    call = flatten_call(args, kwargs)
    tracer = tracer or Tracer(getattr(function, "__name__", type(function).__name__))
    hooks = Hooks(tracer, volatile)
    log = GuardLog(tracer, hooks, call, static)
    if route is not None:
        asked: Route = route
        tracer.asker = lambda v, kind: asked.ask(tracer, v, kind, log.take(), user_location())
        tracer.counted = tracer.builder.counted = ValueSizes(tracer, route, {} if settled is None else settled)
    before = (state.grad_enabled, state.default_dtype, state.autocast, 0, epoch.value)
    try:
        with tracer:
            tracer.reach.add("rng", random.default_generator)
            given = _arguments(tracer, hooks, function, call, static, args, kwargs)
            result = hooks.call(function, *given[0], **given[1])
            if tracer.stopped is not None:
                raise tracer.stopped
            if hooks.overlay.restarting:
                raise Restart
            moved = epoch.value - hooks.bumps
            if (state.grad_enabled, state.default_dtype, state.autocast, state.unfinished, moved) != before:
                tracer.stop("it changes a module, an optimizer, the grad mode or the default dtype for good")
            return _Finish(tracer, hooks, call, log, route).captured(result)
    except g.TooLarge:
        raise CaptureStop("it reads a container too large to be compared on every call", None) from None
    finally:
        state.grad_enabled, state.default_dtype, state.autocast, state.unfinished = before[:4]
        tracer.restore()
        tracer.asker = None  # what is left of the tracer goes with the next garbage collection, code at once


def _arguments(
    tracer: Tracer, hooks: Hooks, function: Callable, call: Call, static: frozenset[int], args: tuple, kwargs: dict
) -> Any:
    """(args, kwargs) as the instrumented function gets them."""
    owner = function.__self__ if isinstance(function, types.MethodType) else function
    if not isinstance(owner, types.FunctionType):
        hooks.external(owner, "" if hasattr(owner, "_modules") else "self")
    paths = argument_paths(function, call)
    leaves: list[Any] = []
    if hooks.overlay.volatile.joined and type(tracer) is Tracer:
        for i, x in enumerate(call.leaves):
            if isinstance(x, Tensor):
                tracer.argument(i, x, paths[i])
        tracer.joined, guards = joined.join(tracer, call.leaves, paths)
        hooks.guards += guards
    for i, (x, path) in enumerate(zip(call.leaves, paths)):
        if type(x) is float and i not in static:
            source = ScalarSource(i, path)
            x = ScalarArgument(tracer.add_input(source, TensorType(float64, ())), i, True)
        elif isinstance(x, np.ndarray):
            if type(x) is not np.ndarray or not x.dtype.isnative:
                tracer.stop(f"argument {path} is a {type(x).__name__} of dtype {x.dtype}")
            try:
                from_numpy(x.dtype)
            except TypeError:
                tracer.stop(f"argument {path} is an array of dtype {x.dtype}")
            x = tracer.argument(i, x, path)
        elif isinstance(x, Tensor):
            x = tracer.joined[i] if i in tracer.joined else tracer.argument(i, x, path)
        else:
            hooks.external(x, path)
            if g.is_content(x):
                hooks.guard_content(x, path)
        leaves.append(x)
    given = pytree.unflatten(call.spec, leaves)
    for part in (*given[0], *given[1].values()):
        pytree.containers(part, hooks.note_container)
    hooks.overlay.give(given, (args, kwargs))
    return given


class _Finish:
    """Turns a finished run into a `Captured`."""

    def __init__(self, tracer: Tracer, hooks: Hooks, call: Call, log: GuardLog, route: Route | None):
        self.tracer, self.hooks, self.call, self.log, self.route = tracer, hooks, call, log, route
        self.outputs: list[Value] = []
        self.specs: list[OutputSpec] = []
        self.made: dict[int, tuple[Any, Recipe]] = {}
        self.histories: list[tuple[int, Tensor]] = []
        for i, x in tracer.joined.items():
            self.made[id(x)] = (x, Alias(ArgSource(i, "")))
        self.views_share = False
        self.shared: dict[int, int] = {}  # roots of traced views among the results: how many share each

    def captured(self, result: Any) -> Captured:
        tracer = self.tracer
        self.views_share = bool(self.hooks.overlay.actions)
        actions = objects_made.actions(self.hooks.overlay.actions, self)
        leaves, spec = pytree.flatten(result, objects_made.whole(result, self))
        for x in leaves:
            if isinstance(x, Tensor):
                self.shared[id(root_of(x))] = self.shared.get(id(root_of(x)), 0) + 1
        recipes = [self.recipe(x) for x in leaves]
        effects = self._gradients()
        told = self._told(
            [*recipes, *(r for e in effects if e.recipe for r in (e.recipe,)), *(r for a in actions for r in a.recipes)]
        )
        written = list(tracer.written())
        writes: list[tuple[int, int]] = []
        for k, slot in written:
            writes.append((self._output(slot.current, OutputSpec("write", target=k)), k))
        backward: Backward | None = None
        if self.histories and state.grad_enabled:
            backward = self._backward({k for k, _ in writes})
        problem = tracer.restore()
        if problem is not None:
            tracer.stop(problem)
        signature = Signature(tuple(InputSpec(s.path, s.kind) for s in tracer.sources), tuple(self.specs))
        graph = tracer.builder.finish(self.outputs, signature)
        guards = self._guards(written, backward)
        keep = [x for x in self.call.leaves if not g.is_value(x) and not isinstance(x, (float, Tensor, np.ndarray))]
        if backward is None:
            for r in parts_of([*recipes, *(r for a in actions for r in a.recipes)]):
                if isinstance(r, Fresh):
                    object.__setattr__(r, "requires_grad", False)
        sources = list(tracer.sources)
        out = Captured(graph, sources, spec, recipes, effects, writes, guards, backward, keep, actions=actions)
        out.notes, out.gpu = tuple(self.hooks.open_loops), tracer.gpu
        if self.route is not None:
            out.rest, out.given, out.above = self.route.rest(graph), self.route.given, self.route.segments
            out.counted = {s: self.route.places[v] for s, v in self.route.sizes.items()}
            out.told = told
        return out

    def _told(self, recipes: list[Recipe]) -> dict[Dim, int]:
        """Outputs that tell the sizes of values with which results are made: of numbers, and of views."""
        known = {} if self.route is None else self.route.sizes
        needed: dict[Dim, None] = {}
        for r in parts_of(recipes) if known else ():
            while isinstance(r, View):
                for v in r.attrs.values():
                    needed.update((s, None) for d in sizes_in(v) for s in symbols(d))
                r = r.base
            if isinstance(r, Size):
                needed.update(dict.fromkeys(r.size.symbols()))
        return {s: self._output(known[s], OutputSpec()) for s in needed if s in known}

    def _backward(self, written: set[int]) -> Any:
        n = len(self.outputs)
        backward = joint.record(self.tracer, self.histories, self.outputs, written, self.made)
        self.specs += [OutputSpec("result", path="saved")] * (len(self.outputs) - n)
        return backward

    def _output(self, v: Value, spec: OutputSpec) -> int:
        self.outputs.append(v)
        self.specs.append(spec)
        return len(self.outputs) - 1

    # ---- results

    def recipe(self, x: Any, attribute: str = "") -> Recipe:
        """How later calls make a value; the same recipe for the same object."""
        found = self.made.get(id(x))
        if found is None:
            found = (x, self._new_recipe(x, attribute))
            found = self.made.setdefault(id(x), found)
        return found[1]

    def _remember(self, x: Any, recipe: Recipe) -> Recipe:
        self.made[id(x)] = (x, recipe)
        return recipe

    def _new_recipe(self, x: Any, attribute: str) -> Recipe:
        tracer = self.tracer
        if isinstance(x, Tensor):
            return self._tensor(x, attribute)
        if isinstance(x, np.ndarray):
            if not self.hooks.made_here(x):
                return Alias(ArraySource(x, "array"))
            return Fresh(self._output(tracer.builder.constant(x.copy()), OutputSpec()), kind="array")
        if isinstance(x, TracedScalar):
            if isinstance(x, ScalarArgument) and x.original:
                return Leaf(x.leaf)
            return Fresh(self._output(x.value, OutputSpec()), kind="python")
        if g.is_value(x):
            return Static(x)
        if isinstance(x, Dim) and decider() is not None:
            return Size(x)
        for i, leaf in enumerate(self.call.leaves):
            if leaf is x:
                return Leaf(i)
        found = objects_made.composite(x, self, lambda recipe: self._remember(x, recipe))
        if found is not None:
            return found
        if id(x) in tracer.created or getattr(getattr(x, "__code__", None), "co_freevars", None) or _is_made(x):
            tracer.stop(f"it returns a {type(x).__name__} that it has made")
        if isinstance(x, type) or callable(x) or id(x) in self.hooks.seen_objects:
            return Static(x)
        tracer.stop(f"it returns a {type(x).__name__}")

    def _tensor(self, x: Tensor, attribute: str) -> Recipe:
        tracer = self.tracer
        one = self._twin(x)
        if one is not None:
            return self.recipe(one, attribute)
        slot = tracer.slots.get(id(x))
        if slot is None and type(x._data) is not Value:
            slot = tracer.lift(x)
        if slot is not None and slot.source is not None:
            if getattr(slot.source, "frozen", False):
                tracer.stop("it returns a tensor that is reached in a way capture does not know")
            return Alias(slot.source)
        value = tracer.read(x)
        if _is_leaf(x):
            return self._leaf(x, value)
        if slot is None and x._view is not None and x._base is not None:
            root = root_of(x)
            if (
                type(root._data) is not Value
                or id(root) in tracer.slots
                or self.shared.get(id(root), 0) > 1
                or self.views_share
            ):
                return self._view(x)
        kind = "number" if isinstance(x, NumberTracer) else "array" if isinstance(x, ArrayTracer) else "tensor"
        k = self._output(value, OutputSpec("attr" if attribute else "result", path=attribute))
        history = not attribute and state.grad_enabled and kind == "tensor" and needs_grad(x) and x._node is not None
        if history:
            self.histories.append((k, x))
        return Fresh(k, kind, requires_grad=history)

    def _twin(self, x: Tensor) -> Tensor | None:
        """The tensor that `x`, which a loop has left, is in this call, where that can be seen outside."""
        tracer = self.tracer
        if id(x) in tracer.ties.same:
            return tracer.ties.same[id(x)]
        for tie in list(tracer.ties.of(x)):
            if tie.result is not x:
                continue
            seen = [k for k, t in tie.others.items() if self._is_seen(t)]
            if seen and tie.which is None:
                tie.reopen()
            if seen and (one := tracer.ties.which(tracer, tie, seen)) is not None:
                return one
        return None

    def _is_seen(self, t: Tensor) -> bool:
        """Whether `t`, or what it is a view of, existed before the call, or is among the results."""
        root = storage_of(t)
        return type(root._data) is not Value or id(root) in self.tracer.slots or id(root) in self.shared

    def _view(self, x: Tensor, detached: bool = False) -> Recipe:
        """A view of a tensor that has, or gets, a recipe."""
        assert x._base is not None
        base = self.recipe(x._base)
        op, attrs = x._view
        view = View(base, op, attrs, detached or x._requires_grad is False)
        if not isinstance(base, Composite):
            return view
        if decider() is not None:
            self.tracer.stop("it returns a view of a leaf (a parameter) that it has made, with symbolic sizes")
        return Viewed(base, functools.partial(make_view, r=view, sizes={}))

    def _leaf(self, x: Tensor, value: Value) -> Recipe:
        """A leaf (a parameter) that the trace has made; it may share the memory of another tensor."""
        out = NewLeaf(type(x), x._requires_grad is True)
        self._remember(x, out)
        if x._view is not None and x._base is not None:
            values = self._view(x, detached=True)
        else:
            values = Fresh(self._output(value, OutputSpec()))
        out.parts = (values,) if x._grad is None else (values, self.recipe(x._grad))
        return out

    def _gradients(self) -> list[GradEffect]:
        effects: list[GradEffect] = []
        for slot in self.tracer.grads.values():
            now, first = slot.current, slot.first
            path = f"{slot.source.path}.grad"
            if now is first:
                continue
            if getattr(slot.source, "frozen", False):
                self.tracer.stop("it changes .grad of a tensor that is reached in a way capture does not know")
            effects.append(GradEffect(slot.source, None if now is None else self.recipe(now, path)))
        return effects

    # ---- guards

    def _guards(self, written: Sequence[Any], backward: Backward | None) -> list[g.Guard]:
        tracer = self.tracer
        out = self.log.take()
        for source in () if backward is None else backward.targets:
            hooks = g.leaf_hooks(source.tensor(self.call.leaves))
            out.append(g.HookGuard(source, hooks, f"{source.path} has {len(hooks)} gradient hooks"))
        sharing = self.hooks.overlay.sharing(self.call.leaves)
        if sharing is not None:
            out.append(sharing)
        if written:
            guard = OverlapGuard(list(tracer.sources), [k for k, _ in written])
            if not guard.check(self.call.leaves):
                volatile = self.hooks.overlay.volatile
                if not volatile.joined and joined.overlap(self.call.leaves, tracer.sources):
                    volatile.joined = True
                    raise Restart
                tracer.stop("it writes into {}, which shares memory with {}".format(*guard.pair()))
            out.append(guard)
        return out


class GuardLog:
    """Hands out the guards of a trace, a stretch at a time: what it has come to rely on since the last time."""

    def __init__(self, tracer: Tracer, hooks: Hooks, call: Call, static: frozenset[int]):
        self.tracer, self.hooks, self.call, self.static = tracer, hooks, call, sorted(static)
        self._members = self._reads = 0  # how many of each have been handed out
        self._slots: set[int] = set()
        self._grads: set[int] = set()

    def take(self) -> list[g.Guard]:
        tracer, hooks = self.tracer, self.hooks
        out: list[g.Guard] = list(tracer.size_guards())
        entries = hooks.epoch_guard.entries
        if len(entries) > self._members:
            out.append(g.EpochGuard(entries[self._members :], epoch.value))
            self._members = len(entries)
        out += hooks.guards[self._reads :]
        self._reads = len(hooks.guards)
        for i, x in enumerate(self.call.leaves):
            array = isinstance(x, np.ndarray) and id(x) in tracer.external
            if (array or id(x) in hooks.noted) and hooks.once("argument", i):
                out.append(g.ArgumentGuard(i, x, f"argument {i} is the one that the function reaches by itself"))
        for i in tracer.joined:
            root = root_of(self.call.leaves[i])
            if id(root) in hooks.noted and hooks.once("root", i):
                out.append(joined.RootGuard(i, root, f"argument {i} is a view of what the function reaches by itself"))
        for i in self.static:
            expected = g.Equal(self.call.leaves[i])
            out.append(g.ScalarGuard(i, expected, f"float argument {i} {expected}"))
        self.static = []
        for key, slot in tracer.slots.items():
            if key not in self._slots:
                self._slots.add(key)
                out += self._slot(slot)
        for key, grad in tracer.grads.items():
            if key not in self._grads:
                self._grads.add(key)
                out += self._grad(grad)
        return out

    def _slot(self, slot: Slot) -> list[g.Guard]:
        source, t = slot.source, slot.tensor
        if isinstance(source, TensorSource):
            text = f"{source.path} is {t.dtype.name}{list(t.shape)}"
            return [g.TensorGuard(t, slot.array, self.tracer.requires_grad_before(t), text)]
        if isinstance(source, ArraySource):
            return [g.ArrayGuard(slot.array, slot.array.dtype, slot.array.shape, f"{source.path} keeps its shape")]
        return []

    def _grad(self, grad: GradSlot) -> list[g.Guard]:
        first = grad.first
        expected = None if first is None else g.layout(first._data)
        hooks = g.leaf_hooks(grad.tensor)
        text = f"{grad.source.path}.grad is {'None' if first is None else 'a tensor'}"
        return [
            g.HookGuard(grad.source, hooks, f"{grad.source.path} has {len(hooks)} gradient hooks"),
            g.GradGuard(grad.source, expected, text),
        ]


def _is_leaf(x: Tensor) -> bool:
    """Whether a tensor is more than its values: a parameter, or one that wants or has a gradient, and no history."""
    if x._node is not None or isinstance(x, ArrayTracer):
        return False
    return x._requires_grad is True or x._grad is not None or isinstance(x, Parameter)


def _is_made(x: Any) -> bool:
    return hasattr(x, "__code__") and is_instrumented(x.__code__)
