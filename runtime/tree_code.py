"""The code of a trace tree: a function that asks its way to an ending, and one for each ending that runs it.

    i32 select(ptr values, ptr dims, ptr arena)      the number of the ending; negative: no way that is known
    i32 ending_k(ptr values, ptr dims, ptr arena)    0, or what its plan returns

Both get one frame of `values` and one arena. What the stages on the way compute stays at the beginning of the arena,
where later stages and the ending read it; scratch comes behind it. Sizes are constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..backends.llvm import engine
from ..backends.llvm.builder import Function, Module, Val, i32, i64
from ..ir.plan import Plan
from .executable import Executable


@dataclass(slots=True)
class Stage:
    """A segment, or (no `branches`, `ending` its number) an ending.

    inputs: where its own inputs stand in `values`. given: (depth, output) of the stages above that it also reads.
    constants, outputs: where those of its plan stand in `values`; outputs of segments stand in the arena instead.
    """

    executable: Executable
    inputs: Sequence[int]
    given: Sequence[tuple[int, int]]
    constants: int
    outputs: int = -1
    is_bool: bool = True
    branches: dict[int, Stage] = field(default_factory=dict)
    ending: int = -1


@dataclass(frozen=True, slots=True)
class TreeCode:
    """Linked code: addresses of `select` and of the endings, and the bytes of arena that they need."""

    code: engine.Code
    select: int
    endings: tuple[int, ...]
    arena: int


def tree_code(root: Stage, endings: int) -> TreeCode:
    """Compiles and links the code of a tree with that many endings."""
    writer = _Writer(root, endings)
    text = str(writer.module)
    code = root.executable.link_text(text, writer.symbols)
    found = tuple(code.address(f"tf_ending_{k}") for k in range(endings))
    return TreeCode(code, code.address("tf_select"), found, writer.scratch + writer.most_scratch)


class _Writer:
    def __init__(self, root: Stage, endings: int):
        self.module = Module(root.executable.target.triple)
        self.symbols: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.scratch = self.most_scratch = 0
        self._measure(root, 0)
        self.endings: dict[int, tuple[Stage, list[list[int]]]] = {}
        f = self._function("tf_select")
        self._stage(f, root, [], 0)
        for k in range(endings):
            stage, places = self.endings[k]
            f = self._function(f"tf_ending_{k}")
            f.ret(self._call(f, stage, places, None))

    def _function(self, name: str) -> Function:
        return self.module.function(name, "i32", [("ptr", "values"), ("ptr", "dims"), ("ptr", "arena")], "nounwind")

    def _measure(self, stage: Stage, start: int) -> None:
        """Where scratch begins, and how much of it there is."""
        self.most_scratch = max(self.most_scratch, int(stage.executable.arena_size))  # type: ignore[arg-type]
        if stage.ending < 0:
            start += sum(_outputs(stage.executable.plan))
            for below in stage.branches.values():
                self._measure(below, start)
        self.scratch = max(self.scratch, start)

    def _stage(self, f: Function, stage: Stage, above: list[list[int]], start: int) -> None:
        """From the current block on, which this ends."""
        if stage.ending >= 0:
            self.endings[stage.ending] = (stage, above)
            f.ret(i32(stage.ending))
            return
        places: list[int] = []
        for n in _outputs(stage.executable.plan):
            places.append(start)
            start += n
        status = self._call(f, stage, above, places)
        lost, answered = f.block("lost"), f.block("answered")
        f.cbr(f.cmp("eq", status, i32(0)), answered, lost)
        f.current = lost
        f.ret(i32(-1))
        f.current = answered
        answer = f.load("i8" if stage.is_bool else "i64", f.gep("i8", f.args[2], i64(places[0])), 1)
        answer = f.convert("zext", answer, "i64") if stage.is_bool else answer
        for value, below in stage.branches.items():
            taken, other = f.block("taken"), f.block("other")
            f.cbr(f.cmp("eq", answer, i64(value)), taken, other)
            f.current = taken
            self._stage(f, below, [*above, places], start)
            f.current = other
        f.ret(i32(-1))

    def _call(self, f: Function, stage: Stage, above: list[list[int]], places: list[int] | None) -> Val:
        """The status of a stage's plan. places: where its outputs go in the arena; None: where `values` says."""
        values, dims, arena = f.args
        plan = stage.executable.plan
        slots = f.alloca("ptr", max(1, len(stage.inputs) + len(stage.given) + len(plan.constants) + len(plan.outputs)))
        pointers: list[Val] = [f.load("ptr", f.gep("ptr", values, i64(k)), 8) for k in stage.inputs]
        pointers += [f.gep("i8", arena, i64(above[d][k])) for d, k in stage.given]
        pointers += [
            f.load("ptr", f.gep("ptr", values, i64(stage.constants + k)), 8) for k in range(len(plan.constants))
        ]
        for k in range(len(plan.outputs)):
            if places is None:
                pointers.append(f.load("ptr", f.gep("ptr", values, i64(stage.outputs + k)), 8))
            else:
                pointers.append(f.gep("i8", arena, i64(places[k])))
        for k, p in enumerate(pointers):
            f.store(p, f.gep("ptr", slots, i64(k)), 8)
        name = self.names.get(stage.executable.address)
        if name is None:
            name = self.names[stage.executable.address] = f"tf_stage_{len(self.names)}"
            self.symbols[name] = stage.executable.address
            self.module.declare(name, "i32", ["ptr", "ptr", "ptr"])
        return f.call(name, "i32", slots, dims, f.gep("i8", arena, i64(self.scratch)))


def _outputs(plan: Plan) -> list[int]:
    """Bytes of room for each output of a plan, checks (which have memory of their own) among them."""
    sizes = []
    for b in plan.outputs:
        t = plan.buffers[b].type
        size = t.size
        assert isinstance(size, int)
        sizes.append(-(-size * t.dtype.itemsize // 64) * 64)
    return sizes
