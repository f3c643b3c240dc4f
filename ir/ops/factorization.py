"""Factorizations of matrices [..., M, N]: numpy.linalg computes them, backends have none.

Sources of the rules: Walter and Lehmann,
"Algorithmic differentiation of linear algebra functions" (2010); Townsend, "Differentiating the singular value
decomposition" (2016). Complex cotangents pair without a conjugate (see `complex`): rules that need adjoints conjugate
on the way in and out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import leading
from ..dtypes import complex_of, from_numpy
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..types import TensorType, TypeRuleError
from ._declare import const_like
from ._matrices import (
    apart,
    checked_matrices,
    column,
    diagonal_mask,
    diagonal_matrix,
    errors,
    gaps,
    half_sum,
    hermitian,
    known_sizes,
    like,
    numpy_half_sum,
    part,
    positive,
    row,
    square,
    tril,
    turned,
    without_diagonal,
)
from .complex import adjoint, is_complex, real
from .contract import matmul
from .movement import concat, example
from .pointwise import add, div, gt, mul, scale, sub, where
from .solving import inv_type, solve

# ------------------------------------------------------------------ factorizations


def _cholesky_vjp(c: VjpContext, g: Any) -> tuple:
    adjoint_l = hermitian(c.out)
    phi = tril(matmul(adjoint_l, adjoint(g)))
    phi = where(diagonal_mask(phi), scale(phi, 0.5), phi)
    half = solve(adjoint_l, phi)
    return (adjoint(half_sum(hermitian(solve(adjoint_l, hermitian(half))))),)


cholesky = register(
    OpDef(
        "cholesky", "structural", ("x",), inv_type, lambda x: np.linalg.cholesky(numpy_half_sum(x)), _cholesky_vjp,
        saves=("out",),
        batch=leading, samples=lambda: [Sample((x,)) for x in (positive(3, 3), positive(2, 4, 4), turned(positive(3, 3)))],
        errors=errors,
        doc="The lower L with L L^H = x, of the hermitian part of x. LinAlgError if that is not positive definite.",
    )
)  # fmt: skip


def _eigh_type(x: TensorType) -> tuple[TensorType, TensorType]:
    checked_matrices(x)
    return TensorType(x.dtype.real, x.shape[:-1]), x


def _eigh_vjp(c: VjpContext, g_values: Any, g_vectors: Any) -> tuple:
    values, v = c.outputs
    inner = div(matmul(hermitian(v), adjoint(g_vectors)), like(gaps(values), v))
    inner = add(without_diagonal(inner), diagonal_matrix(g_values, v))
    return (adjoint(half_sum(matmul(matmul(v, inner), hermitian(v)))),)


eigh = register(
    OpDef(
        "eigh", "structural", ("x",), _eigh_type, lambda x: tuple(np.linalg.eigh(numpy_half_sum(x))), _eigh_vjp,
        n_outputs=2, saves=("out",),
        batch=leading, samples=lambda: [Sample((positive(3, 3),)), Sample((positive(2, 4, 4),)), Sample((positive(1, 1),))],
        errors=errors,
        doc="Rising eigenvalues, and eigenvectors as columns, of the hermitian part of x. Vectors of equal values have "
        "no gradient.",
    )
)  # fmt: skip


def _eig_type(x: TensorType) -> tuple[TensorType, TensorType]:
    checked_matrices(x)
    dtype = complex_of(x.dtype)
    return TensorType(dtype, x.shape[:-1]), x.with_dtype(dtype)


def _eig(x: np.ndarray) -> tuple[np.ndarray, ...]:
    dtype = complex_of(from_numpy(x.dtype)).np
    return tuple(a.astype(dtype, copy=False) for a in np.linalg.eig(x))


def _eig_vjp(c: VjpContext, g_values: Any, g_vectors: Any) -> tuple:
    values, v = c.outputs
    g_vectors = adjoint(g_vectors)
    inner = matmul(hermitian(v), g_vectors)
    length = real(where(diagonal_mask(inner), inner, const_like(inner, 0)))  # vectors keep their length
    inner = div(sub(inner, matmul(matmul(hermitian(v), v), like(length, v))), adjoint(gaps(values)))
    inner = where(diagonal_mask(inner), row(adjoint(g_values)), inner)
    out = adjoint(solve(hermitian(v), matmul(inner, hermitian(v))))
    return (out if c.types[0].dtype.is_complex else real(out),)


eig = register(
    OpDef(
        "eig",
        "structural",
        ("x",),
        _eig_type,
        _eig,
        _eig_vjp,
        n_outputs=2,
        saves=("out",),
        batch=leading,
        samples=lambda: [
            Sample((square(1, 1),)),
            Sample((square(2, 3, 3),), gradcheck=False),
            Sample((turned(square(3, 3)),), gradcheck=False),
        ],
        errors=errors,
        doc="Eigenvalues, and eigenvectors as columns; complex. The gradient of vectors holds for what does not depend "
        "on their phase.",
    )
)


def _svd_type(x: TensorType, full_matrices: bool) -> tuple[TensorType, TensorType, TensorType]:
    checked_matrices(x, square=False)
    k, (*batch, m, n) = min(known_sizes(x)), x.shape
    left, right = (m, n) if full_matrices else (k, k)
    s = TensorType(x.dtype.real, (*batch, k))
    return x.with_shape((*batch, m, left)), s, x.with_shape((*batch, right, n))


def _svd_vjp(c: VjpContext, gu: Any, gs: Any, gvh: Any) -> tuple:
    """Of the further columns of full matrices nothing is read: they are any basis of what is left."""
    k, (m, n) = min(known_sizes(c.types[0])), known_sizes(c.types[0])
    u, s, vh = c.outputs
    if c.attrs["full_matrices"]:
        u, gu, vh, gvh = part(u, -1, 0, k), part(gu, -1, 0, k), part(vh, -2, 0, k), part(gvh, -2, 0, k)
    gu, gv, v = adjoint(gu), hermitian(adjoint(gvh)), hermitian(vh)
    size = like(s, u)
    gap = like(gaps(mul(s, s)), u)
    for_u, for_v = matmul(hermitian(u), gu), matmul(vh, gv)
    turn_u, turn_v = sub(for_u, hermitian(for_u)), sub(for_v, hermitian(for_v))
    inner = mul(div(turn_u, gap), row(size))
    inner = add(without_diagonal(add(inner, mul(column(size), div(turn_v, gap)))), diagonal_matrix(gs, inner))
    if is_complex(u):
        phase = div(scale(turn_u, 0.5), row(size))
        inner = add(inner, where(diagonal_mask(phase), phase, const_like(phase, 0)))
    out = matmul(u, inner)
    if m > k:
        out = add(out, div(sub(gu, matmul(u, for_u)), row(size)))
    out = matmul(out, vh)
    if n > k:
        rest = div(sub(gv, matmul(v, for_v)), row(size))
        out = add(out, matmul(u, hermitian(rest)))
    return (adjoint(out),)


svd = register(
    OpDef(
        "svd", "structural", ("x",), _svd_type,
        lambda x, full_matrices: tuple(np.linalg.svd(x, full_matrices=full_matrices)), _svd_vjp,
        attrs={"full_matrices": REQUIRED}, n_outputs=3, saves=("out",),
        batch=leading, samples=lambda: [
            *(Sample((x,), {"full_matrices": False}) for x in (apart(3, 3), apart(2, 4, 2), apart(2, 4))),
            Sample((apart(4, 2),), {"full_matrices": True}, gradcheck=False),
        ],
        errors=lambda: errors(square=False, attrs={"full_matrices": False}),
        doc="u, s, vh with x = u * s @ vh, s falling. Vectors of equal singular values have no gradient.",
    )
)  # fmt: skip


def _qr_type(x: TensorType, mode: str) -> tuple[TensorType, TensorType]:
    checked_matrices(x, square=False)
    if mode not in ("reduced", "complete"):
        raise TypeRuleError(f'mode must be "reduced" or "complete", not {mode!r}')
    k, (*batch, m, n) = min(known_sizes(x)), x.shape
    k = k if mode == "reduced" else m
    return x.with_shape((*batch, m, k)), x.with_shape((*batch, k, n))


def _qr_vjp(c: VjpContext, gq: Any, gr: Any) -> tuple:
    m, n = known_sizes(c.types[0])
    if c.attrs["mode"] == "complete" and m > n:
        raise ValueError('the gradient of qr needs mode="reduced" for matrices with more rows than columns')
    q, r = c.outputs
    gq, gr = adjoint(gq), adjoint(gr)
    if m >= n:
        return (adjoint(_tall_qr_vjp(q, r, gq, gr)),)
    x = c.inputs[0]  # the first m columns are factored, the others only turned
    left, right, g_left, g_right = part(r, -1, 0, m), part(x, -1, m, n), part(gr, -1, 0, m), part(gr, -1, m, n)
    first = _tall_qr_vjp(q, left, add(gq, matmul(right, hermitian(g_right))), g_left)
    return (adjoint(concat(first, matmul(q, g_right), axis=len(c.types[0].shape) - 1)),)


def _tall_qr_vjp(q: Any, r: Any, gq: Any, gr: Any) -> Any:
    m = sub(matmul(r, hermitian(gr)), matmul(hermitian(gq), q))
    low = where(diagonal_mask(m, gt), m, const_like(m, 0))
    both = where(diagonal_mask(m), half_sum(m), add(low, hermitian(low)))  # the diagonal of r is real
    return hermitian(solve(r, hermitian(add(gq, matmul(q, both)))))


qr = register(
    OpDef(
        "qr", "structural", ("x",), _qr_type, lambda x, mode: tuple(np.linalg.qr(x, mode=mode)), _qr_vjp,
        attrs={"mode": "reduced"}, n_outputs=2,
        batch=leading, samples=lambda: [
            *(Sample((x,), {"mode": "reduced"}) for x in (square(3, 3), example(2, 4, 2), example(2, 4), turned(example(4, 3)))),
            Sample((example(2, 3),), {"mode": "complete"}),
            Sample((example(4, 2, dtype=np.float64),), {"mode": "complete"}, gradcheck=False),
        ],
        errors=lambda: [
            *errors(square=False, attrs={"mode": "reduced"}),
            ErrorSample((example(3, 3),), {"mode": "r"}, TypeRuleError, "mode must be"),
        ],
        doc='q, r with x = q @ r, q with orthonormal columns, r upper. mode: "reduced" or "complete" (q square).',
    )
)  # fmt: skip

__all__ = ["cholesky", "eig", "eigh", "qr", "svd"]
