"""Schedules that multiply the rate by something from time to time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler, functions_per_group

RateFunctions = Callable[[int], float] | Sequence[Callable[[int], float]]


class LambdaLR(LRScheduler):
    """base * lr_lambda(t), with one function for all groups or a list of them."""

    functions = ("lr_lambdas",)

    def __init__(self, optimizer: Optimizer, lr_lambda: RateFunctions, last_epoch: int = -1):
        self.lr_lambdas = functions_per_group("LambdaLR: lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * self.lr_lambdas[i](t)  # type: ignore[arg-type]


class MultiplicativeLR(LRScheduler):
    """Times lr_lambda(t) at every step t > 0, with one function for all groups or a list of them."""

    functions = ("lr_lambdas",)

    def __init__(self, optimizer: Optimizer, lr_lambda: RateFunctions, last_epoch: int = -1):
        self.lr_lambdas = functions_per_group("MultiplicativeLR: lr_lambda", lr_lambda, optimizer)
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return rate if self._is_initial else rate * self.lr_lambdas[i](self.last_epoch)


class StepLR(LRScheduler):
    """Times gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return rate if self.last_epoch == 0 or self.last_epoch % self.step_size else rate * self.gamma

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * self.gamma ** (t // self.step_size)


class MultiStepLR(LRScheduler):
    """Times gamma at each of the steps `milestones`; twice at one that is there twice."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return rate * self.gamma ** self.milestones.count(self.last_epoch)

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * self.gamma ** bisect_right(self.milestones, t)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if isinstance(self.milestones, Mapping):  # PyTorch counts them
            self.milestones = sorted(t for t, n in self.milestones.items() for _ in range(n))


class ConstantLR(LRScheduler):
    """Times factor for the first total_iters steps."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 <= factor <= 1.0:
            raise ValueError(f"ConstantLR: factor is in [0, 1], got {factor}")
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        if self.last_epoch == 0:
            return rate * self.factor
        return rate / self.factor if self.last_epoch == self.total_iters else rate

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base if t >= self.total_iters else base * self.factor


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
        if not 0 < start_factor <= 1.0 or not 0 <= end_factor <= 1.0:
            raise ValueError(
                f"LinearLR: start_factor is in (0, 1] and end_factor in [0, 1], got {start_factor} and {end_factor}"
            )
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        t = self.last_epoch
        if t == 0:
            return rate * self.start_factor
        return rate if self._is_initial or t > self.total_iters else rate * self._factor(t) / self._factor(t - 1)

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * self._factor(min(t, self.total_iters))

    def _factor(self, t: float) -> float:
        return self.start_factor + (self.end_factor - self.start_factor) * t / self.total_iters


class ExponentialLR(LRScheduler):
    """Times gamma every step."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return rate if self._is_initial else rate * self.gamma

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * self.gamma**t


class PolynomialLR(LRScheduler):
    """base * (1 - t / total_iters)^power, until it is 0."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self.total_iters, self.power = total_iters, power
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        t, n = self.last_epoch, self.total_iters
        return rate if self._is_initial or t > n else rate * ((n - t) / (n - t + 1)) ** self.power

    def rate_at(self, t: float, base: float, i: int) -> float:
        return base * (1.0 - min(t, self.total_iters) / self.total_iters) ** self.power
