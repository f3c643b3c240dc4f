"""matmul and conv: sums of products. Narrow floats are summed in float32 and rounded once."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..batching import BatchContext, fold, move_axis, unfold
from ..dim import DimLike, floordiv, negative, numel
from ..dtypes import accumulator, bool_, from_numpy
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError, broadcast_shapes
from .movement import check_length, example, flip, permute, reshape, sum_to_shape
from .windows import sliding, span

Sizes = tuple[DimLike, ...]


def _same_number_type(x: TensorType, y: TensorType) -> None:
    if x.dtype is not y.dtype:
        raise DTypeRuleError(f"operand dtypes differ: {x.dtype} and {y.dtype}")
    if x.dtype is bool_:
        raise DTypeRuleError("bool tensors have no products; cast them first")


# ------------------------------------------------------------------ matmul


def _matmul_type(x: TensorType, y: TensorType) -> TensorType:
    _same_number_type(x, y)
    if x.ndim < 2 or y.ndim < 2:
        raise TypeRuleError("matmul needs operands with at least 2 dimensions")
    if x.shape[-1] != y.shape[-2]:
        raise TypeRuleError(f"inner sizes differ: {x.shape[-1]} and {y.shape[-2]}")
    return x.with_shape((*broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]))


def _matmul(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dtype, wide = x.dtype, accumulator(from_numpy(x.dtype)).np
    if wide != dtype:
        return _matmul(x.astype(wide), y.astype(wide)).astype(dtype)
    if x.ndim > 2 and y.ndim == 2 and x.flags.c_contiguous:  # one large product instead of a batch of small ones
        return (x.reshape(-1, x.shape[-1]) @ y).reshape(*x.shape[:-1], y.shape[1]) if x.size else x @ y
    return x @ y


def _transposed(x, ndim: int):
    return permute(x, perm=(*range(ndim - 2), ndim - 1, ndim - 2))


def _matmul_vjp(c: VjpContext, g):
    (x, y), (tx, ty) = c.inputs, c.types
    shape = (*broadcast_shapes(tx.shape[:-2], ty.shape[:-2]), tx.shape[-2], ty.shape[-1])
    gx = gy = None
    if c.needs[0]:
        gx = matmul(g, _transposed(y, ty.ndim))
        gx = sum_to_shape(gx, (*shape[:-1], tx.shape[-1]), tx.shape)
    if c.needs[1]:
        if ty.ndim == 2 and tx.ndim > 2:  # sum over the batch inside the product
            rows = numel(tx.shape[:-1])
            x, g = reshape(x, shape=(rows, tx.shape[-1])), reshape(g, shape=(rows, shape[-1]))
            return gx, matmul(_transposed(x, 2), g)
        gy = matmul(_transposed(x, tx.ndim), g)
        gy = sum_to_shape(gy, (*shape[:-2], *ty.shape[-2:]), ty.shape)
    return gx, gy


def _matmul_batch(c: BatchContext):
    rank = max(t.ndim for t in c.types)
    return matmul(c.aligned(0, rank), c.aligned(1, rank))


matmul = register(
    OpDef(
        "matmul",
        "structural",
        ("x", "y"),
        _matmul_type,
        _matmul,
        _matmul_vjp,
        saves=("x", "y"),
        multilinear=True,
        batch=_matmul_batch,
        samples=lambda: [
            Sample((example(5, 17), example(17, 3))),
            Sample((example(2, 4, 3), example(3, 5))),
            Sample((example(2, 1, 4, 3), example(3, 3, 5))),
            Sample((example(1, 4, 3), example(2, 3, 1))),
            Sample((example(3, 0), example(0, 2))),
            Sample((example(0, 3), example(3, 2))),
            Sample((example(4, 5, dtype=np.int64), example(5, 2, dtype=np.int64))),
        ],
        errors=lambda: [
            ErrorSample((example(2, 3), example(4, 2)), {}, TypeRuleError, "inner sizes differ: 3 and 4"),
            ErrorSample((example(3), example(3, 2)), {}, TypeRuleError, "at least 2"),
            ErrorSample((example(2, 2, 3), example(3, 3, 2)), {}, TypeRuleError, "broadcast"),
            ErrorSample((example(2, 3), example(3, 2, dtype=np.int64)), {}, DTypeRuleError, "dtypes differ"),
        ],
        doc="x[..., M, K] times y[..., K, N]; batch dims broadcast.",
    )
)

# ------------------------------------------------------------------ conv


def dilated(size: DimLike, dilation: int) -> DimLike:
    """Elements from first to last when they are spread `dilation` apart."""
    return 0 if isinstance(size, int) and size == 0 else span(size, dilation)


def _conv_type(
    x: TensorType, w: TensorType, stride, low: Sizes, high: Sizes, lhs_dilation, rhs_dilation, groups: int
) -> TensorType:
    _same_number_type(x, w)
    k = x.ndim - 2
    if not 1 <= k <= 3 or w.ndim != x.ndim:
        raise TypeRuleError("conv needs x[N, C, ...] and w[O, C/groups, ...] with the same 1 to 3 spatial dimensions")
    named = {"stride": stride, "low": low, "high": high, "lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
    for what, values in named.items():
        check_length(values, k, what)
        if what not in ("low", "high") and any(not isinstance(v, int) or v < 1 for v in values):
            raise TypeRuleError(f"{what} {values} must be positive ints")
    if not isinstance(groups, int) or groups < 1:
        raise TypeRuleError(f"groups must be a positive int, not {groups!r}")
    if x.shape[1] != w.shape[1] * groups or w.shape[0] % groups != 0:
        raise TypeRuleError(
            f"{x.shape[1]} channels and {w.shape[0]} filters of {w.shape[1]} do not make {groups} groups"
        )
    out = []
    for d, f, s, lo, hi, ld, rd in zip(x.shape[2:], w.shape[2:], stride, low, high, lhs_dilation, rhs_dilation):
        room = dilated(d, ld) + lo + hi - span(f, rd)
        if negative(room):
            raise TypeRuleError(f"a filter of {f} (dilation {rd}) does not fit into {d} + {lo} + {hi} padding")
        out.append(floordiv(room, s) + 1)
    return x.with_shape((x.shape[0], w.shape[0], *out))


def _padded(x: np.ndarray, low, high, dilation) -> np.ndarray:
    """x with its spatial elements `dilation` apart in zeros, then padded, or cropped where low or high is negative."""
    if not any(low) and not any(high) and all(e == 1 for e in dilation):
        return x
    sizes = [((d - 1) * e + 1 if d else 0) + lo + hi for d, e, lo, hi in zip(x.shape[2:], dilation, low, high)]
    out = np.zeros((*x.shape[:2], *sizes), x.dtype)
    into, source = [], []
    for d, e, lo, n in zip(x.shape[2:], dilation, low, sizes):
        first = max(0, -(lo // e)) if lo < 0 else 0  # elements i with 0 <= i*e + lo < n
        end = max(first, min(d, -((lo - n) // e)))
        source.append(slice(first, end))
        into.append(slice(first * e + lo, max((end - 1) * e + lo + 1, 0) if end > first else first * e + lo, e))
    out[(..., *into)] = x[(..., *source)]
    return out


_COLUMNS = 1 << 23  # elements of unrolled windows at once: some 32 MB


def _conv(x: np.ndarray, w: np.ndarray, stride, low, high, lhs_dilation, rhs_dilation, groups: int) -> np.ndarray:
    """Windows of x unrolled into columns, times the filters."""
    dtype, wide = x.dtype, accumulator(from_numpy(x.dtype)).np
    k = x.ndim - 2
    v = sliding(_padded(x.astype(wide, copy=False), low, high, lhs_dilation), w.shape[2:], stride, rhs_dilation)
    n, outs = x.shape[0], v.shape[2 : 2 + k]
    v = v.reshape(n, groups, w.shape[1], *v.shape[2:]) if groups > 1 else v[:, None]
    out = np.empty((n, w.shape[0], *outs), wide)
    filters = w.astype(wide, copy=False).reshape(groups, w.shape[0] // groups, *w.shape[1:])
    target = out.reshape(n, groups, w.shape[0] // groups, int(np.prod(outs)))
    if filters.shape[1] == filters.shape[2] == 1 and np.prod(w.shape[2:]) <= 64:
        _depthwise(v, filters, out, k)
    elif out.size:
        per_image = int(np.prod(w.shape[1:])) * target.shape[-1] * groups
        chunk = max(1, _COLUMNS // max(per_image, 1))
        for i in range(0, n, chunk):
            _columns_product(v[i : i + chunk], filters, target[i : i + chunk], k)
    return out if wide == dtype else out.astype(dtype)


def _columns_product(v: np.ndarray, filters: np.ndarray, target: np.ndarray, k: int) -> None:
    """target[n, g, o, p] = sum over (c, f) of filters[g, o, c, f] * v[n, g, c, p, f]."""
    n, groups, _, points = target.shape
    outs, window = tuple(range(3, 3 + k)), tuple(range(3 + k, 3 + 2 * k))
    f = filters.reshape(groups, filters.shape[1], -1)
    if points >= 64:  # a product for each image
        columns = v.transpose(0, 1, 2, *window, *outs).reshape(n, groups, f.shape[2], points)
        np.matmul(f, columns, out=target)
    else:  # few points each: one product for all images
        rows = v.transpose(1, 0, *outs, 2, *window).reshape(groups, n * points, f.shape[2])
        product = f @ rows.transpose(0, 2, 1)
        target[...] = product.reshape(groups, f.shape[1], n, points).transpose(2, 0, 1, 3)


def _depthwise(v: np.ndarray, filters: np.ndarray, out: np.ndarray, k: int) -> None:
    """One channel to one filter: no product of matrices, so a sum over the places of the window."""
    out[...] = 0
    v = v[:, :, 0]
    for place in itertools.product(*map(range, filters.shape[3:])):
        out += v[(..., *place)] * filters[(slice(None), 0, 0, *place)].reshape(-1, *(1,) * k)


def _swapped(x, ndim: int):
    return permute(x, perm=(1, 0, *range(2, ndim)))


def _conv_vjp(c: VjpContext, g):
    """Both gradients are convolutions (the scheme of XLA's convolution transpose rules)."""
    (x, w), (tx, tw), a = c.inputs, c.types, c.attrs
    need_x, need_w = c.needs
    groups, ndim = a["groups"], tx.ndim
    spatial, window = tx.shape[2:], tw.shape[2:]
    reach = [span(f, d) for f, d in zip(window, a["rhs_dilation"])]
    length = [dilated(d, e) for d, e in zip(spatial, a["lhs_dilation"])]
    low = a["low"]
    counts = [floordiv(n + lo + hi - r, s) + 1 for n, lo, hi, r, s in zip(length, low, a["high"], reach, a["stride"])]
    spread = [dilated(o, s) for o, s in zip(counts, a["stride"])]
    gx = gw = None
    if need_x:
        lows = tuple(r - lo - 1 for r, lo in zip(reach, low))
        highs = tuple(n + r - 1 - e - lo for n, r, e, lo in zip(length, reach, spread, lows))
        gx = conv(
            g,
            flip(_transposed_filters(w, tw, groups), axes=tuple(range(2, ndim))),
            stride=a["lhs_dilation"],
            low=lows,
            high=highs,
            lhs_dilation=a["stride"],
            rhs_dilation=a["rhs_dilation"],
            groups=groups,
        )
    if need_w:
        highs = tuple(e - n + r - lo - 1 for e, n, r, lo in zip(spread, length, reach, low))
        gw = conv(
            _images_as_channels(x, tx, groups),
            _swapped(g, ndim),
            stride=a["rhs_dilation"],
            low=low,
            high=highs,
            lhs_dilation=a["lhs_dilation"],
            rhs_dilation=a["stride"],
            groups=groups,
        )
        gw = _swapped(gw, ndim)
    return gx, gw


def _transposed_filters(w, t: TensorType, groups: int):
    """[O, C/G, ...] -> [C, O/G, ...] group by group."""
    if groups == 1:
        return _swapped(w, t.ndim)
    o, c, *rest = t.shape
    w = reshape(w, shape=(groups, floordiv(o, groups), c, *rest))
    w = permute(w, perm=(0, 2, 1, *range(3, t.ndim + 1)))
    return reshape(w, shape=(groups * c, floordiv(o, groups), *rest))


def _images_as_channels(x, t: TensorType, groups: int):
    """[N, G*(C/G), ...] -> [C/G, G*N, ...]."""
    if groups == 1:
        return _swapped(x, t.ndim)
    n, c, *rest = t.shape
    x = reshape(x, shape=(n, groups, floordiv(c, groups), *rest))
    x = permute(x, perm=(2, 1, 0, *range(3, t.ndim + 1)))
    return reshape(x, shape=(floordiv(c, groups), groups * n, *rest))


def _conv_batch(c: BatchContext):
    """Lanes of images are more images; lanes of filters are more filters, or, with images of their own, more groups."""
    attrs, n, (x, w), size = c.attrs, c.types[0].shape[0], c.args, c.size
    out_channels, groups = c.types[1].shape[0], c.attrs["groups"]
    if not c.batched[1]:
        return unfold(conv(fold(x, 0), w, **attrs), 0, size, n)
    if c.batched[0]:
        attrs = attrs | {"groups": numel((size, groups))}
        return unfold(conv(fold(x, 1), fold(w, 0), **attrs), 1, size, out_channels)
    if groups == 1:
        return unfold(conv(x, fold(w, 0), **attrs), 1, size, out_channels)
    each = floordiv(out_channels, groups)
    w = move_axis(reshape(w, shape=(size, groups, each, *c.types[1].shape[1:])), 0, 1)  # group by group, then lanes
    out = conv(x, reshape(w, shape=(numel((groups, size, each)), *c.types[1].shape[1:])), **attrs)
    spatial = value_type(out).shape[2:]
    out = move_axis(reshape(out, shape=(n, groups, size, each, *spatial)), 2, 0)
    return reshape(out, shape=(size, n, out_channels, *spatial))


def _attrs(k: int, **given: Any) -> dict[str, Any]:
    one, none = (1,) * k, (0,) * k
    return {"stride": one, "low": none, "high": none, "lhs_dilation": one, "rhs_dilation": one, "groups": 1} | given


conv = register(
    OpDef(
        "conv",
        "structural",
        ("x", "w"),
        _conv_type,
        _conv,
        _conv_vjp,
        attrs={
            "stride": REQUIRED,
            "low": REQUIRED,
            "high": REQUIRED,
            "lhs_dilation": REQUIRED,
            "rhs_dilation": REQUIRED,
            "groups": 1,
        },
        saves=("x", "w"),
        multilinear=True,
        batch=_conv_batch,
        samples=lambda: [
            Sample((example(2, 3, 6, 7), example(4, 3, 3, 2)), _attrs(2, low=(1, 1), high=(1, 0))),
            Sample((example(2, 3, 9), example(2, 3, 3)), _attrs(1, stride=(2,), low=(1,), rhs_dilation=(2,))),
            Sample((example(1, 4, 5, 6), example(6, 2, 2, 2)), _attrs(2, stride=(2, 1), groups=2)),
            Sample((example(2, 3, 5, 5), example(3, 1, 3, 3)), _attrs(2, low=(1, 1), high=(1, 1), groups=3)),
            Sample((example(1, 2, 3, 4, 3), example(2, 2, 2, 2, 2)), _attrs(3, high=(1, 0, 0))),
            Sample((example(1, 2, 4), example(2, 2, 3)), _attrs(1, lhs_dilation=(2,), low=(2,), high=(1,))),
            Sample((example(1, 1, 8), example(1, 1, 2)), _attrs(1, low=(-1,), high=(-2,))),
            Sample((example(0, 2, 4), example(3, 2, 2)), _attrs(1)),
            Sample((example(2, 1, 4, 4, dtype=np.int32), example(1, 1, 1, 1, dtype=np.int32)), _attrs(2)),
        ],
        errors=lambda: [
            ErrorSample((example(1, 3, 4), example(2, 2, 3)), _attrs(1), TypeRuleError, "3 channels.*groups"),
            ErrorSample((example(1, 2, 4), example(2, 2, 5)), _attrs(1), TypeRuleError, "does not fit"),
            ErrorSample((example(1, 2, 4), example(2, 2, 3)), _attrs(1, stride=(0,)), TypeRuleError, "positive"),
            ErrorSample((example(2, 4), example(2, 4)), _attrs(0), TypeRuleError, "1 to 3 spatial"),
            ErrorSample(
                (example(1, 2, 4), example(2, 2, 3, dtype=np.float64)), _attrs(1), DTypeRuleError, "dtypes differ"
            ),
        ],
        doc="x[N, C, ...] with filters w[O, C/groups, ...]: the filters are not flipped, as in all such libraries.",
    )
)

__all__ = ["conv", "dilated", "matmul"]
