"""`Optimizer`: parameter groups, state that exists from the start, and PyTorch's state dict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...ir.dtypes import DType, float32, float64
from .. import functions as fn
from ..autograd import enable_grad, no_grad
from ..convert import native
from ..epoch import epoch
from ..state import traced
from ..tensor import Tensor, new_tensor

# Hyperparameters that step() reads as tensors. Of those in SWITCHES it also asks whether they are zero.
NUMBERS = ("lr", "eps", "weight_decay", "momentum", "dampening")
SWITCHES = ("weight_decay", "momentum", "dampening")
_MISSING = object()

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class ParamGroup(dict):
    """The options of some parameters, a dict as in PyTorch: `opt.param_groups[0]["lr"] = 0.1`.

    Numbers are also held as 0-d float64 tensors (`tensors`: lr, eps, weight_decay, momentum, dampening, beta1, beta2),
    written in place by an assignment. step() computes with those, so a compiled step follows a changing learning rate.
    """

    __slots__ = ("tensors",)

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.tensors: dict[str, Tensor] = {}
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        old = self.get(key, _MISSING)
        if key in NUMBERS:
            value = self._hold(key, value)
            switched = key in SWITCHES and (old is _MISSING or _is_zero(old) != _is_zero(value))
        elif key == "betas":
            value = tuple(self._hold(f"beta{i}", b) for i, b in enumerate(value, 1))
            switched = False
        else:
            switched = old is not value and not (
                type(old) is type(value) and isinstance(value, _PLAIN) and old == value
            )
        super().__setitem__(key, value)
        if switched or old is _MISSING:
            epoch.bump()

    def _hold(self, key: str, value: Any) -> Any:
        """Writes the tensor of a number; a number comes back as a float, a tensor as it is."""
        if not isinstance(value, Tensor):
            value = float(value)
        held = self.tensors.get(key)
        if held is None:
            held = self.tensors[key] = new_tensor(np.zeros((), np.float64))
        with no_grad():
            if isinstance(value, Tensor):
                held.copy_(fn.astype(value, float64))
            else:
                held.fill_(value)
        return value

    def number(self, key: str, dtype: DType) -> Tensor:
        """The 0-d tensor of a hyperparameter in an element type."""
        return fn.astype(self.tensors[key], dtype)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> tuple:
        return ParamGroup, (dict(self),)


_PLAIN = (bool, int, float, str, type(None))


def _is_zero(value: Any) -> bool:
    return isinstance(value, float) and value == 0.0


class Optimizer:
    """Subclasses say what state a parameter has (`_new_state`) and how it moves (`_update_group`).

    `state[p]` holds the tensors of parameter p. The step counts of a group are one float64 vector, of which
    `state[p]["step"]` is a view, so that a step does its bias corrections for all parameters at once.
    """

    counts_steps = False

    def __init__(self, params: Params, defaults: dict[str, Any]):
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of tensors or dicts, not one tensor")
        listed: list[Any] = list(params)
        if not listed:
            raise ValueError("the optimizer got an empty parameter list")
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.param_groups: list[ParamGroup] = []
        self.step_counts: list[Tensor] = []
        for group in listed if isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; options left out take the defaults.

        TypeError for what is no tensor, ValueError for one that is no leaf or belongs to a group already.
        """
        given = param_group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"an optimizer takes tensors, not a {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a tensor that was computed from others (not a leaf)")
        known = {id(p) for g in self.param_groups for p in g["params"]}
        if len({id(p) for p in params}) != len(params) or any(id(p) in known for p in params):
            raise ValueError("some parameters appear more than once in the parameter groups")
        group = ParamGroup({**self.defaults, **param_group, "params": params})
        self._check(group)
        self.param_groups.append(group)
        self.step_counts.append(new_tensor(np.zeros(len(params), np.float64)))
        self._allocate(len(self.param_groups) - 1)
        epoch.bump()

    def _check(self, group: ParamGroup) -> None:
        """ValueError for options out of range."""
        for key in ("lr", "eps", "weight_decay", "momentum"):
            value = group.get(key, 0.0)
            if not isinstance(value, Tensor) and not value >= 0.0:
                raise ValueError(f"{type(self).__name__}: {key} must not be negative, got {value}")
        for beta in group.get("betas", ()):
            if not isinstance(beta, Tensor) and not 0.0 <= beta < 1.0:
                raise ValueError(f"{type(self).__name__}: betas are in [0, 1), got {group['betas']}")

    def _new_state(self, group: ParamGroup, p: Tensor) -> tuple[str, ...]:
        """The names of the tensors like `p`, starting as zeros, that the group's options ask for."""
        return ()

    def _allocate(self, index: int) -> None:
        """Makes what state the group is still lacking."""
        group, counts = self.param_groups[index], self.step_counts[index]
        for i, p in enumerate(group["params"]):
            state = self.state.setdefault(p, {})
            if self.counts_steps and "step" not in state:
                state["step"] = counts[i]
            for name in self._new_state(group, p):
                if name not in state:
                    state[name] = new_tensor(np.zeros(p.shape, p.dtype.np))
                    epoch.bump()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient. `closure`, if given, is called first; its loss is returned."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = traced(closure)()
        with no_grad():
            for index, group in enumerate(self.param_groups):
                moving = [(i, p, g) for i, p in enumerate(group["params"]) if (g := p.grad) is not None]
                if moving:
                    self._allocate(index)
                    self._update_group(group, self.step_counts[index], moving)
        return loss

    def _update_group(self, group: ParamGroup, counts: Tensor, moving: list[tuple[int, Tensor, Tensor]]) -> None:
        """Moves the parameters of one group, given as (position in the group, parameter, gradient)."""
        raise TypeError(f"{type(self).__name__} does not say how to move parameters")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients, or fills them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    with no_grad():
                        p.grad.zero_()

    # ------------------------------------------------------------ state dict

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: its tensors}, "param_groups": [options, "params": numbers]}."""
        states: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        number = 0
        for group in self.param_groups:
            numbers = list(range(number, number + len(group["params"])))
            number += len(numbers)
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": numbers})
            for n, p in zip(numbers, group["params"]):
                state = self._save_state(self.state[p])
                if state:
                    states[n] = state
        return {"state": states, "param_groups": groups}

    def _save_state(self, state: dict[str, Tensor]) -> dict[str, Any]:
        return {k: fn.astype(t.detach(), float32) if k == "step" else t.detach() for k, t in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies options and state from `state_dict` (tensors or arrays). ValueError if its groups are other ones."""
        groups = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"the state dict has parameter groups of sizes {sizes}, the optimizer {own}")
        for index, (group, given) in enumerate(zip(self.param_groups, groups)):
            group.update({k: v for k, v in given.items() if k != "params"})
            self._allocate(index)
            for n, p in zip(given["params"], group["params"]):
                with no_grad():
                    self._load_state(self.state[p], state_dict["state"].get(n, {}))
        epoch.bump()

    def _load_state(self, state: dict[str, Tensor], given: Mapping[str, Any]) -> None:
        for name, own in state.items():
            value = given.get(name)
            if value is None:
                own.zero_()
                continue
            t = value if isinstance(value, Tensor) else new_tensor(native(np.asarray(value)))
            if tuple(t.shape) != tuple(own.shape):
                raise ValueError(
                    f"{name} has shape {tuple(t.shape)} in the state dict, {tuple(own.shape)} in the optimizer"
                )
            own.copy_(fn.astype(t, own.dtype))

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {i}", *(f"    {k}: {group[k]}" for k in sorted(group) if k != "params")]
        return "\n".join(lines) + "\n)"


def count_steps(counts: Tensor, moving: list[tuple[int, Tensor, Tensor]]) -> None:
    """One more step for the parameters that move."""
    if len(moving) == counts.shape[0]:
        counts.add_(1.0)
        return
    mask = np.zeros(counts.shape[0], np.float64)
    mask[[i for i, _, _ in moving]] = 1.0
    counts.add_(new_tensor(mask))
