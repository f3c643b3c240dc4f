"""Speed of generated contractions: GFLOP/s and percent of the FMA peak measured in the same run.

taskset -c 0 python benchmarks/gemm.py            # one thread, everything
python benchmarks/gemm.py --threads 2 square conv # two threads, some groups: square, layout, small, conv, skinny
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "backends"))

from gemm_harness import axis, buffer, compiled, matmul_kernel, read
from tracefuse.backends.llvm.builder import Module, i64, literal, vec
from tracefuse.backends.llvm.engine import compile_object, host_target, link
from tracefuse.ir.dtypes import float32
from tracefuse.ir.kernel import Contraction, Kernel, Stage, Store
from tracefuse.ir.scalar import result


def fma_peak() -> float:
    """GFLOP/s of independent FMAs in registers."""
    import ctypes

    target = host_target()
    module = Module(target.triple)
    f = module.function("peak", "void", [("ptr", "out"), ("i64", "rounds")])
    kind = vec("float", target.lanes(float32))
    count = 12
    x = [
        f.load(kind, f.gep(kind, f.args[0], i64(j)), 4) for j in range(count)
    ]  # apart, so that none is computed once for all
    with f.loop(i64(0), f.args[1], carried=x, at_least_once=True) as loop:
        loop.next = [f.fma(v, literal(0.5, kind), x[0]) for v in loop.next]
    for j, v in enumerate(loop.results):
        f.store(v, f.gep(kind, f.args[0], i64(j)), 4)
    f.ret()
    code = link([compile_object(str(module), target)])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address("peak"))
    out = np.zeros(1024, np.float32)
    rounds = 200_000
    best = fastest(lambda: run(out.ctypes.data, rounds), 0.3)
    return 2 * count * target.lanes(float32) * rounds / best / 1e9


def read_bandwidth() -> float:
    """GB/s of adding up 64 MiB with vector loads."""
    import ctypes

    target = host_target()
    module = Module(target.triple)
    f = module.function("total", "void", [("ptr", "data"), ("i64", "vectors"), ("ptr", "out")])
    kind = vec("float", target.lanes(float32))
    with f.loop(i64(0), f.args[1], i64(8), carried=[literal(0.0, kind)] * 8) as loop:
        at = [f.add(loop.index, i64(j)) for j in range(8)]
        loop.next = [f.add(v, f.load(kind, f.gep(kind, f.args[0], j), 4)) for v, j in zip(loop.next, at)]
    for j, v in enumerate(loop.results):
        f.store(v, f.gep(kind, f.args[2], i64(j)), 4)
    f.ret()
    code = link([compile_object(str(module), target)])
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(code.address("total"))
    data, out = np.ones(1 << 24, np.float32), np.zeros(1024, np.float32)
    best = fastest(lambda: run(data.ctypes.data, data.size // target.lanes(float32), out.ctypes.data), 0.3)
    return data.nbytes / best / 1e9


def fastest(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The shortest of repeated calls, in seconds."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def repeated(call: Callable[[], object], once: float) -> Callable[[], object]:
    """Calls long enough for the clock."""
    number = max(1, int(2e-4 / max(once, 1e-7)))

    def many() -> None:
        for _ in range(number):
            call()

    many.number = number  # type: ignore[attr-defined]
    return many


class Bench:
    def __init__(self, threads: int):
        self.threads = threads
        if threads > 1:
            from tracefuse.runtime.threads import set_num_threads

            set_num_threads(threads)
        self.peak = fma_peak() * threads
        print(
            f"FMA peak {self.peak:.0f} GFLOP/s, reads {read_bandwidth():.1f} GB/s (one thread); {threads} thread(s), {host_target().isa}"
        )

    def report(self, label: str, kernel: Kernel, arrays: list[np.ndarray], flops: float, nbytes: float = 0) -> None:
        start = time.perf_counter()
        run = compiled(kernel)
        built = (time.perf_counter() - start) * 1e3
        call = run.pooled(*arrays) if self.threads > 1 else run.prepared(*arrays)
        many = repeated(call, fastest(call, 0.05))
        taken = fastest(many) / many.number  # type: ignore[attr-defined]
        rate = flops / taken / 1e9
        moved = f" {nbytes / taken / 1e9:6.1f} GB/s" if nbytes else ""
        print(
            f"{label:34s} {taken * 1e6:10.1f} us {rate:7.1f} GFLOP/s {100 * rate / self.peak:5.1f}%{moved}  (built in {built:.0f} ms)"
        )

    def matmul(
        self,
        m: int,
        k: int,
        n: int,
        x_t: bool = False,
        y_t: bool = False,
        batch: tuple[int, ...] = (),
        dtype=np.float32,
    ) -> None:
        rng = np.random.default_rng(0)

        def operand(rows: int, columns: int, transposed: bool) -> np.ndarray:
            shape = (columns, rows) if transposed else (rows, columns)
            a = rng.standard_normal((*batch, *shape)).astype(dtype)
            return a.swapaxes(-1, -2) if transposed else a

        x, y, out = operand(m, k, x_t), operand(k, n, y_t), np.zeros((*batch, m, n), dtype)
        kernel = matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out"))
        name = f"{'x'.join(map(str, batch)) + ' x ' if batch else ''}{m}x{k}{'T' if x_t else ''} @ {k}x{n}{'T' if y_t else ''} {np.dtype(dtype).name}"
        nbytes = float(x.nbytes + y.nbytes + out.nbytes) if min(m, n) <= 4 else 0
        self.report(name, kernel, [x, y, out], 2.0 * m * n * k * int(np.prod(batch)), nbytes)

    def conv(self, images: int, channels: int, size: int, outputs: int, window: int = 3) -> None:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((images, channels, size, size)).astype(np.float32)
        w = rng.standard_normal((outputs, channels, window, window)).astype(np.float32)
        out = np.zeros((images, outputs, size, size), np.float32)
        flops = 2.0 * images * outputs * size * size * channels * window**2
        name = f"conv{window}x{window} {channels}->{outputs} {size}x{size} b{images}"
        self.report(name, conv_kernel(x, w, out, window // 2), [x, w, out], flops)


def conv_kernel(x: np.ndarray, w: np.ndarray, out: np.ndarray, pad: int) -> Kernel:
    """x[N, C, H, W] with w[O, C, kh, kw], stride 1, as a Contraction."""
    bx, bw, bo = buffer("x", x), buffer("w", w), buffer("out", out, "out")
    g, o, h, v = (axis(name, e) for name, e in zip(("img", "o", "oh", "ow"), out.shape))
    c, kh, kw = (axis(name, e) for name, e in zip(("c", "kh", "kw"), w.shape[1:]))
    row, column = h.sym + kh.sym - pad, v.sym + kw.sym - pad
    mask = (row, x.shape[2] - 1 - row, column, x.shape[3] - 1 - column) if pad else ()
    lhs = read(bw, o.sym, c.sym, kh.sym, kw.sym)
    rhs = read(bx, g.sym, c.sym, row, column, mask=mask)
    anchor = Contraction("acc", (), (o,), (g, h, v), (c, kh, kw), lhs, rhs, float32)
    store = Store("out", (g.sym, o.sym, h.sym, v.sym), result("acc", float32))
    return Kernel("conv", (bx, bw, bo), (o, g, h, v), (Stage((), (), (store,)),), anchor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", default=["square", "layout", "small", "conv", "skinny"])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    bench = Bench(options.threads)
    if "square" in options.groups:
        for size in (256, 512, 1024, 2048):
            bench.matmul(size, size, size)
        bench.matmul(1024, 1024, 1024, dtype=np.float64)
        bench.matmul(25088, 64, 64)
    if "layout" in options.groups:
        bench.matmul(1024, 1024, 1024, y_t=True)
        bench.matmul(1024, 1024, 1024, x_t=True)
        bench.matmul(256, 256, 256, y_t=True)
    if "small" in options.groups:
        for size in (16, 32, 64, 100, 128):
            bench.matmul(size, size, size)
        bench.matmul(64, 64, 64, y_t=True)
        bench.matmul(64, 64, 64, batch=(32,))
    if "conv" in options.groups:
        bench.conv(8, 64, 56, 64)
        bench.conv(8, 256, 14, 256)
        bench.conv(8, 64, 56, 256, window=1)
    if "skinny" in options.groups:
        bench.matmul(1, 4096, 4096)
        bench.matmul(1, 4096, 4096, y_t=True)
        bench.matmul(4096, 4096, 1)
        bench.matmul(4, 4096, 4096)
        bench.matmul(4, 4096, 4096, y_t=True)
        bench.matmul(16, 2048, 2048)
        bench.matmul(16, 2048, 2048, y_t=True)


if __name__ == "__main__":
    main()
