"""Several schedulers of one optimizer: all at once, or one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from ..optimizer import Optimizer
from .base import LRScheduler, rate_of, set_rate
from .plateau import ReduceLROnPlateau


class _Combined(LRScheduler):
    _schedulers: list[LRScheduler]

    def _take(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if not schedulers:
            raise ValueError(f"{name} needs at least one scheduler")
        self.optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        for i, s in enumerate(schedulers):
            if isinstance(s, ReduceLROnPlateau):
                raise ValueError(f"{name}: scheduler {i} is a ReduceLROnPlateau, whose step needs a metric")
            if s.optimizer is not self.optimizer:
                raise ValueError(f"{name}: all schedulers belong to one optimizer; scheduler {i} has another one")
        self._schedulers = list(schedulers)

    def state_dict(self) -> dict[str, Any]:
        """As of one scheduler; "_schedulers" holds those of its parts."""
        out = super().state_dict()
        out["_schedulers"] = [s.state_dict() for s in self._schedulers]
        return out

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for s, given in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            s.load_state_dict(given)


class ChainedScheduler(_Combined):
    """Steps all of `schedulers` at every step: what each one does to the rate multiplies up."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        self._take(schedulers, optimizer)
        self._last_lr = [rate_of(group) for group in self.optimizer.param_groups]

    def step(self) -> None:  # type: ignore[override]
        for s in self._schedulers:
            s.step()
        self._last_lr = [rate_of(group) for group in self.optimizer.param_groups]


class SequentialLR(_Combined):
    """The first of `schedulers` up to step milestones[0], then the next one from its step 0 on, and so on."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[LRScheduler],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ):
        self._take(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedulers need one milestone less, got {len(milestones)}"
            )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:  # as if none of the parts had been started
            set_rate(group, group["initial_lr"])
        _take_back(self._schedulers)
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first._start()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        now = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            now._go_to(0)
        else:
            now.step()
        self._last_lr = now.get_last_lr()


def _take_back(schedulers: Sequence[LRScheduler]) -> None:
    """Undoes the step that constructors have made."""
    for s in schedulers:
        if isinstance(s, _Combined):
            _take_back(s._schedulers)
        else:
            s.last_epoch -= 1
