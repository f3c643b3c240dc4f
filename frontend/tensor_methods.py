"""What a Tensor does: each method is one line over the function of the same name in `functions`.

Methods carry array API names and, where those leave room, PyTorch's. In-place methods end in an underscore.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..ir.dim import numel
from ..ir.dtypes import DType, bool_, dtype_of, float16, float32, float64, int8, int16, int32, int64, uint8, uint16
from ..ir.dtypes import bfloat16 as bfloat16_
from ..ir.graph import Value
from .devices import Device, gpu_at, host, share_memory, target_of
from .operators import TensorOperators
from .state import state

if TYPE_CHECKING:
    from .tensor import Tensor


class TensorMethods(TensorOperators):
    """Mixed into Tensor. Holds no data."""

    __slots__ = ()

    if TYPE_CHECKING:
        dtype: DType
        device: Device
        is_cuda: bool
        requires_grad: bool
        _base: Tensor | None

    # ---- out of tracefuse
    def numpy(self) -> np.ndarray:
        """The values as an ndarray that shares the tensor's memory. TypeError for tensors on a GPU: take `cpu().numpy()`."""
        if state.tracer is not None:
            return np.asarray(state.tracer.concretize(self, "numpy"))  # type: ignore[arg-type]
        return self._data if type(self._data) is np.ndarray else np.asarray(self._data)

    def item(self) -> Any:
        """The only element as a Python number. ValueError if there are more."""
        from .operators import one_element

        return one_element(self, "item")

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        array = self.numpy() if state.tracer is not None else host(self._data)
        return array.astype(np.float32).tolist() if array.dtype.kind == "V" else array.tolist()

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self._data.address if self.is_cuda and state.tracer is None else self.numpy().ctypes.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"cannot give a {array.dtype} tensor as {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __buffer__(self, flags: int, /) -> memoryview:
        """The memory, for `memoryview(x)` and whatever takes a buffer (from Python 3.12 on). BufferError for bfloat16,
        which buffers do not know."""
        array: Any = self.numpy()
        if array.dtype.kind == "V":
            raise BufferError(f"buffers know no {self.dtype.name}; use x.view(tr.uint16)")
        return memoryview(array)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .numpy_protocol import array_ufunc

        return array_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        from .numpy_protocol import array_function

        return array_function(function, args, kwargs)

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return sys.modules[__name__.partition(".")[0]]

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any:
        """A DLPack capsule of the memory, for `np.from_dlpack`, `torch.from_dlpack` and their like. BufferError for
        tensors that require grad: detach() them first."""
        if self.requires_grad:
            raise BufferError("a tensor that requires grad is not shared, because writes would go unseen; detach() it")
        if self.is_cuda and state.tracer is None:
            from ..runtime.cuda import dlpack

            dlpack.check_device(self._data.gpu, dl_device)
            return dlpack.capsule(self._data.copy() if copy else self._data, stream)
        return self.numpy().__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device, copy=copy)

    def __dlpack_device__(self) -> tuple[Any, int]:
        return (2, self.device.index or 0) if self.is_cuda else (1, 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The memory of a tensor on a GPU, for CuPy, numba and their like."""
        if not self.is_cuda or state.tracer is not None:
            raise AttributeError("only tensors on a GPU have a __cuda_array_interface__")
        from ..runtime.cuda.dlpack import array_interface

        return array_interface(self._data)

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
        if type(out._data) is np.ndarray and not out._data.flags.c_contiguous:
            out._data = np.ascontiguousarray(out._data)  # copies keep the order of their source
        return out

    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order."""
        return type(self._data) is Value or self._data.flags.c_contiguous

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """The tensor on another device, in another dtype, or both: `to(device)`, `to(dtype)`, `to(device, dtype)`,
        `to(other_tensor)`, with `copy=True` in any case a copy. Itself if nothing changes. Copies from pinned memory to a
        GPU don't wait."""
        device, dtype, copy = target_of(args, kwargs)
        out = self if device is None else F.transfer(self, gpu_at(device))  # type: ignore[arg-type]
        if dtype is not None:
            out = F.astype(out, dtype, copy=False)
        return F.positive(out) if copy and out is self else out  # type: ignore[return-value]

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """The tensor on a device: itself if it lies there. ValueError for streams: it is the current one."""
        if stream is not None:
            raise ValueError("to_device takes no stream; use tr.cuda.stream(..) around it")
        return F.transfer(self, gpu_at(device))  # type: ignore[arg-type]

    def cpu(self) -> Tensor:
        """The tensor in host memory: itself if it lies there, else a copy, for which the host waits."""
        return F.transfer(self, None)  # type: ignore[arg-type]

    def cuda(self, device: Any = None) -> Tensor:
        """The tensor on a GPU, the first one by default."""
        return F.transfer(self, gpu_at("cuda" if device is None else device))  # type: ignore[arg-type]

    def astype(self, dtype: Any, copy: bool = True) -> Tensor:
        """A copy in another dtype."""
        return F.astype(self, dtype, copy=copy)

    def ushort(self) -> Tensor:
        return F.astype(self, uint16, copy=False)

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

    nelement = numel

    def ndimension(self) -> Any:
        """Number of axes."""
        return self.ndim

    def storage_offset(self) -> Any:
        """Elements between the start of the memory and the first one."""
        if self.is_cuda and state.tracer is None:
            return self._data.offset // self.dtype.itemsize
        array = root = self.numpy()
        while isinstance(root.base, np.ndarray):
            root = root.base
        return (array.ctypes.data - root.ctypes.data) // self.dtype.itemsize

    def is_signed(self) -> Any:
        """Whether the element type has negative numbers."""
        return self.dtype.kind in "ifc"

    def is_same_size(self, other: Tensor) -> Any:
        """Whether both shapes are equal."""
        return self.shape == other.shape

    def element_size(self) -> Any:
        return self.dtype.itemsize

    def is_floating_point(self) -> Any:
        return self.dtype.is_floating

    def stride(self, axis: Any = None) -> Any:
        """Steps between neighbours along each axis, in elements."""
        data = self._data if state.tracer is None else self.numpy()
        strides = tuple(s // self.dtype.itemsize for s in data.strides)
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

    @property
    def H(self) -> Tensor:
        """The transpose of a matrix, conjugated."""
        if self.ndim not in (0, 2):
            raise ValueError(f"H is of matrices, not of shape {self.shape}; use mH")
        return F.adjoint(self) if self.ndim else self  # type: ignore[return-value]

    @property
    def real(self) -> Tensor:
        """The real part. A copy."""
        return F.real(self)

    @property
    def imag(self) -> Tensor:
        """The imaginary part. A copy."""
        return F.imag(self)

    def is_complex(self) -> Any:
        return self.dtype.is_complex

    @property
    def mH(self) -> Tensor:
        """The last two axes exchanged, conjugated."""
        return F.adjoint(self)

    def reshape(self, *shape: Any) -> Tensor:
        return F.reshape(self, _flat(shape))

    def view(self, *shape: Any) -> Tensor:
        """Another shape, or another dtype of the same size for the same bits. ValueError if the shape would need a
        copy."""
        if len(shape) == 1 and not isinstance(shape[0], (int, tuple, list)) and not hasattr(shape[0], "symbols"):
            return F.bitcast(self, dtype_of(shape[0]))
        out = F.reshape(self, _flat(shape))
        if state.tracer is None and out.numel() and not share_memory(out._data, self._data):
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

    def squeeze(self, axis: Any = None, *, dim: Any = None) -> Tensor:
        """Without axes of size 1; named ones that are longer stay."""
        return F.squeeze(self, dim=axis if dim is None else dim)

    def expand(self, *shape: Any) -> Tensor:
        return F.broadcast_to(self, _flat(shape))

    def expand_as(self, other: Tensor) -> Tensor:
        return F.broadcast_to(self, other.shape)

    def tile(self, *repetitions: Any) -> Tensor:
        return F.tile(self, _flat(repetitions))

    def narrow(self, dim: Any, start: Any, length: Any) -> Tensor:
        """x[start : start + length] along an axis. A view."""
        return F.getitem(self, (*(slice(None),) * (dim % self.ndim), slice(start, start + length)))

    def softmax(self, dim: Any = -1, dtype: Any = None) -> Tensor:
        """e**x / sum(e**x) along an axis."""
        from .special import softmax

        return softmax(self, dim, dtype=dtype)

    def log_softmax(self, dim: Any = -1, dtype: Any = None) -> Tensor:
        """log(softmax(x)) along an axis, without overflow."""
        from .special import log_softmax

        return log_softmax(self, dim, dtype=dtype)

    def add(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """self + alpha * other."""
        return F.add(self, other if alpha == 1 else F.multiply(other, alpha))

    def sub(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """self - alpha * other."""
        return F.subtract(self, other if alpha == 1 else F.multiply(other, alpha))

    def div(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        """self / other; rounding_mode "trunc" rounds towards zero, "floor" towards minus infinity."""
        if rounding_mode is None:
            return F.divide(self, other)
        if rounding_mode == "floor":
            return F.floor_divide(self, other)
        if rounding_mode != "trunc":
            raise ValueError(f'div: rounding_mode is None, "trunc" or "floor", not {rounding_mode!r}')
        quotient = F.trunc(F.divide(self, other))
        wanted = F.result_type(self, other)
        return quotient if wanted.is_floating else F.astype(quotient, wanted)

    def polygamma(self, n: Any) -> Tensor:
        """The n-th derivative of digamma. polygamma(n, x) works as well."""
        from .special import polygamma

        return polygamma(n, self)

    def multinomial(self, num_samples: Any, replacement: Any = False, *, generator: Any = None) -> Tensor:
        """Indices drawn with probabilities proportional to this tensor."""
        from .random import multinomial

        return multinomial(self, num_samples, replacement, generator=generator)

    def bernoulli(self, p: Any = None, *, generator: Any = None) -> Tensor:
        """1 with the probabilities that this tensor holds (or all of them p), else 0."""
        from .random import bernoulli

        out = bernoulli(self if p is None else p, None if p is None else self.shape, generator=generator)
        return F.astype(out, self.dtype, copy=False)

    # ---- tensors of the same type
    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: Any = False) -> Tensor:
        """A new tensor of `data`, of this one's type and on its device."""
        device = self.device if device is None else device
        return F.tensor(data, dtype=self.dtype if dtype is None else dtype, requires_grad=requires_grad, device=device)

    def new_full(self, size: Any, fill_value: Any, *, dtype: Any = None, **options: Any) -> Tensor:
        """A tensor of one number, of this one's type."""
        return F.full(size, fill_value, dtype=self.dtype if dtype is None else dtype, **_creation(self, options))

    def new_zeros(self, *size: Any, dtype: Any = None, **options: Any) -> Tensor:
        """Zeros of this tensor's type."""
        return F.zeros(*size, dtype=self.dtype if dtype is None else dtype, **_creation(self, options))

    def new_ones(self, *size: Any, dtype: Any = None, **options: Any) -> Tensor:
        """Ones of this tensor's type."""
        return F.ones(*size, dtype=self.dtype if dtype is None else dtype, **_creation(self, options))

    def new_empty(self, *size: Any, dtype: Any = None, **options: Any) -> Tensor:
        """A tensor to be written to, of this one's type."""
        return F.empty(*size, dtype=self.dtype if dtype is None else dtype, **_creation(self, options))

    def where(self, condition: Any, other: Any) -> Tensor:
        """self where `condition` holds, else `other`."""
        return F.where(condition, self, other)

    if TYPE_CHECKING:  # functions taken over as methods: see FORWARDED
        _forwarded = cast("Callable[..., Tensor]", None)
        abs = abs_ = absolute = absolute_ = acos = acos_ = acosh = acosh_ = add = add_ = addbmm = _forwarded
        addbmm_ = addcdiv = addcdiv_ = addcmul = addcmul_ = addmm = addmm_ = addmv = addmv_ = addr = _forwarded
        addr_ = adjoint = all = amax = amin = angle = any = arccos = arccos_ = arccosh = arccosh_ = _forwarded
        arcsin = arcsin_ = arcsinh = arcsinh_ = arctan = arctan2 = arctan2_ = arctan_ = arctanh = _forwarded
        arctanh_ = argmax = argmin = argsort = argwhere = as_strided = as_strided_scatter = asin = _forwarded
        asin_ = asinh = asinh_ = atan = atan2 = atan2_ = atan_ = atanh = atanh_ = b = baddbmm = _forwarded
        baddbmm_ = bernoulli_ = bincount = bitwise_and = bitwise_and_ = bitwise_left_shift = _forwarded
        bitwise_left_shift_ = bitwise_not = bitwise_not_ = bitwise_or = bitwise_or_ = _forwarded
        bitwise_right_shift = bitwise_right_shift_ = bitwise_xor = bitwise_xor_ = bmm = broadcast_to = _forwarded
        bucketize = cauchy_ = cdist = ceil = ceil_ = clamp = clamp_ = clamp_max = clamp_max_ = _forwarded
        clamp_min = clamp_min_ = clip = clip_ = conj = copy_ = copysign = copysign_ = corrcoef = cos = _forwarded
        cos_ = cosh = cosh_ = count_nonzero = cov = cross = cumprod = cumprod_ = cumsum = cumsum_ = _forwarded
        deg2rad = deg2rad_ = diag = diag_embed = diagflat = diagonal = diagonal_scatter = diff = _forwarded
        digamma = digamma_ = dist = div_ = divide = divide_ = dot = eq = eq_ = equal = erf = erf_ = _forwarded
        erfc = erfc_ = erfinv = erfinv_ = exp = exp2 = exp2_ = exp_ = expand_dims = expm1 = expm1_ = _forwarded
        exponential_ = fill_ = fill_diagonal_ = fix = fix_ = flatten = flip = fliplr = flipud = _forwarded
        float_power = float_power_ = floor = floor_ = floor_divide = floor_divide_ = fmax = fmin = _forwarded
        fmod = fmod_ = frac = frac_ = gather = gcd = gcd_ = ge = ge_ = geometric_ = greater = _forwarded
        greater_ = greater_equal = greater_equal_ = gt = gt_ = heaviside = heaviside_ = histc = hypot = _forwarded
        hypot_ = i = index_add = index_add_ = index_copy = index_copy_ = index_fill = index_fill_ = _forwarded
        index_put = index_put_ = index_reduce = index_reduce_ = index_select = inner = isclose = _forwarded
        isfinite = isin = isinf = isnan = isneginf = isposinf = kron = lcm = lcm_ = ldexp = ldexp_ = _forwarded
        le = le_ = lerp = lerp_ = less = less_ = less_equal = less_equal_ = lgamma = lgamma_ = log = _forwarded
        log10 = log10_ = log1p = log1p_ = log2 = log2_ = log_ = log_normal_ = logaddexp = logaddexp2 = _forwarded
        logcumsumexp = logical_and = logical_and_ = logical_not = logical_not_ = logical_or = _forwarded
        logical_or_ = logical_xor = logical_xor_ = logit = logit_ = logsumexp = lt = lt_ = _forwarded
        masked_fill = masked_fill_ = masked_scatter = masked_scatter_ = masked_select = matmul = _forwarded
        matrix_transpose = max = maximum = maximum_ = mean = median = min = minimum = minimum_ = mm = _forwarded
        moveaxis = movedim = msort = mul = mul_ = multiply = multiply_ = mv = mvlgamma = mvlgamma_ = _forwarded
        nan_to_num = nan_to_num_ = nanmean = nanquantile = nansum = ne = ne_ = neg = neg_ = negative = _forwarded
        negative_ = nextafter = nextafter_ = norm = normal_ = not_equal = not_equal_ = outer = _forwarded
        permute_dims = positive = pow = pow_ = prod = put = put_ = quantile = rad2deg = rad2deg_ = _forwarded
        random_ = ravel = reciprocal = reciprocal_ = relu = relu_ = remainder = remainder_ = renorm = _forwarded
        repeat_interleave = scatter = scatter_add = nextafter = _forwarded
        renorm_ = repeat = roll = rot90 = round = round_ = rsqrt = rsqrt_ = rsub = scatter_ = _forwarded
        scatter_add_ = scatter_reduce = scatter_reduce_ = searchsorted = select = select_scatter = _forwarded
        sgn = sgn_ = sigmoid = sigmoid_ = sign = sign_ = signbit = sin = sin_ = sinc = sinc_ = sinh = _forwarded
        sinh_ = slice_scatter = sort = sqrt = sqrt_ = square = square_ = std = sub_ = subtract = _forwarded
        subtract_ = sum = sum_to_size = swapaxes = swapdims = t = take = take_along_axis = _forwarded
        take_along_dim = tan = tan_ = tanh = tanh_ = tensordot = trace = trapezoid = tril = tril_ = _forwarded
        triu = triu_ = true_divide = true_divide_ = trunc = trunc_ = unflatten = unfold = uniform_ = _forwarded
        unsqueeze = var = vdot = vecdot = xlogy = xlogy_ = zero_ = _forwarded
        _forwarded_parts = cast("Callable[..., Any]", None)
        allclose = aminmax = chunk = cummax = cummin = dsplit = frexp = histogram = hsplit = _forwarded_parts
        kthvalue = mode = nanmedian = nonzero = split = split_with_sizes = std_mean = tensor_split = _forwarded_parts
        topk = unbind = unique = unique_consecutive = unsafe_chunk = unsafe_split = unstack = _forwarded_parts
        var_mean = vsplit = _forwarded_parts


FORWARDED = (
    "abs", "acos", "acosh", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "asin", "asinh",
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
    "mul": "multiply", "neg": "negative", "clamp": "clip", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
# The same for the functions of `arithmetic`, `matrices`, `rearranging`, `scattering` and `statistics`.
FURTHER = (
    "absolute", "addbmm", "addcdiv", "addcmul", "addmm", "addmv", "addr", "adjoint", "allclose", "aminmax", "angle",
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "argwhere", "as_strided",
    "as_strided_scatter", "baddbmm", "bincount", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "bmm", "broadcast_to", "bucketize", "cdist", "clamp_max", "clamp_min",
    "conj", "corrcoef", "cov", "cross", "cummax", "cummin", "cumprod", "cumsum", "deg2rad", "diag", "diag_embed",
    "diagflat", "diagonal_scatter", "dist", "divide", "dot", "dsplit", "fix", "fliplr", "flipud", "float_power",
    "floor_divide", "fmax", "fmin", "fmod", "frac", "frexp", "gcd", "greater", "greater_equal", "heaviside", "histc",
    "histogram", "hsplit", "hypot", "index_add", "index_copy", "index_fill", "index_put", "index_reduce",
    "index_select", "inner", "isclose", "isin", "isneginf", "isposinf", "kron", "kthvalue", "lcm", "ldexp", "less",
    "less_equal", "logaddexp", "logaddexp2", "logcumsumexp", "logit", "masked_scatter", "masked_select",
    "matrix_transpose", "mm", "mode", "movedim", "msort", "multiply", "mv", "mvlgamma", "nanmean", "nanmedian",
    "nanquantile", "nansum", "negative", "nextafter", "not_equal", "permute_dims", "positive", "put", "quantile",
    "rad2deg", "renorm", "repeat_interleave", "rot90", "rsub", "scatter", "scatter_add", "scatter_reduce",
    "searchsorted", "select", "select_scatter", "sgn", "signbit", "sinc", "slice_scatter", "split_with_sizes",
    "std_mean", "subtract", "sum_to_size", "swapdims", "t", "take_along_dim", "tensor_split", "tensordot", "trapezoid",
    "true_divide", "unbind", "unflatten", "unfold", "unique", "unique_consecutive", "unsafe_chunk", "unsafe_split",
    "unsqueeze", "var_mean", "vdot", "vsplit", "xlogy",
)  # fmt: skip


def take_over(cls: type, functions: dict[str, Any], in_place: dict[str, Any]) -> None:
    """Makes functions whose first argument is a tensor methods of `cls`."""
    for name in FORWARDED + FURTHER:
        setattr(cls, name, functions[name])
    for name, function in RENAMED.items():
        setattr(cls, name, functions[function])
    for name, function in in_place.items():
        setattr(cls, name, function)


def _creation(x: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What `full` and its like take of PyTorch's keywords: there is one layout, and the device is that of `x`."""
    kept = {k: v for k, v in options.items() if k not in ("layout", "pin_memory")}
    return {**kept, "device": x.device if kept.get("device") is None else kept["device"]}


def _flat(sizes: tuple) -> tuple:
    """f(2, 3) and f((2, 3)) mean the same."""
    return tuple(sizes[0]) if len(sizes) == 1 and hasattr(sizes[0], "__iter__") else sizes


# At the end: functions need the Tensor class, which needs this one.
from . import functions as F  # noqa: E402
