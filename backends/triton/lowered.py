"""What lowering to Triton gives: source, and all that a launch needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...ir import dim
from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType
from ...ir.kernel import Kernel
from .indices import LIMIT


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """Triton source of one function, `name`.

    Its arguments are pointers to `buffers` (name and element type, in the order of the kernel's parameters; booleans are
    bytes), the symbolic sizes `dims` as int64, then `constexprs` by name. `grid`: programs per grid dimension, over the
    sizes. The source stands alone: it needs nothing but triton.

    What its launches have to keep: indices have `index_bits`, and 32 are enough while all sizes in `reach` are below
    `LIMIT`; the buffers that are `aligned` begin at multiples of 16 bytes; the sizes in `multiples` are multiples of 16.
    """

    name: str
    source: str
    buffers: tuple[tuple[str, DType], ...]
    dims: tuple[Dim, ...]
    dim_names: tuple[str, ...]
    constexprs: tuple[tuple[str, int], ...]
    grid: tuple[DimLike, ...]
    num_warps: int = 4
    num_stages: int = 3
    index_bits: int = 64
    reach: tuple[DimLike, ...] = ()
    aligned: tuple[bool, ...] = ()
    multiples: frozenset[Dim] = frozenset()

    @property
    def parallel(self) -> list[tuple[str, DimLike]]:
        """What runs beside each other: (name, programs)."""
        return [(self.name, dim.numel(self.grid))]

    @property
    def signature(self) -> dict[str, str]:
        """Argument types as triton.compile wants them."""
        from .exprs import memory_dtype_name

        out = {name: f"*{memory_dtype_name(dtype)}" for name, dtype in self.buffers}
        out |= {name: "i64" for name in self.dim_names}
        return out | {name: "constexpr" for name, _ in self.constexprs}

    @property
    def attrs(self) -> dict[tuple[int, ...], list[list[object]]]:
        """Which arguments are multiples of 16, as triton.compile wants it: without that it writes no vector loads."""
        known = [*self.aligned, *(d in self.multiples for d in self.dims)]
        return {(k,): [["tt.divisibility", 16]] for k, holds in enumerate(known) if holds}

    def fits_32_bits(self, sizes: Mapping[str, int]) -> bool:
        """Whether indices of 32 bits are enough for a launch with these sizes."""
        return all(dim.evaluate(d, sizes) < LIMIT for d in self.reach)


def annotated(kernel: Kernel, lowered: TritonKernel) -> str:
    """The source as people read it: with the lines of their program that it came from, which are no part of what is
    compiled, as equal kernels of different lines are one."""
    return "".join(f"# {line}\n" for line in kernel.sources) + lowered.source
