"""Test inputs of attention and its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..op import Attrs, ErrorSample, Sample, get_op
from ..types import DTypeRuleError, TypeRuleError
from .movement import example

STATE = np.array([7, 3], np.uint64)


def _drawn(q: tuple[int, ...], k: tuple[int, ...], e: int, dtype: Any = np.float32) -> tuple[np.ndarray, ...]:
    """q, k and v, of e columns."""
    shapes = (q, k, (*k[:-1], e))
    return tuple(example(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes))


def _mask(*shape: int) -> np.ndarray:
    """Booleans, of which each row has some."""
    mask = example(*shape, seed=5, dtype=np.bool_)
    mask[..., 0] = True
    return mask


def attention_samples() -> Iterator[Sample]:
    def attrs(**given: Any) -> Attrs:
        return {"scale": 0.5, "causal": False, "dropout": 0.0} | given

    yield Sample(_drawn((2, 3), (3, 3), 2), attrs())
    yield Sample((*_drawn((2, 3), (3, 3), 2), _mask(2, 3)), attrs(causal=True))
    yield Sample((*_drawn((2, 2), (4, 2), 1), example(4, seed=6)), attrs(scale=-0.7))
    yield Sample(_drawn((2, 3, 5, 8), (2, 3, 7, 8), 6), attrs(causal=True))
    yield Sample(_drawn((2, 3, 9, 4), (3, 5, 4), 4), attrs(causal=True))
    yield Sample((*_drawn((2, 2, 3, 5, 4), (2, 2, 1, 6, 4), 4), _mask(5, 6)), attrs())
    yield Sample((*_drawn((2, 3, 4, 8), (2, 3, 6, 8), 8), example(2, 1, 4, 6, seed=6)), attrs())
    yield Sample((*_drawn((5, 4), (6, 4), 4), _mask(2, 1, 6)), attrs())
    yield Sample((*_drawn((2, 5, 4), (2, 7, 4), 3), STATE), attrs(dropout=0.3))
    yield Sample((*_drawn((2, 2, 3, 5, 4), (2, 2, 1, 6, 4), 4), _mask(2, 1, 1, 5, 6), STATE), attrs(dropout=0.5))
    yield Sample((*_drawn((3, 4), (5, 4), 4), example(3, 5, seed=6), STATE), attrs(causal=True, dropout=0.2))
    yield Sample(_drawn((2, 5, 4), (2, 7, 4), 3, np.float64), attrs(causal=True))
    hidden = np.array([[True, False, True], [False] * 3])
    yield Sample((*_drawn((2, 4), (3, 4), 4), hidden), attrs(), gradcheck=False)
    lost = np.where(hidden, 0, -np.inf).astype(np.float32)
    yield Sample((*_drawn((2, 4), (3, 4), 4), lost), attrs(), gradcheck=False)
    yield Sample(_drawn((2, 0, 4), (2, 3, 4), 4), attrs())
    yield Sample(_drawn((2, 3, 4), (2, 0, 4), 4), attrs(), gradcheck=False)


def gradient_samples() -> Iterator[Sample]:
    """Those of attention, with a cotangent and what the forward pass says of it."""
    for s in attention_samples():
        out, lse = get_op("attention").evaluate(s.args, s.attrs)
        g = example(*out.shape, seed=9, dtype=out.dtype)
        with np.errstate(all="ignore"):
            yield Sample((g, *s.args[:3], lse, (g * out).sum(-1), *s.args[3:]), s.attrs, s.gradcheck)


def attention_errors() -> Iterator[ErrorSample]:
    q, k, v = _drawn((2, 3, 4), (2, 5, 4), 4)
    attrs: Attrs = {"scale": 1.0, "causal": False, "dropout": 0.0}
    drops = attrs | {"dropout": 0.5}
    yield ErrorSample((q[0, 0], k, v), attrs, TypeRuleError, "at least 2 dimensions")
    yield ErrorSample((q[..., :3], k, v), attrs, TypeRuleError, "queries of 3 elements do not fit keys of 4")
    yield ErrorSample((q, k, v[:, :4]), attrs, TypeRuleError, "5 keys, but 4 values")
    yield ErrorSample((q, k, np.stack([v] * 3)), attrs, TypeRuleError, "more batch dimensions than the weights")
    yield ErrorSample((q, k, v.astype(np.float64)), attrs, DTypeRuleError, "dtypes differ")
    yield ErrorSample((q, k, v, np.zeros((3, 4), np.bool_)), attrs, TypeRuleError, "broadcast")
    yield ErrorSample((q[:, :1], k, v, np.zeros((3, 5), np.bool_)), attrs, TypeRuleError, "does not fit weights")
    yield ErrorSample((q, k, v, np.zeros((3, 5), np.float64)), attrs, DTypeRuleError, "mask must be bool or f32")
    yield ErrorSample((q, k, v, STATE, STATE), attrs, TypeRuleError, "behind v comes a mask")
    yield ErrorSample((q, k, v), drops, TypeRuleError, "behind v comes a mask")
    yield ErrorSample((q, k, v, STATE[:1]), drops, TypeRuleError, "random state must be")
    yield ErrorSample((q, k, v), attrs | {"scale": "0.5"}, TypeRuleError, "must be a number")
    yield ErrorSample((q, k, v, STATE), attrs | {"dropout": 1.0}, TypeRuleError, "less than 1")


def gradient_errors() -> Iterator[ErrorSample]:
    sample = next(iter(gradient_samples()))
    g, *rest = sample.args
    yield ErrorSample((g[:1], *rest), sample.attrs, TypeRuleError, "g is .* forward pass")
    yield ErrorSample((g, *rest[:3], rest[3][:1], rest[4]), sample.attrs, TypeRuleError, "lse is")
    yield ErrorSample((g, *rest[:4], rest[4].astype(np.float64)), sample.attrs, TypeRuleError, "delta is")
