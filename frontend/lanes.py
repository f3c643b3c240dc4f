"""The batching interpreter under `vmap`: while a `Level` is the tracer, ops see one lane and compute all of them.

A graph value of a level stands for a `Lane`: a tensor of the level outside, with an axis of lanes in front if it differs
between lanes. Each op is computed at once by its batching rule, on tensors outside: there the tape is kept, another
vmap goes on batching, or a trace is recorded. The level has a tape of its own, so that transforms nest in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

from ..ir.batching import BatchContext, batch
from ..ir.dim import DimLike
from ..ir.graph import GraphBuilder, Value
from ..ir.op import Attrs, OpDef, get_op, scope
from ..ir.types import TensorType, TypeRuleError
from .dispatch import assign, lift, run
from .state import state
from .tape import needs_grad
from .tensor import Tensor, detach, new_tensor
from .trace_views import TraceViews

if TYPE_CHECKING:
    from .autograd import Function

RANDOMNESS = ("error", "different", "same")


class Lane:
    """What a value of a level stands for: a tensor of the level outside, and whether its first axis is the lanes'."""

    __slots__ = ("batched", "tensor")

    def __init__(self, tensor: Tensor, batched: bool):
        self.tensor, self.batched = tensor, batched


class Inside(TraceViews, GraphBuilder):
    """A tracer within the one around it (`outer`, None for eager code), and the builder of its values: what `vmap` and the
    bodies of loops share. Used as `with tracer:`."""

    def __init__(self, name: str):
        TraceViews.__init__(self)
        GraphBuilder.__init__(self, name)
        self.outer = state.tracer
        self.depth = 1 + (self.outer.depth if isinstance(self.outer, Inside) else 0)
        self.positions: dict[Value, Tensor] = {}
        self._saved: list[tuple] = []

    # ---- lifetime

    def __enter__(self) -> Self:
        now = state.tracer, state.grad_enabled, state.mode_before_walk, state.on_node, state.draws
        self._saved.append((*now, scope.default))
        state.mode_before_walk, state.on_node = None, None
        scope.default = self.interpret
        state.tracer = cast(Any, self)
        return self

    def __exit__(self, *exc: object) -> None:
        before = self._saved.pop()
        state.tracer, state.grad_enabled, state.mode_before_walk, state.on_node, state.draws, scope.default = before

    def outside(self, call: Callable, *args: Any, **kwargs: Any) -> Any:
        """Runs library code as the caller would. What a backward pass in here does is recorded there even
        though the pass itself needs no history; what the user's no_grad covers is not."""
        tracer, recording, walk, on_node, draws, default = self._saved[-1]
        mode = state.grad_enabled if state.mode_before_walk is None else state.mode_before_walk
        before = state.tracer, state.grad_enabled, state.mode_before_walk, state.on_node, state.draws, scope.default
        state.tracer, state.grad_enabled, state.mode_before_walk = tracer, recording and mode, walk
        state.on_node, state.draws, scope.default = on_node, draws, default
        try:
            return call(*args, **kwargs)
        finally:
            state.tracer, state.grad_enabled, state.mode_before_walk, state.on_node, state.draws, scope.default = before

    # ---- the protocol of state.Tracer that does not depend on what values stand for

    def _is_own(self, t: Tensor) -> bool:
        return type(t._data) is Value and t._data.builder is self

    def make_view(self, base: Tensor, op: OpDef, attrs: Attrs, value: Value) -> Tensor:
        return self._view_made(self.wrap(value), base)

    @property
    def wrapper(self) -> type[Tensor]:
        """The class of tensors made while tracing."""
        return getattr(self.outer, "wrapper", Tensor)

    @wrapper.setter
    def wrapper(self, kind: type[Tensor]) -> None:
        if self.outer is not None:
            cast(Any, self.outer).wrapper = kind

    def wrap(self, v: Value) -> Tensor:
        return new_tensor(v, self.wrapper)

    def made(self, t: Tensor) -> None:
        if self.outer is not None:
            self.outer.made(t)

    def get_grad(self, t: Tensor) -> Tensor | None:
        return t._grad if self._is_own(t) else self.outside(lambda: t.grad)

    def run_on(self, gpu: Any) -> None:
        if self.outer is not None:
            self.outer.run_on(gpu)

    def callable(self, f: Any) -> Any:
        return getattr(f, "__tracefuse_wrapped__", f) if self.outer is None else self.outer.callable(f)


class Level(Inside):
    """One running vmap, a tracer (`state.Tracer`) and the builder of its values. Used as `with level:`."""

    def __init__(self, size: DimLike, randomness: str = "error"):
        super().__init__("vmap")
        self.size, self.randomness = size, randomness

    def __enter__(self) -> Self:
        super().__enter__()
        if self.randomness == "different":
            state.draws = state.draws * self.size
        return self

    # ---- values

    def value(self, lane: Lane) -> Value:
        t = lane.tensor.type
        return self._value(t.with_shape(t.shape[1:]) if lane.batched else t, lane)

    def _value(self, type: TensorType, lane: Lane) -> Value:
        return Value(type, cast(Any, lane), builder=self)  # where graphs keep a value's node, levels keep its lane

    def lane(self, v: Value | Tensor) -> Lane:
        return cast(Any, (self.read(v) if isinstance(v, Tensor) else v).node)

    def constant(self, array: Any, name: str = "") -> Value:
        """An ndarray, or a value of a level outside, as one that is the same in all lanes."""
        return self.value(Lane(new_tensor(array), False))

    def interpret(self, op: OpDef, args: tuple, attrs: Attrs) -> Any:
        inputs = tuple(a if type(a) is Value and a.builder is self else self.constant(a) for a in args)
        out = self.emit(op, inputs, attrs)
        return out[0] if op.n_outputs == 1 else out

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        types = tuple(v.type for v in inputs)
        try:
            results = op.result_types(types, attrs)
        except TypeRuleError as e:
            raise type(e)(f"{op.name}({', '.join(map(str, types))}): {e}") from None
        lanes = [self.lane(v) for v in inputs]
        tensors, batched = tuple([x.tensor for x in lanes]), tuple([x.batched for x in lanes])
        varies = any(batched)
        if varies:
            found = self.outside(batch, BatchContext(op, tensors, batched, types, attrs, self.size))
            if found is None:
                assert op.decompose is not None
                found = op.decompose(*inputs, **attrs)
                return found if isinstance(found, tuple) else (found,)
        else:
            if op.name == "random_bits":
                varies = self._draws_for_each_lane()
                attrs = attrs | {"shape": (self.size, *attrs["shape"])} if varies else attrs
            found = self.outside(run, op, tensors, attrs)
            found = found if isinstance(found, tuple) else (found,)
        made = [t if isinstance(t, Tensor) else self.outside(lift, t) for t in found]
        return tuple([self._value(r, Lane(t, varies)) for r, t in zip(results, made, strict=True)])

    def _draws_for_each_lane(self) -> bool:
        if self.randomness == "error":
            raise RuntimeError(
                'vmap: the function draws random numbers; say randomness="different" for numbers of each lane\'s own, '
                'or randomness="same" for the same ones in all'
            )
        return self.randomness == "different"

    # ---- the protocol of state.Tracer

    def read(self, t: Tensor) -> Value:
        data = t._data
        if type(data) is not Value or data.builder is not self:
            return self.value(Lane(t, False))
        return self._current(t)

    def _set(self, root: Tensor, v: Value) -> None:
        if self._is_own(root):
            root._data = v
        else:
            self._write_outside(root, self.lane(v))

    def _write_outside(self, t: Tensor, lane: Lane) -> None:
        if lane.batched:
            raise RuntimeError(
                f"vmap: a tensor of shape {tuple(t.shape)} from outside of the function is written in place with values "
                f"that differ between lanes; make it inside (zeros_like(x), x.clone()), or return the values"
            )
        if state.grad_enabled and (needs_grad(t) or needs_grad(lane.tensor)):
            raise RuntimeError("vmap: a tensor from outside of the function is written in place with a gradient")
        self.outside(assign, t, lane.tensor)

    def set_grad(self, t: Tensor, g: Tensor | None) -> None:
        if not self._is_own(t):
            raise RuntimeError(
                f"vmap: backward() inside of the function would write .grad of a tensor from outside (shape "
                f"{tuple(t.shape)}); use tr.grad or autograd.grad, and return the gradients"
            )
        t._grad = g

    def concretize(self, t: Tensor, what: str) -> Any:
        lane = self.lane(t)
        if lane.batched:
            raise RuntimeError(
                f"vmap: {_ASKS.get(what, f'{what}()')} needs the value of a tensor that differs between the {self.size} "
                "lanes; use tr.where instead of if, and shapes that do not depend on values"
            )
        return lane.tensor._data if self.outer is None else self.outside(self.outer.concretize, lane.tensor, what)

    def size_of(self, t: Tensor, most: DimLike | None = None) -> DimLike:
        lane = self.lane(t)
        if lane.batched or self.outer is None:
            return int(self.concretize(t, "size"))
        return self.outside(self.outer.size_of, lane.tensor, most)

    # ---- what only levels have

    def without_history(self, v: Value) -> Value:
        """`v` cut off from the tapes outside too: what the user's detach() means."""
        lane = self.lane(v)
        return self._value(v.type, Lane(self.outside(detach, lane.tensor), lane.batched))

    def moved_to_front(self, t: Tensor) -> Tensor:
        """The tensor outside that `t` stands for, with its axis of lanes, also if all lanes are the same."""
        lane = self.lane(t)
        if lane.batched:
            return lane.tensor
        return self.outside(run, get_op("broadcast_to"), (lane.tensor,), {"shape": (self.size, *t.shape)})

    def apply_function(self, function: type[Function], args: tuple, kwargs: dict[str, Any]) -> Any:
        """A custom Function: outside, it is one whose rules are mapped over the lanes."""
        from .mapped_function import apply_mapped

        return apply_mapped(self, function, args, kwargs)


_ASKS = {
    "bool": "a truth test (if, while, and, or, not, assert)",
    "item": ".item()",
    "numpy": "conversion to a NumPy array",
    "array": "conversion to a NumPy array",
    "size": "a mask, nonzero, unique or repeat",
}

__all__ = ["RANDOMNESS", "Inside", "Lane", "Level"]
