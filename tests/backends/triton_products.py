"""What tests of contractions on GPUs share: plans of functions, and running them through Triton's interpreter with schedules
of choice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.backends.triton import launch
from tracefuse.ir import dim
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import GraphBuilder, Value
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Kernel, Schedule
from tracefuse.ir.plan import Plan
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph

TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1, "float32": 2e-5, "float64": 1e-13}
SMALL = Schedule(blocks=(16, 16, 16))
# tiles that leave rests, tall and wide ones, several rows of tiles together, and more of those than there are
SCHEDULES = [
    SMALL,
    Schedule(blocks=(32, 16, 32), group=2),
    Schedule(blocks=(16, 64, 16), group=3),
    Schedule(blocks=(64, 32, 16), group=8),
]


def plan_of(function: Callable, arrays: list[np.ndarray], symbolic: tuple[tuple[int, int, str], ...] = ()):
    """The graph of a function of arrays, and its plan. `symbolic`: (input, axis, name)."""
    b = GraphBuilder("f")
    names = {(k, a): dim.symbol(name, 2) for k, a, name in symbolic}
    inputs = [
        b.input(TensorType(from_numpy(x.dtype), tuple(names.get((k, a), n) for a, n in enumerate(x.shape))), f"x{k}")
        for k, x in enumerate(arrays)
    ]
    with b:
        out = function(*inputs)
    graph = b.finish([out] if isinstance(out, Value) else list(out))
    return graph, compile_graph(graph, CUDA_SM90)


def anchors(plan: Plan) -> list[Kernel]:
    return [s.kernel for s in plan.steps if getattr(s, "kernel", None) is not None and s.kernel.anchor is not None]


def assert_close(got: np.ndarray, want: np.ndarray, what: str) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype, what
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    tolerance = TOLERANCE[from_numpy(want.dtype).name]
    got, want = got.astype(np.float64), want.astype(np.float64)
    scale = max(1.0, float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0)))
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale, err_msg=what)


def check(
    function: Callable,
    arrays: list[np.ndarray],
    schedule: Schedule | None = SMALL,
    symbolic: tuple[tuple[int, int, str], ...] = (),
    contractions: int = 1,
    runner: Callable | None = None,
) -> Plan:
    """A function's plan through the interpreter against the graph interpreter; its contractions run with `schedule`, if no
    `runner` has its own way."""

    def scheduled(kernel: Kernel, buffers, dims, own: Schedule | None) -> None:
        chosen = own if kernel.anchor is None or schedule is None else schedule
        assert chosen is not None
        launch.run_kernel(kernel, buffers, dims, chosen)

    graph, plan = plan_of(function, arrays, symbolic)
    assert len(anchors(plan)) == contractions
    for g, w in zip(run_plan(plan, arrays, runner or scheduled), run(graph, arrays), strict=True):
        assert_close(g, w, str(graph))
    return plan


def normal(*shape: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((*shape, seed)).standard_normal(shape).astype(dtype)


def integers(*shape: int, dtype) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(shape).integers(info.min, info.max, shape, dtype, endpoint=True)


def conv(rank: int, **changes) -> dict:
    none = (0,) * rank
    one = (1,) * rank
    return dict(stride=one, low=none, high=none, lhs_dilation=one, rhs_dilation=one, groups=1) | changes
