"""Products and norms: matmul and what can be written with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..ir.dim import numel
from ..ir.op import get_op
from ..ir.types import normalize_axis
from .convert import as_tensor, cast_to, promote_operands
from .dispatch import run
from .elementwise import abs as absolute
from .elementwise import equal, multiply, not_equal, pow, sqrt, subtract, where
from .manipulation import (
    broadcast_arrays,
    diagonal,
    expand_dims,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    squeeze,
    stack,
)
from .reductions import max as maximum_over
from .reductions import min as minimum_over
from .reductions import sum as sum_over
from .state import state
from .tensor import Tensor


def matmul(x: Any, y: Any, /) -> Tensor:
    """Matrix products of the last two axes, the others broadcasting: [.., M, K] @ [.., K, N] -> [.., M, N].

    A 1-D operand is a row (left) or column (right) whose axis is dropped again. ValueError if the K differ.
    """
    x, y = promote_operands(as_tensor(x), as_tensor(y))
    if x.ndim == 0 or y.ndim == 0:
        raise ValueError(f"matmul takes no 0-d tensors (shapes {x.shape} and {y.shape}); use multiply")
    if x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ValueError(
            f"matmul: the last size of shape {x.shape} and size {y.shape[-2 if y.ndim > 1 else 0]} of shape "
            f"{y.shape} differ"
        )
    row, column = x.ndim == 1, y.ndim == 1
    out = run(get_op("matmul"), (expand_dims(x, 0) if row else x, expand_dims(y, 1) if column else y), {})
    drop = (*((-2,) if row else ()), *((-1,) if column else ()))
    return squeeze(out, drop) if drop else out


def vecdot(x: Any, y: Any, /, *, axis: int = -1, dim: int | None = None) -> Tensor:
    """The sum of conj(x) * y over `axis`, the other axes broadcasting."""
    x, y = promote_operands(as_tensor(x), as_tensor(y))
    axis = axis if dim is None else dim
    if x.ndim == 0 or y.ndim == 0 or x.shape[axis] != y.shape[axis]:
        raise ValueError(f"vecdot: shapes {x.shape} and {y.shape} differ in size at axis {axis}")
    if axis >= 0:
        x, y = moveaxis(x, axis, -1), moveaxis(y, axis, -1)
        axis = -1
    x = run(get_op("conj"), (x,), {}) if x.dtype.is_complex else x
    return sum_over(multiply(x, y), axis=axis, dtype=x.dtype)


def adjoint(x: Any, /) -> Tensor:
    """The conjugate transpose of the last two axes."""
    x = matrix_transpose(x)
    return run(get_op("conj"), (x,), {}) if x.dtype.is_complex else x


def outer(x: Any, y: Any, /) -> Tensor:
    """x[i] * y[j] of two vectors. ValueError for other ranks."""
    x, y = as_tensor(x), as_tensor(y)
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"outer takes two vectors, not shapes {x.shape} and {y.shape}")
    return multiply(reshape(x, (-1, 1)), reshape(y, (1, -1)))


def tensordot(x: Any, y: Any, /, *, axes: Any = 2) -> Tensor:
    """Sums of products over pairs of axes: the last `axes` of x with the first of y, or the two lists of axes."""
    x, y = promote_operands(as_tensor(x), as_tensor(y))
    if isinstance(axes, int):
        left, right = list(range(x.ndim - axes, x.ndim)), list(range(axes))
    else:
        left, right = ([a] if isinstance(a, int) else list(a) for a in axes)
    left, right = [normalize_axis(a, x.ndim) for a in left], [normalize_axis(a, y.ndim) for a in right]
    if len(left) != len(right) or any(x.shape[a] != y.shape[b] for a, b in zip(left, right)):
        raise ValueError(f"tensordot: axes {left} of shape {x.shape} and {right} of shape {y.shape} do not match")
    keep_x = [a for a in range(x.ndim) if a not in left]
    keep_y = [a for a in range(y.ndim) if a not in right]
    inner = numel(tuple(x.shape[a] for a in left))
    shape_x, shape_y = tuple(x.shape[a] for a in keep_x), tuple(y.shape[a] for a in keep_y)
    a = reshape(permute_dims(x, keep_x + left), (numel(shape_x), inner))
    b = reshape(permute_dims(y, right + keep_y), (inner, numel(shape_y)))
    return reshape(matmul(a, b), shape_x + shape_y)


# ------------------------------------------------------------------ einsum


def einsum(equation: str, /, *operands: Any) -> Tensor:
    """Einstein summation, "bij,bjk->bik": letters name axes, "..." stands for broadcasting ones; without "->" the
    letters that occur once are kept, in alphabetical order. Operands are contracted from left to right by matrix
    products."""
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    tensors = promote_operands(*map(as_tensor, operands))
    inputs, output = _parse_einsum(equation, tensors)
    labels, value = _one_of_each(inputs[0], tensors[0])
    for i in range(1, len(tensors)):
        later = set(output).union(*inputs[i + 1 :])
        other_labels, other = _one_of_each(inputs[i], tensors[i])
        labels, value = _contract(labels, value, other_labels, other, later)
    drop = [k for k, c in enumerate(labels) if c not in output]
    if drop:
        value = sum_over(value, axis=tuple(drop), dtype=value.dtype)
        labels = [c for c in labels if c in output]
    return permute_dims(value, [labels.index(c) for c in output])


def _parse_einsum(equation: str, tensors: Sequence[Tensor]) -> tuple[list[list[str]], list[str]]:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ValueError(f"einsum {equation!r} has {len(terms)} terms for {len(tensors)} operands")
    batch = max(t.ndim - len(term.replace("...", "")) if "..." in term else 0 for term, t in zip(terms, tensors))
    inputs = []
    for term, t in zip(terms, tensors):
        hidden = t.ndim - len(term.replace("...", ""))
        if hidden < 0 or hidden > 0 and "..." not in term:
            raise ValueError(f"einsum {equation!r}: the term {term!r} does not fit an operand of shape {t.shape}")
        inputs.append(_letters(term, [f".{k}" for k in range(batch - hidden, batch)]))
    everything = [c for term in inputs for c in term]
    dots = [f".{k}" for k in range(batch)]
    if arrow:
        output = _letters(right, dots)
    else:
        output = dots + sorted(c for c in set(everything) if everything.count(c) == 1 and not c.startswith("."))
    for c in output:
        if c not in everything or output.count(c) > 1:
            raise ValueError(f"einsum {equation!r}: output label {c!r} is repeated or in no operand")
    return inputs, output


def _letters(term: str, dots: list[str]) -> list[str]:
    before, found, after = term.partition("...")
    letters = [*before, *(dots if found else ()), *after]
    for c in letters:
        if not (c.isalpha() or c.startswith(".") and len(c) > 1):
            raise ValueError(f"einsum: {c!r} is no axis label")
    return letters


def _one_of_each(labels: list[str], x: Tensor) -> tuple[list[str], Tensor]:
    """Repeated labels of one operand become its diagonal."""
    labels = list(labels)
    for c in dict.fromkeys(labels):
        while labels.count(c) > 1:
            first = labels.index(c)
            second = labels.index(c, first + 1)
            if x.shape[first] != x.shape[second]:
                raise ValueError(f"einsum: label {c!r} has sizes {x.shape[first]} and {x.shape[second]}")
            x = diagonal(x, axis1=first, axis2=second)
            del labels[second], labels[first]
            labels.append(c)
    return labels, x


def _contract(a: list[str], x: Tensor, b: list[str], y: Tensor, later: set[str]) -> tuple[list[str], Tensor]:
    """One product of two operands, summing over labels that nobody needs later."""
    for c in set(a) & set(b):
        m, n = x.shape[a.index(c)], y.shape[b.index(c)]
        if m != n and 1 not in (m, n):
            raise ValueError(f"einsum: label {c!r} has sizes {m} and {n}")
    alone = [k for k, c in enumerate(a) if c not in b and c not in later]
    if alone:
        x, a = sum_over(x, axis=tuple(alone), dtype=x.dtype), [c for k, c in enumerate(a) if k not in alone]
    alone = [k for k, c in enumerate(b) if c not in a and c not in later]
    if alone:
        y, b = sum_over(y, axis=tuple(alone), dtype=y.dtype), [c for k, c in enumerate(b) if k not in alone]
    shared = [c for c in a if c in b]
    equal = {c: x.shape[a.index(c)] == y.shape[b.index(c)] for c in shared}
    inner = [c for c in shared if c not in later and equal[c]]
    if not inner:  # an outer or element-wise product
        labels = a + [c for c in b if c not in a]
        out = multiply(_aligned(a, x, labels), _aligned(b, y, labels))
        drop = tuple(k for k, c in enumerate(labels) if c not in later)
        kept = [c for c in labels if c in later]
        return kept, sum_over(out, axis=drop, dtype=out.dtype) if drop else out
    batch = [c for c in shared if c not in inner]
    rows, columns = [c for c in a if c not in shared], [c for c in b if c not in shared]
    left = _grouped(a, x, (batch, rows, inner))
    right = _grouped(b, y, (batch, inner, columns))
    out = matmul(left, right)
    sizes = [*out.shape[: len(batch)], *(x.shape[a.index(c)] for c in rows), *(y.shape[b.index(c)] for c in columns)]
    labels, out = batch + rows + columns, reshape(out, tuple(sizes))
    drop = tuple(k for k, c in enumerate(labels) if c not in later)
    if drop:
        out, labels = sum_over(out, axis=drop, dtype=out.dtype), [c for c in labels if c in later]
    return labels, out


def _aligned(labels: list[str], x: Tensor, wanted: list[str]) -> Tensor:
    x = permute_dims(x, [labels.index(c) for c in wanted if c in labels])
    return expand_dims(x, tuple(k for k, c in enumerate(wanted) if c not in labels)) if len(wanted) > x.ndim else x


def _grouped(labels: list[str], x: Tensor, groups: tuple[list[str], list[str], list[str]]) -> Tensor:
    """[batch axes.., the second group as one axis, the third as one axis]."""
    batch, first, second = groups
    sizes = {c: x.shape[k] for k, c in enumerate(labels)}
    x = permute_dims(x, [labels.index(c) for group in groups for c in group])
    flat = (numel(tuple(sizes[c] for c in first)), numel(tuple(sizes[c] for c in second)))
    return reshape(x, (*(sizes[c] for c in batch), *flat))


# ------------------------------------------------------------------ norms and friends


def vector_norm(
    x: Any, /, ord: float = 2, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """The p-norm over `axis` (all axes if None): (sum |x|^ord)^(1/ord); inf, -inf and 0 as in NumPy."""
    x, axis, keepdims = absolute(x), axis if dim is None else dim, keepdims or keepdim
    x = x if x.dtype.is_floating else cast_to(x, state.default_dtype)
    if ord == math.inf:
        return maximum_over(x, axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return minimum_over(x, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_over(not_equal(x, 0), axis=axis, dtype=x.dtype, keepdims=keepdims)
    if ord == 1:
        return sum_over(x, axis=axis, keepdims=keepdims)
    total = sum_over(multiply(x, x) if ord == 2 else _powers(x, float(ord)), axis=axis, keepdims=keepdims)
    nothing = equal(total, 0)  # the gradient of the norm of zeros is 0, not infinite
    safe = where(nothing, 1.0, total)
    return where(nothing, 0.0 if ord > 0 else math.inf, sqrt(safe) if ord == 2 else pow(safe, 1.0 / ord))


def _powers(x: Tensor, exponent: float) -> Tensor:
    """x**exponent of numbers that are not negative, with gradient 0 at 0."""
    zero = equal(x, 0)
    return where(zero, 0.0 if exponent > 0 else math.inf, pow(where(zero, 1.0, x), exponent))


def norm(
    x: Any, /, p: Any = 2, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """The p-norm of all elements, or over `axis`. p="fro" means 2; "nuc" is the sum of a matrix' singular values."""
    if p == "nuc":
        from .linalg import matrix_norm

        axes = axis if dim is None else dim
        return matrix_norm(x, "nuc", (-2, -1) if axes is None else axes, keepdims or keepdim)
    return vector_norm(x, 2 if p == "fro" else p, axis if dim is None else dim, keepdims or keepdim)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sum of the diagonal of the last two axes; types as for `sum`."""
    return sum_over(diagonal(x, offset=offset, axis1=-2, axis2=-1), axis=-1, dtype=dtype)


def cross(x: Any, y: Any, /, *, axis: int = -1, dim: int | None = None) -> Tensor:
    """The cross product of vectors of length 3 along `axis`, the other axes broadcasting."""
    axis = axis if dim is None else dim
    x, y = broadcast_arrays(*promote_operands(as_tensor(x), as_tensor(y)))
    x, y = moveaxis(x, axis, 0), moveaxis(y, axis, 0)
    if x.shape[0] != 3 or y.shape[0] != 3:
        raise ValueError(f"cross takes vectors of length 3 along axis {axis}, not shapes {x.shape} and {y.shape}")
    parts = [subtract(multiply(x[i], y[k]), multiply(x[k], y[i])) for i, k in ((1, 2), (2, 0), (0, 1))]
    return stack(parts, axis=axis)


__all__ = [
    "adjoint", "cross", "einsum", "matmul", "norm", "outer", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip
