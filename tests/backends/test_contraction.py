"""Generated contractions against NumPy: shapes, layouts, dtypes, epilogues, threads, targets."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tracefuse.backends.llvm.contraction import choose_tile, lower_contraction
from tracefuse.backends.llvm.engine import emit_assembly, host_target
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import dtype_of, float32
from tracefuse.ir.kernel import Contraction, Kernel, Schedule, Stage, Store
from tracefuse.ir.scalar import Expr, Load, apply, cast, result
from tracefuse.ir.target import NEON

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
from gemm_harness import CHOICE, axis, buffer, compiled, matmul_kernel, read

rng = np.random.default_rng(7)


def values(shape: tuple[int, ...], dtype=np.float32) -> np.ndarray:
    if np.dtype(dtype).kind in "iu":
        return rng.integers(0, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def matrix(rows: int, columns: int, transposed: bool, dtype=np.float32) -> np.ndarray:
    return values((columns, rows), dtype).T if transposed else values((rows, columns), dtype)


def close(got: np.ndarray, x: np.ndarray, y: np.ndarray, wanted: np.ndarray | None = None) -> None:
    """Within the error of any order of summation."""
    if np.dtype(got.dtype).kind in "iu":
        np.testing.assert_array_equal(got, np.matmul(x, y, dtype=got.dtype) if wanted is None else wanted)
        return
    x, y = x.astype(np.float64), y.astype(np.float64)
    eps = max(
        float(ml_dtypes.finfo(got.dtype).eps), float(ml_dtypes.finfo(np.float32).eps) if got.dtype != np.float64 else 0
    )
    wanted = np.matmul(x, y) if wanted is None else wanted
    bound = (4 + x.shape[-1]) * eps * (np.matmul(np.abs(x), np.abs(y)) + 1e-30) + eps * np.abs(wanted)
    assert got.shape == wanted.shape
    assert np.isfinite(got.astype(np.float64)).all()
    assert (np.abs(got.astype(np.float64) - wanted) <= bound).all()


def multiply(x: np.ndarray, y: np.ndarray, target=None, threads: int = 1, schedule: Schedule = CHOICE) -> np.ndarray:
    out = np.full((*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]), 77, x.dtype)
    kernel = matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out"))
    compiled(kernel, target=target, schedule=schedule)(x, y, out, threads=threads)
    return out


SHAPES = [
    (0, 5, 7), (5, 0, 7), (5, 7, 0), (1, 1, 1), (1, 37, 1), (2, 3, 5), (13, 17, 33), (14, 64, 32), (15, 65, 31), (16, 16, 16),
    (1, 300, 501), (3, 129, 70), (4, 1000, 65), (5, 33, 900), (100, 1, 100), (129, 255, 257), (257, 600, 131), (600, 40, 20), (20, 1100, 600),
]  # fmt: skip


@pytest.mark.parametrize("m, k, n", SHAPES)
@pytest.mark.parametrize("x_t, y_t", [(False, False), (False, True), (True, False), (True, True)])
def test_shapes_and_layouts(m: int, k: int, n: int, x_t: bool, y_t: bool) -> None:
    x, y = matrix(m, k, x_t), matrix(k, n, y_t)
    close(multiply(x, y), x, y)


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float16, ml_dtypes.bfloat16, "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
)
@pytest.mark.parametrize(
    "m, k, n, y_t", [(33, 70, 45, False), (33, 70, 45, True), (2, 100, 40, False), (2, 100, 40, True)]
)
def test_dtypes(dtype, m: int, k: int, n: int, y_t: bool) -> None:
    x, y = matrix(m, k, False, dtype), matrix(k, n, y_t, dtype)
    close(multiply(x, y), x, y)


@pytest.mark.parametrize("m, k, n", [(70, 90, 50), (300, 500, 300), (2, 64, 50)])
def test_strided_operands(m: int, k: int, n: int) -> None:
    x, y = values((2 * m, 3 * k))[::2, ::3], values((k, 2 * n))[:, ::2]
    close(multiply(x, y), x, y)


def test_strided_output() -> None:
    x, y = values((40, 30)), values((30, 50))
    for out in (np.zeros((50, 40), np.float32).T, np.zeros((40, 100), np.float32)[:, ::2]):
        compiled(matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out")))(x, y, out)
        close(out, x, y)


@pytest.mark.parametrize(
    "x_shape, y_shape",
    [((3, 20, 30), (3, 30, 40)), ((3, 20, 30), (1, 30, 40)), ((1, 20, 30), (3, 30, 40)), ((2, 3, 150, 30), (2, 1, 30, 220)), ((5, 1, 30), (5, 30, 40)), ((0, 4, 4), (0, 4, 4))],
)  # fmt: skip
def test_batches(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    x, y = values(x_shape), values(y_shape)
    close(multiply(x, y), x, y)
    y = values((*y_shape[:-2], y_shape[-1], y_shape[-2])).swapaxes(-1, -2)
    close(multiply(x, y), x, y)


@pytest.mark.parametrize("m, k, n", [(30, 20, 50), (37, 29, 51), (200, 1200, 300), (2, 100, 70)])
def test_epilogue_with_bias_activation_residual_and_two_stores(m: int, k: int, n: int) -> None:
    x, y, bias, rest = values((m, k)), values((k, n)), values((n,)), values((m, n))
    out, half = np.zeros((m, n), np.float32), np.zeros((m, n), np.float16)
    extra = (buffer("bias", bias), buffer("rest", rest), buffer("half", half, "out"))

    def epilogue(value, at):
        shifted = value + read(extra[0], at[1])
        active = apply("max", shifted, 0.0) + read(extra[1], *at)
        return Store("out", at, active), Store("half", at, cast(shifted, dtype_of(np.float16)))

    kernel = matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out"), epilogue=epilogue, extra=extra)
    compiled(kernel)(x, y, out, bias, rest, half)
    exact = x.astype(np.float64) @ y + bias
    close(out, x, y, np.maximum(exact, 0) + rest)
    np.testing.assert_allclose(half, exact, rtol=2e-3, atol=2e-2)


def test_long_epilogue() -> None:
    x, y = values((45, 30)), values((30, 70))
    out = np.zeros((45, 70), np.float32)

    def epilogue(value, at):
        return (Store("out", at, value * apply("tanh", value) + apply("exp", apply("neg", apply("abs", value)))),)

    compiled(matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out"), epilogue=epilogue))(x, y, out)
    exact = x.astype(np.float64) @ y
    np.testing.assert_allclose(out, exact * np.tanh(exact) + np.exp(-np.abs(exact)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m, n", [(20, 40), (29, 51), (300, 300), (1, 90)])
def test_residual_in_place(m: int, n: int) -> None:
    x, y, out = values((m, 25)), values((25, n)), values((m, n))
    exact = x.astype(np.float64) @ y + out
    b = buffer("out", out, "inout")
    compiled(
        matmul_kernel(buffer("x", x), buffer("y", y), b, epilogue=lambda v, at: (Store("out", at, v + read(b, *at)),))
    )(x, y, out)
    close(out, x, y, exact)


def test_prologues() -> None:
    x, y = values((150, 100)), values((100, 230))
    out = np.zeros((150, 230), np.float32)
    kernel = matmul_kernel(buffer("x", x), buffer("y", y), buffer("out", out, "out"))
    assert kernel.anchor is not None
    anchor = replace(kernel.anchor, lhs=apply("max", kernel.anchor.lhs, 0.0), rhs=kernel.anchor.rhs * 2.0 + 1.0)
    compiled(replace(kernel, anchor=anchor))(x, y, out)
    x, y = np.maximum(x, 0), y * 2 + 1
    close(out, x, y)


@pytest.mark.parametrize("m, n", [(3, 40), (33, 70), (300, 300)])
def test_gathered_rows(m: int, n: int) -> None:
    table, y, rows = values((50, 64)), values((64, n)), rng.integers(0, 50, m)
    out = np.zeros((m, n), np.float32)
    kernel = matmul_kernel(buffer("x", table[rows]), buffer("y", y), buffer("out", out, "out"))
    assert kernel.anchor is not None
    bt, br = buffer("table", table), buffer("rows", rows)
    row = read(br, kernel.anchor.m[0].sym)
    lhs = Expr("load", float32, (row,), Load("table", (row, kernel.anchor.k[0].sym)))
    kernel = replace(kernel, params=(bt, br, *kernel.params[1:]), anchor=replace(kernel.anchor, lhs=lhs))
    compiled(kernel)(table, rows, y, out)
    close(out, table[rows], y)


@pytest.mark.parametrize("sizes", [(5, 7, 9), (1, 300, 40), (0, 3, 4), (3, 0, 4), (200, 900, 300)])
@pytest.mark.parametrize("which", ["m", "n", "k", "mnk"])
def test_symbolic_sizes(sizes: tuple[int, int, int], which: str) -> None:
    m, k, n = sizes
    names = {"m": symbol("M"), "k": symbol("K"), "n": symbol("N")}
    dm, dk, dn = (names[s] if s in which else size for s, size in zip("mkn", sizes))
    x, y, out = values((m, k)), values((k, n)), np.full((m, n), 9, np.float32)
    b = buffer("x", x, shape=(dm, dk)), buffer("y", y, shape=(dk, dn)), buffer("out", out, "out", shape=(dm, dn))
    kernel = matmul_kernel(*b, dims=tuple(names[s] for s in which))
    compiled(kernel, {"M": m, "K": k, "N": n})(x, y, out)
    close(out, x, y)


# ---- convolution


def conv_kernel(
    x: np.ndarray, w: np.ndarray, out: np.ndarray, stride: int, pad: int, groups: int = 1, last: bool = False
) -> Kernel:
    """NCHW (or NHWC where `last`) convolution of x with w[O, C/groups, kh, kw]; with groups, those are a batch axis."""
    bx, bw, bo = buffer("x", x), buffer("w", w), buffer("out", out, "out")
    images, outputs, height, width = (out.shape[0], out.shape[3], *out.shape[1:3]) if last else out.shape
    sizes = x.shape[1:3] if last else x.shape[2:]
    g, img, o, oh, ow = (
        axis(s, e) for s, e in zip(("g", "img", "o", "oh", "ow"), (groups, images, outputs // groups, height, width))
    )
    c, kh, kw = (axis(s, e) for s, e in zip(("c", "kh", "kw"), w.shape[1:]))
    row, column = oh.sym * stride + kh.sym - pad, ow.sym * stride + kw.sym - pad
    mask = (row, sizes[0] - 1 - row, column, sizes[1] - 1 - column) if pad else ()
    channel, output = g.sym * w.shape[1] + c.sym, g.sym * (outputs // groups) + o.sym
    lhs = read(bw, output, c.sym, kh.sym, kw.sym)
    at = (img.sym, row, column, channel) if last else (img.sym, channel, row, column)
    to = (img.sym, oh.sym, ow.sym, output) if last else (img.sym, output, oh.sym, ow.sym)
    anchor = Contraction(
        "acc", (g,), (o,), (img, oh, ow), (kh, kw, c) if last else (c, kh, kw), lhs, read(bx, *at, mask=mask), float32
    )
    stage = Stage((), (), (Store("out", to, result("acc", float32)),))
    return Kernel("conv", (bx, bw, bo), (g, o, img, oh, ow), (stage,), anchor)


def conv_reference(x: np.ndarray, w: np.ndarray, stride: int, pad: int, groups: int) -> np.ndarray:
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    per, each = w.shape[0] // groups, w.shape[1]
    parts = [
        np.einsum(
            "nchwij,ocij->nohw", windows[:, g * each : (g + 1) * each], w[g * per : (g + 1) * per].astype(np.float64)
        )
        for g in range(groups)
    ]
    return np.concatenate(parts, 1)


@pytest.mark.parametrize(
    "images, channels, size, outputs, window, stride, pad, groups",
    [
        (2, 3, 8, 4, 3, 1, 1, 1), (2, 16, 14, 20, 3, 1, 1, 1), (3, 8, 7, 40, 3, 1, 1, 1), (1, 5, 19, 7, 5, 2, 2, 1), (2, 16, 16, 40, 1, 1, 0, 1),
        (2, 16, 15, 40, 1, 1, 0, 1), (2, 12, 10, 8, 3, 1, 1, 4), (2, 6, 9, 6, 3, 1, 1, 6), (1, 4, 33, 64, 3, 2, 0, 1), (1, 70, 20, 33, 3, 1, 1, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("last", [False, True])
def test_convolution(images, channels, size, outputs, window, stride, pad, groups, last) -> None:
    x, w = values((images, channels, size, size)), values((outputs, channels // groups, window, window))
    wanted = conv_reference(x, w, stride, pad, groups)
    out = np.full(wanted.shape, 99, np.float32)
    if last:
        x, out = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.ascontiguousarray(out.transpose(0, 2, 3, 1))
    compiled(conv_kernel(x, w, out, stride, pad, groups, last))(x, w, out)
    np.testing.assert_allclose(out.transpose(0, 3, 1, 2) if last else out, wanted, rtol=1e-4, atol=1e-3)


# ---- threads, targets, code


@pytest.mark.parametrize(
    "m, k, n, y_t",
    [(300, 700, 500, False), (64, 64, 64, False), (1, 500, 3000, False), (2, 500, 700, True), (37, 600, 900, True)],
)
def test_thread_count_changes_no_bit(m: int, k: int, n: int, y_t: bool) -> None:
    x, y = matrix(m, k, False), matrix(k, n, y_t)
    one = multiply(x, y)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(multiply(x, y, threads=threads), one)


@pytest.mark.skipif(host_target().isa != "avx512", reason="needs a machine that has more than AVX2")
@pytest.mark.parametrize("isa", ["avx2", "scalar"])
@pytest.mark.parametrize(
    "m, k, n, y_t",
    [(300, 500, 210, False), (37, 29, 51, False), (100, 100, 100, True), (1, 90, 200, False), (3, 90, 200, True)],
)
def test_other_instruction_sets(isa: str, m: int, k: int, n: int, y_t: bool) -> None:
    x, y = matrix(m, k, False), matrix(k, n, y_t)
    close(multiply(x, y, host_target(isa)), x, y)


def product(m: int, k: int, n: int, y_t: bool = False, dtype=np.float32) -> Kernel:
    x, y, out = np.zeros((m, k), dtype), np.zeros((n, k) if y_t else (k, n), dtype), np.zeros((m, n), dtype)
    return matmul_kernel(buffer("x", x), buffer("y", y.T if y_t else y), buffer("out", out, "out"))


def main_loop(assembly: str, pattern: str) -> list[str]:
    """The basic block with the most lines that match: the microkernel's loop."""
    blocks = re.split(r"^[.\w]+:", assembly, flags=re.MULTILINE)
    return max(blocks, key=lambda b: len(re.findall(pattern, b))).splitlines()


@pytest.mark.parametrize("m, k, n", [(1024, 1024, 1024), (128, 128, 128), (64, 576, 25088), (1, 2048, 2048)])
@pytest.mark.parametrize("isa", ["avx512", "avx2"])
def test_no_spills_in_the_main_loop(m: int, k: int, n: int, isa: str) -> None:
    if host_target().isa not in (isa, "avx512"):
        pytest.skip("not this machine")
    target = host_target(isa)
    loop = main_loop(emit_assembly(lower_contraction(product(m, k, n), Schedule(), target).text, target), "vfmadd")
    assert sum("vfmadd" in line for line in loop) >= 8
    assert not [line for line in loop if "(%rsp" in line and "mm" in line]


def test_neon_compiles() -> None:
    for shape in ((300, 500, 210), (64, 64, 64), (1, 500, 500)):
        assembly = emit_assembly(lower_contraction(product(*shape), Schedule(), NEON).text, NEON)
        assert sum("fmla" in line for line in main_loop(assembly, "fmla")) >= 8


def test_no_external_symbols() -> None:
    from tracefuse.backends.llvm.engine import compile_object, undefined_symbols

    for shape in ((300, 500, 210), (64, 64, 64), (1, 500, 500)):
        assert not undefined_symbols(
            compile_object(lower_contraction(product(*shape), Schedule(), host_target()).text, host_target())
        )


def test_the_schedule_chooses_the_tile() -> None:
    kernel = product(300, 500, 210)
    assert len(choose_tile(kernel, host_target())) == 5
    x, y = values((300, 500)), values((500, 210))
    close(multiply(x, y, schedule=Schedule(tile=(3, 2 * host_target().lanes(float32), 64, 30, 64))), x, y)


def test_stages_with_axes_are_refused() -> None:
    kernel = product(4, 4, 4)
    with pytest.raises(ValueError, match="axes of their own"):
        lower_contraction(replace(kernel, stages=(Stage((axis("j", 3),)),)), Schedule(), host_target())


def test_accumulating_stores_are_refused() -> None:
    kernel = product(4, 4, 4)
    store = replace(kernel.stages[0].stores[0], accumulate="add")
    with pytest.raises(ValueError, match="accumulate"):
        lower_contraction(replace(kernel, stages=(Stage((), (), (store,)),)), Schedule(), host_target())
