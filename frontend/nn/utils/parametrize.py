"""Parametrizations: a tensor of a module that is computed from parameters whenever it is read.

`module.parametrizations.<name>` holds the functions and the `original` parameter (`original0`, `original1`, .. if the
last function's right_inverse gives several), so state dicts have PyTorch's names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ...autograd import no_grad
from ...state import state
from ...tensor import Tensor
from ..container import ModuleDict, ModuleList
from ..module import Module
from ..parameter import Parameter
from .computed import add_property, drop_property, original_class

_CACHED = 0  # how many `cached()` blocks are open
_VALUES: dict[tuple[int, str, int], Tensor] = {}


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Within it every parametrized tensor is computed once, however often it is read."""
    global _CACHED
    _CACHED += 1
    try:
        yield
    finally:
        _CACHED -= 1
        if not _CACHED:
            _VALUES.clear()


class ParametrizationList(ModuleList):
    """The functions of one tensor, in the order in which they are applied to `original`."""

    def __init__(self, modules: list[Module], original: Tensor, unsafe: bool = False):
        super().__init__(modules)
        self.unsafe = unsafe
        value: Any = original
        for module in reversed(modules):
            if hasattr(module, "right_inverse"):
                value = _right_inverse(module, value)
        self.is_tensor = isinstance(value, Tensor)
        if self.is_tensor:
            self._keep("original", value, original)
            return
        self.ntensors = len(value)
        for i, part in enumerate(value):
            self._keep(f"original{i}", part, original)

    def _keep(self, name: str, value: Tensor, like: Tensor) -> None:
        """Parameters stay parameters, and the same ones where nothing had to be inverted."""
        if value is like:
            pass
        elif isinstance(like, Parameter):
            value = Parameter(value.detach(), like.requires_grad)
        if isinstance(value, Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    def _originals(self) -> list[Tensor]:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        return [getattr(self, n) for n in names]

    def right_inverse(self, value: Tensor) -> None:
        """Sets the originals so that the parametrized tensor becomes `value`."""
        with no_grad():
            new: Any = value
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(
                        f"{type(module).__name__} has no right_inverse: the parametrized tensor can't be assigned"
                    )
                new = _right_inverse(module, new)
            for original, part in zip(self._originals(), (new,) if self.is_tensor else new, strict=True):
                if tuple(part.shape) != tuple(original.shape):
                    raise ValueError(
                        f"right_inverse gives shape {tuple(part.shape)}; the original has {tuple(original.shape)}"
                    )
                original.copy_(part)

    def forward(self) -> Tensor:
        first, *others = list(self)
        out = first(*self._originals())
        for module in others:
            out = module(out)
        return out


def _right_inverse(module: Module, value: Any) -> Any:
    with no_grad():
        return module.right_inverse(value)


def _read(name: str) -> Callable[[Any], Tensor]:
    def get(module: Any) -> Tensor:
        if not _CACHED:
            return module.parametrizations[name]()
        key = (id(module), name, id(state.tracer))  # what a trace has computed stays in it
        if key not in _VALUES:
            _VALUES[key] = module.parametrizations[name]()
        return _VALUES[key]

    return get


def _write(name: str) -> Callable[[Any, Tensor], None]:
    def put(module: Any, value: Tensor) -> None:
        module.parametrizations[name].right_inverse(value)

    return put


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """From now on `module.<tensor_name>` is `parametrization(original)`; further ones are applied on top. Returns
    `module`, which becomes of a class of its own.

    `parametrization.right_inverse`, if there is one, gives the original for the present value, and makes assignments
    possible. Unless `unsafe`, the result must have the shape and element type of the tensor (ValueError).
    """
    if is_parametrized(module, tensor_name):
        _add(module, tensor_name, parametrization, unsafe)
        return module
    registry = next((r for r in (module._parameters, module._buffers) if tensor_name in r), None)
    original = None if registry is None else registry[tensor_name]
    if registry is None or original is None:
        raise ValueError(f"{type(module).__name__} has no parameter or buffer '{tensor_name}' to parametrize")
    held = ParametrizationList([parametrization], original, unsafe)
    if not unsafe:
        with no_grad():
            _check(held(), original, parametrization)
    if not is_parametrized(module):
        module.parametrizations = ModuleDict()
    del registry[tensor_name]
    module.parametrizations[tensor_name] = held
    add_property(module, tensor_name, _read(tensor_name), _write(tensor_name))
    return module


def _add(module: Module, name: str, parametrization: Module, unsafe: bool) -> None:
    held = module.parametrizations[name]
    with no_grad():
        before = held()
        if not unsafe:
            _check(parametrization(before), before, parametrization)
        if hasattr(parametrization, "right_inverse"):
            inverse = _right_inverse(parametrization, before)
            if not isinstance(inverse, Tensor):
                raise ValueError("only the first parametrization of a tensor may have several originals")
            held.right_inverse(inverse)
    held.append(parametrization)
    held.unsafe = held.unsafe or unsafe


def _check(new: Any, old: Tensor, parametrization: Module) -> None:
    what = type(parametrization).__name__
    if not isinstance(new, Tensor) or tuple(new.shape) != tuple(old.shape) or new.dtype is not old.dtype:
        got = f"{new.dtype.name} {tuple(new.shape)}" if isinstance(new, Tensor) else type(new).__name__
        raise ValueError(
            f"{what} gives {got} for a {old.dtype.name} tensor of shape {tuple(old.shape)}; "
            "pass unsafe=True if that is meant"
        )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether `module` (or its tensor of that name) is parametrized."""
    held = module._modules.get("parametrizations")
    if not isinstance(held, ModuleDict):
        return False
    return len(held) > 0 if tensor_name is None else tensor_name in held


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Takes all parametrizations of a tensor away. It keeps its present value, or gets the original again
    (leave_parametrized=False; ValueError if there are several originals)."""
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"{type(module).__name__} has no parametrization on '{tensor_name}'")
    held = module.parametrizations[tensor_name]
    originals = held._originals()
    if leave_parametrized:
        with no_grad():
            value = held()
        if isinstance(originals[0], Parameter):
            value = Parameter(value.clone().detach(), originals[0].requires_grad)
    elif held.is_tensor:
        value = originals[0]
    else:
        raise ValueError(f"'{tensor_name}' has {len(originals)} originals: leave_parametrized=False is not possible")
    drop_property(module, tensor_name)
    del module.parametrizations[tensor_name]
    if isinstance(value, Parameter):
        module.register_parameter(tensor_name, value)
    else:
        module.register_buffer(tensor_name, value)
    if not is_parametrized(module):
        del module.parametrizations
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of `module` without what parametrizations made of it."""
    return original_class(module)
