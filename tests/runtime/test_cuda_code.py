"""Machine code of kernels for NVIDIA's devices: compiled beside each other, and kept on disk."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from tracefuse.backends.triton.lowered import TritonKernel
from tracefuse.ir import dim
from tracefuse.ir.dtypes import float32
from tracefuse.runtime.cuda import compiling
from tracefuse.runtime.cuda.code import Image, KernelCode, _pack, _unpack

WORKER = Path(__file__).with_name("cuda_compile_worker.py")


def run(folder: Path, *arguments: str) -> dict:
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "TRACEFUSE_CUDA")}
    environment |= {"TRACEFUSE_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
    done = subprocess.run([sys.executable, str(WORKER), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_process_that_finds_its_kernels_never_imports_triton(tmp_path):
    cold = run(tmp_path, "triton", "2")
    assert cold["compiled"] == 2 and cold["hits"] == 0 and cold["elf"]
    assert cold["parameters"] == [4, 4]  # x, y, and two that Triton adds
    warm = run(tmp_path, "no-triton", "2")
    assert warm["hits"] == 2 and warm["compiled"] == 0 and warm["elf"] and not warm["triton"]


@pytest.mark.skipif(compiling._cores() < 2, reason="one core compiles here")
def test_many_kernels_are_compiled_by_other_processes(tmp_path):
    """So this one needs no Triton even when nothing is on disk."""
    done = run(tmp_path, "no-triton", "5")
    assert done["compiled"] == 5 and done["elf"] and not done["triton"]
    assert done["breaths"] >= 5


def kernel(source: str) -> TritonKernel:
    return TritonKernel("k", source, (("x", float32),), (), (), (), (1,))


GOOD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef k(x):\n    tl.store(x, {0})\n"


@pytest.mark.skipif(compiling._cores() < 2, reason="one core compiles here")
def test_what_the_compiler_says_in_another_process_comes_back():
    kernels = [kernel(GOOD.format(i)) for i in range(3)] + [kernel(GOOD.format("unheard_of"))]
    with pytest.raises(RuntimeError, match="unheard_of"):
        compiling.compile_images(kernels, 90)


@pytest.mark.skipif(compiling._cores() < 2, reason="one core compiles here")
def test_compiling_can_be_given_up():
    class Enough(Exception):
        pass

    def breathe() -> None:
        raise Enough

    with pytest.raises(Enough):
        compiling.compile_images([kernel(GOOD.format(i)) for i in range(6)], 90, breathe)


def test_entries_hold_what_launches_need():
    n = dim.symbol("n", 1)
    image = Image(b"\x7fELF\n\0", "k_1", 128, 99_000, 64, 5)
    code = KernelCode("k", (("x", 4), ("y", 1)), ("n",), (dim.ceildiv(n, 64), 3), image)
    found = _unpack(_pack(code))
    assert found is not None and found.image == image and found.buffers == code.buffers and found.dims == ("n",)
    assert found.programs({"n": 130}) == (3, 3, 1)


@pytest.mark.parametrize("entry", [b"", b"{}\n", b"[1]\nxx", b'{"name": "k"}\nxx', b"\xff\xfe\n"])
def test_damaged_entries_are_misses(entry):
    assert _unpack(entry) is None


def test_devices_that_triton_does_not_know_get_ptx(monkeypatch):
    """Their driver compiles it. What fails for known devices too is the kernel's fault."""
    from tracefuse.backends.triton import compile as backend

    def compile_code(kernel, capability):
        if capability > 120 or "bad" in kernel.source:
            raise ValueError(f"{kernel.source} for {capability}")
        return backend.Code("k", b"cubin", "ptx", 128, 0, 0, 1, 3)

    monkeypatch.setattr(backend, "compile_code", compile_code)
    assert compiling.compile_image(kernel("good"), 90).data == b"cubin"
    assert compiling.compile_image(kernel("good"), 130).data == b"ptx\0"
    with pytest.raises(ValueError, match="bad for 130"):
        compiling.compile_image(kernel("bad"), 130)
