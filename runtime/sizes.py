"""The symbolic sizes of a graph, read off the arrays that it is run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..ir import dim
from ..ir.dim import DimLike
from ..ir.graph import Graph
from ..ir.interpreter import dim_sources


class GraphSizes:
    """Where the sizes of a graph stand among its inputs."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self._sources = dim_sources(graph)
        self._shapes = [v.type.shape for v in graph.inputs]

    def of(self, inputs: Sequence[Any]) -> dict[str, int]:
        """The symbolic sizes. ValueError if the shapes of the inputs do not go together."""
        try:
            sizes = {name: inputs[k].shape[axis] // factor for name, (k, axis, factor) in self._sources.items()}
            for want, a in zip(self._shapes, inputs, strict=True):
                if want != a.shape and (not sizes or self.shape(want, sizes) != a.shape):
                    break
            else:
                return sizes
        except IndexError:  # an input of lower rank
            pass
        want = ", ".join(str(v.type) for v in self.graph.inputs)
        given = ", ".join(f"{a.dtype}{list(a.shape)}" for a in inputs)
        raise ValueError(f"{self.graph.name} was compiled for {want}, not for {given}")

    @staticmethod
    def shape(shape: Sequence[DimLike], sizes: Mapping[str, int]) -> tuple[int, ...]:
        """A shape with the sizes put in."""
        return tuple([dim.evaluate(d, sizes) for d in shape])
