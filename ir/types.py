"""The type of a tensor value, and shape rules shared by ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable

from . import dim
from .dim import Dim, DimLike
from .dtypes import DType

Shape = tuple[DimLike, ...]


class TypeRuleError(ValueError):
    """Operands that an op does not accept. The message names shapes and dtypes."""


class DTypeRuleError(TypeRuleError, TypeError):
    """A `TypeRuleError` about element types: also a TypeError."""


@dataclass(frozen=True, slots=True)
class TensorType:
    dtype: DType
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype.code}[{', '.join(map(str, self.shape))}]"

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> DimLike:
        """Number of elements."""
        return dim.numel(self.shape)

    def with_shape(self, shape: Iterable[DimLike]) -> "TensorType":
        return TensorType(self.dtype, tuple(shape))

    def with_dtype(self, dtype: DType) -> "TensorType":
        return TensorType(dtype, self.shape)


def same_dim(a: DimLike, b: DimLike) -> bool:
    """Whether two sizes are certainly equal."""
    return a == b


def _identical(a: Shape, b: Shape) -> bool:
    """Structural equality: a question that leaves nothing behind where somebody decides on sizes."""
    return len(a) == len(b) and all(map(dim.same, a, b))


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy's rule. A symbolic size equals only itself; against 1 the other one wins. TypeRuleError if they don't fit."""
    if len(shapes) == 1:
        return shapes[0]
    if not shapes:
        return ()
    first = shapes[0]
    if all(_identical(s, first) for s in shapes):
        return first
    rank = max(map(len, shapes))
    out: list[DimLike] = []
    for axis in range(-rank, 0):
        size: DimLike = 1
        for s in shapes:
            if len(s) < -axis:
                continue
            d = s[axis]
            if isinstance(d, int) and d == 1:
                continue
            if isinstance(size, int) and size == 1:
                size = d
            elif d != size:
                text = " and ".join(f"({', '.join(map(str, s))})" for s in shapes)
                raise TypeRuleError(f"shapes {text} do not broadcast: sizes {size} and {d} differ at axis {axis}")
        out.append(size)
    return tuple(out)


def normalize_axis(axis: int, ndim: int, what: str = "axis") -> int:
    """A non-negative axis. IndexError like NumPy's AxisError when out of range."""
    if not isinstance(axis, int) or not -ndim <= axis < max(ndim, 1):
        raise IndexError(f"{what} {axis} is out of bounds for a tensor with {ndim} dimensions")
    return axis + ndim if axis < 0 else axis


def normalize_axes(axes: int | Iterable[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted unique non-negative axes; None means all."""
    if axes is None:
        return tuple(range(ndim))
    listed = (axes,) if isinstance(axes, int) else tuple(axes)
    out = tuple(sorted(normalize_axis(a, ndim) if ndim else 0 for a in listed))
    if len(set(out)) != len(out):
        raise TypeRuleError(f"repeated axis in {listed}")
    return out


__all__ = [
    "Dim",
    "DimLike",
    "Shape",
    "TensorType",
    "TypeRuleError",
    "DTypeRuleError",
    "broadcast_shapes",
    "normalize_axes",
]
__all__ += ["normalize_axis", "same_dim"]
