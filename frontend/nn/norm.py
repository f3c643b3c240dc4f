"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import creation
from .. import functions as fn
from ..autograd import no_grad
from ..tensor import Tensor
from . import functional as F
from . import init
from .module import Module
from .parameter import Parameter


def _start(weight: Parameter | None, bias: Parameter | None) -> None:
    """Ones and zeros: the normalised values themselves."""
    if weight is not None:
        init.ones_(weight)
    if bias is not None:
        init.zeros_(bias)


class _ChannelNorm(Module):
    """Weight and bias [num_features], and running statistics of the same shape."""

    ranks: tuple[int, ...]

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        dtype: Any,
        device: Any,
        bias: bool,
    ):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(
                name, Parameter(creation.empty((num_features,), dtype=dtype, device=device)) if wanted else None
            )
        tracked = track_running_stats
        self.register_buffer(
            "running_mean", creation.zeros((num_features,), dtype=dtype, device=device) if tracked else None
        )
        self.register_buffer(
            "running_var", creation.ones((num_features,), dtype=dtype, device=device) if tracked else None
        )
        self.register_buffer(
            "num_batches_tracked", creation.zeros((), dtype="int64", device=device) if tracked else None
        )
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        with no_grad():
            if self.running_mean is not None:
                self.running_mean.zero_()
                self.running_var.fill_(1)
                self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        _start(self.weight, self.bias)

    def _check(self, input: Tensor) -> None:
        if input.ndim not in self.ranks:
            wanted = " or ".join(map(str, self.ranks))
            raise ValueError(f"{type(self).__name__}: input of shape {tuple(input.shape)} needs {wanted} dimensions")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, device, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        running = self.running_mean
        update = self.training and running is not None
        if self.training and running is not None:
            with no_grad():
                self.num_batches_tracked.add_(1)
                if self.momentum is None:  # the average over all batches so far
                    momentum = 1.0 / fn.astype(self.num_batches_tracked, running.dtype)
        training = self.training or self.running_mean is None
        mean, var = (self.running_mean, self.running_var) if update or not training else (None, None)
        return F.batch_norm(input, mean, var, self.weight, self.bias, training, momentum, self.eps)

    def _adapt_state(self, state: dict[str, Any], prefix: str) -> None:
        """Checkpoints from before PyTorch 0.4.1 do not count batches."""
        if self.num_batches_tracked is not None and prefix + "running_mean" in state:
            state.setdefault(prefix + "num_batches_tracked", creation.zeros((), dtype="int64"))


class BatchNorm1d(_BatchNorm):
    """Normalises each channel of [N, C] or [N, C, L] over all other axes."""

    ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalises each channel of [N, C, H, W] over all other axes."""

    ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Normalises each channel of [N, C, D, H, W] over all other axes."""

    ranks = (5,)


class _InstanceNorm(_ChannelNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, dtype, device, bias)

    def forward(self, input: Tensor) -> Tensor:
        self._check(input)
        single = input.ndim == self.ranks[0]
        x = fn.expand_dims(input, axis=0) if single else input
        of_input = self.training or not self.track_running_stats
        out = F.instance_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, of_input, self.momentum or 0.0, self.eps
        )
        return fn.squeeze(out, axis=0) if single else out


class InstanceNorm1d(_InstanceNorm):
    """Normalises each channel of each sample of [N, C, L] or [C, L]."""

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalises each channel of each sample of [N, C, H, W] or [C, H, W]."""

    ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Normalises each channel of each sample of [N, C, D, H, W] or [C, D, H, W]."""

    ranks = (4, 5)


class LayerNorm(Module):
    """Normalises over the last axes, whose shape is `normalized_shape`. weight and bias have that shape."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter(
            "weight", Parameter(creation.ones(shape, dtype=dtype, device=device)) if elementwise_affine else None
        )
        with_bias = elementwise_affine and bias
        self.register_parameter(
            "bias", Parameter(creation.zeros(shape, dtype=dtype, device=device)) if with_bias else None
        )

    def reset_parameters(self) -> None:
        _start(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        return f"{self.normalized_shape}, eps={self.eps}, {affine}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes; eps is the element type's epsilon if None."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.register_parameter(
            "weight", Parameter(creation.ones(shape, dtype=dtype, device=device)) if elementwise_affine else None
        )

    def reset_parameters(self) -> None:
        _start(self.weight, None)

    def forward(self, input: Tensor) -> Tensor:
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalises each of `num_groups` groups of the channels of [N, C, ..]. weight and bias [num_channels]."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_channels {num_channels} does not divide into {num_groups} groups")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.register_parameter(
            "weight", Parameter(creation.ones((num_channels,), dtype=dtype, device=device)) if affine else None
        )
        self.register_parameter(
            "bias", Parameter(creation.zeros((num_channels,), dtype=dtype, device=device)) if affine and bias else None
        )

    def reset_parameters(self) -> None:
        _start(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine = f"affine={self.affine}, bias={self.bias is not None}"
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, {affine}"


class LocalResponseNorm(Module):
    """x / (k + alpha * mean of squares over `size` neighbouring channels)^beta for [N, C, ..]."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
