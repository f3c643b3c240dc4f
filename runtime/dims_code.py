"""The sizes of a trace, natively: which of them arguments bind, and the code that computes and checks the others.

    i32 derive(ptr dims)

`dims` begins with the sizes that the plan reads. Sizes that stand in shapes of arguments have been put there by the
guards; this fills in the rest, and returns 1 where sizes do not go together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

from ..backends.llvm import engine
from ..backends.llvm.builder import Module, Val, i32, i64
from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.target import Target
from .plan_code import Sizes
from .trace_spec import Size, Slot

NO_LIMIT = (1 << 62) - 1


class UnknownSize(Exception):
    """No argument says how large a symbol is."""


class Dims:
    """Gives sizes their slots. `first`: what the plan reads, in its order.

    The shapes of arguments come first (`argument`), then whatever else the trace needs (`size`), then `derive`.
    """

    def __init__(self, first: Iterable[Dim]):
        self.symbols: dict[str, Dim] = {str(d): d for d in first}
        self.slots: dict[str, int] = {name: k for k, name in enumerate(self.symbols)}
        self.given: dict[str, Dim] = {}  # by text: what arguments bind
        self.wanted: dict[str, Dim] = {}

    def argument(self, d: DimLike) -> Size:
        """A size in the shape of an argument."""
        if isinstance(d, int):
            return d
        self._note(d)
        self.given[str(d)] = d
        low, high = dim.bounds(d)
        return Slot(self._slot(d), max(0, low or 0), NO_LIMIT if high is None else high)

    def size(self, d: DimLike) -> Size:
        """Any other size."""
        if isinstance(d, int):
            return d
        self._note(d)
        if str(d) not in self.given:
            self.wanted[str(d)] = d
        return Slot(self._slot(d))

    def only(self, symbols: Iterable[Dim]) -> None:
        """Forgets what was wanted so far, and all symbols but these: somebody else computes that."""
        self.symbols = {str(s): s for s in symbols}
        self.wanted.clear()

    def _note(self, d: Dim) -> None:
        self.symbols |= {str(s): s for s in d.symbols()}

    def _slot(self, d: Dim) -> int:
        return self.slots.setdefault(str(d), len(self.slots))

    def derive(
        self, relations: list[tuple[Dim, str]], target: Target, link: Callable[[str], engine.Code]
    ) -> tuple[int, Any]:
        """(address of `derive`, what keeps it alive); (0, None) where there is nothing to do.

        relations: (d, sign) for `d sign 0`, sign one of ">=", "==" and "!=". UnknownSize: a symbol that no argument gives.
        """
        for d, _ in relations:
            self._note(d)
        open_ones = [s for name, s in self.symbols.items() if name not in self.given]
        checked = [d for d in self.given.values() if not str(d).isidentifier()]
        if not (relations or open_ones or checked or self.wanted):
            return 0, None
        module = Module(target.triple)
        f = module.function("derive", "i32", [("ptr noalias", "dims")], "nounwind")
        no = f.block("no")

        def place(d: Dim) -> Val:
            return f.gep("i64", f.args[0], i64(self.slots[str(d)]))

        def require(condition: Val) -> None:
            go_on = f.block("ok")
            f.cbr(condition, go_on, no)
            f.current = go_on

        values = {s: f.load("i64", place(s), 8) for name, s in self.symbols.items() if name in self.given}
        emit = Sizes(f, values)
        for s in open_ones:
            given, factor = self._multiple_of(s)
            found = f.load("i64", place(given), 8)
            require(f.cmp("eq", f.binary("urem", found, i64(factor)), i64(0)))
            values[s] = f.binary("udiv", found, i64(factor))
            low, high = dim.bounds(s)
            require(f.cmp("sge", values[s], i64(low or 0)))
            if high is not None:
                require(f.cmp("sle", values[s], i64(high)))
        for d in checked:
            require(f.cmp("eq", f.load("i64", place(d), 8), emit(d)))
        for d, sign in relations:
            require(f.cmp({">=": "sge", "==": "eq", "!=": "ne"}[sign], emit(d), i64(0)))
        for s in open_ones:
            if str(s) in self.slots:
                f.store(values[s], place(s), 8)
        for d in self.wanted.values():
            f.store(emit(d), place(d), 8)
        f.ret(i32(0))
        f.current = no
        f.ret(i32(1))
        text = str(module)
        name = f"derive_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        code = link(text.replace("@derive(", f"@{name}("))
        return code.address(name), code

    def _multiple_of(self, s: Dim) -> tuple[Dim, int]:
        """A size of an argument that is a multiple of `s`, and of how many."""
        for d in self.given.values():
            if len(d.terms) == 1 and d.terms[0][1] > 0 and dim.same(s * d.terms[0][1], d):
                return d, d.terms[0][1]
        raise UnknownSize(str(s))
