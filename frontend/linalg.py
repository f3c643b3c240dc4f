"""Linear algebra: `tracefuse.linalg`, the extension of the array API, with PyTorch's names beside it."""

from __future__ import annotations

import math
from typing import Any

from ..ir.types import normalize_axis
from .autocast import install as install_autocast
from .convert import as_tensor
from .elementwise import abs as absolute
from .factorizations import (
    EighResult,
    EigResult,
    QRResult,
    SlogdetResult,
    SVDResult,
    cholesky,
    cond,
    det,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    inv,
    matrix_power,
    matrix_rank,
    pinv,
    qr,
    slogdet,
    solve,
    svd,
    svdvals,
)
from .manipulation import diagonal as any_diagonal
from .manipulation import expand_dims, matrix_transpose, moveaxis
from .products import cross, matmul, outer, tensordot, trace, vecdot, vector_norm
from .reductions import max as maximum_over
from .reductions import min as minimum_over
from .reductions import sum as sum_over
from .tensor import Tensor


def diagonal(x: Any, /, *, offset: int = 0) -> Tensor:
    """Diagonals of the matrices that the last two axes are."""
    return any_diagonal(x, offset=offset, axis1=-2, axis2=-1)


def matrix_norm(
    x: Any, /, ord: Any = "fro", axis: tuple[int, int] = (-2, -1), keepdims: bool = False, *, dim: Any = None,
    keepdim: bool = False,
) -> Tensor:  # fmt: skip
    """A norm of matrices: "fro" (Frobenius), "nuc" (sum of singular values), 2, -2 (largest, smallest singular value),
    1, -1 (column sums), inf, -inf (row sums). ValueError for others."""
    x = as_tensor(x)
    axis = axis if dim is None else dim
    if x.ndim < 2:
        raise ValueError(f"matrix_norm needs at least 2 dimensions, not shape {x.shape}")
    if ord not in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf):
        raise ValueError(f"matrix_norm: ord {ord!r} is not one of 'fro', 'nuc', 1, -1, 2, -2, inf, -inf")
    places = sorted(normalize_axis(a, x.ndim) for a in axis)
    out = _matrix_norm(moveaxis(x, axis, (-2, -1)), ord)
    return expand_dims(out, tuple(places)) if keepdims or keepdim else out


def _matrix_norm(x: Tensor, ord: Any) -> Tensor:
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1))
    if ord == "nuc":
        return sum_over(svdvals(x), axis=-1)
    extreme = maximum_over if ord > 0 else minimum_over
    if ord in (2, -2):
        return extreme(svdvals(x), axis=-1)
    return extreme(sum_over(absolute(x), axis=-2 if ord in (1, -1) else -1), axis=-1)


def norm(
    x: Any, /, ord: Any = None, axis: Any = None, keepdims: bool = False, *, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """Without ord the 2-norm of all elements or over `axis`; with it a vector norm over one axis (or of a 1-D tensor),
    a matrix norm over two."""
    x, keep = as_tensor(x), keepdims or keepdim
    axis = axis if dim is None else dim
    count = 1 if isinstance(axis, int) else x.ndim if axis is None else len(axis)
    if ord is None:
        return vector_norm(x, axis=axis, keepdims=keep)
    if count == 2 or isinstance(ord, str):
        return matrix_norm(x, ord, (-2, -1) if axis is None or isinstance(axis, int) else tuple(axis), keep)
    return vector_norm(x, ord=ord, axis=axis, keepdims=keep)


__all__ = [
    "EigResult",
    "EighResult", "QRResult", "SVDResult", "SlogdetResult", "cholesky", "cond", "cross", "det", "diagonal", "eig",
    "eigh",
    "eigvals",
    "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "norm", "outer",
    "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip

install_autocast(globals())
