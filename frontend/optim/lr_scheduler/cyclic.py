"""Schedules that take the rate up and down, and momentum the other way (Smith 2017, Smith & Topin 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..optimizer import Optimizer
from .base import LRScheduler, check_momentum, per_group, set_momentum, set_rate
from .cosine import cosine

Levels = float | Sequence[float]


class OneCycleLR(LRScheduler):
    """Smith & Topin 2018: up from max_lr / div_factor to max_lr, down to the start / final_div_factor, in `total_steps`
    (or epochs * steps_per_epoch), of which pct_start go up. three_phase: down to the start first, in as many steps as up.
    cycle_momentum moves momentum (or beta1) the other way. ValueError past the end."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: Levels,
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: Levels = 0.85,
        max_momentum: Levels = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if not isinstance(total_steps, int) or total_steps <= 0:
            raise ValueError(f"OneCycleLR: the number of steps is a positive integer, got {total_steps}")
        if not 0 <= pct_start <= 1:
            raise ValueError(f"OneCycleLR: pct_start is in [0, 1], got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
        self.total_steps, self.cycle_momentum = total_steps, cycle_momentum
        self._anneal_func_type = anneal_strategy
        self._schedule_phases = _phases(float(pct_start * total_steps) - 1, total_steps - 1, three_phase)
        if cycle_momentum:
            check_momentum("OneCycleLR", optimizer)
        if last_epoch == -1:
            tops = per_group("OneCycleLR: max_lr", max_lr, optimizer)
            lows = per_group("OneCycleLR: base_momentum", base_momentum, optimizer)
            highs = per_group("OneCycleLR: max_momentum", max_momentum, optimizer)
            for group, top, low, high in zip(optimizer.param_groups, tops, lows, highs):
                first = top / div_factor
                group.update(initial_lr=first, max_lr=top, min_lr=first / final_div_factor)
                if cycle_momentum:
                    group.update(max_momentum=high, base_momentum=low)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} is past the end, {self.total_steps} steps")
        begin, phase = 0.0, self._schedule_phases[-1]
        for phase in self._schedule_phases:
            if t <= phase["end_step"]:
                break
            begin = phase["end_step"] if phase is not self._schedule_phases[-1] else begin
        share = (t - begin) / (phase["end_step"] - begin)
        groups = self.optimizer.param_groups
        if self.cycle_momentum:
            for group in groups:
                momenta = group[phase["start_momentum"]], group[phase["end_momentum"]]
                set_momentum(group, self._between(*momenta, share))
        return [self._between(group[phase["start_lr"]], group[phase["end_lr"]], share) for group in groups]

    def _between(self, start: float, end: float, share: float) -> float:
        return cosine(start, end, share) if self._anneal_func_type == "cos" else start + (end - start) * share


def _phases(up: float, end: float, three: bool) -> list[dict]:
    """When each part ends, and the options of a group that it begins and ends with."""
    stops = [(up, "initial_lr", "max_lr"), (end, "max_lr", "min_lr")]
    if three:
        stops = [(up, "initial_lr", "max_lr"), (2 * up, "max_lr", "initial_lr"), (end, "initial_lr", "min_lr")]
    opposite = {"initial_lr": "max_momentum", "min_lr": "max_momentum", "max_lr": "base_momentum"}
    return [
        dict(end_step=t, start_lr=a, end_lr=b, start_momentum=opposite[a], end_momentum=opposite[b])
        for t, a, b in stops
    ]


class CyclicLR(LRScheduler):
    """Smith 2017: from base_lr to max_lr in step_size_up steps and back in step_size_down, again and again.

    The height of the cycles is constant (mode "triangular"), halved after each ("triangular2"), or gamma^t
    ("exp_range"); or scale_fn(cycle number) or of the step, by scale_mode "cycle" or "iterations". cycle_momentum moves
    momentum (or beta1) the other way, between max_momentum and base_momentum.
    """

    functions = ("_scale_fn_custom",)

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: Levels,
        max_lr: Levels,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: Levels = 0.8,
        max_momentum: Levels = 0.9,
        last_epoch: int = -1,
    ):
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"CyclicLR: mode is 'triangular', 'triangular2' or 'exp_range', not {mode!r}")
        bases = per_group("CyclicLR: base_lr", base_lr, optimizer)
        self.max_lrs = per_group("CyclicLR: max_lr", max_lr, optimizer)
        self.total_size = float(step_size_up + (step_size_up if step_size_down is None else step_size_down))
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self._scale_fn_custom = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            check_momentum("CyclicLR", optimizer)
            self.base_momentums = per_group("CyclicLR: base_momentum", base_momentum, optimizer)
            self.max_momentums = per_group("CyclicLR: max_momentum", max_momentum, optimizer)
        if last_epoch == -1:
            for i, group in enumerate(optimizer.param_groups):
                set_rate(group, bases[i])
                if cycle_momentum:
                    group.update(max_momentum=self.max_momentums[i], base_momentum=self.base_momentums[i])
        super().__init__(optimizer, last_epoch)
        self.base_lrs = bases

    def scale_fn(self, x: float) -> float:
        """The height of the cycle, as a share of the first one's."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return {"triangular": 1.0, "triangular2": 0.5 ** (x - 1), "exp_range": self.gamma**x}[self.mode]

    def get_lr(self) -> list[float]:
        turns = self.last_epoch / self.total_size
        cycle = math.floor(1 + turns)
        x = 1.0 + turns - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        height *= self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, low, high in zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums):
                set_momentum(group, high - (high - low) * height)
        return [base + (top - base) * height for base, top in zip(self.base_lrs, self.max_lrs)]
