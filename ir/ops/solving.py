"""Systems of linear equations, inverses and determinants of matrices [..., M, N]: numpy.linalg computes them, backends
have none. Source of the rules: Giles, "An extended collection of matrix derivative results" (2008); Golub and Pereyra
(1973) for the pseudo-inverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..batching import leading, shifted
from ..op import ErrorSample, OpDef, Sample, VjpContext, register, value_type
from ..types import DTypeRuleError, TensorType, TypeRuleError
from ._matrices import (
    checked_matrices,
    errors,
    hermitian,
    square,
    transpose,
    turned,
)
from .complex import adjoint, complex_, imag, is_complex
from .contract import matmul
from .movement import example, reshape
from .pointwise import add, mul, neg, sub

# ------------------------------------------------------------------ solving


def _solve_type(a: TensorType, b: TensorType) -> TensorType:
    checked_matrices(a, b)
    if a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-2]:
        raise TypeRuleError(f"{a} and {b} do not fit: batch sizes and rows must be equal")
    return b


def _solve_vjp(c: VjpContext, g: Any) -> tuple:
    right = solve(transpose(c.inputs[0]), g)
    return (neg(matmul(right, transpose(c.out))) if c.needs[0] else None, right)


solve = register(
    OpDef(
        "solve", "structural", ("a", "b"), _solve_type, np.linalg.solve, _solve_vjp, saves=("a", "out"), linear=("b",),
        batch=shifted(), samples=lambda: [
            Sample((square(3, 3), example(3, 2))),
            Sample((square(2, 4, 4), example(2, 4, 1))),
            Sample((turned(square(3, 3)), turned(example(3, 2)))),
            Sample((square(0, 0), example(0, 2))),
        ],
        errors=lambda: [
            *errors(operands=2),
            ErrorSample((square(3, 3), example(2, 2)), {}, TypeRuleError, "do not fit"),
            ErrorSample((square(3, 3), np.zeros((3, 1))), {}, DTypeRuleError, "dtypes differ"),
        ],
        doc="x with a @ x = b. numpy.linalg.LinAlgError for singular matrices.",
    )
)  # fmt: skip


def inv_type(x: TensorType) -> TensorType:
    checked_matrices(x)
    return x


def _inv_vjp(c: VjpContext, g: Any) -> tuple:
    inverse = transpose(c.out)
    return (neg(matmul(matmul(inverse, g), inverse)),)


inv = register(
    OpDef(
        "inv", "structural", ("x",), inv_type, np.linalg.inv, _inv_vjp, saves=("out",),
        batch=leading, samples=lambda: [Sample((x,)) for x in (square(3, 3), square(2, 4, 4), square(0, 0), turned(square(3, 3)))],
        errors=errors, doc="The inverse matrix. numpy.linalg.LinAlgError for singular matrices.",
    )
)  # fmt: skip


def _pinv_type(x: TensorType, rtol: float | None) -> TensorType:
    checked_matrices(x, square=False)
    return x.with_shape((*x.shape[:-2], x.shape[-1], x.shape[-2]))


def _pinv(x: np.ndarray, rtol: float | None) -> np.ndarray:
    if rtol is None:
        rtol = max(x.shape[-2:]) * float(np.finfo(x.dtype).eps)
    if x.size == 0:
        return np.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype)
    return np.linalg.pinv(x, rcond=rtol)  # type: ignore[call-arg]


def _pinv_vjp(c: VjpContext, g: Any) -> tuple:
    x, p = c.inputs[0], c.out
    left, g = hermitian(p), adjoint(g)
    swapped = hermitian(g)
    out = neg(matmul(matmul(left, g), left))
    rows = matmul(matmul(swapped, p), left)
    out = add(out, sub(rows, matmul(x, matmul(p, rows))))
    columns = matmul(matmul(left, p), swapped)
    return (adjoint(add(out, sub(columns, matmul(matmul(columns, p), x)))),)


pinv = register(
    OpDef(
        "pinv", "structural", ("x",), _pinv_type, _pinv, _pinv_vjp, attrs={"rtol": None}, saves=("x", "out"),
        batch=leading, samples=lambda: [Sample((x,), {"rtol": None}) for x in (square(3, 3), example(2, 4, 2), turned(example(3, 5)))],
        errors=lambda: errors(square=False, attrs={"rtol": None}),
        doc="The pseudo-inverse: singular values below rtol times the largest count as 0.",
    )
)  # fmt: skip

# ------------------------------------------------------------------ determinants


def _det_type(x: TensorType) -> TensorType:
    checked_matrices(x)
    return x.with_shape(x.shape[:-2])


def _scalars(x: Any) -> Any:
    """One number for each matrix, as 1 by 1 matrices."""
    return reshape(x, shape=(*value_type(x).shape, 1, 1))


def _cofactors(x: np.ndarray) -> np.ndarray:
    """det(x) * inv(x).T, by singular values, so that singular matrices have it too."""
    if x.shape[-1] == 0:
        return x.copy()
    u, s, vh = np.linalg.svd(x)
    keep = ~np.eye(s.shape[-1], dtype=bool)
    others = np.where(keep, s[..., None, :], 1).prod(-1).astype(x.dtype)
    sign = (np.linalg.det(u) * np.linalg.det(vh))[..., None, None]
    return (sign * np.conj(u * others[..., None, :] @ vh)).astype(x.dtype)


def _cofactors_vjp(c: VjpContext, g: Any) -> tuple:
    from . import reduce_sum

    inverse = transpose(inv(c.inputs[0]))
    n = len(c.types[0].shape)
    whole = _scalars(reduce_sum(mul(g, inverse), axes=(n - 2, n - 1)))
    slope = sub(mul(whole, inverse), matmul(matmul(inverse, transpose(g)), inverse))
    return (mul(_scalars(det(c.inputs[0])), slope),)


cofactors = register(
    OpDef(
        "cofactors", "structural", ("x",), inv_type, _cofactors, _cofactors_vjp, saves=("x",),
        batch=leading, samples=lambda: [Sample((x,)) for x in (square(3, 3), square(2, 2, 2), square(1, 1), turned(square(3, 3)))],
        errors=errors, doc="det(x) * inv(x).T, of singular matrices too: the slope of det.",
    )
)  # fmt: skip
det = register(
    OpDef(
        "det", "structural", ("x",), _det_type, np.linalg.det,
        lambda c, g: (mul(_scalars(g), cofactors(c.inputs[0])),), saves=("x",),
        batch=leading, samples=lambda: [Sample((x,)) for x in (square(3, 3), square(2, 4, 4), square(1, 1), turned(square(3, 3)))],
        errors=errors, doc="The determinant.",
    )
)  # fmt: skip


def _slogdet_type(x: TensorType) -> tuple[TensorType, TensorType]:
    sign = _det_type(x)
    return sign, sign.with_dtype(x.dtype.real)


def _slogdet_vjp(c: VjpContext, g_sign: Any, g_log: Any) -> tuple:
    inverse = transpose(inv(c.inputs[0]))
    if is_complex(inverse):
        g_log = complex_(g_log, imag(mul(g_sign, c.outputs[0])))
    return (mul(_scalars(g_log), inverse),)


slogdet = register(
    OpDef(
        "slogdet", "structural", ("x",), _slogdet_type, lambda x: tuple(np.linalg.slogdet(x)), _slogdet_vjp,
        n_outputs=2, batch=leading, samples=lambda: [Sample((x,)) for x in (square(3, 3), -square(2, 3, 3), turned(square(3, 3)))],
        errors=errors, doc="Sign and logarithm of the absolute value of the determinant.",
    )
)  # fmt: skip

__all__ = ["cofactors", "det", "inv", "pinv", "slogdet", "solve"]
