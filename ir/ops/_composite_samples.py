"""Test inputs of the composite ops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..op import Attrs, ErrorSample, Sample
from ..types import DTypeRuleError, TypeRuleError
from ._declare import draw, rng_of

AXES_CASES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((), ()), ((1,), (0,)), ((7,), (0,)), ((5, 17), (0,)), ((5, 17), (1,)), ((5, 17), (0, 1)), ((2, 3, 4), (0, 2)),
    ((0, 3), (1,)),
)  # fmt: skip


def axes_samples(name: str, attrs: tuple[Attrs, ...] = ({},), empty: bool = True) -> Iterator[Sample]:
    rng = rng_of(name)
    for more in attrs:
        for shape, axes in AXES_CASES:
            # with one element, the slope of var is 0/0
            enough = more.get("correction", 0) == 0 or int(np.prod([shape[a] for a in axes])) > 1
            yield Sample((draw(rng, shape),), {"axes": axes, **more}, gradcheck=enough)
        for dtype in (np.float16, np.float64):
            yield Sample((draw(rng, (5, 17), dtype=dtype),), {"axes": (1,), **more}, gradcheck=dtype is np.float64)
        yield Sample(
            (np.array([[np.inf, 1], [-np.inf, -np.inf], [np.nan, 1]], np.float32),), {"axes": (1,), **more}, False
        )
        if empty:
            yield Sample((np.zeros((3, 0), np.float32),), {"axes": (1,), **more}, gradcheck=False)
    yield Sample((np.full((2, 70000), 3.0, np.float16),), {"axes": (1,), **attrs[0]}, gradcheck=False)


def axes_errors() -> Iterator[ErrorSample]:
    x = np.zeros((2, 3), np.float32)
    yield ErrorSample((x,), {"axes": (2,)}, TypeRuleError, "sorted, unique")
    yield ErrorSample((x,), {"axes": (-1,)}, TypeRuleError, "sorted, unique")
    yield ErrorSample((x.astype(np.int32),), {"axes": (0,)}, DTypeRuleError, "not i32")


def axis_samples(name: str) -> Iterator[Sample]:
    rng = rng_of(name)
    for shape, axis in (((7,), 0), ((5, 17), 0), ((5, 17), 1), ((2, 3, 4), 1), ((0, 3), 1), ((3, 0), 1), ((3, 1), 1)):
        yield Sample((draw(rng, shape),), {"axis": axis})
    for dtype in (np.float16, np.float64):
        yield Sample((draw(rng, (5, 17), dtype=dtype),), {"axis": 1}, gradcheck=dtype is np.float64)
    large = np.array([[1000, 1000, -1000], [-np.inf, 1, 2], [np.nan, 1, 2], [-np.inf, -np.inf, -np.inf]], np.float32)
    yield Sample((large,), {"axis": 1}, gradcheck=False)


def axis_errors() -> Iterator[ErrorSample]:
    x = np.zeros((2, 3), np.float32)
    yield ErrorSample((x,), {"axis": 2}, TypeRuleError, "within")
    yield ErrorSample((x.astype(np.int32),), {"axis": 0}, DTypeRuleError, "not i32")


def norm_samples(name: str, parameters: int) -> Iterator[Sample]:
    rng = rng_of(name)
    for shape, n in (((7,), 1), ((5, 17), 1), ((5, 17), 2), ((2, 3, 4), 2), ((0, 3), 1), ((2, 3, 8), 1)):
        x = draw(rng, shape)
        params = tuple(draw(rng, shape[len(shape) - n :]) for _ in range(parameters))
        yield Sample((x, *params), {"ndim_normalized": n, "eps": 1e-5})
        if n == 1 and x.size:
            yield Sample(
                tuple(a.astype(np.float16) for a in (x, *params)), {"ndim_normalized": n, "eps": 1e-5}, gradcheck=False
            )


def norm_errors(parameters: int) -> Iterator[ErrorSample]:
    x, p, attrs = np.zeros((2, 3), np.float32), np.zeros(3, np.float32), {"ndim_normalized": 1, "eps": 1e-5}
    yield ErrorSample((x, *[p] * parameters), {**attrs, "ndim_normalized": 3}, TypeRuleError, "ndim_normalized=3")
    yield ErrorSample((x, *[p[:2]] * parameters), attrs, TypeRuleError, "weight has shape")
    yield ErrorSample((x, *[p.astype(np.float64)] * parameters), attrs, DTypeRuleError, "dtypes differ")


def batch_norm_samples() -> Iterator[Sample]:
    rng = rng_of("batch_norm")
    for shape in ((5, 3), (2, 3, 4), (2, 3, 4, 5), (1, 1, 7), (0, 3)):
        mean, weight, bias = (draw(rng, shape[1:2]) for _ in range(3))
        yield Sample((draw(rng, shape), mean, draw(rng, shape[1:2], (0.5, 2)), weight, bias), {"eps": 1e-5})
    half = (draw(rng, (5, 3)), *(draw(rng, (3,), (0.5, 2)) for _ in range(4)))
    yield Sample(tuple(a.astype(np.float16) for a in half), {"eps": 1e-5}, gradcheck=False)


def batch_norm_errors() -> Iterator[ErrorSample]:
    x, p = np.zeros((2, 3), np.float32), np.zeros(3, np.float32)
    yield ErrorSample((p, p, p, p, p), {"eps": 1e-5}, TypeRuleError, "no channel axis")
    yield ErrorSample((x, p, p[:2], p, p), {"eps": 1e-5}, TypeRuleError, "var has shape")
    yield ErrorSample((x, p, p, p, p.astype(np.float16)), {"eps": 1e-5}, DTypeRuleError, "dtypes differ")


def stats_samples() -> Iterator[Sample]:
    rng = rng_of("batch_stats")
    for shape in ((5, 3), (2, 3, 4), (2, 3, 4, 5), (1, 2, 7)):
        yield Sample((draw(rng, shape),))
    yield Sample((draw(rng, (5, 3), dtype=np.float16),), gradcheck=False)


def cross_entropy_samples() -> Iterator[Sample]:
    rng = rng_of("cross_entropy")
    for shape in ((5, 17), (1, 1), (4, 3, 2), (0, 3), (2, 5, 3, 2)):
        for dtype in (np.int64, np.int32):
            target = rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(dtype)
            yield Sample((draw(rng, shape), target))
    yield Sample((draw(rng, (5, 17), dtype=np.float16), np.arange(5)), gradcheck=False)
    yield Sample((np.array([[-np.inf, 1, 2], [1000, 0, 1000]], np.float32), np.array([1, 2])), gradcheck=False)


def cross_entropy_errors() -> Iterator[ErrorSample]:
    x, t = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    yield ErrorSample((x, t.astype(np.float32)), {}, DTypeRuleError, "target must be")
    yield ErrorSample((x, np.zeros(3, np.int64)), {}, TypeRuleError, "does not fit")
    yield ErrorSample((x[0], t), {}, TypeRuleError, "no class axis")
    yield ErrorSample((x[:, :0], t), {}, TypeRuleError, "zero-size")
