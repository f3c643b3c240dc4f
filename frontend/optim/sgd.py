"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import functions as fn
from ..autograd import no_grad
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, advance, store
from .param_group import OneNumbers, ParamGroup


class SGD(Optimizer):
    """p -= lr d, with d = g + weight_decay p, smoothed by momentum: b = momentum b + (1 - dampening) d (at first
    b = d), then d = b, or d + momentum b if nesterov. maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        defaults = dict(
            lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        if group["nesterov"] and (not group.uses("momentum") or group.uses("dampening")):
            raise ValueError("SGD: nesterov needs a momentum, and no dampening")

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}  # only its being 0 counts: the buffer has not been started

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group.uses("momentum") else {}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        step = scalars["step"]
        if not group.uses("momentum"):
            return {}
        computed: dict[str, Tensor] = {}
        if group.uses("dampening"):
            computed["keep"] = fn.where(step == 0.0, 1.0, 1.0 - group.wide("dampening"))
        advance(step, step + 1.0, moving)
        return computed

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        if group.uses("momentum"):
            kept = g * n["keep"] if group.uses("dampening") else g
            b = store(state["momentum_buffer"], n.read(state["momentum_buffer"]) * n["momentum"] + kept)
            g = g + b * n["momentum"] if group["nesterov"] else b
        return x - g * n["lr"]

    def _save_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """PyTorch has no step count here, and no buffer before the first step."""
        if "momentum_buffer" not in state:
            return {}
        started = float(state["step"]) > 0
        return {"momentum_buffer": state["momentum_buffer"].detach() if started else None}

    def _load_state(self, state: dict[str, Any], given: Mapping[str, Any], first: Mapping[str, float]) -> None:
        super()._load_state(state, given, first)
        with no_grad():
            state["step"].fill_(0.0 if given.get("momentum_buffer") is None else 1.0)
