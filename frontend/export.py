"""`tr.export`: a function or Module with its parameters as a `Program`, which saves to a file and needs no source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..ir.dim import DimLike
from ..ir.dtypes import from_numpy
from ..ir.graph import Graph, GraphBuilder, Node, OutputSpec, Signature, Value
from ..ir.serial import Contents, InvalidProgram
from ..ir.types import TensorType
from . import trees
from .autograd import no_grad
from .capture.capture import Call, CaptureStop, Restart, Specialize, Volatile, argument_paths, capture, flatten_call
from .capture.effects import Composite
from .capture.replay import Alias, ArgSource, Captured, Fresh, Leaf, Recipe, ScalarSource, Static, View
from .capture.tracer import Slot, Tracer
from .devices import host
from .dims import Dim
from .introspect import eager_of, name_of
from .nn.module import Module
from .program import Program, load
from .tensor import Tensor, new_tensor

_PLAIN = (str, int, float, bool, type(None))


class ExportError(ValueError):
    """What was to be exported can't be a program. The message names the user's line where there is one."""


Dynamic = Mapping[str, Mapping[int, "str | Dim"]]


def export(fn: Any, args: tuple = (), kwargs: dict[str, Any] | None = None, dynamic: Dynamic | None = None) -> Program:
    """The call `fn(*args, **kwargs)` as a Program: `export(net, (x,), dynamic={"x": {0: "batch"}}).save("net.tfx")`.

    fn: a function, a method or a Module, compiled or not. Tensors and ndarrays among the arguments stay arguments, and
    floats too where they only meet arithmetic; any other argument is fixed to its value. Tensors that the function
    reaches by itself (parameters, buffers) become constants, with the values they have now.
    dynamic: for an argument (its name, or a path such as "batch['ids']"), the axes whose size may change, by name or as
    a `Dim` with a range. A name used twice is one size. Gradients are off while it is captured.
    ExportError, with the user's line: the function can't be captured as one graph, writes tensors other than its
    arguments, draws random numbers, or a size that should be dynamic decides what is computed.
    """
    eager = eager_of(fn)
    if not isinstance(args, tuple):
        args = (args,)
    kwargs = kwargs or {}
    call = flatten_call(args, kwargs)
    paths = argument_paths(eager.forward if isinstance(eager, Module) else eager, call)
    _check_leaves(call, paths)
    shapes = _dynamic_shapes(call, paths, dynamic or {})
    captured, static = _capture(eager, call, args, kwargs, paths, shapes, name_of(fn))
    return Program(_Exporter(captured, call, paths, static, name_of(fn), eager).contents())


# ------------------------------------------------------------------ capture


def _check_leaves(call: Call, paths: list[str]) -> None:
    seen: dict[int, str] = {}
    for x, path in zip(call.leaves, paths):
        if isinstance(x, (Tensor, np.ndarray)):
            if id(x) in seen:
                raise ExportError(f"arguments {seen[id(x)]} and {path} are the same tensor: export with separate ones")
            seen[id(x)] = path
        elif type(x) not in _PLAIN:
            raise ExportError(f"argument {path} is a {type(x).__name__}, which a program can't take")


def _dynamic_shapes(call: Call, paths: list[str], dynamic: Dynamic) -> dict[int, tuple[DimLike, ...]]:
    """Symbolic shapes by leaf. ExportError for what does not fit the arguments."""
    out: dict[int, tuple[DimLike, ...]] = {}
    named: dict[str, tuple[Dim, int]] = {}
    for path, axes in dynamic.items():
        if path not in paths:
            raise ExportError(f"dynamic: there is no argument {path!r}; there are {', '.join(paths) or 'none'}")
        leaf = paths.index(path)
        x = call.leaves[leaf]
        if not isinstance(x, (Tensor, np.ndarray)):
            raise ExportError(f"dynamic: {path} is a {type(x).__name__}, not a tensor")
        shape: list[DimLike] = list(x.shape)
        for axis, given in axes.items():
            d = Dim(given) if isinstance(given, str) else given
            if not -x.ndim <= axis < x.ndim:
                raise ExportError(f"dynamic: {path} of shape {list(x.shape)} has no axis {axis}")
            size = x.shape[axis]
            before = named.setdefault(d.name, (d, size))
            if before != (d, size):
                raise ExportError(
                    f"dynamic: {d.name} is {before[1]} at one place and {size} at {path}, or has two ranges"
                )
            if size < d.min or d.max is not None and size > d.max:
                raise ExportError(f"dynamic: {path} has {size} at axis {axis}, outside the range of {d.name}")
            shape[axis] = d.symbol()
        out[leaf] = tuple(shape)
    return out


class _Tracer(Tracer):
    """Gives arguments the names of the exported function's parameters, and some of them symbolic shapes."""

    def __init__(self, name: str, paths: list[str], shapes: dict[int, tuple[DimLike, ...]]):
        super().__init__(name)
        self.paths, self.shapes = paths, shapes

    def argument(self, leaf: int, x: Any, path: str) -> Any:
        path = self.paths[leaf]
        shape = self.shapes.get(leaf)
        if shape is None:
            return super().argument(leaf, x, path)
        source = ArgSource(leaf, path)
        array = x._data if isinstance(x, Tensor) else x
        value = self.add_input(source, TensorType(from_numpy(array.dtype), shape))
        t = new_tensor(value, self.wrapper if isinstance(x, Tensor) else self.array_class)
        self.slots[id(t)] = Slot(t, source, value, value, array)
        return t


def _capture(
    function: Callable,
    call: Call,
    args: tuple,
    kwargs: dict[str, Any],
    paths: list[str],
    shapes: dict[int, tuple[DimLike, ...]],
    name: str,
) -> tuple[Captured, frozenset[int]]:
    """(the trace, leaves whose floats are fixed)"""
    static: frozenset[int] = frozenset()
    volatile = Volatile()
    while True:
        try:
            with no_grad():
                return capture(function, args, kwargs, static, _Tracer(name, paths, shapes), volatile=volatile), static
        except Restart:
            continue
        except Specialize as e:
            if e.leaf in static:
                raise ExportError(f"{name}: {paths[e.leaf]} can be neither an input nor a constant") from None
            static |= {e.leaf}
        except CaptureStop as e:
            raise ExportError(f"{name} can't be exported: {e}") from None
        except Exception as e:
            if shapes and "symbolic" in str(e):
                raise ExportError(f"{name} can't be exported with these dynamic sizes: {e}") from e
            raise


# ------------------------------------------------------------------ from a trace to a program


class _Exporter:
    """Rebuilds the graph of a trace with the state as constants and views as outputs of their own."""

    def __init__(self, captured: Captured, call: Call, paths: list[str], static: frozenset[int], name: str, fn: Any):
        self.captured, self.call, self.paths, self.static, self.name = captured, call, paths, static, name
        self.training = isinstance(fn, Module) and fn.training
        self.builder = GraphBuilder(name.rpartition(".")[2] or name)
        self.env: dict[Value, Value] = {}
        self.inputs: dict[int, int] = {}  # leaf -> graph input
        self.targets: dict[int, int] = {}  # graph input of the trace -> of the program
        self.outputs: list[Value] = []
        self.specs: list[OutputSpec] = []
        self.places: dict[int, int] = {}  # recipe -> output

    def contents(self) -> Contents:
        self._check()
        self._copy()
        with self.builder:
            results = [self._result(r) for r in self.captured.recipes]
        for k, target in self.captured.writes:
            self.outputs.append(self.env[self.captured.graph.outputs[k]])
            self.specs.append(OutputSpec("write", target=self.targets[target]))
        given = {self.targets[k]: s for k, s in enumerate(self.captured.graph.signature.inputs) if k in self.targets}
        signature = Signature(tuple(given[k] for k in sorted(given)), tuple(self.specs))
        graph: Graph = self.builder.finish(self.outputs, signature)
        outputs = {"tree": trees.to_tree(self.captured.spec), "leaves": results}
        return Contents(graph, inputs=self._arguments(), outputs=outputs)

    def _check(self) -> None:
        sources = self.captured.sources
        written = [sources[k] for _, k in self.captured.writes if not isinstance(sources[k], ArgSource)]
        problem = ""
        if any(s.kind == "rng" for s in sources):
            problem = "draws random numbers"
        elif written:
            problem = f"writes {written[0].path}"
        elif any(n.op.name.startswith("opaque") for n in self.captured.graph.nodes):
            problem = "calls Python (allow_in_graph)"
        elif self.captured.actions:
            problem = "changes Python objects or prints"
        elif self.captured.effects:
            problem = f"changes {self.captured.effects[0].target.path}.grad"
        if problem:
            hint = "; call .eval() first" if self.training else ""
            raise ExportError(f"{self.name} can't be exported: it {problem}, and a program has no state{hint}")

    def _copy(self) -> None:
        graph, b = self.captured.graph, self.builder
        for k, (v, source) in enumerate(zip(graph.inputs, self.captured.sources)):
            if isinstance(source, (ArgSource, ScalarSource)):
                self.targets[k] = self.inputs[source.leaf] = len(b.inputs)
                self.env[v] = b.input(v.type, v.name)
            else:
                self.env[v] = self._constant(v, host(source.fetch(self.call.leaves).copy()))
        for v, array in graph.constants.items():
            self.env[v] = self._constant(v, array)
        for node in graph.nodes:
            inputs = tuple(self.env[v] for v in node.inputs)
            attrs = {k: node.attrs[k] for k in node.op.attrs}  # in the declared order, as a file gives them back
            new = Node(node.op, inputs, attrs, [o.type for o in node.outputs], node.loc)
            for old, value in zip(node.outputs, new.outputs):
                value.builder = b
                self.env[old] = value
            b.nodes.append(new)

    def _constant(self, v: Value, array: np.ndarray) -> Value:
        new = Value(v.type, name=v.name, builder=self.builder)
        self.builder.constants[new] = np.ascontiguousarray(array).reshape(array.shape)
        return new

    # ---- results

    def _result(self, r: Recipe) -> dict[str, Any]:
        if isinstance(r, Static):
            if type(r.value) not in _PLAIN:
                raise ExportError(f"{self.name} can't be exported: it returns a {type(r.value).__name__}")
            return {"value": r.value}
        if isinstance(r, Composite):
            raise ExportError(f"{self.name} can't be exported: it returns Python objects of its own")
        if isinstance(r, Leaf):
            return {"argument": r.leaf}
        if isinstance(r, Alias) and isinstance(r.source, (ArgSource, ScalarSource)):
            return {"argument": r.source.leaf}
        kind = r.kind if isinstance(r, Fresh) else "tensor"
        if isinstance(r, Alias):
            kind = "array" if type(r.source).__name__ == "ArraySource" else "tensor"
        if id(r) not in self.places:
            self.places[id(r)] = len(self.outputs)
            self.outputs.append(self._value(r))
            self.specs.append(OutputSpec())
        return {"kind": kind, "output": self.places[id(r)]}

    def _value(self, r: Recipe) -> Value:
        """The graph value that a result holds at the end of the call."""
        graph = self.captured.graph
        if isinstance(r, Fresh):
            return self.env[graph.outputs[r.output]]
        if isinstance(r, View):
            return r.op(self._value(r.base), **r.attrs)
        assert isinstance(r, Alias)
        k = self.captured.sources.index(r.source)
        written = {target: out for out, target in self.captured.writes}
        return self.env[graph.outputs[written[k]] if k in written else graph.inputs[k]]

    # ---- arguments

    def _arguments(self) -> dict[str, Any]:
        leaves = []
        for i, (x, path) in enumerate(zip(self.call.leaves, self.paths)):
            if isinstance(x, (Tensor, np.ndarray)) or type(x) is float and i not in self.static:
                kind = "tensor" if isinstance(x, Tensor) else "array" if isinstance(x, np.ndarray) else "number"
                used = {"kind": kind, "path": path, "input": self.inputs.get(i)}
                leaves.append(used if i in self.inputs else {"kind": "unused", "path": path})
            else:
                leaves.append({"kind": "value", "path": path, "value": x})
        args, kwargs = self.call.spec.children
        tree = trees.to_tree(self.call.spec)
        first = [0]
        for child in args.children:
            first.append(first[-1] + child.n_leaves)
        names = [re.split(r"[.\[]", self.paths[k], maxsplit=1)[0] if k < len(self.paths) else "" for k in first[:-1]]
        return {"tree": tree, "leaves": leaves, "positional": names, "named": list(kwargs.keys)}


__all__ = ["Dim", "ExportError", "InvalidProgram", "Program", "export", "load"]
