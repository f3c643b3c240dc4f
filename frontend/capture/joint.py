"""Gradients of a compiled forward whose loss is computed eagerly: the backward pass is recorded in the same trace, cut
off into a graph of its own, and hung on the tape as one node.
"""

from __future__ import annotations

from typing import Any, Collection, Sequence

import numpy as np

from ...ir.dim import same, symbols
from ...ir.graph import Graph, GraphBuilder, InputSpec, OutputSpec, Signature, Value
from ...ir.graph import Node as GraphNode
from ...ir.interpreter import bind_dims, concrete_attrs
from ...ir.verify import symbols_in
from .. import autograd
from ..dispatch import lift
from ..state import state
from ..tape import Node, edge_of, root_of
from ..tensor import Tensor, new_tensor
from .origins import ReadSource
from .replay import ArgSource, Backward, GradSource, TensorLike, TensorSource
from .tracer import Tracer


def record(
    tracer: Tracer,
    roots: Sequence[tuple[int, Tensor]],
    outputs: list[Value],
    written: set[int],
    handed: Collection[int],
) -> Backward | None:
    """The backward pass of `roots`, (graph output, tensor) pairs with a history.

    Appends to `outputs` what the backward pass needs of the forward one. None if nothing from outside wants a gradient,
    or if the trace has been backward through this history itself. `written`: inputs that the trace overwrites. `handed`:
    ids of what the trace hands out. Ends the capture where a leaf among that wants a gradient: it is another one in
    every call.
    """
    tensors = [t for _, t in roots]
    made, leaves = _leaves(tensors, tracer)
    if not leaves and not made:
        return None
    builder = tracer.builder
    forward = len(builder.nodes)
    seeds = [Value(tracer.read(t).type, name=f"g{i}", builder=builder) for i, t in enumerate(tensors)]
    try:
        grads = autograd.grad(
            tensors, leaves or made, [tracer.wrap(v) for v in seeds], retain_graph=True, allow_unused=True
        )
    except RuntimeError:
        del builder.nodes[forward:]
        return None
    if any(id(t) in handed for t in made):
        tracer.stop("it hands out a leaf (a parameter) that it has made, and a tensor whose history leads to it")
    values = [None if g is None else tracer.read(g) for g in grads]
    backward = set(builder.nodes[forward:])
    del builder.nodes[forward:]
    wanted = [(t, v) for t, v in zip(leaves, values) if v is not None]
    targets = [_target(tracer, t) for t, _ in wanted]
    cut = _Cut(builder, backward, seeds, outputs, written)
    graph = cut.graph([v for _, v in wanted])
    return Backward(graph, cut.saved, [k for k, _ in roots], targets)


def _leaves(tensors: Sequence[Tensor], tracer: Tracer) -> tuple[list[Tensor], list[Tensor]]:
    """The leaves that the history of `tensors` leads to: those that the trace has made, and those from outside."""
    edges = [edge_of(t) for t in tensors]
    made: dict[int, Tensor] = {}
    outside: dict[int, Tensor] = {}
    for node in sorted(autograd.nodes_behind(edges), key=lambda n: n.order):
        edges.extend(node.edges)
    for e in edges:
        if isinstance(e, Tensor):
            real = type(e._data) is not Value or id(e) in tracer.slots
            slot = tracer.slots.get(id(e))
            inside = not real or id(e) in tracer.created or slot is not None and slot.source is None
            (made if inside else outside).setdefault(id(e), e)
    return list(made.values()), list(outside.values())


def _target(tracer: Tracer, t: Tensor) -> TensorLike:
    source = tracer.source_of(t)
    assert isinstance(source, (ArgSource, TensorSource, GradSource, ReadSource))
    return source


class _Cut:
    """Copies the backward nodes into a graph whose inputs are the values that cross over, then the cotangents."""

    def __init__(
        self,
        forward: GraphBuilder,
        backward: set[GraphNode],
        seeds: list[Value],
        outputs: list[Value],
        written: set[int],
    ):
        self.forward, self.backward, self.outputs, self.written = forward, backward, outputs, written
        self.builder = GraphBuilder(f"{forward.name}_backward")
        self.saved: list[tuple[str, int]] = []
        self.env: dict[Value, Value] = {}
        self.seeds = seeds
        self.inputs = {v: i for i, v in enumerate(forward.inputs)}

    def graph(self, results: list[Value]) -> Graph:
        order = self._needed(results)
        crossing: dict[Value, None] = {}
        copied: set[GraphNode] = {n for n in order}
        for n in order:
            for v in n.inputs:
                self._cross(v, copied, crossing)
        for v in results:
            self._cross(v, copied, crossing)
        for v in self._unbound(order, [*crossing, *self.seeds]):
            crossing.setdefault(v)
        for v in crossing:
            self.env[v] = self.builder.input(v.type, f"saved{len(self.saved)}")
            self.saved.append(self._save(v))
        for v in self.seeds:
            self.env[v] = self.builder.input(v.type, v.name)
        with self.builder:
            for n in order:
                self._copy(n)
            outputs = [self._value(v) for v in results]
        specs = tuple(
            InputSpec(v.name, "state" if i < len(self.saved) else "arg") for i, v in enumerate(self.builder.inputs)
        )
        return self.builder.finish(outputs, Signature(specs, tuple(OutputSpec() for _ in outputs)))

    def _unbound(self, order: list[GraphNode], inputs: list[Value]) -> list[Value]:
        """Values of the forward graph that say how large a symbolic size is which no other input of this graph says."""
        used = symbols_in(order)
        used |= {s for v in inputs for d in v.type.shape for s in symbols(d)}
        out: list[Value] = []
        for s in sorted(used, key=str):
            if not any(same(s, d) for v in (*inputs, *out) for d in v.type.shape):
                told = (v for n in self.forward.nodes if n.op.name == "extent" for v in n.outputs)
                known = (*self.forward.inputs, *told)
                out.append(next(v for v in known if any(s in symbols(d) for d in v.type.shape)))
        return out

    def _needed(self, results: list[Value]) -> list[GraphNode]:
        """The backward nodes that lead to `results`, operands first."""
        order: list[GraphNode] = []
        done: set[GraphNode] = set()
        stack = [(v.node, False) for v in reversed(results) if v.node in self.backward]
        while stack:
            node, ready = stack.pop()
            if node is None or (node in done and not ready):
                continue
            if ready:
                order.append(node)
                continue
            done.add(node)
            stack.append((node, True))
            stack.extend(
                (v.node, False) for v in reversed(node.inputs) if v.node in self.backward and v.node not in done
            )
        return order

    def _cross(self, v: Value, copied: set[GraphNode], crossing: dict[Value, None]) -> None:
        if v in self.seeds or v in self.forward.constants or v.node in copied or _is_fill(v):
            return
        crossing.setdefault(v)

    def _save(self, v: Value) -> tuple[str, int]:
        k = self.inputs.get(v)
        if k is not None and k not in self.written:
            return ("input", k)
        if v not in self.outputs:
            self.outputs.append(v)
        return ("output", self.outputs.index(v))

    def _value(self, v: Value) -> Value:
        found = self.env.get(v)
        if found is None:
            if v in self.forward.constants:
                found = self.builder.constant(self.forward.constants[v])
            else:
                assert v.node is not None
                found = self.builder.emit(v.node.op, (), v.node.attrs)[0]
            self.env[v] = found
        return found

    def _copy(self, n: GraphNode) -> None:
        self.builder.loc = n.loc
        outs = self.builder.emit(n.op, tuple(self._value(v) for v in n.inputs), n.attrs)
        self.env.update(zip(n.outputs, outs))


def _is_fill(v: Value) -> bool:
    """Whether a value is cheaper to make again than to save."""
    return v.node is not None and not v.node.inputs and v.node.op.pure


class Forward:
    """A call of the captured forward, to be done once more in ops where gradients of its gradients are asked for."""

    def __init__(self, graph: Graph, arrays: list[np.ndarray], tensors: list[Any], written: frozenset[int]):
        self.graph, self.arrays, self.tensors, self.written = graph, arrays, tensors, written
        self.versions = [t is not None and root_of(t)._version for t in tensors]

    def again(self, saved: Sequence[tuple[str, int]], name: str) -> list[Tensor]:
        """What the backward pass reads, as tensors with their history. RuntimeError where an input has changed."""
        outputs = [self.graph.outputs[k] for kind, k in saved if kind == "output"]
        needed = _needed(self.graph, outputs) | {self.graph.inputs[k] for kind, k in saved if kind == "input"}
        values: list[Any] = []
        for k, (v, t, array) in enumerate(zip(self.graph.inputs, self.tensors, self.arrays)):
            changed = k in self.written or t is not None and root_of(t)._version != self.versions[k]
            if v in needed and changed:
                raise RuntimeError(
                    f"gradients of gradients through {name}: it reads {self.graph.signature.inputs[k].path}, which was "
                    "written in place; compile the function that takes the gradients"
                )
            values.append(t if t is not None else new_tensor(array))
        env = _in_ops(self.graph, values, outputs)
        found = [env[(self.graph.inputs if kind == "input" else self.graph.outputs)[k]] for kind, k in saved]
        return [x if isinstance(x, Tensor) else lift(x) for x in found]


def _needed(graph: Graph, outputs: Sequence[Value]) -> set[Value]:
    """The values that the outputs are computed from."""
    needed = set(outputs)
    for node in reversed(graph.nodes):
        if any(v in needed for v in node.outputs):
            needed.update(node.inputs)
    return needed


def _in_ops(graph: Graph, inputs: Sequence[Any], outputs: Sequence[Value]) -> dict[Value, Any]:
    """Every value that the outputs need, computed op by op: on whatever kind of values the inputs are."""
    env: dict[Value, Any] = dict(zip(graph.inputs, inputs)) | graph.constants
    extents = [n for n in graph.nodes if n.op.name == "extent"]
    needed = _needed(graph, [*outputs, *(v for n in extents for v in n.outputs)])
    sizes = bind_dims(graph, inputs)
    for node in graph.nodes:
        if node in extents:
            sizes[str(node.attrs["size"])] = int(env[node.inputs[0]])
        elif any(v in needed for v in node.outputs):
            attrs = concrete_attrs(node, sizes) if sizes else node.attrs
            out = node.op(*(env[v] for v in node.inputs), **attrs)
            env.update(zip(node.outputs, out if isinstance(out, tuple) else (out,)))
    return env


class CompiledNode(Node):
    """The captured forward on the tape: pulling cotangents back runs the compiled backward graph."""

    __slots__ = ("backward", "checks", "forward", "saved")

    def __init__(
        self,
        backward: Backward,
        targets: tuple[Tensor, ...],
        results: tuple[Tensor, ...],
        saved: list,
        checks: list,
        forward: Forward,
    ):
        super().__init__(targets, results)
        self.backward, self.checks, self.forward = backward, checks, forward
        self.saved: list[np.ndarray] | None = saved

    @property
    def name(self) -> str:
        return self.backward.graph.name

    def pull(self, cotangents: list, needs: tuple[bool, ...], create_graph: bool) -> tuple:
        if self.saved is None:
            raise RuntimeError(f"backward through {self.name} a second time: pass retain_graph=True to the first one")
        for t, version in self.checks:
            if root_of(t)._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(t.shape)} that the gradient of {self.name} needs was written in place"
                )
        if create_graph or state.tracer is not None:  # more is wanted than numbers
            return self._pull_in_ops(cotangents, create_graph)
        full = [self._cotangent(i, g) for i, g in enumerate(cotangents)]
        return tuple(self.backward.executable.run([*self.saved, *full]))

    def _pull_in_ops(self, cotangents: list, create_graph: bool) -> tuple:
        """The backward graph op by op, on tensors with a history, or on the values of a trace or of vmap."""
        graph = self.backward.graph
        saved = self.forward.again(self.backward.saved, self.name) if create_graph else self.saved or []
        full = [self._cotangent(i, None) if g is None else g for i, g in enumerate(cotangents)]
        env = _in_ops(graph, [*saved, *full], graph.outputs)
        grads = [env[v] for v in graph.outputs]
        return tuple(g if isinstance(g, Tensor) or not create_graph else lift(g) for g in grads)

    def _cotangent(self, i: int, g: Any) -> Any:
        t = self.result_type(i)
        if g is None:
            shape: Any = t.shape
            return np.zeros(shape, t.dtype.np)
        return np.asarray(g, order="C") if type(g) is np.ndarray else g

    def release(self) -> None:
        self.saved = None
        self.forward.arrays, self.forward.tensors = [], []


def connect(
    backward: Backward,
    roots: list[Tensor | None],
    leaves: Sequence[Any],
    arrays: list[np.ndarray],
    outputs: list[Any],
    inputs: list[Any],
    graph: Graph,
    written: frozenset[int],
) -> None:
    """Gives the forward's results their history. `inputs`: the tensors (or None) behind the inputs of the forward `graph`;
    `written`: those of them that the call has overwritten."""
    saved = [arrays[k] if kind == "input" else outputs[k] for kind, k in backward.saved]
    checks = [
        (inputs[k], root_of(inputs[k])._version)
        for kind, k in backward.saved
        if kind == "input" and inputs[k] is not None
    ]
    results = tuple(t for t in roots if t is not None)
    targets = tuple(s.tensor(leaves) for s in backward.targets)
    forward = Forward(graph, arrays, inputs, written)
    node = CompiledNode(backward, targets, results, saved, checks, forward)
    for i, t in enumerate(results):
        t._node = (node, i)
