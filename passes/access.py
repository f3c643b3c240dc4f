"""How values read each other through index maps: the analysis that fusion and lowering share.

Movement and creation ops are *virtual*: they never run, they only say where an element comes from. `Access.sources`
follows a value at a given index back to the values that do run.
"""

from __future__ import annotations

from typing import Callable, Iterable, NamedTuple

from ..ir.dim import DimLike
from ..ir.dtypes import float32
from ..ir.graph import Node, Value
from ..ir.ops.index_maps import INDEX_MAPS, IndexMap
from ..ir.scalar import MATH, Expr, load, walk
from ..ir.types import Shape, TensorType
from .host import CREATION, in_kernels

Index = tuple[DimLike, ...]
DIVISIONS = 16  # in an index: more cost more than memory, and composing such indices never ends


def is_virtual(node: Node) -> bool:
    return (node.op.name in INDEX_MAPS or node.op.name in CREATION) and in_kernels(node.out.dtype)


def index_map(node: Node, at: Index) -> IndexMap:
    return INDEX_MAPS[node.op.name](node.attrs, tuple(v.type for v in node.inputs), at)


def broadcast_index(at: Index, shape: Shape) -> Index:
    """The index of an operand of `shape` in a broadcasting op whose result is read at `at`."""
    tail = at[len(at) - len(shape) :]
    return tuple(0 if isinstance(n, int) and n == 1 else i for i, n in zip(tail, shape))


def reindex(at: Index, source: Shape, target: Shape) -> Index:
    """The index into `target` of the element that row-major order puts at index `at` of `source`."""
    if source == target:
        return at
    return INDEX_MAPS["reshape"]({"shape": source}, (TensorType(float32, target),), at).alternatives[0].index


class Source(NamedTuple):
    """A value that runs, and the index at which it is read. direct: unconditionally, and not by a computed index."""

    value: Value
    index: Index | None
    direct: bool


class Access:
    """Follows values to their sources. `inline` says which nodes are recomputed wherever they are read: pointwise ones,
    and gathers."""

    def __init__(self, inline: Callable[[Node], bool]):
        self.inline = inline
        self._memo: dict[tuple[Value, Index | None, bool], tuple[Source, ...]] = {}

    def sources(self, value: Value, at: Index | None, direct: bool = True) -> tuple[Source, ...]:
        """Every running value that element `at` of `value` depends on. `at` None: somewhere."""
        key = (value, at, direct)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = tuple(dict.fromkeys(self._sources(value, at, direct)))
        return found

    def _sources(self, value: Value, at: Index | None, direct: bool) -> list[Source]:
        node = value.node
        if node is None:
            return [Source(value, at, direct)]
        name = node.op.name
        out: list[Source] = []
        if is_virtual(node):
            if name in CREATION:
                return []
            if at is None:
                for v in node.inputs:
                    out += self.sources(v, None, False)
                return out
            mapped = index_map(node, at)
            plain = direct and len(mapped.alternatives) == 1 and not mapped.alternatives[0].conditions
            for a in mapped.alternatives:
                out += self.sources(node.inputs[a.operand], a.index, plain)
            return out
        if name == "gather" and self.inline(node):
            return self.gather_sources(node, at, direct)
        if node.op.kind == "pointwise" and self.inline(node):
            for v in node.inputs:
                out += self.sources(v, None if at is None else broadcast_index(at, v.shape), direct)
            return out
        return [Source(value, at, direct)]

    def gather_sources(self, node: Node, at: Index | None, direct: bool) -> list[Source]:
        data, *indices = node.inputs
        out = list(self.sources(data, None, False))
        rank = node.out.ndim - (data.ndim - len(indices))
        for v in indices:
            out += self.sources(v, None if at is None else broadcast_index(at[:rank], v.shape), direct)
        return out


def scalar_cost(node: Node) -> int:
    """Rough vector instructions per element of a pointwise op: one per basic operation, 20 per transcendental one."""
    assert node.op.scalar is not None
    args = tuple(load(v.dtype, f"x{k}", ()) for k, v in enumerate(node.inputs))
    e = node.op.scalar(*args, **node.attrs)
    return expr_cost(e)


def expr_cost(*roots: Expr) -> int:
    return sum(
        20 if e.op in MATH else 4 if e.op in ("div", "rem", "sqrt") else 1
        for e in walk(*roots)
        if e.args and e.op != "load"
    )


def divisions(d: DimLike) -> int:
    """How many floordivs and mods an expression has."""
    if isinstance(d, int):
        return 0
    return sum(1 + divisions(a.a) + divisions(a.b) for m, _ in d.terms for a in m if a.kind != "sym")


def most_divisions(indices: Iterable[Index | None]) -> int:
    """The divisions of the worst entry of the indices."""
    return max((divisions(d) for at in indices if at is not None for d in at), default=0)


def complicated(outer: int, inner: int) -> bool:
    """Whether indices with so many divisions are better not put into each other."""
    return bool(outer and inner) and outer + inner > DIVISIONS
