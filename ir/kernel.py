"""Kernel IR: what a kernel computes (`Kernel`), apart from how (`schedule.Schedule`).

A kernel runs, for every point of its outer `axes`, its *stages* in order. A stage loops over its own inner axes:
it folds `reductions` over them and writes `stores` at each of them. A later stage may read an earlier reduction by
name (`scalar.result`). A stage without inner axes runs once per outer point. An *anchor* (a contraction) is computed
before the stages for every outer point and is read by name as well: its operands are expressions, so that
transposes, padding, convolution windows and element-wise prologues are all part of the same form, and the stages
behind it are its epilogue.

    softmax over rows of x[n, m]:
      axes (i: n); stage (j: m): mx = max x[i,j]; stage (j): s = sum exp(x[i,j]-mx); stage (j): y[i,j] = exp(x[i,j]-mx)/s
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .dim import Dim, DimLike
from .dtypes import DType
from .scalar import Expr

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
    """

    names: tuple[str, ...]
    kind: str
    inputs: tuple[Expr, ...]
    dtype: DType  # of the accumulator


@dataclass(frozen=True, slots=True)
class Store:
    """Writes `value` to `buffer` at `index` where every Dim of `mask` is >= 0. accumulate: "add" for scatter-add."""

    buffer: str
    index: tuple[DimLike | Expr, ...]
    value: Expr
    mask: tuple[DimLike, ...] = ()
    accumulate: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    axes: tuple[Axis, ...]
    reductions: tuple[Reduction, ...] = ()
    stores: tuple[Store, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Kernel:
    """One fused kernel. `sources` are the user's lines it came from: not part of its identity or of cache keys.

    `dims` are the symbolic sizes it takes as arguments, in order.
    """

    name: str
    params: tuple[Buffer, ...]
    axes: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    anchor: Contraction | None = None
    dims: tuple[Dim, ...] = ()
    sources: tuple[str, ...] = field(default=(), compare=False)
    ops: tuple[str, ...] = field(default=(), compare=False)

    def buffer(self, name: str) -> Buffer:
        return next(b for b in self.params if b.name == name)

    @property
    def all_axes(self) -> tuple[Axis, ...]:
        inner = tuple(a for s in self.stages for a in s.axes)
        return (*self.axes, *inner, *(self.anchor.k if self.anchor else ()))


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one kernel runs on one target. The same kernel has different schedules on different machines.

    vector: the axis whose neighbouring points share a vector register ("" : none). lanes: how many. unroll: how many
    registers at once. parallel: how many leading outer axes are spread over threads. grain: the fewest outer points
    worth a thread. block: elements of an outer vector axis per task (0: a default). cached: inner-axis expressions kept in scratch between stages instead of being recomputed,
    as (name, expression). stream: output buffers written past the cache. tile: for an anchor, (MR, NR, KC, MC).
    """

    vector: str = ""
    lanes: int = 1
    unroll: int = 1
    parallel: int = 1
    grain: int = 1
    block: int = 0
    cached: tuple[tuple[str, Expr], ...] = ()
    stream: tuple[str, ...] = ()
    tile: tuple[int, ...] = ()
