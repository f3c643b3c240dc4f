"""The models that `gpu.py` runs, written once for tracefuse and PyTorch, whose names are the same, and once in JAX's terms."""

from __future__ import annotations

import math
from typing import Any


def gpt2(lib: Any, *, vocabulary: int, length: int, width: int, depth: int, heads: int) -> Any:
    """GPT-2 without dropout: token numbers [B, T] -> logits [B, T, vocabulary]."""
    nn, functional = lib.nn, lib.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def attention(self, x):
            b, t, _ = x.shape
            parts = self.qkv(x).reshape(b, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
            return self.proj(out.permute(0, 2, 1, 3).reshape(b, t, width))

        def forward(self, x):
            x = x + self.attention(self.ln_1(x))
            return x + self.down(functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class GPT2(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
            self.blocks = nn.ModuleList([Block() for _ in range(depth)])
            self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

        def forward(self, tokens):
            x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.head(self.ln_f(x))

    return GPT2()


def gpt2_in_jax(jax: Any, *, heads: int) -> Any:
    """The same as a function of (parameters by PyTorch's names, tokens)."""

    def norm(x, p, name):
        mean = x.mean(-1, keepdims=True)
        var = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, p, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def forward(p, tokens):
        b, t = tokens.shape
        x = p["token.weight"][tokens] + p["place.weight"][:t]
        width = x.shape[-1]
        k = 0
        while f"blocks.{k}.qkv.weight" in p:
            name = f"blocks.{k}"
            qkv = linear(norm(x, p, f"{name}.ln_1"), p, f"{name}.qkv").reshape(b, t, 3, heads, width // heads)
            q, key, v = (qkv[:, :, i] for i in range(3))
            out = jax.nn.dot_product_attention(q, key, v, is_causal=True, scale=1 / math.sqrt(width // heads))
            x = x + linear(out.reshape(b, t, width), p, f"{name}.proj")
            hidden = jax.nn.gelu(linear(norm(x, p, f"{name}.ln_2"), p, f"{name}.up"), approximate=True)
            x = x + linear(hidden, p, f"{name}.down")
            k += 1
        return norm(x, p, "ln_f") @ p["head.weight"].T

    return forward


def resnet(lib: Any, *, depths: tuple[int, ...], widths: tuple[int, ...], classes: int) -> Any:
    """A ResNet of bottleneck blocks (He et al. 2015; ResNet-50 has depths 3, 4, 6, 3): [B, 3, H, W] -> [B, classes]."""
    nn, functional = lib.nn, lib.nn.functional

    class Bottleneck(nn.Module):
        def __init__(self, inner, given, stride):
            super().__init__()
            out = 4 * inner
            self.conv1, self.bn1 = nn.Conv2d(given, inner, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            self.conv3, self.bn3 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)
            self.short = None
            if stride != 1 or given != out:
                self.short = nn.Sequential(nn.Conv2d(given, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x):
            y = functional.relu(self.bn1(self.conv1(x)))
            y = functional.relu(self.bn2(self.conv2(y)))
            return functional.relu(self.bn3(self.conv3(y)) + (x if self.short is None else self.short(x)))

    blocks: list[Any] = []
    given = widths[0]
    for k, (depth, inner) in enumerate(zip(depths, widths)):
        for i in range(depth):
            blocks.append(Bottleneck(inner, given, 2 if k and not i else 1))
            given = 4 * inner
    stem = (nn.Conv2d(3, widths[0], 7, 2, 3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, classes))


def mlp(lib: Any, *, width: int, depth: int) -> Any:
    """Linear layers with ReLU between: [B, width] -> [B, width]."""
    nn = lib.nn
    layers: list[Any] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
