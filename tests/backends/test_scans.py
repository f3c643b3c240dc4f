"""Running sums and products: one kernel each, which agrees with the references on every target."""

import numpy as np
import pytest
from tracefuse.backends.llvm.engine import host_target
from tracefuse.backends.reference.kernels import run_plan
from tracefuse.ir import ops
from tracefuse.ir.dim import symbol
from tracefuse.ir.dtypes import DType, float16, float32, float64, int8, int64, uint32
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.interpreter import run as interpret
from tracefuse.ir.kernel_text import format_kernel
from tracefuse.ir.target import AVX512, CUDA_SM90, Target
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph
from tracefuse.runtime.executable import build

import tracefuse as tr

CASES = (((7,), 0), ((1000,), 0), ((5, 333), 1), ((333, 5), 0), ((70, 40), 0), ((3, 50, 70), 1), ((3, 1, 4), 1))
TOLERANCE = {"float16": 3e-3, "float32": 1e-6, "float64": 1e-12}


def targets() -> list[Target]:
    """The target classes that this machine can run."""
    found = []
    for isa in ("avx512", "avx2", "neon", "scalar"):
        try:
            found.append(host_target(isa))
        except ValueError:
            pass
    return found


def values(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.asarray(rng.uniform(0.9, 1.1, shape) if dtype.kind == "f" else rng.integers(0, 5, shape)).astype(dtype.np)


def assert_agree(graph, array, got) -> None:
    for g, w in zip(got, interpret(graph, [array]), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(
            g.astype(np.float64), w.astype(np.float64), rtol=TOLERANCE.get(w.dtype.name, 0), err_msg=str(graph)
        )


@pytest.mark.parametrize("dtype", [float16, float32, float64, int8, int64, uint32], ids=str)
@pytest.mark.parametrize("target", targets(), ids=lambda t: t.isa)
def test_values(dtype, target):
    for shape, axis in CASES:
        b = GraphBuilder()
        x = b.input(TensorType(dtype, shape))
        with b:
            graph = b.finish([ops.cumsum(ops.add(x, x), axis=axis), ops.add(ops.cumprod(x, axis=axis), x)])
        e = build(graph, target)
        assert not e.plan.host_steps
        array = values(dtype, shape)
        assert_agree(graph, array, e.run([array]))
        assert_agree(graph, array, run_plan(e.plan, [array]))


@pytest.mark.parametrize("axis", [0, 1])
def test_sizes_that_are_not_known(axis):
    n = symbol("n", 1)
    b = GraphBuilder()
    x = b.input(TensorType(float32, (n, 40) if axis == 0 else (40, n)))
    with b:
        graph = b.finish([ops.cumsum(ops.exp(x), axis=axis)])
    e = build(graph)
    for size in (1, 16, 77):
        array = values(float32, (size, 40) if axis == 0 else (40, size))
        assert_agree(graph, array, e.run([array]))


def test_what_comes_before_is_computed_on_the_way():
    b = GraphBuilder()
    x = b.input(TensorType(float32, (64, 300)))
    with b:
        graph = b.finish([ops.cumsum(ops.mul(ops.exp(x), x), axis=1)])
    (step,) = compile_graph(graph, AVX512).kernel_steps
    assert step.kernel.ops == ("cumsum",)
    assert step.kernel.stages[0].reductions[0].running
    assert "running sum" in format_kernel(step.kernel)


@pytest.mark.parametrize("shape, axis", [((4, 300), 1), ((200, 9000), 1), ((300, 64), 0), ((7,), 0)])
def test_triton_source(shape, axis):
    pytest.importorskip("triton")
    from tracefuse.backends.triton.emit import lower_kernel

    b = GraphBuilder()
    x = b.input(TensorType(float32, shape))
    with b:
        graph = b.finish([ops.cumsum(x, axis=axis), ops.cumprod(x, axis=axis)])
    sources = [
        lower_kernel(s.kernel, s.schedule, CUDA_SM90).source for s in compile_graph(graph, CUDA_SM90).kernel_steps
    ]
    assert len(sources) == 2
    assert "tl.associative_scan(row0, 1, plus)" in sources[0] and "tl.associative_scan(row0, 1, product)" in sources[1]
    assert ("tl.reduce" in sources[0]) == (shape[axis] >= 300 and shape != (4, 300))  # what goes from block to block


def test_long_sums_keep_their_precision():
    x = np.full(1 << 20, 0.1, np.float32)
    got = tr.compile(lambda x: tr.cumulative_sum(x), fullgraph=True)(tr.tensor(x)).numpy()
    np.testing.assert_allclose(got, np.cumsum(x.astype(np.float64)), rtol=1e-7)


@pytest.mark.parametrize(
    "row", [[2, -1, 3, 0.5], [2, 0, 3, 0.5], [0, 1, 2, 3], [2, 3, 1, 0], [0, 2, 0, 3], [0, 0, 0, 0]], ids=str
)
def test_gradients_of_products_with_zeros(row):
    x = tr.tensor([row, row[::-1]], dtype=tr.float64, requires_grad=True)
    weights = np.array([0.3, -1.0, 2.0, 0.7])
    f = tr.compile(lambda x: tr.autograd.grad((tr.cumulative_prod(x, axis=1) * tr.tensor(weights)).sum(), x)[0])
    for got in (f(x), f.__wrapped__(x)):
        for r, line in zip((row, row[::-1]), got.numpy()):
            jacobian = [[np.prod(np.delete(r[: j + 1], i)) if i <= j else 0.0 for j in range(4)] for i in range(4)]
            np.testing.assert_allclose(line, np.array(jacobian) @ weights, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_in_place(axis):
    """A scan may overwrite its operand, but not one that it reads backwards."""
    kept, turned = tr.tensor(values(float32, (40, 70))), tr.tensor(values(float32, (40, 70)))
    want = np.cumsum(kept.numpy(), axis), np.cumsum(np.flip(turned.numpy(), axis), axis)

    @tr.compile(fullgraph=True)
    def step():
        kept.copy_(tr.cumulative_sum(kept, axis=axis))
        turned.copy_(tr.cumulative_sum(tr.flip(turned, axis=axis), axis=axis))

    step()
    np.testing.assert_allclose(kept.numpy(), want[0], rtol=1e-5)
    np.testing.assert_allclose(turned.numpy(), want[1], rtol=1e-5)
