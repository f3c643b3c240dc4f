"""Contractions without tensor cores: those that would leave most of a tile of them empty."""

from __future__ import annotations

import itertools
from dataclasses import replace

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.kernel import Axis, Contraction, Kernel, Reduction, Stage, offset
from ..ir.scalar import Expr, apply, const, moved, transform
from ..ir.target import Target

FEW = 4  # rows or columns: with fewer, most of what tensor cores compute (16 at least) would be thrown away
WRITTEN_OUT = 32  # products of a sum that a kernel writes one after another


def direct(kernel: Kernel, target: Target) -> Kernel:
    """On GPUs: a contraction with few rows or columns and short sums (a depthwise convolution) becomes an element-wise
    kernel, whose threads compute a whole sum each; one with a single row or column (its gradient for the filters) becomes
    a reduction, which reads its matrix once. Others, which read it again for every row, are left alone."""
    c = kernel.anchor
    if target.isa != "cuda" or not isinstance(c, Contraction):
        return kernel
    fewest = min((n for n in map(_points, (c.m, c.n)) if isinstance(n, int)), default=FEW)
    products = _points(c.k)
    if fewest < FEW and isinstance(products, int) and products <= WRITTEN_OUT:
        plain = _written_out(kernel, c)
    elif fewest == 1:
        fold = Stage(c.k, (Reduction((c.name,), "sum", (c.lhs * c.rhs,), c.dtype),))
        plain = replace(kernel, anchor=None, stages=(fold, *kernel.stages))
    else:
        return kernel
    return _in_order_of_memory(_without_units(plain))


def _points(axes: tuple[Axis, ...]) -> DimLike:
    return dim.numel(tuple(a.extent for a in axes))


def _written_out(kernel: Kernel, c: Contraction) -> Kernel:
    """The kernel with the sum as an expression, its products in row-major order."""
    total: Expr = const(0, c.dtype)
    for k, point in enumerate(itertools.product(*(range(a.extent) for a in c.k if isinstance(a.extent, int)))):
        env: dict[Dim, DimLike] = {a.sym: i for a, i in zip(c.k, point, strict=True)}
        x, y = moved(c.lhs, env), moved(c.rhs, env)
        total = x * y if k == 0 else apply("fma", x, y, total) if c.dtype.kind == "f" else total + x * y
    memo: dict[int, Expr] = {}

    def leaf(e: Expr) -> Expr | None:
        return total if e.op == "result" and e.attr == c.name else None

    return _mapped(replace(kernel, anchor=None), lambda e: transform(e, leaf, memo))


def _without_units(kernel: Kernel) -> Kernel:
    """The kernel without axes of one point, which only contractions have."""
    env: dict[Dim, DimLike] = {a.sym: 0 for a in kernel.all_axes if a.extent == 1}
    if not env:
        return kernel
    memo: dict[int, Expr] = {}
    kernel = _mapped(kernel, lambda e: moved(e, env, memo))
    stages = tuple(
        replace(
            s,
            axes=_longer(s.axes),
            stores=tuple(
                replace(
                    x,
                    index=tuple(i if isinstance(i, Expr) else dim.substitute(i, env) for i in x.index),
                    mask=tuple(dim.substitute(d, env) for d in x.mask),
                )
                for x in s.stores
            ),
        )
        for s in kernel.stages
    )
    return replace(kernel, axes=_longer(kernel.axes), stages=stages)


def _in_order_of_memory(kernel: Kernel) -> Kernel:
    """The kernel with the outer axes as they lie in the first result, so that neighbouring points are neighbours there."""
    store = next(x for s in kernel.stages for x in s.stores)
    at = offset(kernel.buffer(store.buffer), store.index)
    steps = {a: at.coefficient(a.sym) if isinstance(at, Dim) and at.is_linear_in(a.sym) else 0 for a in kernel.axes}
    if not all(isinstance(n, int) and n > 0 for n in steps.values()):
        return kernel
    return replace(kernel, axes=tuple(sorted(kernel.axes, key=lambda a: -steps[a])))  # type: ignore[operator]


def _longer(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    return tuple(a for a in axes if a.extent != 1)


def _mapped(kernel: Kernel, change) -> Kernel:
    stages = (
        replace(
            s,
            reductions=tuple(replace(r, inputs=tuple(map(change, r.inputs))) for r in s.reductions),
            stores=tuple(replace(x, value=change(x.value)) for x in s.stores),
        )
        for s in kernel.stages
    )
    return replace(kernel, stages=tuple(stages))
