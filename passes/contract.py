"""Cheaper arithmetic with the same or nearly the same rounding: a*b + c becomes one fused multiply-add, and a row divided
by a reduction's result is multiplied by its reciprocal (one rounding more)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ir.kernel import Kernel, Stage, roots
from ..ir.scalar import Expr, apply, free_symbols, transform, walk
from ..ir.target import Target


def contract(kernel: Kernel, target: Target) -> Kernel:
    """Floating products that only one sum reads join it (on targets with fma); quotients by a value of the whole row
    become products."""
    kernel = _reciprocals(kernel)
    if target.isa == "scalar":
        return kernel
    uses: Counter[int] = Counter()
    everything = [e for s in kernel.stages for e in roots(s)]
    nodes = list(walk(*everything))
    for e in nodes:
        uses.update(id(a) for a in e.args)
    uses.update(id(e) for e in everything)
    single = {id(e) for e in nodes if e.op == "mul" and e.dtype.kind == "f" and uses[id(e)] == 1}
    if not single:
        return kernel
    memo: dict[int, Expr] = {}
    products: dict[int, Expr] = {}  # what a product that only one node reads was rebuilt as

    def leaf(e: Expr) -> Expr | None:
        if e.op in ("add", "sub") and e.dtype.kind == "f":
            x, y = e.args
            if id(x) in products:
                return apply("fma", *x.args, y if e.op == "add" else -y)
            if id(y) in products:
                a, b = y.args
                return apply("fma", a if e.op == "add" else -a, b, x)
        return None

    for e in nodes:
        new = transform(e, leaf, memo)
        if id(e) in single:
            products[id(new)] = new
    stages = tuple(
        replace(
            s,
            reductions=tuple(replace(r, inputs=tuple(memo[id(x)] for x in r.inputs)) for r in s.reductions),
            stores=tuple(replace(x, value=memo[id(x.value)]) for x in s.stores),
        )
        for s in kernel.stages
    )
    return replace(kernel, stages=stages)


def _reciprocals(kernel: Kernel) -> Kernel:
    def stage_of(s: Stage) -> Stage:
        inner = frozenset(a.sym for a in s.axes)
        memo: dict[int, Expr] = {}
        inverses: dict[Expr, Expr] = {}

        def leaf(e: Expr) -> Expr | None:
            if e.op != "div" or e.dtype.kind != "f":
                return None
            x, y = e.args
            if not free_symbols(x) & inner or free_symbols(y) & inner or not any(n.op == "result" for n in walk(y)):
                return None
            if y not in inverses:
                inverses[y] = apply("div", 1.0, y)
            return x * inverses[y]

        return replace(
            s,
            reductions=tuple(
                replace(r, inputs=tuple(transform(x, leaf, memo) for x in r.inputs)) for r in s.reductions
            ),
            stores=tuple(replace(x, value=transform(x.value, leaf, memo)) for x in s.stores),
        )

    if kernel.anchor is not None or not any(s.axes and s.stores for s in kernel.stages):
        return kernel
    return replace(kernel, stages=tuple(stage_of(s) if s.axes else s for s in kernel.stages))
