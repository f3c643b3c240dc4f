"""`Dim`: a size that may change from call to call, as `compile` and `export` are told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..ir.dim import Dim as Symbol
from ..ir.dim import symbol

_TAKEN = re.compile(r"[a-z]\d*|acc|img|size\d+")  # how kernels name their loops, and `compile` the sizes it finds


@dataclass(frozen=True, slots=True)
class Dim:
    """A dynamic size: its name, and the least and greatest value that it may have (None: no limit)."""

    name: str
    min: int = 1
    max: int | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"a dynamic size needs an identifier as its name, not {self.name!r}")
        if self.min < 1 or self.max is not None and self.max < self.min:
            raise ValueError(f"dynamic size {self.name}: [{self.min}, {self.max}] is no range of sizes from 1 on")

    def symbol(self) -> Symbol:
        name = self.name + "_" if _TAKEN.fullmatch(self.name) else self.name
        return symbol(name, self.min, self.max)

    @property
    def range(self) -> str:
        """The range in words."""
        return f"from {self.min} on" if self.max is None else f"from {self.min} to {self.max}"
