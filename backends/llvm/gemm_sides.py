"""Index algebra for contractions: buffers become flat, neighbouring axes merge where memory allows, sides are classified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.kernel import Axis, Buffer, Contraction, Kernel, Stage, Store
from ...ir.scalar import Expr, Load, transform, walk


def map_dims(e: Expr, change: Callable[[DimLike], DimLike]) -> Expr:
    """`e` with every index expression in it replaced by change(index expression)."""

    def leaf(node: Expr) -> Expr | None:
        if node.op == "index":
            return Expr("index", node.dtype, (), change(node.attr))
        if node.op == "in_bounds":
            return Expr("in_bounds", node.dtype, (), tuple(map(change, node.attr)))
        if node.op == "load":
            at = node.attr
            index = tuple(i if isinstance(i, Expr) else change(i) for i in at.index)
            return Expr("load", node.dtype, node.args, Load(at.buffer, index, tuple(map(change, at.mask))))
        return None

    return transform(e, leaf)


def map_store(s: Store, change: Callable[[DimLike], DimLike]) -> Store:
    index = tuple(map_dims(i, change) if isinstance(i, Expr) else change(i) for i in s.index)
    return replace(s, index=index, value=map_dims(s.value, change), mask=tuple(map(change, s.mask)))


def map_stage(stage: Stage, change: Callable[[DimLike], DimLike]) -> Stage:
    reductions = tuple(replace(r, inputs=tuple(map_dims(i, change) for i in r.inputs)) for r in stage.reductions)
    return replace(stage, reductions=reductions, stores=tuple(map_store(s, change) for s in stage.stores))


def substitution(env: Mapping[Dim, DimLike]) -> Callable[[DimLike], DimLike]:
    return lambda d: dim.substitute(d, env)


def expressions(stages: Iterable[Stage]) -> list[Expr]:
    """Every expression of the stages, those in store indices included."""
    out: list[Expr] = []
    for stage in stages:
        for r in stage.reductions:
            out += r.inputs
        for s in stage.stores:
            out += [s.value, *(i for i in s.index if isinstance(i, Expr))]
    return out


# ---- flat buffers


def linearize(kernel: Kernel) -> Kernel:
    """The same kernel with one-dimensional buffers of stride 1, so that index expressions are memory offsets.

    A buffer with an indirect access keeps its shape. Axes of extent 1 are dropped from all index expressions.
    """
    anchor = kernel.contraction
    ones: dict[Dim, DimLike] = {a.sym: 0 for a in kernel.all_axes if a.extent == 1}
    drop = substitution(ones)
    roots = [anchor.lhs, anchor.rhs, *expressions(kernel.stages)]
    stores = [s for stage in kernel.stages for s in stage.stores]
    indirect = {n.attr.buffer for n in walk(*roots) if n.op == "load" and n.args}
    indirect |= {s.buffer for s in stores if any(isinstance(i, Expr) for i in s.index)}
    flat = {b.name: b for b in kernel.params if b.name not in indirect}

    def offset(buffer: str, index: tuple) -> tuple:
        if buffer not in flat:
            return tuple(i if isinstance(i, Expr) else drop(i) for i in index)
        total: DimLike = 0
        for i, stride in zip(index, flat[buffer].strides, strict=True):
            total = total + drop(i) * stride
        return (total,)

    def leaf(node: Expr) -> Expr | None:
        if node.op != "load":
            return None
        at = node.attr
        return Expr("load", node.dtype, node.args, Load(at.buffer, offset(at.buffer, at.index), at.mask))

    def whole(e: Expr) -> Expr:
        return map_dims(transform(e, leaf), drop)

    def stage_of(s: Stage) -> Stage:
        reductions = tuple(replace(r, inputs=tuple(map(whole, r.inputs))) for r in s.reductions)
        stores = []
        for st in s.stores:
            index = tuple(whole(i) if isinstance(i, Expr) else i for i in offset(st.buffer, st.index))
            stores.append(replace(st, index=index, value=whole(st.value), mask=tuple(map(drop, st.mask))))
        return replace(s, reductions=reductions, stores=tuple(stores))

    params = tuple(_flat_buffer(b) if b.name in flat else b for b in kernel.params)
    return replace(
        kernel,
        params=params,
        stages=tuple(map(stage_of, kernel.stages)),
        anchor=replace(anchor, lhs=whole(anchor.lhs), rhs=whole(anchor.rhs)),
    )


def _flat_buffer(b: Buffer) -> Buffer:
    return replace(b, shape=(dim.numel(b.shape),), strides=(1,))


# ---- sides


@dataclass(frozen=True, slots=True)
class Side:
    """Some axes (at least one) read as one flattened axis, the last one innermost."""

    axes: tuple[Axis, ...]

    @property
    def extent(self) -> DimLike:
        return dim.numel(tuple(a.extent for a in self.axes))

    @property
    def inner(self) -> Axis:
        return self.axes[-1]

    def whole_vectors(self, lanes: int) -> bool:
        """Whether a vector that starts at a multiple of `lanes` never leaves a row of the innermost axis."""
        if len(self.axes) < 2:
            return True
        inner = self.axes[-1].extent
        return isinstance(inner, int) and inner % lanes == 0


def side(axes: tuple[Axis, ...], name: str) -> Side:
    """The axes that do something: `linearize` has substituted those of extent 1. Without any: one of extent 1, `name`."""
    return Side(tuple(a for a in axes if a.extent != 1) or (Axis(dim.symbol(name, 0, 0), 1),))


def merged(side: Side, exprs: list[Expr], extra: Iterable[DimLike] = ()) -> tuple[Side, dict[Dim, DimLike]]:
    """Merges innermost axes while every index expression stays linear in the merged one (bounds of masks need not).

    Returns the side and what to substitute for the axes that are gone.
    """
    dims = [d for e in exprs for d in _indices(e)] + [d for d in extra if not isinstance(d, int)]
    axes, env = list(side.axes), {}
    while len(axes) >= 2:
        outer, inner = axes[-2:]
        extent = outer.extent * inner.extent
        both = dim.symbol(f"{outer.name}.{inner.name}", 0, extent - 1)
        step = {outer.sym: dim.floordiv(both, inner.extent), inner.sym: dim.mod(both, inner.extent)}
        trial = [dim.substitute(d, step) for d in dims]
        if not all(isinstance(d, int) or d.is_linear_in(both) for d in trial):
            break
        env = {s: dim.substitute(d, step) for s, d in env.items()} | step
        axes[-2:] = [Axis(both, extent)]
        dims = trial
    return Side(tuple(axes)), env


def merged_stages(side: Side, stages: tuple[Stage, ...]) -> tuple[Side, tuple[Stage, ...]]:
    stores = [s for stage in stages for s in stage.stores]
    extra = [d for s in stores for d in (*s.index, *s.mask) if not isinstance(d, Expr)]
    new, env = merged(side, expressions(stages), extra)
    return new, tuple(map_stage(s, substitution(env)) for s in stages)


def _indices(e: Expr) -> list[Dim]:
    """The index expressions whose values or addresses vary with the axes."""
    out: list[DimLike] = []
    for node in walk(e):
        if node.op == "index":
            out.append(node.attr)
        elif node.op == "load":
            out += [d for d in node.attr.index if not isinstance(d, Expr)]
    return [d for d in out if isinstance(d, Dim)]


def bounds_symbols(e: Expr) -> frozenset[Dim]:
    """The axes that masks and bounds predicates of `e` depend on."""
    found: set[Dim] = set()
    for node in walk(e):
        for d in node.attr.mask if node.op == "load" else node.attr if node.op == "in_bounds" else ():
            found |= dim.symbols(d)
    return frozenset(found)


def strides_along(e: Expr, axis: Axis) -> set[DimLike | None]:
    """The memory strides of the loads of `e` along an axis (None in the set: not constant or not linear)."""
    out: set[DimLike | None] = set()
    for node in walk(e):
        if node.op != "load":
            continue
        if len(node.attr.index) != 1 or isinstance(node.attr.index[0], Expr):
            out.add(None)
            continue
        d = node.attr.index[0]
        if isinstance(d, int):
            out.add(0)
        else:
            out.add(d.coefficient(axis.sym) if d.is_linear_in(axis.sym) else None)
    return out


def contiguous(e: Expr, axis: Axis) -> bool:
    """Whether a vector along the axis needs nothing but plain loads and splats."""
    found = strides_along(e, axis)
    return 1 in found and found <= {0, 1}


@dataclass(frozen=True, slots=True)
class Operand:
    """One factor of the product: its expression over merged axes. `panel` is its m or n side."""

    expr: Expr
    panel: Side
    k: Side

    @property
    def along_panel(self) -> bool:
        return contiguous(self.expr, self.panel.inner)

    def along_k(self, lanes: int) -> bool:
        return contiguous(self.expr, self.k.inner) and self.k.whole_vectors(lanes)

    @property
    def plain(self) -> bool:
        """A load, perhaps converted: as cheap to evaluate again as to read from a packed copy."""
        e = self.expr.args[0] if self.expr.op == "cast" else self.expr
        return e.op == "load" and not e.args and not e.attr.mask


def operand(e: Expr, panel: Side, k: Side) -> Operand:
    """Merges the axes of both sides as far as this expression allows, whatever the other operand needs."""
    p, env = merged(panel, [e])
    e = map_dims(e, substitution(env))
    ks, env = merged(k, [e])
    return Operand(map_dims(e, substitution(env)), p, ks)


def swapped(kernel: Kernel) -> Kernel:
    """The same kernel with the m and n sides exchanged."""
    c = kernel.contraction
    flipped: Contraction = replace(c, m=c.n, n=c.m, lhs=c.rhs, rhs=c.lhs)
    return replace(kernel, axes=(*c.batch, *c.n, *c.m), anchor=flipped)
