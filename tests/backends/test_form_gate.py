"""The gate for Kernel IR: fusions written in it by hand, run by every backend, compared with NumPy.

Each kernel is taken as written and as the kernel passes leave it, with sizes known and with symbolic ones.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_kernel
from tracefuse.ir import dim
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import Graph, InputSpec, OutputSpec, Signature, Value
from tracefuse.ir.kernel import Kernel
from tracefuse.ir.plan import Plan, PlanBuffer, Step
from tracefuse.ir.target import CUDA_SM90, Target
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import KERNEL_PASSES, Report, named
from tracefuse.passes.schedule import schedule
from tracefuse.runtime.executable import Executable, default_target

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path
import hand_kernels

Arrays = dict[str, np.ndarray]
Runner = Callable[[Kernel, Arrays, dict[str, int]], None]


def run_llvm(kernel: Kernel, arrays: Arrays, sizes: dict[str, int]) -> None:
    """As the one step of a plan."""
    target = default_target()
    kernel = named(kernel)
    types = {b.name: TensorType(b.dtype, b.shape) for b in kernel.params if b.role != "scratch"}
    inputs = [b.name for b in kernel.params if b.role == "in"]
    outputs = [b.name for b in kernel.params if b.role == "out"]
    buffers = [PlanBuffer(types[n], "input", k) for k, n in enumerate(inputs)]
    buffers += [PlanBuffer(types[n], "output", k) for k, n in enumerate(outputs)]
    args = tuple((inputs + outputs).index(n) for n in types)
    step = Step(kernel, schedule(kernel, target), args)
    numbers = tuple(range(len(inputs), len(buffers)))
    plan = Plan(kernel.name, tuple(buffers), (step,), numbers, (), 0, kernel.dims)
    signature = Signature(tuple(InputSpec(n) for n in inputs), tuple(OutputSpec() for _ in outputs))
    graph = Graph(
        "hand", tuple(Value(types[n], name=n) for n in inputs), (), tuple(Value(types[n], name=n) for n in outputs), signature
    )  # fmt: skip
    results = Executable(graph, plan, target, Report()).run([arrays[n] for n in inputs])
    for name, value in zip(outputs, results, strict=True):
        assert value is not None
        arrays[name][...] = value


def run_triton(kernel: Kernel, arrays: Arrays, sizes: dict[str, int]) -> None:
    from tracefuse.backends.triton import launch
    from tracefuse.passes.schedule_gpu import schedule

    launch.run_kernel(kernel, arrays, sizes, schedule(kernel, CUDA_SM90))


@pytest.fixture(params=["reference", "llvm", "triton"])
def backend(request) -> tuple[Runner, Target]:
    if request.param == "reference":
        return run_kernel, CUDA_SM90
    if request.param == "llvm":
        return run_llvm, default_target()
    if (
        importlib.util.find_spec("triton") is None
    ):  # not importorskip: the interpreter has to be chosen before the import
        pytest.skip("triton is not installed")
    return run_triton, CUDA_SM90


@pytest.fixture(params=["written", "passes"])
def run(request, backend):
    """Runs a kernel maker's kernel for sizes, known or symbolic, and gives all arrays."""
    runner, target = backend

    def call(make: Callable[..., Kernel], sizes: dict[str, int], symbolic: bool, arrays: Arrays) -> Arrays:
        known = {k: dim.symbol(k, 1) if symbolic and k != "rows" else v for k, v in sizes.items()}
        kernel = make(**known)
        if request.param == "passes":
            kernel = functools.reduce(lambda k, p: p[1](k, target), KERNEL_PASSES, kernel)
        for b in kernel.params:
            if b.role == "out":
                arrays[b.name] = np.full(tuple(dim.evaluate(n, sizes) for n in b.shape), 77, b.dtype.np)
            elif b.role == "in":
                assert from_numpy(arrays[b.name].dtype) is b.dtype
        runner(kernel, arrays, sizes)
        return arrays

    return call


symbolic = pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
SHAPES = [(5, 37), (1, 1), (21, 3), (3, 64)]
shapes = pytest.mark.parametrize("n, m", SHAPES)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@symbolic
@shapes
def test_softmax(run, n, m, symbolic):
    x = normal(n, m) * 10
    got = run(hand_kernels.softmax, {"n": n, "m": m}, symbolic, {"x": x})["y"]
    e = np.exp(x - x.max(1, keepdims=True), dtype=np.float64)
    np.testing.assert_allclose(got, e / e.sum(1, keepdims=True), rtol=2e-6, atol=1e-7)


@symbolic
@shapes
def test_layer_norm_backward(run, n, m, symbolic):
    x, dy, w = normal(n, m), normal(m, n).T.copy(), normal(m)
    got = run(hand_kernels.layer_norm_backward, {"n": n, "m": m}, symbolic, {"x": x, "dy": dy, "w": w})
    mean, var = x.mean(1, dtype=np.float64), x.var(1, dtype=np.float64)
    rstd = 1 / np.sqrt(var + hand_kernels.EPS)
    hat, g = (x - mean[:, None]) * rstd[:, None], dy.astype(np.float64) * w
    dx = rstd[:, None] * (g - g.mean(1, keepdims=True) - hat * (g * hat).mean(1, keepdims=True))
    np.testing.assert_allclose(got["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["rstd"], rstd, rtol=1e-5)
    np.testing.assert_allclose(got["dx"], dx, rtol=1e-4, atol=2e-5 * float(rstd.max()))


@symbolic
@shapes
def test_layer_norm_weights(run, n, m, symbolic):
    arrays = {"x": normal(n, m), "dy": normal(m, n).T.copy(), "mean": normal(n), "rstd": np.abs(normal(n))}
    got = run(hand_kernels.layer_norm_weights, {"n": n, "m": m}, symbolic, dict(arrays))
    x, dy, mean, rstd = (a.astype(np.float64) for a in arrays.values())
    np.testing.assert_allclose(got["dw"], (dy * (x - mean[:, None]) * rstd[:, None]).sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["db"], dy.sum(0), rtol=1e-4, atol=1e-5)


@symbolic
@shapes
def test_argmax(run, n, m, symbolic):
    x = np.round(normal(n, m))  # many equal values
    x[0, m // 2] = np.nan
    x[-1, :] = -np.inf if n > 1 else x[-1, :]
    got = run(hand_kernels.argmax, {"n": n, "m": m}, symbolic, {"x": x})
    np.testing.assert_array_equal(got["at"], x.argmax(1))
    np.testing.assert_array_equal(got["top"], x.max(1))


@symbolic
@pytest.mark.parametrize("n, m, k", [(5, 37, 3), (1, 1, 1), (70, 3, 40)])
def test_concat_gather(run, n, m, k, symbolic):
    table, x = normal(9, m), normal(n, k)
    ids = np.random.default_rng(0).integers(0, 9, n)
    sizes = {"n": n, "m": m, "k": k, "rows": 9}
    got = run(hand_kernels.concat_gather, sizes, symbolic, {"table": table, "ids": ids, "x": x})["y"]
    np.testing.assert_array_equal(got, np.maximum(np.concatenate([table[ids], x], 1), 0))
