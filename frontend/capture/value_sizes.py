"""Sizes that depend on the values of tensors: how many elements a mask picks, how many differ.

Such a size is asked for (see `tree`): a call in which it is 0 or 1 takes a way of its own, all others share one, on which
it is a symbol. `extent` is the node that says which value the symbol has. What the trace needs to know of the symbol
is a question like any other. Where it turns out to be equal to another size, or Python needs the number, the capture
starts again, and asks for that (`Settle`) before it makes a symbol: so sizes that are equal are the same expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ...ir import dim, ops
from ...ir.decider import decide_with
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import int64
from ...ir.graph import Value
from ..lanes import Inside
from ..state import state
from . import sizes
from .tracer import TooMany

if TYPE_CHECKING:
    from .tracer import Tracer
    from .tree import Route

MOST_EQUAL = 4  # expressions that one size is compared with, before it is taken for a number


@dataclass(slots=True)
class Facts:
    """What is asked of a size before it becomes a symbol: whether it is one of `equal`, or a multiple of `factor`.
    number: Python needs the number itself. varies: it is an int that has had too many values to be told one by one."""

    equal: list[DimLike] = field(default_factory=list)
    factor: int = 1
    number: bool = False
    varies: bool = False


Settled = dict[int, Facts]  # by the number of the size in the trace


class Settle(BaseException):
    """Starts the capture again: what a size turned out to be. Nothing: Python needs it as a number."""

    def __init__(self, number: int, equal: DimLike | None = None, factor: int = 1, varies: bool = False):
        self.number, self.equal, self.factor, self.varies = number, equal, factor, varies

    def note(self, settled: Settled) -> None:
        """Has later captures ask for it."""
        facts = settled.setdefault(self.number, Facts())
        if self.varies:
            facts.varies = True
        elif self.factor > 1:
            facts.factor *= self.factor
        elif self.equal is None or len(facts.equal) >= MOST_EQUAL:
            facts.number = True
        else:
            facts.equal.append(self.equal)


def in_trace(call: Callable[[], Any]) -> Any:
    """Runs library code as the outermost trace would, outside of the bodies and the vmaps that are under way."""
    tracer: Any = state.tracer
    return tracer.outside(in_trace, call) if isinstance(tracer, Inside) else call()


class ValueSizes(sizes.Answers):
    """Those of one trace. It answers what is asked of them, as a `Decider`."""

    def __init__(self, tracer: Tracer, route: Route, settled: Settled):
        self.tracer, self.route, self.settled = tracer, route, settled
        self.symbols: dict[Dim, int] = {}  # with their numbers
        self.now: dict[str, int] = {}  # what they are in the present call
        self._count = 0
        self._sizes: dict[Value, DimLike] = {}
        self._decided: dict[tuple[DimLike, str], bool] = {}
        self._before: list[Any] = []  # who decided until there were symbols

    # ---- making them

    def size(self, value: Value, most: DimLike | None) -> DimLike:
        """The 0-d int64 `value` as a size, which is at most `most`."""
        found = self._sizes.get(value)
        if found is None:
            found = self._sizes[value] = self._size(value, most)
        return found

    def whole(self, value: Value) -> DimLike:
        """The 0-d int64 `value` as an int: a number, as long as it has few values, then a symbol, or minus one."""
        if value in self._sizes:
            return self._sizes[value]
        facts = self.settled.get(self._count, Facts())
        if not facts.varies or facts.number:
            number, self._count = self._count, self._count + 1
            try:
                return self.tracer.ask(value, "int" if facts.number else "whole")
            except TooMany:
                if facts.number:
                    raise
                raise Settle(number, varies=True) from None
        negative = self.tracer.ask(ops.lt(value, _value_of(0)), "bool")
        found = self._sizes[value] = -self._size(ops.neg(value), None) if negative else self._size(value, None)
        return found

    def _size(self, value: Value, most: DimLike | None) -> DimLike:
        number, self._count = self._count, self._count + 1
        facts = self.settled.get(number, Facts())
        if facts.number:
            return self.tracer.ask(value, "int")
        for d in facts.equal:
            if self._is_known(d) and self.tracer.ask(ops.eq(value, _value_of(d)), "bool"):
                return d
        factor = facts.factor
        if factor > 1 and self.tracer.ask(ops.eq(ops.mod(value, _value_of(factor)), _value_of(0)), "bool"):
            value, most = ops.floordiv(value, _value_of(factor)), None if most is None else most // factor
        else:
            factor = 1
        now = self.tracer.ask(value, "size")
        if now < 2:
            return now * factor
        symbol = dim.symbol(f"count{number}", 2, most)
        self.symbols[symbol], self.now[str(symbol)] = number, now
        self.route.define(symbol, ops.extent(value, size=symbol))
        if len(self.symbols) == 1 and not self.tracer.decides:
            self._before.append(decide_with(self))
        return symbol * factor

    def leave(self) -> None:
        """The trace is over: lets go of it."""
        if self._before:
            decide_with(self._before.pop())
        del self.tracer, self.route

    def _is_known(self, d: DimLike) -> bool:
        known = self.values()
        return all(str(s) in known for s in dim.symbols(d))

    # ---- what is asked of them

    def values(self) -> Mapping[str, int]:
        """Every symbol of the trace, in the present call."""
        return {**self.tracer.size_values, **self.now}

    def concern(self, *found: DimLike) -> bool:
        """Whether one of these depends on them."""
        return bool(self.symbols) and any(s in self.symbols for d in found for s in dim.symbols(d))

    def equal(self, a: Dim, b: DimLike) -> bool:
        difference = a - b
        if isinstance(difference, int):
            return difference == 0
        if dim.negative(difference) or dim.negative(-1 * difference):
            return False
        if dim.evaluate(difference, self.values()) == 0:
            self._settle(difference)
        return not self._ask(difference, ops.ne)

    def nonnegative(self, d: Dim) -> bool:
        return self._ask(d, ops.ge)

    def concrete(self, d: Dim) -> int:
        raise Settle(self.symbols[self._latest(d)])

    def forbid_empty(self, values: Iterable[Value]) -> None:
        """Sizes of new values that could be 0: whether they are is asked."""
        for d in dict.fromkeys(d for v in values for d in v.type.shape if isinstance(d, Dim)):
            low, _ = dim.bounds(d)
            if (low is None or low < 1) and self.concern(d):
                if dim.evaluate(d, self.values()) == 0:
                    self._settle(d)
                self._ask(d - 1, ops.ge)

    def _latest(self, d: Dim) -> Dim:
        return max((s for s in d.symbols() if s in self.symbols), key=self.symbols.__getitem__)

    def _settle(self, difference: Dim) -> NoReturn:
        """Makes use of difference == 0."""
        s = self._latest(difference)
        factor = difference.coefficient(s) if difference.is_linear_in(s) else 0
        if factor in (1, -1):
            raise Settle(self.symbols[s], s - difference * factor)
        raise Settle(self.symbols[s], factor=divisor(difference, s, self.now[str(s)]))

    def _ask(self, d: DimLike, sign: Any) -> bool:
        """Whether d >= 0, or d != 0."""
        if isinstance(d, int):
            return d >= 0 if sign is ops.ge else d != 0
        found = self._decided.get((d, sign.name))
        if found is None:
            found = in_trace(lambda: self.tracer.ask(sign(_value_of(d), _value_of(0)), "bool"))
            self._decided[d, sign.name] = bool(found)
        return bool(found)


def divisor(difference: Dim, s: Dim, now: int) -> int:
    """The number above 1 for whose multiples `s` (which is `now`, one of them) makes `difference` 0; 1: there is none."""
    for by in sorted({a.b for m, _ in difference.terms for a in m if isinstance(a.b, int) and a.b > 1}):
        if now % by == 0 and dim.same(dim.substitute(difference, {s: dim.symbol(f"{s}_{by}") * by}), 0):
            return by
    return 1


def _value_of(d: DimLike) -> Value:
    return ops.full(value=d, shape=(), dtype=int64)
