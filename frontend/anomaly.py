"""Anomaly mode: says which line of the user's made the first NaN, in the forward or in the backward pass.

While it is on, it stands where a tracer stands, so that every op takes the full way through `dispatch.run`, and compiled
functions run as plain Python; values are computed as usual.
"""

from __future__ import annotations

import threading
from typing import Any, Self

import numpy as np

from ..ir.op import Attrs, OpDef, evaluate_eagerly, register_interpreter
from .state import state
from .tape import Node
from .tensor import Tensor, new_tensor

_lock = threading.Lock()
_active = 0


class Anomaly:
    """The tracer of anomaly mode (`state.Tracer`): it records nothing, and looks at everything."""

    def __init__(self, check_nan: bool):
        self.check_nan, self.in_backward = check_nan, False

    def read(self, t: Tensor) -> Any:
        return t._data

    def write(self, t: Tensor, v: Any) -> None:
        t._data[...] = v

    def make_view(self, base: Tensor, op: OpDef, attrs: Attrs, value: Any) -> Tensor:
        return new_tensor(value)

    def wrap(self, v: Any) -> Tensor:
        return new_tensor(v)

    def made(self, t: Tensor) -> None:
        """Tensors of library code need no care here."""

    def get_grad(self, t: Tensor) -> Tensor | None:
        return t._grad

    def set_grad(self, t: Tensor, g: Tensor | None) -> None:
        t._grad = g

    def concretize(self, t: Tensor, what: str) -> Any:
        return t._data

    def run_on(self, gpu: Any) -> None:
        """Ops run where their operands are."""

    def callable(self, f: Any) -> Any:
        return getattr(f, "__tracefuse_wrapped__", f)

    # ---- what it is for

    def note(self, node: Node) -> None:
        """Remembers the line that a step of the forward pass belongs to."""
        from .capture.tracer import user_location

        node.loc = user_location()

    def check_result(self, op: OpDef, args: tuple, out: Any) -> None:
        """RuntimeError if the op has made NaN of operands without any."""
        if self.in_backward or not self.check_nan or any(map(_has_nan, args)):
            return
        for i, array in enumerate(out if isinstance(out, tuple) else (out,)):
            if _has_nan(array):
                from .capture.tracer import user_location

                raise RuntimeError(
                    f"{user_location()}: {op.name} made the first NaN: result {i} of shape {array.shape} has "
                    f"{int(np.isnan(array).sum())}, its operands {_shapes(args)} have none"
                )

    def pull(self, node: Node, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        """`node.pull`. RuntimeError if it makes NaN of cotangents without any, or if it fails: with the forward line."""
        where = f"{node.loc or 'a line that ran before anomaly mode'}: {node.name}"
        before, self.in_backward = self.in_backward, True
        try:
            grads = node.pull(cotangents, needs, create_graph)
        except RuntimeError as e:
            raise RuntimeError(f"{where}: its backward pass failed: {e}") from e
        finally:
            self.in_backward = before
        if self.check_nan and not any(map(_has_nan, map(_payload, cotangents))):
            for i, g in enumerate(map(_payload, grads)):
                if _has_nan(g):
                    raise RuntimeError(
                        f"{where} made the first NaN of the backward pass: the gradient of operand {i}, of shape "
                        f"{tuple(g.shape)}"
                    )
        return grads


def _payload(x: Any) -> Any:
    return x._data if isinstance(x, Tensor) else x


def _has_nan(x: Any) -> bool:
    return type(x) is np.ndarray and x.dtype.kind not in "biu" and bool(np.isnan(x).any())


def _shapes(args: tuple) -> str:
    return ", ".join(str(a.shape) for a in args) or "(none)"


def _evaluate(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    """What computes ndarrays while any thread is in anomaly mode."""
    out = evaluate_eagerly(op, args, attrs)
    if state.anomaly is not None:
        state.anomaly.check_result(op, args, out)
    return out


class detect_anomaly:
    """`with detect_anomaly():` a RuntimeError names the op and the user's line that made the first NaN, forward or
    backward; errors of the backward pass name the line of the forward pass. Slow: for debugging.

    check_nan=False: only the latter. Compiled functions that are called inside run as plain Python. Inside of a trace it
    does nothing, for there are no values.
    """

    def __init__(self, check_nan: bool = True):
        self.check_nan = check_nan
        self._before: list[tuple | None] = []

    def __enter__(self) -> Self:
        if state.tracer is not None and state.anomaly is None:
            self._before.append(None)
            return self
        self._before.append((state.tracer, state.anomaly, state.on_node))
        _switch(Anomaly(self.check_nan))
        _count(1)
        return self

    def __exit__(self, *exc: object) -> None:
        before = self._before.pop()
        if before is not None:
            state.tracer, state.anomaly, state.on_node = before
            _count(-1)


def _switch(anomaly: Anomaly | None) -> None:
    state.tracer, state.anomaly = anomaly, anomaly  # type: ignore[assignment]
    state.on_node = None if anomaly is None else anomaly.note


def _count(step: int) -> None:
    global _active
    with _lock:
        _active += step
        register_interpreter(np.ndarray, 0, _evaluate if _active else evaluate_eagerly)


class set_detect_anomaly(detect_anomaly):
    """Switches anomaly mode on or off in this thread at once; as a context manager it also restores what was."""

    def __init__(self, mode: bool, check_nan: bool = True):
        super().__init__(check_nan)
        self._outer = (state.tracer, state.anomaly, state.on_node)
        if state.tracer is not None and state.anomaly is None:
            return
        if (state.anomaly is not None) != mode:
            _count(1 if mode else -1)
        _switch(Anomaly(check_nan) if mode else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if (self._outer[1] is not None) != (state.anomaly is not None):
            _count(1 if self._outer[1] is not None else -1)
        state.tracer, state.anomaly, state.on_node = self._outer


def is_anomaly_enabled() -> bool:
    """Whether this thread is in anomaly mode."""
    return state.anomaly is not None


__all__ = ["Anomaly", "detect_anomaly", "is_anomaly_enabled", "set_detect_anomaly"]
