"""Control flow: ops that hold graphs. What bodies read besides their own operands is an operand too.

A graph's inputs are the node's operands (of one step, for `scan`), so that each of the three has a plain meaning:

    cond(pred, *operands)              true(*operands) or false(*operands)
    while(*carry, *rest)               carry = body(*carry, *rest) as long as cond(*carry, *rest)
    scan(*carry, *xs, *rest)           carry, y = body(*carry, *x, *rest) for x along the first axis of xs; ys are stacked
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..batching import BatchContext, lane_by_lane, move_axis
from ..derive import batched_graph, vjp_graph, zeros
from ..dim import DimLike, evaluate
from ..dtypes import bool_, float32, int64
from ..graph import Graph, Signature
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..subgraph import apply_graph, closed, graph_of
from ..types import TensorType, TypeRuleError
from ._declare import draw, rng_of
from .movement import broadcast_to, reshape
from .pointwise import add, lt, mul, sub, where
from .reduce import reduce_any, reduce_sum

CONTROL = frozenset(("cond", "while", "scan"))


class NoReverseMode(TypeError):
    """Gradients of gradients of a loop whose number of steps is not known beforehand."""


NO_REVERSE_MODE = (
    "no gradient passes the gradient of a while_loop: how many steps it takes is not known, and so neither is the memory "
    "for what they leave behind. Use scan or fori_loop, or say the most steps there can be: while_loop(..., max_steps=n)"
)


def _run(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    from ..interpreter import run

    return run(graph, arrays)


def _listed(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _takes(what: str, graph: Graph, types: Sequence[TensorType]) -> None:
    wanted = [v.type for v in graph.inputs]
    if wanted != list(types):
        raise TypeRuleError(f"{what} takes {_listed(wanted)}, but gets {_listed(types)}")


def _types(graph: Graph) -> tuple[TensorType, ...]:
    return tuple(v.type for v in graph.outputs)


def _one_bool(what: str, t: TensorType) -> None:
    if t != TensorType(bool_, ()):
        raise TypeRuleError(f"{what} must be one bool, not {t}")


def _carries_on(graph: Graph, carry: Sequence[TensorType]) -> None:
    """TypeRuleError unless the first results are of the types of the carried values."""
    given = _types(graph)
    if len(given) < len(carry):
        raise TypeRuleError(f"the body gives {len(given)} values for {len(carry)} that are carried")
    for k, (before, after) in enumerate(zip(carry, given)):
        if before != after:
            raise TypeRuleError(f"carried value {k} is {before}, but the body makes it {after}")


# ------------------------------------------------------------------ cond


def _cond_type(pred: TensorType, *operands: TensorType, true: Graph, false: Graph) -> tuple[TensorType, ...]:
    _one_bool("the predicate", pred)
    _takes("the true branch", true, operands)
    _takes("the false branch", false, operands)
    if _types(true) != _types(false):
        raise TypeRuleError(f"the branches give different types: {_listed(_types(true))} and {_listed(_types(false))}")
    return _types(true)


def _cond(pred: np.ndarray, *operands: np.ndarray, true: Graph, false: Graph) -> tuple:
    return tuple(_run(true if pred else false, operands))


def _cond_vjp(c: VjpContext, *gs: Any) -> tuple:
    """The branch that was taken, backward."""
    true, false = c.attrs["true"], c.attrs["false"]
    wanted = [n and t.dtype.is_inexact for n, t in zip(c.needs[1:], c.types[1:])]
    seeded = [t.dtype.is_inexact for t in _types(true)]
    if not any(wanted):
        return (None,) * len(c.inputs)
    (back_true, back_false), more = closed([vjp_graph(g, wanted, seeded) for g in (true, false)])
    seeds = (g for g, s in zip(gs, seeded) if s)
    found = iter(cond(*c.inputs, *seeds, *more, true=back_true, false=back_false))
    return (None, *(next(found) if w else None for w in wanted))


def _cond_batch(c: BatchContext) -> tuple:
    """With a predicate for each lane both branches run, and each lane picks its own."""
    pred, operands = c.args[0], c.args[1:]
    everywhere = [True] * len(_types(c.attrs["true"]))
    graphs = [batched_graph(c.attrs[k], c.batched[1:], c.size, everywhere)[0] for k in ("true", "false")]
    if not c.batched[0]:
        (true, false), more = closed(graphs)
        return cond(pred, *operands, *more, true=true, false=false)
    pairs = zip(*(apply_graph(g, operands) for g in graphs), _types(c.attrs["true"]))
    return tuple(where(reshape(pred, shape=(c.size, *(1,) * t.ndim)), x, y) for x, y, t in pairs)


_F = TensorType(float32, (3,))
_S = TensorType(float32, ())
_B = TensorType(bool_, ())


def _cond_samples() -> Iterator[Sample]:
    rng = rng_of("cond")
    graphs = {
        "true": graph_of(lambda x, y: (mul(x, y), reduce_sum(x, axes=(0,))), (_F, _F), "yes"),
        "false": graph_of(lambda x, y: (sub(x, mul(y, y)), reduce_sum(mul(x, y), axes=(0,))), (_F, _F), "no"),
    }
    for pred in (True, False):
        yield Sample((np.asarray(pred), draw(rng, (3,)), draw(rng, (3,))), dict(graphs))


cond = register(
    OpDef(
        "cond", "structural", ("pred", "*operands"), _cond_type, _cond, _cond_vjp,
        attrs={"true": REQUIRED, "false": REQUIRED}, batch=_cond_batch, samples=_cond_samples, n_outputs=0,
        errors=lambda: [
            ErrorSample(
                (np.zeros(2, bool), np.zeros(3, np.float32)),
                dict.fromkeys(("true", "false"), graph_of(lambda x: x, (_F,))), TypeRuleError, "must be one bool",
            ),
            ErrorSample(
                (np.asarray(True), np.zeros(3, np.float32)),
                {"true": graph_of(lambda x: x, (_F,)), "false": graph_of(lambda x: reduce_sum(x, axes=(0,)), (_F,))},
                TypeRuleError, "different types",
            ),
            ErrorSample(
                (np.asarray(True), np.zeros(4, np.float32)),
                dict.fromkeys(("true", "false"), graph_of(lambda x: x, (_F,))), TypeRuleError, "takes",
            ),
        ],
        doc="The results of the graph `true` or of the graph `false`.",
    )
)  # fmt: skip


# ------------------------------------------------------------------ while


def _while_type(*operands: TensorType, cond: Graph, body: Graph, carried: int) -> tuple[TensorType, ...]:
    if not 0 < carried <= len(operands):
        raise TypeRuleError(f"carried={carried} of {len(operands)} operands")
    _takes("the condition", cond, operands)
    _takes("the body", body, operands)
    if len(cond.outputs) != 1:
        raise TypeRuleError(f"the condition gives {len(cond.outputs)} values")
    _one_bool("the condition", cond.outputs[0].type)
    if len(body.outputs) != carried:
        raise TypeRuleError(f"the body gives {len(body.outputs)} values for {carried} that are carried")
    _carries_on(body, operands[:carried])
    return operands[:carried]


def _while(*operands: np.ndarray, cond: Graph, body: Graph, carried: int) -> tuple:
    carry, rest = list(operands[:carried]), operands[carried:]
    while _run(cond, (*carry, *rest))[0]:
        carry = _run(body, (*carry, *rest))
    return tuple(carry)


def _while_vjp(c: VjpContext, *gs: Any) -> tuple:
    floating = [t.dtype.is_inexact for t in c.types]
    seeds = (g for g, f in zip(gs, floating) if f)
    found = iter(while_vjp(*c.inputs, *seeds, **c.attrs))
    return tuple(next(found) if f else None for f in floating)


def _spread(c: BatchContext, flags: Sequence[bool]) -> list[Any]:
    return [c.spread(k) if f else x for k, (x, f) in enumerate(zip(c.args, flags))]


def _stable(c: BatchContext, body: Graph, carried: int, flags: list[bool]) -> tuple[list[bool], Graph]:
    """Which operands of the body differ between lanes once its results have come round, and the body for them."""
    while True:
        wanted = [*flags[:carried], *(False for _ in body.outputs[carried:])]
        graph, found = batched_graph(body, flags, c.size, wanted)
        if list(found[:carried]) == flags[:carried]:
            return flags, graph
        flags = [f or g for f, g in zip(flags, found[:carried])] + flags[carried:]


def _while_batch(c: BatchContext) -> tuple:
    """Where lanes differ in the condition, the loop goes on until all of them are done; those that are stay as they are."""
    test, body, carried = c.attrs["cond"], c.attrs["body"], c.attrs["carried"]
    flags, graph = _stable(c, body, carried, list(c.batched))
    lanes_test, (differs,) = batched_graph(test, flags, c.size)
    if differs:
        flags = [True] * carried + flags[carried:]
        lanes_test, _ = batched_graph(test, flags, c.size, [True])
        step, _ = batched_graph(body, flags, c.size, [True] * carried)
        own_test, own_step = lanes_test, step
        types = [v.type for v in step.inputs]

        def masked(*values: Any) -> tuple:
            (going,) = apply_graph(own_test, values)
            new = apply_graph(own_step, values)
            return tuple(
                where(reshape(going, shape=(c.size, *(1,) * (t.ndim - 1))), x, old)
                for x, old, t in zip(new, values, types)
            )

        graph = graph_of(masked, types, body.name)
        lanes_test = graph_of(lambda *v: reduce_any(apply_graph(own_test, v)[0], axes=(0,)), types, test.name)
    (new_test, new_body), more = closed([lanes_test, graph])
    out = while_(*_spread(c, flags), *more, cond=new_test, body=new_body, carried=carried)
    shapes = [t.shape for t in c.types]
    return tuple(x if f else broadcast_to(x, shape=(c.size, *s)) for x, f, s in zip(out, flags, shapes))


def _while_samples() -> Iterator[Sample]:
    graphs = {
        "cond": graph_of(lambda x, y, top: lt(reduce_sum(x, axes=(0,)), top), (_F, _F, _S), "test"),
        "body": graph_of(lambda x, y, top: (add(x, mul(y, y)), y), (_F, _F, _S), "step"),
        "carried": 2,
    }
    step = np.array([1.0, -1.5, 0.5], np.float32)
    for start in (0.25, 2.0, 40.0):
        yield Sample((np.full(3, start, np.float32), step, np.asarray(30, np.float32)), dict(graphs))


def _while_errors() -> Iterator[ErrorSample]:
    x, same = np.zeros(3, np.float32), graph_of(lambda x: x, (_F,))
    test = graph_of(lambda x: lt(reduce_sum(x, axes=(0,)), np.asarray(0, np.float32)), (_F,), "test")
    total = graph_of(lambda x: reduce_sum(x, axes=(0,)), (_F,))
    yield ErrorSample((x,), {"cond": test, "body": total, "carried": 1}, TypeRuleError, "carried value 0 is f32")
    yield ErrorSample((x,), {"cond": same, "body": same, "carried": 1}, TypeRuleError, "must be one bool")
    yield ErrorSample((x,), {"cond": test, "body": same, "carried": 2}, TypeRuleError, "carried=2 of 1")


while_ = register(
    OpDef(
        "while", "structural", ("*operands",), _while_type, _while, _while_vjp,
        attrs={"cond": REQUIRED, "body": REQUIRED, "carried": REQUIRED}, saves=("*operands",), batch=_while_batch,
        samples=_while_samples, errors=_while_errors, n_outputs=0,
        doc="Runs the graph `body` on the first `carried` operands, and on the others, as long as the graph `cond` holds.",
    )
)  # fmt: skip


# ------------------------------------------------------------------ gradients of while


def _floating(types: Sequence[TensorType]) -> list[bool]:
    return [t.dtype.is_inexact for t in types]


def _while_vjp_type(*operands: TensorType, cond: Graph, body: Graph, carried: int) -> tuple[TensorType, ...]:
    own = operands[: len(body.inputs)]
    carry = [t for t in _while_type(*own, cond=cond, body=body, carried=carried) if t.dtype.is_inexact]
    if list(operands[len(own) :]) != carry:
        raise TypeRuleError(f"the cotangents of {_listed(carry)} are {_listed(operands[len(own) :])}")
    return tuple(t for t in own if t.dtype.is_inexact)


def _while_vjp_reference(*operands: np.ndarray, cond: Graph, body: Graph, carried: int) -> tuple:
    """Forward with all carries kept, then back over them."""
    n = len(body.inputs)
    carry, rest, gs = list(operands[:carried]), operands[carried:n], list(operands[n:])
    begins = []
    while _run(cond, (*carry, *rest))[0]:
        begins.append(carry)
        carry = _run(body, (*carry, *rest))
    types = [v.type for v in body.inputs]
    pull = vjp_graph(body, _floating(types), _floating(types[:carried]))
    sums = [np.zeros_like(x) for x, f in zip(rest, _floating(types[carried:])) if f]
    for begin in reversed(begins):
        out = _run(pull, (*begin, *rest, *gs))
        gs = out[: len(gs)]
        sums = [np.asarray(s + d) for s, d in zip(sums, out[len(gs) :])]
    return (*gs, *sums)


def _while_push(c: VjpContext, *tangents: Any) -> tuple:
    """The loop with tangents: the gradient is linear in its cotangents, and forward mode is what stands across from them.
    That of the loop's own operands would need what its steps have left behind."""
    test, body, carried = c.attrs["cond"], c.attrs["body"], c.attrs["carried"]
    n = len(body.inputs)
    if any(c.needs[:n]):
        raise NoReverseMode(NO_REVERSE_MODE)
    types = [v.type for v in body.inputs]
    floating = _floating(types)
    moving = sum(floating[:carried])  # carried values that have a tangent
    pull = vjp_graph(body, floating, floating[:carried])
    across = [k >= n for k in range(len(pull.inputs))]
    (push,), arrays = closed([vjp_graph(pull, across, [True] * len(pull.outputs))])
    own = len(pull.inputs) + len(pull.outputs)
    seeds = [v.type for v in pull.inputs[n:]]

    def parts(values: Sequence[Any]) -> tuple[Any, Any, Any, Any, Any]:
        at = (carried, carried + moving, n + moving, n + moving + len(pull.outputs) - moving)
        return tuple(values[a:b] for a, b in zip((0, *at), (*at, len(values))))  # type: ignore[return-value]

    def step(*values: Any) -> tuple:
        carry, d_carry, rest, d_rest, more = parts(values)
        new = apply_graph(body, (*carry, *rest))
        return (*new, *apply_graph(push, (*carry, *rest, *map(zeros, seeds), *d_carry, *d_rest, *more)))

    def going(*values: Any) -> tuple:
        carry, _, rest, _, _ = parts(values)
        return apply_graph(test, (*carry, *rest))

    d_types = [t for t, f in zip(types, floating) if f]
    listed = [*types[:carried], *d_types[:moving], *types[carried:], *d_types[moving:]]
    listed += [v.type for v in push.inputs[own:]]
    graphs = {"cond": graph_of(going, listed, test.name), "body": graph_of(step, listed, f"{body.name}_jvp")}
    primals = c.inputs[:n]
    operands = (*primals[:carried], *tangents[:moving], *primals[carried:], *tangents[moving:], *arrays)
    out = while_(*operands, **graphs, carried=carried + moving)
    return (*(None for _ in range(n)), *out[carried:])


def _while_vjp_samples() -> Iterator[Sample]:
    rng = rng_of("while_vjp")
    for s in _while_samples():
        yield Sample((*s.args, draw(rng, (3,)), draw(rng, (3,))), s.attrs, gradcheck=False)


def _while_vjp_errors() -> Iterator[ErrorSample]:
    s = next(_while_samples())
    yield ErrorSample((*s.args, np.zeros(3, np.float32)), s.attrs, TypeRuleError, "the cotangents of")
    yield ErrorSample((s.args[0], *s.args), s.attrs, TypeRuleError, "takes")


while_vjp = register(
    OpDef(
        "while_vjp", "structural", ("*operands",), _while_vjp_type, _while_vjp_reference, _while_push,
        attrs={"cond": REQUIRED, "body": REQUIRED, "carried": REQUIRED}, saves=("*operands",), batch=lane_by_lane,
        samples=_while_vjp_samples, errors=_while_vjp_errors, n_outputs=0,
        doc="The cotangents of the floating operands of `while`, from those of what it carries, which come last. On the host: "
        "it keeps the values of all steps. Forward mode has no need of them, so that there it is dead code.",
    )
)  # fmt: skip


# ------------------------------------------------------------------ scan


def _scan_type(
    *operands: TensorType, body: Graph, carried: int, scanned: int, length: DimLike, reverse: bool
) -> tuple[TensorType, ...]:
    if carried < 0 or scanned < 0 or carried + scanned > len(operands):
        raise TypeRuleError(f"carried={carried} and scanned={scanned} of {len(operands)} operands")
    carry, xs, rest = _parts(operands, carried, scanned)
    for x in xs:
        if x.ndim == 0 or x.shape[0] != length:
            raise TypeRuleError(f"{x} has not {length} rows")
    _takes("the body", body, (*carry, *(x.with_shape(x.shape[1:]) for x in xs), *rest))
    _carries_on(body, carry)
    return (*carry, *(t.with_shape((length, *t.shape)) for t in _types(body)[carried:]))


def _parts(operands: Sequence[Any], carried: int, scanned: int) -> tuple[Any, Any, Any]:
    return operands[:carried], operands[carried : carried + scanned], operands[carried + scanned :]


def _scan(*operands: np.ndarray, body: Graph, carried: int, scanned: int, length: Any, reverse: bool) -> tuple:
    carry, xs, rest = _parts(operands, carried, scanned)
    ys = [np.empty((length, *(evaluate(d, {}) for d in t.shape)), t.dtype.np) for t in _types(body)[carried:]]
    for i in reversed(range(length)) if reverse else range(length):
        out = _run(body, (*carry, *(x[i, ...] for x in xs), *rest))
        carry = out[:carried]
        for y, row in zip(ys, out[carried:]):
            y[i] = row
    return (*carry, *ys)


def _scan_vjp(c: VjpContext, *gs: Any) -> tuple:
    """A scan the other way round, over the carries that each step began with. The body runs forward once more in it."""
    a = c.attrs
    body, n, m = a["body"], a["carried"], a["scanned"]
    needs = [c.needs[k] and t.dtype.is_inexact for k, t in enumerate(c.types)]
    wanted = [*(t.dtype.is_inexact for t in c.types[:n]), *needs[n:]]
    seeded = [t.dtype.is_inexact for t in _types(body)]
    if not any(needs):
        return (None,) * len(c.inputs)
    pull = vjp_graph(body, wanted, seeded)
    (pull,), arrays = closed([pull])
    of_carry = [k for k in range(n) if wanted[k]]
    of_rest = [k for k in range(n + m, len(wanted)) if wanted[k]]
    seeds = [g for g, s in zip(gs[n:], seeded[n:]) if s]
    rest = [*c.inputs[n + m :], *arrays]
    read = _read_inputs(pull)
    forward = [k for k in range(n + m) if pull.inputs[k] in read]
    carries = _saved_carries(c, [k for k in forward if k < n])
    inputs = [v.type for v in pull.inputs]
    end = len(body.inputs)
    d_carry, d_ys = inputs[end : end + len(of_carry)], inputs[end + len(of_carry) : end + len(of_carry) + len(seeds)]

    def step(*values: Any) -> tuple:
        it = iter(values)
        backward = [next(it) for _ in of_carry]
        sums = [next(it) for _ in of_rest]
        env = {k: next(it) for k in forward}
        rows = [next(it) for _ in seeds]
        others = list(it)
        own = [env.get(k) if k in env else zeros(inputs[k]) for k in range(n + m)]
        out = apply_graph(pull, [*own, *others[: end - n - m], *backward, *rows, *others[end - n - m :]])
        found = iter(out)
        to_carry = [next(found) for _ in of_carry]
        to_xs = [next(found) for k in range(n, n + m) if wanted[k]]
        return (*to_carry, *map(add, sums, found), *to_xs)

    types = [*d_carry, *(inputs[k] for k in of_rest), *(inputs[k] for k in forward), *d_ys, *inputs[n + m : end]]
    types += inputs[end + len(of_carry) + len(seeds) :]
    back = graph_of(step, types, f"{body.name}_vjp")
    out = scan_(
        *(gs[k] for k in of_carry), *(zeros(inputs[k]) for k in of_rest),
        *(carries[k] if k < n else c.inputs[k] for k in forward), *seeds, *rest,
        body=back, carried=len(of_carry) + len(of_rest), scanned=len(forward) + len(seeds),
        length=a["length"], reverse=not a["reverse"],
    )  # fmt: skip
    found = dict(zip([*of_carry, *of_rest, *(k for k in range(n, n + m) if wanted[k])], out))
    return tuple(found.get(k) if need else None for k, need in enumerate(needs))


def _read_inputs(graph: Graph) -> set[Any]:
    """The inputs that the outputs depend on."""
    alive = set(graph.outputs)
    for node in reversed(graph.nodes):
        if any(v in alive for v in node.outputs):
            alive.update(node.inputs)
    return alive


def _saved_carries(c: VjpContext, needed: Sequence[int]) -> dict[int, Any]:
    """What each step began with: among the results where the body hands it on, else computed again."""
    a = c.attrs
    body, n = a["body"], a["carried"]
    out: dict[int, Any] = {}
    for k in needed:
        for j, v in enumerate(body.outputs[n:]):
            if v is body.inputs[k]:
                out[k] = c.outputs[n + j]
    missing = [k for k in needed if k not in out]
    if missing:
        again = scan_(*c.inputs, **{**a, "body": with_carries(body, n, missing, ys=False)})
        out.update(zip(missing, again[n:]))
    return out


def with_carries(body: Graph, carried: int, which: Sequence[int], ys: bool = True) -> Graph:
    """The body of a scan, which also hands on carried values as each step found them."""
    outputs = (*(body.outputs if ys else body.outputs[:carried]), *(body.inputs[k] for k in which))
    return replace(body, outputs=outputs, signature=Signature.plain(len(body.inputs), len(outputs)))


def _scan_batch(c: BatchContext) -> tuple:
    a = c.attrs
    body, n, m = a["body"], a["carried"], a["scanned"]
    flags, _ = _stable(c, body, n, list(c.batched))
    graph, _ = batched_graph(body, flags, c.size, [*flags[:n], *(True for _ in body.outputs[n:])])
    (graph,), more = closed([graph])
    given = _spread(c, flags)
    for k in range(n, n + m):
        given[k] = move_axis(given[k], 0, 1) if flags[k] else given[k]
    out = scan_(*given, *more, **{**a, "body": graph})
    carry = [x if f else broadcast_to(x, shape=(c.size, *t.shape)) for x, f, t in zip(out[:n], flags, c.types)]
    return (*carry, *(move_axis(y, 1, 0) for y in out[n:]))


def _scan_samples() -> Iterator[Sample]:
    rng = rng_of("scan")
    decay = graph_of(lambda s, x, w: (add(mul(s, w), x), mul(s, s)), (_F, _F, _F), "decay")
    totals = graph_of(
        lambda k, s, x: (add(k, np.asarray(1)), add(s, mul(x, s)), s), (TensorType(int64, ()), _S, _S), "totals"
    )
    each = graph_of(lambda x, w: mul(x, w), (_F, _F), "each")
    for reverse in (False, True):
        attrs = {"body": decay, "carried": 1, "scanned": 1, "length": 4, "reverse": reverse}
        yield Sample((draw(rng, (3,)), draw(rng, (4, 3)), draw(rng, (3,))), attrs)
    attrs = {"body": totals, "carried": 2, "scanned": 1, "length": 5, "reverse": False}
    yield Sample((np.asarray(0), draw(rng, ()), draw(rng, (5,))), attrs)
    attrs = {"body": each, "carried": 0, "scanned": 1, "length": 2, "reverse": True}
    yield Sample((draw(rng, (2, 3)), draw(rng, (3,))), attrs)
    attrs = {"body": decay, "carried": 1, "scanned": 1, "length": 0, "reverse": False}
    yield Sample((draw(rng, (3,)), np.zeros((0, 3), np.float32), draw(rng, (3,))), attrs)


def _scan_errors() -> Iterator[ErrorSample]:
    rows, x = np.zeros((4, 3), np.float32), np.zeros(3, np.float32)
    body = graph_of(lambda s, r: (add(s, r), s), (_F, _F))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 4}
    yield ErrorSample((x, rows), attrs | {"length": 5}, TypeRuleError, "has not 5 rows")
    yield ErrorSample((x, x), attrs, TypeRuleError, "has not 4 rows")
    yield ErrorSample((x, rows, x), attrs, TypeRuleError, "the body takes")
    total = graph_of(lambda s, r: reduce_sum(add(s, r), axes=(0,)), (_F, _F))
    yield ErrorSample((x, rows), attrs | {"body": total}, TypeRuleError, "carried value 0 is f32")


scan_ = register(
    OpDef(
        "scan", "structural", ("*operands",), _scan_type, _scan, _scan_vjp,
        attrs={"body": REQUIRED, "carried": REQUIRED, "scanned": REQUIRED, "length": REQUIRED, "reverse": False},
        batch=_scan_batch, samples=_scan_samples, errors=_scan_errors, n_outputs=0,
        doc="Runs the graph `body` for each row of `scanned` operands; `carried` values go from step to step, what it gives "
        "besides is stacked.",
    )
)  # fmt: skip

__all__ = ["CONTROL", "NO_REVERSE_MODE", "NoReverseMode", "cond", "scan_", "while_", "while_vjp", "with_carries"]
