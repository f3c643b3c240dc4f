"""Averaged stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, advance, store
from .param_group import OneNumbers, ParamGroup


class ASGD(Optimizer):
    """Polyak & Juditsky 1992. p = (1 - lambd eta) p - eta g with eta = lr / (1 + lambd lr step)^alpha (at first lr);
    `state[p]["ax"]` is the mean of p over the steps after t0. weight_decay is added to g; maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        defaults = dict(
            lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
            differentiable=differentiable, capturable=capturable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0, "eta": float(group["lr"]), "mu": 1.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"ax": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        lr, lambd, alpha = group.wide("lr"), group.wide("lambd"), group.wide("alpha")
        step, eta, mu = scalars["step"], scalars["eta"], scalars["mu"]
        now = fn.where(step == 1.0, lr, eta)  # of the rate when the steps begin
        computed = {"rate": now, "shrink": 1.0 - lambd * now, "share": mu + 0.0}
        advance(eta, lr / (1.0 + lambd * lr * step) ** alpha, moving)
        advance(mu, 1.0 / fn.maximum(step - group.wide("t0"), 1.0), moving)
        return computed

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        x = x * n["shrink"] - g * n["rate"]
        mean, share = n.read(state["ax"]), n["share"]
        store(state["ax"], fn.where(share == 1.0, x, mean + (x - mean) * share))
        return x
