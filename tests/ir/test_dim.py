"""Properties of `ir/dim.py`: simplification keeps values, bounds are sound, the text form reads back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracefuse.ir import dim
from tracefuse.ir.dim import Dim, bounds, ceildiv, evaluate, floordiv, maximum, minimum, mod, substitute, symbol
from tracefuse.ir.dim_text import parse

# A size n of unknown value, loops below it and below numbers, and one that may be negative.
N = symbol("n", 1)
M = symbol("m", 1, 12)
SYMBOLS = {
    "n": N,
    "m": M,
    "i": symbol("i", 0, N - 1),
    "j": symbol("j", 0, 7),
    "k": symbol("k", 0, 63),
    "z": symbol("z", -5, 9),
}


class Tree:
    """An expression as written, before any simplification, next to what `dim` makes of it."""

    def __init__(self, text: str, built: dim.DimLike):
        self.text, self.built = text, built

    def __repr__(self) -> str:
        return f"{self.text}  ->  {self.built}"

    def value(self, env: dict[str, int]) -> int:
        return eval(self.text, {"max": max, "min": min}, env)


def _binary(op: str, a: Tree, b: Tree) -> Tree:
    if op in ("max", "min"):
        return Tree(f"{op}({a.text}, {b.text})", (maximum if op == "max" else minimum)(a.built, b.built))
    built = {"+": lambda: a.built + b.built, "-": lambda: a.built - b.built, "*": lambda: a.built * b.built}[op]()
    return Tree(f"({a.text} {op} {b.text})", built)


def _divided(op: str, a: Tree, b: Tree) -> Tree:
    return Tree(f"({a.text} {op} {b.text})", (floordiv if op == "//" else mod)(a.built, b.built))


DIVISORS = st.one_of(
    st.integers(1, 16).map(lambda v: Tree(str(v), v)),
    st.sampled_from([Tree("n", N), Tree("m", M), Tree("(n*4)", N * 4), Tree("(n*m)", N * M), Tree("(n + 1)", N + 1)]),
)
LEAVES = st.one_of(
    st.sampled_from([Tree(name, d) for name, d in SYMBOLS.items()]),
    st.integers(-20, 70).map(lambda v: Tree(str(v) if v >= 0 else f"({v})", v)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(_binary, st.sampled_from("+-*+-"), inner, inner),
        st.builds(_binary, st.sampled_from(("max", "min")), inner, inner),
        st.builds(_divided, st.sampled_from(("//", "%")), inner, DIVISORS),
    ),
    max_leaves=8,
)


@st.composite
def assignments(draw) -> dict[str, int]:
    n = draw(st.integers(1, 20))
    return {
        "n": n,
        "m": draw(st.integers(1, 12)),
        "i": draw(st.integers(0, n - 1)),
        "j": draw(st.integers(0, 7)),
        "k": draw(st.integers(0, 63)),
        "z": draw(st.integers(-5, 9)),
    }


def plain(d: dim.DimLike, env: dict[str, int]) -> int:
    """The value of the simplified expression by Python's own arithmetic, not by `dim`'s."""
    return eval(str(d), {"max": max, "min": min}, env)


@settings(max_examples=500, deadline=None)
@given(TREES, assignments())
def test_simplification_keeps_the_value(tree, env):
    assert plain(tree.built, env) == tree.value(env)


@settings(max_examples=300, deadline=None)
@given(TREES, assignments())
def test_evaluate_agrees_with_python(tree, env):
    assert evaluate(tree.built, env) == tree.value(env)


@settings(max_examples=500, deadline=None)
@given(TREES, assignments())
def test_bounds_and_answers_are_sound(tree, env):
    value = tree.value(env)
    lo, hi = bounds(tree.built)
    assert lo is None or lo <= value
    assert hi is None or value <= hi
    assert not dim.nonnegative(tree.built) or value >= 0
    assert not dim.negative(tree.built) or value < 0


@settings(max_examples=200, deadline=None)
@given(TREES, DIVISORS, assignments())
def test_within_is_sound(tree, size, env):
    assert not dim.within(tree.built, size.built) or 0 <= tree.value(env) < size.value(env)


@settings(max_examples=400, deadline=None)
@given(TREES)
def test_text_reads_back(tree):
    assert parse(str(tree.built), SYMBOLS.__getitem__) == tree.built


@settings(max_examples=300, deadline=None)
@given(TREES, TREES, assignments())
def test_substitution_keeps_the_value(tree, other, env):
    inner = other.value(env)
    if not -5 <= inner <= 9:
        return  # not a value that z may have
    replaced = substitute(tree.built, {SYMBOLS["z"]: minimum(maximum(other.built, -5), 9)})
    assert plain(replaced, env) == tree.value(env | {"z": inner})


@settings(max_examples=300, deadline=None)
@given(TREES, TREES)
def test_sums_do_not_depend_on_the_order(a, b):
    assert a.built + b.built == b.built + a.built
    assert a.built - a.built == 0
    assert hash(a.built + b.built) == hash(b.built + a.built)


def test_constants_are_plain_ints():
    i = SYMBOLS["i"]
    assert type(i - i + 3) is int
    assert i * 0 == 0 and floordiv(i, N) == 0 and mod(i, N) == i


def test_reshapes_that_undo_each_other_vanish():
    k, j = SYMBOLS["k"], SYMBOLS["j"]
    assert floordiv(k, 8) * 8 + mod(k, 8) == k
    assert floordiv(k * 8 + j, 8) == k and mod(k * 8 + j, 8) == j
    assert floordiv(floordiv(k, 4), 2) == floordiv(k, 8)
    assert mod(floordiv(k, 2), 4) * 2 + mod(k, 2) == mod(k, 8)
    i = SYMBOLS["i"]
    assert floordiv(j * N + i, N) == j and mod(j * N + i, N) == i


def test_questions_with_symbolic_bounds():
    i = SYMBOLS["i"]
    assert dim.within(i, N) and dim.nonnegative(N - 1 - i) and dim.negative(i - N)
    assert not dim.nonnegative(i - 1) and not dim.negative(i - 1)
    assert dim.nonnegative(N - floordiv(N, 2) * 2)
    assert dim.nonnegative(ceildiv(N, 4) * 4 - N) and not dim.nonnegative(N - ceildiv(N, 4) * 4)
    assert ceildiv(N * 4, 4) == N


def test_truth_is_refused():
    with pytest.raises(TypeError, match="symbolic size n"):
        bool(N)


@pytest.mark.parametrize("text", ("", "n +", "3 // 0", "n % 0", "a b", "n ** 2", "(n", "n $ 2"))
def test_malformed_text_is_refused(text):
    with pytest.raises(ValueError, match="size expression"):
        parse(text)


def test_missing_symbol_is_named():
    with pytest.raises(KeyError, match="n"):
        evaluate(N + 1, {})


def test_linear_coefficients():
    i, j = SYMBOLS["i"], SYMBOLS["j"]
    d = i * N * 4 + j * 3 + 5
    assert isinstance(d, Dim)
    assert d.coefficient(i) == N * 4 and d.coefficient(j) == 3 and d.constant == 5  # type: ignore[arg-type]
    assert d.is_linear_in(i) and not (floordiv(i + 1, 2) + 1).is_linear_in(i)  # type: ignore[union-attr]
