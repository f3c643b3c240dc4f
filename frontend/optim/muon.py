"""Muon."""

from __future__ import annotations

import math
from typing import Any

from ...ir.dtypes import bfloat16, float32
from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Moving, Optimizer, Params, store
from .param_group import OneNumbers, ParamGroup

_LR_RULES = (None, "original", "match_rms_adamw")


class Muon(Optimizer):
    """Jordan et al. 2024, for weight matrices: momentum steps made orthogonal. b is the running mean (of factor
    momentum) of g; d = b, or (1 - momentum) g + momentum b if nesterov; p = (1 - lr weight_decay) p - lr s N(d).

    N is `ns_steps` rounds of a Newton-Schulz iteration in bfloat16. s is by adjust_lr_fn "original" (or None):
    sqrt(max(1, rows / columns)), by "match_rms_adamw": 0.2 sqrt(max(rows, columns)). ValueError for parameters that are
    not 2-D.
    """

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        defaults = dict(
            lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov, ns_coefficients=ns_coefficients,
            eps=eps, ns_steps=ns_steps, adjust_lr_fn=adjust_lr_fn,
        )  # fmt: skip
        super().__init__(params, defaults)

    def _check(self, group: ParamGroup) -> None:
        super()._check(group)
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(f"Muon: parameters are matrices, one has shape {tuple(p.shape)}; give it to AdamW")
        if group["adjust_lr_fn"] not in _LR_RULES:
            raise ValueError(f"Muon: adjust_lr_fn is one of {_LR_RULES}, not {group['adjust_lr_fn']!r}")
        if len(group["ns_coefficients"]) != 3 or not 0 <= group["ns_steps"] < 100:
            raise ValueError("Muon: ns_coefficients are 3 numbers, and ns_steps is below 100")

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        return {"momentum_buffer": 0.0}

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        return {"rest": 1.0 - group.wide("momentum")}

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        buffer, rest = state["momentum_buffer"], n["rest"]
        b = n.read(buffer)
        b = store(buffer, b + (g - b) * rest)
        d = b - (b - g) * rest if group["nesterov"] else b
        d = n.read(orthogonal(d, group["ns_coefficients"], group["ns_steps"], group["eps"]))
        rows, columns = x.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1, rows / columns))
        return x - d * (n["lr"] * scale)


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Roughly U V^T for x = U S V^T: the quintic X <- a X + (b A + c A^2) X with A = X X^T, from X = x / |x| on. The
    coefficients are steep at 0 and do not converge: singular values end up between about 0.5 and 1.5. bfloat16."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = _half(x.T if tall else x)
    y = _half(y / fn.clip(_half(fn.sqrt(fn.sum(y * y))), eps))
    for _ in range(steps):
        gram = _half(fn.matmul(y, y.T))
        y = _half(a * y + fn.matmul(_half(b * gram + c * fn.matmul(gram, gram)), y))
    return y.T if tall else y


def _half(x: Tensor) -> Tensor:
    """`x` rounded to bfloat16; held as float32, so that products add up in it."""
    return fn.astype(fn.astype(x, bfloat16), float32)
