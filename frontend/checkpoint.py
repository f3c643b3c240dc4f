"""`checkpoint`: less memory for the backward pass, at the price of computing the forward pass twice.

A checkpointed part is recorded as usual. Then its nodes drop what they saved, and the first one that the backward pass
comes to runs the part again and gives every node back what it had (PyTorch's `use_reentrant=False`). So everything else
about the tape holds: closed-over tensors, hooks, `autograd.grad`, higher derivatives, checkpoints inside of others.
Compiled, the second run is part of the graph, where equal nodes are one: right, but without a saving.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from .autograd import enable_grad
from .random import default_generator
from .state import state, traced
from .tape import Node
from .tensor import Tensor, alias


class CheckpointError(RuntimeError):
    """The second run of a checkpointed part was not like the first one."""


class Frame:
    """One checkpointed call. Its nodes hold it, and it holds them weakly."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict[str, Any], contexts: Any, keep_random: bool):
        self.function, self.kwargs, self.contexts = function, kwargs, contexts
        self.args: tuple | None = args
        self.versions = [(a, a._version) for a in args if isinstance(a, Tensor)]
        self.random = alias_of_state() if keep_random else None
        self.autocast = state.autocast
        self.steps: list[weakref.ref[Any]] = []
        self.frame: Frame | None = None  # the checkpoint around this one, once it has dropped our arguments

    def run(self, kept: list[Any] | None = None) -> Any:
        """Calls the function, and collects the steps it records. `kept`: where to hold them strongly."""
        assert self.args is not None
        before, self.steps = state.on_node, []

        def add(step: Any) -> None:
            self.steps.append(weakref.ref(step))
            if kept is not None:
                kept.append(step)
            if state.anomaly is not None and isinstance(step, Node):
                state.anomaly.note(step)

        state.on_node = add
        try:
            return traced(self.function)(*self.args, **self.kwargs)
        finally:
            state.on_node = before

    def drop(self) -> None:
        """Has every step forget what it saved."""
        for step in self.steps:
            found = step()
            if found is not None:
                found.forget(self)

    def recompute(self) -> None:
        """Gives the steps back what they have dropped."""
        if self.args is None:
            assert self.frame is not None
            self.frame.recompute()
        for a, version in self.versions:
            if a._version != version:
                raise CheckpointError(
                    f"checkpoint: an argument (shape {tuple(a.shape)}) was written in place after the forward pass, which "
                    "has to run again; pass a copy (x.clone())"
                )
        assert self.args is not None
        again, kept = Frame(self.function, self.args, self.kwargs, nullcontext, False), []
        now, outer = alias_of_state(), state.autocast
        state.autocast = self.autocast
        if self.random is not None:
            default_generator.set_state(self.random)
        try:
            with enable_grad(), self.contexts():
                again.run(kept)
        finally:
            state.autocast = outer
            if self.random is not None:
                default_generator.set_state(now)
        if len(kept) != len(self.steps):
            raise CheckpointError(
                f"checkpoint: the function recorded {len(self.steps)} steps at first and {len(kept)} when it ran again; "
                "it must do the same both times"
            )
        for step, other in zip(self.steps, kept):
            found = step()
            if found is not None:
                found.restore(other)

    # ---- as a step of the checkpoint around it

    def forget(self, frame: Frame) -> None:
        self.args, self.versions, self.frame = None, [], frame

    def restore(self, other: Any) -> None:
        if self.args is None and isinstance(other, Frame):
            self.args, self.versions, self.random = other.args, other.versions, other.random


def alias_of_state() -> Tensor:
    """A copy of the default generator's state."""
    return alias(default_generator.get_state())


def checkpoint(
    function: Callable,
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple] | None = None,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """function(*args, **kwargs), which keeps nothing for the backward pass but its arguments: it runs again there.

    preserve_rng_state: random numbers (dropout) are the same both times. context_fn: () -> two context managers, for the
    first run and the second. `use_reentrant` is PyTorch's, and changes nothing: all checkpoints are of its new kind.
    CheckpointError in the backward pass if the second run does something else, or an argument was written in place.
    """
    if not state.grad_enabled:
        return traced(function)(*args, **kwargs)
    first, second = context_fn() if context_fn is not None else (nullcontext(), nullcontext())
    frame = Frame(function, args, kwargs, lambda: second, preserve_rng_state)
    if state.on_node is not None:
        state.on_node(frame)
    with first:
        out = frame.run()
    frame.drop()
    return out


def checkpoint_sequential(functions: Any, segments: int, input: Any, use_reentrant: bool | None = None) -> Any:
    """A Sequential or list of functions applied one after the other, in `segments` checkpoints of about equal length.
    ValueError for fewer than one segment."""
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    if segments < 1:
        raise ValueError(f"checkpoint_sequential: segments={segments} must be positive")
    length = max(1, len(steps) // segments)
    bounds = [*range(0, length * segments, length)][:segments]
    for start, end in zip(bounds, [*bounds[1:], len(steps)]):
        if steps[start:end]:
            input = checkpoint(_chain(steps[start:end]), input)
    return input


def _chain(steps: Iterable[Callable]) -> Callable:
    def run(x: Any) -> Any:
        for step in steps:
            x = traced(step)(x)
        return x

    return run


__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential"]
