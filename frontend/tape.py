"""The tape: which op made a tensor, from what, and what its gradient rule will read.

A tensor's `_node` is `(node, result index)`. Nodes know their operands as *edges*: another `(node, index)`, a leaf
tensor that requires grad, or None. Nodes are numbered in the order of the forward pass, and edges lead to smaller
numbers only, so the backward pass is a walk in descending order: no recursion, and always the same order of sums.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Union

from ..ir.derive import sum_to
from ..ir.dtypes import DType, from_numpy
from ..ir.graph import Value
from ..ir.op import Attrs, OpDef, VjpContext, get_op
from ..ir.types import TensorType
from .devices import share_memory
from .state import state

if TYPE_CHECKING:
    from .tensor import Tensor

Edge = Union["tuple[Node, int]", "Tensor", None]
_numbers = itertools.count(1)


def root_of(t: Tensor) -> Tensor:
    """The tensor that owns the storage `t` is a view of (`t` itself if it is none)."""
    while t._base is not None:
        t = t._base
    return t


def storage_of(t: Tensor) -> Tensor:
    """The tensor that `t` is a view of in the traces that are under way."""
    while type(t._data) is Value and t._base is not None and t._view is not None:
        t = t._base
    return t


def keep_operands(results: Iterable[Tensor], written: Iterable[Tensor]) -> None:
    """Called before the results of one node are written into tensors that it has read: it goes by what they were."""
    node = next((t._node[0] for t in results if t._node is not None), None)
    for t in written if node is not None else ():
        node.keep_values_of(root_of(t))  # type: ignore[union-attr]


def needs_grad(t: Tensor) -> bool:
    """Whether results computed from `t` are differentiated: `t.requires_grad`."""
    if t._view is not None and t._requires_grad is None:
        _refresh(t)
    return t._node is not None or bool(t._requires_grad)


def edge_of(t: Tensor) -> Edge:
    """Where the cotangent of `t` goes."""
    if not needs_grad(t):
        return None
    return t if t._node is None else t._node


def _refresh(t: Tensor) -> None:
    """The history of a view whose storage was written through another tensor: the view op on its base as it is now."""
    base, root = t._base, root_of(t)
    if t._version == root._version or base is None or t._view is None:
        return
    from .dispatch import run

    t._node = None
    if needs_grad(base):
        before, state.grad_enabled = state.grad_enabled, True
        try:
            t._node = run(t._view[0], (base,), t._view[1])._node
        finally:
            state.grad_enabled = before
    t._version = root._version


class Node:
    """One step of the forward pass. Subclasses say how to pull cotangents back through it."""

    __slots__ = ("__weakref__", "edges", "frame", "hooks", "loc", "order", "results")

    def __init__(self, tensors: tuple[Tensor, ...], results: tuple[Tensor, ...]):
        self.order = next(_numbers)
        self.edges: tuple[Edge, ...] = tuple([edge_of(t) for t in tensors])
        self.results: tuple[tuple[Any, tuple], ...] = tuple([(r._data.dtype, r._data.shape) for r in results])
        self.hooks: dict[int, list[Callable]] | None = None
        self.frame: Any = None  # the checkpoint that can compute again what this node has dropped
        self.loc: Any = None  # the user's line, in anomaly mode
        if state.on_node is not None:
            state.on_node(self)

    @property
    def name(self) -> str:
        raise AttributeError

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        """A cotangent or None for each operand, from one or None for each result."""
        raise AttributeError

    def release(self) -> None:
        """Drops what was saved for `pull`."""

    def forget(self, frame: Any) -> None:
        """Drops what was saved; `frame.recompute()` will `restore` it."""

    def restore(self, other: Any) -> None:
        """Takes over what another run of the same step has saved."""

    def keep_values_of(self, root: Tensor) -> None:
        """Called when the storage of `root` is about to be written with this node's result."""

    def result_type(self, i: int) -> TensorType:
        return _type(*self.results[i])

    def __repr__(self) -> str:
        return f"<{self.name} #{self.order}>"


class OpNode(Node):
    """An op, with what its vjp rule reads: `op.saves` says which operands and whether the results."""

    __slots__ = ("attrs", "checks", "inputs", "op", "outputs", "saves", "types")

    def __init__(self, op: OpDef, tensors: tuple, attrs: Attrs, payloads: tuple, outs: tuple, results: tuple):
        super().__init__(tensors, results)
        self.op, self.attrs = op, attrs
        self.types = tuple([(p.dtype, p.shape) for p in payloads])
        keep = _saved_operands(op, len(tensors))
        self.inputs: tuple | None = tuple([p if k else None for p, k in zip(payloads, keep)])
        keep_out = op.saves is None or "out" in op.saves
        self.outputs: tuple | None = outs if keep_out else (None,) * len(outs)
        # In products an operand is read only for the sake of the others.
        others = sum([e is not None for e in self.edges]) if op.multilinear else None
        checks: list[tuple[Any, int | None, str]] = []
        for i, t in enumerate(tensors):
            if keep[i] and (others is None or others > (self.edges[i] is not None)):
                root = root_of(t)
                checks.append((root, root._version, f"operand {i}"))
        if keep_out:
            for r in results:  # weak: a strong reference would make a cycle and keep memory until the next collection
                checks.append((weakref.ref(r), r._version, "the result"))
        self.checks, self.saves = checks, bool(checks)

    @property
    def name(self) -> str:
        return self.op.name

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        if self.inputs is None and self.frame is not None:
            self.frame.recompute()
        if self.inputs is None or self.outputs is None:
            raise RuntimeError(
                f"backward through {self.name} a second time: what it saved was freed by the first backward(); "
                "pass retain_graph=True to that one"
            )
        self._check_versions()
        inputs, outputs = self.inputs, self.outputs
        if create_graph:
            inputs = tuple([_tracked(p, e) for p, e in zip(inputs, self.edges)])
            outputs = tuple([_tracked(p, (self, i)) for i, p in enumerate(outputs)])
        types = tuple([_type(*t) for t in self.types])
        if len(cotangents) > 1:
            cotangents = [_zeros(self.result_type(i)) if g is None else g for i, g in enumerate(cotangents)]
        context = VjpContext(inputs, outputs, types, self.attrs, needs)
        grads = self.op.vjp(context, *cotangents)  # type: ignore[operator]
        if self.op.kind == "pointwise":
            return tuple(
                [g if g is None or not n else sum_to(g, t.shape) for g, t, n in zip(grads, types, needs, strict=True)]
            )
        return tuple(grads)

    def keep_values_of(self, root: Tensor) -> None:
        """Copies what was saved of the storage of `root`, which is about to be written with this node's own result."""
        if self.inputs is None or all(holder is not root for holder, _, _ in self.checks):
            return
        if type(root._data) is not Value:
            shared = [p is not None and type(p) is not Value and share_memory(p, root._data) for p in self.inputs]
            self.inputs = tuple([p.copy() if s else p for p, s in zip(self.inputs, shared)])
        self.checks = [c for c in self.checks if c[0] is not root]

    def _check_versions(self) -> None:
        for holder, version, what in self.checks:
            t = holder() if isinstance(holder, weakref.ref) else holder
            if t is not None and t._version != version:
                raise RuntimeError(
                    f"{what} of {self.name} (shape {tuple(t.shape)}, {t.dtype.name}) was written in place after "
                    f"the forward pass, "
                    f"but its gradient needs the value it had (version {version or 0}, now {t._version or 0}); "
                    "write into a copy (x.clone()) instead"
                )

    def release(self) -> None:
        if self.saves:  # ops that save nothing can be run again
            self.inputs = self.outputs = self.frame = None

    def forget(self, frame: Any) -> None:
        if self.saves:
            self.inputs, self.outputs, self.checks, self.frame = None, None, [], frame

    def restore(self, other: OpNode) -> None:
        if self.saves and self.inputs is None and other.op is self.op:
            self.inputs, self.outputs, self.checks = other.inputs, other.outputs, other.checks


def _saved_operands(op: OpDef, n: int) -> tuple[bool, ...]:
    found = _SAVED.get((op, n))
    if found is None:
        names = [op.operands[min(i, len(op.operands) - 1)] for i in range(n)]
        saves = op.saves
        found = _SAVED[op, n] = tuple(saves is None or name in saves or name.lstrip("*") in saves for name in names)
    return found


_SAVED: dict[tuple[OpDef, int], tuple[bool, ...]] = {}


def _type(dtype: Any, shape: tuple) -> TensorType:
    return TensorType(dtype if type(dtype) is DType else from_numpy(dtype), shape)


def _zeros(t: TensorType) -> Any:
    return get_op("full")(value=0, shape=t.shape, dtype=t.dtype)


def _tracked(payload: Any, edge: Edge) -> Tensor | None:
    """A saved payload as a tensor with its history, for gradients of gradients."""
    if payload is None:
        return None
    from .dispatch import lift

    if edge is not None and not isinstance(edge, tuple):
        return edge
    t = lift(payload)
    t._node = edge
    return t
