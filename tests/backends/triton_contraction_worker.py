"""Compiles contractions for NVIDIA GPUs and prints what their machine code is made of, as JSON: a list with an object for
each schedule. Arguments: names of problems, after the number of candidates to compile of each, and of capabilities."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

from tracefuse.backends.triton.compile import compile_kernel
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import ops
from tracefuse.ir.dtypes import DType, bfloat16, float16, float32, float64, int8, int32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.kernel import Kernel
from tracefuse.ir.target import Target, cuda_target
from tracefuse.ir.types import TensorType
from tracefuse.passes.candidates_gpu import candidates
from tracefuse.passes.pipeline import compile_graph
from tracefuse.passes.tiles_gpu import shared_bytes, unit

INSTRUCTIONS = ("mma.sync", "wgmma.mma_async", "cp.async.cg", "cp.async.bulk.tensor", "ldmatrix", "cvt.rna.tf32")
WINDOW = dict(stride=(1, 1), low=(1, 1), high=(1, 1), lhs_dilation=(1, 1), rhs_dilation=(1, 1), groups=1)


def layer(x, w, b, rest):
    return ops.add(ops.gelu(ops.add(ops.matmul(x, ops.permute(w, perm=(1, 0))), b), approximate="none"), rest)


def square(dtype: DType):
    return ops.matmul, ((dtype, (4096, 4096)), (dtype, (4096, 4096)))


def layers(dtype: DType):
    return layer, tuple((dtype, s) for s in ((1000, 4096), (4096, 4096), (4096,), (1000, 4096)))


def convolution(dtype: DType, image: tuple[int, ...], filters: tuple[int, ...], **changes):
    return lambda x, w: ops.conv(x, w, **{**WINDOW, **changes}), ((dtype, image), (dtype, filters))


PROBLEMS: dict[str, tuple[Callable, tuple]] = {
    **{f"square_{d}": square(d) for d in (bfloat16, float32, float64, int8, int32)},
    **{f"layer_{d}": layers(d) for d in (float16, float32, float64)},
    "few_rows": (ops.matmul, ((bfloat16, (8, 4096)), (bfloat16, (4096, 4096)))),
    "batches": (ops.matmul, ((float16, (96, 1000, 64)), (float16, (96, 64, 1000)))),
    "odd": (ops.matmul, ((float16, (333, 77)), (float16, (77, 251)))),
    "conv_f16": convolution(float16, (32, 64, 56, 56), (64, 64, 3, 3)),
    "conv_f32": convolution(float32, (32, 64, 56, 56), (64, 64, 3, 3)),
    "first_conv": convolution(float32, (32, 3, 224, 224), (64, 3, 7, 7), stride=(2, 2)),
    "filter_gradient": convolution(float32, (64, 32, 56, 56), (64, 32, 56, 56)),
}


def contraction(name: str, target: Target) -> Kernel:
    function, types = PROBLEMS[name]
    builder = GraphBuilder(name)
    inputs = [builder.input(TensorType(dtype, shape), f"x{k}") for k, (dtype, shape) in enumerate(types)]
    with builder:
        out = function(*inputs)
    plan = compile_graph(builder.finish([out]), target)
    return next(s.kernel for s in plan.steps if getattr(s, "kernel", None) is not None and s.kernel.anchor is not None)


def main(most: int, capabilities: list[int], names: list[str]) -> None:
    out = []
    for capability in capabilities:
        target = cuda_target(capability)
        for name in names:
            kernel = contraction(name, target)
            assert kernel.anchor is not None and target.gpu is not None
            for k, schedule in enumerate(candidates(kernel, target)[:most]):
                done = compile_kernel(lower_kernel(kernel, schedule, target), capability)
                how = unit(kernel.anchor, target.gpu, schedule.precision)
                out.append(
                    {
                        "problem": name,
                        "capability": capability,
                        "candidate": k,
                        "schedule": str(schedule),
                        "registers": done.registers,
                        "spills": done.spills,
                        "shared": done.shared,
                        "expected_shared": shared_bytes(schedule, how),
                        "persistent": schedule.persistent,
                        "scratch": done.scratch,
                        "shared_limit": target.gpu.block_shared,
                        **{i: len(re.findall(re.escape(i), done.ptx)) for i in INSTRUCTIONS},
                    }
                )
    print(json.dumps(out))


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(c) for c in sys.argv[2].split(",")], sys.argv[3:] or list(PROBLEMS))
