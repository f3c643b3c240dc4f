"""Compiles Triton kernels to machine code for NVIDIA GPUs. Needs neither a GPU nor PyTorch."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .launch import load_function
from .lowered import TritonKernel

# The passes contract multiply-adds themselves, and error-free sums must stay as they are; subnormals count.
OPTIONS = {"enable_fp_fusion": False, "enable_reflect_ftz": False}


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """Machine code of one kernel and what it takes from a multiprocessor.

    shared: bytes of shared memory of a program. registers: of one thread. spills: bytes a thread stores to memory for
    lack of registers. `symbol` is the kernel's name in the cubin.
    """

    symbol: str
    cubin: bytes
    ptx: str
    threads: int
    shared: int
    registers: int
    spills: int


def compile_kernel(kernel: TritonKernel, capability: int = 90) -> CompiledKernel:
    """Compiles for a compute capability (80 for sm_80). RuntimeError in a process that interprets kernels."""
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
    registers, spills = _resources(out.asm["ptx"], capability)
    metadata = out.metadata
    return CompiledKernel(
        metadata.name, out.asm["cubin"], out.asm["ptx"], metadata.num_warps * 32, metadata.shared, registers, spills
    )


def _resources(ptx: str, capability: int) -> tuple[int, int]:
    """Registers and bytes of spill stores of a thread, as ptxas reports them."""
    from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability

    tool, architecture = get_ptxas(capability), sm_arch_from_capability(capability)
    with tempfile.TemporaryDirectory(prefix="tracefuse-ptxas-") as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [
            tool.path,
            "-v",
            "--fmad=false",
            f"--gpu-name={architecture}",
            str(path),
            "-o",
            str(Path(folder) / "out"),
        ]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores", report)
    return int(registers[1]) if registers else 0, int(spills[1]) if spills else 0
