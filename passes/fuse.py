"""Partitions a graph of primitive ops into groups, each of which becomes one kernel.

A group iterates over the elements of a *reference shape*; some of its axes may be *inner*: reduced by the group's
reductions. Members stand at the full level (one value per element) or at the outer level (one per point of the other
axes). A node may join the group that computes its operands when it reads them at its own point, and when no path leads
out of the group and back in. Contractions start groups of their own, which element-wise nodes may join as an epilogue;
scatters, scans, and what runs on the host, have a group to themselves. Movement and creation nodes belong to no group: they are index maps (see `access`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..ir import dim
from ..ir.dim import Dim
from ..ir.graph import Graph, Node, Value
from ..ir.types import Shape
from .access import Access, Index, Source, complicated, is_virtual, most_divisions, scalar_cost
from .fuel import Fuel
from .group import Group, axis_symbol, memory_root, node_cost, reduced_axes
from .host import ANCHORS, ATTENTION, OVERWRITERS, REDUCTIONS, SCANS, SEARCHES, on_host

RECOMPUTE_COST = 6  # a value that costs no more than this from one stored tensor is recomputed rather than stored
GROUP_COST = 600  # instructions of one kernel: longer chains gain nothing, and compile slower and slower
ABSORBED_NODES = 64  # that one kernel computes where it reads them
SEE_THROUGH = 16  # nodes in a row that run nowhere: lowering follows them by recursion
SPLIT_OUTER = 8  # with fewer outer points than this a big element-wise group keeps its own parallelism


@dataclass
class Partition:
    """Groups in an order in which they can run, the values that must be in memory, and the nodes computed in place."""

    groups: list[Group]
    home: dict[Node, Group]
    stored: set[Value]
    access: Access


class Fuser:
    def __init__(self, graph: Graph, fuel: Fuel):
        self.graph, self.fuel = graph, fuel
        self.order = {n: k for k, n in enumerate(graph.nodes)}
        self.users = graph.users()
        self.outputs = set(graph.outputs)
        self.inlined: set[Node] = set()
        self.access = Access(self.inlined.__contains__)
        self.home: dict[Node, Group] = {}
        self.groups: dict[Group, None] = {}  # in the order they were started
        self.through: dict[Node, int] = {}  # nodes that run nowhere: how many in a row end here
        self.siblings: dict[tuple, Group] = {}
        self.pinned = {memory_root(v) for n in graph.nodes for v in (*addressed(n), *overwritten(n))}

    def run(self) -> Partition:
        for node in self.graph.nodes:
            if is_virtual(node):
                self.through[node] = self._row(node)
            elif on_host(node):
                self._start(node, node.out.shape, specialized=True, anchor=node)
            elif self._row(node) <= SEE_THROUGH and self._free(node):
                self.through[node] = self._row(node)
                self.inlined.add(node)
            elif node.op.name in REDUCTIONS:
                self._reduction(node)
            elif node.op.name in ANCHORS:
                self._start(node, node.out.shape, specialized=True, anchor=node)
            elif node.op.name in SCANS:
                inner = frozenset((node.attrs["axis"],))
                self._start(node, node.out.shape, specialized=True, anchor=node, inner=inner)
            else:
                self._pointwise(node)
        self._absorb()
        stored = self._stored()
        return Partition(self._sorted(), self.home, stored, self.access)

    # ---- joining
    def _kept(self, v: Value) -> bool:
        """Whether `v` has to be in memory whoever reads it: an output, or what gather and the host read."""
        return v in self.outputs or v in self.pinned

    def _row(self, node: Node) -> int:
        """How many nodes that run nowhere follow each other up to `node`, if it is one."""
        return 1 + max((self.through.get(v.node, 0) for v in node.inputs if v.node is not None), default=0)

    def _free(self, node: Node) -> bool:
        """Computed wherever it is read: gathers, what is built from constants and indices only, cheap scalar
        arithmetic."""
        if self._kept(node.out) or node.op.kind != "pointwise":
            return node.op.name == "gather" and not self._kept(node.out)
        sources = [s for v in node.inputs for s in self.access.sources(v, None)]
        if not sources:
            return True
        scalar = all(isinstance(n, int) and n == 1 for n in node.out.shape)
        return scalar and all(s.value.node is None for s in sources) and scalar_cost(node) <= 4

    def _sources(self, node: Node, at: Index) -> list[Source]:
        from .access import broadcast_index

        if node.op.name == "gather":
            return self.access.gather_sources(node, at, True)
        if node.op.name == "random_bits" or node.op.name in SEARCHES:
            found = list(self.access.sources(node.inputs[0], None, False))
            for v in node.inputs[1:]:
                found += self.access.sources(v, broadcast_index(at, v.shape))
            return found
        return [s for v in node.inputs for s in self.access.sources(v, broadcast_index(at, v.shape))]

    def _pointwise(self, node: Node) -> None:
        shape = node.out.shape
        # The group deepest in the graph first: it already waits for what the others wait for.
        near = sorted(self._source_groups(node), key=lambda g: (-g.depth, -g.last))
        joined: Group | None = None
        for group in near:
            if not self._fits(node, group) and not (joined is None and self._adopted(node, group)):
                continue
            if joined is None:
                room = group.cost + node_cost(node) <= GROUP_COST
                if room and self._acyclic(node, group) and self.fuel.spend("fuse"):
                    joined = group
            elif self._acyclic(node, group, joined) and self._mergeable(joined, group) and self.fuel.spend("fuse"):
                joined = self._merge(joined, group)
        if joined is None:
            joined = self._start(node, shape)
        else:
            self._add(joined, node)

    def _fits(self, node: Node, group: Group) -> bool:
        """Whether every operand that the group computes is read at the group's own point, unconditionally."""
        if group.closed:
            return False
        at = group.where(node.out)
        if at is None:
            return False
        for s in self._sources(node, at):
            if s.value.node is not None and self.home.get(s.value.node) is group:
                if not s.direct or s.index != group.where(s.value):
                    return False
        return True

    def _adopted(self, node: Node, group: Group) -> bool:
        """Whether `node` fits the epilogue of a contraction that it reads through a permutation: its own point is then
        the permuted one."""
        if group.anchor is None or group.closed or node.out.type.size != dim.numel(group.shape):
            return False
        own = tuple(0 if n == 1 else dim.symbol(f"p{k}", 0, n - 1) for k, n in enumerate(node.out.shape))
        for s in self._sources(node, own):
            if s.value.node is None or self.home.get(s.value.node) is not group or not s.direct or s.index is None:
                continue
            at = group.where(s.value)
            assert at is not None
            place = {i: j for i, j in zip(s.index, at) if not isinstance(i, int)}
            if any(i != j for i, j in zip(s.index, at) if isinstance(i, int)) or place.keys() != {
                i for i in own if i != 0
            }:
                continue
            group.put(node.out, tuple(0 if isinstance(i, int) else place[i] for i in own))
            if self._fits(node, group):
                return True
            group.forget(node.out)
        return False

    def _source_groups(self, node: Node) -> set[Group]:
        out = set()
        for v in node.inputs:
            for s in self.access.sources(v, None):
                if s.value.node is not None:
                    out.add(self.home[s.value.node])
        return out

    def _acyclic(self, node: Node, group: Group, joined: Group | None = None) -> bool:
        """Whether `node` can be in `group` (and in `joined`, to be merged with it): nothing else that it reads waits for
        `group`."""
        return not any(
            g is not group and g is not joined and self._reaches(g, group) for g in self._source_groups(node)
        )

    def _reaches(self, start: Group, goal: Group) -> bool:
        """Whether `start` depends on `goal`."""
        stack, seen = [start], {start}
        while stack:
            g = stack.pop()
            if g is goal:
                return True
            for d in g.deps:
                if d not in seen and d.last >= goal.first:
                    seen.add(d)
                    stack.append(d)
        return False

    def _mergeable(self, a: Group, b: Group) -> bool:
        """Whether `b` can become part of `a`: same elements, each at its own point, and no path between through others."""
        if a is b or b.specialized and a.specialized or a.cost + b.cost > GROUP_COST:
            return False
        if b.specialized:
            a, b = b, a
        if dim.numel(a.shape) != dim.numel(b.shape):
            return False
        if any(g is not b and self._reaches(g, b) for g in a.deps) or any(
            g is not a and self._reaches(g, a) for g in b.deps
        ):
            return False
        for n in (*a.nodes, *b.nodes):  # every member must still read the others at its own point
            at = a.where(n.out)
            if at is None:
                return False
            if n.op.name in REDUCTIONS or n is a.anchor:
                continue
            for s in self._sources(n, at):
                home = None if s.value.node is None else self.home.get(s.value.node)
                if home is a or home is b:
                    if not s.direct or s.index != a.where(s.value):
                        return False
        return True

    def _merge(self, a: Group, b: Group) -> Group:
        if b.specialized:
            a, b = b, a
        for n in b.nodes:
            self.home[n] = a
        a.nodes = sorted((*a.nodes, *b.nodes), key=self.order.__getitem__)
        a.depth = max(a.depth, b.depth)
        a.first, a.last = min(a.first, b.first), max(a.last, b.last)
        a.cost += b.cost
        self._replace(b, {a}, a)
        return a

    def _replace(self, gone: Group, instead: set[Group], heir: Group) -> None:
        """Takes a group out: what waited for it waits for `instead`, what it waited for is waited for by `heir`."""
        for g in gone.users:
            g.deps.discard(gone)
            g.deps |= instead - {g}
            for d in instead - {g}:
                d.users.add(g)
        for d in gone.deps:
            d.users.discard(gone)
            if d is not heir:
                d.users.add(heir)
                heir.deps.add(d)
        del self.groups[gone]

    def _start(
        self,
        node: Node,
        shape: Shape,
        specialized: bool = False,
        anchor: Node | None = None,
        inner: frozenset[int] = frozenset(),
    ) -> Group:
        group = Group(shape, inner, specialized, anchor, first=self.order[node])
        self.groups[group] = None
        if node.op.name == "attention":  # its other result has one element a row
            group.put(node.outputs[1], group.symbols[:-1])
        self._add(group, node)
        return group

    def _add(self, group: Group, node: Node) -> None:
        self.home[node] = group
        group.nodes.append(node)
        group.last = max(group.last, self.order[node])
        group.cost += node_cost(node)
        for d in self._source_groups(node) - {group}:
            group.deps.add(d)
            d.users.add(group)
        group.depth = max([group.depth, *(d.depth + 1 for d in group.deps)])

    # ---- reductions
    def _reduction(self, node: Node) -> None:
        operand = node.inputs[0]
        axes = frozenset(reduced_axes(node))
        for group in sorted(self._source_groups(node), key=lambda g: -g.last):
            if (
                self._reduction_fits(node, operand, axes, group)
                and self._acyclic(node, group)
                and self.fuel.spend("fuse")
            ):
                if not group.specialized:
                    group.set_shape(operand.shape)
                    group.inner, group.specialized = axes, True
                self._add(group, node)
                return
        key = self._sibling_key(operand, axes)
        sibling = self.siblings.get(key)
        if (
            sibling in self.groups
            and sibling is not None
            and self._acyclic(node, sibling)
            and not self._reaches_any(node, sibling)
        ):
            if self._reduction_fits(node, operand, axes, sibling) and self.fuel.spend("fuse"):
                self._add(sibling, node)
                return
        self.siblings[key] = self._start(node, operand.shape, specialized=True, inner=axes)

    def _reaches_any(self, node: Node, group: Group) -> bool:
        return any(self._reaches(g, group) for g in self._source_groups(node) if g is not group)

    def _sibling_key(self, operand: Value, axes: frozenset[int]) -> tuple:
        """Reductions of the same stored tensor over the same axes share one pass over it."""
        biggest = max(
            (s.value for s in self.access.sources(operand, None)),
            key=lambda v: dim.bounds(v.type.size)[0] or 0,
            default=operand,
        )
        return (biggest, operand.shape, axes)

    def _reduction_fits(self, node: Node, operand: Value, axes: frozenset[int], group: Group) -> bool:
        if group.anchor is not None:
            return False
        if not group.specialized:
            rank = len(operand.shape)
            trailing = axes == frozenset(range(rank - len(axes), rank))
            if not trailing or dim.numel(operand.shape) != dim.numel(group.shape):
                return False
            outer = dim.bounds(dim.numel(tuple(n for k, n in enumerate(operand.shape) if k not in axes)))[0] or 0
            stays = any(v in self.outputs or len(self.users[v]) > 1 for n in group.nodes for v in n.outputs)
            if outer < SPLIT_OUTER and stays:
                return False
            trial = Group(operand.shape, axes, True)
            return all(self._identity(n, trial, group) for n in group.nodes) and self._reads_point(
                operand, trial, group
            )
        at = group.level_index(operand.shape, True)
        if at is None:
            return False
        inner = {s for k, s in enumerate(group.symbols) if k in group.inner and isinstance(s, Dim)}
        folded = [at[k] for k in axes if not (isinstance(at[k], int))]
        kept = tuple(i for k, i in enumerate(at) if k not in axes)
        if set(folded) != inner or len(folded) != len(inner):
            return False
        if kept != group.level_index(node.outputs[0].shape, False):
            return False
        return self._reads_point(operand, group, group)

    def _identity(self, n: Node, trial: Group, group: Group) -> bool:
        at = trial.level_index(n.out.shape, True)
        if at is None:
            return False
        for s in self._sources(n, at):
            if s.value.node is not None and self.home.get(s.value.node) is group:
                if not s.direct or s.index != trial.level_index(s.value.shape, True):
                    return False
        return True

    def _reads_point(self, operand: Value, at_group: Group, group: Group) -> bool:
        at = at_group.level_index(operand.shape, True)
        for s in self.access.sources(operand, at):
            if s.value.node is not None and self.home.get(s.value.node) is group:
                if not s.direct or s.index != at_group.where(s.value):
                    return False
        return True

    # ---- after grouping
    def _absorb(self) -> None:
        """Element-wise groups read by one other group only, and there not more often than they are computed here, move
        into it, wherever they are read."""
        output_sources = {s.value for v in self.graph.outputs for s in self.access.sources(v, None)}
        for group in list(reversed(self.groups)):
            if not group.is_pointwise or any(v in output_sources for n in group.nodes for v in n.outputs):
                continue
            if len(group.users) != 1:
                continue
            (reader,) = group.users
            nodes = reader.absorbed + group.absorbed + len(group.nodes)
            if nodes > ABSORBED_NODES or reader.cost + group.cost > GROUP_COST:
                continue
            indirect = any(v in self.pinned for n in group.nodes for v in n.outputs)
            reads = self._reads(reader)
            points = [p for v, p in reads.items() if v.node is not None and self.home.get(v.node) is group]
            if complicated(most_divisions(at for p in points for at in p), self._divisions(group)):
                continue
            repetition = self._repetition(reader, group, points)
            if any(n.op.name == "random_bits" or n.op.name in SEARCHES for n in group.nodes) or indirect:
                continue
            packed = any(self._packs(reader, v) for n in group.nodes for v in n.outputs)
            if packed and not all(map(converts, group.nodes)):
                continue
            if not packed and repetition > 2 and repetition * max(group.cost, 1) > RECOMPUTE_COST:
                continue
            if not self.fuel.spend("fuse"):
                continue
            self._dissolve(group, reader)

    def _reads(self, reader: Group) -> dict[Value, set[Index | None]]:
        """At which indices a group reads the values it needs, its own included."""
        out: dict[Value, set[Index | None]] = {}
        for node in reader.nodes:
            if node is reader.anchor and node.op.name not in SCANS:
                sources = [s for v in node.inputs for s in self.access.sources(v, None)]
            elif node.op.name in REDUCTIONS or node.op.name in SCANS:
                sources = list(self.access.sources(node.inputs[0], reader.level_index(node.inputs[0].shape, True)))
                sources += [s for v in node.inputs[1:] for s in self.access.sources(v, None)]
            else:
                at = reader.where(node.out)
                sources = self._sources(node, at) if at is not None else self.access.sources(node.out, None)
            for s in sources:
                out.setdefault(s.value, set()).add(s.index)
        return out

    def _divisions(self, group: Group) -> int:
        """Of the indices at which the group reads others' values."""
        read = self._reads(group).items()
        return most_divisions(at for v, p in read if v.node is None or self.home.get(v.node) is not group for at in p)

    def _repetition(self, reader: Group, group: Group, points: list[set[Index | None]]) -> float:
        """How often, roughly, `reader` would evaluate an element of `group` if it computed it itself. It reads the
        group's values at `points`."""
        symbols = frozenset(s for s in reader.symbols if isinstance(s, Dim))
        copies = max(map(len, points), default=0)
        if all(at is not None and injective(at, symbols) for p in points for at in p):
            return copies
        low = dim.bounds(dim.numel(group.shape))[0] or 0
        high = dim.bounds(dim.numel(reader.shape))[1]
        return math.inf if high is None or not low else copies * max(1.0, high / low)

    def _packs(self, reader: Group, value: Value) -> bool:
        """Whether the reader's contraction has `value` in a factor: it reads elements several times, while packing."""
        if reader.anchor is None or reader.anchor.op.name in (*SCANS, "segment_reduce", *OVERWRITERS):
            return False
        return any(s.value is value for x in factors(reader.anchor) for s in self.access.sources(x, None))

    def _dissolve(self, group: Group, reader: Group) -> None:
        for n in group.nodes:
            self.inlined.add(n)
            del self.home[n]
        self.access._memo.clear()
        reader.cost += group.cost
        reader.absorbed += group.absorbed + len(group.nodes)
        self._replace(group, set(), reader)

    def _stored(self) -> set[Value]:
        """Values that must be in memory: read by another group, or an output. Cheap ones are recomputed instead."""
        stored = {v for v in self.graph.outputs if v.node is not None}
        for v in self.graph.outputs:
            stored |= {s.value for s in self.access.sources(v, None) if s.value.node is not None}
        readers: dict[Value, set[Group]] = {}
        copies: dict[Value, int] = {}  # in how many places of a kernel a value would be recomputed
        divided: dict[Value, int] = {}  # divisions of the indices at which a value would be recomputed
        for group in self.groups:
            for v, points in self._reads(group).items():
                if v.node is None or self.home[v.node] is not group:
                    readers.setdefault(v, set()).add(group)
                    copies[v] = max(copies.get(v, 1), len(points))
                    divided[v] = max(divided.get(v, 0), most_divisions(points))
        spent: dict[Value, int] = {}  # cost already put on the readers of a value by recomputing what it feeds
        for node in reversed(self.graph.nodes):
            for v in node.outputs:
                groups = readers.get(v)
                if not groups or v in stored or node not in self.home:
                    continue
                cost = self._recompute_cost(v) * copies[v] + spent.get(v, 0)
                packed = any(self._packs(g, v) for g in groups) and not converts(node)
                own = tuple(axis_symbol(k, n) for k, n in enumerate(v.shape))
                within = 0 if cost > RECOMPUTE_COST else most_divisions(s.index for s in self._sources(node, own))
                dear = cost > RECOMPUTE_COST or complicated(divided[v], within)
                if dear or packed or v in self.pinned or not self.fuel.spend("recompute"):
                    stored.add(v)
                    continue
                self.inlined.add(node)
                points = Counter(s.value for s in dict.fromkeys(self._sources(node, own)))
                for source, number in points.items():
                    spent[source] = max(spent.get(source, 0), cost)
                    copies[source] = max(copies.get(source, 1), copies[v] * number)
                    divided[source] = max(divided.get(source, 0), divided[v] + within)
                    others = {g for g in groups if source.node is None or self.home[source.node] is not g}
                    readers.setdefault(source, set()).update(others)
        self.access._memo.clear()
        return stored

    def _recompute_cost(self, v: Value) -> int:
        """Instructions to recompute `v` from at most one tensor of its size; more than allowed if that is impossible."""
        node = v.node
        assert node is not None
        if node.op.kind != "pointwise" or on_host(node):
            return RECOMPUTE_COST + 1
        sources = {s.value for x in node.inputs for s in self.access.sources(x, None)}
        big = [s for s in sources if s.shape == v.shape or dim.numel(s.shape) == v.type.size]
        return scalar_cost(node) if len(big) <= 1 else RECOMPUTE_COST + 1

    def _sorted(self) -> list[Group]:
        """Topological order, otherwise by place in the graph."""
        for g in self.groups:
            g.deps = set()
        for g in self.groups:
            for n in g.nodes:
                if n not in self.inlined:
                    g.deps |= self._source_groups(n) - {g}
        out: list[Group] = []
        begun: set[Group] = set()
        done: set[Group] = set()
        for root in sorted(self.groups, key=lambda g: g.last):
            stack = [root]
            while stack:
                g = stack[-1]
                waiting = [d for d in sorted(g.deps, key=lambda d: d.last) if d not in done]
                if waiting:
                    if g in begun:
                        raise AssertionError(f"groups that wait for each other: {[n.op.name for n in g.nodes]}")
                    begun.add(g)
                    stack.extend(waiting)
                    continue
                stack.pop()
                if g not in done:
                    done.add(g)
                    out.append(g)
        return out


def factors(anchor: Node) -> tuple[Value, ...]:
    """The operands of an anchor that products are made of. Masks of attention, and what it knows of rows, are none."""
    if anchor.op.name not in ATTENTION:
        return anchor.inputs
    return anchor.inputs[: 3 if anchor.op.name == "attention" else 4]


def addressed(node: Node) -> tuple[Value, ...]:
    """The operands that have to be in memory in row-major order: what gather indexes, and all that host steps read."""
    if on_host(node):
        return node.inputs
    if node.op.name == "segment_reduce":
        return node.inputs[1:2]
    return node.inputs[:1] if node.op.name == "gather" or node.op.name in SEARCHES else ()


def overwritten(node: Node) -> tuple[Value, ...]:
    """The operands whose memory the node's result takes over."""
    return node.inputs[:1] if node.op.name in OVERWRITERS else ()


def converts(node: Node) -> bool:
    """Whether it is a cast to another type. One to the same type is a copy, made to be in memory."""
    return node.op.name == "cast" and node.inputs[0].dtype is not node.out.dtype


def injective(at: Index, symbols: frozenset[Dim]) -> bool:
    """Whether different values of `symbols` certainly give different indices: each entry is a number in mixed radix."""
    missing = set(symbols)
    for d in at:
        if isinstance(d, int):
            continue
        reach = 0
        for monomial, c in sorted(d.terms, key=lambda term: abs(term[1])):
            if not monomial:
                continue
            extent = (
                dim.bounds(monomial[0].hi)[1]
                if len(monomial) == 1 and monomial[0].kind == "sym" and monomial[0].hi is not None
                else None
            )
            if extent is None or abs(c) <= reach:
                return False
            reach += abs(c) * extent
            missing.discard(dim.symbol(monomial[0].name, monomial[0].lo, monomial[0].hi))
    return not missing


def fuse(graph: Graph, fuel: Fuel) -> Partition:
    """Groups the nodes of `graph` (primitive ops only) into kernels."""
    return Fuser(graph, fuel).run()
