"""The Triton backend: numbers through Triton's interpreter, code through compilation; both without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_kernel, run_plan
from tracefuse.backends.triton import launch
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.backends.triton.lowered import TritonKernel
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import bfloat16, float16, float32, float64, from_numpy, int32
from tracefuse.ir.graph import GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.scalar import apply, load, result
from tracefuse.ir.target import AVX512, CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.passes.schedule_gpu import schedule

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
import hand_kernels

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()

TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 5e-15}
OPS = sorted(name for name, op in REGISTRY.items() if op.samples)


def assert_close(got: np.ndarray, want: np.ndarray, what: str, scale: float = 1.0) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype, what
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    tolerance = TOLERANCE[from_numpy(want.dtype).real.name] * scale
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    np.testing.assert_allclose(got.astype(wide), want.astype(wide), rtol=tolerance, atol=tolerance, err_msg=what)


def lower(kernel: Kernel) -> TritonKernel:
    return lower_kernel(kernel, schedule(kernel, CUDA_SM90), CUDA_SM90)


# ------------------------------------------------------------------ ops


@pytest.mark.parametrize("name", OPS)
def test_samples(name):
    op = REGISTRY[name]
    assert op.samples is not None
    for k, sample in enumerate(op.samples()):
        b = GraphBuilder(name)
        inputs = [b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{j}") for j, a in enumerate(sample.args)]
        graph = b.finish(b.emit(op, tuple(inputs), sample.attrs))
        with np.errstate(all="ignore"):
            want = op.evaluate(sample.args, sample.attrs)
        got = run_plan(compile_graph(graph, CUDA_SM90), sample.args, launch.run_kernel)
        scale = max(1.0, 4 * max((a.size for a in sample.args), default=1) ** 0.5) * max(1.0, op.tolerance * 1e6)
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            assert_close(
                g, w, f"{name} sample {k} {[(a.dtype.name, a.shape) for a in sample.args]} {sample.attrs}", scale
            )


# ------------------------------------------------------------------ fused graphs


def check(
    function, arrays: list[np.ndarray], symbolic: tuple[tuple[int, int, str], ...] = (), scale: float = 30.0
) -> None:
    """A function's plan through the interpreter against the graph interpreter. `symbolic`: (input, axis, name)."""
    b = GraphBuilder("f")
    names = {(k, a): dim.symbol(name, 2) for k, a, name in symbolic}
    inputs = [
        b.input(TensorType(from_numpy(x.dtype), tuple(names.get((k, a), n) for a, n in enumerate(x.shape))), f"x{k}")
        for k, x in enumerate(arrays)
    ]
    with b:
        out = function(*inputs)
    graph = b.finish([out] if isinstance(out, Value) else list(out))
    plan = compile_graph(graph, CUDA_SM90)
    for g, w in zip(run_plan(plan, arrays, launch.run_kernel), run(graph, arrays), strict=True):
        assert_close(g, w, str(graph), scale)


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [float16, bfloat16, float32, float64], ids=str)
def test_matmul_with_prologue_and_epilogue(dtype):
    x, w, bias = normal(2, 40, 33, dtype=dtype.np), normal(70, 33, dtype=dtype.np), normal(70, dtype=dtype.np)

    def layer(x, w, b):
        return ops.relu(ops.add(ops.matmul(ops.sigmoid(x), ops.permute(w, perm=(1, 0))), b))

    check(layer, [x, w, bias], scale=60.0)


def test_symbolic_matmul():
    x, w = normal(19, 70), normal(70, 35)
    check(lambda x, w: ops.relu(ops.matmul(x, w)), [x, w], ((0, 0, "n"), (0, 1, "k"), (1, 0, "k")), scale=60.0)


def test_convolution_with_padding_and_groups():
    x, w = normal(2, 4, 9, 8), normal(6, 2, 3, 3)
    attrs = dict(stride=(2, 1), low=(1, 1), high=(1, 2), lhs_dilation=(1, 1), rhs_dilation=(1, 2), groups=2)
    check(lambda x, w: ops.relu(ops.conv(x, w, **attrs)), [x, w], scale=60.0)


def test_symbolic_rows_and_columns():
    x = normal(13, 50)
    where = ((0, 0, "n"), (0, 1, "m"))
    check(lambda x: ops.reduce_sum(ops.exp(x), axes=(0,)), [x], where)
    check(lambda x: ops.log_softmax(x, axis=1), [x], where)
    check(lambda x: ops.tanh(ops.permute(x, perm=(1, 0))), [x], where)


def test_reduction_over_several_axes():
    x = normal(3, 5, 4, 6)
    check(lambda x: ops.reduce_max(x, axes=(1, 3)), [x])
    check(lambda x: ops.reduce_sum(ops.mul(x, x), axes=(0, 2)), [x])


def test_scans_in_one_block_and_from_block_to_block():
    x = normal(3, 5000) * 1e-3
    check(lambda x: (ops.cumsum(ops.exp(x), axis=1), ops.cumprod(ops.exp(x), axis=1)), [x])
    check(lambda x: ops.cumsum(x, axis=0), [normal(5000, 3)], ((0, 0, "n"),))
    check(lambda x: ops.cumsum(x, axis=1), [normal(2, 70, 5)], ((0, 1, "n"), (0, 2, "m")))


# ------------------------------------------------------------------ kernels


def both(kernel: Kernel, arrays: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """A kernel through the interpreter against the NumPy interpreter."""
    want = {n: a.copy() for n, a in arrays.items()}
    run_kernel(kernel, want, sizes)
    launch.run_kernel(kernel, arrays, sizes, schedule(kernel, CUDA_SM90))
    for b in kernel.params:
        if b.role == "out":
            assert_close(arrays[b.name], want[b.name], f"{kernel.name} {b.name}", 30.0)


def test_rows_longer_than_a_block_are_looped():
    x = normal(2, 5000)
    both(hand_kernels.softmax(2, 5000), {"x": x, "y": np.empty_like(x)}, {})
    x[1, 4321] = np.nan
    outputs = {"at": np.empty(2, np.int64), "top": np.empty(2, np.float32)}
    both(hand_kernels.argmax(2, 5000), {"x": x, **outputs}, {})


def test_scratch_is_computed_again():
    b = GraphBuilder("f")
    x = b.input(TensorType(float32, (4, 300)), "x")
    graph = b.finish(b.emit(REGISTRY["softmax"], (x,), {"axis": 1}))
    (step,) = compile_graph(graph, AVX512).steps
    assert any(p.role == "scratch" for p in step.kernel.params)
    assert all(name in ("x0", "y0") for name, _ in lower(step.kernel).buffers)
    arrays = {"x0": normal(1200), "y0": np.empty(1200, np.float32)}
    both(step.kernel, arrays, {})


@pytest.mark.parametrize("m", [7, 4100])
def test_welford(m):
    i, j = hand_kernels.axis("i", 3), hand_kernels.axis("j", m)
    x = load(float64, "x", (i.sym, j.sym))
    params = tuple(Buffer(n, float64, (3,), (1,), "out") for n in ("mean", "m2"))
    stages = (
        Stage((j,), (Reduction(("a", "b"), "welford", (x,), float64),)),
        Stage((), stores=tuple(Store(n, (i.sym,), result(r, float64)) for n, r in (("mean", "a"), ("m2", "b")))),
    )
    kernel = Kernel("welford", (Buffer("x", float64, (3, m), (m, 1), "in"), *params), (i,), stages)
    both(kernel, {"x": normal(3, m, dtype=np.float64), "mean": np.empty(3), "m2": np.empty(3)}, {})


def test_stage_that_reads_what_an_earlier_one_wrote():
    i, j = hand_kernels.axis("i", 3), hand_kernels.axis("j", 8)
    x, y = load(float32, "x", (i.sym, j.sym)), load(float32, "y", (i.sym, 7 - j.sym))
    shape = ((3, 8), (8, 1))
    params = (
        Buffer("x", float32, *shape, "in"),
        Buffer("y", float32, *shape, "out"),
        Buffer("z", float32, *shape, "out"),
    )
    stages = (
        Stage((j,), stores=(Store("y", (i.sym, j.sym), x * x),)),
        Stage((j,), stores=(Store("z", (i.sym, j.sym), y + x),)),
    )
    kernel = Kernel("twice", params, (i,), stages)
    both(kernel, {"x": normal(3, 8), "y": np.empty((3, 8), np.float32), "z": np.empty((3, 8), np.float32)}, {})


def test_indices_are_32_bits_where_they_certainly_fit():
    def source(n):
        i = Axis(dim.symbol("i", 0, n - 1), n)
        x = load(int32, "x", (i.sym,))
        params = tuple(Buffer(name, int32, (n,), (1,), role) for name, role in (("x", "in"), ("y", "out")))
        kernel = Kernel("copy", params, (i,), (Stage((), stores=(Store("y", (i.sym,), x),)),))
        return lower(replace(kernel, dims=tuple(dim.symbols(n)))).source

    assert "int64" not in source(1000)
    assert "int64" in source(2**31)
    assert "int64" in source(dim.symbol("n", 1))


def test_indices_are_32_bits_where_the_launch_says_so():
    n, m = dim.symbol("n", 1), dim.symbol("m", 1)
    kernel = hand_kernels.softmax(n, m)
    narrow = lower_kernel(kernel, schedule(kernel, CUDA_SM90), CUDA_SM90, index_bits=32)
    assert narrow.index_bits == 32 and "int64" not in narrow.source
    assert lower(kernel).index_bits == 64 and lower(kernel).reach == narrow.reach
    assert narrow.fits_32_bits({"n": 1000, "m": 1000}) and not narrow.fits_32_bits({"n": 100_000, "m": 100_000})
    with pytest.raises(ValueError, match="32 bits do not hold"):
        lower_kernel(hand_kernels.softmax(2**20, 2**20), schedule(kernel, CUDA_SM90), CUDA_SM90, index_bits=32)
    x = normal(5, 70)
    arrays = {"x": x, "y": np.empty_like(x)}
    launch.interpret(
        lower_kernel(kernel, schedule(kernel, CUDA_SM90), launch.INTERPRETED, index_bits=32), arrays, {"n": 5, "m": 70}
    )
    assert_close(arrays["y"].sum(1), np.ones(5, np.float32), "softmax")


def test_indices_on_the_way_count_too():
    """What is read is small, what it is computed from may not be."""
    n = dim.symbol("n", 1)
    i = Axis(dim.symbol("i", 0, n - 1), n)
    value = load(float32, "x", (dim.mod(i.sym * n, 7),))
    params = (Buffer("x", float32, (7,), (1,), "in"), Buffer("y", float32, (n,), (1,), "out"))
    kernel = Kernel("f", params, (i,), (Stage((), stores=(Store("y", (i.sym,), value),)),), dims=(n,))
    lowered = lower(kernel)
    assert lowered.fits_32_bits({"n": 10_000}) and not lowered.fits_32_bits({"n": 100_000})


def test_arguments_say_what_they_are_multiples_of():
    n, m = dim.symbol("n", 1), dim.symbol("m", 1)
    kernel = hand_kernels.softmax(n, m)
    sixteen = [["tt.divisibility", 16]]
    assert lower(kernel).attrs == {(0,): sixteen, (1,): sixteen}
    known = lower_kernel(kernel, schedule(kernel, CUDA_SM90), CUDA_SM90, unaligned={"x"}, multiples={m})
    assert known.dims == (m, n) and known.aligned == (False, True)
    assert known.attrs == {(1,): sixteen, (2,): sixteen}


def test_source_is_readable():
    i = Axis(dim.symbol("i", 0, 999), 1000)
    x, w = load(float32, "x", (i.sym,)), load(float32, "w", (dim.mod(i.sym, 10),))
    params = (
        *(Buffer(n, float32, (s,), (1,), "in") for n, s in (("x", 1000), ("w", 10))),
        Buffer("y", float32, (1000,), (1,), "out"),
    )
    value = apply("max", x * w + 1.0, 0.0)
    kernel = Kernel(
        "scale", params, (i,), (Stage((), stores=(Store("y", (i.sym,), value),)),), ops=("mul", "add", "relu")
    )
    lowered = lower(kernel)
    assert (
        lowered.source
        == """\
import triton
import triton.language as tl


@triton.jit
def scale(x, w, y, XBLOCK: tl.constexpr):
    # mul, add, relu
    xi = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    xmask = xi < 1000
    x_0 = tl.load(x + xi, mask=xmask)
    w_0 = tl.load(w + (xi % 10), mask=xmask)
    c0 = tl.full([], 0.0, tl.float32)
    tl.store(y + xi, tl.maximum((x_0 * w_0) + 1.0, c0, propagate_nan=tl.PropagateNan.ALL), mask=xmask)
"""
    )
    assert lowered.signature == {"x": "*fp32", "w": "*fp32", "y": "*fp32", "XBLOCK": "constexpr"}
    assert lowered.grid == (8,)


# ------------------------------------------------------------------ machine code


def test_compiles_without_a_gpu():
    """In a process of its own: one that interprets kernels cannot compile them."""
    worker = Path(__file__).with_name("triton_compile_worker.py")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(worker), "90", "80"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"softmax sm_90", "layer_norm_backward sm_80", "concat_gather sm_90", "matmul_bf16 sm_80"} <= found.keys()
    for name, kernel in found.items():
        assert kernel["elf"] and kernel["registers"] > 0, name
        assert kernel["spills"] == 0, f"{name} spills {kernel['spills']} bytes"
    for name in ("gelu_f32", "gelu_bf16", "softmax", "softmax_long", "softmax_narrow"):
        for capability in (80, 90):
            assert found[f"{name} sm_{capability}"]["widths"] == [16], name
    assert 4 in found["softmax_unaligned sm_90"]["widths"] and 4 in found["softmax_symbolic sm_90"]["widths"]


def test_a_process_does_one_or_the_other():
    from tracefuse.backends.triton.compile import compile_kernel

    with pytest.raises(RuntimeError, match="compile in another"):
        compile_kernel(lower(hand_kernels.softmax(4, 4)))
    code = "import triton; from tracefuse.backends.triton.launch import enable_interpreter; enable_interpreter()"
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "RuntimeError: triton was imported without TRITON_INTERPRET=1" in done.stderr
