"""Where a name of PyTorch means something else in tracefuse: what to call instead, and where tracefuse differs on purpose.

Everything else is called by name.
"""

from __future__ import annotations

from typing import Any

import tracefuse as tr

F = tr.nn.functional


def _dim(kwargs: dict) -> Any:
    return kwargs.get("dim")


def _extreme(function: Any, position: Any, binary: Any) -> Any:
    """PyTorch's max and min: all elements, (values, indices) over an axis, or of two tensors."""

    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], tr.Tensor):
            return binary(x, args[0])
        axis = args[0] if args else kwargs.get("dim")
        if axis is None:
            return function(x)
        keep = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
        at = position(x, axis=axis, keepdims=True)
        values = tr.take_along_axis(x, at, axis=axis) if x.ndim else x
        return (values, at) if keep or not x.ndim else (tr.squeeze(values, axis), tr.squeeze(at, axis))

    return call


def _spread(function: Any) -> Any:
    """PyTorch's std and var divide by n - 1."""

    def call(x: Any, *args: Any, correction: Any = 1, **kwargs: Any) -> Any:
        unbiased = kwargs.pop("unbiased", None)
        if args and isinstance(args[0], bool):
            unbiased, args = args[0], args[1:]
        if len(args) > 1:
            unbiased = args[1]
        correction = 1 if correction is None else correction
        correction = correction if unbiased is None else int(unbiased)
        keep = args[2] if len(args) > 2 else kwargs.pop("keepdim", False)
        return function(x, args[0] if args else kwargs.pop("dim", None), correction=correction, keepdims=keep, **kwargs)

    return call


def _sort(x: Any, dim: Any = -1, descending: bool = False, stable: bool = False) -> Any:
    if not x.ndim:
        return x.clone(), tr.argsort(x)
    at = tr.argsort(x, axis=dim, descending=descending)
    return tr.take_along_axis(x, at, axis=dim), at


def _median(x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """The lower of the two middle elements; NaN if there is one."""
    if dim is None:
        flat = tr.ravel(x)
        return tr.where(tr.any(tr.isnan(flat)), tr.nan, tr.kthvalue(flat, (flat.shape[0] + 1) // 2)[0])
    n = x.shape[dim] if x.ndim else 1
    nan = tr.isnan(x)
    first = tr.argmax(nan, axis=dim, keepdims=True)
    values, at = tr.kthvalue(x, (n + 1) // 2, dim, keepdims=True)
    has = tr.any(nan, axis=dim, keepdims=True)
    at = tr.where(has, first, at)
    values = tr.take_along_axis(x, at, axis=dim) if x.ndim else values
    return (values, at) if keepdim or not x.ndim else (tr.squeeze(values, dim), tr.squeeze(at, dim))


def _nonzero(x: Any, as_tuple: bool = False) -> Any:
    return tr.nonzero(x if x.ndim else tr.reshape(x, (1,))) if as_tuple else tr.argwhere(x)


def _einsum(operands: Any, equation: str) -> Any:
    return tr.einsum(equation, *operands)


def _searchsorted(
    sequence: Any, values: Any, out_int32: bool = False, right: bool = False, side: Any = None, sorter: Any = None
) -> Any:
    if sorter is not None:
        sequence = tr.take_along_axis(sequence, sorter, axis=-1)
    out = tr.searchsorted(sequence, values, side=side or ("right" if right else "left"))
    return out.int() if out_int32 else out


def _diff(x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    return tr.diff(x, axis=dim, n=n, prepend=prepend, append=append)


def _diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return tr.diagonal(x, offset=offset, axis1=dim1, axis2=dim2)


def _embedding(weight: Any, indices: Any, **options: Any) -> Any:
    return F.embedding(indices, weight, **options)


def _tensordot(x: Any, y: Any, dims: Any = 2) -> Any:
    return tr.tensordot(x, y, axes=dims)


def _linspace(start: Any, end: Any, steps: int, dtype: Any = None, **_: Any) -> Any:
    return tr.linspace(start, end, steps, dtype=dtype)


def _meshgrid(*tensors: Any, indexing: str = "ij") -> Any:
    listed = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
    return tr.meshgrid(*listed, indexing=indexing)


def _arange(start: Any, end: Any = None, step: Any = 1, **options: Any) -> Any:
    return tr.arange(start, end, step, dtype=options.get("dtype"))


def _zero(x: Any) -> Any:
    return x.clone().zero_()


def _eye(n: int, m: int | None = None, *, dtype: Any = None, **_: Any) -> Any:
    return tr.eye(n, m, dtype=dtype)


def _triangle(function: Any) -> Any:
    return lambda x, diagonal=0: function(x, k=diagonal)


def _cumulative(function: Any) -> Any:
    """PyTorch's running sums and products take numbers too."""

    def call(x: Any, dim: int, dtype: Any = None) -> Any:
        return (
            function(tr.reshape(x, (-1,)), axis=0, dtype=dtype).reshape(x.shape)
            if not x.ndim
            else function(x, axis=dim, dtype=dtype)
        )

    return call


def _clone_and(name: str) -> Any:
    def call(x: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(x.clone(), name)(*args, **kwargs)

    return call


def _grid_sampler(x: Any, grid: Any, mode: int, padding: int, align_corners: bool) -> Any:
    modes, paddings = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
    return F.grid_sample(x, grid, modes[mode], paddings[padding], align_corners)


def _unique(x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: Any = None):
    return tr.unique(x, sorted, return_inverse, return_counts, dim)


def _solve(a: Any, b: Any) -> Any:
    """PyTorch takes a batch of vectors where that is possible; the array API one vector."""
    vectors = b.ndim > 1 and b.shape == a.shape[:-1]
    return tr.squeeze(tr.linalg.solve(a, tr.expand_dims(b, -1)), -1) if vectors else tr.linalg.solve(a, b)


ADAPTERS: dict[str, Any] = {
    "T": lambda x: x.T,
    "H": lambda x: x.H,
    "mH": lambda x: x.mH,
    "mT": lambda x: x.mT,
    "arange": _arange,
    "cauchy": _clone_and("cauchy_"),
    "count_nonzero": lambda x, dim=None: tr.count_nonzero(x, axis=dim),
    "cumprod": _cumulative(tr.cumulative_prod),
    "cumsum": _cumulative(tr.cumulative_sum),
    "diag": lambda x, diagonal=0: tr.diag(x, k=diagonal),
    "diagonal": _diagonal,
    "diff": _diff,
    "einsum": _einsum,
    "equal": lambda x, y: x.shape == y.shape and bool(tr.all(tr.equal(x, y))),
    "exponential": _clone_and("exponential_"),
    "eye": _eye,
    "fill": lambda x, value: x.clone().fill_(value),
    "geometric": _clone_and("geometric_"),
    "grid_sampler_2d": _grid_sampler,
    "grid_sampler_3d": _grid_sampler,
    "linspace": _linspace,
    "linalg.diagonal": lambda A, offset=0, dim1=-2, dim2=-1: _diagonal(A, offset, dim1, dim2),
    "linalg.pinv.singular": lambda a, b: tr.linalg.pinv(a @ b.mT),
    "linalg.solve": _solve,
    "log_normal": _clone_and("log_normal_"),
    "max": _extreme(tr.max, tr.argmax, tr.maximum),
    "median": _median,
    "meshgrid": _meshgrid,
    "min": _extreme(tr.min, tr.argmin, tr.minimum),
    "nn.functional.embedding": _embedding,
    "nn.functional.embedding_bag": lambda weight, indices, **options: F.embedding_bag(indices, weight, **options),
    "nonzero": _nonzero,
    "normal.in_place": lambda x, *args, **options: x.clone().normal_(*args, **options),
    "polygamma": lambda x, n: tr.special.polygamma(n, x),
    "special.polygamma": lambda x, n: tr.special.polygamma(n, x),
    "repeat": lambda x, *sizes: x.tile(sizes[0] if len(sizes) == 1 else sizes),
    "searchsorted": _searchsorted,
    "slice": tr.slice_copy,
    "sort": _sort,
    "split": lambda x, sections, dim=0: tr.split(x, sections, dim),
    "std": _spread(tr.std),
    "std_mean": _spread(tr.std_mean),
    "tensordot": _tensordot,
    "trace": lambda x: tr.trace(x),
    "tril": _triangle(tr.tril),
    "triu": _triangle(tr.triu),
    "uniform": _clone_and("uniform_"),
    "unique": _unique,
    "unique_consecutive": lambda x, return_inverse=False, return_counts=False, dim=None: tr.unique_consecutive(
        x, return_inverse, return_counts, dim
    ),
    "var": _spread(tr.var),
    "var_mean": _spread(tr.var_mean),
    "zero_": _zero,
}

# Results are random: types and shapes are compared.
RANDOM = frozenset((
    "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "nn.functional.alpha_dropout",
    "nn.functional.dropout", "nn.functional.dropout2d", "nn.functional.dropout3d",
    "nn.functional.feature_alpha_dropout", "nn.functional.fractional_max_pool2d",
    "nn.functional.fractional_max_pool3d", "nn.functional.rrelu", "normal", "rand_like", "randint", "randint_like",
    "randn", "randn_like", "uniform", "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty",
    "new_empty_strided",
))  # fmt: skip


def _vectors_without_signs(out: Any) -> Any:
    """Eigenvectors and singular vectors are unique but for their signs, and those of the null space not even so."""
    if len(out) == 2:
        return out[0], abs(out[1])
    k = out[1].shape[-1]
    return abs(out[0][..., :, :k]), out[1], abs(out[2][..., :k, :])


# What is compared of results that are not unique.
COMPARED = {"linalg.eigh": _vectors_without_signs, "linalg.svd": _vectors_without_signs}

# Samples in which tracefuse differs on purpose: {entry: (dtypes, numbers of the samples or None for all, the reason)}.
BOTH = ("float32", "float64")
KNOWN: dict[str, tuple[tuple[str, ...], tuple[int, ...] | None, str]] = {
    "as_strided_scatter": (BOTH, None, "PyTorch passes a gradient to elements that are overwritten"),
    "as_strided.partial_views": (
        BOTH,
        None,
        "as_strided reads the elements of its operand, not what its memory is part of",
    ),
    "nn.functional.ctc_loss": (
        BOTH,
        None,
        "PyTorch's gradient holds only for inputs that are normalised by log_softmax",
    ),
    "broadcast_shapes": (BOTH, (3,), "shapes are sequences, not bare sizes"),
    "linalg.norm.subgradients_at_zero": (
        ("float64",),
        (0, 2, 4, 7, 8, 9, 10),
        "second derivatives of the norm at 0 are 0, not NaN",
    ),
    "nextafter": (BOTH, None, "nextafter passes no gradient"),
    "logcumsumexp": (("float32",), (0, 1), "PyTorch's float32 gradient is off by up to 0.003 for values near 10^4"),
    "tensordot": (BOTH, (2,), "axes of size 1 do not broadcast"),
    "cumprod": (("float64",), (6, 7, 8, 9), "second derivatives at elements that are 0 leave out products around them"),
    "nn.functional.layer_norm": (("float32",), (2,), "a gradient that is the rounding error of a sum that cancels"),
    "nn.functional.batch_norm": (BOTH, (3, 4), "an input of shape (0,) has no channels"),
    "nn.functional.batch_norm.without_cudnn": (BOTH, (3, 4), "an input of shape (0,) has no channels"),
}


def known(name: str, dtype: str, number: int) -> str:
    """Why this sample may differ; empty if it must not."""
    dtypes, numbers, reason = KNOWN.get(name, ((), None, ""))
    return reason if dtype in dtypes and (numbers is None or number in numbers) else ""


# Entries that are no part of a user's vocabulary, or of the layouts that tracefuse leaves out.
LEFT_OUT: frozenset = frozenset()
