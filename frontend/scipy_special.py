"""scipy.special on tensors: which tracefuse function each of its ufuncs and functions is.

Tensors that meet one of `UFUNCS` go through it, eagerly and while tracing; arrays in compiled NumPy-style functions too.
`FUNCTIONS` are Python functions, which scipy computes with NumPy when it is called eagerly: compiled functions call these
instead. (With SCIPY_ARRAY_API=1 scipy itself calls tracefuse through the array API.)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from . import functions as f
from . import special
from .tensor import Tensor


def _rel_entr(x: Any, y: Any) -> Tensor:
    """x * log(x / y); 0 at x = 0; infinite where it is not defined."""
    x, y = f.broadcast_arrays(x, y)
    inside = f.logical_and(f.greater(x, 0), f.greater(y, 0))
    safe_x, safe_y = f.where(inside, x, 1.0), f.where(inside, y, 1.0)
    edge = f.where(f.logical_and(f.equal(x, 0), f.greater_equal(y, 0)), 0.0, float("inf"))
    edge = f.where(f.logical_or(f.isnan(x), f.isnan(y)), float("nan"), edge)
    return f.where(inside, f.multiply(safe_x, f.log(f.divide(safe_x, safe_y))), edge)


def _betaln(a: Any, b: Any) -> Tensor:
    return f.subtract(f.add(f.lgamma(a), f.lgamma(b)), f.lgamma(f.add(a, b)))


def _huber(delta: Any, r: Any) -> Tensor:
    """Quadratic up to delta, then linear; infinite for negative delta."""
    size = f.abs(r)
    linear = f.multiply(delta, f.subtract(size, f.multiply(delta, 0.5)))
    out = f.where(f.less_equal(size, delta), f.multiply(f.square(r), 0.5), linear)
    return f.where(f.less(delta, 0), float("inf"), out)


UFUNCS: dict[str, Callable[..., Any]] = {
    "betaln": _betaln, "cbrt": f.cbrt, "entr": special.entr, "erf": f.erf, "erfc": f.erfc,
    "erfcinv": lambda x: f.erfinv(f.subtract(1.0, x)), "erfcx": special.erfcx, "erfinv": f.erfinv,
    "exp10": lambda x: f.pow(10.0, x), "exp2": f.exp2, "expit": f.sigmoid, "expm1": f.expm1,
    "gammainc": special.gammainc, "gammaincc": special.gammaincc, "gammaln": f.lgamma, "huber": _huber,
    "i0": special.i0, "i0e": special.i0e, "i1": special.i1, "i1e": special.i1e,
    "kl_div": lambda x, y: f.add(_rel_entr(x, y), f.subtract(y, x)), "log1p": f.log1p,
    "log_expit": lambda x: f.negative(f.logaddexp(0.0, f.negative(x))), "log_ndtr": special.log_ndtr,
    "logit": special.logit, "ndtr": special.ndtr, "ndtri": special.ndtri, "psi": f.digamma, "rel_entr": _rel_entr,
    "xlog1py": special.xlog1py, "xlogy": special.xlogy,
}  # fmt: skip


def ufunc(candidate: np.ufunc) -> Callable[..., Any] | None:
    """The function that one of scipy's ufuncs is on tensors; None for others, and for those without one."""
    name = candidate.__name__
    scipy_special = sys.modules.get("scipy.special")  # whoever has one of its ufuncs has imported it
    return UFUNCS.get(name) if getattr(scipy_special, name, None) is candidate else None


def _logsumexp(a: Any, axis: Any = None, b: Any = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    if return_sign:
        raise TypeError("logsumexp of a tensor has no return_sign")
    if b is None:
        return f.logsumexp(a, axis=axis, keepdims=keepdims)
    top = f.max(a, axis=axis, keepdims=True)
    top = f.where(f.isfinite(top), top, 0.0)
    total = f.log(f.sum(f.multiply(b, f.exp(f.subtract(a, top))), axis=axis, keepdims=True))
    out = f.add(total, top)
    return out if keepdims else f.reshape(out, ()) if axis is None else f.squeeze(out, axis)


def _softmax(x: Any, axis: Any = None) -> Tensor:
    return f.exp(_log_softmax(x, axis))


def _log_softmax(x: Any, axis: Any = None) -> Tensor:
    return f.subtract(x, f.logsumexp(x, axis=axis, keepdims=True))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "softmax": _softmax,
}


def function(candidate: Any) -> Callable[..., Any] | None:
    """The function that one of scipy.special's Python functions is on tensors, or None."""
    name = getattr(candidate, "__name__", "")
    if name not in FUNCTIONS or not (getattr(candidate, "__module__", None) or "").startswith("scipy.special"):
        return None
    return FUNCTIONS[name]
