"""A backend for `tr.compile` in tests: Triton kernels, through Triton's interpreter."""

from __future__ import annotations

import numpy as np
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.backends.triton import launch
from tracefuse.ir.graph import Graph
from tracefuse.ir.target import CUDA_SM90
from tracefuse.passes.pipeline import compile_graph


class Interpreted:
    """Runs a graph's Triton kernels as compiled functions want it."""

    def __init__(self, graph: Graph):
        self.graph, self.plan = graph, compile_graph(graph, CUDA_SM90, verify=True)
        assert not self.plan.host_steps and not self.plan.control_steps

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray | None]:
        out: list[np.ndarray | None] = list(run_plan(self.plan, inputs, launch.run_kernel))
        specs = [s for s in self.graph.signature.outputs if s.kind != "check"]
        for k, spec in enumerate(specs):
            if spec.kind == "write":
                inputs[spec.target][...] = out[k]
                out[k] = None
        return out
