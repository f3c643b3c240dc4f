"""Adafactor."""

from __future__ import annotations

import math
from typing import Any

from .. import functions as fn
from ..dtype_info import finfo
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Adafactor(Optimizer):
    """Shazeer & Stern 2018. The running mean of g^2 (of share step^beta2_decay) is kept as its means over rows, r, and
    columns, c, for parameters of two or more axes: v = r c / mean(r). u = g / sqrt(v), scaled down to root mean square
    d; p -= min(lr, 1 / sqrt(step)) max(eps[1], rms(p)) u.

    eps[0]: the least sqrt(v) and mean(r), by default the precision of the type. weight_decay: p *= 1 - lr * weight_decay.
    """

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ):
        defaults = dict(
            lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay, foreach=foreach, maximize=maximize
        )
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        least, scale = group["eps"]
        if not (least is None or least >= 0.0) or not scale >= 0.0:
            raise ValueError(f"Adafactor: eps must not be negative, got {group['eps']}")
        if group["beta2_decay"] > 0.0 or group["d"] < 1.0:
            raise ValueError("Adafactor: beta2_decay is at most 0, and d at least 1")

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"row_var": 0.0, "col_var": 0.0} if p.ndim > 1 else {"variance": 0.0}

    def _state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        shape = tuple(p.shape)
        if name == "row_var":
            return (*shape[:-1], 1)
        return (*shape[:-2], 1, shape[-1]) if name == "col_var" else shape

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        step = scalars["step"]
        return {"share": step ** group["beta2_decay"], "rate": fn.minimum(group.wide("lr"), 1.0 / fn.sqrt(step))}

    def _decayed(self, group: ParamGroup, n: OneNumbers, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        return x, g  # after its size has been taken

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        least, smallest = group["eps"]
        least = finfo(x.dtype).eps if least is None else least
        rate = n["rate"] * fn.maximum(_rms(x), smallest)
        if group.uses("weight_decay"):
            x = x * n["decay"]
        square, share = g * g, n["share"]

        def averaged(name: str, value: Tensor) -> Tensor:
            old = n.read(state[name])
            return store(state[name], old + (value - old) * share)

        if g.ndim > 1:
            rows = averaged("row_var", fn.mean(square, axis=-1, keepdims=True))
            columns = averaged("col_var", fn.mean(square, axis=-2, keepdims=True))
            v = rows * columns / fn.clip(fn.mean(rows, axis=-2, keepdims=True), least)
        else:
            v = averaged("variance", square)
        u = g / fn.sqrt(fn.clip(v, least * least))
        return x - u * (rate / fn.maximum(_rms(u) / group["d"], 1.0))


def _rms(x: Tensor) -> Tensor:
    return fn.sqrt(fn.sum(x * x)) / math.sqrt(max(1, x.size))
