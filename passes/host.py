"""What kernels compute, and what runs on the host instead: the op's NumPy reference, called between kernels."""

from __future__ import annotations

from ..ir.dtypes import DType
from ..ir.graph import Node
from ..ir.ops.control import CONTROL
from ..ir.ops.index_maps import INDEX_MAPS

CREATION = frozenset(("full", "iota"))
REDUCTIONS = frozenset(
    ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_any", "reduce_all", "argmax", "argmin")
)
SCANS = {  # op -> kind of the running reduction
    "cumsum": "sum", "cumsum_from": "sum", "cumprod": "prod", "cumprod_from": "prod", "sort_rows": "sort",
}  # fmt: skip
OVERWRITERS = frozenset(("scatter_unordered",))  # their result takes over the memory of their first operand
SCATTERS = frozenset(("scatter", "positions", "segment_reduce", *OVERWRITERS))  # they store, or fold, where values say
SEARCHES = frozenset(("merge_runs", "search_rows"))  # each element is found by steps through memory
ATTENTION = frozenset(("attention", "attention_queries", "attention_keys"))
ANCHORS = frozenset(("matmul", "conv", *SCATTERS, *ATTENTION))
OF_KERNELS = frozenset(
    (*INDEX_MAPS, *CREATION, *REDUCTIONS, *ANCHORS, *SCANS, *SEARCHES, "gather", "random_bits", "check_index")
)


def in_kernels(dtype: DType) -> bool:
    """Whether kernels have elements of that type."""
    return dtype.kind != "c"


def has_native_types(node: Node) -> bool:
    return all(in_kernels(v.type.dtype) for v in node.inputs) and all(in_kernels(v.type.dtype) for v in node.outputs)


def host_reason(node: Node) -> str:
    """Why no kernel computes the node, which then becomes a host step; "" if one does. Composite ops have been
    decomposed, but for those on types that kernels lack. Control flow is no kernel either: memory.py makes native steps
    of it where it can."""
    if node.op.name in CONTROL:
        return f"the target has no native {node.op.name}"
    if node.op.name == "while_vjp":
        return "a loop of unknown length keeps what its steps leave behind; with max_steps= it is a scan, and native"
    if node.op.kind != "pointwise" and node.op.name not in OF_KERNELS:
        return f"no kernel computes {node.op.name}"
    for v in (*node.inputs, *node.outputs):
        if not in_kernels(v.type.dtype):
            return f"kernels have no {v.type.dtype.name}"
    return ""


def on_host(node: Node) -> bool:
    """Whether the node becomes a host step."""
    return bool(host_reason(node))
