"""Adamax."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Adamax(Optimizer):
    """Kingma & Ba 2015, section 7.1. m is the running mean of g, u = max(beta2 u, |g| + eps):
    p -= lr / (1 - beta1^step) * m / u. weight_decay is added to g; maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
            differentiable=differentiable, capturable=capturable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        beta1 = group.wide("beta1")
        return {"rest1": 1.0 - beta1, "rate": group.wide("lr") / (1.0 - beta1 ** scalars["step"])}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        m = store(state["exp_avg"], n.read(state["exp_avg"]) * n["beta1"] + g * n["rest1"])
        u = store(state["exp_inf"], fn.maximum(n.read(state["exp_inf"]) * n["beta2"], fn.abs(g) + n["eps"]))
        return x - m / u * n["rate"]
