"""Reductions over the inner dimension of a tile: accumulators for looped stages, and the final fold across lanes."""

from __future__ import annotations

import math

from ...ir.dtypes import DType
from ...ir.kernel import Reduction
from .elements import Elements, Text
from .exprs import NAN_WINS, literal, type_name

NO_INDEX = 2**63 - 1  # the index of "none yet": later than every other

# Combining functions that tl has no reduction for. A kernel's source holds those that it uses.
COMBINE = {
    "nan_max": f"tl.maximum(a, b, {NAN_WINS})",
    "nan_min": f"tl.minimum(a, b, {NAN_WINS})",
    "product": "a * b",
    "plus": "a + b",
}


def identity(kind: str, dtype: DType) -> bool | int | float:
    """The value that a reduction starts from."""
    if kind == "sort":
        kind = "min"  # what is not there comes last
    if kind in ("sum", "prod"):
        return float(kind == "prod") if dtype.kind == "f" else int(kind == "prod")
    upward = kind in ("max", "argmax")
    if kind in ("any", "all") or dtype.kind == "b":
        return not upward and kind != "any"
    if dtype.kind == "f":
        return -math.inf if upward else math.inf
    low = 0 if dtype.kind == "u" else -(1 << (dtype.bits - 1))
    return low if upward else low + (1 << dtype.bits) - 1


class Accumulator:
    """One reduction of a stage. `helpers` collects the combining functions the source needs."""

    def __init__(self, elements: Elements, reduction: Reduction, helpers: set[str]):
        self.elements, self.writer = elements, elements.writer
        self.reduction, self.kind, self.dtype = reduction, reduction.kind, reduction.dtype
        self.helpers = helpers
        self.indexed = self.kind in ("argmax", "argmin")
        self.names: list[str] = []

    # ---- a loop over blocks
    def start(self) -> None:
        """Writes the initial accumulators, one element per point of the tile."""
        shape = self.elements.tile.shape()
        first = identity(self.kind, self.dtype)
        number = str(int(first)) if isinstance(first, bool) else literal(first)
        self.names = [self.writer.numbered("acc")]
        self.writer.line(f"{self.names[0]} = tl.full({shape}, {number}, {type_name(self.dtype)})")
        if self.indexed:
            self.names.append(self.writer.numbered("at"))
            self.writer.line(f"{self.names[1]} = tl.full({shape}, {NO_INDEX}, tl.int64)")

    def step(self, live: Text | None) -> None:
        """Writes the combination with one block; points outside `live` change nothing."""
        inputs = [self.elements.typed(x).operand for x in self.reduction.inputs]
        acc = self.names[0]
        if self.indexed:
            at = self.names[1]
            take = self.writer.numbered("take")
            better = self._better(inputs[0], inputs[1], acc, at)
            self.writer.line(f"{take} = {better}" if live is None else f"{take} = {live.operand} & ({better})")
            self.writer.line(f"{acc} = tl.where({take}, {inputs[0]}, {acc})")
            self.writer.line(f"{at} = tl.where({take}, {inputs[1]}, {at})")
            return
        joined = self._join(acc, inputs[0])
        self.writer.line(f"{acc} = {joined}" if live is None else f"{acc} = tl.where({live.text}, {joined}, {acc})")

    def _better(self, value: str, index: str, acc: str, at: str) -> str:
        """Whether (value, index) beats (acc, at): more extreme, NaN above all, the smaller index among equals."""
        sign = ">" if self.kind == "argmax" else "<"
        stronger, equal = f"({value} {sign} {acc})", f"({value} == {acc})"
        if self.dtype.kind == "f":
            stronger += f" | (({value} != {value}) & ({acc} == {acc}))"
            equal = f"({equal} | (({value} != {value}) & ({acc} != {acc})))"
        return f"{stronger} | ({equal} & ({index} < {at}))"

    def _join(self, a: str, b: str) -> str:
        if self.kind in ("sum", "prod"):
            return f"{a} {'+' if self.kind == 'sum' else '*'} {b}"
        if self.dtype.kind == "b":
            return f"{a} {'|' if self.kind in ('any', 'max') else '&'} {b}"
        nan = f", {NAN_WINS}" if self.dtype.kind == "f" else ""
        return f"tl.{self.kind}imum({a}, {b}{nan})"

    # ---- one block, and the end of a loop
    def whole(self, live: Text | None) -> None:
        """Instead of start and step: takes the one block that holds all points."""
        e, first = self.elements, identity(self.kind, self.dtype)
        number = str(bool(first)) if self.dtype.kind == "b" else literal(first)
        values = [e.full(e.typed(x)) for x in self.reduction.inputs]
        if live is not None:
            for k, other in enumerate([number, str(NO_INDEX)][: len(values)]):
                values[k] = e.full(Text(f"tl.where({live.text}, {values[k]}, {other})", e.tile.all))
        self.names = [self.writer.numbered("row") for _ in values]
        for name, text in zip(self.names, values, strict=True):
            self.writer.line(f"{name} = {text}")

    def finish(self) -> None:
        """Writes the fold across the tile's inner dimension and makes the results known."""
        column = f"[{', '.join(':' if k == 0 else 'None' for k in range(2))}]"
        value = self.writer.numbered("r")
        self.writer.line(f"{value} = {self._fold(self.names[0])}{column}")
        texts = [value]
        if self.indexed:
            row, at = self.names
            same = f"{row} == {value}"
            if self.dtype.kind == "f":
                same = f"({same}) | (({row} != {row}) & ({value} != {value}))"
            texts.append(self.writer.numbered("r"))
            self.writer.line(f"{texts[1]} = tl.min(tl.where({same}, {at}, {NO_INDEX}), 1){column}")
        for name, text in zip(self.reduction.names, texts, strict=True):
            self.elements.results[name] = Text(text, 1, self.writer.level)

    # ---- scans
    def start_scan(self) -> str:
        """Writes the total of the blocks before the first one, for each outer point; returns its name."""
        total = self.writer.numbered("total")
        first = literal(identity(self.kind, self.dtype))
        self.writer.line(f"{total} = tl.full({self.elements.tile.shape(1)}, {first}, {type_name(self.dtype)})")
        return total

    def scan(self, total: str | None) -> None:
        """Makes the running folds of the block known that `whole` took, after `total`, which takes the block in."""
        row, value = self.names[0], self.writer.numbered("r")
        self.elements.results[self.reduction.names[0]] = Text(value, 3, self.writer.level)
        if self.kind == "sort":
            assert total is None, "a block holds the whole row that it sorts"
            self.writer.line(f"{value} = tl.sort({row}, 1)")
            return
        helper = self._helper("plus" if self.kind == "sum" else "product")
        self.writer.line(f"{value} = tl.associative_scan({row}, 1, {helper})")
        if total is not None:
            self.writer.line(f"{value} = {self._join(total, value)}")
            self.writer.line(f"{total} = {self._join(total, f'tl.reduce({row}, 1, {helper})[:, None]')}")

    def _fold(self, acc: str) -> str:
        kind, dtype = self.kind.removeprefix("arg"), self.dtype
        if dtype.kind == "b":
            return f"(tl.{'max' if kind in ('any', 'max') else 'min'}({acc}.to(tl.int32), 1) != 0)"
        if kind == "prod":
            return f"tl.reduce({acc}, 1, {self._helper('product')})"
        if kind in ("max", "min") and dtype.kind == "f":
            return f"tl.reduce({acc}, 1, {self._helper(f'nan_{kind}')})"
        folded = f"tl.{kind}({acc}, 1)"
        return folded if dtype.bits >= 32 else f"{folded}.to({type_name(dtype)})"  # tl widens narrow integers

    def _helper(self, name: str) -> str:
        self.helpers.add(name)
        return name
