"""rsqrt."""

from __future__ import annotations

from ..scalar import Expr, apply
from .kit import Kit


def rsqrt(k: Kit, x: Expr) -> Expr:
    return 1.0 / apply("sqrt", x)
