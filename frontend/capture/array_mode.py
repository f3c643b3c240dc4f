"""NumPy code in a trace: `ArrayTracer` stands for an ndarray and follows NumPy's rules for types, not the tensors'.

ufuncs get their types from NumPy itself (`ufunc.resolve_dtypes`); functions that are not in the tables end the capture.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, Callable, NoReturn

import numpy as np

from ...ir.dtypes import dtype_of, from_numpy
from ...ir.op import get_op
from ..dispatch import apply, assign
from ..state import SymbolicScalar, state
from ..tensor import Tensor, new_tensor

# NumPy's ufuncs and the ops that compute them
_UFUNCS: dict[str, str] = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "power": "pow",
    "negative": "neg",
    "absolute": "abs",
    "fabs": "abs",
    "sign": "sign",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "rint": "round",
    "sqrt": "sqrt",
    "cbrt": "cbrt",
    "exp": "exp",
    "exp2": "exp2",
    "expm1": "expm1",
    "log": "log",
    "log2": "log2",
    "log10": "log10",
    "log1p": "log1p",
    "sin": "sin",
    "cos": "cos",
    "tan": "tan",
    "arcsin": "asin",
    "arccos": "acos",
    "arctan": "atan",
    "arctan2": "atan2",
    "sinh": "sinh",
    "cosh": "cosh",
    "tanh": "tanh",
    "arcsinh": "asinh",
    "arccosh": "acosh",
    "arctanh": "atanh",
    "maximum": "maximum",
    "minimum": "minimum",
    "copysign": "copysign",
    "equal": "eq",
    "not_equal": "ne",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
    "invert": "not",
    "isnan": "isnan",
    "isinf": "isinf",
    "isfinite": "isfinite",
    "logaddexp": "logaddexp",
}
_REDUCTIONS = {"add": "reduce_sum", "multiply": "reduce_prod", "maximum": "reduce_max", "minimum": "reduce_min"}
_REDUCTIONS |= {"logical_and": "reduce_all", "logical_or": "reduce_any"}
_LOGICAL = {"logical_and": "and", "logical_or": "or", "logical_xor": "xor", "logical_not": "not"}
# Attributes of ndarrays that hooks hand out; methods become the functions of that name.
PLAIN_ATTRIBUTES = frozenset("shape ndim size itemsize nbytes".split())
METHODS: dict[str, str] = {
    n: n for n in "sum prod mean var std max min argmax argmin any all reshape ravel transpose".split()
}
METHODS |= {n: n for n in "swapaxes squeeze clip dot round".split()}


class ArrayTracer(Tensor):
    """A tensor of the trace that the user's code takes for an ndarray."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    @property
    def stands_for(self) -> type:
        """The class of what eager code would have here."""
        return np.ndarray

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Tensor) and not isinstance(x, ArrayTracer) for x in inputs):
            return Tensor.__array_ufunc__(self, ufunc, method, *inputs, **options)
        out = options.pop("out", None)
        if method == "__call__" and not options:
            result = _number(_ufunc(ufunc, inputs))
        elif method == "reduce":
            result = _number(_reduce(ufunc, *inputs, **options))
        else:
            _stop(
                f"numpy.{ufunc.__name__}.{method}"
                if method != "__call__"
                else f"numpy.{ufunc.__name__} with {list(options)}"
            )
        return result if out is None else _into(out[0], result)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if any(issubclass(t, Tensor) and not issubclass(t, ArrayTracer) for t in types):
            return Tensor.__array_function__(self, func, types, args, kwargs)
        found = FUNCTIONS.get(func)
        if found is None:
            _stop(f"numpy.{getattr(func, '__name__', func)}")
        out = kwargs.pop("out", None)
        result = found(*args, **kwargs)
        if func in _GIVE_NUMBERS:
            result = _number(result)
        return result if out is None else _into(out, result)

    def __getitem__(self, key: Any) -> Any:
        with _Arrays():
            out = Tensor.__getitem__(self, key)
            return out if _has_ellipsis(key) else _number(out)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, Tensor) and value.dtype is not self.dtype:
            value = apply(get_op("cast"), value, dtype=self.dtype)
        elif isinstance(value, (np.ndarray, np.generic)):
            value = np.asarray(value).astype(self.dtype.np)
        elif isinstance(value, (int, float)) and not self.dtype.is_floating:
            value = np.asarray(value).astype(self.dtype.np)
        with _Arrays():
            Tensor.__setitem__(self, key, value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(self.shape[0]))

    @property
    def T(self) -> Any:
        return _transpose(self)


class NumberTracer(ArrayTracer):
    """What NumPy gives as a scalar (np.float64, ...): an element, a full reduction. It can't be changed in place."""

    __slots__ = ()

    @property
    def stands_for(self) -> type:
        return self.dtype.np.type


class WeakNumber(SymbolicScalar):
    """An np.float64 that meets a Tensor: a Python float, and as weak as one."""

    __slots__ = ("number",)

    def __init__(self, number: Tensor):
        self.number = number

    def to_tensor(self, dtype: Any) -> Tensor:
        return apply(get_op("cast"), _plain(self.number), dtype=dtype)


def weak(x: Any) -> Any:
    """An operand as functions on tensors take it."""
    return WeakNumber(x) if isinstance(x, NumberTracer) and x.dtype.name == "float64" else x


def meet(a: Any, b: Any) -> tuple[Any, Any]:
    """The operands of an operator, of which at least one is a tensor."""
    plain = [isinstance(x, Tensor) and not isinstance(x, ArrayTracer) for x in (a, b)]
    return (weak(a) if plain[1] else a, weak(b) if plain[0] else b)


def _number(t: Tensor) -> Tensor:
    return new_tensor(state.tracer.read(t), NumberTracer) if t.ndim == 0 else t  # type: ignore[union-attr]


def _has_ellipsis(key: Any) -> bool:
    return key is ... or isinstance(key, tuple) and any(k is ... for k in key)


def _operator(name: str, ufunc: np.ufunc) -> None:
    def forward(self: ArrayTracer, other: Any) -> Any:
        return ufunc(self, other) if _numpy_operand(other) else NotImplemented

    def reflected(self: ArrayTracer, other: Any) -> Any:
        return ufunc(other, self) if _numpy_operand(other) else NotImplemented

    def inplace(self: ArrayTracer, other: Any) -> Any:
        return _into(self, ufunc(self, other)) if _numpy_operand(other) else NotImplemented

    setattr(ArrayTracer, f"__{name}__", forward)
    setattr(ArrayTracer, f"__r{name}__", reflected)
    setattr(ArrayTracer, f"__i{name}__", inplace)
    setattr(NumberTracer, f"__i{name}__", forward)


def _numpy_operand(x: Any) -> bool:
    return isinstance(x, (ArrayTracer, np.ndarray, np.generic, bool, int, float, SymbolicScalar))


for _name, _ufunc_of in {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "matmul": np.matmul,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}.items():
    _operator(_name, _ufunc_of)


def _compare(name: str, ufunc: np.ufunc) -> None:
    def method(self: ArrayTracer, other: Any) -> Any:
        return ufunc(self, other) if _numpy_operand(other) else NotImplemented

    setattr(ArrayTracer, f"__{name}__", method)


for _name, _ufunc_of in {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}.items():
    _compare(_name, _ufunc_of)

for _name, _ufunc_of in {"neg": np.negative, "abs": np.absolute, "invert": np.invert, "pos": np.positive}.items():
    setattr(ArrayTracer, f"__{_name}__", lambda self, _u=_ufunc_of: _u(self))


class _Arrays:
    """Results of ops inside this block stand for ndarrays."""

    def __enter__(self) -> None:
        tracer: Any = state.tracer
        self.before, tracer.wrapper = tracer.wrapper, ArrayTracer

    def __exit__(self, *exc: object) -> None:
        tracer: Any = state.tracer
        tracer.wrapper = self.before


def _stop(what: str) -> NoReturn:
    tracer: Any = state.tracer
    tracer.stop(f"it uses {what}, which capture does not know")


def _np_dtype(x: Any) -> Any:
    """What `resolve_dtypes` wants to know of an operand: its dtype, or the type of a Python number."""
    if isinstance(x, Tensor):
        return x.dtype.np
    if isinstance(x, SymbolicScalar):
        return x.python_type
    if isinstance(x, (np.ndarray, np.generic)):
        return x.dtype
    return np.dtype(bool) if isinstance(x, bool) else type(x)


def _cast(x: Any, dtype: np.dtype) -> Tensor:
    want = from_numpy(dtype)
    if isinstance(x, Tensor):
        return x if x.dtype is want else apply(get_op("cast"), x, dtype=want)
    if isinstance(x, SymbolicScalar):
        return x.to_tensor(want)
    array = np.asarray(x, dtype)
    return (
        state.tracer.wrap(get_op("full")(value=array.item(), shape=(), dtype=want))
        if array.ndim == 0
        else _constant(array)
    )  # type: ignore[union-attr]


def _constant(array: np.ndarray) -> Tensor:
    tracer: Any = state.tracer
    return tracer.wrap(tracer.builder.constant(array.copy()))


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else _cast(x, np.asarray(x).dtype)


def _ufunc(ufunc: np.ufunc, inputs: tuple) -> Any:
    name = ufunc.__name__
    with _Arrays():
        if name == "matmul":
            return _matmul(*inputs)
        if name == "square":
            return _ufunc(np.multiply, (inputs[0], inputs[0]))
        if name == "reciprocal":
            return (
                _ufunc(np.true_divide, (1, inputs[0]))
                if _tensor(inputs[0]).dtype.is_floating
                else _stop("numpy.reciprocal of integers")
            )
        if name == "positive":
            return apply(get_op("cast"), _tensor(inputs[0]), dtype=_tensor(inputs[0]).dtype)
        if name in _LOGICAL:
            return apply(get_op(_LOGICAL[name]), *[_truth(x) for x in inputs])
        op = _UFUNCS.get(name)
        if op is None:
            _stop(f"numpy.{name}")
        dtypes = ufunc.resolve_dtypes((*map(_np_dtype, inputs), *[None] * ufunc.nout))
        out = apply(get_op(op), *[_cast(x, d) for x, d in zip(inputs, dtypes)])
        return _cast(out, dtypes[-1])


def _truth(x: Any) -> Tensor:
    t = _tensor(x)
    return t if t.dtype.kind == "b" else apply(get_op("ne"), t, _cast(0, t.dtype.np))


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    listed = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % ndim if -ndim <= a < ndim else _bad_axis(a, ndim) for a in map(operator.index, listed)))


def _bad_axis(axis: int, ndim: int) -> NoReturn:
    raise np.exceptions.AxisError(axis, ndim)


def _reduce(ufunc: np.ufunc, x: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **options: Any) -> Any:
    if any(v is not np._NoValue and not (k == "where" and v is True) for k, v in options.items()):  # type: ignore[attr-defined]
        _stop(f"numpy.{ufunc.__name__}.reduce with {list(options)}")
    op = _REDUCTIONS.get(ufunc.__name__)
    if op is None:
        _stop(f"numpy.{ufunc.__name__}.reduce")
    t = _tensor(x)
    with _Arrays():
        if op in ("reduce_all", "reduce_any"):
            t = _truth(t)
        elif dtype is not None:
            t = _cast(t, dtype_of(dtype).np)
        elif (
            op in ("reduce_sum", "reduce_prod") and not t.dtype.is_floating and t.dtype.bits < 64 or t.dtype.kind == "b"
        ):
            t = _cast(t, np.dtype(np.uint64 if t.dtype.kind == "u" else np.int64))
        axes = _axes(axis, t.ndim)
        out = apply(get_op(op), t, axes=axes) if axes or op != "reduce_sum" else t
        return _keep(out, t, axes) if keepdims is True else out


def _keep(out: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return apply(get_op("reshape"), out, shape=tuple(1 if i in axes else d for i, d in enumerate(x.shape)))


def _matmul(a: Any, b: Any) -> Any:
    a, b = _tensor(a), _tensor(b)
    dtype = np.result_type(a.dtype.np, b.dtype.np)
    return Tensor.__matmul__(_plain(_cast(a, dtype)), _plain(_cast(b, dtype)))


def _plain(t: Tensor) -> Tensor:
    """The same value as an ordinary Tensor (for reading)."""
    return new_tensor(state.tracer.read(t), Tensor) if isinstance(t, ArrayTracer) else t  # type: ignore[union-attr]


def _into(target: Any, result: Any) -> Any:
    """`out=target` and in-place operators: NumPy's same-kind casting."""
    if not isinstance(target, ArrayTracer):
        _stop("a NumPy array as out=")
    if not np.can_cast(result.dtype.np, target.dtype.np, "same_kind"):
        raise TypeError(f"cannot cast {result.dtype.name} to {target.dtype.name} in place")
    with _Arrays():
        result = _cast(result, target.dtype.np)
        if result.shape != target.shape:
            result = apply(get_op("broadcast_to"), result, shape=target.shape)
        assign(target, result)
    return target


# ------------------------------------------------------------------ functions

FUNCTIONS: dict[Any, Callable] = {}
_GIVE_NUMBERS = {np.sum, np.prod, np.max, np.amax, np.min, np.amin, np.all, np.any, np.mean, np.var, np.std, np.argmax}
_GIVE_NUMBERS |= {np.argmin, np.dot, np.clip}


def _implements(*functions: Any) -> Callable:
    def register(f: Callable) -> Callable:
        for function in functions:
            FUNCTIONS[function] = f
        return f

    return register


def _reduction(ufunc: np.ufunc, has_dtype: bool) -> Callable:
    def function(a: Any, axis: Any = None, *args: Any, keepdims: Any = False, **options: Any) -> Any:
        if args:
            _stop("positional options of a reduction")
        return _reduce(ufunc, a, axis=axis, keepdims=keepdims is True, **options)

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
        _stop("means of 16-bit floats")
    return t if t.dtype.is_floating else _cast(t, np.dtype(np.float64))


@_implements(np.mean)
def _mean(a: Any, axis: Any = None, keepdims: Any = False) -> Any:
    with _Arrays():
        t = _floating(_tensor(a))
        axes = _axes(axis, t.ndim)
        out = apply(get_op("mean"), t, axes=axes)
        return _keep(out, t, axes) if keepdims is True else out


@_implements(np.var)
def _var(a: Any, axis: Any = None, *, ddof: int = 0, keepdims: Any = False) -> Any:
    with _Arrays():
        t = _floating(_tensor(a))
        axes = _axes(axis, t.ndim)
        out = apply(get_op("var"), t, axes=axes, correction=ddof)
        return _keep(out, t, axes) if keepdims is True else out


@_implements(np.std)
def _std(a: Any, axis: Any = None, *, ddof: int = 0, keepdims: Any = False) -> Any:
    return np.sqrt(_var(a, axis, ddof=ddof, keepdims=keepdims))


def _arg(op: str) -> Callable:
    def function(a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
        with _Arrays():
            t = _tensor(a)
            if axis is None:
                flat = apply(get_op("reshape"), t, shape=(int(np.prod(t.shape)),))
                return (
                    apply(get_op(op), flat, axis=0)
                    if keepdims is not True
                    else _stop("keepdims of an index over all axes")
                )
            axes = _axes(axis, t.ndim)
            out = apply(get_op(op), t, axis=axes[0])
            return _keep(out, t, axes) if keepdims is True else out

    return function


_implements(np.argmax)(_arg("argmax"))
_implements(np.argmin)(_arg("argmin"))


@_implements(np.where)
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None or y is None:
        _stop("numpy.where with one argument")
    with _Arrays():
        dtype = _common(x, y)
        return apply(get_op("where"), _truth(condition), _cast(x, dtype), _cast(y, dtype))


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
    with _Arrays():
        dtype = _common(*arrays)
        ts = [_cast(x, dtype) for x in arrays]
        if axis is None:
            ts, axis = [apply(get_op("reshape"), t, shape=(int(np.prod(t.shape)),)) for t in ts], 0
        return apply(get_op("concat"), *ts, axis=_axes(axis, ts[0].ndim)[0])


@_implements(np.stack)
def _stack(arrays: Any, axis: int = 0) -> Any:
    return _concatenate([np.expand_dims(x, axis) for x in arrays], axis)


@_implements(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    t = _tensor(a)
    added = _axes(axis, t.ndim + (len(axis) if isinstance(axis, tuple) else 1))
    sizes = iter(t.shape)
    return _reshape(t, tuple(1 if i in added else next(sizes) for i in range(t.ndim + len(added))))


@_implements(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    t = _tensor(a)
    gone = _axes(axis, t.ndim) if axis is not None else tuple(i for i, d in enumerate(t.shape) if d == 1)
    if any(t.shape[i] != 1 for i in gone):
        raise ValueError("cannot select an axis to squeeze out which has size not equal to one")
    return _reshape(t, tuple(d for i, d in enumerate(t.shape) if i not in gone))


@_implements(np.reshape)
def _reshape(a: Any, *shape: Any, **options: Any) -> Any:
    if options:
        _stop("options of numpy.reshape")
    with _Arrays():
        return Tensor.reshape(_tensor(a), *shape)


@_implements(np.ravel)
def _ravel(a: Any) -> Any:
    return _reshape(a, (-1,))


@_implements(np.transpose)
def _transpose(a: Any, *axes: Any) -> Any:
    t = _tensor(a)
    if len(axes) == 1 and (axes[0] is None or isinstance(axes[0], (tuple, list))):
        axes = () if axes[0] is None else tuple(axes[0])
    perm = tuple(range(t.ndim))[::-1] if not axes else tuple(a % t.ndim for a in axes)
    with _Arrays():
        return apply(get_op("permute"), t, perm=perm)


@_implements(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    perm = list(range(_tensor(a).ndim))
    perm[axis1], perm[axis2] = perm[axis2], perm[axis1]
    return _transpose(a, tuple(perm))


@_implements(np.moveaxis)
def _moveaxis(a: Any, source: int, destination: int) -> Any:
    t = _tensor(a)
    perm = [i for i in range(t.ndim) if i != source % t.ndim]
    perm.insert(destination % t.ndim, source % t.ndim)
    return _transpose(t, tuple(perm))


@_implements(np.broadcast_to)
def _broadcast_to(a: Any, shape: Any) -> Any:
    with _Arrays():
        return apply(get_op("broadcast_to"), _tensor(a), shape=(shape,) if isinstance(shape, int) else tuple(shape))


@_implements(np.dot)
def _dot(a: Any, b: Any) -> Any:
    if _tensor(a).ndim not in (1, 2) or _tensor(b).ndim not in (1, 2):
        _stop("numpy.dot of these shapes")
    with _Arrays():
        return _matmul(a, b)


@_implements(np.outer)
def _outer(a: Any, b: Any) -> Any:
    return np.multiply(_reshape(a, (-1, 1)), _reshape(b, (1, -1)))


def _like(value: float) -> Callable:
    def function(a: Any, dtype: Any = None) -> Any:
        t = _tensor(a)
        with _Arrays():
            full = get_op("full")(value=value, shape=t.shape, dtype=t.dtype if dtype is None else dtype_of(dtype))
            return state.tracer.wrap(full)  # type: ignore[union-attr]

    return function


_implements(np.zeros_like)(_like(0))
_implements(np.ones_like)(_like(1))


@_implements(np.copy)
def copy(a: Any) -> Any:
    return np.positive(a) if a.dtype.kind != "b" else _cast_copy(a)


def _cast_copy(a: Any) -> Any:
    with _Arrays():
        return apply(get_op("cast"), a, dtype=a.dtype)


def astype(a: Any, dtype: Any) -> Any:
    """ndarray.astype: always a copy."""
    with _Arrays():
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
    if name in METHODS:
        return functools.partial(getattr(np, METHODS[name]), x) if name != "round" else _stop("ndarray.round")
    if name == "astype":
        return functools.partial(astype, x)
    if name in ("copy", "flatten"):
        return functools.partial(copy, x) if name == "copy" else lambda: copy(_ravel(x))
    if name == "fill":
        return lambda value: x.__setitem__(..., value)
    _stop(f"ndarray.{name}")
