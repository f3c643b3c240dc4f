"""Orders: argsort and searchsorted. No gradient passes a position; sorted elements are gathered by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import BatchContext, shifted
from ..dim import numel
from ..dtypes import bfloat16, int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, register
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import ANY, common_dtype, draw, rng_of
from .movement import reshape


def _argsort_type(x: TensorType, axis: int, descending: bool) -> TensorType:
    common_dtype((x,), ANY)
    if not 0 <= axis < x.ndim:
        raise TypeRuleError(f"axis={axis} is not within the {x.ndim} dimensions of {x}")
    return TensorType(int64, x.shape)


def _argsort(x: np.ndarray, axis: int, descending: bool) -> np.ndarray:
    x = _comparable(x)
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    from_the_end = np.argsort(np.flip(x, axis), axis=axis, kind="stable")  # so that ties keep their order, both ways
    return x.shape[axis] - 1 - np.flip(from_the_end, axis)


def _comparable(x: np.ndarray) -> np.ndarray:
    """NumPy does not know where the NaNs of bfloat16 belong."""
    return x.astype(np.float32) if x.dtype == bfloat16.np else x


def _argsort_samples() -> Iterator[Sample]:
    rng = rng_of("argsort")
    for shape, axis in (((7,), 0), ((5, 17), 0), ((5, 17), 1), ((2, 3, 4), 1), ((3, 0, 2), 1), ((1,), 0)):
        yield Sample((draw(rng, shape),), {"axis": axis, "descending": axis == 1}, gradcheck=False)
    ties = np.array([[1, 3, 3, 1], [2, 2, 2, 2]], np.int32)
    nan = np.array([1, np.nan, np.inf, np.nan, -np.inf, -0.0, 0.0], np.float32)
    for descending in (False, True):
        yield Sample((ties,), {"axis": 1, "descending": descending}, gradcheck=False)
        yield Sample((nan,), {"axis": 0, "descending": descending}, gradcheck=False)
    yield Sample((draw(rng, (5, 17), dtype=np.float16),), {"axis": 0, "descending": False}, gradcheck=False)
    yield Sample((np.array([True, False, True]),), {"axis": 0, "descending": False}, gradcheck=False)


argsort = register(
    OpDef(
        "argsort",
        "structural",
        ("x",),
        _argsort_type,
        _argsort,
        NO_GRADIENT,
        attrs={"axis": REQUIRED, "descending": False},
        saves=(),
        batch=shifted("axis"),
        samples=_argsort_samples,
        errors=lambda: [
            ErrorSample((np.zeros((2, 3), np.float32),), {"axis": 2}, TypeRuleError, "axis=2 is not within"),
            ErrorSample((np.zeros((), np.float32),), {"axis": 0}, TypeRuleError, "axis=0 is not within"),
        ],
        doc="The positions that put x in order along `axis`: stable, also for a falling order, and NaN at the high end.",
    )
)


def _searchsorted_type(boundaries: TensorType, values: TensorType, right: bool) -> TensorType:
    common_dtype((boundaries, values), ANY)
    if boundaries.shape[:-1] != values.shape[:-1] and boundaries.ndim != 1 or boundaries.ndim == 0:
        raise TypeRuleError(f"{boundaries} must have one dimension, or all but the last in common with {values}")
    return TensorType(int64, values.shape)


def _searchsorted(boundaries: np.ndarray, values: np.ndarray, right: bool) -> np.ndarray:
    side: Any = "right" if right else "left"
    boundaries, values = _comparable(boundaries), _comparable(values)
    if boundaries.ndim == 1:
        return np.asarray(np.searchsorted(boundaries, values, side), np.int64)
    out = np.empty(values.shape, np.int64)
    for at in np.ndindex(*boundaries.shape[:-1]):
        out[at] = np.searchsorted(boundaries[at], values[at], side)
    return out


def _searchsorted_samples() -> Iterator[Sample]:
    rng = rng_of("searchsorted")
    for rows, shape in (((7,), (5, 3)), ((7,), ()), ((0,), (4,)), ((2, 3, 6), (2, 3, 5)), ((4, 6), (4, 0))):
        boundaries = np.sort(draw(rng, rows), axis=-1)
        for right in (False, True):
            yield Sample((boundaries, draw(rng, shape)), {"right": right}, gradcheck=False)
    ties = np.array([1, 2, 2, 2, 5], np.int64)
    for right in (False, True):
        yield Sample((ties, np.array([0, 1, 2, 3, 5, 9], np.int64)), {"right": right}, gradcheck=False)


def _searchsorted_batch(c: BatchContext) -> Any:
    """Boundaries of each lane's own are the rows of one more axis; values go with their row."""
    boundaries, shape = c.types[0], c.types[1].shape
    if boundaries.ndim == 1 and not c.batched[0]:
        return searchsorted(*c.args, **c.attrs)
    if boundaries.ndim > 1:
        return searchsorted(c.spread(0), c.spread(1), **c.attrs)
    rows = reshape(c.spread(1), shape=(c.size, numel(shape)))
    return reshape(searchsorted(c.args[0], rows, **c.attrs), shape=(c.size, *shape))


searchsorted = register(
    OpDef(
        "searchsorted",
        "structural",
        ("boundaries", "values"),
        _searchsorted_type,
        _searchsorted,
        NO_GRADIENT,
        attrs={"right": False},
        saves=(),
        batch=_searchsorted_batch,
        samples=_searchsorted_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32), np.zeros(3, np.float64)), {}, DTypeRuleError, "dtypes differ"),
            ErrorSample(
                (np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)), {}, TypeRuleError, "in common with"
            ),
            ErrorSample((np.zeros((), np.float32), np.zeros(3, np.float32)), {}, TypeRuleError, "one dimension"),
        ],
        doc="How many of the rising `boundaries` (1-D, or one row for each row of values) are below each value; `right`: "
        "or equal to it.",
    )
)
