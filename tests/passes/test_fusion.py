"""What fuses into what, and that it still computes the same: each program against the interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tracefuse.backends.llvm.codegen import lower_loops
from tracefuse.ir import dim, interpreter, ops
from tracefuse.ir.dtypes import float16, float32, float64, from_numpy, int64
from tracefuse.ir.graph import GraphBuilder, InputSpec, OutputSpec, Signature
from tracefuse.ir.target import AVX2
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.runtime.executable import CheckFailed, build, default_target

rng = np.random.default_rng(0)


def f(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def run(make, *arrays, kernels=None, tolerance=2e-5):
    """Builds `make`, compares every output with the interpreter's, and returns the executable."""
    b = GraphBuilder("program")
    inputs = [b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{k}") for k, a in enumerate(arrays)]
    with b:
        out = make(*inputs)
    graph = b.finish(out if isinstance(out, tuple) else (out,))
    executable = build(graph, verify=False)
    for got, want in zip(executable.run(arrays), interpreter.run(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    if kernels is not None:
        assert len(executable.plan.steps) == kernels, [s.kernel.ops for s in executable.plan.steps]
    return executable


def const(v):
    return ops.full(value=v, shape=(), dtype=float32)


def test_softmax_is_one_kernel_and_computes_exp_once():
    e = run(lambda x: ops.softmax(x, axis=1), f(33, 1000), kernels=1)
    (kernel,) = {s.kernel for s in e.plan.steps}
    assert [b.name for b in kernel.params if b.role == "scratch"] == ["s0"]


def test_norm_with_residual_and_activation_is_one_kernel():
    def make(x, r, w, b):
        return ops.gelu(ops.layer_norm(ops.add(x, r), w, b, ndim_normalized=1, eps=1e-5), approximate="tanh")

    run(make, f(40, 257), f(40, 257), f(257), f(257), kernels=1)


def test_matmul_with_bias_and_activation_is_one_kernel():
    run(lambda x, w, b: ops.gelu(ops.add(ops.matmul(x, w), b)), f(37, 65), f(65, 50), f(50), kernels=1)


def test_a_permuted_product_is_stored_in_place_of_a_copy():
    def make(x, w, y):
        return ops.add(ops.permute(ops.matmul(x, w), perm=(1, 0)), y)

    run(make, f(20, 30), f(30, 40), f(40, 20), kernels=1)


def test_a_slice_of_a_product_does_not_join_its_epilogue():
    """The slice reads element (i, j) at (i, j), but there are fewer of them."""
    run(
        lambda x, w: ops.sigmoid(ops.slice_(ops.matmul(x, w), start=(0, 0), stop=(4, 8), step=(1, 1))),
        f(4, 16),
        f(16, 32),
    )


def test_concat_of_expressions_is_one_kernel():
    run(lambda x, y: ops.concat(ops.exp(x), ops.tanh(y), axis=0), f(3, 40), f(5, 40), kernels=1)


@pytest.mark.parametrize("k", [8, 5000])
def test_epilogues_read_before_they_write(k):
    """An optimizer step in the epilogue of the product that gives the gradient: its state is read and overwritten."""
    x, d, p, m = f(6, k), f(k, 9), f(6, 9), f(6, 9)
    b = GraphBuilder("step")
    inputs = [b.input(TensorType(float32, a.shape), n) for n, a in zip("xdpm", (x, d, p, m))]
    with b:
        g = ops.matmul(inputs[0], inputs[1])
        m2 = ops.add(ops.mul(inputs[3], const(0.9)), g)
        p2 = ops.sub(inputs[2], ops.mul(m2, const(0.1)))
    specs = (OutputSpec("write", 2), OutputSpec("write", 3))
    graph = b.finish((p2, m2), Signature(tuple(InputSpec(n) for n in "xdpm"), specs))
    want = interpreter.run(graph, (x, d, p, m))
    arrays = [a.copy() for a in (x, d, p, m)]
    assert build(graph).run(arrays) == [None, None]
    np.testing.assert_allclose(arrays[2], want[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(arrays[3], want[1], rtol=1e-4, atol=1e-4)


def test_steps_of_an_unrolled_loop_share_kernels():
    def make(z, w):
        h = ops.slice_(z, start=(0, 0, 0), stop=(1, 4, 8), step=(1, 1, 1))
        h = ops.tanh(ops.reshape(h, shape=(4, 8)))
        for t in range(1, 10):
            x = ops.reshape(ops.slice_(z, start=(t, 0, 0), stop=(t + 1, 4, 8), step=(1, 1, 1)), shape=(4, 8))
            h = ops.tanh(ops.add(x, ops.matmul(h, w)))
        return h

    e = run(make, f(10, 4, 8), f(8, 8))
    assert len({s.kernel.name for s in e.plan.steps}) <= 3 < len(e.plan.steps)


def test_sums_with_few_results_are_split():
    e = run(lambda x: ops.reduce_sum(ops.mul(x, x), axes=(0, 1)), f(512, 300), tolerance=1e-3)
    assert [len(s.kernel.axes) for s in e.plan.steps] == [1, 0]


def test_a_column_softmax():
    run(lambda x: ops.softmax(x, axis=0), f(50, 70))


def test_windows_with_padding_and_stride():
    def make(x, w):
        return ops.conv(
            x, w, stride=(2, 1), low=(1, 1), high=(1, 1), lhs_dilation=(1, 1), rhs_dilation=(1, 2), groups=2
        )

    run(make, f(3, 4, 9, 11), f(6, 2, 3, 3), tolerance=1e-4)


@pytest.mark.parametrize(
    "target", [default_target(), AVX2, replace(AVX2, isa="scalar", cpu="x86-64")], ids=lambda t: t.isa
)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reduce", [ops.reduce_max, ops.reduce_min], ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", [float32, float64, float16], ids=lambda d: d.name)
def test_extremes_of_rows_and_columns_see_every_nan(dtype, reduce, axis, target):
    x = rng.standard_normal((70, 70)).astype(dtype.np)
    for k in range(0, 70, 3):  # in every position of a vector, of a group of them, and of the rest
        x[k, k] = np.nan
    x[1], x[:, 1] = np.inf, -np.inf
    b = GraphBuilder("extremes")
    graph = b.finish((reduce_of(b, reduce, x, axis),))
    (got,) = build(graph, target=target).run((x,))
    np.testing.assert_array_equal(got, interpreter.run(graph, (x,))[0])


def reduce_of(b, op, x, axis):
    v = b.input(TensorType(from_numpy(x.dtype), x.shape), "x")
    with b:
        return op(v, axes=(axis,))


def test_heavy_kernels_fetch_large_inputs_ahead():
    b = GraphBuilder("large")
    v = b.input(TensorType(float32, (1024, 4096)), "x")
    with b:
        graph = b.finish((ops.softmax(v, axis=1), ops.gelu(v, approximate="none")))
    for step in compile_graph(graph, default_target()).steps:
        text = lower_loops(step.kernel, step.schedule, default_target()).text
        assert step.schedule.prefetch and "call void @llvm.prefetch" in text


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(160, 128), (131, 257), (16, 1030), (2, 130, 70)])
def test_transposed_operands_are_turned_in_registers(shape, dtype):
    x, y = (rng.integers(0, 100, s).astype(dtype) for s in (shape, (*shape[:-2], shape[-1], shape[-2])))
    order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)

    def make(x, y):
        return ops.ne(ops.permute(x, perm=order), y)

    (step,) = run(make, x, y, kernels=1).plan.steps
    assert step.schedule.across


def test_a_transposed_operand_of_any_size():
    """Symbolic extents: whole squares and what is left over are told apart at run time."""
    b = GraphBuilder("any")
    n, m = dim.symbol("n", 2, 4096), dim.symbol("m", 2, 4096)
    v = b.input(TensorType(float32, (n, m)), "x")
    with b:
        graph = b.finish((ops.neg(ops.permute(v, perm=(1, 0))),))
    executable = build(graph)
    assert executable.plan.steps[0].schedule.across
    for shape in ((16, 16), (2, 3), (40, 15), (15, 40), (64, 33), (100, 200)):
        x = f(*shape)
        np.testing.assert_array_equal(executable.run((x,))[0], -x.T)


def test_indices_known_to_be_in_range_need_no_check():
    rows = np.array([2, 0, 2])

    def clamped(x, i):
        zero, top = (ops.full(value=v, shape=(), dtype=int64) for v in (0, 3))
        return ops.gather(x, ops.minimum(ops.maximum(i, zero), top))

    run(lambda x: ops.gather(x, rows), f(4, 5), kernels=1)
    run(clamped, f(4, 5), np.array([-7, 2, 99]), kernels=1)


@pytest.mark.parametrize("rows", [[2, 0, 4], [-5, 0]])
def test_constant_indices_out_of_range_are_still_found(rows):
    b = GraphBuilder("far")
    v = b.input(TensorType(float32, (4, 5)), "x")
    with b:
        graph = b.finish((ops.gather(v, np.array(rows)),))
    with pytest.raises(CheckFailed):
        build(graph).run((f(4, 5),))


def test_a_clamp_that_is_too_wide_is_no_proof():
    b = GraphBuilder("wide")
    v, i = b.input(TensorType(float32, (4, 5)), "x"), b.input(TensorType(int64, (3,)), "i")
    with b:
        graph = b.finish((ops.gather(v, ops.minimum(i, ops.full(value=4, shape=(), dtype=int64))),))
    with pytest.raises(CheckFailed):
        build(graph).run((f(4, 5), np.array([0, 9, 1])))


def test_groups_are_not_merged_around_what_waits_for_one_of_them_and_feeds_the_node_that_joins_them():
    def make(x, y):
        chosen = ops.gt(x, y)
        after = ops.cumsum(ops.where(chosen, x, y), axis=0)  # waits for `chosen`
        other = ops.div(
            ops.exp(x), ops.exp(y)
        )  # a group of its own, until `where` would merge it with that of `chosen`
        return ops.where(chosen, ops.flip(after, axes=(0,)), other)

    run(make, f(40), f(40))
