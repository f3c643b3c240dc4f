"""Every op on the LLVM backend: each declared sample, compared with the op's NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.ir import ops  # noqa: F401  (declares the ops)
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import REGISTRY, Sample
from tracefuse.ir.types import TensorType
from tracefuse.runtime.executable import build

TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 5e-15}


def graph_of(op, sample: Sample):
    b = GraphBuilder(op.name)
    inputs = tuple(b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{k}") for k, a in enumerate(sample.args))
    outs = b.emit(op, inputs, sample.attrs)
    return b.finish(outs)


def assert_close(got: np.ndarray, want: np.ndarray, what: str, scale: float = 1.0) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype, (
        f"{what}: {got.dtype}{got.shape} for {want.dtype}{want.shape}"
    )
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    tolerance = TOLERANCE[from_numpy(want.dtype).name] * scale
    g, w = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance, err_msg=what)


CASES = [(name, k) for name, op in sorted(REGISTRY.items()) if op.samples for k, _ in enumerate(op.samples())]


@pytest.mark.parametrize("name", sorted({n for n, _ in CASES}))
def test_samples(name):
    op = REGISTRY[name]
    assert op.samples is not None
    for k, sample in enumerate(op.samples()):
        with np.errstate(all="ignore"):
            want = op.evaluate(sample.args, sample.attrs)
        graph = graph_of(op, sample)
        got = build(graph, verify=False).run(list(sample.args))
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            assert g is not None
            scale = max(1.0, 4 * max((a.size for a in sample.args), default=1) ** 0.5) * max(1.0, op.tolerance * 1e6)
            assert_close(
                g, w, f"{name} sample {k} {[(a.dtype.name, a.shape) for a in sample.args]} {sample.attrs}", scale
            )
