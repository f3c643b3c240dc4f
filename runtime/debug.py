"""TRACEFUSE_DEBUG: what the compiler does, on stderr, one line for each event."""

from __future__ import annotations

import sys

from . import knobs


def level() -> int:
    """How much is to be printed. ValueError when the variable holds no number."""
    return knobs.number("TRACEFUSE_DEBUG", 0, 0)


def say(text: str) -> None:
    """Prints an event, whatever the level."""
    print(f"tracefuse: {text}", file=sys.stderr, flush=True)


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"
