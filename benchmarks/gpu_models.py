"""Training steps of the models that GPU kernels are judged by, as graphs: traced in real sizes, and never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tracefuse.nn.functional as F
from tracefuse.frontend.introspect import compiled_of, trace_of
from tracefuse.ir.graph import Graph

import tracefuse as tr
from tracefuse import nn, optim

Step = tuple[Callable[..., Any], tuple[Any, ...]]


def training_graphs(function: Callable[..., Any], args: tuple[Any, ...]) -> list[Graph]:
    """The graph of a call, and that of its backward pass if it leaves this for later. Nothing is computed or changed."""
    compiled, _, first = compiled_of(tr.compile(function, fullgraph=True, backend="reference"))
    trace = trace_of(compiled, (*first, *args), {})
    return [trace.graph] if trace.backward is None else [trace.graph, trace.backward.graph]


def numbers(*shape: int) -> tr.Tensor:
    """Normal ones; zeros if they are many: in real sizes nobody looks at them."""
    if np.prod(shape) > 1e6:
        return tr.zeros(shape)
    return tr.tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


def integers(most: int, *shape: int) -> tr.Tensor:
    return tr.tensor(np.random.default_rng(0).integers(0, most, shape))


def trained(opt: optim.Optimizer, loss: tr.Tensor) -> tr.Tensor:
    loss.backward()
    opt.step()
    opt.zero_grad()
    return loss


# ------------------------------------------------------------------ models; `small`: the same structure in a few numbers


def mlp(small: bool) -> Step:
    """Three layers with relu, cross-entropy, AdamW."""
    batch, width, classes = (7, 9, 5) if small else (512, 1024, 10)
    net = nn.Sequential(
        nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes)
    )
    opt = optim.AdamW(net.parameters(), lr=1e-3)
    return lambda x, y: trained(opt, F.cross_entropy(net(x), y)), (numbers(batch, width), integers(classes, batch))


class ResidualBlock(nn.Module):
    """The basic block of ResNet-18."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: tr.Tensor) -> tr.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + x)


def resnet(small: bool) -> Step:
    """A block of ResNet-18 (convolutions, batch norms, relus, the residual), SGD with momentum."""
    batch, channels, size = (2, 3, 6) if small else (64, 64, 56)
    net = ResidualBlock(channels)
    opt = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return lambda x: trained(opt, (net(x) ** 2).mean()), (numbers(batch, channels, size, size),)


class TransformerBlock(nn.Module):
    """A block of GPT-2."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads, self.dropout = heads, nn.Dropout(0.1)

    def forward(self, x: tr.Tensor) -> tr.Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.projection(y.permute(0, 2, 1, 3).reshape(n, t, d)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh")))


def gpt2(small: bool) -> Step:
    """A block of GPT-2 in float32 (attention, layer norms, gelu, dropout), AdamW."""
    return _transformer(small, mixed=False)


def gpt2_bf16(small: bool) -> Step:
    """The same, with its products in bfloat16 by autocast."""
    return _transformer(small, mixed=True)


def _transformer(small: bool, mixed: bool) -> Step:
    batch, length, width, heads = (2, 5, 8, 2) if small else (8, 1024, 768, 12)
    net = TransformerBlock(width, heads)
    # The biases of keys have no gradient, but for rounding: the usual 1e-8 makes steps of noise out of it.
    opt = optim.AdamW(net.parameters(), lr=1e-3, eps=1e-4 if small else 1e-8)

    def step(x: tr.Tensor) -> tr.Tensor:
        with tr.autocast("cpu", tr.bfloat16, enabled=mixed):
            y = net(x)
        return trained(opt, (y**2).mean())

    return step, (numbers(batch, length, width),)


def lstm(small: bool) -> Step:
    """One step of an LSTM cell, Adam."""
    batch, width = (3, 5) if small else (64, 1024)
    net = nn.LSTMCell(width, width)
    opt = optim.Adam(net.parameters(), lr=1e-3)

    def step(x: tr.Tensor, h: tr.Tensor, c: tr.Tensor) -> tr.Tensor:
        h, c = net(x, (h, c))
        return trained(opt, (h * c).mean())

    return step, tuple(numbers(batch, width) for _ in range(3))


def classes(small: bool) -> Step:
    """Cross-entropy over the vocabulary of GPT-2: a forward graph, and the backward graph that it leaves for later."""
    rows, vocabulary = (6, 37) if small else (4096, 50257)
    return F.cross_entropy, (numbers(rows, vocabulary).requires_grad_(), integers(vocabulary, rows))


def embedding(small: bool) -> Step:
    """Rows of an embedding, with the gradient of the table, SGD."""
    rows, width, shape = (11, 5, (2, 4)) if small else (50257, 768, (8, 1024))
    net = nn.Embedding.from_pretrained(numbers(rows, width), freeze=False)
    opt = optim.SGD(net.parameters(), lr=0.1)
    return lambda i: trained(opt, (net(i) ** 2).mean()), (integers(rows, *shape),)


MODELS: dict[str, Callable[[bool], Step]] = {
    f.__name__: f for f in (mlp, resnet, gpt2, gpt2_bf16, lstm, classes, embedding)
}
