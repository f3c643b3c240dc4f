"""Control flow over values: `cond`, `while_loop`, `fori_loop`, `scan` and `map`, with JAX's meaning.

In eager code they are Python's own branches and loops, so the tape sees what they do. While a graph is recorded their
bodies become graphs of their own, in nodes that run natively (`ir/ops/control.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.graph import Graph
from ..ir.op import get_op
from ..ir.ops.control import with_carries
from ..ir.types import TensorType
from .autograd import set_grad_enabled
from .capture.tracer import user_location
from .control_body import Body, Captures, Tree, describe, type_of
from .convert import as_tensor
from .creation import arange
from .dispatch import apply, write_result
from .manipulation import stack
from .state import state, traced
from .tape import keep_operands, needs_grad
from .tensor import Tensor

MOST_COUNTED = 1 << 24  # steps of a fori_loop whose counters are made beforehand


def _recorded() -> bool:
    """Whether functions become graphs, rather than being called."""
    return state.tracer is not None and state.tracer is not state.anomaly


def _error(kind: type[Exception], message: str) -> Exception:
    line = user_location()
    return kind(f"{line}: {message}" if line else message)


# ------------------------------------------------------------------ cond


def cond(pred: Any, true_fn: Callable, false_fn: Callable, *operands: Any) -> Any:
    """`true_fn(*operands)` if `pred` holds, else `false_fn(*operands)`. Only that one runs, except under vmap with a
    predicate for each lane.

    pred: a tensor with one element and no axes, or a Python number. operands and results: nested tensors. Compiled code
    needs results of the same nesting, shapes and dtypes from both functions: TypeError names what differs.
    """
    if isinstance(pred, (bool, int, float, np.bool_)):
        return _call(true_fn if pred else false_fn, operands, bool(pred))
    pred = as_tensor(pred)
    if pred.ndim:
        raise _error(
            TypeError,
            f"cond: the predicate must be one truth value, not {pred.type}; use .any() or .all(), or tr.where to pick "
            "element by element",
        )
    if not _recorded():
        holds = bool(pred)
        return _call(true_fn if holds else false_fn, operands, holds)
    pred = pred if pred.dtype.kind == "b" else pred != 0
    given = Tree(operands, "cond: operands")
    captures = Captures()
    types = [type_of(t) for t in given.leaves]
    bodies, values, trees = [], [], []
    for f, what in ((true_fn, "true"), (false_fn, "false")):
        body = Body(what, captures)
        with body:
            tree = Tree(body.run(f, types, given.rebuild), f"cond: the result of {what}_fn")
            values.append(body.results(tree.leaves))
        bodies.append(body)
        trees.append(tree)
    yes, no = ([v.type for v in vs] for vs in values)
    if not trees[0].same_nesting(trees[1]) or yes != no:
        raise _error(
            TypeError,
            "cond: both functions must return the same types; true_fn returns "
            f"{describe(trees[0], yes)}, false_fn {describe(trees[1], no)}",
        )
    written = _written(*bodies)
    true, false = (b.graph([*vs, *(b.left(t) for t in written)]) for b, vs in zip(bodies, values))
    if not true.outputs:
        return trees[0].rebuild([])
    out = apply(get_op("cond"), pred, *given.leaves, *captures.tensors.values(), true=true, false=false)
    _write(bodies, written, out, len(yes))
    return trees[0].rebuild(out[: len(yes)])


def _written(*bodies: Body) -> list[Tensor]:
    """The tensors from outside that any of them writes."""
    return list({k: t for b in bodies for k, (t, _) in b.written.items()}.values())


def _write(bodies: Sequence[Body], written: Sequence[Tensor], out: Sequence[Tensor], first: int) -> None:
    """What bodies have written becomes true outside, with a history where they gave it one: results of the node from number
    `first` on."""
    keep_operands(out, written)
    for t, new in zip(written, out[first : first + len(written)], strict=True):
        with set_grad_enabled(state.grad_enabled and any(b.writes_with_history(t) for b in bodies)):
            write_result(t, new)


def _call(f: Callable, operands: Sequence[Any], holds: bool) -> Any:
    """What a branch returns, with tensors for numbers and arrays."""
    given = Tree(operands, "cond: operands")
    tree = Tree(traced(f)(*given.rebuild(given.leaves)), f"cond: the result of {'true' if holds else 'false'}_fn")
    return tree.rebuild(tree.leaves)


# ------------------------------------------------------------------ while


def while_loop(cond_fn: Callable, body_fn: Callable, *init: Any, max_steps: int | None = None) -> Any:
    """Replaces the carried values by `body_fn(*values)` as long as `cond_fn(*values)` holds, and returns them: a tuple, or
    for one `init` (which may be nested) the value itself.

    cond_fn returns one truth value, body_fn values of the types that it got; TypeError else. With `max_steps` the loop ends
    after so many steps in any case, and is a scan to compiled code, with memory for all of them. Without, its gradient is
    computed on the host, and has no gradients itself: NoReverseMode, a TypeError.
    """
    if not init:
        raise TypeError("while_loop needs at least one value that is carried")
    nested = init[0] if len(init) == 1 else init
    carry = Tree(nested, "while_loop: init")
    single = len(init) == 1

    def arguments(leaves: Sequence[Any]) -> Any:
        out = carry.rebuild(leaves)
        return (out,) if single else out

    if max_steps is not None and _recorded():
        return _bounded(cond_fn, body_fn, carry, arguments, max_steps)
    if _recorded():
        return carry.rebuild(_while(cond_fn, body_fn, carry, arguments))
    leaves, steps = carry.leaves, 0
    while (max_steps is None or steps < max_steps) and bool(_test(traced(cond_fn)(*arguments(leaves)))):
        new = Tree(traced(body_fn)(*arguments(leaves)), "while_loop: the result of body_fn")
        _check_carry("while_loop", carry, [t.type for t in leaves], new, [t.type for t in new.leaves])
        leaves, steps = new.leaves, steps + 1
    return carry.rebuild(leaves)


def _test(x: Any) -> Tensor:
    t = as_tensor(x)
    if t.ndim:
        raise _error(
            TypeError, f"while_loop: cond_fn must return one truth value, not {t.type}; use .any() or .all() there"
        )
    return t


def _check_carry(
    what: str, carry: Tree, before: Sequence[TensorType], new: Tree, after: Sequence[TensorType], name: str = "init"
) -> None:
    """TypeError unless the carried values come back with the types that they had."""
    if not carry.same_nesting(new):
        raise _error(
            TypeError,
            f"{what}: the carried values are {describe(carry, before)}, but the function returns {describe(new, after)}",
        )
    for i, (a, b) in enumerate(zip(before, after)):
        if a != b:
            raise _error(
                TypeError,
                f"{what}: the carried value {name}{carry.path(i)} is {a}, but the function makes it {b}; cast it, or begin "
                "with what the function returns",
            )


def _while(cond_fn: Callable, body_fn: Callable, carry: Tree, arguments: Callable) -> Sequence[Tensor]:
    captures = Captures()
    types = [type_of(t) for t in carry.leaves]
    test = Body("test", captures)
    with test:
        going = _test(test.run(cond_fn, types, arguments))
        tests = test.results([going if going.dtype.kind == "b" else going != 0])
    step = Body("step", captures)
    with step:
        new = Tree(step.run(body_fn, types, arguments), "while_loop: the result of body_fn")
        values = step.results(new.leaves)
    _check_carry("while_loop", carry, types, new, [v.type for v in values])
    if test.written:
        test.stop("cond_fn of a while_loop writes into a tensor from outside")
    written = _written(step)
    graphs = {
        "cond": test.graph(tests, written),
        "body": step.graph([*values, *(step.left(t) for t in written)], written),
    }
    n = len(types)
    if not n + len(written):
        return []
    operands = [*carry.leaves, *written, *_others(captures, written)]
    out = apply(get_op("while"), *operands, **graphs, carried=n + len(written))
    _write([step], written, out, n)
    return out[:n]


def _others(captures: Captures, written: Sequence[Tensor]) -> list[Tensor]:
    moved = {id(t) for t in written}
    return [t for k, t in captures.tensors.items() if k not in moved]


def _bounded(cond_fn: Callable, body_fn: Callable, carry: Tree, arguments: Callable, steps: int) -> Any:
    """A scan whose steps do nothing once the condition fails."""

    def step(leaves: list, _: None) -> tuple[list, None]:
        def go(*values: Any) -> list:
            new = Tree(traced(body_fn)(*arguments(values)), "while_loop: the result of body_fn")
            _check_carry("while_loop", carry, [type_of(t) for t in values], new, [type_of(t) for t in new.leaves])
            return new.leaves

        return cond(_test(traced(cond_fn)(*arguments(leaves))), go, lambda *values: list(values), *leaves), None

    out, _ = scan(step, carry.leaves, None, length=steps)
    return carry.rebuild(out)


def fori_loop(lower: Any, upper: Any, body_fn: Callable, init: Any) -> Any:
    """`init = body_fn(i, init)` for i from `lower` up to, but without, `upper`; i is an int64 tensor.

    With Python numbers as bounds it is a scan, and differentiable; with tensors a while_loop.
    """
    if isinstance(lower, (int, np.integer)) and isinstance(upper, (int, np.integer)) and upper - lower <= MOST_COUNTED:
        steps = max(0, int(upper) - int(lower))
        counters = arange(int(lower), int(lower) + steps, dtype="int64")
        return scan(lambda c, i: (traced(body_fn)(i, c), None), init, counters, length=steps)[0]
    first, last = (as_tensor(x).astype("int64") for x in (lower, upper))
    step = lambda i, c: (i + 1, traced(body_fn)(i, c))  # noqa: E731
    return while_loop(lambda i, c: i < last, step, first, init)[1]


# ------------------------------------------------------------------ scan


def scan(f: Callable, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """(carry, ys): for each x along the first axis of `xs`, carry, y = f(carry, x); the ys are stacked.

    init, xs, ys: nested tensors; all of xs have the same number of rows. Without xs, `f` gets None `length` times.
    reverse: from the last row to the first; ys stay in the order of xs. Differentiable in reverse mode.
    ValueError where numbers of rows differ, TypeError if `f` changes the type of what is carried.
    """
    carry, rows = Tree(init, "scan: init"), Tree(xs, "scan: xs")
    steps = _length(rows, length)
    if not _recorded() and steps:
        return _scan_eagerly(f, carry, rows, int(steps), reverse)
    types = [type_of(t) for t in carry.leaves]
    row_types = [t.with_shape(t.shape[1:]) for t in (type_of(r) for r in rows.leaves)]
    n = len(types)
    captures = Captures()
    body = Body(getattr(f, "__name__", "step").replace("<lambda>", "step"), captures)
    with body:
        arguments = lambda leaves: (carry.rebuild(leaves[:n]), rows.rebuild(leaves[n:]))  # noqa: E731
        new, ys = _pair(body.run(f, [*types, *row_types], arguments))
        values = body.results([*new.leaves, *ys.leaves])
    _check_carry("scan", carry, types, new, [v.type for v in values[:n]])
    written = _written(body)
    end = n + len(written)  # of what is carried
    graph = body.graph([*values[:n], *(body.left(t) for t in written), *values[n:]], written, n)
    if not graph.outputs:
        return carry.rebuild([]), ys.rebuild([])
    operands = [*carry.leaves, *written, *rows.leaves, *_others(captures, written)]
    full = _with_saved(graph, end, operands)
    sizes = {"carried": end, "scanned": len(row_types), "length": steps, "reverse": bool(reverse)}
    out = apply(get_op("scan"), *operands, body=full, **sizes)[: len(graph.outputs)]
    _write([body], written, out, n)
    return carry.rebuild(out[:n]), ys.rebuild(out[end:])


def _with_saved(graph: Graph, carried: int, operands: Sequence[Tensor]) -> Graph:
    """The body, which also hands on what each step began with if the backward pass may ask for it: of the tape, or of a
    body around this one."""
    inside = isinstance(state.tracer, Body) and state.tracer.recording
    if not state.grad_enabled or not inside and not any(needs_grad(t) for t in operands):
        return graph
    known = set(graph.outputs[carried:])
    return with_carries(graph, carried, [k for k in range(carried) if graph.inputs[k] not in known])


def _length(rows: Tree, length: int | None) -> Any:
    sizes = []
    for i, t in enumerate(rows.leaves):
        if t.ndim == 0:
            raise _error(ValueError, f"scan: xs{rows.path(i)} is {t.type}, which has no first axis to go along")
        sizes.append(t.shape[0])
    if length is not None:
        if not isinstance(length, (int, np.integer)) or length < 0:
            raise _error(ValueError, f"scan: length={length!r} is no number of steps")
        sizes.append(int(length))
    if not sizes:
        raise _error(ValueError, "scan: without xs it needs length=")
    if any(d != sizes[0] for d in sizes):
        listed = ", ".join(f"xs{rows.path(i)}: {t.type}" for i, t in enumerate(rows.leaves))
        more = "" if length is None else f"; length={length}"
        raise _error(ValueError, f"scan: the numbers of rows differ: {listed}{more}")
    return sizes[0]


def _pair(out: Any) -> tuple[Tree, Tree]:
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise _error(TypeError, f"scan: the function must return (carry, y), not a {type(out).__name__}")
    return Tree(out[0], "scan: the carry"), Tree(out[1], "scan: y")


def _scan_eagerly(f: Callable, carry: Tree, rows: Tree, steps: int, reverse: bool) -> tuple[Any, Any]:
    leaves = carry.leaves
    types = [t.type for t in leaves]
    found: list[list[Tensor]] = []
    first: Tree | None = None
    for i in reversed(range(steps)) if reverse else range(steps):
        out = traced(f)(carry.rebuild(leaves), rows.rebuild([x[i] for x in rows.leaves]))
        new, ys = _pair(out)
        _check_carry("scan", carry, types, new, [t.type for t in new.leaves])
        first = first or ys
        if not ys.same_nesting(first) or [t.type for t in ys.leaves] != [t.type for t in first.leaves]:
            raise _error(
                TypeError,
                f"scan: y is {describe(first, [t.type for t in first.leaves])} in one step and "
                f"{describe(ys, [t.type for t in ys.leaves])} in another",
            )
        leaves = new.leaves
        found.append(ys.leaves)
    if reverse:
        found.reverse()
    assert first is not None
    return carry.rebuild(leaves), first.rebuild([stack(list(column)) for column in zip(*found)])


def map(f: Callable, xs: Any) -> Any:  # noqa: A001
    """`f` of each row of `xs` (nested tensors), one after the other; the results are stacked. `vmap` does them at once."""
    return scan(lambda _, x: ((), traced(f)(x)), (), xs)[1]


__all__ = ["cond", "fori_loop", "map", "scan", "while_loop"]
