"""Reads size expressions."""

from __future__ import annotations

import re
from typing import Callable

from .dim import OPS, Dim, DimLike, floordiv, mod, symbol


def parse(text: str, scope: Callable[[str], DimLike] = symbol) -> DimLike:
    """Reads what `str(dim)` prints. Names are resolved by `scope`. ValueError on malformed text."""
    tokens = re.findall(r"\d+|[A-Za-z_][\w.]*|//|[-+*%(),]", text)
    if "".join(tokens) != text.replace(" ", ""):
        raise ValueError(f"not a size expression: {text!r}")
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take(expected: str = "") -> str:
        nonlocal position
        t = peek()
        if not t or expected and t != expected:
            raise ValueError(f"not a size expression: {text!r}")
        position += 1
        return t

    def atom() -> DimLike:
        t = take()
        if t == "-":
            return -atom()
        if t == "(":
            out = total()
            take(")")
            return out
        if t.isdigit():
            return int(t)
        if t in ("max", "min") and peek() == "(":
            take("(")
            a = total()
            take(",")
            b = total()
            take(")")
            return OPS[t](a, b)
        if not (t[0].isalpha() or t[0] == "_"):
            raise ValueError(f"not a size expression: {text!r}")
        return scope(t)

    def product() -> DimLike:
        out = atom()
        while peek() in ("*", "//", "%"):
            sign, right = take(), atom()
            if isinstance(out, Dim) and isinstance(right, Dim) and len(out.terms) * len(right.terms) > 256:
                raise ValueError(f"size expression {text!r} is too large")
            if sign != "*" and isinstance(right, int) and right <= 0:
                raise ValueError(f"division by {right} in size expression {text!r}")
            out = out * right if sign == "*" else floordiv(out, right) if sign == "//" else mod(out, right)
        return out

    def total() -> DimLike:
        out = product()
        while peek() in ("+", "-"):
            out = out + product() if take() == "+" else out - product()
        return out

    out = total()
    if position != len(tokens):
        raise ValueError(f"not a size expression: {text!r}")
    return out
