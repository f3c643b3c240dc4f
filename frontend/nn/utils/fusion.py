"""Batch normalisation in evaluation mode folded into the layer before it."""

from __future__ import annotations

import copy
from typing import TypeVar

from ... import creation
from ... import functions as fn
from ...autograd import no_grad
from ...tensor import Tensor
from ..module import Module
from ..parameter import Parameter

M = TypeVar("M", bound=Module)


def _fused(layer: M, bn: Module, axis: int) -> M:
    if layer.training or bn.training:
        raise ValueError("fusing needs both modules in evaluation mode: call eval() first")
    if bn.running_mean is None:
        raise ValueError(f"fusing needs the running statistics of {type(bn).__name__}")
    out = copy.deepcopy(layer)
    with no_grad():
        factor = 1.0 / fn.sqrt(bn.running_var + bn.eps)
        factor = factor if bn.weight is None else factor * bn.weight
        bias = layer.bias if layer.bias is not None else creation.zeros_like(bn.running_mean)
        shift = (bias - bn.running_mean) * factor
        shift = shift if bn.bias is None else shift + bn.bias
        out.weight = Parameter(layer.weight * _on_axis(factor, layer.weight, axis), layer.weight.requires_grad)
        out.bias = Parameter(shift, layer.weight.requires_grad if layer.bias is None else layer.bias.requires_grad)
    return out


def _on_axis(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    return fn.reshape(factor, tuple(-1 if i == axis else 1 for i in range(weight.ndim)))


def fuse_conv_bn_eval(conv: M, bn: Module, transpose: bool = False) -> M:
    """A convolution that computes bn(conv(x)); both in evaluation mode. transpose: a transposed one without groups."""
    return _fused(conv, bn, 1 if transpose else 0)


def fuse_linear_bn_eval(linear: M, bn: Module) -> M:
    """A Linear that computes bn(linear(x)); both in evaluation mode."""
    return _fused(linear, bn, 0)
