"""The NumPy meaning of scalar expressions: leaves, and the operations that NumPy has no function for."""

import numpy as np
import pytest
from tracefuse.backends.reference.scalar_eval import evaluate, evaluate_all
from tracefuse.ir import scalar as s
from tracefuse.ir.dim import floordiv, mod, symbol
from tracefuse.ir.dtypes import bool_, float32, float64, int8, int32, int64, uint32, uint64

AT = symbol("i", 0, 6)
X = s.load(float32, "x", ())


def test_index_expressions_over_arrays():
    i = np.arange(7)
    e = s.index(floordiv(AT, 2) * 10 + mod(AT, 2), int32)
    got = evaluate(e, {AT: i})
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, i // 2 * 10 + i % 2)


def test_masked_load_gives_zero_outside():
    x = np.arange(1, 6, dtype=np.float32)
    e = s.load(float32, "x", (AT - 1,), mask=(AT - 1, 5 - AT))
    np.testing.assert_array_equal(evaluate(e, {"x": x, AT: np.arange(7)}), [0, 1, 2, 3, 4, 5, 0])
    with pytest.raises(IndexError, match="outside axis 0 of size 5"):
        evaluate(s.load(float32, "x", (AT,)), {"x": x, AT: np.arange(7)})


def test_indirect_load_and_result():
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    row = s.load(int64, "rows", (AT,))
    e = s.load(float32, "t", (row, AT)) + s.result("m", float32)
    rows = np.array([3, 0, 1])
    got = evaluate(e, {"t": table, "rows": rows, AT: np.arange(3), "m": np.float32(100)})
    np.testing.assert_array_equal(got, table[rows, np.arange(3)] + 100)


def test_in_bounds_and_shared_parts():
    inside = s.in_bounds((AT - 2, 4 - AT))
    a, b = evaluate_all((inside, s.select(inside, X, 0)), {AT: np.arange(7), X: np.ones(7, np.float32)})
    assert a.dtype == np.bool_ and a.tolist() == [False, False, True, True, True, False, False]
    np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize(("dtype", "bits"), [(uint32, 32), (uint64, 64)])
def test_mulhi(dtype, bits):
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 2**bits - 1, 50, dtype=dtype.np, endpoint=True) for _ in range(2))
    a, b = s.load(dtype, "a", ()), s.load(dtype, "b", ())
    got = evaluate(s.apply("mulhi", a, b), {a: x, b: y})
    assert got.tolist() == [int(p) * int(q) >> bits for p, q in zip(x, y)]


def test_fma_keeps_the_product_exact():
    x = np.array([1 + 2**-30, 1e154, np.inf, 3.0])
    a = s.load(float64, "a", ())
    square = evaluate(s.apply("fma", a, a, -(a * a)), {a: x})
    assert square[0] == 2**-60 and square[3] == 0 and np.isnan(square[2])


def test_integer_division_truncates():
    a, b = s.load(int8, "a", ()), s.load(int8, "b", ())
    x, y = np.array([-7, 7, -7, 7, -128], np.int8), np.array([2, -2, -2, 2, 3], np.int8)
    quotient, rest = evaluate_all((a / b, s.apply("rem", a, b)), {a: x, b: y})
    assert quotient.tolist() == [-3, -3, 3, 3, -42] and rest.tolist() == [-1, 1, -1, 1, -2]


def test_casts():
    bits = evaluate(s.bitcast(X, int32), {X: np.array([1.0, -0.0], np.float32)})
    assert bits.tolist() == [0x3F800000, -(2**31)]
    assert evaluate(s.cast(X, int32), {X: np.array([1.9, -1.9], np.float32)}).tolist() == [1, -1]
    assert evaluate(s.const(True, bool_), {}).dtype == np.bool_


def test_missing_leaf_is_named():
    with pytest.raises(KeyError, match="x"):
        evaluate(X, {})
