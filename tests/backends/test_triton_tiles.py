"""How contractions are scheduled on GPUs: candidates, the precision of float32, and what machine code they become."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.backends.triton import launch
from tracefuse.ir import ops
from tracefuse.ir.dtypes import bfloat16, float32, float64, int8, int32
from tracefuse.ir.interpreter import run
from tracefuse.ir.target import CUDA_SM80, CUDA_SM90, cuda_target
from tracefuse.passes.candidates_gpu import candidates
from tracefuse.passes.schedule_gpu import schedule
from tracefuse.passes.tiles_gpu import shared_bytes, unit

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
from triton_products import anchors, assert_close, check, conv, normal, plan_of

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()

# ------------------------------------------------------------------ candidates


CONTRACTED = {  # sizes that exercise the choice, and are quick to interpret
    "small": (ops.matmul, [(40, 70), (70, 50)]),
    "tall": (ops.matmul, [(300, 20), (20, 18)]),
    "few_rows": (ops.matmul, [(3, 100), (100, 200)]),
    "batches": (ops.matmul, [(3, 20, 40), (3, 40, 24)]),
    "conv": (lambda x, w: ops.conv(x, w, **conv(2, low=(1, 1), high=(1, 1))), [(2, 16, 8, 8), (20, 16, 3, 3)]),
}


@pytest.mark.parametrize("name", CONTRACTED)
def test_candidates_compute_the_same(name):
    function, shapes = CONTRACTED[name]
    arrays = [normal(*s) for s in shapes]
    (kernel,) = anchors(plan_of(function, arrays)[1])
    found = candidates(kernel, CUDA_SM90)
    assert len(found) == len(set(found)) > 4 and found[0] == schedule(kernel, CUDA_SM90)
    for s in found[:: max(1, len(found) // 3)]:
        check(function, arrays, s)


@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("dtype", [bfloat16, float32, float64, int8, int32], ids=str)
def test_candidates_fit_the_machine(capability, dtype):
    target = cuda_target(capability)
    for shapes in ([(4096, 4096), (4096, 4096)], [(8, 4096), (4096, 4096)], [(64, 100, 30), (64, 30, 100)]):
        for kernel in anchors(plan_of(ops.matmul, [np.empty(s, dtype.np) for s in shapes])[1]):
            for s in candidates(kernel, target):
                assert shared_bytes(s, unit(kernel.anchor, target.gpu, s.precision)) <= target.gpu.block_shared
                assert all(b >= 16 and b & (b - 1) == 0 for b in s.blocks)


@pytest.mark.parametrize(
    "function",
    [ops.exp, lambda x: ops.reduce_sum(x, axes=(1,)), lambda x: ops.softmax(x, axis=1)],
    ids="pointwise sum softmax".split(),
)
def test_candidates_of_loops_begin_with_the_default(function):
    x = normal(50, 40)
    graph, plan = plan_of(function, [x])
    (step,) = plan.steps
    found = candidates(step.kernel, CUDA_SM90)
    assert found[0] == step.schedule and len(set(found)) == len(found) > 1
    for s in found:
        (got,) = run_plan(
            plan, [x], lambda kernel, buffers, dims, own, s=s: launch.run_kernel(kernel, buffers, dims, s)
        )
        assert_close(got, run(graph, [x])[0], str(s))


def test_targets_by_capability():
    assert cuda_target(80) == CUDA_SM80 and cuda_target(90) == CUDA_SM90
    assert cuda_target(87).gpu == cuda_target(86).gpu and cuda_target(87).cpu == "sm_87"
    assert cuda_target(90, 114).gpu.multiprocessors == 114 and cuda_target(90, 114).key != CUDA_SM90.key
    with pytest.raises(ValueError, match="7.5 are too old"):
        cuda_target(75)


# ------------------------------------------------------------------ precision


def rounded_to_tf32(x: np.ndarray) -> np.ndarray:
    """To 11 bits, halves away from zero, as `cvt.rna.tf32` does."""
    bits = x.astype(np.float32).view(np.uint32)
    return np.where(np.isfinite(x), (bits + 0x1000) & np.uint32(0xFFFFE000), bits).view(np.float32)


def cut_to_tf32(x: np.ndarray) -> np.ndarray:
    """As tensor cores read float32: further bits are not there."""
    return (x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def summed_by_tensor_cores(a: np.ndarray, b: np.ndarray, acc: np.ndarray) -> np.ndarray:
    """acc + a @ b, eight products at a time, each sum cut off behind the bits of a float32."""
    for k in range(0, a.shape[1], 8):
        exact = acc.astype(np.float64) + a[:, k : k + 8].astype(np.float64) @ b[k : k + 8].astype(np.float64)
        acc = exact.astype(np.float32)
        over = np.abs(acc.astype(np.float64)) > np.abs(exact)
        acc = np.where(over, np.nextafter(acc, np.float32(0)), acc)
    return acc


def product_in_three_parts(x: np.ndarray, y: np.ndarray, block: int = 32) -> np.ndarray:
    """What `input_precision="tf32x3"` compiles to."""
    out = np.zeros((x.shape[0], y.shape[1]), np.float32)
    for k in range(0, x.shape[1], block):
        a, b = x[:, k : k + block], y[k : k + block]
        a_high, b_high = rounded_to_tf32(a), rounded_to_tf32(b)
        a_low, b_low = cut_to_tf32(a - a_high), cut_to_tf32(b - b_high)
        low = summed_by_tensor_cores(a_low, b_high, np.zeros_like(out))
        low = summed_by_tensor_cores(a_high, b_low, low)
        out += summed_by_tensor_cores(a_high, b_high, np.where(np.isnan(low), np.float32(0), low))
    return out


@pytest.mark.parametrize("kind", ["normal", "positive", "wide"])
def test_three_parts_are_as_accurate_as_float32(kind):
    """The default for float32: a model of it, against float64, beside float32 sums in order."""
    x, y = normal(64, 1024, seed=1), normal(1024, 48, seed=2)
    if kind == "positive":
        x, y = np.abs(x), np.abs(y)
    if kind == "wide":
        x, y = x * np.exp2(8 * normal(64, 1024, seed=3)), y * np.exp2(8 * normal(1024, 48, seed=4))
        x, y = x.astype(np.float32), y.astype(np.float32)
    exact = x.astype(np.float64) @ y.astype(np.float64)
    scale = np.abs(x).astype(np.float64) @ np.abs(y).astype(np.float64)
    in_order = np.zeros(exact.shape, np.float32)
    for k in range(x.shape[1]):
        in_order += x[:, k : k + 1] * y[k]
    ours, theirs = (np.max(np.abs(out - exact) / scale) for out in (product_in_three_parts(x, y), in_order))
    assert ours < 1e-6 and ours < 2 * theirs


def test_three_parts_keep_infinities_and_nans():
    x, y = normal(16, 64, seed=1), normal(64, 16, seed=2)
    x[3, 5], x[7, 1], y[9, 2], y[5, 4] = np.inf, np.nan, -np.inf, 0.0
    with np.errstate(invalid="ignore"):
        got, want = product_in_three_parts(x, y), x @ y
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isposinf(got), np.isposinf(want))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))


def test_precision_is_chosen_by_who_schedules():
    (kernel,) = anchors(plan_of(ops.matmul, [normal(64, 64), normal(64, 64)])[1])
    assert schedule(kernel, CUDA_SM90).precision == "tf32x3"
    for precision in ("ieee", "tf32"):
        assert {s.precision for s in candidates(kernel, CUDA_SM90, precision)} == {precision}


# ------------------------------------------------------------------ machine code


def compiled(*arguments: str) -> list[dict]:
    """In a process of its own: one that interprets kernels cannot compile them."""
    worker = Path(__file__).with_name("triton_contraction_worker.py")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, str(worker), *arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_fits(found: dict) -> None:
    what = f"{found['problem']} sm_{found['capability']} {found['schedule']}"
    assert found["shared"] <= found["expected_shared"] <= found["shared_limit"], what
    lack = 255 * (found["candidate"] > 0)  # of registers, in bytes
    assert found["spills"] <= lack or found["registers"] < 64, what  # ptxas may put a word away with most of them free


def test_machine_code_uses_tensor_cores_and_loads_ahead():
    for found in compiled("1", "80,90", "square_bf16", "square_f32", "conv_f16"):
        assert_fits(found)
        assert found["cp.async.cg"] > 0
        assert found["mma.sync" if found["capability"] == 80 else "wgmma.mma_async"] > 0
        assert (found["cvt.rna.tf32"] > 0) == (found["problem"] == "square_f32")


def test_programs_that_stay_have_the_hardware_copy_their_blocks():
    """For which they need memory: 128 bytes for each operand."""
    one, other = compiled("2", "90", "square_bf16")
    assert_fits(other)
    assert (one["scratch"], one["cp.async.bulk.tensor"]) == (0, 0) and not one["persistent"]
    assert other["persistent"] and other["scratch"] == 256 and other["cp.async.bulk.tensor"] > 0
    assert other["wgmma.mma_async"] > 0 and other["cp.async.cg"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_every_problem_fits(capability):
    for found in compiled("4", capability):
        assert_fits(found)
