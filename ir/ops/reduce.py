"""Reductions: they drop the axes in `axes`, a sorted tuple of distinct non-negative axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..dim import numel
from ..dtypes import int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, VjpContext, VjpRule, register, value_type
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError
from ._declare import (
    NUMBERS,
    checked_axes,
    common_dtype,
    const_like,
    draw,
    exact,
    expand,
    rng_of,
    shape_text,
    without_axes,
)
from .pointwise import and_, cast, div, eq, mul, where

Axes = tuple[int, ...]

SAMPLES: tuple[tuple[tuple[int, ...], Axes], ...] = (
    ((), ()), ((1,), (0,)), ((7,), (0,)), ((5, 17), (0,)), ((5, 17), (1,)), ((5, 17), (0, 1)), ((5, 17), ()),
    ((2, 3, 4), (0, 2)), ((2, 3, 4), (1,)), ((0, 3), (1,)), ((3, 1, 2), (1,)),
)  # fmt: skip


def refuse_empty(shape: Shape, axes: Axes) -> None:
    """TypeRuleError if there is nothing along the axes: extremes have no neutral element."""
    if any(isinstance(shape[a], int) and shape[a] == 0 for a in axes):
        raise TypeRuleError(f"zero-size reduction of shape {shape_text(shape)} over axes {axes} has no result")


def _reduce_samples(name: str, takes: str, empty: bool, domain: tuple[float, float]) -> Iterator[Sample]:
    rng = rng_of(name)
    if takes == "b":
        for shape, axes in SAMPLES:
            yield Sample((np.asarray(rng.random(shape) < 0.7),), {"axes": axes}, gradcheck=False)
        yield Sample((np.zeros((3, 0), np.bool_),), {"axes": (1,)}, gradcheck=False)
        return
    for shape, axes in SAMPLES:
        yield Sample((draw(rng, shape, domain),), {"axes": axes})
    if empty:
        yield Sample((np.zeros((3, 0), np.float32),), {"axes": (1,)})
    for dtype in (np.float16, np.float64, np.int32, np.uint8):
        yield Sample((draw(rng, (5, 17), (0, 3), dtype=dtype),), {"axes": (1,)}, gradcheck=dtype is np.float64)
    special = np.array([[np.nan, 1, np.inf], [np.inf, 2, 3], [-np.inf, 2, -3], [0.0, -0.0, 1]], np.float32)
    yield Sample((special,), {"axes": (1,)}, gradcheck=False)


def _reduce_errors(takes: str, empty: bool) -> Iterator[ErrorSample]:
    x = np.zeros((2, 3), np.bool_ if takes == "b" else np.float32)
    for axes in ((2,), (-1,), (1, 0), (0, 0), 1):
        yield ErrorSample((x,), {"axes": axes}, TypeRuleError, "sorted, unique")
    wrong = np.zeros(3, np.float32 if takes == "b" else np.bool_)
    yield ErrorSample((wrong,), {"axes": (0,)}, DTypeRuleError, "takes")
    if not empty:
        yield ErrorSample((np.zeros((3, 0), x.dtype),), {"axes": (1,)}, TypeRuleError, "zero-size reduction")


def _reduction(
    name: str, fn: Callable[..., Any], vjp: VjpRule | str, *, saves: tuple[str, ...] = (), takes: str = NUMBERS,
    empty: bool = True, linear: tuple[str, ...] = (), domain: tuple[float, float] = (-3, 3), complex: bool = False,
    doc: str = "",
) -> OpDef:  # fmt: skip
    """`empty`: whether nothing may be reduced (there is a neutral element)."""

    def infer(x: TensorType, axes: Axes) -> TensorType:
        dtype = common_dtype((x,), takes + "c" if complex else takes)
        checked_axes(axes, x)
        if not empty:
            refuse_empty(x.shape, axes)
        return TensorType(dtype, without_axes(x.shape, axes))

    return register(
        OpDef(
            name=name, kind="structural", operands=("x",), attrs={"axes": REQUIRED}, infer=infer, reference=exact(fn),
            vjp=vjp, saves=saves, linear=linear, samples=lambda: _reduce_samples(name, takes, empty, domain),
            errors=lambda: _reduce_errors(takes, empty), tolerance=2e-6, batch=shifted("axes"), doc=doc,
        )
    )  # fmt: skip


def _sum_reference(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.add.reduce(x, axis=axes, dtype=x.dtype)


def _prod_reference(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.multiply.reduce(x, axis=axes, dtype=x.dtype)


def _sum_vjp(c: VjpContext, g: Any) -> tuple:
    return (expand(g, c.attrs["axes"], c.types[0].shape),)


def _prod_vjp(c: VjpContext, g: Any) -> tuple:
    """g times the product of all the other elements."""
    from . import permute, reshape

    x, axes, shape = c.inputs[0], c.attrs["axes"], c.types[0].shape
    perm = tuple(a for a in range(len(shape)) if a not in axes) + axes
    moved = tuple(shape[a] for a in perm)
    rows = reshape(permute(x, perm=perm), shape=(*without_axes(shape, axes), numel(tuple(shape[a] for a in axes))))
    others = reshape(_products_of_others(rows), shape=moved)
    back = permute(others, perm=tuple(perm.index(a) for a in range(len(perm))))
    return (mul(expand(g, axes, shape), back),)


def _products_of_others(x: Any) -> Any:
    """Along the last axis. Never divides where its size is known, so zeros are right in every order of derivative."""
    shape = value_type(x).shape
    n = shape[-1]
    if not isinstance(n, int):
        return _quotients(x, shape)
    if n == 0:
        return x
    before, after = _shifted(x, 1), _shifted(x, -1)
    distance = 1
    while distance < n - 1:  # running products, in log2(n) steps
        before, after = mul(before, _shifted(before, distance)), mul(after, _shifted(after, -distance))
        distance *= 2
    return mul(before, after)


def _shifted(x: Any, distance: int) -> Any:
    """x moved along its last axis, ones moving in."""
    from . import pad, slice_

    shape = value_type(x).shape
    n, before = shape[-1], (0,) * (len(shape) - 1)
    low, high = max(distance, 0), max(-distance, 0)
    kept = slice_(x, start=(*before, high), stop=(*shape[:-1], n - low), step=(1,) * len(shape))
    return pad(kept, low=(*before, low), high=(*before, high), value=1)


def _quotients(x: Any, shape: Shape) -> Any:
    last = (len(shape) - 1,)
    zero, one = const_like(x, 0), const_like(x, 1)
    is_zero = eq(x, zero)
    safe = where(is_zero, one, x)
    zeros = expand(reduce_sum(where(is_zero, one, zero), axes=last), last, shape)
    product = expand(reduce_prod(safe, axes=last), last, shape)
    only_this = and_(is_zero, eq(zeros, one))
    return where(eq(zeros, zero), div(product, safe), where(only_this, product, zero))


def _extreme_vjp(c: VjpContext, g: Any) -> tuple:
    """Ties share the gradient evenly."""
    x, axes, shape = c.inputs[0], c.attrs["axes"], c.types[0].shape
    mask = eq(x, expand(c.out, axes, shape))
    ties = reduce_sum(cast(mask, dtype=value_type(g).dtype), axes=axes)
    return (where(mask, expand(div(g, ties), axes, shape), const_like(g, 0)),)


reduce_sum = _reduction(
    "reduce_sum",
    _sum_reference,
    _sum_vjp,
    linear=("x",),
    complex=True,
    doc="Narrow floats are summed in float32; integers wrap.",
)
reduce_prod = _reduction("reduce_prod", _prod_reference, _prod_vjp, saves=("x",), domain=(0.5, 1.8), complex=True)
reduce_max = _reduction(
    "reduce_max",
    lambda x, axes: np.maximum.reduce(x, axis=axes),
    _extreme_vjp,
    saves=("x", "out"),
    empty=False,
    doc="NaN wins.",
)
reduce_min = _reduction(
    "reduce_min",
    lambda x, axes: np.minimum.reduce(x, axis=axes),
    _extreme_vjp,
    saves=("x", "out"),
    empty=False,
    doc="NaN wins.",
)
reduce_any = _reduction("reduce_any", lambda x, axes: np.logical_or.reduce(x, axis=axes), NO_GRADIENT, takes="b")
reduce_all = _reduction("reduce_all", lambda x, axes: np.logical_and.reduce(x, axis=axes), NO_GRADIENT, takes="b")


def _position(name: str, fn: Callable[..., Any]) -> OpDef:
    def infer(x: TensorType, axis: int) -> TensorType:
        common_dtype((x,), NUMBERS)
        checked_axes((axis,), x)
        refuse_empty(x.shape, (axis,))
        return TensorType(int64, without_axes(x.shape, (axis,)))

    def samples() -> Iterator[Sample]:
        rng = rng_of(name)
        for shape, axis in (((7,), 0), ((5, 17), 0), ((5, 17), 1), ((2, 3, 4), 1), ((0, 3), 1), ((3, 1), 1)):
            yield Sample((draw(rng, shape),), {"axis": axis}, gradcheck=False)
        yield Sample((np.array([[1, 3, 3], [2, 2, 2]], np.int32),), {"axis": 1}, gradcheck=False)
        nan = np.array([[1, np.nan, np.inf, np.nan], [-np.inf, np.inf, np.inf, -np.inf]], np.float32)
        yield Sample((nan,), {"axis": 1}, gradcheck=False)
        yield Sample((draw(rng, (5, 17), dtype=np.float16),), {"axis": 0}, gradcheck=False)

    def errors() -> Iterator[ErrorSample]:
        x = np.zeros((2, 3), np.float32)
        yield ErrorSample((x,), {"axis": 2}, TypeRuleError, "sorted, unique")
        yield ErrorSample((x > 0,), {"axis": 0}, DTypeRuleError, "takes")
        yield ErrorSample((x[:, :0],), {"axis": 1}, TypeRuleError, "zero-size reduction")

    return register(
        OpDef(
            name=name, kind="structural", operands=("x",), attrs={"axis": REQUIRED}, infer=infer,
            reference=exact(lambda x, axis: fn(x, axis=axis), gives=int64), vjp=NO_GRADIENT, saves=(), samples=samples,
            errors=errors, batch=shifted("axis"), doc="The index of the first extreme along one axis; NaN counts as extreme.",
        )
    )  # fmt: skip


argmax = _position("argmax", np.argmax)
argmin = _position("argmin", np.argmin)

__all__ = [
    "argmax",
    "argmin",
    "reduce_all",
    "reduce_any",
    "reduce_max",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
]  # fmt: skip
