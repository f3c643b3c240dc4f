"""Convolution layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import creation
from ..tensor import Tensor
from . import functional as F
from . import init
from .functional_conv import Size, same_padding, spread
from .module import Module
from .parameter import Parameter

_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _ConvNd(Module):
    """What all convolutions share. weight: see the subclasses; bias [out_channels]."""

    dims: int
    transposed = False

    def _setup(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: Any,
        device: Any,
    ) -> None:
        k, what = self.dims, type(self).__name__
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{what}: groups {groups} must divide in_channels {in_channels} and out_channels {out_channels}"
            )
        if padding_mode not in _PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            raise ValueError(f"{what}: padding_mode {padding_mode!r} is not supported")
        if isinstance(padding, str) and padding not in ("same", "valid"):
            raise ValueError(f"{what}: padding is 'same', 'valid' or integers, not {padding!r}")
        self.in_channels, self.out_channels, self.groups, self.padding_mode = (
            in_channels,
            out_channels,
            groups,
            padding_mode,
        )
        self.kernel_size = spread(kernel_size, k, what + " kernel_size")
        self.stride = spread(stride, k, what + " stride")
        self.dilation = spread(dilation, k, what + " dilation")
        self.padding = padding if isinstance(padding, str) else spread(padding, k, what + " padding")
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f"{what}: padding='same' needs stride 1, got {self.stride}")
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = Parameter(
            creation.empty((first, second // groups, *self.kernel_size), dtype=dtype, device=device)
        )
        self.register_parameter(
            "bias", Parameter(creation.empty((out_channels,), dtype=dtype, device=device)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.reset_linear(self.weight, self.bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if isinstance(self.padding, str) or any(self.padding):
            parts.append(f"padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.transposed and any(self.__dict__["output_padding"]):
            parts.append(f"output_padding={self.__dict__['output_padding']}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Conv(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self._setup(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, device
        )

    def forward(self, input: Tensor) -> Tensor:
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._edges(), _PADDING_MODES[self.padding_mode])
            padding = 0
        return conv(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _edges(self) -> list[int]:
        """`F.pad`'s sizes: (low, high) of the last axis first."""
        low: Sequence[int]
        high: Sequence[int]
        if self.padding == "same":
            low, high = same_padding(self.kernel_size, self.dilation)
        elif isinstance(self.padding, str):
            low = high = (0,) * self.dims
        else:
            low = high = self.padding
        return [n for pair in reversed(list(zip(low, high))) for n in pair]


class Conv1d(_Conv):
    """[N, in_channels, L] -> [N, out_channels, L']. weight [out_channels, in_channels/groups, k]."""

    dims = 1


class Conv2d(_Conv):
    """[N, in_channels, H, W] -> [N, out_channels, H', W']. weight [out_channels, in_channels/groups, kh, kw]."""

    dims = 2


class Conv3d(_Conv):
    """[N, in_channels, D, H, W] -> [N, out_channels, D', H', W']. weight [out_channels, in_channels/groups, ..]."""

    dims = 3


class _ConvTranspose(_ConvNd):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ):
        super().__init__()
        self.output_padding = spread(output_padding, self.dims, type(self).__name__ + " output_padding")
        self._setup(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype, device
        )

    def forward(self, input: Tensor) -> Tensor:
        conv = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        assert not isinstance(self.padding, str)
        return conv(
            input, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`. weight [in_channels, out_channels/groups, k]."""

    dims = 1


class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`. weight [in_channels, out_channels/groups, kh, kw]."""

    dims = 2


class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`. weight [in_channels, out_channels/groups, kd, kh, kw]."""

    dims = 3
