"""What a Tensor does: each method is one line over the function of the same name in `functions`.

Methods carry array API names and, where those leave room, PyTorch's. In-place methods end in an underscore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..ir.dim import numel
from ..ir.dtypes import DType, bool_, dtype_of, float16, float32, float64, int8, int16, int32, int64, uint8
from ..ir.dtypes import bfloat16 as bfloat16_
from .operators import TensorOperators
from .state import state

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorMethods(TensorOperators):
    """Mixed into Tensor. Holds no data."""

    __slots__ = ()

    if TYPE_CHECKING:
        dtype: DType
        requires_grad: bool
        _base: Tensor | None

    # ---- out of tracefuse
    def numpy(self) -> np.ndarray:
        """The values as an ndarray that shares the tensor's memory."""
        return self._data if state.tracer is None else np.asarray(state.tracer.concretize(self, "numpy"))  # type: ignore[arg-type]

    def item(self) -> Any:
        """The only element as a Python number. ValueError if there are more."""
        from .operators import one_element

        return one_element(self, "item")

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        array = self.numpy()
        return array.astype(np.float32).tolist() if array.dtype.kind == "V" else array.tolist()

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self.numpy().ctypes.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"cannot give a {array.dtype} tensor as {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .numpy_protocol import array_ufunc

        return array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        from .numpy_protocol import array_function

        return array_function(function, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        import tracefuse

        return tracefuse

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return (1, 0)

    # ---- storage, history, type
    def clone(self) -> Tensor:
        """A copy that gradients pass through."""
        return F.positive(self)

    def detach(self) -> Tensor:
        """The same memory without history."""
        return F.detach(self)

    def detach_(self) -> Tensor:
        """Forgets the history of this tensor."""
        self._node = None
        self._requires_grad = False if self._base is not None else None
        return self  # type: ignore[return-value]

    @property
    def data(self) -> Tensor:
        """The same memory without history."""
        return F.detach(self)

    def contiguous(self) -> Tensor:
        """The tensor itself if its elements lie in row-major order, else a copy."""
        if self.is_contiguous():
            return self  # type: ignore[return-value]
        out = F.positive(self)
        if type(out._data) is np.ndarray:
            out._data = np.ascontiguousarray(out._data)  # copies keep the order of their source
        return out

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order."""
        return not isinstance(self._data, np.ndarray) or self._data.flags.c_contiguous

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """The tensor in another dtype (`to(dtype)`, `to(other_tensor)`); a device "cpu" is accepted."""
        for a in (*args, *kwargs.values()):
            if isinstance(a, TensorMethods):
                return F.astype(self, a.dtype, copy=False)
            if isinstance(a, bool) or isinstance(a, str) and a == "cpu":
                continue
            return F.astype(self, a, copy=False)
        return self  # type: ignore[return-value]

    def cpu(self) -> Tensor:
        return self  # type: ignore[return-value]

    def astype(self, dtype: Any, copy: bool = True) -> Tensor:
        """A copy in another dtype."""
        return F.astype(self, dtype, copy=copy)

    def type_as(self, other: Tensor) -> Tensor:
        return F.astype(self, other.dtype, copy=False)

    def bool(self) -> Tensor:
        return F.astype(self, bool_, copy=False)

    def char(self) -> Tensor:
        return F.astype(self, int8, copy=False)

    def byte(self) -> Tensor:
        return F.astype(self, uint8, copy=False)

    def short(self) -> Tensor:
        return F.astype(self, int16, copy=False)

    def int(self) -> Tensor:
        return F.astype(self, int32, copy=False)

    def long(self) -> Tensor:
        return F.astype(self, int64, copy=False)

    def half(self) -> Tensor:
        return F.astype(self, float16, copy=False)

    def bfloat16(self) -> Tensor:
        return F.astype(self, bfloat16_, copy=False)

    def float(self) -> Tensor:
        return F.astype(self, float32, copy=False)

    def double(self) -> Tensor:
        return F.astype(self, float64, copy=False)

    def dim(self) -> Any:
        """Number of axes."""
        return self.ndim

    def numel(self) -> Any:
        """Number of elements."""
        return numel(self.shape)

    def element_size(self) -> Any:
        return self.dtype.itemsize

    def is_floating_point(self) -> Any:
        return self.dtype.is_floating

    def stride(self, axis: Any = None) -> Any:
        """Steps between neighbours along each axis, in elements."""
        strides = tuple(s // self.dtype.itemsize for s in self.numpy().strides)
        return strides if axis is None else strides[axis]

    # ---- shapes and axes
    @property
    def T(self) -> Tensor:
        """The axes in reverse order."""
        return F.permute_dims(self, range(self.ndim)[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return F.matrix_transpose(self)

    def t(self) -> Tensor:
        """The transpose of a matrix."""
        return F.permute_dims(self, range(self.ndim)[::-1])

    def reshape(self, *shape: Any) -> Tensor:
        return F.reshape(self, _flat(shape))

    def view(self, *shape: Any) -> Tensor:
        """Another shape, or another dtype of the same size for the same bits. ValueError if the shape would need a
        copy."""
        if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list)) and not hasattr(shape[0], "symbols"):
            return F.bitcast(self, dtype_of(shape[0]))
        out = F.reshape(self, _flat(shape))
        if state.tracer is None and out.numel() and not np.may_share_memory(out._data, self._data):
            raise ValueError(
                f"a tensor of shape {self.shape} and strides {self.stride()} has no view of shape {out.shape}; "
                f"use reshape"
            )
        return out

    def view_as(self, other: Tensor) -> Tensor:
        return self.view(other.shape)

    def reshape_as(self, other: Tensor) -> Tensor:
        return F.reshape(self, other.shape)

    def permute(self, *axes: Any) -> Tensor:
        return F.permute_dims(self, _flat(axes))

    def transpose(self, *axes: Any) -> Tensor:
        """transpose(i, k) exchanges two axes (PyTorch); without arguments or with all axes as NumPy does."""
        axes = _flat(axes)
        if not axes:
            return F.permute_dims(self, range(self.ndim)[::-1])
        return F.swapaxes(self, *axes) if len(axes) == 2 else F.permute_dims(self, axes)

    def unsqueeze(self, dim: Any) -> Tensor:
        return F.expand_dims(self, dim)

    def squeeze(self, axis: Any = None, *, dim: Any = None) -> Tensor:
        """Without axes of size 1; named ones that are longer stay."""
        return F.squeeze(self, dim=axis if dim is None else dim)

    def expand(self, *shape: Any) -> Tensor:
        return F.broadcast_to(self, _flat(shape))

    def expand_as(self, other: Tensor) -> Tensor:
        return F.broadcast_to(self, other.shape)

    def tile(self, *repetitions: Any) -> Tensor:
        return F.tile(self, _flat(repetitions))

    def unbind(self, dim: Any = 0) -> tuple[Tensor, ...]:
        return F.unstack(self, axis=dim)

    def narrow(self, dim: Any, start: Any, length: Any) -> Tensor:
        """x[start : start + length] along an axis. A view."""
        return F.getitem(self, (*(slice(None),) * (dim % self.ndim), slice(start, start + length)))

    def select(self, dim: Any, index: Any) -> Tensor:
        """x[index] along an axis. A view."""
        return F.getitem(self, (*(slice(None),) * (dim % self.ndim), index))

    def index_select(self, dim: Any, index: Any) -> Tensor:
        return F.take(self, index, axis=dim)

    def repeat_interleave(self, repeats: Any, dim: Any = None) -> Tensor:
        return F.repeat(self, repeats, axis=dim)

    def scatter(self, dim: Any, index: Any, src: Any) -> Tensor:
        """A copy with `src` put at `index` along an axis."""
        return F.scatter_along_axis(self, dim, index, src)

    def scatter_add(self, dim: Any, index: Any, src: Any) -> Tensor:
        """A copy with `src` added at `index` along an axis."""
        return F.scatter_along_axis(self, dim, index, src, "add")

    def masked_select(self, mask: Any) -> Tensor:
        return F.getitem(self, mask)

    def softmax(self, dim: Any = -1) -> Tensor:
        """e**x / sum(e**x) along an axis."""
        from .nn.functional import softmax

        return softmax(self, dim)  # type: ignore[arg-type]

    def log_softmax(self, dim: Any = -1) -> Tensor:
        """log(softmax(x)) along an axis, without overflow."""
        from .nn.functional import log_softmax

        return log_softmax(self, dim)  # type: ignore[arg-type]

    def where(self, condition: Any, other: Any) -> Tensor:
        """self where `condition` holds, else `other`."""
        return F.where(condition, self, other)

    if TYPE_CHECKING:  # functions taken over as methods: see FORWARDED
        _forwarded = cast("Callable[..., Tensor]", None)
        abs = acos = acosh = add = all = amax = amin = any = argmax = argmin = argsort = asin = asinh = atan = atan2 = (
            _forwarded
        )
        atanh = bmm = ceil = clamp = clip = copysign = cos = cosh = count_nonzero = cumprod = cumsum = diagonal = (
            _forwarded
        )
        diff = digamma = div = dot = eq = equal = erf = erfc = erfinv = exp = exp2 = expand_dims = expm1 = flatten = (
            _forwarded
        )
        flip = floor = gather = ge = gt = isfinite = isinf = isnan = le = lerp = lgamma = log = log10 = log1p = log2 = (
            _forwarded
        )
        logical_and = logical_not = logical_or = logical_xor = logsumexp = lt = masked_fill = matmul = max = _forwarded
        maximum = mean = median = min = minimum = mm = moveaxis = mul = mv = nan_to_num = ne = neg = norm = outer = (
            _forwarded
        )
        pow = prod = ravel = reciprocal = relu = remainder = repeat = roll = round = rsqrt = sigmoid = sign = sin = (
            _forwarded
        )
        sinh = sort = sqrt = square = std = sub = sum = swapaxes = take = take_along_axis = tan = tanh = trace = (
            _forwarded
        )
        tril = triu = trunc = var = vecdot = _forwarded
        add_ = sub_ = mul_ = div_ = pow_ = copy_ = fill_ = zero_ = clamp_ = lerp_ = addcmul_ = addcdiv_ = _forwarded
        maximum_ = minimum_ = masked_fill_ = neg_ = exp_ = log_ = sqrt_ = tanh_ = sigmoid_ = relu_ = floor_ = _forwarded
        ceil_ = round_ = abs_ = sign_ = reciprocal_ = rsqrt_ = uniform_ = normal_ = bernoulli_ = _forwarded
        _forwarded_parts = cast("Callable[..., Any]", None)
        chunk = nonzero = split = topk = unstack = _forwarded_parts


FORWARDED = (
    "abs", "acos", "acosh", "add", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "asin", "asinh",
    "atan", "atan2", "atanh", "ceil", "chunk", "clip", "copysign", "cos", "cosh", "count_nonzero", "diagonal", "diff",
    "digamma", "equal", "erf", "erfc", "erfinv", "exp", "exp2", "expand_dims", "expm1", "flatten", "flip", "floor",
    "gather", "isfinite", "isinf", "isnan", "lerp", "lgamma", "log", "log10", "log1p", "log2", "logical_and",
    "logical_not", "logical_or", "logical_xor", "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean",
    "median", "min", "minimum", "moveaxis", "nan_to_num", "nonzero", "norm", "outer", "pow", "prod", "ravel",
    "reciprocal", "relu", "remainder", "repeat", "roll", "round", "rsqrt", "sigmoid", "sign", "sin", "sinh", "sort",
    "split", "sqrt", "square", "std", "sum", "swapaxes", "take", "take_along_axis", "tan", "tanh", "topk", "trace",
    "tril", "triu", "trunc", "unstack", "var", "vecdot",
)  # fmt: skip
RENAMED = {
    "sub": "subtract", "mul": "multiply", "div": "divide", "neg": "negative", "clamp": "clip", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "mm": "matmul",
    "bmm": "matmul", "mv": "matmul", "dot": "matmul", "cumsum": "cumulative_sum", "cumprod": "cumulative_prod",
}  # fmt: skip


def take_over(cls: type, functions: dict[str, Any], in_place: dict[str, Any]) -> None:
    """Makes functions whose first argument is a tensor methods of `cls`."""
    for name in FORWARDED:
        setattr(cls, name, functions[name])
    for name, function in RENAMED.items():
        setattr(cls, name, functions[function])
    for name, function in in_place.items():
        setattr(cls, name, function)


def _flat(sizes: tuple) -> tuple:
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(sizes[0]) if len(sizes) == 1 and hasattr(sizes[0], "__iter__") else sizes


# At the end: functions need the Tensor class, which needs this one.
from . import functions as F  # noqa: E402
