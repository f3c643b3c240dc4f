"""Arguments that are views of one tensor, in functions that write into one of them: traced as views of that tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.graph import Value
from ..devices import share_memory
from ..dispatch import run
from ..tape import needs_grad, root_of
from ..tensor import Tensor
from .replay import RootSource
from .tracer import Tracer

Chain = list[tuple[Any, Any]]  # (op, attributes) of each view, from the root


def chain_of(x: Tensor) -> Chain:
    """How `x` was made of its root."""
    out: Chain = []
    while x._base is not None and x._view is not None:
        out.append(x._view)
        x = x._base
    return out[::-1]


@dataclass(slots=True)
class ViewGuard:
    """An argument is the same view of the root of argument `other`."""

    leaf: int
    other: int
    chain: Chain
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        x = leaves[self.leaf]
        return root_of(x) is root_of(leaves[self.other]) and chain_of(x) == self.chain


@dataclass(slots=True)
class RootGuard:
    """An argument is a view of a tensor that the function also reaches by itself."""

    leaf: int
    root: Tensor
    text: str

    def check(self, leaves: Sequence[Any]) -> bool:
        return root_of(leaves[self.leaf]) is self.root


def groups(leaves: Sequence[Any]) -> list[list[int]]:
    """The arguments that have one root, where there are several and no gradients are asked for."""
    found: dict[int, list[int]] = {}
    for i, x in enumerate(leaves):
        if isinstance(x, Tensor) and type(x._data) is not Value:
            found.setdefault(id(root_of(x)), []).append(i)
    several = [g for g in found.values() if len({id(leaves[i]) for i in g}) > 1]
    return [g for g in several if not any(needs_grad(t) for i in g for t in (leaves[i], root_of(leaves[i])))]


def overlap(leaves: Sequence[Any], sources: Sequence[Any]) -> bool:
    """Whether every two inputs that overlap are arguments that `groups` finds, or their root."""
    found = groups(leaves)
    known = {id(t._data): n for n, g in enumerate(found) for i in g for t in (leaves[i], root_of(leaves[i]))}
    arrays = [s.fetch(leaves) for s in sources]
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            if share_memory(a, b) and (id(a) not in known or known[id(a)] != known.get(id(b))):
                return False
    return True


def join(tracer: Tracer, leaves: Sequence[Any], paths: Sequence[str]) -> tuple[dict[int, Tensor], list[ViewGuard]]:
    """What the function gets in place of such arguments, and the guards."""
    made: dict[int, Tensor] = {}
    guards: list[ViewGuard] = []
    for group in groups(leaves):
        first, root = group[0], root_of(leaves[group[0]])
        tracer.known.setdefault(id(root), (root, RootSource(first, f"what {paths[first]} is a view of")))
        for i in group:
            chain = chain_of(leaves[i])
            guards.append(ViewGuard(i, first, chain, f"{paths[i]} is the same view of what {paths[first]} shows"))
            if leaves[i] is not root:
                t = root
                for op, attrs in chain:
                    t = run(op, (t,), attrs)
                made[i] = t
    return made, guards
