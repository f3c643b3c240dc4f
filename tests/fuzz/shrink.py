"""Makes a failing program small: fewer outputs, fewer nodes, shorter roads to the node that matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from checks import NotWellDetermined
from generator import Program
from tracefuse.ir.graph import Graph, GraphBuilder, InputSpec, Node, OutputSpec, Signature, Value
from tracefuse.passes.simplify import eliminate_dead

Check = Callable[[Program], None]


def failure(check: Check, p: Program) -> str:
    """What the check says against the program, or ""."""
    try:
        check(p)
    except NotWellDetermined:
        return ""
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return ""


def shrink(p: Program, check: Check, tries: int = 400) -> Program:
    """The smallest program found on which the check fails in the same way (by the kind of error)."""
    kind = failure(check, p).split(":")[0]
    progress = True
    while progress and tries > 0:
        progress = False
        for smaller in candidates(p):
            tries -= 1
            if tries <= 0:
                break
            if failure(check, smaller).split(":")[0] == kind:
                p, progress = smaller, True
                break
    return p


def candidates(p: Program) -> Iterator[Program]:
    """Smaller programs, the most promising first."""
    n = len(p.graph.outputs)
    if n > 1:
        for k in range(n):
            yield with_outputs(p, [k])
        for k in range(n):
            yield with_outputs(p, [j for j in range(n) if j != k])
    if any(s.kind != "result" for s in p.graph.signature.outputs):
        specs = replace(p.graph.signature, outputs=(OutputSpec(),) * n)
        yield Program(p.seed, replace(p.graph, signature=specs), p.inputs)
    for node in reversed(p.graph.nodes):  # this node's values become inputs: whatever leads there goes away
        yield cut(p, node, None)
    for node in reversed(p.graph.nodes):
        for v in node.inputs:
            if len(node.outputs) == 1 and v.type == node.out.type:
                yield cut(p, node, v)
    for node in p.graph.nodes:  # end earlier
        if not any(v in p.graph.outputs for v in node.outputs):
            yield with_values(p, node.outputs)


def with_outputs(p: Program, keep: list[int]) -> Program:
    g = p.graph
    specs = tuple(g.signature.outputs[k] for k in keep)
    return cleaned(
        p, replace(g, outputs=tuple(g.outputs[k] for k in keep), signature=replace(g.signature, outputs=specs))
    )


def with_values(p: Program, outputs: tuple[Value, ...]) -> Program:
    signature = replace(p.graph.signature, outputs=(OutputSpec(),) * len(outputs))
    return cleaned(p, replace(p.graph, outputs=outputs, signature=signature))


def cut(p: Program, node: Node, instead: Value | None) -> Program:
    """The program without `node`: its result is `instead`, or a new input."""
    values = {**dict(zip(p.graph.inputs, p.inputs)), **p.graph.constants}
    b = GraphBuilder(p.graph.name)
    env: dict[Value, Value] = {v: b.input(v.type, v.name) for v in p.graph.inputs}
    for v, a in p.graph.constants.items():
        env[v] = b.constant(a, v.name)
    inputs = list(p.inputs)
    for n in p.graph.nodes:
        with np.errstate(all="ignore"):
            out = n.op.evaluate(tuple(values[v] for v in n.inputs), n.attrs)
        values.update(zip(n.outputs, out if isinstance(out, tuple) else (out,)))
        if n is node and instead is not None:
            env[n.out] = env[instead]
        elif n is node:
            for v in n.outputs:
                env[v] = b.input(v.type, "cut")
                inputs.append(np.ascontiguousarray(values[v]).reshape(values[v].shape))
        else:
            b.loc = n.loc
            env.update(zip(n.outputs, b.emit(n.op, tuple(env[v] for v in n.inputs), n.attrs)))
    specs = [*p.graph.signature.inputs]
    specs += [InputSpec("cut") for _ in range(len(inputs) - len(specs))]
    graph = b.finish([env[v] for v in p.graph.outputs], Signature(tuple(specs), p.graph.signature.outputs))
    return cleaned(Program(p.seed, graph, inputs), graph)


def cleaned(p: Program, graph: Graph) -> Program:
    """Without nodes and inputs that nothing needs."""
    graph = eliminate_dead(graph)
    used = {v for n in graph.nodes for v in n.inputs} | set(graph.outputs)
    used |= {graph.inputs[s.target] for s in graph.signature.outputs if s.target >= 0}
    keep = [k for k, v in enumerate(graph.inputs) if v in used]
    place = {k: j for j, k in enumerate(keep)}
    outs = tuple(replace(s, target=place[s.target]) if s.target >= 0 else s for s in graph.signature.outputs)
    signature = Signature(tuple(graph.signature.inputs[k] for k in keep), outs)
    graph = replace(graph, inputs=tuple(graph.inputs[k] for k in keep), signature=signature)
    return Program(p.seed, graph, [p.inputs[k] for k in keep])


def report(p: Program, check: Check, name: str) -> str:
    """The message for a failing program: seed, the shrunk graph, what is wrong with it."""
    small = shrink(p, check)
    reason = failure(check, small) or failure(check, p)
    sizes = f"shrunk from {len(p.graph.nodes)} to {len(small.graph.nodes)} nodes"
    return f"seed {p.seed}, check {name}: {reason}\n{sizes}:\n{small.graph}"
