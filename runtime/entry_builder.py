"""What the parts of the native entry are written with: words of tables, loops over rows, one place to fail to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..backends.llvm.builder import Block, Function, Module, Val, i64

NULL = Val("null", "ptr")
SETTINGS = Val("@tf_entry_settings", "ptr")
MISSED = 1  # what tf_run returns when the plan declined
TRUE, FALSE = Val("true", "i1"), Val("false", "i1")


class Code:
    """A function under construction, with words to read and one place to fail to."""

    def __init__(self, m: Module, name: str, ret: str, params: list[tuple[str, str]], linkage: str = "internal"):
        # the frame grows with the trace: touch every page of it, so that a stack that is too small is noticed
        attrs = "nounwind" if linkage else 'nounwind uwtable "probe-stack"="inline-asm"'
        self.f: Function = m.function(name, ret, params, attrs, linkage)
        self.args = self.f.args
        self.no: Block = self.f.block("no")

    def at(self, base: Val, offset: int, type: str = "ptr") -> Val:
        """The field at a byte offset."""
        return self.f.load(type, self.f.gep("i8", base, i64(offset)))

    def word(self, base: Val, index: int, type: str = "i64") -> Val:
        return self.f.load(type, self.f.gep("i64", base, i64(index)))

    def place(self, base: Val, index: Val) -> Val:
        return self.f.gep("i64", base, index)

    def row(self, table: Val, index: Val, words: int) -> Val:
        return self.f.gep("i64", table, self.f.mul(index, i64(words)))

    def require(self, condition: Val) -> None:
        """Goes on where `condition` holds, else to `no`."""
        go_on = self.f.block("ok")
        self.f.cbr(condition, go_on, self.no)
        self.f.current = go_on

    def equal(self, x: Val, y: Val) -> Val:
        return self.f.cmp("eq", x, y)

    @contextmanager
    def rows(self, base: Val, count_at: int, words: int) -> Iterator[tuple[Val, Val]]:
        """for index, row in enumerate(table): a table's count stands before its address."""
        table = self.word(base, count_at + 1, "ptr")
        with self.f.loop(i64(0), self.word(base, count_at)) as each:
            yield each.index, self.row(table, each.index, words)

    def finish(self, yes: Val, no: Val) -> None:
        self.f.ret(yes)
        self.f.current = self.no
        self.f.ret(no)
