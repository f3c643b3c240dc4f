"""Weight and spectral normalisation as PyTorch had them before parametrizations; the state dict has other names.

New code should use `utils.parametrizations`.
"""

from __future__ import annotations

from typing import Any, TypeVar

from ... import functions as fn
from ...autograd import no_grad
from ...tensor import Tensor
from ..module import Module
from ..parameter import Parameter
from .computed import add_property, drop_property, has_own_class
from .parametrizations import norm_except, power_iteration, rows_of, start_vectors, weight_norm_of

M = TypeVar("M", bound=Module)


def _parameter(module: Module, name: str, what: str) -> Parameter:
    found = module._parameters.get(name)
    if found is None:
        raise ValueError(f"{what}: {type(module).__name__} has no parameter '{name}'")
    return found


def _is_computed(module: Module, name: str) -> bool:
    return has_own_class(module) and isinstance(vars(type(module)).get(name), property)


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """The parameter `name` becomes g v / |v| (Salimans & Kingma 2016) with parameters `<name>_g` and `<name>_v`. Norms
    are taken over all axes but `dim` (over all of them if None)."""
    weight = _parameter(module, name, "weight_norm")
    axis = None if dim == -1 else dim
    with no_grad():
        g = norm_except(weight, axis)
    delattr(module, name)
    module.register_parameter(name + "_g", Parameter(g.detach()))
    module.register_parameter(name + "_v", Parameter(weight.detach()))

    def get(m: Any) -> Tensor:
        return weight_norm_of(getattr(m, name + "_v"), getattr(m, name + "_g"), axis)

    add_property(module, name, get)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Makes `name` a parameter again, with its present value."""
    return _remove(module, name, ("_g", "_v"), "weight_norm")


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """The parameter `name` is divided by its largest singular value (Miyato et al. 2018): parameter `<name>_orig`,
    buffers `<name>_u` and `<name>_v`. See `utils.parametrizations.spectral_norm`."""
    weight = _parameter(module, name, "spectral_norm")
    if n_power_iterations <= 0:
        raise ValueError(f"spectral_norm: n_power_iterations must be positive, not {n_power_iterations}")
    axis = dim if dim is not None else 1 if getattr(module, "transposed", False) else 0
    u, v = start_vectors(rows_of(weight, axis), eps)
    delattr(module, name)
    module.register_parameter(name + "_orig", weight)
    module.register_buffer(name + "_u", u)
    module.register_buffer(name + "_v", v)

    def get(m: Any) -> Tensor:
        original = getattr(m, name + "_orig")
        matrix, left, right = rows_of(original, axis), getattr(m, name + "_u"), getattr(m, name + "_v")
        if m.training:
            power_iteration(fn.permute_dims(matrix, (1, 0)), right, left, n_power_iterations, eps)
        return original / fn.sum(left.clone() * fn.matmul(matrix, right.clone()))

    add_property(module, name, get)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Makes `name` a parameter again, with its present value."""
    return _remove(module, name, ("_orig", "_u", "_v"), "spectral_norm")


def _remove(module: M, name: str, suffixes: tuple[str, ...], what: str) -> M:
    if not _is_computed(module, name) or not all(hasattr(module, name + s) for s in suffixes):
        raise ValueError(f"{what} of '{name}' not found in {type(module).__name__}")
    mode = module.training
    module.training = False  # no iteration for this reading
    with no_grad():
        value = getattr(module, name).clone()
    module.training = mode
    drop_property(module, name)
    for s in suffixes:
        delattr(module, name + s)
    module.register_parameter(name, Parameter(value.detach()))
    return module
