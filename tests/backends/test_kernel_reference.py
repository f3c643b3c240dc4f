"""The NumPy interpreter of Kernel IR: every op's samples, compiled to a plan and interpreted, equal the op's reference."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import fold, run_kernel, run_plan
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import bool_, float16, float32, float64, from_numpy, int32, int64
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.scalar import load, result
from tracefuse.ir.target import AVX512, CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.passes.rebase import rebase

TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 5e-15}
OPS = sorted(name for name, op in REGISTRY.items() if op.samples)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("target", [AVX512, CUDA_SM90], ids=lambda t: t.isa)
def test_samples(name, target):
    op = REGISTRY[name]
    assert op.samples is not None
    for k, sample in enumerate(op.samples()):
        b = GraphBuilder(name)
        inputs = [b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{j}") for j, a in enumerate(sample.args)]
        graph = b.finish(b.emit(op, tuple(inputs), sample.attrs))
        with np.errstate(all="ignore"):
            want = op.evaluate(sample.args, sample.attrs)
            got = run_plan(compile_graph(graph, target), sample.args)
        scale = max(1.0, 4 * max((a.size for a in sample.args), default=1) ** 0.5) * max(1.0, op.tolerance * 1e6)
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            what = f"{name} sample {k} {[(a.dtype.name, a.shape) for a in sample.args]} {sample.attrs}"
            assert g.shape == w.shape and g.dtype == w.dtype, what
            if w.dtype.kind in "biu":
                np.testing.assert_array_equal(g, w, err_msg=what)
                continue
            tolerance = TOLERANCE[from_numpy(w.dtype).real.name] * scale
            wide = np.complex128 if w.dtype.kind == "c" else np.float64
            np.testing.assert_allclose(g.astype(wide), w.astype(wide), rtol=tolerance, atol=tolerance, err_msg=what)


# ------------------------------------------------------------------ reductions


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
def test_first_extreme_wins_and_nan_beats_all(kind):
    x = np.array([[1, 3, 3, -2, -2], [5, np.nan, 9, np.nan, -9]], np.float32)
    at = np.broadcast_to(np.arange(5), x.shape)
    value, index = fold(Reduction(("v", "p"), kind, (), float32), [x, at])
    np.testing.assert_array_equal(index, [1 if kind == "argmax" else 3, 1])
    np.testing.assert_array_equal(value, [3 if kind == "argmax" else -2, np.nan])


def test_welford_gives_mean_and_squared_deviations():
    x = np.arange(12, dtype=np.float64).reshape(2, 6)
    mean, m2 = fold(Reduction(("m", "s"), "welford", (), float64), [x])
    np.testing.assert_allclose(mean, x.mean(1))
    np.testing.assert_allclose(m2, x.var(1) * 6)


def test_extremes_and_sums_of_nothing():
    empty = np.zeros((2, 0))
    for dtype, low, high in ((float32, -np.inf, np.inf), (int32, -(2**31), 2**31 - 1), (bool_, False, True)):
        (top,) = fold(Reduction(("r",), "max", (), dtype), [empty.astype(dtype.np)])
        (bottom,) = fold(Reduction(("r",), "min", (), dtype), [empty.astype(dtype.np)])
        assert top.tolist() == [low] * 2 and bottom.tolist() == [high] * 2
    assert fold(Reduction(("r",), "prod", (), int32), [empty.astype(np.int32)])[0].tolist() == [1, 1]


# ------------------------------------------------------------------ stores


def kernel_of(*stages: Stage, **buffers: tuple) -> Kernel:
    """A kernel without outer axes; buffers by name: (dtype, shape, role)."""
    params = tuple(
        Buffer(name, dtype, shape, dim.contiguous_strides(shape), role)
        for name, (dtype, shape, role) in buffers.items()
    )
    return Kernel("k", params, (), stages)


I4 = Axis(dim.symbol("i", 0, 3), 4)
IDS = load(int64, "ids", (I4.sym,))


@pytest.mark.parametrize("accumulate", ["", "add"])
def test_equal_addresses_in_order(accumulate):
    store = Store("y", (IDS,), load(float32, "x", (I4.sym,)), accumulate=accumulate)
    kernel = kernel_of(
        Stage((I4,), stores=(store,)), x=(float32, (4,), "in"), ids=(int64, (4,), "in"), y=(float32, (3,), "out")
    )
    y = np.ones(3, np.float32)
    run_kernel(kernel, {"x": np.array([1, 2, 3, 4], np.float32), "ids": np.array([2, 0, 2, 2]), "y": y}, {})
    np.testing.assert_array_equal(y, [3, 1, 9] if accumulate else [2, 1, 4])


def test_masked_store_touches_nothing_outside():
    store = Store("y", (I4.sym - 1,), load(float32, "x", (I4.sym,)), mask=(I4.sym - 1, 2 - I4.sym))
    kernel = kernel_of(Stage((I4,), stores=(store,)), x=(float32, (4,), "in"), y=(float32, (2,), "out"))
    y = np.zeros(2, np.float32)
    run_kernel(kernel, {"x": np.arange(4, dtype=np.float32), "y": y}, {})
    np.testing.assert_array_equal(y, [1, 2])


def test_store_outside_its_buffer():
    store = Store("y", (IDS,), load(float32, "x", (I4.sym,)))
    kernel = kernel_of(
        Stage((I4,), stores=(store,)), x=(float32, (4,), "in"), ids=(int64, (4,), "in"), y=(float32, (3,), "out")
    )
    arrays = {"x": np.zeros(4, np.float32), "ids": np.array([0, 1, 2, 3]), "y": np.zeros(3, np.float32)}
    with pytest.raises(IndexError, match="a store to y leaves axis 0 of size 3"):
        run_kernel(kernel, arrays, {})


def test_scratch_is_one_row_for_each_outer_point():
    i, j = Axis(dim.symbol("i", 0, 2), 3), Axis(dim.symbol("j", 0, 4), 5)
    x = load(float32, "x", (i.sym, j.sym))
    total = Reduction(("s",), "sum", (x,), float32)
    stages = (
        Stage((j,), (total,), (Store("row", (j.sym,), x * x),)),
        Stage((j,), stores=(Store("y", (i.sym, j.sym), load(float32, "row", (j.sym,)) + result("s", float32)),)),
    )
    shape, strides = (3, 5), (5, 1)
    params = (
        Buffer("x", float32, shape, strides, "in"), Buffer("y", float32, shape, strides, "out"),
        Buffer("row", float32, (5,), (1,), "scratch"),
    )  # fmt: skip
    a = np.arange(15, dtype=np.float32).reshape(3, 5)
    y = np.empty_like(a)
    run_kernel(Kernel("k", params, (i,), stages), {"x": a, "y": y}, {})
    np.testing.assert_array_equal(y, a * a + a.sum(1, keepdims=True))


# ------------------------------------------------------------------ plans


def test_symbolic_plan_and_inputs_left_alone():
    n = dim.symbol("n", 2)
    b = GraphBuilder("f")
    x = b.input(TensorType(float16, (n, 3)), "x")
    with b:
        y = ops.reduce_sum(ops.exp(x), axes=(0,))
        z = ops.softmax(x, axis=0)
    graph = b.finish([y, z])
    plan = compile_graph(graph, AVX512)
    for size in (2, 9):
        a = np.random.default_rng(size).standard_normal((size, 3)).astype(np.float16)
        before = a.copy()
        for g, w in zip(run_plan(plan, [a]), run(graph, [a]), strict=True):
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=4e-3)
        np.testing.assert_array_equal(a, before)


def test_failed_check_says_why():
    b = GraphBuilder("f")
    x, i = b.input(TensorType(float32, (5, 2)), "x"), b.input(TensorType(int64, (3,)), "i")
    with b:
        y = ops.gather(x, i)
    plan = compile_graph(b.finish([y]), AVX512)
    table = np.arange(10, dtype=np.float32).reshape(5, 2)
    np.testing.assert_array_equal(run_plan(plan, [table, np.array([1, -1, 4])])[0], table[[1, -1, 4]])
    with pytest.raises(IndexError, match="index"):
        run_plan(plan, [table, np.array([1, 5, 4])])


def test_moved_offsets_hold_for_computed_places_too():
    """y[x[i + 3]] = x[i + 3]: both reads begin at the third element, or none."""
    i = Axis(dim.symbol("i", 0, 3), 4)
    x = load(int64, "x", (i.sym + 3,))
    params = (Buffer("x", int64, (7,), (1,), "in"), Buffer("y", int64, (9,), (1,), "inout"))
    kernel = Kernel("k", params, (i,), (Stage((), (), (Store("y", (x,), x),)),))
    x, y = np.array([0, 0, 0, 8, 1, 5, 2]), np.zeros(9, np.int64)
    moved, shifts = rebase(kernel)
    run_kernel(moved, {"x": x[shifts["x"] :].copy(), "y": y}, {})
    np.testing.assert_array_equal(y, [0, 1, 2, 0, 0, 5, 0, 0, 8])


def test_contraction_of_two_axes():
    b = GraphBuilder("f")
    x, w = b.input(TensorType(float64, (2, 4, 6, 5)), "x"), b.input(TensorType(float64, (3, 4, 2, 2)), "w")
    attrs = dict(stride=(1, 2), low=(1, 0), high=(0, 1), lhs_dilation=(1, 1), rhs_dilation=(1, 1), groups=1)
    with b:
        y = ops.relu(ops.conv(x, w, **attrs))
    graph = b.finish([y])
    r = np.random.default_rng(0)
    arrays = [r.standard_normal((2, 4, 6, 5)), r.standard_normal((3, 4, 2, 2))]
    (got,) = run_plan(compile_graph(graph, AVX512), arrays)
    np.testing.assert_allclose(got, run(graph, arrays)[0], rtol=1e-12, atol=1e-12)
