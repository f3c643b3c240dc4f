"""`Program`: a captured function with its parameters, independent of the Python it came from. `export` makes one."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np

from ..ir.dim import Dim, bounds, evaluate, symbols
from ..ir.graph import Graph
from ..ir.interpreter import bind_dims
from ..ir.serial import Contents, InvalidProgram, read, write
from ..ir.types import TensorType
from . import trees
from .capture import pytree
from .capture.guards import exact
from .devices import gpu_at, host, is_device_array, share_memory
from .executables import BACKENDS
from .tensor import Tensor, new_tensor

_PLAIN = (str, int, float, bool, type(None))
_INPUT_KINDS = frozenset(("tensor", "array", "number", "value", "unused"))


class Program:
    """A graph that is called like the function it was exported from: same arguments, same results, the same bits as
    the compiled function's.

    Attributes: `name`; `graph`; `arguments`, [(path, type or value)] as a user would write them. It is compiled at the
    first call, or by `compile()`. Results never have a history, and share no memory with parameters or other results;
    named tuples and dataclasses come back as named tuples. Thread-safe.
    """

    def __init__(self, contents: Contents):
        """InvalidProgram unless `contents` describes arguments and results that fit its graph."""
        self.contents = contents
        self.graph: Graph = contents.graph
        try:
            self._read_inputs(contents.inputs)
            self._read_outputs(contents.outputs)
        except (KeyError, TypeError, AttributeError, trees.BadTree, RecursionError) as e:
            raise InvalidProgram(f"the description of arguments and results is damaged: {e}") from None
        self._executables: dict[Any, Any] = {}  # by GPU; None: the CPU
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def arguments(self) -> list[tuple[str, Any]]:
        """Path and TensorType of each argument; for one whose value is fixed, that value; None for an unused one."""
        return [(leaf["path"], self._expected(leaf)) for leaf in self._leaves]

    @property
    def results(self) -> list[Any]:
        """TensorType of each result, in the order of their leaves; the value of a constant one; or an argument's path."""
        out = []
        for leaf in self._results:
            if "output" in leaf:
                out.append(self.graph.outputs[leaf["output"]].type)
            else:
                out.append(self._leaves[leaf["argument"]]["path"] if "argument" in leaf else leaf["value"])
        return out

    # ---- calling

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the program. TypeError or ValueError for arguments that differ from the exported ones in nesting, element
        type, or a size that is not dynamic; IndexError where an index inside is out of range."""
        args, kwargs = self._bound(args, kwargs)
        leaves, spec = pytree.flatten((args, kwargs))
        if spec != self._spec and trees.shape_of(trees.to_tree(spec)) != self._shape:
            raise TypeError(f"{self!r} was called with other arguments: {self._told(args, kwargs)}")
        arrays = [np.empty(0)] * len(self.graph.inputs)
        for leaf, x in zip(self._leaves, leaves):
            if leaf["kind"] == "value":
                if type(x) is not type(leaf["value"]) or exact(x) != exact(leaf["value"]):
                    raise ValueError(f"{self.name}: {leaf['path']} was exported as {leaf['value']!r}, not {x!r}")
            elif leaf["kind"] != "unused":
                arrays[leaf["input"]] = self._array(leaf, x)
        self._check_sizes(arrays)
        outputs = self._run(arrays)
        return pytree.unflatten(self._result_spec, [self._made(r, outputs, leaves) for r in self._results])

    def compile(self, device: Any = None) -> Program:
        """Compiles now instead of at the first call: for the CPU, or a GPU. Calls run where their arguments lie."""
        self._made_for(None if device is None else gpu_at(device))
        return self

    def _made_for(self, gpu: Any) -> Any:
        found = self._executables.get(gpu)
        if found is None:
            with self._lock:
                found = self._executables.get(gpu)
                if found is None:
                    found = self._executables[gpu] = BACKENDS["llvm"](self.graph, gpu=gpu)
        return found

    def _run(self, arrays: list[np.ndarray]) -> list[Any]:
        from ..runtime.executable import CheckFailed

        self._check_overlap(arrays)
        gpu = next((getattr(a, "gpu") for a in arrays if is_device_array(a)), None)
        executable = self._made_for(gpu)
        try:
            return executable.run(arrays)
        except CheckFailed as e:
            raise IndexError(str(e)) from None

    def _bound(self, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Arguments in the places they were exported in: those given by name instead of by position, and in any order."""
        if not kwargs:
            return args, kwargs
        rest = dict(kwargs)
        for name in self._positional[len(args) :]:
            if name not in rest:
                break
            args = (*args, rest.pop(name))
        known = {k: rest.pop(k) for k in self._named if k in rest}
        return args, {**known, **rest}

    def _array(self, leaf: dict[str, Any], x: Any) -> np.ndarray:
        want: TensorType = self.graph.inputs[leaf["input"]].type
        if leaf["kind"] == "number":
            if type(x) not in (float, int) and not isinstance(x, (np.floating, np.integer)):
                raise TypeError(f"{self.name}: {leaf['path']} must be a number, not a {type(x).__name__}")
            return np.asarray(x, np.float64)
        array = x._data if isinstance(x, Tensor) else x
        if not isinstance(array, np.ndarray) and not is_device_array(array):
            raise TypeError(f"{self.name}: {leaf['path']} must be a tensor {want}, not a {type(x).__name__}")
        if array.dtype != want.dtype.np:
            raise TypeError(
                f"{self.name}: {leaf['path']} must be a tensor {want}, not {array.dtype}{list(array.shape)}"
            )
        fits = array.ndim == want.ndim and all(
            not isinstance(d, int) or d == n for d, n in zip(want.shape, array.shape)
        )
        if not fits:
            raise ValueError(f"{self.name}: {leaf['path']} must be a tensor {want}, not of shape {list(array.shape)}")
        return array

    def _check_sizes(self, arrays: list[np.ndarray]) -> None:
        """ValueError where a dynamic size is out of its range, or two sizes that must be equal are not."""
        if not self._symbols:
            return
        sizes = bind_dims(self.graph, arrays)
        for s, (low, high) in self._symbols.items():
            if not low <= sizes[s] or high is not None and sizes[s] > high:
                raise ValueError(f"{self.name}: {s} is {sizes[s]}, not in [{low}, {'inf' if high is None else high}]")
        for leaf in self._leaves:
            if "input" not in leaf:
                continue
            want = self.graph.inputs[leaf["input"]].shape
            found = arrays[leaf["input"]].shape
            if any(evaluate(d, sizes) != n for d, n in zip(want, found)):
                given = ", ".join(f"{k} = {v}" for k, v in sizes.items())
                raise ValueError(f"{self.name}: {leaf['path']} has shape {list(found)}, not {list(want)} with {given}")

    def _check_overlap(self, arrays: list[np.ndarray]) -> None:
        for k in self._written:
            if not arrays[k].flags.writeable:
                raise ValueError(f"{self.name} writes into an argument that is read-only")
            if any(j != k and share_memory(arrays[k], a) for j, a in enumerate(arrays)):
                raise ValueError(f"{self.name} writes into an argument that shares memory with another one")

    def _made(self, leaf: dict[str, Any], outputs: list[Any], leaves: list[Any]) -> Any:
        if "argument" in leaf:
            return leaves[leaf["argument"]]
        if "value" in leaf:
            return leaf["value"]
        array = outputs[leaf["output"]]
        return (
            new_tensor(array)
            if leaf["kind"] == "tensor"
            else host(array)
            if leaf["kind"] == "array"
            else host(array)[()]
        )

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a .tfx file, which `tr.load` reads back: the graph as text, the parameters, and the arguments."""
        write(path, self.contents)

    # ---- reading what the contents say

    def _read_inputs(self, inputs: Any) -> None:
        self._leaves: list[dict[str, Any]] = inputs["leaves"]
        self._spec = trees.to_spec(inputs["tree"])
        self._shape = trees.shape_of(inputs["tree"])
        self._positional, self._named = list(inputs["positional"]), list(inputs["named"])
        used = []
        for leaf in self._leaves:
            if leaf["kind"] not in _INPUT_KINDS or not isinstance(leaf["path"], str):
                raise InvalidProgram("an argument is of no known kind")
            if leaf["kind"] == "value" and type(leaf["value"]) not in _PLAIN:
                raise InvalidProgram(f"{leaf['path']} is fixed to something that is no plain value")
            if leaf["kind"] in ("tensor", "array", "number"):
                used.append(_index(leaf["input"], self.graph.inputs))
                if leaf["kind"] == "number" and str(self.graph.inputs[used[-1]].type) != "f64[]":
                    raise InvalidProgram(f"{leaf['path']} is a number, but the graph's input is not f64[]")
            elif "input" in leaf:
                raise InvalidProgram(f"{leaf['path']} is no input of the graph")
        if sorted(used) != list(range(len(self.graph.inputs))) or self._spec.n_leaves != len(self._leaves):
            raise InvalidProgram("the arguments are not the graph's inputs")
        if not all(isinstance(n, str) for n in (*self._positional, *self._named)):
            raise InvalidProgram("the arguments' names are damaged")
        self._symbols = {str(s): _range(s) for s in self.graph.dims()}
        whole = {str(d) for v in self.graph.inputs for d in v.shape if not isinstance(d, int) and str(d).isidentifier()}
        free = {str(s) for v in self.graph.values() for d in v.type.shape for s in symbols(d)}
        if not free | self._symbols.keys() <= whole:
            raise InvalidProgram("a symbolic size is not the size of any argument")

    def _read_outputs(self, outputs: Any) -> None:
        self._results: list[dict[str, Any]] = outputs["leaves"]
        self._result_spec = trees.to_spec(outputs["tree"])
        specs = self.graph.signature.outputs
        for leaf in self._results:
            if "argument" in leaf:
                _index(leaf["argument"], self._leaves)
            elif "value" in leaf:
                if type(leaf["value"]) not in _PLAIN:
                    raise InvalidProgram("a result is fixed to something that is no plain value")
            else:
                k = _index(leaf["output"], specs)
                if (
                    specs[k].kind != "result"
                    or specs[k].target >= 0
                    or leaf["kind"] not in ("tensor", "array", "number")
                ):
                    raise InvalidProgram("a result is of no known kind")
        if self._result_spec.n_leaves != len(self._results):
            raise InvalidProgram("the results do not fit their tree")
        self._written = [s.target for s in specs if s.kind == "write"]
        if any(s.kind not in ("result", "write") for s in specs):
            raise InvalidProgram("the graph has outputs that a program can't have")

    # ---- printing

    def _expected(self, leaf: dict[str, Any]) -> Any:
        if leaf["kind"] == "value":
            return leaf["value"]
        return self.graph.inputs[leaf["input"]].type if "input" in leaf else None

    def _told(self, args: tuple, kwargs: dict[str, Any]) -> str:
        parts = [_short(a) for a in args] + [f"{k}={_short(v)}" for k, v in kwargs.items()]
        return f"({', '.join(parts)})"

    def __repr__(self) -> str:
        def text(x: Any) -> str:
            return str(x) if isinstance(x, (TensorType, str)) else repr(x)

        given = ", ".join(f"{path}: {'unused' if x is None else text(x)}" for path, x in self.arguments)
        return f"{self.name}({given}) -> {', '.join(map(text, self.results)) or 'None'}"

    def __str__(self) -> str:
        """The program in full: arguments, results, sizes, parameters, and the graph's text."""
        constants = self.graph.constants
        count = sum(a.size for a in constants.values())
        lines = [repr(self), f"{len(self.graph.nodes)} nodes, {len(constants)} constants with {count} elements"]
        lines += [f"{s} in [{lo}, {'inf' if hi is None else hi}]" for s, (lo, hi) in self._symbols.items()]
        return "\n".join([*lines, "", str(self.graph)])


def _index(k: Any, of: Any) -> int:
    if type(k) is not int or not 0 <= k < len(of):
        raise InvalidProgram(f"there is no number {str(k)[:20]} among {len(of)}")
    return k


def _range(s: Dim) -> tuple[int, int | None]:
    low, high = bounds(s)
    return low or 0, high


def _short(x: Any) -> str:
    if isinstance(x, (Tensor, np.ndarray)):
        return f"{np.dtype(x._data.dtype if isinstance(x, Tensor) else x.dtype).name}{list(x.shape)}"
    text = repr(x)
    return text if len(text) < 40 else type(x).__name__


def load(path: str | os.PathLike[str]) -> Program:
    """The program in a .tfx file. Runs no code from it. InvalidProgram for a file that is damaged, or something else."""
    try:
        return Program(read(path))
    except InvalidProgram as e:
        raise InvalidProgram(f"{os.fspath(path)}: {e}") from None


__all__ = ["InvalidProgram", "Program", "load"]
