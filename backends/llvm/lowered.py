"""What code generation hands to the runtime for one kernel."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dim import DimLike


@dataclass(frozen=True, slots=True)
class Phase:
    """One parallel step. `tasks` independent units; a thread gets at least `grain` of them."""

    symbol: str
    tasks: DimLike
    grain: int = 1


@dataclass(frozen=True, slots=True)
class LoweredKernel:
    """LLVM text with one function per phase, and the memory they need besides the kernel's own parameters."""

    text: str
    phases: tuple[Phase, ...]
    workspace: DimLike = 0  # bytes, shared by all threads, 64-byte aligned
    thread_scratch: int = 0  # bytes per thread, 64-byte aligned

    @property
    def parallel(self) -> list[tuple[str, DimLike]]:
        """What runs beside each other, phase by phase: (symbol, tasks)."""
        return [(p.symbol, p.tasks) for p in self.phases]
