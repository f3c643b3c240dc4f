"""Contractions as Triton kernels: their numbers through the interpreter, under schedules of all kinds, and what their
source says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_kernel
from tracefuse.backends.triton import launch
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import FLOATS, INTEGERS, bfloat16, float16, float32, float64, int8, int32, uint32
from tracefuse.ir.kernel import Axis, Buffer, Contraction, Kernel, Schedule, Stage, Store
from tracefuse.ir.scalar import Expr, apply, load, result
from tracefuse.ir.target import CUDA_SM90

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
from triton_products import SCHEDULES, SMALL, anchors, assert_close, check, conv, integers, normal, plan_of

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()

# ------------------------------------------------------------------ matrices


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["small", "tall", "wide", "grouped"])
@pytest.mark.parametrize("shape", [(16, 16, 16), (64, 96, 80), (37, 53, 41), (100, 18, 3), (17, 130, 64)], ids=str)
def test_shapes(shape, schedule):
    m, n, k = shape
    check(ops.matmul, [normal(m, k), normal(k, n)], schedule)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_floats(dtype):
    check(ops.matmul, [normal(40, 37, dtype=dtype.np), normal(37, 50, dtype=dtype.np)], SCHEDULES[1])


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_wrap_around(dtype):
    arrays = [integers(20, 70, dtype=dtype.np), integers(70, 33, dtype=dtype.np)]
    check(ops.matmul, arrays, Schedule(blocks=(16, 16, 32)))


def test_bytes_that_were_widened_are_multiplied_as_bytes():
    x, y = integers(20, 70, dtype=np.int8), integers(70, 33, dtype=np.int8)
    plan = check(
        lambda x, y: ops.matmul(ops.cast(x, dtype=int32), ops.cast(y, dtype=int32)),
        [x, y],
        Schedule(blocks=(16, 16, 32)),
    )
    (kernel,) = anchors(plan)
    source = lower_kernel(kernel, Schedule(blocks=(16, 16, 32)), CUDA_SM90).source
    assert "tl.dot(" in source and "out_dtype=tl.int32" in source


@pytest.mark.parametrize(
    "batches", [((3,), (3,)), ((2, 1), (3,)), ((), (2, 3)), ((2, 3), ()), ((1, 3), (2, 1))], ids=str
)
def test_batches_broadcast(batches):
    left, right = batches
    check(ops.matmul, [normal(*left, 20, 18), normal(*right, 18, 35)], SCHEDULES[1])


def test_transposed_operands_and_results():
    x, y = normal(3, 41, 20), normal(3, 35, 41)

    def function(x, y):
        out = ops.matmul(ops.permute(x, perm=(0, 2, 1)), ops.permute(y, perm=(0, 2, 1)))
        return ops.relu(ops.permute(out, perm=(2, 0, 1)))

    check(function, [x, y], SCHEDULES[1])


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=["small", "tall"])
def test_symbolic_sizes(schedule):
    sizes = ((0, 0, "b"), (0, 1, "m"), (0, 2, "k"), (1, 0, "k"), (1, 1, "n"))
    check(lambda x, y: ops.relu(ops.matmul(x, y)), [normal(2, 19, 70), normal(70, 35)], schedule, sizes)


# ------------------------------------------------------------------ prologues and epilogues


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_epilogue_with_bias_residual_and_activation(dtype):
    x, w, bias, rest = (normal(*s, dtype=dtype.np) for s in ((2, 21, 33), (40, 33), (40,), (2, 21, 40)))

    def layer(x, w, bias, rest):
        out = ops.add(ops.matmul(x, ops.permute(w, perm=(1, 0))), bias)
        return ops.add(ops.gelu(out, approximate="tanh"), rest), ops.gt(out, rest)

    check(layer, [x, w, bias, rest], SCHEDULES[1])


def test_dropout_behind_a_product():
    def layer(x, w, state):
        bits = ops.random_bits(state, shape=(30, 34))
        kept = ops.lt(bits, ops.full(value=2**31, shape=(), dtype=uint32))
        out = ops.matmul(x, w)
        return ops.where(kept, ops.add(out, out), ops.full(value=0.0, shape=(), dtype=float32))

    check(layer, [normal(30, 20), normal(20, 34), np.array([5, 7], np.uint64)])


def product(lhs: Callable[[Expr], Expr], rhs: Callable[[Expr], Expr], m: int, n: int, k: int) -> Kernel:
    """z = lhs(x) @ rhs(y) as a kernel whose operands are computed."""
    mi, ni, ki = (Axis(dim.symbol(name, 0, size - 1), size) for name, size in (("m", m), ("n", n), ("k", k)))
    x, y = load(float32, "x", (mi.sym, ki.sym)), load(float32, "y", (ki.sym, ni.sym))
    shapes = (("x", (m, k), "in"), ("y", (k, n), "in"), ("z", (m, n), "out"))
    params = tuple(Buffer(name, float32, shape, dim.contiguous_strides(shape), role) for name, shape, role in shapes)
    anchor = Contraction("acc", (), (mi,), (ni,), (ki,), lhs(x), rhs(y), float32)
    store = Store("z", (mi.sym, ni.sym), result("acc", float32))
    return Kernel("computed", params, (mi, ni), (Stage((), (), (store,)),), anchor)


@pytest.mark.parametrize("k", [16, 21])
def test_computed_operands_add_nothing_outside(k):
    """1 / 0 outside of either would be NaN inside of the sum."""
    kernel = product(lambda x: apply("exp", x), lambda y: 1.0 / y, 20, 18, k)
    arrays = {"x": normal(20, k), "y": normal(k, 18), "z": np.empty((20, 18), np.float32)}
    want = {name: a.copy() for name, a in arrays.items()}
    run_kernel(kernel, want, {})
    launch.run_kernel(kernel, arrays, {}, SMALL)
    assert_close(arrays["z"], want["z"], kernel.name)


def test_operand_that_does_not_depend_on_the_contracted_points():
    kernel = product(lambda x: load(float32, "x", (next(iter(x.attr.index)), 0)), lambda y: y, 20, 18, 21)
    arrays = {"x": normal(20, 21), "y": normal(21, 18), "z": np.empty((20, 18), np.float32)}
    want = {name: a.copy() for name, a in arrays.items()}
    run_kernel(kernel, want, {})
    launch.run_kernel(kernel, arrays, {}, SMALL)
    assert_close(arrays["z"], want["z"], kernel.name)


def test_infinities_and_nans_go_where_they_belong():
    x, y = normal(20, 40), normal(40, 18)
    x[3, 5], x[7, 1], y[9, 2] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        check(ops.matmul, [x, y])


# ------------------------------------------------------------------ convolutions


@pytest.mark.parametrize("schedule", SCHEDULES[1:3], ids=["tall", "wide"])
@pytest.mark.parametrize(
    "x, w, attrs",
    [
        ((2, 32, 7, 6), (18, 32, 3, 3), conv(2, low=(1, 1), high=(1, 1))),  # whole blocks of channels
        ((2, 5, 9, 8), (18, 5, 3, 3), conv(2, stride=(2, 1), low=(1, 1), high=(1, 2), rhs_dilation=(1, 2))),
        ((2, 24, 5, 5), (18, 24, 1, 1), conv(2)),
        ((2, 12, 9, 9), (24, 4, 3, 3), conv(2, groups=3, low=(1, 1), high=(1, 1))),
        ((2, 6, 30), (20, 6, 5), conv(1, stride=(2,), low=(2,), high=(2,))),
        ((1, 6, 5, 6, 4), (17, 6, 2, 3, 2), conv(3, low=(1, 0, 1), high=(0, 1, 1))),
        ((2, 18, 5, 4), (16, 18, 3, 3), conv(2, lhs_dilation=(2, 2), low=(1, 1), high=(2, 2))),  # transposed
    ],
    ids=str,
)
def test_convolutions(x, w, attrs, schedule):
    bias = normal(w[0], *(1,) * (len(w) - 2))
    check(lambda x, w, b: ops.relu(ops.add(ops.conv(x, w, **attrs), b)), [normal(*x), normal(*w), bias], schedule)


# ------------------------------------------------------------------ source


def source_of(function: Callable, arrays: list[np.ndarray], schedule: Schedule) -> str:
    (kernel,) = anchors(plan_of(function, arrays)[1])
    return lower_kernel(replace(kernel, name="product"), schedule, CUDA_SM90).source


def test_source_is_readable():
    """Nothing is computed in the loop but scalars; nothing is masked where blocks divide sizes."""
    arrays = [normal(64, 128, dtype=bfloat16.np), normal(128, 96, dtype=bfloat16.np), normal(96, dtype=bfloat16.np)]
    source = source_of(lambda x, w, b: ops.add(ops.matmul(x, w), b), arrays, Schedule(blocks=(16, 32, 64)))
    assert (
        source.split("\n\n\n")[1]
        == """\
@triton.jit
def product(x0, x1, x2, y0, MBLOCK: tl.constexpr, NBLOCK: tl.constexpr, KBLOCK: tl.constexpr):
    # matmul, add
    program = tl.program_id(0)
    row = program // 3
    column = program % 3
    mi = (row * MBLOCK + tl.arange(0, MBLOCK))[:, None]
    ni = (column * NBLOCK + tl.arange(0, NBLOCK))[None, :]
    acc = tl.full([MBLOCK, NBLOCK], 0, tl.float32)
    k_column = tl.arange(0, KBLOCK)[None, :]
    k_row = tl.arange(0, KBLOCK)[:, None]
    at0 = mi * 128 + k_column
    at1 = ni + k_row * 96
    for k_block in range(0, 2):
        x0_0 = tl.load((x0 + (k_block * 64)) + at0)
        x1_0 = tl.load((x1 + (k_block * 6144)) + at1)
        acc = tl.dot(x0_0, x1_0, acc, input_precision="ieee", out_dtype=tl.float32)
    x2_0 = tl.load(x2 + ni)
    tl.store(y0 + (mi * 96 + ni), (acc + x2_0.to(tl.float32)).to(tl.bfloat16))
"""
    )


def test_windows_move_by_scalars_where_blocks_hold_whole_channels():
    attrs = conv(2, low=(1, 1), high=(1, 1))
    source = source_of(lambda x, w: ops.conv(x, w, **attrs), [normal(2, 32, 8, 8), normal(16, 32, 3, 3)], SMALL)
    loop = source.split("for k_block")[1].split("acc = ")[0]
    assert "arange" not in loop and "ki" not in loop


def test_programs_do_not_share_a_tile():
    with pytest.raises(ValueError, match="split in the graph"):
        source_of(ops.matmul, [normal(32, 32), normal(32, 32)], replace(SMALL, split=2))


def test_precision_is_said_for_float32_alone():
    for dtype, want in ((float32, "tf32x3"), (float16, "ieee"), (float64, "ieee")):
        arrays = [normal(32, 32, dtype=dtype.np), normal(32, 32, dtype=dtype.np)]
        source = source_of(ops.matmul, arrays, replace(SMALL, precision="tf32x3"))
        assert f'input_precision="{want}"' in source


# ------------------------------------------------------------------ without tensor cores


@pytest.mark.parametrize(
    "x, w, attrs",
    [
        ((2, 6, 9, 8), (6, 1, 3, 3), conv(2, groups=6, low=(1, 1), high=(1, 1))),
        ((2, 6, 9, 8), (12, 1, 3, 3), conv(2, groups=6, stride=(2, 2), rhs_dilation=(1, 2))),
        ((1, 6, 11, 12), (6, 1, 5, 5), conv(2, groups=6, low=(2, 2), high=(2, 2))),
        ((2, 8, 20), (8, 2, 3), conv(1, groups=4, low=(1,), high=(1,))),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [bfloat16, float32, int32], ids=str)
def test_depthwise_convolutions_are_element_wise(x, w, attrs, dtype):
    arrays = [(4 * normal(*shape)).astype(dtype.np) for shape in (x, w)]
    plan = check(lambda x, w: ops.relu(ops.conv(x, w, **attrs)), arrays, contractions=0)
    (step,) = plan.steps
    assert not any(s.axes for s in step.kernel.stages)


@pytest.mark.parametrize("window", [(9, 8), (7, 7)])
def test_gradients_of_depthwise_filters_and_large_windows_are_reductions(window):
    x, g = normal(1, 12, 11, 10), normal(6, 2, *window)
    plan = check(lambda x, g: ops.conv(x, g, **conv(2, groups=6)), [x, g], contractions=0)
    (step,) = plan.steps
    assert [len(s.reductions) for s in step.kernel.stages] == [1, 0]


def test_groups_of_several_channels_keep_their_tiles():
    check(lambda x, w: ops.conv(x, w, **conv(2, groups=2)), [normal(1, 8, 6, 6), normal(8, 4, 3, 3)])


@pytest.mark.parametrize("dtype", [bfloat16, float32, int8, int32], ids=str)
@pytest.mark.parametrize(
    "shapes", [((50,), (50,)), ((1, 50), (50, 40)), ((40, 50), (50, 1)), ((3, 1, 50), (2, 1, 50, 7))], ids=str
)
def test_products_with_vectors_are_sums(shapes, dtype):
    arrays = [(4 * normal(*s)).astype(dtype.np) for s in shapes]
    arrays = [a[None, :] if k == 0 and a.ndim == 1 else a[:, None] if a.ndim == 1 else a for k, a in enumerate(arrays)]
    check(ops.matmul, arrays, contractions=0)


def test_a_vector_times_transposed_weights_is_read_along_rows():
    check(
        lambda x, w: ops.relu(ops.matmul(x, ops.permute(w, perm=(1, 0)))),
        [normal(1, 70), normal(33, 70)],
        contractions=0,
    )


def test_batches_that_share_a_matrix_are_rows():
    plan = check(lambda x, w, b: ops.relu(ops.add(ops.matmul(x, w), b)), [normal(5, 1, 40), normal(40, 18), normal(18)])
    (kernel,) = anchors(plan)
    assert not kernel.anchor.batch and [a.extent for a in kernel.anchor.m] == [5]
    check(ops.matmul, [normal(3, 2, 7, 40), normal(1, 40, 18)], SCHEDULES[1], ((0, 0, "a"), (0, 2, "b")))


@pytest.mark.parametrize("dtype", [float16, float32], ids=str)
def test_long_sums_of_few_results_are_split(dtype):
    """Into a batch of products and a sum over it, which takes the epilogue."""
    x, w, bias = (normal(*s, dtype=dtype.np) for s in ((20, 2048), (2048, 24), (24,)))
    plan = check(lambda x, w, b: ops.relu(ops.add(ops.matmul(x, w), b)), [x, w, bias], SCHEDULES[3])
    (product,) = anchors(plan)
    assert len(plan.steps) == 2 and [a.extent for a in product.anchor.batch] == [8]
    assert product.buffer("y0").dtype is float32  # of halves too: they are rounded once


def test_products_with_many_results_are_not_split():
    (kernel,) = anchors(plan_of(ops.matmul, [np.empty((4096, 1024), np.float32), np.empty((1024, 512), np.float32)])[1])
    assert not kernel.anchor.batch


def test_gradients_for_filters_are_split_by_images():
    x, g = normal(3, 16, 9, 10), normal(20, 16, 8, 9)
    plan = check(lambda x, g: ops.conv(x, g, **conv(2)), [x, g], SCHEDULES[1])
    (kernel,) = anchors(plan)
    assert len(plan.steps) == 2 and [a.extent for a in kernel.anchor.batch] == [4]


def test_convolutions_in_a_row_keep_their_channels_last():
    """Only images and filters that come from outside are copied: the kernel of the first convolution stores its result as
    the second one reads it. What is added to that is read as it is."""
    attrs = conv(2, low=(1, 1), high=(1, 1))

    def block(x, v, w):
        return ops.relu(ops.add(ops.conv(ops.relu(ops.conv(x, v, **attrs)), w, **attrs), x))

    plan = check(block, [normal(2, 16, 6, 5), normal(16, 16, 3, 3), normal(16, 16, 3, 3)], contractions=2)
    assert [s.kernel.ops for s in plan.steps if s.kernel.anchor is None] == [("cast",)] * 3
    for kernel in anchors(plan):
        source = lower_kernel(kernel, Schedule(blocks=(16, 16, 16)), CUDA_SM90).source
        assert "k_row + ni * 16" in source and "mi * 144 + k_column" in source


@pytest.mark.parametrize(
    "x, w, attrs, copies",
    [
        ((2, 16, 8, 4), (16, 16, 1, 1), conv(2), 0),  # pixels are runs
        ((2, 16, 7, 7), (16, 16, 1, 1), conv(2), 2),
        ((2, 16, 8, 4), (16, 16, 1, 1), conv(2, stride=(2, 2)), 2),
        ((2, 8, 8, 8), (16, 8, 3, 3), conv(2), 0),  # channels are not
        ((2, 32, 8), (16, 32, 3), conv(1), 2),
    ],
    ids=str,
)
def test_images_are_copied_where_that_makes_runs(x, w, attrs, copies):
    plan = check(lambda x, w: ops.conv(x, w, **attrs), [normal(*x), normal(*w)])
    assert len(plan.steps) == 1 + copies


# ------------------------------------------------------------------ programs that stay


def persistent(blocks: tuple[int, ...], **changes) -> Schedule:
    return Schedule(blocks=blocks, persistent=True, **changes)


def check_persistent(function: Callable, arrays: list[np.ndarray], chosen: Schedule, multiprocessors: int = 3) -> str:
    """Runs a function whose contraction is done by so many programs; returns the source."""
    assert launch.INTERPRETED.gpu is not None
    machine = replace(launch.INTERPRETED, gpu=replace(launch.INTERPRETED.gpu, multiprocessors=multiprocessors))
    sources = []

    def runner(kernel: Kernel, buffers, dims, own: Schedule | None) -> None:
        assert own is not None
        lowered = lower_kernel(kernel, own if kernel.anchor is None else chosen, machine)
        sources.extend([lowered.source] * (kernel.anchor is not None))
        launch.interpret(lowered, buffers, dims)

    check(function, arrays, runner=runner)
    (source,) = sources
    return source


@pytest.mark.parametrize("blocks", [(16, 16, 16), (32, 16, 32)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_programs_take_tile_after_tile_of_matrices(turned, blocks):
    x, w, bias = normal(52, 40), normal(40, 36), normal(36)
    if turned:
        x, w = np.ascontiguousarray(x.T), np.ascontiguousarray(w.T)

    def layer(x, w, b):
        if turned:
            x, w = (ops.permute(v, perm=(1, 0)) for v in (x, w))
        return ops.relu(ops.add(ops.matmul(x, w), b))

    source = check_persistent(layer, [x, w, bias], persistent(blocks, group=2))
    assert source.count("make_tensor_descriptor") == 2 and "flatten=True" in source
    assert source.split("for k_block")[1].split("tl.dot")[0].count(".load([") == 2


def test_programs_that_stay_load_what_is_no_aligned_matrix():
    source = check_persistent(ops.matmul, [normal(3, 20, 21), normal(3, 21, 24)], persistent((16, 16, 16)))
    assert "make_tensor_descriptor" not in source and "PROGRAMS" in source
    source = check_persistent(ops.matmul, [normal(40, 21), normal(21, 24)], persistent((16, 16, 16)))
    assert source.count("make_tensor_descriptor") == 1
    sizes = ((0, 0, "m"),)
    check(ops.matmul, [normal(40, 20), normal(20, 24)], persistent((16, 16, 16)), sizes)


def test_more_programs_than_tiles_are_not_launched():
    (kernel,) = anchors(plan_of(ops.matmul, [normal(40, 32), normal(32, 20)])[1])
    assert lower_kernel(kernel, persistent((16, 16, 16)), CUDA_SM90).grid == (6,)


def test_reductions_never_join_an_epilogue():
    """They run behind a contraction, in a kernel of their own: a tile does not hold whole rows."""

    def attention(q, k, v):
        return ops.matmul(ops.softmax(ops.matmul(q, ops.permute(k, perm=(0, 2, 1))), axis=2), v)

    def norm(x, w, b):
        h = ops.add(ops.matmul(x, w), b)
        return ops.softmax(h, axis=1), ops.reduce_sum(h, axes=(0,))

    plans = [
        check(attention, [normal(2, 20, 16), normal(2, 24, 16), normal(2, 24, 18)], contractions=2),
        check(norm, [normal(20, 16), normal(16, 18), normal(18)]),
    ]
    for kernel in (k for plan in plans for k in anchors(plan)):
        assert not any(s.axes for s in kernel.stages)


@pytest.mark.parametrize("schedule", SCHEDULES[1:3], ids=["tall", "wide"])
def test_gradients_share_the_copies_of_images(schedule):
    """Of the images and of what comes back; a filter's gradient reads runs of channels on both sides."""
    attrs = conv(2, low=(1, 1), high=(1, 1))

    def gradients(x, g, w):
        swapped = [ops.permute(v, perm=(1, 0, 2, 3)) for v in (x, g, w)]
        gx = ops.conv(g, ops.flip(swapped[2], axes=(2, 3)), **attrs)
        return gx, ops.conv(x, w, **attrs), ops.conv(swapped[0], swapped[1], **attrs)

    arrays = [normal(2, 16, 8, 6), normal(2, 20, 8, 6), normal(20, 16, 3, 3)]
    plan = check(gradients, arrays, schedule, contractions=3)
    images = [s for s in plan.steps if s.kernel.ops == ("cast",) and s.kernel.axes[0].extent == 2]
    assert len(images) == 2  # x and g, each for two convolutions
    last = anchors(plan)[-1].anchor
    assert [a.extent for a in last.n] == [3, 3, 16] and [a.extent for a in last.k] == [2, 8, 6]


@pytest.mark.parametrize("block, alike", [(16, True), (32, True), (64, False)])
def test_contracted_axes_are_numbered_through_where_blocks_divide_them(block, alike):
    x, w = normal(1, 3, 12, 40), normal(16, 3, 4, 8)
    arrays = [x, w]
    schedule = Schedule(blocks=(16, 16, block))
    check(lambda x, w: ops.conv(x, w, **conv(2)), arrays, schedule)
    source = source_of(lambda x, w: ops.conv(x, w, **conv(2)), arrays, schedule)
    assert ("ki = " not in source) == alike
