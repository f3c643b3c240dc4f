"""How loops are shared by the programs of a GPU: numbers through Triton's interpreter, and what the schedules say."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.backends.triton.lowered import TritonKernel, annotated
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import bfloat16, float32, from_numpy
from tracefuse.ir.graph import Graph, GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes import scanning, split
from tracefuse.passes.pipeline import compile_graph

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
from tracefuse.backends.triton import launch

launch.enable_interpreter()


def graph_of(function: Callable, *types: TensorType) -> Graph:
    b = GraphBuilder("f")
    inputs = [b.input(t, f"x{k}") for k, t in enumerate(types)]
    with b:
        out = function(*inputs)
    return b.finish([out] if isinstance(out, Value) else list(out))


def lowered(function: Callable, *types: TensorType) -> list[TritonKernel]:
    """The kernels of a function's plan."""
    steps = compile_graph(graph_of(function, *types), CUDA_SM90).kernel_steps
    return [lower_kernel(s.kernel, s.schedule, CUDA_SM90) for s in steps]


def check(function: Callable, x: np.ndarray, symbolic: str = "", rtol: float = 2e-6) -> None:
    """The plan's results are those of the graph interpreter. `symbolic`: a letter for each axis of unknown size, or _."""
    shape = tuple(dim.symbol(c, 2) if c != "_" else n for c, n in zip(symbolic or "_" * x.ndim, x.shape))
    graph = graph_of(function, TensorType(from_numpy(x.dtype), shape))
    for g, w in zip(run_plan(compile_graph(graph, CUDA_SM90), [x], launch.run_kernel), run(graph, [x]), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=rtol, atol=rtol, err_msg=str(graph))


def total(*axes: int) -> Callable:
    return lambda x: ops.reduce_sum(x, axes=axes)


# ------------------------------------------------------------------ programs


@pytest.mark.parametrize("n", [1 << 17, 1 << 24, 300 * 256])
def test_there_are_programs_for_every_multiprocessor(n):
    (kernel,) = lowered(ops.exp, TensorType(float32, (n,)))
    assert kernel.grid[0] >= 264


@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_threads_hold_whole_vectors(dtype):
    (kernel,) = lowered(ops.exp, TensorType(dtype, (1 << 22,)))
    ((_, block),) = kernel.constexprs
    assert block * dtype.itemsize // (32 * kernel.num_warps) in (16, 32)


@pytest.mark.parametrize(
    "axes, shape",
    [((0,), (1 << 24,)), ((0,), (15_485_863,)), ((1,), (4, 1 << 20)), ((0,), (8192, 768)), ((0, 2), (64, 8, 9999))],
)
def test_reductions_with_few_results_are_split(axes, shape):
    first, *rest = lowered(total(*axes), TensorType(float32, shape))
    assert rest and first.grid[0] >= 132


def test_reductions_of_unknown_length_are_split():
    n = dim.symbol("n", 2)
    assert len(lowered(total(0), TensorType(float32, (n, 768)))) == 2
    assert len(lowered(total(1), TensorType(float32, (n, 768)))) == 1


@pytest.mark.parametrize("name", ["reduce_sum", "reduce_prod", "reduce_max", "reduce_min"])
@pytest.mark.parametrize("symbolic", ["", "n_", "_m"])
def test_split_reductions(name, symbolic, monkeypatch):
    monkeypatch.setattr(split, "WORTH", 16)
    monkeypatch.setattr(split, "ROW", 8)
    x = np.random.default_rng(0).uniform(0.9, 1.1, (3, 101)).astype(np.float32)
    for axes in ((0,), (1,), (0, 1)):
        check(lambda x, axes=axes: getattr(ops, name)(x, axes=axes), x, symbolic, 1e-5)
        if name != "reduce_prod":
            check(lambda x, axes=axes: getattr(ops, name)(x, axes=axes), (x * 100 - 100).astype(np.int32), symbolic)


def test_split_truths(monkeypatch):
    monkeypatch.setattr(split, "WORTH", 16)
    monkeypatch.setattr(split, "ROW", 8)
    for x in (np.zeros(101, np.bool_), np.ones(101, np.bool_)):
        check(lambda x: (ops.reduce_any(x, axes=(0,)), ops.reduce_all(x, axes=(0,))), x)


def test_rows_that_broadcast_are_read_in_a_run():
    """Where an index is taken apart and put together again, the pointer has the index itself."""
    (kernel,) = lowered(ops.add, TensorType(float32, (64, 1001)), TensorType(float32, (1001,)))
    assert "tl.load(x0 + xi" in kernel.source and "tl.store(y0 + xi" in kernel.source


def test_sources_are_shown_and_not_compiled():
    step = compile_graph(graph_of(ops.exp, TensorType(float32, (8,))), CUDA_SM90).kernel_steps[0]
    named = replace(step.kernel, sources=("model.py:3 forward", "model.py:4 forward"))
    kernel, plain = (lower_kernel(k, step.schedule, CUDA_SM90) for k in (named, step.kernel))
    assert kernel == plain
    assert annotated(named, kernel) == "# model.py:3 forward\n# model.py:4 forward\n" + plain.source


# ------------------------------------------------------------------ scans


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(scanning, "PIECE", 16)
    monkeypatch.setattr(scanning, "LONG", 32)


def scan(name: str, axis: int) -> Callable:
    return lambda x: getattr(ops, name)(x, axis=axis)


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64"])
def test_long_scans(name, dtype, short_pieces):
    x = np.random.default_rng(1).uniform(0.9, 1.1, (3, 101))
    x = x.astype(dtype) if dtype.startswith("float") else np.rint(x * 3 - 2).astype(dtype)
    rtol = 2e-3 if dtype == "float16" else 2e-6
    check(scan(name, 1), x, rtol=rtol)
    check(scan(name, 0), np.ascontiguousarray(x.T), "n_", rtol)
    check(scan(name, 1), x[:, :96].copy(), rtol=rtol)


def test_long_scans_have_many_programs():
    kernels = lowered(scan("cumsum", 0), TensorType(float32, (1 << 22,)))
    assert [k.grid[0] >= 264 for k in kernels] == [True, False, True, True]  # folds, their scan, pieces, a copy
    assert len(lowered(scan("cumsum", 1), TensorType(float32, (1000, 1 << 14)))) == 1


def test_positions_in_long_masks(short_pieces):
    rng = np.random.default_rng(2)
    for shape in ((100,), (3, 77)):
        check(ops.positions, rng.random(shape) < 0.3)
    check(ops.positions, np.zeros(64, np.bool_), "n")
