"""What TRACEFUSE_DEBUG says about calls: captures, why there is another one, and calls that run as plain Python."""

from __future__ import annotations

from typing import Any

from ..ir.dtypes import from_numpy
from ..ir.types import TensorType
from ..runtime import debug
from .capture import guards as g
from .capture.capture import Call, argument_paths
from .capture.replay import Captured
from .capture.tree import Declined, Segment, walk
from .tensor import Tensor

_LAYOUT = ("class", "dtype", "shape", "contiguous", "requires_grad", "has a history")


def captured(name: str, trace: Captured, seconds: float, again: str) -> None:
    """A call was traced. again: why the traces that were there do not fit; "" for the first one."""
    if not debug.level():
        return
    nodes, inputs, guards = len(trace.graph.nodes), len(trace.graph.inputs), len(trace.guards)
    if again:
        debug.say(f"{name}: traced again, because {again}")
    counts = f"{nodes} nodes, {inputs} inputs, {guards} guards"
    debug.say(f"{name}: captured in {debug.milliseconds(seconds)}: {counts}")


def fell_back(name: str, reason: str) -> None:
    """A call runs as plain Python."""
    if debug.level():
        debug.say(f"{name}: runs as plain Python: {reason}")


def why_again(function: Any, traces: dict[tuple, list], key: tuple, sized: tuple | None, call: Call) -> str:
    """Why none of the traces serves a call: guards that fail and what they find, or how its arguments differ."""
    if not debug.level() or not traces:
        return ""
    leaves = call.leaves
    nodes = [n for k in (key, sized) if k is not None for n in traces.get(k, ())]
    failed: list[g.Guard] = []
    try:
        way = walk(nodes, leaves, failed.append, [])
    except Declined:
        return "a part of it failed"
    if nodes and way.captured is None and not failed:
        return _unseen(nodes, leaves)
    if failed:
        texts = [(getattr(f, "failed", "") or f.text) + " no longer holds" + _found(f, leaves) for f in failed]
        return "; ".join(texts)
    # keys of traces with symbolic sizes are the others without those sizes, behind one more entry
    pairs = [(k[1:], (sized or ("", *key))[1:]) if k[0] == "sizes" else (k, key) for k in traces]
    nearest, new = min(pairs, key=lambda pair: _differences(*pair))
    return _difference(function, nearest, new, leaves)


def _unseen(nodes: list, leaves: list[Any]) -> str:
    """Which answer of a question has not been there yet."""
    values: list = []
    while nodes and isinstance(segment := nodes[0], Segment):
        answer, out = segment.run(leaves, values)
        values.append(out)
        if answer not in segment.branches:
            return f"what {segment.location} asks for is {segment.told(answer)}, which is new"
        nodes = segment.branches[answer]
    return "it goes on in a way that is new"


def _found(guard: Any, leaves: list[Any]) -> str:
    """What a guard that fails sees now."""
    match guard:
        case g.ItemGuard(namespace=namespace, name=name):
            now = namespace.get(name, g.ABSENT)
        case g.CellGuard(cell=cell):
            try:
                now = cell.cell_contents
            except ValueError:
                now = g.ABSENT
        case g.SlotGuard(owner=owner, name=name):
            now = getattr(owner, name, g.ABSENT)
        case g.ContentGuard(container=now):
            pass
        case g.ScalarGuard(leaf=leaf):
            now = leaves[leaf]
        case g.TensorGuard(tensor=now):
            pass
        case g.ArrayGuard(array=now):
            pass
        case g.GradGuard(source=source):
            now = source.tensor(leaves)._grad
        case _:
            return ""
    return ": it is absent now" if now is g.ABSENT else f": it is {_short(now)} now"


def _short(x: Any) -> str:
    data = x._data if isinstance(x, Tensor) else x
    if hasattr(data, "dtype") and hasattr(data, "shape"):
        text = str(TensorType(from_numpy(data.dtype), data.shape))
        return f"{text} with requires_grad" if isinstance(x, Tensor) and x._requires_grad else text
    text = repr(x) if isinstance(x, (int, float, str, bytes, tuple, list, dict, set, type(None))) else ""
    return text if text and len(text) < 60 else f"another {type(x).__name__}"


def _differences(a: tuple, b: tuple) -> int:
    return abs(len(a) - len(b)) * 100 + sum(
        (_differences(x, y) if type(x) is type(y) is tuple else 1) for x, y in zip(a, b) if x != y
    )


def _difference(function: Any, old: tuple, new: tuple, leaves: list[Any]) -> str:
    """The first thing in which the key of a call differs from another one."""
    if old[0] != new[0]:
        return "the arguments are nested in another way"
    if old[1] != new[1]:
        return "gradients are on or off, or the default dtype is another one"
    if old[2] != new[2]:
        return "other arguments are the same object"
    k = next(k for k in range(3, len(new)) if old[k] != new[k])
    path = argument_paths(function, Call(leaves, new[0]))[k - 3]
    before, now = old[k], new[k]
    if isinstance(before, tuple) and isinstance(now, tuple) and len(before) == len(now) > 2:
        return f"{path} has {', '.join(f'{w} {n}, not {b}' for w, b, n in zip(_LAYOUT, before, now) if b != n)}"
    return f"{path} is {_short(leaves[k - 3])} now"
