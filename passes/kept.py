"""Which composite ops a target has kernels for: those are not decomposed there."""

from __future__ import annotations

from ..ir import dim
from ..ir.dtypes import bfloat16, float16, float32
from ..ir.graph import Node
from ..ir.target import Target
from .fuel import Fuel
from .host import ATTENTION

LARGEST_HEAD = 256  # elements of a query, or of a value
KEPT = {"cuda": ATTENTION}


def has_kernel(node: Node, target: Target | None, fuel: Fuel) -> bool:
    """Whether `target` has a kernel for the composite `node`; it costs fuel."""
    if target is None or node.op.name not in KEPT.get(target.isa, ()):
        return False
    q, k, v = node.inputs[:3] if node.op.name == "attention" else node.inputs[1:4]
    if q.dtype not in (float32, float16, bfloat16):
        return False
    if not all(isinstance(n, int) and n <= LARGEST_HEAD for n in (q.shape[-1], v.shape[-1])):
        return False
    return all(_is_positive(n) for x in (*node.outputs, q, k, v) for n in x.shape) and fuel.spend("attention")


def _is_positive(n: dim.DimLike) -> bool:
    least = dim.bounds(n)[0]
    return least is not None and least > 0
