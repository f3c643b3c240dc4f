"""Functional differentiation: `grad`, `value_and_grad`, `vjp`. They nest, and see through to closed-over tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ..ir.op import get_op
from . import autograd
from .convert import as_tensor
from .dispatch import run
from .state import state, traced
from .tape import edge_of, needs_grad
from .tensor import Tensor, detach


def value_and_grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (fn(*args), gradient with respect to args[argnums]).

    `fn` returns a scalar tensor, or with has_aux (scalar, anything else). Arguments may be nested lists, tuples and
    dicts of floating tensors; gradients have their structure. For several argnums the gradient is a tuple.
    """
    picked = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @wraps(fn)
    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        with autograd.enable_grad():
            leaves: list[Tensor] = []
            outer = False
            new_args = list(args)
            for i in picked:
                found, rebuild = flatten(args[i])
                tracked = [_tracked(t) for t in found]
                outer = outer or any(needs_grad(t) for t in found)
                leaves += tracked
                new_args[i] = rebuild(tracked)
            out = traced(fn)(*new_args, **kwargs)
            value, aux = out if has_aux else (out, None)
            if not isinstance(value, Tensor) or any(d != 1 for d in value.shape):
                kind = f"a tensor of shape {value.shape}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise TypeError(f"grad needs a function that returns a scalar tensor; {fn.__name__} returned {kind}")
            grads = _gradients([value], [None], leaves, outer)
            at, results = 0, []
            for i in picked:
                found, rebuild = flatten(args[i])
                results.append(rebuild(grads[at : at + len(found)]))
                at += len(found)
        value = value if _depends_on_others([value], leaves) or outer else detach(value)
        gradient = results[0] if isinstance(argnums, int) else tuple(results)
        return ((value, aux) if has_aux else value), gradient

    return differentiated


def grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns the gradient of `fn` with respect to args[argnums] (with has_aux: and fn's other
    result)."""
    both = value_and_grad(fn, argnums, has_aux)

    @wraps(fn)
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def vjp(fn: Callable, *primals: Any) -> tuple[Any, Callable]:
    """(fn(*primals), pullback): the pullback takes cotangents of fn's results, in their structure, and returns a
    tuple with the gradient of each primal. It may be called again."""
    structures = [flatten(p) for p in primals]
    with autograd.enable_grad():
        tracked = [[_tracked(t) for t in found] for found, _ in structures]
        out = traced(fn)(*(rebuild(t) for t, (_, rebuild) in zip(tracked, structures)))
    outputs, rebuild_out = flatten(out)
    leaves = [t for group in tracked for t in group]
    outer = any(needs_grad(t) for found, _ in structures for t in found)

    def pullback(*cotangents: Any) -> tuple:
        given, _ = flatten(cotangents[0] if len(cotangents) == 1 else tuple(cotangents))
        if len(given) != len(outputs):
            raise ValueError(f"vjp: {len(given)} cotangents for {len(outputs)} results")
        grads = _gradients(outputs, given, leaves, outer)
        at, results = 0, []
        for found, rebuild in structures:
            results.append(rebuild(grads[at : at + len(found)]))
            at += len(found)
        return tuple(results)

    keep = outer or _depends_on_others(outputs, leaves)
    return rebuild_out([t if keep else detach(t) for t in outputs]), pullback


def _tracked(t: Tensor) -> Tensor:
    """A tensor like `t` to differentiate with respect to: connected to the history of `t` if that has one."""
    if not t.dtype.is_floating:
        raise TypeError(f"only floating tensors can be differentiated with respect to, not {t.dtype.name}{t.shape}")
    if needs_grad(t):
        return run(get_op("cast"), (t,), {"dtype": t.dtype})
    out = detach(t)
    out._requires_grad = True
    return out


def _gradients(outputs: list[Tensor], cotangents: list[Any], leaves: list[Tensor], outer: bool) -> list[Tensor]:
    create_graph = state.grad_enabled and (outer or _depends_on_others(outputs, leaves))
    used = [(t, g) for t, g in zip(outputs, cotangents) if needs_grad(t)]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if used and leaves:
        found = autograd.grad(
            [t for t, _ in used],
            leaves,
            [g for _, g in used],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
        )
    from .creation import zeros_like

    return [zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves)]


def _depends_on_others(outputs: list[Tensor], leaves: list[Tensor]) -> bool:
    """Whether something else that requires grad went into the outputs: then gradients have a history too."""
    roots = [edge_of(t) for t in outputs]
    mine = {id(t) for t in leaves}
    stop = {t._node[0] for t in leaves if t._node is not None}
    if any(isinstance(e, Tensor) and id(e) not in mine for e in roots):
        return True
    for node in autograd.nodes_behind(roots):
        if node in stop:
            continue
        if any(isinstance(e, Tensor) and id(e) not in mine for e in node.edges):
            return True
    return False


def flatten(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Any]], Any]]:
    """The tensors in nested lists, tuples and dicts, and a function that puts others in their places."""
    leaves: list[Tensor] = []

    def walk(x: Any) -> Callable[[Any], Any]:
        if isinstance(x, dict):
            parts = {k: walk(v) for k, v in x.items()}
            return lambda it: {k: part(it) for k, part in parts.items()}
        if isinstance(x, (list, tuple)):
            items = [walk(v) for v in x]
            make = type(x) if not hasattr(x, "_fields") else lambda v: type(x)(*v)  # type: ignore[call-overload]
            return lambda it: make([part(it) for part in items])
        if x is None:
            return lambda it: None
        leaves.append(as_tensor(x))
        return lambda it: next(it)

    build = walk(tree)
    return leaves, lambda values: build(iter(values))
