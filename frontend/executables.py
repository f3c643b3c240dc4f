"""What runs the graphs of compiled functions: `BACKENDS`, each of which makes executables with a `run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ir.graph import Graph
from .devices import host, moved, write


class ReferenceExecutable:
    """Runs a graph with the ops' NumPy references: `backend="reference"`."""

    def __init__(self, graph: Graph):
        self.graph = graph

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray | None]:
        """All outputs as fresh arrays; those that overwrite inputs are written there, and None here."""
        from ..ir.interpreter import run

        values = run(self.graph, inputs)
        specs = self.graph.signature.outputs
        shared = {id(a) for a in inputs}
        out: list[np.ndarray | None] = []
        for v, spec in zip(values, specs, strict=True):
            fresh = v.base is None and id(v) not in shared and v.flags.c_contiguous
            v = v if fresh and spec.kind != "write" else v.copy()
            shared.add(id(v))
            out.append(v)
        for k, spec in enumerate(specs):
            if spec.kind == "write":
                inputs[spec.target][...] = out[k]
                out[k] = None
        return out


def _reference(graph: Graph, gpu: Any = None, **how: Any) -> Any:
    return ReferenceExecutable(graph) if gpu is None else _OnHost(ReferenceExecutable(graph), gpu)


class _OnHost:
    """Runs an executable of the host on copies of arrays of a GPU."""

    def __init__(self, executable: ReferenceExecutable, gpu: Any):
        self.executable, self.graph, self.gpu = executable, executable.graph, gpu

    def run(self, inputs: list[Any]) -> list[Any]:
        """As the executable's; fresh outputs are on the GPU."""
        given = [host(a) for a in inputs]
        out = self.executable.run(given)
        for spec in self.graph.signature.outputs:
            if spec.kind == "write":
                write(inputs[spec.target], given[spec.target])
        return [None if a is None else moved(a, self.gpu) for a in out]


def _native(graph: Graph, gpu: Any = None, cuda_graphs: bool | None = None, elsewhere: Any = None, **how: Any) -> Any:
    if gpu is not None:
        from ..runtime.cuda.executable import build as build_for

        return build_for(graph, gpu, cuda_graphs=cuda_graphs, **how)
    from ..runtime.executable import build

    return _Contiguous(build(graph, elsewhere=elsewhere, **how))


class _Contiguous:
    """Gives native code contiguous copies of inputs that it writes and that are not contiguous themselves."""

    def __init__(self, executable: Any):
        self.executable = executable
        self.written = [s.target for s in executable.graph.signature.outputs if s.kind == "write"]

    def run(self, inputs: list[np.ndarray]) -> list[Any]:
        strided = [k for k in self.written if not inputs[k].flags.c_contiguous or not inputs[k].flags.aligned]
        if not strided:
            return self.executable.run(inputs)
        given = list(inputs)
        for k in strided:
            given[k] = np.array(inputs[k], order="C")
        out = self.executable.run(given)
        for k in strided:
            inputs[k][...] = given[k]
        return out


# Each makes an executable of a graph. `breathe`, if given, is called wherever it may be held up, or given up by an
# exception; `budget` is how many seconds it may spend on tuning; `gpu` is where it runs, if not on the CPU; for `cuda_graphs` see `Options`.
BACKENDS: dict[str, Callable[..., Any]] = {"llvm": _native, "reference": _reference}
