"""Who answers, while a call is traced, what only the numbers behind symbolic sizes can answer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .dim import Dim, DimLike


class Decider(Protocol):
    """Answers what no rule decides, from the sizes of the call that is being traced."""

    def equal(self, a: Dim, b: DimLike) -> bool:
        """Whether a == b, which are not structurally equal."""
        ...

    def nonnegative(self, d: Dim) -> bool: ...

    def concrete(self, d: Dim) -> int:
        """The number itself, where nothing else will do."""
        ...

    def real(self, d: Dim) -> Any:
        """What stands for float(d)."""
        ...

    def hashed(self, d: Dim, module: str) -> None:
        """Code of `module` asks for the hash, perhaps to look `d` up among numbers."""
        ...


class _Asked(threading.local):
    decider: Decider | None = None


_asked = _Asked()
at_work = 0  # deciders in all threads, so that nobody pays for them where there are none


def decide_with(decider: Decider | None) -> Decider | None:
    """Has `decider` (None: nobody) answer in this thread; returns who did before."""
    global at_work
    before = _asked.decider
    at_work += (decider is not None) - (before is not None)
    _asked.decider = decider
    return before


def decider() -> Decider | None:
    """Who answers in this thread."""
    return _asked.decider if at_work else None
