"""The NumPy interpreter of Kernel IR: every op's samples, compiled to a plan and interpreted, equal the op's reference."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.backends.reference.kernels import fold, run_kernel, run_plan
from tracefuse.ir import dim, ops
from tracefuse.ir.dtypes import bool_, float16, float32, float64, from_numpy, int32, int64
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.interpreter import run
from tracefuse.ir.kernel import Axis, Buffer, Kernel, Reduction, Stage, Store
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.scalar import apply, index, load, result
from tracefuse.ir.target import AVX512, CUDA_SM90
from tracefuse.ir.types import TensorType
from tracefuse.passes.pipeline import compile_graph

TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 5e-15}
OPS = sorted(name for name, op in REGISTRY.items() if op.samples)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("target", [AVX512, CUDA_SM90], ids=lambda t: t.isa)
def test_samples(name, target):
    op = REGISTRY[name]
    assert op.samples is not None
    for k, sample in enumerate(op.samples()):
        b = GraphBuilder(name)
        inputs = [b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{j}") for j, a in enumerate(sample.args)]
        graph = b.finish(b.emit(op, tuple(inputs), sample.attrs))
        with np.errstate(all="ignore"):
            want = op.evaluate(sample.args, sample.attrs)
            got = run_plan(compile_graph(graph, target), sample.args)
        scale = max(1.0, 4 * max((a.size for a in sample.args), default=1) ** 0.5) * max(1.0, op.tolerance * 1e6)
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            what = f"{name} sample {k} {[(a.dtype.name, a.shape) for a in sample.args]} {sample.attrs}"
            assert g.shape == w.shape and g.dtype == w.dtype, what
            if w.dtype.kind in "biu":
                np.testing.assert_array_equal(g, w, err_msg=what)
                continue
            tolerance = TOLERANCE[from_numpy(w.dtype).name] * scale
            np.testing.assert_allclose(
                g.astype(np.float64), w.astype(np.float64), rtol=tolerance, atol=tolerance, err_msg=what
            )
