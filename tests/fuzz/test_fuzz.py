"""Random programs: machine code, passes and text against the reference. A failure prints a seed and a shrunk graph;
`pytest tests/fuzz -k 1234` does not know seeds, but `generate(seed)` makes the program again."""

from __future__ import annotations

import pytest
from checks import CHECKS
from generator import Program, evaluate_graph, generate
from shrink import failure, report, shrink
from tracefuse.ir.text import equal_graphs, format_graph
from tracefuse.passes.simplify import eliminate_dead

CHUNK = 50
PROGRAMS = 2000


def assert_holds(p: Program, name: str) -> None:
    check = CHECKS[name]
    if failure(check, p):
        pytest.fail(report(p, check, name), pytrace=False)


@pytest.mark.parametrize("first", range(0, PROGRAMS, CHUNK))
def test_programs(first):
    """Every program compiles, with the graph verified after every pass, to what the reference computes, bit for bit the
    same with one thread and with two; its text gives it back; and for one in four every pass keeps the meaning, and
    done again changes nothing."""
    for seed in range(first, first + CHUNK):
        p = generate(seed)
        assert_holds(p, "text")
        assert_holds(p, "compiled")
        if seed % 4 == 0:
            assert_holds(p, "passes")


def test_programs_are_made_again_by_their_seeds():
    for seed in range(20):
        a, b = generate(seed), generate(seed)
        assert equal_graphs(a.graph, b.graph)
        assert all(x.tobytes() == y.tobytes() for x, y in zip(a.inputs, b.inputs, strict=True))


def test_programs_are_varied_and_well_determined():
    programs = [generate(seed) for seed in range(300)]
    assert sum(evaluate_graph(p.graph, p.inputs) is not None for p in programs) >= 285
    names = {n.op.name for p in programs for n in p.graph.nodes}
    assert len(names) > 90
    assert max(len(p.graph.nodes) for p in programs) >= 20
    assert any(s.kind == "write" for p in programs for s in p.graph.signature.outputs)
    assert any(0 in v.shape for p in programs for v in p.graph.values())


def test_shrinking_finds_the_culprit():
    """With a check that dislikes one op, what is left is that op and little else."""

    def no_matmul(p: Program) -> None:
        assert not any(n.op.name == "matmul" for n in p.graph.nodes), "a matmul"

    done = 0
    for seed in range(200):
        p = generate(seed)
        p = Program(seed, eliminate_dead(p.graph), p.inputs)
        if len(p.graph.nodes) < 8 or not failure(no_matmul, p):
            continue
        small = shrink(p, no_matmul)
        assert [n.op.name for n in small.graph.nodes] == ["matmul"], format_graph(small.graph)
        assert f"seed {seed}" in report(p, no_matmul, "no matmul")
        done += 1
    assert done >= 3
