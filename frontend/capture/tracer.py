"""The functionalising tracer: what tensors, views, in-place writes and gradients mean while a graph is recorded.

Real tensors are never touched. Those that the user's code and the library reach become inputs on their first read;
writes and gradients go into an overlay that only this trace sees, and become outputs at the end.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, NoReturn

import numpy as np

from ...ir.dim import DimLike
from ...ir.dtypes import from_numpy
from ...ir.graph import GraphBuilder, Location, Value
from ...ir.op import Attrs, OpDef
from ...ir.types import TensorType
from ..devices import host
from ..state import state
from ..tape import needs_grad
from ..tensor import Tensor, new_tensor
from ..trace_views import TraceViews
from .loop_ties import Ties
from .origins import NumberSource
from .policy import PROGRAMS
from .reach import Reach, Young
from .replay import ArgSource, ArraySource, GradSource, ScalarSource, Source, TensorLike, TensorSource

if TYPE_CHECKING:
    from .value_sizes import ValueSizes

_LIBRARY = __name__.partition(".")[0]


class CaptureStop(BaseException):
    """Ends a capture: the call goes on in plain Python. No `except Exception` of the user's swallows it."""

    def __init__(self, reason: str, location: Location | None):
        super().__init__(reason)
        self.reason, self.location = reason, location

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}" if self.location else self.reason


class Specialize(BaseException):
    """Starts the capture again with a float argument as a constant of the trace."""

    def __init__(self, leaf: int):
        self.leaf = leaf


class TooMany(CaptureStop):
    """Ends a capture: an answer has had too many values."""


class NotClosed(BaseException):
    """An attempt to close a loop into one node has failed; the loop goes on step by step."""


def user_location() -> Location | None:
    """The innermost line that is not the library's own, NumPy's or the standard library's."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        root = name.partition(".")[0]
        library = root == _LIBRARY and name not in PROGRAMS or root == "numpy" or root in sys.stdlib_module_names
        if not library or root == "__main__":
            return Location(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back
    return None


class TracingBuilder(GraphBuilder):
    """A builder that stamps each node with the user's line."""

    counted: ValueSizes | None = None  # of the trace, where there can be any

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        self.loc = user_location()
        out = super().emit(op, inputs, attrs)
        if self.counted is not None and self.counted.symbols:
            self.counted.forbid_empty(out)
        return out


@dataclass(slots=True)
class Slot:
    """A real tensor in the trace. `first` is what it holds when the call begins, `current` what it holds now.

    `source` None: a constant that was made inside the trace, whose writes nobody else can see.
    """

    tensor: Tensor
    source: Source | None
    first: Value
    current: Value
    array: np.ndarray

    @property
    def written(self) -> bool:
        return self.current is not self.first


@dataclass(slots=True)
class GradSlot:
    """`.grad` of a real tensor: at the start of the call, and now."""

    tensor: Tensor
    source: TensorLike
    first: Tensor | None
    current: Tensor | None


class Tracer(TraceViews):
    """Records one call. Used as `with tracer:`; see `state.Tracer` for what the frontend asks of it.

    decides: it answers itself what is asked of symbolic sizes. size_values: of those of arguments, in this call.
    """

    decides = False
    size_values: Mapping[str, int] = {}

    def __init__(self, name: str):
        super().__init__()
        self.builder = TracingBuilder(name)
        self.reach = Reach()
        self.sources: list[Source] = []  # of builder.inputs
        self.slots: dict[int, Slot] = {}
        self.grads: dict[int, GradSlot] = {}
        self.joined: dict[int, Tensor] = {}  # by leaf: arguments that are traced as views of one tensor
        self.known: dict[int, tuple[Any, Source]] = {}  # by id: tensors whose source is known before they are read
        self.arrays: dict[int, tuple[np.ndarray, Tensor]] = {}  # real ndarrays that became inputs
        self.created: dict[int, Any] = {}  # objects that this trace made
        self.external: dict[int, Any] = {}  # containers and arrays that existed before
        self.constants: dict[int, np.ndarray] = {}  # ndarrays made in the trace that the graph has taken in
        self.counted: ValueSizes | None = None  # sizes that depend on values; None where there can't be any
        self.positions: dict[Value, Tensor] = {}  # of masks: where they are true
        self.young = Young()
        self.stopped: CaptureStop | None = None
        self.gpu: Any = None  # that the tensors of the trace lie on; None: the CPU, as far as is known
        self.questions = 0  # that Python has asked
        self.ties = Ties()
        self.attempts = 0  # to close loops, one in another, that are under way
        self.array_class: type[Tensor] = Tensor  # class of what stands for an ndarray
        self.wrapper: type[Tensor] = Tensor  # class of tensors made while tracing
        self.asker: Callable[[Value, str], bool | int] | None = (
            None  # answers what Python asks; None: it ends the capture
        )
        self.on_callable: Callable[[Any], Any] = lambda f: f  # gives user functions that the library calls their hooks
        self._before: dict[int, tuple[Tensor, tuple]] = {}  # slots of real tensors, to be put back
        self._outer: Any = None

    # ---- lifetime

    def __enter__(self) -> "Tracer":
        self.young.__enter__()
        self._outer, state.tracer = state.tracer, self
        self.builder.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.counted is not None:
            self.counted.leave()
            self.builder.counted = None
        self.builder.__exit__(*exc)
        state.tracer = self._outer
        self.young.__exit__()

    def restore(self) -> str | None:
        """Puts back what library code changed on real tensors. Says what can't be replayed, if anything."""
        problem = None
        for t, (node, requires_grad, version, base, view, lifted) in self._before.values():
            leaf_again = lifted and t._node is None and t._requires_grad is True
            if not leaf_again and (t._node is not node or bool(t._requires_grad) != bool(requires_grad)):
                problem = (
                    "it changes the history (requires_grad, or an in-place write with a gradient) of an existing tensor"
                )
            t._node, t._requires_grad, t._version, t._base, t._view = node, requires_grad, version, base, view
        self._before.clear()
        return problem

    def remember(self, t: Tensor) -> None:
        """Keeps the slots of a real tensor. One with a history from outside is a leaf for the time of the trace."""
        if id(t) in self._before or id(t) in self.created:
            return
        lifted = t._node is not None
        self._before[id(t)] = (t, (t._node, t._requires_grad, t._version, t._base, t._view, lifted))
        if lifted:
            t._node, t._requires_grad = None, True

    def size_guards(self) -> list[Any]:
        """What it has come to take for granted of symbolic sizes since it was asked the last time."""
        return []

    def requires_grad_before(self, t: Tensor) -> bool | None:
        """Whether a real tensor required grad when the call began."""
        found = self._before.get(id(t))
        return t._requires_grad if found is None else found[1][1]

    def stop(self, reason: str) -> NoReturn:
        """Ends the capture, for good: code that catches everything does not bring it back."""
        if self.attempts:
            if state.tracer is not self and (stop := getattr(state.tracer, "stop", None)) is not None:
                stop(reason)
            raise NotClosed(reason)
        if self.stopped is None:
            self.stopped = CaptureStop(reason, user_location())
        raise self.stopped

    def decline(self, reason: str) -> NoReturn:
        """Calls that come here go on as plain Python."""
        self.stop(reason)

    # ---- inputs

    def add_input(self, source: Source, type: TensorType) -> Value:
        v = self.builder.input(type, source.path)
        self.sources.append(source)
        return v

    def source_of(self, t: Tensor) -> Source:
        """How later calls find the real tensor `t`."""
        found = self.known.get(id(t))
        if found is not None:
            return found[1]
        path = self.reach.find(t)
        kind = "rng" if path is not None and path.startswith("rng") else "state"
        source = TensorSource(t, path or f"state{len(self.sources)}", kind, frozen=path is None)
        self.known[id(t)] = (t, source)
        return source

    def lift(self, t: Tensor) -> Slot:
        """Takes a real tensor into the trace: as an input, or as a constant if the trace has made it."""
        array = t._data
        self.found(array)
        if id(t) in self.created or self._made_here(t):
            value = self.builder.constant(host(array.copy()))
            slot = Slot(t, None, value, value, array)
        else:
            self.remember(t)
            source = self.source_of(t)
            value = self.add_input(source, TensorType(from_numpy(array.dtype), array.shape))
            slot = Slot(t, source, value, value, array)
        self.slots[id(t)] = slot
        return slot

    def found(self, array: Any) -> None:
        """An array takes part in the trace: where it lies, the trace runs."""
        if type(array) is not np.ndarray:
            self.run_on(array.gpu)

    def run_on(self, gpu: Any) -> None:
        """The trace runs on that GPU; None says nothing."""
        if gpu is not None and self.gpu is not None and gpu is not self.gpu:
            self.stop(f"it works with tensors on {self.gpu.name} and {gpu.name}")
        self.gpu = self.gpu or gpu

    def _made_here(self, t: Tensor) -> bool:
        """Whether library code has made `t` during this trace, with memory of its own."""
        if id(t) in self.known or t._data.base is not None or id(t._data) in self.external:
            return False
        if self.reach.find(t) is not None or not self.young.holds(t):
            return False
        self.made(t)
        return True

    def array_input(self, array: np.ndarray, source: Source | None = None) -> Tensor:
        """A real ndarray as a tensor of the trace; the same one for the same array."""
        found = self.arrays.get(id(array))
        if found is not None:
            return found[1]
        source = source or ArraySource(array, self.reach.find(array) or f"array{len(self.sources)}")
        value = self.add_input(source, TensorType(from_numpy(array.dtype), array.shape))
        t = new_tensor(value, self.array_class)
        self.arrays[id(array)] = (array, t)
        self.slots[id(t)] = Slot(t, source, value, value, array)
        return t

    # ---- the protocol of state.Tracer

    def made(self, t: Tensor) -> None:
        self.created[id(t)] = t

    def read(self, t: Tensor) -> Value:
        if self.stopped is not None:
            raise self.stopped
        slot = self.slots.get(id(t))
        if slot is not None:
            return slot.current
        data = t._data
        if type(data) is not Value:
            return self.lift(t).current
        if data.builder is not self.builder:
            self.stop("it uses a tensor that another trace has left behind")
        return self._current(t)

    def _is_own(self, t: Tensor) -> bool:
        return type(t._data) is Value

    def write(self, t: Tensor, v: Value) -> None:
        if self.stopped is not None:
            raise self.stopped
        self.ties.cut(self, t)
        super().write(t, v)

    def _set(self, root: Tensor, v: Value) -> None:
        slot = self.slots.get(id(root))
        if slot is None and self._is_own(root):
            root._data = v  # type: ignore[assignment]
            return
        slot = slot or self.lift(root)
        source = slot.source
        if isinstance(source, TensorSource) and source.frozen:
            self.stop("it writes into a tensor that is reached in a way capture does not know")
        if root._base is not None and needs_grad(root):
            self.stop("it writes into a view that was made outside, and that has a history")
        slot.current = v

    def make_view(self, base: Tensor, op: OpDef, attrs: Attrs, value: Value) -> Tensor:
        return self._view_made(new_tensor(value, self.wrapper), base)

    def wrap(self, v: Value) -> Tensor:
        return new_tensor(v, self.wrapper)

    def get_grad(self, t: Tensor) -> Tensor | None:
        if type(t._data) is Value and id(t) not in self.slots or id(t) in self.created:
            return t._grad
        return self._grad_slot(t).current

    def set_grad(self, t: Tensor, g: Tensor | None) -> None:
        if self.stopped is not None:
            raise self.stopped
        if type(t._data) is Value and id(t) not in self.slots or id(t) in self.created:
            t._grad = g
            return
        before = self._before.get(id(t))
        if g is not None and before is not None and before[1][0] is not None:
            self.stop("backward() goes on into a history that was made outside of the compiled function")
        self._grad_slot(t).current = g

    def _grad_slot(self, t: Tensor) -> GradSlot:
        found = self.grads.get(id(t))
        if found is None:
            self.remember(t)
            source = self.source_of(t)
            if isinstance(source, (ArraySource, ScalarSource, NumberSource)):
                self.stop("it takes the gradient of a NumPy array")
            found = self.grads[id(t)] = GradSlot(t, source, t._grad, t._grad)
            if t._grad is not None and id(t._grad) not in self.known:
                self.known[id(t._grad)] = (t._grad, GradSource(source, f"{source.path}.grad"))
        return found

    def concretize(self, t: Tensor, what: str) -> Any:
        slot = self.slots.get(id(t))
        data = t._data
        if slot is not None and slot.source is None and not slot.written or slot is None and id(t) in self.created:
            if type(data) is not Value:
                return host(data.copy())  # made in this trace from Python numbers: the same on every call
        if what in _NUMBERS and self.asker is not None:
            from .scalars import number_of

            return number_of(self, t, what)
        self.stop(f"{_ASKS.get(what, f'{what}()')} needs the value of a tensor")

    def ask(self, value: Value, kind: str) -> bool | int:
        """The value of a 0-d bool ("bool") or int64 ("int") for this call. The trace goes on for calls with that
        value."""
        if self.stopped is not None:
            raise self.stopped
        assert self.asker is not None
        self.questions += 1
        try:
            return self.asker(value, kind)
        except TooMany as e:
            self.stopped = e
            raise

    def size_of(self, t: Tensor, most: DimLike | None = None) -> DimLike:
        if self.stopped is not None:
            raise self.stopped
        if self.counted is None:
            self.stop("the shape of a result depends on the values of tensors")
        return self.counted.size(self.read(t), most)

    def callable(self, f: Any) -> Any:
        return self.on_callable(f)

    # ---- what the trace has done

    def written(self) -> Iterator[tuple[int, Slot]]:
        """(input index, slot) of the inputs that were written."""
        index = {v: i for i, v in enumerate(self.builder.inputs)}
        for slot in self.slots.values():
            if slot.source is not None and slot.written:
                yield index[slot.first], slot

    def argument(self, leaf: int, x: Any, path: str) -> Any:
        """What the user's function gets for argument leaf `x`: tensors themselves, arrays as tensors of the trace."""
        if isinstance(x, Tensor):
            self.known.setdefault(id(x), (x, ArgSource(leaf, path)))
            return x
        if type(x) is np.ndarray:
            return self.array_input(x, ArgSource(leaf, path))
        return x


_NUMBERS = frozenset(("bool", "int", "index", "item", "float"))
_ASKS = {
    "bool": "a truth test (if, while, and, or, not, assert)",
    "item": ".item()",
    "numpy": "conversion to a NumPy array",
    "array": "conversion to a NumPy array",
}
