"""Runs plans with host steps: functions of kernels in turn with the NumPy references of ops that no kernel computes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..ir import dim
from ..ir.interpreter import concrete_attrs
from ..ir.plan import HostStep, Plan
from ..ir.types import TensorType
from . import memory
from .plan_code import first_slots

Native = Callable[..., int]  # (values, dims, arena) -> 0, or 1 + the number of the check that failed


class HostProgram:
    """The parts of a plan, in order. Thread-safe: a call keeps everything that it changes to itself."""

    def __init__(self, plan: Plan, parts: Sequence[Native | HostStep], arena: dim.DimLike):
        self.plan, self.parts, self.arena = plan, parts, arena
        self.first = first_slots(plan)

    def run(
        self, values: ctypes.Array, dims: ctypes.Array, arrays: Sequence[np.ndarray | None], sizes: Mapping[str, int]
    ) -> int:
        """0, or 1 + the number of the check that failed. `arrays`: what `values` points to, None for no array.

        What a reference raises goes through, with a note of the user's line; nothing has been written then.
        """
        # An array, not a lease: views of it that a traceback keeps must keep its memory. Small ones are not aligned.
        arena = memory.empty((max(memory.BIG, dim.evaluate(self.arena, sizes)),), np.uint8)
        for part in self.parts:
            if isinstance(part, HostStep):
                self._call(part, arena, arrays, sizes)
            elif status := part(values, dims, arena.ctypes.data):
                return status
        return 0

    def _call(
        self, step: HostStep, arena: np.ndarray, arrays: Sequence[np.ndarray | None], sizes: Mapping[str, int]
    ) -> None:
        node = step.node

        def array(b: int, type: TensorType) -> np.ndarray:
            buffer = self.plan.buffers[b]
            shape = tuple(dim.evaluate(d, sizes) for d in type.shape)
            if buffer.kind == "temp":
                return np.ndarray(shape, type.dtype.np, arena, dim.evaluate(buffer.offset, sizes))
            found = arrays[self.first[buffer.kind] + buffer.slot]
            assert found is not None
            return found.reshape(shape)

        operands = tuple(array(b, v.type) for b, v in zip(step.args, node.inputs, strict=True))
        try:
            out = node.op.evaluate(operands, concrete_attrs(node, sizes))
        except Exception as e:
            e.add_note(f"{node.loc or 'no line known'}: {node.op.name}({', '.join(str(v.type) for v in node.inputs)})")
            raise
        for v, b, result in zip(node.outputs, step.results, out if type(out) is tuple else (out,), strict=True):
            if b < 0:
                continue
            target = array(b, v.type)
            if result.shape != target.shape or result.dtype != target.dtype:
                given = f"{result.dtype}{list(result.shape)}"
                raise RuntimeError(f"the reference of {node.op.name} gives {given} where its type rule says {v.type}")
            np.copyto(target, result)
