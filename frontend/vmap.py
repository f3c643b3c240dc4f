"""`vmap`: a function of one example as a function of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from ..ir.batching import move_axis
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .capture import pytree
from .capture.pytree import Spec
from .convert import as_tensor, is_scalar
from .dispatch import apply
from .lanes import RANDOMNESS, Lane, Level
from .state import traced
from .tensor import Tensor

Axes = Any  # an int, None, or a nesting of them


def vmap(
    func: Callable,
    in_axes: Axes = 0,
    out_axes: Axes = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
    in_dims: Axes = 0,
    out_dims: Axes = 0,
) -> Callable:
    """A function that calls `func` for every index of an axis of its arguments at once, and stacks the results.

    in_axes: which axis, for all arguments, or a tuple with an entry (or a nesting of entries) for each; None: all calls
    get the whole argument. Keyword arguments are passed whole. out_axes: where the axis goes in the results; None for
    results that are the same in all calls. `in_dims`, `out_dims`: PyTorch's names for them.
    randomness: "error": the function may draw no random numbers; "different": each call draws its own; "same": all draw
    the same. chunk_size: at most so many calls at once, to save memory.

    Every op has a batching rule (`docs/transforms.md`), so that no loop runs. ValueError where sizes or axes do not fit.
    RuntimeError where the function asks for the value of a tensor that differs between calls, or draws random numbers.
    """
    in_axes = in_dims if in_dims != 0 else in_axes
    out_axes = out_dims if out_dims != 0 else out_axes
    if randomness not in RANDOMNESS:
        raise ValueError(f"vmap: randomness={randomness!r} is none of {', '.join(RANDOMNESS)}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"vmap: chunk_size={chunk_size} must be positive")

    @wraps(func, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.flatten(args)
        axes = _spread_axes(tuple(in_axes) if isinstance(in_axes, list) else in_axes, spec, "in_axes")
        leaves, size = _axes_first(leaves, axes)
        step = size if chunk_size is None else chunk_size
        if not isinstance(size, int) or size <= step:
            outs, out_spec = _all_at_once(func, leaves, axes, spec, kwargs, size, randomness)
        else:
            parts = []
            for at in range(0, size, step):
                end = min(at + step, size)
                chunk = [x if a is None else x[at:end] for x, a in zip(leaves, axes)]
                parts.append(_all_at_once(func, chunk, axes, spec, kwargs, end - at, randomness))
            out_spec = parts[0][1]
            outs = [_joined(column) for column in zip(*(p[0] for p in parts))]
        places = _spread_axes(out_axes, out_spec, "out_axes")
        return pytree.unflatten(out_spec, [_placed(x, place, size) for x, place in zip(outs, places)])

    return mapped


def _spread_axes(axes: Axes, spec: Spec, what: str) -> list[int | None]:
    """The axis of each leaf: an entry of `axes` counts for everything below it."""
    if axes is None or isinstance(axes, int) and not isinstance(axes, bool):
        return [axes] * spec.n_leaves
    if spec.kind is not None and isinstance(axes, dict) and set(axes) == set(spec.keys):
        return [a for k, child in zip(spec.keys, spec.children) for a in _spread_axes(axes[k], child, what)]
    if spec.kind is not None and isinstance(axes, (tuple, list)) and len(axes) == len(spec.children):
        return [a for entry, child in zip(axes, spec.children) for a in _spread_axes(entry, child, what)]
    where = "a leaf" if spec.kind is None else f"a {spec.kind.__name__} of {len(spec.children)}"
    raise ValueError(f"vmap: {what} has {axes!r} where there is {where}: give an int, None, or the same nesting")


def _axes_first(leaves: list[Any], axes: list[int | None]) -> tuple[list[Any], Any]:
    """The mapped leaves as tensors with the mapped axis in front, and its size."""
    out, size, first = [], None, ""
    for x, axis in zip(leaves, axes):
        if axis is None:
            out.append(x)
            continue
        if not isinstance(x, (Tensor, np.ndarray)):
            raise ValueError(f"vmap: in_axes has {axis} for a {type(x).__name__}, which has no axes; give None for it")
        t = as_tensor(x)
        if t.ndim == 0:
            raise ValueError(f"vmap: in_axes has {axis} for a tensor without axes; give None for it")
        at = normalize_axis(axis, t.ndim, "vmap: in_axes")
        if size is None:
            size, first = t.shape[at], f"axis {axis} of shape {tuple(t.shape)}"
        elif t.shape[at] != size:
            raise ValueError(
                f"vmap: mapped axes differ in size: {first} has {size}, axis {axis} of shape {tuple(t.shape)} has "
                f"{t.shape[at]}"
            )
        out.append(move_axis(t, at, 0))
    if size is None:
        raise ValueError("vmap: no argument is mapped; at least one entry of in_axes must be an int")
    return out, size


Result = tuple[Any, bool]  # (tensor or None, whether its first axis is the lanes')


def _all_at_once(
    func: Callable, leaves: list[Any], axes: list[int | None], spec: Spec, kwargs: dict, size: Any, randomness: str
) -> tuple[list[Result], Spec]:
    with Level(size, randomness) as level:
        inner = [x if a is None else level.wrap(level.value(Lane(x, True))) for x, a in zip(leaves, axes)]
        out = traced(func)(*pytree.unflatten(spec, inner), **kwargs)
        outs, out_spec = pytree.flatten(out)
        results: list[Result] = []
        for x in outs:
            if x is None:
                results.append((None, False))
                continue
            if not isinstance(x, (Tensor, np.ndarray)) and not is_scalar(x):
                raise TypeError(f"vmap: the function must return tensors, not a {type(x).__name__}")
            lane = level.lane(as_tensor(x))
            results.append((lane.tensor, lane.batched))
    return results, out_spec


def _joined(chunks: Sequence[Result]) -> Result:
    tensors = [t for t, _ in chunks]
    if not any(batched for _, batched in chunks):
        return chunks[-1]
    return apply(get_op("concat"), *tensors, axis=0), True


def _placed(result: Result, axis: int | None, size: Any) -> Any:
    t, batched = result
    if t is None:
        return None
    if axis is None:
        if batched:
            raise ValueError(
                f"vmap: out_axes has None for a result that differs between calls (shape {tuple(t.shape[1:])})"
            )
        return t
    if not batched:
        t = apply(get_op("broadcast_to"), t, shape=(size, *t.shape))
    return move_axis(t, 0, normalize_axis(axis, t.ndim, "vmap: out_axes"))


__all__ = ["vmap"]
