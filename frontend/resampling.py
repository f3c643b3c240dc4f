"""Sampling at arbitrary points: `grid_sample` and `affine_grid`, as in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from ..ir.dtypes import int64
from ..ir.op import get_op
from . import elementwise as e
from .arithmetic import fmod
from .convert import as_tensor, cast_to
from .creation import iota
from .dispatch import run
from .manipulation import expand_dims, moveaxis, reshape, stack
from .products import matmul
from .tensor import Tensor

MODES, PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


def grid_sample(
    input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """Values of `input` [N, C, H, W] at the points of `grid` [N, h, w, 2], (x, y) from -1 to 1: [N, C, h, w]; or of
    [N, C, D, H, W] at [N, d, h, w, 3].

    mode: "bilinear" (trilinear in 3-D), "nearest" or "bicubic" (2-D only). padding_mode: what lies outside, "zeros",
    the "border", or its "reflection". align_corners: -1 and 1 are the centres of the corner elements, not their edges.
    """
    x, grid = as_tensor(input), as_tensor(grid)
    k = x.ndim - 2
    if k not in (2, 3) or grid.ndim != x.ndim or grid.shape[-1] != k or grid.shape[0] != x.shape[0]:
        raise ValueError(
            f"grid_sample: input {x.shape} and grid {grid.shape} do not fit; [N, C, H, W] and [N, h, w, 2], or "
            f"[N, C, D, H, W] and [N, d, h, w, 3] are needed"
        )
    if mode not in MODES or padding_mode not in PADDINGS:
        raise ValueError(f"grid_sample: mode is one of {MODES}, padding_mode of {PADDINGS}")
    if mode == "bicubic" and k == 3:
        raise ValueError("grid_sample: bicubic needs a 4-D input")
    sizes, aligned = x.shape[2:], bool(align_corners)
    points = [_unnormalized(grid[..., k - 1 - i], n, aligned) for i, n in enumerate(sizes)]
    rows = moveaxis(x, 1, -1)

    def inside(point: Tensor, n: Any) -> Tensor:
        return _padded(point, n, padding_mode, aligned)

    if mode == "bicubic":
        out = _cubic(rows, points, inside)
    else:
        points = [inside(p, n) for p, n in zip(points, sizes)]
        out = _read(rows, [e.round(p) for p in points]) if mode == "nearest" else _linear(rows, points)
    return moveaxis(out, -1, 1)


def _unnormalized(point: Tensor, n: Any, aligned: bool) -> Tensor:
    if aligned:
        return e.multiply(e.add(point, 1.0), (n - 1) / 2)
    return e.divide(e.subtract(e.multiply(e.add(point, 1.0), n), 1.0), 2.0)


def _padded(point: Tensor, n: Any, padding: str, aligned: bool) -> Tensor:
    if padding == "zeros":
        return point
    if padding == "reflection":
        low, span = (0.0, n - 1) if aligned else (-0.5, n)
        if span == 0:
            return e.multiply(point, 0.0)
        away = e.abs(e.subtract(point, low))
        rest = fmod(away, float(span))
        flips = e.floor(e.divide(away, float(span))).detach()
        even = e.equal(e.remainder(flips, 2.0), 0)
        point = e.where(even, e.add(rest, low), e.subtract(span + low, rest))
    return e.where(e.less_equal(point, 0), 0.0, e.where(e.greater_equal(point, n - 1), float(n - 1), point))


def _read(rows: Tensor, at: list[Tensor]) -> Tensor:
    """rows [N, d1, .., C] at whole positions [N, ..] of each axis: [N, .., C], 0 outside."""
    sizes, within, places = rows.shape[1:-1], None, []
    for position, n in zip(at, sizes):
        position = position.detach()
        ok = e.logical_and(e.greater_equal(position, 0), e.less_equal(position, n - 1))
        within = ok if within is None else e.logical_and(within, ok)
        places.append(cast_to(e.where(ok, position, 0.0), int64))
    batch = reshape(iota(rows.shape[0], int64), (rows.shape[0],) + (1,) * (places[0].ndim - 1))
    values = run(get_op("gather"), (rows, batch, *places), {})
    return e.where(expand_dims(within, -1), values, 0.0)


def _linear(rows: Tensor, points: list[Tensor]) -> Tensor:
    low = [e.floor(p).detach() for p in points]
    high_weight = [e.subtract(p, at) for p, at in zip(points, low)]
    total = None
    for corner in product((0, 1), repeat=len(points)):
        weight: Any = None
        for bit, w in zip(corner, high_weight):
            part = w if bit else e.subtract(1.0, w)
            weight = part if weight is None else e.multiply(weight, part)
        values = _read(rows, [e.add(at, float(bit)) for at, bit in zip(low, corner)])
        term = e.multiply(values, expand_dims(weight, -1))
        total = term if total is None else e.add(total, term)
    assert total is not None
    return total


def _cubic(rows: Tensor, points: list[Tensor], inside: Callable[[Tensor, Any], Tensor]) -> Tensor:
    low = [e.floor(p).detach() for p in points]
    weights = [_cubic_weights(e.subtract(p, at)) for p, at in zip(points, low)]
    sizes = rows.shape[1:-1]
    total = None
    for i, k in product(range(4), repeat=2):
        places = [inside(e.add(at, float(step - 1)), n) for at, step, n in zip(low, (i, k), sizes)]
        weight = e.multiply(weights[0][i], weights[1][k])
        term = e.multiply(_read(rows, places), expand_dims(weight, -1))
        total = term if total is None else e.add(total, term)
    assert total is not None
    return total


def _cubic_weights(t: Tensor, a: float = -0.75) -> list[Tensor]:
    """Keys' cubic convolution at distances 1 + t, t, 1 - t, 2 - t."""

    def near(d: Tensor) -> Tensor:
        return e.add(e.multiply(e.multiply(e.subtract(e.multiply(d, a + 2), a + 3), d), d), 1.0)

    def far(d: Tensor) -> Tensor:
        inner = e.multiply(e.add(e.multiply(e.subtract(e.multiply(d, a), 5 * a), d), 8 * a), d)
        return e.subtract(inner, 4 * a)

    return [far(e.add(t, 1.0)), near(t), near(e.subtract(1.0, t)), far(e.subtract(2.0, t))]


def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> Tensor:
    """The grid for `grid_sample` that theta [N, 2, 3] maps the output points of size (N, C, H, W) to: [N, H, W, 2]; or
    of [N, 3, 4] and (N, C, D, H, W): [N, D, H, W, 3]."""
    theta = as_tensor(theta)
    spatial = tuple(size)[2:]
    k = len(spatial)
    if k not in (2, 3) or theta.ndim != 3 or theta.shape[1:] != (k, k + 1):
        raise ValueError(
            f"affine_grid: theta {theta.shape} does not fit size {tuple(size)}: [N, {k}, {k + 1}] is needed"
        )
    axes = []
    for i, n in enumerate(spatial):
        steps = cast_to(iota(n, int64), theta.dtype)
        if align_corners:
            line = e.subtract(e.multiply(steps, 2.0 / (n - 1)), 1.0) if n > 1 else e.multiply(steps, 0.0)
        else:
            line = e.subtract(e.multiply(e.add(steps, 0.5), 2.0 / n), 1.0)
        axes.append(e.add(reshape(line, tuple(n if j == i else 1 for j in range(k))), _zeros(spatial, theta)))
    ones = e.add(_zeros(spatial, theta), 1.0)
    base = reshape(stack([*axes[::-1], ones], axis=-1), (-1, k + 1))
    return reshape(matmul(base, theta.mT), (theta.shape[0], *spatial, k))


def _zeros(shape: tuple, like: Tensor) -> Tensor:
    from .creation import full

    return full(shape, 0, dtype=like.dtype)
