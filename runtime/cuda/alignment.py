"""Which buffers of kernels begin at multiples of 16 bytes: Triton writes vector loads, and lets the hardware copy blocks,
only where it is told so, and a device stops where that was not true."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import dim
from ...ir.plan import ControlStep, Plan, Step
from ...ir.types import TensorType
from .array import ALIGN
from .code import Work


class Alignment:
    """Of the buffers of a plan. inputs, outputs: whether those are; by default all, as they are for plans that are called
    from outside. Temporaries and constants always are."""

    def __init__(self, plan: Plan, inputs: Sequence[bool] | None = None, outputs: Sequence[bool] | None = None):
        self.plan = plan
        given = {"input": inputs, "output": outputs}
        self.buffers = [b.kind not in given or (flags := given[b.kind]) is None or flags[b.slot] for b in plan.buffers]

    def unaligned(self, step: Step) -> frozenset[str]:
        """The parameters of a kernel that may begin anywhere."""
        params = [p for p in step.kernel.params if p.role != "scratch"]
        offsets = step.offsets or (0,) * len(params)
        return frozenset(
            p.name
            for p, b, o in zip(params, step.args, offsets, strict=True)
            if not self.buffers[b] or o * p.dtype.itemsize % ALIGN
        )

    def inner(self, step: ControlStep) -> list[Alignment]:
        """Of the plans of a step."""
        name, attrs = step.node.op.name, step.node.attrs
        args = [self.buffers[b] for b in step.args]
        if name == "cond":
            results = [b < 0 or self.buffers[b] for b in step.results]
            return [Alignment(p, args[1:], results) for p in step.plans]
        if name == "while":
            return [Alignment(p, args) for p in step.plans]
        n, rows = attrs["carried"], attrs["carried"] + attrs["scanned"]
        types = [v.type for v in (*step.node.inputs[n:rows], *step.node.outputs[n:])]
        whole = [_rows_are_aligned(t) for t in types]
        given = args[:n] + [a and w for a, w in zip(args[n:rows], whole)] + args[rows:]
        stacked = [b < 0 or self.buffers[b] for b in step.results[n:]]
        results = [True] * n + [a and w for a, w in zip(stacked, whole[rows - n :], strict=True)]
        return [Alignment(p, given, results) for p in step.plans]

    def work(self) -> list[Work]:
        """All kernels of the plan, those of the plans in it too."""
        out: list[Work] = []
        for step in self.plan.steps:
            if isinstance(step, Step):
                out.append(Work(step.kernel, step.schedule, self.unaligned(step)))
            elif isinstance(step, ControlStep):
                for inner in self.inner(step):
                    out += inner.work()
        return out


def _rows_are_aligned(t: TensorType) -> bool:
    n = dim.numel(t.shape[1:])
    return isinstance(n, int) and not n * t.dtype.itemsize % ALIGN
