"""NumPy's functions and array methods in a trace, for `array_mode.ArrayTracer`."""

from __future__ import annotations

import functools
from typing import Any, Callable

import numpy as np

from ...ir.dtypes import dtype_of
from ...ir.op import get_op
from ..dispatch import apply
from ..state import SymbolicScalar, state
from ..tensor import Tensor
from .array_mode import Arrays, ArrayTracer, axes_of, cast, keep, matmul, reduce, stop, tensor_of, truth

# Attributes of ndarrays that hooks hand out; methods become the functions of that name.
PLAIN_ATTRIBUTES = frozenset("shape ndim size itemsize nbytes".split())
METHODS: dict[str, str] = {
    n: n for n in "sum prod mean var std max min argmax argmin any all reshape ravel transpose".split()
}
METHODS |= {n: n for n in "swapaxes squeeze clip dot round argsort searchsorted".split()}

FUNCTIONS: dict[Any, Callable] = {}
GIVE_NUMBERS = {np.sum, np.prod, np.max, np.amax, np.min, np.amin, np.all, np.any, np.mean, np.var, np.std, np.argmax}
GIVE_NUMBERS |= {np.argmin, np.dot, np.clip}


def _implements(*functions: Any) -> Callable:
    def register(f: Callable) -> Callable:
        for function in functions:
            FUNCTIONS[function] = f
        return f

    return register


def _reduction(ufunc: np.ufunc, has_dtype: bool) -> Callable:
    def function(a: Any, axis: Any = None, *args: Any, keepdims: Any = False, **options: Any) -> Any:
        if args:
            stop("positional options of a reduction")
        return reduce(ufunc, a, axis=axis, keepdims=keepdims is True, **options)

    return function


for _functions, _ufunc_of in (
    ((np.sum,), np.add),
    ((np.prod,), np.multiply),
    ((np.max, np.amax), np.maximum),
    ((np.min, np.amin), np.minimum),
    ((np.all,), np.logical_and),
    ((np.any,), np.logical_or),
):
    _implements(*_functions)(_reduction(_ufunc_of, True))


def _floating(t: Tensor) -> Tensor:
    if t.dtype.bits == 16:
        stop("means of 16-bit floats")
    return t if t.dtype.is_floating else cast(t, np.dtype(np.float64))


@_implements(np.mean)
def _mean(a: Any, axis: Any = None, keepdims: Any = False) -> Any:
    with Arrays():
        t = _floating(tensor_of(a))
        axes = axes_of(axis, t.ndim)
        out = apply(get_op("mean"), t, axes=axes)
        return keep(out, t, axes) if keepdims is True else out


@_implements(np.var)
def _var(a: Any, axis: Any = None, *, ddof: int = 0, keepdims: Any = False) -> Any:
    with Arrays():
        t = _floating(tensor_of(a))
        axes = axes_of(axis, t.ndim)
        out = apply(get_op("var"), t, axes=axes, correction=ddof)
        return keep(out, t, axes) if keepdims is True else out


@_implements(np.std)
def _std(a: Any, axis: Any = None, *, ddof: int = 0, keepdims: Any = False) -> Any:
    return np.sqrt(_var(a, axis, ddof=ddof, keepdims=keepdims))


def _arg(op: str) -> Callable:
    def function(a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
        with Arrays():
            t = tensor_of(a)
            if axis is None:
                flat = apply(get_op("reshape"), t, shape=(int(np.prod(t.shape)),))
                return (
                    apply(get_op(op), flat, axis=0)
                    if keepdims is not True
                    else stop("keepdims of an index over all axes")
                )
            axes = axes_of(axis, t.ndim)
            out = apply(get_op(op), t, axis=axes[0])
            return keep(out, t, axes) if keepdims is True else out

    return function


_implements(np.argmax)(_arg("argmax"))
_implements(np.argmin)(_arg("argmin"))


@_implements(np.argsort)
def _argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    if order is not None or kind not in ("stable", "mergesort") and stable is not True:
        stop("numpy.argsort that is not stable: the order of equal elements is left open")
    t = _ravel(a) if axis is None else tensor_of(a)
    with Arrays():
        return apply(get_op("argsort"), t, axis=axes_of(-1 if axis is None else axis, t.ndim)[0], descending=False)


@_implements(np.sort)
def _sort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    from ..sorting import sort

    if order is not None:
        stop("numpy.sort by fields")
    t = _ravel(a) if axis is None else tensor_of(a)
    with Arrays():
        return sort(t, axis=axes_of(-1 if axis is None else axis, t.ndim)[0])


@_implements(np.searchsorted)
def _searchsorted(a: Any, v: Any, side: str = "left", sorter: Any = None) -> Any:
    if sorter is not None or not hasattr(v, "ndim") or v.ndim == 0 or tensor_of(a).ndim != 1:
        stop("numpy.searchsorted with a sorter, or of a number")
    with Arrays():
        dtype = _common(a, v)
        return apply(get_op("searchsorted"), cast(a, dtype), cast(v, dtype), right=side == "right")


@_implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return np.nonzero(condition)
    with Arrays():
        dtype = _common(x, y)
        return apply(get_op("where"), truth(condition), cast(x, dtype), cast(y, dtype))


def _common(*xs: Any) -> np.dtype:
    """np.result_type, with Python numbers (and their stand-ins) weak."""
    return np.result_type(
        *[x.dtype.np if isinstance(x, Tensor) else 0.0 if isinstance(x, SymbolicScalar) else x for x in xs]
    )


@_implements(np.clip)
def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = a_min if a_min is not None else min, a_max if a_max is not None else max
    out = a if low is None else np.maximum(a, low)
    return out if high is None else np.minimum(out, high)


@_implements(np.concatenate)
def _concatenate(arrays: Any, axis: Any = 0) -> Any:
    with Arrays():
        dtype = _common(*arrays)
        ts = [cast(x, dtype) for x in arrays]
        if axis is None:
            ts, axis = [apply(get_op("reshape"), t, shape=(int(np.prod(t.shape)),)) for t in ts], 0
        return apply(get_op("concat"), *ts, axis=axes_of(axis, ts[0].ndim)[0])


@_implements(np.stack)
def _stack(arrays: Any, axis: int = 0) -> Any:
    return _concatenate([np.expand_dims(x, axis) for x in arrays], axis)


@_implements(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    t = tensor_of(a)
    added = axes_of(axis, t.ndim + (len(axis) if isinstance(axis, tuple) else 1))
    sizes = iter(t.shape)
    return _reshape(t, tuple(1 if i in added else next(sizes) for i in range(t.ndim + len(added))))


@_implements(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    t = tensor_of(a)
    gone = axes_of(axis, t.ndim) if axis is not None else tuple(i for i, d in enumerate(t.shape) if d == 1)
    if any(t.shape[i] != 1 for i in gone):
        raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return _reshape(t, tuple(d for i, d in enumerate(t.shape) if i not in gone))


@_implements(np.reshape)
def _reshape(a: Any, *shape: Any, **options: Any) -> Any:
    if options:
        stop("options of numpy.reshape")
    with Arrays():
        return Tensor.reshape(tensor_of(a), *shape)


@_implements(np.ravel)
def _ravel(a: Any) -> Any:
    return _reshape(a, (-1,))


@_implements(np.transpose)
def _transpose(a: Any, *axes: Any) -> Any:
    t = tensor_of(a)
    if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
        axes = () if axes[0] is None else tuple(axes[0])
    perm = tuple(range(t.ndim))[::-1] if not axes else tuple(a % t.ndim for a in axes)
    with Arrays():
        return apply(get_op("permute"), t, perm=perm)


@_implements(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    perm = list(range(tensor_of(a).ndim))
    perm[axis1], perm[axis2] = perm[axis2], perm[axis1]
    return _transpose(a, tuple(perm))


@_implements(np.moveaxis)
def _moveaxis(a: Any, source: int, destination: int) -> Any:
    t = tensor_of(a)
    perm = [i for i in range(t.ndim) if i != source % t.ndim]
    perm.insert(destination % t.ndim, source % t.ndim)
    return _transpose(t, tuple(perm))


@_implements(np.broadcast_to)
def _broadcast_to(a: Any, shape: Any) -> Any:
    with Arrays():
        return apply(get_op("broadcast_to"), tensor_of(a), shape=(shape,) if isinstance(shape, int) else tuple(shape))


@_implements(np.dot)
def _dot(a: Any, b: Any) -> Any:
    if tensor_of(a).ndim not in (1, 2) or tensor_of(b).ndim not in (1, 2):
        stop("numpy.dot of these shapes")
    with Arrays():
        return matmul(a, b)


@_implements(np.outer)
def _outer(a: Any, b: Any) -> Any:
    return np.multiply(_reshape(a, (-1, 1)), _reshape(b, (1, -1)))


def _like(value: float) -> Callable:
    def function(a: Any, dtype: Any = None) -> Any:
        t = tensor_of(a)
        with Arrays():
            full = get_op("full")(value=value, shape=t.shape, dtype=t.dtype if dtype is None else dtype_of(dtype))
            return state.tracer.wrap(full)  # type: ignore[union-attr]

    return function


_implements(np.zeros_like)(_like(0))
_implements(np.ones_like)(_like(1))


@_implements(np.copy)
def copy(a: Any) -> Any:
    return np.positive(a) if a.dtype.kind != "b" else _cast_copy(a)


def _cast_copy(a: Any) -> Any:
    with Arrays():
        return apply(get_op("cast"), a, dtype=a.dtype)


def astype(a: Any, dtype: Any) -> Any:
    """ndarray.astype: always a copy."""
    with Arrays():
        return apply(get_op("cast"), a, dtype=dtype_of(dtype))


def attribute(x: ArrayTracer, name: str) -> Any:
    """`x.name` as an ndarray has it. Ends the capture for what is not in the tables."""
    if name in PLAIN_ATTRIBUTES:
        value = getattr(x, name)
        return int(value) if name == "size" else value
    if name == "dtype":
        return x.dtype.np
    if name == "T":
        return x.T
    if name in ("real", "imag") and x.dtype.is_complex:
        return getattr(np, name)(x)
    if name in METHODS:
        return functools.partial(getattr(np, METHODS[name]), x)
    if name == "astype":
        return functools.partial(astype, x)
    if name in ("copy", "flatten"):
        return functools.partial(copy, x) if name == "copy" else lambda: copy(_ravel(x))
    if name == "fill":
        return lambda value: x.__setitem__(..., value)
    stop(f"ndarray.{name}")
