"""Everything that is lowered to Triton compiles to machine code: the interpreter takes more than the compiler does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.backends.triton.lowered import TritonKernel
from tracefuse.ir.dtypes import float32, from_numpy
from tracefuse.ir.graph import Graph, GraphBuilder
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.target import CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "fuzz")]
from generator import FUSED, PLAIN, generate  # noqa: E402
from symbolic import symbolic  # noqa: E402
from triton_pool import compile_errors  # noqa: E402

PROGRAMS = 60


def kernels(graphs: Iterable[Graph]) -> Iterator[TritonKernel]:
    for graph in graphs:
        for step in compile_graph(graph, CUDA_SM90).kernel_steps:
            yield lower_kernel(step.kernel, step.schedule, CUDA_SM90)


def samples() -> Iterator[Graph]:
    for name, op in sorted(REGISTRY.items()):
        for sample in op.samples() if op.samples else ():
            b = GraphBuilder(name)
            inputs = [b.input(TensorType(from_numpy(a.dtype), np.shape(a)), f"x{k}") for k, a in enumerate(sample.args)]
            yield b.finish(b.emit(op, tuple(inputs), sample.attrs))


def programs() -> Iterator[Graph]:
    for seed in range(PROGRAMS):
        p = generate(seed, PLAIN if seed % 4 == 0 else FUSED)
        found = symbolic(p)
        yield p.graph
        if found is not None:
            yield found


def test_errors_are_found_out():
    def kernel(name: str, address: str) -> TritonKernel:
        source = ["import triton", "import triton.language as tl", "", "", "@triton.jit", f"def {name}(x, y):"]
        source.append(f"    tl.store({address}, 1.0)")
        return TritonKernel(name, "\n".join(source), (("x", float32), ("y", float32)), (), (), (), ())

    found = compile_errors([kernel("right", "x"), kernel("wrong", "x + y")])
    assert list(found) == ["wrong"] and "cannot add pointers together" in found["wrong"]


@pytest.mark.slow
@pytest.mark.parametrize("graphs", [samples, programs])
def test_kernels_compile(graphs):
    errors = compile_errors(kernels(graphs()))
    assert not errors, "\n\n".join(list(errors.values())[:5])
