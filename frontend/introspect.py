"""What `benchmark`, `explain` and `export` share: from what the user passes to its CompiledFunction and its traces."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from ..runtime.background import Pending
from .capture.capture import CaptureStop, flatten_call
from .capture.replay import Captured
from .capture.tree import Declined
from .compile import CompiledFunction, compile, compiled_function, is_compiled


class NotCaptured(Exception):
    """A call has no trace, and none can be made. The message is the reason, with the user's line."""


def eager_of(fn: Any) -> Callable[..., Any]:
    """The plain Python behind a function, method or Module, compiled or not. TypeError if it can't be called."""
    if isinstance(fn, types.MethodType) and isinstance(fn.__func__, CompiledFunction):
        return types.MethodType(fn.__func__.__tracefuse_wrapped__, fn.__self__)
    if isinstance(fn, CompiledFunction):
        return fn.__tracefuse_wrapped__
    if is_compiled(fn):
        return getattr(type(fn), "__tracefuse_original__")  # a compiled Module
    if not callable(fn):
        raise TypeError(f"a function, a method or a Module is needed, not a {type(fn).__name__}")
    return fn


def compiled_of(fn: Any) -> tuple[CompiledFunction, Callable[..., Any], tuple]:
    """(its CompiledFunction, what to call, arguments that come first). What is not compiled yet gets compiled now."""
    if isinstance(fn, types.MethodType) and isinstance(fn.__func__, CompiledFunction):
        return fn.__func__, fn, (fn.__self__,)
    call = fn if is_compiled(fn) else compile(eager_of(fn))
    return compiled_function(call), call, ()


def name_of(fn: Any) -> str:
    """How a user would name it."""
    eager = eager_of(fn)
    return getattr(eager, "__qualname__", None) or type(eager).__name__


def trace_of(compiled: CompiledFunction, args: tuple, kwargs: dict[str, Any]) -> Captured:
    """The trace that a call with these arguments would run, made now if there is none. Nothing is run or changed.

    NotCaptured says why the call would run as plain Python.
    """
    try:
        call = flatten_call(args, kwargs)
        key = call.key
        hash(key)
    except (TypeError, RecursionError) as e:
        raise NotCaptured(f"the arguments can't be flattened: {e}") from None
    compiled.dynamic.check(compiled.__tracefuse_wrapped__, call)
    try:
        found = compiled._find(key, call).captured
    except Declined:
        raise NotCaptured("the call fails before it is known which way it takes") from None
    if found is not None:
        return _finished(compiled, found)
    with compiled._lock:
        try:
            captured, _ = compiled._capture(key, call, args, kwargs)
        except CaptureStop as e:
            raise NotCaptured(str(e)) from None
        captured, _ = compiled._compiled(captured, [], key, call, args, kwargs)
        compiled._keep(key, call, captured)
    return _finished(compiled, captured)


def _finished(compiled: CompiledFunction, captured: Captured) -> Captured:
    """The trace with its code, which may be in the making in the background."""
    compiled.ready()
    for e in captured.executables:
        if isinstance(e, Pending) and not e.ready:
            raise NotCaptured(f"it could not be compiled: {e.error or 'it was unloaded'}")
    return captured


def native_of(executable: Any) -> Any:
    """The runtime's Executable (with `plan`, `kernels`, `seconds`, `hits`, `report`), or None for other backends."""
    while executable is not None and not hasattr(executable, "plan"):
        executable = getattr(executable, "executable", None)
    return executable
