"""random_bits: counter-based random numbers. Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as
1, 2, 3" (SC 2011). Every element is a function of the seed and its position alone, so any order, any fusion and any
number of threads give the same numbers.
"""

from __future__ import annotations

import math

import numpy as np

from .. import scalar as s
from ..dtypes import uint32, uint64
from ..op import NO_GRADIENT, REQUIRED, ErrorSample, OpDef, Sample, register
from ..scalar import Expr
from ..types import Shape, TensorType, TypeRuleError
from .movement import check_nonnegative

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_CHUNK = 8192  # blocks at a time: the working set stays in the caches


def philox4x32(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The ten rounds on counters uint32[n, 4] under one key: uint32[n, 4]."""
    out = np.empty(counter.shape, np.uint32)
    factors = np.array(MULTIPLIERS, np.uint64)[:, None]
    steps = [[(k + i * step) & _LOW for k, step in zip(key, KEY_STEPS)] for i in range(ROUNDS)]
    keys = np.array(steps, np.uint64)[:, :, None]
    for at in range(0, len(counter), _CHUNK):
        words = counter[at : at + _CHUNK].T.astype(np.uint64)
        even, odd = words[0::2].copy(), words[1::2].copy()
        product = np.empty_like(even)
        crossed = product[::-1]  # each product feeds the other pair of words
        for k in keys:
            np.multiply(even, factors, out=product)
            np.right_shift(crossed, 32, out=even)
            even ^= odd
            even ^= k
            np.bitwise_and(crossed, _LOW, out=odd)
        out[at : at + _CHUNK, 0::2] = even.T
        out[at : at + _CHUNK, 1::2] = odd.T
    return out


def _random_bits_type(state: TensorType, shape: Shape) -> TensorType:
    if state.dtype is not uint64 or state.shape != (2,):
        raise TypeRuleError(f"the state must be a uint64 tensor (seed, offset) of shape (2,), not {state}")
    for d in shape:
        check_nonnegative(d, "a size")
    return TensorType(uint32, tuple(shape))


def _random_bits(state: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    seed, offset = map(int, state)
    n = math.prod(shape)
    blocks = (n + 3) // 4
    position = np.arange(blocks, dtype=np.uint64) + np.uint64(offset)  # wraps, as the 64-bit counter does
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = position & np.uint64(_LOW)
    counter[:, 1] = position >> np.uint64(32)
    return philox4x32(counter, (seed & _LOW, seed >> 32)).reshape(-1)[:n].reshape(shape)


random_bits = register(
    OpDef(
        "random_bits",
        "structural",
        ("state",),
        _random_bits_type,
        _random_bits,
        NO_GRADIENT,
        attrs={"shape": REQUIRED},
        saves=(),
        samples=lambda: [
            Sample((np.array([7, 0], np.uint64),), {"shape": (5, 17)}, gradcheck=False),
            Sample((np.array([2**63 + 5, 2**32 - 1], np.uint64),), {"shape": (9,)}, gradcheck=False),
            Sample((np.array([0, 2**64 - 1], np.uint64),), {"shape": (2, 1, 4)}, gradcheck=False),
            Sample((np.array([1, 2], np.uint64),), {"shape": ()}, gradcheck=False),
            Sample((np.array([1, 2], np.uint64),), {"shape": (3, 0)}, gradcheck=False),
        ],
        errors=lambda: [
            ErrorSample((np.array([1, 2], np.int64),), {"shape": (2,)}, TypeRuleError, "uint64 tensor"),
            ErrorSample((np.array([1], np.uint64),), {"shape": (2,)}, TypeRuleError, "shape \\(2,\\)"),
            ErrorSample((np.array([1, 2], np.uint64),), {"shape": (-2,)}, TypeRuleError, "negative"),
        ],
        doc="uint32 words: element i (row-major) is word i % 4 of Philox4x32-10 at counter offset + i // 4, key seed.",
    )
)


def scalar_philox4x32(counter: tuple[Expr, Expr, Expr, Expr], key: tuple[Expr, Expr]) -> tuple[Expr, Expr, Expr, Expr]:
    """The ten rounds as u32 expressions."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(ROUNDS):
        if i:
            k0, k1 = k0 + KEY_STEPS[0], k1 + KEY_STEPS[1]
        high0, low0 = s.apply("mulhi", c0, MULTIPLIERS[0]), c0 * MULTIPLIERS[0]
        high1, low1 = s.apply("mulhi", c2, MULTIPLIERS[1]), c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def scalar_random_bits(
    seed_lo: Expr, seed_hi: Expr, counter_lo: Expr, counter_hi: Expr
) -> tuple[Expr, Expr, Expr, Expr]:
    """The four words of `random_bits` at a counter, as u32 expressions: what lowering writes into kernels."""
    zero = s.const(0, uint32)
    return scalar_philox4x32((counter_lo, counter_hi, zero, zero), (seed_lo, seed_hi))


__all__ = ["philox4x32", "random_bits", "scalar_philox4x32", "scalar_random_bits"]
