"""What the ops that hold graphs share: type rules, references, and which operands of a loop differ between lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..batching import BatchContext
from ..derive import batched_graph
from ..dtypes import bool_, float32
from ..graph import Graph
from ..types import TensorType, TypeRuleError

CONTROL = frozenset(("cond", "while", "scan"))


class NoReverseMode(TypeError):
    """Gradients of gradients of a loop whose number of steps is not known beforehand."""


NO_REVERSE_MODE = (
    "no gradient passes the gradient of a while_loop: how many steps it takes is not known, and so neither is the memory "
    "for what they leave behind. Use scan or fori_loop, or say the most steps there can be: while_loop(..., max_steps=n)"
)


def run_graph(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from ..interpreter import run

    return run(graph, arrays)


def listed(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def takes(what: str, graph: Graph, types: Sequence[TensorType]) -> None:
    wanted = [v.type for v in graph.inputs]
    if wanted != list(types):
        raise TypeRuleError(f"{what} takes {listed(wanted)}, but gets {listed(types)}")


def types_of(graph: Graph) -> tuple[TensorType, ...]:
    return tuple(v.type for v in graph.outputs)


def one_bool(what: str, t: TensorType) -> None:
    if t != TensorType(bool_, ()):
        raise TypeRuleError(f"{what} must be one bool, not {t}")


def carries_on(graph: Graph, carry: Sequence[TensorType]) -> None:
    """TypeRuleError unless the first results are of the types of the carried values."""
    given = types_of(graph)
    if len(given) < len(carry):
        raise TypeRuleError(f"the body gives {len(given)} values for {len(carry)} that are carried")
    for k, (before, after) in enumerate(zip(carry, given)):
        if before != after:
            raise TypeRuleError(f"carried value {k} is {before}, but the body makes it {after}")


def floating(types: Sequence[TensorType]) -> list[bool]:
    return [t.dtype.is_inexact for t in types]


def spread(c: BatchContext, flags: Sequence[bool]) -> list[Any]:
    return [c.spread(k) if f else x for k, (x, f) in enumerate(zip(c.args, flags))]


def stable(c: BatchContext, body: Graph, carried: int, flags: list[bool]) -> tuple[list[bool], Graph]:
    """Which operands of the body differ between lanes once its results have come round, and the body for them."""
    while True:
        wanted = [*flags[:carried], *(False for _ in body.outputs[carried:])]
        graph, found = batched_graph(body, flags, c.size, wanted)
        if list(found[:carried]) == flags[:carried]:
            return flags, graph
        flags = [f or g for f, g in zip(flags, found[:carried])] + flags[carried:]


# of samples
ROW, ONE = TensorType(float32, (3,)), TensorType(float32, ())
