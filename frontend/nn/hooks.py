"""Hooks of modules: functions that are called around `forward`, and when gradients pass through a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..autograd import Function
from ..epoch import epoch
from ..state import state, traced
from ..tape import needs_grad
from ..tensor import Tensor

if TYPE_CHECKING:
    from .module import Module


class RemovableHandle:
    """Takes a hook out again: `handle.remove()`, or a `with` block."""

    _count = 0

    def __init__(self, hooks: dict[int, Any]):
        RemovableHandle._count += 1
        self.id, self._hooks = RemovableHandle._count, hooks

    def remove(self) -> None:
        if self._hooks.pop(self.id, None) is not None:
            epoch.bump()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Hook(NamedTuple):
    call: Callable[..., Any]
    with_kwargs: bool = False
    always: bool = False


def add_hook(module: Module, kind: str, hook: Hook, prepend: bool = False) -> RemovableHandle:
    """Puts `hook` into the module's registry `kind`, which is made when it is first needed."""
    hooks: dict[int, Hook] = module.__dict__.setdefault(kind, {})
    handle = RemovableHandle(hooks)
    others: Iterable[tuple[int, Hook]] = tuple(hooks.items())
    if prepend:
        hooks.clear()
    hooks[handle.id] = hook
    if prepend:
        hooks.update(others)
    epoch.bump()
    return handle


def hooks_of(module: Module, kind: str) -> tuple[Hook, ...]:
    return tuple(module.__dict__.get(kind, {}).values())


def call_with_hooks(module: Module, args: tuple, kwargs: dict[str, Any]) -> Any:
    """`module.forward(*args, **kwargs)` with every hook that is there."""
    for hook in hooks_of(module, "_forward_pre_hooks"):
        if hook.with_kwargs:
            changed = traced(hook.call)(module, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        else:
            changed = traced(hook.call)(module, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
    crossing = _Crossing(module) if state.grad_enabled and _wants_gradients(module) else None
    if crossing is not None:
        args = crossing.enter(args)
    left = list(hooks_of(module, "_forward_hooks"))
    try:
        out = traced(module.forward)(*args, **kwargs)
        while left:
            out = _after(left.pop(0), module, args, kwargs, out)
    except Exception:
        for hook in left:
            if hook.always:
                _after(hook, module, args, kwargs, None)
        raise
    return out if crossing is None else crossing.leave(out)


def _after(hook: Hook, module: Module, args: tuple, kwargs: dict[str, Any], out: Any) -> Any:
    given = (module, args, kwargs, out) if hook.with_kwargs else (module, args, out)
    changed = traced(hook.call)(*given)
    return out if changed is None else changed


# ------------------------------------------------------------------ gradients


def _wants_gradients(module: Module) -> bool:
    d = module.__dict__
    return bool(d.get("_backward_hooks") or d.get("_backward_pre_hooks"))


class _Pass(Function):
    """Tensors as they are; `change` sees, and may replace, all their gradients at once."""

    @staticmethod
    def forward(ctx: Any, change: Callable[[tuple], tuple], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.change = change
        return tensors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        return (None, *ctx.change(gradients))


class _Crossing:
    """One call of a module with backward hooks: where its inputs come in and its results go out."""

    def __init__(self, module: Module):
        self.module = module
        self.of_outputs: tuple = ()
        self.entered = False

    def enter(self, args: tuple) -> tuple:
        places = [i for i, a in enumerate(args) if isinstance(a, Tensor) and needs_grad(a)]
        if not places:
            return args
        self.entered = True

        def change(gradients: tuple) -> tuple:
            whole: list[Any] = [None] * len(args)
            for i, g in zip(places, gradients, strict=True):
                whole[i] = g
            replaced = self._call_hooks(tuple(whole))
            return tuple(replaced[i] for i in places)

        passed = list(args)
        for i, t in zip(places, _Pass.apply(change, *(args[i] for i in places)), strict=True):
            passed[i] = t
        return tuple(passed)

    def leave(self, out: Any) -> Any:
        listed = list(out) if isinstance(out, (tuple, list)) else [out]
        places = [i for i, a in enumerate(listed) if isinstance(a, Tensor) and needs_grad(a)]
        if not places:
            return out

        def change(gradients: tuple) -> tuple:
            whole: list[Any] = [None] * len(listed)
            for i, g in zip(places, gradients, strict=True):
                whole[i] = g
            self.of_outputs = tuple(whole)
            for hook in hooks_of(self.module, "_backward_pre_hooks"):
                changed = traced(hook.call)(self.module, self.of_outputs)
                if changed is not None:
                    self.of_outputs = changed if isinstance(changed, tuple) else (changed,)
            if not self.entered:  # no input wants a gradient: the hooks are called here
                self._call_hooks(())
            return tuple(self.of_outputs[i] for i in places)

        for i, t in zip(places, _Pass.apply(change, *(listed[i] for i in places)), strict=True):
            listed[i] = t
        if isinstance(out, Tensor):
            return listed[0]
        return type(out)(*listed) if hasattr(out, "_fields") else type(out)(listed)

    def _call_hooks(self, of_inputs: tuple) -> tuple:
        for hook in hooks_of(self.module, "_backward_hooks"):
            changed = traced(hook.call)(self.module, of_inputs, self.of_outputs)
            if changed is not None:
                of_inputs = changed if isinstance(changed, tuple) else (changed,)
        return of_inputs
