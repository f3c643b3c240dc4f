"""Calls that say something to the outside and take no part in the computation: `print`, logging, warnings, `debug_print`.

They happen at commit, in the order of the program, with the values that their arguments had; from frames that look like
the user's, so that loggers and warnings name the user's line.
"""

from __future__ import annotations

import logging
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

from ..state import SymbolicScalar
from ..tensor import Tensor
from . import guards as g
from . import text
from .effects import HostCall
from .instrument import is_instrumented
from .lazy import LazyNumber
from .origins import Called, OriginGuard

if TYPE_CHECKING:
    from .objects import ObjectHooks

_LOGGING = frozenset("debug info warning warn error critical log".split())
_LEVELS = frozenset(("isEnabledFor", "getEffectiveLevel", "hasHandlers", "getLogger"))


def debug_print(fmt: str, *args: Any, **kwargs: Any) -> None:
    """Prints `fmt.format(*args, **kwargs)`; in a compiled function on every call, with the values of that call."""
    print(fmt.format(*args, **kwargs))


def is_host_call(f: Any) -> bool:
    """Whether `f` is one of them."""
    inner = f.__func__ if isinstance(f, types.MethodType) else f
    if inner is print or inner is warnings.warn or inner is debug_print:
        return True
    return isinstance(inner, types.FunctionType) and inner.__globals__ is vars(logging) and inner.__name__ in _LOGGING


def record(hooks: "ObjectHooks", f: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Puts down a call of `f`."""
    hooks.overlay.lasting(f"calls {f.__name__}")
    if kwargs.get("exc_info") or kwargs.get("stack_info"):
        hooks.tracer.stop(f"it calls {f.__name__} with exc_info or stack_info")
    frames = () if f is print else _frames()
    if f is print:
        args = tuple([text.formatted(hooks, a, "s") if not _is_opaque(hooks, a) else a for a in args])
    elif f is debug_print:
        f, args, kwargs = print, (text.str_format(hooks, args[0], args[1:], kwargs),), {}
    else:
        args = tuple([_frozen(hooks, a) for a in args])
    kwargs = {k: hooks.overlay.plain(v) for k, v in kwargs.items()}
    hooks.overlay.actions.append(HostCall(f, args, kwargs, frames))


def _is_opaque(hooks: "ObjectHooks", v: Any) -> bool:
    """An object that existed before, of which nothing is known but how it prints itself."""
    if g.is_value(v) or isinstance(v, (Tensor, SymbolicScalar, text.TracedText)) or id(v) in hooks.tracer.created:
        return False
    return isinstance(v, (types.FunctionType, types.ModuleType, types.MethodType)) and id(v) in hooks.seen_objects


def _frozen(hooks: "ObjectHooks", v: Any) -> Any:
    """An argument as it is now."""
    if isinstance(v, Tensor):
        return text.Frozen(v, hooks.tracer)
    if isinstance(v, LazyNumber) or g.is_value(v):
        return v
    if isinstance(v, SymbolicScalar):
        return v if getattr(v, "original", False) else text.Frozen(v, hooks.tracer)
    v = hooks.overlay.plain(v)
    if type(v) in (list, tuple):
        return type(v)([_frozen(hooks, x) for x in v])
    if type(v) is dict:
        return {k: _frozen(hooks, x) for k, x in v.items()}
    return v


def _frames() -> tuple[tuple[str, int, str, dict], ...]:
    """The frames of the user's functions that are being traced."""
    out = []
    frame: Any = sys._getframe(1)
    while frame is not None:
        if is_instrumented(frame.f_code):
            out.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, frame.f_globals))
        frame = frame.f_back
    return tuple(reversed(out))


def level(hooks: "ObjectHooks", f: Any, args: tuple) -> Any:
    """What a logger says of itself; later calls must hear the same."""
    now = f(*args)
    origin = Called(f, args)
    expected = g.Equal(now) if g.is_value(now) else g.Same(now)
    hooks.guards.append(OriginGuard(origin, expected, f"{f.__name__} gives the same"))
    return now


def is_level(f: Any) -> bool:
    """Whether `f` is a question to a logger, or for one."""
    inner = f.__func__ if isinstance(f, types.MethodType) else f
    return isinstance(inner, types.FunctionType) and inner.__globals__ is vars(logging) and inner.__name__ in _LEVELS
