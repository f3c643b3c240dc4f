"""Bodies of loops and branches as graphs: a tracer for each, and what it reads from outside.

A body's values are its own. A tensor from outside that it reads becomes one more input of its graph, and an operand of
the node that will hold the graph (closure conversion); one that it writes is handed from step to step, and written when
the node has run. Questions for values have no place in such a graph: they end the capture around it, so that the call
runs as plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..ir import ops
from ..ir.dim import DimLike
from ..ir.graph import Graph, GraphBuilder, Value
from ..ir.op import Attrs, OpDef
from ..ir.types import TensorType
from .capture import pytree
from .capture.tracer import user_location
from .convert import as_tensor
from .devices import host
from .lanes import Inside
from .state import UnsupportedOperand, state, traced
from .tape import root_of
from .tensor import Tensor, new_tensor

if TYPE_CHECKING:
    from .autograd import Function


class Captures:
    """The tensors from outside that the graphs of one node read, each once."""

    def __init__(self) -> None:
        self.tensors: dict[int, Tensor] = {}

    def types(self) -> list[TensorType]:
        return [type_of(t) for t in self.tensors.values()]


def type_of(t: Tensor) -> TensorType:
    """The type of a tensor as the active tracer sees it."""
    return t.type if state.tracer is None else state.tracer.read(t).type


class Body(Inside):
    """Traces one body."""

    def __init__(self, name: str, captures: Captures):
        super().__init__(name)
        self.captures = captures
        self.recording = state.grad_enabled
        self.own_inputs = 0
        self.written: dict[int, tuple[Tensor, Value]] = {}  # tensors from outside, and what they hold now
        self._taken: dict[int, Value] = {}  # values of tensors from outside, as the body finds them
        self._made: dict[
            int, tuple[Tensor, Value | None]
        ] = {}  # tensors of library code in here, and what they hold now
        self._without: dict[Value, Value] = {}  # values cut off from what they were computed from
        self._apart: set[Value] = set()  # values that no gradient passes anyway

    def run(self, function: Callable, types: Sequence[TensorType], rebuild: Callable[[list], Any]) -> Any:
        """What `function` returns for arguments of these types, which `rebuild` nests."""
        self.own_inputs = len(types)
        return traced(function)(*rebuild([self.wrap(self.input(t)) for t in types]))

    def results(self, leaves: Sequence[Tensor]) -> list[Value]:
        """The values of results."""
        return [self.read(t) for t in leaves]

    def found(self, t: Tensor) -> Value:
        """What a tensor from outside that one of the node's bodies reads holds at the beginning of this one."""
        v = self._taken.get(id(t))
        if v is None:
            if id(root_of(t)) in self.written:
                self.stop("the body of a loop or branch reads a view from outside of what it has written")
            v = self._taken[id(t)] = Value(type_of(t), builder=self)
        return v

    def left(self, t: Tensor) -> Value:
        """What it holds at the end."""
        return self.written[id(t)][1] if id(t) in self.written else self.found(t)

    def writes_with_history(self, t: Tensor) -> bool:
        """Whether the body gives `t` a value that gradients pass: not what it computed under no_grad."""
        v = self.left(t)
        return id(t) in self.written and v.dtype.is_inexact and v not in self._apart

    def graph(self, outputs: Sequence[Value], first: Sequence[Tensor] = (), before: int | None = None) -> Graph:
        """The body, with an input for everything that any of the node's bodies has captured: for the tensors `first`
        among its own inputs, from number `before` on, for the others behind them."""
        own = self.inputs[: self.own_inputs]
        at = len(own) if before is None else before
        moved = {id(t) for t in first}
        rest = [self.found(t) for k, t in self.captures.tensors.items() if k not in moved]
        self.inputs[:] = [*own[:at], *map(self.found, first), *own[at:], *rest]
        return self.finish(outputs)

    def stop(self, reason: str) -> NoReturn:
        """Ends the capture that this body is part of. RuntimeError if there is none."""
        outer: Any = self.outer
        while outer is not None and not hasattr(outer, "stop"):
            outer = outer.outer
        if outer is None:
            raise RuntimeError(f"{user_location()}: {reason}")
        raise outer.stop(reason)

    # ---- values

    def emit(self, op: OpDef, inputs: tuple[Value, ...], attrs: Attrs) -> tuple[Value, ...]:
        if op.name == "random_bits" and self._within_vmap():
            self.stop("the body of a loop or branch draws random numbers under vmap")
        self.loc = user_location()
        mode = state.grad_enabled if state.mode_before_walk is None else state.mode_before_walk
        if mode or not self.recording:
            return super().emit(op, inputs, attrs)
        out = super().emit(op, tuple(map(self.without_history, inputs)), attrs)  # the user's no_grad
        self._apart.update(out)
        return out

    def interpret(self, op: OpDef, args: tuple, attrs: Attrs) -> Any:
        return super().interpret(op, tuple([self.own(a) if type(a) is Value else a for a in args]), attrs)

    def _within_vmap(self) -> bool:
        outer: Any = self.outer
        while isinstance(outer, Body):
            outer = outer.outer
        return isinstance(outer, Inside)

    def constant(self, array: np.ndarray, name: str = "") -> Value:
        if type(array) is Value:
            return self._capture(self.outside(self._outer_tensor, array))
        if array.ndim == 0 and array.dtype.kind != "c":
            return GraphBuilder.constant(self, array, name)
        return self._capture(self.outside(self._outer_tensor, array))

    def _outer_tensor(self, payload: Any) -> Tensor:
        outer: Any = self.outer
        if outer is None:
            return new_tensor(payload)
        if type(payload) is Value:
            return outer.wrap(payload)
        return outer.wrap((outer if isinstance(outer, Inside) else outer.builder).constant(payload))

    def _capture(self, t: Tensor) -> Value:
        v = self._taken.get(id(t))
        if v is None:
            v = self._taken[id(t)] = self.input(self.outside(type_of, t))
            self.captures.tensors[id(t)] = t
        return v

    def without_history(self, v: Value) -> Value:
        """`v` cut off from what it was computed from, for gradients that pass the whole body."""
        if not v.dtype.is_inexact or v in self._apart:
            return v
        found = self._without.get(v)
        if found is None:
            if v.dtype.is_complex:
                self.stop("it takes the history of a complex tensor away inside of a loop or branch")
            found = GraphBuilder.emit(self, ops.bitcast, (v,), {"dtype": v.dtype})[0]
            self._without[v] = found
            self._apart.add(found)
        return found

    def own(self, v: Value) -> Value:
        """`v` as a value of this body: one from outside is captured."""
        return v if v.builder is self else self.constant(v)  # type: ignore[arg-type]

    # ---- the protocol of state.Tracer

    def made(self, t: Tensor) -> None:
        self._made[id(t)] = (t, None)
        super().made(t)

    def read(self, t: Tensor) -> Value:
        if self._is_own(t):
            return self._current(t)
        if id(t) in self.written:
            return self.written[id(t)][1]
        made = self._made.get(id(t))
        if made is None:
            return self._capture(t)
        if made[1] is None:
            data = t._data
            small = type(data) is np.ndarray and data.ndim == 0
            self._made[id(t)] = made = (t, self.constant(data.copy()) if small else self._capture(t))
        assert made[1] is not None
        return made[1]

    def _set(self, root: Tensor, v: Value) -> None:
        if self._is_own(root):
            root._data = v
        elif id(root) in self._made:
            self._made[id(root)] = (root, v)
        else:
            shares = any(t is not root and root_of(t) is root for t in self.captures.tensors.values())
            if root._base is not None or shares:
                self.stop(
                    f"the body of a loop or branch writes into a tensor from outside (shape {tuple(root.shape)}) that shares "
                    "memory with another one; carry it, and return the new one"
                )
            self._capture(root)
            self.written[id(root)] = (root, v)

    def set_grad(self, t: Tensor, g: Tensor | None) -> None:
        if not self._is_own(t):
            self.stop(
                "backward() inside of a loop or branch would write .grad of a tensor from outside; use tr.grad, and return "
                "the gradients"
            )
        t._grad = g

    def concretize(self, t: Tensor, what: str) -> Any:
        if self._is_own(t):
            self.stop(f"the body of a loop or branch asks for the value of a tensor ({what}); use tr.cond or tr.where")
        if type(t._data) is not Value and (self.outer is None or id(t) in self._made):
            return host(t._data.copy())
        assert self.outer is not None
        return self.outside(self.outer.concretize, t, what)

    def size_of(self, t: Tensor, most: DimLike | None = None) -> DimLike:
        if not self._is_own(t) and self.outer is not None:
            return self.outside(self.outer.size_of, t, most)
        return int(self.concretize(t, "size"))

    def apply_function(self, function: type[Function], args: tuple, kwargs: dict[str, Any]) -> Any:
        """A custom Function: its own gradient has no place in the graph."""
        from .autograd_function import FunctionContext, call_forward

        if self.recording:
            self.stop(f"{function.__name__}, a custom autograd.Function, is applied inside of a loop or branch")
        return call_forward(function, FunctionContext(), args, kwargs)


# ------------------------------------------------------------------ nested values


class Tree:
    """Nested tensors as a list; None counts as part of the nesting."""

    def __init__(self, nested: Any, what: str):
        found, self.spec = pytree.flatten(nested)
        self.places = tuple(i for i, x in enumerate(found) if x is not None)
        self.leaves: list[Tensor] = []
        for i in self.places:
            try:
                self.leaves.append(as_tensor(found[i]))
            except UnsupportedOperand as e:
                raise TypeError(f"{user_location()}: {what}{pytree.paths(self.spec)[i]}: {e}") from None

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """Other leaves in the same nesting."""
        full: list[Any] = [None] * self.spec.n_leaves
        for i, x in zip(self.places, leaves, strict=True):
            full[i] = x
        return pytree.unflatten(self.spec, full)

    def same_nesting(self, other: Tree) -> bool:
        return (self.spec, self.places) == (other.spec, other.places)

    def path(self, leaf: int) -> str:
        """How the user would write that leaf, behind the name of the whole."""
        return pytree.paths(self.spec)[self.places[leaf]]


def describe(tree: Tree, types: Sequence[TensorType]) -> str:
    """The nesting, with types for tensors."""
    return _text(tree.rebuild(types))


def _text(x: Any) -> str:
    if isinstance(x, dict):
        return "{" + ", ".join(f"{k!r}: {_text(v)}" for k, v in x.items()) + "}"
    if isinstance(x, list):
        return f"[{', '.join(map(_text, x))}]"
    if isinstance(x, tuple):
        return f"({', '.join(map(_text, x))}{',' if len(x) == 1 else ''})"
    return str(x)


__all__ = ["Body", "Captures", "Tree", "describe", "type_of"]
