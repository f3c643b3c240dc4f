"""Elements that are found by halving: how many boundaries are below a value, and which element of two sorted runs is the
next. A search is a chain of loads, each at a place that the one before has decided, written out in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.dtypes import DType, int32, int64
from ..ir.graph import Node
from ..ir.scalar import Expr, apply, cast, const, index, load, select
from .access import Index, broadcast_index

if TYPE_CHECKING:
    from .lower import GroupLowering

LONGEST = 2**30  # elements of a row whose length has no bound


def searched(low: "GroupLowering", node: Node, at: Index, mask: tuple[DimLike, ...]) -> Expr:
    """Element `at` of the result of a node in SEARCHES."""
    return (_merged if node.op.name == "merge_runs" else _counted)(low, node, at, mask)


def _counted(low: "GroupLowering", node: Node, at: Index, mask: tuple[DimLike, ...]) -> Expr:
    boundaries, values = node.inputs
    buffer, n = low.indirect_buffer(boundaries), boundaries.shape[-1]
    value = low.element(values, broadcast_index(at, values.shape), mask)
    kind = _position_type(n)
    rows = at[:-1] if boundaries.ndim > 1 else ()

    def below(count: Expr) -> Expr:
        boundary = low.widen(load(boundaries.dtype, buffer.name, (*rows, cast(count - 1, int64)), mask))
        return ~_less(value, boundary) if node.attrs["right"] else _less(boundary, value)

    return cast(_bisect(const(0, kind), index(n, kind), dim.bounds(n)[1] or LONGEST, below), int64)


def _merged(low: "GroupLowering", node: Node, at: Index, mask: tuple[DimLike, ...]) -> Expr:
    """The k-th smallest element of two runs: the first i come from the left one, where i is the largest number whose last
    element is below the first one that the right run then does not give."""
    x, axis = node.inputs[0], node.attrs["axis"]
    buffer, n = low.indirect_buffer(x), x.shape[axis]
    kind = _position_type(n)
    run = cast(low.element(node.inputs[1], (0,), mask), kind)
    k = apply("rem", index(at[axis], kind), run + run)
    here = index(at[axis], kind) - k
    left, right = (apply("max", apply("min", run, index(n, kind) - start), 0) for start in (here, here + run))
    last = index(n - 1, kind)

    def element(position: Expr) -> Expr:
        place = (*at[:axis], cast(position, int64), *at[axis + 1 :])
        return low.widen(load(x.dtype, buffer.name, place, mask))

    def of_left(i: Expr) -> Expr:
        return element(here + i)

    def of_right(j: Expr) -> Expr:
        return element(apply("min", here + j + run, last))

    def left_gives(count: Expr) -> Expr:
        return _less(of_left(apply("max", count - 1, 0)), of_right(k - count))

    i = _bisect(apply("max", k - right, 0), apply("min", k, left), (dim.bounds(n)[1] or LONGEST) // 2, left_gives)
    j = k - i
    a, b = of_left(apply("min", i, left - 1)), of_right(j)
    return select((i < left) & ((j >= right) | _less(a, b)), a, b)


def _bisect(low: Expr, high: Expr, most: int, holds: Callable[[Expr], Expr]) -> Expr:
    """The largest number in (low, high] for which `holds`, which it does up to there; `low` if for none. `most`: of
    high - low."""
    for power in reversed(range(most.bit_length())):
        trial = apply("min", low + (1 << power), high)
        low = select(holds(trial), trial, low)
    return low


def _position_type(n: DimLike) -> DType:
    """Of positions in a row of n elements, and of sums of two."""
    return int32 if (dim.bounds(n)[1] or LONGEST) <= LONGEST else int64


def _less(a: Expr, b: Expr) -> Expr:
    """a < b, where NaN comes after everything else."""
    less = apply("lt", a, b)
    return less if a.dtype.kind != "f" else less | (apply("eq", a, a) & apply("ne", b, b))
