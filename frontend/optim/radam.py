"""RAdam."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .adam import moments
from .optimizer import Moving, Optimizer, Params
from .param_group import OneNumbers, ParamGroup


class RAdam(Optimizer):
    """Liu et al. 2020: Adam whose second moment counts as soon as its variance is known to be finite.

    With r_inf = 2 / (1 - beta2) - 1 and r = r_inf - 2 step beta2^step / (1 - beta2^step): p -= lr m / (1 - beta1^step),
    and where r > 5 that times sqrt((r - 4)(r - 2) r_inf / ((r_inf - 4)(r_inf - 2) r) (1 - beta2^step)) / (sqrt(v) + eps).
    weight_decay is added to g, or if decoupled_weight_decay: p *= 1 - lr * weight_decay. maximize: g counts negative.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ):
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
            capturable=capturable, decoupled_weight_decay=decoupled_weight_decay, differentiable=differentiable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        beta1, beta2, step = group.wide("beta1"), group.wide("beta2"), scalars["step"]
        correction = 1.0 - beta2**step
        limit = 2.0 / (1.0 - beta2) - 1.0
        length = limit - 2.0 * step * beta2**step / correction
        known = length > 5.0
        ratio = (length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length)
        return {
            "rest1": 1.0 - beta1,
            "rest2": 1.0 - beta2,
            "rate": group.wide("lr") / (1.0 - beta1**step),
            "known": known,
            "rectify": fn.sqrt(fn.where(known, ratio * correction, 1.0)),
        }

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        m, v = moments(n, state, g)
        return x - m * n["rate"] * fn.where(n["known"], n["rectify"] / (fn.sqrt(v) + n["eps"]), 1.0)
