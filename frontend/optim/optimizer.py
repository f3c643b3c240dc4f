"""`Optimizer`: parameter groups, state that exists from the start, and PyTorch's state dict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...ir.dtypes import accumulator, float32
from .. import functions as fn
from ..autograd import enable_grad, no_grad, set_grad_enabled
from ..convert import native
from ..devices import gpu_of, moved
from ..epoch import epoch
from ..state import traced
from ..tensor import Tensor, new_tensor
from .hooks import StepHooks
from .param_group import Numbers, OneNumbers, ParamGroup

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Moving = list[tuple[int, Tensor, Tensor]]  # (position in the group, parameter, gradient)


class Optimizer(StepHooks):
    """Subclasses say what state a parameter has (`_new_state`, `_new_scalars`) and how it moves (`_moved`).

    `state[p]` holds the tensors of parameter p. Those with one number for each parameter, such as step counts, are one
    float64 vector for each group, of which `state[p]["step"]` is a view: a step computes what depends on them for all
    parameters at once (`_advance`).

    Options of PyTorch's: foreach, fused and capturable have no effect; eager steps run op by op, compiled ones are fused.
    With differentiable=True steps are recorded: gradients flow through them to gradients and earlier parameters, which
    may then be tensors that were computed from others.
    """

    decoupled = False  # weight decay is p *= 1 - lr * weight_decay, and no part of the gradient

    def __init__(self, params: Params, defaults: dict[str, Any]):
        super().__init__()
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of tensors or dicts, not one tensor")
        listed: list[Any] = list(params)
        if not listed:
            raise ValueError("the optimizer got an empty parameter list")
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[ParamGroup] = []
        self.scalars: list[dict[str, Tensor]] = []
        for group in listed if isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; options left out take the defaults. `params`: tensors, or
        (name, tensor) pairs, whose names become "param_names".

        TypeError for what is no tensor, ValueError for one that is no leaf or belongs to a group already.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"a parameter group is a dict, not a {type(param_group).__name__}")
        given = param_group["params"]
        if isinstance(given, (set, frozenset)):
            raise TypeError("the parameters of a group need an order: pass a list, not a set")
        listed = [given] if isinstance(given, Tensor) else list(given)
        options = {**self.defaults, **param_group}
        if listed and isinstance(listed[0], tuple):
            options["param_names"] = [name for name, _ in listed]
            listed = [p for _, p in listed]
        for p in listed:
            if not isinstance(p, Tensor):
                raise TypeError(f"an optimizer takes tensors, not a {type(p).__name__}")
            if not p.is_leaf and not self.defaults.get("differentiable", False):
                raise ValueError(
                    "can't optimize a tensor that was computed from others (not a leaf), unless differentiable"
                )
        known = {id(p) for g in self.param_groups for p in g["params"]}
        if len({id(p) for p in listed}) != len(listed) or any(id(p) in known for p in listed):
            raise ValueError("some parameters appear more than once in the parameter groups")
        if self.param_groups and ("param_names" in options) != ("param_names" in self.param_groups[0]):
            raise ValueError("either all parameter groups have named parameters, or none")
        group = ParamGroup({**options, "params": listed})
        self._check(group)
        self.param_groups.append(group)
        scalars = {k: np.full(len(listed), v, np.float64) for k, v in self._new_scalars(group).items()}
        self.scalars.append({k: new_tensor(v) for k, v in scalars.items()})
        self._allocate(len(self.param_groups) - 1)
        epoch.bump()

    def _check(self, group: ParamGroup) -> None:
        """ValueError for options out of range."""
        for key in ("lr", "eps", "weight_decay", "momentum", "lr_decay", "momentum_decay", "initial_accumulator_value"):
            value = group.get(key, 0.0)
            if isinstance(value, (int, float)) and not value >= 0.0:
                raise ValueError(f"{type(self).__name__}: {key} must not be negative, got {value}")
            if isinstance(value, Tensor) and value.size != 1:
                raise ValueError(f"{type(self).__name__}: {key} as a tensor has one element, not shape {value.shape}")
        for beta in group.get("betas", ()):
            if not isinstance(beta, Tensor) and not 0.0 <= beta < 1.0:
                raise ValueError(f"{type(self).__name__}: betas are in [0, 1), got {group['betas']}")

    def _follow(self) -> None:
        """State goes where its parameters have gone since it was made."""
        for group, scalars in zip(self.param_groups, self.scalars):
            for p in group["params"]:
                found = [t for k, t in self.state[p].items() if k not in scalars and isinstance(t, Tensor)]
                gpu = gpu_of(p)
                if all(gpu_of(t) is gpu for t in found):
                    break  # parameters move together
                for t in found:
                    t._data = moved(t._data, gpu)
                epoch.bump()

    # ------------------------------------------------------------ state

    def _new_scalars(self, group: ParamGroup) -> dict[str, float]:
        """Numbers that every parameter has one of, and what they start as."""
        return {}

    def _new_state(self, group: ParamGroup, p: Tensor) -> dict[str, float]:
        """The names of the tensors that the group's options ask for, and the number that fills them first."""
        return {}

    def _state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        return tuple(p.shape)

    def _allocate(self, index: int) -> None:
        """Makes what state the group is still lacking."""
        group, scalars = self.param_groups[index], self.scalars[index]
        for i, p in enumerate(group["params"]):
            state = self.state[p]
            for name, values in scalars.items():
                if name not in state:
                    state[name] = values[i]
            for name, value in self._new_state(group, p).items():
                if name not in state:
                    first = np.full(self._state_shape(name, p), value, p.dtype.np)
                    state[name] = new_tensor(moved(first, gpu_of(p)))
                    epoch.bump()

    def tensors(self) -> list[Tensor]:
        """All that step() may write: parameters and state, each memory once."""
        out: list[Tensor] = []
        for group, scalars in zip(self.param_groups, self.scalars):
            out += scalars.values()
            for p in group["params"]:
                out += [p, *(t for k, t in self.state[p].items() if k not in scalars and isinstance(t, Tensor))]
        return out

    # ------------------------------------------------------------ step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient. `closure`, if given, is called first; its loss is returned."""
        self._follow()
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {}
        for hook in list(self._step_pre_hooks.values()):
            changed = traced(hook)(self, args, kwargs)
            if changed is not None:
                args, kwargs = changed
        loss = self._step(*args[1:], **kwargs)
        for hook in list(self._step_post_hooks.values()):
            traced(hook)(self, args, kwargs)
        return loss

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with enable_grad():
                loss = traced(closure)()
        with set_grad_enabled(self.defaults.get("differentiable", False)):
            for index, group in enumerate(self.param_groups):
                moving = [(i, p, g) for i, p in enumerate(group["params"]) if (g := p.grad) is not None]
                if moving:
                    self._allocate(index)
                    self._update_group(group, self.scalars[index], moving)
        return loss

    def _update_group(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> None:
        """Moves the parameters of one group."""
        computed = self._advance(group, scalars, moving)
        decays = group.uses("weight_decay")
        if decays and self._is_decoupled(group):
            computed["decay"] = 1.0 - group.wide("lr") * group.wide("weight_decay")
        numbers = Numbers(group, computed)
        for i, p, g in moving:
            n = numbers.of(i, accumulator(p.dtype))
            x, g = n.read(p), n.read(g)
            if group.get("maximize", False):
                g = -g
            if decays:
                x, g = self._decayed(group, n, x, g)
            store(p, self._moved(group, n, self.state[p], x, g))

    def _advance(self, group: ParamGroup, scalars: dict[str, Tensor], moving: Moving) -> dict[str, Tensor]:
        """Takes the group's scalars one step on. Returns what `_moved` reads by name beside the group's options:
        float64 or bool tensors, 0-d or with one element for each parameter."""
        if "step" in scalars:
            advance(scalars["step"], scalars["step"] + 1.0, moving)
        return {}

    def _is_decoupled(self, group: ParamGroup) -> bool:
        return self.decoupled or group.get("decoupled_weight_decay", False)

    def _decayed(self, group: ParamGroup, n: OneNumbers, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Parameter and gradient with the weight decay in one of them."""
        return (x * n["decay"], g) if self._is_decoupled(group) else (x, g + x * n["weight_decay"])

    def _moved(self, group: ParamGroup, n: OneNumbers, state: dict[str, Any], x: Tensor, g: Tensor) -> Tensor:
        """The new values of a parameter that is `x` and has gradient `g`; writes its state. All in `n.dtype`."""
        raise TypeError(f"{type(self).__name__} does not say how to move parameters: it has no _moved and no step")

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
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self)
        states: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        number = 0
        for group in self.param_groups:
            numbers = list(range(number, number + len(group["params"])))
            number += len(numbers)
            groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": numbers})
            for n, p in zip(numbers, group["params"]):
                state = self._save_state(self.state.get(p, {}))
                if state:
                    states[n] = state
        out = {"state": states, "param_groups": groups}
        for hook in list(self._state_dict_post_hooks.values()):
            changed = hook(self, out)
            out = out if changed is None else changed
        return out

    def _save_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The tensors that a state dict has of one parameter; numbers are float32 there, as PyTorch's are."""
        scalars = self.scalars[0] if self.scalars else ()
        return {
            k: fn.astype(t.detach(), float32) if k in scalars else t.detach() if isinstance(t, Tensor) else t
            for k, t in state.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copies options and state from `state_dict` (tensors or arrays). ValueError if its groups are other ones."""
        for hook in list(self._load_pre_hooks.values()):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        groups = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"the state dict has parameter groups of sizes {sizes}, the optimizer {own}")
        for index, (group, given) in enumerate(zip(self.param_groups, groups)):
            group.update({k: _own(v) for k, v in given.items() if k != "params"})
            self._allocate(index)
            for n, p in zip(given["params"], group["params"]):
                first = {**self._new_scalars(group), **self._new_state(group, p)}
                with no_grad():
                    self._load_state(self.state[p], state_dict["state"].get(n, {}), first)
        epoch.bump()
        for hook in list(self._load_post_hooks.values()):
            hook(self)

    def _load_state(self, state: dict[str, Any], given: Mapping[str, Any], first: Mapping[str, float]) -> None:
        """Fills the state of one parameter; what `given` lacks becomes as it was first."""
        for name, own in state.items():
            value = given.get(name)
            if not isinstance(own, Tensor):
                state[name] = value
            elif value is None:
                own.fill_(first.get(name, 0.0))
            else:
                t = as_tensor(value)
                if tuple(t.shape) != tuple(own.shape):
                    raise ValueError(
                        f"{name} has shape {tuple(t.shape)} in the state dict, {tuple(own.shape)} in the optimizer"
                    )
                own.copy_(fn.astype(t, own.dtype))
        for name in given.keys() - state.keys():
            value = given[name]
            state[name] = _own(value)

    def __setstate__(self, members: dict[str, Any]) -> None:
        """After copying or unpickling, the numbers in `state` are views of the copied vectors again."""
        self.__dict__.update(members)
        for group, scalars in zip(self.param_groups, self.scalars):
            for i, p in enumerate(group["params"]):
                self.state[p].update({name: values[i] for name, values in scalars.items()})

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines += [f"Parameter Group {i}", *(f"    {k}: {group[k]}" for k in sorted(group) if k != "params")]
        return "\n".join(lines) + "\n)"


def advance(scalars: Tensor, new: Tensor, moving: Moving) -> None:
    """`scalars`, one number for each parameter of a group, become `new` for the parameters that move."""
    if len(moving) < scalars.shape[0]:
        mask = np.zeros(scalars.shape[0], np.bool_)
        mask[[i for i, _, _ in moving]] = True
        new = fn.where(new_tensor(mask), new, scalars)
    scalars.copy_(new)


def store(t: Tensor, value: Tensor) -> Tensor:
    """Writes `value` into `t` in its own element type. Returns `value`."""
    t.copy_(fn.astype(value, t.dtype, copy=False))
    return value


def as_tensor(value: Any) -> Tensor:
    """A tensor as it is, an array (of any library) as a tensor."""
    return value if isinstance(value, Tensor) else new_tensor(native(np.asarray(value)))


def _own(value: Any) -> Any:
    """A value of a state dict, which may be another optimizer's: its arrays are copied."""
    if isinstance(value, (Tensor, np.ndarray)) or hasattr(value, "detach"):
        return as_tensor(value).detach().clone()
    return list(value) if isinstance(value, list) else value
