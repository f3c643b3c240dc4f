"""What a trace with symbolic sizes takes for granted of the sizes of its arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir import dim
from ...ir.dim import Dim, DimLike


@dataclass(slots=True)
class SizesGuard:
    """Arguments have the shapes that the trace was made for, some of them symbolic.

    symbolic: by leaf, (how the user calls it, shape). shapes: of all tensors and arrays of the call that was captured;
    those that are not symbolic must be the same. relations: the guards of the trace that say more about the symbols.
    """

    symbolic: Mapping[int, tuple[str, tuple[DimLike, ...]]]
    shapes: Mapping[int, tuple[int, ...]]
    relations: tuple[RelationGuard, ...] = ()
    sources: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # name -> (leaf, axis, factor)
    text: str = ""

    def __post_init__(self) -> None:
        texts = []
        for leaf, (path, shape) in self.symbolic.items():
            texts.append(f"{path} is [{', '.join(map(str, shape))}]")
            for axis, d in enumerate(shape):
                if isinstance(d, Dim) and len(d.terms) == 1 and len(d.terms[0][0]) == 1:
                    ((atom,), factor) = d.terms[0]
                    if atom.kind == "sym" and self.sources.get(atom.name, (0, 0, 1 << 62))[2] > factor:
                        self.sources[atom.name] = (leaf, axis, factor)
        ranges = [_range(s) for s in self.symbols]
        self.text = ", ".join([*texts, *(r for r in ranges if r)])

    @property
    def symbols(self) -> list[Dim]:
        return sorted({s for _, shape in self.symbolic.values() for d in shape for s in dim.symbols(d)}, key=str)

    def bind(self, leaves: Any) -> dict[str, int]:
        """The value of each symbol. Only for leaves that `check` accepts."""
        return {name: leaves[k].shape[axis] // factor for name, (k, axis, factor) in self.sources.items()}

    def accepts_layout(self, leaves: Sequence[Any]) -> bool:
        """Whether these are arguments of the same ranks, so that sizes can be all that differs."""
        return all(
            leaf < len(leaves) and len(getattr(leaves[leaf], "shape", ())) == len(shape)
            for leaf, shape in self.shapes.items()
        )

    def check(self, leaves: Sequence[Any]) -> bool:
        if not self.accepts_layout(leaves):
            return False
        if any(leaf not in self.symbolic and leaves[leaf].shape != shape for leaf, shape in self.shapes.items()):
            return False
        values = self.bind(leaves)
        for s in self.symbols:
            low, high = dim.bounds(s)
            if values[str(s)] < (low or 0) or high is not None and values[str(s)] > high:
                return False
        return all(
            all(n == (d if isinstance(d, int) else dim.evaluate(d, values)) for d, n in zip(shape, leaves[leaf].shape))
            for leaf, (_, shape) in self.symbolic.items()
        )


@dataclass(slots=True)
class RelationGuard:
    """`difference sign 0`, of the symbols of `sizes`. sign: ">=", "==" or "!="."""

    sizes: SizesGuard
    difference: Dim
    sign: str
    text: str = ""

    def __post_init__(self) -> None:
        rest = self.difference - self.difference.constant
        if self.sign == ">=" and isinstance(rest, Dim) and all(c < 0 for _, c in rest.terms):
            self.text = f"{-1 * rest} <= {self.difference.constant}"
        else:
            self.text = f"{rest} {self.sign} {-self.difference.constant}"

    def check(self, leaves: Sequence[Any]) -> bool:
        return self.holds(dim.evaluate(self.difference, self.sizes.bind(leaves)))

    def holds(self, difference: int) -> bool:
        return difference >= 0 if self.sign == ">=" else (difference == 0) is (self.sign == "==")


def _range(s: Dim) -> str:
    low, high = dim.bounds(s)
    if high is not None:
        return f"{low} <= {s} <= {high}"
    return f"{s} >= {low}" if low else ""
