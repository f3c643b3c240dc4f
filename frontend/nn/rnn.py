"""Recurrent layers and cells; `functional_rnn` has the steps."""

from __future__ import annotations

import math
from typing import Any

from .. import creation
from .. import functions as fn
from ..tensor import Tensor
from . import functional as F
from . import init
from .functional_rnn import GATES, State, Weights, input_gates, run_direction, run_packed, step
from .module import Module
from .parameter import Parameter
from .utils.rnn import PackedSequence, known_sizes


class RNNBase(Module):
    """What RNN, LSTM and GRU share. For layer k (and "_reverse" for the other direction): weight_ih_lk [G H, I],
    weight_hh_lk [G H, P], bias_ih_lk and bias_hh_lk [G H], weight_hr_lk [P, H] with projections; G gates (1, 4, 3),
    H hidden_size, P proj_size or H. All start from U(-1 / sqrt(H), 1 / sqrt(H)).
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        what = type(self).__name__
        if mode not in GATES:
            raise ValueError(f"{what}: mode is one of {', '.join(GATES)}, not {mode!r}")
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError(f"{what}: hidden_size {hidden_size} and num_layers {num_layers} must be positive")
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"{what}: the probability dropout is in [0, 1], not {dropout}")
        if not 0 <= proj_size < hidden_size or (proj_size and mode != "LSTM"):
            raise ValueError(f"{what}: proj_size {proj_size} is for LSTM, and less than hidden_size {hidden_size}")
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        out_size, rows = proj_size or hidden_size, GATES[mode] * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out_size * (1 + bidirectional)
            for suffix in self._suffixes(layer):
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, out_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    self.register_parameter(name + suffix, Parameter(creation.empty(shape, dtype=dtype, device=device)))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return (f"_l{layer}", f"_l{layer}_reverse")[: 1 + self.bidirectional]

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing has to be done: weights are read where they are, in any layout."""

    def _weights(self, suffix: str) -> Weights:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return Weights(*(getattr(self, n + suffix, None) for n in names))  # type: ignore[arg-type]

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters, a list for each layer and direction."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        return [
            [p for n in names if (p := self._parameters.get(n + suffix)) is not None]
            for layer in range(self.num_layers)
            for suffix in self._suffixes(layer)
        ]

    def _run(self, input: Any, hx: State | None) -> tuple[Any, State]:
        """Output like the input, and the states [layers * directions, N, ..] ([.., no N] for a single sequence)."""
        if isinstance(input, PackedSequence):
            sizes = known_sizes(input.batch_sizes, type(self).__name__)
            order, back = input.sorted_indices, input.unsorted_indices
            start = self._start(input.data, sizes[0], hx, False)
            if order is not None and hx is not None:
                start = tuple(fn.take(s, order, axis=1) for s in start)
            out, last = self._layers(input.data, start, sizes)
            if back is not None:
                last = tuple(fn.take(s, back, axis=1) for s in last)
            return PackedSequence(out, input.batch_sizes, order, back), last
        if input.ndim not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: input of shape {tuple(input.shape)} needs 2 dimensions (one sequence) or 3"
            )
        single = input.ndim == 2
        x = fn.expand_dims(input, axis=1) if single else fn.swapaxes(input, 0, 1) if self.batch_first else input
        out, last = self._layers(x, self._start(x, x.shape[1], hx, single), None)
        if single:
            return fn.squeeze(out, axis=1), tuple(fn.squeeze(s, axis=1) for s in last)
        return fn.swapaxes(out, 0, 1) if self.batch_first else out, last

    def _start(self, x: Tensor, n: Any, hx: State | None, single: bool) -> State:
        """The first states [layers * directions, N, ..]: zeros if not given. ValueError for other shapes."""
        what = type(self).__name__
        if x.shape[-1] != self.input_size:
            raise ValueError(f"{what}: input has shape {tuple(x.shape)}; its last axis must be {self.input_size}")
        count = self.num_layers * (1 + self.bidirectional)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + (self.mode == "LSTM")]
        if hx is None:
            return tuple(creation.zeros((count, n, w), dtype=x.dtype, device=x.device) for w in widths)
        for s, w in zip(hx, widths, strict=True):
            wanted = (count, w) if single else (count, n, w)
            if tuple(s.shape) != wanted:
                raise ValueError(f"{what}: a state of shape {tuple(s.shape)} was given; {wanted} is needed")
        return tuple(fn.expand_dims(s, axis=1) for s in hx) if single else tuple(hx)

    def _layers(self, x: Tensor, start: State, sizes: list[int] | None) -> tuple[Tensor, State]:
        """x [T, N, I], or packed [sum of sizes, I]."""
        last: list[State] = []
        for layer in range(self.num_layers):
            outs = []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                state, w = tuple(s[len(last)] for s in start), self._weights(suffix)
                if sizes is None:
                    out, state = run_direction(self.mode, x, state, w, bool(reverse))
                else:
                    out, state = run_packed(self.mode, x, sizes, state, w, bool(reverse))
                outs.append(out)
                last.append(state)
            x = outs[0] if len(outs) == 1 else fn.concat(outs, axis=-1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(fn.stack(parts) for parts in zip(*last))

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        if self.proj_size:
            parts.append(f"proj_size={self.proj_size}")
        if self.num_layers != 1:
            parts.append(f"num_layers={self.num_layers}")
        if self.bias is not True:
            parts.append(f"bias={self.bias}")
        if self.batch_first:
            parts.append("batch_first=True")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        if self.bidirectional:
            parts.append("bidirectional=True")
        return ", ".join(parts)


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu. input [T, N, I] ([N, T, I] if batch_first, [T, I] for one
    sequence, or a PackedSequence), hx [layers * directions, N, H] -> (output [T, N, directions * H], last states)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, 0, device, dtype,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        out, (h,) = self._run(input, None if hx is None else (hx,))
        return out, h


class GRU(RNNBase):
    """Gated recurrent units (Cho et al. 2014); arguments and results as for `RNN`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )

    def forward(self, input: Any, hx: Tensor | None = None) -> tuple[Any, Tensor]:
        out, (h,) = self._run(input, None if hx is None else (hx,))
        return out, h


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); arguments as for `RNN`, but hx and the second result are
    (h, c). proj_size: h is projected to this width (Sak et al. 2014)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype,
        )  # fmt: skip

    def forward(self, input: Any, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        out, (h, c) = self._run(input, hx)
        return out, (h, c)


class RNNCellBase(Module):
    """weight_ih [G H, I], weight_hh [G H, H], bias_ih and bias_hh [G H]."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(creation.empty((rows, input_size), dtype=dtype, device=device))
        self.weight_hh = Parameter(creation.empty((rows, hidden_size), dtype=dtype, device=device))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(
                name, Parameter(creation.empty((rows,), dtype=dtype, device=device)) if bias else None
            )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _step(self, mode: str, input: Tensor, hx: State | None) -> State:
        what = type(self).__name__
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(f"{what}: input has shape {tuple(input.shape)}; [N, {self.input_size}] is needed")
        shape = (*input.shape[:-1], self.hidden_size)
        if hx is None:
            zeros = creation.zeros(shape, dtype=input.dtype, device=input.device)
            hx = (zeros, zeros) if mode == "LSTM" else (zeros,)
        for s in hx:
            if tuple(s.shape) != shape:
                raise ValueError(f"{what}: a state of shape {tuple(s.shape)} was given; {shape} is needed")
        w = Weights(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return step(mode, w)(input_gates(mode, input, w), hx)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else f"{text}, nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """One step of `RNN`: input [N, I] (or [I]), hx [N, H] -> [N, H]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNNCell: nonlinearity is 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step(f"RNN_{self.nonlinearity.upper()}", input, None if hx is None else (hx,))[0]


class LSTMCell(RNNCellBase):
    """One step of `LSTM`: input [N, I] (or [I]), hx (h, c) each [N, H] -> (h, c)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step("LSTM", input, hx)
        return h, c


class GRUCell(RNNCellBase):
    """One step of `GRU`: input [N, I] (or [I]), hx [N, H] -> [N, H]."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None):
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("GRU", input, None if hx is None else (hx,))[0]
