"""`Tensor`: an n-dimensional array that remembers how it was computed. Here: what it holds; `tensor_methods`: what
it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from ..ir import dim
from ..ir.dtypes import DType, dtype_of, from_numpy
from ..ir.graph import Value
from ..ir.types import TensorType
from .devices import CPU, Device, device_of, gpu_at, host, moved
from .state import state
from .tape import edge_of, needs_grad, root_of
from .tensor_methods import TensorMethods

_allocate = object.__new__
PAYLOADS: set[type] = {np.ndarray, Value}  # what `_data` may be; arrays of GPUs too, once there are any


class Tensor(TensorMethods):
    """An array of one element type.

    `Tensor(data, dtype=None, requires_grad=False)` copies `data`; `tr.asarray` shares where it can.

    Slots: `_data` is an ndarray, or a graph Value for tensors made while tracing. None in any other slot is the
    default. `_node`: (tape node, result index). `_base`, `_view`: the tensor this one is a view of, and (op, attrs)
    that made it. `_requires_grad`: True for leaves; False for views that must never get a history (detached ones).
    `_version`: how often the storage was written in place; on a view, the count at which its `_node` was made.
    """

    __slots__ = ("_data", "_grad", "_node", "_requires_grad", "_base", "_view", "_version", "__weakref__")  # noqa: RUF023

    _data: Any
    _grad: Tensor | None
    _node: Any
    _requires_grad: bool | None
    _base: Tensor | None
    _view: Any
    _version: int | None

    def __init__(self, data: Any = (), dtype: Any = None, requires_grad: bool = False):
        from .creation import as_array

        array = as_array(data, None if dtype is None else dtype_of(dtype), copy=True)
        self._data = array
        self._grad = self._node = self._base = self._view = self._version = None
        self._requires_grad = None
        if requires_grad:
            self.requires_grad_()

    # ---- what it is
    @property
    def shape(self) -> tuple:
        return self._data.shape

    @property
    def dtype(self) -> DType:
        d = self._data
        return d.dtype if type(d) is Value else from_numpy(d.dtype)

    @property
    def type(self) -> TensorType:
        """Element type and shape, as the IR has them."""
        return TensorType(self.dtype, self._data.shape)

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> Any:
        """Number of elements. As in PyTorch it may be called: `x.size()` is the shape, `x.size(i)` one of its sizes."""
        n = dim.numel(self._data.shape)
        return _Size(n, self._data.shape) if isinstance(n, int) else _SymbolicSize(n, self._data.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> Any:
        return dim.numel(self._data.shape) * self.dtype.itemsize

    @property
    def device(self) -> Device:
        """Where the elements are; it is equal to its name ("cpu", "cuda:0")."""
        return CPU if type(self._data) is np.ndarray else device_of(self._data)

    @property
    def is_cuda(self) -> bool:
        """Whether the elements are on a GPU."""
        return self.device.type == "cuda"

    # ---- differentiation
    @property
    def requires_grad(self) -> bool:
        return needs_grad(self)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        return not needs_grad(self) or self._node is None

    @property
    def grad_fn(self) -> Any:
        """The tape node that made this tensor; None for leaves."""
        edge = edge_of(self)
        return edge[0] if isinstance(edge, tuple) else None

    @property
    def grad(self) -> Tensor | None:
        """The gradient that `backward` has accumulated here: same shape and dtype, or None."""
        return self._grad if state.tracer is None else state.tracer.get_grad(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and (tuple(value.shape) != tuple(self.shape) or value.dtype is not self.dtype):
            raise ValueError(
                f"a gradient must have the tensor's type {self.dtype.name}{self.shape}, not "
                f"{value.dtype.name}{value.shape}"
            )
        if state.tracer is None:
            self._grad = value
        else:
            state.tracer.set_grad(self, value)

    @grad.deleter
    def grad(self) -> None:
        self.grad = None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Makes this a leaf whose gradient is wanted. TypeError for integers and bools."""
        if not requires_grad:
            if self._node is not None:
                raise RuntimeError("requires_grad can only be switched off for leaves; use detach()")
            self._requires_grad = False if self._base is not None else None
            return self
        if not self.dtype.is_inexact:
            raise TypeError(f"only floating and complex tensors have gradients, this one is {self.dtype.name}")
        if not needs_grad(self):
            self._requires_grad = True
        return self

    def register_hook(self, hook: Callable) -> Any:
        """Calls `hook(gradient)` when the gradient of this tensor is known; what it returns replaces it."""
        from .autograd import register_hook

        return register_hook(self, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable) -> Any:
        """Calls `hook(self)` after each backward() that has added to `.grad` of this leaf."""
        from .autograd import register_post_accumulate_grad_hook

        return register_post_accumulate_grad_hook(self, hook)

    def retain_grad(self) -> None:
        """Lets a tensor that is no leaf receive `.grad` too."""
        from .autograd import retain_grad

        retain_grad(self)

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad` was called on this tensor, which is no leaf."""
        from .autograd import retains_grad

        return retains_grad(self)

    def backward(self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Adds to `.grad` of every leaf that this tensor was computed from. See `autograd.backward`."""
        from .autograd import backward

        backward(self, gradient, retain_graph, create_graph)

    def _like(self, value: Any, dtype: DType | None = None) -> Tensor:
        """A 0-d constant of this tensor's dtype (or another): what rules ask of every kind of bound value."""
        from .convert import scalar_tensor

        return scalar_tensor(value, dtype or self.dtype)

    # ---- identity
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        return (_restore, (self.__class__, host(self._data), bool(self._requires_grad), str(self.device)))

    def _traced_copy(self) -> Tensor:
        """A deep copy while tracing."""
        t = self.detach().clone()
        if type(self) is not Tensor or self.grad is not None:
            return self.numpy()  # type: ignore[return-value]  # ends the capture: it needs the value
        return t.requires_grad_(needs_grad(self))

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self._node is not None:
            raise RuntimeError("only leaves can be deep-copied; use clone()")
        if state.tracer is not None:
            return memo.setdefault(id(self), self._traced_copy())
        t = memo[id(self)] = new_tensor(self._data.copy(), type(self))
        t._requires_grad = True if self._requires_grad else None
        if self._grad is not None:
            t._grad = new_tensor(self._grad._data.copy())
        return t


class _Size(int):
    """A number of elements that can be called as PyTorch's `size()`."""

    def __new__(cls, n: int, shape: tuple) -> Self:
        out = super().__new__(cls, n)
        out.shape = shape
        return out

    shape: tuple

    def __call__(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def __reduce__(self) -> Any:
        return (int, (int(self),))


class _SymbolicSize(dim.Dim):
    """The same while tracing with symbolic sizes."""

    __slots__ = ("shape",)

    def __init__(self, n: dim.Dim, shape: tuple):
        super().__init__(n.terms)
        self.shape = shape

    def __call__(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]


def new_tensor(data: Any, cls: type = Tensor) -> Any:
    """A Tensor around an ndarray (or NumPy scalar, or graph Value) without a copy."""
    t = _allocate(cls)
    t._data = data if type(data) in PAYLOADS else np.asarray(data)
    t._grad = t._node = t._requires_grad = t._base = t._view = t._version = None
    return t


def _restore(cls: type, array: np.ndarray, requires_grad: bool, device: str = "cpu") -> Tensor:
    t = new_tensor(array if device == "cpu" else moved(array, gpu_at(device)), cls)
    t._requires_grad = True if requires_grad else None
    return t


def detach(x: Any) -> Tensor:
    """The same memory as a tensor without history: writes through it are seen, gradients do not pass."""
    t = alias(x)
    cut = getattr(state.tracer, "without_history", None)  # vmap has tapes outside of its own
    if cut is not None:
        t._data = cut(t._data)
    return t


def alias(x: Any) -> Tensor:
    """`detach`, but inside of vmap the tapes outside go on seeing `x`: what nested transforms need."""
    from ..ir.op import get_op
    from .dispatch import link_view

    op, attrs = get_op("reshape"), {"shape": x.shape}
    if state.tracer is None:
        t = new_tensor(x._data)
    else:
        t = state.tracer.make_view(x, op, attrs, state.tracer.read(x))
    if t._view is None:
        link_view(t, x, op, attrs)
    t._requires_grad = False
    return t


__all__ = ["Tensor", "alias", "detach", "new_tensor", "root_of"]
