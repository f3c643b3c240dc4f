"""Reductions: `axis` is None (all axes), an int or a tuple; `keepdims` keeps reduced axes as size 1. `dim` and
`keepdim` are accepted for both."""

from __future__ import annotations

from typing import Any

from ..ir.dim import numel
from ..ir.dtypes import DType, bool_, dtype_of, int64, uint64
from ..ir.op import get_op
from ..ir.types import normalize_axes, normalize_axis
from .convert import as_tensor, cast_to, scalar_tensor
from .dispatch import run
from .elementwise import divide, multiply, sqrt, subtract, to_bool, where
from .state import state
from .tensor import Tensor

Axis = Any  # None, an int, or a tuple of ints


def choose_axis(axis: Any, dim: Any, default: Any = None) -> Any:
    """`axis`, or its alias `dim`. TypeError if both are given."""
    if dim is None:
        return default if axis is None else axis
    if axis is not None and axis != default:
        raise TypeError("give axis= or dim=, not both")
    return tuple(dim) if isinstance(dim, list) else dim


def reduce(name: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """One of the reduce_* ops over normalised axes. IndexError for an axis out of range."""
    axes = (
        normalize_axes(tuple(axis) if isinstance(axis, list) else axis, x.ndim)
        if x.ndim or axis is None
        else _scalar_axes(axis)
    )
    out = run(get_op(name), (x,), {"axes": axes})
    return restore_axes(out, x.shape, axes) if keepdims else out


def _scalar_axes(axis: Axis) -> tuple[int, ...]:
    for a in (axis,) if isinstance(axis, int) else axis:
        if a not in (0, -1):
            raise IndexError(f"axis {a} is out of bounds for a tensor with 0 dimensions")
    return ()


def restore_axes(reduced: Tensor, shape: tuple, axes: tuple[int, ...]) -> Tensor:
    """`reduced` with the dropped axes put back as size 1."""
    kept = tuple(1 if i in axes else d for i, d in enumerate(shape))
    return reduced if kept == reduced.shape else run(get_op("reshape"), (reduced,), {"shape": kept})


def _accumulation_dtype(x: Tensor, dtype: Any) -> DType:
    """Sums and products of bools and small integers are made in 64 bits, as in the array API."""
    if dtype is not None:
        return dtype_of(dtype)
    if x.dtype.is_inexact:
        return x.dtype
    return uint64 if x.dtype.kind == "u" else int64


def sum(
    x: Any, /, axis: Axis = None, dtype: Any = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """The sum over `axis`. Bools and small integers give int64 (unsigned ones uint64)."""
    x = as_tensor(x)
    return reduce("reduce_sum", cast_to(x, _accumulation_dtype(x, dtype)), choose_axis(axis, dim), keepdims or keepdim)


def prod(
    x: Any, /, axis: Axis = None, dtype: Any = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """The product over `axis`; types as for `sum`."""
    x = as_tensor(x)
    return reduce("reduce_prod", cast_to(x, _accumulation_dtype(x, dtype)), choose_axis(axis, dim), keepdims or keepdim)


def max(x: Any, /, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """The largest element over `axis`; NaN wins. ValueError if there is none."""
    return _extreme("reduce_max", as_tensor(x), choose_axis(axis, dim), keepdims or keepdim)


def min(x: Any, /, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """The smallest element over `axis`; NaN wins. ValueError if there is none."""
    return _extreme("reduce_min", as_tensor(x), choose_axis(axis, dim), keepdims or keepdim)


amax, amin = max, min


def _extreme(name: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    if x.dtype is bool_:
        return reduce("reduce_any" if name == "reduce_max" else "reduce_all", x, axis, keepdims)
    return reduce(name, x, axis, keepdims)


def any(x: Any, /, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether some element over `axis` is not 0."""
    return reduce("reduce_any", to_bool(x), choose_axis(axis, dim), keepdims or keepdim)


def all(x: Any, /, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False) -> Tensor:
    """Whether all elements over `axis` are not 0."""
    return reduce("reduce_all", to_bool(x), choose_axis(axis, dim), keepdims or keepdim)


def count_nonzero(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements over `axis` are not 0; int64."""
    return sum(to_bool(x), axis, keepdims=keepdims)


def argmax(
    x: Any, /, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
) -> Tensor:
    """The index of the first largest element along `axis` (of the flat tensor if None); int64. NaN counts as
    largest."""
    return _position("argmax", as_tensor(x), choose_axis(axis, dim), keepdims or keepdim)


def argmin(
    x: Any, /, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
) -> Tensor:
    """The index of the first smallest element along `axis` (of the flat tensor if None); int64. NaN counts as
    smallest."""
    return _position("argmin", as_tensor(x), choose_axis(axis, dim), keepdims or keepdim)


def _position(name: str, x: Tensor, axis: int | None, keepdims: bool) -> Tensor:
    from ..ir.dtypes import uint8

    x = cast_to(x, uint8) if x.dtype is bool_ else x
    shape = x.shape
    if axis is None:
        flat = run(get_op("reshape"), (x,), {"shape": (numel(shape),)})
        out = run(get_op(name), (flat,), {"axis": 0})
        return restore_axes(out, shape, tuple(range(len(shape)))) if keepdims else out
    if x.ndim == 0:
        _scalar_axes(axis)
        return _position(name, x, None, False)
    axis = normalize_axis(axis, x.ndim)
    out = run(get_op(name), (x,), {"axis": axis})
    return restore_axes(out, shape, (axis,)) if keepdims else out


def _floating(x: Any, dtype: Any = None) -> Tensor:
    x = as_tensor(x)
    return cast_to(x, dtype_of(dtype) if dtype is not None else x.dtype if x.dtype.is_inexact else state.default_dtype)


def _count(x: Tensor, axis: Axis) -> Any:
    axes = normalize_axes(tuple(axis) if isinstance(axis, list) else axis, x.ndim) if x.ndim else ()
    return numel(tuple(x.shape[a] for a in axes))


def mean(
    x: Any, /, axis: Axis = None, dtype: Any = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """The arithmetic mean over `axis`; integers become the default float type. NaN if there is nothing."""
    x, axis = _floating(x, dtype), choose_axis(axis, dim)
    total = reduce("reduce_sum", x, axis, keepdims or keepdim)
    return divide(total, scalar_tensor(_count(x, axis), x.dtype))


def var(
    x: Any, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False, *,
    dim: Axis = None, keepdim: bool = False, unbiased: bool | None = None,
) -> Tensor:  # fmt: skip
    """The variance over `axis`: the squared deviations' sum divided by n - correction (`unbiased=True`: correction
    1)."""
    x, axis = _floating(x), choose_axis(axis, dim)
    if unbiased is not None:
        correction = float(unbiased)
    deviation = subtract(x, mean(x, axis, keepdims=True))
    total = reduce("reduce_sum", multiply(deviation, deviation), axis, keepdims or keepdim)
    n = _count(x, axis)
    if isinstance(n, int):
        return divide(total, scalar_tensor(float(n - correction) if n > correction else 0.0, x.dtype))
    return divide(total, subtract(scalar_tensor(n, x.dtype), correction))


def std(
    x: Any, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False, *,
    dim: Axis = None, keepdim: bool = False, unbiased: bool | None = None,
) -> Tensor:  # fmt: skip
    """The square root of `var`."""
    return sqrt(var(x, axis, correction, keepdims, dim=dim, keepdim=keepdim, unbiased=unbiased))


def logsumexp(
    x: Any, /, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """log(sum(e**x)) over `axis` without overflow."""
    from .elementwise import add, exp, isfinite, log

    x, axis = _floating(x), choose_axis(axis, dim)
    top = reduce("reduce_max", x.detach(), axis, True)
    top = where(isfinite(top), top, 0)
    total = log(reduce("reduce_sum", exp(subtract(x, top)), axis, keepdims or keepdim))
    return add(total, top if keepdims or keepdim else run(get_op("reshape"), (top,), {"shape": total.shape}))


__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "logsumexp", "max", "mean", "min", "prod", "std",
    "sum", "var",
]  # fmt: skip
