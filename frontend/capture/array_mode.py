"""NumPy code in a trace: `ArrayTracer` stands for an ndarray and follows NumPy's rules for types, not the tensors'.

ufuncs get their types from NumPy itself (`ufunc.resolve_dtypes`); functions that are not in the tables end the capture.
"""

from __future__ import annotations

import operator
from typing import Any, Callable, NoReturn

import numpy as np

from ...ir.dtypes import dtype_of, from_numpy
from ...ir.op import get_op
from .. import numpy_extensions, numpy_protocol, scipy_special
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
            result = _number(call_ufunc(ufunc, inputs))
        elif method == "reduce":
            result = _number(reduce(ufunc, *inputs, **options))
        else:
            stop(
                f"numpy.{ufunc.__name__}.{method}"
                if method != "__call__"
                else f"numpy.{ufunc.__name__} with {list(options)}"
            )
        return result if out is None else _into(out[0], result)

    def __array_function__(self, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
        if any(issubclass(t, Tensor) and not issubclass(t, ArrayTracer) for t in types):
            return Tensor.__array_function__(self, func, types, args, kwargs)
        from .array_functions import FUNCTIONS, GIVE_NUMBERS

        found = FUNCTIONS.get(func)
        if found is None and func in numpy_extensions.FUNCTIONS and kwargs.get("out") is None:
            return call_special(numpy_extensions.FUNCTIONS[func], *args, **kwargs)
        if found is None:
            stop(f"numpy.{getattr(func, '__name__', func)}")
        out = kwargs.pop("out", None)
        result = found(*args, **kwargs)
        if func in GIVE_NUMBERS:
            result = _number(result)
        return result if out is None else _into(out, result)

    def __getitem__(self, key: Any) -> Any:
        with Arrays():
            out = Tensor.__getitem__(self, key)
            return out if _has_ellipsis(key) else _number(out)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, Tensor) and value.dtype is not self.dtype:
            value = apply(get_op("cast"), value, dtype=self.dtype)
        elif isinstance(value, (np.ndarray, np.generic)):
            value = np.asarray(value).astype(self.dtype.np)
        elif isinstance(value, (int, float)) and not self.dtype.is_floating:
            value = np.asarray(value).astype(self.dtype.np)
        with Arrays():
            Tensor.__setitem__(self, key, value)

    def __iter__(self) -> Any:
        return (self[i] for i in range(self.shape[0]))

    @property
    def T(self) -> Any:
        return np.transpose(self)


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


def _number(t: Any) -> Any:
    return new_tensor(state.tracer.read(t), NumberTracer) if isinstance(t, Tensor) and t.ndim == 0 else t  # type: ignore[union-attr]


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


class Arrays:
    """Results of ops inside this block stand for ndarrays."""

    def __enter__(self) -> None:
        tracer: Any = state.tracer
        self.before, tracer.wrapper = tracer.wrapper, ArrayTracer

    def __exit__(self, *exc: object) -> None:
        tracer: Any = state.tracer
        tracer.wrapper = self.before


def stop(what: str) -> NoReturn:
    tracer: Any = state.tracer
    raise tracer.stop(f"it uses {what}, which capture does not know")


def _np_dtype(x: Any) -> Any:
    """What `resolve_dtypes` wants to know of an operand: its dtype, or the type of a Python number."""
    if isinstance(x, Tensor):
        return x.dtype.np
    if isinstance(x, SymbolicScalar):
        return x.python_type
    if isinstance(x, (np.ndarray, np.generic)):
        return x.dtype
    return np.dtype(bool) if isinstance(x, bool) else type(x)


def cast(x: Any, dtype: np.dtype) -> Tensor:
    want = from_numpy(dtype)
    if isinstance(x, Tensor):
        return x if x.dtype is want else apply(get_op("cast"), x, dtype=want)
    if isinstance(x, SymbolicScalar):
        return x.to_tensor(want)
    array = np.asarray(x, dtype)
    if array.ndim:
        return _constant(array)
    tracer: Any = state.tracer
    return tracer.wrap(get_op("full")(value=array.item(), shape=(), dtype=want))


def _constant(array: np.ndarray) -> Tensor:
    tracer: Any = state.tracer
    builder: Any = getattr(tracer, "builder", tracer)  # the body of a loop is its own
    return tracer.wrap(builder.constant(array.copy()))


def tensor_of(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else cast(x, np.asarray(x).dtype)


def call_ufunc(ufunc: np.ufunc, inputs: tuple) -> Any:
    name = ufunc.__name__
    with Arrays():
        if name == "matmul":
            return matmul(*inputs)
        if name == "square":
            return call_ufunc(np.multiply, (inputs[0], inputs[0]))
        if name == "reciprocal":
            return (
                call_ufunc(np.true_divide, (1, inputs[0]))
                if tensor_of(inputs[0]).dtype.is_floating
                else stop("numpy.reciprocal of integers")
            )
        if name == "positive":
            return apply(get_op("cast"), tensor_of(inputs[0]), dtype=tensor_of(inputs[0]).dtype)
        if name in _LOGICAL:
            return apply(get_op(_LOGICAL[name]), *[truth(x) for x in inputs])
        dtypes = ufunc.resolve_dtypes((*map(_np_dtype, inputs), *[None] * ufunc.nout))
        op = _UFUNCS.get(name)
        of_complex = any(d.kind == "c" for d in dtypes)
        composed = numpy_protocol.UFUNCS.get(ufunc) if of_complex else None if op else scipy_special.ufunc(ufunc)
        if composed is None and (op is None or of_complex):
            stop(f"numpy.{name}")
        if composed is not None:
            return cast(composed(*[cast(x, d) for x, d in zip(inputs, dtypes)]), dtypes[-1])
        assert op is not None
        out = apply(get_op(op), *[cast(x, d) for x, d in zip(inputs, dtypes)])
        return cast(out, dtypes[-1])


def call_special(f: Callable, x: Any, *args: Any, **options: Any) -> Any:
    """A function of scipy.special, numpy.linalg or numpy.fft; integers become float64."""
    with Arrays():
        x = tensor_of(x)
        out = f(x if x.dtype.is_inexact else cast(x, np.dtype(np.float64)), *args, **options)
    if isinstance(out, tuple):
        return type(out)(*map(_number, out)) if hasattr(out, "_fields") else tuple(map(_number, out))
    return _number(out)


def truth(x: Any) -> Tensor:
    t = tensor_of(x)
    return t if t.dtype.kind == "b" else apply(get_op("ne"), t, cast(0, t.dtype.np))


def axes_of(axis: Any, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    listed = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(a % ndim if -ndim <= a < ndim else _bad_axis(a, ndim) for a in map(operator.index, listed)))


def _bad_axis(axis: int, ndim: int) -> NoReturn:
    raise np.exceptions.AxisError(axis, ndim)


def reduce(ufunc: np.ufunc, x: Any, axis: Any = 0, dtype: Any = None, keepdims: bool = False, **options: Any) -> Any:
    if any(v is not np._NoValue and not (k == "where" and v is True) for k, v in options.items()):  # type: ignore[attr-defined]
        stop(f"numpy.{ufunc.__name__}.reduce with {list(options)}")
    op = _REDUCTIONS.get(ufunc.__name__)
    if op is None:
        stop(f"numpy.{ufunc.__name__}.reduce")
    t = tensor_of(x)
    with Arrays():
        if op in ("reduce_all", "reduce_any"):
            t = truth(t)
        elif dtype is not None:
            t = cast(t, dtype_of(dtype).np)
        elif (
            op in ("reduce_sum", "reduce_prod") and not t.dtype.is_floating and t.dtype.bits < 64 or t.dtype.kind == "b"
        ):
            t = cast(t, np.dtype(np.uint64 if t.dtype.kind == "u" else np.int64))
        axes = axes_of(axis, t.ndim)
        out = apply(get_op(op), t, axes=axes) if axes or op != "reduce_sum" else t
        return keep(out, t, axes) if keepdims is True else out


def keep(out: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return apply(get_op("reshape"), out, shape=tuple(1 if i in axes else d for i, d in enumerate(x.shape)))


def matmul(a: Any, b: Any) -> Any:
    a, b = tensor_of(a), tensor_of(b)
    dtype = np.result_type(a.dtype.np, b.dtype.np)
    return Tensor.__matmul__(_plain(cast(a, dtype)), _plain(cast(b, dtype)))


def _plain(t: Tensor) -> Tensor:
    """The same value as an ordinary Tensor (for reading)."""
    return new_tensor(state.tracer.read(t), Tensor) if isinstance(t, ArrayTracer) else t  # type: ignore[union-attr]


def _into(target: Any, result: Any) -> Any:
    """`out=target` and in-place operators: NumPy's same-kind casting."""
    if not isinstance(target, ArrayTracer):
        stop("a NumPy array as out=")
    if not np.can_cast(result.dtype.np, target.dtype.np, "same_kind"):
        raise TypeError(f"cannot cast {result.dtype.name} to {target.dtype.name} in place")
    with Arrays():
        result = cast(result, target.dtype.np)
        if result.shape != target.shape:
            result = apply(get_op("broadcast_to"), result, shape=target.shape)
        assign(target, result)
    return target
