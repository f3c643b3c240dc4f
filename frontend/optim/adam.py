"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Adam(Optimizer):
    """Kingma & Ba 2015. m and v are running means of g and g^2, c1 = 1 - beta1^step, c2 = 1 - beta2^step:
    p -= lr / c1 * m / (sqrt(v / c2) + eps). amsgrad uses the largest v so far; maximize: g counts negative.
    weight_decay is added to g, or if decoupled_weight_decay taken off p apart from it: p *= 1 - lr * weight_decay."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        defaults = dict(
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")
        return dict.fromkeys(names, 0.0)

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        beta1, beta2, step = group.wide("beta1"), group.wide("beta2"), scalars["step"]
        return {
            "rest1": 1.0 - beta1,
            "rest2": 1.0 - beta2,
            "rate": group.wide("lr") / (1.0 - beta1**step),
            "root2": fn.sqrt(1.0 - beta2**step),
        }

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        m, v = moments(n, state, g)
        if group["amsgrad"]:
            v = store(state["max_exp_avg_sq"], fn.maximum(n.read(state["max_exp_avg_sq"]), v))
        return x - m / (fn.sqrt(v) / n["root2"] + n["eps"]) * n["rate"]


class AdamW(Adam):
    """Adam with the weight decay of Loshchilov & Hutter 2019: p *= 1 - lr * weight_decay, apart from the gradient."""

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip


def moments(n: OneNumbers, state: dict[str, Any], g: Tensor) -> tuple[Tensor, Tensor]:
    """The running means of g and g^2 with `g` taken in; needs "rest1" = 1 - beta1 and "rest2" = 1 - beta2."""
    m = store(state["exp_avg"], n.read(state["exp_avg"]) * n["beta1"] + g * n["rest1"])
    v = store(state["exp_avg_sq"], n.read(state["exp_avg_sq"]) * n["beta2"] + g * g * n["rest2"])
    return m, v
