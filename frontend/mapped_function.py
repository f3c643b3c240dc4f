"""Custom Functions under vmap: outside they are one Function whose forward and backward are mapped over the lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir.op import get_op
from .autograd_function import Function, FunctionContext, call_forward, record
from .dispatch import run
from .lanes import Lane, Level
from .state import traced
from .tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence


def apply_mapped(level: Level, function: type[Function], args: tuple, kwargs: dict[str, Any]) -> Any:
    """`function.apply(*args, **kwargs)` inside of `level`."""
    lanes = [level.lane(a) if isinstance(a, Tensor) else None for a in args]
    call = _Call(function, level.size, level.randomness, lanes, kwargs)
    out = level.outside(call.as_function().apply, *(a if x is None else x.tensor for a, x in zip(args, lanes)))
    results = out if isinstance(out, tuple) else (out,)
    inner = [
        level.wrap(level.value(Lane(r, batched))) if isinstance(r, Tensor) else r
        for r, batched in zip(results, call.result_batched, strict=True)
    ]
    ctx = call.context_in(level, call.saved)
    ctx.mark_non_differentiable(*(inner[i] for i in call.constant))
    call.saved = ()  # results among them would hold themselves, by way of their history
    # what the level's own tape records is the function itself
    return record(function, ctx, args, tuple(inner) if isinstance(out, tuple) else inner[0])


class _Call:
    """One application: which arguments, results and saved tensors differ between lanes."""

    def __init__(self, function: type[Function], size: Any, randomness: str, lanes: Sequence[Any], kwargs: dict):
        self.function, self.size, self.randomness, self.kwargs = function, size, randomness, kwargs
        self.batched = [x is not None and x.batched for x in lanes]
        self.result_batched: list[bool] = []
        self.saved_batched: list[bool] = []
        self.saved: tuple[Tensor | None, ...] = ()
        self.constant: list[int] = []  # results that are marked non-differentiable
        self.result_types: list[tuple[Any, tuple]] = []  # (dtype, shape) of each result tensor in one lane
        self.context = FunctionContext()

    def as_function(self) -> type[Function]:
        call = self

        class Mapped(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any) -> Any:
                return call.forward(ctx, args)

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                return call.backward(ctx, gradients)

        Mapped.__name__ = self.function.__name__
        return Mapped

    def forward(self, ctx: FunctionContext, args: tuple) -> Any:
        ctx.set_materialize_grads(False)
        with Level(self.size, self.randomness) as level:
            inner = tuple(_inside(level, a, b) for a, b in zip(args, self.batched))
            out = call_forward(self.function, self.context, inner, self.kwargs)
            listed = out if isinstance(out, tuple) else (out,)
            lanes = [level.lane(r) if isinstance(r, Tensor) else r for r in listed]
            tensors = [r for r in listed if isinstance(r, Tensor)]
            self.result_types = [(r.dtype, tuple(r.shape)) for r in tensors]
            kept = [None if t is None else level.lane(t) for t in self.context.saved_tensors]
            marked = self.context._not_differentiable
            self.constant = [i for i, r in enumerate(listed) if any(r is t for t in marked)]
        self.result_batched = [isinstance(x, Lane) and x.batched for x in lanes]
        self.saved_batched = [x is not None and x.batched for x in kept]
        self.saved = tuple(None if x is None else x.tensor for x in kept)
        ctx.save_for_backward(*self.saved)
        self.context._saved = self.context._not_differentiable = self.context._dirty = ()
        results = tuple(x.tensor if isinstance(x, Lane) else x for x in lanes)
        ctx.mark_non_differentiable(*(results[i] for i in self.constant))
        return results if isinstance(out, tuple) else results[0]

    def context_in(self, level: Level, saved: tuple[Tensor | None, ...]) -> FunctionContext:
        """The user's context with its saved tensors as `level` sees them."""
        ctx = FunctionContext()
        ctx.__dict__.update(self.context.__dict__)
        ctx.save_for_backward(*(_inside(level, t, b) for t, b in zip(saved, self.saved_batched)))
        return ctx

    def backward(self, ctx: FunctionContext, gradients: tuple) -> tuple:
        with Level(self.size, self.randomness) as level:
            own = self.context_in(level, ctx.saved_tensors)
            given = [_inside(level, g, b) for g, b in zip(gradients, self.result_batched)]
            if own._materialize:
                given = [self._zeros(level, i) if g is None else g for i, g in enumerate(given)]
            out = traced(self.function.backward)(own, *given)
            grads = out if isinstance(out, tuple) else (out,)
            return tuple(_outside(level, g, b) for g, b in zip(grads, self.batched))

    def _zeros(self, level: Level, i: int) -> Any:
        """Zeros like result i in one lane."""
        dtype, shape = self.result_types[i]
        return level.wrap(get_op("full")(value=0, shape=shape, dtype=dtype))


def _inside(level: Level, t: Any, batched: bool) -> Any:
    return level.wrap(level.value(Lane(t, batched))) if isinstance(t, Tensor) else t


def _outside(level: Level, g: Any, batched: bool) -> Any:
    """The gradient of an argument: summed over the lanes that share it."""
    if g is None:
        return None
    lane = level.lane(g)
    if batched:
        return level.moved_to_front(g)
    return level.outside(run, get_op("reduce_sum"), (lane.tensor,), {"axes": (0,)}) if lane.batched else lane.tensor


__all__ = ["apply_mapped"]
