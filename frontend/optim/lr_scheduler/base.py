"""`LRScheduler`: each `step()` writes `group["lr"]` of its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...autograd import no_grad
from ...tensor import Tensor
from ..optimizer import Optimizer
from ..param_group import ParamGroup


class LRScheduler:
    """Subclasses give the rates of all groups after `last_epoch` steps, by one of

    - `get_lr()`: all of them at once, as in PyTorch;
    - `next_rate(rate, base, i)`: the rate of group i from its present one, so that schedulers can be chained;
    - `rate_at(t, base, i)`: from the initial one, `base`. `step(epoch)` jumps there.

    A new scheduler sets the rates for step 0. Rates that are tensors are written in place.
    """

    functions: tuple[str, ...] = ()  # attributes that are functions of the user's: no part of the state dict

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__} takes an optimizer, not a {type(optimizer).__name__}")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", rate_of(group))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param_groups[{i}] has no 'initial_lr', which a scheduler that resumes (last_epoch >= 0) needs; "
                    "load the optimizer's state dict first"
                )
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._last_lr: list[float] = []
        self._start()

    def _start(self) -> None:
        """The step that the constructor makes."""
        self._step_count, self._is_initial = 0, True
        self.step()
        self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates after `last_epoch` steps. `get_last_lr` has those that were set last."""
        rates = [rate_of(group) for group in self.optimizer.param_groups]
        return [self.next_rate(r, base, i) for i, (r, base) in enumerate(zip(rates, self.base_lrs, strict=True))]

    def next_rate(self, rate: float, base: float, i: int) -> float:
        return self.rate_at(self.last_epoch, base, i)

    def rate_at(self, t: float, base: float, i: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say how rates change: it has no get_lr, next_rate or rate_at")

    def step(self, epoch: int | None = None) -> None:
        """One step on for all groups, or to step `epoch`. Call it after the optimizer's step."""
        self._step_count += 1
        self._go_to(epoch)

    def _go_to(self, epoch: int | None) -> None:
        if epoch is None:
            self.last_epoch += 1
        else:
            self.last_epoch = epoch
        if epoch is None or type(self).rate_at is LRScheduler.rate_at:
            rates = self.get_lr()
        else:
            rates = [self.rate_at(epoch, base, i) for i, base in enumerate(self.base_lrs)]
        self._set(rates)

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)
        self._last_lr = [rate_of(group) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """The rates that were set last, one for each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer. Of functions: None, of other callable objects their attributes."""
        out = {k: v for k, v in self.__dict__.items() if k != "optimizer"}
        for name in self.functions:
            held = out[name]
            out[name] = [_saved(f) for f in held] if isinstance(held, list) else _saved(held)
        return out

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update({k: v for k, v in state_dict.items() if k not in self.functions})
        for name in self.functions:
            held, given = getattr(self, name), state_dict.get(name)
            pairs = zip(held, given or ()) if isinstance(held, list) else ((held, given),)
            for f, attributes in pairs:
                if attributes is not None:
                    f.__dict__.update(attributes)


def _saved(f: Any) -> dict[str, Any] | None:
    return None if f is None or not hasattr(f, "__dict__") or hasattr(f, "__code__") else dict(f.__dict__)


def rate_of(group: ParamGroup) -> float:
    return float(group["lr"])


def set_rate(group: ParamGroup, rate: float) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor):
        with no_grad():
            lr.fill_(float(rate))
    else:
        group["lr"] = rate


def per_group(what: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """`value`, or one from a list, for each parameter group. ValueError if the list has another length."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise ValueError(f"{what} needs {n} values, one for each parameter group, got {len(value)}")
    return list(value)


def functions_per_group(what: str, value: Any, optimizer: Optimizer) -> list[Callable[[int], float]]:
    out = per_group(what, value, optimizer)
    for f in out:
        if not callable(f):
            raise TypeError(f"{what} is a function, or a list of them, not a {type(f).__name__}")
    return out


def check_momentum(what: str, optimizer: Optimizer) -> None:
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(f"{what}: {type(optimizer).__name__} has no momentum to cycle; pass cycle_momentum=False")


def set_momentum(group: ParamGroup, value: float) -> None:
    """Writes momentum, or the first of the betas."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value
