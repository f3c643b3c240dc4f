"""Eager element-wise ops on large arrays: compiled kernels instead of NumPy, one for each op and types, of any size.

NumPy runs them on one thread and, where an op is several of its functions, through memory each time. Which of the two
computes a result depends on op, types and sizes only, so that equal calls give equal bits.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from ..ir import dim
from ..ir.dtypes import from_numpy
from ..ir.graph import GraphBuilder
from ..ir.op import Attrs, OpDef
from ..ir.types import TensorType

LARGE = 1_000_000  # elements from which on kernels may be faster than NumPy, the call included
# Measured: NumPy's vectors of float32 against kernels that compute these in float64, or divide.
_AS_FAST_IN_NUMPY = frozenset("acosh asinh atanh bitcast cbrt log10 log2 pow tan".split())


@functools.lru_cache(maxsize=512)
def _kernel(op: OpDef, dtypes: tuple[np.dtype, ...], flat: tuple[bool, ...], attrs: tuple) -> Any:
    """An executable for operands of those types: vectors of one length, and (not `flat`) single elements."""
    from ..runtime.executable import build

    length = dim.symbol("n", 1)
    builder = GraphBuilder(f"eager_{op.name}")
    inputs = [builder.input(TensorType(from_numpy(d), (length,) if f else ()), "") for d, f in zip(dtypes, flat)]
    with builder:
        out = op(*inputs, **dict(attrs))
    return build(builder.finish([out]))


def evaluate(op: OpDef, arrays: tuple[np.ndarray, ...], attrs: Attrs) -> np.ndarray | None:
    """The element-wise `op` on arrays, one of which is large; None where it is left to NumPy: arrays that broadcast
    along some axes only, that are not contiguous, or have complex elements."""
    if op.kind != "pointwise" or op.name in _AS_FAST_IN_NUMPY:
        return None
    shape = max((a.shape for a in arrays), key=math.prod)
    for a in arrays:
        if (a.shape != shape or not a.flags.c_contiguous) and a.size != 1 or a.ndim > len(shape):
            return None
        if a.dtype.kind == "c":
            return None
    if "c" in (getattr(v, "kind", "") for v in attrs.values()):  # a cast to complex numbers
        return None
    flat = tuple([a.shape == shape for a in arrays])
    given = [a.reshape(-1 if f else ()) for a, f in zip(arrays, flat)]
    (out,) = _kernel(op, tuple([a.dtype for a in arrays]), flat, tuple(attrs.items())).run(given)
    return out.reshape(shape)
