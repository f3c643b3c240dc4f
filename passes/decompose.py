"""Composite ops become primitive ones; computed indices become checked and non-negative."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..ir import dim, ops
from ..ir.dim import DimLike
from ..ir.dtypes import int64
from ..ir.graph import Graph, Node, OutputSpec, Rewriter, Value
from .host import has_native_types

Constants = dict[Value, np.ndarray]
POSITIONS = frozenset(("iota", "argmax", "argmin", "argsort"))  # their results are positions along `axis`
SELECTIONS = frozenset(("reshape", "broadcast_to", "permute", "slice", "flip"))


class _Decompose(Rewriter):
    """Decomposes all composite nodes but those in `kept`; then `kept` has these in the new graph."""

    def __init__(self, graph: Graph, kept: set[Node]):
        super().__init__(graph)
        self.before, self.kept = kept, set[Node]()

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not _is_composite(node):
            return None
        if node in self.before:
            same = self.builder.emit(node.op, inputs, node.attrs)
            self.kept.add(self.builder.nodes[-1])
            return same
        assert node.op.decompose is not None
        out = node.op.decompose(*inputs, **node.attrs)
        return out if isinstance(out, tuple) else (out,)


def _is_composite(node: Node) -> bool:
    return node.op.decompose is not None and has_native_types(node)


def decompose(graph: Graph, has_kernel: Callable[[Node], bool] = lambda node: False) -> Graph:
    """Needs nothing; leaves no composite op on types that kernels have, but for those in the graph that have a kernel of
    their own. Runs until decompositions of decompositions are gone."""
    kept = {n for n in graph.nodes if _is_composite(n) and has_kernel(n)}
    while any(_is_composite(n) and n not in kept for n in graph.nodes):
        rewriter = _Decompose(graph, kept)
        graph, kept = rewriter.run(), rewriter.kept
    return graph


class _CheckIndices(Rewriter):
    """Every index of gather and scatter is made non-negative and kept in range; a check output tells if one was not."""

    def __init__(self, graph: Graph):
        super().__init__(graph)
        self.checks: list[tuple[Value, str]] = []
        self.done: dict[tuple[Value, object], Value] = {}
        self.checked: set[tuple[Value, object]] = set()

    def rewrite(self, node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node.op.name == "check_index":
            if not _safe(inputs[0], node.attrs["size"], self.builder.constants):
                self._check(inputs[0], node.attrs["size"], node)
            return (inputs[0],)
        if node.op.name not in ("gather", "scatter"):
            return None
        first = 1 if node.op.name == "gather" else 2
        indices = tuple(self._checked(v, inputs[0].shape[k], node) for k, v in enumerate(inputs[first:]))
        if indices == inputs[first:]:
            return None
        return self.builder.emit(node.op, (*inputs[:first], *indices), node.attrs)

    def _checked(self, v: Value, size, node: Node) -> Value:
        """`v` with negative indices wrapped, and clamped so that even a bad one touches no foreign memory."""
        if _safe(v, size, self.builder.constants):
            return v
        key = (v, size)
        if key not in self.done:
            wide, n, zero = self._check(v, size, node)
            wrapped = ops.where(ops.lt(wide, zero), ops.add(wide, n), wide)
            top = ops.sub(n, ops.full(value=1, shape=(), dtype=int64))
            self.done[key] = ops.minimum(ops.maximum(wrapped, zero), top)
        return self.done[key]

    def _check(self, v: Value, size, node: Node) -> tuple[Value, Value, Value]:
        """Adds the check -size <= v < size; returns v as i64, the size, and 0."""
        wide = v if v.dtype is int64 else ops.cast(v, dtype=int64)
        n = ops.full(value=size, shape=(), dtype=int64)
        zero = ops.full(value=0, shape=(), dtype=int64)
        if (v, size) not in self.checked:
            self.checked.add((v, size))
            bad = ops.or_(ops.lt(wide, ops.neg(n)), ops.ge(wide, n))
            found = ops.reduce_any(bad, axes=tuple(range(v.ndim))) if v.ndim else bad
            self.checks.append((found, f"{node.loc or node.op.name}: index out of range for size {size}"))
        return wide, n, zero


def _safe(v: Value, size: DimLike, constants: Constants) -> bool:
    """Whether indices into `size` elements are in range by construction."""
    low, high = _limits(v, constants)
    least = dim.bounds(size)[0]
    if low >= 0 and least is not None and high < least:
        return True
    while v.node is not None and v.node.op.name in SELECTIONS:
        v = v.node.inputs[0]
    if low >= 0 and v.node is not None and v.node.op.name == "minimum":
        return any(_is_below(x, size) for x in v.node.inputs)
    if v.node is None or v.node.op.name not in POSITIONS:
        return False
    counted = v.shape if v.node.op.name == "iota" else v.node.inputs[0].shape
    spare = dim.bounds(size - counted[v.node.attrs["axis"]])[0]
    return spare is not None and spare >= 0


def _is_below(v: Value, size: DimLike) -> bool:
    """Whether a value is a number, perhaps a symbolic one, that is certainly less than `size`."""
    fill = v.node.attrs["value"] if v.node is not None and v.node.op.name == "full" else None
    return isinstance(fill, (int, dim.Dim)) and dim.nonnegative(size - 1 - fill)


def _limits(v: Value, constants: Constants, depth: int = 12) -> tuple[float, float]:
    """Bounds that hold for every element of an integer value, whatever the inputs are: of constants, and of clamps."""
    node = v.node
    if v in constants and v.dtype.kind in "iu" and constants[v].size:
        return int(constants[v].min()), int(constants[v].max())
    if node is None or depth == 0 or v.dtype.kind not in "iu":
        return -math.inf, math.inf
    name = node.op.name
    if name == "full":
        value = node.attrs["value"]
        low, high = dim.bounds(value) if isinstance(value, (int, dim.Dim)) else (None, None)
        return -math.inf if low is None else low, math.inf if high is None else high
    if name in SELECTIONS or name == "cast":
        inner = node.inputs[0]
        fits = name != "cast" or inner.dtype.kind in "iu" and inner.dtype.bits <= v.dtype.bits and v.dtype.kind == "i"
        return _limits(inner, constants, depth - 1) if fits else (-math.inf, math.inf)
    if name in ("maximum", "minimum"):
        (a, b), (c, d) = (_limits(x, constants, depth - 1) for x in node.inputs)
        return (max(a, c), max(b, d)) if name == "maximum" else (min(a, c), min(b, d))
    if name == "where":
        (a, b), (c, d) = (_limits(x, constants, depth - 1) for x in node.inputs[1:])
        return min(a, c), max(b, d)
    return -math.inf, math.inf


def check_indices(graph: Graph) -> Graph:
    """Needs a decomposed graph; leaves no check_index, and only indices in [0, size). Adds outputs of kind "check"."""
    if not any(n.op.name in ("gather", "scatter", "check_index") for n in graph.nodes):
        return graph
    rewriter = _CheckIndices(graph)
    out = rewriter.run()
    if not rewriter.checks:
        return out
    specs = tuple(OutputSpec("check", path=message) for _, message in rewriter.checks)
    signature = replace(graph.signature, outputs=graph.signature.outputs + specs)
    return replace(out, outputs=out.outputs + tuple(v for v, _ in rewriter.checks), signature=signature)
