"""RMSprop."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class RMSprop(Optimizer):
    """Hinton's lecture 6e. v is the running mean (of factor alpha) of g^2: d = g / (sqrt(v) + eps), with v less the
    square of the running mean of g if centered (Graves 2013); b = momentum b + d; p -= lr b (lr d without momentum).
    weight_decay is added to g; maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        defaults = dict(
            lr=lr, momentum=momentum, alpha=alpha, eps=eps, centered=centered, weight_decay=weight_decay,
            capturable=capturable, foreach=foreach, maximize=maximize, differentiable=differentiable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        if not isinstance(group["alpha"], Tensor) and not group["alpha"] >= 0.0:
            raise ValueError(f"RMSprop: alpha must not be negative, got {group['alpha']}")

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        names = ["square_avg"]
        names += ["momentum_buffer"] if group.uses("momentum") else []
        names += ["grad_avg"] if group["centered"] else []
        return dict.fromkeys(names, 0.0)

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        return {"rest": 1.0 - group.wide("alpha")}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        v = store(state["square_avg"], n.read(state["square_avg"]) * n["alpha"] + g * g * n["rest"])
        if group["centered"]:
            mean = store(state["grad_avg"], n.read(state["grad_avg"]) * n["alpha"] + g * n["rest"])
            v = v - mean * mean
        d = g / (fn.sqrt(v) + n["eps"])
        if group.uses("momentum"):
            d = store(state["momentum_buffer"], n.read(state["momentum_buffer"]) * n["momentum"] + d)
        return x - d * n["lr"]
