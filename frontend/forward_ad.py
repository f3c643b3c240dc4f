"""Forward-mode differentiation: `jvp` and `linearize`.

No op has a rule for it: they follow from the vjp rules. For y = f(x) with Jacobian J, reverse mode computes
g -> g J, which is linear in g whatever g is. Reverse mode through that, with respect to g, computes v -> J v. So the
tangent of a result is the gradient of a gradient, of as many numbers as there are results; the cotangent g is a leaf of
zeros whose values nobody reads. Compiled, the backward pass itself is dead code, and what is left are f and its
tangents, as hand-written rules would have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..ir.op import get_op
from . import autograd
from .creation import zeros_like
from .dispatch import apply
from .state import state, traced
from .tape import needs_grad
from .tensor import Tensor
from .transforms import Tracked, flatten, with_aux


def linearize(fn: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """(fn(*primals), tangent map): the map takes a tangent for each primal, in its structure, and returns the
    derivative of fn's results in that direction. `fn` runs once, however often the map is called. With has_aux, what
    `fn` returns second comes third.

    TypeError for primals that are not floating. ValueError where tangents do not fit the primals.
    """
    tracked = Tracked(primals)
    with autograd.enable_grad():
        out = traced(fn)(*tracked.arguments())
        out, aux = with_aux(out, has_aux, "linearize")
        outputs, rebuild_out = flatten(out)
        used = [t for t in outputs if needs_grad(t)]
        seeds = [zeros_like(t).requires_grad_() for t in used]
        gradients: tuple[Tensor | None, ...] = (None,) * len(tracked.leaves)
        if used and tracked.leaves:
            gradients = autograd.grad(used, tracked.leaves, seeds, create_graph=True, allow_unused=True)
    keep = tracked.keeps(outputs)

    def tangent_map(*tangents: Any) -> Any:
        given = _checked_tangents(tracked, tangents)
        pairs = [(g, v) for g, v in zip(gradients, given) if g is not None and needs_grad(g)]
        found: list[Tensor | None] = [None] * len(seeds)
        if pairs:
            create_graph = state.grad_enabled and (keep or any(needs_grad(v) for _, v in pairs))
            gs, vs = [g for g, _ in pairs], [v for _, v in pairs]
            found = list(autograd.grad(gs, seeds, vs, retain_graph=True, create_graph=create_graph, allow_unused=True))
        by_output = {id(t): d for t, d in zip(used, found)}
        results = [by_output.get(id(t)) for t in outputs]
        return rebuild_out([zeros_like(t) if d is None else d for t, d in zip(outputs, results)])

    released = rebuild_out(tracked.released(outputs))
    return (released, tangent_map, aux) if has_aux else (released, tangent_map)


def jvp(fn: Callable, primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> tuple:
    """(fn(*primals), its derivative in the direction of `tangents`): two tuples of arguments of the same structure.
    With has_aux, what `fn` returns second comes third. RuntimeError with `strict` if a result does not depend on the
    primals."""
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError("jvp: primals and tangents are tuples with an entry for each argument of the function")
    out = linearize(fn, *primals, has_aux=has_aux)
    if strict:
        _check_dependence(fn, primals, has_aux)
    return (out[0], out[1](*tangents), *out[2:])


def _check_dependence(fn: Callable, primals: Any, has_aux: bool) -> None:
    tracked = Tracked(primals)
    with autograd.enable_grad():
        outputs, _ = flatten(with_aux(traced(fn)(*tracked.arguments()), has_aux, "jvp")[0])
    for i, t in enumerate(outputs):
        if not needs_grad(t):
            raise RuntimeError(f"jvp: result {i} does not depend on the primals")


def _checked_tangents(tracked: Tracked, tangents: tuple) -> list[Tensor]:
    if len(tangents) != len(tracked.structures):
        raise ValueError(f"jvp: {len(tangents)} tangents for {len(tracked.structures)} primals")
    given = [t for v in tangents for t in flatten(v)[0]]
    if len(given) != len(tracked.leaves):
        raise ValueError(f"jvp: the tangents hold {len(given)} tensors, the primals {len(tracked.leaves)}")
    out = []
    for v, x in zip(given, tracked.leaves):
        if tuple(v.shape) != tuple(x.shape):
            raise ValueError(f"jvp: a tangent of shape {tuple(v.shape)} for a primal of shape {tuple(x.shape)}")
        out.append(v if v.dtype is x.dtype else apply(get_op("cast"), v, dtype=x.dtype))
    return out


__all__ = ["jvp", "linearize"]
