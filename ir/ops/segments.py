"""What scattering is made of where many processors share it: stores whose order does not matter, and folds of segments of
sorted updates. `passes/scattering.py` writes scatter in these terms for GPUs; elsewhere they are decomposed again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..dtypes import int64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, register, value_type
from ..types import TensorType, TypeRuleError
from ._declare import NARROW, common_dtype, const_like, draw, rng_of
from .accumulate import scatter_reduce
from .indexing import gather, scatter, scatter_batch
from .movement import iota
from .pointwise import sub
from .sorting import searchsorted

# ------------------------------------------------------------------ stores in any order


def _op_of(mode: str) -> OpDef:
    return scatter_reduce if mode == "max" else scatter


def _unordered_type(x: TensorType, updates: TensorType, *indices: TensorType, mode: str) -> TensorType:
    return _op_of(mode).result_types((x, updates, *indices), {"mode": mode})[0]


def _unordered_samples() -> Iterator[Sample]:
    rng = rng_of("scatter_unordered")
    at, distinct = np.array([4, 0, 1, 0], np.int64), np.array([4, 0, 3], np.int64)
    for dtype in (np.int32, np.int64):
        x, updates = rng.integers(-9, 9, (5, 7)).astype(dtype), rng.integers(-9, 9, (4, 7)).astype(dtype)
        for mode in ("add", "max"):
            yield Sample((x, updates, at), {"mode": mode}, gradcheck=False)
            yield Sample((x[:, 0], updates[:, 0], at), {"mode": mode}, gradcheck=False)
    for dtype in (np.float32, np.bool_, np.int8):
        yield Sample(
            (draw(rng, (5, 3), dtype=dtype), draw(rng, (3, 3), dtype=dtype), distinct), {"mode": "set"}, gradcheck=False
        )
    pair = (np.array([[1], [3]], np.int64), np.array([0, 2], np.int64))
    yield Sample((draw(rng, (4, 3)), draw(rng, (2, 2)), *pair), {"mode": "set"}, gradcheck=False)
    yield Sample((draw(rng, (4, 3)), draw(rng, (3,)), np.array(2)), {"mode": "add"}, gradcheck=False)


scatter_unordered = register(
    OpDef(
        "scatter_unordered",
        "composite",
        ("x", "updates", "*indices"),
        _unordered_type,
        lambda x, updates, *indices, mode: _op_of(mode).evaluate((x, updates, *indices), {"mode": mode}),
        NO_GRADIENT,
        attrs={"mode": REQUIRED},
        saves=(),
        decompose=lambda x, updates, *indices, mode: _op_of(mode)(x, updates, *indices, mode=mode),
        batch=scatter_batch,
        samples=_unordered_samples,
        errors=lambda: [
            ErrorSample((np.zeros(3), np.zeros(2), np.zeros(1, np.int64)), {"mode": "add"}, TypeRuleError, "updates must have"),
            ErrorSample((np.zeros(3), np.zeros(1), np.zeros(1, np.int64)), {"mode": "min"}, TypeRuleError, "mode must be"),
        ],
        doc='scatter in no order, where that makes no difference. "set": no two updates go to one place, but for equal ones; '
        '"add": of integers, or one update a place; "max": the largest.',
    )
)  # fmt: skip


# ------------------------------------------------------------------ segments

FOLDS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _segment_type(x: TensorType, updates: TensorType, order: TensorType, starts: TensorType, mode: str) -> TensorType:
    if mode not in FOLDS:
        raise TypeRuleError(f"mode must be one of {', '.join(FOLDS)}, not {mode!r}")
    common_dtype((x, updates), "iuf")
    if not x.ndim or updates.ndim != x.ndim or updates.shape[1:] != x.shape[1:]:
        raise TypeRuleError(f"updates must have the rows of {x}, not {updates.shape}")
    if order.dtype is not int64 or order.ndim != 1 or starts != TensorType(int64, (x.shape[0] + 1,)):
        raise TypeRuleError(f"order and starts must be int64, one each for updates and rows + 1, not {order}, {starts}")
    return x


def _segment_reduce(x: np.ndarray, updates: np.ndarray, order: np.ndarray, starts: np.ndarray, mode: str) -> np.ndarray:
    """Narrow floats are added in float32 and rounded once."""
    wide = np.float32 if x.dtype in NARROW else x.dtype
    out = x.astype(wide)
    rows = np.repeat(np.arange(x.shape[0]), np.diff(starts))
    with np.errstate(all="ignore"):
        FOLDS[mode].at(out, rows, updates[order].astype(wide))
    return out.astype(x.dtype)


def _segment_parts(x: Any, updates: Any, order: Any, starts: Any, mode: str) -> Any:
    positions = iota(shape=value_type(order).shape, axis=0, dtype=int64)
    row = sub(searchsorted(starts, positions, right=True), const_like(starts, 1))
    op = scatter if mode == "add" else scatter_reduce
    return op(x, gather(updates, order), row, mode=mode)


def _segment_samples() -> Iterator[Sample]:
    rng = rng_of("segment_reduce")
    order, starts = np.array([3, 0, 2, 1, 4], np.int64), np.array([0, 2, 2, 5, 5], np.int64)
    for mode in FOLDS:
        for shape in ((), (3,)):
            for dtype in (np.float32, np.int64):
                x, updates = draw(rng, (4, *shape), dtype=dtype), draw(rng, (5, *shape), dtype=dtype)
                yield Sample((x, updates, order, starts), {"mode": mode}, gradcheck=False)
    many = np.sort(rng.integers(0, 300, 39))
    ends = np.concatenate(([0], many, [300])).astype(np.int64)
    yield Sample(
        (draw(rng, (40, 5)), draw(rng, (300, 5)), rng.permutation(300), ends), {"mode": "add"}, gradcheck=False
    )
    x, updates = draw(rng, (4, 2), dtype=np.float16), draw(rng, (5, 2), dtype=np.float16)
    yield Sample((x, updates, order, starts), {"mode": "max"}, gradcheck=False)


segment_reduce = register(
    OpDef(
        "segment_reduce",
        "composite",
        ("x", "updates", "order", "starts"),
        _segment_type,
        _segment_reduce,
        NO_GRADIENT,
        attrs={"mode": REQUIRED},
        saves=(),
        decompose=_segment_parts,
        samples=_segment_samples,
        errors=lambda: [
            ErrorSample(
                (np.zeros(2), np.zeros(3), np.zeros(3, np.int64), np.zeros(3, np.int64)), {"mode": "sub"}, TypeRuleError,
                "mode must be",
            ),
            ErrorSample(
                (np.zeros(2), np.zeros(3), np.zeros(3, np.int64), np.zeros(2, np.int64)), {"mode": "add"}, TypeRuleError,
                "order and starts",
            ),
            ErrorSample(
                (np.zeros((2, 2)), np.zeros(3), np.zeros(3, np.int64), np.zeros(3, np.int64)), {"mode": "add"},
                TypeRuleError, "must have the rows",
            ),
        ],
        doc="Row i of x folded with the rows order[starts[i]], ..., order[starts[i + 1] - 1] of updates. The segments follow "
        "each other from 0 to the end of `order`.",
    )
)  # fmt: skip

__all__ = ["scatter_unordered", "segment_reduce"]
