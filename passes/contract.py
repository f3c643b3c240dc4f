"""Contracts a*b + c into one fused multiply-add, explicitly: half the instructions, one rounding less."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ..ir.kernel import Kernel, roots
from ..ir.scalar import Expr, apply, transform, walk
from ..ir.target import Target


def contract(kernel: Kernel, target: Target) -> Kernel:
    """Floating products that only one sum reads join it. Kernels for targets without fma stay as they are."""
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
