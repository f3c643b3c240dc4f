"""Lion."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Lion(Optimizer):
    """Chen et al. 2023. p -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay p), then m = beta2 m + (1 - beta2) g.
    maximize: g counts negative. Rates are 3 to 10 times smaller than AdamW's, weight decays larger by as much."""

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ):
        defaults = dict(
            lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, foreach=foreach
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"exp_avg": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        return {"rest1": 1.0 - group.wide("beta1"), "rest2": 1.0 - group.wide("beta2")}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        m = n.read(state["exp_avg"])
        direction = fn.sign(m * n["beta1"] + g * n["rest1"])
        store(state["exp_avg"], m * n["beta2"] + g * n["rest2"])
        return x - direction * n["lr"]
