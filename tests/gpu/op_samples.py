"""Ops on a GPU, real or emulated, one at a time: their samples against the NumPy references."""

from __future__ import annotations

import numpy as np
from tracefuse.ir.op import REGISTRY, bind

import tracefuse as tr

OPS = sorted(name for name, op in REGISTRY.items() if op.samples)


def check_op(name: str, most: int | None = None) -> None:
    """All samples of an op, or the first `most`."""
    op = REGISTRY[name]
    for sample in list(op.samples())[:most]:
        if not sample.args:
            continue
        with np.errstate(all="ignore"):
            want = op.evaluate(sample.args, sample.attrs)
        args = tuple(tr.asarray(np.asarray(a), device="cuda")._data for a in sample.args)
        got = bind(op, args, dict(sample.attrs))
        for g, w in zip(got if type(got) is tuple else (got,), want if type(want) is tuple else (want,), strict=True):
            g = g.numpy()
            assert g.shape == w.shape and g.dtype == w.dtype
            if w.dtype.kind in "biu":
                np.testing.assert_array_equal(g, w)
            else:
                wide = np.complex128 if w.dtype.kind == "c" else np.float64
                tolerance = 3e-2 if w.dtype.itemsize == 2 else 1e-4
                np.testing.assert_allclose(g.astype(wide), w.astype(wide), rtol=tolerance, atol=tolerance)
