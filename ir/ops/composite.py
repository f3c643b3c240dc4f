"""Ops that are made of other ops: mean, var, logsumexp, softmax, log_softmax, cross entropy.

Each has a decomposition (which fuses into few kernels), a direct NumPy reference, and a gradient written by hand
where that makes a better graph than differentiating the decomposition. Narrow floats are computed in float32 throughout
and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..batching import BatchContext, BatchRule, fold, shifted, unfold
from ..dim import DimLike, maximum, nonnegative, numel
from ..dtypes import accumulator, int32, int64
from ..op import REQUIRED, Attrs, ErrorSample, OpDef, Sample, VjpContext, VjpRule, register, value_type
from ..types import DTypeRuleError, Shape, TensorType, TypeRuleError
from ._composite_samples import (
    axes_errors,
    axes_samples,
    axis_errors,
    axis_samples,
    cross_entropy_errors,
    cross_entropy_samples,
)
from ._declare import (
    FLOATING,
    checked_axes,
    common_dtype,
    const_like,
    create_like,
    exact,
    expand,
    wanted,
    without_axes,
)
from .elementary import exp, log
from .movement import reshape
from .pointwise import add, cast, div, eq, masked, mul, scale, shift, sub, where
from .reduce import reduce_max, reduce_sum, refuse_empty

Axes = tuple[int, ...]


def shape_of(x: Any) -> Shape:
    return value_type(x).shape


# ------------------------------------------------------------------ declaring


def _to(x: Any, dtype: Any) -> Any:
    return cast(x, dtype=dtype) if x is not None and value_type(x).dtype.is_floating else x


def _wide(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decomposition whose narrow operands are cast up first and whose results are cast down."""

    def decompose(*xs: Any, **attrs: Any) -> Any:
        dtype = value_type(xs[0]).dtype
        wide = accumulator(dtype)
        if wide is dtype:
            return fn(*xs, **attrs)
        out = fn(*(_to(x, wide) for x in xs), **attrs)
        return tuple(_to(o, dtype) for o in out) if isinstance(out, tuple) else _to(out, dtype)

    return decompose


def _wide_vjp(rule: VjpRule) -> VjpRule:
    """The same for a rule."""

    def vjp(c: VjpContext, *gs: Any) -> tuple:
        dtype = c.types[0].dtype
        wide = accumulator(dtype)
        if wide is dtype:
            return rule(c, *gs)
        inputs, outputs = tuple(_to(x, wide) for x in c.inputs), tuple(_to(o, wide) for o in c.outputs)
        found = rule(VjpContext(inputs, outputs, c.types, c.attrs, c.needs), *(_to(g, wide) for g in gs))
        return tuple(_to(g, dtype) for g in found)

    return vjp


def composite(
    name: str, operands: tuple[str, ...], infer: Callable[..., Any], decompose: Callable[..., Any],
    reference: Callable[..., Any], vjp: VjpRule, *, attrs: Attrs | None = None, saves: tuple[str, ...],
    samples: Callable[[], Iterable[Sample]],
    errors: Callable[[], Iterable[ErrorSample]], n_outputs: int = 1, linear: tuple[str, ...] = (),
    batch: BatchRule | None = None, doc: str,
) -> OpDef:  # fmt: skip
    return register(
        OpDef(
            name=name, kind="composite", operands=operands, attrs=attrs or {}, infer=infer, reference=exact(reference),
            decompose=_wide(decompose), vjp=_wide_vjp(vjp), saves=saves, samples=samples, errors=errors,
            n_outputs=n_outputs, linear=linear, tolerance=3e-6, batch=batch, doc=doc,
        )
    )  # fmt: skip


def count(shape: Shape, axes: Axes) -> DimLike:
    return numel(tuple(shape[a] for a in axes))


def _over_axes(x: TensorType, axes: Axes) -> TensorType:
    common_dtype((x,), FLOATING)
    return x.with_shape(without_axes(x.shape, checked_axes(axes, x)))


# ------------------------------------------------------------------ mean, var


def divided(x: Any, n: DimLike | float) -> Any:
    """x / n, where n may be a symbolic size."""
    return div(x, const_like(x, n))


def centred(x: Any, axes: Axes) -> Any:
    """x minus its mean along the axes."""
    return sub(x, expand(mean(x, axes=axes), axes, shape_of(x)))


def _mean_decompose(x: Any, axes: Axes) -> Any:
    return divided(reduce_sum(x, axes=axes), count(shape_of(x), axes))


def mean_reference(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.add.reduce(x, axis=axes, dtype=x.dtype) / np.asarray(count(x.shape, axes), x.dtype)


def _mean_vjp(c: VjpContext, g: Any) -> tuple:
    axes, shape = c.attrs["axes"], c.types[0].shape
    return (expand(divided(g, count(shape, axes)), axes, shape),)


mean = composite(
    "mean", ("x",), _over_axes, _mean_decompose, mean_reference, _mean_vjp, attrs={"axes": REQUIRED}, saves=(),
    samples=lambda: axes_samples("mean"), errors=axes_errors, linear=("x",),
    batch=shifted("axes"),
    doc="The average along the axes, which are dropped; NaN over nothing.",
)  # fmt: skip


def _freedom(shape: Shape, axes: Axes, correction: float) -> DimLike | float:
    """The divisor of var: max(0, n - correction)."""
    n = count(shape, axes)
    if isinstance(n, int):
        return max(n - correction, 0)
    if correction != int(correction):
        raise TypeRuleError(f"correction={correction} must be whole over the symbolic size {n}")
    left = n - int(correction)
    return left if nonnegative(left) else maximum(left, 0)


def _var_infer(x: TensorType, axes: Axes, correction: float) -> TensorType:
    out = _over_axes(x, axes)
    _freedom(x.shape, axes, correction)
    return out


def _var_decompose(x: Any, axes: Axes, correction: float) -> Any:
    d = centred(x, axes)
    return divided(reduce_sum(mul(d, d), axes=axes), _freedom(shape_of(x), axes, correction))


def var_reference(x: np.ndarray, axes: Axes, correction: float) -> np.ndarray:
    d = x - np.add.reduce(x, axis=axes, keepdims=True) / np.asarray(count(x.shape, axes), x.dtype)
    return np.add.reduce(d * d, axis=axes) / np.asarray(_freedom(x.shape, axes, correction), x.dtype)


def _var_vjp(c: VjpContext, g: Any) -> tuple:
    x, axes, shape = c.inputs[0], c.attrs["axes"], c.types[0].shape
    each = divided(scale(g, 2), _freedom(shape, axes, c.attrs["correction"]))
    return (mul(expand(each, axes, shape), centred(x, axes)),)


var = composite(
    "var", ("x",), _var_infer, _var_decompose, var_reference, _var_vjp, attrs={"axes": REQUIRED, "correction": 1},
    saves=("x",), samples=lambda: axes_samples("var", ({"correction": 0}, {"correction": 1})), errors=axes_errors,
    batch=shifted("axes"),
    doc="The sum of squared deviations from the mean, over n - correction (0/0 where that is not positive).",
)  # fmt: skip

# ------------------------------------------------------------------ logsumexp, softmax, log_softmax


def _logsumexp_infer(x: TensorType, axes: Axes) -> TensorType:
    out = _over_axes(x, axes)
    refuse_empty(x.shape, axes)
    return out


def _logsumexp_decompose(x: Any, axes: Axes) -> Any:
    from .pointwise import isfinite

    top = reduce_max(x, axes=axes)
    top = masked(isfinite(top), top)  # an infinite maximum has no differences
    total = reduce_sum(exp(sub(x, expand(top, axes, shape_of(x)))), axes=axes)
    return add(log(total), top)


def _logsumexp_reference(x: np.ndarray, axes: Axes) -> np.ndarray:
    top = np.max(x, axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    return np.log(np.sum(np.exp(x - top), axis=axes)) + np.squeeze(top, axis=axes)


def _logsumexp_vjp(c: VjpContext, g: Any) -> tuple:
    axes, shape = c.attrs["axes"], c.types[0].shape
    out = where(eq(c.out, const_like(c.out, -np.inf)), const_like(c.out, 0), c.out)
    return (mul(expand(g, axes, shape), exp(sub(c.inputs[0], expand(out, axes, shape)))),)


logsumexp = composite(
    "logsumexp", ("x",), _logsumexp_infer, _logsumexp_decompose, _logsumexp_reference, _logsumexp_vjp,
    attrs={"axes": REQUIRED}, saves=("x", "out"), samples=lambda: axes_samples("logsumexp", empty=False),
    errors=axes_errors, batch=shifted("axes"), doc="log(sum(exp(x))) along the axes, without overflow.",
)  # fmt: skip


def _along_axis(x: TensorType, axis: int) -> TensorType:
    common_dtype((x,), FLOATING)
    checked_axes((axis,), x)
    return x


def _below_top(x: Any, axis: int) -> Any:
    """x minus its maximum along the axis."""
    return sub(x, expand(reduce_max(x, axes=(axis,)), (axis,), shape_of(x)))


def _is_empty(x: Any, axis: int) -> bool:
    size = shape_of(x)[axis]
    return isinstance(size, int) and size == 0


def _softmax_decompose(x: Any, axis: int) -> Any:
    if _is_empty(x, axis):
        return x
    e = exp(_below_top(x, axis))
    return div(e, expand(reduce_sum(e, axes=(axis,)), (axis,), shape_of(x)))


def _softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
    e /= np.sum(e, axis=axis, keepdims=True)
    return e


def _softmax_vjp(c: VjpContext, g: Any) -> tuple:
    axis, shape = c.attrs["axis"], c.types[0].shape
    weighted = mul(g, c.out)
    total = expand(reduce_sum(weighted, axes=(axis,)), (axis,), shape)
    return (mul(c.out, sub(g, total)),)


def _log_softmax_decompose(x: Any, axis: int) -> Any:
    if _is_empty(x, axis):
        return x
    below = _below_top(x, axis)
    return sub(below, expand(log(reduce_sum(exp(below), axes=(axis,))), (axis,), shape_of(x)))


def _log_softmax_reference(x: np.ndarray, axis: int) -> np.ndarray:
    below = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    below -= np.log(np.sum(np.exp(below), axis=axis, keepdims=True))
    return below


def _log_softmax_vjp(c: VjpContext, g: Any) -> tuple:
    axis, shape = c.attrs["axis"], c.types[0].shape
    total = expand(reduce_sum(g, axes=(axis,)), (axis,), shape)
    return (sub(g, mul(exp(c.out), total)),)


softmax = composite(
    "softmax", ("x",), _along_axis, _softmax_decompose, _softmax_reference, _softmax_vjp, attrs={"axis": REQUIRED},
    saves=("out",), samples=lambda: axis_samples("softmax"), errors=axis_errors, batch=shifted("axis"),
    doc="exp(x) / sum(exp(x)) along one axis.",
)  # fmt: skip
log_softmax = composite(
    "log_softmax", ("x",), _along_axis, _log_softmax_decompose, _log_softmax_reference, _log_softmax_vjp,
    attrs={"axis": REQUIRED}, saves=("out",), samples=lambda: axis_samples("log_softmax"), errors=axis_errors,
    batch=shifted("axis"),
    doc="log(softmax(x)) along one axis.",
)  # fmt: skip

# ------------------------------------------------------------------ cross_entropy


def _cross_entropy_infer(logits: TensorType, target: TensorType) -> TensorType:
    common_dtype((logits,), FLOATING)
    if target.dtype not in (int32, int64):
        raise DTypeRuleError(f"target must be i32 or i64, not {target.dtype.code}")
    if logits.ndim < 2:
        raise TypeRuleError(f"logits {logits} have no class axis: at least 2 dimensions are needed")
    refuse_empty(logits.shape, (1,))
    if target.shape != without_axes(logits.shape, (1,)):
        raise TypeRuleError(f"target {target} does not fit logits {logits}: their shapes must agree without axis 1")
    return logits.with_shape(target.shape)


def _is_target(logits: Any, target: Any) -> Any:
    """Whether each class is the target: bool, of the logits' shape."""
    t, shape = value_type(target), shape_of(logits)
    classes = create_like(logits, "iota", {"shape": (shape[1], *(1,) * (len(shape) - 2)), "axis": 0, "dtype": t.dtype})
    return eq(classes, reshape(target, shape=(shape[0], 1, *shape[2:])))


def _cross_entropy_decompose(logits: Any, target: Any) -> Any:
    """With the same exponentials as softmax, which the gradient needs."""
    from .indexing import gather

    shape = shape_of(logits)
    if len(shape) == 2:
        rows = create_like(logits, "iota", {"shape": (shape[0],), "axis": 0, "dtype": value_type(target).dtype})
        picked = gather(logits, rows, target)
    else:
        picked = reduce_sum(masked(_is_target(logits, target), logits), axes=(1,))
    top = reduce_max(logits, axes=(1,))
    total = reduce_sum(exp(_below_top(logits, 1)), axes=(1,))
    return sub(add(log(total), top), picked)


def _cross_entropy_reference(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    classes = logits.shape[1]
    if target.size and not (0 <= target.min() and target.max() < classes):
        bad = target[(target < 0) | (target >= classes)][0]
        raise IndexError(f"target {bad} is out of range for {classes} classes")
    picked = np.take_along_axis(logits, np.expand_dims(target, 1), axis=1)
    return _logsumexp_reference(logits, (1,)) - picked.reshape(target.shape)


def _cross_entropy_vjp(c: VjpContext, g: Any) -> tuple:
    logits, target = c.inputs
    share = softmax(logits, axis=1)
    excess = where(_is_target(logits, target), shift(share, -1), share)
    return wanted(c, lambda: mul(expand(g, (1,), c.types[0].shape), excess), lambda: None)


def _cross_entropy_batch(c: BatchContext) -> Any:
    """Lanes are more rows."""
    rows = c.types[0].shape[0]
    return unfold(cross_entropy(fold(c.spread(0), 0), fold(c.spread(1), 0)), 0, c.size, rows)


cross_entropy = composite(
    "cross_entropy", ("logits", "target"), _cross_entropy_infer, _cross_entropy_decompose, _cross_entropy_reference,
    _cross_entropy_vjp, saves=("logits", "target"), samples=cross_entropy_samples, errors=cross_entropy_errors,
    batch=_cross_entropy_batch,
    doc="logsumexp(logits) - logits[target] along axis 1: logits[N, C, ...] and integer target[N, ...] in [0, C) give "
    "a loss [N, ...]. The reference raises IndexError for other targets; compiled code needs check_index before it.",
)  # fmt: skip
