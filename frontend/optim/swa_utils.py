"""Averages of weights over training: SWA (Izmailov et al. 2018) and exponential moving averages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .. import functions as fn
from ..autograd import no_grad
from ..nn.module import Module
from ..nn.norm import _BatchNorm
from ..state import traced
from ..tensor import Tensor, new_tensor
from .lr_scheduler.base import LRScheduler, per_group, rate_of
from .lr_scheduler.cosine import cosine
from .optimizer import Optimizer

AverageFn = Callable[[Tensor, Tensor, Tensor], Tensor]
MultiAverageFn = Callable[[list[Tensor], list[Tensor], Tensor], Any]


def get_ema_avg_fn(decay: float = 0.999) -> AverageFn:
    """(average, current, n) -> decay * average + (1 - decay) * current. ValueError if decay is not in [0, 1]."""
    _check_decay(decay)

    def ema_update(average: Tensor, current: Tensor, n: Any) -> Tensor:
        return decay * average + (1 - decay) * current

    return ema_update


def get_swa_avg_fn() -> AverageFn:
    """(average, current, n) -> the mean of n + 1 values, of which `average` has n."""

    def swa_update(average: Tensor, current: Tensor, n: Any) -> Tensor:
        return average + (current - average) / (n + 1)

    return swa_update


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverageFn:
    """`get_ema_avg_fn` for lists, which writes the averages."""
    return _for_lists(get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverageFn:
    """`get_swa_avg_fn` for lists, which writes the averages."""
    return _for_lists(get_swa_avg_fn())


def _for_lists(function: AverageFn) -> MultiAverageFn:
    def update(averages: list[Tensor], current: list[Tensor], n: Any) -> None:
        for average, now in zip(averages, current):
            average.copy_(function(average, now, n))

    return update


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay is in [0, 1], got {decay}")


class AveragedModel(Module):
    """A copy of `model` (`.module`) whose parameters become averages of those that `update_parameters(model)` is given:
    the first ones, then avg_fn(average, current, n), by default the mean of all. n is `n_averaged`, how many there were.

    multi_avg_fn: instead, writes lists of averages. use_buffers: buffers are averaged too, not taken over. device has no
    effect. EMA:
    `AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))`. Neither function is part of the state dict.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: AverageFn | None = None,
        multi_avg_fn: MultiAverageFn | None = None,
        use_buffers: bool = False,
    ):
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("AveragedModel: give avg_fn or multi_avg_fn, not both")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", new_tensor(np.zeros((), np.int64)))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Takes the parameters of `model` into the averages."""
        mine, theirs = self.module, model
        buffers = list(zip(mine.buffers(), theirs.buffers(), strict=True))
        pairs = list(zip(mine.parameters(), theirs.parameters(), strict=True))
        if self.use_buffers:
            pairs, buffers = pairs + buffers, []
        with no_grad():
            first, n = self.n_averaged == 0, self.n_averaged
            averages, current = [a.detach() for a, _ in pairs], [c.detach() for _, c in pairs]
            if self.multi_avg_fn is not None:
                traced(self.multi_avg_fn)(averages, current, n)
            else:
                function = get_swa_avg_fn() if self.avg_fn is None else traced(self.avg_fn)
                for a, c in zip(averages, current):
                    a.copy_(fn.astype(function(a, c, n), a.dtype, copy=False))
            for a, c in zip(averages, current):
                a.copy_(fn.where(first, c, a))
            for b, c in buffers:
                b.copy_(c)
            self.n_averaged.add_(1)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Computes the running statistics of all batch norm layers anew: the averages over one pass through `loader`,
    whose batches are tensors, or lists and tuples that begin with one."""
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if not layers:
        return
    momenta, training = [m.momentum for m in layers], model.training
    for m in layers:
        m.reset_running_stats()
        m.momentum = None  # the average over all batches
    model.train()
    try:
        with no_grad():
            for batch in loader:
                model(batch[0] if isinstance(batch, (list, tuple)) else batch)
    finally:
        for m, momentum in zip(layers, momenta):
            m.momentum = momentum
        model.train(training)


class SWALR(LRScheduler):
    """From the rates at the start to swa_lr (one, or one for each group) in anneal_epochs steps, then constant;
    anneal_strategy "cos" or "linear". Other schedulers may move the rate in between."""

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"SWALR: anneal_strategy is 'cos' or 'linear', not {anneal_strategy!r}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"SWALR: anneal_epochs is an integer from 0 on, got {anneal_epochs}")
        for group, rate in zip(optimizer.param_groups, per_group("SWALR: swa_lr", swa_lr, optimizer)):
            group["swa_lr"] = rate
        self.anneal_epochs, self._anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        out = []
        for group in self.optimizer.param_groups:
            rate, target = rate_of(group), group["swa_lr"]
            start = target if before == 1 else (rate - before * target) / (1 - before)
            out.append(target * now + start * (1 - now))
        return out

    def _share(self, step: int) -> float:
        """How far from the start to swa_lr."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return cosine(0.0, 1.0, t) if self._anneal_strategy == "cos" else t
