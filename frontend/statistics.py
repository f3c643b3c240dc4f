"""Statistics and running values under PyTorch's names: NaN-skipping reductions, quantiles, covariances, histograms,
running extremes, integrals."""

from __future__ import annotations

import math
from typing import Any

from ..ir.dtypes import int64
from ..ir.op import get_op
from ..ir.ops import accumulate as _declared  # noqa: F401  (declares the running extremes)
from ..ir.types import normalize_axes, normalize_axis
from . import elementwise as e
from .arithmetic import floating
from .convert import as_tensor, cast_to
from .creation import full, iota, linspace
from .dispatch import run
from .manipulation import (
    concat,
    cumulative_prod,
    cumulative_sum,
    expand_dims,
    moveaxis,
    narrow,
    permute_dims,
    ravel,
    reshape,
    squeeze,
    take_along_axis,
)  # fmt: skip
from .products import matmul
from .reductions import Axis, amax, amin, choose_axis, mean, restore_axes, std, sum, var
from .sorting import argsort, sort
from .tensor import Tensor

# ------------------------------------------------------------------ several reductions at once


def aminmax(x: Any, /, *, axis: Axis = None, keepdims: bool = False, dim: Axis = None, keepdim: bool = False) -> Any:
    """(amin, amax) over `axis`."""
    axis, keep = choose_axis(axis, dim), keepdims or keepdim
    return amin(x, axis=axis, keepdims=keep), amax(x, axis=axis, keepdims=keep)


def var_mean(
    x: Any, /, axis: Axis = None, *, correction: float = 1, keepdims: bool = False, dim: Axis = None,
    keepdim: bool = False, unbiased: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(variance, mean) over `axis`; the variance divides by n - correction, as PyTorch's does."""
    axis, keep = choose_axis(axis, dim), keepdims or keepdim
    correction = correction if unbiased is None else float(unbiased)
    return var(x, axis, correction, keep), mean(x, axis, keepdims=keep)


def std_mean(
    x: Any, /, axis: Axis = None, *, correction: float = 1, keepdims: bool = False, dim: Axis = None,
    keepdim: bool = False, unbiased: bool | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(standard deviation, mean) over `axis`; as `var_mean`."""
    axis, keep = choose_axis(axis, dim), keepdims or keepdim
    correction = correction if unbiased is None else float(unbiased)
    return std(x, axis, correction, keep), mean(x, axis, keepdims=keep)


# ------------------------------------------------------------------ without NaN


def nansum(
    x: Any, /, axis: Axis = None, dtype: Any = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """The sum over `axis`, NaN counting as 0."""
    x = as_tensor(x)
    return sum(_without_nan(x, 0), choose_axis(axis, dim), dtype, keepdims or keepdim)


def nanmean(
    x: Any, /, axis: Axis = None, dtype: Any = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
) -> Tensor:
    """The mean of the elements over `axis` that are not NaN; NaN if there are none."""
    x, axis, keep = floating(x), choose_axis(axis, dim), keepdims or keepdim
    x = x if dtype is None else e.astype(x, dtype, copy=False)
    counted = cast_to(e.logical_not(e.isnan(x)), x.dtype)
    return e.divide(sum(_without_nan(x, 0), axis, keepdims=keep), sum(counted, axis, keepdims=keep))


def _without_nan(x: Tensor, value: float) -> Tensor:
    return e.where(e.isnan(x), value, x) if x.dtype.is_floating else x


# ------------------------------------------------------------------ positions in order


def _as_row(x: Any, axis: int | None) -> tuple[Tensor, int]:
    """x and the axis to work along: of 1-D tensors the one there is, if none is given."""
    x = as_tensor(x)
    if x.ndim == 0:
        return reshape(x, (1,)), 0
    if axis is None:
        return ravel(x), 0
    return x, normalize_axis(axis, x.ndim)


def _dropped(out: Tensor, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    """A result with one element along its row axis, in the shape that a reduction of x has."""
    shape = as_tensor(x).shape
    if axis is None or not shape:
        return reshape(out, (1,) * len(shape) if keepdims else ())
    return out if keepdims else squeeze(out, normalize_axis(axis, len(shape)))


def kthvalue(
    x: Any, k: int, axis: int = -1, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """The k-th smallest element (counted from 1) along `axis`, and its index."""
    axis, keep = choose_axis(axis, dim, -1), keepdims or keepdim
    rows, a = _as_row(x, axis)
    if not 1 <= k <= rows.shape[a]:
        raise IndexError(f"kthvalue: k={k} is not within 1 .. {rows.shape[a]}, the size of axis {a} of {rows.shape}")
    at = narrow(argsort(rows, axis=a), a, k - 1, k)
    values = take_along_axis(rows, at, axis=a)
    return _dropped(values, x, axis, keep), _dropped(at, x, axis, keep)


def mode(
    x: Any, axis: int = -1, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """The most frequent element along `axis` (the smallest of them), and the index of its last occurrence."""
    axis, keep = choose_axis(axis, dim, -1), keepdims or keepdim
    rows, a = _as_row(x, axis)
    order = argsort(rows, axis=a)
    ordered = take_along_axis(rows.detach(), order, axis=a)
    n = rows.shape[a]
    shape = tuple(n if i == a else 1 for i in range(rows.ndim))
    place = reshape(iota(n, int64), shape)
    first = narrow(ordered, a, 0, 1)
    before = concat([first, narrow(ordered, a, 0, n - 1)], axis=a)
    start = cummax(e.where(e.not_equal(ordered, before), place, 0), axis=a)[0]  # where each run of equals begins
    length = e.subtract(place, start)
    best = expand_dims(_first_position(length, a), a)
    at = take_along_axis(order, best, axis=a)
    return _dropped(take_along_axis(rows, at, axis=a), x, axis, keep), _dropped(at, x, axis, keep)


def _first_position(x: Tensor, axis: int) -> Tensor:
    from .reductions import argmax

    return argmax(x, axis=axis)


def nanmedian(
    x: Any, axis: int | None = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
):
    """The lower of the two middle elements that are not NaN; over an axis with its index."""
    axis, keep = choose_axis(axis, dim), keepdims or keepdim
    rows, a = _as_row(x, axis)
    order = argsort(rows, axis=a)  # NaN comes last
    count = sum(e.logical_not(e.isnan(rows)), axis=a, keepdims=True)
    middle = e.where(e.greater(count, 0), e.floor_divide(e.subtract(count, 1), 2), 0)
    at = take_along_axis(order, middle, axis=a)
    values = _dropped(take_along_axis(rows, at, axis=a), x, axis, keep)
    return values if axis is None else (values, _dropped(at, x, axis, keep))


INTERPOLATIONS = ("linear", "lower", "higher", "nearest", "midpoint")


def quantile(
    x: Any, q: Any, axis: int | None = None, keepdims: bool = False, *, interpolation: str = "linear",
    dim: int | None = None, keepdim: bool = False,
) -> Tensor:  # fmt: skip
    """The q-quantiles along `axis` (of all elements if None); a 1-D q gives a new first axis. NaN where there
    is one."""
    return _quantile(x, q, choose_axis(axis, dim), keepdims or keepdim, interpolation, False)


def nanquantile(
    x: Any, q: Any, axis: int | None = None, keepdims: bool = False, *, interpolation: str = "linear",
    dim: int | None = None, keepdim: bool = False,
) -> Tensor:  # fmt: skip
    """The q-quantiles of the elements that are not NaN."""
    return _quantile(x, q, choose_axis(axis, dim), keepdims or keepdim, interpolation, True)


def _quantile(x: Any, q: Any, axis: int | None, keepdims: bool, interpolation: str, skip_nan: bool) -> Tensor:
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"quantile: interpolation is one of {', '.join(INTERPOLATIONS)}, not {interpolation!r}")
    rows, a = _as_row(floating(x), axis)
    q = cast_to(as_tensor(q), rows.dtype)
    if q.ndim > 1:
        raise ValueError(f"quantile: q must have 0 or 1 dimensions, not shape {q.shape}")
    ordered = moveaxis(sort(rows, axis=a), a, -1)
    n = ordered.shape[-1]
    missing = sum(e.isnan(ordered), axis=-1, keepdims=True)
    if skip_nan:
        last = e.maximum(e.subtract(n - 1, missing), 0)
    else:
        last = e.where(e.greater(missing, 0), n - 1, n - 1)
    rank = e.multiply(reshape(q, (-1,)), cast_to(last, rows.dtype))
    if not skip_nan:
        rank = e.where(e.greater(missing, 0), cast_to(last, rows.dtype), rank)  # the NaN at the end
    if interpolation in ("lower", "higher", "nearest"):
        rank = {"lower": e.floor, "higher": e.ceil, "nearest": e.round}[interpolation](rank)
    low = e.floor(rank)
    weight = full((), 0.5, dtype=rows.dtype) if interpolation == "midpoint" else e.subtract(rank, low)
    below = take_along_axis(ordered, cast_to(low, int64), axis=-1)
    if interpolation in ("linear", "midpoint"):
        above = take_along_axis(ordered, cast_to(e.ceil(rank), int64), axis=-1)
        below = e.lerp(below, above, weight)
    out = moveaxis(below, -1, 0)
    if keepdims:
        shape = (1,) * as_tensor(x).ndim if axis is None or not as_tensor(x).ndim else rows.shape
        kept = tuple(1 if axis is None or i == a else d for i, d in enumerate(shape))
        out = reshape(out, (out.shape[0], *kept))
    elif not as_tensor(x).ndim:
        out = reshape(out, (out.shape[0],))
    return out if q.ndim else squeeze(out, 0)


def msort(x: Any) -> Tensor:
    """x in order along its first axis."""
    return sort(x, axis=0)


# ------------------------------------------------------------------ running values


def cumsum(x: Any, axis: int | None = None, *, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Running sums along `axis`; `cumulative_sum` by PyTorch's name, of numbers too."""
    return _of_row(cumulative_sum, x, choose_axis(axis, dim), dtype)


def cumprod(x: Any, axis: int | None = None, *, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Running products along `axis`; `cumulative_prod` by PyTorch's name, of numbers too."""
    return _of_row(cumulative_prod, x, choose_axis(axis, dim), dtype)


def _of_row(function: Any, x: Any, axis: int | None, dtype: Any) -> Tensor:
    x = as_tensor(x)
    if x.ndim:
        return function(x, axis=axis, dtype=dtype)
    return reshape(function(reshape(x, (1,)), axis=0, dtype=dtype), ())


def cummax(x: Any, axis: int | None = None, *, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """The largest element so far along `axis` (NaN stays), and the index of its last occurrence."""
    return _running_extreme("cumargmax", x, choose_axis(axis, dim))


def cummin(x: Any, axis: int | None = None, *, dim: int | None = None) -> tuple[Tensor, Tensor]:
    """The smallest element so far along `axis` (NaN stays), and the index of its last occurrence."""
    return _running_extreme("cumargmin", x, choose_axis(axis, dim))


def _running_extreme(name: str, x: Any, axis: int | None) -> tuple[Tensor, Tensor]:
    x = as_tensor(x)
    if x.dtype.kind == "b":
        from ..ir.dtypes import bool_, uint8

        values, at = _running_extreme(name, cast_to(x, uint8), axis)
        return cast_to(values, bool_), at
    rows, a = _as_row(x, -1 if axis is None else axis)
    at = run(get_op(name), (rows,), {"axis": a})
    return reshape(take_along_axis(rows, at, axis=a), x.shape), reshape(at, x.shape)


def logcumsumexp(x: Any, axis: int | None = None, *, dim: int | None = None) -> Tensor:
    """log(cumsum(exp(x))) along `axis` without overflow, pairwise in log2(n) passes."""
    axis = choose_axis(axis, dim)
    x = floating(x)
    rows, a = _as_row(x, -1 if axis is None else axis)
    n, distance = rows.shape[a], 1
    while distance < n:
        low = tuple(distance if i == a else 0 for i in range(rows.ndim))
        earlier = run(get_op("pad"), (narrow(rows, a, 0, n - distance),), {
            "low": low, "high": (0,) * rows.ndim, "value": -math.inf,
        })  # fmt: skip
        rows = e.logaddexp(rows, earlier)
        distance *= 2
    return reshape(rows, x.shape)


def _spacing(y: Tensor, x: Any, dx: Any, axis: int) -> Any:
    if x is None:
        return 1 if dx is None else dx
    points = as_tensor(x)
    n = points.shape[-1] if points.ndim == 1 else points.shape[axis]
    if points.ndim == 1:
        gaps = e.subtract(narrow(points, 0, 1, n), narrow(points, 0, 0, n - 1))
        return reshape(gaps, tuple(-1 if i == axis else 1 for i in range(y.ndim)) if n > 1 else (0,))
    at = normalize_axis(axis - y.ndim, points.ndim) if points.ndim < y.ndim else axis
    return e.subtract(narrow(points, at, 1, n), narrow(points, at, 0, n - 1))


def _trapezoids(y: Any, x: Any, dx: Any, axis: int) -> tuple[Tensor, int]:
    y = floating(y)
    a = normalize_axis(axis, y.ndim)
    n = y.shape[a]
    if n == 0:
        return y, a
    pairs = e.add(narrow(y, a, 1, n), narrow(y, a, 0, n - 1))
    return e.multiply(e.multiply(pairs, _spacing(y, x, dx, a)), 0.5), a


def trapezoid(y: Any, x: Any = None, *, dx: Any = None, axis: int = -1, dim: int | None = None) -> Tensor:
    """The integral of y along `axis` by the trapezoidal rule, at points `x` or at the distance dx (1)."""
    areas, a = _trapezoids(y, x, dx, axis if dim is None else dim)
    return sum(areas, axis=a)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = None, axis: int = -1, dim: int | None = None) -> Tensor:
    """Running integrals of y along `axis` by the trapezoidal rule: one value less than y has."""
    areas, a = _trapezoids(y, x, dx, axis if dim is None else dim)
    return cumulative_sum(areas, axis=a)


trapz = trapezoid


def gradient(x: Any, *, spacing: Any = 1, axis: Any = None, dim: Any = None, edge_order: int = 1) -> tuple[Tensor, ...]:
    """Central differences along each axis (one-sided at the ends, of order `edge_order`). `spacing`: one number, one
    for each axis, or one 1-D tensor of coordinates for each axis."""
    x = floating(x)
    axes = normalize_axes(choose_axis(axis, dim), x.ndim)
    axes = (
        axes
        if not isinstance(choose_axis(axis, dim), (list, tuple))
        else tuple(normalize_axis(a, x.ndim) for a in choose_axis(axis, dim))
    )
    spacing = 1 if spacing is None else spacing
    spaces = list(spacing) if isinstance(spacing, (list, tuple)) else [spacing] * len(axes)
    if len(spaces) != len(axes):
        raise ValueError(f"gradient: {len(spaces)} spacings for {len(axes)} axes")
    if edge_order not in (1, 2):
        raise ValueError(f"gradient: edge_order is 1 or 2, not {edge_order}")
    return tuple(_slope(x, a, s, edge_order) for a, s in zip(axes, spaces))


def _slope(x: Tensor, axis: int, spacing: Any, edge_order: int) -> Tensor:
    n = x.shape[axis]
    if n < edge_order + 1:
        raise ValueError(f"gradient: axis {axis} of shape {x.shape} needs at least {edge_order + 1} elements")

    def part(start: int, stop: int) -> Tensor:
        return narrow(x, axis, start % (n + 1), stop % (n + 1))

    points = as_tensor(spacing) if isinstance(spacing, Tensor) and spacing.ndim else None
    if points is None:
        steps: Any = e.multiply(full((n - 1,), 1.0, dtype=x.dtype), spacing)
    else:
        steps = cast_to(e.subtract(narrow(points, 0, 1, n), narrow(points, 0, 0, n - 1)), x.dtype)
    steps = reshape(steps, tuple(n - 1 if i == axis else 1 for i in range(x.ndim)))

    def step(start: int, stop: int) -> Tensor:
        return narrow(steps, axis, start, stop)

    slopes = e.divide(e.subtract(part(1, n), part(0, n - 1)), steps)
    first, last = narrow(slopes, axis, 0, 1), narrow(slopes, axis, n - 2, n - 1)
    inside = []
    if n > 2:
        left, right = step(0, n - 2), step(1, n - 1)
        weighted = e.add(
            e.multiply(narrow(slopes, axis, 0, n - 2), right), e.multiply(narrow(slopes, axis, 1, n - 1), left)
        )
        inside = [e.divide(weighted, e.add(left, right))]
        if edge_order == 2:
            first = _second_order(slopes, steps, axis, 0, 1, n)
            last = _second_order(slopes, steps, axis, n - 2, n - 3, n)
    return concat([first, *inside, last], axis=axis)


def _second_order(slopes: Tensor, steps: Tensor, axis: int, near: int, next_: int, n: int) -> Tensor:
    """The slope at an end, from the two differences next to it."""
    a, b = (narrow(slopes, axis, i, i + 1) for i in (near, next_))
    h, k = (narrow(steps, axis, i, i + 1) for i in (near, next_))
    return e.add(a, e.multiply(e.subtract(a, b), e.divide(h, e.add(h, k))))


# ------------------------------------------------------------------ covariances and histograms


def cov(x: Any, *, correction: float = 1, fweights: Any = None, aweights: Any = None) -> Tensor:
    """The covariance matrix of the rows of x (a vector counts as one row). fweights: how often each column counts;
    aweights: its weight."""
    x = floating(x)
    if x.ndim > 2:
        raise ValueError(f"cov takes up to 2 dimensions, not shape {x.shape}")
    rows = reshape(x, (1, -1)) if x.ndim < 2 else x
    weights = None
    for given in (fweights, aweights):
        if given is not None:
            w = cast_to(as_tensor(given), rows.dtype)
            weights = w if weights is None else e.multiply(weights, w)
    if weights is None:
        total: Any = rows.shape[1]
        average = mean(rows, axis=1, keepdims=True)
        freedom: Any = e.maximum(e.subtract(full((), total, dtype=rows.dtype), correction), 0)
    else:
        total = sum(weights)
        average = e.divide(sum(e.multiply(rows, weights), axis=1, keepdims=True), total)
        if aweights is None or correction == 0:
            freedom = e.subtract(total, correction)
        else:
            squares = sum(e.multiply(weights, cast_to(as_tensor(aweights), rows.dtype)))
            freedom = e.subtract(total, e.divide(e.multiply(squares, correction), total))
        freedom = e.where(e.greater(freedom, 0), freedom, 0.0)
    centred = e.subtract(rows, average)
    weighted = centred if weights is None else e.multiply(centred, weights)
    out = e.divide(matmul(weighted, permute_dims(centred, (1, 0))), freedom)
    return squeeze(out)


def corrcoef(x: Any) -> Tensor:
    """The correlation coefficients of the rows of x."""
    c = cov(x)
    if c.ndim == 0:
        return e.divide(c, c)
    n = c.shape[0]
    from .manipulation import diagonal

    deviation = e.sqrt(diagonal(c))
    out = e.divide(e.divide(c, reshape(deviation, (n, 1))), reshape(deviation, (1, n)))
    return e.where(e.greater(out, 1), 1.0, e.where(e.less(out, -1), -1.0, out))


def histc(x: Any, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements lie in each of `bins` equal parts of [min, max] (of the range of x if both are equal); others
    do not count."""
    x = ravel(as_tensor(x)).detach()
    if bins <= 0:
        raise ValueError(f"histc: bins must be positive, not {bins}")
    low, high = full((), min, dtype=x.dtype), full((), max, dtype=x.dtype)
    if min == max and x.size != 0:
        low, high = amin(x), amax(x)
    same = e.equal(low, high)
    low, high = e.where(same, e.subtract(low, 1), low), e.where(same, e.add(high, 1), high)
    inside = e.logical_and(e.greater_equal(x, low), e.less_equal(x, high))
    place = e.divide(e.multiply(e.subtract(x, low), bins), e.subtract(high, low))
    at = e.minimum(cast_to(e.floor(e.where(inside, place, 0.0)), int64), bins - 1)
    return run(get_op("scatter"), (full((bins,), 0, dtype=x.dtype), cast_to(inside, x.dtype), at), {"mode": "add"})


def histogram(
    x: Any, bins: Any = 100, *, range: tuple[float, float] | None = None, weight: Any = None, density: bool = False
) -> tuple[Tensor, Tensor]:
    """(counts, edges): how many elements (or what weight) lie in each bin. `bins`: a number of equal ones over `range`,
    or their rising edges."""
    from .sorting import searchsorted

    x = floating(x)
    values = ravel(x).detach()
    if isinstance(bins, Tensor):
        edges = cast_to(bins, x.dtype)
    else:
        if range is not None:
            low, high = float(range[0]), float(range[1])
        elif x.size == 0:
            low, high = 0.0, 1.0
        else:
            low, high = amin(values).item(), amax(values).item()
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = linspace(low, high, bins + 1, dtype=x.dtype)
    n = edges.shape[0] - 1
    at = e.subtract(searchsorted(edges, values, side="right"), 1)
    at = e.where(e.equal(values, edges[n]), n - 1, at)
    inside = e.logical_and(e.greater_equal(values, edges[0]), e.less_equal(values, edges[n]))
    weights = full(values.shape, 1, dtype=x.dtype) if weight is None else cast_to(ravel(weight), x.dtype)
    counted = e.where(inside, weights, 0.0)
    counts = run(get_op("scatter"), (full((n,), 0, dtype=x.dtype), counted, e.where(inside, at, 0)), {"mode": "add"})
    if density:
        widths = e.subtract(narrow(edges, 0, 1, n + 1), narrow(edges, 0, 0, n))
        counts = e.divide(counts, e.multiply(sum(counts), widths))
    return counts, edges


def renorm(x: Any, p: float, axis: int | None = None, maxnorm: float = 1.0, *, dim: int | None = None) -> Tensor:
    """Slices along `axis` whose p-norm exceeds maxnorm, scaled down to it."""
    from .matrices import safe_norm

    x = as_tensor(x)
    a = normalize_axis(choose_axis(axis, dim), x.ndim)
    rest = tuple(i for i in range(x.ndim) if i != a)
    norms = restore_axes(safe_norm(x, p, rest), x.shape, rest)
    factor = e.where(e.greater(norms, maxnorm), e.divide(maxnorm, e.add(norms, 1e-7)), 1.0)
    return e.multiply(x, factor)


__all__ = [
    "aminmax", "corrcoef", "cov", "cummax", "cummin", "cumprod", "cumsum", "cumulative_trapezoid", "gradient", "histc",
    "histogram", "kthvalue", "logcumsumexp", "mode", "msort", "nanmean", "nanmedian", "nanquantile", "nansum",
    "quantile", "renorm", "std_mean", "trapezoid", "trapz", "var_mean",
]  # fmt: skip
