"""Tensors that a closed loop has left, and that may be others that were there before.

A loop that takes no step leaves its variables as they are; `a, b = b, a + b` hands tensors on; `row = x[i]` is a view. The
values are right in any case, as no graph value changes. But a write to one name must be seen under the other, and so must
the identity of a result. Before a trace writes such a tensor, or returns it, it asks which one it is; a view of unknown
place keeps the loop open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...ir import ops
from ...ir.dtypes import int64
from ...ir.graph import Value
from ...ir.op import get_op
from ..tape import storage_of
from ..tensor import Tensor

FRESH = -1  # a tensor that a step has made


@dataclass(eq=False)
class Tie:
    """`result` may be one of `others`: the one whose number `which` is. which None: it shares memory with them."""

    result: Tensor
    others: dict[int, Tensor]
    which: Value | None
    reopen: Callable[[], Any]  # begins the capture again, with the loop left open


class Ties:
    """Those of one tracer."""

    def __init__(self) -> None:
        self._of: dict[int, list[Tie]] = {}
        self.same: dict[int, Tensor] = {}  # results that have turned out to be other tensors
        self._held: list[Tie] = []  # ids stay valid

    def add(self, tie: Tie) -> None:
        self._held.append(tie)
        for t in (tie.result, *tie.others.values()):
            found = self._of.setdefault(id(storage_of(t)), [])
            if tie not in found:
                found.append(tie)

    def of(self, t: Tensor) -> list[Tie]:
        """The ties of the tensor that `t` is, or is a view of."""
        return self._of.get(id(storage_of(t)), []) if self._of else []

    def from_result(self, t: Tensor) -> Tie | None:
        return next((tie for tie in self.of(t) if tie.result is t), None)

    def cut(self, tracer: Any, t: Tensor) -> None:
        """Called before `t` is written: names that are one tensor become one."""
        for tie in list(self.of(t)):
            self._cut(tracer, tie)

    def _cut(self, tracer: Any, tie: Tie) -> None:
        if tie.which is None:
            tie.reopen()
        one = self.which(tracer, tie, list(tie.others))
        for found in self._of.values():
            if tie in found:
                found.remove(tie)
        if one is not None and storage_of(one) is not storage_of(tie.result):
            self.same[id(tie.result)] = one
            tie.result._base, tie.result._view = one, (get_op("reshape"), {"shape": tie.result.shape})
            tracer._view_made(tie.result, one)

    def which(self, tracer: Any, tie: Tie, numbers: list[int]) -> Tensor | None:
        """Which of these the result is in this call."""
        for k in numbers:
            if tracer.ask(ops.eq(tie.which, ops.full(value=k, shape=(), dtype=int64)), "bool"):
                return tie.others[k]
        return None
