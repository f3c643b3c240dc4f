"""In-place methods: `x.add_(y)` and its like. They write into the memory of `x`, through every view of it.

Where no history and no trace is involved they are one NumPy call with `out=`; else the result is computed as usual and
assigned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.dtypes import float32, float64
from . import elementwise as e
from .convert import as_tensor, cast_to, is_scalar, scalar_tensor
from .devices import gpu_of, is_on_gpu, write
from .dispatch import assign, check_writable, write_result
from .manipulation import broadcast_to, scatter_along_axis
from .state import state
from .tape import needs_grad, root_of
from .tensor import Tensor
from .transfer import transfer

_PLAIN = (float32.np, float64.np)


def _wrote(x: Tensor, ufunc: np.ufunc, other: Any) -> bool:
    """Does x = ufunc(x, other) with one NumPy call if that is all there is to do."""
    if state.tracer is not None or type(x._data) is not np.ndarray or x._data.dtype not in _PLAIN:
        return False
    if isinstance(other, Tensor):
        if state.grad_enabled and needs_grad(other) or other._data.dtype is not x._data.dtype:
            return False
        if type(other._data) is not np.ndarray:
            return False
        operand = other._data
    elif type(other) in (int, float):
        operand = other
    else:
        return False
    if state.grad_enabled and needs_grad(x):
        return False
    check_writable(x, ufunc.__name__ + "_")
    with np.errstate(all="ignore"):
        ufunc(x._data, operand, out=x._data)
    root = root_of(x)
    root._version = (root._version or 0) + 1
    return True


def _arithmetic(ufunc: np.ufunc, function: Callable, name: str) -> Callable:
    def method(x: Tensor, other: Any, *, alpha: Any = 1, rounding_mode: str | None = None) -> Tensor:
        if rounding_mode is not None:
            return write_result(x, x.div(other, rounding_mode=rounding_mode), name)
        if alpha != 1:
            other = e.multiply(other, alpha)
        return x if _wrote(x, ufunc, other) else write_result(x, function(x, other), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"x = {name[:-1]}(x, alpha * other), in place (div_: `rounding_mode` as for `div`)."
    return method


add_ = _arithmetic(np.add, e.add, "add_")
sub_ = _arithmetic(np.subtract, e.subtract, "sub_")
mul_ = _arithmetic(np.multiply, e.multiply, "mul_")
div_ = _arithmetic(np.divide, e.divide, "div_")
maximum_ = _arithmetic(np.maximum, e.maximum, "maximum_")
minimum_ = _arithmetic(np.minimum, e.minimum, "minimum_")


# Functions whose in-place method is x = f(x, ...): the name with an underscore.
FUNCTIONS = (
    "abs", "absolute", "acos", "acosh", "addbmm", "addmm", "addmv", "addr", "arccos", "arccosh", "arcsin", "arcsinh",
    "arctan", "arctan2", "arctanh", "asin", "asinh", "atan", "atan2", "atanh", "baddbmm", "bitwise_and",
    "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "ceil", "clamp_max",
    "clamp_min", "clip", "copysign", "cos", "cosh", "deg2rad", "digamma", "divide", "erf", "erfc", "erfinv", "exp",
    "exp2", "expm1", "fix", "float_power", "floor", "floor_divide", "fmod", "frac", "gcd", "greater", "greater_equal",
    "heaviside", "hypot", "index_add", "index_copy", "index_fill", "index_put", "index_reduce", "lcm", "ldexp", "less",
    "less_equal", "lgamma", "log", "log10", "log1p", "log2", "logical_and", "logical_not", "logical_or", "logical_xor",
    "logit", "masked_scatter", "multiply", "mvlgamma", "nan_to_num", "negative", "nextafter", "not_equal", "put",
    "rad2deg", "reciprocal", "relu", "remainder", "renorm", "round", "rsqrt", "scatter_reduce", "sgn", "sigmoid",
    "sign", "sin", "sinc", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "tril", "triu", "true_divide", "trunc",
    "xlogy",
)  # fmt: skip
# The same for methods of other names: {method: function}.
RENAMED = {
    "cumprod_": "cumulative_prod", "cumsum_": "cumulative_sum", "eq_": "equal",
    "ge_": "greater_equal", "gt_": "greater", "le_": "less_equal", "lt_": "less", "ne_": "not_equal",
    "neg_": "negative",
}  # fmt: skip


def _method(function: Callable, name: str) -> Callable:
    """x = function(x, ...), in place."""

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return write_result(x, function(x, *args, **kwargs), name)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"x = {name[:-1]}(x, ...), in place."
    return method


def methods(functions: dict[str, Any]) -> dict[str, Callable]:
    """All in-place methods, made of the functions given by name."""
    made = {f"{name}_": _method(functions[name], f"{name}_") for name in FUNCTIONS if name in functions}
    made |= {name: _method(functions[function], name) for name, function in RENAMED.items()}
    return made | {name: globals()[name] for name in __all__}


def copy_(x: Tensor, source: Any) -> Tensor:
    """x takes the values of `source`, cast and broadcast."""
    value = scalar_tensor(source) if is_scalar(source) else as_tensor(source)
    if state.tracer is None and not (state.grad_enabled and (needs_grad(value) or needs_grad(x))):
        given = broadcast_to(value, x.shape)
        write(x._data, (cast_to(given, x.dtype) if is_on_gpu(x, given) else given)._data)
        root = root_of(x)
        root._version = (root._version or 0) + 1
        return x
    value = cast_to(value if state.tracer is not None else transfer(value, gpu_of(x)), x.dtype)
    return assign(x, broadcast_to(value, x.shape), "copy_")


def fill_(x: Tensor, value: Any) -> Tensor:
    """Every element becomes `value`."""
    return copy_(x, value)


def zero_(x: Tensor) -> Tensor:
    """Every element becomes 0."""
    return copy_(x, False if x.dtype.kind == "b" else 0)


def pow_(x: Tensor, exponent: Any) -> Tensor:
    """x = x ** exponent, in place."""
    return write_result(x, e.pow(x, exponent), "pow_")


def clamp_(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """Limits x to [min, max], in place."""
    return write_result(x, e.clip(x, min, max), "clamp_")


def lerp_(x: Tensor, end: Any, weight: Any) -> Tensor:
    """x = x + weight * (end - x), in place."""
    return write_result(x, e.lerp(x, end, weight), "lerp_")


def scatter_(x: Tensor, dim: int, index: Any, src: Any = None, *, value: Any = None) -> Tensor:
    """Puts `src` (or one `value`) at `index` along an axis of x."""
    return write_result(x, scatter_along_axis(x, dim, index, value if src is None else src), "scatter_")


def scatter_add_(x: Tensor, dim: int, index: Any, src: Any) -> Tensor:
    """Adds `src` at `index` along an axis of x."""
    return write_result(x, scatter_along_axis(x, dim, index, src, "add"), "scatter_add_")


def fill_diagonal_(x: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Every element of the main diagonal becomes `fill_value`; `wrap`: it starts again below a tall matrix."""
    sizes = x.shape
    if len(sizes) < 2 or len(sizes) > 2 and len(set(sizes)) > 1:
        raise ValueError(f"fill_diagonal_ takes matrices, or more dimensions of one size, not shape {sizes}")
    step = sum(int(np.prod(sizes[i + 1 :])) for i in range(len(sizes)))
    stop = x.numel() if wrap else min(x.numel(), step * min(sizes))
    at = np.arange(0, stop, step)
    mask = np.zeros(x.numel(), np.bool_)
    mask[at] = True
    return masked_fill_(x, as_tensor(mask.reshape(sizes)), fill_value)


def addcmul_(x: Tensor, a: Any, b: Any, value: float = 1) -> Tensor:
    """x = x + value * a * b, in place."""
    return add_(x, e.multiply(a, b), alpha=value)


def addcdiv_(x: Tensor, a: Any, b: Any, value: float = 1) -> Tensor:
    """x = x + value * a / b, in place."""
    return add_(x, e.divide(a, b), alpha=value)


def masked_fill_(x: Tensor, mask: Any, value: Any) -> Tensor:
    """x = value where `mask` holds, in place."""
    return write_result(x, e.where(mask, value, x), "masked_fill_")


def uniform_(x: Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with uniform numbers of [low, high)."""
    from .random import uniform

    return copy_(x, uniform(low, high, x.shape, dtype=x.dtype, generator=generator))


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with normal numbers."""
    from .random import normal

    return copy_(x, normal(mean, std, x.shape, dtype=x.dtype, generator=generator))


def bernoulli_(x: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
    """Fills x with 1 (with probability p, a number or tensor) and 0."""
    from .random import bernoulli

    return copy_(x, bernoulli(broadcast_to(p, x.shape) if isinstance(p, Tensor) else p, x.shape, generator=generator))


def exponential_(x: Tensor, lambd: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with numbers of the exponential distribution of rate lambd."""
    from .random import exponential

    return copy_(x, e.divide(exponential(x.shape, dtype=x.dtype, generator=generator), lambd))


def cauchy_(x: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fills x with numbers of the Cauchy distribution."""
    from .random import uniform

    angle = e.multiply(uniform(-0.5, 0.5, x.shape, dtype=x.dtype, generator=generator), np.pi)
    return copy_(x, e.add(e.multiply(e.tan(angle), sigma), median))


def log_normal_(x: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Any = None) -> Tensor:
    """Fills x with e**n, n normal with this mean and standard deviation."""
    from .random import normal

    return copy_(x, e.exp(normal(mean, std, x.shape, dtype=x.dtype, generator=generator)))


def geometric_(x: Tensor, p: float, *, generator: Any = None) -> Tensor:
    """Fills x with the number of trials of probability p up to the first success."""
    from .random import exponential

    if not 0 < p < 1:
        raise ValueError(f"geometric_: p must lie between 0 and 1, it is {p}")
    wanted = x.dtype if x.dtype.is_floating else float32
    drawn = e.divide(exponential(x.shape, dtype=wanted, generator=generator), -np.log1p(-p))
    return copy_(x, e.maximum(e.ceil(drawn), 1.0))


def random_(x: Tensor, low: int = 0, high: int | None = None, *, generator: Any = None) -> Tensor:
    """Fills x with integers of [low, high), or of [0, low) with one bound; of all that its type holds without any."""
    from .random import randint

    if high is None:
        whole = 2**24 if x.dtype.is_floating else 2 ** min(x.dtype.bits - (x.dtype.kind == "i"), 31)
        low, high = 0, low or whole
    return copy_(x, randint(low, high, x.shape, generator=generator))


__all__ = [
    "add_", "addcdiv_", "addcmul_", "bernoulli_", "cauchy_", "clamp_", "copy_", "div_", "exponential_",
    "fill_", "fill_diagonal_", "geometric_", "lerp_", "log_normal_", "masked_fill_", "maximum_", "minimum_", "mul_",
    "normal_", "pow_", "random_", "scatter_", "scatter_add_", "sub_", "uniform_", "zero_",
]  # fmt: skip
