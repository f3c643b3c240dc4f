"""Schedules along half a cosine (Loshchilov & Hutter 2017, SGDR)."""

from __future__ import annotations

import math

from ..optimizer import Optimizer
from .base import LRScheduler


def cosine(start: float, end: float, share: float) -> float:
    """From start at share 0 to end at share 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


class CosineAnnealingLR(LRScheduler):
    """From base to eta_min in T_max steps along half a cosine, and back."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        t, n = self.last_epoch, self.T_max
        if self._is_initial:
            return rate
        if self._step_count == 1 and t > 0:
            return self.rate_at(t, base, i)
        if (t - 1 - n) % (2 * n) == 0:  # leaves eta_min, from where no factor leads
            return rate + (base - self.eta_min) * (1 - math.cos(math.pi / n)) / 2
        factor = (1 + math.cos(math.pi * t / n)) / (1 + math.cos(math.pi * (t - 1) / n))
        return self.eta_min + (rate - self.eta_min) * factor

    def rate_at(self, t: float, base: float, i: int) -> float:
        return cosine(base, self.eta_min, t / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """From base to eta_min in T_0 steps along half a cosine; then again from the start, each time T_mult times longer.

    step(epoch) takes fractions: `step(epoch + batch / batches)`. T_cur: steps since the last restart, T_i: its length.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(f"CosineAnnealingWarmRestarts: T_0 is a positive integer, got {T_0}")
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"CosineAnnealingWarmRestarts: T_mult is a positive integer, got {T_mult}")
        self.T_0, self.T_i, self.T_mult, self.eta_min = T_0, T_0, T_mult, eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return cosine(base, self.eta_min, self.T_cur / self.T_i)

    def step(self, epoch: float | None = None) -> None:  # type: ignore[override]
        """One step on, or to step `epoch`. ValueError if that is negative."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            self.last_epoch += 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            if epoch < 0:
                raise ValueError(f"CosineAnnealingWarmRestarts: epoch must not be negative, got {epoch}")
            self.T_cur, self.T_i = self._position(epoch)
            self.last_epoch = math.floor(epoch)
        self._set(self.get_lr())

    def _position(self, epoch: float) -> tuple[float, int]:
        """(steps since the restart, steps between restarts) at `epoch`."""
        if self.T_mult == 1:
            return epoch % self.T_0, self.T_0
        begin, length = 0, self.T_0
        while epoch >= begin + length:
            begin += length
            length *= self.T_mult
        return epoch - begin, length
