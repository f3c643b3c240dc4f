"""Symbolic sizes in the user's code. Comparisons where there is no call to answer them (export): decided where every
size gives the same answer, else refused. And the floats that are computed from sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from ...ir import ops
from ...ir.decider import decider
from ...ir.dim import Dim, bounds, negative, nonnegative
from ...ir.dtypes import float64
from ...ir.graph import Value
from ..tensor import Tensor
from .scalars import ScalarArgument

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


class SizeNumber(ScalarArgument):
    """A float that was computed from symbolic sizes. Where Python needs the number, that of `leaf` is settled.

    positive: known to be greater than 0, so that Python's division and square root can't fail.
    """

    __slots__ = ("positive",)

    def __init__(self, value: Value, leaf: Dim, positive: bool = False):
        super().__init__(value, leaf)
        self.positive = positive

    def concrete(self) -> NoReturn:
        found = decider()
        assert found is not None
        found.concrete(self.leaf)
        raise AssertionError("a capture that should have started again")

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, (int, float, Dim)) and other != 0 or isinstance(other, SizeNumber) and other.positive:
            return self._with(other, ops.div)
        return NotImplemented if isinstance(other, Tensor) else self.concrete()

    def __rtruediv__(self, other: Any) -> Any:
        if isinstance(other, (int, float, Dim)) and self.positive:
            return self._with(other, ops.div, True)
        return NotImplemented if isinstance(other, Tensor) else self.concrete()

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, float) and other in (0.5, -0.5):
            root = square_root(self)
            return root if other > 0 else 1.0 / root
        return NotImplemented if isinstance(other, Tensor) else self.concrete()


class Answers(ABC):
    """What every `Decider` that knows a call answers alike."""

    @abstractmethod
    def concrete(self, d: Dim) -> int:
        """See `Decider`."""

    def real(self, d: Dim) -> Any:
        return real(d)

    def hashed(self, d: Dim, module: str) -> None:
        from .policy import is_library

        if not is_library(module):
            self.concrete(d)


def real(size: Dim) -> SizeNumber:
    """float(size)."""
    return SizeNumber(ops.full(value=size, shape=(), dtype=float64), size, size >= 1)


def square_root(x: Dim | SizeNumber) -> SizeNumber:
    """math.sqrt of a size, or of a number computed from one."""
    number = real(x) if isinstance(x, Dim) else x
    if not number.positive:
        number.concrete()
    return SizeNumber(ops.sqrt(number.value), number.leaf, True)
