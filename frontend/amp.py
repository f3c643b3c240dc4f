"""Training in mixed precision, under PyTorch's names: `autocast`, and `GradScaler` for float16."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..ir.dtypes import float16
from . import functions as fn
from .autocast import autocast, get_autocast_dtype, is_autocast_enabled
from .autograd import no_grad
from .optim.optimizer import Optimizer
from .state import state
from .tensor import Tensor, new_tensor

__all__ = ["GradScaler", "autocast", "get_autocast_dtype", "is_autocast_enabled"]


class _Checked:
    """What is known of an optimizer's gradients since the last update()."""

    __slots__ = ("infinite", "stepped", "tracer")

    def __init__(self, infinite: Tensor):
        self.infinite, self.stepped, self.tracer = infinite, False, state.tracer


class GradScaler:
    """Scales the loss, so that small float16 gradients do not vanish, and finds the scale by itself:

        scaler.scale(loss).backward()
        scaler.step(optimizer)      # undoes the scale; skips the step if a gradient is not finite
        scaler.update()             # then smaller; larger after growth_interval steps without

    In a compiled function nothing depends on the values: a skipped step is one whose results are not taken. unscale_,
    step and update belong into the same function there.
    """

    def __init__(
        self,
        device: str = "cpu",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        if enabled and not growth_factor > 1.0:
            raise ValueError(f"GradScaler: growth_factor is above 1, got {growth_factor}")
        if enabled and not backoff_factor < 1.0:
            raise ValueError(f"GradScaler: backoff_factor is below 1, got {backoff_factor}")
        self._device, self._enabled = device, bool(enabled)
        self._growth_factor, self._backoff_factor, self._growth_interval = (
            growth_factor,
            backoff_factor,
            growth_interval,
        )
        self._scale = new_tensor(np.full((), init_scale, np.float32))
        self._growth_tracker = new_tensor(np.zeros((), np.int32))
        self._checked: dict[int, _Checked] = {}

    # ------------------------------------------------------------ one iteration

    def scale(self, outputs: Any) -> Any:
        """Times the scale: a tensor, or a list or tuple of them."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._scale
        if isinstance(outputs, Iterable):
            made = [self.scale(x) for x in outputs]
            return tuple(made) if isinstance(outputs, tuple) else made
        raise TypeError(f"scale() takes tensors, or lists and tuples of them, not a {type(outputs).__name__}")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divides the gradients by the scale, for clipping between backward and step. Once per update: else
        RuntimeError. ValueError for float16 gradients: parameters to train are float32."""
        if not self._enabled:
            return
        found = self._of(optimizer)
        if found is not None:
            done = "step()" if found.stepped else "unscale_() for this optimizer"
            raise RuntimeError(f"unscale_(): {done} has been called since the last update()")
        with no_grad():
            inverse, infinite = 1.0 / self._scale, new_tensor(np.zeros((), np.bool_))
            for group in optimizer.param_groups:
                for g in (g for p in group["params"] if (g := p.grad) is not None):
                    if g.dtype is float16:
                        raise ValueError(
                            "unscale_(): a gradient is float16; keep the parameters in float32, and run the model "
                            "inside autocast"
                        )
                    infinite = fn.logical_or(infinite, fn.any(fn.logical_not(fn.isfinite(g))))
                    g.mul_(fn.astype(inverse, g.dtype))
        self._checked[id(optimizer)] = _Checked(infinite)
        self._mark()

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """optimizer.step(*args, **kwargs), or nothing if a gradient is not finite. Without a closure."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or kwargs:
            raise RuntimeError("GradScaler.step takes no closure: its gradients would not be unscaled")
        found = self._of(optimizer)
        if found is None:
            self.unscale_(optimizer)
            found = self._checked[id(optimizer)]
        if found.stepped:
            raise RuntimeError("step() has been called for this optimizer since the last update()")
        found.stepped = True
        if state.tracer is not None:
            return _step_unless(found.infinite, optimizer)
        return None if bool(found.infinite) else optimizer.step()

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The scale for the next iteration. RuntimeError if no gradients have been looked at since the last call."""
        if not self._enabled:
            return
        with no_grad():
            if new_scale is not None:
                self._scale.copy_(fn.astype(fn.reshape(fn.as_tensor(new_scale), ()), self._scale.dtype))
            else:
                self._adapt([c.infinite for c in self._checked.values() if c.tracer is state.tracer])
        self._checked.clear()
        self._mark()

    def _adapt(self, checks: list[Tensor]) -> None:
        if not checks:
            raise RuntimeError("update(): call step() or unscale_() first, so that gradients have been looked at")
        infinite = checks[0]
        for c in checks[1:]:
            infinite = fn.logical_or(infinite, c)
        good = self._growth_tracker + 1
        grows = fn.logical_and(good == self._growth_interval, fn.logical_not(infinite))
        grown, reduced = self._scale * self._growth_factor, self._scale * self._backoff_factor
        grown = fn.where(fn.logical_and(grows, fn.isfinite(grown)), grown, self._scale)
        self._growth_tracker.copy_(fn.where(fn.logical_or(grows, infinite), fn.zeros_like(good), good))
        self._scale.copy_(fn.where(infinite, reduced, grown))

    def _of(self, optimizer: Optimizer) -> _Checked | None:
        """What is known of this optimizer. What an interrupted trace has left behind counts for nothing."""
        found = self._checked.get(id(optimizer))
        if found is not None and found.tracer is not state.tracer:
            del self._checked[id(optimizer)]
            return None
        return found

    def _mark(self) -> None:
        """Tells a trace whether something is left open that its calls could not bring about again."""
        if state.tracer is not None:
            state.unfinished = len(self._checked)

    # ------------------------------------------------------------ settings

    def get_scale(self) -> float:
        """The scale; 1 if disabled."""
        return float(self._scale) if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors and counter as Python numbers; {} if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": int(self._growth_tracker),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """RuntimeError for an empty state dict, as a disabled scaler has it."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("the state dict is empty: the scaler that it comes from was disabled")
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        with no_grad():
            self._scale.fill_(state_dict["scale"])
            self._growth_tracker.fill_(state_dict["_growth_tracker"])


def _step_unless(condition: Tensor, optimizer: Optimizer) -> Any:
    """optimizer.step() whose effects on parameters and state are not taken where `condition` holds."""
    tensors = optimizer.tensors()
    with no_grad():
        before = [t.clone() for t in tensors]
        out = optimizer.step()
        for t, old in zip(tensors, before):
            t.copy_(fn.where(condition, old, t))
    return out
