"""Signals while native loops run: `tf_poll`, which they call every few milliseconds, lets Python run its handlers.

What a handler raises (KeyboardInterrupt) is kept, the loop returns `INTERRUPTED` at once, nothing has been written, and
the exception goes on where Python is back: `raise_pending`.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

from ..backends.llvm.builder import Module, Val, i32, i64
from .cache import cached_object

INTERRUPTED = -1  # what a plan returns then

_lock = threading.Lock()
_code: Any = None  # never freed: plans call it
_raised: Any = None  # type, value and traceback, as pointers; handlers run in the main thread only, and so does this


def _text() -> str:
    m = Module()
    m.add_global("@tf_raised = global [3 x ptr] zeroinitializer")
    f = m.function("tf_poll", "i32", [], "nounwind noinline")
    held = f.call("PyGILState_Ensure", "i32")
    failed = f.cmp("ne", f.call("PyErr_CheckSignals", "i32"), i32(0))
    raised = Val("@tf_raised", "ptr")
    with f.when(failed):
        f.call("PyErr_Fetch", "void", *(f.gep("ptr", raised, i64(k)) for k in range(3)))
    f.call("PyGILState_Release", "void", held)
    f.ret(f.convert("sext", failed, "i32"))  # INTERRUPTED, or 0
    return str(m)


def poll_symbols() -> dict[str, int]:
    """The address of `tf_poll`, for `engine.link`."""
    global _code, _raised
    from ..backends.llvm.engine import compile_object, host_target, link

    with _lock:
        if _code is None:
            target, text = host_target(), _text()
            code = link([cached_object(text, target.key, lambda: compile_object(text, target))])
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))
            _raised = (ctypes.c_void_p * 3).from_address(code.address("tf_raised"))
            _code = code
        return {"tf_poll": _code.address("tf_poll")}


def raise_pending() -> None:
    """Raises what a signal handler has raised while a native loop of this thread ran."""
    if _raised is None or not _raised[0] or threading.current_thread() is not threading.main_thread():
        return
    error = [ctypes.c_void_p(p) for p in _raised]
    _raised[:] = (None,) * 3
    ctypes.pythonapi.PyErr_Restore(*error)  # ctypes looks for errors after a call, and raises this one
