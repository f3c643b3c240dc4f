"""`allow_in_graph`: functions that a graph calls as they are, between its kernels."""

from __future__ import annotations

import functools
import itertools
import types
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from ...ir.dtypes import from_numpy
from ...ir.op import NO_GRADIENT, OpDef
from ...ir.types import TensorType
from ..autograd import no_grad
from ..dispatch import apply
from ..state import state
from ..tape import needs_grad
from ..tensor import Tensor, new_tensor
from . import guards as g
from . import pytree

if TYPE_CHECKING:
    from .objects import ObjectHooks

_numbers = itertools.count()


def allow_in_graph(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` for use in compiled functions, where it becomes one step of the graph that calls it on the values.

    It takes tensors (nested in containers, too) and plain values, and returns tensors. It should compute its results
    from its arguments alone, with dtypes and shapes that depend on theirs alone: the capture finds those by calling it
    once with tensors of ones. It has no gradient in a compiled function: arguments that need one end the capture.
    """
    if not callable(fn):
        raise TypeError(f"allow_in_graph() takes a function, not a {type(fn).__name__}")
    ops: dict[tuple, tuple[OpDef, pytree.Spec]] = {}

    @functools.wraps(fn)
    def opaque(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    opaque.__tracefuse_opaque__ = (fn, ops)  # type: ignore[attr-defined]
    return opaque


def opaque_parts(f: Any) -> tuple[Callable[..., Any], dict] | None:
    """What `allow_in_graph` has left on a function."""
    return getattr(f, "__dict__", {}).get("__tracefuse_opaque__") if isinstance(f, types.FunctionType) else None


def call(hooks: "ObjectHooks", parts: tuple[Callable[..., Any], dict], args: tuple, kwargs: dict[str, Any]) -> Any:
    """A call while tracing."""
    fn, ops = parts
    leaves, spec = pytree.flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    for x in leaves:
        if not isinstance(x, Tensor) and (not g.is_value(x) or type(x).__name__ == "LazyNumber"):
            hooks.tracer.stop(f"it passes a {type(x).__name__} to {fn.__name__}, which is opaque")
    if type(tensors[0] if tensors else None) is not Tensor or any(type(x) is not type(tensors[0]) for x in tensors):
        hooks.tracer.stop(f"it calls {fn.__name__}, which is opaque, with something other than tensors")
    if state.grad_enabled and any(needs_grad(x) for x in tensors):
        hooks.tracer.stop(f"it calls {fn.__name__}, which is opaque, with a tensor that needs a gradient")
    given = tuple(hooks.tracer.read(x).type for x in tensors)
    key = (spec, given, tuple((type(x), g.exact(x)) for x in leaves if not isinstance(x, Tensor)))
    found = ops.get(key)
    if found is None:
        found = ops[key] = _op(fn, leaves, spec, given)
    op, result = found
    out = apply(op, *tensors)
    return pytree.unflatten(result, list(out) if isinstance(out, tuple) else [out])


def _op(fn: Callable[..., Any], leaves: list[Any], spec: pytree.Spec, given: tuple[TensorType, ...]) -> Any:
    fixed = [None if isinstance(x, Tensor) else (x,) for x in leaves]

    def run(*arrays: np.ndarray) -> tuple[list[np.ndarray], pytree.Spec]:
        values = iter(arrays)
        outer, state.tracer = state.tracer, None
        try:
            with no_grad():
                filled = [new_tensor(next(values).copy()) if x is None else x[0] for x in fixed]
                args, kwargs = pytree.unflatten(spec, filled)
                out, shape = pytree.flatten(fn(*args, **kwargs))
        finally:
            state.tracer = outer
        if not out or not all(isinstance(x, Tensor) for x in out):
            raise TypeError(f"{fn.__name__} is opaque, and returns something other than tensors")
        return [np.array(x._data) for x in out], shape

    sample, result = run(*[np.ones([int(d) for d in t.shape], t.dtype.np) for t in given])  # type: ignore[arg-type]
    kinds: tuple[TensorType, ...] = tuple([TensorType(from_numpy(a.dtype), a.shape) for a in sample])

    def reference(*arrays: np.ndarray) -> Any:
        out = run(*arrays)[0]
        for a, t in zip(out, kinds, strict=True):
            if a.shape != t.shape or a.dtype != t.dtype.np:
                raise TypeError(f"{fn.__name__} is opaque, and its results have other shapes or dtypes than before")
        return tuple(out) if len(out) > 1 else out[0]

    name = f"opaque{next(_numbers)}_{''.join(c if c.isalnum() else '_' for c in fn.__name__)}"
    op = OpDef(
        name, "structural", ("*xs",), lambda *_: kinds, reference, NO_GRADIENT,
        n_outputs=len(kinds), doc=f"A call of {fn.__name__}.",
    )  # fmt: skip
    return op, result  # no op of the registry: it lives as long as the function, and has no text that others could read
