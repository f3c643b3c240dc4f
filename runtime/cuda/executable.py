"""Compiles a graph for a GPU and runs it: `build(graph, gpu)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...backends.triton.emit import lower_kernel
from ...backends.triton.lowered import TritonKernel
from ...ir.graph import Graph
from ...ir.plan import Plan
from ...passes.pipeline import Report, compile_graph
from .. import knobs
from ..executable import CheckFailed, fuel_from_knobs
from ..sizes import GraphSizes
from .array import DeviceArray, empty, to_device
from .code import Counts
from .copies import contiguous
from .device import Gpu
from .host_part import HostPart
from .numerics import numerics
from .program import Program


class CudaExecutable:
    """A graph for one device. `run` is thread-safe, and does not wait for the device unless a check, control flow or a
    step on the host asks for a value.

    `seconds`: time spent by stage ("passes", "codegen"; of the latter "triton"). `hits`: kernels that came from the disk
    cache. `code_bytes`: of machine code that was loaded for it.
    """

    tuning: Any = None  # what was tried to make it faster; None: nothing

    def __init__(self, graph: Graph, plan: Plan, gpu: Gpu, report: Report, breathe: Callable[[], None] = lambda: None):
        self.graph, self.plan, self.gpu, self.report = graph, plan, gpu, report
        self.target = numerics.target(gpu.target)
        self.seconds: dict[str, float] = {"passes": sum(report.seconds.values())}
        start = time.perf_counter()
        counts = Counts()
        self.program = Program(plan, gpu, breathe, counts)
        self.seconds |= {"codegen": time.perf_counter() - start, "triton": counts.seconds}
        self.hits, self.code_bytes = counts.hits, counts.code_bytes
        self._sizes = GraphSizes(graph)
        self._host_parts: dict[frozenset[int], HostPart] = {}  # by which inputs lie in host memory

    @property
    def kernels(self) -> dict[str, TritonKernel]:
        """The source of each kernel by name."""
        return {s.kernel.name: lower_kernel(s.kernel, s.schedule, self.target) for s in self.plan.all_kernel_steps}

    def run(self, inputs: Sequence[Any]) -> list[DeviceArray | None]:
        """The graph's outputs, fresh arrays; None for those that are written into inputs, and for checks.

        Inputs are arrays of this device, with the graph's dtypes and shapes, or of the host: those are copied, and copied
        back if they are written. Raises, with nothing written, CheckFailed when an index was out of range.
        """
        plan = self.plan
        sizes = self._sizes.of(inputs)
        on_host = self._on_host(inputs)
        given = [to_device(self.gpu, a) if type(a) is np.ndarray else contiguous(a) for a in inputs]
        outputs: list[DeviceArray | None] = []
        for b in plan.outputs:
            buffer = plan.buffers[b]
            fresh = buffer.kind == "output"
            shape = self._sizes.shape(buffer.type.shape, sizes) if fresh else ()
            outputs.append(empty(self.gpu, shape, buffer.type.dtype.np) if fresh else None)
        failed = self.program.run(
            [a.address for a in given],
            [0 if a is None else a.address for a in outputs],
            sizes,
        )
        if failed is not None:
            raise CheckFailed(failed)
        for spec in self.graph.signature.outputs:
            k = spec.target
            if spec.kind == "write" and given[k] is not inputs[k]:
                inputs[k][...] = on_host[k] if k in on_host else _fetched(given[k], inputs[k])
        return outputs[: len(self.graph.outputs)]

    def _on_host(self, inputs: Sequence[Any]) -> dict[int, np.ndarray]:
        """What is written into inputs in host memory that the host can compute."""
        known = frozenset([k for k, a in enumerate(inputs) if type(a) is np.ndarray])
        if not known:
            return {}
        found = self._host_parts.get(known)
        if found is None:
            found = self._host_parts[known] = HostPart(self.graph, known)
        return found.run(inputs)


def _fetched(a: DeviceArray, target: Any) -> Any:
    """The array as its `target` takes it."""
    return a.numpy() if type(target) is np.ndarray else a


def build(graph: Graph, gpu: Gpu, breathe: Callable[[], None] = lambda: None, budget: float = 0.0) -> CudaExecutable:
    """Compiles `graph` for a device. breathe: called between kernels; what it raises ends it."""
    report = Report()
    plan = compile_graph(graph, numerics.target(gpu.target), fuel_from_knobs(), knobs.flag("TRACEFUSE_VERIFY"), report)
    return CudaExecutable(graph, plan, gpu, report, breathe)
