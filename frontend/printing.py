"""How tensors print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..ir.dtypes import bool_, int64
from ..ir.graph import Value
from .devices import host
from .state import state

if TYPE_CHECKING:
    from .tensor import Tensor

MOST_ELEMENTS, MOST_LINES = 1000, 130
SHOW_ALL = 0


def format_tensor(t: Tensor) -> str:
    """`tensor([1., 2.], requires_grad=True)`: values (shortened when there are many), and what is not the default."""
    data = t._data
    notes = []
    if type(data) is Value:
        return f"tensor(<traced {data.type}>)"
    if state.tracer is not None:
        return f"tensor(<{t.dtype.name}{list(t.shape)} while tracing>)"
    data = host(data)
    edge = _edge_items(data.shape)
    body = _range_of(data) if edge is None else _elements(data, edge)
    if data.size == 0 and data.shape != (0,):
        notes.append(f"shape={data.shape}")
    if t.dtype not in (state.default_dtype, int64, bool_):
        notes.append(f"dtype={t.dtype.name}")
    if t.is_cuda:
        notes.append(f"device='{t.device}'")
    if t._node is not None:
        notes.append(f"grad_fn={t._node[0].name}")
    elif t._requires_grad:
        notes.append("requires_grad=True")
    if edge != SHOW_ALL:
        notes.append(f"shape={data.shape}")
    return f"tensor({', '.join([body, *notes])})"


def _edge_items(shape: tuple[int, ...]) -> int | None:
    """How many elements to show at either end of each axis: `SHOW_ALL` for few, None where even one is too many."""
    if math.prod(shape) <= MOST_ELEMENTS and math.prod(shape[:-1]) <= MOST_LINES:
        return SHOW_ALL
    for edge in (3, 2, 1):
        shown = [min(d, 2 * edge) for d in shape]
        if math.prod(shown) <= MOST_ELEMENTS and math.prod(shown[:-1]) <= MOST_LINES:
            return edge
    return None


def _elements(data: np.ndarray, edge: int) -> str:
    return np.array2string(
        data.astype(np.float32) if data.dtype.kind == "V" else data,
        separator=", ", prefix="tensor(", precision=4, threshold=MOST_ELEMENTS if edge == SHOW_ALL else 0,
        edgeitems=max(edge, 1), max_line_width=100,
    )  # fmt: skip


def _range_of(data: np.ndarray) -> str:
    """What can be said of a tensor with so many axes that its elements cannot be laid out."""
    if data.dtype.kind == "c":
        return f"<{data.size} elements of size {np.abs(data).min():.4g} to {np.abs(data).max():.4g}>"
    return f"<{data.size} elements from {data.min()!s:.8} to {data.max()!s:.8}>"
