"""The demo's training step beside PyTorch's: the same net, batch and optimizer, eager and compiled, in turns.

python benchmarks/demo_vs_torch.py --rounds 30
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import in_turns, median, peer, quick, setting, table
from tracefuse.frontend import demo

import tracefuse as tr


def torch_steps(torch: Any, net: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], float]]:
    """Training steps that begin with the weights of `net`."""
    import copy

    from torch import nn

    start = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, padding=1), nn.GELU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.GELU(), nn.Linear(64, 10),
    )  # fmt: skip
    start.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in net.state_dict().items()})
    images, labels = torch.tensor(x), torch.tensor(y)

    def step_of(compiled: bool) -> Callable[[], float]:
        model = copy.deepcopy(start)
        opt = torch.optim.Adam(model.parameters(), lr=demo.LEARNING_RATE)
        forward = torch.compile(model) if compiled else model

        def step() -> float:
            loss = nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            opt.step()
            opt.zero_grad()
            return loss.item()

        return step

    return {"torch eager": step_of(False), "torch.compile": step_of(True)}


def tracefuse_steps(net: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], float]]:
    import copy

    images, labels = tr.asarray(x), tr.asarray(y)

    def step_of(compiled: bool) -> Callable[[], float]:
        step = demo.make_step(copy.deepcopy(net))
        step = tr.compile(step, fullgraph=True) if compiled else step
        return lambda: step(images, labels).item()

    return {"tracefuse eager": step_of(False), "tracefuse compiled": step_of(True)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=30)
    p.add_argument("--threads", type=int, default=0, help="of both (default: tracefuse's)")
    a = p.parse_args()
    from tracefuse.runtime.threads import get_num_threads, set_num_threads

    if a.threads:
        set_num_threads(a.threads)
    rng = np.random.default_rng(0)
    x = rng.random((demo.BATCH, 1, 8, 8), np.float32)
    y = rng.integers(0, 10, demo.BATCH)
    net = demo.make_net()
    steps: dict[str, Callable[[], float]] = {}
    torch = peer("torch")
    if torch is not None:
        torch.set_num_threads(get_num_threads())
        steps |= torch_steps(torch, net, x, y)
    steps |= tracefuse_steps(net, x, y)
    first: dict[str, float] = {}
    losses: dict[str, float] = {}
    for name, step in list(steps.items()):
        start = time.perf_counter()
        try:
            losses[name] = step()
        except Exception as e:  # torch.compile needs a C++ compiler
            print(f"{name} does not run here: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}")
            del steps[name]
            continue
        first[name] = time.perf_counter() - start
    times = in_turns(steps, a.rounds, 0.05)
    slowest = median(times[next(iter(times))])
    rows = [
        [n, quick(median(t)), quick(min(t)), f"{slowest / median(t):.2f}x", quick(first[n]), f"{losses[n]:.6f}"]
        for n, t in times.items()
    ]
    print(setting("torch"))
    title = f"Training step of the demo's conv net, batch {demo.BATCH}, {a.rounds} rounds"
    print(table(title, ["", "median", "best", "speedup", "first call", "first loss"], rows))


if __name__ == "__main__":
    main()
