"""`mode="max"` on GPUs: times schedules of a plan's kernels on the device, and keeps the best.

Each kernel runs alone, in memory of its own, with a cold cache in front of it; the median of some runs counts. A schedule
must give the results of the default one within a tolerance, not the same bits: schedules of contractions may differ in the
order of their sums. What was found is kept in the disk cache, by device and kernel, so that the next process tunes nothing,
and gets the same bits.

Left alone: kernels of symbolic sizes, those whose indices are computed from data, and those within loops and branches.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ...ir.dtypes import from_numpy
from ...ir.kernel import Kernel, Schedule
from ...ir.kernel_text import format_kernel, format_schedule
from ...ir.plan import Plan, Step
from ...ir.target import Target
from ..cache import disk_cache
from ..candidates import is_tunable
from ..tuning import Tuned, Tuning, schedule_from
from .alignment import Alignment
from .array import DeviceArray, empty, write
from .code import Work, generator
from .device import Event, Gpu
from .driver import Function
from .launches import Alone
from .numerics import numerics

Candidates = Callable[[Kernel, Target], Sequence[Schedule]]  # schedules that are worth a try

SHARE = 0.02  # of the time of all kernels, which one must take
GAIN = 0.95  # of the time before: what is not faster than that is noise
RUNS = (5, 25)  # at least, at most
SAMPLE = 20e-3  # seconds of runs of one schedule
TOLERANCE = {"f16": 2e-2, "bf16": 1e-1, "f32": 1e-3, "f64": 1e-9}  # of the largest element

_found: dict[str, bytes] = {}  # what this process has found out, where nothing is kept on disk


def tune(
    plan: Plan, gpu: Gpu, budget: float, candidates: Candidates, breathe: Callable[[], None] = lambda: None
) -> tuple[Plan, Tuning]:
    """The plan with the schedules that are fastest on this device, found in `budget` seconds, and what was tried."""
    return _Tuner(plan, gpu, budget, candidates, breathe).run()


class _OutOfTime(Exception):
    pass


class _Tuner:
    def __init__(self, plan: Plan, gpu: Gpu, budget: float, candidates: Candidates, breathe: Callable[[], None]):
        self.plan, self.gpu, self.candidates, self._breathe = plan, gpu, candidates, breathe
        self._loaded = gpu.load_all(Alignment(plan).work(), breathe)
        self.start = time.perf_counter()
        self.end = self.start + budget
        self.longest = 0.0  # seconds that trying a schedule has taken
        self.tuning = Tuning()

    def breathe(self) -> None:
        self._breathe()
        if time.perf_counter() + self.longest > self.end:
            raise _OutOfTime

    def run(self) -> tuple[Plan, Tuning]:
        steps = {s.kernel.name: s for s in self.plan.kernel_steps if is_tunable(s.kernel)}
        if not steps:
            self.tuning.why_not = "it has no kernels of fixed sizes"
            return self.plan, self.tuning
        chosen: dict[str, Schedule] = {}
        try:
            self._all(steps, chosen)
        except _OutOfTime:
            pass
        self.tuning.kept = bool(chosen)
        self.tuning.spent = time.perf_counter() - self.start if self.tuning.tried else 0.0
        changed = tuple(
            replace(s, schedule=chosen.get(s.kernel.name, s.schedule)) if isinstance(s, Step) else s
            for s in self.plan.steps
        )
        return replace(self.plan, steps=changed), self.tuning

    def _all(self, steps: dict[str, Step], chosen: dict[str, Schedule]) -> None:
        """Tunes what takes most of the time first. Fills `chosen` as far as time permits."""
        known = {name: self._known(s) for name, s in steps.items()}
        for name, found in known.items():
            if found is not None:
                self._note(steps[name], *found, chosen)
        left = {name: s for name, s in steps.items() if known[name] is None}
        counts = {name: sum(s.kernel.name == name for s in self.plan.kernel_steps) for name in left}
        seconds = {}
        for name, step in left.items():
            self.breathe()
            seconds[name] = counts[name] * _Kernel(self.gpu, self.plan, step).seconds(step.schedule)
        for name in sorted(left, key=lambda n: -seconds[n]):
            if seconds[name] >= SHARE * sum(seconds.values()):
                best, times = self._best(left[name])
                self._keep(left[name], best, times)
                self._note(left[name], best, times, chosen)

    def _note(self, step: Step, best: Schedule, times: tuple[float, float], chosen: dict[str, Schedule]) -> None:
        if best != step.schedule:
            name = step.kernel.name
            chosen[name] = best
            count = sum(s.kernel.name == name for s in self.plan.kernel_steps)
            before, after = self.tuning.seconds
            self.tuning.seconds = (before + count * times[0], after + count * times[1])
            self.tuning.kernels.append(Tuned(name, format_schedule(step.schedule), format_schedule(best), times))

    def _best(self, step: Step) -> tuple[Schedule, tuple[float, float]]:
        """The fastest schedule of a kernel, and the seconds that it takes with its own and with that one."""
        kernel = _Kernel(self.gpu, self.plan, step)
        want = kernel.results(step.schedule)
        before = kernel.seconds(step.schedule)
        best, least = step.schedule, before
        others = [s for s in self.candidates(step.kernel, numerics.target(self.gpu.target)) if s != step.schedule]
        self._compile(step, others)
        for schedule in others:
            self.breathe()
            start = time.perf_counter()
            try:
                seconds = kernel.seconds(schedule)
                right = seconds < GAIN * least and _agree(kernel.results(schedule), want)
            except _OutOfTime:
                raise
            except Exception:  # tiles that the device, or the compiler, does not take
                continue
            finally:
                self.tuning.tried += 1
                self.longest = max(self.longest, time.perf_counter() - start)
            if right:
                best, least = schedule, seconds
        return best, (before, least)

    def _compile(self, step: Step, schedules: Sequence[Schedule]) -> None:
        """All beside each other. What does not compile is found out later, one by one."""
        try:
            unaligned = Alignment(self.plan).unaligned(step)
            self._loaded += self.gpu.load_all([Work(step.kernel, s, unaligned) for s in schedules], self.breathe)
        except _OutOfTime:
            raise
        except Exception:
            pass

    # ---- what is kept
    def _key(self, step: Step) -> str:
        p = self.gpu.driver.properties
        device = f"{p.name} {p.capability} {p.multi_processor_count} {self.gpu.target.key}"
        text = f"{format_kernel(step.kernel)}\n{format_schedule(step.schedule)}"
        return hashlib.sha256(f"tuned gpu\n{generator()}\n{device}\n{text}".encode()).hexdigest()

    def _known(self, step: Step) -> tuple[Schedule, tuple[float, float]] | None:
        key = self._key(step)
        data = disk_cache(self.gpu.target.key).get(key) or _found.get(key)
        try:
            found = None if data is None else json.loads(data)
            return found and (schedule_from(found["schedule"]), tuple(found["seconds"]))
        except (ValueError, KeyError, TypeError):
            return None

    def _keep(self, step: Step, best: Schedule, times: tuple[float, float]) -> None:
        data = json.dumps({"schedule": asdict(best), "seconds": times}).encode()
        cache = disk_cache(self.gpu.target.key)
        if cache.folder is None:
            _found[self._key(step)] = data
        else:
            cache.put(self._key(step), data)


class _Kernel:
    """A kernel of a plan in memory of its own, whose contents no result depends on in a way that matters."""

    def __init__(self, gpu: Gpu, plan: Plan, step: Step):
        self.gpu, self.kernel, self.unaligned = gpu, step.kernel, Alignment(plan).unaligned(step)
        params = [p for p in step.kernel.params if p.role != "scratch"]
        arrays = {b: _filled(gpu, plan.buffers[b].type) for b in dict.fromkeys(step.args)}
        offsets = step.offsets or (0,) * len(params)
        self._places = {
            p.name: arrays[b].address + o * arrays[b].itemsize for p, b, o in zip(params, step.args, offsets)
        }
        self._arrays = list(arrays.values())
        written = [b for p, b in zip(params, step.args) if p.role != "in"]
        self._written = [arrays[b] for b in dict.fromkeys(written)]
        self._before = [a.numpy() for a in self._written]
        self._flush = gpu.pool.get(2 * gpu.driver.properties.l2, "tuning")
        self._scratch = None

    def _launch(self, schedule: Schedule) -> Alone:
        function: Function = self.gpu.load(self.kernel, schedule, self.unaligned)
        code, scratch = function.code, 0
        if code.image is not None and code.image.scratch:
            x, y, z = code.programs({})
            self._scratch = self.gpu.pool.get(code.image.scratch * x * y * z, "tuning")
            scratch = self._scratch.address
        self.gpu.driver.enter()
        return Alone(function, {}, [self._places[name] for name, _ in code.buffers], scratch)

    def results(self, schedule: Schedule) -> list[np.ndarray]:
        """What the kernel leaves behind, beginning with the same each time."""
        for a, before in zip(self._written, self._before):
            write(self.gpu, a.address, before)
        self._launch(schedule)(self.gpu.stream.handle)
        return [a.numpy() for a in self._written]

    def seconds(self, schedule: Schedule) -> float:
        """Of one run."""
        launch = self._launch(schedule)
        self._run(launch)  # the first one loads the code
        first = self._run(launch)
        runs = min(RUNS[1], max(RUNS[0], int(SAMPLE / max(first, 1e-7))))
        return statistics.median(self._run(launch) for _ in range(runs))

    def _run(self, launch: Alone) -> float:
        gpu = self.gpu
        stream, driver = gpu.stream, gpu.driver
        start, end = Event(gpu, timing=True), Event(gpu, timing=True)
        driver.fill(self._flush.address, 0, self._flush.size, stream.handle)
        stream.record(start)
        launch(stream.handle)
        stream.record(end)
        end.synchronize()
        return 1e-3 * start.milliseconds_to(end)


def _filled(gpu: Gpu, t: Any) -> DeviceArray:
    """Numbers around 1; integers and bools are 0."""
    out = empty(gpu, tuple(map(int, t.shape)), t.dtype.np, "tuning")
    values = np.zeros(out.shape, t.dtype.np)
    if t.dtype.kind == "f":
        values[...] = np.resize(np.random.default_rng(0).uniform(0.5, 1.5, min(max(1, out.size), 1 << 20)), out.shape)
    write(gpu, out.address, values)
    return out


def _agree(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> bool:
    return all(map(_close, got, want))


def _close(got: np.ndarray, want: np.ndarray) -> bool:
    """Floats within the tolerance of their type, relative to the largest; everything else exactly."""
    tolerance = TOLERANCE.get(str(from_numpy(want.dtype)))
    if tolerance is None:
        return np.array_equal(got, want)
    a, b = got.astype(np.float64), want.astype(np.float64)
    largest = np.max(np.abs(b), initial=0, where=np.isfinite(b))
    return np.allclose(a, b, rtol=0, atol=tolerance * max(largest, 1e-30), equal_nan=True)
