"""`mode="max"`: times schedules of a plan's kernels on this machine, with buffers of the real sizes, and keeps the best.

Each kernel runs alone, in the memory of its plan, with one thing about its schedule changed at a time
(`candidates.py`). A candidate must compute the same bits as the schedule that it replaces, and be faster by more than
noise. In the end the plan with all that was found runs beside the one without, and stays only if it is faster, too:
what helps a kernel alone may hurt whoever reads its result. What was found is kept in the disk
cache, by machine, threads and kernel, so that the next process tunes nothing.

Left alone: plans with symbolic sizes, loops or host steps, kernels whose indices are computed from data, and what takes
microseconds.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..backends.llvm import engine
from ..ir.kernel import Schedule
from ..ir.kernel_text import format_kernel, format_schedule
from ..ir.plan import Plan, Step
from . import knobs, memory
from .cache import DiskCache, disk_cache
from .candidates import alternatives, is_tunable
from .executable import CheckFailed, Executable, kernel_object, plan_digest, source_digest
from .plan_code import plan_code
from .threads import get_num_threads, max_threads, pool_symbols

LEAST = 50e-6  # seconds of a plan worth tuning
SHARE = 0.05  # of a plan's time, which a kernel must take
GAIN = 0.95  # of the time before: what is not faster than that is noise
ROUNDS = 7
SAMPLE = 300e-6  # seconds of calls that are timed together

_found: dict[str, bytes] = {}  # what this process has found out, where nothing is kept on disk


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of one kernel. seconds: of the kernel alone, with each schedule."""

    kernel: str
    before: str
    after: str
    seconds: tuple[float, float]


@dataclass(slots=True)
class Tuning:
    """What came of a plan. seconds: of the whole plan, without and with what was found; (0, 0) where nothing was.
    kept: whether it stays. tried: schedules that were timed. spent: seconds; 0 where an earlier process has tuned."""

    kernels: list[Tuned] = field(default_factory=list)
    seconds: tuple[float, float] = (0.0, 0.0)
    kept: bool = False
    tried: int = 0
    spent: float = 0.0
    why_not: str = ""

    def __str__(self) -> str:
        if self.why_not:
            return f"not tuned: {self.why_not}"
        where = f"{self.tried} schedules timed in {self.spent:.2g} s" if self.spent else "from the cache"
        if not self.kernels:
            return f"tuned: nothing faster found ({where})"
        before, after = (f"{1e3 * s:.3g} ms" for s in self.seconds)
        kept = f"tuned: {before} -> {after}" if self.kept else f"tuned, but the whole was no faster: {before}, {after}"
        return f"{kept} ({where})"


def tune(e: Executable, budget: float, breathe: Callable[[], None] = lambda: None) -> Executable:
    """`e`, or another executable of the same graph that is faster on this machine. budget: seconds. `Executable.tuning`
    says what was done."""
    plan = e.plan
    reason = _why_not(plan)
    if reason:
        e.tuning = Tuning(why_not=reason)
        return e
    store = _Store(e, budget)
    known = store.plan()
    if known is not None:
        schedules, e.tuning = known
        if not e.tuning.kept:
            return e
        out = _rebuilt(e, schedules, breathe)
        out.tuning = e.tuning
        return out
    return _Tuner(e, budget, store, breathe).run()


def _why_not(plan: Plan) -> str:
    if plan.dims:
        return "its sizes are symbolic"
    if plan.control_steps or plan.host_steps:
        return "it has loops or host steps"
    return "" if plan.kernel_steps else "it has no kernels"


def _rebuilt(e: Executable, schedules: dict[str, Schedule], breathe: Callable[[], None]) -> Executable:
    """The executable with other schedules for some kernels, by name."""
    steps = tuple(
        replace(s, schedule=schedules.get(s.kernel.name, s.schedule)) if isinstance(s, Step) else s
        for s in e.plan.steps
    )
    out = Executable(e.graph, replace(e.plan, steps=steps), e.target, e.report, breathe)
    out.seconds = {k: e.seconds.get(k, 0.0) + (0.0 if k == "passes" else v) for k, v in out.seconds.items()}
    return out


class _Memory:
    """Inputs, outputs and arena of a plan, with contents that no index computed from them can be wrong with."""

    def __init__(self, e: Executable):
        rng = np.random.default_rng(0)
        plan = e.plan
        self.inputs = [_filled(v.type, rng) for v in e.graph.inputs]
        outputs = [memory.empty(_shape(b.type), b.type.dtype.np) for b in map(plan.buffers.__getitem__, plan.outputs)]
        for a in outputs:
            a[...] = 0
        self.values = [*self.inputs, *plan.constants, *outputs]
        self.pointers = (ctypes.c_void_p * max(1, len(self.values)))(*(a.ctypes.data for a in self.values))
        self.first = {"input": 0, "constant": len(self.inputs), "output": len(self.inputs) + len(plan.constants)}
        self.plan = plan
        self._arena = np.zeros(0, np.uint8)

    def arena(self, nbytes: int) -> int:
        """The address of that many bytes, with the contents that they had."""
        if self._arena.size < nbytes + 64:
            grown = np.zeros(nbytes + 64, np.uint8)
            grown[: self._arena.size] = self._arena
            self._arena = grown
        return -(-self._arena.ctypes.data // 64) * 64

    def contents(self, buffer: int) -> np.ndarray:
        """The bytes of a buffer of the plan."""
        b = self.plan.buffers[buffer]
        if b.kind != "temp":
            return self.values[self.first[b.kind] + b.slot].reshape(-1).view(np.uint8)
        size = int(np.prod(_shape(b.type), dtype=np.int64)) * b.type.dtype.itemsize
        start = -self._arena.ctypes.data % 64 + int(b.offset)  # type: ignore[arg-type]
        return self._arena[start : start + size]


def _shape(t: Any) -> tuple[int, ...]:
    return tuple(int(d) for d in t.shape)


def _filled(t: Any, rng: np.random.Generator) -> np.ndarray:
    """Numbers around 1; integers and bools are 0."""
    out = np.zeros(_shape(t), t.dtype.np)
    if t.dtype.kind == "f":
        out[...] = rng.uniform(0.5, 1.5, out.shape)
    return out


class _Tuner:
    def __init__(self, e: Executable, budget: float, store: _Store, breathe: Callable[[], None]):
        self.e, self.store, self.breathe = e, store, breathe
        self.start = time.perf_counter()
        self.end = self.start + budget
        self.memory = _Memory(e)
        self.tuning = Tuning()

    def run(self) -> Executable:
        e = self.e
        try:
            whole = _best(lambda: e.run(self.memory.inputs), 2)
        except CheckFailed:
            e.tuning = Tuning(why_not="it fails on inputs that are made up")
            return e
        steps = {s.kernel.name: s for s in e.plan.kernel_steps}
        if whole < LEAST:
            e.tuning = Tuning(why_not="a call takes some microseconds")
            return e
        plain = {name: self._alone(s, s.schedule) for name, s in steps.items() if is_tunable(s.kernel)}
        counts = {name: sum(s.kernel.name == name for s in e.plan.kernel_steps) for name in steps}
        times = {name: _best(call, 2) for name, call in plain.items()}
        schedules: dict[str, Schedule] = {}
        for name in sorted(times, key=lambda n: -times[n] * counts[n]):
            if times[name] * counts[name] < SHARE * whole:
                break
            found = self.store.kernel(steps[name])
            if found is None and time.perf_counter() < self.end:
                found = self._tune(steps[name], plain[name])
                if time.perf_counter() < self.end:
                    self.store.put_kernel(steps[name], *found)
            if found is not None and found[0] != steps[name].schedule:
                before, after = format_schedule(steps[name].schedule), format_schedule(found[0])
                schedules[name] = found[0]
                self.tuning.kernels.append(Tuned(name, before, after, found[1]))
        out = self._judged(schedules)
        self.tuning.spent = time.perf_counter() - self.start
        self.store.put_plan(schedules, self.tuning)
        out.tuning = self.tuning
        return out

    def _judged(self, schedules: dict[str, Schedule]) -> Executable:
        """The plan with those schedules if it is faster as a whole, its results being read afterwards: from the cache, or
        past it."""
        if not schedules:
            return self.e
        out = _rebuilt(self.e, schedules, self.breathe)
        self.tuning.seconds = _beside(lambda: self._read(self.e), lambda: self._read(out), 2 * ROUNDS)
        self.tuning.kept = self.tuning.seconds[1] < 0.5 * (1 + GAIN) * self.tuning.seconds[0]
        return out if self.tuning.kept else self.e

    def _read(self, e: Executable) -> None:
        """A call, and whoever reads its results."""
        for a in e.run(self.memory.inputs):
            if a is not None:
                a.reshape(-1).view(np.uint8).max(initial=0)

    def _tune(self, step: Step, plain: Callable[[], Any]) -> tuple[Schedule, tuple[float, float]]:
        """The best schedule of a kernel, and what it takes alone with its own and with that one."""
        best, call, seconds = step.schedule, plain, (0.0, 0.0)
        seen = {self._text(step, best)}
        for k in range(8):
            groups = list(alternatives(step.kernel, best, self.e.target))
            if k >= len(groups):
                break
            for schedule in groups[k]:
                if time.perf_counter() >= self.end:
                    break
                self.breathe()
                try:
                    text = self._text(step, schedule)
                except (ValueError, engine.CompileError):  # a tile that the code generator can't write
                    continue
                if text in seen:
                    continue
                seen.add(text)
                other = self._alone(step, schedule)
                self.tuning.tried += 1
                old, new = _beside(call, other, 2)
                if new >= GAIN * old or not self._same_bits(step, plain, other):
                    continue
                old, new = _beside(call, other, ROUNDS)
                if new < GAIN * old:
                    best, call = schedule, other
        if best != step.schedule:
            seconds = _beside(plain, call, ROUNDS)
            if seconds[1] >= GAIN * seconds[0]:
                best = step.schedule
        return best, seconds

    def _text(self, step: Step, schedule: Schedule) -> str:
        """The code, and how it is called: equal for schedules that make no difference."""
        lowered, data = kernel_object(self.e, step.kernel, schedule)
        return f"{lowered.phases} {hashlib.sha256(data).hexdigest()}"

    def _alone(self, step: Step, schedule: Schedule) -> Callable[[], Any]:
        """Runs one kernel of the plan, in the memory of the plan."""
        e, mine = self.e, self.memory
        lowered, data = kernel_object(e, step.kernel, schedule)
        plan = replace(e.plan, steps=(replace(step, schedule=schedule),), checks=(), commit_from=1)
        symbol = f"alone_{plan_digest(plan)}"
        code = plan_code(plan, {step.kernel.name: lowered}, e.target, symbol, max_threads())
        linked = engine.link([data, e.compile_text(code.text)], pool_symbols())
        native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        function = native(linked.address(symbol))
        nbytes = int(code.arena)  # type: ignore[arg-type]
        sizes = (ctypes.c_int64 * 1)()
        mine.arena(nbytes)

        def call(keep: Any = linked) -> None:
            function(mine.pointers, sizes, mine.arena(nbytes))

        return call

    def _same_bits(self, step: Step, plain: Callable[[], Any], other: Callable[[], Any]) -> bool:
        """Whether both leave the same behind, beginning with the same."""
        buffers = [self.memory.contents(b) for b in dict.fromkeys(step.args)]
        before = [b.copy() for b in buffers]
        plain()
        want = [b.copy() for b in buffers]
        for b, old in zip(buffers, before):
            b[...] = old
        other()
        return all(np.array_equal(b, w) for b, w in zip(buffers, want))


# ------------------------------------------------------------------ time


def _sample(call: Callable[[], Any], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def _repeat(call: Callable[[], Any]) -> int:
    call()
    return max(1, int(SAMPLE / max(_sample(call, 1), 1e-7)))


def _best(call: Callable[[], Any], rounds: int) -> float:
    repeat = _repeat(call)
    return min(_sample(call, repeat) for _ in range(rounds))


def _beside(a: Callable[[], Any], b: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Seconds of both, which run in turns. Of a machine that others use too the quieter half of the rounds counts."""
    repeat = max(_repeat(a), _repeat(b))
    both: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        both[0].append(_sample(a, repeat))
        both[1].append(_sample(b, repeat))
    return _quiet(both[0]), _quiet(both[1])


def _quiet(times: Sequence[float]) -> float:
    return statistics.median(sorted(times)[: (len(times) + 1) // 2])


# ------------------------------------------------------------------ what is kept


class _Store:
    """Results in the disk cache, by all that they depend on."""

    def __init__(self, e: Executable, budget: float):
        self.cache: DiskCache = disk_cache(e.target.key)
        self.machine = f"{source_digest()} {knobs.key()} {e.target} {get_num_threads()} {os.cpu_count()}"
        self.plan_key = self._key("plan", f"{budget} {plan_digest(e.plan)}")

    def _key(self, kind: str, text: str) -> str:
        return hashlib.sha256(f"tuned {kind}\n{self.machine}\n{text}".encode()).hexdigest()

    def _kernel_key(self, step: Step) -> str:
        return self._key("kernel", f"{format_kernel(step.kernel)}\n{format_schedule(step.schedule)}")

    def kernel(self, step: Step) -> tuple[Schedule, tuple[float, float]] | None:
        found = self._get(self._kernel_key(step))
        return None if found is None else (schedule_from(found["schedule"]), tuple(found["seconds"]))

    def put_kernel(self, step: Step, schedule: Schedule, seconds: tuple[float, float]) -> None:
        self._put(self._kernel_key(step), {"schedule": asdict(schedule), "seconds": seconds})

    def plan(self) -> tuple[dict[str, Schedule], Tuning] | None:
        found = self._get(self.plan_key)
        if found is None:
            return None
        kernels = [Tuned(k["kernel"], k["before"], k["after"], tuple(k["seconds"])) for k in found["kernels"]]
        tuning = Tuning(kernels, tuple(found["seconds"]), found["kept"], found["tried"], 0.0, found["why_not"])
        return {name: schedule_from(s) for name, s in found["schedules"].items()}, tuning

    def put_plan(self, schedules: dict[str, Schedule], tuning: Tuning) -> None:
        self._put(self.plan_key, {"schedules": {k: asdict(s) for k, s in schedules.items()}, **asdict(tuning)})

    def _get(self, key: str) -> dict[str, Any] | None:
        data = self.cache.get(key) or _found.get(key)
        try:
            return None if data is None else json.loads(data)
        except ValueError:
            return None

    def _put(self, key: str, entry: dict[str, Any]) -> None:
        data = json.dumps(entry).encode()
        if self.cache.folder is None:
            _found[key] = data
        else:
            self.cache.put(key, data)


def schedule_from(fields: dict[str, Any]) -> Schedule:
    """What `asdict` and JSON have made of one, as it was."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    fields["prefetch"] = tuple(tuple(p) for p in fields["prefetch"])
    return Schedule(**fields)
