"""Products of matrices and vectors under PyTorch's names, and distances."""

from __future__ import annotations

import math
from itertools import combinations as _index_combinations
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from ..ir.dim import numel
from ..ir.op import get_op
from . import elementwise as e
from .convert import as_tensor, promote_operands
from .dispatch import run
from .manipulation import broadcast_to, concat, expand_dims, reshape, stack, take
from .products import matmul, tensordot, vector_norm
from .reductions import sum
from .tensor import Tensor, new_tensor


def _ranked(x: Any, rank: int, what: str) -> Tensor:
    x = as_tensor(x)
    if x.ndim != rank:
        raise ValueError(f"{what} takes tensors of {rank} dimensions, not shape {x.shape}")
    return x


def mm(input: Any, mat2: Any) -> Tensor:
    """The product of two matrices."""
    return matmul(_ranked(input, 2, "mm"), _ranked(mat2, 2, "mm"))


def bmm(input: Any, mat2: Any) -> Tensor:
    """Products of two batches of matrices: [B, M, K] and [B, K, N]."""
    x, y = _ranked(input, 3, "bmm"), _ranked(mat2, 3, "bmm")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"bmm: the batches of shapes {x.shape} and {y.shape} differ")
    return matmul(x, y)


def mv(input: Any, vec: Any) -> Tensor:
    """A matrix times a vector."""
    return matmul(_ranked(input, 2, "mv"), _ranked(vec, 1, "mv"))


def dot(input: Any, tensor: Any) -> Tensor:
    """The sum of products of two vectors."""
    return matmul(_ranked(input, 1, "dot"), _ranked(tensor, 1, "dot"))


def vdot(input: Any, other: Any) -> Tensor:
    """The sum of products of two vectors, the first one conjugated."""
    x, y = _ranked(input, 1, "vdot"), _ranked(other, 1, "vdot")
    return matmul(run(get_op("conj"), (x,), {}) if x.dtype.kind == "c" else x, y)


def inner(input: Any, other: Any) -> Tensor:
    """Sums of products over the last axes of both; with a 0-d operand the product."""
    x, y = promote_operands(as_tensor(input), as_tensor(other))
    if x.ndim == 0 or y.ndim == 0:
        return e.multiply(x, y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"inner: the last sizes of shapes {x.shape} and {y.shape} differ")
    return tensordot(x, y, axes=((x.ndim - 1,), (y.ndim - 1,)))


def _blend(input: Any, beta: Any, product: Tensor, alpha: Any, what: str) -> Tensor:
    """beta * input + alpha * product; beta=0 ignores what is in `input`."""
    product = product if alpha == 1 else e.multiply(product, alpha)
    x = as_tensor(input)
    if x.ndim > product.ndim or any(a not in (1, b) for a, b in zip(x.shape[::-1], product.shape[::-1])):
        raise ValueError(f"{what}: input of shape {x.shape} does not broadcast to {product.shape}")
    if beta == 0:
        return product
    return e.add(x if beta == 1 else e.multiply(x, beta), product)


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * mat1 @ mat2."""
    return _blend(input, beta, mm(mat1, mat2), alpha, "addmm")


def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * mat @ vec."""
    return _blend(input, beta, mv(mat, vec), alpha, "addmv")


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * outer(vec1, vec2)."""
    column, row = expand_dims(_ranked(vec1, 1, "addr"), 1), expand_dims(_ranked(vec2, 1, "addr"), 0)
    return _blend(input, beta, e.multiply(column, row), alpha, "addr")


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * the sum of batch1[i] @ batch2[i]."""
    products = bmm(batch1, batch2)
    return _blend(input, beta, sum(products, axis=0, dtype=products.dtype), alpha, "addbmm")


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    return _blend(input, beta, bmm(batch1, batch2), alpha, "baddbmm")


def chain_matmul(*matrices: Any) -> Tensor:
    """The product of matrices, in the order that takes the fewest multiplications."""
    tensors = [_ranked(m, 2, "chain_matmul") for m in (matrices[0] if len(matrices) == 1 else matrices)]
    n = len(tensors)
    sizes = [tensors[0].shape[0], *(t.shape[1] for t in tensors)]
    if not all(isinstance(d, int) for d in sizes):
        out = tensors[0]
        for t in tensors[1:]:
            out = matmul(out, t)
        return out
    best: dict[tuple[int, int], tuple[int, int]] = {(i, i): (0, i) for i in range(n)}
    for length in range(1, n):
        for i in range(n - length):
            k = i + length
            best[i, k] = min(
                (best[i, j][0] + best[j + 1, k][0] + sizes[i] * sizes[j + 1] * sizes[k + 1], j) for j in range(i, k)
            )

    def product(i: int, k: int) -> Tensor:
        j = best[i, k][1]
        return tensors[i] if i == k else matmul(product(i, j), product(j + 1, k))

    return product(0, n - 1)


def kron(input: Any, other: Any) -> Tensor:
    """The Kronecker product: blocks of `other`, scaled with the elements of `input`."""
    x, y = promote_operands(as_tensor(input), as_tensor(other))
    rank = max(x.ndim, y.ndim)
    sizes_x, sizes_y = (1,) * (rank - x.ndim) + x.shape, (1,) * (rank - y.ndim) + y.shape
    left = reshape(x, tuple(n for d in sizes_x for n in (d, 1)))
    right = reshape(y, tuple(n for d in sizes_y for n in (1, d)))
    return reshape(e.multiply(left, right), tuple(a * b for a, b in zip(sizes_x, sizes_y)))


def block_diag(*tensors: Any) -> Tensor:
    """The matrices (vectors count as rows) along the diagonal, zeros elsewhere."""
    blocks = promote_operands(*map(as_tensor, tensors))
    if any(b.ndim > 2 for b in blocks):
        raise ValueError(f"block_diag takes up to 2 dimensions, not shapes {[b.shape for b in blocks]}")
    blocks = [b if b.ndim == 2 else reshape(b, (1, numel(b.shape))) for b in blocks]
    ends = np.cumsum([0, *(b.shape[1] for b in blocks)])
    rows = []
    for b, start, end in zip(blocks, ends, ends[1:]):
        attrs = {"low": (0, int(start)), "high": (0, int(ends[-1] - end)), "value": 0}
        rows.append(run(get_op("pad"), (b,), attrs))
    return concat(rows, axis=0)


def cartesian_prod(*tensors: Any) -> Tensor:
    """All combinations of elements of vectors, one in a row; of one vector, that vector."""
    if len(tensors) == 1:
        return as_tensor(tensors[0])
    vectors = promote_operands(*(_ranked(t, 1, "cartesian_prod") for t in tensors))
    n, shape = len(vectors), tuple(v.shape[0] for v in vectors)
    grids = [reshape(v, tuple(shape[k] if i == k else 1 for i in range(n))) for k, v in enumerate(vectors)]
    return reshape(stack([broadcast_to(g, shape) for g in grids], axis=-1), (numel(shape), n))


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Tensor:
    """All combinations of r elements of a vector, one in a row."""
    x = _ranked(input, 1, "combinations")
    if r < 0:
        raise ValueError(f"combinations: r must not be negative, it is {r}")
    if r == 0:
        return x[:0]
    choose = combinations_with_replacement if with_replacement else _index_combinations
    rows = list(choose(range(x.shape[0]), r))
    return take(x, new_tensor(np.array(rows, np.int64).reshape(len(rows), r)), axis=0)


# ------------------------------------------------------------------ distances


def dist(input: Any, other: Any, p: float = 2) -> Tensor:
    """The p-norm of the difference."""
    return safe_norm(e.subtract(input, other), p, None)


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """The p-norms of the differences of all rows: [.., P, M] and [.., R, M] give [.., P, R]."""
    x, y = promote_operands(as_tensor(x1), as_tensor(x2))
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"cdist: shapes {x.shape} and {y.shape} are no two sets of rows of one length")
    return safe_norm(e.subtract(expand_dims(x, -2), expand_dims(y, -3)), p, -1)


def pdist(input: Any, p: float = 2.0) -> Tensor:
    """The p-norms of the differences of each two rows of a matrix, in the order (0, 1), (0, 2), .. (1, 2), .."""
    x = _ranked(input, 2, "pdist")
    rows, columns = np.triu_indices(x.shape[0], 1)
    difference = e.subtract(take(x, new_tensor(rows), axis=0), take(x, new_tensor(columns), axis=0))
    return safe_norm(difference, p, -1)


def safe_norm(x: Tensor, p: float, axis: Any) -> Tensor:
    """`vector_norm`, which over nothing is 0 for p=inf too."""
    if x.size == 0 and p == math.inf:
        return sum(x, axis=axis)
    return vector_norm(x, ord=float(p), axis=axis)


__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "block_diag", "bmm", "cartesian_prod", "cdist", "chain_matmul",
    "combinations", "dist", "dot", "inner", "kron", "mm", "mv", "pdist", "vdot",
]  # fmt: skip
