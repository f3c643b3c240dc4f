"""The code of a trace tree: a function that asks its way to an ending, and one for each ending that runs it.

    i32 select(ptr values, ptr dims, ptr arena)      the number of the ending; negative: no way that is known
    i32 ending_k(ptr values, ptr dims, ptr arena)    0, or what its plan returns

Both get one frame of `values` and one arena. What the stages on the way compute stays at the beginning of the arena,
where later stages and the ending read it; scratch comes behind it. Symbolic sizes are those of arguments, which stand in
`dims`, and what a question has been answered with: `select` puts those there, and what else the ending needs. Room in
the arena is for the largest that they can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..backends.llvm import engine
from ..backends.llvm.builder import Block, Function, Module, Val, i32, i64
from ..ir import dim
from ..ir.dim import Dim, DimLike
from ..ir.plan import Plan
from .executable import Executable
from .plan_code import Sizes

MOST_ROOM = 1 << 31  # elements, or bytes, that a symbolic size may take in the arena


@dataclass(slots=True)
class Stage:
    """A segment, or (no `branches`, `ending` its number) an ending.

    inputs: where its own inputs stand in `values`. given: (depth, output) of the stages above that it also reads.
    constants, outputs: where those of its plan stand in `values`; outputs of segments stand in the arena instead.
    kind: as in `capture.tree.Segment`. counts: the symbol that the answer to a "size" is, in branch 2.
    sizes: of an ending: what `select` puts into which place of `dims`; the symbols themselves are among it.
    """

    executable: Executable
    inputs: Sequence[int]
    given: Sequence[tuple[int, int]]
    constants: int
    outputs: int = -1
    kind: str = "bool"
    counts: Dim | None = None
    branches: dict[int, list[Stage]] = field(default_factory=dict)
    ending: int = -1
    sizes: list[tuple[Dim, int]] = field(default_factory=list)


class Unbounded(Exception):
    """A size could be anything: there is no room for it."""


@dataclass(frozen=True, slots=True)
class TreeCode:
    """Linked code: addresses of `select` and of the endings, and the bytes of arena that they need."""

    code: engine.Code
    select: int
    endings: tuple[int, ...]
    arena: DimLike


def tree_code(root: Stage, endings: int, arguments: Mapping[Dim, int]) -> TreeCode:
    """Compiles and links the code of a tree with that many endings. arguments: where their symbols stand in `dims`."""
    writer = _Writer(root, endings, arguments)
    text = str(writer.module)
    code = root.executable.link_text(text, writer.symbols)
    found = tuple(code.address(f"tf_ending_{k}") for k in range(endings))
    return TreeCode(code, code.address("tf_select"), found, writer.scratch + writer.most_scratch)


class _Writer:
    def __init__(self, root: Stage, endings: int, arguments: Mapping[Dim, int]):
        self.arguments = arguments
        self.module = Module(root.executable.target.triple)
        self.symbols: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.scratch: DimLike = 0
        self.most_scratch: DimLike = 0
        self._measure(root, 0, {str(s): s for s in arguments})
        self.endings: dict[int, tuple[Stage, list[list[DimLike]]]] = {}
        f = self._function("tf_select")
        lost = f.block("lost")
        self._stage(f, root, [], 0, self._known(f, arguments), lost)
        f.current = lost
        f.ret(i32(-1))
        for k in range(endings):
            stage, places = self.endings[k]
            f = self._function(f"tf_ending_{k}")
            symbols = {d: j for d, j in stage.sizes if str(d).isidentifier()}
            f.ret(self._call(f, stage, places, None, self._known(f, {**arguments, **symbols})))

    def _known(self, f: Function, places: Mapping[Dim, int]) -> dict[Dim, Val]:
        """Symbols that stand in `dims`."""
        return {s: f.load("i64", f.gep("i64", f.args[1], i64(j)), 8) for s, j in places.items()}

    def _function(self, name: str) -> Function:
        return self.module.function(name, "i32", [("ptr", "values"), ("ptr", "dims"), ("ptr", "arena")], "nounwind")

    def _measure(self, stage: Stage, start: DimLike, named: dict[str, Dim]) -> None:
        """Where scratch begins, and how much of it there is. named: the symbols that are known, with their ranges, which
        kernels from the cache do not have."""
        arena = stage.executable.arena_size
        arena = dim.substitute(arena, {s: named[str(s)] for s in dim.symbols(arena) if str(s) in named})
        self.most_scratch = dim.maximum(self.most_scratch, self._most(arena))
        if stage.ending < 0:
            for n in self._outputs(stage.executable.plan):
                start = start + n
            for answer, nodes in stage.branches.items():
                many = {str(stage.counts): stage.counts} if answer == 2 and stage.counts is not None else {}
                for below in nodes:
                    self._measure(below, start, named | many)
        self.scratch = dim.maximum(self.scratch, start)

    def _stage(
        self, f: Function, stage: Stage, above: list[list[DimLike]], start: DimLike, counts: dict[Dim, Val], lost: Block
    ) -> None:
        """From the current block on, which this ends. counts: the sizes that are known. lost: where calls go for which
        there is no way here."""
        if stage.ending >= 0:
            self.endings[stage.ending] = (stage, above)
            sizes = Sizes(f, counts)
            for d, k in stage.sizes:
                f.store(sizes(d), f.gep("i64", f.args[1], i64(k)), 8)
            f.ret(i32(stage.ending))
            return
        places: list[DimLike] = []
        for n in self._outputs(stage.executable.plan):
            places.append(start)
            start = start + n
        status = self._call(f, stage, above, places, counts)
        places.append(0)  # of the empty array that stands for a size
        failed, answered = f.block("failed"), f.block("answered")
        f.cbr(f.cmp("eq", status, i32(0)), answered, failed)
        f.current = failed
        f.ret(i32(-1))
        f.current = answered
        is_bool = stage.kind == "bool"
        answer = f.load("i8" if is_bool else "i64", f.gep("i8", f.args[2], Sizes(f, counts)(places[0])), 1)
        answer = f.convert("zext", answer, "i64") if is_bool else answer
        for value, below in stage.branches.items():
            many = stage.kind == "size" and value == 2
            taken, other = f.block("taken"), f.block("other")
            f.cbr(f.cmp("sge" if many else "eq", answer, i64(value)), taken, other)
            f.current = taken
            known = {**counts, stage.counts: answer} if many and stage.counts is not None else counts
            for k, node in enumerate(below):  # those whose guards hold, in the order in which they are asked
                following = f.block("next") if k + 1 < len(below) else lost
                self._stage(f, node, [*above, places], start, known, following)
                f.current = following
            f.current = other
        f.br(lost)

    def _call(
        self,
        f: Function,
        stage: Stage,
        above: list[list[DimLike]],
        places: list[DimLike] | None,
        counts: dict[Dim, Val],
    ) -> Val:
        """The status of a stage's plan. places: where its outputs go in the arena; None: where `values` says."""
        values, _, arena = f.args
        plan, sizes = stage.executable.plan, Sizes(f, counts)
        slots = f.alloca("ptr", max(1, len(stage.inputs) + len(stage.given) + len(plan.constants) + len(plan.outputs)))
        pointers: list[Val] = [f.load("ptr", f.gep("ptr", values, i64(k)), 8) for k in stage.inputs]
        pointers += [f.gep("i8", arena, sizes(above[d][k])) for d, k in stage.given]
        pointers += [
            f.load("ptr", f.gep("ptr", values, i64(stage.constants + k)), 8) for k in range(len(plan.constants))
        ]
        for k in range(len(plan.outputs)):
            if places is None:
                pointers.append(f.load("ptr", f.gep("ptr", values, i64(stage.outputs + k)), 8))
            else:
                pointers.append(f.gep("i8", arena, sizes(places[k])))
        for k, p in enumerate(pointers):
            f.store(p, f.gep("ptr", slots, i64(k)), 8)
        dims = f.alloca("i64", max(1, len(plan.dims)))
        for k, d in enumerate(plan.dims):
            f.store(sizes(d), f.gep("i64", dims, i64(k)), 8)
        name = self.names.get(stage.executable.address)
        if name is None:
            name = self.names[stage.executable.address] = f"tf_stage_{len(self.names)}"
            self.symbols[name] = stage.executable.address
            self.module.declare(name, "i32", ["ptr", "ptr", "ptr"])
        return f.call(name, "i32", slots, dims, f.gep("i8", arena, sizes(self.scratch)))

    def _outputs(self, plan: Plan) -> list[DimLike]:
        """Bytes of room for each output of a plan, checks (which have memory of their own) among them."""
        sizes: list[DimLike] = []
        for b in plan.outputs:
            t = plan.buffers[b].type
            sizes.append(dim.ceildiv(self._most(t.size) * t.dtype.itemsize, 64) * 64)
        return sizes

    def _most(self, size: DimLike) -> DimLike:
        """The largest that a size can be, for the sizes of the arguments. Unbounded where that is not known, or too much."""
        symbols = dim.symbols(size)
        if not any(s in self.arguments for s in symbols):
            most = dim.bounds(size)[1]
            if most is None or most > MOST_ROOM:
                raise Unbounded(str(size))
            return most
        counts = {s: dim.limits(s)[1] for s in symbols if s not in self.arguments}
        if not counts:
            return size
        assert isinstance(size, Dim)
        rising = all(c > 0 and all(a.kind in ("sym", "floordiv") for a in m) for m, c in size.terms if m)
        if not rising or None in counts.values():
            raise Unbounded(str(size))
        return self._most(dim.substitute(size, counts))  # type: ignore[arg-type]
