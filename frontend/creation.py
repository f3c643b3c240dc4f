"""Functions that make tensors: of shapes, of ranges, of other data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.decider import decider
from ..ir.dim import Dim, ceildiv, maximum
from ..ir.dtypes import DType, bool_, dtype_of, int64
from ..ir.op import get_op
from .convert import as_size, as_tensor, cast_to, check_cast, is_scalar, native, result_dtype, scalar_tensor
from .devices import host, know_gpu, on_device
from .dispatch import lift, run
from .state import SymbolicScalar, default_for, state
from .tensor import Tensor, new_tensor

Shape = Any  # an int or a sequence of ints


def as_shape(shape: Any) -> tuple:
    """A tuple of sizes. TypeError for anything that is no integer, ValueError for negative ones."""
    sizes = (
        (shape,)
        if isinstance(shape, (int, Dim, SymbolicScalar))
        or isinstance(shape, Tensor)
        and not shape.ndim
        or not hasattr(shape, "__iter__")
        else tuple(shape)
    )
    out = tuple(map(as_size, sizes))
    if any(d < 0 for d in out if isinstance(d, int) or decider() is not None):
        raise ValueError(f"negative size in shape {out}")
    return out


def _sizes(shape: Any, more: tuple) -> tuple:
    """zeros(2, 3) and zeros((2, 3)) mean the same."""
    return as_shape((shape, *more) if more else shape)


def _default(dtype: Any) -> DType:
    return state.default_dtype if dtype is None else dtype_of(dtype)


def _leaf(t: Tensor, requires_grad: bool) -> Tensor:
    return t.requires_grad_() if requires_grad else t


# ------------------------------------------------------------------ from data


def as_array(data: Any, dtype: DType | None, copy: bool | None = None) -> np.ndarray:
    """An ndarray of any data. Python floats and complex numbers (in lists too) take the default types; arrays keep
    theirs."""
    if isinstance(data, Tensor):
        data = data.numpy() if state.tracer is not None else host(data._data)
    array = np.asarray(data)
    if array.dtype == object or array.dtype.kind in "SUMm":
        raise TypeError(f"cannot make a tensor of a {type(data).__name__} with elements of type {array.dtype}")
    if dtype is None:
        python = not isinstance(data, (np.ndarray, np.generic)) and not hasattr(data, "__array__")
        own = python and array.dtype in (np.float64, np.complex128) and _python_floats(data)
        dtype = default_for(type(array.dtype.type(0).item())) if own else dtype_of(array.dtype)
    if array.dtype.kind == "c":
        check_cast(dtype_of(array.dtype), dtype)
    out = array.astype(dtype.np, copy=False) if array.dtype is not dtype.np else array
    out = native(out)
    return out.copy() if copy and np.may_share_memory(out, array) else out


def _python_floats(data: Any) -> bool:
    """Whether the numbers in nested lists are Python's own."""
    while isinstance(data, (list, tuple)) and data:
        data = next((x for x in data if not isinstance(x, (bool, int))), data[0])
    return not isinstance(data, (np.generic, np.ndarray, Tensor)) or type(data) in (float, complex)


@on_device
def asarray(data: Any, /, *, dtype: Any = None, copy: bool | None = None, device: Any = None) -> Tensor:
    """A tensor of nested lists, numbers, ndarrays or tensors. Shares memory where it can unless `copy`.

    ValueError for ragged lists, or with copy=False if a copy is needed; TypeError for other elements than numbers.
    """
    wanted = None if dtype is None else dtype_of(dtype)
    if isinstance(data, Tensor):
        if copy:
            return run(get_op("cast"), (data,), {"dtype": wanted or data.dtype})
        return cast_to(data, wanted or data.dtype)
    if isinstance(data, (SymbolicScalar, Dim)):
        return scalar_tensor(data, wanted)
    if isinstance(data, (list, tuple)) and _holds_tensors(data):
        from .manipulation import stack

        out = stack([asarray(x) for x in data])
        return cast_to(out, wanted or out.dtype)
    if copy is False and not isinstance(data, np.ndarray):
        raise ValueError("copy=False, but the data is no array: its elements have to be copied")
    return new_tensor(as_array(data, wanted, copy))


def _holds_tensors(data: Any) -> bool:
    return any(
        isinstance(x, (Tensor, SymbolicScalar)) or isinstance(x, (list, tuple)) and _holds_tensors(x) for x in data
    )


@on_device
def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, device: Any = None) -> Tensor:
    """A new leaf tensor with a copy of `data`."""
    out = asarray(data, dtype=dtype, copy=True)
    return _leaf(out.detach() if isinstance(data, Tensor) else out, requires_grad)


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy takes an ndarray, not a {type(array).__name__}")
    return new_tensor(native(array))


@on_device
def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of any object with `__dlpack__`, sharing its storage, in host memory or on a GPU, unless `copy`. What is on a
    GPU is good for this thread's current stream."""
    if isinstance(x, Tensor):
        return asarray(x, copy=copy)
    kind, number = x.__dlpack_device__()
    if int(kind) == 2:
        from ..runtime.cuda.dlpack import from_capsule

        stream = know_gpu(int(number)).stream.number
        array = from_capsule(x.__dlpack__(stream=stream))
        return new_tensor(array.copy() if copy else array)
    array = np.from_dlpack(x)
    return new_tensor(native(array.copy() if copy else array))


# ------------------------------------------------------------------ of one value


@on_device
def full(
    shape: Shape, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """`shape` filled with one number (or 0-d tensor)."""
    sizes = as_shape(shape)
    if is_scalar(fill_value) and not isinstance(fill_value, (SymbolicScalar, Dim, complex)):
        fill = fill_value.item() if isinstance(fill_value, np.generic) else fill_value
        wanted = default_for(type(fill)) if dtype is None else dtype_of(dtype)
        return _leaf(lift(get_op("full")(value=fill, shape=sizes, dtype=wanted)), requires_grad)
    if isinstance(fill_value, complex):
        value = scalar_tensor(fill_value, None if dtype is None else dtype_of(dtype))
    else:
        value = as_tensor(fill_value)
        value = cast_to(value, value.dtype if dtype is None else dtype_of(dtype))
    out = run(get_op("broadcast_to"), (value,), {"shape": sizes})
    return _leaf(run(get_op("cast"), (out,), {"dtype": out.dtype}), requires_grad)


def _constant(value: int, shape: tuple, dtype: Any, requires_grad: bool) -> Tensor:
    return _leaf(lift(get_op("full")(value=value, shape=shape, dtype=_default(dtype))), requires_grad)


@on_device
def zeros(shape: Shape, *sizes: int, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of a shape, given as one tuple or as sizes."""
    return _constant(0, _sizes(shape, sizes), dtype, requires_grad)


@on_device
def ones(shape: Shape, *sizes: int, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of a shape, given as one tuple or as sizes."""
    return _constant(1, _sizes(shape, sizes), dtype, requires_grad)


@on_device
def empty(shape: Shape, *sizes: int, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be written to. Its elements are zeros, so that no two runs differ."""
    return _constant(0, _sizes(shape, sizes), dtype, requires_grad)


@on_device
def full_like(
    x: Any, /, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of the shape and (unless given) element type of `x`, filled with one number."""
    x = as_tensor(x)
    return full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype, requires_grad=requires_grad)


@on_device
def zeros_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape and (unless given) element type of `x`."""
    x = as_tensor(x)
    return zeros(x.shape, dtype=x.dtype if dtype is None else dtype, requires_grad=requires_grad)


@on_device
def ones_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """Ones of the shape and (unless given) element type of `x`."""
    x = as_tensor(x)
    return ones(x.shape, dtype=x.dtype if dtype is None else dtype, requires_grad=requires_grad)


@on_device
def empty_like(x: Any, /, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A tensor to be written to, of the shape and (unless given) element type of `x`."""
    return zeros_like(x, dtype=dtype, requires_grad=requires_grad)


# ------------------------------------------------------------------ ranges and grids


def iota(n: Any, dtype: DType) -> Tensor:
    """0, 1, ..., n - 1."""
    return lift(get_op("iota")(shape=(n,), axis=0, dtype=dtype))


def _number(x: Any) -> Any:
    """What `arange` counts with."""
    x = x.item() if isinstance(x, (Tensor, np.generic)) else x
    return x.as_size() if isinstance(x, SymbolicScalar) and x.python_type is int else x


@on_device
def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None, device: Any = None) -> Tensor:
    """start, start + step, ... up to but without `stop`; arange(n) counts from 0. Integers give int64."""
    if stop is None:
        start, stop = 0, start
    start, stop, step = map(_number, (start, stop, step))
    if step == 0:
        raise ValueError("arange: step must not be 0")
    wanted = result_dtype(start, stop, step) if dtype is None else dtype_of(dtype)
    if any(isinstance(x, Dim) for x in (start, stop, step)):
        count = ceildiv(stop - start, step) if step > 0 else ceildiv(start - stop, -step)
        count = maximum(count, 0) if decider() is None else count if count >= 0 else 0
    else:
        count = max(0, int(np.ceil((stop - start) / step)))
    out = iota(count, wanted if wanted is not bool_ else int64)
    if step != 1:
        out = out * step
    return cast_to(out + start if start != 0 else out, wanted)


@on_device
def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Tensor:
    """`num` evenly spaced numbers from `start` to `stop` (left out unless `endpoint`)."""
    if num < 0:
        raise ValueError(f"linspace: num must not be negative, it is {num}")
    wanted = _default(dtype)
    if all(isinstance(x, (int, float)) for x in (start, stop)) and state.tracer is None:
        return new_tensor(np.linspace(start, stop, num, endpoint=endpoint).astype(wanted.np))
    start, stop = (cast_to(x, wanted) if isinstance(x, Tensor) else x for x in (start, stop))
    steps = num - 1 if endpoint else num
    at = iota(num, wanted) * (1.0 / steps if steps else 0.0)
    return at * (stop - start) + start


@on_device
def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Tensor:
    """Ones on diagonal `k`, zeros elsewhere; shape (n_rows, n_cols)."""
    columns = n_rows if n_cols is None else n_cols
    rows_at = lift(get_op("iota")(shape=(n_rows, columns), axis=0, dtype=int64))
    columns_at = lift(get_op("iota")(shape=(n_rows, columns), axis=1, dtype=int64))
    return cast_to((columns_at - rows_at) == k, _default(dtype))


def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinate grids of 1-D tensors. indexing "xy": the first two axes are swapped; "ij": not."""
    from .manipulation import broadcast_to, permute_dims, reshape

    if indexing not in ("xy", "ij"):
        raise ValueError(f'indexing must be "xy" or "ij", not {indexing!r}')
    axes = [as_tensor(a) for a in arrays]
    if any(a.ndim > 1 for a in axes):
        raise ValueError("meshgrid takes 1-D tensors")
    n, shape = len(axes), tuple(a.shape[0] if a.ndim else 1 for a in axes)
    columns = [reshape(a, tuple(-1 if k == i else 1 for k in range(n))) for i, a in enumerate(axes)]
    grids = [broadcast_to(c, shape) for c in columns]
    if indexing == "xy" and n > 1:
        grids = [permute_dims(g, (1, 0, *range(2, n))) for g in grids]
    return tuple(grids)


def _mask(x: Tensor, k: int, upper: bool) -> Tensor:
    shape = x.shape[-2:]
    rows = lift(get_op("iota")(shape=shape, axis=0, dtype=int64))
    columns = lift(get_op("iota")(shape=shape, axis=1, dtype=int64))
    return columns - rows >= k if upper else columns - rows <= k


def tril(x: Any, /, *, k: int = 0, diagonal: int | None = None) -> Tensor:
    """The last two axes with zeros above diagonal `k`."""
    return _triangle(as_tensor(x), k if diagonal is None else diagonal, False)


def triu(x: Any, /, *, k: int = 0, diagonal: int | None = None) -> Tensor:
    """The last two axes with zeros below diagonal `k`."""
    return _triangle(as_tensor(x), k if diagonal is None else diagonal, True)


def _triangle(x: Tensor, k: int, upper: bool) -> Tensor:
    from .elementwise import where

    if x.ndim < 2:
        raise ValueError(f"{'triu' if upper else 'tril'} needs at least 2 dimensions, not shape {x.shape}")
    return where(_mask(x, k, upper), x, False if x.dtype is bool_ else 0)


__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "from_numpy", "full", "full_like", "linspace",
    "meshgrid", "ones", "ones_like", "tensor", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip
