"""State dicts: what a module holds, by dotted name, and how it takes that back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import functions as fn
from ..autograd import no_grad
from ..convert import native
from ..epoch import epoch
from ..tensor import Tensor, new_tensor
from .hooks import hooks_of
from .parameter import Parameter

if TYPE_CHECKING:
    from .module import Module

EXTRA = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def own_state(module: Module) -> Iterator[tuple[str, Tensor]]:
    """The module's own parameters and persistent buffers."""
    for name, p in module._parameters.items():
        if p is not None:
            yield name, p
    for name, b in module._buffers.items():
        if b is not None and name not in module.__dict__["_non_persistent"]:
            yield name, b


def has_extra(module: Module) -> bool:
    return getattr(type(module), "get_extra_state", None) is not None


def collect(module: Module, out: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Puts the state of `module` and of all below it into `out`."""
    for hook in hooks_of(module, "_state_dict_pre_hooks"):
        hook.call(module, prefix, keep_vars)
    for name, value in own_state(module):
        out[prefix + name] = value if keep_vars else value.detach()
    if has_extra(module):
        out[prefix + EXTRA] = module.get_extra_state()
    for name, child in module._modules.items():
        if child is not None:
            collect(child, out, f"{prefix}{name}.", keep_vars)
    for hook in hooks_of(module, "_state_dict_hooks"):
        hook.call(module, out, prefix, {})


def load(module: Module, given: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Module.load_state_dict. Everything is checked before anything is changed."""
    if not isinstance(given, Mapping):
        raise TypeError(f"load_state_dict() needs a mapping of names to tensors, not a {type(given).__name__}")
    state = dict(given)
    modules = list(module.named_modules(remove_duplicate=False))
    missing: list[str] = []
    unexpected: list[str] = []
    problems: list[str] = []
    for path, m in modules:
        prefix = f"{path}." if path else ""
        m._adapt_state(state, prefix)
        for hook in hooks_of(m, "_load_state_dict_pre_hooks"):
            hook.call(m, state, prefix, {}, strict, missing, unexpected, problems)
    own = {
        (f"{path}.{name}" if path else name): (m, name, value) for path, m in modules for name, value in own_state(m)
    }
    extra = {(f"{path}.{EXTRA}" if path else EXTRA): m for path, m in modules if hasattr(type(m), "set_extra_state")}
    missing += [k for k in (*own, *extra) if k not in state]
    unexpected += [k for k in state if k not in own and k not in extra]
    if strict and unexpected:
        problems.append(f"unexpected key(s) in state_dict: {', '.join(unexpected)}")
    if strict and missing:
        problems.append(f"missing key(s) in state_dict: {', '.join(missing)}")
    values = {k: state[k] for k in own if k in state}
    for k, value in values.items():
        shape, wanted = tuple(np.shape(value)), tuple(own[k][2].shape)
        if shape != wanted and not (wanted == () and shape == (1,)):  # scalars were saved as [1] once
            problems.append(f"size mismatch for {k}: the state_dict has {shape}, the module {wanted}")
    if problems:
        raise RuntimeError(f"error(s) in loading state_dict for {type(module).__name__}:\n\t" + "\n\t".join(problems))
    with no_grad():
        for k, value in values.items():
            _put(*own[k], value, assign)
    for k, m in extra.items():
        if k in state:
            m.set_extra_state(state[k])
    epoch.bump()
    result = IncompatibleKeys(missing, unexpected)
    for _, m in reversed(modules):  # children first
        for hook in hooks_of(m, "_load_state_dict_post_hooks"):
            hook.call(m, result)
    return result


def _put(module: Module, name: str, value: Tensor, given: Any, assign: bool) -> None:
    tensor = given if isinstance(given, Tensor) else new_tensor(native(np.asarray(given)))
    if tensor.ndim != value.ndim:
        tensor = fn.reshape(tensor, tuple(value.shape))
    if not assign:
        value.copy_(tensor if tensor.dtype is value.dtype else fn.astype(tensor, value.dtype))
    elif isinstance(value, Parameter):
        module._register("_parameters", name, Parameter(tensor, value.requires_grad))
    else:
        module._register("_buffers", name, tensor)
