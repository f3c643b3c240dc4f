"""Every environment variable that tracefuse reads. `in_key`: whether its value is part of cache keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Knob:
    name: str
    default: str
    meaning: str
    in_key: bool = False

    def get(self) -> str:
        return os.environ.get(self.name, self.default)


KNOBS = {
    k.name: k
    for k in (
        Knob(
            "TRACEFUSE_DEBUG",
            "0",
            "1: a line per capture, fallback, compile; 2: graphs; 3: kernels; 4: LLVM IR; 5: assembly",
        ),
        Knob("TRACEFUSE_DUMP", "", "folder that gets the graphs, kernels, plan, LLVM IR and assembly of all compiled"),
        Knob("TRACEFUSE_VERIFY", "0", "1: check the graph after every pass"),
        Knob("TRACEFUSE_FUEL", "", "at most this many rewrites and fusions (to bisect a wrong result)", True),
        Knob("TRACEFUSE_DISABLE", "", "comma-separated names of passes to leave out", True),
        Knob("TRACEFUSE_CACHE_DIR", "", "where compiled objects are kept; default ~/.cache/tracefuse; 'off': nowhere"),
        Knob("TRACEFUSE_CACHE_LIMIT", "1073741824", "bytes the disk cache may hold"),
        Knob("TRACEFUSE_CODE_LIMIT", "1073741824", "bytes of machine code in memory; the traces called last are kept"),
        Knob("TRACEFUSE_NUM_THREADS", "", "threads of the CPU pool; default: the CPUs this process may use"),
        Knob(
            "TRACEFUSE_CUDA", "", "interpret: emulate a GPU by Triton's interpreter (slow, for tests); interpret:2: two"
        ),
        Knob("TRACEFUSE_TARGET", "", "generate code for avx512, avx2 or scalar instead of this CPU's best", True),
    )
}


def flag(name: str) -> bool:
    return KNOBS[name].get() not in ("", "0")


def number(name: str, default: int, least: int | None = None) -> int:
    """The knob as an integer; `default` when unset. ValueError names the variable: no integer, or below `least`."""
    text = KNOBS[name].get()
    try:
        value = int(text) if text else default
    except ValueError:
        raise ValueError(f"{name}={text!r} is not an integer ({KNOBS[name].meaning})") from None
    if least is not None and value < least:
        raise ValueError(f"{name}={text!r} is below {least} ({KNOBS[name].meaning})")
    return value


def names(name: str, known: frozenset[str]) -> frozenset[str]:
    """The knob as a set of names out of `known`. ValueError names the variable, and what is not known."""
    found = frozenset(part.strip() for part in KNOBS[name].get().split(",")) - {""}
    if found - known:
        unknown, choice = ", ".join(sorted(found - known)), ", ".join(sorted(known))
        raise ValueError(f"{name}={KNOBS[name].get()!r}: {unknown} is not one of {choice}")
    return found


def cache_dir() -> Path | None:
    """The disk cache's folder, or None when it is switched off."""
    text = KNOBS["TRACEFUSE_CACHE_DIR"].get()
    if text == "off":
        return None
    if text:
        return Path(text).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "tracefuse"


def key() -> str:
    """The values of all knobs that change generated code."""
    return ";".join(f"{k.name}={k.get()}" for k in KNOBS.values() if k.in_key)
