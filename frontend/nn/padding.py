"""Padding layers; `functional.pad` does it. `padding` is one int for all sides, or (low, high) of the last axis, then of
the one before it, and so on."""

from __future__ import annotations

from collections.abc import Sequence

from ..tensor import Tensor
from . import functional as F
from .functional_conv import Size, spread
from .module import Module


class _Pad(Module):
    """The last `dims` axes of [N, C, ..] (N may be left out) become longer by `padding`."""

    dims: int
    mode: str

    def __init__(self, padding: Size):
        super().__init__()
        self.padding: Sequence[int] = spread(padding, 2 * self.dims, type(self).__name__ + " padding")

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in (self.dims + 1, self.dims + 2):
            raise ValueError(
                f"{type(self).__name__}: input of shape {tuple(input.shape)} needs {self.dims + 1} or {self.dims + 2} "
                "dimensions"
            )
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Pad):
    def __init__(self, padding: Size, value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class _ZeroPad(_ConstantPad):
    def __init__(self, padding: Size):
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_ConstantPad):
    """[N, C, L] with `value` around it; negative sizes crop."""

    dims = 1


class ConstantPad2d(_ConstantPad):
    """[N, C, H, W] with `value` around it; negative sizes crop."""

    dims = 2


class ConstantPad3d(_ConstantPad):
    """[N, C, D, H, W] with `value` around it; negative sizes crop."""

    dims = 3


class ZeroPad1d(_ZeroPad):
    """[N, C, L] with zeros around it; negative sizes crop."""

    dims = 1


class ZeroPad2d(_ZeroPad):
    """[N, C, H, W] with zeros around it; negative sizes crop."""

    dims = 2


class ZeroPad3d(_ZeroPad):
    """[N, C, D, H, W] with zeros around it; negative sizes crop."""

    dims = 3


class ReflectionPad1d(_Pad):
    """[N, C, L] mirrored at its first and last elements."""

    dims = 1
    mode = "reflect"


class ReflectionPad2d(_Pad):
    """[N, C, H, W] mirrored at its first and last elements."""

    dims = 2
    mode = "reflect"


class ReflectionPad3d(_Pad):
    """[N, C, D, H, W] mirrored at its first and last elements."""

    dims = 3
    mode = "reflect"


class ReplicationPad1d(_Pad):
    """[N, C, L] with its first and last elements repeated."""

    dims = 1
    mode = "replicate"


class ReplicationPad2d(_Pad):
    """[N, C, H, W] with its first and last elements repeated."""

    dims = 2
    mode = "replicate"


class ReplicationPad3d(_Pad):
    """[N, C, D, H, W] with its first and last elements repeated."""

    dims = 3
    mode = "replicate"


class CircularPad1d(_Pad):
    """[N, C, L] going round: low sides continue with the end, high sides with the start."""

    dims = 1
    mode = "circular"


class CircularPad2d(_Pad):
    """[N, C, H, W] going round: low sides continue with the end, high sides with the start."""

    dims = 2
    mode = "circular"


class CircularPad3d(_Pad):
    """[N, C, D, H, W] going round: low sides continue with the end, high sides with the start."""

    dims = 3
    mode = "circular"
