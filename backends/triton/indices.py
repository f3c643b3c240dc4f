"""How wide index arithmetic has to be: 32 bits where every index certainly fits, 64 where it may not."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType, int32, int64
from ...ir.kernel import Contraction, Kernel, index_expressions

LIMIT = 2**29  # of indices of 32 bits: what is added for a block, or by a masked access, fits above it


def index_dtype(kernel: Kernel, bits: int | None = None) -> DType:
    """The type of indices: int32 if all of them certainly fit. `bits` 32: they do in every launch, as the caller knows
    the symbolic sizes; ValueError if others do not fit."""
    if bits is None:
        return int32 if all(_fits(d) for d in _integers(kernel)) else int64
    if bits == 32 and any(isinstance(d, int) and d >= LIMIT for d in reach(kernel)):
        raise ValueError(f"{kernel.name} has indices that 32 bits do not hold")
    return int32 if bits == 32 else int64


def _fits(d: DimLike) -> bool:
    low, high = dim.bounds(d)
    return low is not None and high is not None and -LIMIT <= low and high <= LIMIT


def reach(kernel: Kernel) -> tuple[DimLike, ...]:
    """Sizes that no index of the kernel leaves: 32 bits are enough for launches in which all of them are below `LIMIT`."""
    return tuple(dict.fromkeys(_magnitude(d) for d in _integers(kernel)))


def _integers(kernel: Kernel) -> Iterator[DimLike]:
    """Numbers of points and of elements, strides, and all index expressions."""
    yield dim.numel(tuple(a.extent for a in kernel.axes))
    for s in kernel.stages:
        yield dim.numel(tuple(a.extent for a in s.axes))
    for b in kernel.params:
        yield dim.numel(b.shape)
        yield from b.strides
    if isinstance(kernel.anchor, Contraction):
        yield dim.numel(tuple(a.extent for a in kernel.anchor.k))
    yield from index_expressions(kernel)


def _magnitude(d: DimLike) -> DimLike:
    """An upper bound of |d|, and of what is computed on the way to it, over the sizes."""
    if isinstance(d, int):
        return abs(d)
    total: DimLike = 0
    for monomial, coefficient in d.terms:
        product: DimLike = abs(coefficient)
        for a in monomial:
            product = product * _atom_magnitude(a)
        total = total + product
    return total


def _atom_magnitude(a: dim.Atom) -> DimLike:
    if a.kind != "sym":
        largest = _magnitude(a.a)
        return largest + _magnitude(a.b) if a.kind in ("max", "min") else largest
    if a.hi is None:
        return Dim((((a,), 1),))
    return _magnitude(a.hi) + 1  # an axis: its extent
