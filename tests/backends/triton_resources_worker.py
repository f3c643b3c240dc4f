"""Compiles a kernel that spills and one that does not, and prints as JSON what the cubin and NVIDIA's tool say of it."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path

from tracefuse.backends.triton.compile import compile_kernel
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import ops
from tracefuse.ir.dtypes import float32
from tracefuse.ir.kernel import Schedule
from tracefuse.ir.target import CUDA_SM90
from triton_compile_worker import kernel_of


def said_by_tool(cubin: bytes) -> tuple[int, int] | None:
    """Registers and stack; None if Triton came without the tool."""
    import triton.backends.nvidia

    tool = Path(triton.backends.nvidia.__file__).with_name("bin") / "cuobjdump"
    if not tool.exists():
        return None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def main() -> None:
    kernel = kernel_of(ops.tan, (float32, (70_000,)))
    out = []
    for block in (256, 8192):
        done = compile_kernel(lower_kernel(kernel, Schedule(blocks=(block,), warps=4), CUDA_SM90), 90)
        out.append({"registers": done.registers, "spills": done.spills, "tool": said_by_tool(done.cubin)})
    print(json.dumps(out))


if __name__ == "__main__":
    main()
