"""`Parameter`: a tensor that a `Module` registers as its own, and that optimizers train."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.op import Attrs, OpDef, register_interpreter
from ..dispatch import lift, run
from ..state import state
from ..tensor import Tensor, alias, new_tensor
from ..trace_views import TraceViews


class Parameter(Tensor):
    """A leaf tensor whose gradient is wanted. Shares the memory of `data` (a Tensor or an array)."""

    __slots__ = ()

    def __new__(cls, data: Any = (), requires_grad: bool = True) -> Parameter:
        if isinstance(state.tracer, TraceViews) and isinstance(data, Tensor):
            self = _alias(cls, data, state.tracer)
        else:
            self = new_tensor(data._data if isinstance(data, Tensor) else np.asarray(data), cls)
        if requires_grad:
            self.requires_grad_()
        return self

    def __init__(self, data: Any = (), requires_grad: bool = True):
        pass  # __new__ did it: Tensor's own constructor would copy

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def _alias(cls: type, data: Tensor, tracer: TraceViews) -> Any:
    """What shares the memory of `data`, while tracing."""
    view = alias(data)
    self = new_tensor(view._data, cls)
    self._base, self._view = view._base, view._view
    tracer.alias_made(self, data)
    return self


def _interpret(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    """Bound calls whose first tensor operand is a Parameter: gradient rules and decompositions that run on Tensors."""
    return run(op, tuple([a if isinstance(a, Tensor) else lift(a) for a in args]), attrs)


register_interpreter(Parameter, 2, _interpret)
