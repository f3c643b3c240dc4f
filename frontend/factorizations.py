"""Solving, determinants and factorizations of matrices [..., M, N], with gradients: part of `tracefuse.linalg`.

float32, float64 and complex; integers become the default float type. numpy.linalg computes them, so singular or
indefinite matrices raise its LinAlgError; compiled functions call them between their kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..ir.dtypes import DType
from ..ir.op import get_op
from ..ir.types import broadcast_shapes
from .convert import as_tensor, cast_to, promote_operands
from .creation import eye, tril, triu
from .dispatch import run
from .dtype_info import finfo
from .elementwise import add, divide, greater, maximum, multiply, where
from .manipulation import broadcast_to, expand_dims, squeeze
from .products import adjoint, matmul
from .reductions import max as maximum_over
from .reductions import min as minimum_over
from .reductions import sum as sum_over
from .state import state
from .tensor import Tensor


class EigResult(NamedTuple):
    """Eigenvalues, and the eigenvectors as columns; complex."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class EighResult(NamedTuple):
    """Rising eigenvalues, and the eigenvectors as columns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class QRResult(NamedTuple):
    Q: Tensor
    R: Tensor


class SVDResult(NamedTuple):
    """U * S @ Vh is the matrix; S falls."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class SlogdetResult(NamedTuple):
    sign: Tensor
    logabsdet: Tensor


def _matrices(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.dtype.is_inexact else cast_to(x, state.default_dtype)


# ------------------------------------------------------------------ solving


def solve(a: Any, b: Any, /) -> Tensor:
    """x with a @ x = b. A 1-D b is one column, other ones are matrices; batches broadcast. LinAlgError for singular a."""
    a, b = promote_operands(_matrices(a), _matrices(b))
    if a.ndim < 2 or b.ndim == 0:
        raise ValueError(
            f"solve needs matrices [..., M, M] and a right side [M] or [..., M, K], not {a.shape}, {b.shape}"
        )
    column = b.ndim == 1
    b = expand_dims(b, -1) if column else b
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = broadcast_to(a, (*batch, *a.shape[-2:])), broadcast_to(b, (*batch, *b.shape[-2:]))
    out = run(get_op("solve"), (a, b), {})
    return squeeze(out, -1) if column else out


def inv(x: Any, /) -> Tensor:
    """The inverse of square matrices. LinAlgError for singular ones."""
    return run(get_op("inv"), (_matrices(x),), {})


def pinv(x: Any, /, rtol: Any = None, hermitian: bool = False, *, atol: Any = None) -> Tensor:
    """The pseudo-inverse. Singular values below rtol times the largest (max(M, N) times the precision), or below atol,
    count as 0. hermitian: x is taken as hermitian, from its lower triangle."""
    x = _triangle_of(x, "L") if hermitian else _matrices(x)
    if 0 in x.shape[-2:]:
        return adjoint(x)
    if atol is None and (rtol is None or isinstance(rtol, (int, float))):
        return run(get_op("pinv"), (x,), {"rtol": None if rtol is None else float(rtol)})
    u, s, vh = svd(x, full_matrices=False)
    small = _threshold(x, s, rtol, atol)
    inverse = where(greater(s, small), divide(1.0, s), 0.0)
    return matmul(multiply(adjoint(vh), expand_dims(inverse, -2)), adjoint(u))


def matrix_power(x: Any, n: int, /) -> Tensor:
    """x @ x @ ... n times; the identity for 0, powers of the inverse for negative n."""
    x = _matrices(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"matrix_power needs square matrices, not shape {x.shape}")
    if n < 0:
        x, n = inv(x), -n
    out = None
    while n:
        if n & 1:
            out = x if out is None else matmul(out, x)
        n >>= 1
        x = matmul(x, x) if n else x
    return broadcast_to(eye(x.shape[-1], dtype=x.dtype), x.shape) if out is None else out


# ------------------------------------------------------------------ determinants and rank


def det(x: Any, /) -> Tensor:
    """The determinants of square matrices."""
    return run(get_op("det"), (_matrices(x),), {})


def slogdet(x: Any, /) -> SlogdetResult:
    """Sign (of size 1, or 0) and logarithm of the absolute value of determinants."""
    return SlogdetResult(*run(get_op("slogdet"), (_matrices(x),), {}))


def _precision(x: Tensor, dtype: DType) -> float:
    return max(x.shape[-2:]) * finfo(dtype).eps


def matrix_rank(x: Any, /, tol: Any = None, hermitian: bool = False, *, rtol: Any = None, atol: Any = None) -> Tensor:
    """How many singular values exceed rtol times the largest one (max(M, N) times the precision) and atol (or its other
    name tol); int64. hermitian: x is taken as hermitian, from its lower triangle."""
    x = _triangle_of(x, "L") if hermitian else _matrices(x)
    s = svdvals(x)
    if 0 in x.shape[-2:]:
        return sum_over(greater(s, 0), axis=-1)
    return sum_over(greater(s, _threshold(x, s, rtol, atol if tol is None else tol)), axis=-1)


def _threshold(x: Tensor, s: Tensor, rtol: Any, atol: Any) -> Tensor:
    """max(atol, rtol * the largest singular value), for singular values [..., K]. A positive atol alone makes rtol 0."""

    def column(limit: Any) -> Any:
        return expand_dims(limit, -1) if isinstance(limit, Tensor) and limit.ndim else limit

    if atol is not None and rtol is None:
        positive = greater(atol, 0) if isinstance(atol, Tensor) else atol > 0
        rtol = where(positive, 0.0, _precision(x, x.dtype))
    relative = multiply(
        maximum_over(s, axis=-1, keepdims=True), column(_precision(x, x.dtype) if rtol is None else rtol)
    )
    return relative if atol is None else maximum(relative, column(atol))


def _triangle_of(x: Any, uplo: str) -> Tensor:
    """The hermitian matrix that a triangle ("L" lower, "U" upper) stands for."""
    if uplo not in ("L", "U"):
        raise ValueError(f'UPLO must be "L" or "U", not {uplo!r}')
    x = _matrices(x)
    inner, half = (tril(x, k=-1), tril(x)) if uplo == "L" else (triu(x, k=1), triu(x))
    return add(half, adjoint(inner))


def cond(x: Any, /) -> Tensor:
    """The condition number: the largest singular value over the smallest."""
    s = svdvals(x)
    return divide(maximum_over(s, axis=-1), minimum_over(s, axis=-1))


# ------------------------------------------------------------------ factorizations


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """The lower L with L @ L^H = x (or the upper U with U^H @ U = x) of hermitian positive definite matrices.

    It is taken of (x + x^H) / 2, so that gradients are hermitian. LinAlgError if that is not positive definite.
    """
    lower = run(get_op("cholesky"), (_matrices(x),), {})
    return adjoint(lower) if upper else lower


def qr(x: Any, /, *, mode: str = "reduced") -> QRResult:
    """Q with orthonormal columns and upper R: Q @ R = x. mode="complete": Q is square."""
    return QRResult(*run(get_op("qr"), (_matrices(x),), {"mode": mode}))


def svd(x: Any, /, *, full_matrices: bool = True) -> SVDResult:
    """The singular value decomposition: U * S @ Vh = x with falling S. full_matrices: U and Vh are square.

    Vectors of equal singular values have no gradient, nor do the columns that full_matrices adds.
    """
    return SVDResult(*run(get_op("svd"), (_matrices(x),), {"full_matrices": bool(full_matrices)}))


def svdvals(x: Any, /) -> Tensor:
    """The singular values in falling order."""
    return svd(x, full_matrices=False).S


def eig(x: Any, /) -> EigResult:
    """Eigenvalues and eigenvectors (of length 1) of square matrices; complex. Gradients hold for what does not depend
    on the phase of the vectors."""
    return EigResult(*run(get_op("eig"), (_matrices(x),), {}))


def eigvals(x: Any, /) -> Tensor:
    """The eigenvalues of square matrices, in no particular order; complex."""
    return eig(x).eigenvalues


def eigh(x: Any, /, UPLO: str | None = None) -> EighResult:
    """Rising eigenvalues and eigenvectors of hermitian matrices; taken of (x + x^H) / 2, or of the triangle UPLO ("L" or
    "U")."""
    x = x if UPLO is None else _triangle_of(x, UPLO)
    return EighResult(*run(get_op("eigh"), (_matrices(x),), {}))


def eigvalsh(x: Any, /, UPLO: str | None = None) -> Tensor:
    """The eigenvalues of hermitian matrices in rising order; UPLO as for `eigh`."""
    return eigh(x, UPLO).eigenvalues


__all__ = [
    "EigResult",
    "EighResult", "QRResult", "SVDResult", "SlogdetResult", "cholesky", "cond", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv",
    "matrix_power", "matrix_rank", "pinv", "qr", "slogdet", "solve", "svd", "svdvals",
]  # fmt: skip
