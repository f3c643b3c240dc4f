"""Whole plans as CUDA graphs: recorded once, then replayed by one call of the driver.

A graph has its addresses built in, so it works in memory of its own: temporaries, copies of small inputs, outputs. Each
call copies what it is given in, and the outputs out, into fresh memory: results of earlier calls stay as they are. (Giving
the graph new addresses for outputs takes the driver about as long for each kernel as a copy, and outputs of plans that are
worth recording are small.) Inputs that are large, written, or always at the same place (parameters) are read and written
where they are: graphs are told apart by those addresses.

Recorded are plans of nothing but kernels, for sizes known beforehand. By default those whose kernels take less time than
launching them, from the third call on. Where a plan has checks, the host reads them before what follows is replayed, so
such a plan is two graphs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.kernel import Kernel
from ...ir.plan import Plan, Step
from ..executable import CheckFailed
from .array import DeviceArray, empty
from .device import Stream
from .driver import DeviceError, Driver, Launch
from .host import STAGED
from .launches import ALIGN
from .program import Program

CALLS_BEFORE = 2  # calls that run launch by launch, by default
COPIED = 64 << 10  # bytes of an input that is copied where its address changes
TOGETHER = 4 << 10  # bytes of an output that shares its block with other small ones
KEPT = 4  # graphs, for different addresses
PATIENCE = 8  # graphs that may be recorded before the addresses are taken to be different each time

BANDWIDTH = 1.5e12  # bytes a second, roughly
FLOPS = 2e13  # a second, roughly
LAUNCH = 4e-6  # seconds that a launch takes the host, roughly


def why_not(plan: Plan) -> str:
    """Why a plan can't be recorded; "" if it can."""
    if plan.dims:
        return "its sizes are symbolic"
    if not all(isinstance(s, Step) for s in plan.steps):
        return "it has control flow or host steps"
    return "" if len(plan.steps) > 1 else "it is one kernel"


def is_launch_bound(plan: Plan) -> bool:
    """Whether the kernels of a plan of fixed sizes take less time than launching them."""
    return sum(_seconds(plan, s) for s in plan.kernel_steps) < LAUNCH * len(plan.kernel_steps)


def _seconds(plan: Plan, step: Step) -> float:
    types = [plan.buffers[b].type for b in step.args]
    nbytes = sum(dim.evaluate(t.size, {}) * t.dtype.itemsize for t in types)
    return max(nbytes / BANDWIDTH, flops(step.kernel) / FLOPS)


def flops(kernel: Kernel) -> int:
    """Of a kernel's products, for fixed sizes."""
    if kernel.anchor is None:
        return 0
    sizes = ([dim.evaluate(a.extent, {}) for a in axes] for axes in kernel.anchor.products)
    return sum(2 * int(np.prod(n, dtype=object)) for n in sizes)


class Graphs:
    """The graphs of one program. Thread-safe: one call at a time gives them to streams, where they run one after another.

    wanted: True: from the second call on; None: see above. `replays`, `recorded`: how often. `reason`: why there are none;
    "" if there are, or may be.
    """

    def __init__(self, program: Program, wanted: bool | None):
        self.program, self.gpu, self.plan = program, program.gpu, program.plan
        self.replays = self.recorded = 0
        self.reason = why_not(self.plan)
        if not self.reason and wanted is None and not is_launch_bound(self.plan):
            self.reason = "its kernels take longer than their launches"
        self._before = 1 if wanted else CALLS_BEFORE
        self._calls = 0
        self._lock = threading.Lock()
        self._seen: list[int | None] = []  # addresses of the inputs; None: of the host, or different each time
        self._now: list[int | None] = []  # addresses of the last call's; None: of the host
        self._last: _Recorded | None = None  # what the last call replayed
        self._memory: _Memory | None = None
        self._graphs: OrderedDict[tuple[int, ...], _Recorded] = OrderedDict()

    def run(self, inputs: Sequence[Any], written: frozenset[int]) -> list[DeviceArray | None] | None:
        """The outputs, as of `CudaExecutable.run`; None if the call shall run launch by launch. written: the inputs that
        the plan writes. Raises, with nothing written, CheckFailed."""
        if self.reason:
            return None
        now = [None if type(a) is np.ndarray else a.address for a in inputs]
        with self._lock:
            if self._last is None or now != self._now:
                self._calls += 1
                self._last, self._now = None, now
                self._seen = [a if a == b else None for a, b in zip(now, self._seen or now)]
                if self._calls <= self._before or any(
                    type(a) is np.ndarray and (k in written or a.nbytes > STAGED) for k, a in enumerate(inputs)
                ):
                    return None
                try:
                    self._last = self._graph(inputs, written)
                except DeviceError as e:
                    self.close(f"recording failed: {e}")
            return None if self._last is None else self._replayed(self._last, inputs)

    def _replayed(self, recorded: _Recorded, inputs: Sequence[Any]) -> list[DeviceArray | None]:
        memory, stream, replay = self._memory, self.gpu.stream, self.gpu.driver.replay
        assert memory is not None
        memory.enter(stream)
        memory.copy_in(inputs)
        if recorded.before is not None:
            replay(recorded.before, stream.handle)
        if self.plan.checks and (failed := self.program.failed(recorded.at)) is not None:
            raise CheckFailed(failed)
        if recorded.after is not None:
            replay(recorded.after, stream.handle)
        self.replays += 1
        return memory.copy_out()

    def _graph(self, inputs: Sequence[Any], written: frozenset[int]) -> _Recorded | None:
        """The graph for inputs that lie there, recorded if there is none; None if that is not worth it."""
        memory = self._memory
        if memory is None or memory.misses(inputs, self._seen, written):
            self._forget()
            memory = self._memory = _Memory(self.program, inputs, self._seen, written)
        key = memory.key(inputs)
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            return graph
        if self.recorded >= PATIENCE and self.replays < 4 * self.recorded:
            self.close("its inputs are somewhere else each time")
            return None
        graph = self._graphs[key] = self._record(memory, inputs)
        if len(self._graphs) > KEPT:
            self._graphs.popitem(last=False)[1].release(self.gpu.driver)
        return graph

    def _record(self, memory: _Memory, inputs: Sequence[Any]) -> _Recorded:
        program, plan = self.program, self.plan
        sized = program.sized({})
        bases = program.bases(memory.block.address, memory.inputs(inputs), memory.outputs)
        frame = sized.take(bases)
        first = plan.commit_from if plan.checks else len(plan.steps)
        parts = [
            self._captured([f for f in part if f is not None])
            for part in (frame.launches[:first], frame.launches[first:])
        ]
        sized.give(frame)
        self.recorded += 1
        return _Recorded(parts[0], parts[1], sized.addresses(bases))

    def _captured(self, launches: Sequence[Launch]) -> Any:
        """A graph of these launches; None if there are none."""
        if not launches:
            return None
        driver = self.gpu.driver
        stream = Stream(self.gpu, driver.new_stream())
        driver.enter()
        driver.begin_capture(stream.handle)
        try:
            for launch in launches:
                launch(stream.handle)
        finally:
            graph = driver.end_capture(stream.handle)
        return graph

    def _forget(self) -> None:
        for recorded in self._graphs.values():
            recorded.release(self.gpu.driver)
        self._graphs.clear()
        self._memory = self._last = None

    def close(self, reason: str) -> None:
        """Runs launch by launch from now on, and lets go of all memory."""
        self.reason = reason
        self._forget()

    def __del__(self) -> None:
        self._forget()


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The graphs of what comes before and after the checks (None: nothing), and the addresses of the plan's buffers."""

    before: Any
    after: Any
    at: list[int]

    def release(self, driver: Driver) -> None:
        for graph in (self.before, self.after):
            if graph is not None:
                driver.release_graph(graph)


class _Memory:
    """What the graphs of a program work in: one block with temporaries, copies of inputs, and outputs."""

    def __init__(self, program: Program, inputs: Sequence[Any], seen: Sequence[int | None], written: frozenset[int]):
        plan, gpu = program.plan, program.gpu
        self.gpu = gpu
        self.copied = [k for k, a in enumerate(inputs) if k not in written and _is_copied(a, seen[k])]
        self.by_address = [k for k in range(len(inputs)) if k not in self.copied]
        buffers = [plan.buffers[b] for b in plan.outputs]
        types = [b.type if b.kind == "output" else None for b in buffers]
        self.shapes = [None if t is None else (tuple(map(int, t.shape)), t.dtype.np) for t in types]  # type: ignore[arg-type]
        sizes = [0 if s is None else int(np.prod(s[0], dtype=np.int64)) * s[1].itemsize for s in self.shapes]
        small = [k for k, s in enumerate(self.shapes) if s is not None and sizes[k] <= TOGETHER]
        self.together = small if len(small) > 1 else []

        host_first = sorted(self.copied, key=lambda k: type(inputs[k]) is not np.ndarray)
        end = -(-program.sized({}).arena // ALIGN) * ALIGN
        self.input_offsets: dict[int, int] = {}
        self.output_offsets: dict[int, int] = {}
        for k in host_first:  # those of the host lie together, as they are uploaded together
            self.input_offsets[k] = end
            end += -(-inputs[k].nbytes // ALIGN) * ALIGN
        first = end
        for k in self.together + [k for k in range(len(sizes)) if k not in self.together]:
            self.output_offsets[k] = end
            end += -(-sizes[k] // ALIGN) * ALIGN
            if k in self.together:
                self.together_bytes = end - first
        self.first, self.sizes = first, sizes
        self.block = gpu.pool.get(max(1, end), "CUDA graphs")
        self.outputs = [
            0 if s is None else self.block.address + self.output_offsets[k] for k, s in enumerate(self.shapes)
        ]
        self.stream = gpu.stream

    def misses(self, inputs: Sequence[Any], seen: Sequence[int | None], written: frozenset[int]) -> bool:
        """Whether an input that is read where it lies has turned out to lie elsewhere each time, and may be copied."""
        return any(k not in written and _is_copied(inputs[k], seen[k]) for k in self.by_address)

    def key(self, inputs: Sequence[Any]) -> tuple[int, ...]:
        return tuple([inputs[k].address for k in self.by_address])

    def inputs(self, inputs: Sequence[Any]) -> list[int]:
        """The addresses that the graph reads inputs at."""
        base, at = self.block.address, self.input_offsets
        return [base + at[k] if k in at else a.address for k, a in enumerate(inputs)]

    def enter(self, stream: Stream) -> None:
        """What was given to another stream before comes first."""
        if stream is not self.stream:
            stream.wait_stream(self.stream)
            self.block.record_stream(stream)
            self.stream = stream

    def copy_in(self, inputs: Sequence[Any]) -> None:
        gpu, base, at = self.gpu, self.block.address, self.input_offsets
        host = [k for k in at if type(inputs[k]) is np.ndarray]
        if host:
            start = at[host[0]]
            end = at[host[-1]] + inputs[host[-1]].nbytes
            gpu.host.upload(base + start, [inputs[k] for k in host], [at[k] - start for k in host], end - start)
        for k in at:
            a = inputs[k]
            if type(a) is DeviceArray and a.size:
                gpu.driver.copy(base + at[k], a.address, a.nbytes, gpu.stream.handle)

    def copy_out(self) -> list[DeviceArray | None]:
        gpu, base = self.gpu, self.block.address
        out: list[DeviceArray | None] = [None] * len(self.shapes)
        stream = gpu.stream.handle
        if self.together:
            block = gpu.pool.get(self.together_bytes, "outputs")
            gpu.driver.copy(block.address, base + self.first, self.together_bytes, stream)
        for k, found in enumerate(self.shapes):
            if found is None:
                continue
            if k in self.together:
                out[k] = DeviceArray(gpu, block, *found, None, self.output_offsets[k] - self.first)
                continue
            a = out[k] = empty(gpu, *found)
            if a.size:
                gpu.driver.copy(a.address, base + self.output_offsets[k], self.sizes[k], stream)
        return out


def _is_copied(a: Any, seen: int | None) -> bool:
    """Whether an input is copied into memory of the graph."""
    return type(a) is np.ndarray or (seen is None and a.nbytes <= COPIED)
