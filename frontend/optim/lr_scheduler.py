"""Learning rates as functions of the step: each `step()` of a scheduler writes `group["lr"]` of its optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .optimizer import Optimizer, ParamGroup


class LRScheduler:
    """Subclasses give the rate of group `index`, whose initial one is `base`, after `t` steps."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            if last_epoch == -1:
                group["initial_lr"] = group["lr"]
            elif "initial_lr" not in group:
                raise KeyError("a scheduler that resumes (last_epoch >= 0) needs 'initial_lr' in every parameter group")
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.step()

    def rate(self, t: int, base: float, index: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say how rates change")

    def step(self) -> None:
        """One step on, for all groups."""
        self.last_epoch += 1
        for i, (group, base) in enumerate(zip(self.optimizer.param_groups, self.base_lrs)):
            group["lr"] = self.rate(self.last_epoch, base, i)
            self._also(self.last_epoch, group)

    def _also(self, t: int, group: ParamGroup) -> None:
        """Other options that follow the schedule."""

    def get_last_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {
            k: v for k, v in self.__dict__.items() if k != "optimizer" and not callable(v) and not _has_callables(v)
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update(state_dict)


def _has_callables(v: Any) -> bool:
    return isinstance(v, (list, tuple)) and any(callable(x) for x in v)


class LambdaLR(LRScheduler):
    """base * lr_lambda(t), with one function for all groups or a list of them."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        n = len(optimizer.param_groups)
        self.lr_lambdas = [lr_lambda] * n if callable(lr_lambda) else list(lr_lambda)
        if len(self.lr_lambdas) != n:
            raise ValueError(
                f"LambdaLR: {n} functions are needed, one for each parameter group, got {len(self.lr_lambdas)}"
            )
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return base * self.lr_lambdas[index](t)


class StepLR(LRScheduler):
    """Times gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return base * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Times gamma at each of the steps `milestones`."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return base * self.gamma ** sum(m <= t for m in self.milestones)


class ExponentialLR(LRScheduler):
    """Times gamma every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return base * self.gamma**t


class LinearLR(LRScheduler):
    """From base * start_factor to base * end_factor in total_iters steps, then constant."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        share = min(t, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * share)


class CosineAnnealingLR(LRScheduler):
    """From base to eta_min in T_max steps along half a cosine, and back."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return _anneal_cos(base, self.eta_min, t / self.T_max)


class OneCycleLR(LRScheduler):
    """Smith & Topin 2018: up from max_lr / div_factor to max_lr, down to the start / final_div_factor, in `total_steps`
    (or epochs * steps_per_epoch). cycle_momentum moves momentum (or beta1) the other way. ValueError past the end."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if anneal_strategy not in _ANNEALINGS:
            raise ValueError(f"OneCycleLR: anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = float(pct_start * total_steps) - 1
        if three_phase:
            self.phases = [(up, 0, 1), (2 * up, 1, 0), (total_steps - 1, 0, 2)]
        else:
            self.phases = [(up, 0, 1), (total_steps - 1, 1, 2)]
        n = len(optimizer.param_groups)
        tops = [max_lr] * n if isinstance(max_lr, (int, float)) else list(max_lr)
        if len(tops) != n:
            raise ValueError(f"OneCycleLR: {n} values of max_lr are needed, got {len(tops)}")
        self.rates = [(top / div_factor, top, top / div_factor / final_div_factor) for top in tops]
        self.momenta = (max_momentum, base_momentum, max_momentum)
        if last_epoch == -1:
            for group, levels in zip(optimizer.param_groups, self.rates):
                group["lr"] = levels[0]
        super().__init__(optimizer, last_epoch)

    def rate(self, t: int, base: float, index: int) -> float:
        return self._between(t, self.rates[index])

    def _between(self, t: int, levels: Sequence[float]) -> float:
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} is past the end, {self.total_steps} steps")
        begin = 0.0
        for i, (end, a, b) in enumerate(self.phases):
            if t <= end or i == len(self.phases) - 1:
                return _ANNEALINGS[self.anneal_strategy](levels[a], levels[b], (t - begin) / (end - begin))
            begin = end
        raise AssertionError("no phase")

    def _also(self, t: int, group: ParamGroup) -> None:
        if not self.cycle_momentum:
            return
        value = self._between(t, self.momenta)
        if "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


def _anneal_cos(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)


def _anneal_linear(start: float, end: float, share: float) -> float:
    return start + (end - start) * share


_ANNEALINGS: dict[str, Callable[[float, float, float], float]] = {"cos": _anneal_cos, "linear": _anneal_linear}
