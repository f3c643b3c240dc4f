"""Compiles attention and its gradients for NVIDIA GPUs and prints what the kernels take, as JSON. With "all", for more types,
masks and sizes. A process that interprets Triton kernels cannot compile them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tracefuse.backends.triton.compile import compile_kernel
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir.dtypes import DType, bfloat16, bool_, float16, float32, uint64
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.plan import Step
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph

OPS = ("attention", "attention_queries", "attention_keys")
RAGGED, WHOLE = 1000, 1024  # lengths: the last block is cut off, or not
Case = tuple[str, DType, int, int, str, int]  # op, type, elements of a head, compute capability, mode, length


def few() -> Iterator[Case]:
    for op, size, mode in zip(OPS, (128, 64, 128), ("causal", "added", "causal")):
        for capability in (80, 90):
            yield op, bfloat16, size, capability, mode, RAGGED


def many() -> Iterator[Case]:
    for op in OPS:
        for capability in (80, 90):
            for size in (64, 80, 128, 256):
                yield op, bfloat16, size, capability, "causal", WHOLE
            yield op, float16, 128, capability, "causal", WHOLE
            for mode in ("bool", "added", "dropout"):
                for size in (64, 128):
                    yield op, bfloat16, size, capability, mode, WHOLE
            for size in (64, 128, 256):
                yield op, float32, size, capability, "causal", WHOLE


def step_of(op: str, dtype: DType, size: int, capability: int, mode: str, length: int) -> Step:
    attrs = {"scale": 0.1, "causal": mode == "causal", "dropout": 0.1 if mode == "dropout" else 0.0}
    operands = [TensorType(dtype, (2, 4, length, size))] * 3
    mask = {"bool": bool_, "added": dtype}
    more = [TensorType(mask[mode], (length, length))] if mode in mask else []
    more += [TensorType(uint64, (2,))] if mode == "dropout" else []
    if op != "attention":
        out, lse = REGISTRY["attention"].result_types((*operands, *more), attrs)
        operands = [out, *operands, lse, lse]
    b = GraphBuilder(op)
    values = tuple(b.input(t, f"x{k}") for k, t in enumerate([*operands, *more]))
    target = replace(CUDA_SM90, cpu=f"sm_{capability}")
    (step,) = compile_graph(b.finish(b.emit(REGISTRY[op], values, attrs)), target).steps
    assert isinstance(step, Step)
    return step


def found(case: Case) -> dict[str, Any]:
    step, capability = step_of(*case), case[3]
    done = compile_kernel(
        lower_kernel(step.kernel, step.schedule, replace(CUDA_SM90, cpu=f"sm_{capability}")), capability
    )
    return {
        "elf": done.cubin[:4] == b"\x7fELF",
        "registers": done.registers,
        "spills": done.spills,
        "shared": done.shared,
        "products": next((name for name in ("wgmma", "mma.sync") if name in done.ptx), ""),
    }


if __name__ == "__main__":
    chosen = many() if sys.argv[1:] == ["all"] else few()
    print(json.dumps({" ".join(map(str, case)): found(case) for case in chosen}, indent=1))
