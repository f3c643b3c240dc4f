"""Recurrent layers: one step of each kind of cell, and the loop over a sequence in either direction.

Everything that does not depend on the state, `x @ w_ih.T + b`, is one matrix product for all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import functions as fn
from ..manipulation import narrow
from ..tensor import Tensor
from .functional_activation import relu, sigmoid, tanh

State = tuple[Tensor, ...]  # (h,), for LSTM (h, c)
Step = Callable[[Tensor, State], State]
GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


class Weights:
    """The weights of one layer in one direction: w_ih [G H, I], w_hh [G H, P], biases [G H] or None, and w_hr [P, H]
    for LSTM with projections."""

    __slots__ = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")

    def __init__(
        self,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
        w_hr: Tensor | None = None,
    ):
        self.w_ih, self.w_hh, self.b_ih, self.b_hh, self.w_hr = w_ih, w_hh, b_ih, b_hh, w_hr


def _dense(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    out = fn.matmul(x, fn.permute_dims(w, (1, 0)))
    return out if b is None else out + b


def _part(gates: Tensor, i: int, n: int) -> Tensor:
    """Gate i of n, along the last axis."""
    width = gates.shape[-1] // n
    return narrow(gates, gates.ndim - 1, i * width, (i + 1) * width)


def input_gates(mode: str, x: Tensor, w: Weights) -> Tensor:
    """x [.., I] -> [.., G H]: what the input adds to the gates. Both biases are in it, but not for GRU, which needs
    that of the state apart."""
    bias = w.b_ih if mode == "GRU" or w.b_ih is None or w.b_hh is None else w.b_ih + w.b_hh
    return _dense(x, w.w_ih, bias)


def step(mode: str, w: Weights) -> Step:
    """The cell as a function of (input gates [N, G H], state) -> state."""

    def gru(gates: Tensor, state: State) -> State:
        (h,) = state
        recurrent = _dense(h, w.w_hh, w.b_hh)
        reset = sigmoid(_part(gates, 0, 3) + _part(recurrent, 0, 3))
        update = sigmoid(_part(gates, 1, 3) + _part(recurrent, 1, 3))
        new = tanh(_part(gates, 2, 3) + reset * _part(recurrent, 2, 3))
        return (new + update * (h - new),)

    def lstm(gates: Tensor, state: State) -> State:
        h, c = state
        both = gates + _dense(h, w.w_hh, None)
        keep = sigmoid(_part(both, 1, 4)) * c
        c = keep + sigmoid(_part(both, 0, 4)) * tanh(_part(both, 2, 4))
        h = sigmoid(_part(both, 3, 4)) * tanh(c)
        return (h if w.w_hr is None else _dense(h, w.w_hr, None)), c

    def plain(gates: Tensor, state: State) -> State:
        activation = relu if mode == "RNN_RELU" else tanh
        return (activation(gates + _dense(state[0], w.w_hh, None)),)

    return {"GRU": gru, "LSTM": lstm}.get(mode, plain)


def run_direction(mode: str, x: Tensor, state: State, w: Weights, reverse: bool) -> tuple[Tensor, State]:
    """x [T, N, I] -> outputs [T, N, P] and the last state, from the last step backwards if `reverse`."""
    gates, cell = input_gates(mode, x, w), step(mode, w)
    steps = range(x.shape[0])
    out = []
    for t in reversed(steps) if reverse else steps:
        state = cell(gates[t], state)
        out.append(state[0])
    return fn.stack(out[::-1] if reverse else out), state


def run_packed(
    mode: str, x: Tensor, sizes: Sequence[int], state: State, w: Weights, reverse: bool
) -> tuple[Tensor, State]:
    """`run_direction` for packed steps: x [sum of sizes, I], step t has the first sizes[t] sequences, longest first."""
    gates, cell = input_gates(mode, x, w), step(mode, w)
    pieces = fn.split(gates, list(sizes))
    out: list[Tensor] = []
    if reverse:  # sequences join as their last steps come up
        initial, state = state, _rows(state, 0, sizes[-1])
        for t in reversed(range(len(sizes))):
            have = state[0].shape[0]
            if sizes[t] > have:
                joining = _rows(initial, have, sizes[t])
                state = tuple(fn.concat([a, b], axis=0) for a, b in zip(state, joining))
            state = cell(pieces[t], state)
            out.append(state[0])
        return fn.concat(out[::-1], axis=0), state
    finished: list[State] = []  # the shortest sequences first
    for t, size in enumerate(sizes):
        have = state[0].shape[0]
        if size < have:
            finished.append(_rows(state, size, have))
            state = _rows(state, 0, size)
        state = cell(pieces[t], state)
        out.append(state[0])
    finished.append(state)
    last = tuple(fn.concat(parts, axis=0) for parts in zip(*finished[::-1]))
    return fn.concat(out, axis=0), last


def _rows(state: State, start: int, stop: int) -> State:
    return tuple(narrow(s, 0, start, stop) for s in state)
