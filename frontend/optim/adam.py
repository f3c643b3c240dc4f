"""Adam and AdamW."""

from __future__ import annotations

from ...ir.dtypes import DType, accumulator
from .. import functions as fn
from ..tensor import Tensor
from .optimizer import Optimizer, ParamGroup, Params, count_steps


class Adam(Optimizer):
    """Kingma & Ba 2015. m and v are running means of g and g^2, c1 = 1 - beta1^step, c2 = 1 - beta2^step:
    p -= lr / c1 * m / (sqrt(v / c2) + eps). weight_decay is added to g; amsgrad uses the largest v so far;
    maximize: g counts negative. foreach, fused and capturable have no effect."""

    counts_steps = True
    decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ):
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize)
        super().__init__(params, defaults)

    def _new_state(self, group: ParamGroup, p: Tensor) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def _update_group(self, group: ParamGroup, counts: Tensor, moving: list[tuple[int, Tensor, Tensor]]) -> None:
        count_steps(counts, moving)
        corrections: dict[DType, _Scalars] = {}
        for i, p, g in moving:
            dtype = accumulator(p.dtype)
            found = corrections.get(dtype)
            if found is None:
                found = corrections[dtype] = _Scalars(group, counts, dtype)
            self._update(group, found, i, p, g)

    def _update(self, group: ParamGroup, s: _Scalars, i: int, p: Tensor, g: Tensor) -> None:
        dtype, state = s.dtype, self.state[p]
        wide, g = fn.astype(p, dtype), fn.astype(g, dtype)
        if group["maximize"]:
            g = -g
        if group["weight_decay"] != 0:
            if self.decoupled:
                wide = wide * s.decay
            else:
                g = g + wide * s.weight_decay
        m = fn.astype(state["exp_avg"], dtype) * s.beta1 + g * s.rest1
        v = fn.astype(state["exp_avg_sq"], dtype) * s.beta2 + g * g * s.rest2
        _store(state["exp_avg"], m)
        _store(state["exp_avg_sq"], v)
        if group["amsgrad"]:
            v = fn.maximum(fn.astype(state["max_exp_avg_sq"], dtype), v)
            _store(state["max_exp_avg_sq"], v)
        denominator = fn.sqrt(v) / s.root2[i] + s.eps
        _store(p, wide - m / denominator * s.rate[i])


class AdamW(Adam):
    """Adam with the weight decay of Loshchilov & Hutter 2019: p *= 1 - lr * weight_decay, apart from the gradient."""

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class _Scalars:
    """A group's numbers, from float64 to one element type; per parameter: rate [n] = lr / c1, root2 [n] = sqrt(c2)."""

    def __init__(self, group: ParamGroup, counts: Tensor, dtype: DType):
        t = group.tensors
        beta1, beta2, lr, decay = t["beta1"], t["beta2"], t["lr"], t["weight_decay"]

        def narrow(x: Tensor) -> Tensor:
            return fn.astype(x, dtype)

        self.dtype = dtype
        self.beta1, self.rest1 = narrow(beta1), narrow(1.0 - beta1)
        self.beta2, self.rest2 = narrow(beta2), narrow(1.0 - beta2)
        self.eps, self.weight_decay, self.decay = narrow(t["eps"]), narrow(decay), narrow(1.0 - lr * decay)
        self.rate = narrow(lr / (1.0 - beta1**counts))
        self.root2 = narrow(fn.sqrt(1.0 - beta2**counts))


def _store(t: Tensor, value: Tensor) -> None:
    t.copy_(fn.astype(value, t.dtype))
