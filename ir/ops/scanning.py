"""`scan`: a loop over rows. `control.py` says what the ops that hold graphs mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..batching import BatchContext, move_axis
from ..derive import batched_graph, vjp_graph, zeros
from ..dim import DimLike, evaluate
from ..dtypes import int64
from ..graph import Graph, Signature
from ..op import REQUIRED, ErrorSample, OpDef, Sample, VjpContext, register
from ..subgraph import apply_graph, closed, graph_of
from ..types import TensorType, TypeRuleError
from ._control import (
    ONE,
    ROW,
    carries_on,
    run_graph,
    spread,
    stable,
    takes,
    types_of,
)
from ._declare import draw, rng_of
from .movement import broadcast_to
from .pointwise import add, mul
from .reduce import reduce_sum


def _scan_type(
    *operands: TensorType, body: Graph, carried: int, scanned: int, length: DimLike, reverse: bool
) -> tuple[TensorType, ...]:
    if carried < 0 or scanned < 0 or carried + scanned > len(operands):
        raise TypeRuleError(f"carried={carried} and scanned={scanned} of {len(operands)} operands")
    carry, xs, rest = _parts(operands, carried, scanned)
    for x in xs:
        if x.ndim == 0 or x.shape[0] != length:
            raise TypeRuleError(f"{x} has not {length} rows")
    takes("the body", body, (*carry, *(x.with_shape(x.shape[1:]) for x in xs), *rest))
    carries_on(body, carry)
    return (*carry, *(t.with_shape((length, *t.shape)) for t in types_of(body)[carried:]))


def _parts(operands: Sequence[Any], carried: int, scanned: int) -> tuple[Any, Any, Any]:
    return operands[:carried], operands[carried : carried + scanned], operands[carried + scanned :]


def _scan(*operands: np.ndarray, body: Graph, carried: int, scanned: int, length: Any, reverse: bool) -> tuple:
    carry, xs, rest = _parts(operands, carried, scanned)
    ys = [np.empty((length, *(evaluate(d, {}) for d in t.shape)), t.dtype.np) for t in types_of(body)[carried:]]
    for i in reversed(range(length)) if reverse else range(length):
        out = run_graph(body, (*carry, *(x[i, ...] for x in xs), *rest))
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
    seeded = [t.dtype.is_inexact for t in types_of(body)]
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
    flags, _ = stable(c, body, n, list(c.batched))
    graph, _ = batched_graph(body, flags, c.size, [*flags[:n], *(True for _ in body.outputs[n:])])
    (graph,), more = closed([graph])
    given = spread(c, flags)
    for k in range(n, n + m):
        given[k] = move_axis(given[k], 0, 1) if flags[k] else given[k]
    out = scan_(*given, *more, **{**a, "body": graph})
    carry = [x if f else broadcast_to(x, shape=(c.size, *t.shape)) for x, f, t in zip(out[:n], flags, c.types)]
    return (*carry, *(move_axis(y, 1, 0) for y in out[n:]))


def _scan_samples() -> Iterator[Sample]:
    rng = rng_of("scan")
    decay = graph_of(lambda s, x, w: (add(mul(s, w), x), mul(s, s)), (ROW, ROW, ROW), "decay")
    totals = graph_of(
        lambda k, s, x: (add(k, np.asarray(1)), add(s, mul(x, s)), s), (TensorType(int64, ()), ONE, ONE), "totals"
    )
    each = graph_of(lambda x, w: mul(x, w), (ROW, ROW), "each")
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
    body = graph_of(lambda s, r: (add(s, r), s), (ROW, ROW))
    attrs = {"body": body, "carried": 1, "scanned": 1, "length": 4}
    yield ErrorSample((x, rows), attrs | {"length": 5}, TypeRuleError, "has not 5 rows")
    yield ErrorSample((x, x), attrs, TypeRuleError, "has not 4 rows")
    yield ErrorSample((x, rows, x), attrs, TypeRuleError, "the body takes")
    total = graph_of(lambda s, r: reduce_sum(add(s, r), axes=(0,)), (ROW, ROW))
    yield ErrorSample((x, rows), attrs | {"body": total}, TypeRuleError, "carried value 0 is f32")


scan_ = register(
    OpDef(
        "scan", "structural", ("*operands",), _scan_type, _scan, _scan_vjp,
        attrs={"body": REQUIRED, "carried": REQUIRED, "scanned": REQUIRED, "length": REQUIRED, "reverse": False},
        batch=_scan_batch, samples=_scan_samples, errors=_scan_errors, n_outputs=0, tolerance=5e-6,
        doc="Runs the graph `body` for each row of `scanned` operands; `carried` values go from step to step, what it gives "
        "besides is stacked.",
    )
)  # fmt: skip
