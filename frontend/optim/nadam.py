"""NAdam."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .adam import moments
from .optimizer import Moving, Optimizer, Params, advance
from .param_group import OneNumbers, ParamGroup


class NAdam(Optimizer):
    """Dozat 2016: Adam with Nesterov momentum. mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2), P_t = mu_1 .. mu_t:
    p -= lr ((1 - mu_t) / (1 - P_t) g + mu_(t+1) / (1 - P_(t+1)) m) / (sqrt(v / (1 - beta2^t)) + eps).
    weight_decay is added to g, or if decoupled_weight_decay: p *= 1 - lr * weight_decay. maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, foreach=foreach, capturable=capturable,
            differentiable=differentiable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0, "mu_product": 1.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        lr, beta1, beta2, decay = (group.wide(name) for name in ("lr", "beta1", "beta2", "momentum_decay"))
        step, product = scalars["step"], scalars["mu_product"]
        mu, mu_next = (beta1 * (1.0 - 0.5 * 0.96 ** (t * decay)) for t in (step, step + 1.0))
        advance(product, product * mu, moving)
        return {
            "rest1": 1.0 - beta1,
            "rest2": 1.0 - beta2,
            "root2": fn.sqrt(1.0 - beta2**step),
            "rate_g": lr * (1.0 - mu) / (1.0 - product),
            "rate_m": lr * mu_next / (1.0 - product * mu_next),
        }

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        m, v = moments(n, state, g)
        return x - (g * n["rate_g"] + m * n["rate_m"]) / (fn.sqrt(v) / n["root2"] + n["eps"])
