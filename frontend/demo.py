"""`tracefuse demo`: trains a small conv net on real handwritten digits, eagerly and compiled, and compares the two."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from . import nn, optim, random
from .autograd import no_grad
from .compile import compile
from .convert import as_tensor
from .nn import functional as F
from .tensor import Tensor

BATCH = 64
LEARNING_RATE = 2e-3
SEED = 1  # of the weights and of the order of batches
SPLIT_SEED = 4  # of the test set; over seeds, this net gets 0.965 to 0.99 on it, as it does in PyTorch
TEST_SIZE = 360  # of 1797 digits
LOSS_TOLERANCE = 1e-4  # relative, between eager and compiled, at any step
ACCURACY_NEEDED = 0.97
MISSING = "the demo needs scikit-learn and matplotlib: pip install 'tracefuse[demo]'"


class DemoError(RuntimeError):
    """The demo can't run here. The message says what to do."""


# ------------------------------------------------------------------ the task


@dataclass(frozen=True, slots=True)
class Digits:
    """Images f32[n, 1, 8, 8] in [0, 1] and labels i64[n], for training and for testing."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def load_digits() -> Digits:
    """The UCI handwritten digits that scikit-learn brings along, in a fixed split. DemoError if it is not installed."""
    try:
        from sklearn import datasets
    except ImportError:
        raise DemoError(MISSING) from None
    found: Any = datasets.load_digits()
    x = (found.data.astype(np.float32) / 16).reshape(-1, 1, 8, 8)
    y = found.target.astype(np.int64)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(x))
    test, train = order[:TEST_SIZE], order[TEST_SIZE:]
    return Digits(x[train], y[train], x[test], y[test])


def make_net() -> nn.Module:
    """The conv net, initialised from SEED: the same one every time."""
    random.manual_seed(SEED)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.GELU(),
        nn.Linear(64, 10),
    )


def make_step(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """A training step with its own optimizer: (images, labels) -> loss."""
    opt = optim.Adam(net.parameters(), lr=LEARNING_RATE)

    def train_step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss

    return train_step


def first_step() -> None:
    """What the second process does for the warm start: one compiled training step, then a line on stdout."""
    step = compile(make_step(make_net()), fullgraph=True)
    step(as_tensor(np.zeros((BATCH, 1, 8, 8), np.float32)), as_tensor(np.zeros(BATCH, np.int64))).item()
    print("done", flush=True)


# ------------------------------------------------------------------ training


@dataclass(slots=True)
class Side:
    """One way of training: plain or compiled."""

    net: nn.Module
    step: Callable[[Tensor, Tensor], Tensor]
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def train(self, x: Tensor, y: Tensor) -> None:
        start = time.perf_counter()
        loss = self.step(x, y)
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())

    @property
    def ms_per_step(self) -> float:
        """Median; the first step, which may compile, is left out."""
        return 1e3 * statistics.median(self.seconds[1:] or self.seconds)


class Progress:
    """One line that lives while training runs; on what is no terminal a line now and then."""

    def __init__(self, stream: TextIO | None, epochs: int):
        self.stream, self.epochs = stream, epochs
        self.live = stream is not None and stream.isatty()

    def show(self, epoch: int, batch: int, batches: int, eager: Side, compiled: Side) -> None:
        if self.stream is None:
            return
        done = (epoch * batches + batch + 1) / (self.epochs * batches)
        if not self.live and (batch + 1 < batches or (epoch + 1) % max(1, self.epochs // 5)):
            return
        bar = "█" * round(24 * done) + "░" * (24 - round(24 * done))
        text = (
            f"epoch {epoch + 1:>2}/{self.epochs} {bar} loss eager {eager.losses[-1]:.4f}, compiled "
            f"{compiled.losses[-1]:.4f}; ms/step {eager.ms_per_step:.2f}, {compiled.ms_per_step:.2f}: "
            f"{eager.ms_per_step / compiled.ms_per_step:.1f}x"
        )
        self.stream.write(f"\r\x1b[K{text}" if self.live else f"{text}\n")
        self.stream.flush()

    def say(self, text: str) -> None:
        if self.stream is not None:
            self.stream.write(f"\r\x1b[K{text}\n" if self.live else f"{text}\n")
            self.stream.flush()


def train(digits: Digits, epochs: int, progress: Progress) -> tuple[Side, Side]:
    """(eager, compiled) after training on the same batches in the same order, step by step in turns."""
    nets = make_net(), make_net()
    eager = Side(nets[0], make_step(nets[0]))
    compiled = Side(nets[1], compile(make_step(nets[1]), fullgraph=True))
    order = np.random.default_rng(SEED + 1)
    batches = len(digits.train_x) // BATCH
    for epoch in range(epochs):
        chosen = order.permutation(len(digits.train_x))[: batches * BATCH].reshape(batches, BATCH)
        for k, rows in enumerate(chosen):
            x, y = as_tensor(digits.train_x[rows]), as_tensor(digits.train_y[rows])
            eager.train(x, y)
            compiled.train(x, y)
            progress.show(epoch, k, batches, eager, compiled)
    return eager, compiled


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The part of rows whose largest logit is at the label."""
    return float(np.mean(logits.argmax(1) == labels))


def predict(net: Any, x: np.ndarray) -> np.ndarray:
    with no_grad():
        return np.asarray(net(as_tensor(x)))


def loss_difference(eager: Side, compiled: Side) -> float:
    """The largest relative difference of the two losses at any step."""
    a, b = np.array(eager.losses), np.array(compiled.losses)
    return float(np.max(np.abs(a - b) / np.abs(a)))


# ------------------------------------------------------------------ other processes


def _child(*arguments: str, cache: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TRACEFUSE_CACHE_DIR": cache}
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment)


def warm_start(cache: str) -> float:
    """Seconds from the start of a new process to its first completed compiled step, with the cache filled."""
    start = time.perf_counter()
    child = _child("-c", "from tracefuse.frontend.demo import first_step; first_step()", cache=cache)
    assert child.stdout is not None
    line = child.stdout.readline()
    seconds = time.perf_counter() - start
    child.communicate()
    if line.strip() != "done" or child.returncode:
        raise DemoError(f"the second process ended with status {child.returncode} before its first step")
    return seconds


def classify_elsewhere(net: nn.Module, digits: Digits, program: Path, cache: str, folder: Path) -> np.ndarray:
    """Exports `net` to `program`, and has `tracefuse run` compute the logits of the test set in a new process."""
    from .export import export

    export(net.eval(), (as_tensor(digits.test_x),)).save(program)
    inputs, outputs = folder / "test.npy", folder / "logits.npy"
    np.save(inputs, digits.test_x)
    child = _child(
        "-m", "tracefuse.frontend.cli", "run", str(program), str(inputs), "--output", str(outputs), cache=cache
    )
    child.communicate()
    if child.returncode:
        raise DemoError(f"`tracefuse run {program}` ended with status {child.returncode}")
    return np.load(outputs)


# ------------------------------------------------------------------ the picture


def draw(path: Path, eager: Side, compiled: Side, digits: Digits, logits: np.ndarray, title: str) -> None:
    """Loss curves of both, and predictions for the first test digits. DemoError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise DemoError(MISSING) from None
    figure = plt.figure(figsize=(12, 4.8), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.2, 1))
    left, right = halves
    axes: Any = left.subplots()
    axes.semilogy(eager.losses, label=f"eager, {eager.ms_per_step:.1f} ms/step", linewidth=3, color="#9ecae1")
    axes.semilogy(compiled.losses, label=f"compiled, {compiled.ms_per_step:.1f} ms/step", linewidth=1, color="#08306b")
    axes.set_xlabel("step")
    axes.set_ylabel("training loss")
    axes.set_title(title, fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    grid: Any = right.subplots(4, 8)
    right.suptitle("test digits and what the compiled net says", fontsize=10)
    for cell, image, scores, label in zip(grid.flat, digits.test_x, logits, digits.test_y):
        guess = int(scores.argmax())
        cell.imshow(image[0], cmap="gray_r")
        cell.set_title(str(guess), fontsize=9, color="#238b45" if guess == label else "#cb181d", pad=2)
        cell.set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


# ------------------------------------------------------------------ all of it


def versions() -> dict[str, str]:
    """Versions of Python and of the packages at work."""
    from importlib import metadata

    out = {"python": platform.python_version()}
    for name in ("tracefuse", "numpy", "llvmlite", "scikit-learn"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    from ..runtime.executable import default_target
    from ..runtime.threads import get_num_threads

    target = default_target()
    return {"system": platform.platform(), "cpu": target.cpu, "isa": target.isa, "threads": get_num_threads()}


def run(epochs: int, output: Path, stream: TextIO | None) -> dict[str, Any]:
    """The whole demo: what `--json` prints. `ok` is False when losses disagree or accuracy is low; `problems` says so.

    Writes a picture to `output` and the exported net beside it. Uses a compile cache of its own, which starts empty.
    """
    if epochs < 1:
        raise DemoError("--epochs must be at least 1")
    if not output.absolute().parent.is_dir():
        raise DemoError(f"the folder of {output} does not exist")
    digits = load_digits()
    progress = Progress(stream, epochs)
    before = os.environ.get("TRACEFUSE_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="tracefuse-demo-") as name:
        folder = Path(name)
        cache = os.environ["TRACEFUSE_CACHE_DIR"] = str(folder / "cache")
        try:
            return _run(epochs, output, progress, digits, folder, cache)
        finally:
            if before is None:
                del os.environ["TRACEFUSE_CACHE_DIR"]
            else:
                os.environ["TRACEFUSE_CACHE_DIR"] = before


def _run(epochs: int, output: Path, progress: Progress, digits: Digits, folder: Path, cache: str) -> dict[str, Any]:
    progress.say(f"{len(digits.train_x)} training digits, {len(digits.test_x)} test digits, batches of {BATCH}")
    eager, compiled = train(digits, epochs, progress)
    progress.say("trained; now a second process, and the exported net in a third one")
    warm = warm_start(cache)
    program = output.with_suffix(".tfx")
    eager_logits, logits = predict(eager.net, digits.test_x), predict(compile(compiled.net), digits.test_x)
    exported = classify_elsewhere(compiled.net, digits, program, cache, folder)
    speedup = eager.ms_per_step / compiled.ms_per_step
    draw(output, eager, compiled, digits, logits, f"{speedup:.1f}x faster steps, the same loss")
    result: dict[str, Any] = {
        "speedup": speedup,
        "ms_per_step_eager": eager.ms_per_step,
        "ms_per_step_compiled": compiled.ms_per_step,
        "accuracy_eager": accuracy(eager_logits, digits.test_y),
        "accuracy_compiled": accuracy(logits, digits.test_y),
        "accuracy_exported": accuracy(exported, digits.test_y),
        "max_loss_rel_diff": loss_difference(eager, compiled),
        "cold_compile_s": compiled.seconds[0],
        "warm_start_s": warm,
        "epochs": epochs,
        "steps": len(eager.losses),
        "picture": str(output),
        "program": str(program),
        "versions": versions(),
        "machine": machine(),
    }
    result["problems"] = _problems(result)
    result["ok"] = not result["problems"]
    return result


def _problems(r: dict[str, Any]) -> list[str]:
    out = []
    if not r["max_loss_rel_diff"] <= LOSS_TOLERANCE:
        out.append(
            f"eager and compiled losses differ by {r['max_loss_rel_diff']:.2g} (relative), over {LOSS_TOLERANCE:g}"
        )
    for which in ("eager", "compiled", "exported"):
        if r[f"accuracy_{which}"] < ACCURACY_NEEDED:
            out.append(
                f"the {which} net is right on {r[f'accuracy_{which}']:.1%} of the test digits, under {ACCURACY_NEEDED:.0%}"
            )
    return out


def report(r: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"test accuracy         eager {r['accuracy_eager']:.4f}, compiled {r['accuracy_compiled']:.4f}, "
        f"exported {r['accuracy_exported']:.4f}",
        f"largest loss change   {r['max_loss_rel_diff']:.2g} relative, over {r['steps']} steps",
        f"ms per training step  eager {r['ms_per_step_eager']:.2f}, compiled {r['ms_per_step_compiled']:.2f}",
        f"speedup               {r['speedup']:.1f}x",
        f"cold compile          {r['cold_compile_s']:.2f} s (first compiled step, nothing cached)",
        f"warm start            {r['warm_start_s']:.2f} s (a new process until its first compiled step is done)",
        f"written               {r['picture']}, {r['program']}",
    ]
    return "\n".join(lines + [f"FAILED: {p}" for p in r["problems"]])


def main(epochs: int, output: Path, as_json: bool, quiet: bool) -> int:
    """The command. Exit status: 0, or 1 when losses disagree or accuracy is low. Progress goes to stderr."""
    result = run(epochs, output, None if quiet else sys.stderr)
    print(json.dumps(result, indent=2) if as_json else report(result))
    return 0 if result["ok"] else 1
