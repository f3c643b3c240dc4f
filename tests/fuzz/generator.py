"""Random programs: graphs of 3 to 25 nodes over all registered ops, with inputs on which they are well conditioned.

Every node is evaluated as it is made, once on its operands and once on operands changed by about their error. The
difference estimates the error of the result; nodes whose result could jump (a comparison near a tie, a value near an
integer that is truncated), blow up or leave the finite numbers are dropped. So what another correct evaluation of the
same program gives is known to within a few times `error_of`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from random import Random

import numpy as np
from tracefuse.ir import ops  # noqa: F401  (declares the ops)
from tracefuse.ir.dtypes import ALL, DType, bfloat16, bool_, float16, float32, float64, from_numpy, int32, int64, uint64
from tracefuse.ir.graph import Graph, GraphBuilder, InputSpec, Location, Node, OutputSpec, Signature, Value
from tracefuse.ir.op import REGISTRY
from tracefuse.ir.types import TensorType, TypeRuleError

EPSILON = {float16: 1e-3, bfloat16: 8e-3, float32: 1.2e-7, float64: 2.3e-16}
LARGEST = {float16: 1e3, bfloat16: 1e6, float32: 1e6, float64: 1e6}
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 40)


@dataclass(eq=False)
class Program:
    """A graph and inputs for it. `seed` makes it again."""

    seed: int
    graph: Graph
    inputs: list[np.ndarray]


# ------------------------------------------------------------------ values with errors


@dataclass(slots=True)
class Known:
    """A value's reference result, and about how far (absolutely) a correct evaluation may be from it."""

    array: np.ndarray
    error: float


def exactly(array: np.ndarray) -> Known:
    return Known(array, 0.0)


def largest(a: np.ndarray) -> float:
    return float(np.max(np.abs(a.astype(np.float64)), initial=0.0))


def shaken(k: Known, rng: np.random.Generator) -> np.ndarray:
    """The array, changed at random by about its error, and at least by what rounding it would change."""
    dtype = from_numpy(k.array.dtype)
    if dtype not in EPSILON:
        return k.array
    wide = k.array.astype(np.float64)
    step = np.maximum(k.error, EPSILON[dtype] * np.abs(wide))
    return np.asarray(wide + step * rng.choice((-1.0, 1.0), wide.shape)).astype(k.array.dtype)


def evaluate(node: Node, args: list[Known], rng: np.random.Generator) -> list[Known] | None:
    """The node's results, or None if they are not well determined there."""
    with np.errstate(all="ignore"):
        out = node.op.evaluate(tuple(a.array for a in args), node.attrs)
        moved = node.op.evaluate(tuple(shaken(a, rng) for a in args), node.attrs)
    results = []
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (out, moved)), strict=True):
        dtype = from_numpy(a.dtype)
        if dtype not in EPSILON:
            if not np.array_equal(a, b):
                return None
            results.append(exactly(a))
            continue
        top = largest(a)
        if not (np.isfinite(a.astype(np.float64)).all() and np.isfinite(b.astype(np.float64)).all()):
            return None
        if top > LARGEST[dtype]:
            return None
        difference = largest(b.astype(np.float64) - a.astype(np.float64))
        error = 2 * difference + EPSILON[dtype] * max(1.0, node.op.tolerance * 1e7) * max(top, 0.05)
        if error > 0.03 * max(top, 1e-2) + 1e3 * EPSILON[dtype]:
            return None
        results.append(Known(a, error))
    return results


def evaluate_graph(graph: Graph, inputs: list[np.ndarray], seed: int = 0) -> list[Known] | None:
    """The outputs of a graph, or None if one of its values is not well determined."""
    rng = np.random.default_rng(seed)
    env = {v: exactly(a) for v, a in (*zip(graph.inputs, inputs, strict=True), *graph.constants.items())}
    for node in graph.nodes:
        results = evaluate(node, [env[v] for v in node.inputs], rng)
        if results is None:
            return None
        env.update(zip(node.outputs, results, strict=True))
    return [env[v] for v in graph.outputs]


# ------------------------------------------------------------------ building


@dataclass(frozen=True)
class Style:
    """How programs grow. late: of the values that fit, so many of the latest are mostly chosen from, with the chance
    `habit`. nodes: how many to choose from. rows: the chance of a program with one long axis, longer than a block of a GPU's.
    weights: of moves by name, where others than `moves.MOVES` are wanted."""

    late: int = 6
    habit: float = 0.7
    nodes: tuple[int, ...] = (3, 4, 5, 6, 8, 10, 14)
    rows: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()


PLAIN = Style()
# Programs that are one long thread rather than many short ones: most of their nodes end in one or two kernels.
FUSED = Style(
    late=2, habit=0.88, nodes=(5, 6, 8, 10, 12, 16), rows=0.12,
    weights=(("sampled", 0.3), ("reduce", 8), ("select", 4), ("scan", 1.5), ("conv", 1.5), ("gather", 3), ("scatter", 1.5),
             ("random_bits", 1), ("flip", 0.5), ("slice_scatter", 0.5), ("create", 1), ("concat", 1)),
)  # fmt: skip
LONG = (2049, 4096, 4100, 5000, 8193)


class Generator:
    """Grows one program. `moves.py` adds nodes through `emit`, which refuses what is not well determined."""

    def __init__(self, seed: int, style: Style = PLAIN):
        self.seed, self.style = seed, style
        self.random = Random(seed)
        self.rng = np.random.default_rng(seed)
        self.builder = GraphBuilder(f"seed_{seed}")
        self.known: dict[Value, Known] = {}
        self.pool: list[Value] = []
        self.inputs: list[np.ndarray] = []
        self.medium = self.random.random() < 0.12
        self.limit = 40_000 if self.medium else 4_000  # elements of a value
        sizes = (*SIZES, 48, 64, 100, 129) if self.medium else SIZES
        self.sizes = self.random.sample(sizes, 3) + [1]
        if self.random.random() < 0.06:
            self.sizes.append(0)
        if style.rows and self.random.random() < style.rows:
            self.sizes, self.limit = [self.random.choice(LONG), 2, 3, 1], 25_000
        self.float = self.random.choices((float32, float64, float16, bfloat16), (70, 12, 9, 9))[0]

    # ---- choices
    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def shape(self, most: int = 4) -> tuple[int, ...]:
        """At most `most` axes of the program's sizes, and not more elements than a value may have."""
        rank = self.random.choices(range(most + 1), (1, 3, 6, 4, 2)[: most + 1])[0]
        out: list[int] = []
        while len(out) < rank:
            n = self.random.choice(self.sizes)
            out.append(n if n * prod(out) <= self.limit else 1)
        return tuple(out)

    def dtype(self) -> DType:
        if self.chance(0.8):
            return self.float
        return self.random.choices((int64, int32, bool_, float32, self.random.choice(ALL)), (3, 3, 2, 2, 1))[0]

    def data(self, dtype: DType, shape: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> np.ndarray:
        """Values that are not near each other's ties by accident: normal ones, or small integers."""
        if dtype.kind == "b":
            return self.rng.random(shape) < 0.5
        if dtype.kind in "iu":
            return self.rng.integers(0 if dtype.kind == "u" else -9, 10, shape).astype(dtype.np)
        return np.asarray(self.rng.uniform(low, high, shape)).astype(dtype.np)

    def pick(self, kinds: str = "f", least: int = 0, where=lambda v: True) -> Value | None:
        """A value of a dtype in `kinds` with at least `least` axes, late ones first; None if there is none."""
        found = [v for v in self.pool if v.dtype.kind in kinds and v.ndim >= least and where(v)]
        if not found:
            return None
        return self.random.choice(found[-self.style.late :] if self.chance(self.style.habit) else found)

    def array(self, v: Value) -> np.ndarray:
        return self.known[v].array

    # ---- nodes
    def source(self, array: np.ndarray, constant: bool | None = None) -> Value:
        """A new input, or sometimes a constant, with this data."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        if (self.chance(0.15) if constant is None else constant) and array.ndim:
            v = self.builder.constant(array, "c")
        else:
            v = self.builder.input(TensorType(from_numpy(array.dtype), array.shape), "x")
            self.inputs.append(array)
        self.known[v] = exactly(array)
        self.pool.append(v)
        return v

    def emit(self, name: str, *args: Value, **attrs) -> Value | None:
        """Adds a node and returns its (first) result; None, and no node, where it is not welcome."""
        op = REGISTRY[name]
        b = self.builder
        b.loc = Location("fuzz.py", len(b.nodes) + 1)
        attrs = {k: attrs.get(k, default) for k, default in op.attrs.items()}
        try:
            out = b.emit(op, args, attrs)
        except (TypeRuleError, IndexError):
            return None
        sizes = [int(np.prod([int(d) for d in v.shape])) for v in out]  # type: ignore[arg-type]
        results = None
        if max(sizes) <= self.limit:
            results = evaluate(b.nodes[-1], [self.known[v] for v in args], self.rng)
        if results is None:
            b.nodes.pop()
            return None
        self.known.update(zip(out, results, strict=True))
        self.pool.extend(out)
        return out[0]

    # ---- the whole
    def run(self) -> Program:
        from moves import MOVES

        with self.builder:
            for _ in range(self.random.randint(1, 3)):
                self.source(self.data(self.dtype(), self.shape()))
            wanted = self.random.choice(self.style.nodes) if self.chance(0.85) else self.random.randint(15, 25)
            others = dict(self.style.weights)
            moves, weights = zip(*((move, others.get(move.__name__, weight)) for move, weight in MOVES.items()))
            for _ in range(6 * wanted):
                if len(self.builder.nodes) >= wanted:
                    break
                self.random.choices(moves, weights)[0](self)
        return Program(self.seed, self.finish(), self.inputs)

    def finish(self) -> Graph:
        """Ends the program: values that nobody reads are outputs, some others too; some overwrite inputs."""
        used = {v for n in self.builder.nodes for v in n.inputs}
        ends = [v for n in self.builder.nodes for v in n.outputs if v not in used] or [self.pool[-1]]
        outs = self.random.sample(ends, min(len(ends), 6))
        outs += [v for v in self.pool if v not in outs and self.chance(0.05)][:3]
        if self.chance(0.03):
            outs.append(outs[0])
        specs: list[OutputSpec] = []
        free = list(range(len(self.builder.inputs)))
        for v in outs:
            targets = [k for k in free if self.builder.inputs[k].type == v.type]
            if targets and self.chance(0.4):
                free.remove(targets[0])
                specs.append(OutputSpec("write", targets[0]))
            elif self.chance(0.05):
                specs.append(OutputSpec("attr", path="net.grad"))
            else:
                specs.append(OutputSpec())
        inputs = tuple(
            InputSpec(f"x{k}", "rng" if v.dtype is uint64 else "arg") for k, v in enumerate(self.builder.inputs)
        )
        return self.builder.finish(outs, Signature(inputs, tuple(specs)))


def generate(seed: int, style: Style = PLAIN) -> Program:
    """The program of a seed."""
    return Generator(seed, style).run()
