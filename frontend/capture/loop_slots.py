"""The variables of a loop, and the parts of what it changes, as values that are carried from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ...ir import ops
from ...ir.dtypes import bool_, float64, int64
from ...ir.graph import Value
from ...ir.types import TensorType
from ..autograd import set_grad_enabled
from ..control_body import type_of
from ..dispatch import write_result
from ..state import SymbolicScalar, state
from ..tape import Node, needs_grad
from ..tensor import Tensor, new_tensor
from . import guards as g
from .lazy import LazyNumber
from .scalars import TracedBool, TracedFloat, TracedInt, TracedScalar
from .tracer import NotClosed

_SCALARS: dict[type, type[TracedScalar]] = {bool: TracedBool, int: TracedInt, float: TracedFloat}
_DTYPES = {bool: bool_, int: int64, float: float64}
_MOST = 1 << 52  # ints up to here are carried


class Undefined:
    """A variable without a value. Whatever is done with it ends the attempt."""

    __slots__ = ()

    def _used(self, *_: Any) -> NoReturn:
        tracer: Any = state.tracer
        tracer.stop("a variable is read that has no value in the first step")
        raise NotClosed

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __mul__ = __rmul__ = _used  # type: ignore[assignment]
    __getattr__ = __getitem__ = __call__ = __iter__ = __len__ = __contains__ = __hash__ = __str__ = _used  # type: ignore[assignment]


UNDEFINED = Undefined()


class Carried(Node):
    """What a tensor that a step begins with was computed from: the steps before. No gradient is asked for in there."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return "carried"

    def pull(self, *_: Any) -> NoReturn:
        raise NotClosed("a step takes gradients that go on into the steps before")


@dataclass(slots=True)
class Slot:
    """A variable, or a part of one. kind: "tensor", "written" (a tensor from outside that steps write), "number", "same"
    (it must not change) or "free" (nobody needs what it has before a step). before: the object that it has outside; history:
    gradients pass that."""

    kind: str
    before: Any
    type: TensorType | None = None
    scalar: type[TracedScalar] | None = None
    history: bool = False

    def inside(self, value: Value | None) -> Any:
        """What stands for it in a step."""
        if self.kind == "tensor":
            t = new_tensor(value, type(self.before))
            if state.grad_enabled and self.history:
                t._node = (Carried((), (t,)), 0)
            elif self.before._requires_grad is False:
                t._requires_grad = False
            return t
        if self.kind == "number":
            assert self.scalar is not None and value is not None
            return TracedInt(value, counts=True) if self.scalar is TracedInt else self.scalar(value)
        return UNDEFINED if self.kind == "free" else self.before

    def first(self) -> Tensor:
        """What it begins with."""
        if self.kind in ("tensor", "written"):
            return self.before
        tracer: Any = state.tracer
        assert self.type is not None
        before = self.before
        if isinstance(before, LazyNumber):
            value = before.overlay.number_input(before)
            return tracer.wrap(TracedInt(value).counted() if before.python_type is int else value)
        if isinstance(before, TracedScalar):
            return tracer.wrap(before.counted() if isinstance(before, TracedInt) else before.value)
        return tracer.wrap(ops.full(value=before, shape=(), dtype=self.type.dtype))

    def value_of(self, x: Any, tracer: Any) -> Value:
        """The value of what a step has left. NotClosed if it is of another kind."""
        assert self.type is not None
        if self.kind == "tensor":
            if not isinstance(x, Tensor) or type(x) is not type(self.before):
                tracer.stop(f"a variable that is a tensor becomes a {type(x).__name__}")
            if needs_grad(x) != self.history:
                tracer.stop("a step gives a tensor a history, or takes it away")
            found = tracer.read(x)
            if found.type != self.type:
                tracer.stop(f"a variable that is {self.type} becomes {found.type}")
            return found
        assert self.scalar is not None
        if type(x) in (bool, int, float) and _SCALARS[type(x)] is self.scalar:
            if type(x) is int and not -_MOST <= x <= _MOST:
                tracer.stop("an int that does not fit into 64 bits")
            return ops.full(value=x, shape=(), dtype=self.type.dtype)
        if not isinstance(x, TracedScalar) or x.python_type is not self.scalar.python_type:
            tracer.stop(f"a {self.scalar.python_type.__name__} becomes a {getattr(x, 'python_type', type(x)).__name__}")
        return tracer.own(x.counted() if isinstance(x, TracedInt) else x.value)

    def after(self, t: Tensor, in_place: bool) -> Any:
        """What the loop has left, outside of it."""
        tracer: Any = state.tracer
        if self.kind == "number":
            assert self.scalar is not None
            return self.scalar(tracer.read(t))
        history = state.grad_enabled and self.history
        if in_place or self.kind == "written":
            with set_grad_enabled(history):
                write_result(self.before, t)
            return self.before
        if history and type(t) is type(self.before):
            return t
        out = new_tensor(tracer.read(t), type(self.before))
        if history:
            out._node = t._node
        return out


Shape = Any  # nested tuples of numbers of slots


def slots_of(
    values: Sequence[Any], free: Sequence[bool], direct: int, changing: set[int], shared: set[int]
) -> tuple[list[Slot], list]:
    """The slots of the values, and how tuples nest them. Numbers in the first `direct` values change, others do if they are
    among `changing`; tensors that are `shared` are the same in every step."""
    slots: list[Slot] = []

    def shape_of(x: Any, free: bool, fixed: bool) -> Shape:
        if type(x) is tuple and x and not free:
            return tuple(shape_of(part, False, True) for part in x)
        k = len(slots)
        slots.append(Slot("same", x) if k in shared else _slot(x, free, fixed and k not in changing))
        return len(slots) - 1

    return slots, [shape_of(x, f, k >= direct) for k, (x, f) in enumerate(zip(values, free))]


def _slot(x: Any, free: bool, fixed: bool) -> Slot:
    if free:
        return Slot("free", x)
    if x is UNDEFINED:
        raise NotClosed("a variable has no value before the first step")
    if isinstance(x, Tensor):
        return Slot("tensor", x, type_of(x), history=needs_grad(x))
    kind = x.python_type if isinstance(x, SymbolicScalar) else type(x)
    if kind in _SCALARS and not fixed:
        if kind is int and not isinstance(x, SymbolicScalar) and not -_MOST <= x <= _MOST:
            raise NotClosed("an int that does not fit into 64 bits")
        return Slot("number", x, TensorType(_DTYPES[kind], ()), _SCALARS[kind])
    return Slot("same", x)


def is_number(x: Any) -> bool:
    """Whether it could be carried as a number."""
    return (x.python_type if isinstance(x, SymbolicScalar) else type(x)) in _SCALARS


def filled(shape: Shape, parts: Sequence[Any]) -> Any:
    return tuple(filled(s, parts) for s in shape) if type(shape) is tuple else parts[shape]


def taken(shape: Shape, x: Any, out: dict[int, Any], tracer: Any) -> None:
    """The parts of a value after a step, by slot."""
    if type(shape) is tuple:
        if type(x) is not tuple or len(x) != len(shape):
            tracer.stop("a tuple becomes something else")
        for s, part in zip(shape, x):
            taken(s, part, out, tracer)
    else:
        out[shape] = x


def unchanged(before: Any, now: Any) -> bool:
    if before is now:
        return True
    return g.is_value(before) and type(before) is type(now) and g.exact(before) == g.exact(now)
