"""Groups of nodes that become one kernel: their iteration space, and where their values stand in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.graph import Node, Value
from ..ir.types import Shape
from .access import Index, is_virtual, reindex, scalar_cost
from .host import REDUCTIONS, SCANS, SCATTERS, on_host


def reduced_axes(node: Node) -> tuple[int, ...]:
    return tuple(node.attrs["axes"]) if "axes" in node.attrs else (node.attrs["axis"],)


@dataclass(eq=False)
class Group:
    """Nodes that run in one kernel."""

    shape: Shape
    inner: frozenset[int] = frozenset()  # axes of `shape` that reductions fold
    specialized: bool = False  # `shape` and `inner` are fixed by a reduction or an anchor
    anchor: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    deps: set["Group"] = field(default_factory=set)
    users: set["Group"] = field(default_factory=set)  # the groups that have this one among their deps
    cost: int = 0
    absorbed: int = 0  # nodes of other groups that it computes itself
    symbols: Index = ()
    first: int = 0  # number of the first and last node, in graph order
    last: int = 0
    depth: int = 0  # length of the longest chain of groups that it waits for
    _where: dict[Value, Index] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.set_shape(self.shape)

    def set_shape(self, shape: Shape) -> None:
        self.shape = shape
        self.symbols = tuple(axis_symbol(k, n) for k, n in enumerate(shape))
        self._where.clear()

    @property
    def outer_shape(self) -> Shape:
        return tuple(n for k, n in enumerate(self.shape) if k not in self.inner)

    @property
    def outer_symbols(self) -> Index:
        return tuple(s for k, s in enumerate(self.symbols) if k not in self.inner)

    @property
    def is_pointwise(self) -> bool:
        return self.anchor is None and not self.inner and not any(n.op.name in REDUCTIONS for n in self.nodes)

    @property
    def on_host(self) -> bool:
        """Whether it is no kernel, but one node that runs on the host."""
        return self.anchor is not None and on_host(self.anchor)

    @property
    def closed(self) -> bool:
        """Whether no other node may join: a scatter's elements are final only when all updates are in, those of a scan are
        known only where they are made, and the gradients of keys and values have different shapes."""
        if self.anchor is None:
            return False
        name = self.anchor.op.name
        return name in SCATTERS or name in SCANS or name == "attention_keys" or on_host(self.anchor)

    def level_index(self, shape: Shape, full: bool) -> Index | None:
        """This group's current point as an index into a tensor of `shape`; None if the sizes differ."""
        own = self.shape if full else self.outer_shape
        if own == shape:
            return self.symbols if full else self.outer_symbols
        if dim.numel(own) != dim.numel(shape):
            return None
        return reindex(self.symbols if full else self.outer_symbols, own, shape)

    def put(self, v: Value, at: Index) -> None:
        """Sets where `v` stands at the current point."""
        self._where[v] = at

    def forget(self, v: Value) -> None:
        self._where.pop(v, None)

    def substitute(self, env: dict[Dim, DimLike]) -> None:
        """Writes the point with other symbols."""
        self.symbols = tuple(dim.substitute(s, env) for s in self.symbols)
        self._where = {v: tuple(dim.substitute(i, env) for i in at) for v, at in self._where.items()}

    def where(self, v: Value) -> Index | None:
        """The index of the element of member `v` that belongs to the current point."""
        found = self._where.get(v)
        if found is None:
            reduced = v.node is not None and v.node.op.name in REDUCTIONS
            found = None if reduced else self.level_index(v.shape, True)
            if found is None:
                found = self.level_index(v.shape, False)
            if found is None:
                return None
            self._where[v] = found
        return found


def node_cost(node: Node) -> int:
    """Rough vector instructions per element."""
    return scalar_cost(node) if node.op.kind == "pointwise" and not on_host(node) else 1


def memory_root(v: Value) -> Value:
    """The value whose memory holds `v`: reshapes are free."""
    while v.node is not None and v.node.op.name == "reshape" and is_virtual(v.node):
        v = v.node.inputs[0]
    return v


def axis_symbol(k: int, extent: DimLike) -> DimLike:
    """The index of a group's k-th axis; axes of one element have no symbol."""
    return 0 if isinstance(extent, int) and extent == 1 else dim.symbol(f"i{k}", 0, extent - 1)
