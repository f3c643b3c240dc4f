"""Memory-bound kernels at full size, beside the time that a plain copy of the same bytes takes (the floor).

python benchmarks/kernels.py
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import tracefuse.nn.functional as F
from common import in_turns, median, peer, quick, setting, table

import tracefuse as tr


def gelu_bias(x: Any, bias: Any) -> Any:
    return F.gelu(x + bias)


def softmax(x: Any) -> Any:
    return F.softmax(x, -1)


def ln_res_gelu(x: Any, residual: Any, weight: Any, bias: Any) -> Any:
    return F.gelu(F.layer_norm(x + residual, (x.shape[-1],), weight, bias))


CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "gelu_bias 4096x4096": (gelu_bias, ((4096, 4096), (4096,))),
    "softmax 4096x4096": (softmax, ((4096, 4096),)),
    "ln_res_gelu 8192x1024": (ln_res_gelu, ((8192, 1024), (8192, 1024), (1024,), (1024,))),
}


def torch_functions(torch: Any) -> dict[str, Callable[..., Any]]:
    f = torch.nn.functional
    return {
        "gelu_bias 4096x4096": lambda x, b: f.gelu(x + b),
        "softmax 4096x4096": lambda x: f.softmax(x, -1),
        "ln_res_gelu 8192x1024": lambda x, r, w, b: f.gelu(f.layer_norm(x + r, (x.shape[-1],), w, b)),
    }


def copy_floor(read: int, written: int) -> Callable[[], Any]:
    """A call that moves as many bytes as the kernel: a compiled negation, half of them each way, with every thread."""
    n = (read + written) // 8
    source = tr.asarray(np.ones(n, np.float32))
    return lambda copy=tr.compile(lambda x: -x, fullgraph=True): copy(source)


def memcpy(read: int, written: int) -> Callable[[], Any]:
    """The C library's copy of as many bytes, one thread, into memory that has been touched."""
    n = (read + written) // 2
    source, target = np.ones(n, np.uint8), np.ones(n, np.uint8)
    return lambda: ctypes.memmove(target.ctypes.data, source.ctypes.data, n)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--compile-torch", action="store_true", help="torch.compile too (needs a C++ compiler)")
    a = p.parse_args()
    from tracefuse.runtime.threads import get_num_threads

    torch = peer("torch")
    if torch is not None:
        torch.set_num_threads(get_num_threads())
    rows = []
    rng = np.random.default_rng(0)
    for name, (function, shapes) in CASES.items():
        arrays = [rng.standard_normal(s, np.float32) for s in shapes]
        tensors = [tr.asarray(x) for x in arrays]
        read, written = sum(x.nbytes for x in arrays), arrays[0].nbytes
        compiled = tr.compile(function, fullgraph=True)
        sides: dict[str, Callable[[], Any]] = {
            "tracefuse": lambda c=compiled, t=tensors: c(*t),
            "streaming copy (floor)": copy_floor(read, written),
            "memcpy": memcpy(read, written),
            "tracefuse eager": lambda f=function, t=tensors: f(*t),
        }
        if torch is not None:
            given = [torch.tensor(x) for x in arrays]
            plain = torch_functions(torch)[name]
            sides["torch eager"] = lambda f=plain, g=given: f(*g)
            if a.compile_torch:
                fused = torch.compile(plain)
                sides["torch.compile"] = lambda f=fused, g=given: f(*g)
        with tr.no_grad():
            error = np.max(np.abs(np.asarray(compiled(*tensors)) - np.asarray(function(*tensors))))
            times = in_turns(sides, a.rounds)
        floor = median(times["streaming copy (floor)"])
        for side, t in times.items():
            rate = (read + written) / median(t) / 1e9
            shown = f"{error:.1g}" if side == "tracefuse" else ""
            rows.append(
                [f"{name}: {side}", quick(median(t)), quick(min(t)), f"{rate:.1f}", f"{median(t) / floor:.2f}x", shown]
            )
    print(setting("torch"))
    head = ["kernel", "median", "best", "GB/s", "of the floor", "max error"]
    print(table("Memory-bound kernels; every tensor counted once", head, rows))


if __name__ == "__main__":
    main()
