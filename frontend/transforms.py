"""Functional differentiation in reverse mode: `grad`, `value_and_grad`, `vjp`. They nest, and see through to
closed-over tensors.

Forward mode is in `forward_ad.py`, matrices of derivatives in `jacobians.py`, many calls at once in `vmap.py`.
"""

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
from .tensor import Tensor, alias


def value_and_grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns (fn(*args), gradient with respect to args[argnums]).

    `fn` returns a scalar tensor, or with has_aux (scalar, anything else). Arguments may be nested lists, tuples and
    dicts of floating tensors; gradients have their structure. For several argnums the gradient is a tuple.
    """
    picked = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @wraps(fn, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        tracked = Tracked([args[i] for i in checked_argnums(picked, args)])
        with autograd.enable_grad():
            out = traced(fn)(*with_arguments(args, picked, tracked.arguments()), **kwargs)
            value, aux = with_aux(out, has_aux, "grad")
            if not isinstance(value, Tensor) or any(d != 1 for d in value.shape):
                kind = f"a tensor of shape {value.shape}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                raise TypeError(f"grad needs a function that returns a scalar tensor; {name_of(fn)} returned {kind}")
            results = tracked.pull([value], [None])
        (value,) = tracked.released([value])
        gradient = results[0] if isinstance(argnums, int) else results
        return ((value, aux) if has_aux else value), gradient

    return differentiated


def grad(fn: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """A function that returns the gradient of `fn` with respect to args[argnums] (with has_aux: and fn's other
    result)."""
    both = value_and_grad(fn, argnums, has_aux)

    @wraps(fn, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return differentiated


def vjp(fn: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """(fn(*primals), pullback): the pullback takes cotangents of fn's results, in their structure, and returns a
    tuple with the gradient of each primal. It may be called again. With has_aux `fn` returns (results, anything else),
    and that comes third."""
    tracked = Tracked(primals)
    with autograd.enable_grad():
        out = traced(fn)(*tracked.arguments())
    out, aux = with_aux(out, has_aux, "vjp")
    outputs, rebuild_out = flatten(out)

    def pullback(*cotangents: Any) -> tuple:
        given, _ = flatten(cotangents[0] if len(cotangents) == 1 else tuple(cotangents))
        if len(given) != len(outputs):
            raise ValueError(f"vjp: {len(given)} cotangents for {len(outputs)} results")
        return tracked.pull(outputs, given)

    released = rebuild_out(tracked.released(outputs))
    return (released, pullback, aux) if has_aux else (released, pullback)


# ------------------------------------------------------------------ what transforms share


def name_of(fn: Any) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def checked_argnums(argnums: Sequence[int], args: tuple) -> Sequence[int]:
    """IndexError for an argument that is not there."""
    for i in argnums:
        if not -len(args) <= i < len(args):
            raise IndexError(f"argnums has {i}, but there are {len(args)} positional arguments")
    return argnums


def with_arguments(args: tuple, argnums: Sequence[int], new: Sequence[Any]) -> list[Any]:
    """The arguments with others in the places `argnums`."""
    out = list(args)
    for i, x in zip(argnums, new):
        out[i] = x
    return out


def with_aux(out: Any, has_aux: bool, what: str) -> tuple[Any, Any]:
    """(differentiated result, anything else). TypeError if has_aux, but there are not two results."""
    if not has_aux:
        return out, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"{what} with has_aux=True needs a function that returns (result, anything else)")
    return out[0], out[1]


class Tracked:
    """Arguments that a function is differentiated with respect to, and what its results depend on besides."""

    def __init__(self, primals: Sequence[Any]):
        self.structures = [flatten(p) for p in primals]
        found = [t for leaves, _ in self.structures for t in leaves]
        self.recording = state.grad_enabled  # of the caller: without it results have no history
        with autograd.enable_grad():
            self.leaves = [_tracked(t) for t in found]
        self.outer = any(map(needs_grad, found))  # the caller differentiates with respect to them too

    def arguments(self) -> list[Any]:
        """The primals, made of the tracked tensors."""
        return self.rebuilt(self.leaves)

    def rebuilt(self, values: Sequence[Any]) -> list[Any]:
        """One value for each leaf, in the primals' structures."""
        out, at = [], 0
        for found, rebuild in self.structures:
            out.append(rebuild(values[at : at + len(found)]))
            at += len(found)
        return out

    def keeps(self, outputs: list[Tensor]) -> bool:
        """Whether results have a history beyond the tracked tensors."""
        return self.recording and (self.outer or _depends_on_others(outputs, self.leaves))

    def released(self, outputs: list[Tensor]) -> list[Tensor]:
        """The outputs as the caller gets them."""
        return outputs if self.keeps(outputs) else [alias(t) for t in outputs]

    def pull(self, outputs: list[Tensor], cotangents: Sequence[Any]) -> tuple:
        """The gradient of each primal."""
        create_graph = (
            self.keeps(outputs)
            or state.grad_enabled
            and any(isinstance(g, Tensor) and needs_grad(g) for g in cotangents)
        )
        return tuple(self.rebuilt(_gradients(outputs, cotangents, self.leaves, create_graph)))


def _tracked(t: Tensor) -> Tensor:
    """A tensor like `t` to differentiate with respect to: connected to the history of `t` if that has one."""
    if not (t.dtype.is_floating or t.dtype.kind == "c"):
        raise TypeError(f"only floating tensors can be differentiated with respect to, not {t.dtype.name}{t.shape}")
    if needs_grad(t):
        return run(get_op("cast"), (t,), {"dtype": t.dtype})
    out = alias(t)
    out._requires_grad = True
    return out


def _gradients(
    outputs: Sequence[Tensor], cotangents: Sequence[Any], leaves: Sequence[Tensor], create_graph: bool
) -> list[Tensor]:
    """The gradients of the leaves; zeros for those that the outputs do not depend on."""
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
