"""What the scripts here share: timing in turns, peers that may be missing, tables."""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def peer(name: str) -> Any | None:
    """A package, or None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:
        return None


def in_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, seconds_a_round: float = 0.0
) -> dict[str, list[float]]:
    """Seconds a call of every side, by round. A round of a side repeats the call until `seconds_a_round` have passed."""
    repeats = {}
    for name, call in sides.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds_a_round / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            n = repeats[name]
            start = time.perf_counter()
            for _ in range(n):
                call()
            times[name].append((time.perf_counter() - start) / n)
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


def quick(seconds: float) -> str:
    """A time with three digits and a unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(r[k]) for r in [head, *rows]) for k in range(len(head))]

    def line(cells: list[str]) -> str:
        first, *others = [c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths))]
        return f"| {' | '.join([first, *others])} |"

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])]) + "|"
    return "\n".join([title, "", line(head), rule, *map(line, rows)])


def setting(*packages: str) -> str:
    """One line about machine and versions."""
    from importlib import metadata

    from tracefuse.runtime.executable import default_target
    from tracefuse.runtime.threads import get_num_threads

    found = []
    for name in ("tracefuse", "numpy", *packages):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    target = default_target()
    cpu = f"{target.cpu} ({target.isa}), {os.cpu_count()} CPUs, {get_num_threads()} threads"
    return f"{cpu}; Python {platform.python_version()}, {', '.join(found)}"
