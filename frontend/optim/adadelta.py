"""Adadelta."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Adadelta(Optimizer):
    """Zeiler 2012. v and a are running means (of factor rho) of g^2 and d^2: d = sqrt(a + eps) / sqrt(v + eps) * g,
    p -= lr d. weight_decay is added to g; maximize: g counts negative."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        defaults = dict(
            lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize, capturable=capturable, foreach=foreach,
            differentiable=differentiable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        if not isinstance(group["rho"], Tensor) and not 0.0 <= group["rho"] <= 1.0:
            raise ValueError(f"Adadelta: rho is in [0, 1], got {group['rho']}")

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"square_avg": 0.0, "acc_delta": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        return {"rest": 1.0 - group.wide("rho")}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        rho, rest, eps, a = n["rho"], n["rest"], n["eps"], n.read(state["acc_delta"])
        v = store(state["square_avg"], n.read(state["square_avg"]) * rho + g * g * rest)
        d = fn.sqrt(a + eps) / fn.sqrt(v + eps) * g
        store(state["acc_delta"], a * rho + d * d * rest)
        return x - d * n["lr"]
