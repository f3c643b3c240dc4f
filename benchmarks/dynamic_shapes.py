"""One trace for all batch sizes against a trace for each: `python benchmarks/dynamic_shapes.py [--all]`.

A residual block of a convolutional network and a transformer block, through 50 batch sizes each. The symbolic trace and
the specialised one of a size take turns, so that what else runs on the machine meets both; the best times count. With one
thread (TRACEFUSE_NUM_THREADS=1) that is processor time, which hardly depends on what else runs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import tracefuse.nn.functional as F

import tracefuse as tr
from tracefuse import nn

CLOCK = time.thread_time if os.environ.get("TRACEFUSE_NUM_THREADS") == "1" else time.perf_counter
SIZES = [*range(2, 34), *range(36, 108, 4)]
SHOWN = (2, 3, 4, 7, 8, 16, 31, 32, 64, 104)


class Residual(nn.Module):
    """conv 3x3, batch_norm, relu, twice, around which x is added."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(y)) + x)


class Transformer(nn.Module):
    """Attention and an MLP, each behind a layer_norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.permute(0, 2, 1, 3).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def best(dynamic: Callable[[], Any], static: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """The least times of both, taking turns."""
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[1]) < 15:
        for k, f in enumerate((dynamic, static)):
            start = CLOCK()
            f()
            times[k].append(CLOCK() - start)
    return min(times[0]), min(times[1])


def compare(name: str, net: nn.Module, shape: tuple[int, ...], sizes: list[int], seconds: float) -> None:
    net.eval()
    with tr.no_grad():
        dynamic = tr.compile(net.forward, fullgraph=True)
        for n in (5, 6):
            dynamic(tr.rand(n, *shape))
        ratios = []
        print(f"{name}: batch, ms with symbolic batch, ms specialised, ratio")
        for n in sizes:
            x = tr.rand(n, *shape)
            static = tr.compile(net.forward, fullgraph=True, dynamic=False)
            static(x), dynamic(x)
            a, b = best(lambda: dynamic(x), lambda: static(x), seconds)
            ratios.append(a / b)
            print(f"  {n:>4} {1e3 * a:9.3f} {1e3 * b:9.3f} {a / b:6.2f}", flush=True)
        ratios.sort()
        print(f"  traces: {len(dynamic.traces)}; ratio median {ratios[len(ratios) // 2]:.2f}, worst {ratios[-1]:.2f}")


def main() -> None:
    every = "--all" in sys.argv
    sizes = SIZES if every else list(SHOWN)
    seconds = 0.15 if every else 0.6
    compare("residual block, 32 channels, 28x28", Residual(32), (32, 28, 28), sizes, seconds)
    compare("transformer block, d=128, T=64", Transformer(128, 4), (64, 128), sizes, seconds)


if __name__ == "__main__":
    main()
