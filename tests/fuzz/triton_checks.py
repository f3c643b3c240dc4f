"""What must hold of a program's Triton kernels, run by Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from checks import NotWellDetermined, assert_outputs, expected
from generator import Program
from symbolic import symbolic
from tracefuse.backends.reference.kernels import bind_sizes, run_plan
from tracefuse.backends.triton import launch
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import dim
from tracefuse.ir.graph import Graph
from tracefuse.ir.kernel import Kernel
from tracefuse.ir.ops.index_maps import INDEX_MAPS
from tracefuse.ir.plan import Plan, Step
from tracefuse.ir.target import CUDA_SM90
from tracefuse.passes.host import CREATION
from tracefuse.passes.pipeline import compile_graph

MOST_BLOCKS = 160  # the interpreter runs one after another, in milliseconds each
LONGEST_ROW = 300  # points that are looped over one by one, at worst


def check_kernels(p: Program) -> None:
    """The kernels give what the reference gives."""
    want = expected(p)
    assert_outputs(interpreted(p.graph, p.inputs), want, "triton")


def check_symbolic_kernels(p: Program) -> None:
    """Those of the same program with symbolic sizes do."""
    graph = symbolic(p)
    if graph is None:
        raise NotWellDetermined
    want = expected(p)
    assert_outputs(interpreted(graph, p.inputs), want, "triton, symbolic sizes")


def check_other_blocks(p: Program) -> None:
    """They do in blocks of any size: rows that would fit one block are then looped over, and masks are other ones."""
    want = expected(p)
    random = Random(p.seed)

    def change(step: Step) -> Step:
        rows = (dim.numel(tuple(a.extent for a in stage.axes)) for stage in step.kernel.stages)
        if step.kernel.anchor is not None or any(not isinstance(n, int) or n > LONGEST_ROW for n in rows):
            return step
        if any(r.kind == "sort" for s in step.kernel.stages for r in s.reductions):
            return step  # a row is sorted within one block
        blocks = tuple(random.choice((1, 4, 16, 32)) for _ in step.schedule.blocks)
        return replace(step, schedule=replace(step.schedule, blocks=blocks))

    assert_outputs(interpreted(p.graph, p.inputs, change), want, "triton, other blocks")


def interpreted(
    graph: Graph, inputs: list[np.ndarray], change: Callable[[Step], Step] = lambda s: s
) -> list[np.ndarray]:
    """The outputs of a graph's Triton kernels, each step changed. NotWellDetermined if that would take too long."""
    plan = compile_graph(graph, CUDA_SM90, verify=True)
    plan = replace(plan, steps=tuple(change(s) if isinstance(s, Step) else s for s in plan.steps))
    if blocks(plan, inputs) > MOST_BLOCKS:
        raise NotWellDetermined
    return run_plan(plan, inputs, launch.run_kernel)


def blocks(plan: Plan, inputs: Sequence[np.ndarray]) -> int:
    """How many programs all its kernels start."""
    sizes = bind_sizes(plan, inputs)
    lowered = (lower_kernel(s.kernel, s.schedule, launch.INTERPRETED) for s in plan.kernel_steps)
    return sum(int(np.prod([dim.evaluate(n, sizes) for n in kernel.grid])) for kernel in lowered)


CHECKS = {"kernels": check_kernels, "symbolic kernels": check_symbolic_kernels, "other blocks": check_other_blocks}


@dataclass(slots=True)
class Fusion:
    """What became of a program: its nodes, its kernels, and the computing nodes of each kernel. Copies and checks of
    indices are kernels, but tell nothing of fusion."""

    nodes: int
    kernels: int
    computing: list[int]

    @classmethod
    def of(cls, p: Program) -> Fusion:
        plan = compile_graph(p.graph, CUDA_SM90)
        kernels = [s.kernel for s in plan.kernel_steps]
        return cls(len(p.graph.nodes), len(kernels), [_computing(k) for k in kernels if not _is_copy(k)])

    @property
    def fused(self) -> bool:
        """Whether some kernel computes three nodes or more."""
        return max(self.computing, default=0) >= 3


def _computing(kernel: Kernel) -> int:
    return sum(name not in INDEX_MAPS and name not in CREATION for name in kernel.ops)


def _is_copy(kernel: Kernel) -> bool:
    return kernel.ops in (("copy",), ("cast",), ("reduce_any",))
