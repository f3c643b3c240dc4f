"""What the GPU kernels of whole training steps take, compiled without a GPU: registers, spills, shared memory.

    python benchmarks/gpu_kernels.py                         # every model, sm_80 and sm_90
    python benchmarks/gpu_kernels.py mlp lstm --capability 90
    python benchmarks/gpu_kernels.py --totals                # one line for each model and kind of kernel

Exit status 1 if a kernel without a contraction spills, or any takes more shared memory than there is. Triton keeps what
it has compiled, so a second run is quick.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata

from common import table
from gpu_models import MODELS, training_graphs
from tracefuse.backends.triton.emit import lower_kernel
from tracefuse.backends.triton.lowered import TritonKernel
from tracefuse.ir.kernel import Kernel
from tracefuse.ir.plan import Step
from tracefuse.ir.target import cuda_target
from tracefuse.passes.pipeline import compile_graph

SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KB of a program, at most, by compute capability
LONGEST = 60  # characters of a list of ops
TAKES = {"registers": "registers", "spills": "spilled bytes", "shared": "shared bytes"}


@dataclass(slots=True)
class Row:
    """One kernel on one machine, the models that it is part of, and what it takes."""

    kernel: Kernel
    lowered: TritonKernel
    capability: int
    blocks: tuple[int, ...]
    models: list[str]
    registers: int = 0
    spills: int = 0
    shared: int = 0

    @property
    def kind(self) -> str:
        k = self.kernel
        if k.anchor is not None:
            named = [name for name in ("conv", "matmul") if name in k.ops]
            return named[0] if named else type(k.anchor).__name__.lower()
        if k.scatters:
            return "scatter"
        if any(r.running for s in k.stages for r in s.reductions):
            return "scan"
        return "reduction" if any(s.axes for s in k.stages) else "pointwise"

    @property
    def fault(self) -> str:
        """What is wrong with it, if anything is."""
        if self.shared > 1024 * SHARED.get(self.capability, max(SHARED.values())):
            return f"takes {self.shared} bytes of shared memory, more than there are"
        return f"spills {self.spills} bytes" if self.spills and self.kernel.anchor is None else ""


def rows_of(models: Iterable[str], capabilities: Sequence[int], small: bool = False) -> list[Row]:
    """The distinct kernels of the models' training steps, not compiled yet."""
    found: dict[tuple, Row] = {}
    for model in models:
        for graph in training_graphs(*MODELS[model](small)):
            for capability in capabilities:
                target = cuda_target(capability)
                for step in compile_graph(graph, target).steps:
                    assert isinstance(step, Step), f"{model}: {step.node.op.name} is no kernel"
                    key = (step.kernel.name, step.schedule, capability)
                    if key not in found:
                        lowered = lower_kernel(step.kernel, step.schedule, target)
                        found[key] = Row(step.kernel, lowered, capability, step.schedule.blocks, [])
                    if model not in found[key].models:
                        found[key].models.append(model)
    return list(found.values())


def compile_rows(rows: Sequence[Row], jobs: int) -> None:
    """Fills in what the kernels take. They are compiled by `jobs` processes that do not interpret kernels."""
    kernels = [replace(row.lowered, dims=(), grid=()) for row in rows]  # what a compiler needs
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_compiles) as pool:
        for row, taken in zip(rows, pool.map(_taken, kernels, [row.capability for row in rows]), strict=True):
            row.registers, row.spills, row.shared = taken


def _compiles() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


def _taken(kernel: TritonKernel, capability: int) -> tuple[int, int, int]:
    from tracefuse.backends.triton.compile import compile_kernel

    done = compile_kernel(kernel, capability)
    return done.registers, done.spills, done.shared


# ------------------------------------------------------------------ tables


def kernels_table(rows: Sequence[Row]) -> str:
    """A line for each kernel; its columns hold one number for each machine, in order, where they differ."""
    machines = sorted({row.capability for row in rows})
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(row.kernel.name, []).append(row)
    cells = []
    for same in sorted(lines.values(), key=lambda same: (same[0].kind, -max(r.registers for r in same))):
        ops = ", ".join(same[0].kernel.ops)
        ops = ops if len(ops) <= LONGEST else f"{ops[: LONGEST - 3]}..."
        models = ", ".join(dict.fromkeys(m for r in same for m in r.models))
        blocks = _each(["x".join(map(str, r.blocks)) for r in same])
        takes = [_each([getattr(r, what) for r in same]) for what in TAKES]
        warps = _each([r.lowered.num_warps for r in same])
        cells.append([same[0].kernel.name[2:10], models, ops, same[0].kind, blocks, warps, *takes])
    title = f"{len(lines)} kernels, sm_{' / sm_'.join(map(str, machines))}"
    return table(title, ["kernel", "models", "ops", "kind", "block", "warps", *TAKES.values()], cells)


def _each(values: Sequence[object]) -> str:
    """The values, or the one that they all are."""
    texts = list(map(str, values))
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def totals_table(rows: Sequence[Row]) -> str:
    """A line for each model and kind, with one number for each machine where they differ."""
    machines = sorted({row.capability for row in rows})
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for model in row.models:
            groups.setdefault((model, row.kind), []).append(row)
    order = list(MODELS)
    cells = []
    for (model, kind), group in sorted(groups.items(), key=lambda g: (order.index(g[0][0]), g[0][1])):
        each = [[row for row in group if row.capability == capability] for capability in machines]
        most = [_each([max(getattr(r, what) for r in same) for same in each]) for what in TAKES]
        spilling = _each([sum(r.spills > 0 for r in same) for same in each])
        cells.append([model, kind, _each(list(map(len, each))), *most, spilling])
    return table("the most of each kind", ["model", "kind", "kernels", *TAKES.values(), "kernels that spill"], cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="model", help=", ".join(MODELS))
    parser.add_argument("--capability", type=int, nargs="+", default=[80, 90], help="80 for sm_80, and so on")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile")
    parser.add_argument("--small", action="store_true", help="the models' structure in a few numbers")
    parser.add_argument("--totals", action="store_true", help="leave out the lines of single kernels")
    options = parser.parse_args()
    unknown = [m for m in options.models if m not in MODELS]
    if unknown:
        parser.error(f"no model {', '.join(unknown)}: they are {', '.join(MODELS)}")
    rows = rows_of(options.models, options.capability, options.small)
    compile_rows(rows, options.jobs)
    if not options.totals:
        print(kernels_table(rows), end="\n\n")
    print(totals_table(rows))
    faulty = [row for row in rows if row.fault]
    compiled = f"{len({row.kernel.name for row in rows})} kernels by triton {metadata.version('triton')}"
    print(f"\n{compiled}: {len(faulty)} at fault; {sum(row.spills > 0 for row in rows)} spill, of contractions or not")
    for row in faulty:
        print(f"{row.lowered.name} on sm_{row.capability} {row.fault}")
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
