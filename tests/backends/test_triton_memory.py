"""What Triton kernels do to memory: outputs that lie where inputs do, and nothing outside of the arrays they are given."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.backends.triton import launch
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import float32, from_numpy
from tracefuse.ir.graph import GraphBuilder, InputSpec, OutputSpec, Signature
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Reduction, Schedule, Stage, Store
from tracefuse.ir.plan import Plan
from tracefuse.ir.scalar import load, result
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
launch.enable_interpreter()


def check(function, arrays: list[np.ndarray], targets: tuple[int, ...]) -> Plan:
    """The plan of a function whose k-th result overwrites the input `targets[k]` (-1: none), run and compared."""
    b = GraphBuilder("f")
    inputs = [b.input(TensorType(from_numpy(x.dtype), x.shape), f"x{k}") for k, x in enumerate(arrays)]
    with b:
        out = function(*inputs)
    specs = tuple(OutputSpec("write", t) if t >= 0 else OutputSpec() for t in targets)
    graph = b.finish(list(out), Signature(tuple(InputSpec(f"x{k}", "arg") for k in range(len(inputs))), specs))
    plan = compile_graph(graph, CUDA_SM90, verify=True)
    for got, want in zip(run_plan(plan, arrays, launch.run_kernel), run(graph, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6, err_msg=str(graph))
    return plan


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / 10


def test_all_is_read_before_anything_is_written():
    """The first result overwrites what the second one still needs."""

    def steps(x, y):
        t = ops.tanh(x)
        return ops.neg(t), ops.add(t, y)

    plan = check(steps, [normal(9), normal(9)], (1, -1))
    (step,) = plan.steps
    assert len(set(step.args)) < len(step.args), "the first result lies where the second input does"


def test_contraction_reads_before_it_writes():
    def layer(x, w, h):
        product = ops.matmul(x, w)
        return ops.neg(product), ops.add(product, h)

    check(layer, [normal(8, 5), normal(5, 7), normal(8, 7)], (2, -1))


@pytest.mark.parametrize("m", [300, 5000])
def test_a_row_that_is_computed_again_is_not_overwritten_before(m):
    def steps(x):
        e = ops.exp(x)
        y = ops.sub(x, ops.reshape(ops.reduce_sum(e, axes=(1,)), shape=(3, 1)))
        return y, ops.mul(e, ops.reshape(ops.reduce_sum(ops.mul(e, y), axes=(1,)), shape=(3, 1)))

    check(steps, [normal(3, m)], (0, -1))


def test_threads_wait_before_what_all_of_them_read_is_overwritten():
    """m is read along whole rows, and by then no reduction stands between that and its new value."""
    i, j = (Axis(dim.symbol(name, 0, n - 1), n) for name, n in (("i", 4), ("j", 64)))
    x, m = load(float32, "x", (i.sym, j.sym)), load(float32, "m", (i.sym,))
    params = (
        Buffer("x", float32, (4, 64), (64, 1), "in"),
        Buffer("m", float32, (4,), (1,), "in"),
        Buffer("y", float32, (4, 64), (64, 1), "out"),
        Buffer("m_new", float32, (4,), (1,), "out"),
    )
    total = result("total", float32)
    stages = (
        Stage((j,), (Reduction(("total",), "sum", (x,), float32),)),
        Stage((j,), stores=(Store("y", (i.sym, j.sym), x * m),)),
        Stage((), stores=(Store("m_new", (i.sym,), m + total),)),
    )
    source = lower_kernel(Kernel("running", params, (i,), stages), Schedule(blocks=(1, 64)), CUDA_SM90).source
    written, waited, read = (source.index(t) for t in ("tl.store(m_new", "tl.debug_barrier()", "tl.load(m "))
    assert read < waited < written


def test_the_interpreter_refuses_to_leave_the_arrays():
    i = Axis(dim.symbol("i", 0, 7), 8)
    params = (Buffer("x", float32, (8,), (1,), "in"), Buffer("y", float32, (8,), (1,), "out"))

    def copy(shift: int) -> None:
        stage = Stage((), stores=(Store("y", (i.sym,), load(float32, "x", (i.sym + shift,))),))
        arrays = {"x": np.arange(8, dtype=np.float32), "y": np.zeros(8, np.float32)}
        launch.run_kernel(Kernel("copy", params, (i,), (stage,)), arrays, {}, Schedule(blocks=(8,)))
        np.testing.assert_array_equal(arrays["x"], arrays["y"])

    copy(0)
    with pytest.raises(Exception, match="1 of 8 elements lie outside"):
        copy(1)
