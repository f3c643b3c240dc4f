"""Runs ops on Tensors: picks the payloads, binds the op, keeps the tape, wraps the results.

`apply` is the one way in for every op. While a tracer is active the payloads are graph values, else ndarrays; the tape
is kept in the same way for both, so a trace of `loss.backward()` holds the backward pass too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..ir.graph import Value
from ..ir.op import NO_GRADIENT, REQUIRED, Attrs, OpDef, bind, get_op, register_interpreter
from ..ir.types import TypeRuleError
from .devices import gathered, moved, share_memory, write
from .large import LARGE
from .large import evaluate as evaluate_large
from .state import state
from .tape import OpNode, needs_grad, root_of
from .tensor import Tensor, new_tensor

# Ops whose NumPy reference returns a view where strides can express the result. Results alias their operand.
VIEW_OPS = frozenset(("slice", "reshape", "permute", "broadcast_to"))


def apply(op: OpDef, *tensors: Tensor, **attrs: Any) -> Any:
    """`op` on tensors: a Tensor, or a tuple of them for ops with several results. Attributes left out take defaults."""
    if len(attrs) != len(op.attrs):
        for name, default in op.attrs.items():
            if name not in attrs:
                if default is REQUIRED:
                    raise TypeError(f"{op.name}() needs {name}=")
                attrs[name] = default
    return run(op, tensors, attrs)


def run(op: OpDef, tensors: tuple[Tensor, ...], attrs: Attrs) -> Any:
    """`apply` with all attributes given."""
    record = state.grad_enabled and op.vjp is not NO_GRADIENT and any(map(needs_grad, tensors))
    if record and op.vjp == "decompose":
        assert op.decompose is not None
        return op.decompose(*tensors, **attrs)
    tracer = state.tracer
    large = on_gpu = False
    payloads: tuple[Any, ...]
    if tracer is None:
        payloads = tuple([t._data for t in tensors])
        for p in payloads:
            if type(p) is not np.ndarray:
                if type(p) is Value:
                    raise RuntimeError(
                        f"{op.name}: this tensor was made while tracing and has no value outside of the trace"
                    )
                on_gpu = True
            large = large or p.size >= LARGE
        if on_gpu:
            payloads, large = gathered(op.name, payloads), False
    else:
        payloads = tuple([tracer.read(t) for t in tensors])
    try:
        out = evaluate_large(op, payloads, attrs) if large else None
        if out is None:
            out = bind(op, payloads, attrs)
    except (TypeError, ValueError, IndexError):
        _explain(op, tensors, attrs)
        raise
    if type(out) is tuple:
        results = tuple([_wrap(op, tensors, attrs, payloads, o) for o in out])
        if record:
            _record(op, tensors, attrs, payloads, out, results)
        return results
    result = _wrap(op, tensors, attrs, payloads, out)
    if record:
        _record(op, tensors, attrs, payloads, (out,), (result,))
    return result


def _explain(op: OpDef, tensors: tuple[Tensor, ...], attrs: Attrs) -> None:
    """After an operand error: raises the op's own message, which names types and shapes, if its type rule has one."""
    types = tuple(t.type for t in tensors)
    try:
        op.result_types(types, attrs)
    except TypeRuleError as e:
        raise type(e)(f"{op.name}({', '.join(map(str, types))}): {e}") from None


def _wrap(op: OpDef, tensors: tuple[Tensor, ...], attrs: Attrs, payloads: tuple, out: Any) -> Tensor:
    """A Tensor for one result; for view ops one that remembers what it is a view of."""
    tracer = state.tracer
    is_view = op.name in VIEW_OPS
    if tracer is not None and type(out) is Value:
        if op.name == "gather":
            return tracer.elements(tensors[0], payloads[1:], out)
        if not is_view or op.name == "reshape" and not reshape_aliases(tensors[0], attrs["shape"]):
            return tracer.wrap(out)
        t = tracer.make_view(tensors[0], op, attrs, out)
    elif is_view:
        if op.name == "reshape" and not payloads[0].flags.c_contiguous and not share_memory(out, payloads[0]):
            return new_tensor(out)
        t = new_tensor(out)
    else:
        if out.base is not None and any(share_memory(out, p) for p in payloads) or any(out is p for p in payloads):
            out = out.copy()  # only view ops may alias
        return new_tensor(out)
    if t._view is None:
        link_view(t, tensors[0], op, attrs)
    return t


def link_view(t: Tensor, base: Tensor, op: OpDef, attrs: Attrs) -> None:
    """Makes `t` known as the view op(base) with no history yet. Without grad mode it never gets one, as in PyTorch."""
    t._base, t._view = base, (op, attrs)
    t._version = root_of(base)._version
    if not state.grad_enabled:
        t._requires_grad = False


def _record(
    op: OpDef, tensors: tuple[Tensor, ...], attrs: Attrs, payloads: tuple, outs: tuple, results: Iterable[Tensor]
) -> None:
    """Puts a node on the tape for the floating and complex results."""
    results = tuple(results)
    floating = [(r, i) for i, r in enumerate(results) if r.dtype.is_inexact]
    if floating:
        node = OpNode(op, tensors, attrs, payloads, outs, results)
        for r, i in floating:
            r._node = (node, i)


def _interpret(op: OpDef, args: tuple, attrs: Attrs) -> Any:
    """Bound calls that have a Tensor operand: rules and decompositions that run on Tensors."""
    gpu = next((g for a in args if isinstance(a, Tensor) and (g := getattr(a._data, "gpu", None))), None)
    return run(op, tuple([a if isinstance(a, Tensor) else lift(a, gpu) for a in args]), attrs)


def lift(payload: Any, gpu: Any = None) -> Tensor:
    """A constant payload as a Tensor, on that GPU if there is one."""
    tracer = state.tracer
    if tracer is not None and type(payload) is Value:
        return tracer.wrap(payload)
    return new_tensor(payload if gpu is None or type(payload) is not np.ndarray else moved(payload, gpu))


register_interpreter(Tensor, 2, _interpret)


def payload_of(t: Tensor) -> Any:
    """The graph value of `t` while tracing, else its ndarray."""
    tracer = state.tracer
    return t._data if tracer is None else tracer.read(t)


# ------------------------------------------------------------------ in-place writes


def check_writable(t: Tensor, what: str) -> None:
    """RuntimeError for in-place writes that autograd cannot follow."""
    if not state.grad_enabled:
        return
    root = t
    while root._base is not None and root._requires_grad is not False:  # False: detached
        root = root._base
    if root._requires_grad and root._node is None:
        kind = "a leaf" if root is t else "a view of a leaf"
        raise RuntimeError(
            f"{what}: {kind} that requires grad is written in place; use tr.no_grad() around it, or detach()"
        )


def assign(t: Tensor, new: Tensor, what: str = "in-place write") -> Tensor:
    """`t` takes the values of `new` (same shape and dtype), through every view of its storage, with its history."""
    check_writable(t, what)
    if new.shape != t.shape:
        raise ValueError(
            f"{what}: the result has shape {new.shape}, which does not fit into the tensor of shape {t.shape}"
        )
    if new.dtype is not t.dtype:
        raise TypeError(f"{what}: the result is {new.dtype.name}, the tensor {t.dtype.name}; cast explicitly")
    tracer = state.tracer
    history = state.grad_enabled and t._requires_grad is not False and (needs_grad(new) or needs_grad(t))
    if history and new._node is None and new._requires_grad:
        new = run(get_op("cast"), (new,), {"dtype": new.dtype})  # an identity, so that `t` is no second name of a leaf
    steps = _history_of_views(t, new) if history else ()
    if tracer is not None:
        tracer.write(t, tracer.read(new))
    else:
        write(t._data, new._data)
    root = root_of(t)
    root._version = (root._version or 0) + 1
    for view, value in steps:
        view._node = value._node
        if view is not root:
            view._version = root._version
    return t


def write_result(t: Tensor, new: Tensor, what: str = "in-place operation") -> Tensor:
    """`assign` for t = f(t, ..): a result of a narrower kind is cast back, one of a wider kind is refused, as in
    PyTorch."""
    if new.dtype is not t.dtype:
        if "bifc".index(_kind(new)) > "bifc".index(_kind(t)):
            raise TypeError(
                f"{what}: the result is {new.dtype.name}, which cannot be written into a {t.dtype.name} tensor"
            )
        new = run(get_op("cast"), (new,), {"dtype": t.dtype})
    if new._node is not None:
        new._node[0].keep_values_of(root_of(t))
    return assign(t, new, what)


def _kind(t: Tensor) -> str:
    return "i" if t.dtype.kind == "u" else t.dtype.kind


def _history_of_views(t: Tensor, new: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(tensor, functional value after the write) for `t` and every tensor that it is a view of."""
    out = [(t, new)]
    while t._base is not None and t._view is not None:
        base, (op, attrs) = t._base, t._view
        if op.name == "slice":
            new = run(get_op("slice_scatter"), (base, new), attrs)
        elif op.name == "reshape":
            new = run(op, (new,), {"shape": base.shape})
        elif op.name == "permute":
            perm = attrs["perm"]
            new = run(op, (new,), {"perm": tuple(sorted(range(len(perm)), key=perm.__getitem__))})
        else:
            raise RuntimeError(f"a tensor made by {op.name} cannot be written in place: its elements share memory")
        out.append((base, new))
        if base._requires_grad is False:
            break  # a detached view: what it views has no part in this history
        t = base
    return out


def reshape_aliases(x: Tensor, shape: tuple) -> bool:
    """Whether a reshape while tracing gives a view, as NumPy would with the strides of `x`. Symbolic sizes: yes."""
    if x._view is None:
        return True
    chain: list[tuple[OpDef, Attrs]] = []
    root = x
    while root._base is not None and root._view is not None:
        chain.append(root._view)
        root = root._base
    sizes = (*root.shape, *x.shape, *shape)
    if not all(isinstance(d, int) for d in sizes):
        return True
    strides = np.cumprod((1, *map(int, reversed(root.shape[1:]))))[::-1] if root.shape else ()
    if type(root._data) is not Value:
        strides = [s // root._data.itemsize for s in root._data.strides]
    fake = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), root.shape, tuple(int(s) for s in strides))
    for op, attrs in reversed(chain):
        if op.name == "slice":  # it does not matter where it begins, which may be a symbol
            start, stop = attrs["start"], attrs["stop"]
            lengths = tuple([b - a for a, b in zip(start, stop)])
            if not all(isinstance(n, int) for n in lengths):
                return True
            attrs = {**attrs, "start": (0,) * len(start), "stop": lengths}
        fake = op.reference(fake, **attrs)
    try:
        fake.reshape(shape, copy=False)
    except ValueError:
        return False
    return True


def register_tensor_type(cls: type[Tensor]) -> None:
    """Lets a subclass of Tensor take part in bound calls, which look operands up by their exact type."""
    register_interpreter(cls, 2, _interpret)
