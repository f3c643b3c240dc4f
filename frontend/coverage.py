"""What each op has, told by its declaration and by compiling its samples.

`docs/coverage.md` is made of this (`python -m tracefuse.frontend.coverage > docs/coverage.md`).
"""

from __future__ import annotations

from ..ir.batching import lane_by_lane
from ..ir.dtypes import from_numpy
from ..ir.graph import Graph, GraphBuilder
from ..ir.op import NO_GRADIENT, REGISTRY, OpDef
from ..ir.plan import Plan, Step
from ..ir.target import AVX512, CUDA_SM90
from ..ir.text import format_graph, parse_graph
from ..ir.types import TensorType

_HEAD = """# What each op has

Made from the registry by `python -m tracefuse.frontend.coverage > docs/coverage.md`; a test holds it to the code.

- **reference**: every op has one, in NumPy: its meaning, and what eager code calls.
- **gradient**: a `rule` of its own, that of its `parts` (the ops it decomposes into), or `none`: its results do not depend
  differentiably on its operands.
- **batching** (`vmap`): by `broadcasting`, a `rule`, its `parts`, or the op called `one by one`.
- **LLVM**, **Triton**: whether its samples become `kernels` of the backend, alone or fused, or the plan calls the reference
  (a `host` step), and with which ops or for which types. Control flow is the one difference: a plan for CPUs runs the graphs
  of `cond`, `while` and `scan` in machine code; a GPU's kernels are started one by one from the host, where these are steps too.
- **export**: whether graphs with it go through the text form of `.tfx` files unchanged.

"""


def coverage_page() -> str:
    """The page, as Markdown."""
    rows = [
        "| op | kind | reference | gradient | batching | LLVM | Triton | export |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = sorted(n for n, op in REGISTRY.items() if op.samples is not None)
    for name in names:
        op = REGISTRY[name]
        graphs = _graphs(op)
        cells = (name, op.kind, "yes", _gradient(op), _batching(op), _llvm(graphs), _triton(graphs), _export(graphs))
        rows.append(f"| {' | '.join(cells)} |")
    return f"{_HEAD}{len(names)} ops.\n\n" + "\n".join(rows) + "\n"


def _graphs(op: OpDef) -> list[Graph]:
    """A graph of the op alone for each of its samples."""
    graphs = []
    for sample in op.samples() if op.samples is not None else ():
        b = GraphBuilder(op.name)
        inputs = [b.input(TensorType(from_numpy(a.dtype), a.shape), f"x{k}") for k, a in enumerate(sample.args)]
        graphs.append(b.finish(b.emit(op, tuple(inputs), sample.attrs)))
    return graphs


def _gradient(op: OpDef) -> str:
    if op.vjp is NO_GRADIENT:
        return "none"
    return "parts" if op.vjp == "decompose" else "rule"


def _batching(op: OpDef) -> str:
    if op.batch is lane_by_lane:
        return "one by one"
    if op.batch is not None:
        return "rule"
    return "broadcasting" if op.kind == "pointwise" else "parts" if op.kind == "composite" else "one by one"


def _plans(graphs: list[Graph], target) -> list[Plan]:
    from ..passes.pipeline import compile_graph

    return [compile_graph(g, target) for g in graphs]


def _llvm(graphs: list[Graph]) -> str:
    return _placed(_plans(graphs, AVX512))


def _triton(graphs: list[Graph]) -> str:
    from ..backends.triton.emit import lower_kernel

    plans = _plans(graphs, CUDA_SM90)
    for p in plans:
        for step in p.steps:
            if isinstance(step, Step):
                lower_kernel(step.kernel, step.schedule, CUDA_SM90)
    return _placed(plans)


def _placed(plans: list[Plan]) -> str:
    plans = [p for p in plans if p.steps]  # samples without elements need none
    reasons = sorted({s.node.op.name for p in plans for s in p.host_steps})
    if not reasons:
        return "kernels"
    return f"host ({', '.join(reasons)})" if all(p.host_steps for p in plans) else "kernels; host for some types"


def _export(graphs: list[Graph]) -> str:
    return "yes" if all(format_graph(parse_graph(format_graph(g))) == format_graph(g) for g in graphs) else "no"


if __name__ == "__main__":
    print(coverage_page(), end="")
