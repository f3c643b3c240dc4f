"""`Function`: differentiable functions of one's own, with PyTorch's rules for contexts."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

from ..ir.op import get_op
from ..ir.types import TypeRuleError, broadcast_shapes
from .autograd import conjugate, no_grad
from .convert import cast_to
from .dispatch import lift, payload_of
from .state import state, traced
from .tape import Node, edge_of, needs_grad, root_of, sum_to
from .tensor import Tensor


class FunctionContext:
    """What `forward` hands on to `backward`: `save_for_backward(*tensors)`, or attributes of any name."""

    def __init__(self) -> None:
        self._saved: tuple[_Saved | None, ...] | None = ()
        self._not_differentiable: tuple[Tensor, ...] = ()
        self._dirty: tuple[Tensor, ...] = ()
        self._materialize = True
        self._arguments: tuple[tuple[int, Any, tuple], ...] = ()  # (position, dtype, shape) of tensors
        self._count = 0
        self._node: Callable[[], FunctionNode | None] = lambda: None
        self.needs_input_grad: tuple[bool, ...] = ()

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for backward, where `ctx.saved_tensors` gives them. TypeError for anything else; attributes of
        the context may hold what is no tensor."""
        for t in tensors:
            if t is not None and not isinstance(t, Tensor):
                raise TypeError(f"save_for_backward takes tensors, not a {type(t).__name__}; set an attribute of ctx")
        self._saved = tuple(None if t is None else _Saved(t) for t in tensors)

    def mark_non_differentiable(self, *results: Tensor) -> None:
        """These results get no history."""
        self._not_differentiable = results

    def mark_dirty(self, *arguments: Tensor) -> None:
        """These arguments were written in place; they must be among the results."""
        self._dirty = arguments

    def set_materialize_grads(self, value: bool) -> None:
        """False: backward gets None, not zeros, for results that nothing depends on."""
        self._materialize = bool(value)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What was saved. RuntimeError if it was freed, or written in place since."""
        if self._saved is None:
            raise RuntimeError(
                "backward a second time: the saved tensors were freed; pass retain_graph=True to the first"
            )
        return tuple(None if item is None else item.get(self._node()) for item in self._saved)


class _Saved:
    """A saved tensor and the version it had. A result is kept without its history, which would be a cycle."""

    def __init__(self, t: Tensor):
        self.tensor: Tensor | None = t
        self.version = root_of(t)._version
        self.index, self.payload, self.result = -1, None, None

    def is_result(self, t: Tensor, index: int) -> None:
        self.tensor, self.index, self.payload, self.result = None, index, payload_of(t), weakref.ref(t)

    def get(self, node: FunctionNode | None) -> Tensor:
        holder = self.tensor if self.tensor is not None else self.result() if self.result is not None else None
        if holder is not None and root_of(holder)._version != self.version:
            raise RuntimeError(
                f"a tensor saved for backward (shape {tuple(holder.shape)}, {holder.dtype.name}) was written in place: "
                f"it had version {self.version or 0}, now it is at {root_of(holder)._version or 0}; save a copy (x.clone())"
            )
        if holder is not None:
            return holder
        t = lift(self.payload)
        t._node = None if node is None else (node, self.index)
        return t


class FunctionNode(Node):
    """An application of a user's `Function`."""

    __slots__ = ("context", "function")

    def __init__(self, function: type, context: Any, tensors: tuple[Tensor, ...], results: tuple[Tensor, ...]):
        super().__init__(tensors, results)
        self.function, self.context = function, context
        context._node = weakref.ref(self)

    @property
    def name(self) -> str:
        return self.function.__name__

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        if self.context._saved is None and self.frame is not None:
            self.frame.recompute()
        context = self.context
        given = [
            (self._zeros(i) if context._materialize else None) if g is None else g if isinstance(g, Tensor) else lift(g)
            for i, g in enumerate(cotangents)
        ]
        out = traced(self.function.backward)(context, *map(conjugate, given))  # type: ignore[attr-defined]
        grads = out if isinstance(out, tuple) else (out,)
        count = context._count
        if len(grads) < count or any(g is not None for g in grads[count:]):
            raise RuntimeError(f"{self.name}.backward returned {len(grads)} gradients for {count} arguments of forward")
        picked = [self._fitted(grads[p], dtype, shape) for p, dtype, shape in context._arguments]
        return tuple(None if g is None else conjugate(g if create_graph else payload_of(g)) for g in picked)

    def _zeros(self, i: int) -> Tensor:
        t = self.result_type(i)
        return lift(get_op("full")(value=0, shape=t.shape, dtype=t.dtype))

    def _fitted(self, g: Any, dtype: Any, shape: tuple) -> Any:
        """A gradient of the argument's type. RuntimeError if it has another shape, which broadcasting does not explain."""
        if g is None or tuple(g.shape) == tuple(shape) and g.dtype is dtype:
            return g
        try:
            fits = tuple(broadcast_shapes(tuple(g.shape), tuple(shape))) == tuple(g.shape)
        except TypeRuleError:
            fits = False
        if not fits:
            raise RuntimeError(
                f"{self.name}.backward returned a gradient of shape {tuple(g.shape)} for an argument of shape {tuple(shape)}"
            )
        return cast_to(sum_to(g, shape), dtype)

    def release(self) -> None:
        self.context._saved = self.frame = None

    def forget(self, frame: Any) -> None:
        self.context._saved, self.frame = None, frame

    def restore(self, other: Any) -> None:
        if self.context._saved is None and isinstance(other, FunctionNode):
            self.context = other.context
            self.context._node = weakref.ref(self)


class Function:
    """A differentiable function of one's own: static methods `forward(ctx, *args)` and `backward(ctx, *gradients)`,
    which returns a gradient or None for each argument of forward. Call it with `apply`.

    As in PyTorch, `forward(*args)` may do without ctx if there is `setup_context(ctx, inputs, output)`. Under vmap both
    methods are mapped over the lanes. Forward mode (jvp) differentiates `backward`, so that needs to be differentiable.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a Function needs a static method forward(ctx, *args)")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        """Saves what backward needs, for a forward without ctx."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise TypeError("a Function needs a static method backward(ctx, *gradients)")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        mapped = getattr(state.tracer, "apply_function", None)
        if mapped is not None:
            return mapped(cls, args, kwargs)
        ctx = FunctionContext()
        out = call_forward(cls, ctx, args, kwargs)
        return record(cls, ctx, args, out)


def call_forward(function: type[Function], ctx: FunctionContext, args: tuple, kwargs: dict[str, Any]) -> Any:
    """The results of `forward`, which is not recorded."""
    ctx.needs_input_grad = tuple(isinstance(a, Tensor) and needs_grad(a) for a in args)
    ctx._arguments = tuple((i, a.dtype, tuple(a.shape)) for i, a in enumerate(args) if isinstance(a, Tensor))
    ctx._count = len(args)
    with no_grad():
        if function.setup_context is Function.setup_context:
            return traced(function.forward)(ctx, *args, **kwargs)
        out = traced(function.forward)(*args, **kwargs)
        traced(function.setup_context)(ctx, args, out)
        return out


def record(function: type[Function], ctx: FunctionContext, args: tuple, out: Any) -> Any:
    """The results `out` of forward with the history that ends in the function's node, if any is wanted."""
    if not (state.grad_enabled and any(isinstance(a, Tensor) and needs_grad(a) for a in args)):
        return out
    tensors = tuple(a for a in args if isinstance(a, Tensor))
    results = tuple(_result(function, ctx, r, tensors) for r in (out if isinstance(out, tuple) else (out,)))
    found = tuple(r for r in results if isinstance(r, Tensor))
    node = FunctionNode(function, ctx, tensors, found)
    for i, r in enumerate(found):
        for item in ctx._saved or ():
            if item is not None and item.tensor is r:
                item.is_result(r, i)
        if r.dtype.is_inexact and not any(r is t for t in ctx._not_differentiable):
            r._requires_grad, r._node = None, (node, i)
    return results if isinstance(out, tuple) else results[0]


def _result(function: type[Function], ctx: FunctionContext, r: Any, arguments: tuple[Tensor, ...]) -> Any:
    """Results that are arguments or views become copies: their history is another one than that of what they share."""
    if not isinstance(r, Tensor):
        return r
    if any(r is t for t in ctx._dirty):
        if isinstance(edge_of(r), Tensor) or r._base is not None:
            raise RuntimeError(f"{function.__name__}: a leaf that requires grad, or a view, was marked dirty")
        r._version = (r._version or 0) + 1
        return r
    if r._base is not None or any(r is a for a in arguments):
        with no_grad():
            return r.clone()
    return r


# ------------------------------------------------------------------ once_differentiable


class _Refusal(Node):
    """The history of gradients that cannot be differentiated again."""

    __slots__ = ("what",)

    @property
    def name(self) -> str:
        return self.what

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        raise RuntimeError(
            f"{self.what} is marked with @once_differentiable: its gradients cannot be differentiated a second time"
        )


def once_differentiable(backward: Callable) -> Callable:
    """For the `backward` of a Function whose gradients must not be differentiated: `@staticmethod @once_differentiable`.
    It runs without being recorded; a second derivative raises RuntimeError."""

    @wraps(backward)
    def once(ctx: Any, *gradients: Any) -> Any:
        with no_grad():
            out = backward(ctx, *gradients)
        tracked = tuple(g for g in gradients if isinstance(g, Tensor) and needs_grad(g))
        tracked += tuple(t for t in ctx.saved_tensors if t is not None and needs_grad(t))
        if not state.grad_enabled or not tracked:
            return out
        results = tuple(r.clone() if isinstance(r, Tensor) else r for r in (out if isinstance(out, tuple) else (out,)))
        found = tuple(r for r in results if isinstance(r, Tensor))
        node = _Refusal(tracked, found)
        node.what = backward.__qualname__
        for i, r in enumerate(found):
            r._node = (node, i)
        return results if isinstance(out, tuple) else results[0]

    return once


__all__ = ["Function", "FunctionContext", "FunctionNode", "once_differentiable"]
