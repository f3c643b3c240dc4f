"""`disable`: parts of a program that stay plain Python."""

from __future__ import annotations

import functools
import types
from typing import Any, Callable

from ..state import state


class disable:
    """`disable(f)`, or `@disable`: `f` always runs as plain Python, and so does what it calls, compiled or not.

    `with disable():` does it for a block, in this thread. In a compiled function, a call of a disabled function (or such
    a block) ends the capture: the whole call runs as plain Python, with a warning; CaptureError under fullgraph=True.
    """

    def __new__(cls, fn: Callable[..., Any] | None = None) -> Any:
        if fn is None:
            return super().__new__(cls)
        if not callable(fn):
            raise TypeError(f"disable() takes a function, not a {type(fn).__name__}")
        return _disabled(fn)

    def __enter__(self) -> "disable":
        state.disabled += 1
        return self

    def __exit__(self, *exc: object) -> None:
        state.disabled -= 1


def _disabled(fn: Callable[..., Any]) -> Callable[..., Any]:
    from ..compile import CompiledFunction

    inner = fn.__tracefuse_wrapped__ if isinstance(fn, CompiledFunction) else fn

    @functools.wraps(inner)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with disable():
            return inner(*args, **kwargs)

    plain.__tracefuse_disabled__ = True  # type: ignore[attr-defined]
    return plain


def is_disabled(f: Any) -> bool:
    """Whether `f` came out of `disable`."""
    f = f.__func__ if isinstance(f, types.MethodType) else f
    return isinstance(f, types.FunctionType) and "__tracefuse_disabled__" in vars(f)
