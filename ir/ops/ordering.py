"""What sorting is made of where many processors share it: rows that are sorted at once, sorted runs that are merged, and
places that are searched. `passes/sorting.py` writes argsort and searchsorted in these terms for GPUs; elsewhere they are
decomposed into them again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..batching import BatchContext, lane_by_lane, shifted
from ..dtypes import int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, register, value_type
from ..types import TensorType, TypeRuleError
from ._declare import common_dtype, draw, rng_of
from .indexing import gather
from .movement import iota
from .pointwise import add, floordiv
from .sorting import argsort, searchsorted

INTEGERS = "iu"


def take_along(x: Any, at: Any, axis: int) -> Any:
    """x at the positions `at` along one axis, and at its own place along the others."""
    shape = value_type(at).shape
    rank = len(shape)
    own = (iota(shape=tuple(n if j == k else 1 for j, n in enumerate(shape)), axis=k, dtype=value_type(at).dtype)
           for k in range(rank))  # fmt: skip
    return gather(x, *(at if k == axis else i for k, i in enumerate(own)))


def _row_type(x: TensorType, axis: int) -> TensorType:
    common_dtype((x,), INTEGERS)
    if not 0 <= axis < x.ndim:
        raise TypeRuleError(f"axis={axis} is not within the {x.ndim} dimensions of {x}")
    return x


def _words(name: str) -> Iterator[tuple[np.ndarray, int]]:
    rng = rng_of(name)
    for shape, axis in (((9,), 0), ((5, 16), 1), ((12, 3), 0), ((2, 3, 4), 1), ((1,), 0)):
        yield rng.integers(0, 2**62, shape).astype(np.uint64), axis
    yield rng.integers(-5, 5, (3, 8)).astype(np.int32), 1


sort_rows = register(
    OpDef(
        "sort_rows",
        "composite",
        ("x",),
        _row_type,
        lambda x, axis: np.sort(x, axis=axis),
        NO_GRADIENT,
        attrs={"axis": REQUIRED},
        saves=(),
        decompose=lambda x, axis: take_along(x, argsort(x, axis=axis, descending=False), axis),
        batch=shifted("axis"),
        samples=lambda: (Sample((x,), {"axis": axis}, gradcheck=False) for x, axis in _words("sort_rows")),
        errors=lambda: [
            ErrorSample((np.zeros((2, 3), np.int64),), {"axis": 2}, TypeRuleError, "axis=2 is not within"),
            ErrorSample((np.zeros(3, np.float32),), {"axis": 0}, TypeRuleError, "takes signed or unsigned"),
        ],
        doc="Integers in rising order along `axis`.",
    )
)


def _merge_type(x: TensorType, run: TensorType, axis: int) -> TensorType:
    if run != TensorType(int64, (1,)):
        raise TypeRuleError(f"the length of a run must be int64[1], not {run}")
    return _row_type(x, axis)


def _merge(x: np.ndarray, run: np.ndarray, axis: int) -> np.ndarray:
    pairs = np.split(x, range(2 * int(run[0]), x.shape[axis], 2 * int(run[0])), axis)
    return np.concatenate([np.sort(p, axis=axis) for p in pairs], axis)


def _merge_parts(x: Any, run: Any, axis: int) -> Any:
    """Everything in order, and then, stably, by pair of runs."""
    order = argsort(x, axis=axis, descending=False)
    pair = floordiv(order, add(run, run))
    return take_along(x, take_along(order, argsort(pair, axis=axis, descending=False), axis), axis)


def _merge_batch(c: BatchContext) -> Any:
    if c.batched[1]:
        return lane_by_lane(c)
    return merge_runs(c.args[0], c.args[1], axis=c.attrs["axis"] + 1)


def _merge_samples() -> Iterator[Sample]:
    for x, axis in _words("merge_runs"):
        for run in (1, 2, 5):
            starts = range(run, x.shape[axis], run)
            runs = np.concatenate([np.sort(p, axis=axis) for p in np.split(x, starts, axis)], axis)
            yield Sample((runs, np.array([run])), {"axis": axis}, gradcheck=False)


merge_runs = register(
    OpDef(
        "merge_runs",
        "composite",
        ("x", "run"),
        _merge_type,
        _merge,
        NO_GRADIENT,
        attrs={"axis": REQUIRED},
        saves=(),
        decompose=_merge_parts,
        batch=_merge_batch,
        samples=_merge_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3, np.int64), np.array(1)), {"axis": 0}, TypeRuleError, "length of a run"),
            ErrorSample((np.zeros(3, np.int64), np.array([1])), {"axis": 1}, TypeRuleError, "axis=1 is not within"),
        ],
        doc="Sorted runs of at least one integer each along `axis`, the last one perhaps shorter, merged two by two. `run`: "
        "their length, an operand so that all rounds of a sort are one kernel.",
    )
)


def _search_samples() -> Iterator[Sample]:
    rng = rng_of("search_rows")
    for rows, shape in (((7,), (5, 3)), ((7,), ()), ((2, 3, 6), (2, 3, 5)), ((1,), (4,))):
        for right in (False, True):
            boundaries = np.sort(draw(rng, rows), axis=-1)
            yield Sample((boundaries, draw(rng, shape)), {"right": right}, gradcheck=False)
            ties = np.sort(rng.integers(0, 4, rows), axis=-1)
            yield Sample((ties, rng.integers(-1, 5, shape)), {"right": right}, gradcheck=False)
    last = np.array([-np.inf, 1, np.inf, np.nan, np.nan], np.float32)
    for right in (False, True):
        yield Sample((last, last), {"right": right}, gradcheck=False)


search_rows = register(
    OpDef(
        "search_rows",
        "composite",
        ("boundaries", "values"),
        lambda boundaries, values, right: searchsorted.result_types((boundaries, values), {"right": right})[0],
        searchsorted.reference,
        NO_GRADIENT,
        attrs={"right": False},
        saves=(),
        decompose=lambda boundaries, values, right: searchsorted(boundaries, values, right=right),
        batch=searchsorted.batch,
        samples=_search_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3, np.float32), np.zeros(3, np.float64)), {}, TypeRuleError, "dtypes differ"),
            ErrorSample((np.zeros((), np.float32), np.zeros(3, np.float32)), {}, TypeRuleError, "one dimension"),
        ],
        doc="`searchsorted` among at least one boundary, by as many steps as that takes.",
    )
)

__all__ = ["merge_runs", "search_rows", "sort_rows", "take_along"]
