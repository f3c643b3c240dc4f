"""Comparisons of symbolic sizes in the user's code: decided where every size gives the same answer, else refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from ...ir.dim import Dim, bounds, negative, nonnegative

if TYPE_CHECKING:
    from .tracer import Tracer


class ComparedSize:
    """Stands for a Dim while it is compared. A trace holds for every size, so an answer that depends on it ends it."""

    __slots__ = ("size", "tracer")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, size: Dim, tracer: Tracer):
        self.size, self.tracer = size, tracer

    def _undecided(self, sign: str, other: Any) -> NoReturn:
        self.tracer.stop(f"whether {self.size} {sign} {other} depends on the symbolic size")

    def __eq__(self, other: object) -> bool:
        other = plain(other)
        if not isinstance(other, (int, Dim)):
            return False
        difference = self.size - other
        if isinstance(difference, int):
            return difference == 0
        if negative(difference) or negative(-difference):
            return False
        low, high = bounds(difference)
        if low == high == 0:
            return True
        self._undecided("==", other)

    def __lt__(self, other: Any) -> bool:
        other = plain(other)
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        if nonnegative(self.size - other):
            return False
        if nonnegative(other - self.size - 1):
            return True
        self._undecided("<", other)

    def __le__(self, other: Any) -> bool:
        other = plain(other)
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self < other + 1

    def __gt__(self, other: Any) -> bool:
        other = plain(other)
        return NotImplemented if not isinstance(other, (int, Dim)) else not self <= other

    def __ge__(self, other: Any) -> bool:
        other = plain(other)
        return NotImplemented if not isinstance(other, (int, Dim)) else not self < other


def plain(x: Any) -> Any:
    """The size itself."""
    return x.size if isinstance(x, ComparedSize) else x
