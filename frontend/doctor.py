"""`tracefuse doctor`: what this installation runs with, and whether compiled code works here."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

PACKAGES = ("tracefuse", "numpy", "llvmlite", "networkx", "ml_dtypes", "safetensors", "triton", "cuda-core")


def checks() -> dict[str, Any]:
    """Versions, target, threads, entry, cache and settings, as JSON takes them; `ok`: compiling and running works."""
    out: dict[str, Any] = {"python": f"{platform.python_version()} ({sys.executable})", "system": platform.platform()}
    out["packages"] = {name: _version(name) for name in PACKAGES}
    for name, check in (
        ("target", _target),
        ("threads", _threads),
        ("entry", _entry),
        ("cache", _cache),
        ("try", _try),
    ):
        try:
            out[name] = check()
        except Exception as e:  # this command is for machines on which something is wrong
            out[name] = {"error": f"{type(e).__name__}: {e}"}
    out["knobs"] = _knobs()
    out["ok"] = not any("error" in out[name] for name in ("target", "threads", "entry", "cache", "try"))
    return out


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _target() -> dict[str, Any]:
    from ..runtime.executable import default_target

    t = default_target()
    return {"isa": t.isa, "cpu": t.cpu, "triple": t.triple, "vector_bits": t.vector_bytes * 8, "l1": t.l1, "l2": t.l2}


def _threads() -> dict[str, Any]:
    from ..runtime.threads import available_cpus, get_num_threads, max_threads

    return {"used": get_num_threads(), "most": max_threads(), "cpus": available_cpus()}


def _entry() -> dict[str, Any]:
    from ..runtime.entry import is_native, why_not_native

    native = is_native()
    return {"native": native, "why_not": "" if native else why_not_native()}


def _cache() -> dict[str, Any]:
    from ..runtime import knobs
    from ..runtime.cache import disk_cache

    cache = disk_cache("")
    if cache.folder is None:
        return {"folder": None}
    count, size = cache.size()
    nearest = cache.folder
    while not nearest.exists() and nearest.parent != nearest:
        nearest = nearest.parent
    return {
        "folder": str(cache.folder),
        "entries": count,
        "bytes": size,
        "limit": knobs.number("TRACEFUSE_CACHE_LIMIT", 1 << 30),
        "writable": os.access(nearest, os.W_OK),
    }


def _try() -> dict[str, Any]:
    """Compiles and runs one small program."""
    import time

    import numpy as np

    from ..ir import ops
    from ..ir.dtypes import float32
    from ..ir.graph import GraphBuilder
    from ..ir.types import TensorType
    from ..runtime.executable import build

    b = GraphBuilder("doctor")
    x = b.input(TensorType(float32, (1000,)), "x")
    with b:
        y = ops.exp(ops.neg(ops.mul(x, x)))
    start = time.perf_counter()
    executable = build(b.finish([y]))
    seconds = time.perf_counter() - start
    given = np.linspace(-2, 2, 1000, dtype=np.float32)
    (found,) = executable.run([given])
    if found is None or not np.allclose(found, np.exp(-given * given), rtol=1e-5):
        raise ArithmeticError("a compiled exp(-x*x) is wrong")
    return {"compiled_in_s": round(seconds, 3)}


def _knobs() -> dict[str, dict[str, str]]:
    from ..runtime.knobs import KNOBS

    return {k.name: {"value": k.get(), "set": str(k.name in os.environ), "meaning": k.meaning} for k in KNOBS.values()}


def report(found: dict[str, Any]) -> str:
    """What `checks` found, for people."""
    lines = [f"python    {found['python']}", f"system    {found['system']}"]
    packages = ", ".join(f"{n} {v}" for n, v in found["packages"].items() if v)
    missing = ", ".join(n for n, v in found["packages"].items() if not v)
    lines.append(f"packages  {packages}" + (f"; not installed: {missing}" if missing else ""))
    for name in ("target", "threads", "entry", "cache", "try"):
        lines.append(f"{name:<9} {', '.join(f'{k} {v}' for k, v in found[name].items() if v != '')}")
    lines.append("knobs")
    for name, knob in found["knobs"].items():
        mark = "*" if knob["set"] == "True" else " "
        lines.append(f" {mark}{name:<24} {knob['value'] or '-':<12} {knob['meaning']}")
    lines.append("compiled code works here" if found["ok"] else "something is wrong: see the errors above")
    return "\n".join(lines)
