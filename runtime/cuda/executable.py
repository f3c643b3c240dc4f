"""Compiles a graph for a GPU and runs it: `build(graph, gpu)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends.triton.emit import lower_kernel
from ...backends.triton.lowered import TritonKernel
from ...ir import dim
from ...ir.graph import Graph
from ...ir.kernel import Kernel, Schedule
from ...ir.plan import Plan
from ...ir.target import Target
from ...passes.pipeline import Report, compile_graph
from .. import knobs
from ..executable import CheckFailed, fuel_from_knobs
from ..sizes import GraphSizes
from .array import DeviceArray, Shape, empty, to_device, to_device_together, used_on
from .code import Counts
from .copies import copied
from .device import Gpu
from .driver import OutOfDeviceMemory
from .graphs import Graphs
from .host_part import HostPart
from .memory import block_size
from .numerics import numerics
from .program import SETS_OF_SIZES, Program

if TYPE_CHECKING:
    from ..tuning import Tuning
    from .tuning import Candidates

SMALL = 64 << 10  # bytes of an input that is copied to the device together with others


class CudaExecutable:
    """A graph for one device. `run` is thread-safe, and does not wait for the device unless a check, control flow or a
    step on the host asks for a value.

    `seconds`: time spent by stage ("passes", "codegen"; of the latter "triton"). `hits`: kernels that came from the disk
    cache. `code_bytes`: of machine code that was loaded for it. cuda_graphs: see `Graphs`; False: none.
    """

    tuning: Tuning | None = None  # what was tried to make it faster; None: nothing

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        gpu: Gpu,
        report: Report,
        breathe: Callable[[], None] = lambda: None,
        cuda_graphs: bool | None = None,
    ):
        self.graph, self.plan, self.gpu, self.report = graph, plan, gpu, report
        self.target = numerics.target(gpu.target)
        self.seconds: dict[str, float] = {"passes": sum(report.seconds.values())}
        start = time.perf_counter()
        counts = Counts()
        self.program = Program(plan, gpu, breathe, counts)
        self.seconds |= {"codegen": time.perf_counter() - start, "triton": counts.seconds}
        self.hits, self.code_bytes = counts.hits, counts.code_bytes
        self.graphs = None if cuda_graphs is False else Graphs(self.program, cuda_graphs)
        self._sizes = GraphSizes(graph)
        self._host_parts: dict[frozenset[int], HostPart] = {}  # by which inputs lie in host memory
        self._known: dict[tuple[Shape, ...], tuple[dict[str, int], list[Shape | None]]] = {}
        self._written = frozenset(s.target for s in graph.signature.outputs if s.kind == "write")
        self._fresh = [b.type if b.kind == "output" else None for b in (plan.buffers[b] for b in plan.outputs)]

    @property
    def kernels(self) -> dict[str, TritonKernel]:
        """The source of each kernel by name."""
        steps = {s.kernel.name: s for s in self.plan.all_kernel_steps}
        return {name: lower_kernel(s.kernel, s.schedule, self.target) for name, s in steps.items()}

    def peak(self, sizes: Mapping[str, int]) -> int:
        """Bytes of device memory that a call takes besides its inputs: temporaries and outputs."""
        outputs = [dim.evaluate(t.size, sizes) * t.dtype.itemsize for t in self._fresh if t is not None]
        return self.program.temporaries(sizes) + sum(block_size(max(1, n)) for n in outputs)

    def run(self, inputs: Sequence[Any]) -> list[DeviceArray | None]:
        """The graph's outputs, fresh arrays; None for those that are written into inputs, and for checks.

        Inputs are arrays of this device, with the graph's dtypes and shapes, or of the host: those are copied, and copied
        back if they are written. Raises, with nothing written, CheckFailed when an index was out of range.
        """
        sizes, shapes = self._shapes(inputs)
        try:
            return self._run(inputs, sizes, shapes)
        except OutOfDeviceMemory as e:
            needs = f"{self.graph.name} takes {self.peak(sizes):,} bytes besides its inputs"
            raise OutOfDeviceMemory(f"{e}; {needs}") from None

    def _shapes(self, inputs: Sequence[Any]) -> tuple[dict[str, int], list[Shape | None]]:
        """The sizes of a call, and the shapes of its fresh outputs. ValueError if the inputs do not go together."""
        key = tuple([a.shape for a in inputs])
        found = self._known.get(key)
        if found is None:
            sizes = self._sizes.of(inputs)
            shapes = [None if t is None else self._sizes.shape(t.shape, sizes) for t in self._fresh]
            if len(self._known) >= SETS_OF_SIZES:
                self._known.clear()
            found = self._known[key] = (sizes, shapes)
        return found

    def _run(
        self, inputs: Sequence[Any], sizes: Mapping[str, int], shapes: list[Shape | None]
    ) -> list[DeviceArray | None]:
        given = [a if type(a) is np.ndarray or a.plain else copied(a) for a in inputs]
        count, on_host = len(self.graph.outputs), self._on_host(inputs)
        if self.graphs is not None:
            replayed = self.graphs.run(given, self._written.difference(on_host))
            if replayed is not None:
                used_on(self.gpu.stream, [a for a in given if type(a) is DeviceArray])
                self._write_back(inputs, given, on_host)
                return replayed[:count]
        given = self._on_device(given)
        outputs = [
            None if t is None or shape is None else empty(self.gpu, shape, t.dtype.np, "outputs")
            for t, shape in zip(self._fresh, shapes)
        ]
        failed = self.program.run(
            [a.address for a in given],
            [0 if a is None else a.address for a in outputs],
            sizes,
        )
        used_on(self.gpu.stream, given)
        if failed is not None:
            raise CheckFailed(failed)
        self._write_back(inputs, given, on_host)
        return outputs[:count]

    def _on_device(self, given: list[Any]) -> list[DeviceArray]:
        """The inputs, with copies for arrays of the host. The small ones are copied together."""
        small = [k for k, a in enumerate(given) if type(a) is np.ndarray and a.nbytes <= SMALL]
        if not small and not any(type(a) is np.ndarray for a in given):
            return given
        for k, a in zip(small, to_device_together(self.gpu, [given[k] for k in small])):
            given[k] = a
        return [to_device(self.gpu, a) if type(a) is np.ndarray else a for a in given]

    def _write_back(self, inputs: Sequence[Any], given: Sequence[Any], on_host: Mapping[int, np.ndarray]) -> None:
        """Into the inputs that are written, and that are not what the kernels worked on. on_host: what the host has found
        for some."""
        for k in self._written:
            a, b = inputs[k], given[k]
            if k in on_host:
                a[...] = on_host[k]
            elif a is not b:
                a[...] = b.numpy() if type(a) is np.ndarray else b

    def _on_host(self, inputs: Sequence[Any]) -> dict[int, np.ndarray]:
        """What is written into inputs in host memory that the host can compute."""
        known = frozenset([k for k, a in enumerate(inputs) if type(a) is np.ndarray])
        if not known:
            return {}
        found = self._host_parts.get(known)
        if found is None:
            found = self._host_parts[known] = HostPart(self.graph, known)
        return found.run(inputs)


def _candidates(kernel: Kernel, target: Target) -> list[Schedule]:
    from ...passes.candidates_gpu import candidates

    return candidates(kernel, target, target.precision)


def build(
    graph: Graph,
    gpu: Gpu,
    breathe: Callable[[], None] = lambda: None,
    budget: float = 0.0,
    cuda_graphs: bool | None = None,
    candidates: Candidates | None = None,
) -> CudaExecutable:
    """Compiles `graph` for a device. breathe: called between kernels; what it raises ends it. cuda_graphs: whether calls
    are replayed as CUDA graphs; None: where that is faster. Then outputs are copied once more. budget: seconds for timing
    the schedules that `candidates` gives for a kernel (by default the passes')."""
    report = Report()
    target = numerics.target(gpu.target)
    plan = compile_graph(graph, target, fuel_from_knobs(), knobs.flag("TRACEFUSE_VERIFY"), report)
    tuning: Tuning | None = None
    if budget > 0:
        from .tuning import tune

        plan, tuning = tune(plan, gpu, budget, candidates or _candidates, breathe)
    out = CudaExecutable(graph, plan, gpu, report, breathe, cuda_graphs)
    out.tuning = tuning
    return out
