"""Every op in compiled graphs: each declared sample, compared with the op's NumPy reference. What no kernel computes is
a host step of the plan, so there is no op that does not compile."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.ir import ops
from tracefuse.ir.dtypes import bool_, from_numpy
from tracefuse.ir.graph import GraphBuilder
from tracefuse.ir.op import REGISTRY, Sample
from tracefuse.ir.types import TensorType
from tracefuse.runtime.executable import build

TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-6, "float64": 5e-15}


def graph_of(op, sample: Sample):
    """The op between pointwise ones that change nothing, which no pass knows: they choose by a bool that is an input."""
    b = GraphBuilder(op.name)
    inputs = tuple(b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{k}") for k, a in enumerate(sample.args))
    choice = b.input(TensorType(bool_, ()), "choice")
    with b:
        attrs = {k: v for k, v in op.attrs.items() if k not in sample.attrs} | sample.attrs
        outs = b.emit(op, tuple(ops.where(choice, x, x) for x in inputs), attrs)
        return b.finish([ops.where(choice, y, y) for y in outs])


def assert_close(got: np.ndarray, want: np.ndarray, what: str, scale: float = 1.0) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype, (
        f"{what}: {got.dtype}{got.shape} for {want.dtype}{want.shape}"
    )
    if want.dtype.kind in "biu":
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    tolerance = TOLERANCE[from_numpy(want.dtype).real.name] * scale
    wide = np.complex128 if want.dtype.kind == "c" else np.float64
    g, w = got.astype(wide), want.astype(wide)
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
        got = build(graph, verify=False).run([*sample.args, np.array(True)])
        for g, w in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
            assert g is not None
            scale = max(1.0, 4 * max((a.size for a in sample.args), default=1) ** 0.5) * max(1.0, op.tolerance * 1e6)
            assert_close(
                g, w, f"{name} sample {k} {[(a.dtype.name, a.shape) for a in sample.args]} {sample.attrs}", scale
            )
