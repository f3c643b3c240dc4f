"""NumPy functions on tensors: `np.exp(t)`, `np.add.reduce(t)`, `np.concatenate([t, u])`, `array + t`.

What has a function here goes through it, so that it is differentiated and traced. The rest runs in NumPy on the values,
and gives tensors without history; TypeError if that would lose a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from . import functions as f
from . import numpy_extensions, scipy_special
from .dispatch import write_result
from .state import state
from .tape import needs_grad
from .tensor import Tensor

UFUNCS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: f.add, np.subtract: f.subtract, np.multiply: f.multiply, np.divide: f.divide, np.negative: f.negative,
    np.floor_divide: f.floor_divide, np.remainder: f.remainder, np.power: f.pow, np.float_power: f.pow, np.abs: f.abs,
    np.fabs: f.abs, np.positive: f.positive, np.sign: f.sign, np.square: f.square, np.reciprocal: f.reciprocal,
    np.sqrt: f.sqrt, np.cbrt: f.cbrt, np.exp: f.exp, np.exp2: f.exp2, np.expm1: f.expm1, np.log: f.log, np.log2: f.log2,
    np.log10: f.log10, np.log1p: f.log1p, np.sin: f.sin, np.cos: f.cos, np.tan: f.tan, np.arcsin: f.asin,
    np.arccos: f.acos,
    np.arctan: f.atan, np.arctan2: f.atan2, np.sinh: f.sinh, np.cosh: f.cosh, np.tanh: f.tanh, np.arcsinh: f.asinh,
    np.arccosh: f.acosh, np.arctanh: f.atanh, np.maximum: f.maximum, np.minimum: f.minimum, np.copysign: f.copysign,
    np.hypot: f.hypot, np.logaddexp: f.logaddexp, np.floor: f.floor, np.ceil: f.ceil, np.trunc: f.trunc,
    np.rint: f.round,
    np.signbit: f.signbit, np.isnan: f.isnan, np.isinf: f.isinf, np.isfinite: f.isfinite, np.equal: f.equal,
    np.not_equal: f.not_equal, np.less: f.less, np.less_equal: f.less_equal, np.greater: f.greater,
    np.greater_equal: f.greater_equal, np.logical_and: f.logical_and, np.logical_or: f.logical_or,
    np.logical_xor: f.logical_xor, np.logical_not: f.logical_not, np.bitwise_and: f.bitwise_and,
    np.bitwise_or: f.bitwise_or,
    np.bitwise_xor: f.bitwise_xor, np.invert: f.bitwise_invert, np.left_shift: f.bitwise_left_shift,
    np.right_shift: f.bitwise_right_shift, np.matmul: f.matmul, np.nextafter: f.nextafter, np.conjugate: f.conj,
}  # fmt: skip
REDUCTIONS: dict[np.ufunc, Callable[..., Any]] = {
    np.add: f.sum, np.multiply: f.prod, np.maximum: f.max, np.minimum: f.min, np.logical_and: f.all,
    np.logical_or: f.any,
}  # fmt: skip


def array_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, kwargs: dict[str, Any]) -> Any:
    """`Tensor.__array_ufunc__`. NotImplemented for operands that are neither tensors nor arrays nor numbers."""
    out = kwargs.pop("out", None)
    where = kwargs.pop("where", True)
    dtype = kwargs.pop("dtype", None)
    known = (UFUNCS if method == "__call__" else REDUCTIONS if method == "reduce" else {}).get(ufunc)
    if known is None and method == "__call__":
        known = scipy_special.ufunc(ufunc)
    if known is None or where is not True or kwargs.keys() - {"axis", "keepdims"}:
        kwargs |= {"dtype": dtype} if dtype is not None else {}
        kwargs |= {"where": where} if where is not True else {}
        kwargs |= {"out": tuple(map(_plain, out))} if out is not None else {}
        return _in_numpy(getattr(ufunc, method), inputs, kwargs)
    if method == "reduce":
        x, *rest = inputs
        axis = kwargs.get("axis", rest[0] if rest else 0)
        result = known(x, axis=axis, keepdims=kwargs.get("keepdims", False))
    else:
        result = known(*inputs)
    if dtype is not None:
        result = f.astype(result, dtype, copy=False)
    if out is None:
        return result
    target = out[0]
    if isinstance(target, Tensor):
        return write_result(target, result, f"np.{ufunc.__name__}(out=)")
    np.copyto(target, result.numpy(), casting="same_kind")
    return target


def _plain(x: Any) -> Any:
    """Tensors anywhere in x as ndarrays."""
    if isinstance(x, Tensor):
        if state.grad_enabled and needs_grad(x):
            raise TypeError("this NumPy function has no gradient here; call it on x.detach()")
        return x.numpy()
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x)(map(_plain, x))
    return x


def _wrapped(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return f.as_tensor(x) if x.dtype.kind in "biufcV" else x
    if isinstance(x, (list, tuple)) and type(x) in (list, tuple):
        return type(x)(map(_wrapped, x))
    return f.as_tensor(x) if isinstance(x, np.generic) and x.dtype.kind in "biufc" else x


def _in_numpy(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    return _wrapped(function(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()}))


# ------------------------------------------------------------------ functions that are no ufuncs


def array_function(function: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`Tensor.__array_function__`."""
    known = FUNCTIONS.get(function)
    if known is None:
        return _in_numpy(function, args, kwargs)
    return known(*args, **kwargs)


def _reduction(function: Callable) -> Callable:
    def call(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False, **rest: Any) -> Any:
        if rest:
            raise TypeError(f"np.{function.__name__} of a tensor takes no {', '.join(rest)}")
        result = function(a, axis=axis, keepdims=keepdims)
        result = result if dtype is None else f.astype(result, dtype, copy=False)
        return result if out is None else write_result(out, result)

    return call


def _spread(function: Callable) -> Callable:
    """np.var and np.std."""

    def call(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: Any = None,
        ddof: float = 0,
        keepdims: bool = False,
        **rest: Any,
    ) -> Any:
        return function(a, axis=axis, correction=rest.get("correction", ddof), keepdims=keepdims)

    return call


def _where(condition: Any, *choices: Any) -> Any:
    return f.where(condition, *choices) if choices else f.nonzero(condition)


def _split(a: Any, indices_or_sections: Any, axis: int = 0) -> list[Tensor]:
    n = a.shape[axis]
    if isinstance(indices_or_sections, int):
        if n % indices_or_sections:
            raise ValueError(
                f"np.split: axis {axis} of shape {a.shape} does not divide into {indices_or_sections} equal parts"
            )
        return list(f.split(a, n // indices_or_sections, axis)) if n else [a] * indices_or_sections
    edges = [0, *(min(max(i + n if i < 0 else i, 0), n) for i in indices_or_sections), n]
    return [f.narrow(a, axis % a.ndim, lo, max(lo, hi)) for lo, hi in pairwise(edges)]


def _stacked(axis: int, least: int) -> Callable:
    """np.vstack and np.hstack."""

    def call(arrays: Any) -> Tensor:
        tensors = [f.as_tensor(a) for a in arrays]
        tensors = [f.reshape(t, (1,) * (least - t.ndim) + t.shape) if t.ndim < least else t for t in tensors]
        return f.concat(tensors, axis=0 if tensors[0].ndim == 1 else axis)

    return call


def _dot(a: Any, b: Any) -> Tensor:
    a, b = f.as_tensor(a), f.as_tensor(b)
    if a.ndim == 0 or b.ndim == 0:
        return f.multiply(a, b)
    return f.matmul(a, b) if b.ndim <= 2 else f.tensordot(a, b, axes=((a.ndim - 1,), (b.ndim - 2,)))


FUNCTIONS: dict[Callable, Callable] = {
    np.sum: _reduction(f.sum), np.prod: _reduction(f.prod), np.max: _reduction(f.max), np.min: _reduction(f.min),
    np.amax: _reduction(f.max), np.amin: _reduction(f.min), np.mean: _reduction(f.mean), np.any: _reduction(f.any),
    np.all: _reduction(f.all), np.var: _spread(f.var), np.std: _spread(f.std), np.where: _where,
    np.argmax: lambda a, axis=None, out=None, keepdims=False: f.argmax(a, axis=axis, keepdims=keepdims),
    np.argmin: lambda a, axis=None, out=None, keepdims=False: f.argmin(a, axis=axis, keepdims=keepdims),
    np.concatenate: lambda arrays, axis=0, **_: f.concat(arrays, axis=axis),
    np.stack: lambda arrays, axis=0, **_: f.stack(arrays, axis=axis),
    np.vstack: _stacked(0, 2), np.hstack: _stacked(1, 1), np.split: _split,
    np.reshape: lambda a, shape, order="C", **_: f.reshape(a, shape),
    np.transpose: lambda a, axes=None: f.permute_dims(a, range(a.ndim)[::-1] if axes is None else axes),
    np.swapaxes: f.swapaxes, np.moveaxis: f.moveaxis, np.expand_dims: f.expand_dims,
    np.squeeze: lambda a, axis=None: f.squeeze(a, axis), np.ravel: lambda a, order="C": f.ravel(a),
    np.broadcast_to: lambda array, shape, subok=False: f.broadcast_to(array, shape), np.flip: lambda m,
    axis=None: f.flip(m, axis),
    np.roll: lambda a, shift, axis=None: f.roll(a, shift, axis), np.tile: lambda A, reps: f.tile(A, reps),
    np.repeat: lambda a, repeats, axis=None: f.repeat(a, repeats, axis=axis),
    np.take: lambda a, indices, axis=None, **_: f.take(a, indices, axis=axis),
    np.take_along_axis: lambda arr, indices, axis=-1: f.take_along_axis(arr, indices, axis=axis),
    np.clip: lambda a, a_min=None, a_max=None, out=None, *, min=None, max=None, **_: f.clip(
        a, min if a_min is None else a_min, max if a_max is None else a_max
    ),
    np.round: lambda a, decimals=0, out=None: f.round(a, decimals), np.dot: _dot, np.outer: lambda a, b,
    out=None: f.outer(a, b),
    np.inner: lambda a, b: f.matmul(a, f.matrix_transpose(b) if b.ndim > 1 else b),
    np.vdot: lambda a, b: f.matmul(f.ravel(a), f.ravel(b)),
    np.tensordot: lambda a, b, axes=2: f.tensordot(a, b, axes=axes),
    np.einsum: lambda subscripts, *operands, **_: f.einsum(subscripts, *operands),
    np.cumsum: lambda a, axis=None, dtype=None,
    out=None: f.cumulative_sum(f.ravel(a) if axis is None else a, axis=axis or 0, dtype=dtype),
    np.cumprod: lambda a, axis=None, dtype=None, out=None: f.cumulative_prod(
        f.ravel(a) if axis is None else a, axis=axis or 0, dtype=dtype
    ),
    np.diff: lambda a, n=1, axis=-1, **_: f.diff(a, axis=axis, n=n),
    np.tril: lambda m, k=0: f.tril(m, k=k), np.triu: lambda m, k=0: f.triu(m, k=k),
    np.diagonal: lambda a, offset=0, axis1=0, axis2=1: f.diagonal(a, offset=offset, axis1=axis1, axis2=axis2),
    np.diag: lambda v, k=0: f.diag(v, k), np.trace: lambda a, offset=0, **_: f.trace(a, offset=offset),
    np.zeros_like: lambda a, dtype=None, **_: f.zeros_like(a, dtype=dtype),
    np.ones_like: lambda a, dtype=None, **_: f.ones_like(a, dtype=dtype),
    np.empty_like: lambda prototype, dtype=None, **_: f.empty_like(prototype, dtype=dtype),
    np.full_like: lambda a, fill_value, dtype=None, **_: f.full_like(a, fill_value, dtype=dtype),
    np.sort: lambda a, axis=-1, **_: f.sort(a, axis=axis), np.argsort: lambda a, axis=-1, **_: f.argsort(a, axis=axis),
    np.nonzero: f.nonzero, np.count_nonzero: lambda a, axis=None,
    keepdims=False: f.count_nonzero(a, axis=axis, keepdims=keepdims),
    np.nan_to_num: lambda x, copy=True, nan=0.0, posinf=None, neginf=None: f.nan_to_num(x, nan, posinf, neginf),
    np.shape: lambda a: a.shape, np.ndim: lambda a: a.ndim, np.size: lambda a,
    axis=None: a.size if axis is None else a.shape[axis],
    np.copy: lambda a, **_: f.positive(a), np.copyto: lambda dst, src, **_: dst.copy_(src),
    np.isclose: lambda a, b, rtol=1e-05, atol=1e-08, equal_nan=False: f.isclose(a, b, rtol, atol, equal_nan),
    np.allclose: lambda a, b, rtol=1e-05, atol=1e-08,
    equal_nan=False: bool(f.all(f.isclose(a, b, rtol, atol, equal_nan))),
    np.array_equal: lambda a1, a2, equal_nan=False: np.array_equal(_plain_values(a1), _plain_values(a2), equal_nan),
}  # fmt: skip
FUNCTIONS |= numpy_extensions.FUNCTIONS


def _plain_values(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else x
