"""Rprop."""

from __future__ import annotations

from typing import Any

from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup


class Rprop(Optimizer):
    """Riedmiller & Braun 1993. Every element has a step size, at first lr: times etas[1] where g keeps its sign, times
    etas[0] where it changes (and g counts as 0 there), cut to step_sizes. p -= sign(g) size. maximize: g counts negative.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        defaults = dict(
            lr=lr, etas=etas, step_sizes=step_sizes, foreach=foreach, maximize=maximize, differentiable=differentiable,
            capturable=capturable,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        smaller, larger = group["etas"]
        if not 0.0 < smaller < 1.0 < larger:
            raise ValueError(f"Rprop: etas are one below and one above 1, got {group['etas']}")

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        return {"step": 0.0}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"prev": 0.0, "step_size": float(group["lr"])}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        super()._advance(group, scalars, moving)
        return {"starts": scalars["step"] == 1.0}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        agrees = g * n.read(state["prev"])
        size = fn.where(n["starts"], n["lr"], n.read(state["step_size"]))  # of the rate when the steps begin
        size = size * fn.where(agrees > 0.0, n["eta_plus"], fn.where(agrees < 0.0, n["eta_minus"], 1.0))
        size = store(state["step_size"], fn.minimum(fn.maximum(size, n["least_step"]), n["largest_step"]))
        g = store(state["prev"], fn.where(agrees < 0.0, 0.0, g))
        return x - fn.sign(g) * size
