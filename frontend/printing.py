"""How tensors print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..ir.dtypes import bool_, int64
from .state import state

if TYPE_CHECKING:
    from .tensor import Tensor


def format_tensor(t: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`: values (shortened when there are many), and what is not the default."""
    data = t._data
    notes = []
    if type(data) is not np.ndarray:
        return f"tensor(<traced {data.type}>)"
    if state.tracer is not None:
        return f"tensor(<{t.dtype.name}{list(t.shape)} while tracing>)"
    body = np.array2string(
        data.astype(np.float32) if data.dtype.kind == "V" else data,
        separator=", ", prefix="tensor(", precision=4, threshold=1000, edgeitems=3, max_line_width=100,
    )  # fmt: skip
    if data.size == 0 and data.shape != (0,):
        notes.append(f"shape={data.shape}")
    if t.dtype not in (state.default_dtype, int64, bool_):
        notes.append(f"dtype={t.dtype.name}")
    if t._node is not None:
        notes.append(f"grad_fn={t._node[0].name}")
    elif t._requires_grad:
        notes.append("requires_grad=True")
    if data.size > 1000:
        notes.append(f"shape={data.shape}")
    return f"tensor({', '.join([body, *notes])})"
