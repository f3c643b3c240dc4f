"""What rules of matrix ops are made of: type checks, adjoints, triangles, diagonals, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..dtypes import int64
from ..op import ErrorSample, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._declare import const_like, create_like, zeros_like
from .complex import adjoint, complex_, is_complex
from .movement import example, permute, reshape, slice_
from .pointwise import add, eq, ge, scale, sub, where

# ------------------------------------------------------------------ type rules


def checked_matrices(*types: TensorType, square: bool = True) -> None:
    """TypeRuleError or DTypeRuleError unless all are matrices of one type that LAPACK computes with."""
    for t in types:
        if not t.dtype.is_inexact or t.dtype.bits < 32:
            raise DTypeRuleError(f"takes float32, float64 or complex operands, not {t.dtype.code}")
        if t.ndim < 2:
            raise TypeRuleError(f"needs matrices [..., M, N], not {t}")
        if t.dtype is not types[0].dtype:
            raise DTypeRuleError(f"operand dtypes differ: {types[0].dtype} and {t.dtype}")
    if square and types[0].shape[-1] != types[0].shape[-2]:
        raise TypeRuleError(f"needs square matrices, not {types[0]}")


def known_sizes(x: TensorType) -> tuple[int, int]:
    """Rows and columns of the matrices of x. TypeRuleError if they are symbolic."""
    m, n = x.shape[-2:]
    if not isinstance(m, int) or not isinstance(n, int):
        raise TypeRuleError(f"the sizes of the matrices of {x} must be known")
    return m, n


# ------------------------------------------------------------------ pieces of rules


def transpose(x: Any) -> Any:
    n = len(value_type(x).shape)
    return permute(x, perm=(*range(n - 2), n - 1, n - 2))


def hermitian(x: Any) -> Any:
    """The conjugate transpose."""
    return adjoint(transpose(x))


def diagonal_mask(x: Any, compare: Callable = eq) -> Any:
    """Where row and column of the matrices of x compare so."""
    shape = value_type(x).shape[-2:]
    at = [create_like(x, "iota", {"shape": shape, "axis": a, "dtype": int64}) for a in (0, 1)]
    return compare(*at)


def tril(x: Any) -> Any:
    return where(diagonal_mask(x, ge), x, const_like(x, 0))


def without_diagonal(x: Any) -> Any:
    return where(diagonal_mask(x), const_like(x, 0), x)


def column(x: Any) -> Any:
    return reshape(x, shape=(*value_type(x).shape, 1))


def row(x: Any) -> Any:
    shape = value_type(x).shape
    return reshape(x, shape=(*shape[:-1], 1, shape[-1]))


def like(values: Any, x: Any) -> Any:
    """Real values as numbers of the type of x."""
    return complex_(values, zeros_like(values)) if is_complex(x) else values


def diagonal_matrix(values: Any, x: Any) -> Any:
    """A diagonal of real values, as matrices of the shape and type of x."""
    return where(diagonal_mask(x), row(like(values, x)), const_like(x, 0))


def gaps(values: Any) -> Any:
    """values[j] - values[i], and 1 where that is 0: what belongs together has no gradient of its own."""
    gap = sub(row(values), column(values))
    return where(eq(gap, const_like(gap, 0)), const_like(gap, 1), gap)


def part(x: Any, axis: int, start: Any, stop: Any) -> Any:
    """x[start:stop] along one of the last two axes."""
    shape = value_type(x).shape
    at = len(shape) + axis
    starts = tuple(start if a == at else 0 for a in range(len(shape)))
    stops = tuple(stop if a == at else d for a, d in enumerate(shape))
    return slice_(x, start=starts, stop=stops, step=(1,) * len(shape))


def half_sum(x: Any) -> Any:
    """The hermitian part."""
    return scale(add(x, hermitian(x)), 0.5)


def numpy_half_sum(x: np.ndarray) -> np.ndarray:
    return (x + np.conj(np.swapaxes(x, -1, -2))) / 2


# ------------------------------------------------------------------ samples


def square(*shape: int, seed: int = 0) -> np.ndarray:
    """Matrices that are far from singular."""
    return example(*shape, seed=seed) + 3 * np.eye(shape[-1], dtype=np.float32)


def positive(*shape: int) -> np.ndarray:
    x = example(*shape)
    return (x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1])).astype(np.float32)


def turned(x: np.ndarray) -> np.ndarray:
    """Complex matrices, hermitian if x is."""
    turn = np.exp(1j * np.arange(x.shape[-2]))[:, None] * np.exp(-1j * np.arange(x.shape[-1]))
    return (x * turn).astype(np.complex64)


def apart(*shape: int) -> np.ndarray:
    """Matrices whose singular values differ."""
    return (
        example(*shape) + 2 * np.diag(np.arange(1.0, 1 + max(shape[-2:]))).astype(np.float32)[: shape[-2], : shape[-1]]
    )


def errors(square: bool = True, operands: int = 1, attrs: dict[str, Any] | None = None) -> Iterable[ErrorSample]:
    given = attrs or {}
    yield ErrorSample((example(3, 3, dtype=np.int64),) * operands, given, DTypeRuleError, "not i64")
    yield ErrorSample((example(3),) * operands, given, TypeRuleError, "needs matrices")
    if square:
        yield ErrorSample((example(3, 2),) * operands, given, TypeRuleError, "square matrices")
