"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.dtypes import accumulator
from .. import functions as fn
from ..autograd import no_grad
from ..tensor import Tensor
from .optimizer import Optimizer, ParamGroup, Params, count_steps


class SGD(Optimizer):
    """p -= lr d, with d = g + weight_decay p, smoothed by momentum: b = momentum b + (1 - dampening) d (at first
    b = d), then d = b, or d + momentum b if nesterov. maximize: g counts negative. foreach and fused have no effect."""

    counts_steps = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ):
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum, and no dampening")

    def _new_state(self, group: ParamGroup, p: Tensor) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _update_group(self, group: ParamGroup, counts: Tensor, moving: list[tuple[int, Tensor, Tensor]]) -> None:
        keep = None
        if group["momentum"] != 0:
            if group["dampening"] != 0:
                keep = fn.where(counts == 0.0, 1.0, 1.0 - group.tensors["dampening"])
            count_steps(counts, moving)
        for i, p, g in moving:
            dtype = accumulator(p.dtype)
            wide, d = fn.astype(p, dtype), fn.astype(g, dtype)
            if group["maximize"]:
                d = -d
            if group["weight_decay"] != 0:
                d = d + wide * group.number("weight_decay", dtype)
            if group["momentum"] != 0:
                d = self._smooth(group, p, d, None if keep is None else keep[i])
            p.copy_(fn.astype(wide - d * group.number("lr", dtype), p.dtype))

    def _smooth(self, group: ParamGroup, p: Tensor, d: Tensor, keep: Tensor | None) -> Tensor:
        momentum, buffer = group.number("momentum", d.dtype), self.state[p]["momentum_buffer"]
        new = fn.astype(buffer, d.dtype) * momentum + (d if keep is None else d * fn.astype(keep, d.dtype))
        buffer.copy_(fn.astype(new, buffer.dtype))
        return d + new * momentum if group["nesterov"] else new

    def _save_state(self, state: dict[str, Tensor]) -> dict[str, Any]:
        if "momentum_buffer" not in state:
            return {}
        started = float(state["step"]) > 0
        return {"momentum_buffer": state["momentum_buffer"].detach() if started else None}

    def _load_state(self, state: dict[str, Tensor], given: Mapping[str, Any]) -> None:
        super()._load_state(state, given)
        with no_grad():
            state["step"].fill_(0.0 if given.get("momentum_buffer") is None else 1.0)
