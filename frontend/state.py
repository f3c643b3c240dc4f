"""What the frontend keeps per thread: the active tracer, whether gradients are recorded, the default float type."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ..ir.dim import DimLike
from ..ir.dtypes import FLOATS, DType, bool_, complex_of, dtype_of, float32, int64
from ..ir.graph import Value
from ..ir.op import Attrs, OpDef

if TYPE_CHECKING:
    from .tensor import Tensor


class Tracer(Protocol):
    """What the frontend asks of whoever records a graph. `state.tracer` is one while tracing."""

    def read(self, t: Tensor) -> Value:
        """The current value of `t`; a tensor from outside becomes an input of the graph."""
        ...

    def write(self, t: Tensor, v: Value) -> None:
        """`t` (and everything it shares storage with) takes the value `v`, which has its shape and dtype."""
        ...

    def make_view(self, base: Tensor, op: OpDef, attrs: Attrs, value: Value) -> Tensor:
        """A tensor with `value` = op(base) that goes on sharing storage with `base`."""
        ...

    def wrap(self, v: Value) -> Tensor:
        """A fresh tensor with its own storage."""
        ...

    def elements(self, base: Tensor, indices: tuple[Value, ...], value: Value) -> Tensor:
        """`value`, the elements of `base` at these indices: a copy, or a view where Python ints were meant."""
        ...

    def made(self, t: Tensor) -> None:
        """Library code has made `t`, with numbers and memory of its own: a constant of the graph."""
        ...

    def get_grad(self, t: Tensor) -> Tensor | None: ...

    def set_grad(self, t: Tensor, g: Tensor | None) -> None: ...

    def concretize(self, t: Tensor, what: str) -> Any:
        """Called where Python needs the numbers in `t`. `what` names the asker ("bool", "int", "float", "item",
        "numpy", "nonzero", ...). Usually raises, which ends the capture; else returns an ndarray."""
        ...

    positions: dict[Value, Tensor]  # of masks in the trace: where they are true, counted through

    def size_of(self, t: Tensor, most: DimLike | None = None) -> DimLike:
        """The value of a 0-d int64 tensor, which is not negative and at most `most`, as a size. Raises, which ends the
        capture, where there can be none."""
        ...

    def run_on(self, gpu: Any) -> None:
        """Tensors of the graph lie on that GPU; None says nothing. Raises, which ends the capture, if others do not."""
        ...

    def callable(self, f: Any) -> Any:
        """`f`, a function of the user's that library code is about to call, as the tracer wants it called."""
        ...


class UnsupportedOperand(TypeError):
    """An operand that is neither a tensor nor a number. Operators answer it with NotImplemented."""


def traced(f: Any) -> Any:
    """`f` as library code should call it: as it is, or while tracing as the tracer wants it."""
    return f if state.tracer is None else state.tracer.callable(f)


class SymbolicScalar:
    """Base of Python-number stand-ins that live in the graph (a changing learning rate, a lazy `.item()`).

    In arithmetic with tensors they are weak, like the Python number that they stand for.
    """

    __slots__ = ()
    python_type: type = float

    def to_tensor(self, dtype: DType) -> Tensor:
        """A 0-d tensor of `dtype`."""
        raise TypeError(f"{type(self).__name__} has no value here")

    def as_size(self) -> DimLike:
        """As a size, or the bound of a slice."""
        return self.__index__()  # type: ignore[attr-defined]

    def as_index(self) -> Any:
        """As a position along an axis: as a size, or a 0-d integer tensor."""
        return self.as_size()


class _State(threading.local):
    tracer: Tracer | None = None
    grad_enabled: bool = True
    default_dtype: DType = float32
    autocast: DType | None = None  # what products are lowered to; None outside of autocast
    unfinished: int = 0  # effects of a trace that its calls could not bring about: see amp.GradScaler
    mode_before_walk: bool | None = None  # the grad mode around a running backward pass; None outside of one
    draws: Any = 1  # how many independent numbers each random number is: vmap with randomness="different"
    inference: bool = False  # inside of inference_mode
    place: Any = None  # the GPU that new tensors are made on; None: the CPU
    disabled: int = 0  # how many `disable` blocks this thread is in: compiled functions run as plain Python
    anomaly: Any = None  # the running detect_anomaly
    on_node: Callable[[Any], None] | None = None  # is told of each new node of the tape


class _PublishedState(_State):
    """Tells native code about every change."""

    def __setattr__(self, name: str, value: Any, put: Any = threading.local.__setattr__) -> None:
        put(self, name, value)
        if _setter is not None:
            _setter(modes())


state = _State()
_setter: Callable[[int], None] | None = None


def modes() -> int:
    """What traces depend on, as a number that is never 0: 0 stands for a thread that has said nothing yet."""
    dtype = state.default_dtype
    number = 1 if state.grad_enabled else 3
    if dtype is not float32:
        number |= (1 + FLOATS.index(dtype)) << 3
    if state.autocast is not None:
        number |= (1 + FLOATS.index(state.autocast)) << 16
    if state.disabled:
        number |= 1 << 30
    if state.place is not None:
        number |= (1 + state.place.index % 15) << 24
    return number if state.tracer is None else number | 4


def publish_modes() -> None:
    """Says what this thread's modes are to who asked for them."""
    if _setter is not None:
        _setter(modes())


def publish_modes_to(setter: Callable[[int], None]) -> None:
    """From now on every change of a thread's modes calls `setter(modes())` in that thread. Until somebody asks, eager
    code pays nothing for it."""
    global _setter
    _setter = setter
    state.__class__ = _PublishedState
    publish_modes()


def default_for(python_type: type) -> DType:
    """The element type that a Python bool, int, float or complex gets by itself."""
    if python_type is complex:
        return complex_of(state.default_dtype)
    return bool_ if python_type is bool else int64 if python_type is int else state.default_dtype


def get_default_dtype() -> DType:
    """The floating type of Python floats and of new tensors (float32 unless changed)."""
    return state.default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Sets the floating type of Python floats and of new tensors in this thread. TypeError if it is no float type."""
    found = dtype_of(dtype)
    if not found.is_floating:
        raise TypeError(f"the default dtype must be a floating type, not {found.name}")
    state.default_dtype = found
