"""Kernel IR: what a kernel computes (`Kernel`), apart from how (`schedule.Schedule`).

A kernel runs, for every point of its outer `axes`, its *stages* in order. A stage loops over its own inner axes:
it folds `reductions` over them and writes `stores` at each of them. A later stage may read an earlier reduction by
name (`scalar.result`). A stage without inner axes runs once per outer point. An *anchor* (a contraction, or attention) is computed
before the stages for every outer point and is read by name as well: its operands are expressions, so that
transposes, padding, convolution windows and element-wise prologues are all part of the same form, and the stages
behind it are its epilogue.

    softmax over rows of x[n, m]:
      axes (i: n); stage (j: m): mx = max x[i,j]; stage (j): s = sum exp(x[i,j]-mx); stage (j): y[i,j] = exp(x[i,j]-mx)/s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from .dim import Dim, DimLike, symbols
from .dtypes import DType, bfloat16, float16, int8
from .scalar import Expr, Load, transform, walk

MONOIDS = ("sum", "prod", "max", "min", "any", "all")


@dataclass(frozen=True, slots=True)
class Buffer:
    """A parameter of a kernel. `strides` are in elements; `role` is "in", "out" or "inout"."""

    name: str
    dtype: DType
    shape: tuple[DimLike, ...]
    strides: tuple[DimLike, ...]
    role: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop: `sym` runs over [0, extent)."""

    sym: Dim
    extent: DimLike

    @property
    def name(self) -> str:
        return str(self.sym)


@dataclass(frozen=True, slots=True)
class Reduction:
    """Folds `inputs` over the stage's axes.

    kind: one of MONOIDS (one input, one result); "argmax"/"argmin" (inputs: value, index; results: extreme value and
    the index of its first occurrence, NaN counting as extreme); "welford" (one input; results: mean and sum of squared
    deviations). `names` name the results. The order of combination is fixed by the extents and the target's lanes.
    running: a scan ("sum" or "prod", in a stage of one axis): the result at a point is the fold of the points up to and
    including that one, and only the stores of the stage itself may read it. The same of "sort", on GPUs: the result at
    point k is the k-th smallest integer of the row, which one block of points holds.
    """

    names: tuple[str, ...]
    kind: str
    inputs: tuple[Expr, ...]
    dtype: DType  # of the accumulator
    running: bool = False


@dataclass(frozen=True, slots=True)
class Store:
    """Writes `value` to `buffer` at `index` where every Dim of `mask` is >= 0. accumulate: "add" or "max" to put
    it together with what is there."""

    buffer: str
    index: tuple[DimLike | Expr, ...]
    value: Expr
    mask: tuple[DimLike, ...] = ()
    accumulate: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """span, for reductions over one axis, on GPUs: only the points from the first to before the second value are folded,
    which depend on the outer point, and rise with it."""

    axes: tuple[Axis, ...]
    reductions: tuple[Reduction, ...] = ()
    stores: tuple[Store, ...] = ()
    span: tuple[Expr, Expr] | None = None


@dataclass(frozen=True, slots=True)
class Contraction:
    """The anchor of matmul and convolution: for each (batch, m, n) point, `name` = sum over k of lhs * rhs.

    The kernel's outer axes are batch + m + n, in this order; `lhs` depends on batch, m and k only, `rhs` on batch, k
    and n only. Several axes may form one side: (c, kh, kw) is the k side of a convolution.
    """

    name: str
    batch: tuple[Axis, ...]
    m: tuple[Axis, ...]
    n: tuple[Axis, ...]
    k: tuple[Axis, ...]
    lhs: Expr
    rhs: Expr
    dtype: DType  # of the accumulator

    @property
    def unwidened(self) -> tuple[Expr, Expr]:
        """lhs and rhs as they were before they were widened, where the products of those are exact in `dtype` or wrap
        around to the same bits; else lhs and rhs."""
        if all(e.op == "cast" for e in (self.lhs, self.rhs)):
            x, y = self.lhs.args[0], self.rhs.args[0]
            halves = x.dtype in (float16, bfloat16) and self.dtype.kind == "f"
            if x.dtype is y.dtype and (halves or x.dtype is int8 and self.dtype.kind in "iu" and self.dtype.bits <= 32):
                return x, y
        return self.lhs, self.rhs

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def operands(self) -> tuple[Expr, ...]:
        return self.lhs, self.rhs

    @property
    def loops(self) -> tuple[Axis, ...]:
        """The axes that it folds itself."""
        return self.k

    @property
    def products(self) -> tuple[tuple[Axis, ...], ...]:
        """The axes of each sum of products: two operations a point."""
        return ((*self.batch, *self.m, *self.n, *self.k),)

    def map(self, change: Callable[[Expr], Expr]) -> "Contraction":
        """The same anchor with every expression replaced."""
        return replace(self, lhs=change(self.lhs), rhs=change(self.rhs))


SCORE = "score"  # the result that the score of an Attention reads


@dataclass(frozen=True, slots=True)
class Attention:
    """The anchor of attention and its gradients: each weight exists for a moment only, in a block of rows and columns.

    The score at (batch, m, n) is `score` of SCORE, which is the sum over d of q * k; it counts in base 2, and is -inf
    where n > m if `causal`. Its weight is 2**score over the sum of that over n; times `factor`, which is what dropout
    leaves. q depends on batch, m, d; k on batch, n, d; v on batch, n, e. part: which results `names` are:
      "rows"     sum over n of weight * factor * v, at (batch, m, e); the natural logarithm of the sum, at (batch, m)
      "queries"  sum over n of change * k, at (batch, m, d)
      "keys"     sum over m of change * q, at (batch, n, d); sum over m of weight * factor * g, at (batch, n, e)
    The gradients read g at (batch, m, e), the cotangent of the result; lse, the sum's binary logarithm, and delta, what
    a row's weights together make of g, at (batch, m). change = slope * weight * (factor * sum over e of g * v - delta).
    The kernel's outer axes are those of the first result; for "keys" batch + n, and its stages run over d and e.
    hides: rows whose scores are all -inf have weights 0 (else NaN).
    """

    part: str
    names: tuple[str, ...]
    batch: tuple[Axis, ...]
    m: Axis
    n: Axis
    d: Axis
    e: Axis
    q: Expr
    k: Expr
    v: Expr
    score: Expr
    causal: bool
    hides: bool
    dtype: DType  # of accumulators
    factor: Expr | None = None
    g: Expr | None = None
    lse: Expr | None = None
    delta: Expr | None = None
    slope: float = 1.0

    @property
    def named_operands(self) -> dict[str, Expr]:
        found = {name: getattr(self, name) for name in ("q", "k", "v", "score", "factor", "g", "lse", "delta")}
        return {name: e for name, e in found.items() if e is not None}

    @property
    def operands(self) -> tuple[Expr, ...]:
        return tuple(self.named_operands.values())

    @property
    def loops(self) -> tuple[Axis, ...]:
        return self.m, self.n, self.d, self.e

    @property
    def products(self) -> tuple[tuple[Axis, ...], ...]:
        over = {"rows": (self.d, self.e), "queries": (self.d, self.e, self.d), "keys": (self.d, self.e, self.d, self.e)}
        return tuple((*self.batch, self.m, self.n, a) for a in over[self.part])

    def axes_of(self, k: int) -> tuple[Axis, ...]:
        """Of the k-th result."""
        row = self.n if self.part == "keys" else self.m
        columns = {"rows": ((self.e,), ()), "queries": ((self.d,),), "keys": ((self.d,), (self.e,))}
        return (*self.batch, row, *columns[self.part][k])

    def map(self, change: Callable[[Expr], Expr]) -> "Attention":
        return replace(self, **{name: change(e) for name, e in self.named_operands.items()})


Anchor = Contraction | Attention


@dataclass(frozen=True, slots=True)
class Kernel:
    """One fused kernel. `sources` are the user's lines it came from: not part of its identity or of cache keys.

    `dims` are the symbolic sizes it takes as arguments, in order.
    """

    name: str
    params: tuple[Buffer, ...]
    axes: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    anchor: Anchor | None = None
    dims: tuple[Dim, ...] = ()
    sources: tuple[str, ...] = field(default=(), compare=False)
    ops: tuple[str, ...] = field(default=(), compare=False)

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.params if b.name == name)

    @property
    def contraction(self) -> Contraction:
        """The anchor, where it is known to be one."""
        assert isinstance(self.anchor, Contraction)
        return self.anchor

    @property
    def scatters(self) -> bool:
        """Whether it stores where values say."""
        return any(isinstance(i, Expr) for stage in self.stages for s in stage.stores for i in s.index)

    @property
    def ordered(self) -> bool:
        """Whether it stores where values say, so that the order of stores matters. (Where a running fold says so, no two
        go to one place, but for equal ones.)"""
        return self.scatters and not any(r.running for stage in self.stages for r in stage.reductions)

    @property
    def all_axes(self) -> tuple[Axis, ...]:
        inner = tuple(a for s in self.stages for a in s.axes)
        return (*self.axes, *inner, *(self.anchor.loops if self.anchor else ()))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one kernel runs on one target. The same kernel has different schedules on different machines.

    vector: the axis whose neighbouring points share a vector register ("" : none). lanes: how many. unroll: how many
    registers at once. grain: the fewest outer points worth a thread. block: elements of an outer vector axis per task
    (0: a default). across: the outer axis along which loads are contiguous that are not along the vector axis: its points
    are handled as many at a time as there are lanes. stream: output buffers written past the cache. prefetch: (input, stage, bytes): loads of that stage
    ask for what lies so far ahead. tile: for an anchor, (MR, NR, KC, MC, NC).

    On GPUs: blocks: points of one program along each dimension of its tile, powers of two. warps: of 32 threads that share a
    program. stages: of loops whose loads run ahead. split: programs that share the contracted points of one tile. group:
    rows of tiles that neighbouring programs share. precision: of float32 products: "ieee", "tf32x3", "tf32". persistent: as
    many programs as there are multiprocessors, each with tile after tile.
    """

    vector: str = ""
    lanes: int = 1
    unroll: int = 1
    grain: int = 1
    block: int = 0
    across: str = ""
    stream: tuple[str, ...] = ()
    prefetch: tuple[tuple[str, int, int], ...] = ()
    tile: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    warps: int = 4
    stages: int = 1
    split: int = 1
    group: int = 1
    precision: str = "ieee"
    persistent: bool = False


def roots(stage: Stage) -> list[Expr]:
    """The expressions a stage evaluates: reduction inputs, then stored values, then computed places and bounds."""
    values = [x for r in stage.reductions for x in r.inputs] + [s.value for s in stage.stores]
    places = [i for s in stage.stores for i in s.index if isinstance(i, Expr)]
    return [*values, *places, *(stage.span or ())]


def offset(buffer: Buffer, at: tuple) -> DimLike:
    """Elements from the start of `buffer` to the index `at`, but for what indirect indices add."""
    total: DimLike = 0
    for i, stride in zip(at, buffer.strides, strict=True):
        if not isinstance(i, Expr):
            total = total + i * stride
    return total


def transposed_loads(kernel: Kernel, across: Axis, along: Axis) -> list[tuple[Expr, DimLike]]:
    """The plain loads that step by 1 along the axis `across` and by n > 1 along `along`, with that n."""
    found = []
    for e in dict.fromkeys(x for s in kernel.stages for x in walk(*roots(s)) if x.op == "load"):
        if e.attr.mask or any(isinstance(i, Expr) for i in e.attr.index):
            continue
        at = offset(kernel.buffer(e.attr.buffer), e.attr.index)
        if isinstance(at, int) or not all(at.is_linear_in(a.sym) for a in (across, along)):
            continue
        if at.coefficient(across.sym) == 1 and at.coefficient(along.sym) not in (0, 1):
            found.append((e, at.coefficient(along.sym)))
    return found


def matrix_strides(
    kernel: Kernel, e: Expr, rows: tuple[Axis, ...], columns: tuple[Axis, ...]
) -> tuple[int, int] | None:
    """Elements per row and per column, if `e` is an element of a matrix in memory, at the beginning of its buffer, with one
    axis of rows and one of columns, that is addressed by those alone and has no mask."""
    if e.op != "load" or e.attr.mask or any(isinstance(i, Expr) for i in e.attr.index) or rows[1:] or columns[1:]:
        return None
    (i,), (j,) = rows, columns
    at = offset(kernel.buffer(e.attr.buffer), e.attr.index)
    if isinstance(at, int) or not all(at.is_linear_in(a.sym) for a in (i, j)):
        return None
    row, column = at.coefficient(i.sym), at.coefficient(j.sym)
    plain = at - i.sym * row - j.sym * column == 0
    return (row, column) if plain and isinstance(row, int) and isinstance(column, int) else None


def index_expressions(kernel: Kernel) -> Iterator[DimLike]:
    """Every index expression, bound and extent in a kernel."""
    exprs = [e for s in kernel.stages for e in roots(s)]
    if kernel.anchor is not None:
        exprs += kernel.anchor.operands
    for e in walk(*exprs):
        if e.op == "index":
            yield e.attr
        elif e.op == "in_bounds":
            yield from e.attr
        elif e.op == "load":
            yield from (i for i in (*e.attr.index, *e.attr.mask) if not isinstance(i, Expr))
    for s in kernel.stages:
        for x in s.stores:
            yield from (i for i in (*x.index, *x.mask) if not isinstance(i, Expr))
    for a in kernel.all_axes:
        yield a.extent
    for b in kernel.params:
        yield from b.strides


def size_symbols(kernel: Kernel) -> tuple[Dim, ...]:
    """The symbolic sizes that a kernel's expressions mention, by name: what `Kernel.dims` has to hold."""
    own = {a.sym for a in kernel.all_axes}
    found = {s for d in index_expressions(kernel) for s in symbols(d)} - own
    return tuple(sorted(found, key=str))


def map_loads(kernel: Kernel, change: Callable[[Load], Load]) -> Kernel:
    """The same kernel with every load replaced."""

    def leaf(e: Expr) -> Expr | None:
        if e.op != "load":
            return None
        new = change(e.attr)
        return None if new is e.attr else Expr("load", e.dtype, e.args, new)

    memo: dict[int, Expr] = {}

    def rewrite(e: Expr) -> Expr:
        return transform(e, leaf, memo)

    anchor = kernel.anchor
    if anchor is not None:
        anchor = anchor.map(rewrite)
    return replace(kernel, stages=tuple(map_stage(s, rewrite) for s in kernel.stages), anchor=anchor)


def map_stage(s: Stage, rewrite: Callable[[Expr], Expr]) -> Stage:
    """The stage with every expression rewritten, computed places and bounds too."""

    def stored(x: Store) -> Store:
        index = tuple(rewrite(i) if isinstance(i, Expr) else i for i in x.index)
        return replace(x, value=rewrite(x.value), index=index)

    return replace(
        s,
        reductions=tuple(replace(r, inputs=tuple(map(rewrite, r.inputs))) for r in s.reductions),
        stores=tuple(map(stored, s.stores)),
        span=s.span and (rewrite(s.span[0]), rewrite(s.span[1])),
    )
