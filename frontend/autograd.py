"""Reverse-mode differentiation: the backward walk over the tape, grad modes, hooks, and custom functions."""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Self

import numpy as np

from ..ir.op import get_op
from . import dispatch
from .dispatch import lift, payload_of
from .epoch import epoch
from .state import state, traced
from .tape import Edge, Node, edge_of, needs_grad
from .tensor import Tensor, new_tensor

# ------------------------------------------------------------------ grad modes


class _GradMode:
    """A context manager and decorator that sets whether ops are recorded."""

    def __init__(self, enabled: bool):
        self.enabled = enabled
        self._before: list[bool] = []

    def __enter__(self) -> Self:
        self._before.append(state.grad_enabled)
        state.grad_enabled = self.enabled
        return self

    def __exit__(self, *exc: object) -> None:
        state.grad_enabled = self._before.pop()

    def __call__(self, fn: Callable) -> Callable:
        enabled = self.enabled

        @wraps(fn)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with _GradMode(enabled):
                return fn(*args, **kwargs)

        return inside


def no_grad(fn: Callable | None = None) -> Any:
    """`with no_grad():` or `@no_grad()`: ops are not recorded for differentiation."""
    mode = _GradMode(False)
    return mode if fn is None else mode(fn)


def enable_grad(fn: Callable | None = None) -> Any:
    """`with enable_grad():` inside `no_grad`: ops are recorded again."""
    mode = _GradMode(True)
    return mode if fn is None else mode(fn)


class set_grad_enabled(_GradMode):
    """Sets the grad mode at once; as a context manager it also restores the old one."""

    def __init__(self, enabled: bool):
        super().__init__(bool(enabled))
        self._outer = state.grad_enabled
        state.grad_enabled = self.enabled

    def __enter__(self) -> Self:
        self._before.append(self._outer)
        state.grad_enabled = self.enabled
        return self


def is_grad_enabled() -> bool:
    return state.grad_enabled


# ------------------------------------------------------------------ the backward walk


class _Walk:
    """One backward pass. Cotangents are payloads (ndarrays or graph values), or Tensors when a graph is to be made."""

    def __init__(self, create_graph: bool, retain_graph: bool, wanted: dict[Any, Any] | None):
        self.create_graph, self.retain_graph = create_graph, retain_graph
        self.wanted = wanted  # keys of the edges whose cotangents are asked for; None: all leaves
        self.heap: list[tuple[int, Node]] = []
        self.pending: dict[Node, list] = {}
        self.leaves: dict[int, tuple[Tensor, Any]] = {}
        self.useful: set[Node] | None = None

    def send(self, edge: Edge, g: Any) -> None:
        """Adds a cotangent to what an edge has received."""
        if isinstance(edge, tuple):
            node, i = edge
            slots = self.pending.get(node)
            if slots is None:
                slots = self.pending[node] = [None] * len(node.results)
                heapq.heappush(self.heap, (-node.order, node))
            slots[i] = g if slots[i] is None else get_op("add")(slots[i], g)
        elif edge is not None:
            old = self.leaves.get(id(edge))
            self.leaves[id(edge)] = (edge, g if old is None else get_op("add")(old[1], g))

    def leads_somewhere(self, edge: Edge) -> bool:
        if edge is None:
            return False
        if self.wanted is None or self.useful is None:
            return True
        return edge_key(edge) in self.wanted or isinstance(edge, tuple) and edge[0] in self.useful

    def run(self) -> None:
        while self.heap:
            node = heapq.heappop(self.heap)[1]
            cotangents = self.pending.pop(node)
            for i, hooks in (node.hooks or {}).items():
                cotangents[i] = self.call_hooks(hooks, cotangents[i])
            if self.wanted is not None:
                for i, g in enumerate(cotangents):
                    if (node, i) in self.wanted:
                        self.wanted[node, i] = g
            if self.useful is not None and node not in self.useful:
                continue
            needs = tuple([self.leads_somewhere(e) for e in node.edges])
            grads = node.pull(cotangents, needs, self.create_graph)
            for edge, need, g in zip(node.edges, needs, grads, strict=True):
                if need and g is not None:
                    self.send(edge, g)
            if not self.retain_graph:
                node.release()

    def call_hooks(self, hooks: list[Callable], g: Any) -> Any:
        if g is None:
            return None
        for hook in list(hooks):
            replaced = traced(hook)(g if self.create_graph else lift(g))
            if replaced is not None:
                g = replaced if self.create_graph else payload_of(replaced)
        return g

    def find_useful(self, roots: Iterable[Edge]) -> None:
        """Which nodes lead to a wanted edge: only those are worth a rule."""
        reachable = nodes_behind(roots)
        useful: set[Node] = set()
        for node in sorted(reachable, key=lambda n: n.order):
            if any(
                e is not None and (edge_key(e) in self.wanted or isinstance(e, tuple) and e[0] in useful)
                for e in node.edges
            ):  # type: ignore[operator]
                useful.add(node)
        self.useful = useful


def edge_key(edge: Edge) -> Any:
    """What identifies an edge in a dict."""
    return edge if isinstance(edge, tuple) else id(edge)


def nodes_behind(roots: Iterable[Edge]) -> set[Node]:
    """Every node that the edges lead to."""
    stack = [e[0] for e in roots if isinstance(e, tuple)]
    seen: set[Node] = set()
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(e[0] for e in node.edges if isinstance(e, tuple))
    return seen


def _seed(t: Tensor, gradient: Any, what: str) -> Tensor:
    """The cotangent that a backward pass starts with."""
    if gradient is None:
        if any(d != 1 for d in t.shape):
            raise RuntimeError(
                f"{what}: only a tensor with one element has an implicit gradient, this one has shape "
                f"{t.shape}; pass gradient="
            )
        if not t.dtype.is_floating:
            raise RuntimeError(f"{what}: {t.dtype.name} tensors have no gradient")
        return lift(get_op("full")(value=1, shape=t.shape, dtype=t.dtype))
    g = gradient if isinstance(gradient, Tensor) else new_tensor(np.asarray(gradient, t.dtype.np))
    if tuple(g.shape) != tuple(t.shape):
        raise ValueError(f"{what}: the gradient has shape {tuple(g.shape)}, the tensor {tuple(t.shape)}")
    return g if g.dtype is t.dtype else dispatch.apply(get_op("cast"), g, dtype=t.dtype)


def _walk(walk: _Walk, outputs: Sequence[Tensor], gradients: Sequence[Any], what: str) -> None:
    seeds = []
    for t, g in zip(outputs, gradients, strict=True):
        edge = edge_of(t)
        if edge is None:
            raise RuntimeError(
                f"{what}: the tensor (shape {t.shape}, {t.dtype.name}) does not depend on anything that requires grad"
            )
        seeds.append((edge, _seed(t, g, what)))
    if walk.wanted is not None:
        walk.find_useful(e for e, _ in seeds)
    before, state.grad_enabled = state.grad_enabled, walk.create_graph
    try:
        for edge, seed in seeds:
            walk.send(edge, seed if walk.create_graph else payload_of(seed))
        walk.run()
        for key, (leaf, g) in walk.leaves.items():
            hooks = _LEAF_HOOKS.get(key)
            if hooks is not None:
                walk.leaves[key] = (leaf, walk.call_hooks(hooks[1], g))
    finally:
        state.grad_enabled = before


def backward(
    tensors: Tensor | Sequence[Tensor],
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Adds to `.grad` of every leaf behind `tensors` the gradient of their sum, each weighted with its `gradient`.

    RuntimeError if a tensor does not require grad, or has several elements and no gradient is given, or what a rule
    saved was freed or overwritten.
    """
    outputs = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    gradients = (
        [gradient] if isinstance(tensors, Tensor) else [None] * len(outputs) if gradient is None else list(gradient)
    )
    walk = _Walk(create_graph, create_graph if retain_graph is None else retain_graph, None)
    _walk(walk, outputs, gradients, "backward")
    given = {id(g._data) for g in gradients if isinstance(g, Tensor)}
    for leaf, g in walk.leaves.values():
        _accumulate(leaf, g, given)


def _accumulate(leaf: Tensor, g: Any, given: set[int]) -> None:
    """leaf.grad += g, as a tensor of its own: `given` holds the ids of arrays that someone has already."""
    tracer = state.tracer
    old = leaf._grad if tracer is None else tracer.get_grad(leaf)
    if isinstance(g, Tensor):
        if old is not None:
            g = dispatch.apply(get_op("add"), old, g)
        elif tracer is None and _shared(g._data, given):
            g = dispatch.apply(get_op("cast"), g, dtype=g.dtype)
    elif old is not None:
        g = lift(get_op("add")(payload_of(old), g))
    else:
        g = lift(g.copy() if tracer is None and _shared(g, given) else g)
    given.add(id(g._data))
    if tracer is None:
        leaf._grad = g
    else:
        tracer.set_grad(leaf, g)


def _shared(array: Any, given: set[int]) -> bool:
    return id(array) in given or array.base is not None or not array.flags.writeable


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` (weighted with `grad_outputs`) with respect to `inputs`; `.grad` stays
    as it is.

    RuntimeError if an input does not require grad, or is not used and `allow_unused` is False (then it gets None).
    """
    outs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    ins = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    gradients = (
        [grad_outputs]
        if isinstance(outputs, Tensor)
        else [None] * len(outs)
        if grad_outputs is None
        else list(grad_outputs)
    )
    edges = [edge_of(t) for t in ins]
    for t, e in zip(ins, edges):
        if e is None:
            raise RuntimeError(f"grad: an input (shape {tuple(t.shape)}, {t.dtype.name}) does not require grad")
    walk = _Walk(
        create_graph, create_graph if retain_graph is None else retain_graph, {edge_key(e): None for e in edges}
    )
    _walk(walk, outs, gradients, "grad")
    found: list[Tensor | None] = []
    for i, edge in enumerate(edges):
        g = walk.wanted[edge] if isinstance(edge, tuple) else walk.leaves.get(id(edge), (None, None))[1]  # type: ignore[index]
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i} was not used to compute the outputs; pass allow_unused=True to get None for it"
            )
        found.append(g if g is None or isinstance(g, Tensor) else lift(g))
    return tuple(found)


# ------------------------------------------------------------------ hooks

_LEAF_HOOKS: dict[int, tuple[weakref.ref, list[Callable]]] = {}


class HookHandle:
    """Takes a hook off again with `remove()`."""

    def __init__(self, hooks: list[Callable], hook: Callable, of_leaf: bool = False):
        self._hooks, self._hook, self._of_leaf = hooks, hook, of_leaf

    def remove(self) -> None:
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)
            if self._of_leaf:
                epoch.bump()


def register_hook(t: Tensor, hook: Callable[[Tensor], Tensor | None]) -> HookHandle:
    """Calls `hook(gradient)` whenever the gradient of `t` has been computed; what it returns replaces it."""
    edge = edge_of(t)
    if edge is None:
        raise RuntimeError("register_hook: the tensor does not require grad")
    if isinstance(edge, tuple):
        node, i = edge
        node.hooks = node.hooks or {}
        hooks = node.hooks.setdefault(i, [])
    else:
        key = id(t)
        found = _LEAF_HOOKS.get(key)
        if found is None:
            found = _LEAF_HOOKS[key] = (weakref.ref(t, lambda _: _LEAF_HOOKS.pop(key, None)), [])
        hooks = found[1]
        epoch.bump()  # traces have looked for hooks
    hooks.append(hook)
    return HookHandle(hooks, hook, of_leaf=not isinstance(edge, tuple))


def retain_grad(t: Tensor) -> None:
    """Lets a tensor that is no leaf receive `.grad` too."""
    if t._node is None:
        return
    held = weakref.ref(t)

    def keep(g: Tensor) -> None:
        target = held()
        if target is not None:
            _accumulate(target, g if g._node is not None else payload_of(g), set())

    register_hook(t, keep)


# ------------------------------------------------------------------ custom functions


class FunctionContext:
    """What `forward` hands on to `backward`: `save_for_backward(*tensors)`, or attributes of any name."""

    def __init__(self) -> None:
        self._saved: tuple[tuple[Tensor, int | None] | None, ...] | None = ()
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self._saved = tuple(None if t is None else (t, dispatch.root_of(t)._version) for t in tensors)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        if self._saved is None:
            raise RuntimeError(
                "backward a second time: the saved tensors were freed; pass retain_graph=True to the first"
            )
        for item in self._saved:
            if item is not None and dispatch.root_of(item[0])._version != item[1]:
                raise RuntimeError(f"a tensor saved for backward (shape {tuple(item[0].shape)}) was written in place")
        return tuple(None if item is None else item[0] for item in self._saved)


class FunctionNode(Node):
    """An application of a user's `Function`."""

    __slots__ = ("context", "function")

    def __init__(self, function: type, context: Any, tensors: tuple[Tensor, ...], results: tuple[Tensor, ...]):
        super().__init__(tensors, results)
        self.function, self.context = function, context

    @property
    def name(self) -> str:
        return self.function.__name__

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        filled = [
            dispatch.lift(get_op("full")(value=0, shape=t.shape, dtype=t.dtype))
            if g is None
            else g
            if isinstance(g, Tensor)
            else lift(g)
            for g, t in zip(cotangents, map(self.result_type, range(len(cotangents))))
        ]
        out = traced(self.function.backward)(self.context, *filled)  # type: ignore[attr-defined]
        grads = out if isinstance(out, tuple) else (out,)
        positions = self.context._positions
        if len(grads) != self.context._count:
            raise RuntimeError(
                f"{self.name}.backward returned {len(grads)} gradients for {self.context._count} arguments of forward"
            )
        picked = [grads[p] for p in positions]
        return tuple(None if g is None else g if create_graph else payload_of(g) for g in picked)

    def release(self) -> None:
        self.context._saved = None


class Function:
    """A differentiable function of one's own: static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`,
    which returns a gradient or None for each argument of forward. Call it with `apply`."""

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a Function needs a static method forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise TypeError("a Function needs a static method backward(ctx, *gradients)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        ctx = FunctionContext()
        positions = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
        tensors = tuple(args[i] for i in positions)
        ctx.needs_input_grad = tuple(isinstance(a, Tensor) and needs_grad(a) for a in args)
        ctx._positions, ctx._count = positions, len(args)  # type: ignore[attr-defined]
        record = state.grad_enabled and any(ctx.needs_input_grad)
        with no_grad():
            out = traced(cls.forward)(ctx, *args, **kwargs)
        if not record:
            return out
        results = out if isinstance(out, tuple) else (out,)
        results = tuple(_fresh(r, tensors) for r in results)
        node = FunctionNode(cls, ctx, tensors, tuple(r for r in results if isinstance(r, Tensor)))
        for i, r in enumerate(t for t in results if isinstance(t, Tensor)):
            if r.dtype.is_floating:
                r._requires_grad, r._node = None, (node, i)
        return results if isinstance(out, tuple) else results[0]


def _fresh(r: Any, arguments: tuple[Tensor, ...]) -> Any:
    """A copy of results that are arguments or views: their history is another one than that of what they share."""
    if isinstance(r, Tensor) and (r._base is not None or any(r is a for a in arguments)):
        with no_grad():
            return r.clone()
    return r
