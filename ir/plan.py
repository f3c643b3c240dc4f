"""What the passes hand to a runtime: buffers, and what runs on them in order: kernels, control flow, steps on the host."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from .dim import Dim, DimLike
from .graph import Node
from .kernel import Kernel, Schedule
from .types import TensorType


@dataclass(frozen=True, slots=True)
class PlanBuffer:
    """Memory of a plan. kind: "input" or "output" (`slot`: which one), "constant" (`slot` into Plan.constants), or
    "temp" (`offset` bytes into the arena)."""

    type: TensorType
    kind: str
    slot: int = 0
    offset: DimLike = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Runs `kernel` with `args`: for each of its parameters (scratch apart) the number of a buffer, from element
    `offsets[k]` of it on (no offsets: from the first)."""

    kernel: Kernel
    schedule: Schedule
    args: tuple[int, ...]
    offsets: tuple[int, ...] = ()

    @property
    def buffers(self) -> tuple[int, ...]:
        """All the buffers that it touches."""
        return self.args


@dataclass(frozen=True, slots=True)
class HostStep:
    """Calls the reference of `node`'s op. `args`: the buffer of each operand, of its size but perhaps of another shape;
    `results`: the buffer of each result, -1 for one that nobody reads. `reason`: why it is no kernel. May raise."""

    node: Node
    args: tuple[int, ...]
    results: tuple[int, ...]
    reason: str

    @property
    def buffers(self) -> tuple[int, ...]:
        """All the buffers that it touches."""
        return (*self.args, *(b for b in self.results if b >= 0))


@dataclass(frozen=True, slots=True)
class ControlStep:
    """A cond, while or scan `node` whose graphs are plans of their own, in the order of its attributes. They are called
    with pointers to buffers (`args` of its operands, `results`), to rows of them, and to copies of what is carried.
    `first_check`: where the checks of those plans begin among the plan's."""

    node: Node
    args: tuple[int, ...]
    results: tuple[int, ...]
    plans: tuple[Plan, ...]
    first_check: int

    @property
    def buffers(self) -> tuple[int, ...]:
        """All the buffers that it touches."""
        return (*self.args, *self.results)


@dataclass(frozen=True, slots=True)
class Plan:
    """A graph, lowered. `outputs`: for each graph output the buffer that holds it; outputs whose buffer is an input are
    that input (written in place, or returned as it is). `checks`: (bool buffer, message): if true afterwards, the call
    has failed and nothing may have been committed; buffer -1: a control step decides. No host step comes after
    `commit_from`."""

    name: str
    buffers: tuple[PlanBuffer, ...]
    steps: tuple[Step | ControlStep | HostStep, ...]
    outputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]
    arena: DimLike  # bytes
    dims: tuple[Dim, ...]
    checks: tuple[tuple[int, str], ...] = ()
    commit_from: int = 0  # steps from here on write inputs
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def kernel_steps(self) -> tuple[Step, ...]:
        return tuple(s for s in self.steps if isinstance(s, Step))

    @property
    def control_steps(self) -> tuple[ControlStep, ...]:
        return tuple(s for s in self.steps if isinstance(s, ControlStep))

    @property
    def loops(self) -> bool:
        """Whether there are loops in it, which can be interrupted."""
        return any(s.node.op.name != "cond" or any(p.loops for p in s.plans) for s in self.control_steps)

    @property
    def all_kernel_steps(self) -> tuple[Step, ...]:
        """Those of the plans of control steps too."""
        inner = (s for c in self.control_steps for p in c.plans for s in p.all_kernel_steps)
        return (*self.kernel_steps, *inner)

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        return tuple(s for s in self.steps if isinstance(s, HostStep))

    def with_dims(self, dims: tuple[Dim, ...]) -> Plan:
        """The plan as part of another one, whose symbolic sizes it is given."""
        steps = (
            replace(s, plans=tuple(p.with_dims(dims) for p in s.plans)) if isinstance(s, ControlStep) else s
            for s in self.steps
        )
        return replace(self, steps=tuple(steps), dims=dims)
