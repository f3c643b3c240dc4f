"""windows and unwindows: the sliding windows of pooling, and their adjoint. Both only move elements."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..batching import leading
from ..dim import DimLike, floordiv, negative
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..types import TensorType, TypeRuleError
from .movement import check_length, check_nonnegative, example, permute, reshape, slice_

Sizes = tuple[DimLike, ...]


def span(window: DimLike, dilation: int) -> DimLike:
    """How many input elements one window reaches over."""
    return (window - 1) * dilation + 1


def count(size: DimLike, window: DimLike, stride: int, low: DimLike, high: DimLike, dilation: int) -> DimLike:
    """How many windows fit. TypeRuleError if certainly none does."""
    room = size + low + high - span(window, dilation)
    if negative(room):
        raise TypeRuleError(
            f"a window of {window} (dilation {dilation}) does not fit into {size} + {low} + {high} padding"
        )
    return floordiv(room, stride) + 1


def _check(ndim: int, window: Sizes, stride, low: Sizes, high: Sizes, dilation) -> int:
    k = len(window)
    if not 0 < k <= ndim:
        raise TypeRuleError(f"window {window} has {k} axes, the operand {ndim}")
    for values, what in ((stride, "stride"), (low, "low"), (high, "high"), (dilation, "dilation")):
        check_length(values, k, what)
    for values, what in ((stride, "stride"), (dilation, "dilation")):
        if any(not isinstance(v, int) or v < 1 for v in values):
            raise TypeRuleError(f"{what} {values} must be positive ints")
    for w, lo, hi in zip(window, low, high):
        check_nonnegative(w - 1, "window - 1")
        check_nonnegative(lo, "low")
        check_nonnegative(hi, "high")
    return k


def _windows_type(x: TensorType, window: Sizes, stride, low: Sizes, high: Sizes, dilation, fill: Any) -> TensorType:
    k = _check(x.ndim, window, stride, low, high, dilation)
    counts = map(count, x.shape[x.ndim - k :], window, stride, low, high, dilation)
    return x.with_shape((*x.shape[: x.ndim - k], *counts, *window))


def sliding(x: np.ndarray, window, stride, dilation) -> np.ndarray:
    """The windows of the last len(window) axes as a read-only view [..., counts, window]; no padding."""
    lead = x.ndim - len(window)
    counts = [(d - (w - 1) * e - 1) // s + 1 for d, w, s, e in zip(x.shape[lead:], window, stride, dilation)]
    steps = x.strides[lead:]
    return as_strided(
        x,
        (*x.shape[:lead], *counts, *window),
        (*x.strides[:lead], *(t * s for t, s in zip(steps, stride)), *(t * e for t, e in zip(steps, dilation))),
        writeable=False,
    )


def _windows(x: np.ndarray, window, stride, low, high, dilation, fill) -> np.ndarray:
    if any(low) or any(high):
        lead = x.ndim - len(window)
        padded = np.empty((*x.shape[:lead], *(d + a + b for d, a, b in zip(x.shape[lead:], low, high))), x.dtype)
        padded[...] = fill
        padded[(..., *(slice(a, a + d) for d, a in zip(x.shape[lead:], low)))] = x
        x = padded
    return sliding(x, window, stride, dilation)


def _windows_vjp(c: VjpContext, g):
    from . import reduce_sum

    k, x = len(c.attrs["window"]), c.types[0]
    attrs = {name: c.attrs[name] for name in ("window", "stride", "low", "high", "dilation")}
    parts = unwindows(g, size=x.shape[x.ndim - k :], **attrs)
    return (reduce_sum(parts, axes=tuple(range(x.ndim, x.ndim + k))),)


windows = register(
    OpDef(
        "windows",
        "structural",
        ("x",),
        _windows_type,
        _windows,
        _windows_vjp,
        attrs={
            "window": REQUIRED,
            "stride": REQUIRED,
            "low": REQUIRED,
            "high": REQUIRED,
            "dilation": REQUIRED,
            "fill": 0,
        },
        saves=(),
        batch=leading,
        samples=lambda: [
            Sample((example(2, 3, 6, 7),), _attrs((2, 2), (2, 2)) | {"fill": 0}),
            Sample((example(7),), _attrs((3,), (1,), (1,), (2,), (2,)) | {"fill": float("-inf")}, gradcheck=False),
            Sample((example(2, 5, 9),), _attrs((3, 2), (2, 3), (1, 0), (2, 2), (1, 2)) | {"fill": 0.5}),
            Sample((example(0, 4),), _attrs((2,), (1,)) | {"fill": 0}),
            Sample((example(1),), _attrs((1,), (1,)) | {"fill": 0}),
        ],
        errors=lambda: [
            ErrorSample((example(3),), _attrs((4,), (1,)) | {"fill": 0}, TypeRuleError, "does not fit"),
            ErrorSample((example(3),), _attrs((2,), (0,)) | {"fill": 0}, TypeRuleError, "positive"),
            ErrorSample((example(3),), _attrs((2, 2), (1, 1)) | {"fill": 0}, TypeRuleError, "2 axes"),
        ],
        doc="[..., d] -> [..., o, w]: x at o*stride - low + w*dilation, else `fill`; the last len(window) axes slide.",
    )
)


def _unwindows_type(g: TensorType, size: Sizes, window: Sizes, stride, low: Sizes, high: Sizes, dilation) -> TensorType:
    k = _check(g.ndim, window, stride, low, high, dilation)
    check_length(size, k, "size")
    lead = g.shape[: g.ndim - 2 * k] if g.ndim >= 2 * k else ()
    expected = (*lead, *map(count, size, window, stride, low, high, dilation), *window)
    if g.shape != expected:
        raise TypeRuleError(f"the operand must have shape [..., counts, window] = {expected}, not {g.shape}")
    return g.with_shape((*lead, *size, *window))


def _unwindows(g: np.ndarray, size, window, stride, low, high, dilation) -> np.ndarray:
    k = len(window)
    lead = g.ndim - 2 * k
    out = np.zeros((*g.shape[:lead], *size, *window), g.dtype)
    counts = g.shape[lead : lead + k]
    for w in itertools.product(*map(range, window)):
        into, source = [], []
        for i, n in enumerate(counts):
            at = w[i] * dilation[i] - low[i]  # window o reads x at o*stride + at
            first = max(0, -(at // stride[i]))
            last = min(n - 1, (size[i] - 1 - at) // stride[i])
            end = max(last + 1, first)
            source.append(slice(first, end))
            begin = first * stride[i] + at
            into.append(slice(begin, begin + max(end - first - 1, 0) * stride[i] + (end > first), stride[i]))
        out[(..., *into, *w)] = g[(..., *source, *w)]
    return out


def _unwindows_vjp(c: VjpContext, g):
    """g[..., d, w] at d = o*stride - low + w*dilation: windows w' of every slice w, where w' = w."""
    window = c.attrs["window"]
    k, t = len(window), c.types[0]
    lead = t.ndim - 2 * k
    total: DimLike = 1
    for w in window:
        total = total * w
    front, last = range(lead), tuple(range(lead + k, lead + 2 * k))
    g = permute(g, perm=(*front, *last, *range(lead, lead + k)))  # [..., w, d]
    attrs = {name: c.attrs[name] for name in ("window", "stride", "low", "high", "dilation")}
    g = windows(g, fill=0, **attrs)  # [..., w, o, w']
    g = permute(g, perm=(*front, *last, *range(lead, lead + k), *(i + k for i in last)))  # [..., o, w, w']
    counts = t.shape[: lead + k]
    g = reshape(g, shape=(*counts, total * total))
    rest = (0,) * (lead + k)
    if isinstance(total, int):
        g = slice_(g, start=(*rest, 0), stop=(*counts, total * total), step=(*(1 for _ in rest), total + 1))
        return (reshape(g, shape=t.shape),)
    raise TypeRuleError(f"the second derivative of windows of symbolic size {window} is not defined")


unwindows = register(
    OpDef(
        "unwindows",
        "structural",
        ("g",),
        _unwindows_type,
        _unwindows,
        _unwindows_vjp,
        attrs={name: REQUIRED for name in ("size", "window", "stride", "low", "high", "dilation")},
        saves=(),
        linear=("g",),
        batch=leading,
        samples=lambda: [
            Sample((example(2, 3, 3, 2, 2),), {"size": (6, 7)} | _attrs((2, 2), (2, 2))),
            Sample((example(6, 3),), {"size": (7,)} | _attrs((3,), (1,), (1,), (2,), (2,))),
            Sample((example(2, 3, 3, 3, 2),), {"size": (5, 9)} | _attrs((3, 2), (2, 3), (1, 0), (2, 2), (1, 2))),
            Sample((example(0, 3, 2),), {"size": (4,)} | _attrs((2,), (1,))),
        ],
        errors=lambda: [
            ErrorSample((example(5, 2),), {"size": (7,)} | _attrs((2,), (2,)), TypeRuleError, "must have shape"),
            ErrorSample((example(3, 2),), {"size": (6, 1)} | _attrs((2,), (2,)), TypeRuleError, "tuple of 1"),
        ],
        doc="[..., o, w] -> [..., d, w]: g at o = (d + low - w*dilation) / stride where whole and in range, else 0.",
    )
)


def _attrs(window, stride, low=None, high=None, dilation=None) -> dict[str, Any]:
    """The common attributes, with no padding and no dilation unless given."""
    none = (0,) * len(window)
    return {
        "window": window,
        "stride": stride,
        "low": low or none,
        "high": high or none,
        "dilation": dilation or (1,) * len(window),
    }


__all__ = ["count", "sliding", "span", "unwindows", "windows"]
