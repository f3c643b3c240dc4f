"""Pooling layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..tensor import Tensor
from . import functional as F
from .functional_conv import Size, spread
from .functional_pool import Adaptive
from .module import Module


class _MaxPool(Module):
    dims: int

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input: Tensor) -> Any:
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.dims - 1]
        return pool(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The maximum of each window of [N, C, L]; stride is kernel_size if None."""

    dims = 1


class MaxPool2d(_MaxPool):
    """The maximum of each window of [N, C, H, W]; stride is kernel_size if None."""

    dims = 2


class MaxPool3d(_MaxPool):
    """The maximum of each window of [N, C, D, H, W]; stride is kernel_size if None."""

    dims = 3


class AvgPool1d(Module):
    """The mean of each window of [N, C, L]; stride is kernel_size if None."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(AvgPool1d):
    """The mean of each window of [N, C, H, W], or its sum over divisor_override."""

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool3d(AvgPool2d):
    """The mean of each window of [N, C, D, H, W], or its sum over divisor_override."""

    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool3d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _Adaptive(Module):
    def __init__(self, output_size: Adaptive):
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """[N, C, L] -> [N, C, output_size]."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """[N, C, H, W] -> [N, C, *output_size]; None keeps a size."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_Adaptive):
    """[N, C, D, H, W] -> [N, C, *output_size]; None keeps a size."""

    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(input, self.output_size)


class _AdaptiveMax(_Adaptive):
    def __init__(self, output_size: Adaptive, return_indices: bool = False):
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMax):
    """[N, C, L] -> [N, C, output_size]."""

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """[N, C, H, W] -> [N, C, *output_size]; None keeps a size."""

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMax):
    """[N, C, D, H, W] -> [N, C, *output_size]; None keeps a size."""

    def forward(self, input: Tensor) -> Any:
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)


class _MaxUnpool(Module):
    dims: int

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0):
        super().__init__()
        what = type(self).__name__
        self.kernel_size = spread(kernel_size, self.dims, what + " kernel_size")
        self.stride = self.kernel_size if stride is None else spread(stride, self.dims, what + " stride")
        self.padding = spread(padding, self.dims, what + " padding")

    def forward(self, input: Tensor, indices: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        unpool = (F.max_unpool1d, F.max_unpool2d, F.max_unpool3d)[self.dims - 1]
        return unpool(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Puts maxima [N, C, L] back where `MaxPool1d` with return_indices found them; zeros elsewhere."""

    dims = 1


class MaxUnpool2d(_MaxUnpool):
    """Puts maxima [N, C, H, W] back where `MaxPool2d` with return_indices found them; zeros elsewhere."""

    dims = 2


class MaxUnpool3d(_MaxUnpool):
    """Puts maxima [N, C, D, H, W] back where `MaxPool3d` with return_indices found them; zeros elsewhere."""

    dims = 3


class _LPPool(Module):
    dims: int

    def __init__(self, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        pool = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)[self.dims - 1]
        return pool(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """(sum of x^p)^(1/p) of each window of [N, C, L]; stride is kernel_size if None."""

    dims = 1


class LPPool2d(_LPPool):
    """(sum of x^p)^(1/p) of each window of [N, C, H, W]; stride is kernel_size if None."""

    dims = 2


class LPPool3d(_LPPool):
    """(sum of x^p)^(1/p) of each window of [N, C, D, H, W]; stride is kernel_size if None."""

    dims = 3


class _FractionalMaxPool(Module):
    dims: int

    def __init__(
        self,
        kernel_size: Size,
        output_size: Size | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Tensor | None = None,
    ):
        super().__init__()
        what = type(self).__name__
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"{what}: give exactly one of output_size and output_ratio")
        self.kernel_size = spread(kernel_size, self.dims, what + " kernel_size")
        self.output_size = None if output_size is None else spread(output_size, self.dims, what + " output_size")
        ratios = (output_ratio,) * self.dims if isinstance(output_ratio, (int, float)) else output_ratio
        if ratios is not None and not all(0 < r < 1 for r in ratios):
            raise ValueError(f"{what}: output_ratio must be between 0 and 1, not {output_ratio}")
        self.output_ratio = ratios
        self.return_indices = return_indices
        self.register_buffer("_random_samples", _random_samples)

    def forward(self, input: Tensor) -> Any:
        pool = F.fractional_max_pool2d if self.dims == 2 else F.fractional_max_pool3d
        return pool(
            input, self.kernel_size, self.output_size, self.output_ratio, self.return_indices, self._random_samples
        )


class FractionalMaxPool2d(_FractionalMaxPool):
    """[N, C, H, W] -> [N, C, *output_size], or sizes times output_ratio: maxima of windows at random steps."""

    dims = 2


class FractionalMaxPool3d(_FractionalMaxPool):
    """[N, C, D, H, W] -> [N, C, *output_size], or sizes times output_ratio: maxima of windows at random steps."""

    dims = 3
