"""Runs a graph on a device that stands in for NVIDIA's, with real machine code (which is loaded, not run), and prints how
many kernels were compiled. Tests run it as a program, since a process that interprets Triton kernels can't compile any.

Usage: cuda_compile_worker.py <no-triton | triton> <number of graphs>
"""

from __future__ import annotations

import json
import sys
import types

if sys.argv[1] == "no-triton":
    sys.modules["triton"] = None  # type: ignore[assignment]

from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.runtime.cuda.code import Counts, Work, machine_code


def work(count: int) -> list:
    """As many kernels, no two alike."""
    out = []
    for k in range(count):
        builder = GraphBuilder("f")
        x = builder.input(TensorType(float32, (8, 16 + k)), "x")
        with builder:
            result = ops.softmax(x, axis=1)
        out += [Work(s.kernel, s.schedule) for s in compile_graph(builder.finish([result]), CUDA_SM90).kernel_steps]
    return out


def main() -> None:
    counts = Counts()
    breaths: list[int] = []
    codes = machine_code(work(int(sys.argv[2])), CUDA_SM90, counts, lambda: breaths.append(1))
    images = [c.image for c in codes if c.image is not None]
    print(
        json.dumps(
            {
                "hits": counts.hits,
                "compiled": counts.compiled,
                "elf": all(i.data[:4] == b"\x7fELF" for i in images) and len(images) == len(codes),
                "parameters": [i.parameters for i in images],
                "breaths": len(breaths),
                "triton": isinstance(sys.modules.get("triton"), types.ModuleType),
            }
        )
    )


main()
