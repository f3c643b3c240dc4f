"""Writes a group of nodes as a `Kernel`: index maps become load addresses, pointwise ops scalar expressions, reductions
stages."""

from __future__ import annotations

from dataclasses import replace

from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.dtypes import DType, accumulator, int64, uint32
from ..ir.graph import Node, Value
from ..ir.kernel import Anchor, Axis, Buffer, Kernel, Reduction, Stage, Store, size_symbols
from ..ir.ops.random import scalar_random_bits
from ..ir.scalar import Expr, apply, cast, const, free_symbols, in_bounds, index, load, result, select, walk
from .access import Index, broadcast_index, index_map
from .fuse import Group, Partition, memory_root, reduced_axes
from .host import ATTENTION, REDUCTIONS, SCANS, SCATTERS, SEARCHES

Mask = tuple[DimLike, ...]
KINDS = {
    "reduce_sum": "sum", "reduce_prod": "prod", "reduce_max": "max", "reduce_min": "min",
    "reduce_any": "any", "reduce_all": "all", "argmax": "argmax", "argmin": "argmin",
}  # fmt: skip


def compute_dtype(dtype: DType) -> DType:
    """The type that elements of `dtype` have inside a kernel: narrow floats are computed in float32."""
    return accumulator(dtype)


class GroupLowering:
    """Lowers one group. `stored`: the values that are in memory before or after it."""

    def __init__(self, group: Group, partition: Partition, name: str):
        self.group, self.partition, self.name = group, partition, name
        self.home = partition.home
        self.reads: dict[Value, Buffer] = {}
        self.writes: dict[Value, Buffer] = {}
        self.memo: dict[tuple, Expr] = {}
        self.result_level: dict[str, int] = {}  # reduction result -> its stage
        self.reduced: dict[Value, str] = {}
        self.single: dict[Value, Expr] = {}  # reductions over axes of one element
        self.overwrites: dict[Value, Value] = {}  # result -> the operand whose memory it takes over

    # ---- element expressions
    def element(self, v: Value, at: Index, mask: Mask = ()) -> Expr:
        """Element `at` of `v`, of `compute_dtype`. Memory is touched only where `mask` holds."""
        key = (v, at, mask)
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = self._element(v, at, mask)
        return found

    def _element(self, v: Value, at: Index, mask: Mask) -> Expr:
        node = v.node
        if v in self.single:
            return self.single[v]
        if v in self.reduced:
            return result(self.reduced[v], compute_dtype(v.dtype))
        if node is None or node in self.home and self._in_memory(v, node):
            return self._load(v, at, mask)
        name = node.op.name
        if name == "full":
            return (
                const(node.attrs["value"], compute_dtype(v.dtype))
                if not isinstance(node.attrs["value"], Dim)
                else cast(index(node.attrs["value"]), compute_dtype(v.dtype))
            )
        if name == "iota":
            return cast(index(at[node.attrs["axis"]]), compute_dtype(v.dtype))
        if name == "gather":
            return self._gather(node, at, mask)
        if name == "random_bits":
            return self._random_bits(node, at, mask)
        if name in SEARCHES:
            from .lower_search import searched

            return searched(self, node, at, mask)
        if node.op.kind == "pointwise":
            args = tuple(self.element(x, broadcast_index(at, x.shape), mask) for x in node.inputs)
            return self._pointwise(node, args)
        return self._moved(node, at, mask)

    def _pointwise(self, node: Node, args: tuple[Expr, ...]) -> Expr:
        assert node.op.scalar is not None
        out = node.out.dtype
        if node.op.name == "cast":
            x = cast(args[0], out)  # rounds to the narrow type ...
            return cast(x, compute_dtype(out))  # ... and goes on in the wide one
        if node.op.name == "bitcast":
            source = node.inputs[0].dtype
            return cast(apply("bitcast", cast(args[0], source), dtype=out), compute_dtype(out))
        return node.op.scalar(*args, **node.attrs)

    def _moved(self, node: Node, at: Index, mask: Mask) -> Expr:
        mapped = index_map(node, at)
        dtype = compute_dtype(node.out.dtype)
        fill = mapped.fill
        out: Expr | None = None if fill is None else const(fill, dtype)
        for a in reversed(mapped.alternatives):
            value = self.element(node.inputs[a.operand], a.index, mask + tuple(a.conditions))
            if not a.conditions:
                out = value
            elif out is None:
                out = value  # the last alternative covers what is left
            elif value.op == "load" and out.op == "const" and not out.attr and value.attr.mask:
                out = value  # a masked load already gives 0 outside
            else:
                out = select(in_bounds(tuple(a.conditions)), value, out)
        assert out is not None
        return out

    def _gather(self, node: Node, at: Index, mask: Mask) -> Expr:
        data, *indices = node.inputs
        rank = node.out.ndim - (data.ndim - len(indices))
        picks = tuple(
            cast(self.element(v, broadcast_index(at[:rank], v.shape), mask), int64) for v in indices
        )  # fmt: skip
        buffer = self.indirect_buffer(data)
        return self.widen(load(data.dtype, buffer.name, (*picks, *at[rank:]), mask))

    def _random_bits(self, node: Node, at: Index, mask: Mask) -> Expr:
        return self.random_word(node.inputs[0], linear(at, node.out.shape), mask)

    def random_word(self, state: Value, flat: DimLike, mask: Mask = ()) -> Expr:
        """Element `flat` of what random_bits draws from a state."""
        seed, offset = (self.element(state, (k,), mask) for k in (0, 1))
        counter = offset + cast(index(dim.floordiv(flat, 4)), offset.dtype)
        low = [cast(x, uint32) for x in (seed, counter)]
        high = [cast(x >> 32, uint32) for x in (seed, counter)]
        words = scalar_random_bits(low[0], high[0], low[1], high[1])
        lane = cast(index(dim.mod(flat, 4)), uint32)
        out = words[3]
        for k in (2, 1, 0):
            out = select(apply("eq", lane, k), words[k], out)
        return out

    # ---- memory
    def _in_memory(self, v: Value, node: Node) -> bool:
        return self.home[node] is not self.group and v in self.partition.stored

    def _buffer(self, v: Value) -> Buffer:
        found = self.reads.get(v)
        if found is None:
            n = v.type.size
            found = self.reads[v] = Buffer(f"x{len(self.reads)}", v.dtype, (n,), (1,), "in")
        return found

    def indirect_buffer(self, v: Value) -> Buffer:
        """A view of `v` with all its axes, for computed addresses."""
        root = memory_root(v)
        key = ("indirect", root, v.shape)
        found = self.reads.get(key)  # type: ignore[call-overload]
        if found is None:
            strides = dim.contiguous_strides(v.shape)
            found = Buffer(f"x{len(self.reads)}", v.dtype, v.shape, strides, "in")
            self.reads[key] = found  # type: ignore[index]
        return found

    def _load(self, v: Value, at: Index, mask: Mask) -> Expr:
        offset = linear(at, v.shape)
        return self.widen(load(v.dtype, self._buffer(v).name, (offset,), mask))

    def widen(self, e: Expr) -> Expr:
        return cast(e, compute_dtype(e.dtype))

    # ---- the kernel
    def run(self) -> Kernel | None:
        """The kernel, or None if nothing in the group has to be stored."""
        group = self.group
        live = [n for n in group.nodes if any(v in self.partition.stored for v in n.outputs)]
        if not live or 0 in group.shape:
            return None
        if group.anchor is not None and group.anchor.op.name in SCATTERS:
            from .lower_scatter import LOWERINGS

            return LOWERINGS[group.anchor.op.name](self)
        if group.anchor is not None and group.anchor.op.name in SCANS:
            from .lower_scan import lower_scan

            return lower_scan(self)
        if group.anchor is not None and group.anchor.op.name == "attention_keys":
            from .lower_attention import lower_keys

            return lower_keys(self)
        axes = {k: Axis(s, n) for k, (s, n) in enumerate(zip(group.symbols, group.shape)) if isinstance(s, Dim)}
        inner = tuple(a for k, a in axes.items() if k in group.inner)
        outer = tuple(a for k, a in axes.items() if k not in group.inner)
        anchor = None
        if group.anchor is not None:
            anchor, outer = self._anchor(group.anchor)
            for v, result_name in zip(group.anchor.outputs, anchor.names):
                self.reduced[v] = result_name
                self.result_level[result_name] = -1
        reductions: dict[int, list[Reduction]] = {}
        stores: dict[tuple[int, bool], list[Store]] = {}
        for node in group.nodes:
            if node.op.name in REDUCTIONS:
                self._add_reduction(node, reductions)
            elif node is not group.anchor and not self.partition.access.inline(node):
                at = group.where(node.out)
                if at is not None:
                    self.element(node.out, at)  # so that what reads it finds it: no deep recursion
            for v in node.outputs:
                if v in self.partition.stored:
                    self._add_store(v, node, stores, inner)
        stages: list[Stage] = []
        last = max([*reductions, *(k for k, _ in stores)], default=0)
        for k in range(-1, last + 1):
            if k in reductions or (k, True) in stores:
                stages.append(Stage(inner, tuple(reductions.get(k, ())), tuple(stores.get((k, True), ()))))
            if (k, False) in stores:
                stages.append(Stage((), (), tuple(stores[k, False])))
        params = tuple(dict.fromkeys((*self.reads.values(), *self.writes.values())))
        kernel = Kernel(
            self.name, params, outer, tuple(stages), anchor, (),
            tuple(dict.fromkeys(str(n.loc) for n in group.nodes if n.loc)), tuple(n.op.name for n in group.nodes),
        )  # fmt: skip
        return replace(kernel, dims=size_symbols(kernel))

    def _anchor(self, node: Node) -> tuple[Anchor, tuple[Axis, ...]]:
        """The anchor of `node`, and the kernel's outer axes."""
        if node.op.name in ATTENTION:
            from .lower_attention import attention

            return attention(self, node)
        from .lower_contraction import contraction

        return contraction(self, node)

    def _level(self, *exprs: Expr) -> int:
        """The last stage whose results the expressions need; -1 without any."""
        return max((self.result_level[e.attr] for e in walk(*exprs) if e.op == "result"), default=-1)

    def _add_reduction(self, node: Node, reductions: dict[int, list[Reduction]]) -> None:
        operand = node.inputs[0]
        at = self.group.level_index(operand.shape, True)
        assert at is not None
        value = self.element(operand, at)
        kind = KINDS[node.op.name]
        if not any(isinstance(s, Dim) for k, s in enumerate(self.group.symbols) if k in self.group.inner):
            self.single[node.out] = value if kind not in ("argmax", "argmin") else const(0, int64)
            return
        stage = self._level(value) + 1
        name = f"r{len(self.reduced)}"
        inputs: tuple[Expr, ...] = (value,)
        names: tuple[str, ...] = (name,)
        dtype = value.dtype
        if kind in ("argmax", "argmin"):
            (axis,) = reduced_axes(node)
            inputs, names = (value, index(at[axis])), (f"{name}v", name)
            self.result_level[f"{name}v"] = stage
        reductions.setdefault(stage, []).append(Reduction(names, kind, inputs, dtype))
        self.result_level[name] = stage
        self.reduced[node.out] = name

    def _add_store(
        self, v: Value, node: Node, stores: dict[tuple[int, bool], list[Store]], inner: tuple[Axis, ...]
    ) -> None:
        at = self.group.where(v)
        assert at is not None
        value = cast(self.element(v, at), v.dtype)
        buffer = self.writes.get(v)
        if buffer is None:
            buffer = self.writes[v] = Buffer(f"y{len(self.writes)}", v.dtype, (v.type.size,), (1,), "out")
        offset = linear(at, v.shape)
        symbols = free_symbols(value) | dim.symbols(offset)
        full = any(a.sym in dim.symbols(offset) for a in inner) or bool(inner) and any(a.sym in symbols for a in inner)
        level = self._level(value)
        stores.setdefault((level + 1 if full else level, full), []).append(Store(buffer.name, (offset,), value))


def linear(at: Index, shape: tuple[DimLike, ...]) -> DimLike:
    """The row-major position of index `at`."""
    out: DimLike = 0
    for i, s in zip(at, dim.contiguous_strides(shape), strict=True):
        out = out + i * s
    return out
