"""How many points a program of a GPU kernel has, and along which axis they lie."""

from __future__ import annotations

import pytest
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import DType, float32, float64
from tracefuse.ir.graph import GraphBuilder, Value
from tracefuse.ir.kernel import Schedule
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph


def only_schedule(function, *shapes: tuple, dtype: DType = float32) -> Schedule:
    """That of the one kernel of a function."""
    b = GraphBuilder("f")
    inputs = [b.input(TensorType(dtype, shape), f"x{k}") for k, shape in enumerate(shapes)]
    with b:
        out = function(*inputs)
    (step,) = compile_graph(b.finish([out] if isinstance(out, Value) else list(out)), CUDA_SM90).kernel_steps
    return step.schedule


def test_blocks_lie_along_the_axis_that_memory_does():
    assert only_schedule(lambda x: ops.reduce_sum(x, axes=(1,)), (500, 300)).blocks[1] == 512
    rows, points = only_schedule(lambda x: ops.reduce_sum(x, axes=(0,)), (100, 300)).blocks
    assert rows >= 32 and points < 128


@pytest.mark.parametrize("m", [5000, dim.symbol("m", 2)])
def test_what_a_row_has_one_element_of_does_not_turn_its_blocks(m):
    """Labels, maxima and sums of rows lie along the outer axis, but are read once a row."""

    def steps(x, a, b, c):
        kept = [ops.reshape(y, shape=(4096, 1)) for y in (a, b, c)]
        y = ops.mul(ops.sub(ops.mul(x, kept[0]), kept[1]), kept[2])
        return ops.reduce_sum(y, axes=(1,))

    rows, points = only_schedule(steps, (4096, m), (4096,), (4096,), (4096,)).blocks
    assert rows == 1 and points >= 1024


def test_functions_of_many_registers_get_fewer_points():
    def share(function, dtype: DType, *shape: int) -> float:
        s = only_schedule(function, shape, dtype=dtype)
        points = s.blocks[0] * (s.blocks[1] if len(s.blocks) > 1 else 1)
        return points / (32 * s.warps)

    for function in (ops.lgamma, ops.digamma):
        assert share(function, float32, 70_000) <= 4 and share(function, float64, 70_000) <= 4
        for m in (1000, 5000):
            assert share(lambda x, f=function: ops.reduce_sum(f(x), axes=(1,)), float32, 512, m) <= 4
    assert share(ops.tanh, float64, 70_000) <= 4
    assert share(ops.tanh, float32, 70_000) > share(ops.tanh, float64, 70_000)
