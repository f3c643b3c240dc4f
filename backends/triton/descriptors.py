"""Operands that the hardware copies block by block: matrices in memory, said to be such by a tensor descriptor. What lies
outside of the matrix comes as 0."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dtypes import DType
from ...ir.kernel import Axis, Kernel, matrix_strides
from ...ir.scalar import Expr

ALIGNMENT = 16  # bytes: of the memory, and of the stride between its runs


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A matrix `buffer` in memory: `runs` of `length` elements, one after another `stride` elements apart. turned: runs are
    columns of the operand."""

    buffer: str
    runs: int
    length: int
    stride: int
    turned: bool

    def made(self, block: tuple[str, str]) -> str:
        """Its source text. `block`: the sizes of a block of the operand, by name."""
        first, second = block[::-1] if self.turned else block
        shape, strides = f"[{self.runs}, {self.length}]", f"[{self.stride}, 1]"
        return f"tl.make_tensor_descriptor({self.buffer}, {shape}, {strides}, [{first}, {second}])"

    def load(self, name: str, row: str, column: str) -> str:
        """The block of the operand that begins with that row and column."""
        return f"{name}.load([{column}, {row}]).T" if self.turned else f"{name}.load([{row}, {column}])"


def descriptor(kernel: Kernel, e: Expr, rows: tuple[Axis, ...], columns: tuple[Axis, ...]) -> Descriptor | None:
    """That of an operand with these axes; None if it is no matrix, or not aligned as the hardware wants it."""
    strides = matrix_strides(kernel, e, rows, columns)
    if strides is None or 1 not in strides:
        return None
    turned = strides[0] == 1
    (a,), (b,) = (columns, rows) if turned else (rows, columns)
    stride = strides[1] if turned else strides[0]
    if not isinstance(a.extent, int) or not isinstance(b.extent, int) or not _aligned(stride, e.dtype):
        return None
    return Descriptor(e.attr.buffer, a.extent, b.extent, stride, turned)


def _aligned(stride: int, dtype: DType) -> bool:
    return dtype.kind != "b" and stride > 0 and stride * dtype.itemsize % ALIGNMENT == 0
