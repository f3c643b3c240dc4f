"""Attributes of one module that are computed when they are read: its class becomes one of its own, with a property."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ...epoch import epoch
from ...tensor import Tensor
from ..module import Module


def add_property(
    module: Module, name: str, get: Callable[[Any], Tensor], put: Callable[[Any, Tensor], None] | None = None
) -> None:
    """`module.<name>` is `get(module)` from now on; assignments call `put`."""
    if not has_own_class(module):
        module.__class__ = _own_class(type(module), {})
    setattr(type(module), name, property(get, put))
    epoch.bump()


def drop_property(module: Module, name: str) -> None:
    """Takes back what `add_property` did."""
    cls = type(module)
    delattr(cls, name)
    if not any(isinstance(v, property) for v in vars(cls).values()):
        module.__class__ = cls.__mro__[1]
    epoch.bump()


def has_own_class(module: Module) -> bool:
    return vars(type(module)).get("__deepcopy__") is _deepcopy


def original_class(module: Module) -> type:
    """The class of `module` before it got one of its own."""
    return type(module).__mro__[1] if has_own_class(module) else type(module)


def _own_class(base: type, properties: dict[str, property]) -> type:
    names = {
        "__deepcopy__": _deepcopy,
        "__reduce_ex__": _refuse,
        "__module__": base.__module__,
        "__doc__": base.__doc__,
    }
    return type(f"Parametrized{base.__name__}", (base,), names | properties)


def _deepcopy(module: Any, memo: dict) -> Any:
    """A copy with a class of its own, too: what is computed there can be changed by itself."""
    cls = type(module)
    properties = {k: v for k, v in vars(cls).items() if isinstance(v, property)}
    new = object.__new__(_own_class(cls.__mro__[1], properties))
    memo[id(module)] = new
    new.__dict__.update(copy.deepcopy(module.__dict__, memo))
    return new


def _refuse(module: Any, protocol: Any) -> Any:
    raise RuntimeError(
        f"a {type(module).__name__} can't be pickled: its class was made for it alone; save its state_dict instead"
    )
