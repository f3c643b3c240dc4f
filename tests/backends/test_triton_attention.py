"""Attention kernels: numbers through Triton's interpreter, in blocks of several sizes; machine code in another process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_kernel, run_plan
from tracefuse.backends.triton import launch
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.frontend.costs import kernel_cost
from tracefuse.ir import dim, ops
from tracefuse.ir.derive import vjp_graph
from tracefuse.ir.dtypes import bfloat16, float16, float32, from_numpy, int64
from tracefuse.ir.graph import GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Attention
from tracefuse.ir.kernel_text import format_kernel
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.plan import Plan
from tracefuse.ir.subgraph import apply_graph, graph_of
from tracefuse.ir.target import AVX512, CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import Report, compile_graph
from tracefuse.passes.schedule_attention import schedule_attention

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()

OPS = ("attention", "attention_queries", "attention_keys")
STATE = np.array([5, 9], np.uint64)
rng = np.random.default_rng(0)


def normal(*shape: int, dtype=np.float32) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def planned(function, arrays: Sequence[np.ndarray], sizes: dict[int, str] | None = None, **options) -> Plan:
    """A function's plan for GPUs. `sizes`: lengths that are symbols of these names."""
    symbols = {n: dim.symbol(name, 2) for n, name in (sizes or {}).items()}
    b = GraphBuilder("f")
    types = [TensorType(from_numpy(a.dtype), tuple(symbols.get(n, n) for n in a.shape)) for a in arrays]
    inputs = [b.input(t, f"x{k}") for k, t in enumerate(types)]
    with b:
        out = function(*inputs)
    graph = b.finish([out] if isinstance(out, Value) else list(out))
    return compile_graph(graph, CUDA_SM90, verify=True, **options)


def evaluated(function, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The function's result by the references of its ops."""
    graph = graph_of(function, [TensorType(from_numpy(a.dtype), a.shape) for a in arrays])
    return run(graph, list(arrays))[0]


def operands(q, k, e: int, *more: np.ndarray, dtype=np.float32, scale=0.3, causal=False, dropout=0.0):
    """The operands of each of the three ops, where the gradients get what the forward pass says; and the attributes."""
    given = (normal(*q, dtype=dtype), normal(*k, dtype=dtype), normal(*k[:-1], e, dtype=dtype))
    attrs = {"scale": scale, "causal": causal, "dropout": dropout}
    out, lse = ops.attention.evaluate((*given, *more), attrs)
    g = normal(*out.shape, dtype=dtype)
    delta = (g.astype(lse.dtype) * out.astype(lse.dtype)).sum(-1)
    gradient = (g, *given, lse, delta, *more)
    return {"attention": (*given, *more), "attention_queries": gradient, "attention_keys": gradient}, attrs


def check(case, blocks: tuple[int, ...] = (16, 16, 16, 16), sizes: dict[int, str] | None = None, run=None) -> None:
    """Each of the three ops is one kernel, whose numbers are those of the op."""
    arrays, attrs = case

    def in_blocks(kernel, buffers, dims, schedule):
        launch.run_kernel(kernel, buffers, dims, replace(schedule, blocks=blocks) if blocks else schedule)

    for name in OPS:
        op = REGISTRY[name]
        plan = planned(lambda *xs, op=op: op(*xs, **attrs), arrays[name], sizes)
        assert len(plan.steps) == 1
        want = op.evaluate(arrays[name], attrs)
        got = run_plan(plan, arrays[name], run or in_blocks)
        narrow = arrays[name][0].dtype.itemsize == 2
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if narrow else {"rtol": 3e-5, "atol": 3e-5}
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            assert g.dtype == w.dtype
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), err_msg=name, **tolerance)


def test_causal_attention_of_unequal_and_odd_lengths_in_blocks_of_unequal_sizes():
    for rows, columns in ((48, 48), (37, 70), (70, 37)):
        for blocks in ((16, 16, 16, 16), (32, 16, 16, 16), (16, 32, 16, 16)):
            check(operands((rows, 12), (columns, 12), 10, causal=True), blocks)


def test_blocks_that_all_exist_need_no_masks():
    check(operands((2, 32, 16), (2, 48, 16), 16), (16, 16, 16, 16))
    plan = planned(lambda *xs: ops.attention(*xs, scale=0.3)[0], [normal(32, 64), normal(64, 64), normal(64, 64)])
    (step,) = plan.steps
    assert "mask=" not in lower_kernel(step.kernel, step.schedule, CUDA_SM90).source


def test_sides_of_one_element():
    for q, k, e in (((2, 1, 8), (2, 50, 8), 8), ((2, 50, 8), (2, 1, 8), 8), ((20, 1), (18, 1), 1)):
        check(operands(q, k, e, causal=q[-2] > 1))


def test_boolean_masks_hide_rows_and_blocks():
    mask = rng.random((2, 1, 33, 50)) > 0.4
    mask[1, 0, 5] = False  # a row that sees nothing
    mask[0, 0, :, :20] = False  # whose first block is hidden
    check(operands((2, 3, 33, 8), (2, 1, 50, 8), 8, mask))
    check(operands((33, 8), (50, 8), 8, rng.random(50) > 0.4, causal=True))


def test_added_masks():
    lost = np.where(rng.random((33, 50)) > 0.4, 0, -np.inf).astype(np.float32)
    lost[:, :17] = lost[3] = -np.inf  # NaN in row 3, as in the op
    check(operands((2, 33, 8), (2, 50, 8), 8, lost))
    check(operands((2, 33, 8), (2, 50, 8), 8, normal(2, 33, 50, dtype=np.float16), dtype=np.float16))


def test_dropout_draws_what_the_op_draws():
    mask = rng.random((2, 1, 20, 18)) > 0.2
    check(operands((2, 2, 20, 8), (2, 1, 18, 8), 8, mask, STATE, dropout=0.4, causal=True))


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
def test_narrow_floats(dtype):
    check(operands((2, 33, 24), (2, 50, 24), 24, dtype=dtype.np, causal=True), (16, 32, 32, 32))


def test_default_blocks_for_heads_of_80_elements():
    check(operands((70, 80), (130, 80), 80, causal=True, scale=0.1), ())


def test_symbolic_lengths():
    check(operands((2, 37, 16), (2, 70, 16), 16, causal=True), sizes={37: "n", 70: "m"})
    check(operands((2, 48, 16), (2, 64, 16), 16), sizes={48: "n", 64: "m"})


def test_the_reference_of_kernels_agrees():
    mask = rng.random((2, 1, 20, 18)) > 0.4
    mask[0, 0, 3] = False
    check(operands((2, 2, 20, 8), (2, 1, 18, 8), 6, mask, STATE, dropout=0.4, causal=True), run=run_kernel)


def test_operands_are_read_where_they_lie():
    """The parts of a fused projection are loads, and a computed mask is arithmetic."""
    length, heads, d = 20, 3, 8
    qkv = normal(2, length, 3 * heads * d)

    def split(x, i):
        part = ops.slice_(x, start=(0, 0, i, 0, 0), stop=(2, length, i + 1, heads, d), step=(1,) * 5)
        return ops.permute(ops.reshape(part, shape=(2, length, heads, d)), perm=(0, 2, 1, 3))

    def function(qkv):
        x = ops.reshape(qkv, shape=(2, length, 3, heads, d))
        rows, columns = (ops.iota(shape=(length, length), axis=k, dtype=int64) for k in (0, 1))
        near = ops.le(ops.abs_(ops.sub(rows, columns)), ops.full(value=4, shape=(), dtype=int64))
        out = ops.attention(*(split(x, i) for i in range(3)), near, scale=0.4)[0]
        return ops.relu(out)

    plan = planned(function, [qkv])
    (step,) = plan.steps
    assert len(step.kernel.params) == 2 and step.kernel.ops == ("attention", "relu")
    (got,) = run_plan(plan, [qkv], launch.run_kernel)
    np.testing.assert_allclose(got, evaluated(function, [qkv]), rtol=1e-5, atol=1e-5)


def test_masks_are_computed_in_the_kernel():
    """Linear biases of each head (ALiBi), and padding that differs between sequences, under a causal mask."""
    heads, n = 3, 20
    q, k, v = (normal(2, heads, n, 8) for _ in range(3))

    def positions():
        return [ops.iota(shape=(n, n), axis=k, dtype=int64) for k in (0, 1)]

    def biased(q, k, v, slopes):
        rows, columns = positions()
        away = ops.cast(ops.sub(columns, rows), dtype=float32)
        return ops.attention(q, k, v, ops.mul(ops.reshape(slopes, shape=(heads, 1, 1)), away), scale=0.4, causal=True)[
            0
        ]

    def padded(q, k, v, present):
        rows, columns = positions()
        seen = ops.and_(ops.reshape(present, shape=(2, 1, 1, n)), ops.le(columns, rows))
        return ops.attention(q, k, v, seen, scale=0.4)[0]

    for function, more in ((biased, np.array([0.5, 0.25, 0.1], np.float32)), (padded, rng.random((2, n)) > 0.3)):
        plan = planned(function, [q, k, v, more])
        assert [s.kernel.ops for s in plan.steps] == [("attention",)]
        (got,) = run_plan(plan, [q, k, v, more], launch.run_kernel)
        np.testing.assert_allclose(got, evaluated(function, [q, k, v, more]), rtol=1e-5, atol=1e-5)


def test_a_kernel_says_what_it_computes():
    arrays, attrs = operands((5, 4), (6, 4), 4, causal=True, scale=1.0)
    (step,) = planned(lambda *xs: ops.attention_queries(*xs, **attrs), arrays["attention_queries"]).steps
    assert isinstance(step.kernel.anchor, Attention)
    assert kernel_cost(step.kernel).flops == 2 * 5 * 6 * (4 + 4 + 4)
    assert format_kernel(step.kernel).splitlines()[-11:] == [
        "    acc: f32 = attention queries causal batch () m (i0: 5) n (n0: 6) d (i1: 4) e (e0: 4)",
        "      q x0[i0*4 + i1]",
        "      k x1[i1 + n0*4]",
        "      v x2[e0 + n0*4]",
        "      score (score * 1.4426950216293335:f32)",
        "      g x3[e0 + i0*4]",
        "      lse (x4[i0] * 1.4426950216293335:f32)",
        "      delta x5[i0]",
        "      slope 1.0",
        "    then:",
        "      y0[i0*4 + i1] = acc",
    ]


def gradients(*arrays: np.ndarray, target=CUDA_SM90, fuel: Fuel | None = None):
    """The graph of out and the gradients of sum(out**2), and its plan."""

    def loss(q, k, v):
        out = ops.attention(q, k, v, scale=0.4, causal=True)[0]
        return ops.reduce_sum(ops.mul(out, out), axes=tuple(range(len(out.shape))))

    types = [TensorType(from_numpy(a.dtype), a.shape) for a in arrays]
    backward = vjp_graph(graph_of(loss, types), [True] * 3, [True])
    one = ops.full(value=1.0, shape=(), dtype=from_numpy(arrays[0].dtype))
    graph = graph_of(lambda *xs: apply_graph(backward, (*xs, one)), types, "f")
    report = Report()
    plan = compile_graph(graph, target, fuel, verify=True, report=report)
    return graph, plan, report


def test_a_backward_pass_is_three_kernels_behind_the_forward_one():
    """Forward, rowsum(out * g), queries, keys. Grouped heads are summed afterwards."""
    arrays = [normal(2, 3, 20, 8), normal(2, 1, 24, 8), normal(2, 1, 24, 8)]
    graph, plan, _ = gradients(*arrays)
    names = [s.kernel.ops[0] for s in plan.steps]
    assert [n for n in names if n in OPS] == ["attention", "attention_queries", "attention_keys"]
    for g, w in zip(run_plan(plan, arrays, launch.run_kernel), run(graph, arrays), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


def test_without_kernels_it_is_decomposed():
    """By name, without fuel, for float64, for heads of more than 256 elements, and on targets that have none."""

    def kept(*arrays, **options) -> int:
        _, _, report = gradients(*arrays, **options)
        assert report.graph is not None
        return sum(n.op.name in OPS for n in report.graph.nodes)

    given = [normal(5, 4), normal(6, 4), normal(6, 4)]
    assert kept(*given) == 3
    assert kept(*given, fuel=Fuel(disabled=frozenset(("attention",)))) == 0
    assert [kept(*given, fuel=Fuel(n)) for n in (0, 1, 2)] == [0, 1, 2]
    assert kept(*given, target=AVX512) == 0
    assert kept(*(a.astype(np.float64) for a in given)) == 0
    assert kept(normal(5, 260), normal(6, 260), normal(6, 4)) == 0


def test_precision_is_that_of_float32_products():
    """Asked for, and where registers hold the parts of float32."""

    def precision(d: int, dtype=np.float32, **given) -> str:
        arrays = [normal(40, d, dtype=dtype) for _ in range(3)]
        (step,) = planned(lambda *xs: ops.attention(*xs, scale=0.3)[0], arrays).steps
        return schedule_attention(step.kernel, CUDA_SM90, **given).precision

    assert precision(64) == "ieee"
    assert [precision(d, precision="tf32x3") for d in (64, 128, 200)] == ["tf32x3", "tf32x3", "ieee"]
    assert precision(64, float16.np, precision="tf32x3") == "ieee"  # exact in float32 as it is


# ------------------------------------------------------------------ machine code

SHARED = {"80": 99, "90": 227}  # KB that a program may have: 8.6 and 8.9 run what is compiled for 8.0


def compiled(*arguments: str) -> dict[tuple[str, ...], dict]:
    """What kernels take, by op, type, elements of a head, compute capability and mode."""
    worker = Path(__file__).with_name("triton_attention_worker.py")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(worker), *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {tuple(name.split()): kernel for name, kernel in json.loads(done.stdout).items()}


def check_resources(found: dict[tuple[str, ...], dict]) -> None:
    for case, kernel in found.items():
        assert kernel["elf"] and 0 < kernel["registers"] <= 255, case
        assert kernel["spills"] == 0, f"{case} spills {kernel['spills']} bytes"
        assert kernel["shared"] <= SHARED[case[3]] * 1024, case


def test_narrow_attention_keeps_everything_in_registers():
    """And has tensor cores do its products."""
    found = compiled()
    check_resources(found)
    assert {(case[3], kernel["products"]) for case, kernel in found.items()} == {("80", "mma.sync"), ("90", "wgmma")}


@pytest.mark.slow
def test_all_attention_keeps_everything_in_registers():
    """All sizes of heads, masks and types. Products of float32 are IEEE: no tensor core does them."""
    found = compiled("all")
    check_resources(found)
    assert all((kernel["products"] == "") == (case[1] == "f32") for case, kernel in found.items())
