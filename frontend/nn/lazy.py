"""Layers that learn the size of their input from the first one they see (or the first state dict they load), and are the
plain layer from then on. Until then they have no parameters: call them once before an optimizer takes those."""

from __future__ import annotations

from typing import Any

from ..epoch import epoch
from ..state import state
from ..tensor import Tensor
from .conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from .linear import Linear
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d


class _Lazy(Module):
    """Takes the arguments of `becomes` without the first one, the size of axis `axis` of the input."""

    becomes: Any
    rank: int | None = None  # of an input with a batch axis, if that may be left out
    axis = 1
    key, key_axis = "weight", 1  # where a state dict tells the size

    def __init__(self, *args: Any, **kwargs: Any):
        Module.__init__(self)
        self.__dict__["_arguments"] = (args, kwargs)

    def _become(self, size: int) -> None:
        args, kwargs = self.__dict__["_arguments"]
        made = self.becomes(size, *args, **kwargs).train(self.training)
        hooks = {k: v for k, v in self.__dict__.items() if k.endswith("_hooks")}
        self.__dict__.clear()
        self.__dict__.update(made.__dict__ | hooks)
        self.__class__ = type(made)  # type: ignore[assignment]
        epoch.bump()

    def forward(self, input: Tensor) -> Any:
        if state.tracer is not None:
            raise RuntimeError(
                f"{type(self).__name__} does not know the size of its input yet; call it once outside of compile"
            )
        missing = 0 if self.rank is None else self.rank - input.ndim
        self._become(input.shape[self.axis if self.axis < 0 else self.axis - missing])
        return self.forward(input)

    def _adapt_state(self, state: dict[str, Any], prefix: str) -> None:
        if prefix + self.key in state:
            self._become(self._size_for(tuple(state[prefix + self.key].shape)))

    def _size_for(self, shape: tuple[int, ...]) -> int:
        """The size of the input for which a state dict has a tensor `key` of this shape."""
        return shape[self.key_axis]

    def extra_repr(self) -> str:
        args, kwargs = self.__dict__["_arguments"]
        return ", ".join(["?", *map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items())])


class LazyLinear(_Lazy, Linear):
    """`Linear` without in_features."""

    becomes = Linear
    axis = -1


class _LazyConv(_Lazy):
    def _size_for(self, shape: tuple[int, ...]) -> int:
        args, kwargs = self.__dict__["_arguments"]
        return shape[1] * kwargs.get("groups", args[5] if len(args) > 5 else 1)


class _LazyTransposed(_Lazy):
    key_axis = 0


class _LazyNorm(_Lazy):
    key, key_axis = "running_mean", 0

    def _adapt_state(self, state: dict[str, Any], prefix: str) -> None:
        if prefix + self.key not in state and prefix + "weight" in state:  # without running statistics
            self._become(state[prefix + "weight"].shape[0])
        else:
            super()._adapt_state(state, prefix)


class LazyConv1d(_LazyConv, Conv1d):
    """`Conv1d` without in_channels."""

    becomes = Conv1d
    rank = 3


class LazyConv2d(_LazyConv, Conv2d):
    """`Conv2d` without in_channels."""

    becomes = Conv2d
    rank = 4


class LazyConv3d(_LazyConv, Conv3d):
    """`Conv3d` without in_channels."""

    becomes = Conv3d
    rank = 5


class LazyConvTranspose1d(_LazyTransposed, ConvTranspose1d):
    """`ConvTranspose1d` without in_channels."""

    becomes = ConvTranspose1d
    rank = 3


class LazyConvTranspose2d(_LazyTransposed, ConvTranspose2d):
    """`ConvTranspose2d` without in_channels."""

    becomes = ConvTranspose2d
    rank = 4


class LazyConvTranspose3d(_LazyTransposed, ConvTranspose3d):
    """`ConvTranspose3d` without in_channels."""

    becomes = ConvTranspose3d
    rank = 5


class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """`BatchNorm1d` without num_features."""

    becomes = BatchNorm1d


class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """`BatchNorm2d` without num_features."""

    becomes = BatchNorm2d


class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """`BatchNorm3d` without num_features."""

    becomes = BatchNorm3d


class LazyInstanceNorm1d(_LazyNorm, InstanceNorm1d):
    """`InstanceNorm1d` without num_features."""

    becomes = InstanceNorm1d
    rank = 3


class LazyInstanceNorm2d(_LazyNorm, InstanceNorm2d):
    """`InstanceNorm2d` without num_features."""

    becomes = InstanceNorm2d
    rank = 4


class LazyInstanceNorm3d(_LazyNorm, InstanceNorm3d):
    """`InstanceNorm3d` without num_features."""

    becomes = InstanceNorm3d
    rank = 5
