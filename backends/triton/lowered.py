"""What lowering to Triton gives: source, and all that a launch needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dim import Dim, DimLike
from ...ir.dtypes import DType


@dataclass(frozen=True, slots=True)
class TritonKernel:
    """Triton source of one function, `name`.

    Its arguments are pointers to `buffers` (name and element type, in the order of the kernel's parameters; booleans are
    bytes), the symbolic sizes `dims` as int64, then `constexprs` by name. `grid`: programs per grid dimension, over the
    sizes. The source stands alone: it needs nothing but triton. The buffers that are `aligned` begin at multiples of 16
    bytes.
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
    aligned: tuple[bool, ...] = ()

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
        return {(k,): [["tt.divisibility", 16]] for k, holds in enumerate(self.aligned) if holds}
