"""The containers that a trace may change, and what of the user's is made of them."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from . import policy

KINDS = (list, dict, set, deque, OrderedDict, defaultdict, Counter)


def kind_of(v: Any) -> Any:
    """Which of `KINDS` an object is; of the user's subclasses, which one they are made of.
    None for all others."""
    kind = type(v)
    if kind in KINDS:
        return kind
    if not isinstance(v, KINDS) or not policy.is_user(kind):
        return None
    return next(c for c in kind.__mro__ if c in KINDS)
