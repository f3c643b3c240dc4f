"""A table of a model: its modules, the shapes of their results, and where its parameters are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..autograd import no_grad
from ..tensor import Tensor
from .hooks import Hook, add_hook
from .module import Module


@dataclass(frozen=True)
class Row:
    """One module: its dotted name and depth, class, the shape of its result (None if it was not called; a list of
    shapes for several), the numbers in its own parameters and in all below it."""

    name: str
    depth: int
    kind: str
    output_shape: Any
    own_parameters: int
    parameters: int


@dataclass(frozen=True)
class Summary:
    """What `summary` found. `str` of it is the table."""

    rows: tuple[Row, ...]
    total_parameters: int
    trainable_parameters: int
    parameter_bytes: int
    buffer_bytes: int

    def __str__(self) -> str:
        head = ("module", "output shape", "parameters", "share")
        body: list[tuple[str, ...]] = [head]
        for r in self.rows:
            share = f"{100 * r.parameters / self.total_parameters:.1f} %" if self.total_parameters else ""
            last = r.name.rpartition(".")[2]
            title = f"{'  ' * r.depth}{last} ({r.kind})" if last else r.kind
            shape = "" if r.output_shape is None else str(r.output_shape)
            body.append((title, shape, f"{r.parameters:,}" if r.parameters else "", share if r.parameters else ""))
        widths = [max(len(line[i]) for line in body) for i in range(4)]

        def line(cells: tuple[str, ...]) -> str:
            left = [c.ljust(w) for c, w in zip(cells[:2], widths[:2])]
            right = [c.rjust(w) for c, w in zip(cells[2:], widths[2:])]
            return "  ".join((*left, *right)).rstrip()

        rule = "-" * (sum(widths) + 6)
        frozen = self.total_parameters - self.trainable_parameters
        total = f"{self.total_parameters:,} parameters, {self.trainable_parameters:,} trainable, {frozen:,} frozen"
        memory = f"{_size(self.parameter_bytes)} in parameters, {_size(self.buffer_bytes)} in buffers"
        return "\n".join((line(head), rule, *map(line, body[1:]), rule, total, memory))

    __repr__ = __str__


def summary(module: Module, *inputs: Any, depth: int | None = None, **kwargs: Any) -> Summary:
    """The modules of `module` down to `depth` (None: all of them), with the shapes that they give for these inputs.

    Without inputs nothing is run, and no shapes are known. With them the module runs once, in evaluation mode and
    without gradients. Shared parameters count once in the totals, and in each module that has them.
    """
    shapes = _output_shapes(module, inputs, kwargs) if inputs or kwargs else {}
    rows = []
    for name, m in module.named_modules(remove_duplicate=False):
        level = name.count(".") + 1 if name else 0
        if depth is None or level <= depth:
            own = sum(_count(p) for p in m.parameters(recurse=False))
            below = sum(_count(p) for p in m.parameters())
            rows.append(Row(name, level, type(m).__name__, shapes.get(id(m)), own, below))
    parameters = list(module.parameters())
    return Summary(
        tuple(rows),
        sum(_count(p) for p in parameters),
        sum(_count(p) for p in parameters if p.requires_grad),
        sum(_count(p) * p.dtype.bits // 8 for p in parameters),
        sum(_count(b) * b.dtype.bits // 8 for b in module.buffers()),
    )


def _output_shapes(module: Module, inputs: tuple, kwargs: dict[str, Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}

    def note(m: Module, args: tuple, out: Any) -> None:
        found[id(m)] = _shapes(out)

    modes = [(m, m.training) for m in module.modules()]
    handles = [add_hook(m, "_forward_hooks", Hook(note)) for m, _ in modes]
    try:
        module.eval()
        with no_grad():
            module(*inputs, **kwargs)
    finally:
        for h in handles:
            h.remove()
        for m, mode in modes:
            m.training = mode
    return found


def _shapes(out: Any) -> Any:
    if isinstance(out, Tensor):
        return tuple(out.shape)
    if isinstance(out, dict):
        return {k: _shapes(v) for k, v in out.items()}
    if isinstance(out, (tuple, list)):
        return [_shapes(v) for v in out]
    return None


def _count(t: Tensor) -> int:
    return math.prod(t.shape)


def _size(n: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= scale:
            return f"{n / scale:.1f} {unit}"
    return f"{n} B"
