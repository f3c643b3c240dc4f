"""`ParamGroup`: the options of some parameters, with its numbers as tensors; `Numbers`: what a step reads of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...ir.dtypes import DType, bool_, float64
from .. import functions as fn
from ..autograd import no_grad
from ..epoch import epoch
from ..state import state
from ..tensor import Tensor, new_tensor

# Options that step() reads as tensors, and pairs of such. Of those in SWITCHES it also asks whether they are zero.
NUMBERS = frozenset("lr eps weight_decay momentum dampening rho alpha lr_decay lambd t0 momentum_decay".split())
PAIRS = {"betas": ("beta1", "beta2"), "etas": ("eta_minus", "eta_plus"), "step_sizes": ("least_step", "largest_step")}
SWITCHES = frozenset(("weight_decay", "momentum", "dampening"))
_PLAIN = (bool, int, float, str, type(None))
_MISSING = object()


class ParamGroup(dict):
    """The options of some parameters, a dict as in PyTorch: `opt.param_groups[0]["lr"] = 0.1`.

    Numbers are also held as 0-d float64 tensors (`tensors`: lr, eps, weight_decay, beta1, beta2, ...), written in place
    by an assignment; an option that is a tensor itself is held as it is, so that writing into it counts too. step()
    computes with those: a compiled step follows a changing learning rate.
    """

    __slots__ = ("tensors",)

    def __init__(self, values: Mapping[str, Any]):
        super().__init__()
        self.tensors: dict[str, Tensor] = {}
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        before, old = self._structure_of(key), self.get(key)
        if key in NUMBERS and _is_number(value):
            value = self._hold(key, value, old)
        elif key in PAIRS:
            olds = old or (None, None)
            value = tuple([self._hold(n, v, o) for n, v, o in zip(PAIRS[key], value, olds, strict=True)])
        super().__setitem__(key, value)
        if self._structure_of(key) != before:
            epoch.bump()

    def _hold(self, name: str, value: Any, old: Any) -> Any:
        """Writes the tensor of a number. A number comes back as a float, a tensor as it is."""
        if isinstance(value, Tensor):
            self.tensors[name] = value
            return value
        held = self.tensors.get(name)
        if held is None or held is old:  # that one is the user's
            held = self.tensors[name] = new_tensor(np.zeros((), np.float64))
        with no_grad():
            held.fill_(float(value))
        return float(value)

    def wide(self, name: str) -> Tensor:
        """The 0-d float64 tensor of a number."""
        t = self.tensors[name]
        return fn.astype(t if t.ndim == 0 else fn.reshape(t, ()), float64, copy=False)

    def uses(self, key: str) -> bool:
        """Whether a number is there and not 0; one that is a tensor may become so."""
        value = self.get(key, 0.0)
        return isinstance(value, Tensor) or value != 0

    def structure(self) -> tuple:
        """What a trace of step() takes for granted: everything but the values of numbers."""
        return tuple([self._structure_of(key) for key in self])

    def _structure_of(self, key: str) -> tuple:
        value = self.get(key, _MISSING)
        if key in NUMBERS and type(value) is float:
            return key, key in SWITCHES and value == 0.0
        if key in PAIRS and isinstance(value, tuple):
            return key, *[id(v) if isinstance(v, Tensor) else 0 for v in value]
        return key, _identity(value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        epoch.bump()

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __reduce__(self) -> tuple:
        return ParamGroup, (dict(self),)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, Tensor)) and not isinstance(value, bool)


def _identity(value: Any) -> Any:
    """What tells one option from another: the value of immutable ones, the identity of others."""
    if isinstance(value, _PLAIN):
        return type(value), value
    if isinstance(value, (list, tuple)):
        return type(value), tuple([_identity(v) for v in value])
    return id(value)


class Numbers:
    """The numbers of one step of a group: its options, and what the step has computed from them for all parameters.

    computed: float64 or bool tensors, 0-d or one element for each parameter.
    """

    def __init__(self, group: ParamGroup, computed: dict[str, Tensor]):
        self._group, self._computed = group, computed
        self._narrow: dict[tuple[str, DType], Tensor] = {}

    def of(self, i: int, dtype: DType) -> OneNumbers:
        """The numbers of parameter i, in its element type."""
        return OneNumbers(self, i, dtype)

    def narrow(self, name: str, dtype: DType) -> Tensor:
        found = self._narrow.get((name, dtype))
        if found is None:
            wide = self._computed.get(name)
            wide = self._group.wide(name) if wide is None else wide
            found = wide if wide.dtype is bool_ else fn.astype(wide, dtype, copy=False)
            self._narrow[name, dtype] = found
        return found


class OneNumbers:
    """The numbers of one parameter by name, as 0-d tensors of `dtype`: `n["lr"]`."""

    __slots__ = ("_all", "_i", "dtype")

    def __init__(self, numbers: Numbers, i: int, dtype: DType):
        self._all, self._i, self.dtype = numbers, i, dtype

    def __getitem__(self, name: str) -> Tensor:
        t = self._all.narrow(name, self.dtype)
        return t if t.ndim == 0 else t[self._i]

    def read(self, t: Tensor) -> Tensor:
        """`t` in the type that the step computes in; a copy if the step is recorded, because `t` is written later."""
        return fn.astype(t, self.dtype, copy=state.grad_enabled)
