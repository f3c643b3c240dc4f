"""Sorting and scattering on GPUs: numbers through Triton's interpreter."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import dtype_of, from_numpy
from tracefuse.ir.graph import Graph, GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.plan import Plan
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes import sorting
from tracefuse.passes.fuel import Fuel
from tracefuse.passes.pipeline import compile_graph

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves test folders off the path

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
from tracefuse.backends.triton import launch

launch.enable_interpreter()

NAN = float("nan")


def graph_of(function, arrays: list[np.ndarray], symbolic: tuple[tuple[int, int, str], ...] = ()) -> Graph:
    """`symbolic`: (input, axis, name) of sizes that are not known."""
    b = GraphBuilder("f")
    names = {(k, a): dim.symbol(name, 2) for k, a, name in symbolic}
    inputs = [
        b.input(TensorType(from_numpy(x.dtype), tuple(names.get((k, a), n) for a, n in enumerate(x.shape))), f"x{k}")
        for k, x in enumerate(arrays)
    ]
    with b:
        out = function(*inputs)
    return b.finish([out] if isinstance(out, Value) else list(out))


def check(function, arrays: list[np.ndarray], symbolic: tuple = (), rtol: float = 1e-5, target=CUDA_SM90) -> Plan:
    """The plan of a function without steps on the host; its results are those of the graph interpreter."""
    graph = graph_of(function, arrays, symbolic)
    plan = compile_graph(graph, target)
    assert not plan.host_steps
    got = run_plan(plan, arrays, launch.run_kernel)
    for g, w in zip(got, run(graph, arrays), strict=True):
        assert g.dtype == w.dtype
        wide = np.float64 if g.dtype.kind in "fV" else g.dtype
        np.testing.assert_allclose(g.astype(wide), w.astype(wide), rtol=rtol, atol=rtol, err_msg=str(graph))
    return plan


def argsort(axis: int, descending: bool = False):
    return lambda x: ops.argsort(x, axis=axis, descending=descending)


@pytest.fixture
def short_chunks(monkeypatch):
    """So that short rows take several chunks, and merges of them; and rows of unknown length not too many."""
    monkeypatch.setattr(sorting, "CHUNK", 8)
    monkeypatch.setattr(sorting, "LONGEST", 128)


# ------------------------------------------------------------------ sorting


DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint32",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("descending", [False, True])
def test_order_of_every_type(name, descending):
    dtype, rng = dtype_of(name), np.random.default_rng(0)
    if dtype.kind == "f":
        values = np.array([1, NAN, np.inf, -NAN, -np.inf, -0.0, 0.0, 3, -3, 0.0, 1e-3, -0.0])
    elif dtype.kind == "b":
        values = np.array([True, False, True, False])
    else:
        low, high = np.iinfo(dtype.np).min, np.iinfo(dtype.np).max
        values = np.array([low, high, 0, high, low, 5, high - 1, low + 1], dtype.np)
    x = np.stack([rng.permutation(values) for _ in range(3)]).astype(dtype.np)
    check(argsort(1, descending), [x])


def test_order_of_long_rows(short_chunks):
    x = np.random.default_rng(1).integers(0, 30, (3, 100)).astype(np.int32)  # many ties
    plan = check(argsort(1), [x])
    merges = [k.kernel.name for k in plan.kernel_steps if "merge_runs" in k.kernel.ops]
    assert len(merges) == 4 and len(set(merges)) == 1
    check(argsort(0, True), [x.T.copy()])
    check(argsort(1), [x.astype(np.float64)])


@pytest.mark.parametrize("n", [2, 8, 9, 65])
def test_order_of_rows_of_any_length(short_chunks, n):
    x = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    check(argsort(1), [x], ((0, 0, "n"), (0, 1, "m")))


def test_order_of_a_chunk():
    x = np.random.default_rng(2).standard_normal((1, 1500)).astype(np.float32)
    check(argsort(1), [x])


def test_sorted_elements_and_the_first_of_them(short_chunks):
    x = np.random.default_rng(3).standard_normal((4, 30)).astype(np.float32)

    def smallest(x):
        order = ops.slice_(ops.argsort(x, axis=1, descending=False), start=(0, 0), stop=(4, 5), step=(1, 1))
        rows = ops.iota(shape=(4, 1), axis=0, dtype=order.dtype)
        return ops.gather(x, rows, order), order

    check(smallest, [x])


def test_search_in_rows_of_any_length():
    rng = np.random.default_rng(4)
    rows, values = np.sort(rng.standard_normal((3, 40)), axis=1), rng.standard_normal((3, 7))
    check(lambda b, v: ops.searchsorted(b, v, right=True), [rows, values], ((0, 1, "n"), (1, 1, "m")))


# ------------------------------------------------------------------ scattering


def scatter(mode: str):
    return lambda x, u, *at: ops.scatter(x, u, *at, mode=mode)


@pytest.mark.parametrize("mode", ["set", "add"])
@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int8", "int32", "int64"])
def test_scatter_into_rows(mode, name, short_chunks):
    rng, dtype = np.random.default_rng(5), dtype_of(name).np
    x, updates = rng.integers(-9, 9, (7, 5)).astype(dtype), rng.integers(-9, 9, (40, 5)).astype(dtype)
    at = rng.integers(-7, 7, 40)
    check(scatter(mode), [x, updates, at])
    check(scatter(mode), [x[:, 0].copy(), updates[:, 0].copy(), at.astype(np.int32)], ((2, 0, "n"), (1, 0, "n")))
    check(scatter(mode), [x, updates, at], ((0, 0, "rows"), (2, 0, "n"), (1, 0, "n")))


@pytest.mark.parametrize("mode", ["set", "add"])
def test_scatter_by_several_indices(mode, short_chunks):
    rng = np.random.default_rng(6)
    x, updates = rng.standard_normal((4, 5, 3)), rng.standard_normal((6, 10, 3))
    check(scatter(mode), [x, updates, rng.integers(0, 4, (6, 1)), rng.integers(0, 5, 10)])


def test_scattered_floats_are_added_in_one_order():
    """The same sums bit by bit, whatever else there is to add up."""
    rng = np.random.default_rng(7)
    updates, at = rng.standard_normal((300, 3)).astype(np.float32), rng.integers(0, 4, 300)
    zeros = np.zeros((4, 3), np.float32)
    graph = graph_of(scatter("add"), [zeros, updates, at])
    (first,) = run_plan(compile_graph(graph, CUDA_SM90), [zeros, updates, at], launch.run_kernel)
    (again,) = run_plan(compile_graph(graph, CUDA_SM90), [zeros, updates, at], launch.run_kernel)
    np.testing.assert_array_equal(first, again)
    assert not any(s.accumulate for k in compile_graph(graph, CUDA_SM90).kernel_steps for s in stores(k.kernel))


def stores(kernel):
    return [s for stage in kernel.stages for s in stage.stores]


def test_sums_in_any_order_are_atomic():
    rng = np.random.default_rng(8)
    x, updates, at = (
        np.zeros((4, 3), np.float32),
        rng.standard_normal((50, 3)).astype(np.float32),
        rng.integers(0, 4, 50),
    )
    plan = check(scatter("add"), [x, updates, at], target=replace(CUDA_SM90, unordered_sums=True))
    assert [s.accumulate for k in plan.kernel_steps for s in stores(k.kernel)].count("add") == 1
    assert replace(CUDA_SM90, unordered_sums=True).key != CUDA_SM90.key


def test_what_is_overwritten_is_a_copy_of_its_own():
    rng = np.random.default_rng(9)
    x, u, at = rng.integers(0, 9, 6), rng.integers(0, 9, 3), np.array([1, 4, 4])

    def several(x, u, at):
        made = ops.mul(x, x)
        return ops.scatter(x, u, at, mode="add"), ops.scatter(made, u, at, mode="add"), ops.add(made, x)

    check(several, [x, u, at])
    check(lambda x, u, at: ops.scatter(ops.scatter(x, u, at, mode="add"), u, at, mode="add"), [x, u, at])
    check(lambda x, at: ops.scatter(x, x, at, mode="add"), [x, rng.integers(0, 6, 6)])


def test_an_input_is_written_in_place():
    """x[at] += u, where the step before reads the old x: that one comes first, or the update gets memory of its own."""
    x, u, at = np.arange(6), np.array([10, 20, 30]), np.array([1, 4, 4])

    def step(x, u, at):
        return ops.add(x, x), ops.scatter(x, u, at, mode="add")

    graph = graph_of(step, [x, u, at])
    outputs = tuple(replace(s, kind="write", target=0) if k else s for k, s in enumerate(graph.signature.outputs))
    graph = replace(graph, signature=replace(graph.signature, outputs=outputs))
    doubled, written = run_plan(compile_graph(graph, CUDA_SM90), [x, u, at], launch.run_kernel)
    np.testing.assert_array_equal(doubled, x + x)
    np.testing.assert_array_equal(written, [0, 11, 2, 3, 54, 5])


def test_without_the_passes_scatters_go_in_order():
    rng = np.random.default_rng(10)
    x, u, at = rng.standard_normal((5, 3)), rng.standard_normal((9, 3)), rng.integers(0, 5, 9)
    for mode in ("set", "add"):
        graph = graph_of(scatter(mode), [x, u, at])
        (kernel,) = compile_graph(graph, CUDA_SM90, Fuel(disabled=frozenset(("scattering",)))).kernel_steps[-1:]
        assert kernel.kernel.ops == ("scatter",)
        got = run_plan(
            compile_graph(graph, CUDA_SM90, Fuel(disabled=frozenset(("scattering",)))), [x, u, at], launch.run_kernel
        )
        np.testing.assert_allclose(got[0], run(graph, [x, u, at])[0])
