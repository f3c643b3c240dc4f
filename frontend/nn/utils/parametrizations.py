"""Ready-made parametrizations: weight normalisation and spectral normalisation."""

from __future__ import annotations

from typing import Any

from ... import functions as fn
from ... import random
from ...autograd import no_grad
from ...tensor import Tensor
from .. import functional as F
from ..module import Module
from .parametrize import register_parametrization


def norm_except(v: Tensor, dim: int | None) -> Tensor:
    """The 2-norm over all axes but `dim` (over all of them if None), with axes of size 1 kept (0-d if None)."""
    if dim is None:
        return fn.sqrt(fn.sum(v * v))
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim)
    return fn.sqrt(fn.sum(v * v, axis=axes, keepdims=True)) if axes else fn.abs(v)


def weight_norm_of(v: Tensor, g: Tensor, dim: int | None) -> Tensor:
    """g * v / |v|."""
    return v * (g / norm_except(v, dim))


class _WeightNorm(Module):
    def __init__(self, dim: int | None):
        super().__init__()
        self.dim = None if dim == -1 else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return weight_norm_of(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """The tensor `name` becomes g v / |v| (Salimans & Kingma 2016): parametrizations.<name>.original0 is g, original1 is
    v. Norms are taken over all axes but `dim` (over all of them if None). Loads the `<name>_g`, `<name>_v` of old
    checkpoints too."""
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(m: Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for i, old in enumerate((f"{prefix}{name}_g", f"{prefix}{name}_v")):
            if old in state:
                state[f"{prefix}parametrizations.{name}.original{i}"] = state.pop(old)

    module.register_load_state_dict_pre_hook(rename)
    return module


def rows_of(weight: Tensor, dim: int) -> Tensor:
    """`weight` as a matrix with axis `dim` first."""
    if dim != 0:
        weight = fn.moveaxis(weight, dim, 0)
    return fn.reshape(weight, (weight.shape[0], -1)) if weight.ndim > 2 else weight


def power_iteration(matrix: Tensor, u: Tensor, v: Tensor, times: int, eps: float) -> None:
    """Moves u [rows], v [columns] in place towards the first singular vectors of `matrix`."""
    with no_grad():
        matrix = matrix.detach()
        for _ in range(times):
            u.copy_(F.normalize(fn.matmul(matrix, v), dim=0, eps=eps))
            v.copy_(F.normalize(fn.matmul(fn.permute_dims(matrix, (1, 0)), u), dim=0, eps=eps))


def start_vectors(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Random unit vectors [rows], [columns], some iterations on the way."""
    rows, columns = matrix.shape
    with no_grad():
        u = F.normalize(random.randn((rows,), dtype=matrix.dtype), dim=0, eps=eps)
        v = F.normalize(random.randn((columns,), dtype=matrix.dtype), dim=0, eps=eps)
        power_iteration(matrix, u, v, 15, eps)
    return u, v


class _SpectralNorm(Module):
    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float):
        super().__init__()
        if n_power_iterations <= 0:
            raise ValueError(f"spectral_norm: n_power_iterations must be positive, not {n_power_iterations}")
        self.dim, self.eps, self.n_power_iterations = dim, eps, n_power_iterations
        if weight.ndim > 1:
            u, v = start_vectors(rows_of(weight, dim), eps)
            self.register_buffer("_u", u)
            self.register_buffer("_v", v)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = rows_of(weight, self.dim)
        if self.training:
            power_iteration(matrix, self._u, self._v, self.n_power_iterations, self.eps)
        # copies: the gradient needs the vectors of this call, and the next one writes over them
        u, v = self._u.clone(), self._v.clone()
        return weight / fn.sum(u * fn.matmul(matrix, v))

    def right_inverse(self, value: Tensor) -> Tensor:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """The tensor `name` is divided by its largest singular value (Miyato et al. 2018), which power iterations follow,
    `n_power_iterations` at each reading in training. dim: the axis of the matrix's rows; 1 for transposed convolutions
    and 0 for all others if None."""
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"{type(module).__name__} has no parameter or buffer '{name}'")
    if dim is None:
        dim = 1 if getattr(module, "transposed", False) else 0
    return register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))


__all__ = ["spectral_norm", "weight_norm"]
