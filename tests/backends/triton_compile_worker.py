"""Compiles representative kernels for NVIDIA GPUs and prints what they take, as JSON. A process that interprets Triton
kernels cannot compile them, so tests run this one."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import hand_kernels
from tracefuse.backends.triton.compile import compile_kernel
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import DType, bfloat16, float16, float32, float64, int32, int64
from tracefuse.ir.graph import GraphBuilder, Value
from tracefuse.ir.kernel import Kernel
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.passes.schedule_gpu import schedule

N, M = 512, 1000


def kernels() -> Iterator[tuple[str, Kernel]]:
    n, m = dim.symbol("n", 1), dim.symbol("m", 1)
    yield "softmax", hand_kernels.softmax(N, M)
    yield "softmax_long", hand_kernels.softmax(N, 50_000)
    yield "softmax_symbolic", hand_kernels.softmax(n, m)
    yield "layer_norm_backward", hand_kernels.layer_norm_backward(N, M)
    yield "layer_norm_weights", hand_kernels.layer_norm_weights(N, M)
    yield "argmax", hand_kernels.argmax(N, M)
    yield "argmax_symbolic", hand_kernels.argmax(n, m)
    yield "concat_gather", hand_kernels.concat_gather(N, M, 24, 9)
    for dtype in (float16, bfloat16, float32, float64):
        yield f"gelu_{dtype}", kernel_of(lambda x: ops.gelu(x, approximate="none"), (dtype, (N, M)))
        yield f"matmul_{dtype}", kernel_of(ops.matmul, (dtype, (3, N, 70)), (dtype, (70, M)))
    yield "matmul_int", kernel_of(ops.matmul, (int32, (N, 70)), (int32, (70, M)))
    yield "layer_norm", kernel_of(ops.layer_norm, (float32, (N, M)), (float32, (M,)), (float32, (M,)))
    yield "mod", kernel_of(ops.mod, (float32, (N,)), (float32, (N,)))
    yield "cumsum", kernel_of(lambda x: ops.cumsum(x, axis=1), (float32, (N, M)))
    yield "cumprod_long", kernel_of(lambda x: ops.cumprod(x, axis=1), (int64, (4, 50_000)))
    yield "cumsum_columns", kernel_of(lambda x: ops.cumsum(x, axis=0), (bfloat16, (N, M)))
    rows, places = (float32, (N, 64)), (int64, (40,))
    for mode in ("add", "set"):
        update = functools.partial(ops.scatter, mode=mode)
        yield f"scatter_{mode}", kernel_of(update, rows, (float32, (40, 64)), places)
    yield "scatter_int", kernel_of(functools.partial(ops.scatter, mode="add"), (int64, (N,)), (int64, (40,)), places)
    order = functools.partial(ops.argsort, axis=0, descending=False)
    yield "sort", kernel_of(functools.partial(order, axis=1), (float32, (N, 100)), op="sort_rows")
    yield "merge", kernel_of(order, (float32, (4096,)), op="merge_runs")
    yield "search", kernel_of(ops.searchsorted, (float32, (N,)), (float32, (M,)))


def variants() -> Iterator[tuple[str, Kernel, dict[str, Any]]]:
    """Kernels, and what is known of their launches."""
    for name, kernel in kernels():
        yield name, kernel, {}
    n, m = dim.symbol("n", 1), dim.symbol("m", 1)
    yield "softmax_narrow", hand_kernels.softmax(n, m), {"index_bits": 32, "multiples": {m}}
    yield "softmax_unaligned", hand_kernels.softmax(N, M), {"unaligned": {"x"}}


def kernel_of(function, *types: tuple[DType, tuple[int, ...]], op: str = "") -> Kernel:
    """The last kernel of a function's plan, or the first one with an op."""
    builder = GraphBuilder("f")
    inputs = [builder.input(TensorType(dtype, shape), f"x{k}") for k, (dtype, shape) in enumerate(types)]
    with builder:
        out = function(*inputs)
    outs = [out] if isinstance(out, Value) else list(out)
    found = [s.kernel for s in compile_graph(builder.finish(outs), CUDA_SM90).kernel_steps]
    return next(k for k in found if op in k.ops) if op else found[-1]


def access_widths(ptx: str) -> list[int]:
    """The sizes in bytes of what one thread reads or writes at once in global memory."""
    found = re.findall(r"\b(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[a-z]+(\d+)", ptx)
    return sorted({int(count or 1) * int(bits) // 8 for count, bits in found})


def main(capabilities: list[int]) -> None:
    out = {}
    for name, kernel, known in variants():
        lowered = lower_kernel(kernel, schedule(kernel, CUDA_SM90), CUDA_SM90, **known)
        for capability in capabilities:
            done = compile_kernel(lowered, capability)
            out[f"{name} sm_{capability}"] = {
                "bytes": len(done.cubin),
                "elf": done.cubin[:4] == b"\x7fELF",
                "registers": done.registers,
                "spills": done.spills,
                "shared": done.shared,
                "widths": access_widths(done.ptx),
            }
    print(json.dumps(out))


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]])
