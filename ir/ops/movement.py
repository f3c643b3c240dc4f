"""Creation and movement ops: they make or rearrange elements and compute nothing.

References give views of their operand where NumPy can express the result as strides. `index_maps.py` says the same
as symbolic index expressions, which is what lowering uses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..batching import BatchContext, extended, shifted
from ..dim import Dim, DimLike, ceildiv, negative, numel
from ..dtypes import DType, bool_, float32, from_numpy, int32, int64
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError, broadcast_shapes, normalize_axis

# ------------------------------------------------------------------ shared checks and test inputs


def check_length(values: tuple, n: int, what: str) -> None:
    """TypeRuleError unless the attribute is a tuple with one entry for each of `n` axes."""
    if not isinstance(values, tuple) or len(values) != n:
        raise TypeRuleError(f"{what} must be a tuple of {n} sizes, not {values!r}")


def check_nonnegative(d: DimLike, what: str) -> None:
    """TypeRuleError where `d` is certainly negative. Symbolic sizes of unknown sign pass: a guard settles them."""
    if negative(d):
        raise TypeRuleError(f"{what} is {d}, which is negative")


def _shape_text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"


def example(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Reproducible test data: standard normal for floats, -5..9 for integers, coin flips for bool."""
    rng = np.random.default_rng([seed, *shape])
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0 if np.dtype(dtype).kind == "u" else -5, 10, shape).astype(dtype)
    if np.dtype(dtype).kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


# ------------------------------------------------------------------ creation


def _full_type(value: Any, shape: Shape, dtype: DType) -> TensorType:
    if not isinstance(value, (bool, int, float, Dim)):
        raise TypeRuleError(f"value must be a number, not {value!r}")
    for d in shape:
        check_nonnegative(d, "a size")
    return TensorType(dtype, tuple(shape))


def _full(value: Any, shape: tuple[int, ...], dtype: DType) -> np.ndarray:
    if not value and math.copysign(1, value) > 0:
        return np.zeros(shape, dtype.np)  # calloc: pages are not touched until used
    return np.full(shape, np.asarray(value).astype(dtype.np))


full = register(
    OpDef(
        "full",
        "structural",
        (),
        _full_type,
        _full,
        lambda c, g: (),
        attrs={"value": REQUIRED, "shape": REQUIRED, "dtype": REQUIRED},
        saves=(),
        samples=lambda: [
            Sample((), {"value": 2.5, "shape": (3, 4), "dtype": float32}),
            Sample((), {"value": -0.0, "shape": (2,), "dtype": float32}),
            Sample((), {"value": 7, "shape": (), "dtype": int64}),
            Sample((), {"value": True, "shape": (0, 3), "dtype": bool_}),
        ],
        errors=lambda: [ErrorSample((), {"value": 1.0, "shape": (2, -1), "dtype": float32}, TypeRuleError, "negative")],
        doc="A tensor of `shape` filled with one value.",
    )
)


def _iota_type(shape: Shape, axis: int, dtype: DType) -> TensorType:
    if dtype is bool_:
        raise DTypeRuleError("dtype must be a number type, not bool")
    normalize_axis(axis, len(shape))
    for d in shape:
        check_nonnegative(d, "a size")
    return TensorType(dtype, tuple(shape))


def _iota(shape: tuple[int, ...], axis: int, dtype: DType) -> np.ndarray:
    n = shape[axis]
    line = np.arange(n).astype(dtype.np).reshape([n if i == axis else 1 for i in range(len(shape))])
    return np.broadcast_to(line, shape).copy()


iota = register(
    OpDef(
        "iota",
        "structural",
        (),
        _iota_type,
        _iota,
        lambda c, g: (),
        attrs={"shape": REQUIRED, "axis": REQUIRED, "dtype": REQUIRED},
        saves=(),
        samples=lambda: [
            Sample((), {"shape": (5,), "axis": 0, "dtype": int64}),
            Sample((), {"shape": (2, 5, 3), "axis": 1, "dtype": float32}),
            Sample((), {"shape": (4, 0), "axis": 0, "dtype": int32}),
        ],
        errors=lambda: [
            ErrorSample((), {"shape": (2, 3), "axis": 2, "dtype": int64}, IndexError, "out of bounds"),
            ErrorSample((), {"shape": (2,), "axis": 0, "dtype": bool_}, DTypeRuleError, "number type"),
        ],
        doc="Each element is its index along `axis`.",
    )
)


def zeros(t: TensorType, shape: Shape | None = None):
    """Zeros of type `t` (or of its dtype, in another shape), for gradient rules."""
    return full(value=0, shape=t.shape if shape is None else shape, dtype=t.dtype)


# ------------------------------------------------------------------ broadcast_to, reshape, permute, flip


def _broadcast_type(x: TensorType, shape: Shape) -> TensorType:
    if len(shape) < x.ndim or broadcast_shapes(x.shape, shape) != tuple(shape):
        raise TypeRuleError(f"shape {_shape_text(x.shape)} does not broadcast to {_shape_text(shape)}")
    return x.with_shape(shape)


def _broadcast_vjp(c: VjpContext, g):
    return (sum_to_shape(g, c.attrs["shape"], c.types[0].shape),)


def sum_to_shape(g, shape: Shape, target: Shape):
    """`g` of `shape`, summed over the axes along which `target` was broadcast to `shape`."""
    from . import reduce_sum

    lead = len(shape) - len(target)
    axes = (*range(lead), *(lead + i for i, d in enumerate(target) if d != shape[lead + i]))
    if not axes:
        return g
    g = reduce_sum(g, axes=axes)
    return g if len(axes) == lead else reshape(g, shape=target)


def _broadcast_batch(c: BatchContext):
    shape = c.attrs["shape"]
    return broadcast_to(c.aligned(0, len(shape)), shape=(c.size, *shape))


broadcast_to = register(
    OpDef(
        "broadcast_to",
        "structural",
        ("x",),
        _broadcast_type,
        lambda x, shape: np.broadcast_to(x, shape),
        _broadcast_vjp,
        attrs={"shape": REQUIRED},
        saves=(),
        linear=("x",),
        batch=_broadcast_batch,
        samples=lambda: [
            Sample((example(3),), {"shape": (2, 3)}),
            Sample((example(4, 1, 3),), {"shape": (2, 4, 5, 3)}),
            Sample((example(),), {"shape": (2, 2)}),
            Sample((example(1, 3),), {"shape": (0, 3)}),
            Sample((example(2, 1, dtype=np.int64),), {"shape": (2, 1)}),
        ],
        errors=lambda: [
            ErrorSample((example(3),), {"shape": (3, 2)}, TypeRuleError, "broadcast"),
            ErrorSample((example(2, 3),), {"shape": (3,)}, TypeRuleError, "broadcast"),
        ],
        doc="x repeated along new leading axes and axes of size 1.",
    )
)


def _reshape_type(x: TensorType, shape: Shape) -> TensorType:
    for d in shape:
        check_nonnegative(d, "a size")
    if numel(shape) != x.size:
        raise TypeRuleError(
            f"shape {_shape_text(x.shape)} has {x.size} elements, {_shape_text(shape)} has {numel(shape)}"
        )
    return x.with_shape(shape)


reshape = register(
    OpDef(
        "reshape",
        "structural",
        ("x",),
        _reshape_type,
        lambda x, shape: x.reshape(shape),
        lambda c, g: (reshape(g, shape=c.types[0].shape),),
        attrs={"shape": REQUIRED},
        saves=(),
        linear=("x",),
        batch=extended(shape=lambda n: n),
        samples=lambda: [
            Sample((example(4, 6),), {"shape": (2, 2, 3, 2)}),
            Sample((example(5, 17),), {"shape": (85,)}),
            Sample((example(1),), {"shape": ()}),
            Sample((example(2, 0, 3),), {"shape": (0, 7)}),
            Sample((example(3, 1, 4),), {"shape": (3, 4, 1, 1)}),
        ],
        errors=lambda: [ErrorSample((example(2, 3),), {"shape": (4,)}, TypeRuleError, "6 elements.*4")],
        doc="The same elements in row-major order under another shape.",
    )
)


def _permute_type(x: TensorType, perm: tuple[int, ...]) -> TensorType:
    if sorted(perm) != list(range(x.ndim)):
        raise TypeRuleError(f"perm {perm} is not a permutation of the {x.ndim} axes")
    return x.with_shape(x.shape[p] for p in perm)


def inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


permute = register(
    OpDef(
        "permute",
        "structural",
        ("x",),
        _permute_type,
        lambda x, perm: x.transpose(perm),
        lambda c, g: (permute(g, perm=inverse(c.attrs["perm"])),),
        attrs={"perm": REQUIRED},
        saves=(),
        linear=("x",),
        batch=lambda c: permute(c.args[0], perm=(0, *(p + 1 for p in c.attrs["perm"]))),
        samples=lambda: [
            Sample((example(5, 17),), {"perm": (1, 0)}),
            Sample((example(2, 3, 4),), {"perm": (2, 0, 1)}),
            Sample((example(),), {"perm": ()}),
            Sample((example(0, 3),), {"perm": (1, 0)}),
        ],
        errors=lambda: [ErrorSample((example(2, 3),), {"perm": (0, 0)}, TypeRuleError, "permutation")],
        doc="Axis i of the result is axis perm[i] of x.",
    )
)


def _flip_type(x: TensorType, axes: tuple[int, ...]) -> TensorType:
    if len(set(axes)) != len(axes):
        raise TypeRuleError(f"repeated axis in {axes}")
    for a in axes:
        if not 0 <= a < x.ndim:
            raise TypeRuleError(f"axis {a} is out of bounds for a tensor with {x.ndim} dimensions")
    return x


flip = register(
    OpDef(
        "flip",
        "structural",
        ("x",),
        _flip_type,
        lambda x, axes: x[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(x.ndim)) or ...],
        lambda c, g: (flip(g, axes=c.attrs["axes"]),),
        attrs={"axes": REQUIRED},
        saves=(),
        linear=("x",),
        batch=shifted("axes"),
        samples=lambda: [
            Sample((example(5, 17),), {"axes": (1,)}),
            Sample((example(2, 3, 4),), {"axes": (0, 2)}),
            Sample((example(0, 1),), {"axes": (0, 1)}),
            Sample((example(3),), {"axes": ()}),
        ],
        errors=lambda: [ErrorSample((example(2, 3),), {"axes": (2,)}, TypeRuleError, "out of bounds")],
        doc="x in reverse order along each of `axes`.",
    )
)

# ------------------------------------------------------------------ slice, slice_scatter, pad, concat


def _slice_type(x: TensorType, start: Shape, stop: Shape, step: tuple[int, ...]) -> TensorType:
    for values, what in ((start, "start"), (stop, "stop"), (step, "step")):
        check_length(values, x.ndim, what)
    for d, lo, hi, s in zip(x.shape, start, stop, step):
        if not isinstance(s, int) or s <= 0:
            raise TypeRuleError(f"step {s} is not a positive int")
        check_nonnegative(lo, "start")
        if negative(hi - lo) or negative(d - hi):
            raise TypeRuleError(f"slice {lo}:{hi} is not within 0 <= start <= stop <= {d}")
    return x.with_shape(ceildiv(hi - lo, s) for lo, hi, s in zip(start, stop, step))


def _slices(start, stop, step) -> tuple:
    return tuple(map(slice, start, stop, step)) or (...,)


def _slice_vjp(c: VjpContext, g):
    start, stop, step = c.attrs["start"], c.attrs["stop"], c.attrs["step"]
    if all(s == 1 for s in step):
        return (pad(g, low=start, high=tuple(d - hi for d, hi in zip(c.types[0].shape, stop)), value=0),)
    return (slice_scatter(zeros(c.types[0]), g, **c.attrs),)


slice_ = register(
    OpDef(
        "slice",
        "structural",
        ("x",),
        _slice_type,
        lambda x, start, stop, step: x[_slices(start, stop, step)],
        _slice_vjp,
        attrs={"start": REQUIRED, "stop": REQUIRED, "step": REQUIRED},
        saves=(),
        linear=("x",),
        batch=extended(start=0, stop=lambda n: n, step=1),
        samples=lambda: [
            Sample((example(5, 17),), {"start": (1, 2), "stop": (4, 17), "step": (1, 3)}),
            Sample((example(6),), {"start": (2,), "stop": (5,), "step": (1,)}),
            Sample((example(3, 4),), {"start": (1, 2), "stop": (1, 4), "step": (1, 1)}),
            Sample((example(),), {"start": (), "stop": (), "step": ()}),
        ],
        errors=lambda: [
            ErrorSample((example(3),), {"start": (2,), "stop": (4,), "step": (1,)}, TypeRuleError, "within"),
            ErrorSample((example(3),), {"start": (0,), "stop": (3,), "step": (0,)}, TypeRuleError, "positive"),
            ErrorSample((example(3),), {"start": (0, 0), "stop": (3,), "step": (1,)}, TypeRuleError, "tuple of 1"),
        ],
        doc="x[start:stop:step] along every axis, with 0 <= start <= stop <= size.",
    )
)


def _slice_scatter_type(x: TensorType, y: TensorType, start: Shape, stop: Shape, step: tuple[int, ...]) -> TensorType:
    region = _slice_type(x, start, stop, step)
    if y.dtype is not x.dtype:
        raise DTypeRuleError(f"operand dtypes differ: {x.dtype} and {y.dtype}")
    if y.shape != region.shape:
        raise TypeRuleError(f"the region has shape {_shape_text(region.shape)}, y has {_shape_text(y.shape)}")
    return x


def _slice_scatter(x: np.ndarray, y: np.ndarray, start, stop, step) -> np.ndarray:
    out = x.copy()
    out[_slices(start, stop, step)] = y
    return out


def _slice_scatter_vjp(c: VjpContext, g):
    gx = slice_scatter(g, zeros(c.types[1]), **c.attrs) if c.needs[0] else None
    return gx, slice_(g, **c.attrs) if c.needs[1] else None


slice_scatter = register(
    OpDef(
        "slice_scatter",
        "structural",
        ("x", "y"),
        _slice_scatter_type,
        _slice_scatter,
        _slice_scatter_vjp,
        attrs={"start": REQUIRED, "stop": REQUIRED, "step": REQUIRED},
        saves=(),
        linear=("x", "y"),
        batch=extended(start=0, stop=lambda n: n, step=1),
        samples=lambda: [
            Sample((example(5, 17), example(3, 5)), {"start": (1, 2), "stop": (4, 17), "step": (1, 3)}),
            Sample((example(6), example(6, seed=1)), {"start": (0,), "stop": (6,), "step": (1,)}),
            Sample((example(3, 4), example(0, 2)), {"start": (1, 2), "stop": (1, 4), "step": (1, 1)}),
        ],
        errors=lambda: [
            ErrorSample(
                (example(5), example(2)), {"start": (0,), "stop": (3,), "step": (1,)}, TypeRuleError, r"region.*\(3\)"
            ),
            ErrorSample(
                (example(5), example(5, dtype=np.int64)),
                {"start": (0,), "stop": (5,), "step": (1,)},
                DTypeRuleError,
                "dtypes differ",
            ),
        ],
        doc="x with the region [start:stop:step] replaced by y.",
    )
)


def _pad_type(x: TensorType, low: Shape, high: Shape, value: Any) -> TensorType:
    for values, what in ((low, "low"), (high, "high")):
        check_length(values, x.ndim, what)
        for d in values:
            check_nonnegative(d, what)
    if not isinstance(value, (bool, int, float)):
        raise TypeRuleError(f"value must be a number, not {value!r}")
    return x.with_shape(d + lo + hi for d, lo, hi in zip(x.shape, low, high))


def _pad(x: np.ndarray, low, high, value) -> np.ndarray:
    out = _full(value, tuple(d + lo + hi for d, lo, hi in zip(x.shape, low, high)), from_numpy(x.dtype))
    out[tuple(slice(lo, lo + d) for d, lo in zip(x.shape, low))] = x
    return out


def _pad_vjp(c: VjpContext, g):
    low, shape = c.attrs["low"], c.types[0].shape
    stop = tuple(lo + d for lo, d in zip(low, shape))
    return (slice_(g, start=low, stop=stop, step=(1,) * len(shape)),)


pad = register(
    OpDef(
        "pad",
        "structural",
        ("x",),
        _pad_type,
        _pad,
        _pad_vjp,
        attrs={"low": REQUIRED, "high": REQUIRED, "value": 0},
        saves=(),
        batch=extended(low=0, high=0),
        samples=lambda: [
            Sample((example(5, 7),), {"low": (1, 0), "high": (2, 3), "value": 0}),
            Sample((example(4),), {"low": (2,), "high": (0,), "value": float("-inf")}, gradcheck=False),
            Sample((example(4),), {"low": (2,), "high": (1,), "value": 1.5}),
            Sample((example(0, 3),), {"low": (1, 0), "high": (0, 1), "value": 2}),
            Sample((example(2, 3, dtype=np.int32),), {"low": (0, 0), "high": (0, 0), "value": 0}),
        ],
        errors=lambda: [
            ErrorSample((example(3),), {"low": (-1,), "high": (0,), "value": 0}, TypeRuleError, "negative"),
            ErrorSample((example(3),), {"low": (1, 1), "high": (0,), "value": 0}, TypeRuleError, "tuple of 1"),
        ],
        doc="x with low[i] elements of `value` before and high[i] after it along each axis i.",
    )
)


def _concat_type(*xs: TensorType, axis: int) -> TensorType:
    if not xs:
        raise TypeRuleError("needs at least one operand")
    first = xs[0]
    if first.ndim == 0:
        raise TypeRuleError("0-d tensors cannot be concatenated")
    if not 0 <= axis < first.ndim:
        raise TypeRuleError(f"axis {axis} is out of bounds for a tensor with {first.ndim} dimensions")
    total: DimLike = 0
    for t in xs:
        if t.dtype is not first.dtype:
            raise DTypeRuleError(f"operand dtypes differ: {first.dtype} and {t.dtype}")
        if t.ndim != first.ndim or any(i != axis and a != b for i, (a, b) in enumerate(zip(t.shape, first.shape))):
            raise TypeRuleError(
                f"shapes {_shape_text(first.shape)} and {_shape_text(t.shape)} differ in an axis other than {axis}"
            )
        total = total + t.shape[axis]
    return first.with_shape(total if i == axis else d for i, d in enumerate(first.shape))


def _concat_vjp(c: VjpContext, g):
    axis, out = c.attrs["axis"], []
    at: DimLike = 0
    for t, needed in zip(c.types, c.needs):
        end = at + t.shape[axis]
        if needed:
            start = tuple(at if i == axis else 0 for i in range(t.ndim))
            stop = tuple(end if i == axis else d for i, d in enumerate(t.shape))
            out.append(slice_(g, start=start, stop=stop, step=(1,) * t.ndim))
        else:
            out.append(None)
        at = end
    return tuple(out)


concat = register(
    OpDef(
        "concat",
        "structural",
        ("*xs",),
        _concat_type,
        lambda *xs, axis: np.concatenate(xs, axis=axis),
        _concat_vjp,
        attrs={"axis": REQUIRED},
        saves=(),
        linear=("*xs",),
        batch=shifted("axis"),
        samples=lambda: [
            Sample((example(2, 3), example(4, 3), example(1, 3)), {"axis": 0}),
            Sample((example(5, 17), example(5, 0)), {"axis": 1}),
            Sample((example(3),), {"axis": 0}),
        ],
        errors=lambda: [
            ErrorSample((example(2, 3), example(2, 4)), {"axis": 0}, TypeRuleError, "differ in an axis"),
            ErrorSample((example(2), example(2, dtype=np.int64)), {"axis": 0}, DTypeRuleError, "dtypes differ"),
        ],
        doc="The operands one after the other along `axis`.",
    )
)
