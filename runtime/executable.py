"""Compiles a graph and runs it: `build(graph)` gives an `Executable`, linked machine code with its constants."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

import numpy as np

from ..backends.llvm import engine
from ..backends.llvm.codegen import lower_loops
from ..backends.llvm.elements import ElementEmitter
from ..backends.llvm.lowered import LoweredKernel, Phase
from ..ir import dim
from ..ir.dim_text import parse as parse_dim
from ..ir.graph import Graph
from ..ir.kernel import Kernel, Schedule
from ..ir.kernel_text import format_kernel, format_schedule
from ..ir.plan import ControlStep, HostStep, Plan, Step
from ..ir.target import Target
from ..passes.fuel import Fuel
from ..passes.pipeline import NAMES, Report, compile_graph
from . import debug, interrupts, knobs, memory
from .cache import Recent, disk_cache
from .host import HostProgram
from .plan_code import PlanCode, plan_code
from .sizes import GraphSizes
from .threads import max_threads, pool_symbols

if TYPE_CHECKING:
    from .background import Errands
    from .tuning import Tuning


@functools.cache
def source_digest() -> str:
    """A hash of the code generator's own source: objects of another version of it are misses."""
    here = Path(__file__).resolve().parent
    roots = (here, here.parent / "backends" / "llvm", here.parent / "ir")
    files = sorted(f for root in roots for f in root.rglob("*.py"))
    digest = hashlib.sha256()
    for f in files:
        digest.update(f.read_bytes())
    return digest.hexdigest()


class CheckFailed(Exception):
    """A check inside the program failed (a bad index): nothing was written. The message says which."""


_compiled = Recent(64 << 20, lambda kernel: len(kernel[1]))  # this process's kernels: (LoweredKernel, object), by key


def default_target() -> Target:
    """The target of this machine, as TRACEFUSE_TARGET has it."""
    return engine.host_target(knobs.KNOBS["TRACEFUSE_TARGET"].get())


def fuel_from_knobs() -> Fuel:
    limit = knobs.number("TRACEFUSE_FUEL", -1)
    disabled = knobs.names("TRACEFUSE_DISABLE", NAMES)
    return Fuel(None if limit < 0 else limit, disabled)


def lower_kernel(kernel: Kernel, schedule: Schedule, target: Target) -> LoweredKernel:
    """LLVM text for one kernel."""
    if kernel.anchor is not None:
        from ..backends.llvm.contraction import lower_contraction

        return lower_contraction(kernel, schedule, target, ElementEmitter)
    return lower_loops(kernel, schedule, target)


class Executable:
    """A compiled graph. `run` is thread-safe; the code lives as long as the executable.

    `seconds`: time spent by stage ("passes", "codegen", "llvm", "link"). `hits`: kernels that came from the disk cache.
    `code_bytes`: of the objects that are linked. breathe: called between kernels.
    """

    def __init__(
        self, graph: Graph, plan: Plan, target: Target, report: Report, breathe: Callable[[], None] = lambda: None
    ):
        self.graph, self.plan, self.target, self.report = graph, plan, target, report
        self.seconds: dict[str, float] = {"passes": sum(report.seconds.values())}
        self.hits = 0
        self.kernels: dict[str, LoweredKernel] = {}
        self.elsewhere: Errands | None = None  # who compiles what calls need besides this; None: they do
        self.tuning: Tuning | None = None  # what was tried to make it faster; None: nothing
        objects = []
        for s in {s.kernel.name: s for s in plan.all_kernel_steps}.values():
            breathe()
            objects.append(self._object(s.kernel, s.schedule))
        breathe()
        code = self.plan_code()
        objects.append(self.compile_text(code.text))
        self.code_bytes = sum(map(len, objects))
        breathe()
        start = time.perf_counter()
        symbols = pool_symbols()
        if plan.control_steps:
            symbols |= interrupts.poll_symbols()
        self.code = engine.link(objects, symbols)
        addresses = [self.code.address(p) if isinstance(p, str) else 0 for p in code.parts]
        self.seconds["link"] = time.perf_counter() - start
        self.arena_size = code.arena
        native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        self.address = addresses[-1]  # of the whole plan, where it has no host steps
        self._call = native(self.address)
        self._sizes = GraphSizes(graph)
        self._host: HostProgram | None = None
        if plan.host_steps:
            parts = [p if isinstance(p, HostStep) else native(a) for p, a in zip(code.parts, addresses)]
            self._host = HostProgram(plan, parts, code.arena)

    # ---- compiling
    def plan_code(self) -> PlanCode:
        """The code that calls the kernels."""
        return plan_code(self.plan, self.kernels, self.target, f"plan_{plan_digest(self.plan)}", max_threads())

    def _object(self, kernel: Kernel, schedule: Schedule) -> bytes:
        """The kernel's object. Fills `self.kernels`."""
        self.kernels[kernel.name], data = kernel_object(self, kernel, schedule)
        return data

    def compile_text(self, text: str) -> bytes:
        """LLVM text as an object, from disk or compiled now."""
        key = self.key(text)
        disk = disk_cache(self.target.key)
        found = disk.get(key)
        if found is None:
            start = time.perf_counter()
            found = engine.compile_object(text, self.target)
            self.spent("llvm", time.perf_counter() - start)
            disk.put(key, found)
        return found

    def link_text(self, text: str, symbols: dict[str, int] | None = None) -> engine.Code:
        """LLVM text as code, for what calls of this executable need besides it. NotYet where the background makes it."""

        def make() -> engine.Code:
            return engine.link([self.compile_text(text)], symbols)

        return make() if self.elsewhere is None else self.elsewhere.get((text, tuple((symbols or {}).items())), make)

    def key(self, text: str) -> str:
        """What the object of such a text is kept under."""
        return hashlib.sha256(f"{source_digest()}\n{knobs.key()}\n{self.target.key}\n{text}".encode()).hexdigest()

    def spent(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    # ---- running
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray | None]:
        """The graph's outputs, fresh arrays. Outputs written into inputs, and checks, give None.

        Inputs must have the graph's dtypes and shapes; those that are written must be C-contiguous.
        Raises, with nothing written, CheckFailed when an index was out of range, and whatever a host step, or a signal
        handler during a loop, raises.
        """
        plan = self.plan
        sizes = self._sizes.of(inputs)
        arrays = [self._usable(a, k) for k, a in enumerate(inputs)]
        arrays += plan.constants
        outputs: list[np.ndarray | None] = []
        for b in plan.outputs:
            buffer = plan.buffers[b]
            if buffer.kind == "output":
                shape = self._sizes.shape(buffer.type.shape, sizes)
                out = memory.empty(shape, buffer.type.dtype.np)
                outputs.append(out)
            else:
                outputs.append(None)
        values = (ctypes.c_void_p * (len(arrays) + len(outputs)))(
            *(a.ctypes.data for a in arrays), *(0 if o is None else o.ctypes.data for o in outputs)
        )
        dims = (ctypes.c_int64 * max(1, len(plan.dims)))(*(sizes[str(d)] for d in plan.dims))
        if self._host is not None:
            status = self._host.run(values, dims, [*arrays, *outputs], sizes)
        else:
            with memory.lease(max(64, dim.evaluate(self.arena_size, sizes))) as arena:
                status = self._call(values, dims, arena.address)
        if status == interrupts.INTERRUPTED:
            interrupts.raise_pending()
        if status:
            raise CheckFailed(plan.checks[status - 1][1])
        n = len(self.graph.outputs)
        return outputs[:n]

    def _usable(self, a: np.ndarray, k: int) -> np.ndarray:
        want = self.graph.inputs[k].type
        if a.dtype != want.dtype.np or a.ndim != len(want.shape):
            raise TypeError(f"input {k} of {self.graph.name} is {a.dtype}{list(a.shape)}, not {want}")
        if a.flags.c_contiguous and a.flags.aligned:
            return a
        if any(s.kind == "write" and s.target == k for s in self.graph.signature.outputs):
            raise ValueError(f"input {k} of {self.graph.name} is written in place and must be C-contiguous")
        return np.ascontiguousarray(a)


def kernel_object(e: Executable, kernel: Kernel, schedule: Schedule) -> tuple[LoweredKernel, bytes]:
    """A kernel's code for the target of `e`, which does the counting: from this process, from disk, or compiled now."""
    key = e.key(f"{format_kernel(kernel)}\n{format_schedule(schedule)}")
    found = _compiled.get(key)
    if found is None:
        disk = disk_cache(e.target.key)
        stored = disk.get(key)
        found = None if stored is None else _unpack(stored)
        if found is None:
            start = time.perf_counter()
            lowered = lower_kernel(kernel, schedule, e.target)
            middle = time.perf_counter()
            found = (lowered, engine.compile_object(lowered.text, e.target))
            e.spent("codegen", middle - start)
            e.spent("llvm", time.perf_counter() - middle)
            disk.put(key, _pack(*found))
        else:
            e.hits += 1
        _compiled.put(key, found)
    return found


def _pack(lowered: LoweredKernel, data: bytes) -> bytes:
    """A kernel's cache entry: one line of JSON, then the object."""
    head = {
        "phases": [[p.symbol, str(p.tasks), p.grain] for p in lowered.phases],
        "workspace": str(lowered.workspace),
        "scratch": lowered.thread_scratch,
    }
    return json.dumps(head).encode() + b"\n" + data


def _unpack(entry: bytes) -> tuple[LoweredKernel, bytes] | None:
    try:
        head, _, data = entry.partition(b"\n")
        fields = json.loads(head)
        phases = tuple(Phase(str(n), parse_dim(t), int(g)) for n, t, g in fields["phases"])
        return LoweredKernel("", phases, parse_dim(fields["workspace"]), int(fields["scratch"])), data
    except (ValueError, KeyError, TypeError):
        return None


def plan_digest(plan: Plan) -> str:
    text = "\n".join(map(_step_text, plan.steps))
    text += "\n".join(map(str, plan.buffers)) + str(plan.outputs) + str(plan.checks)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _step_text(s: Step | ControlStep | HostStep) -> str:
    if isinstance(s, ControlStep):
        sizes = {k: v for k, v in s.node.attrs.items() if not isinstance(v, Graph)}
        inner = " ".join(map(plan_digest, s.plans))
        return f"{s.node.op.name} {sizes} {s.args} {s.results} {s.first_check} {inner}"
    if isinstance(s, HostStep):
        return f"host {s.args} {s.results}"
    return f"{s.kernel.name} {s.args} {s.offsets} {format_schedule(s.schedule)}"


def build(
    graph: Graph,
    target: Target | None = None,
    verify: bool | None = None,
    breathe: Callable[[], None] = lambda: None,
    budget: float = 0.0,
    elsewhere: Errands | None = None,
) -> Executable:
    """Compiles `graph` for `target` (this machine's by default). breathe: called between kernels; what it raises ends it.
    budget: seconds for timing other schedules of its kernels. elsewhere: see `Executable.link_text`."""
    target = target or default_target()
    report = Report()
    check = knobs.flag("TRACEFUSE_VERIFY") if verify is None else verify
    plan = compile_graph(graph, target, fuel_from_knobs(), check, report)
    executable = Executable(graph, plan, target, report, breathe)
    if budget > 0:
        from .tuning import tune

        executable = tune(executable, budget, breathe)
    executable.elsewhere = elsewhere
    if debug.level() or knobs.KNOBS["TRACEFUSE_DUMP"].get():
        from . import dump

        dump.report(executable)
    return executable
