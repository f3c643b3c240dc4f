"""The programs that `tracefuse bench` times: small, typical, and compiled as a user's own would be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import functions as fn
from . import nn, optim, random
from .nn import functional as F
from .tensor import Tensor


@dataclass(frozen=True, slots=True)
class Workload:
    """`make()` gives a function and its arguments. `about`: what it computes, on which shapes."""

    name: str
    about: str
    make: Callable[[], tuple[Any, tuple]]


def gelu_chain(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias) * 0.5 + fn.tanh(x) * x


def softmax(x: Tensor) -> Tensor:
    return fn.exp(x - x.max(axis=-1, keepdims=True)) / fn.exp(x - x.max(axis=-1, keepdims=True)).sum(-1, keepdims=True)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.mean(axis=-1, keepdims=True)
    centered = x - mean
    variance = (centered * centered).mean(axis=-1, keepdims=True)
    return centered / fn.sqrt(variance + 1e-5) * weight + bias


def matmul_relu(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return F.relu(x @ w + bias)


def _mlp_step() -> tuple[Any, tuple]:
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10))
    opt = optim.AdamW(net.parameters(), lr=1e-3)

    def mlp_training_step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return mlp_training_step, (random.randn(128, 64), random.randint(0, 10, (128,)))


WORKLOADS = (
    Workload("gelu_chain", "nine pointwise ops on f32[2048, 2048]", lambda: (gelu_chain, (random.randn(2048, 2048), random.randn(2048)))),
    Workload("softmax", "rows of f32[2048, 2048]", lambda: (softmax, (random.randn(2048, 2048),))),
    Workload("layer_norm", "rows of f32[2048, 1024]", lambda: (layer_norm, (random.randn(2048, 1024), random.randn(1024), random.randn(1024)))),
    Workload("matmul_relu", "f32[512, 512] @ f32[512, 512] + bias, relu", lambda: (matmul_relu, (random.randn(512, 512), random.randn(512, 512), random.randn(512)))),
    Workload("mlp_step", "forward, backward and AdamW of a 64-256-10 MLP, batch 128", _mlp_step),
)  # fmt: skip
