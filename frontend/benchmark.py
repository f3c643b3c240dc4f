"""`tr.benchmark`: plain Python and compiled code side by side, on the same inputs, in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .capture import pytree
from .capture.replay import Captured
from .introspect import NotCaptured, compiled_of, eager_of, name_of, native_of, trace_of
from .tensor import Tensor

ROUNDS = (5, 100)  # at least, at most
ROUND_SECONDS = 0.01  # a side's calls in one round take at least this long


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Times in milliseconds a call; errors over all tensors in the result.

    eager_ms, compiled_ms: medians over the rounds; eager_range, compiled_range: lower and upper quartile. compile_ms:
    capture, passes and code generation, without running. cached: kernels that came from the cache on disk or were
    compiled before, of `kernels`. max_abs_error: largest difference; max_rel_error: in units of the largest magnitude
    in the same tensor; max_state_error: the absolute one in the tensors that a call writes (an optimizer that divides
    by the size of gradients turns the rounding of tiny ones into whole steps). compiled: False where the call can't be captured (`reason` says why), and both sides are plain
    Python then. writes: tensors that a call changes; they have been put back.
    """

    name: str
    eager_ms: float
    compiled_ms: float
    compile_ms: float
    max_abs_error: float
    max_rel_error: float
    rounds: int
    eager_range: tuple[float, float]
    compiled_range: tuple[float, float]
    kernels: int = 0
    cached: int = 0
    compiled: bool = True
    reason: str = ""
    writes: tuple[str, ...] = field(default=(), repr=False)
    max_state_error: float = 0.0

    @property
    def speedup(self) -> float:
        """Eager time over compiled time."""
        return self.eager_ms / self.compiled_ms

    def to_dict(self) -> dict[str, Any]:
        """All fields and `speedup`, as JSON takes them."""
        return {**asdict(self), "speedup": self.speedup}

    def _rows(self) -> list[tuple[str, str]]:
        def spread(low_high: tuple[float, float]) -> str:
            return f"({milliseconds(low_high[0])} to {milliseconds(low_high[1])})"

        if not self.compiled:
            note = "whatever the function changes has advanced with every call of this benchmark"
            return [("eager", milliseconds(self.eager_ms)), ("not compiled", self.reason), ("state", note)]
        rows = [
            ("eager", f"{milliseconds(self.eager_ms)}  {spread(self.eager_range)}"),
            ("compiled", f"{milliseconds(self.compiled_ms)}  {spread(self.compiled_range)}"),
            ("speedup", f"{self.speedup:.2f}x"),
            (
                "compile time",
                f"{milliseconds(self.compile_ms)}  ({self.kernels} kernels, {self.cached} from the cache)",
            ),
            ("max error", f"{self.max_abs_error:.2g} absolute, {self.max_rel_error:.2g} relative"),
        ]
        if self.writes:
            error = f"max error {self.max_state_error:.2g} absolute"
            rows.append(("writes", f"{len(self.writes)} tensors, put back afterwards ({_few(self.writes)}); {error}"))
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        width = max(len(k) for k, _ in rows)
        return "\n".join([f"{self.name}: median of {self.rounds} rounds", *(f"  {k:<{width}}  {v}" for k, v in rows)])

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._rows()
        )
        return f"<table><caption>{escape(self.name)}: median of {self.rounds} rounds</caption>{rows}</table>"


def milliseconds(ms: float) -> str:
    """A time with three digits and the unit that suits it."""
    for unit, factor in (("s", 1e-3), ("ms", 1.0), ("µs", 1e3)):
        if ms * factor >= 1:
            return f"{ms * factor:.3g} {unit}"
    return f"{ms * 1e6:.3g} ns"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def benchmark(fn: Any, /, *args: Any, seconds: float = 2.0, **kwargs: Any) -> BenchmarkResult:
    """Times `fn(*args, **kwargs)` as plain Python and compiled, in alternating rounds for about `seconds` in all.

    fn: a function, a method or a Module, compiled or not. Tensors that a call writes (parameters, optimizer state,
    running statistics, gradients, the random generator, arguments changed in place) start every comparison with the
    same values, and have the values of before when `benchmark` returns; other effects (prints, lists) happen.
    """
    eager = eager_of(fn)
    compiled, call, first = compiled_of(fn)
    start = time.perf_counter()
    try:
        captured = trace_of(compiled, (*first, *args), kwargs)
    except NotCaptured as e:
        return _uncompiled(name_of(fn), eager, args, kwargs, str(e), seconds)
    compile_ms = 1e3 * (time.perf_counter() - start)
    state = _State(captured, (*first, *args), kwargs)
    try:
        want = state.after(lambda: eager(*args, **kwargs))
        state.restore()
        got = state.after(lambda: call(*args, **kwargs))
        state.restore()
        if compiled.fallbacks and not captured.calls:
            return _uncompiled(name_of(fn), eager, args, kwargs, compiled.fallbacks[-1], seconds)
        sides = [_repeat(lambda: eager(*args, **kwargs)), _repeat(lambda: call(*args, **kwargs))]
        eager_times, compiled_times = _in_turns(sides, seconds)
    finally:
        state.restore()
    executables = [native_of(captured.executable), native_of(captured.backward and captured.backward.executable)]
    native = [e for e in executables if e is not None]
    kernels = sum(len(e.kernels) for e in native)
    absolute, relative = _errors(got[0], want[0])
    return BenchmarkResult(
        name=name_of(fn),
        eager_ms=statistics.median(eager_times),
        compiled_ms=statistics.median(compiled_times),
        compile_ms=compile_ms,
        max_abs_error=absolute,
        max_rel_error=relative,
        rounds=len(eager_times),
        eager_range=_quartiles(eager_times),
        compiled_range=_quartiles(compiled_times),
        kernels=kernels,
        cached=sum(e.hits for e in native),
        writes=tuple(state.names),
        max_state_error=_errors(got[1], want[1])[0],
    )


def _uncompiled(name: str, eager: Callable, args: tuple, kwargs: dict, reason: str, seconds: float) -> BenchmarkResult:
    (times,) = _in_turns([_repeat(lambda: eager(*args, **kwargs))], seconds)
    median, spread = statistics.median(times), _quartiles(times)
    return BenchmarkResult(
        name, median, median, 0.0, 0.0, 0.0, len(times), spread, spread, compiled=False, reason=reason
    )


# ------------------------------------------------------------------ timing


def _repeat(call: Callable[[], Any]) -> Callable[[], float]:
    """A round of `call`: as many calls as take ROUND_SECONDS. Gives milliseconds a call."""
    start = time.perf_counter()
    call()
    n = max(1, int(ROUND_SECONDS / max(time.perf_counter() - start, 1e-7)))
    n = min(n, 100_000)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(n):
            call()
        return 1e3 * (time.perf_counter() - start) / n

    return run


def _in_turns(sides: list[Callable[[], float]], seconds: float) -> list[list[float]]:
    """Rounds of every side one after the other, until the time is over."""
    times: list[list[float]] = [[] for _ in sides]
    end = time.perf_counter() + seconds
    for k in range(ROUNDS[1]):
        if k >= ROUNDS[0] and time.perf_counter() > end:
            break
        for taken, run in zip(times, sides):
            taken.append(run())
    return times


def _quartiles(times: list[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(times, n=4)
    return low, high


# ------------------------------------------------------------------ state and errors


class _State:
    """The tensors that a trace writes, and what they held."""

    def __init__(self, captured: Captured, args: tuple, kwargs: dict[str, Any]):
        self.leaves = pytree.flatten((args, kwargs))[0]
        self.names: list[str] = []
        self.arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self.grads: list[tuple[Tensor, Tensor | None, np.ndarray | None]] = []
        for _, k in captured.writes:
            source = captured.sources[k]
            array = source.fetch(self.leaves)
            self.names.append(source.path)
            self.arrays.append((array, array.copy()))
        targets = {id(e.target.tensor(self.leaves)): e.target for e in captured.effects}
        for target in targets.values():
            t = target.tensor(self.leaves)
            grad = t._grad
            self.names.append(f"{target.path}.grad")
            self.grads.append((t, grad, None if grad is None else grad._data.copy()))

    def restore(self) -> None:
        """Puts everything back."""
        for array, before in self.arrays:
            array[...] = before
        for t, grad, before in self.grads:
            if grad is not None and before is not None:
                grad._data[...] = before
            t._grad = grad

    def after(self, call: Callable[[], Any]) -> tuple[list[Any], list[Any]]:
        """Copies of the leaves of `call()`, and of everything that it has written."""
        result = [x.detach().numpy() if isinstance(x, Tensor) else x for x in pytree.flatten(call())[0]]
        written = [array for array, _ in self.arrays]
        written += [None if t._grad is None else t._grad._data for t, _, _ in self.grads]
        return _copies(result), _copies(written)


def _copies(leaves: list[Any]) -> list[Any]:
    return [x.copy() if isinstance(x, np.ndarray) else x for x in leaves]


def _errors(got: list[Any], want: list[Any]) -> tuple[float, float]:
    """Largest absolute difference, and largest one relative to its tensor's magnitude; inf where results don't pair up."""
    if len(got) != len(want):
        return float("inf"), float("inf")
    absolute = relative = 0.0
    for g, w in zip(got, want):
        if not isinstance(w, (np.ndarray, np.generic, float)) or isinstance(w, np.bool_):
            continue
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        if g.shape != w.shape:
            return float("inf"), float("inf")
        with np.errstate(invalid="ignore"):
            same = (g == w) | (np.isnan(g) & np.isnan(w))
            difference = np.where(same, 0.0, np.abs(g - w))
        largest = float(np.max(difference, initial=0.0))
        if largest != largest:
            largest = float("inf")
        scale = float(np.max(np.abs(w[np.isfinite(w)]), initial=0.0))
        absolute = max(absolute, largest)
        relative = max(relative, largest / scale if scale else largest)
    return absolute, relative
