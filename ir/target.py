"""What code is generated for: instruction set, vector width, registers, caches."""

from __future__ import annotations

from dataclasses import dataclass

from .dtypes import DType


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for. Part of every cache key.

    isa: the class that fixes reduction order ("avx512", "avx2", "neon", "scalar", "cuda"). vector_bytes: width of a
    vector register. registers: how many of them. l1, l2: data cache bytes of one core. masked: whether masked loads and
    stores are cheap. unordered_sums: whether sums of scattered floats may be added up in any order, which is faster, and
    gives other last bits every time (on GPUs).
    """

    isa: str
    triple: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    l1: int = 32 * 1024
    l2: int = 1024 * 1024
    masked: bool = False
    unordered_sums: bool = False

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in a vector register."""
        return max(1, self.vector_bytes // max(1, dtype.itemsize))

    @property
    def key(self) -> str:
        unordered = " unordered" if self.unordered_sums else ""
        return f"{self.isa} {self.triple} {self.cpu} {self.features}{unordered}"


AVX512 = Target("avx512", "x86_64-unknown-linux-gnu", "skylake-avx512", "", 64, 32, masked=True)
AVX2 = Target("avx2", "x86_64-unknown-linux-gnu", "haswell", "", 32, 16)
NEON = Target("neon", "aarch64-unknown-linux-gnu", "generic", "+neon", 16, 32, l1=64 * 1024)
CUDA_SM90 = Target("cuda", "nvptx64-nvidia-cuda", "sm_90", "", 128, 255)
