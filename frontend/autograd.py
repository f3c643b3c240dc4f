"""Reverse-mode differentiation: the backward walk over the tape, grad modes, and hooks.

Custom functions are in `autograd_function.py`, checks in `anomaly.py` and `autograd_check.py`.
"""

from __future__ import annotations

import heapq
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..ir.graph import Value
from ..ir.op import get_op, value_type
from . import dispatch
from .devices import gpu_of, making
from .dispatch import lift, payload_of
from .epoch import epoch
from .state import state, traced
from .tape import Edge, Node, edge_of
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

    def _again(self) -> _GradMode:
        """Another one of the same kind, for a call of a decorated function."""
        return _GradMode(self.enabled)

    def __call__(self, fn: Callable) -> Callable:

        @wraps(fn)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self._again():
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


class inference_mode(_GradMode):
    """`no_grad` under PyTorch's other name: `with inference_mode():` or `@inference_mode()`. Its results are ordinary
    tensors without history; unlike PyTorch's they may take part in autograd later. `inference_mode(False)` records."""

    def __init__(self, mode: bool = True):
        super().__init__(not mode)
        self._outer: list[bool] = []

    def _again(self) -> inference_mode:
        return inference_mode(not self.enabled)

    def __enter__(self) -> Self:
        self._outer.append(state.inference)
        state.inference = not self.enabled
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        state.inference = self._outer.pop()


def is_inference_mode_enabled() -> bool:
    """Whether this is inside of `with inference_mode():`."""
    return state.inference


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
        anomaly = state.anomaly
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
            if anomaly is None:
                grads = node.pull(cotangents, needs, self.create_graph)
            else:
                grads = anomaly.pull(node, cotangents, needs, self.create_graph)
            for edge, need, g in zip(node.edges, needs, grads, strict=True):
                if need and g is not None:
                    self.send(edge, g)
            if not self.retain_graph:
                node.release()

    def call_hooks(self, hooks: list[Callable], g: Any) -> Any:
        if g is None:
            return None
        for hook in list(hooks):
            if type(hook) is AfterAccumulation:
                continue
            replaced = traced(hook)(conjugate(g if self.create_graph else lift(g)))
            if replaced is not None:
                g = conjugate(replaced if self.create_graph else payload_of(replaced))
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
            why = "complex results need gradient=" if t.dtype.is_complex else f"{t.dtype.name} tensors have no gradient"
            raise RuntimeError(f"{what}: {why}")
        return lift(get_op("full")(value=1, shape=t.shape, dtype=t.dtype))
    g = gradient if isinstance(gradient, Tensor) else new_tensor(np.asarray(gradient, t.dtype.np))
    if tuple(g.shape) != tuple(t.shape):
        raise ValueError(f"{what}: the gradient has shape {tuple(g.shape)}, the tensor {tuple(t.shape)}")
    return conjugate(g if g.dtype is t.dtype else dispatch.apply(get_op("cast"), g, dtype=t.dtype))


def conjugate(g: Any) -> Any:
    """Between the rules, whose complex cotangents pair with changes without a conjugate, and users, who know PyTorch's
    convention."""
    return get_op("conj")(g) if g is not None and value_type(g).dtype.is_complex else g


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
    before, walk_before = state.grad_enabled, state.mode_before_walk
    if state.tracer is not None and walk_before is None:
        state.mode_before_walk = before
    state.grad_enabled = walk.create_graph
    try:
        for edge, seed in seeds:
            walk.send(edge, seed if walk.create_graph else payload_of(seed))
        with making(next((g for t in outputs if (g := gpu_of(t))), None)):
            walk.run()
        for key, (leaf, g) in walk.leaves.items():
            hooks = _LEAF_HOOKS.get(key)
            if hooks is not None:
                g = walk.call_hooks(hooks[1], g)
            walk.leaves[key] = (leaf, conjugate(g))
        for key, g in (walk.wanted or {}).items():
            walk.wanted[key] = conjugate(g)  # type: ignore[index]
    finally:
        state.grad_enabled, state.mode_before_walk = before, walk_before


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
        hooks = _LEAF_HOOKS.get(id(leaf))
        for hook in hooks[1] if hooks is not None else ():
            if type(hook) is AfterAccumulation:
                traced(hook.hook)(leaf)


def _accumulate(leaf: Tensor, g: Any, given: set[int]) -> None:
    """leaf.grad += g, as a tensor of its own: `given` holds the ids of arrays that someone has already."""
    tracer = state.tracer
    old = leaf._grad if tracer is None else tracer.get_grad(leaf)
    if isinstance(g, Tensor):
        if old is not None:
            g = dispatch.apply(get_op("add"), old, g)
        elif _shared(g._data, given):
            g = dispatch.apply(get_op("cast"), g, dtype=g.dtype)
    elif old is not None:
        g = lift(get_op("add")(payload_of(old), g))
    else:
        g = lift(g.copy() if _shared(g, given) else g)
    given.add(id(g._data))
    if tracer is None:
        leaf._grad = g
    else:
        tracer.set_grad(leaf, g)


def _shared(array: Any, given: set[int]) -> bool:
    return type(array) is not Value and (id(array) in given or array.base is not None or not array.flags.writeable)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` (weighted with `grad_outputs`) with respect to `inputs`; `.grad` stays
    as it is.

    is_grads_batched: the grad_outputs have one more axis in front, and so have the gradients: one for each entry.
    RuntimeError if an input does not require grad, or is not used and `allow_unused` is not True (then it gets None,
    or with `materialize_grads` zeros).
    """
    if is_grads_batched:
        return _batched_grad(outputs, inputs, grad_outputs, retain_graph, create_graph, allow_unused, materialize_grads)
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
        if g is None and materialize_grads:
            g = get_op("full")(value=0, shape=ins[i].shape, dtype=ins[i].dtype)
        if g is None and not allow_unused:
            raise RuntimeError(
                f"grad: input {i} was not used to compute the outputs; pass allow_unused=True to get None for it"
            )
        found.append(g if g is None or isinstance(g, Tensor) else lift(g))
    return tuple(found)


def _batched_grad(outputs: Any, inputs: Any, grad_outputs: Any, retain_graph: bool | None, *more: Any) -> tuple:
    from .vmap import vmap

    if grad_outputs is None:
        raise ValueError("grad: is_grads_batched=True needs grad_outputs with one more axis in front")
    given = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)

    def one(*gs: Tensor) -> list[Tensor | None]:
        found = grad(
            outputs, inputs, gs[0] if isinstance(outputs, Tensor) else gs, True, more[0], more[1], False, more[2]
        )
        return list(found)

    found = vmap(one, in_axes=tuple(None if g is None else 0 for g in given))(*given)
    if not (more[0] if retain_graph is None else retain_graph):
        for node in nodes_behind(edge_of(t) for t in ([outputs] if isinstance(outputs, Tensor) else outputs)):
            node.release()
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


class AfterAccumulation(NamedTuple):
    """A hook of a leaf that is called with the leaf, once its `.grad` has been added to."""

    hook: Callable[[Tensor], None]


def register_post_accumulate_grad_hook(t: Tensor, hook: Callable[[Tensor], None]) -> HookHandle:
    """Calls `hook(t)` after each backward() that has added to `t.grad`: for leaves. RuntimeError for others."""
    if not isinstance(edge_of(t), Tensor):
        raise RuntimeError("register_post_accumulate_grad_hook: only leaves that require grad accumulate gradients")
    return register_hook(t, AfterAccumulation(hook))  # type: ignore[arg-type]


def retain_grad(t: Tensor) -> None:
    """Lets a tensor that is no leaf receive `.grad` too. RuntimeError if it does not require grad."""
    edge = edge_of(t)
    if edge is None:
        raise RuntimeError("retain_grad: the tensor does not require grad")
    if isinstance(edge, Tensor) or retains_grad(t):
        return
    held = weakref.ref(t)

    def keep(g: Tensor) -> None:
        target = held()
        if target is not None:
            _accumulate(target, g if g._node is not None else payload_of(g), set())

    keep.of = held  # type: ignore[attr-defined]
    register_hook(t, keep)


def retains_grad(t: Tensor) -> bool:
    """Whether `retain_grad` was called on this tensor."""
    edge = edge_of(t)
    hooks = (edge[0].hooks or {}).get(edge[1], ()) if isinstance(edge, tuple) else ()
    return any(getattr(h, "of", lambda: None)() is t for h in hooks)


# ------------------------------------------------------------------ what lives elsewhere

if TYPE_CHECKING:
    from .anomaly import detect_anomaly as detect_anomaly
    from .anomaly import is_anomaly_enabled as is_anomaly_enabled
    from .anomaly import set_detect_anomaly as set_detect_anomaly
    from .autograd_check import gradcheck as gradcheck
    from .autograd_check import gradgradcheck as gradgradcheck
    from .autograd_function import Function as Function
    from .autograd_function import FunctionContext as FunctionContext
    from .autograd_function import once_differentiable as once_differentiable

_ELSEWHERE = {
    "Function": "autograd_function",
    "FunctionContext": "autograd_function",
    "once_differentiable": "autograd_function",
    "detect_anomaly": "anomaly",
    "is_anomaly_enabled": "anomaly",
    "set_detect_anomaly": "anomaly",
    "gradcheck": "autograd_check",
    "gradgradcheck": "autograd_check",
    "functional": "autograd_functional",
}


def __getattr__(name: str) -> Any:
    home = _ELSEWHERE.get(name)
    if home is None:
        raise AttributeError(f"module 'tracefuse.autograd' has no attribute {name!r}")
    module = import_module(f".{home}", __package__)
    value = module if name == "functional" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ELSEWHERE})
