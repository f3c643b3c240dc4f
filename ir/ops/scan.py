"""Running sums and products along an axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import shifted
from ..dtypes import DType, bool_, complex128, float32, float64, from_numpy, int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import NUMBERS, common_dtype, const_like, draw, rng_of, with_ones
from .movement import flip, reshape
from .pointwise import add, and_, cast, div, eq, mul, where


def _type(x: TensorType, axis: int) -> TensorType:
    common_dtype((x,), NUMBERS + "c")
    if not 0 <= axis < x.ndim:
        raise TypeRuleError(f"axis={axis} is not within the {x.ndim} dimensions of {x}")
    return x


def _accumulate(ufunc: np.ufunc, x: np.ndarray, axis: int) -> np.ndarray:
    """Floats accumulate in the next wider type: errors would grow with the length."""
    dtype = from_numpy(x.dtype)
    wide = complex128 if dtype.is_complex else float32 if dtype.bits == 16 else float64
    with np.errstate(all="ignore"):
        x = x.astype(wide.np) if dtype.is_inexact else x
        return ufunc.accumulate(x, axis=axis, dtype=x.dtype).astype(dtype.np)


def _from_the_end(x: Any, axis: int) -> Any:
    return flip(cumsum(flip(x, axes=(axis,)), axis=axis), axes=(axis,))


def _cumsum_vjp(c: VjpContext, g: Any) -> tuple:
    """An element is in its own sum and in all later ones."""
    return (_from_the_end(g, c.attrs["axis"]),)


def _cumprod_vjp(c: VjpContext, g: Any) -> tuple:
    """Before the first zero by division; at it from products that leave it out; behind it all products are zero."""
    x, axis = c.inputs[0], c.attrs["axis"]
    zero, one = const_like(x, 0), const_like(x, 1)
    is_zero = eq(x, zero)
    zeros = cumsum(cast(is_zero, dtype=int64), axis=axis)
    first = and_(is_zero, eq(zeros, const_like(zeros, 1)))
    before = div(_from_the_end(mul(g, c.out), axis), where(is_zero, one, x))
    at_first = _from_the_end(mul(g, cumprod(where(first, one, x), axis=axis)), axis)
    return (where(eq(zeros, const_like(zeros, 0)), before, where(first, at_first, zero)),)


def _samples(name: str) -> Iterator[Sample]:
    rng = rng_of(name)
    for shape, axis in (((7,), 0), ((5, 17), 0), ((2, 3, 4), 1), ((3, 0, 2), 1), ((0, 3), 1), ((4, 1), 1)):
        yield Sample((draw(rng, shape, (0.5, 1.5)),), {"axis": axis})
    for dtype in (np.float64, np.float16, np.complex64):
        yield Sample((draw(rng, (3, 40), (0.7, 1.3), dtype=dtype),), {"axis": 1}, gradcheck=dtype is np.float64)
    zeros = np.array([[2, -1, 0, 3, 0.5], [0, 0, 1, 2, 3]])
    yield Sample((zeros,), {"axis": 1}, gradcheck=False)
    yield Sample((np.array([1, np.inf, -np.inf, np.nan, 1], np.float32),), {"axis": 0}, gradcheck=False)
    yield Sample((rng.integers(-90, 90, (6, 5)).astype(np.int8),), {"axis": 0}, gradcheck=False)


def _running(name: str, ufunc: np.ufunc, vjp: Any, saves: tuple[str, ...], linear: tuple[str, ...], doc: str) -> OpDef:
    return register(
        OpDef(
            name, "structural", ("x",), _type, lambda x, axis: _accumulate(ufunc, x, axis), vjp,
            attrs={"axis": REQUIRED}, saves=saves, linear=linear, batch=shifted("axis"),
            samples=lambda: _samples(name),
            errors=lambda: [
                ErrorSample((np.zeros((2, 3), np.float32),), {"axis": 2}, TypeRuleError, "axis=2 is not within"),
                ErrorSample((np.zeros(3, bool_.np),), {"axis": 0}, DTypeRuleError, "takes"),
            ],
            doc=doc,
        )
    )  # fmt: skip


cumsum = _running(
    "cumsum", np.add, _cumsum_vjp, (), ("x",), "The sum of the elements up to each place along the axis; integers wrap."
)
cumprod = _running(
    "cumprod",
    np.multiply,
    _cumprod_vjp,
    ("x", "out"),
    (),
    "The product of the elements up to each place along the axis.",
)


# ------------------------------------------------------------------ pieces of a scan


def _wide(dtype: DType) -> DType:
    """What sums and products of `dtype` are accumulated in."""
    return dtype if not dtype.is_floating else float32 if dtype.bits == 16 else float64


def _from_type(x: TensorType, before: TensorType, axis: int) -> TensorType:
    common_dtype((x,), NUMBERS)
    _type(x, axis)
    wanted = TensorType(_wide(x.dtype), (*x.shape[:axis], *x.shape[axis + 1 :]))
    if before != wanted:
        raise TypeRuleError(f"what comes before must be {wanted}, not {before}")
    return x


def _continued(ufunc: np.ufunc, x: np.ndarray, before: np.ndarray, axis: int) -> np.ndarray:
    with np.errstate(all="ignore"):
        running = ufunc.accumulate(x.astype(before.dtype), axis=axis, dtype=before.dtype)
        return ufunc(np.expand_dims(before, axis), running).astype(x.dtype)


def _from_parts(scan: OpDef, join: OpDef, x: Any, before: Any, axis: int) -> Any:
    wide = value_type(before).dtype
    running = scan(cast(x, dtype=wide), axis=axis)
    first = reshape(before, shape=with_ones(value_type(x).shape, (axis,)))
    return cast(join(first, running), dtype=value_type(x).dtype)


def _from_samples(name: str) -> Iterator[Sample]:
    rng = rng_of(name)
    for shape, axis in (((7,), 0), ((5, 17), 0), ((2, 3, 4), 1), ((4, 1), 1)):
        x = draw(rng, shape, (0.5, 1.5))
        yield Sample(
            (x, draw(rng, (*shape[:axis], *shape[axis + 1 :]), dtype=np.float64)), {"axis": axis}, gradcheck=False
        )
    integers = rng.integers(-9, 9, (3, 8))
    yield Sample((integers, integers[:, 0].copy()), {"axis": 1}, gradcheck=False)
    narrow = draw(rng, (3, 8), (0.7, 1.3), dtype=np.float16)
    yield Sample((narrow, draw(rng, (3,), dtype=np.float32)), {"axis": 1}, gradcheck=False)


def _from(scan: OpDef, ufunc: np.ufunc, join: OpDef, before: str) -> OpDef:
    name = f"{scan.name}_from"
    return register(
        OpDef(
            name, "composite", ("x", "before"), _from_type,
            lambda x, before, axis: _continued(ufunc, x, before, axis), NO_GRADIENT, attrs={"axis": REQUIRED}, saves=(),
            decompose=lambda x, before, axis: _from_parts(scan, join, x, before, axis), batch=shifted("axis"),
            samples=lambda: _from_samples(name),
            errors=lambda: [
                ErrorSample((np.zeros((2, 3)), np.zeros(2)), {"axis": 2}, TypeRuleError, "axis=2 is not within"),
                ErrorSample((np.zeros((2, 3)), np.zeros(3)), {"axis": 1}, TypeRuleError, "what comes before must be"),
            ],
            doc=f"`{scan.name}` of a piece of a row, {before}.",
        )
    )  # fmt: skip


cumsum_from = _from(cumsum, np.add, add, "added to the sum of what comes before")
cumprod_from = _from(cumprod, np.multiply, mul, "times the product of what comes before")
