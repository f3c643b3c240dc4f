"""Python numbers that stay in the graph: float arguments, and what `.item()`, `float(t)` and `int(t)` give.

A changing learning rate does not make a new trace, and neither does a changing loss. Arithmetic that can't fail in
Python is recorded. What Python needs to know (a comparison, `int()`, an index) is asked: the trace goes on for that
answer (see `tree`). Where nothing can be asked (exporting), or an answer would be a float, a float argument becomes a
constant of the trace, and any other number ends the capture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ...ir import ops
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType, bool_, float64, int64, uint64
from ...ir.graph import Value
from ..state import SymbolicScalar, state
from ..tensor import Tensor
from .tracer import Specialize

if TYPE_CHECKING:
    from .tracer import Tracer

_EXACT = 1 << 53  # integers up to here are float64s
_LARGE = 1 << 62  # sums of integers below it fit into 64 bits
_ROOT = 1 << 31  # and products of integers below this
_STEP = 1 << 20


def _constant(value: float | int, dtype: DType) -> Value:
    return ops.full(value=value, shape=(), dtype=dtype)


class TracedScalar(SymbolicScalar):
    """Stands for a Python number: a 0-d value of the graph."""

    __slots__ = ("value",)
    dtype: DType = float64

    def __init__(self, value: Value):
        self.value = value

    def to_tensor(self, dtype: DType) -> Tensor:
        assert state.tracer is not None
        return state.tracer.wrap(self.value if dtype is self.dtype else ops.cast(self.value, dtype=dtype))

    @property
    def tracer(self) -> Any:
        return state.tracer

    def concrete(self) -> Any:
        """The number itself, where it can be asked for. Ends or restarts the capture where it can't."""
        raise NotImplementedError

    def _ask(self, value: Value, kind: str) -> Any:
        if self.tracer.asker is None:
            return self.concrete()
        return self.tracer.ask(value, kind)

    def __bool__(self) -> bool:
        return bool(self._ask(ops.cast(self.value, dtype=bool_), "bool"))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Tensor) for x in inputs):
            return NotImplemented
        return getattr(ufunc, method)(*[x.concrete() if x is self else x for x in inputs], **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols that a number does not have
            raise AttributeError(name)
        return getattr(self.concrete(), name)

    def __hash__(self) -> int:
        return hash(self.concrete())

    def __complex__(self) -> complex:
        return complex(self.concrete())

    def __str__(self) -> str:
        return repr(self) if self.tracer is None else str(self.concrete())

    def __repr__(self) -> str:
        if self.tracer is None:  # in an error that has come out of a trace
            return f"<traced {self.python_type.__name__}>"
        return repr(self.concrete())

    def __format__(self, spec: str) -> str:
        return format(self.concrete(), spec)

    def __pos__(self) -> "TracedScalar":
        return self


def _comparison(op: Any, python: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def compare(self: TracedScalar, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        pair = self._pair(other)  # type: ignore[attr-defined]
        if pair is None or self.tracer.asker is None:
            return python(self.concrete(), other.concrete() if isinstance(other, TracedScalar) else other)
        return bool(self.tracer.ask(op(*pair), "bool"))

    return compare


_COMPARISONS = {
    "__eq__": (ops.eq, lambda a, b: a == b),
    "__ne__": (ops.ne, lambda a, b: a != b),
    "__lt__": (ops.lt, lambda a, b: a < b),
    "__le__": (ops.le, lambda a, b: a <= b),
    "__gt__": (ops.gt, lambda a, b: a > b),
    "__ge__": (ops.ge, lambda a, b: a >= b),
}
for _name, (_op, _python) in _COMPARISONS.items():
    setattr(TracedScalar, _name, _comparison(_op, _python))


class TracedFloat(TracedScalar):
    """Stands for a Python float."""

    __slots__ = ()
    python_type = float

    def concrete(self) -> Any:
        self.tracer.stop("it needs a float that was computed from tensors as a Python number")

    def _made(self, value: Value) -> "TracedFloat":
        return TracedFloat(value)

    def _float(self, other: Any) -> Value | None:
        """The other operand of a float, as float64; None if that is not exact, or it is no number."""
        if isinstance(other, TracedFloat):
            return other.value
        if isinstance(other, TracedInt):
            return other.as_float()
        if isinstance(other, Dim):
            return ops.full(value=other, shape=(), dtype=float64)
        if type(other) in (int, float, bool) and (type(other) is float or -_EXACT <= other <= _EXACT):
            return _constant(float(other), float64)
        return None

    def _pair(self, other: Any) -> tuple[Value, Value] | None:
        b = self._float(other)
        return None if b is None else (self.value, b)

    def _with(self, other: Any, op: Any, swapped: bool = False) -> Any:
        b = self._float(other)
        if b is None:
            return NotImplemented
        return self._made(op(b, self.value) if swapped else op(self.value, b))

    def __add__(self, other: Any) -> Any:
        return self._with(other, ops.add)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, ops.add, True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, ops.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, ops.sub, True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, ops.mul)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, ops.mul, True)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, TracedScalar):
            return other.__rtruediv__(self)  # type: ignore[attr-defined]
        if type(other) in (int, float) and other == 0:
            raise ZeroDivisionError("float division by zero")
        return self._with(other, ops.div)

    def __rtruediv__(self, other: Any) -> Any:
        a = self._float(other)
        if a is None:
            return NotImplemented
        if self._ask(ops.eq(self.value, _constant(0.0, float64)), "bool"):
            raise ZeroDivisionError("float division by zero")
        return self._made(ops.div(a, self.value))

    def __neg__(self) -> "TracedFloat":
        return self._made(ops.neg(self.value))

    def __abs__(self) -> "TracedFloat":
        return self._made(ops.abs_(self.value))

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, Tensor):
            return NotImplemented
        return self * self if type(other) is int and other == 2 else self.concrete() ** other

    def __rpow__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else other ** self.concrete()

    def __floordiv__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else self.concrete() // other

    def __rfloordiv__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else other // self.concrete()

    def __mod__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else self.concrete() % other

    def __rmod__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else other % self.concrete()

    def __divmod__(self, other: Any) -> Any:
        return divmod(self.concrete(), other)

    def __rdivmod__(self, other: Any) -> Any:
        return divmod(other, self.concrete())

    def rounded(self, op: Any) -> "TracedInt":
        """A rounding to int. Python raises for infinities, NaN and what is out of range here."""
        small = ops.lt(ops.abs_(self.value), _constant(float(_LARGE), float64))
        if not self._ask(small, "bool"):
            self.tracer.decline("it makes an int of a float that has none, or a very large one")
        return TracedInt(ops.cast(op(self.value), dtype=int64))

    def _whole(self, op: Any) -> int:
        return self.rounded(op).concrete()

    def __int__(self) -> int:
        return self._whole(ops.trunc)

    __trunc__ = __int__

    def __floor__(self) -> int:
        return self._whole(ops.floor)

    def __ceil__(self) -> int:
        return self._whole(ops.ceil)

    def __round__(self, digits: Any = None) -> Any:
        return self._whole(ops.round_) if digits is None else round(self.concrete(), digits)

    def __float__(self) -> float:
        return float(self.concrete())


class TracedInt(TracedScalar):
    """Stands for a Python int that fits into 64 bits; sums and products are recorded while they certainly do.

    counts: it is what a loop counts, which began below 2**52 and has moved by at most 2**20 in a step. It stays that
    small for longer than anybody waits (2**32 steps), so that it needs no check in each step.
    """

    __slots__ = ("counts",)
    python_type = int
    dtype = int64

    def __init__(self, value: Value, counts: bool = False):
        super().__init__(value)
        self.counts = counts

    def concrete(self) -> Any:
        if self.tracer.asker is None:
            self.tracer.stop("it needs an int that was computed from tensors as a Python number")
        return self.tracer.ask(self.value, "int")

    def as_float(self) -> Value:
        """As float64; the call is declined where that is not exact."""
        return ops.cast(self._within(_EXACT), dtype=float64)

    def _within(self, limit: int) -> Value:
        return self.value if self.counts and limit >= _EXACT else ops.check_index(self.value, size=limit)

    def counted(self) -> Value:
        """The value, as one that a loop begins with or goes on with; the call is declined where it is too large."""
        return self.value if self.counts else ops.check_index(self.value, size=1 << 52)

    def _pair(self, other: Any) -> tuple[Value, Value] | None:
        if isinstance(other, TracedInt):
            return self.value, other.value
        if type(other) in (int, bool) and -_LARGE < other < _LARGE:
            return self.value, _constant(int(other), int64)
        if isinstance(other, TracedFloat):
            return self.as_float(), other.value
        if type(other) is float:
            return self.as_float(), _constant(other, float64)
        return None

    def _with(self, other: Any, op: Any, limit: int, swapped: bool = False) -> Any:
        if isinstance(other, TracedFloat) or type(other) is float:
            b = other.value if isinstance(other, TracedFloat) else _constant(other, float64)
            return TracedFloat(op(b, self.as_float()) if swapped else op(self.as_float(), b))
        if isinstance(other, TracedInt):
            b = other._within(limit)
        elif type(other) in (int, bool) and -limit < other < limit:
            b = _constant(int(other), int64)
        else:
            return NotImplemented
        a = self._within(limit)
        counts = self.counts and limit == _LARGE and type(other) in (int, bool) and -_STEP <= int(other) <= _STEP
        return TracedInt(op(b, a) if swapped else op(a, b), counts and not swapped)

    def __add__(self, other: Any) -> Any:
        return self._with(other, ops.add, _LARGE)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, ops.add, _LARGE, True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, ops.sub, _LARGE)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, ops.sub, _LARGE, True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, ops.mul, _ROOT)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, ops.mul, _ROOT, True)

    def __truediv__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else TracedFloat(self.as_float()) / other

    def __rtruediv__(self, other: Any) -> Any:
        return NotImplemented if isinstance(other, Tensor) else other / TracedFloat(self.as_float())

    def _divided(self, other: Any, op: Any, swapped: bool = False) -> Any:
        """`//` and `%`, which are Python's in the graph too."""
        if isinstance(other, Tensor) or not (
            isinstance(other, TracedInt) or type(other) is int and abs(other) < _LARGE
        ):
            return NotImplemented
        a, b = (other, self) if swapped else (self, other)
        left, right = (x._within(_LARGE) if isinstance(x, TracedInt) else _constant(x, int64) for x in (a, b))
        zero = b == 0 if type(b) is int else self._ask(ops.eq(right, _constant(0, int64)), "bool")
        if zero:
            raise ZeroDivisionError("integer modulo by zero" if op is ops.mod else "integer division or modulo by zero")
        return TracedInt(op(left, right))

    def __floordiv__(self, other: Any) -> Any:
        return self._divided(other, ops.floordiv)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._divided(other, ops.floordiv, True)

    def __mod__(self, other: Any) -> Any:
        return self._divided(other, ops.mod)

    def __rmod__(self, other: Any) -> Any:
        return self._divided(other, ops.mod, True)

    def __neg__(self) -> "TracedInt":
        return TracedInt(ops.neg(self._within(_LARGE)))

    def __abs__(self) -> "TracedInt":
        return TracedInt(ops.abs_(self._within(_LARGE)))

    def __int__(self) -> int:
        return self.concrete()

    def __float__(self) -> float:
        return float(self.concrete())

    __index__ = __trunc__ = __floor__ = __ceil__ = __int__

    def as_size(self) -> DimLike:
        """The int itself, or a symbol where it has had too many values."""
        counted = getattr(self.tracer, "counted", None)
        return self.concrete() if counted is None else counted.whole(self.value)

    def as_index(self) -> Any:
        """As a position along an axis: a tensor in the body of a loop, else as a size."""
        position = getattr(self.tracer, "position", None)
        return self.as_size() if position is None else position(self.value)

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None else round(self.concrete(), digits)


class TracedBool(TracedScalar):
    """Stands for a Python bool that a loop carries."""

    __slots__ = ()
    python_type = bool
    dtype = bool_

    def concrete(self) -> Any:
        return bool(self)

    def _pair(self, other: Any) -> tuple[Value, Value] | None:
        return None

    def __int__(self) -> int:
        return int(bool(self))

    __index__ = __int__


def _of_concrete(name: str) -> Callable[..., Any]:
    def method(self: TracedInt, *others: Any) -> Any:
        if any(isinstance(x, Tensor) for x in others):
            return NotImplemented
        return getattr(self.concrete(), name)(*[x.concrete() if isinstance(x, TracedInt) else x for x in others])

    return method


for _name in "pow divmod and or xor lshift rshift".split():
    setattr(TracedInt, f"__{_name}__", _of_concrete(f"__{_name}__"))
    setattr(TracedInt, f"__r{_name}__", _of_concrete(f"__r{_name}__"))
setattr(TracedInt, "__invert__", _of_concrete("__invert__"))


class ScalarArgument(TracedFloat):
    """A float that was computed from float argument `leaf`. Where Python needs the number itself, the capture starts
    again with the argument as a constant of the trace. (`leaf` a `Dim`: with its sizes.)"""

    __slots__ = ("leaf", "original")

    def __init__(self, value: Value, leaf: Any, original: bool = False):
        super().__init__(value)
        self.leaf, self.original = leaf, original

    def concrete(self) -> NoReturn:
        raise Specialize(self.leaf)

    def _made(self, value: Value) -> "ScalarArgument":
        return ScalarArgument(value, self.leaf)


# ------------------------------------------------------------------ tensors as numbers


def number_of(tracer: Tracer, t: Tensor, what: str) -> Any:
    """What `bool(t)`, `int(t)`, `t.__index__()`, `float(t)` and `t.item()` are while tracing."""
    if any(type(d) is int and d != 1 for d in t.shape):
        wanted = "truth value; use any() or all()" if what == "bool" else "value"
        raise ValueError(f"a tensor of shape {t.shape} has no single {wanted}")
    dtype = t.dtype
    value = tracer.read(t)
    value = ops.reshape(value, shape=()) if value.ndim else value
    if dtype.is_complex or dtype is uint64:
        tracer.stop(f"{what}() needs the value of a {dtype.name} tensor")
    if what == "bool" or dtype is bool_ and what == "item":
        return bool(tracer.ask(value if dtype is bool_ else ops.cast(value, dtype=bool_), "bool"))
    if what == "index" and dtype.kind not in "iu":
        raise TypeError("only integer tensors with one element can be used as an index")
    if dtype.is_floating or what == "float":
        number = TracedFloat(value if dtype is float64 else ops.cast(value, dtype=float64))
        return int(number) if what == "int" else number
    whole = TracedInt(value if dtype is int64 else ops.cast(value, dtype=int64))
    return whole if what == "item" else whole.concrete()


def whole_number(x: Any) -> Any:
    """`int(x)` of a tensor or a traced number, as one that stays in the graph."""
    if isinstance(x, Tensor):
        assert state.tracer is not None
        x = state.tracer.concretize(x, "item")
    if isinstance(x, TracedFloat) and x.tracer.asker is not None:
        return x.rounded(ops.trunc)
    return x if isinstance(x, TracedInt) else int(x)


def extreme(name: str, numbers: tuple) -> Any:
    """`max` or `min` of numbers, some of them traced, as Python finds it."""
    best, *others = numbers
    for x in others:
        if x > best if name == "max" else x < best:
            best = x
    return best


_OF_MATH: dict[Any, Any] = {
    getattr(math, name): getattr(ops, op)
    for name, op in {
        "sqrt": "sqrt", "exp": "exp", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p",
        "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos", "atan": "atan", "sinh": "sinh",
        "cosh": "cosh", "tanh": "tanh", "erf": "erf", "erfc": "erfc", "fabs": "abs_",
    }.items()
}  # fmt: skip
_QUESTIONS: dict[Any, Any] = {math.isnan: ops.isnan, math.isinf: ops.isinf, math.isfinite: ops.isfinite}


def call_math(f: Any, x: Any) -> Any:
    """`f(x)` for a function of `math` and a traced number; NotImplemented for a function that is not recorded. Where
    Python raises (a domain error, an overflow) the capture ends, and plain Python raises."""
    number = TracedFloat(x.as_float()) if isinstance(x, TracedInt) else x
    tracer = number.tracer
    if f in _QUESTIONS and tracer.asker is not None:
        return bool(tracer.ask(_QUESTIONS[f](number.value), "bool"))
    op = _OF_MATH.get(f)
    if op is None or tracer.asker is None:
        return NotImplemented
    out = op(number.value)
    fails = ops.and_(ops.not_(ops.isfinite(out)), ops.isfinite(number.value))
    if tracer.ask(fails, "bool"):
        tracer.decline(f"math.{f.__name__} fails for a number that it gets")
    return number._made(out)
