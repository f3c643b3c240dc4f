"""Writes indented text whose lines may still go to an enclosing block while an inner one is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Block:
    """The lines of one indentation level, and what is known to have a name in it."""

    lines: list[str] = field(default_factory=list)
    memo: dict[tuple, Any] = field(default_factory=dict)


class Writer:
    """Blocks from the outermost to the innermost open one. What does not depend on a loop is written to the block around
    it: that is hoisting, since a loop's header is only written when its body is complete."""

    def __init__(self) -> None:
        self.blocks: list[Block] = [Block()]
        self._taken: set[str] = set()

    @property
    def level(self) -> int:
        """The innermost open block."""
        return len(self.blocks) - 1

    def line(self, text: str, level: int = -1) -> None:
        self.blocks[level].lines.append(text)

    @contextmanager
    def indented(self, header: str) -> Iterator[None]:
        self.blocks.append(Block())
        yield
        body = self.blocks.pop()
        self.blocks[-1].lines += [header, *(f"    {line}" for line in body.lines)]

    def name(self, wanted: str) -> str:
        """`wanted`, or that with a number if it is taken already."""
        base = "".join(c if c.isalnum() or c == "_" else "_" for c in wanted)
        out, count = base, 0
        while out in self._taken:
            count += 1
            out = f"{base}_{count}"
        self._taken.add(out)
        return out

    def numbered(self, prefix: str) -> str:
        """A fresh name: `prefix` and the next free number."""
        key = ("numbered", prefix)
        count = self.blocks[0].memo.get(key, 0)
        while f"{prefix}{count}" in self._taken:
            count += 1
        self.blocks[0].memo[key] = count + 1
        return self.name(f"{prefix}{count}")

    @property
    def lines(self) -> list[str]:
        """All that was written, once every block is closed."""
        (block,) = self.blocks
        return block.lines
