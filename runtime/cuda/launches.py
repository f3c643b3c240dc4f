"""Launches of kernels with everything but addresses settled beforehand, so that a call costs Python next to nothing.

All arguments of all kernels of a plan are words of 8 bytes in one array: a base (an input, the arena, ...) and what is
added to it. One vectorised addition makes those of a call; each launch then reads its own through a table of pointers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import dim
from ...ir.plan import Plan, PlanBuffer
from .driver import Function, Launch

ALIGN = 256
ZERO, ARENA = 0, 1  # the first two bases: what is no address, and where temporaries begin


class KernelStep:
    """A kernel of a plan: its code, and for each of its buffers the number of that of the plan and the byte it begins at."""

    __slots__ = ("function", "args", "offsets")

    def __init__(self, function: Function, args: tuple[int, ...], offsets: tuple[int, ...]):
        self.function, self.args, self.offsets = function, args, offsets


class Sized:
    """The launches of a plan for one set of sizes. `arena`: bytes of temporaries, scratch memory of kernels included."""

    def __init__(self, plan: Plan, steps: Sequence[Any], inputs: int, sizes: Mapping[str, int]):
        first = {"input": 2, "constant": 2 + inputs, "output": 2 + inputs + len(plan.constants)}

        def place(b: PlanBuffer) -> tuple[int, int]:
            return (ARENA, dim.evaluate(b.offset, sizes)) if b.kind == "temp" else (first[b.kind] + b.slot, 0)

        places = [place(b) for b in plan.buffers]
        used = -(-dim.evaluate(plan.arena, sizes) // ALIGN) * ALIGN
        scratch = 0
        words: list[tuple[int, int]] = []
        self.launches: list[tuple[Function, tuple[int, int, int], int] | None] = []
        for step in steps:
            if not isinstance(step, KernelStep):
                self.launches.append(None)
                continue
            code, start = step.function.code, len(words)
            grid = code.programs(sizes)
            words += [(places[b][0], places[b][1] + o) for b, o in zip(step.args, step.offsets, strict=True)]
            words += [(ZERO, sizes[d]) for d in code.dims]
            if code.image is not None and code.image.scratch:
                words.append((ARENA, used))  # kernels run one after another, so they share it
                scratch = max(scratch, code.image.scratch * grid[0] * grid[1] * grid[2])
            words += [(ZERO, 0)] * (start + step.function.parameters - len(words))
            self.launches.append((step.function, grid, start) if 0 not in grid else None)
        self.arena = used + scratch
        self.bases = np.array([b for b, _ in words], np.intp)
        self.added = np.array([o for _, o in words], np.int64)
        self._buffer_bases = np.array([b for b, _ in places], np.intp)
        self._buffer_added = np.array([o for _, o in places], np.int64)
        self._frames: list[Frame] = []

    def addresses(self, bases: np.ndarray) -> list[int]:
        """Of all buffers of the plan."""
        return (bases[self._buffer_bases] + self._buffer_added).tolist()

    def take(self, bases: np.ndarray) -> Frame:
        """The launches with those addresses. Only for the caller, who hands them back with `give`."""
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = Frame(self)
        np.take(bases, self.bases, out=frame.words, mode="clip")
        np.add(frame.words, self.added, out=frame.words)
        return frame

    def give(self, frame: Frame) -> None:
        self._frames.append(frame)


class Frame:
    """Room for the arguments of all launches, which are ready to be given to a stream: for each step of the plan, or None
    where there is nothing to launch."""

    def __init__(self, sized: Sized):
        self.words = np.zeros(len(sized.bases), np.int64)
        self._table = self.words.ctypes.data + 8 * np.arange(len(self.words), dtype=np.int64)
        table = self._table.ctypes.data
        self.launches: list[Launch | None] = [
            None if found is None else found[0].bind(found[1], table + 8 * found[2]) for found in sized.launches
        ]
        self.kernels: list[Launch] = [launch for launch in self.launches if launch is not None]


class Alone:
    """Launches of a kernel by itself. scratch: the address of its scratch memory, if it needs some. The device must have
    been entered."""

    def __init__(self, function: Function, sizes: Mapping[str, int], buffers: Sequence[int], scratch: int = 0):
        grid = function.code.programs(sizes)
        given = (*buffers, *(sizes[d] for d in function.code.dims), scratch, 0)[: function.parameters]
        self._words = np.array(given, np.int64)
        self._table = self._words.ctypes.data + 8 * np.arange(len(given), dtype=np.int64)
        self._launch = function.bind(grid, self._table.ctypes.data) if 0 not in grid else None

    def __call__(self, stream: Any) -> None:
        if self._launch is not None:
            self._launch(stream)
