"""Compiles Triton kernels to machine code for NVIDIA GPUs. Needs neither a GPU nor PyTorch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .cubin import resources
from .launch import load_function
from .lowered import TritonKernel

# The passes contract multiply-adds themselves, and error-free sums must stay as they are; subnormals count.
OPTIONS = {"enable_fp_fusion": False, "enable_reflect_ftz": False}


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """Machine code of one kernel and what it takes from a multiprocessor.

    shared: bytes of shared memory of a program. registers: of one thread. spills: bytes of a thread's stack, for lack of
    registers. `symbol` is the kernel's name in the cubin.

    scratch: bytes of device memory that each program needs, aligned to `scratch_alignment`: descriptors of what the hardware
    copies for it. A launch passes two more pointers behind the arguments: to the scratch of all its programs (any, if there
    is none), and to that of a profiler (none).
    """

    symbol: str
    cubin: bytes
    ptx: str
    threads: int
    shared: int
    registers: int
    spills: int
    scratch: int = 0
    scratch_alignment: int = 1


@dataclass(frozen=True, slots=True)
class Code:
    """Machine code of one kernel, `symbol`, and what its launches need. scratch: bytes of device memory of each program.
    parameters: of the kernel: more than it was given, as Triton adds addresses of scratch memory."""

    symbol: str
    cubin: bytes
    ptx: str
    threads: int
    shared: int
    scratch: int
    scratch_alignment: int
    parameters: int


def compile_kernel(kernel: TritonKernel, capability: int = 90) -> CompiledKernel:
    """Compiles for a compute capability (80 for sm_80), and tells what the code takes. RuntimeError in a process that
    interprets kernels."""
    code = compile_code(kernel, capability)
    registers, stack = resources(code.cubin)
    spills = max(0, stack - _declared(code.ptx))
    return CompiledKernel(
        code.symbol,
        code.cubin,
        code.ptx,
        code.threads,
        code.shared,
        registers,
        spills,
        code.scratch,
        code.scratch_alignment,
    )


def compile_code(kernel: TritonKernel, capability: int = 90) -> Code:
    """Compiles for a compute capability. RuntimeError in a process that interprets kernels."""
    import triton.knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_source

    if triton.knobs.runtime.interpret:
        raise RuntimeError("this process interprets Triton kernels (TRITON_INTERPRET=1); compile in another one")
    function = load_function(kernel.name, kernel.source)
    source = ASTSource(function, kernel.signature, dict(kernel.constexprs), kernel.attrs)
    options: dict[str, Any] = {**OPTIONS, "num_warps": kernel.num_warps, "num_stages": kernel.num_stages}
    out: Any = compile_source(source, target=GPUTarget("cuda", capability, 32), options=options)
    metadata, ptx = out.metadata, out.asm["ptx"]
    return Code(
        metadata.name, out.asm["cubin"], ptx, metadata.num_warps * 32, metadata.shared, metadata.global_scratch_size,
        metadata.global_scratch_align, ptx.partition(".entry")[2].partition(")")[0].count(".param "),
    )  # fmt: skip


def _declared(ptx: str) -> int:
    """Bytes of the arrays that functions have on the stack: library functions work on some."""
    return sum(int(n) for n in re.findall(r"^\s*\.local .*\[(\d+)\];", ptx, re.MULTILINE))
