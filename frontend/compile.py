"""`tr.compile`: functions, methods, modules and whole training steps as compiled traces.

A call looks up the traces of its argument layout, takes the first whose guards hold, and runs it. Without one it
captures, builds and runs a new trace; what can't be captured runs as plain Python, with a warning that names the line.

Python float arguments that only meet arithmetic are inputs of the trace; every other Python number is a constant of it,
guarded by value. Tensors need equal dtype, rank and layout to share a trace, and equal sizes until some of them change
(`capture/dynamic.py`).
"""

from __future__ import annotations

import functools
import sys
import threading
import time
import types
import warnings
from typing import TYPE_CHECKING, Any, Callable

from ..runtime import collector, interrupts
from ..runtime.background import NotYet
from . import events
from .capture.capture import Call, CaptureStop, Restart, Specialize, Volatile, capture, flatten_call
from .capture.dynamic import Dynamic
from .capture.guards import Guard
from .capture.replay import Captured, Invocation
from .capture.tree import (
    Declined,
    Found,
    Route,
    TreeNode,
    Values,
    executables_of,
    leaves_of,
    separate,
    walk,
    without,
)
from .capture.value_sizes import Settle, Settled
from .code_memory import CODE
from .epoch import epoch
from .executables import BACKENDS
from .lazy_mode import Background, Job
from .options import Options
from .state import publish_modes, publish_modes_to, state
from .tensor import Tensor

MOST_CAPTURES = 256  # of one call, one after the other, each with what the one before has found out
MODES = ("default", "lazy", "max")


class CaptureWarning(UserWarning):
    """A call of a compiled function ran as plain Python; the message names the user's line and the reason."""


class CaptureError(RuntimeError):
    """`fullgraph=True`, and a call can't be captured as one graph."""


class CheckError(AssertionError):
    """`check=n`: a compiled call gave other results than plain Python."""


class CompiledFunction:
    """A function whose calls run as compiled traces. Attributes: `traces`, `fallbacks` (reasons), `__wrapped__`.

    Objects are of a native type on top of this class: calling and binding are its own. A call that no trace of the
    native chain serves comes to `_called`.
    """

    __slots__ = ()

    def __init__(
        self,
        function: Callable,
        *,
        fullgraph: bool,
        mode: str,
        backend: str,
        check: int,
        options: dict[str, Any] | None,
        dynamic: Any = None,
    ):
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r}: it is one of {', '.join(BACKENDS)}")
        if mode not in MODES:
            raise ValueError(f"mode {mode!r}: it is one of {', '.join(MODES)}")
        functools.update_wrapper(self, function, updated=())
        self.__tracefuse_wrapped__ = function
        self._miss = self._called
        self._target: tuple[Any, tuple[Any, ...]] = (self, ())
        self.fullgraph, self.mode, self.backend, self.check = fullgraph, mode, backend, check
        self.options = Options.of(options)
        self.dynamic = Dynamic(dynamic)
        self.fallbacks: list[str] = []
        make: Callable[..., Any] = BACKENDS[backend]
        if self.options.cuda_graphs is not None:
            make = functools.partial(make, cuda_graphs=self.options.cuda_graphs)
        if mode == "max":
            make = functools.partial(make, budget=self.options.budget_ms / 1e3)
        self._background = Background(make) if mode == "lazy" else None
        self._build: Callable[..., Any] = make if self._background is None else self._background.build
        self._lock = threading.RLock()
        self.unload()

    def unload(self) -> None:
        """Forgets all traces, their code, and what could not be captured."""
        from ..runtime import entry

        with self._lock:
            entry.clear(self._target[0])  # calls that are inside of native code keep it until they are done
            for nodes in getattr(self, "_traces", {}).values():
                separate(nodes)
            if self._background is not None:
                self._background.forget()
            self._traces: dict[tuple, list[TreeNode]] = {}
            self._eager: set[tuple] = set()
            self._static: dict[tuple, frozenset[int]] = {}
            self._settled: dict[tuple, Settled] = {}
            self.dynamic.families.clear()
            self._loaded = object()  # another one after each unload
            self._hits = self._misses = self._python = self._unloaded = 0
            self._before = (0, 0.0)  # compiles, and their seconds, of traces that have been unloaded
            self._warned = False
            self._volatile = Volatile()
            self._failing: dict[str, int] = {}
            self.fallbacks.clear()

    def unload_tree(self, place: tuple, node: TreeNode) -> bool:
        """Forgets one trace, or all that belong to one tree. False while another thread traces a call."""
        from ..runtime import entry

        if not self._lock.acquire(blocking=False):
            return False
        try:
            nodes = self._traces.get(place, [])
            if not any(n is node for n in nodes):
                return False
            made, gone = executables_of([node]), leaves_of([node])
            self._hits += sum(t.native.new_hits() for t in gone if t.native)
            self._traces[place] = [n for n in nodes if n is not node]
            if node.native:
                entry.remove_trace(self._target[0], node.native.trace)
            separate([node])
            if self._background is not None:
                self._background.finish(gone)
            self._unloaded += len(gone)
            seconds = sum(sum(e.seconds.values()) for e in made)
            self._before = (self._before[0] + len(made), self._before[1] + seconds)
            return True
        finally:
            self._lock.release()

    @property
    def traces(self) -> list[Captured]:
        """Every trace that has been made, oldest first for each layout of arguments."""
        out = [t for tree in list(self._traces.values()) for t in leaves_of(tree)]
        for captured in out:
            if captured.native:
                with self._lock:
                    new = captured.native.new_hits()
                    captured.calls += new
                    self._hits += new
        return out

    def cache_info(self) -> dict[str, Any]:
        """traces: how many there are. hits, misses: calls that found one, or made one. eager: calls in plain Python.
        failing: how often each guard sent a call to another trace. compiles, seconds: of graphs since `unload`, and how
        long they took. code_bytes: of machine code that is loaded. pending: traces that the background compiles.
        unloaded: traces that had to go because there was too much code."""
        traces = self.traces
        made = executables_of([n for nodes in list(self._traces.values()) for n in nodes])
        return {
            "traces": len(traces),
            "hits": self._hits,
            "misses": self._misses,
            "eager": self._python,
            "failing": dict(self._failing),
            "fallbacks": list(self.fallbacks),
            "compiles": self._before[0] + len(made),
            "seconds": self._before[1] + sum(sum(e.seconds.values()) for e in made),
            "code_bytes": sum(e.code_bytes for e in made),
            "pending": sum(not t.ready for t in traces),
            "unloaded": self._unloaded,
        }

    def ready(self, timeout: float | None = None) -> bool:
        """mode="lazy": waits until the background has compiled all that has been traced, `timeout` seconds at most (None:
        however long it takes). Whether it has; what can't be compiled counts too, and is told by the next call. Calls
        that have not been traced yet (the first of each signature) have nothing to wait for; in other modes it is True."""
        return self._background is None or self._background.ready(timeout)

    def __reduce__(self) -> Any:
        """By reference, as functions are: copies are the function itself."""
        name: str = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(self.__module__)
        for step in name.split("."):
            found = getattr(found, step, None)
        if found is self:
            return name
        raise TypeError(f"can't pickle {self!r}: pickle the function, and compile it again")

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    __copy__ = functools.partialmethod(__deepcopy__, None)

    def __repr__(self) -> str:
        return f"<compiled {getattr(self, '__qualname__', self.__tracefuse_wrapped__)}: {len(self.traces)} traces>"

    def _called(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.miss(args, kwargs)

    if TYPE_CHECKING:

        def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...

        def __get__(self, obj: Any, owner: type | None = None) -> Any: ...

    def miss(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A call that the native entry has no trace for: the whole way in Python."""
        interrupts.raise_pending()  # the native entry has come back from a loop that a signal has ended
        function = self.__tracefuse_wrapped__
        if state.tracer is not None:  # library code of another trace calls this one: it becomes part of it
            return state.tracer.callable(self)(*args, **kwargs)  # type: ignore[attr-defined]
        publish_modes()
        if state.disabled:
            return function(*args, **kwargs)
        loaded, at_epoch = self._loaded, epoch.value
        try:
            call = flatten_call(args, kwargs)
            key = call.key
            hash(key)
        except (TypeError, RecursionError) as e:
            return self._fall_back(None, f"the arguments can't be flattened: {e}", args, kwargs)
        invocation = Invocation(call.leaves, args, kwargs, at_epoch, self._target[1])
        self.dynamic.check(function, call)
        if self._background is not None and self._background.jobs:
            self._settle()
        try:
            found = self._find(key, call)
        except Declined:
            return self._plain(args, kwargs)
        if found.captured is not None:
            if self._background is not None and not found.captured.ready:
                return self._plain(args, kwargs)
            self._hits += 1
            self._offer(found.captured, invocation, loaded)
            return self._run(found, call.leaves, args, kwargs)
        if key in self._eager:
            return self._plain(args, kwargs)
        if self._full(key, call):
            return self._fall_back(key, self._too_many(), args, kwargs)
        return self._trace(key, call, invocation)

    def _plain(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The call as plain Python."""
        self._python += 1
        if self._background is None:
            return self.__tracefuse_wrapped__(*args, **kwargs)
        with self._lock:  # it does not begin while another thread traces, which changes tensors for a moment
            self._background.plain += 1
        try:
            return self.__tracefuse_wrapped__(*args, **kwargs)
        finally:
            with self._lock:
                self._background.plain -= 1

    def _settle(self) -> None:
        """Takes out the traces that the background could not compile, and notes why."""
        assert self._background is not None
        with self._lock:
            waiting = len(self._background.jobs)
            for job, error in self._background.failed():
                bad = {id(p) for p in job.pending if p.error is not None}
                nodes = self._traces.get(job.place, [])
                self._traces[job.place] = without(nodes, lambda n: n is job.captured or id(n.executable) in bad)
                if job.captured.sizes is None:
                    self._background.broken[job.key] = self._backend_failed(error)
                else:
                    self.dynamic.give_up(job.place)  # the next call is traced for its own sizes
            if len(self._background.jobs) < waiting:
                CODE.make_room(self)

    def _full(self, key: tuple, call: Call) -> bool:
        """Whether there are as many traces as may be."""
        trees = sum(map(len, list(self._traces.values())))
        if self._near(key, call):  # the call may be one more branch of a trace that is there
            trees -= 1
        return trees >= self.options.max_traces or len(self.traces) >= self.options.max_branches

    def _near(self, key: tuple, call: Call) -> list[TreeNode]:
        """The traces that may serve the call, the guards permitting: first those of its very sizes."""
        pattern = self._pattern(key, call)
        return [*self._traces.get(key, ()), *(() if pattern is None else self._traces.get(pattern, ()))]

    def _find(self, key: tuple, call: Call) -> Found:
        """Where the traces lead a call. Declined if a part of them fails for it."""
        return walk(self._near(key, call), call.leaves, self._failed, [])

    def _failed(self, guard: Guard) -> None:
        text = getattr(guard, "failed", "") or guard.text
        if text in self._failing or len(self._failing) < 100:
            self._failing[text] = self._failing.get(text, 0) + 1

    def _pattern(self, key: tuple, call: Call) -> tuple | None:
        """Where traces with symbolic sizes are kept that may serve the call."""
        return self.dynamic.pattern(self.__tracefuse_wrapped__, key, call)

    def _keep(self, key: tuple, call: Call, captured: Captured) -> None:
        """Puts a new trace where calls look for it."""
        place = key if captured.sizes is None else self._pattern(key, call)
        assert place is not None
        nodes = self._traces.setdefault(place, [])
        for segment, answer in captured.above:
            nodes = segment.branches.setdefault(answer, [])
        nodes.append(captured)
        if self._background is not None:
            self._background.jobs.append(Job(key, place, captured))
        CODE.make_room(self, captured.above[0][0] if captured.above else captured)

    def _offer(self, captured: Captured, call: Invocation, loaded: object) -> None:
        """Has native code serve calls like this one, which is about to run, from the next one on."""
        if captured.native is False or captured.calls < self.check or not self._lock.acquire(blocking=False):
            return
        try:
            if loaded is not self._loaded:
                return
            if captured.native is not None:
                captured.native.renew(call)
            else:
                from .native import attach

                captured.native = attach(self._target[0], captured, call) or False
        except NotYet:
            pass  # until the background has compiled what native code needs for that, calls run the trace from Python
        finally:
            self._lock.release()

    def _trace(self, key: tuple, flat: Call, call: Invocation) -> Any:
        """Captures this call and runs it."""
        args, kwargs, background = call.args, call.kwargs, self._background
        with self._lock:
            try:
                found = self._find(key, flat) if self._traces else Found(None, [])
            except Declined:
                return self._plain(args, kwargs)
            if found.captured is not None:  # another thread was faster
                self._hits += 1
            elif background is not None and key in background.broken:
                reason = background.broken[key] if self.fullgraph else background.broken.pop(key)
                return self._fall_back(key, reason, args, kwargs)
            elif background is None or background.may_trace(self._pattern(key, flat) or key):
                start = time.perf_counter()
                error: BaseException | None = None
                captured: Captured | None = None
                pattern = self._pattern(key, flat)
                again = events.why_again(self.__tracefuse_wrapped__, self._traces, key, pattern, flat)
                try:
                    with collector.paused():
                        captured, values = self._capture(key, flat, args, kwargs)
                except CaptureStop as e:
                    reason = str(e)
                except (Exception, SystemExit) as e:  # an error of the user's, or of capture: plain Python tells which
                    reason, error = f"{type(e).__name__} while tracing: {e}", e
                if captured is None:
                    return self._fall_back(key, reason, args, kwargs, error)
                events.captured(captured.graph.name, captured, time.perf_counter() - start, again)
                try:
                    with collector.paused():
                        captured, values = self._compiled(captured, values, key, flat, args, kwargs)
                except Exception as e:
                    return self._fall_back(key, self._backend_failed(e), args, kwargs)
                self._keep(key, flat, captured)
                self._misses += 1
                found = Found(captured, values)
                if captured.ready:
                    self._offer(captured, call, self._loaded)  # inside the lock: nobody has unloaded it
        if found.captured is None or not found.captured.ready:
            return self._plain(args, kwargs)
        return self._run(found, call.leaves, args, kwargs)

    def _backend_failed(self, error: BaseException) -> str:
        return f"the {self.backend} backend failed: {type(error).__name__}: {error}"

    def _capture(self, key: tuple, call: Call, args: tuple, kwargs: dict[str, Any]) -> tuple[Captured, Values]:
        """A trace of the call, and what the segments on its way have computed."""
        values: Values = []

        def once(tracer: Callable[[], Any]) -> Captured:
            captured, found = self._capture_once(key, call, args, kwargs, tracer)
            values[:] = found
            return captured

        return self.dynamic.capture(self.__tracefuse_wrapped__, key, call, once), values

    def _capture_once(
        self, key: tuple, call: Call, args: tuple, kwargs: dict[str, Any], make: Callable[[], Any]
    ) -> tuple[Captured, Values]:
        for _ in range(MOST_CAPTURES):
            static = self._static.get(key, frozenset())
            fn, tracer = self.__tracefuse_wrapped__, make()
            place = key if tracer is None else self._pattern(key, call)
            assert place is not None
            nodes, limits = self._traces.setdefault(place, []), self.options
            route = Route(nodes, call.leaves, self._build, limits.max_questions, limits.max_answers)
            settled = self._settled.setdefault(place, {})
            try:
                with route:
                    out = capture(fn, args, kwargs, static, tracer, route, self._volatile, settled)
                return out, route.values
            except Restart:
                continue
            except Settle as e:
                e.note(settled)
            except Specialize as e:
                if e.leaf in static:
                    raise CaptureStop("a float argument can't be made a constant of the trace", None) from None
                self._static[key] = static | {e.leaf}
        raise CaptureStop("what it relies on changes with every attempt to trace it", None)

    def _compiled(
        self, captured: Captured, values: Values, key: tuple, call: Call, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Captured, Values]:
        """`captured` with its code; if the backend can't have its symbolic sizes, another trace without any."""
        try:
            self._compile(captured)
        except Exception:
            if captured.sizes is None:
                raise
            captured, values = self._capture_once(key, call, args, kwargs, lambda: None)
            self._compile(captured)
        return captured, values

    def _compile(self, captured: Captured) -> None:
        captured.executable = self._build(captured.graph if captured.rest is None else captured.rest, gpu=captured.gpu)
        if captured.backward is not None:
            captured.backward.executable = self._build(captured.backward.graph, gpu=captured.gpu)

    def _run(self, found: Found, leaves: list[Any], args: tuple, kwargs: dict[str, Any]) -> Any:
        captured = found.captured
        assert captured is not None
        if captured.calls < self.check:
            from .capture.check import checked

            return checked(self.__tracefuse_wrapped__, captured, found.values, leaves, args, kwargs, CheckError)
        arrays = [s.fetch(leaves) for s in captured.sources]
        try:
            outputs = captured.run(arrays, found.values)
        except Exception:  # before anything was written: plain Python gives the error, or the result
            outputs = None
        if outputs is None:
            return self._plain(args, kwargs)
        return captured.commit(leaves, arrays, outputs, found.values, (args, kwargs))

    def _too_many(self) -> str:
        worst = max(self._failing, key=self._failing.__getitem__, default="the layout of the arguments")
        return f"it has {self.options.max_traces} traces already; what changes most often: {worst}"

    def _fall_back(
        self, key: tuple | None, reason: str, args: tuple, kwargs: dict[str, Any], error: BaseException | None = None
    ) -> Any:
        """Runs the call as plain Python. If that works, says once why it was not compiled."""
        name = getattr(self.__tracefuse_wrapped__, "__qualname__", type(self.__tracefuse_wrapped__).__name__)
        events.fell_back(name, reason)
        # an error of the user's comes out of plain Python as it is, whatever was asked for
        out = self._plain(args, kwargs) if error is not None or not self.fullgraph else None
        text = f"{name} runs as plain Python: {reason}"
        if self.fullgraph:
            raise CaptureError(text) from error
        if key is not None:
            if len(self._eager) > 1000:
                self._eager.clear()
            self._eager.add(key)
        if reason not in self.fallbacks:
            self.fallbacks.append(reason)
        if not self._warned:
            self._warned = True
            warnings.warn(text, CaptureWarning, stacklevel=4)
        return out


def compile(
    fn: Any = None,
    *,
    fullgraph: bool = False,
    mode: str = "default",
    dynamic: Any = None,
    backend: str = "llvm",
    check: int = 0,
    options: dict[str, Any] | None = None,
) -> Any:
    """Compiles a function, a method, or a Module (its forward). Also a decorator: `@compile`, `@compile(check=1)`.

    fullgraph: a call that can't be captured raises CaptureError instead of running as plain Python.
    mode: "default": the first call of a signature is compiled, and waits for it. "lazy": calls run as plain Python until
    the background has compiled what the second one has traced; the function's `ready(timeout)` waits for it. "max": the
    first call also times other schedules of its kernels, and keeps the fastest.
    dynamic: None: the first call fixes all sizes; sizes of arguments that differ in a later one become symbolic in a
    second trace, which then serves all. False: every shape gets its own trace. True: all sizes of arguments but 0 and 1
    are symbolic at once. {"x": {0: "batch"}}: these are, by name or as a `Dim` with a range (ValueError for a call
    outside of it); sizes of one name are equal.
    backend: "llvm", or "reference" (NumPy; slow, for comparison). check: compare the first n calls of each trace with
    plain Python; CheckError where they differ. options: limits, see `Options`; ValueError for an unknown one.
    A compiled Module is of the same class and shares parameters, buffers and attributes with the original.
    """
    settings: dict[str, Any] = dict(
        fullgraph=fullgraph, mode=mode, backend=backend, check=check, options=options, dynamic=dynamic
    )
    if fn is None:
        return functools.partial(compile, **settings)
    from .nn.module import Module

    if isinstance(fn, Module):
        return _compiled_module(fn, settings)
    if isinstance(fn, CompiledFunction):
        fn = fn.__tracefuse_wrapped__
    if not callable(fn):
        raise TypeError(f"compile() takes a function, a method or a Module, not a {type(fn).__name__}")
    return _new(fn, settings)


@functools.cache
def _native_type() -> type:
    """The class of compiled functions: native code starts here, with the first of them."""
    from ..runtime import entry

    made = entry.function_type_on(CompiledFunction)
    publish_modes_to(entry.mode_setter())
    return made


def _new(function: Callable, settings: dict[str, Any]) -> CompiledFunction:
    from ..runtime import entry

    cls = _native_type()
    if entry.tensor_type() is not Tensor:
        entry.configure(Tensor)
    out = entry.new_function(function, cls)
    out.__init__(function, **settings)
    return out


def _compiled_module(module: Any, settings: dict[str, Any]) -> Any:
    """An object of a subclass of `module`'s class, with its name and the very same `__dict__`; its call is compiled."""
    cls = type(module)
    if "__tracefuse_compiled__" in cls.__dict__:
        module, cls = cls.__tracefuse_original__, type(cls.__tracefuse_original__)
    from ..runtime import entry

    plain = types.MethodType(cls.__call__, module)
    compiled = _new(plain, settings)
    # called as a method by the type, so that no Python runs on the way to the traces
    call = entry.new_function(lambda self, /, *args, **kwargs: compiled.miss(args, kwargs))
    members = {
        "__call__": call,
        "__tracefuse_compiled__": compiled,
        "__tracefuse_wrapped__": plain,
        "__tracefuse_original__": module,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": lambda self, protocol: (_compiled_module, (module, settings)),
    }
    twin: Any = type(cls)(cls.__name__, (cls,), members)  # type: ignore[operator]
    out = object.__new__(twin)
    object.__setattr__(out, "__dict__", module.__dict__)
    compiled._target = (call, (out,))
    return out


def is_compiled(x: Any) -> bool:
    """Whether `x` came out of `compile`."""
    return isinstance(x, CompiledFunction) or "__tracefuse_compiled__" in type(x).__dict__


def compiled_function(x: Any) -> CompiledFunction:
    """The CompiledFunction behind what `compile` gave for a function, method or Module. TypeError if there is none."""
    if isinstance(x, types.MethodType):
        x = x.__func__
    found = x if isinstance(x, CompiledFunction) else type(x).__dict__.get("__tracefuse_compiled__")
    if found is None:
        raise TypeError(f"{type(x).__name__} is not compiled: pass what tr.compile returned")
    return found


__all__ = [
    "CaptureError",
    "CaptureWarning",
    "CheckError",
    "CompiledFunction",
    "compile",
    "compiled_function",
    "is_compiled",
]
