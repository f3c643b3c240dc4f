"""Optimisation fuel: every rewrite and fusion spends one unit, so that bisecting on the amount pins down a wrong one."""

from __future__ import annotations

from collections import Counter


class Fuel:
    """`limit` None: endless. `disabled`: names of passes whose rewrites are refused."""

    def __init__(self, limit: int | None = None, disabled: frozenset[str] = frozenset()):
        self.limit, self.disabled = limit, disabled
        self.spent: Counter[str] = Counter()

    def spend(self, what: str) -> bool:
        """Whether the rewrite `what` may happen; counts it if so."""
        if what in self.disabled or self.limit is not None and sum(self.spent.values()) >= self.limit:
            return False
        self.spent[what] += 1
        return True
