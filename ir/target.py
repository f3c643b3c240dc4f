"""What code is generated for: instruction set, vector width, registers, caches; multiprocessors of GPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .dtypes import DType


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU has, for choosing among schedules: some numbers are rough.

    multiprocessors: how many. shared: bytes of shared memory in one; block_shared: the most that one program may have of
    it. bandwidth: of memory, in bytes a second. Operations a second: half_flops of tensor cores on 16-bit floats,
    float_flops and double_flops without them (of doubles: with them, where they take doubles). copies: whether the hardware
    copies blocks of matrices by itself.
    """

    multiprocessors: int
    shared: int
    block_shared: int
    bandwidth: float
    half_flops: float
    float_flops: float
    double_flops: float
    copies: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to generate code for. Part of every cache key.

    isa: the class that fixes reduction order ("avx512", "avx2", "neon", "scalar", "cuda"). vector_bytes: width of a
    vector register. registers: how many of them. l1, l2: data cache bytes of one core. masked: whether masked loads and
    stores are cheap. gpu: None for CPUs; `cpu` is a compute capability otherwise ("sm_90"), and registers are a thread's.
    precision: how GPUs multiply float32, as in `Schedule`. unordered_sums: whether they may add up sums of scattered floats
    in any order, which is faster, and gives other last bits every time.
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
    gpu: Gpu | None = None
    precision: str = "tf32x3"
    unordered_sums: bool = False

    def lanes(self, dtype: DType) -> int:
        """Elements of `dtype` in a vector register."""
        return max(1, self.vector_bytes // max(1, dtype.itemsize))

    @property
    def key(self) -> str:
        own = f"{self.isa} {self.triple} {self.cpu} {self.features}"
        unordered = " unordered" if self.unordered_sums else ""
        return own if self.gpu is None else f"{own} {self.gpu.multiprocessors} {self.precision}{unordered}"


AVX512 = Target("avx512", "x86_64-unknown-linux-gnu", "skylake-avx512", "", 64, 32, masked=True)
AVX2 = Target("avx2", "x86_64-unknown-linux-gnu", "haswell", "", 32, 16)
NEON = Target("neon", "aarch64-unknown-linux-gnu", "generic", "+neon", 16, 32, l1=64 * 1024)
KB, T = 1024, 1e12
# By compute capability, the machine that has the most of it: A100, A40, L40S, H100, B200, RTX Pro 6000.
GPUS = {
    80: Gpu(108, 164 * KB, 163 * KB, 1.9 * T, 312 * T, 19.5 * T, 19.5 * T),
    86: Gpu(84, 100 * KB, 99 * KB, 0.7 * T, 150 * T, 37 * T, 0.6 * T),
    89: Gpu(142, 100 * KB, 99 * KB, 0.86 * T, 362 * T, 91 * T, 1.4 * T),
    90: Gpu(132, 228 * KB, 227 * KB, 3.35 * T, 989 * T, 67 * T, 67 * T, copies=True),
    100: Gpu(148, 228 * KB, 227 * KB, 8 * T, 2250 * T, 75 * T, 37 * T, copies=True),
    120: Gpu(188, 100 * KB, 99 * KB, 1.8 * T, 500 * T, 125 * T, 1.9 * T, copies=True),
}


def cuda_target(capability: int, multiprocessors: int | None = None) -> Target:
    """The target for a compute capability (80 for 8.0), and the number of multiprocessors of the device at hand if it is
    known. Capabilities without numbers of their own get those of the one before; ValueError below 80."""
    known = max((c for c in GPUS if c <= capability), default=None)
    if known is None:
        raise ValueError(f"GPUs of compute capability {capability / 10} are too old: 8.0 is needed")
    gpu = GPUS[known]
    gpu = gpu if multiprocessors is None else replace(gpu, multiprocessors=multiprocessors)
    return Target("cuda", "nvptx64-nvidia-cuda", f"sm_{capability}", "", 128, 255, gpu=gpu)


CUDA_SM80, CUDA_SM90 = cuda_target(80), cuda_target(90)
