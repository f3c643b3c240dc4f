"""random_bits is Philox4x32-10, in NumPy and as scalar expressions, whatever the order of evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from tracefuse.ir import ops, scalar
from tracefuse.ir.dtypes import uint32
from tracefuse.ir.ops.random import philox4x32, scalar_philox4x32, scalar_random_bits
from tracefuse.ir.scalar import Expr

# (counter, key, words) from the known-answer tests of Random123, the authors' own library.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def evaluate(e: Expr) -> int:
    """The value of an expression of u32 constants, in Python's integers."""
    values: dict[int, int] = {}
    rules = {
        "mulhi": lambda a, b: a * b >> 32,
        "mul": lambda a, b: a * b & 0xFFFFFFFF,
        "add": lambda a, b: a + b & 0xFFFFFFFF,
        "xor": lambda a, b: a ^ b,
    }
    for node in scalar.walk(e):
        assert node.dtype is uint32
        values[id(node)] = node.attr if node.op == "const" else rules[node.op](*(values[id(a)] for a in node.args))
    return values[id(e)]


def constants(*values: int) -> tuple:
    return tuple(scalar.const(v, uint32) for v in values)


@pytest.mark.parametrize("counter, key, words", KNOWN)
def test_known_answers(counter, key, words):
    assert tuple(philox4x32(np.array([counter], np.uint32), key)[0]) == words
    assert tuple(map(evaluate, scalar_philox4x32(constants(*counter), constants(*key)))) == words  # type: ignore[arg-type]


@pytest.mark.parametrize("seed, offset", [(0, 0), (2**63 + 17, 5), (3, 2**32 - 2), (1, 2**64 - 3)])
def test_elements_are_words_of_consecutive_counters(seed, offset):
    bits = ops.random_bits(np.array([seed, offset], np.uint64), shape=(5, 5)).reshape(-1)
    assert bits.dtype == np.uint32
    for i in range(0, 25, 4):
        counter = (offset + i // 4) % 2**64
        words = scalar_random_bits(*constants(seed & 0xFFFFFFFF, seed >> 32, counter & 0xFFFFFFFF, counter >> 32))
        assert [evaluate(w) for w in words][: 25 - i] == bits[i : i + 4].tolist()


def test_shape_and_length_do_not_change_the_stream():
    state = np.array([42, 7], np.uint64)
    long = ops.random_bits(state, shape=(40_000,))  # longer than one chunk of the reference
    assert (ops.random_bits(state, shape=(123,)) == long[:123]).all()
    assert (ops.random_bits(state, shape=(10, 4, 25)).reshape(-1) == long[:1000]).all()
    later = np.array([42, 7 + 100], np.uint64)
    assert (ops.random_bits(later, shape=(500,)) == long[400:900]).all()


def test_bits_are_balanced():
    bits = ops.random_bits(np.array([1, 0], np.uint64), shape=(1 << 16,))
    ones = np.unpackbits(bits.view(np.uint8)).reshape(-1, 32).mean(axis=0)
    assert (abs(ones - 0.5) < 5 * 0.5 / 256).all()  # five standard deviations of a fair coin
    assert len(np.unique(bits)) > bits.size * 0.9999 - 5
