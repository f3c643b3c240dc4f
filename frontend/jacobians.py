"""Matrices of derivatives: `jacrev` (a row at a time, by vjp), `jacfwd` (a column at a time, by jvp), `hessian`.

All rows, or columns, are computed at once, by vmap over the unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from ..ir.dim import numel
from ..ir.op import get_op
from .creation import eye
from .dispatch import apply
from .forward_ad import linearize
from .state import traced
from .tensor import Tensor
from .transforms import checked_argnums, flatten, vjp, with_arguments
from .vmap import vmap

Argnums = int | Sequence[int]


def jacrev(fn: Callable, argnums: Argnums = 0, has_aux: bool = False, *, chunk_size: int | None = None) -> Callable:
    """A function that returns the Jacobian of `fn` with respect to args[argnums], by reverse mode: best where there are
    fewer results than arguments.

    In the place of each result tensor of fn is the structure of the argument, with tensors of shape result.shape +
    argument.shape (for several argnums, a tuple of these). With has_aux: (that, fn's other result).
    chunk_size: so many rows at once, to save memory.
    """

    @wraps(fn, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        primals, of_primals = _as_function_of(fn, argnums, args, kwargs)
        out, pullback, *aux = vjp(of_primals, *primals, has_aux=has_aux)
        outputs, rebuild_out = flatten(out)
        inputs, rebuild_in = flatten(tuple(primals))

        def row(*g: Tensor) -> list[Tensor]:
            return flatten(pullback(list(g)))[0]

        rows = vmap(row, chunk_size=chunk_size)(*_unit_vectors(outputs))
        jacobian, at = [], 0
        for t in outputs:
            size = numel(t.shape)
            blocks = [_block(r, 0, at, size, (*t.shape, *x.shape)) for r, x in zip(rows, inputs)]
            jacobian.append(_of_argnums(rebuild_in(blocks), argnums))
            at += size
        return (rebuild_out(jacobian), aux[0]) if has_aux else rebuild_out(jacobian)

    return differentiated


def jacfwd(
    fn: Callable,
    argnums: Argnums = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable:
    """`jacrev` by forward mode: best where there are fewer arguments than results. `fn` itself runs once, so that
    `randomness` (as in vmap) makes no difference to its numbers."""

    @wraps(fn, updated=())
    def differentiated(*args: Any, **kwargs: Any) -> Any:
        primals, of_primals = _as_function_of(fn, argnums, args, kwargs)
        out, tangent_map, *aux = linearize(of_primals, *primals, has_aux=has_aux)
        outputs, rebuild_out = flatten(out)
        inputs, rebuild_in = flatten(tuple(primals))

        def column(*v: Tensor) -> list[Tensor]:
            return flatten(tangent_map(*rebuild_in(v)))[0]

        columns = vmap(column, out_axes=-1, randomness=randomness, chunk_size=chunk_size)(*_unit_vectors(inputs))
        jacobian = []
        for t, c in zip(outputs, columns):
            blocks, at = [], 0
            for x in inputs:
                blocks.append(_block(c, t.ndim, at, numel(x.shape), (*t.shape, *x.shape)))
                at += numel(x.shape)
            jacobian.append(_of_argnums(rebuild_in(blocks), argnums))
        return (rebuild_out(jacobian), aux[0]) if has_aux else rebuild_out(jacobian)

    return differentiated


def hessian(fn: Callable, argnums: Argnums = 0) -> Callable:
    """A function that returns the second derivatives of `fn` with respect to args[argnums], forward over reverse: for a
    scalar result, tensors of shape argument.shape + argument.shape, nested as two Jacobians are."""
    return jacfwd(jacrev(fn, argnums), argnums)


jacobian = jacrev


# ------------------------------------------------------------------ unit vectors and blocks


def _as_function_of(fn: Callable, argnums: Argnums, args: tuple, kwargs: dict) -> tuple[list[Any], Callable]:
    """The picked arguments, and `fn` as a function of them alone."""
    picked = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    primals = [args[i] for i in checked_argnums(picked, args)]

    @wraps(fn, updated=())
    def of_primals(*primals: Any) -> Any:
        return traced(fn)(*with_arguments(args, picked, primals), **kwargs)

    return primals, of_primals


def _unit_vectors(tensors: Sequence[Tensor]) -> list[Tensor]:
    """For each tensor one of shape (n, *its shape), where n is the number of elements of all of them: together, row k
    has a 1 for element k and zeros elsewhere."""
    sizes: list[Any] = [numel(t.shape) for t in tensors]
    n, at, out = sum(sizes), 0, []
    for t, size in zip(tensors, sizes):
        ones = eye(n, size, k=-at, dtype=t.dtype)
        out.append(apply(get_op("reshape"), ones, shape=(n, *t.shape)))
        at += size
    return out


def _block(x: Tensor, axis: int, start: Any, size: Any, shape: tuple) -> Tensor:
    """`size` entries of an axis from `start` on, in another shape."""
    low = tuple(start if a == axis else 0 for a in range(x.ndim))
    high = tuple(start + size if a == axis else d for a, d in enumerate(x.shape))
    part = apply(get_op("slice"), x, start=low, stop=high, step=(1,) * x.ndim)
    return apply(get_op("reshape"), part, shape=shape)


def _of_argnums(blocks: tuple, argnums: Argnums) -> Any:
    return blocks[0] if isinstance(argnums, int) else blocks


__all__ = ["hessian", "jacfwd", "jacobian", "jacrev"]
