"""Accumulators of one reduction: their start values, a step, and the fixed tree that joins lanes and copies."""

from __future__ import annotations

import math

from ...ir.dtypes import DType
from ...ir.kernel import Reduction
from ...ir.target import Target
from .builder import Function, Val, literal, scalar_type, vec


class Accumulator:
    """The registers of one copy of a reduction: one vector; two for argmax and argmin (value and index) and for max and
    min of floats (the extreme of what is not NaN, and where NaN was seen: apart, so that a step is one instruction long).
    """

    def __init__(self, f: Function, reduction: Reduction, lanes: int, target: Target):
        self.f, self.reduction, self.lanes = f, reduction, lanes
        self.kind = reduction.kind
        self.type = vec(scalar_type(reduction.dtype), lanes)
        self.indexed = self.kind in ("argmax", "argmin")
        self.watches = self.kind in ("max", "min") and reduction.dtype.kind == "f"
        self.width = 2 if self.indexed or self.watches else 1
        bits = "i1" if target.isa == "avx512" else f"i{self.reduction.dtype.bits}"  # as comparisons leave it
        self.seen_type = vec(bits, lanes)

    def start(self) -> list[Val]:
        first = literal(identity(self.kind, self.reduction.dtype), self.type)
        if self.indexed:
            return [first, literal(-1, vec("i64", self.lanes))]
        return [first, literal(0, self.seen_type)] if self.watches else [first]

    def combine(self, state: list[Val], inputs: list[Val], mask: Val | None) -> list[Val]:
        """One step. Lanes outside `mask` keep their state."""
        if self.indexed:
            new = self._better(state, [inputs[0], inputs[1]])
        elif self.watches:
            x = inputs[0]
            nan = self.f.convert("sext", self.f.cmp("uno", x, x), self.seen_type)
            new = self._join_states(state, [x, nan])
        else:
            new = [self._join(state[0], inputs[0])]
        if mask is not None:
            new = [self.f.select(mask, n, s) for n, s in zip(new, state)]
        return new

    def scan(self, total: Val, x: Val, mask: Val | None) -> Val:
        """The running folds of the lanes of `x`, after what `total` has in every lane. For sums and products."""
        f, lanes = self.f, self.lanes
        (neutral,) = self.start()
        if mask is not None:
            x = f.select(mask, x, neutral)
        distance = 1
        while distance < lanes:
            x = self._join(f.shuffle(x, neutral, [lanes] * distance + list(range(lanes - distance))), x)
            distance *= 2
        return self._join(total, x)

    def finish(self, parts: list[list[Val]]) -> list[Val]:
        """Joins the copies pairwise, then the lanes by halves: scalars."""
        while len(parts) > 1:
            half = len(parts) // 2
            joined = [self._join_states(parts[k], parts[k + half]) for k in range(half)]
            parts = joined + parts[2 * half :]
        state = parts[0]
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            if lanes == 1:
                low, high = ([self.f.extract(v, k) for v in state] for k in (0, 1))
            else:
                low = [self.f.shuffle(v, None, list(range(lanes))) for v in state]
                high = [self.f.shuffle(v, None, list(range(lanes, 2 * lanes))) for v in state]
            state = self._join_states(low, high)
        return self.results(state)

    def results(self, state: list[Val]) -> list[Val]:
        """The reduction's results, in the order of its names."""
        if not self.watches:
            return state
        value, seen = state
        nan = self.f.cmp("ne", seen, literal(0, seen.type))
        return [self.f.select(nan, literal(math.nan, value.type), value)]

    def _join_states(self, a: list[Val], b: list[Val]) -> list[Val]:
        if self.indexed:
            return self._better(a, b)
        if self.watches:
            (x, x_nan), (y, y_nan) = a, b
            keep = self.f.cmp("ogt" if self.kind == "max" else "olt", x, y)
            return [self.f.select(keep, x, y), self.f.binary("or", x_nan, y_nan)]
        return [self._join(a[0], b[0])]

    def _join(self, a: Val, b: Val) -> Val:
        f, kind = self.f, self.kind
        if kind == "sum":
            return f.add(a, b)
        if kind == "prod":
            return f.mul(a, b)
        if kind == "any":
            return f.binary("or", a, b)
        if kind == "all":
            return f.binary("and", a, b)
        return extremum(f, kind, a, b, self.reduction.dtype)

    def _better(self, a: list[Val], b: list[Val]) -> list[Val]:
        """The state to keep: the more extreme value, NaN above all, the smaller index among equals; -1 is "none yet"."""
        f, dtype = self.f, self.reduction.dtype
        (x, i), (y, j) = a, b
        if dtype.kind == "f":
            stronger = f.cmp("ogt" if self.kind == "argmax" else "olt", y, x)
            y_nan, x_nan = f.cmp("uno", y, y), f.cmp("uno", x, x)
            stronger = f.binary("or", stronger, f.binary("and", y_nan, f.binary("xor", x_nan, literal(1, x_nan.type))))
            equal = f.binary("or", f.cmp("oeq", x, y), f.binary("and", x_nan, y_nan))
        else:
            sign = "s" if dtype.kind == "i" else "u"
            stronger = f.cmp(f"{sign}gt" if self.kind == "argmax" else f"{sign}lt", y, x)
            equal = f.cmp("eq", x, y)
        earlier = f.binary("and", equal, f.cmp("slt", j, i))
        take = f.binary("or", stronger, earlier)
        none_yet = f.cmp("slt", i, literal(0, i.type))
        there = f.cmp("sge", j, literal(0, j.type))
        take = f.binary("and", f.binary("or", take, none_yet), there)
        return [f.select(take, y, x), f.select(take, j, i)]


def extremum(f: Function, kind: str, a: Val, b: Val, dtype: DType) -> Val:
    """max or min of integers or bools."""
    if dtype.kind == "b":
        return f.binary("or" if kind == "max" else "and", a, b)
    sign = "s" if dtype.kind == "i" else "u"
    return f.select(f.cmp(f"{sign}gt" if kind == "max" else f"{sign}lt", a, b), a, b)


def identity(kind: str, dtype: DType) -> bool | int | float:
    """The value that a reduction starts from."""
    if kind in ("sum", "any"):
        return 0 if dtype.kind != "b" else False
    if kind in ("prod", "all"):
        return 1 if dtype.kind != "b" else True
    upward = kind in ("max", "argmax")
    if dtype.kind == "f":
        return -math.inf if upward else math.inf
    if dtype.kind == "b":
        return not upward
    low = 0 if dtype.kind == "u" else -(1 << (dtype.bits - 1))
    high = low + (1 << dtype.bits) - 1
    return low if upward else high
