"""Tensors on their way between devices: gradients come back the way the values went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .autograd_function import Function
from .devices import device_of, gpu_of, moved
from .state import state
from .tape import needs_grad
from .tensor import Tensor, new_tensor

if TYPE_CHECKING:
    from ..runtime.cuda.device import Gpu


class _Transfer(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gpu: Gpu | None) -> Tensor:
        ctx.source = gpu_of(x)
        return new_tensor(moved(x._data, gpu))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return transfer(g, ctx.source), None


def transfer(x: Tensor, gpu: Gpu | None) -> Tensor:
    """The tensor on that GPU (None: the CPU): itself if it lies there. A trace runs on one device: it ends where tensors
    leave it."""
    tracer = state.tracer
    if tracer is not None:
        here = gpu_of(x) or getattr(tracer, "gpu", None)
        if here is not gpu:
            wanted = "the CPU" if gpu is None else gpu.name
            tracer.concretize(x, f"a copy from {device_of(x._data)} to {wanted}")
        return x
    if gpu_of(x) is gpu:
        return x
    if state.grad_enabled and needs_grad(x):
        return _Transfer.apply(x, gpu)
    return new_tensor(moved(x._data, gpu))
