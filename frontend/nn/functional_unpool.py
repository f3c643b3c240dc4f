"""Maxima with their positions, the way back from them, and maxima of random windows. Positions count the elements of the spatial axes taken as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...ir.dtypes import int64
from .. import creation, random
from .. import functions as fn
from ..manipulation import narrow
from ..tensor import Tensor, new_tensor
from .functional_conv import Size, spread


def flat_positions(sizes: Sequence[int], places: Sequence[Tensor]) -> Tensor:
    """Position of the element at `places` (one tensor per axis, which broadcast) in an array of `sizes`."""
    out = places[0]
    for size, place in zip(sizes[1:], places[1:], strict=True):
        out = out * size + place
    return out


def pick_largest(x: Tensor, places: Sequence[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """(maxima, positions) over the last k axes of `places`, which index the last k axes of x. The first axes of places
    before [o1, .., ok, w1, .., wk] are those of x, or 1."""
    lead, sizes = tuple(x.shape[: x.ndim - k]), tuple(x.shape[x.ndim - k :])
    positions = flat_positions(sizes, places)
    shape = positions.shape[positions.ndim - 2 * k :]
    outs, windows = tuple(shape[:k]), math.prod(shape[k:])
    flat = fn.reshape(positions, (*positions.shape[: positions.ndim - 2 * k], math.prod(outs), windows))
    flat = fn.broadcast_to(flat, (*lead, math.prod(outs), windows))
    rows = fn.reshape(x, (*lead, math.prod(sizes)))
    values = fn.take_along_axis(rows, fn.reshape(flat, (*lead, math.prod(outs) * windows)), axis=-1)
    values = fn.reshape(values, (*lead, math.prod(outs), windows))
    best = fn.expand_dims(fn.argmax(values.detach(), axis=-1), axis=-1)
    found = [fn.reshape(fn.take_along_axis(t, best, axis=-1), (*lead, *outs)) for t in (values, flat)]
    return found[0], found[1]


def window_places(
    sizes: Sequence[int], outs: Sequence[int], window: Sequence[int], stride, low, dilation
) -> list[Tensor]:
    """For each axis the places [o1, .., ok, w1, .., wk] (1 for other axes) that windows cover, those in the padding
    replaced by the nearest place inside that the window has as well."""
    k, out = len(sizes), []
    for i in range(k):
        first = np.arange(outs[i])[:, None] * stride[i] - low[i]
        at = first + np.arange(window[i]) * dilation[i]
        inside = (at >= 0) & (at < sizes[i])
        some = np.take_along_axis(at, inside.argmax(1)[:, None], axis=1)  # the first one inside
        at = np.where(inside, at, some)
        out.append(_on_axis(at, i, k))
    return out


def _on_axis(at: np.ndarray, i: int, k: int) -> Tensor:
    """[o, w] as [1, .., o, .., 1, .., w, ..]."""
    shape = [1] * (2 * k)
    shape[i], shape[k + i] = at.shape
    return new_tensor(np.ascontiguousarray(at.reshape(shape)))


def max_with_positions(x: Tensor, k: int, outs: Sequence[int], attrs: dict) -> tuple[Tensor, Tensor]:
    """Maxima of the windows that `attrs` (of `ops.windows`) describe, and their positions."""
    sizes = tuple(x.shape[x.ndim - k :])
    places = window_places(sizes, outs, attrs["window"], attrs["stride"], attrs["low"], attrs["dilation"])
    return pick_largest(x, places, k)


def adaptive_max_with_positions(x: Tensor, k: int, wanted: Sequence[int | None]) -> tuple[Tensor, Tensor]:
    """Maxima of n windows per axis of d: window i covers [floor(i d / n), ceil((i + 1) d / n)); and their positions."""
    places = []
    for i, n in enumerate(wanted):
        d = x.shape[x.ndim - k + i]
        n = d if n is None else n
        starts = np.arange(n) * d // n
        stops = -(-(np.arange(n) + 1) * d // n)
        at = np.minimum(starts[:, None] + np.arange(int((stops - starts).max())), stops[:, None] - 1)
        places.append(_on_axis(at, i, k))
    return pick_largest(x, places, k)


# ------------------------------------------------------------------ unpooling


def _unpool(
    k: int, x: Tensor, indices: Tensor, kernel: Size, stride: Size | None, padding: Size, output_size
) -> Tensor:
    what = f"max_unpool{k}d"
    if x.ndim not in (k + 1, k + 2) or tuple(indices.shape) != tuple(x.shape):
        raise ValueError(
            f"{what}: input {tuple(x.shape)} and indices {tuple(indices.shape)} must be equal, and have {k + 1} or "
            f"{k + 2} dimensions"
        )
    window = spread(kernel, k, what + " kernel_size")
    strides = window if stride is None or stride == () else spread(stride, k, what + " stride")
    low = spread(padding, k, what + " padding")
    lead, sizes = tuple(x.shape[: x.ndim - k]), x.shape[x.ndim - k :]
    smallest = tuple((d - 1) * s + w - 2 * p for d, s, w, p in zip(sizes, strides, window, low))
    outs = smallest
    if output_size is not None:
        outs = tuple(output_size)[-k:]
        for have, want, s in zip(smallest, outs, strides):
            if not have - s < want < have + s:
                raise ValueError(
                    f"{what}: output_size {outs} does not fit; {smallest} +- less than a stride is possible"
                )
    empty = creation.zeros((*lead, math.prod(outs)), dtype=x.dtype)
    flat = (*lead, math.prod(sizes))
    out = fn.scatter_along_axis(empty, empty.ndim - 1, fn.reshape(indices, flat), fn.reshape(x, flat))
    return fn.reshape(out, (*lead, *outs))


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """Puts [N, C, L] where `max_pool1d(return_indices=True)` found it, zeros elsewhere. output_size settles which of
    the sizes that pool to L is meant."""
    return _unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """`max_unpool1d` in two dimensions."""
    return _unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """`max_unpool1d` in three dimensions."""
    return _unpool(3, input, indices, kernel_size, stride, padding, output_size)


# ------------------------------------------------------------------ random windows


def _fractional(
    k: int, x: Tensor, kernel: Size, output_size, output_ratio, return_indices: bool, samples: Tensor | None
) -> Tensor | tuple[Tensor, Tensor]:
    what = f"fractional_max_pool{k}d"
    if x.ndim not in (k + 1, k + 2):
        raise ValueError(f"{what}: input of shape {tuple(x.shape)} needs {k + 1} or {k + 2} dimensions")
    if (output_size is None) == (output_ratio is None):
        raise ValueError(f"{what}: give exactly one of output_size and output_ratio")
    single = x.ndim == k + 1
    x = fn.expand_dims(x, axis=0) if single else x
    sizes, window = x.shape[2:], spread(kernel, k, what + " kernel_size")
    if output_size is None:
        ratios = (output_ratio,) * k if isinstance(output_ratio, (int, float)) else tuple(output_ratio)
        outs = tuple(int(d * r) for d, r in zip(sizes, ratios, strict=True))
    else:
        outs = spread(output_size, k, what + " output_size")
    for d, o, w in zip(sizes, outs, window):
        if o + w - 1 > d:
            raise ValueError(f"{what}: {o} windows of {w} do not fit into {d}: input {tuple(x.shape)}")
    if samples is None:
        samples = random.rand((*x.shape[:2], k), dtype=x.dtype)
    samples = narrow(narrow(samples, 0, 0, x.shape[0]), 1, 0, x.shape[1])
    places = []
    for i, (d, o, w) in enumerate(zip(sizes, outs, window)):
        column = k - 1 - i if k == 2 else i  # in PyTorch, images take their samples in the order W, H
        starts = _starts(narrow(samples, 2, column, column + 1), d, o, w)  # [N, C, o]
        at = fn.expand_dims(starts, axis=-1) + creation.arange(w)
        shape = [*x.shape[:2], *(1,) * (2 * k)]
        shape[2 + i], shape[2 + k + i] = o, w
        places.append(fn.reshape(at, tuple(shape)))
    found = pick_largest(x, places, k)
    if single:
        found = (fn.squeeze(found[0], axis=0), fn.squeeze(found[1], axis=0))
    return found if return_indices else found[0]


def _starts(sample: Tensor, size: int, n: int, window: int) -> Tensor:
    """Where the n windows begin: steps of alpha from a random offset, rounded down; the last one at the end."""
    if n == 1:
        return fn.astype(sample * 0.0, int64) + (size - window)
    alpha = (size - window) / (n - 1)
    steps = fn.astype(creation.arange(n - 1), sample.dtype)
    at = fn.astype(fn.trunc((steps + sample) * alpha), int64) - fn.astype(fn.trunc(sample * alpha), int64)
    end = fn.astype(sample * 0.0, int64) + (size - window)
    return fn.concat([at, end], axis=-1)


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """[N, C, H, W] -> [N, C, *output_size] (or H, W times output_ratio): maxima of windows at random steps (Graham
    2014)."""
    return _fractional(2, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: float | Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`fractional_max_pool2d` in three dimensions."""
    return _fractional(3, input, kernel_size, output_size, output_ratio, return_indices, _random_samples)
