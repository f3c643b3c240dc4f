"""The index maps of the movement ops say the same as their references: alone, in chains, with symbolic sizes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from tracefuse.ir import dim, ops
from tracefuse.ir.dim import DimLike, symbol
from tracefuse.ir.dtypes import from_numpy
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.ops.index_maps import INDEX_MAPS, map_index, reshape_groups
from tracefuse.ir.subgraph import concrete_attrs
from tracefuse.ir.types import TensorType


@dataclass
class Expression:
    """A tree of movement ops over arrays: its symbolic type, and its value for one choice of the sizes."""

    type: TensorType
    value: np.ndarray
    op: str = ""
    attrs: dict | None = None
    operands: tuple[Expression, ...] = ()


def leaf(array: np.ndarray, shape: tuple[DimLike, ...] | None = None) -> Expression:
    return Expression(TensorType(from_numpy(array.dtype), array.shape if shape is None else shape), array)


def applied(op: str, sizes: dict[str, int], *operands: Expression, **attrs) -> Expression:
    (result,) = REGISTRY[op].result_types(tuple(e.type for e in operands), attrs)
    value = REGISTRY[op].evaluate(tuple(e.value for e in operands), concrete_attrs(attrs, sizes))
    assert value.shape == tuple(dim.evaluate(d, sizes) for d in result.shape)
    return Expression(result, value, op, attrs, operands)


def read(e: Expression, index: tuple[DimLike, ...]):
    """The element at `index`, as a tree: a fill value, (array, index), or a list of (conditions, tree)."""
    if not e.operands:
        return e.value, index
    m = map_index(e.op, e.attrs or {}, tuple(o.type for o in e.operands), index)
    choices = [(a.conditions, read(e.operands[a.operand], a.index)) for a in m.alternatives]
    return choices if m.fill is None else [*choices, ((), m.fill)]


def compiled(d: DimLike):
    return compile(str(d), "<index>", "eval")


def compiled_tree(tree):
    if isinstance(tree, list):
        return [([compiled(c) for c in conditions], compiled_tree(t)) for conditions, t in tree]
    if isinstance(tree, tuple):
        return tree[0], [compiled(i) for i in tree[1]]
    return tree


def element(tree, env: dict):
    if isinstance(tree, list):
        for conditions, t in tree:
            if all(eval(c, env) >= 0 for c in conditions):
                return element(t, env)
        raise AssertionError("no alternative holds")
    if isinstance(tree, tuple):
        array, index = tree
        at = tuple(eval(i, env) for i in index)
        assert all(0 <= i < n for i, n in zip(at, array.shape, strict=True)), "read out of range"
        return array[at]
    return tree


def check(e: Expression, sizes: dict[str, int]) -> None:
    loops = tuple(symbol(f"i{axis}", 0, d - 1) for axis, d in enumerate(e.type.shape))
    if e.value.size == 0:
        return
    tree = compiled_tree(read(e, loops))
    env = {"max": max, "min": min, **sizes}
    for at in np.ndindex(e.value.shape):
        env.update((f"i{axis}", i) for axis, i in enumerate(at))
        assert element(tree, env) == e.value[at], (e.op, e.attrs, at)


@pytest.mark.parametrize("name", sorted(INDEX_MAPS))
def test_every_sample(name):
    for s in REGISTRY[name].samples():  # type: ignore[misc]
        check(applied(name, {}, *(leaf(a) for a in s.args), **s.attrs), {})


# ------------------------------------------------------------------ random chains


class Chains:
    """Random expressions. Axes of the leaves are numbers or, when `symbolic`, also names bound in `sizes`."""

    def __init__(self, seed: int, symbolic: bool):
        self.rng, self.symbolic, self.sizes, self.next = random.Random(seed), symbolic, {}, 1

    def leaf(self, shape: tuple[DimLike, ...] | None = None) -> Expression:
        if shape is None:
            shape = tuple(self.size() for _ in range(self.rng.randint(1, 3)))
        concrete = tuple(dim.evaluate(d, self.sizes) for d in shape)
        n = int(np.prod(concrete))
        self.next += n
        return leaf(np.arange(self.next - n, self.next, dtype=np.int64).reshape(concrete), shape)

    def size(self) -> DimLike:
        value = self.rng.choice((1, 2, 3, 4, 6))
        if self.symbolic and self.rng.random() < 0.6:
            name = f"n{len(self.sizes)}"
            self.sizes[name] = value
            return symbol(name, 1, self.rng.choice((None, 8)))
        return value

    def number(self, d: DimLike) -> int:
        return dim.evaluate(d, self.sizes)

    def apply(self, op: str, *operands: Expression, **attrs) -> Expression:
        return applied(op, self.sizes, *operands, **attrs)

    def build(self, depth: int) -> Expression:
        e = self.leaf()
        for _ in range(depth):
            if e.value.size > 300:
                break
            e = getattr(self, self.rng.choice(STEPS))(e)
        return e

    def permute(self, e: Expression) -> Expression:
        return self.apply("permute", e, perm=tuple(self.rng.sample(range(e.type.ndim), e.type.ndim)))

    def flip(self, e: Expression) -> Expression:
        return self.apply("flip", e, axes=tuple(i for i in range(e.type.ndim) if self.rng.random() < 0.5))

    def broadcast_to(self, e: Expression) -> Expression:
        shape = tuple(self.rng.choice((1, 3)) if d == 1 else d for d in e.type.shape)
        return self.apply("broadcast_to", e, shape=(2, *shape) if len(shape) < 4 and self.rng.random() < 0.5 else shape)

    def reshape(self, e: Expression) -> Expression:
        """Splits sizes and merges neighbours."""
        shape: list[DimLike] = []
        for d in e.type.shape:
            f = next((f for f in self.rng.sample((2, 3), 2) if isinstance(d, int) and d > f and d % f == 0), 0)
            shape += [f, d // f] if f and self.rng.random() < 0.5 else [d]
        at = 0
        while at + 1 < len(shape):
            if self.rng.random() < 0.4 or len(shape) > 4:
                shape[at : at + 2] = [shape[at] * shape[at + 1]]
            else:
                at += 1
        if self.rng.random() < 0.3:
            shape.insert(self.rng.randint(0, len(shape)), 1)
        return self.apply("reshape", e, shape=tuple(shape))

    def region(self, e: Expression) -> dict:
        start, stop, step = [], [], []
        for d in e.type.shape:
            room = self.number(d)
            lo = self.rng.randint(0, min(1, room))
            hi: DimLike = d - self.rng.randint(0, room - lo)
            if self.rng.random() < 0.3:
                hi = self.number(hi)
            start.append(lo)
            stop.append(hi)
            step.append(self.rng.choice((1, 1, 2, 3)))
        return {"start": tuple(start), "stop": tuple(stop), "step": tuple(step)}

    def slice(self, e: Expression) -> Expression:
        return self.apply("slice", e, **self.region(e))

    def slice_scatter(self, e: Expression) -> Expression:
        region = self.region(e)
        (t,) = ops.slice_.result_types((e.type,), region)
        return self.apply("slice_scatter", e, self.leaf(t.shape), **region)

    def pad(self, e: Expression) -> Expression:
        low, high = (tuple(self.rng.choice((0, 0, 1, 2)) for _ in e.type.shape) for _ in range(2))
        return self.apply("pad", e, low=low, high=high, value=-7)

    def concat(self, e: Expression) -> Expression:
        axis = self.rng.randrange(e.type.ndim)
        others = [
            self.leaf(tuple(self.rng.randint(0, 3) if i == axis else d for i, d in enumerate(e.type.shape)))
            for _ in range(self.rng.randint(1, 2))
        ]
        operands = [e, *others]
        self.rng.shuffle(operands)
        return self.apply("concat", *operands, axis=axis)

    def window_attrs(self, shape: tuple[DimLike, ...]) -> dict | None:
        k = self.rng.randint(1, min(2, len(shape)))
        picked = [[self.rng.randint(*r) for _ in range(k)] for r in ((1, 3), (1, 3), (0, 2), (0, 2), (1, 2))]
        for d, w, _, lo, hi, e in zip(shape[len(shape) - k :], *picked):
            if self.number(d) + lo + hi < (w - 1) * e + 1:
                return None
        return dict(zip(("window", "stride", "low", "high", "dilation"), map(tuple, picked)))

    def windows(self, e: Expression) -> Expression:
        attrs = self.window_attrs(e.type.shape)
        return e if attrs is None or e.type.ndim > 3 else self.apply("windows", e, **attrs, fill=-5)

    def unwindows(self, e: Expression) -> Expression:
        """Starts again from a new tensor, shaped like the windows of this one."""
        attrs = self.window_attrs(e.type.shape)
        if attrs is None or e.type.ndim > 3:
            return e
        (t,) = ops.windows.result_types((e.type,), attrs | {"fill": 0})
        return self.apply(
            "unwindows", self.leaf(t.shape), size=e.type.shape[e.type.ndim - len(attrs["window"]) :], **attrs
        )


STEPS = tuple(sorted(INDEX_MAPS))


@pytest.mark.parametrize("symbolic", (False, True))
@pytest.mark.parametrize("depth", (1, 2, 5))
def test_random_chains(depth, symbolic):
    for seed in range(150):
        chains = Chains(seed, symbolic)
        e = chains.build(depth)
        if e.value.size <= 1000:
            check(e, chains.sizes)


# ------------------------------------------------------------------ simplification


def test_splitting_and_merging_leave_no_division():
    b, s = symbol("b", 1), symbol("s", 1)
    x = TensorType(from_numpy(np.dtype(np.float32)), (b, s, 64))
    i = (symbol("i0", 0, b - 1), symbol("i1", 0, s - 1), symbol("i2", 0, 7), symbol("i3", 0, 7))
    m = map_index("reshape", {"shape": (b, s, 8, 8)}, (x,), i)
    assert m.alternatives[0].index == (i[0], i[1], i[2] * 8 + i[3])
    heads = TensorType(x.dtype, (b, s, 8, 8))
    j = symbol("j", 0, 63)
    merged = map_index("reshape", {"shape": (b, s, 64)}, (heads,), (i[0], i[1], j)).alternatives[0].index
    assert map_index("reshape", {"shape": (b, s, 8, 8)}, (x,), merged).alternatives[0].index == (i[0], i[1], j)


def test_reshape_groups_are_as_short_as_they_come():
    b = symbol("b", 1)
    assert reshape_groups((b, 1, 6, 4, 5), (b, 2, 3, 4, 1, 5)) == [([0], [0]), ([2], [1, 2]), ([3], [3]), ([4], [5])]
    assert reshape_groups((4, 6), (6, 4)) == [([0, 1], [0, 1])]
    assert reshape_groups((1, 1), ()) == []


def test_certain_conditions_vanish():
    t = TensorType(from_numpy(np.dtype(np.float32)), (10,))
    inside = map_index("pad", {"low": (2,), "high": (3,), "value": 0}, (t,), (symbol("i", 2, 11),))
    assert inside.fill is None and inside.alternatives[0].conditions == ()
    outside = map_index("pad", {"low": (2,), "high": (3,), "value": 1.5}, (t,), (symbol("i", 0, 1),))
    assert outside.alternatives == () and outside.fill == 1.5
    left = map_index("concat", {"axis": 0}, (t, t), (symbol("i", 0, 9),))
    assert [a.operand for a in left.alternatives] == [0]


def test_windows_without_padding_need_no_mask():
    d = symbol("d", 3)
    for size, attrs in ((16, {"window": (3,), "stride": (2,)}), (d, {"window": (3,), "stride": (1,)})):
        t = TensorType(from_numpy(np.dtype(np.float32)), (size,))
        attrs = attrs | {"low": (0,), "high": (0,), "dilation": (1,), "fill": 0}
        (out,) = ops.windows.result_types((t,), attrs)
        loops = tuple(symbol(f"i{n}", 0, e - 1) for n, e in enumerate(out.shape))
        assert map_index("windows", attrs, (t,), loops).alternatives[0].conditions == ()
